//! A controller that starts where there is much already: 50,000 claims, each with its pod.

use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Context, ensure};
use futures::{StreamExt, TryStreamExt, stream};
use k8s_openapi::api::core::v1::Pod;
use k8s_openapi::api::resource::v1::ResourceClaim;
use kube::api::{Patch, PatchParams, PostParams};
use kube::{Api, Client, ResourceExt};
use serde_json::json;

use crate::fleet::{self, CALLS, GPUS, NODES};
use crate::plane::{Allocator, Plane};
use crate::pods::{self, NAMESPACE};

pub(crate) struct Full {
    /// Most memory the controller had.
    pub(crate) rss_mib: f64,
    /// From its start to its first allocation; another one ended in order before.
    pub(crate) first_write_s: f64,
}

pub(crate) fn start_in(
    runtime: &tokio::runtime::Runtime,
    program: &Path,
    claims: usize,
) -> anyhow::Result<Full> {
    let plane = Plane::start(Allocator::Controller, None, program)?;
    let full = runtime.block_on(measure(&plane, claims));
    let full = full.with_context(|| format!("its logs: {}", plane.keep_logs()))?;
    plane.stop()?;
    Ok(full)
}

async fn measure(plane: &Plane, claims: usize) -> anyhow::Result<Full> {
    let client = plane.cluster.client().await?;
    fleet::create(&client).await?;
    {
        let publishing = plane.controller()?;
        fleet::ready(&client).await?;
        pods::prepare(&client, Allocator::Controller).await?;
        publishing.end()?;
    }
    // Nobody is to touch what no kubelet keeps alive.
    for program in ["kube-controller-manager", "kube-scheduler"] {
        plane.cluster.program(program).stop()?;
    }
    let started = Instant::now();
    let make = |index: usize| {
        let client = client.clone();
        async move { occupied(&client, index).await.with_context(|| format!("claim c{index}")) }
    };
    stream::iter((0..claims).map(make)).buffer_unordered(CALLS).try_collect::<Vec<()>>().await?;
    eprintln!("  {claims} claims and their pods made in {:.0} s", started.elapsed().as_secs_f64());

    let waiting: Api<Pod> = Api::namespaced(client.clone(), NAMESPACE);
    let mut claim = claim("waits");
    // Nobody has guarded a new one yet.
    claim["metadata"]["finalizers"] = json!([]);
    let api: Api<ResourceClaim> = Api::namespaced(client.clone(), NAMESPACE);
    api.create(&PostParams::default(), &serde_json::from_value(claim)?).await?;
    let gate = json!([{"name": "vgpu-dra.io/allocation"}]);
    let mut pod = pod("waits");
    pod["spec"]["schedulingGates"] = gate;
    waiting.create(&PostParams::default(), &serde_json::from_value(pod)?).await?;

    let controller = plane.controller()?;
    let started = controller.started;
    let first_write_s = loop {
        let found = api.get("waits").await?;
        if found.status.is_some_and(|s| s.allocation.is_some()) {
            break started.elapsed().as_secs_f64();
        }
        ensure!(started.elapsed() < Duration::from_secs(300), "nothing allocated after 300 s");
        tokio::time::sleep(Duration::from_millis(50)).await;
    };
    tokio::time::sleep(Duration::from_secs(10)).await;
    Ok(Full { rss_mib: controller.rss_mib()?, first_write_s })
}

fn claim(name: &str) -> serde_json::Value {
    let exactly = json!({"deviceClassName": "gpu.vgpu-dra.io",
        "capacity": {"requests": {"memory": "4Gi", "cores": "5"}}});
    json!({"metadata": {"name": name, "finalizers": ["resource.kubernetes.io/delete-protection"]},
        "spec": {"devices": {"requests": [{"name": "gpu", "exactly": exactly}]}}})
}

fn pod(name: &str) -> serde_json::Value {
    json!({"metadata": {"name": name}, "spec": {
        "containers": [{"name": "main", "image": "none", "resources": {"claims": [{"name": "gpu"}],
            "requests": {"cpu": "10m", "memory": "16Mi"}}}],
        "resourceClaims": [{"name": "gpu", "resourceClaimName": name}]}})
}

/// One claim, allocated and reserved, and its bound pod.
async fn occupied(client: &Client, index: usize) -> anyhow::Result<()> {
    let name = format!("c{index}");
    let (node, gpu) = (index % NODES, (index / NODES) % GPUS);
    let node_name = fleet::node_name(node);
    let claims: Api<ResourceClaim> = Api::namespaced(client.clone(), NAMESPACE);
    claims.create(&PostParams::default(), &serde_json::from_value(claim(&name))?).await?;
    let pods: Api<Pod> = Api::namespaced(client.clone(), NAMESPACE);
    let mut pod = pod(&name);
    pod["spec"]["nodeName"] = node_name.clone().into();
    let made = pods.create(&PostParams::default(), &serde_json::from_value(pod)?).await?;
    let selector = json!({"nodeSelectorTerms": [{"matchFields": [
        {"key": "metadata.name", "operator": "In", "values": [node_name]}]}]});
    let result = json!({"request": "gpu", "driver": "gpu.vgpu-dra.io", "pool": format!("{node_name}/gpu"),
        "device": format!("gpu-{node:08x}-0000-4000-8000-{gpu:012x}"),
        "shareID": format!("{index:08x}-0000-4000-8000-000000000000"),
        "consumedCapacity": {"memory": "4Gi", "memoryPercent": "0", "cores": "5", "shares": "1"}});
    let status = json!({"status": {
        "allocation": {"devices": {"results": [result]}, "nodeSelector": selector},
        "reservedFor": [{"resource": "pods", "name": name, "uid": made.uid()}]}});
    claims.patch_status(&name, &PatchParams::default(), &Patch::Merge(status)).await?;
    Ok(())
}
