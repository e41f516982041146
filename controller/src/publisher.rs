//! Keeps each node's slices as its GpuNode and policy say.
//!
//! A slice that is there is kept current. A missing one is published when the plugin has raised its registration
//! generation since the last time, and once after the controller's own start; never because it is gone: the kubelet
//! deletes slices when it starts and when a plugin has left, and it knows better whether the plugin lives.

use std::collections::{HashMap, HashSet};

use k8s_openapi::apimachinery::pkg::apis::meta::v1::LabelSelector;
use kube::api::{DeleteParams, Patch, PatchParams};
use kube::{Api, Client, ResourceExt};
use serde_json::{Value, json};
use vgpu_api::names::PUBLISHED_ANNOTATION;
use vgpu_api::{GpuNode, GpuPolicy, GpuPolicySpec};

use crate::args::Allocator;
use crate::events::{Events, Saying, reference};
use crate::slice::{self, Slice};
use crate::stores::Stores;
use crate::{MANAGER, WRITE_DEADLINE};

/// Publishes.
pub struct Publisher {
    client: Client,
    allocator: Allocator,
    /// Nodes published since the start, by the generation published for.
    published: HashMap<String, i64>,
    /// Nodes whose server drops fields without which devices must not be published.
    dropping: HashSet<String>,
    /// What nodes looked like when nothing was due: comparing that is cheap, making slices to compare is not.
    settled: HashMap<String, Looks>,
}

/// What decides whether something is due for a node.
#[derive(PartialEq)]
struct Looks {
    gpu_node: Option<String>,
    policy: GpuPolicySpec,
    /// resourceVersions of its slices.
    slices: Vec<Option<String>>,
}

/// The policy that holds for a node: the highest priority, ties by name.
pub fn policy_for(
    policies: &[std::sync::Arc<GpuPolicy>],
    labels: &std::collections::BTreeMap<String, String>,
) -> GpuPolicySpec {
    let holds =
        |p: &&std::sync::Arc<GpuPolicy>| p.spec.node_selector.as_ref().is_none_or(|s| label_match(s, labels));
    let best =
        policies.iter().filter(holds).min_by_key(|p| (std::cmp::Reverse(p.spec.priority), p.name_any()));
    best.map(|p| p.spec.clone()).unwrap_or_default()
}

fn label_match(selector: &LabelSelector, labels: &std::collections::BTreeMap<String, String>) -> bool {
    let equal = selector.match_labels.iter().flatten().all(|(key, value)| labels.get(key) == Some(value));
    equal
        && selector.match_expressions.iter().flatten().all(|r| {
            let value = labels.get(&r.key);
            let among = || value.is_some_and(|v| r.values.iter().flatten().any(|w| w == v));
            match r.operator.as_str() {
                "In" => among(),
                "NotIn" => !among(),
                "Exists" => value.is_some(),
                "DoesNotExist" => value.is_none(),
                _ => false,
            }
        })
}

impl Publisher {
    /// A publisher that has published nothing yet.
    pub fn new(client: Client, allocator: Allocator) -> Self {
        Self {
            client,
            allocator,
            published: HashMap::new(),
            dropping: HashSet::new(),
            settled: HashMap::new(),
        }
    }

    /// Whether a device is open to kube-scheduler that should not be: it was published while the scheduler allocated.
    pub fn must_close(&self, stores: &Stores) -> bool {
        self.allocator == Allocator::Controller && stores.slices.state().iter().any(|s| slice::is_open(s))
    }

    /// Writes what is due.
    pub async fn sync(&mut self, stores: &Stores, events: &Events) {
        let policies = stores.policies.state();
        let mut gpu_nodes = stores.gpu_nodes.state();
        gpu_nodes.sort_by_key(|n| n.name_any());
        let mut versions: HashMap<String, Vec<(String, Option<String>)>> = HashMap::new();
        for slice in stores.slices.state() {
            let node = slice.spec.node_name.clone().unwrap_or_default();
            versions.entry(node).or_default().push((slice.name_any(), slice.resource_version()));
        }
        self.settled.retain(|node, _| versions.contains_key(node));
        for gpu_node in gpu_nodes {
            let node = gpu_node.name_any();
            let Some(kube_node) = stores.nodes.get(&node) else { continue };
            let policy = policy_for(&policies, kube_node.labels());
            let mut slices = versions.remove(&node).unwrap_or_default();
            slices.sort();
            let slices = slices.into_iter().map(|(_, version)| version).collect();
            let looks = Looks { gpu_node: gpu_node.resource_version(), policy, slices };
            if self.settled.get(&node) == Some(&looks) {
                continue;
            }
            self.settled.remove(&node);
            match self.sync_node(stores, events, &gpu_node, &looks.policy).await {
                Ok(true) => drop(self.settled.insert(node, looks)),
                Ok(false) => {}
                Err(error) => {
                    tracing::warn!(node, error = format!("{error:#}"), "slices were not written");
                }
            }
        }
    }

