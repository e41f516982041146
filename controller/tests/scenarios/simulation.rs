//! Random pods, faults, deaths and disorder, by seed: never is a device promised more than it has, and when the trouble
//! is over every allocation has a pod that uses it and every pod that fits is placed.
//!
//! Seeds are fresh in each run. One is replayed with `VGPU_SEED=<seed>`, more are run with `VGPU_SEEDS=<how many>`.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use k8s_openapi::api::core::v1::{Node, PodResourceClaim};
use kube::ResourceExt;
use serde_json::json;
use vgpu_api::names::DRIVER;
use vgpu_api::{Gpu, GpuNode};
use vgpu_controller::claim::{self, Claim};
use vgpu_controller::pod::Pod;
use vgpu_fake_api::objects::{Object, pod, template};
use vgpu_fake_api::{Call, Connection, Delivery, Fault, Random};

use crate::harness::{Cluster, Controller, sleep};

const SEEDS: u64 = 1000;
const STEPS: u64 = 40;
const GPU: u64 = 15_104 << 20;
/// Templates by name, with the least that each asks for of a GPU in MiB, and of how many GPUs of a node.
const SIZES: [(&str, u64, usize); 9] = [
    ("tiny", 1000, 1),
    ("third", 5000, 1),
    ("half", 7500, 1),
    ("most", 12_000, 1),
    ("either", 3000, 1),
    ("pair", 4000, 2),
    ("soft", 9000, 1),
    ("all", 2000, ALL),
    ("look", 0, ALL),
];
const ALL: usize = usize::MAX;
/// What may be promised of a GPU to `soft` ones, in percent of what firm ones leave.
const PROMISED: u64 = 150;
/// What `either` likes best, in MiB.
const LARGE: u64 = 14_000;

/// The template of this name.
fn sized(name: &str, mib: u64) -> Object {
    const DEVICES: &str = "/spec/spec/devices";
    let exactly = |field: &str| format!("{DEVICES}/requests/0/exactly/{field}");
    let memory = format!("{mib}Mi");
    match name {
        "either" => {
            let alternative = |name: &str, count: u32, mib: u64| {
                json!({"name": name, "deviceClassName": DRIVER, "count": count,
                    "capacity": {"requests": {"memory": format!("{mib}Mi")}}})
            };
            let list =
                [alternative("large", 1, LARGE), alternative("two", 2, 6000), alternative("small", 1, mib)];
            template(name, "")
                .set(&format!("{DEVICES}/requests"), json!([{"name": "gpu", "firstAvailable": list}]))
        }
        "pair" => {
            let alike = json!([{"matchAttribute": "gpu.vgpu-dra.io/productName"}]);
            template(name, &memory).set(&exactly("count"), 2).set(&format!("{DEVICES}/constraints"), alike)
        }
        "soft" => {
            let allowed = json!({"apiVersion": "vgpu-dra.io/v1alpha1", "kind": "ShareConfig",
                "memory": {"oversubscription": "Allowed"}});
            let config = json!([{"opaque": {"driver": DRIVER, "parameters": allowed}}]);
            template(name, &memory).set(&format!("{DEVICES}/config"), config)
        }
        "all" => template(name, &memory).set(&exactly("allocationMode"), "All"),
        "look" => {
            template(name, "").set(&exactly("allocationMode"), "All").set(&exactly("adminAccess"), true)
        }
        _ => template(name, &memory),
    }
}

/// What is promised of GPUs, by node and device, in bytes; of `soft` ones what must be there for them.
fn promised(claims: &[Claim]) -> BTreeMap<(String, String), u64> {
    let mut used: BTreeMap<(String, String), (u64, u64)> = BTreeMap::new();
    for claim in claims {
        for share in claim::shares(claim) {
            let (firm, soft) = used.entry((share.node, share.gpu)).or_default();
            *(if share.oversubscribed.memory { soft } else { firm }) += share.memory;
        }
    }
    used.into_iter().map(|(gpu, (firm, soft))| (gpu, firm + (soft * 100).div_ceil(PROMISED))).collect()
}

