//! The few questions the demo asks the cluster, by kubectl as a user would.

use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Context, bail, ensure};
use serde_json::Value;

use crate::cluster::Cluster;

/// kubectl on the demo's cluster.
pub(super) struct Kube<'a> {
    cluster: &'a Cluster,
}

/// A pod's name and node.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Pod {
    pub(super) name: String,
    pub(super) node: String,
}

impl<'a> Kube<'a> {
    pub(super) fn new(cluster: &'a Cluster) -> Self {
        Self { cluster }
    }

    /// Runs kubectl; an error carries its words.
    pub(super) fn run(&self, args: &[&str]) -> anyhow::Result<String> {
        let out = self.cluster.kubectl(args)?;
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        ensure!(out.status.success(), "kubectl {}: {}", args.join(" "), text(&out.stderr).trim());
        Ok(text(&out.stdout))
    }

    /// `kubectl get ... -o json`.
    pub(super) fn get(&self, args: &[&str]) -> anyhow::Result<Value> {
        let text = self.run(&[&["get", "-o", "json"], args].concat())?;
        serde_json::from_str(&text).with_context(|| format!("kubectl get {}: not JSON", args.join(" ")))
    }

    /// A fresh namespace with the objects of an example in it.
    pub(super) fn example(&self, namespace: &str, example: &str) -> anyhow::Result<()> {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../examples").join(example);
        self.run(&["create", "namespace", namespace])?;
        wait(&format!("the service account of {namespace}"), || {
            Ok(self.run(&["get", "serviceaccount", "default", "-n", namespace]).is_ok().then_some(()))
        })?;
        let manifest = folder.join("manifest.yaml");
        self.run(&["apply", "-n", namespace, "-f", &manifest.to_string_lossy()]).map(drop)
    }

    /// Waits until so many pods of the namespace run, and lists them by name.
    pub(super) fn running(&self, namespace: &str, count: usize) -> anyhow::Result<Vec<Pod>> {
        wait(&format!("{count} running pods in {namespace}"), || {
            let pods = self.get(&["pods", "-n", namespace])?;
            let items = pods["items"].as_array().cloned().unwrap_or_default();
            let mut running: Vec<Pod> = items.iter().filter(|p| ready(p)).filter_map(pod).collect();
            running.sort();
            Ok((running.len() == count).then_some(running))
        })
    }

    /// What a command in a pod prints, trimmed.
    pub(super) fn exec(&self, namespace: &str, pod: &str, command: &[&str]) -> anyhow::Result<String> {
        Ok(self.run(&[&["exec", "-n", namespace, pod, "--"], command].concat())?.trim().to_owned())
    }

    /// Messages of a pod's events with this reason.
    pub(super) fn events(&self, namespace: &str, pod: &str, reason: &str) -> anyhow::Result<Vec<String>> {
        let list = self.get(&["events.events.k8s.io", "-n", namespace])?;
        let ours = |e: &&Value| e["regarding"]["name"] == pod && e["reason"] == reason;
        let events = list["items"].as_array().cloned().unwrap_or_default();
        Ok(events.iter().filter(ours).filter_map(|e| e["note"].as_str().map(str::to_owned)).collect())
    }

    /// Deletes the namespace and waits until it and the claims in it are gone.
    pub(super) fn delete_namespace(&self, namespace: &str) -> anyhow::Result<()> {
        self.run(&["delete", "namespace", namespace, "--wait=true", "--timeout=60s"]).map(drop)
    }
}

fn pod(object: &Value) -> Option<Pod> {
    let text = |v: &Value| v.as_str().map(str::to_owned);
    Some(Pod { name: text(&object["metadata"]["name"])?, node: text(&object["spec"]["nodeName"])? })
}

fn ready(object: &Value) -> bool {
    let conditions = object["status"]["conditions"].as_array().cloned().unwrap_or_default();
    object["metadata"]["deletionTimestamp"].is_null()
        && conditions.iter().any(|c| c["type"] == "Ready" && c["status"] == "True")
}

/// Asks until there is an answer, at most a minute.
pub(super) fn wait<T>(what: &str, mut ask: impl FnMut() -> anyhow::Result<Option<T>>) -> anyhow::Result<T> {
    let end = Instant::now() + Duration::from_secs(60);
    loop {
        if let Some(answer) = ask()? {
            return Ok(answer);
        }
        if Instant::now() > end {
            bail!("no {what} after a minute");
        }
        std::thread::sleep(Duration::from_millis(150));
    }
}

/// `GPU-b0e94721-ad7c-...` and `gpu-b0e94721-ad7c-...` cut to `gpu-b0e94721`, for lines that are not table rows.
pub(super) fn short_uuids(text: &str) -> String {
    let mut out = String::new();
    let mut rest = text;
    while let Some(at) = rest.to_ascii_lowercase().find("gpu-") {
        let (before, from) = rest.split_at(at);
        let end = from[4..].find(|c: char| !c.is_ascii_hexdigit() && c != '-').map_or(from.len(), |n| n + 4);
        out += before;
        out += if end == 40 { &from[..12] } else { &from[..end] };
        rest = &from[end..];
    }
    out + rest
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn uuids_are_cut_and_other_words_stay() {
        let text = "node-a: gpu-b0e94721-ad7c-6034-4fc8-9f0d1ac7d60d, gpu-memory";
        assert_eq!(short_uuids(text), "node-a: gpu-b0e94721, gpu-memory");
    }
}
