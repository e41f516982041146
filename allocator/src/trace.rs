//! Traces of pods, in the form published with "Beware of Fragmentation" (FGD, USENIX ATC'23), replayed on the engine.
//!
//! Comma-separated with a header. Nodes have `cpu_milli`, `memory_mib`, `gpu` (how many) and `model`; pods have `cpu_milli`,
//! `memory_mib`, `num_gpu`, `gpu_milli` (thousandths of each GPU) and, if some may not go anywhere, `gpu_spec` (models
//! joined by `|`). Other columns are not read. Nodes are in the order of the file.

use std::collections::BTreeSet;

use crate::{
    Cluster, Demand, Exclusions, Gpu, GpuState, LESSON, MemoryAsk, Mix, Node, Overcommit, Oversubscribed,
    Policy, Refusal, Request, Room, Shapes, Site, Topology,
};

const MIB: u64 = 1 << 20;

/// A row that is not as it should be.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TraceError {
    /// Line of the text, from 1.
    pub line: usize,
    /// Column that has no number.
    pub column: &'static str,
}

impl std::fmt::Display for TraceError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "line {}: column {} is missing or not a number", self.line, self.column)
    }
}

impl std::error::Error for TraceError {}

/// Numbers of GPU models, the same for nodes and pods.
#[derive(Debug, Default)]
pub struct Models(Vec<String>);

/// A node.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Host {
    /// Thousandths of a core.
    pub cpu_milli: u64,
    /// MiB.
    pub memory_mib: u64,
    /// GPUs, all of one model.
    pub gpus: u32,
    /// Number of its model, the same in [`Pod::models`].
    pub model: u32,
}

/// A pod as submitted.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Pod {
    /// Thousandths of a core.
    pub cpu_milli: u64,
    /// MiB.
    pub memory_mib: u64,
    /// 0 for a pod without GPUs.
    pub gpus: u32,
    /// Thousandths of each GPU.
    pub milli: u32,
    /// Percent of each GPU's time; traces have none.
    pub cores: u32,
    /// Models allowed; empty is any.
    pub models: Vec<u32>,
}

impl Models {
    fn number(&mut self, name: &str) -> u32 {
        let known = self.0.iter().position(|m| m == name);
        let at = known.unwrap_or_else(|| {
            self.0.push(name.to_owned());
            self.0.len() - 1
        });
        u32::try_from(at).unwrap_or(u32::MAX)
    }
}

impl Pod {
    /// Thousandths of a GPU in all.
    pub fn amount(&self) -> u64 {
        u64::from(self.gpus) * u64::from(self.milli)
    }
}

/// One row, by the header's columns.
struct Row<'a> {
    line: usize,
    header: &'a [&'a str],
    fields: Vec<&'a str>,
}

impl Row<'_> {
    fn text(&self, column: &str) -> Option<&str> {
        self.fields.get(self.header.iter().position(|h| *h == column)?).copied()
    }

    fn number<T: std::str::FromStr>(&self, column: &'static str) -> Result<T, TraceError> {
        let number = self.text(column).and_then(|text| text.trim().parse().ok());
        number.ok_or(TraceError { line: self.line, column })
    }
}