/// What must hold at every moment. `checked`: the version of the claims it was found to hold for.
fn check(cluster: &Cluster, checked: &mut u64, seed: u64, step: u64) {
    let version = cluster.api.version_of::<Claim>();
    if std::mem::replace(checked, version) == version {
        return;
    }
    let claims = cluster.api.all::<Claim>();
    for (gpu, bytes) in promised(&claims) {
        assert!(bytes <= GPU, "seed {seed}, step {step}: {gpu:?} is promised {} MiB", bytes >> 20);
    }
    for claim in &claims {
        let results = claim::own_results(claim);
        let gpus: BTreeSet<&str> = results.iter().map(|r| r.device.as_str()).collect();
        assert_eq!(gpus.len(), results.len(), "seed {seed}, step {step}: one request has a GPU twice");
    }
}

/// Some calls of a client go wrong, each in its own way.
fn trouble(connection: &Connection, seed: u64, percent: u64) {
    let mut random = Random::new(seed);
    connection.deliver(Delivery { delay: Duration::from_millis(random.below(300)), duplicates: 5 }, seed);
    connection.rule(move |call| {
        if !random.chance(percent) {
            return None;
        }
        let pause = random.pause(Duration::from_secs(6));
        Some(match random.below(9) {
            0 => Fault::Refuse(409),
            1 => Fault::Refuse(429),
            2 => Fault::Refuse(500),
            3 if !call.verb.writes() => Fault::Refuse(410),
            3 | 4 => Fault::LoseAnswer,
            5 => Fault::Hang,
            6 if call.verb.writes() => Fault::TakeLate(pause),
            _ => Fault::Slow(pause / 4),
        })
    });
}

async fn step(cluster: &Cluster, controllers: &mut Vec<Controller>, random: &mut Random, made: &mut u64) {
    let pods: Vec<String> = cluster.api.all::<Pod>().iter().map(ResourceExt::name_any).collect();
    let some = |random: &mut Random| {
        let at = usize::try_from(random.below(pods.len() as u64)).unwrap_or(0);
        pods.get(at).cloned()
    };
    match random.below(20) {
        0..8 => {
            let size =
                |random: &mut Random| SIZES[usize::try_from(random.below(SIZES.len() as u64)).unwrap_or(0)].0;
            let claims: Vec<&str> = (0..1 + random.below(2)).map(|_| size(random)).collect();
            let priority = random.below(3);
            *made += 1;
            let made = pod(&format!("p{made}"), &claims).set("/spec/priority", priority);
            if random.chance(80) {
                cluster.api.create(made);
                return;
            }
            let gang = json!({"vgpu-dra.io/gang": made.name(), "vgpu-dra.io/gang-size": "2"});
            let made = made.set("/metadata/annotations", gang);
            cluster.api.create(made.clone().set("/metadata/name", format!("{}-mate", made.name())));
            cluster.api.create(made);
        }
        8..11 => {
            if let Some(name) = some(random) {
                cluster.delete_pod(&name);
            }
        }
        11 => {
            if let Some(name) = some(random).filter(|n| cluster.bound(n).is_some()) {
                cluster.patch_pod(&name, true, json!({"status": {"phase": "Succeeded"}}));
            }
        }
        12 => {
            let refuse = random.chance(50);
            cluster.scheduler.tell(|s| match refuse {
                true => drop(s.refuses.insert("node-a".to_owned())),
                false => s.refuses.clear(),
            });
        }
        13 => cluster.scheduler.tell(|s| s.slow = Duration::from_millis(random.below(1800))),
        14 => controllers.iter().for_each(|c| c.connection.cut_watches()),
        15 => cluster.api.compact(),
        16 | 17 => {
            let at = usize::try_from(random.below(controllers.len() as u64)).unwrap_or(0);
            let old = controllers.remove(at);
            if random.chance(50) {
                old.kill().await;
            } else {
                // It may have lost the Lease; then it has ended already.
                let _ = tokio::time::timeout(Duration::from_secs(20), old.stop()).await;
            }
            let next = Controller::start(&cluster.api, &format!("c{}", random.number()));
            trouble(&next.connection, random.number(), 5);
            controllers.push(next);
        }
        18 => {
            if cluster.api.get::<Node>("", "node-c").is_some() {
                cluster.api.delete::<Node>("", "node-c").expect("it is there");
            } else {
                cluster.add_node("node-c", 1);
            }
        }
        _ => sleep(random.below(10)).await,
    }
}

