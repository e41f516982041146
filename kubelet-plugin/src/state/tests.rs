//! A node in a temporary folder: what Prepare, Unprepare and a start leave on it, killed anywhere or not.

mod crash;
mod damage;
mod oversubscription;

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;

use vgpu_api::{Enforcement, Gpu, Health, MIB, Oversubscription, Priority};
use vgpu_core::limits;

use super::*;
use crate::cdi;
use crate::cdi::driver::{SHIMMED, ShimPlace};
use crate::checkpoint::PreparedShare;
use crate::claim::{ClaimRef, WantedShare};
use crate::host::test::TestHost;
use crate::limiter::Form;
use crate::share_files::{SharePaths, read_usage};

/// What a node is besides its plugin: the folders and mounts that outlive it.
struct TestNode {
    dir: tempfile::TempDir,
    host: TestHost,
    discovery: watch::Sender<Arc<Discovery>>,
    damage: mpsc::UnboundedSender<String>,
    damaged: mpsc::UnboundedReceiver<String>,
}

/// Everything of ours that is on a node.
#[derive(Debug, PartialEq, Eq)]
struct Left {
    files: BTreeSet<String>,
    mounts: usize,
    claims: Vec<String>,
}

fn gpu(uuid: &str, minor: i64) -> Gpu {
    Gpu { uuid: uuid.into(), minor, memory_mib: 15_104, ..Gpu::default() }
}

fn claim(uid: &str) -> ClaimRef {
    ClaimRef { namespace: "ns".into(), name: format!("claim-{uid}"), uid: uid.into() }
}

fn share(id: &str, device: &str, mib: u64, cores: u32) -> WantedShare {
    WantedShare {
        request: "gpu".into(),
        device: device.into(),
        share_id: id.into(),
        memory: mib * MIB,
        cores,
        enforcement: Enforcement::default(),
        priority: Priority::default(),
        oversubscription: Oversubscription::default(),
        cores_oversubscription: Oversubscription::default(),
    }
}

impl TestNode {
    fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        for folder in ["image", "state", "shares", "cdi"] {
            fs::create_dir(dir.path().join(folder)).unwrap();
        }
        for (soname, _) in SHIMMED {
            fs::write(dir.path().join("image").join(soname), "version one").unwrap();
        }
        let places = SHIMMED.map(|(soname, real)| ShimPlace {
            soname,
            container_path: format!("/usr/lib/{soname}"),
            real_host_path: format!("/driver/{soname}"),
            real_container_path: format!("/usr/lib/{real}"),
        });
        let found = Discovery {
            gpus: vec![gpu("GPU-AA", 0), gpu("GPU-BB", 1)],
            places: places.into(),
            ..Discovery::default()
        };
        let (damage, damaged) = mpsc::unbounded_channel();
        let node = Self {
            dir,
            host: TestHost::default(),
            discovery: watch::channel(Arc::new(found)).0,
            damage,
            damaged,
        };
        node.install_limiter();
        node
    }

    fn paths(&self) -> Paths {
        let at = |folder| self.dir.path().join(folder);
        Paths { state_dir: at("state"), share_dir: at("shares"), cdi_dir: at("cdi") }
    }

    fn limiter(&self) -> Limiter {
        Limiter::new(self.dir.path().join("image"), self.paths().limiter(), Form::Shim)
    }

    fn install_limiter(&self) {
        let installed = self.limiter().install(&self.host).unwrap();
        self.discovery.send_modify(|d| Arc::make_mut(d).limiter = Some(installed));
    }

    /// A plugin that has just come up and repaired nothing yet.
    fn plugin(&self) -> State {
        self.plugin_on(self.host.clone())
    }

    /// A plugin that is killed at a step.
    fn dying(&self, at: usize, half: bool) -> State {
        self.plugin_on(TestHost {
            dies_at: Some(at),
            half,
            mounts: self.host.mounts.clone(),
            ..TestHost::default()
        })
    }

    fn plugin_on(&self, host: TestHost) -> State {
        State::new(
            "node-a".into(),
            self.paths(),
            Arc::new(host),
            self.limiter(),
            self.discovery.subscribe(),
            self.damage.clone(),
        )
    }

    /// What a start of the plugin does.
    fn start(&self) -> State {
        let plugin = self.plugin();
        plugin.reconcile().unwrap();
        plugin
    }

    /// The tmpfs of this boot are gone, and another boot id is in the kernel than in the checkpoint.
    fn reboot(&self) {
        for folder in [self.paths().share_dir, self.paths().cdi_dir] {
            fs::remove_dir_all(&folder).unwrap();
            fs::create_dir(&folder).unwrap();
        }
        self.host.mounts.lock().unwrap().clear();
        let path = self.paths().checkpoint();
        let mut checkpoint = Checkpoint::load(&path).unwrap().unwrap();
        checkpoint.boot_id = "the boot before".into();
        checkpoint.store(&path, &self.host).unwrap();
    }

    fn left(&self) -> Left {
        let mut files = BTreeSet::new();
        for folder in ["shares", "cdi"] {
            walk(&self.dir.path().join(folder), self.dir.path(), &mut files);
        }
        let own = fs::read_dir(self.paths().state_dir).unwrap().flatten();
        let own = own.map(|e| e.file_name().into_string().unwrap());
        files.extend(own.filter(|n| !["lock", "limiter", "checkpoint"].contains(&n.as_str())));
        let claims = self.plugin().prepared().claims.into_keys().collect();
        Left { files, mounts: self.host.mounts.lock().unwrap().len(), claims }
    }
}

