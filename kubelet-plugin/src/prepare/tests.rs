use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use serde_json::json;

use super::*;
use crate::claim::tests::{claim, gpus};
use crate::driver_spec::Library;
use crate::share::tests::NoMounts;

fn driver() -> DriverSpec {
    let library =
        |name: &str| vec![Library { host: format!("/host/{name}"), container: format!("/usr/lib/{name}") }];
    DriverSpec {
        devices: BTreeMap::from([("GPU-AA".to_owned(), json!({})), ("GPU-BB".to_owned(), json!({}))]),
        edits: json!({}),
        cuda: library("libcuda.so.1"),
        nvml: library("libnvidia-ml.so.1"),
    }
}

fn node(dir: &Path) -> Node {
    let limiter = LimiterFiles { cuda: "/shim/libcuda.so.1".into(), nvml: "/shim/libnvidia-ml.so.1".into() };
    let shares = Shares::new(&dir.join("shares"), Box::new(NoMounts::default()));
    let node =
        Node::new("node-a", Specs::new(&dir.join("cdi")), shares, limiter, Checkpoint::new(dir, "boot"), dir);
    node.recover().unwrap();
    node.set_hardware(Hardware { gpus: gpus(), driver: Some(driver()) }).unwrap();
    node
}

fn files(dir: &Path) -> Vec<String> {
    let list = |folder: &str| -> Vec<String> {
        let entries = fs::read_dir(dir.join(folder)).into_iter().flatten().flatten();
        entries.map(|e| format!("{folder}/{}", e.file_name().to_string_lossy())).collect()
    };
    let mut all = [list("shares"), list("cdi")].concat();
    all.sort();
    all
}

const NODE_SPEC: &str = "cdi/vgpu-dra.io-gpu.json";

#[test]
fn a_share_gets_the_gpu_and_then_the_limiter() {
    let dir = tempfile::tempdir().unwrap();
    let node = node(dir.path());
    let prepared = node.prepare(&claim("u", "node-a", &[("gpu-aa", "7500Mi", "30")])).unwrap();
    assert_eq!(prepared[0].cdi_ids, ["vgpu-dra.io/gpu=GPU-AA", "vgpu-dra.io/share=u-u-gpu-aa"]);
    let spec: serde_json::Value =
        serde_json::from_slice(&fs::read(dir.path().join("cdi/vgpu-dra.io-share-u.json")).unwrap()).unwrap();
    let mounts = spec["devices"][0]["containerEdits"]["mounts"].as_array().unwrap();
    let places: Vec<&str> = mounts.iter().filter_map(|m| m["containerPath"].as_str()).collect();
    assert_eq!(
        places,
        [
            "/usr/lib/libcuda.so.1",
            "/usr/lib/libcuda-real.so",
            "/usr/lib/libnvidia-ml.so.1",
            "/usr/lib/libnvidia-ml-real.so",
            "/run/vgpu-dra/GPU-AA/u-gpu-aa/limits",
            "/run/vgpu-dra/GPU-AA/u-gpu-aa/usage",
        ]
    );
}

#[test]
fn a_whole_gpu_comes_without_a_limiter() {
    let dir = tempfile::tempdir().unwrap();
    let prepared = node(dir.path()).prepare(&claim("u", "node-a", &[("gpu-aa", "15104Mi", "0")])).unwrap();
    assert_eq!(prepared[0].cdi_ids, ["vgpu-dra.io/gpu=GPU-AA"]);
    assert_eq!(files(dir.path()), [NODE_SPEC]);
}

#[test]
fn preparing_again_gives_the_same_also_after_a_restart() {
    let dir = tempfile::tempdir().unwrap();
    let claim = claim("u", "node-a", &[("gpu-aa", "1Gi", "0"), ("gpu-bb", "1Gi", "0")]);
    let first = node(dir.path()).prepare(&claim).unwrap();
    assert_eq!(node(dir.path()).prepare(&claim).unwrap(), first);
}

