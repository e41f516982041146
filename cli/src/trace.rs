//! Pods of a published trace on its nodes, under each policy.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::io::Read;
use std::path::Path;

use anyhow::{Context, ensure};
use serde::Serialize;
use vgpu_allocator::trace::{Host, Models, Pod, Replay, capacity, hosts, pods};
use vgpu_allocator::{POLICIES, Policy, Refusal};

/// What became of the pods under one policy of nodes and GPUs.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Outcome {
    /// Of nodes and of GPUs.
    policy: &'static str,
    /// Pods of the trace.
    pods: usize,
    /// Of these the ones that have a place.
    placed: usize,
    /// GPUs of the nodes.
    gpus: u32,
    /// GPUs that were asked for, in percent of those there are.
    demand_percent: f64,
    /// GPUs that were given, in percent of those there are.
    allocated_percent: f64,
    /// Pods without a place by the reason that most GPUs, or most nodes, gave.
    refused: BTreeMap<String, usize>,
}

fn read(path: &Path) -> anyhow::Result<String> {
    let place = || format!("cannot read {}", path.display());
    let mut text = String::new();
    let file = std::fs::File::open(path).with_context(place)?;
    if path.extension().is_some_and(|ending| ending == "gz") {
        flate2::read::GzDecoder::new(file).read_to_string(&mut text).with_context(place)?;
    } else {
        { file }.read_to_string(&mut text).with_context(place)?;
    }
    Ok(text)
}

/// Submits the pods of a file one after the other to the empty nodes of another, under this policy or under each.
///
/// # Errors
/// A file that cannot be read, or is not of the form.
pub(crate) fn simulate(nodes: &Path, trace: &Path, policy: Option<Policy>) -> anyhow::Result<Vec<Outcome>> {
    let mut models = Models::default();
    let hosts = hosts(&read(nodes)?, &mut models).with_context(|| nodes.display().to_string())?;
    let pods = pods(&read(trace)?, &mut models).with_context(|| trace.display().to_string())?;
    ensure!(capacity(&hosts) > 0, "{}: no node has a GPU", nodes.display());
    let chosen = POLICIES.iter().filter(|(_, known)| policy.is_none_or(|wanted| wanted == *known));
    Ok(chosen.map(|(name, policy)| replay(name, *policy, &hosts, &pods)).collect())
}

fn replay(name: &'static str, policy: Policy, hosts: &[Host], pods: &[Pod]) -> Outcome {
    let mut replay = Replay::new(hosts, policy, policy);
    let (mut placed, mut given, mut refused) = (0, 0, BTreeMap::new());
    for (id, pod) in pods.iter().enumerate() {
        match replay.place(id, pod) {
            Ok(()) => {
                placed += 1;
                given += pod.amount();
            }
            Err(refusal) => *refused.entry(reason(&refusal)).or_default() += 1,
        }
    }
    let percent = |amount: u64| {
        let percent = amount as f64 * 100.0 / capacity(hosts) as f64;
        (percent * 100.0).round() / 100.0
    };
    Outcome {
        policy: name,
        pods: pods.len(),
        placed,
        gpus: hosts.iter().map(|h| h.gpus).sum(),
        demand_percent: percent(pods.iter().map(Pod::amount).sum()),
        allocated_percent: percent(given),
        refused,
    }
}

/// The reason that most GPUs gave, or most nodes if none was looked into.
fn reason(refusal: &Refusal) -> String {
    let of_gpus =
        refusal.gpu_reasons.iter().max_by_key(|(_, count)| **count).map(|(r, _)| r.name().to_owned());
    let of_nodes =
        || refusal.node_reasons.iter().max_by_key(|(_, count)| **count).map(|(r, _)| r.to_string());
    of_gpus.or_else(of_nodes).unwrap_or_else(|| "NoGpus".to_owned())
}

/// A line for each policy.
pub(crate) fn table(outcomes: &[Outcome]) -> String {
    let mut text = format!(
        "{:20}{:>8}{:>8}{:>8}{:>10}{:>11}  REFUSED FOR\n",
        "POLICY", "PODS", "PLACED", "GPUS", "ASKED", "ALLOCATED"
    );
    for outcome in outcomes {
        let Outcome { policy, pods, placed, gpus, demand_percent, allocated_percent, refused } = outcome;
        let refused: Vec<String> =
            refused.iter().map(|(reason, count)| format!("{count} {reason}")).collect();
        let why = if refused.is_empty() { "-".to_owned() } else { refused.join(", ") };
        let _ = writeln!(
            text,
            "{policy:20}{pods:>8}{placed:>8}{gpus:>8}{demand_percent:>8.2} %{allocated_percent:>9.2} %  {why}"
        );
    }
    text
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    fn run(pods: &str, policy: Option<Policy>) -> anyhow::Result<Vec<Outcome>> {
        let folder = tempfile::tempdir()?;
        let (nodes, trace) = (folder.path().join("nodes.csv"), folder.path().join("pods.csv"));
        fs::write(&nodes, "cpu_milli,memory_mib,gpu,model\n9000,9000,2,T4\n9000,9000,2,T4\n")?;
        fs::write(&trace, pods)?;
        simulate(&nodes, &trace, policy)
    }

    #[test]
    fn each_policy_has_its_line_and_pods_without_a_place_their_reason() {
        let pods = "cpu_milli,memory_mib,num_gpu,gpu_milli\n1,1,1,500\n1,1,1,500\n1,1,2,1000\n9500,1,1,100\n";
        let outcomes = run(pods, None).unwrap();
        assert_eq!(
            outcomes.iter().map(|o| (o.policy, o.placed)).collect::<Vec<_>>(),
            [("Binpack", 3), ("Spread", 2), ("LeastFragmentation", 3)]
        );
        assert_eq!((outcomes[0].demand_percent, outcomes[0].allocated_percent), (77.5, 75.0));
        assert_eq!(
            table(&outcomes[1..2]).lines().nth(1).unwrap(),
            "Spread                     4       2       4   77.50 %    25.00 %  1 InsufficientCpu, 1 NotEnoughGpus"
        );
    }

    #[test]
    fn one_policy_alone_and_a_file_that_is_no_trace() {
        let pods = "cpu_milli,memory_mib,num_gpu,gpu_milli\n1,1,1,500\n";
        assert_eq!(run(pods, Some(Policy::Spread)).unwrap().len(), 1);
        let error = format!("{:#}", run("num_gpu\n1\n", None).unwrap_err());
        assert!(error.ends_with("pods.csv: line 2: column cpu_milli is missing or not a number"), "{error}");
    }
}
