//! NodePrepareResources and NodeUnprepareResources.

use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt};

use anyhow::{Context, ensure};
use serde_json::{Value, json};
use vgpu_core::limits;
use vgpu_kubelet_plugin::proto::dra;

use crate::api::CLAIMS;
use crate::node::{NAME, Node, WHOLE};

pub(crate) async fn each_claim_of_a_call_gets_its_own_answer(node: &Node) -> anyhow::Result<()> {
    let (_plugin, kubelet) = node.running("pod-1").await?;
    let changed = |change: Value| {
        let mut result = node.result(NAME, 1, 1000, 0);
        change.as_object().into_iter().flatten().for_each(|(key, value)| result[key] = value.clone());
        result
    };
    let missing = dra::Claim { namespace: "ns".into(), name: "missing".into(), uid: "uid-of-missing".into() };
    let replaced = dra::Claim { uid: "uid-of-the-old-one".into(), ..node.claim("replaced", 1, 1000, 0) };
    let bad_name = dra::Claim { uid: "../../etc".into(), ..node.claim("bad-name", 1, 1000, 0) };
    let refused = [
        (
            node.allocated("elsewhere", &[node.result("node-b", 0, 1000, 0)]),
            "node node-b (pool node-b/gpu), but the pod runs on node node-a",
        ),
        (
            node.allocated("theirs", &[changed(json!({"driver": "gpu.example.com"}))]),
            "no device of driver gpu.vgpu-dra.io",
        ),
        (node.allocated("unnamed", &[changed(json!({"shareID": null}))]), "shareID is missing"),
        (node.allocated("unknown", &[changed(json!({"device": "gpu-x"}))]), "the node has no such GPU"),
        (node.claim("too-much", 0, 14_000, 0), "gpu-"),
        (missing, "it does not exist any more"),
        (replaced, "it was deleted and made anew (UID uid-of-replaced"),
        (bad_name, "is not a UID"),
    ];
    let (part, whole) = (node.claim("part", 0, 3000, 30), node.claim("whole", 1, WHOLE, 0));
    kubelet.devices(&part).await?;
    let mut claims: Vec<dra::Claim> = refused.iter().map(|(claim, _)| claim.clone()).collect();
    claims.extend([part.clone(), whole.clone()]);
    let answer = kubelet.prepare(&claims).await?;
    ensure!(answer.claims.len() == claims.len(), "an entry for each claim: {:?}", answer.claims.keys());
    for (claim, words) in &refused {
        let answer = &answer.claims[&claim.uid];
        let named = format!("claim ns/{}: ", claim.name);
        ensure!(answer.devices.is_empty() && answer.error.starts_with(&named), "{answer:?}");
        ensure!(answer.error.contains(words), "{}: {}", claim.name, answer.error);
    }
    let one = |claim: &dra::Claim| answer.claims[&claim.uid].devices.first().context("no device");
    let (uuid, device) = (node.uuid(0), one(&part)?);
    ensure!(device.pool_name == "node-a/gpu" && device.device_name == uuid.to_lowercase(), "{device:?}");
    ensure!(device.request_names == ["gpu"], "{device:?}");
    let share = device.share_id.clone().context("a share has an id")?;
    let ids = [format!("vgpu-dra.io/gpu={uuid}"), format!("vgpu-dra.io/share={}-{share}", part.uid)];
    ensure!(device.cdi_device_ids == ids, "{device:?}");
    ensure!(one(&whole)?.cdi_device_ids == [format!("vgpu-dra.io/gpu={}", node.uuid(1))]);
    // All of them again, known and unknown, and one whose object is gone.
    node.api.delete(CLAIMS, "ns/part");
    let answer = kubelet.unprepare(&claims).await?;
    ensure!(answer.claims.len() == claims.len(), "an entry for each claim: {:?}", answer.claims.keys());
    for (uid, answer) in answer.claims {
        ensure!(answer.error.is_empty() == (uid != "../../etc"), "{uid}: {}", answer.error);
    }
    ensure!(node.files().is_empty() && node.mounts().is_empty(), "{:?}", node.files());
    Ok(())
}