#[test]
fn unpreparing_leaves_nothing_and_an_unknown_claim_is_fine() {
    let dir = tempfile::tempdir().unwrap();
    let node = node(dir.path());
    node.prepare(&claim("u", "node-a", &[("gpu-aa", "1Gi", "0")])).unwrap();
    node.unprepare("u").unwrap();
    node.unprepare("u").unwrap();
    node.unprepare("never-seen").unwrap();
    assert_eq!(files(dir.path()), [NODE_SPEC]);
    assert!(node.prepared().is_empty());
}

#[test]
fn a_gpu_promised_twice_is_refused_with_what_is_left() {
    let dir = tempfile::tempdir().unwrap();
    let node = node(dir.path());
    node.prepare(&claim("u", "node-a", &[("gpu-aa", "10000Mi", "80")])).unwrap();
    let error = node.prepare(&claim("v", "node-a", &[("gpu-aa", "6000Mi", "0")])).unwrap_err().to_string();
    assert!(
        error.starts_with("claim ns/v: gpu-aa has 5104 MiB left and the share needs 6000 MiB"),
        "{error}"
    );
    let error = node.prepare(&claim("w", "node-a", &[("gpu-aa", "1Gi", "30")])).unwrap_err().to_string();
    assert!(error.contains("has 20 cores left and the share needs 30 cores"), "{error}");
}

#[test]
fn killed_between_any_two_steps_the_next_start_leaves_only_what_is_checkpointed() {
    let dir = tempfile::tempdir().unwrap();
    let kept = claim("kept", "node-a", &[("gpu-aa", "1Gi", "0")]);
    node(dir.path()).prepare(&kept).unwrap();
    // Prepare of `half` died after its share files, or after its spec as well.
    for with_spec in [false, true] {
        let half = node(dir.path());
        let entry = Claim {
            namespace: "ns".into(),
            name: "half".into(),
            shares: claim::shares(&claim("half", "node-a", &[("gpu-bb", "1Gi", "0")]), "node-a", &gpus())
                .unwrap(),
        };
        half.shares.create("half", &entry.shares[0]).unwrap();
        if with_spec {
            half.make("half", &entry).unwrap();
        }
        let findings = half.recover().unwrap();
        assert_eq!(findings.removed, ["half"]);
        assert_eq!(files(dir.path()), [NODE_SPEC, "cdi/vgpu-dra.io-share-kept.json", "shares/kept"]);
    }
    // Unprepare of `kept` died after its spec, or after its files as well: the entry makes them whole again.
    for with_files in [false, true] {
        let half = node(dir.path());
        half.specs.remove_claim("kept").unwrap();
        if with_files {
            half.shares.remove("kept").unwrap();
        }
        half.recover().unwrap();
        assert_eq!(files(dir.path()), [NODE_SPEC, "cdi/vgpu-dra.io-share-kept.json", "shares/kept"]);
    }
}

#[test]
fn a_damaged_checkpoint_is_rebuilt_from_the_specs() {
    let dir = tempfile::tempdir().unwrap();
    let claim = claim("u", "node-a", &[("gpu-aa", "1Gi", "0")]);
    let before = node(dir.path()).prepare(&claim).unwrap();
    fs::write(dir.path().join("checkpoint"), "garbage").unwrap();
    let after = node(dir.path());
    assert_eq!(after.prepared().keys().collect::<Vec<_>>(), ["u"]);
    assert_eq!(after.prepare(&claim).unwrap(), before);
    assert!(dir.path().join("checkpoint.corrupt").exists());
}

#[test]
fn specs_lost_with_a_reboot_are_written_again() {
    let dir = tempfile::tempdir().unwrap();
    node(dir.path()).prepare(&claim("u", "node-a", &[("gpu-aa", "1Gi", "0")])).unwrap();
    fs::remove_dir_all(dir.path().join("cdi")).unwrap();
    fs::remove_dir_all(dir.path().join("shares")).unwrap();
    node(dir.path());
    assert_eq!(files(dir.path()), [NODE_SPEC, "cdi/vgpu-dra.io-share-u.json", "shares/u"]);
}
