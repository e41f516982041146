use vgpu_core::limits::{self, Limits};

use super::*;

fn allowed(id: &str, mib: u64) -> WantedShare {
    WantedShare { oversubscription: Oversubscription::Allowed, ..share(id, "gpu-aa", mib, 10) }
}

fn limits_of(node: &TestNode, uid: &str) -> Limits {
    let paths = SharePaths::new(&node.paths().share_dir, uid, "s");
    limits::decode(&fs::read(paths.limits).unwrap()).unwrap()
}

/// MiB of the GPU each of these claims may have, of 15,104.
fn resident<const N: usize>(node: &TestNode, uids: [&str; N]) -> [u64; N] {
    uids.map(|uid| limits_of(node, uid).on_gpu() / MIB)
}

#[test]
fn shares_that_may_be_oversubscribed_divide_what_the_others_leave_whoever_comes_and_goes() {
    let node = TestNode::new();
    let plugin = node.start();
    let prepare = |uid: &str, want: WantedShare| plugin.prepare(&claim(uid), &[want]);
    prepare("a", allowed("s", 12_000)).unwrap();
    assert_eq!(limits_of(&node, "a").memory, 12_000 * MIB);
    assert_eq!(resident(&node, ["a"]), [12_000]);
    prepare("b", allowed("s", 12_000)).unwrap();
    assert_eq!(resident(&node, ["a", "b"]), [7_552, 7_552]);
    prepare("c", share("s", "gpu-aa", 5_104, 10)).unwrap();
    assert_eq!(
        (limits_of(&node, "c").resident, resident(&node, ["a", "b", "c"])),
        (0, [5_000, 5_000, 5_104])
    );
    // What is on the GPU for certain cannot be more than it has.
    let refused = refusal(prepare("d", share("s", "gpu-aa", 10_001, 10)));
    assert!(refused.contains("10001Mi") && refused.contains("ns/claim-c"), "{refused}");
    prepare("d", share("s", "gpu-aa", 10_000, 10)).unwrap();
    assert_eq!(resident(&node, ["a", "b", "d"]), [2, 2, 10_000]);
    for uid in ["d", "c", "b"] {
        plugin.unprepare(&claim(uid)).unwrap();
    }
    assert_eq!(resident(&node, ["a"]), [12_000]);
    // A plugin that has just come up divides as the one before, and changes nothing while there is no driver.
    prepare("b", allowed("s", 12_000)).unwrap();
    node.start();
    assert_eq!(resident(&node, ["a", "b"]), [7_552, 7_552]);
    node.discovery.send_modify(|d| Arc::make_mut(d).gpus.clear());
    node.start();
    assert_eq!(resident(&node, ["a", "b"]), [7_552, 7_552]);
}

#[test]
fn all_of_a_gpu_that_may_be_oversubscribed_has_the_limiter() {
    let node = TestNode::new();
    let prepared =
        node.start().prepare(&claim("u"), &[WantedShare { cores: 0, ..allowed("s", 15_104) }]).unwrap();
    assert!(!prepared[0].exclusive);
    assert_eq!(resident(&node, ["u"]), [15_104]);
}
