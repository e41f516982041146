//! Killed at any step, whole or half done: the next Prepare, Unprepare or start leaves nothing half done.

use std::sync::atomic::Ordering;

use super::*;

/// More steps than anything here takes; reaching it means that a step is never counted.
const MOST: usize = 200;

fn shares() -> [WantedShare; 2] {
    [share("s", "gpu-aa", 2048, 10), share("t", "gpu-bb", 1024, 0)]
}

/// A node on which one claim is prepared.
fn node() -> (TestNode, Left) {
    let node = TestNode::new();
    node.start().prepare(&claim("kept"), &[share("k", "gpu-aa", 1024, 20)]).unwrap();
    let left = node.left();
    (node, left)
}

/// Runs `case` for every step `call` has, killed before it and in the middle of it; returns the number of steps.
fn at_every_step(
    prepare: impl Fn(&TestNode),
    call: impl Fn(&State) -> bool,
    case: impl Fn(&TestNode, &Left, &str),
) -> usize {
    for at in 0..MOST {
        for half in [false, true] {
            let (node, before) = node();
            prepare(&node);
            if call(&node.dying(at, half)) {
                return at;
            }
            let how = format!("killed {} step {at}", if half { "in" } else { "before" });
            case(&node, &before, &how);
        }
    }
    panic!("not done after {MOST} steps");
}

#[test]
fn a_prepare_that_dies_is_undone_by_the_start() {
    let steps = at_every_step(
        |_| {},
        |plugin| plugin.prepare(&claim("u"), &shares()).is_ok(),
        |node, before, how| {
            node.start();
            assert_eq!(node.left(), *before, "{how}");
        },
    );
    assert!(steps >= 11, "four steps a share, two for the spec, one for the checkpoint: {steps}");
}

#[test]
fn a_prepare_that_dies_is_made_whole_by_the_next() {
    let (reference, _) = node();
    let answer = reference.plugin().prepare(&claim("u"), &shares()).unwrap();
    at_every_step(
        |_| {},
        |plugin| plugin.prepare(&claim("u"), &shares()).is_ok(),
        |node, before, how| {
            assert_eq!(node.plugin().prepare(&claim("u"), &shares()).unwrap(), answer, "{how}");
            assert_eq!(node.left(), reference.left(), "{how}");
            node.plugin().unprepare(&claim("u")).unwrap();
            assert_eq!(node.left(), *before, "{how}, then unprepared");
        },
    );
}

#[test]
fn a_prepare_that_dies_is_undone_by_unprepare() {
    at_every_step(
        |_| {},
        |plugin| plugin.prepare(&claim("u"), &shares()).is_ok(),
        |node, before, how| {
            node.plugin().unprepare(&claim("u")).unwrap();
            let mut left = node.left();
            // The temporary name of a file that is written next time, or removed at the next start.
            left.files.retain(|f| !f.ends_with(".tmp"));
            assert_eq!(left, *before, "{how}");
            node.start();
            assert_eq!(node.left(), *before, "{how}, then started");
        },
    );
}

#[test]
fn an_unprepare_that_dies_is_finished_by_the_next_or_taken_back_by_the_start() {
    let (reference, _) = node();
    let answer = reference.plugin().prepare(&claim("u"), &shares()).unwrap();
    let whole = reference.left();
    let steps = at_every_step(
        |node| drop(node.plugin().prepare(&claim("u"), &shares()).unwrap()),
        |plugin| plugin.unprepare(&claim("u")).is_ok(),
        |node, before, how| {
            // Its entry is the last thing to go, so until then a start makes the claim whole again.
            node.start();
            assert_eq!(node.left(), whole, "{how}, then started");
            assert_eq!(node.plugin().prepare(&claim("u"), &shares()).unwrap(), answer, "{how}");
            node.plugin().unprepare(&claim("u")).unwrap();
            assert_eq!(node.left(), *before, "{how}, then unprepared");
        },
    );
    assert!(steps >= 5, "a spec, two mounts, a folder, the checkpoint: {steps}");
    at_every_step(
        |node| drop(node.plugin().prepare(&claim("u"), &shares()).unwrap()),
        |plugin| plugin.unprepare(&claim("u")).is_ok(),
        |node, before, how| {
            node.plugin().unprepare(&claim("u")).unwrap();
            let mut left = node.left();
            left.files.retain(|f| !f.ends_with(".tmp"));
            assert_eq!(left, *before, "{how}, then unprepared at once");
        },
    );
}

#[test]
fn a_start_that_dies_after_a_reboot_is_finished_by_the_next() {
    // What cannot be repaired is logged, not returned, so a start that nobody kills says how many steps there are.
    let (whole, _) = node();
    whole.reboot();
    let before = whole.host.steps.load(Ordering::Relaxed);
    whole.start();
    let steps = whole.host.steps.load(Ordering::Relaxed) - before;
    assert!(steps >= 4, "a share, its spec, the checkpoint: {steps}");
    for at in 0..steps {
        for half in [false, true] {
            let (node, before) = node();
            node.reboot();
            let result = node.dying(at, half).reconcile();
            node.start();
            assert_eq!(node.left(), before, "killed at step {at}: {result:?}");
        }
    }
}
