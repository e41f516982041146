//! Time of Prepare and Unprepare on a node that is in use, without the read from the API server.
//!
//! State lies on this machine's disk, share files and CDI specs on a tmpfs, as on a node. The baseline is what no durable
//! Prepare can do without: one file of the checkpoint's size written, synced and renamed, measured in turns with it.
//! Needs root for the mounts, which it makes in a mount namespace of its own. Prints one JSON object (see
//! `cargo xtask bench`).

use std::fs::{self, File};
use std::hint::black_box;
use std::io::Write;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Command, ExitCode};
use std::sync::Arc;
use std::time::Instant;

use anyhow::{Context, ensure};
use tokio::sync::{mpsc, watch};
use vgpu_api::{Gpu, MIB};
use vgpu_kubelet_plugin::cdi::driver::{SHIMMED, ShimPlace};
use vgpu_kubelet_plugin::claim::{ClaimRef, WantedShare};
use vgpu_kubelet_plugin::discovery::Discovery;
use vgpu_kubelet_plugin::host::{Host, LinuxHost};
use vgpu_kubelet_plugin::limiter::{Form, Limiter};
use vgpu_kubelet_plugin::state::{Paths, State};

const IN_ITS_NAMESPACE: &str = "VGPU_BENCH_IN_ITS_NAMESPACE";
const GPUS: usize = 8;
const ROUNDS: usize = 300;

fn main() -> ExitCode {
    if std::env::var_os(IN_ITS_NAMESPACE).is_none() {
        let own = std::env::current_exe().expect("this program has a path");
        let mut again = Command::new("unshare");
        again.args(["--mount", "--propagation", "private", "--"]).arg(own).env(IN_ITS_NAMESPACE, "1");
        eprintln!("cannot run unshare (package util-linux): {}", again.exec());
        return ExitCode::FAILURE;
    }
    match measured() {
        Ok(metrics) => {
            println!("{metrics}");
            ExitCode::SUCCESS
        }
        Err(error) => {
            eprintln!("{error:#}");
            ExitCode::FAILURE
        }
    }
}

fn measured() -> anyhow::Result<serde_json::Value> {
    ensure!(rustix::process::geteuid().is_root(), "mounting a tmpfs needs root");
    let mut metrics = serde_json::Map::new();
    // A node with a few pods, and one with as many tenants as its GPUs take.
    for (prepared, goal) in [(40, Some(10.0)), (GPUS * 63, None)] {
        let mut times = times(prepared)?;
        let mut put = |name: &str, value: f64, baseline: Option<f64>, goal: Option<f64>| {
            let ok = goal.map(|goal| value <= goal);
            metrics.insert(
                format!("{name}_ms_{prepared}_claims"),
                serde_json::json!({"value": value, "unit": "ms", "baseline": baseline, "goal": goal, "ok": ok}),
            );
        };
        let (bare50, bare99) = (times.bare.at(0.5), times.bare.at(0.99));
        put("prepare_p50", times.prepare.at(0.5), Some(bare50), None);
        put("prepare_p99", times.prepare.at(0.99), Some(bare99), goal);
        put("prepare_again_p99", times.again.at(0.99), None, goal);
        put("unprepare_p99", times.unprepare.at(0.99), Some(bare99), goal);
    }
    Ok(metrics.into())
}

#[derive(Default)]
struct Samples(Vec<f64>);

impl Samples {
    fn time<T>(&mut self, work: impl FnOnce() -> T) -> T {
        let start = Instant::now();
        let result = black_box(work());
        self.0.push(start.elapsed().as_secs_f64() * 1e3);
        result
    }

    /// Milliseconds at a quantile.
    fn at(&mut self, quantile: f64) -> f64 {
        self.0.sort_by(f64::total_cmp);
        self.0[((self.0.len() - 1) as f64 * quantile).round() as usize]
    }
}

#[derive(Default)]
struct Times {
    bare: Samples,
    prepare: Samples,
    again: Samples,
    unprepare: Samples,
}