/// Names of pods that wait though there is room for them.
fn forgotten(cluster: &Cluster) -> Vec<String> {
    let used = promised(&cluster.api.all());
    let free = |node: &GpuNode| -> Vec<u64> {
        let gpus = node.status.clone().unwrap_or_default().gpus;
        let key = |g: &Gpu| (node.name_any(), vgpu_api::names::device(&g.uuid));
        gpus.iter().map(|g| GPU - used.get(&key(g)).copied().unwrap_or(0)).collect()
    };
    let nodes: Vec<Vec<u64>> = cluster.api.all::<GpuNode>().iter().map(free).collect();
    let pods = cluster.api.all::<Pod>();
    // Bytes and GPUs of each claim; alternatives count as the least.
    let asks = |p: &Pod| -> Vec<(u64, usize)> {
        let asks = |c: &PodResourceClaim| {
            let template = c.resource_claim_template_name.as_deref().unwrap_or_default();
            SIZES.iter().find(|s| s.0 == template).map_or((0, 1), |s| (s.1 << 20, s.2))
        };
        p.spec.iter().flat_map(|s| s.resource_claims.iter().flatten()).map(asks).collect()
    };
    let is_bound = |p: &Pod| vgpu_controller::pod::bound_to(p).is_some();
    let gang = |p: &Pod| vgpu_controller::pod::gang(p).and_then(Result::ok).map(|g| g.name);
    let waits = |p: &Pod| {
        // All claims on the same GPUs: where that fits it can be placed for certain.
        let asks: Vec<(u64, usize)> = match gang(p) {
            None => asks(p),
            Some(name) => {
                let members: Vec<&Pod> = pods.iter().filter(|o| gang(o).as_ref() == Some(&name)).collect();
                if members.len() < 2 {
                    return false;
                }
                members.into_iter().filter(|p| !is_bound(p)).flat_map(asks).collect()
            }
        };
        let bytes: u64 = asks.iter().map(|ask| ask.0).sum();
        let fits = |node: &Vec<u64>| {
            let enough = node.iter().filter(|free| **free >= bytes).count();
            let wanted = asks.iter().map(|ask| if ask.1 == ALL { node.len() } else { ask.1 });
            enough >= wanted.max().unwrap_or(0).max(1)
        };
        !is_bound(p) && nodes.iter().any(fits)
    };
    let told = |p: &Pod| {
        let claims = p.spec.iter().flat_map(|s| s.resource_claims.iter().flatten());
        let templates: Vec<&str> = claims.filter_map(|c| c.resource_claim_template_name.as_deref()).collect();
        format!("{} ({})", p.name_any(), templates.join(", "))
    };
    pods.iter().filter(|p| waits(p)).map(told).collect()
}