fn rows<T>(csv: &str, read: impl FnMut(Row<'_>) -> Result<T, TraceError>) -> Result<Vec<T>, TraceError> {
    let mut lines = (1..).zip(csv.lines());
    let header: Vec<&str> = lines.next().map_or("", |(_, line)| line).split(',').map(str::trim).collect();
    let filled = lines.filter(|(_, line)| !line.trim().is_empty());
    filled
        .map(|(line, text)| Row { line, header: &header, fields: text.split(',').collect() })
        .map(read)
        .collect()
}

/// Reads nodes.
///
/// # Errors
/// [`TraceError`].
pub fn hosts(csv: &str, models: &mut Models) -> Result<Vec<Host>, TraceError> {
    rows(csv, |row| {
        Ok(Host {
            cpu_milli: row.number("cpu_milli")?,
            memory_mib: row.number("memory_mib")?,
            gpus: row.number("gpu")?,
            model: models.number(row.text("model").unwrap_or_default().trim()),
        })
    })
}

/// Reads pods.
///
/// # Errors
/// [`TraceError`].
pub fn pods(csv: &str, models: &mut Models) -> Result<Vec<Pod>, TraceError> {
    rows(csv, |row| {
        // Traces whose pods all go anywhere lack the column.
        let allowed = row.text("gpu_spec").unwrap_or_default().split('|').map(str::trim);
        Ok(Pod {
            cpu_milli: row.number("cpu_milli")?,
            memory_mib: row.number("memory_mib")?,
            gpus: row.number("num_gpu")?,
            milli: row.number("gpu_milli")?,
            cores: 0,
            models: allowed.filter(|m| !m.is_empty()).map(|m| models.number(m)).collect(),
        })
    })
}

/// Thousandths of GPUs that nodes have.
pub fn capacity(hosts: &[Host]) -> u64 {
    hosts.iter().map(|h| u64::from(h.gpus) * 1000).sum()
}

/// The nodes of a trace under two policies, and the pods on them. A thousandth of a GPU is 1 MiB.
#[derive(Debug)]
pub struct Replay {
    cluster: Cluster,
    node_policy: Policy,
    gpu_policy: Policy,
    mix: Mix,
    arrivals: u64,
}

impl Replay {
    /// Empty nodes.
    pub fn new(hosts: &[Host], node_policy: Policy, gpu_policy: Policy) -> Self {
        let mut cluster = Cluster::default();
        for (n, host) in hosts.iter().enumerate() {
            let gpu = |g: u32| Gpu {
                name: format!("gpu-{g}"),
                shape: host.model,
                memory: 1000 * MIB,
                cores: 100,
                overcommit: Overcommit::default(),
                shares: 1000,
                state: GpuState::Healthy,
                site: Site::default(),
            };
            let room = Room { cpu_milli: host.cpu_milli, memory: host.memory_mib * MIB, pods: u32::MAX };
            let gpus = (0..host.gpus).map(gpu).collect();
            cluster.set_node(&format!("node-{n:04}"), Node { room, gpus, class: 0 });
        }
        Self { cluster, node_policy, gpu_policy, mix: Mix::default(), arrivals: 0 }
    }

    /// Places a pod and holds it under a number of its own.
    ///
    /// # Errors
    /// It fits nowhere.
    pub fn place(&mut self, id: usize, pod: &Pod) -> Result<(), Refusal> {
        let any = pod.models.is_empty();
        let request = Request {
            claim: String::new(),
            name: String::new(),
            count: pod.gpus,
            all: false,
            memory: MemoryAsk::Bytes(u64::from(pod.milli) * MIB),
            cores: pod.cores,
            oversubscribed: Oversubscribed::default(),
            shapes: if any { Shapes::Any } else { Shapes::Of(pod.models.iter().copied().collect()) },
            barred: BTreeSet::new(),
            gpu_policy: self.gpu_policy,
            topology: Topology::Ignore,
            containers: BTreeSet::new(),
        };
        let demand = Demand {
            room: Room { cpu_milli: pod.cpu_milli, memory: pod.memory_mib * MIB, pods: 1 },
            requests: if pod.gpus > 0 { vec![request] } else { vec![] },
            constraints: vec![],
            node_policy: self.node_policy,
            only_node: None,
            excluded: Exclusions::default(),
        };
        self.arrivals += 1;
        if [self.node_policy, self.gpu_policy].contains(&Policy::LeastFragmentation) {
            self.mix.arrived(&demand);
            if self.mix.draw() || self.arrivals.is_multiple_of(LESSON) {
                self.cluster.learn(&self.mix);
            }
        }
        let placed = self.cluster.plan(&demand)?;
        let key = id.to_string();
        self.cluster.hold_claim(&key, placed.shares.iter().map(|s| s.on(&placed.node)).collect::<Vec<_>>());
        self.cluster.hold_pod(&key, &placed.node, demand.room);
        Ok(())
    }

    /// A placed pod is gone.
    pub fn remove(&mut self, id: usize) {
        let key = id.to_string();
        self.cluster.drop_claim(&key);
        self.cluster.drop_pod(&key);
        self.mix.departed();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NODES: &str = "sn,cpu_milli,memory_mib,gpu,model\na,4000,1000,2,T4\nb,4000,1000,1,P100\n";

    fn replay(pods_csv: &str) -> Vec<Result<(), String>> {
        let mut models = Models::default();
        let hosts = hosts(NODES, &mut models).unwrap();
        assert_eq!(capacity(&hosts), 3000);
        let mut replay = Replay::new(&hosts, Policy::Binpack, Policy::Binpack);
        let pods = pods(pods_csv, &mut models).unwrap();
        pods.iter().enumerate().map(|(id, pod)| replay.place(id, pod).map_err(|r| r.to_string())).collect()
    }

    #[test]
    fn pods_go_where_model_and_amounts_fit() {
        let placed = replay(
            "cpu_milli,memory_mib,num_gpu,gpu_milli,gpu_spec\n1,1,1,600,P100\n1,1,1,600,P100|V100\n1,1,2,1000,\n1,1,0,0,\n",
        );
        assert_eq!(placed.iter().map(Result::is_ok).collect::<Vec<_>>(), [true, false, true, true]);
        assert!(placed[1].as_ref().is_err_and(|why| why.contains("2 ModelMismatch")), "{placed:?}");
    }

    #[test]
    fn a_row_without_a_number_is_named() {
        let error = pods("cpu_milli,memory_mib,num_gpu\n1,1,1\n", &mut Models::default()).unwrap_err();
        assert_eq!(error.to_string(), "line 2: column gpu_milli is missing or not a number");
        let error = hosts("cpu_milli,memory_mib,gpu,model\n1,1,1,T4\n\n1,x,1,T4\n", &mut Models::default());
        assert_eq!(error.unwrap_err(), TraceError { line: 4, column: "memory_mib" });
    }
}
