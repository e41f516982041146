//! The four placements of four pods on two nodes with four GPUs: the same table every time, and nothing left.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use k8s_openapi::api::events::v1::Event;
use k8s_openapi::api::resource::v1::ResourceClaim;
use kube::ResourceExt;
use vgpu_fake_api::objects::{placement, pod, template};
use vgpu_fake_api::{Delivery, Random};

use crate::harness::{Cluster, names};

/// A thousand of the four scenarios together; with `VGPU_TEST_LONG` a thousand of each.
fn rounds_of_each() -> u64 {
    if std::env::var_os("VGPU_TEST_LONG").is_some() { 1000 } else { 250 }
}

/// Pods per GPU, by node.
type Table = BTreeMap<String, BTreeMap<String, usize>>;

fn table(cluster: &Cluster, pods: &[String]) -> Table {
    let mut table = Table::new();
    for pod in pods {
        let gpus = cluster.gpus(pod);
        assert_eq!(gpus.len(), 1, "{pod} has {gpus:?}");
        assert_eq!(
            cluster.bound(pod).as_deref(),
            gpus[0].split('/').next(),
            "{pod} is bound where its GPU is"
        );
        let node = cluster.bound(pod).unwrap_or_default();
        *table.entry(node).or_default().entry(gpus[0].clone()).or_default() += 1;
    }
    table
}

/// Rounds of one scenario, each with watch events coming in another order.
async fn rounds(node: &str, gpu: &str, nodes: usize, gpus: usize) {
    let cluster = Cluster::with(&[("node-a", 4), ("node-b", 4)]);
    cluster.api.create(template("share", "7500Mi").set("/spec/spec/devices/config", placement(node, gpu)));
    let controller = cluster.controller().await;
    let mut first = None;
    for round in 0..rounds_of_each() {
        let mut random = Random::new(round);
        controller
            .connection
            .deliver(Delivery { delay: Duration::from_millis(random.below(20)), duplicates: 5 }, round);
        let mut pods: Vec<_> = (0..4).map(|i| pod(&format!("p{i}"), &["share"])).collect();
        random.shuffle(&mut pods);
        for pod in &pods {
            cluster.api.create(pod);
            tokio::time::sleep(random.pause(Duration::from_millis(5))).await;
        }
        cluster.idle().await;
        let pods = names(&pods);
        let found = table(&cluster, &pods);
        let used: BTreeSet<&String> = found.values().flat_map(BTreeMap::keys).collect();
        assert_eq!((found.len(), used.len()), (nodes, gpus), "round {round}: {found:?}");
        let want = first.get_or_insert_with(|| found.clone());
        assert_eq!(&found, want, "round {round}");

        pods.iter().for_each(|p| cluster.delete_pod(p));
        cluster.idle().await;
        let left: Vec<String> =
            cluster.api.all::<ResourceClaim>().iter().map(ResourceExt::name_any).collect();
        assert!(left.is_empty(), "round {round} left {left:?}");
        for event in cluster.api.all::<Event>() {
            cluster.api.delete::<Event>("default", &event.name_any()).expect("it is there");
        }
        cluster.api.compact();
    }
}

#[tokio::test(start_paused = true)]
async fn node_binpack_and_gpu_binpack_fill_one_node_and_two_gpus_every_time() {
    rounds("Binpack", "Binpack", 1, 2).await;
}

#[tokio::test(start_paused = true)]
async fn node_spread_and_gpu_binpack_fill_one_gpu_on_each_of_two_nodes_every_time() {
    rounds("Spread", "Binpack", 2, 2).await;
}

#[tokio::test(start_paused = true)]
async fn node_binpack_and_gpu_spread_take_four_gpus_of_one_node_every_time() {
    rounds("Binpack", "Spread", 1, 4).await;
}

#[tokio::test(start_paused = true)]
async fn node_spread_and_gpu_spread_take_two_gpus_on_each_of_two_nodes_every_time() {
    rounds("Spread", "Spread", 2, 4).await;
}

#[tokio::test(start_paused = true)]
async fn least_fragmentation_leaves_what_suits_the_pods_that_came_before() {
    let cluster = Cluster::with(&[("node-a", 16)]);
    for (name, memory, policy) in [
        ("small", "6000Mi", "Binpack"),
        ("large", "9000Mi", "Binpack"),
        ("least", "6000Mi", "LeastFragmentation"),
    ] {
        let config = placement(policy, policy);
        cluster.api.create(template(name, memory).set("/spec/spec/devices/config", config));
    }
    let _controller = cluster.controller().await;
    // Ten GPUs with one pod of either size, and one with a small pod.
    for i in 0..10 {
        for size in ["large", "small"] {
            cluster.api.create(pod(&format!("{size}-{i}"), &[size]));
            cluster.idle().await;
        }
    }
    cluster.api.create(pod("small", &["small"]));
    cluster.idle().await;
    let alone = cluster.gpus("small");
    // Binpack would add another small one to it, and leave what nobody asks for.
    cluster.api.create(pod("least", &["least"]));
    cluster.idle().await;
    let least = cluster.gpus("least");
    assert_eq!(least.len(), 1);
    assert_ne!(least, alone);
}