fn walk(folder: &Path, root: &Path, into: &mut BTreeSet<String>) {
    for entry in fs::read_dir(folder).into_iter().flatten().flatten() {
        into.insert(entry.path().strip_prefix(root).unwrap().display().to_string());
        if entry.path().is_dir() {
            walk(&entry.path(), root, into);
        }
    }
}

fn refusal(result: Result<Vec<PreparedShare>, PrepareError>) -> String {
    result.unwrap_err().to_string()
}

#[test]
fn a_share_gets_the_gpu_and_then_the_limiter() {
    let node = TestNode::new();
    let prepared = node.start().prepare(&claim("u"), &[share("s", "gpu-aa", 7500, 30)]).unwrap();
    assert_eq!(prepared[0].cdi_ids, ["vgpu-dra.io/gpu=GPU-AA", "vgpu-dra.io/share=u-s"]);
    let spec = fs::read(cdi::claim_path(&node.paths().cdi_dir, "u")).unwrap();
    let spec: cdi::Spec = serde_json::from_slice(&spec).unwrap();
    let places: Vec<&str> =
        spec.devices[0].container_edits.mounts.iter().map(|m| m.container_path.as_str()).collect();
    let want = [
        "/usr/lib/libcuda.so.1",
        "/usr/lib/libcuda-real.so",
        "/usr/lib/libnvidia-ml.so.1",
        "/usr/lib/libnvidia-ml-real.so",
        "/run/vgpu-dra/GPU-AA/s/limits",
        "/run/vgpu-dra/GPU-AA/s/usage",
        "/run/vgpu-dra/GPU-AA/s/bell",
    ];
    assert_eq!(places, want);
    let usage = read_usage(&SharePaths::new(&node.paths().share_dir, "u", "s")).unwrap();
    assert_eq!(usage.memory, 0);
}

#[test]
fn a_whole_gpu_comes_without_a_limiter_and_leaves_nothing_but_its_entry() {
    let node = TestNode::new();
    let prepared = node.start().prepare(&claim("u"), &[share("s", "gpu-aa", 15_104, 100)]).unwrap();
    assert_eq!(prepared[0].cdi_ids, ["vgpu-dra.io/gpu=GPU-AA"]);
    assert_eq!(node.left(), Left { files: BTreeSet::new(), mounts: 0, claims: vec!["u".into()] });
}

#[test]
fn preparing_again_gives_the_same_after_a_restart_and_after_a_reboot() {
    let node = TestNode::new();
    let wanted = [share("s", "gpu-aa", 1024, 0), share("t", "gpu-bb", 15_104, 0)];
    let first = node.start().prepare(&claim("u"), &wanted).unwrap();
    let whole = node.left();
    assert_eq!(node.start().prepare(&claim("u"), &wanted).unwrap(), first);
    node.reboot();
    let plugin = node.start();
    assert_eq!(node.left(), whole, "the start after a reboot makes files and specs anew");
    assert_eq!(plugin.prepare(&claim("u"), &wanted).unwrap(), first);
    assert_eq!(node.left(), whole);
}

