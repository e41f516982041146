//! The ResourceSlices of this node: whether ours are there, and which GPUs other drivers offer too.
//!
//! The kubelet deletes slices of its node when it starts and 30 s after a driver's plugin is gone; the plugin only watches.
//! What follows from a missing slice is [`crate::gpu_node`]'s business.

use std::collections::BTreeMap;
use std::pin::pin;

use futures::StreamExt;
use k8s_openapi::api::resource::v1::ResourceSlice;
use kube::runtime::{WatchStreamExt, reflector, watcher};
use kube::{Api, Client};
use tokio::sync::watch;
use vgpu_api::names;

/// What the slices of a node say.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct NodeSlices {
    /// False until the first list.
    pub known: bool,
    /// Whether a slice of this driver and this node's pool is there.
    pub ours: bool,
    /// GPUs another driver offers: NVML UUID in lower case -> `driver gpu.example.com (ResourceSlice x)`.
    pub others: BTreeMap<String, String>,
}

impl NodeSlices {
    /// Reads slices of one node. A device of another driver is a GPU of ours when an attribute of it named `uuid` (or
    /// `parentUUID`, for a part of one), whatever its domain, holds the UUID.
    pub fn read<'a>(node: &str, slices: impl IntoIterator<Item = &'a ResourceSlice>) -> Self {
        let mut found = Self { known: true, ..Self::default() };
        for slice in slices {
            let spec = &slice.spec;
            if spec.driver == names::DRIVER {
                found.ours |= spec.pool.name == names::pool(node);
                continue;
            }
            let attributes = spec.devices.iter().flatten().filter_map(|d| d.attributes.as_ref()).flatten();
            for (name, value) in attributes {
                let name = name.rsplit('/').next().unwrap_or_default();
                if let ("uuid" | "parentUUID", Some(uuid)) = (name, &value.string) {
                    let by = slice.metadata.name.as_deref().unwrap_or_default();
                    found.others.insert(
                        uuid.to_ascii_lowercase(),
                        format!("driver {} (ResourceSlice {by})", spec.driver),
                    );
                }
            }
        }
        found
    }
}

/// Watches for ever, with back-off when the API server is away.
pub async fn run(client: Client, node: String, sender: watch::Sender<NodeSlices>) {
    let (reader, writer) = reflector::store();
    let config = watcher::Config::default().fields(&format!("spec.nodeName={node}"));
    let events = reflector(writer, watcher(Api::<ResourceSlice>::all(client), config)).default_backoff();
    let mut events = pin!(events);
    while let Some(event) = events.next().await {
        match event {
            // Until a list is whole the store still holds the old one.
            Ok(watcher::Event::Init | watcher::Event::InitApply(_)) => {}
            Ok(_) => {
                let slices = reader.state();
                let now = NodeSlices::read(&node, slices.iter().map(AsRef::as_ref));
                sender.send_if_modified(|current| {
                    let changed = *current != now;
                    *current = now;
                    changed
                });
            }
            Err(error) => tracing::warn!(%error, "cannot watch the ResourceSlices of this node"),
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn slice(driver: &str, pool: &str, attribute: &str) -> ResourceSlice {
        serde_json::from_value(
            json!({"metadata": {"name": "x"}, "spec": {"driver": driver, "nodeName": "node-a",
            "pool": {"name": pool, "generation": 1, "resourceSliceCount": 1},
            "devices": [{"name": "d", "attributes": {attribute: {"string": "GPU-AB"}}}]}}),
        )
        .unwrap()
    }

    #[test]
    fn our_slice_is_told_from_others() {
        let ours = slice(names::DRIVER, "node-a/gpu", "uuid");
        assert!(NodeSlices::read("node-a", [&ours]).ours);
        assert!(NodeSlices::read("node-a", [&ours]).others.is_empty());
        assert!(!NodeSlices::read("node-a", [&slice(names::DRIVER, "node-b/gpu", "uuid")]).ours);
        assert!(!NodeSlices::read("node-a", []).ours);
    }

    #[test]
    fn gpus_of_other_drivers_are_found_by_uuid() {
        for attribute in ["uuid", "gpu.nvidia.com/uuid", "parentUUID"] {
            let found = NodeSlices::read("node-a", [&slice("gpu.nvidia.com", "node-a", attribute)]);
            assert_eq!(found.others["gpu-ab"], "driver gpu.nvidia.com (ResourceSlice x)");
        }
        assert!(NodeSlices::read("node-a", [&slice("net.example.com", "node-a", "mac")]).others.is_empty());
    }
}