    /// Writes what is due for one node. True if nothing was, and nothing will be while all looks the same.
    async fn sync_node(
        &mut self,
        stores: &Stores,
        events: &Events,
        gpu_node: &GpuNode,
        policy: &GpuPolicySpec,
    ) -> anyhow::Result<bool> {
        let node = gpu_node.name_any();
        let generation = gpu_node.status.as_ref().map_or(0, |s| s.registration.generation);
        if generation == 0 {
            return Ok(false);
        }
        let annotated =
            gpu_node.annotations().get(PUBLISHED_ANNOTATION).and_then(|v| v.parse().ok()).unwrap_or(0);
        let last = self.published.get(&node).copied();
        let wanted = slice::slices(gpu_node, policy, self.allocator, !self.dropping.contains(&node));
        let present = |index: usize| stores.slices.get(&slice::name(&node, index));
        let may_create = last.is_none() || generation > last.unwrap_or(0).max(annotated);
        let (mut created, mut unsettled) = (false, last.is_none());
        for (index, sent) in wanted.iter().enumerate() {
            match present(index) {
                Some(stored) if slice::is_current(sent, &stored) => {}
                None if !may_create => unsettled = true,
                found => {
                    (created, unsettled) = (created || found.is_none(), true);
                    self.apply(&node, index, sent, events, gpu_node).await?;
                }
            }
        }
        for index in wanted.len()..wanted.len() + 4 {
            if present(index).is_some() {
                unsettled = true;
                let api: Api<Slice> = Api::all(self.client.clone());
                tokio::time::timeout(
                    WRITE_DEADLINE,
                    api.delete(&slice::name(&node, index), &DeleteParams::default()),
                )
                .await??;
            }
        }
        if (created || last.is_none()) && annotated != generation {
            let patch = json!({"metadata": {"annotations": {PUBLISHED_ANNOTATION: generation.to_string()}}});
            let api: Api<GpuNode> = Api::all(self.client.clone());
            let (parameters, patch) = (PatchParams::default(), Patch::Merge(patch));
            let call = api.patch(&node, &parameters, &patch);
            tokio::time::timeout(WRITE_DEADLINE, call).await??;
        }
        // A generation is used up by publishing for it. One that comes while the slice is still seen (the watches are not in
        // step) stays good for when its absence is seen.
        if created || last.is_none() {
            self.published.insert(node, generation);
        }
        Ok(!unsettled)
    }

    async fn apply(
        &mut self,
        node: &str,
        index: usize,
        sent: &Value,
        events: &Events,
        gpu_node: &GpuNode,
    ) -> anyhow::Result<()> {
        let api: Api<Slice> = Api::all(self.client.clone());
        let parameters = PatchParams::apply(MANAGER).force();
        let name = slice::name(node, index);
        let patch = Patch::Apply(sent);
        let call = api.patch(&name, &parameters, &patch);
        let stored = tokio::time::timeout(WRITE_DEADLINE, call).await??;
        tracing::info!(
            node,
            slice = name,
            devices = stored.spec.devices.iter().flatten().count(),
            "published"
        );
        let gates = slice::dropped(sent, &stored);
        if !gates.is_empty() {
            // A device without its taint would be handed out by the scheduler, without any policy.
            self.dropping.insert(node.to_owned());
            let mut empty = sent.clone();
            empty["spec"]["devices"] = json!([]);
            tokio::time::timeout(WRITE_DEADLINE, api.patch(&name, &parameters, &Patch::Apply(&empty)))
                .await??;
            let note = format!(
                "the API server dropped fields of the node's devices, so none is published: enable the feature gate{} {}",
                if gates.len() == 1 { "" } else { "s" },
                gates.join(", ")
            );
            events.say(reference(gpu_node), Saying::warning("FeatureGateOff", note)).await;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;

    fn policy(name: &str, priority: i32, label: Option<&str>) -> Arc<GpuPolicy> {
        let selector = label.map(|value| LabelSelector {
            match_labels: Some([("pool".to_owned(), value.to_owned())].into()),
            ..LabelSelector::default()
        });
        let shares = Some(u32::try_from(priority).unwrap() + 1);
        Arc::new(GpuPolicy::new(
            name,
            GpuPolicySpec {
                node_selector: selector,
                priority,
                shares_per_gpu: shares,
                ..GpuPolicySpec::default()
            },
        ))
    }

    #[test]
    fn the_highest_policy_that_selects_the_node_holds() {
        let policies = [policy("all", 0, None), policy("low", 1, Some("a")), policy("high", 2, Some("b"))];
        let shares =
            |pool: &str| policy_for(&policies, &[("pool".to_owned(), pool.to_owned())].into()).shares_per_gpu;
        assert_eq!((shares("a"), shares("b"), shares("c")), (Some(2), Some(3), Some(1)));
    }
}