#[test]
fn unpreparing_leaves_nothing_and_an_unknown_claim_is_fine() {
    let node = TestNode::new();
    let plugin = node.start();
    let before = node.left();
    plugin.prepare(&claim("u"), &[share("s", "gpu-aa", 1024, 0)]).unwrap();
    plugin.unprepare(&claim("u")).unwrap();
    plugin.unprepare(&claim("u")).unwrap();
    plugin.unprepare(&claim("never-seen")).unwrap();
    assert_eq!(node.left(), before);
}

#[test]
fn a_gpu_promised_twice_is_refused_with_what_is_left_and_who_has_the_rest() {
    let node = TestNode::new();
    let plugin = node.start();
    plugin.prepare(&claim("u"), &[share("s", "gpu-aa", 10_000, 80)]).unwrap();
    let before = node.left();
    let message = refusal(plugin.prepare(&claim("v"), &[share("t", "gpu-aa", 6000, 0)]));
    assert!(message.starts_with("gpu-aa has 5104Mi of memory left and the share needs 6000Mi"), "{message}");
    assert!(message.contains("held by ns/claim-u"), "{message}");
    let message = refusal(plugin.prepare(&claim("v"), &[share("t", "gpu-aa", 1024, 30)]));
    assert!(message.starts_with("gpu-aa has 20 of cores left and the share needs 30"), "{message}");
    let both = [share("t", "gpu-bb", 15_000, 0), share("w", "gpu-bb", 1000, 0)];
    let message = refusal(plugin.prepare(&claim("v"), &both));
    assert!(message.contains("held by the claim's other requests"), "{message}");
    assert_eq!(node.left(), before, "a refusal leaves nothing");
    plugin.prepare(&claim("v"), &[share("t", "gpu-aa", 5104, 20)]).unwrap();
}

#[test]
fn time_that_may_be_promised_twice_takes_none_from_those_who_have_booked_it() {
    let node = TestNode::new();
    let plugin = node.start();
    let soft = |id: &str| WantedShare {
        cores_oversubscription: Oversubscription::Allowed,
        ..share(id, "gpu-aa", 1000, 60)
    };
    plugin.prepare(&claim("u"), &[soft("s"), soft("t")]).unwrap();
    plugin.prepare(&claim("v"), &[share("w", "gpu-aa", 1000, 80)]).unwrap();
    // Turns follow that, and caps do not.
    let members = crate::arbiter::members(&plugin);
    let told: Vec<_> = members.iter().map(|m| (m.name.as_str(), m.oversubscribed)).collect();
    assert_eq!(told, [("u/s", true), ("u/t", true), ("v/w", false)]);
    let cores = members.iter().map(|m| limits::decode(&fs::read(&m.files.limits).unwrap()).unwrap().cores);
    assert_eq!(cores.collect::<Vec<_>>(), [60, 60, 80]);
    let message = refusal(plugin.prepare(&claim("x"), &[share("y", "gpu-aa", 1000, 30)]));
    assert!(message.starts_with("gpu-aa has 20 of cores left and the share needs 30"), "{message}");
}

#[test]
fn a_gpu_that_cannot_be_used_is_refused_with_the_reason_and_only_for_new_claims() {
    let node = TestNode::new();
    let plugin = node.start();
    let wanted = [share("s", "gpu-aa", 1024, 0)];
    let first = plugin.prepare(&claim("u"), &wanted).unwrap();
    node.discovery.send_modify(|d| {
        let gpus = &mut Arc::make_mut(d).gpus;
        gpus[0].health = Health::Unhealthy;
        gpus[0].health_message = "Xid 79".into();
        gpus[1].unpublished = "MIG mode is on".into();
    });
    assert_eq!(plugin.prepare(&claim("u"), &wanted).unwrap(), first);
    for (device, why) in
        [("gpu-aa", "unhealthy: Xid 79"), ("gpu-bb", "MIG mode is on"), ("gpu-cc", "no such GPU")]
    {
        let message = refusal(plugin.prepare(&claim("v"), &[share("t", device, 1024, 0)]));
        assert!(message.contains(why) && message.contains("node node-a"), "{message}");
        assert!(message.ends_with("delete the pod to have it placed again"), "{message}");
    }
}

#[test]
fn a_claim_allocated_anew_under_its_uid_gets_its_new_shares_only() {
    let node = TestNode::new();
    let plugin = node.start();
    plugin.prepare(&claim("u"), &[share("s", "gpu-aa", 1024, 0)]).unwrap();
    let prepared = plugin.prepare(&claim("u"), &[share("t", "gpu-bb", 2048, 0)]).unwrap();
    assert_eq!(prepared[0].cdi_ids, ["vgpu-dra.io/gpu=GPU-BB", "vgpu-dra.io/share=u-t"]);
    let left = node.left();
    assert!(left.files.contains("shares/u/t") && !left.files.contains("shares/u/s"), "{left:?}");
    assert_eq!(left.mounts, 1);
}