pub(crate) async fn an_admin_looks_at_a_gpu_that_others_fill(node: &Node) -> anyhow::Result<()> {
    let (plugin, kubelet) = node.running("pod-1").await?;
    kubelet.devices(&node.claim("whole", 0, WHOLE, 0)).await?;
    let look = |gpu: usize| {
        let mut result = node.result(NAME, gpu, 1, 0);
        result["adminAccess"] = true.into();
        for field in ["shareID", "consumedCapacity"] {
            result.as_object_mut().map(|r| r.remove(field));
        }
        result
    };
    let claim = node.allocated("look", &[look(0), look(1)]);
    let devices = kubelet.devices(&claim).await?;
    let ids: Vec<&[String]> = devices.iter().map(|d| d.cdi_device_ids.as_slice()).collect();
    let gpu = |n: usize| [format!("vgpu-dra.io/gpu={}", node.uuid(n))];
    ensure!(ids == [gpu(0), gpu(1)], "{ids:?}");
    ensure!(devices.iter().all(|d| d.share_id.is_none()), "{devices:?}");
    // It takes nothing from those who come later, and nothing of it is on the node.
    kubelet.devices(&node.claim("later", 1, WHOLE, 0)).await?;
    ensure!(node.files().is_empty() && node.mounts().is_empty(), "{:?}", node.files());
    ensure!(plugin.metric("vgpu_share_memory_limit_bytes").await?.len() == 2);
    kubelet.done(&claim).await
}

pub(crate) async fn a_share_has_its_files_on_a_tmpfs_of_its_own(node: &Node) -> anyhow::Result<()> {
    let (_plugin, kubelet) = node.running("pod-1").await?;
    let claim = node.claim("c", 0, 3000, 30);
    kubelet.devices(&claim).await?;
    let share = node.share(&claim, 0);
    let (limits_meta, usage_meta) = (fs::metadata(&share.limits)?, fs::metadata(&share.usage)?);
    ensure!(fs::metadata(&share.bell)?.permissions().mode() & 0o777 == 0o666);
    ensure!(limits_meta.permissions().mode() & 0o777 == 0o644 && limits_meta.uid() == 0);
    ensure!(usage_meta.permissions().mode() & 0o777 == 0o666);
    let read = limits::decode(&fs::read(&share.limits)?)?;
    ensure!((read.memory, read.cores) == (3000 << 20, 30), "{read:?}");
    ensure!(node.mounts() == [share.mount.clone()], "{:?}", node.mounts());
    // One tenant can fill nobody else's.
    let filled = fs::write(share.mount.join("more"), vec![0; 1 << 20]);
    ensure!(filled.is_err_and(|e| e.kind() == std::io::ErrorKind::StorageFull), "its tmpfs has no bound");
    let spec: Value = serde_json::from_slice(&fs::read(node.at("cdi/vgpu-dra.io-gpu.json"))?)?;
    ensure!(!spec.to_string().contains("limiter"), "the node's spec holds no limiter: {spec}");
    ensure!(spec["containerEdits"]["env"] == json!(["NVIDIA_VISIBLE_DEVICES=void"]), "{spec}");
    Ok(())
}

pub(crate) async fn many_claims_at_once_are_all_prepared(node: &Node) -> anyhow::Result<()> {
    let (plugin, kubelet) = node.running("pod-1").await?;
    let claims: Vec<_> = (0..60).map(|n| node.claim(&format!("c{n}"), n % 2, 200, 1)).collect();
    let calls = claims.chunks(6).map(|pod| kubelet.prepare(pod));
    for answer in futures::future::try_join_all(calls).await? {
        for (uid, answer) in answer.claims {
            ensure!(answer.error.is_empty() && answer.devices.len() == 1, "{uid}: {}", answer.error);
        }
    }
    ensure!(node.mounts().len() == 60);
    ensure!(plugin.metric("vgpu_kubelet_plugin_claims_prepared").await?[0].1 == 60.0);
    ensure!(plugin.metric("vgpu_share_memory_limit_bytes").await?.len() == 60);
    futures::future::try_join_all(claims.iter().map(|claim| kubelet.done(claim))).await?;
    ensure!(node.files().is_empty() && node.mounts().is_empty(), "{:?}", node.files());
    Ok(())
}
