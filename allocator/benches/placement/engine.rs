//! Schedulers that are compared: this engine under its policies, and FGD.

use std::collections::BTreeSet;

use vgpu_allocator::{
    Cluster, Demand, Exclusions, Gpu, GpuState, MemoryAsk, Mix, Node, Policy, Request, Room, Shapes, Share,
};

use crate::trace::{Pod, Traces};

const MIB: u64 = 1 << 20;
/// Arrivals between two lessons.
const LESSON: u64 = 300;

/// Places pods and takes them back.
pub(crate) trait Scheduler {
    /// False if the pod fits nowhere.
    fn place(&mut self, id: usize, pod: &Pod) -> bool;
    /// A placed pod is gone.
    fn remove(&mut self, id: usize, pod: &Pod);
}

/// The engine. A thousandth of a GPU is 1 MiB.
pub(crate) struct Engine {
    cluster: Cluster,
    policy: Policy,
    mix: Mix,
    arrivals: u64,
}

impl Engine {
    pub(crate) fn new(traces: &Traces, policy: Policy) -> Self {
        let mut cluster = Cluster::default();
        for (n, host) in traces.hosts.iter().enumerate() {
            let gpu = |g: u32| Gpu {
                name: format!("gpu-{g}"),
                shape: host.model,
                memory: 1000 * MIB,
                cores: 100,
                shares: 1000,
                state: GpuState::Healthy,
            };
            let room = Room { cpu_milli: host.cpu_milli, memory: host.memory_mib * MIB, pods: u32::MAX };
            cluster.set_node(
                &format!("node-{n:04}"),
                Node { room, gpus: (0..host.gpus).map(gpu).collect(), class: 0 },
            );
        }
        Self { cluster, policy, mix: Mix::default(), arrivals: 0 }
    }
}

impl Scheduler for Engine {
    fn place(&mut self, id: usize, pod: &Pod) -> bool {
        let shapes = || {
            if pod.models.is_empty() { Shapes::Any } else { Shapes::Of(pod.models.iter().copied().collect()) }
        };
        let request = Request {
            claim: String::new(),
            name: String::new(),
            count: pod.gpus,
            all: false,
            memory: MemoryAsk::Bytes(u64::from(pod.milli) * MIB),
            cores: pod.cores,
            shapes: shapes(),
            barred: BTreeSet::new(),
            gpu_policy: self.policy,
            containers: BTreeSet::new(),
        };
        let demand = Demand {
            room: Room { cpu_milli: pod.cpu_milli, memory: pod.memory_mib * MIB, pods: 1 },
            requests: if pod.gpus > 0 { vec![request] } else { vec![] },
            constraints: vec![],
            node_policy: self.policy,
            only_node: None,
            excluded: Exclusions::default(),
        };
        self.arrivals += 1;
        if self.policy == Policy::LeastFragmentation {
            self.mix.arrived(&demand);
            if self.mix.draw() || self.arrivals.is_multiple_of(LESSON) {
                self.cluster.learn(&self.mix);
            }
        }
        let Ok(placed) = self.cluster.plan(&demand) else { return false };
        let share = |s: &vgpu_allocator::PlacedShare| Share {
            node: placed.node.clone(),
            gpu: s.gpu.clone(),
            memory: s.memory,
            cores: s.cores,
        };
        let key = id.to_string();
        self.cluster.hold_claim(&key, placed.shares.iter().map(share).collect());
        self.cluster.hold_pod(&key, &placed.node, demand.room);
        true
    }

    fn remove(&mut self, id: usize, _: &Pod) {
        let key = id.to_string();
        self.cluster.drop_claim(&key);
        self.cluster.drop_pod(&key);
        self.mix.departed();
    }
}
