//! Shares that cannot be exceeded: memory to the byte, compute by the GPU's own time.

use std::time::{Duration, Instant};

use anyhow::{Context, ensure};
use serde_json::Value;

use super::kube::{Kube, wait};
use crate::cluster::Cluster;

const MIB: u64 = 1 << 20;

/// A program that allocates until CUDA refuses, beside a neighbour on the same GPU.
pub(super) fn memory(kube: &Kube<'_>) -> anyhow::Result<()> {
    let namespace = "limits-memory";
    eprintln!("memory: two shares of 3,000 MiB on one GPU, one of them greedy");
    kube.example(namespace, "memory-limit")?;
    kube.running(namespace, 2)?;
    let allocated = |pod: &str| -> anyhow::Result<Value> {
        wait(&format!("result of {pod}"), || {
            let logs = kube.run(&["logs", "-n", namespace, pod])?;
            Ok(logs.lines().find(|l| l.starts_with('{')).map(str::to_owned))
        })
        .and_then(|line| serde_json::from_str(&line).with_context(|| format!("{pod} printed {line:?}")))
    };
    let greedy = allocated("greedy")?;
    let got = greedy["bytes"].as_u64().context("greedy did not say how much it got")?;
    let error = greedy["error"].as_str().unwrap_or_default();
    ensure!(error == "CUDA_ERROR_OUT_OF_MEMORY", "greedy was stopped by {error:?}");
    ensure!(got <= 3_000 * MIB, "greedy got {got} bytes of a share of {} bytes", 3_000 * MIB);
    ensure!(got > 2_990 * MIB, "greedy got only {got} bytes of a share of {} bytes", 3_000 * MIB);
    let neighbour = allocated("neighbour")?["bytes"].as_u64().unwrap_or(0);
    ensure!(neighbour == 2_000 * MIB, "the neighbour holds {neighbour} bytes, not {}", 2_000 * MIB);
    let used = |pod: &str| {
        kube.exec(namespace, pod, &["nvidia-smi", "--query-gpu=memory.used", "--format=csv,noheader"])
    };
    println!("Memory limit: a share of 3000 MiB got {} MiB, then {error}", got / MIB);
    println!(
        "nvidia-smi in it says {} used; in its neighbour on the same GPU {}\n",
        used("greedy")?,
        used("neighbour")?
    );
    kube.delete_namespace(namespace)
}

/// A share of 30 cores, alone on its GPU, with 5 ms kernels: what the GPU itself was busy for, over 10 s.
pub(super) fn cores(kube: &Kube<'_>, cluster: &Cluster) -> anyhow::Result<()> {
    let namespace = "limits-cores";
    eprintln!("compute: a share of 30 cores with 5 ms kernels, measured over 10 s");
    kube.example(namespace, "compute-limit")?;
    let pod = kube.running(namespace, 1)?.pop().context("no pod")?;
    let uuid =
        kube.exec(namespace, &pod.name, &["nvidia-smi", "--query-gpu=uuid", "--format=csv,noheader"])?;
    let busy = || cluster.gpu_busy_nanos(&pod.node, &uuid);
    // The first moments hold the program's start and the bucket's burst.
    wait("first kernel", || Ok((busy()? > 0).then_some(())))?;
    std::thread::sleep(Duration::from_secs(1));
    let (start, before) = (Instant::now(), busy()?);
    std::thread::sleep(Duration::from_secs(10));
    let (after, wall) = (busy()?, start.elapsed());
    let percent = (after - before) as f64 / wall.as_nanos() as f64 * 100.0;
    println!("Compute limit: a share of 30 cores had {percent:.1} % of its GPU's time over 10 s\n");
    ensure!((25.0..=35.0).contains(&percent), "a share of 30 cores had {percent:.1} %, expected 25 to 35");
    kube.delete_namespace(namespace)
}
