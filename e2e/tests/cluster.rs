//! The local cluster itself: what runs on it, what may be killed, what is left when it ends.

use std::process::ExitCode;

use anyhow::ensure;
use vgpu_e2e::cluster::Options;
use vgpu_e2e::suite::{self, Test, World};

fn main() -> ExitCode {
    let tests: &[Test] = &[
        ("pods_run_on_both_nodes", pods_run_on_both_nodes),
        ("a_client_in_the_hosts_namespaces_reaches_the_cluster", a_client_reaches_the_cluster),
        ("killed_programs_come_back_and_pods_go_on", killed_programs_come_back),
        ("a_stopped_scheduler_schedules_nothing_until_it_is_started", a_stopped_scheduler),
        ("a_killed_node_comes_back_when_it_is_started", a_killed_node),
    ];
    suite::run(&Options::default(), false, tests)
}

fn pod(name: &str, node: &str) -> String {
    format!(
        "apiVersion: v1\nkind: Pod\nmetadata: {{name: {name}}}\nspec:\n  nodeSelector: {{kubernetes.io/hostname: {node}}}\n  \
         terminationGracePeriodSeconds: 1\n  \
         containers:\n  - {{name: c, image: 'vgpu-dra/workload:dev', imagePullPolicy: Never}}\n"
    )
}

fn pods_run_on_both_nodes(world: &World) -> anyhow::Result<()> {
    for node in ["node-a", "node-b"] {
        world.apply(&pod(node, node))?;
    }
    for node in ["node-a", "node-b"] {
        ensure!(world.ready(node, 60)? == node);
        let help = world.exec(node, &["vgpu-workload", "--help"])?;
        ensure!(help.contains("Usage"), "exec printed {help:?}");
    }
    Ok(())
}

fn a_client_reaches_the_cluster(world: &World) -> anyhow::Result<()> {
    let runtime = tokio::runtime::Runtime::new()?;
    let nodes = runtime.block_on(async {
        let nodes: kube::Api<k8s_openapi::api::core::v1::Node> =
            kube::Api::all(world.cluster.client().await?);
        anyhow::Ok(nodes.list(&Default::default()).await?)
    })?;
    ensure!(nodes.items.len() == 2, "{} nodes", nodes.items.len());
    Ok(())
}

fn killed_programs_come_back(world: &World) -> anyhow::Result<()> {
    world.apply(&pod("before", "node-a"))?;
    world.ready("before", 60)?;
    for program in ["kubelet", "containerd"] {
        let handle = world.cluster.node_program("node-a", program);
        let restarts = handle.status()?.restarts;
        handle.kill()?;
        world.until(program, 20, || Ok((handle.status()?.restarts > restarts).then_some(())))?;
    }
    world.apply(&pod("after", "node-a"))?;
    world.ready("after", 90)?;
    world.ready("before", 30)?;
    Ok(())
}

fn a_stopped_scheduler(world: &World) -> anyhow::Result<()> {
    let scheduler = world.cluster.program("kube-scheduler");
    scheduler.stop()?;
    world.apply(&pod("p", "node-b"))?;
    std::thread::sleep(std::time::Duration::from_secs(2));
    let node = world.own(&["get", "pod", "p", "-o", "jsonpath={.spec.nodeName}"])?;
    scheduler.start()?;
    ensure!(node.is_empty(), "bound to {node} without a scheduler");
    world.ready("p", 60).map(drop)
}

fn a_killed_node(world: &World) -> anyhow::Result<()> {
    let node = world.cluster.program("node-b");
    let ready = || {
        let path = r#"jsonpath={.status.conditions[?(@.type=="Ready")].status}"#;
        world.kubectl(&["get", "node", "node-b", "-o", path])
    };
    node.kill()?;
    world.until("node-b not Ready", 90, || Ok((ready()? != "True").then_some(())))?;
    node.start()?;
    world.until("node-b Ready again", 90, || Ok((ready()? == "True").then_some(())))?;
    world.apply(&pod("again", "node-b"))?;
    world.ready("again", 60).map(drop)
}
