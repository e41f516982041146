//! What `kubectl vgpu` says is what the controller does.

use kube::ResourceExt;
use vgpu_controller::explanation::{Explanation, Outcome};
use vgpu_controller::planner::Planner;
use vgpu_controller::snapshot::Snapshot;
use vgpu_fake_api::objects::{pod, template};

use crate::harness::{Cluster, Controller};

async fn explain(cluster: &Cluster, name: &str) -> Explanation {
    let client = cluster.api.connect().client();
    let snapshot = Snapshot::take(&client, "default").await.expect("everything can be listed");
    // As it is read from a file.
    let text = serde_json::to_string(&snapshot).expect("it is JSON");
    let snapshot = serde_json::from_str(&text).expect("it is a snapshot");
    let mut explained = Planner::over(snapshot, client).explain(&|p| p.name_any() == name);
    explained.pop().expect("the pod is there")
}

async fn cluster() -> Cluster {
    let cluster = Cluster::with(&[("node-a", 1), ("node-b", 1)]);
    for (name, memory) in [("small", "1000Mi"), ("large", "9000Mi"), ("huge", "99999Mi")] {
        cluster.api.create(template(name, memory));
    }
    // It publishes the slices.
    cluster.controller().await.stop().await.expect("the Lease was held");
    cluster
}

#[tokio::test(start_paused = true)]
async fn a_pod_goes_where_it_was_said_to_go_behind_those_that_wait_before_it() {
    let cluster = cluster().await;
    for (name, template) in [("p1", "large"), ("p2", "large"), ("p3", "small")] {
        cluster.api.create(pod(name, &[template]));
        cluster.idle().await;
    }
    let said = [explain(&cluster, "p1").await, explain(&cluster, "p2").await, explain(&cluster, "p3").await];
    assert!(said.iter().all(|e| e.outcome == Outcome::Fits), "{said:?}");
    let _controller = Controller::start(&cluster.api, "two");
    cluster.idle().await;
    for explanation in said {
        assert_eq!(cluster.bound(&explanation.pod), explanation.node, "{}", explanation.note);
        let gpu = format!("{}/{}", explanation.node.unwrap_or_default(), explanation.gpus[0]);
        assert_eq!(cluster.gpus(&explanation.pod), [gpu]);
    }
    let told = explain(&cluster, "p1").await;
    assert_eq!((told.outcome, told.node), (Outcome::Allocated, cluster.bound("p1")));
}

#[tokio::test(start_paused = true)]
async fn every_node_says_why_not() {
    let cluster = cluster().await;
    cluster.api.create(pod("p", &["huge"]));
    cluster.idle().await;
    let told = explain(&cluster, "p").await;
    assert_eq!(told.outcome, Outcome::NotPlaced);
    let said: Vec<(&str, bool, &str)> =
        told.nodes.iter().map(|n| (n.node.as_str(), n.fits, n.note.as_str())).collect();
    let why = "0/1 GPUs: 1 InsufficientMemory (largest free 14.7Gi, asked 97.7Gi)";
    assert_eq!(said, [("node-a", false, why), ("node-b", false, why)]);
}