fn times(prepared: usize) -> anyhow::Result<Times> {
    // Beside this program, so that it is a disk and not the tmpfs that /tmp may be.
    let own = std::env::current_exe()?;
    let disk = tempfile::tempdir_in(own.parent().context("a program lies in a folder")?)?;
    let memory = disk.path().join("memory");
    fs::create_dir(&memory)?;
    let status = Command::new("mount").args(["-t", "tmpfs", "tmpfs"]).arg(&memory).status()?;
    ensure!(status.success(), "mount ended with {status}");
    let result = on(disk.path(), &memory, prepared);
    LinuxHost.unmount(&memory)?;
    result
}

fn on(disk: &Path, memory: &Path, prepared: usize) -> anyhow::Result<Times> {
    let paths = Paths {
        state_dir: disk.join("state"),
        share_dir: memory.join("shares"),
        cdi_dir: memory.join("cdi"),
    };
    for folder in paths.all() {
        fs::create_dir(folder)?;
    }
    let image = disk.join("image");
    fs::create_dir(&image)?;
    for (soname, _) in SHIMMED {
        fs::write(image.join(soname), "the limiter")?;
    }
    let limiter = Limiter::new(image, paths.limiter(), Form::Shim);
    let gpu = |n: usize| Gpu { uuid: uuid(n), minor: n as i64, memory_mib: 81_009, ..Gpu::default() };
    let places = SHIMMED.map(|(soname, real)| ShimPlace {
        soname,
        container_path: format!("/usr/lib/x86_64-linux-gnu/{soname}"),
        real_host_path: format!("/usr/lib/x86_64-linux-gnu/{soname}"),
        real_container_path: format!("/usr/lib/x86_64-linux-gnu/{real}"),
    });
    let discovery = Discovery {
        gpus: (0..GPUS).map(gpu).collect(),
        places: places.into(),
        limiter: Some(limiter.install(&LinuxHost)?),
        ..Discovery::default()
    };
    let found = watch::channel(Arc::new(discovery)).1;
    let damage = mpsc::unbounded_channel().0;
    let state = State::new("node".into(), paths.clone(), Arc::new(LinuxHost), limiter, found, damage);
    state.reconcile()?;
    for n in 0..prepared {
        state.prepare(&claim(n), &[share(n)])?;
    }
    let mut times = Times::default();
    for round in 0..ROUNDS {
        let n = prepared + round % GPUS;
        times.prepare.time(|| state.prepare(&claim(n), &[share(n)]))?;
        times.again.time(|| state.prepare(&claim(n), &[share(n)]))?;
        let bytes = fs::read(paths.checkpoint())?;
        times.bare.time(|| bare(disk, &bytes))?;
        times.unprepare.time(|| state.unprepare(&claim(n)))?;
    }
    for n in 0..prepared {
        state.unprepare(&claim(n))?;
    }
    Ok(times)
}

fn bare(folder: &Path, bytes: &[u8]) -> std::io::Result<()> {
    let mut file = File::create(folder.join("bare.tmp"))?;
    file.write_all(bytes)?;
    file.sync_data()?;
    fs::rename(folder.join("bare.tmp"), folder.join("bare"))
}

fn uuid(gpu: usize) -> String {
    format!("GPU-00000000-0000-0000-0000-00000000000{gpu}")
}

fn claim(n: usize) -> ClaimRef {
    ClaimRef {
        namespace: "team".into(),
        name: format!("train-{n}-gpu-x7k2p"),
        uid: format!("7d0c6f0e-3f0b-4a56-9c0d-{n:012}"),
    }
}

fn share(n: usize) -> WantedShare {
    WantedShare {
        request: "gpu".into(),
        device: uuid(n % GPUS).to_lowercase(),
        share_id: format!("0f4d2b0f-8f11-4a56-9c0d-{n:012}"),
        memory: 1024 * MIB,
        cores: 1,
        enforcement: vgpu_api::Enforcement::Hard,
        priority: vgpu_api::Priority::Normal,
        oversubscription: vgpu_api::Oversubscription::Forbidden,
        cores_oversubscription: Default::default(),
    }
}
