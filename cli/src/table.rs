//! Pure: an explanation for people.

use vgpu_controller::explanation::Explanation;

/// The outcome, and a line for each node.
pub(crate) fn of(explained: &Explanation) -> String {
    let Explanation { namespace, pod, outcome, note, node, gpus, nodes } = explained;
    let mut text = format!("pod {namespace}/{pod}: {outcome:?}");
    if let Some(node) = node {
        text += &format!(" on {node}");
    }
    if !gpus.is_empty() {
        text += &format!(" ({})", gpus.join(", "));
    }
    text += &format!("\n  {note}\n");
    let width = nodes.iter().map(|n| n.node.len()).max().unwrap_or(0).max("NODE".len());
    if !nodes.is_empty() {
        text += &format!("  {:width$}  SCORE  WHY\n", "NODE");
    }
    for answer in nodes {
        let score = answer.score.as_deref().unwrap_or("-");
        let why = if answer.fits { answer.gpus.join(", ") } else { answer.note.clone() };
        text += &format!("  {:width$}  {score:5}  {why}\n", answer.node);
    }
    text
}

#[cfg(test)]
mod tests {
    use vgpu_controller::explanation::{NodeAnswer, Outcome};

    use super::*;

    #[test]
    fn each_node_has_its_line_with_gpus_or_reason() {
        let fits = NodeAnswer {
            node: "node-b".into(),
            fits: true,
            score: Some("0.497".into()),
            gpus: vec!["gpu-1".into()],
            note: String::new(),
        };
        let not = NodeAnswer {
            node: "a".into(),
            fits: false,
            score: None,
            gpus: Vec::new(),
            note: "0/4 GPUs: 4 Unhealthy".into(),
        };
        let explained = Explanation {
            namespace: "team".into(),
            pod: "train".into(),
            outcome: Outcome::Fits,
            note: "node-b: gpu-1".into(),
            node: Some("node-b".into()),
            gpus: vec!["gpu-1".into()],
            nodes: vec![fits, not],
        };
        let want = "pod team/train: Fits on node-b (gpu-1)\n  node-b: gpu-1\n  NODE    SCORE  WHY\n  node-b  0.497  gpu-1\n  \
                    a       -      0/4 GPUs: 4 Unhealthy\n";
        assert_eq!(of(&explained), want);
    }
}
