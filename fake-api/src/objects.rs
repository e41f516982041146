//! Objects for tests, as short as they can be said.

use serde_json::{Value, json};
use vgpu_api::names::{API_VERSION, DRIVER, GATE};

/// An object that can be changed while it is made.
#[derive(Debug, Clone, serde::Serialize)]
#[serde(transparent)]
pub struct Object(pub Value);

impl Object {
    /// Sets a field by its JSON pointer; what is missing on the way is made.
    pub fn set(mut self, pointer: &str, value: impl Into<Value>) -> Self {
        let mut at = &mut self.0;
        for key in pointer.split('/').skip(1) {
            at = match key.parse::<usize>() {
                Ok(index) if at.is_array() => &mut at[index],
                _ => &mut at[key],
            };
        }
        *at = value.into();
        self
    }

    /// Its name.
    pub fn name(&self) -> &str {
        self.0["metadata"]["name"].as_str().unwrap_or_default()
    }
}

/// A ready node with 8 CPUs, 32 GiB and 110 pods.
pub fn node(name: &str) -> Object {
    Object(json!({
        "apiVersion": "v1", "kind": "Node",
        "metadata": {"name": name, "labels": {"kubernetes.io/hostname": name}},
        "status": {
            "allocatable": {"cpu": "8", "memory": "32Gi", "pods": "110"},
            "conditions": [{"type": "Ready", "status": "True"}],
        },
    }))
}

/// What a node's registered plugin reports: this many T4, their limiter ready.
pub fn gpu_node(name: &str, gpus: u32) -> Object {
    let gpu = |minor: u32| {
        json!({
            "uuid": format!("GPU-{name}-{minor}"), "minor": minor, "productName": "Tesla T4", "memoryMib": 15104,
            "cudaComputeCapability": "7.5", "architecture": "Turing", "health": "Healthy",
        })
    };
    Object(json!({
        "apiVersion": API_VERSION, "kind": "GpuNode", "metadata": {"name": name}, "spec": {},
        "status": {
            "registration": {"generation": 1}, "gpuCount": gpus, "driverVersion": "550.163.01",
            "cudaDriverVersion": "12.4", "limiter": {"ready": true, "version": "0.1.0"},
            "gpus": (0..gpus).map(gpu).collect::<Vec<_>>(),
        },
    }))
}

/// The class that takes any GPU of the driver.
pub fn class() -> Object {
    let expression = format!("device.driver == {DRIVER:?}");
    Object(json!({
        "apiVersion": "resource.k8s.io/v1", "kind": "DeviceClass", "metadata": {"name": DRIVER},
        "spec": {"selectors": [{"cel": {"expression": expression}}]},
    }))
}

fn claim_spec(memory: &str) -> Value {
    let mut exactly = json!({"deviceClassName": DRIVER});
    if !memory.is_empty() {
        exactly["capacity"]["requests"]["memory"] = memory.into();
    }
    json!({"devices": {"requests": [{"name": "gpu", "exactly": exactly}]}})
}

/// A claim with one request, `gpu`, for so much memory; empty for a whole GPU.
pub fn claim(name: &str, memory: &str) -> Object {
    Object(json!({
        "apiVersion": "resource.k8s.io/v1", "kind": "ResourceClaim",
        "metadata": {"name": name, "namespace": "default"}, "spec": claim_spec(memory),
    }))
}

/// A template of such claims.
pub fn template(name: &str, memory: &str) -> Object {
    Object(json!({
        "apiVersion": "resource.k8s.io/v1", "kind": "ResourceClaimTemplate",
        "metadata": {"name": name, "namespace": "default"}, "spec": {"spec": claim_spec(memory)},
    }))
}

/// ShareConfig with policies, for `spec.devices.config` of a claim.
pub fn placement(node: &str, gpu: &str) -> Value {
    json!([{"opaque": {"driver": DRIVER, "parameters": {
        "apiVersion": API_VERSION, "kind": "ShareConfig", "placement": {"node": node, "gpu": gpu}}}}])
}

fn pod_of(name: &str, entries: Vec<Value>) -> Object {
    let uses: Vec<Value> = entries.iter().map(|e| json!({"name": e["name"]})).collect();
    Object(json!({
        "apiVersion": "v1", "kind": "Pod", "metadata": {"name": name, "namespace": "default"},
        "spec": {
            "schedulingGates": [{"name": GATE}],
            "containers": [{"name": "main", "image": "main", "resources": {"claims": uses}}],
            "resourceClaims": entries,
        },
    }))
}

/// A gated pod with a claim of each of these templates.
pub fn pod(name: &str, templates: &[&str]) -> Object {
    let entry = |(i, t): (usize, &&str)| json!({"name": format!("c{i}"), "resourceClaimTemplateName": t});
    pod_of(name, templates.iter().enumerate().map(entry).collect())
}

/// A gated pod that names these claims.
pub fn pod_with_claims(name: &str, claims: &[&str]) -> Object {
    let entry = |(i, c): (usize, &&str)| json!({"name": format!("c{i}"), "resourceClaimName": c});
    pod_of(name, claims.iter().enumerate().map(entry).collect())
}

/// A pod without claims and gates that takes so much CPU.
pub fn plain_pod(name: &str, cpu: &str) -> Object {
    Object(json!({
        "apiVersion": "v1", "kind": "Pod", "metadata": {"name": name, "namespace": "default"},
        "spec": {"containers": [{"name": "main", "image": "main", "resources": {"requests": {"cpu": cpu}}}]},
    }))
}