#[test]
fn a_claim_keeps_the_limiter_it_started_with() {
    let node = TestNode::new();
    let wanted = [share("s", "gpu-aa", 1024, 0)];
    let spec = || fs::read(cdi::claim_path(&node.paths().cdi_dir, "u")).unwrap();
    node.start().prepare(&claim("u"), &wanted).unwrap();
    let before = spec();
    for (soname, _) in SHIMMED {
        fs::write(node.dir.path().join("image").join(soname), "version two").unwrap();
    }
    node.install_limiter();
    let plugin = node.start();
    plugin.prepare(&claim("u"), &wanted).unwrap();
    assert_eq!(spec(), before);
    let versions = || fs::read_dir(node.paths().limiter()).unwrap().count();
    assert_eq!(versions(), 2);
    plugin.unprepare(&claim("u")).unwrap();
    assert_eq!(versions(), 1, "the old version went with its last claim");
}

#[test]
fn after_a_reboot_a_claim_has_the_limiter_its_new_files_are_made_for() {
    let node = TestNode::new();
    let wanted = [share("s", "gpu-aa", 1024, 0)];
    node.start().prepare(&claim("u"), &wanted).unwrap();
    let limiter = || node.start().prepared().claims["u"].limiter.clone();
    let before = limiter();
    for (soname, _) in SHIMMED {
        fs::write(node.dir.path().join("image").join(soname), "version two").unwrap();
    }
    node.install_limiter();
    for folder in ["shares", "cdi"] {
        fs::remove_dir_all(node.dir.path().join(folder)).unwrap();
        fs::create_dir(node.dir.path().join(folder)).unwrap();
    }
    node.host.mounts.lock().unwrap().clear();
    node.start().reconcile().unwrap();
    assert_ne!(limiter(), before);
}

#[test]
fn without_a_driver_a_limited_share_is_refused_and_a_prepared_one_is_left_alone() {
    let node = TestNode::new();
    let plugin = node.start();
    let wanted = [share("s", "gpu-aa", 1024, 0)];
    plugin.prepare(&claim("u"), &wanted).unwrap();
    let whole = node.left();
    node.discovery.send_modify(|d| {
        let d = Arc::make_mut(d);
        d.places.clear();
        d.limiter_message = "the driver's CDI spec mounts no libcuda.so.1".into();
    });
    plugin.prepare(&claim("u"), &wanted).unwrap();
    assert_eq!(node.left(), whole);
    let message = refusal(plugin.prepare(&claim("v"), &[share("t", "gpu-aa", 1024, 0)]));
    assert!(message.contains("mounts no libcuda.so.1"), "{message}");
}

#[test]
fn what_no_entry_names_is_removed_at_the_start_and_other_drivers_files_are_not() {
    let node = TestNode::new();
    node.start().prepare(&claim("kept"), &[share("s", "gpu-aa", 1024, 0)]).unwrap();
    let theirs = node.paths().cdi_dir.join("example.com-net.json");
    fs::write(&theirs, "{}").unwrap();
    let want = node.left();
    node.plugin().prepare(&claim("gone"), &[share("t", "gpu-aa", 1024, 0)]).unwrap();
    let mut checkpoint = node.plugin().prepared();
    checkpoint.claims.remove("gone");
    checkpoint.store(&node.paths().checkpoint(), &node.host).unwrap();
    node.start();
    assert_eq!(node.left(), want);
}

#[test]
fn two_instances_answer_alike_and_see_what_the_other_did() {
    let node = TestNode::new();
    let (old, new) = (node.start(), node.start());
    let wanted = [share("s", "gpu-aa", 10_000, 0)];
    let first = old.prepare(&claim("u"), &wanted).unwrap();
    assert_eq!(new.prepare(&claim("u"), &wanted).unwrap(), first);
    refusal(new.prepare(&claim("v"), &[share("t", "gpu-aa", 10_000, 0)]));
    new.unprepare(&claim("u")).unwrap();
    old.prepare(&claim("v"), &[share("t", "gpu-aa", 10_000, 0)]).unwrap();
    assert_eq!(node.left().claims, ["v"]);
}