/// One history; what was written in it, in order.
async fn history(seed: u64) -> Vec<String> {
    let mut random = Random::new(seed);
    let cluster = Cluster::with(&[("node-a", 1), ("node-b", 2)]);
    for (name, mib, _) in SIZES {
        cluster.api.create(sized(name, mib));
    }
    cluster.api.create(json!({"apiVersion": "vgpu-dra.io/v1alpha1", "kind": "GpuPolicy",
        "metadata": {"name": "more"}, "spec": {"memoryOvercommitPercent": PROMISED}}));
    let mut controllers = vec![Controller::start(&cluster.api, "c1"), Controller::start(&cluster.api, "c2")];
    for controller in &controllers {
        trouble(&controller.connection, random.number(), 5);
    }
    let (mut made, mut checked) = (0, 0);
    for number in 0..STEPS {
        step(&cluster, &mut controllers, &mut random, &mut made).await;
        for _ in 0..4 {
            tokio::time::sleep(random.pause(Duration::from_millis(700))).await;
            check(&cluster, &mut checked, seed, number);
        }
    }
    // The trouble is over, and a new controller knows nothing of it.
    cluster.scheduler.tell(|s| *s = Default::default());
    let mut connections: Vec<Connection> = controllers.iter().map(|c| c.connection.clone()).collect();
    for controller in controllers {
        controller.kill().await;
    }
    let last = Controller::start(&cluster.api, "last");
    connections.push(last.connection.clone());
    for _ in 0..20 {
        sleep(3).await;
        check(&cluster, &mut checked, seed, STEPS);
    }
    let waiting = forgotten(&cluster);
    assert!(waiting.is_empty(), "seed {seed}: {waiting:?} wait though there is room");
    for claim in cluster.api.all::<Claim>() {
        let used = !claim::is_allocated(&claim) || claim::is_reserved(&claim);
        assert!(used, "seed {seed}: nobody uses {}", claim.name_any());
    }
    for pod in cluster.api.all::<Pod>() {
        let gated = vgpu_controller::pod::is_gated(&pod);
        let holds = gated && !cluster.gpus(&pod.name_any()).is_empty();
        assert!(!holds, "seed {seed}: {} holds GPUs behind its gate", pod.name_any());
    }
    let word = |c: &Call| format!("{:?} {}/{} {}", c.verb, c.plural, c.name, c.subresource);
    // Events are named by the clock of the machine.
    let writes = connections.iter().flat_map(Connection::writes).filter(|c| c.plural != "events");
    writes.map(|c| word(&c)).collect()
}

fn simulate(seed: u64) -> Vec<String> {
    println!("replay with VGPU_SEED={seed}");
    let runtime = tokio::runtime::Builder::new_current_thread().enable_time().start_paused(true).build();
    runtime.expect("a runtime").block_on(history(seed))
}

fn number(variable: &str) -> Option<u64> {
    std::env::var(variable).ok().and_then(|v| v.parse().ok())
}

#[test]
fn no_history_promises_more_than_there_is_or_forgets_a_pod() {
    if let Some(seed) = number("VGPU_SEED") {
        simulate(seed);
        return;
    }
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
    let first = now.map_or(0, |t| t.as_millis() as u64) << 16;
    let long = if std::env::var_os("VGPU_TEST_LONG").is_some() { 10 } else { 1 };
    let next = std::sync::atomic::AtomicU64::new(first);
    let end = first + number("VGPU_SEEDS").unwrap_or(SEEDS * long);
    let work = || {
        loop {
            let seed = next.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
            if seed >= end {
                break;
            }
            simulate(seed);
        }
    };
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    // A history that breaks an invariant ends the test when the others under way have ended.
    std::thread::scope(|scope| (0..cores).for_each(|_| drop(scope.spawn(work))));
}

#[test]
fn a_seed_gives_the_same_history_every_time() {
    for seed in [1, 2, 3] {
        let (one, other) = (simulate(seed), simulate(seed));
        let differs = one.iter().zip(&other).position(|(a, b)| a != b);
        let at = differs.unwrap_or(one.len().min(other.len()));
        assert_eq!(
            one.get(at),
            other.get(at),
            "seed {seed}: write {at} of {} and {}",
            one.len(),
            other.len()
        );
    }
}
