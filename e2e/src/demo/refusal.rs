//! A request nothing can hold waits and says why.

use anyhow::ensure;

use super::kube::{Kube, short_uuids, wait};

/// 999,999 MiB of GPU memory.
pub(super) fn too_much_memory(kube: &Kube<'_>) -> anyhow::Result<()> {
    let namespace = "over-request";
    eprintln!("refusal: a request for 999,999 MiB");
    kube.example(namespace, "over-request")?;
    let pods = kube.get(&["pods", "-n", namespace])?;
    let name = pods["items"][0]["metadata"]["name"].as_str().unwrap_or_default().to_owned();
    let reason = wait("event that says why", || Ok(kube.events(namespace, &name, "NotPlaced")?.pop()))?;
    let phase = kube.run(&["get", "pod", "-n", namespace, &name, "-o", "jsonpath={.status.phase}"])?;
    ensure!(phase == "Pending", "pod {name} is {phase}, not Pending");
    ensure!(reason.contains("InsufficientMemory"), "the event does not name the reason: {reason}");
    println!("A request for 999999 MiB is {phase}: {}\n", short_uuids(&reason));
    kube.delete_namespace(namespace)
}
