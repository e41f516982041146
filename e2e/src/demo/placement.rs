//! The four policy scenarios: four pods of 7,500 MiB on two nodes with four T4 each.

use std::collections::{BTreeMap, BTreeSet};

use anyhow::ensure;

use super::kube::{Kube, short_uuids};

/// One combination of node and GPU policy, and what it must come to.
pub(super) struct Scenario {
    pub(super) letter: char,
    node: &'static str,
    gpu: &'static str,
    example: &'static str,
    /// Nodes used.
    nodes: usize,
    /// GPUs used on each of them.
    gpus_per_node: usize,
}

/// In the order they are shown.
pub(super) const SCENARIOS: [Scenario; 4] = [
    Scenario {
        letter: 'A',
        node: "Binpack",
        gpu: "Binpack",
        example: "policy-a-node-binpack-gpu-binpack",
        nodes: 1,
        gpus_per_node: 2,
    },
    Scenario {
        letter: 'B',
        node: "Spread",
        gpu: "Binpack",
        example: "policy-b-node-spread-gpu-binpack",
        nodes: 2,
        gpus_per_node: 1,
    },
    Scenario {
        letter: 'C',
        node: "Binpack",
        gpu: "Spread",
        example: "policy-c-node-binpack-gpu-spread",
        nodes: 1,
        gpus_per_node: 4,
    },
    Scenario {
        letter: 'D',
        node: "Spread",
        gpu: "Spread",
        example: "policy-d-both-spread",
        nodes: 2,
        gpus_per_node: 2,
    },
];

const PODS: usize = 4;

impl Scenario {
    /// Runs the scenario in a namespace of its own and prints its table.
    pub(super) fn show(&self, kube: &Kube<'_>) -> anyhow::Result<()> {
        let namespace = format!("scenario-{}", self.letter.to_ascii_lowercase());
        eprintln!("scenario {}: four pods of 7,500 MiB", self.letter);
        kube.example(&namespace, self.example)?;
        let pods = kube.running(&namespace, PODS)?;

        println!("Scenario {}: node {}, GPU {}", self.letter, self.node, self.gpu);
        let width = pods.iter().map(|p| p.name.len()).max().unwrap_or(3).max(3);
        println!("{:<width$} {:<8} UUIDS", "POD", "NODE");
        let mut used: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
        for pod in &pods {
            let query = ["nvidia-smi", "--query-gpu=uuid", "--format=csv,noheader"];
            let uuids = kube.exec(&namespace, &pod.name, &query)?.replace('\n', ",");
            println!("{:<width$} {:<8} {uuids}", pod.name, pod.node);
            used.entry(pod.node.clone()).or_default().insert(uuids);
        }
        println!();

        let gpus: Vec<usize> = used.values().map(BTreeSet::len).collect();
        ensure!(
            gpus == vec![self.gpus_per_node; self.nodes],
            "expected {} GPUs on each of {} nodes, got {used:?}",
            self.gpus_per_node,
            self.nodes
        );
        let mut sample = String::new();
        for pod in &pods {
            let placed = kube.events(&namespace, &pod.name, "Placed")?;
            ensure!(placed.len() == 1, "pod {} has {} Placed events, expected one", pod.name, placed.len());
            sample = format!("Event of {}: {}", pod.name, short_uuids(&placed[0]));
        }
        println!("{sample}\n");
        kube.delete_namespace(&namespace)
    }
}
