//! The scripts for a machine with a physical GPU (`e2e/gpu`), on fakes: those checks that do not depend on how fast this
//! machine is.

mod bench;

use std::path::Path;
use std::process::{Command, ExitCode, Stdio};

use anyhow::{Context, ensure};

use bench::{Bench, Case, artifacts, limiter};

/// A small GPU, because managed memory on the fake takes as much of this machine.
const GPUS: &str = "gpus: [{model: Small, contextMiB: 100, moduleMiB: 2}]\nmodels:\n  Small: {product: NVIDIA Small, \
    memoryMiB: 4096, reservedMiB: 96, computeCapability: \"7.5\", multiprocessors: 10, threadsPerMultiprocessor: 1024, \
    coresPerMultiprocessor: 64, brand: Tesla, architecture: Turing}";

const CHECKS: [&str; 5] = ["soname", "memory", "reports", "overhead", "oversubscription"];

fn main() -> ExitCode {
    let python = Command::new("python3").arg("-V").stdout(Stdio::null()).stderr(Stdio::null()).status();
    let lacks = (!python.is_ok_and(|status| status.success())).then_some("there is no python3");
    bench::run_cases(vec![Case::new("the_scripts_for_hardware_run_on_fakes", scripts).lacking(lacks)])
}

fn scripts() -> anyhow::Result<()> {
    let bench = Bench::described(GPUS, &artifacts()?, false)?;
    let shim = limiter(&artifacts()?, "libvgpu_cuda_shim.so");
    let programs = bench.libraries().with_file_name("bin");
    let path = format!("{}:{}", programs.display(), std::env::var("PATH").unwrap_or_default());
    let out = Command::new("python3")
        .arg(Path::new(env!("CARGO_MANIFEST_DIR")).join("../../e2e/gpu/run.py"))
        .args(CHECKS)
        .env("VGPU_BUILT", shim.parent().context("it lies in a folder")?)
        .env("VGPU_DRIVER_LIBRARIES", bench.libraries())
        .env("PATH", path)
        .env("PYTHONDONTWRITEBYTECODE", "1")
        .output()?;
    let text = String::from_utf8_lossy(&out.stdout).into_owned();
    let error = String::from_utf8_lossy(&out.stderr).into_owned();
    let ok = text.lines().filter(|line| line.split_whitespace().nth(1) == Some("ok")).count();
    // Each says so when it ends, and again in the summary.
    ensure!(out.status.success() && ok == 2 * CHECKS.len(), "{}\n{text}\n{error}", out.status);
    Ok(())
}
