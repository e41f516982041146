//! A checkpoint that is damaged, gone, or a newer program's.

use sha2::Digest;

use super::*;
use crate::checkpoint::set_aside_path;

fn prepared() -> (TestNode, Vec<PreparedShare>) {
    let node = TestNode::new();
    let answer = node.start().prepare(&claim("u"), &[share("s", "gpu-aa", 1024, 30)]).unwrap();
    (node, answer)
}

fn without_aside(node: &TestNode) -> Left {
    let mut left = node.left();
    left.files.remove("checkpoint.damaged");
    left
}

#[test]
fn a_damaged_checkpoint_is_set_aside_told_of_and_rebuilt() {
    let (mut node, answer) = prepared();
    let whole = node.left();
    let path = node.paths().checkpoint();
    let mut bytes = fs::read(&path).unwrap();
    let middle = bytes.len() / 2;
    bytes[middle] ^= 1;
    fs::write(&path, &bytes).unwrap();
    let plugin = node.start();
    assert_eq!(without_aside(&node), whole);
    assert_eq!(fs::read(set_aside_path(&path)).unwrap(), bytes);
    let told = node.damaged.try_recv().unwrap();
    assert!(told.contains("is damaged") && told.contains("checkpoint.damaged"), "{told}");
    assert!(told.ends_with("1 prepared claims were found again in their CDI specs"), "{told}");
    assert_eq!(plugin.prepare(&claim("u"), &[share("s", "gpu-aa", 1024, 30)]).unwrap(), answer);
    assert!(node.damaged.try_recv().is_err(), "told once");
}

#[test]
fn a_damaged_checkpoint_is_rebuilt_by_whatever_call_meets_it_first() {
    let (node, _) = prepared();
    let plugin = node.plugin();
    fs::write(node.paths().checkpoint(), "garbage").unwrap();
    let message = refusal(plugin.prepare(&claim("v"), &[share("t", "gpu-aa", 15_000, 0)]));
    assert!(message.contains("held by ns/claim-u"), "{message}");
    fs::write(node.paths().checkpoint(), "").unwrap();
    plugin.unprepare(&claim("u")).unwrap();
    assert!(node.left().claims.is_empty());
}

#[test]
fn a_rebuild_that_dies_is_done_by_the_next_start() {
    let whole = without_aside(&prepared().0);
    for at in 0..4 {
        for half in [false, true] {
            let (node, _) = prepared();
            fs::write(node.paths().checkpoint(), "garbage").unwrap();
            let _ = node.dying(at, half).reconcile();
            node.start();
            let mut left = without_aside(&node);
            left.files.remove(".checkpoint.damaged.tmp");
            assert_eq!(left, whole, "killed at step {at}");
        }
    }
}

#[test]
fn a_checkpoint_that_is_gone_is_rebuilt_and_on_a_new_node_nothing_is_missed() {
    let (mut node, answer) = prepared();
    fs::remove_file(node.paths().checkpoint()).unwrap();
    let plugin = node.start();
    assert!(node.damaged.try_recv().unwrap().contains("checkpoint is gone; 1 prepared claims"));
    assert_eq!(plugin.prepare(&claim("u"), &[share("s", "gpu-aa", 1024, 30)]).unwrap(), answer);
    let mut fresh = TestNode::new();
    fresh.start();
    assert!(fresh.damaged.try_recv().is_err());
}

#[test]
fn whole_gpus_are_taken_over_from_the_api_so_that_they_stay_taken() {
    let node = TestNode::new();
    let whole = [share("s", "gpu-aa", 15_104, 0)];
    let answer = node.start().prepare(&claim("u"), &whole).unwrap();
    fs::write(node.paths().checkpoint(), "garbage").unwrap();
    let plugin = node.start();
    assert!(node.left().claims.is_empty(), "it left no spec to be found by");
    let reserved = [
        (claim("u"), whole.to_vec()),
        (claim("limited"), vec![share("t", "gpu-bb", 1024, 0)]),
        (claim("elsewhere"), vec![share("v", "gpu-zz", 15_104, 0)]),
    ];
    assert_eq!(plugin.adopt(&reserved).unwrap(), 1);
    assert_eq!(plugin.adopt(&reserved).unwrap(), 0);
    assert_eq!(node.left().claims, ["u"]);
    let message = refusal(plugin.prepare(&claim("v"), &[share("t", "gpu-aa", 1024, 0)]));
    assert!(message.contains("held by ns/claim-u"), "{message}");
    assert_eq!(plugin.prepare(&claim("u"), &whole).unwrap(), answer);
}

#[test]
fn a_newer_programs_checkpoint_is_neither_used_nor_touched() {
    let (node, _) = prepared();
    let path = node.paths().checkpoint();
    let body = r#"{"version":9}"#;
    let sum: String = sha2::Sha256::digest(body).iter().map(|b| format!("{b:02x}")).collect();
    let text = format!("{sum}\n{body}");
    fs::write(&path, &text).unwrap();
    let plugin = node.plugin();
    assert!(plugin.reconcile().is_err());
    let message = refusal(plugin.prepare(&claim("v"), &[share("t", "gpu-aa", 1024, 0)]));
    assert!(message.contains("run the newer plugin again"), "{message}");
    assert_eq!(fs::read_to_string(&path).unwrap(), text);
}
