//! Text in, text out. A cluster is a line per node, `node-a: gpu-0 12/16 c50, gpu-1 16/16 down` with free and total
//! GiB, free cores after `c` (100 if unsaid) and `down` for an unhealthy one; `#2` after the total is its shape, `n1`, `p1`
//! and `u1` are its NVLink group, PCIe root and NUMA node, and `x150` lets one and a half of it be promised. A demand
//! is words: `memory=8` (GiB), `percent=50`, `all`, `cores=30`, `count=2`, `every` (GPU of the node), `look` (takes
//! nothing), `node=Spread`, `gpu=Spread`, `shape=2`, `shun=2` (a shape), `topology=Require`, `soft` (may be oversubscribed), `cpu=500`,
//! `on=node-a`; `+` begins another request of the same
//! container, `/` one of another container.

use std::collections::BTreeSet;

use crate::{
    Cluster, Demand, Exclusions, Gpu, GpuState, MemoryAsk, Node, NodeExclusion, Overcommit, Oversubscribed,
    Policy, Request, Room, Shapes, Share, Site, Topology,
};

pub(crate) const GIB: u64 = 1 << 30;

pub(crate) fn cluster(text: &str) -> Cluster {
    let mut cluster = Cluster::default();
    for line in text.lines().map(str::trim).filter(|l| !l.is_empty()) {
        let (name, gpus) = line.split_once(':').unwrap();
        let mut node =
            Node { room: Room { cpu_milli: 4000, memory: 64 * GIB, pods: 10 }, gpus: vec![], class: 0 };
        let mut shares = vec![];
        for gpu in gpus.split(',').map(str::trim).filter(|g| !g.is_empty()) {
            let mut words = gpu.split_whitespace();
            let (gpu, sizes) = (words.next().unwrap(), words.next().unwrap());
            let (free, total) = sizes.split_once('/').unwrap();
            let (total, shape) = total.split_once('#').unwrap_or((total, "0"));
            let (free, total): (u64, u64) = (free.parse().unwrap(), total.parse().unwrap());
            let rest: Vec<&str> = words.collect();
            let cores = rest.iter().find_map(|w| w.strip_prefix('c')).map_or(100, |c| c.parse().unwrap());
            let number =
                |sign: char| -> Option<u16> { rest.iter().find_map(|w| w.strip_prefix(sign)?.parse().ok()) };
            let percent = number('x').unwrap_or(100);
            let state = if rest.contains(&"down") { GpuState::Unhealthy } else { GpuState::Healthy };
            let shape = shape.parse().unwrap();
            node.gpus.push(Gpu {
                name: gpu.into(),
                shape,
                memory: total * GIB,
                cores: 100,
                overcommit: Overcommit { memory: percent, cores: percent },
                shares: 64,
                state,
                site: Site { nvlink: number('n'), pcie: number('p').map(u32::from), numa: number('u') },
            });
            if free < total || cores < 100 {
                let memory = (total - free) * GIB;
                let (node, gpu) = (name.into(), gpu.into());
                let oversubscribed = Oversubscribed::default();
                shares.push(Share { node, gpu, memory, cores: 100 - cores, oversubscribed });
            }
        }
        cluster.set_node(name, node);
        cluster.hold_claim(name, shares);
    }
    cluster
}

pub(crate) fn policy(name: &str) -> Policy {
    crate::POLICIES.iter().find(|p| p.0 == name).unwrap().1
}

pub(crate) fn demand(text: &str) -> Demand {
    let mut demand = Demand {
        room: Room { cpu_milli: 100, memory: GIB, pods: 1 },
        requests: vec![],
        constraints: vec![],
        node_policy: Policy::Binpack,
        only_node: None,
        excluded: Exclusions::default(),
    };
    let mut container = 0;
    for part in text.replace('/', " + / ").split('+').map(str::trim).filter(|p| !p.is_empty()) {
        let mut request = Request {
            claim: "claim".into(),
            name: format!("r{}", demand.requests.len()),
            count: 1,
            all: false,
            memory: MemoryAsk::All,
            cores: 0,
            oversubscribed: Oversubscribed::default(),
            shapes: Shapes::Any,
            barred: BTreeSet::new(),
            gpu_policy: Policy::Binpack,
            topology: Topology::Prefer,
            containers: BTreeSet::new(),
        };
        for word in part.split_whitespace() {
            match word.split_once('=').unwrap_or((word, "")) {
                ("/", _) => container += 1,
                ("memory", n) => request.memory = MemoryAsk::Bytes(n.parse::<u64>().unwrap() * GIB),
                ("percent", n) => request.memory = MemoryAsk::Percent(n.parse().unwrap()),
                ("cores", n) => request.cores = n.parse().unwrap(),
                ("count", n) => request.count = n.parse().unwrap(),
                ("shape", n) => request.shapes = Shapes::Of(BTreeSet::from([n.parse().unwrap()])),
                ("shun", n) => drop(request.barred.insert(n.parse().unwrap())),
                ("gpu", p) => request.gpu_policy = policy(p),
                ("node", p) => demand.node_policy = policy(p),
                ("topology", "Ignore") => request.topology = Topology::Ignore,
                ("topology", "Require") => request.topology = Topology::Require,
                ("soft", _) => request.oversubscribed = Oversubscribed { memory: true, cores: true },
                ("cpu", n) => demand.room.cpu_milli = n.parse().unwrap(),
                ("on", n) => demand.only_node = Some(n.into()),
                ("without", n) => {
                    drop(demand.excluded.nodes.insert(n.into(), NodeExclusion("NotReady".into())))
                }
                ("all", _) => {}
                ("every", _) => request.all = true,
                ("look", _) => request.memory = MemoryAsk::Nothing,
                other => panic!("{other:?}"),
            }
        }
        request.containers = BTreeSet::from([container]);
        demand.requests.push(request);
    }
    demand
}

pub(crate) fn answer(cluster: &Cluster, demand: &Demand) -> String {
    match cluster.plan(demand) {
        Ok(p) => {
            format!("{}/{}", p.node, p.shares.iter().map(|s| s.gpu.as_str()).collect::<Vec<_>>().join("+"))
        }
        Err(refusal) => refusal.to_string(),
    }
}
