//! What users of other limiters have run into, where no other test is about it. The whole list, with the test of each, is
//! `libvgpu/COMPLAINTS.md`.

mod bench;
#[path = "routes/call.rs"]
mod call;

use std::collections::BTreeSet;
use std::path::Path;
use std::process::{Child, ExitCode};

use anyhow::{Context, ensure};
use libloading::Library;
use vgpu_share::Share;

use bench::{Bench, Case, MIB, run_cases};
use call::{at, call, ok};

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().collect();
    if let [_, first, what] = &arguments[..]
        && first == "tenant"
    {
        let done = match what.as_str() {
            "frees" => frees(),
            "second-gpu" => second_gpu(),
            _ => Err(anyhow::anyhow!("no tenant does {what}")),
        };
        return match done {
            Ok(()) => ExitCode::SUCCESS,
            Err(error) => {
                eprintln!("{what}: {error:#}");
                ExitCode::FAILURE
            }
        };
    }
    run_cases(vec![
        Case::new("freeing_twice_or_what_nobody_allocated_is_the_drivers_error_and_charges_nothing", || {
            let bench = Bench::new()?;
            let share = Share::open(&bench.share("s", 500 * MIB, 0)?)?;
            end(tenant(&bench, "frees")?)?;
            share.reap();
            ensure!(share.ledger.used() == 0, "{} bytes are charged", share.ledger.used());
            Ok(())
        }),
        Case::new("each_of_two_gpus_is_charged_what_is_on_it", || {
            let mut bench = Bench::of("T4x2")?;
            let gpus = bench.gpus()?;
            let shares = [gpus.uuid(0), gpus.uuid(1)].map(|uuid| {
                bench.uuid = uuid;
                bench.share("s", 500 * MIB, 0)
            });
            let [first, second] = shares;
            let (first, second) = (Share::open(&first?)?, Share::open(&second?)?);
            let mut holder = tenant(&bench, "second-gpu")?;
            let ready = bench::line(&mut holder)?;
            let used = (first.ledger.used(), second.ledger.used());
            holder.kill()?;
            holder.wait()?;
            ensure!(ready == "ready" && used == (10 * MIB, 136 * MIB), "{ready:?}: {used:?}");
            Ok(())
        }),
        Case::new("nothing_in_the_environment_lifts_a_limit", || {
            let bench = Bench::new()?;
            bench.share("s", 300 * MIB, 0)?;
            let path = format!("LD_LIBRARY_PATH={}", bench.libraries().display());
            let wrapper = [
                "env",
                "-i",
                &path,
                "CUDA_DISABLE_CONTROL=true",
                "CUDA_DEVICE_MEMORY_LIMIT_0=0",
                "CUDA_DEVICE_MEMORY_SHARED_CACHE=/tmp/none",
                "NVIDIA_VISIBLE_DEVICES=all",
                "CUDA_VISIBLE_DEVICES=0",
            ];
            let program = bench::artifacts()?.join("vgpu-workload");
            let out = bench.command(&wrapper, &program, &["allocate"]).output()?;
            let said: serde_json::Value = serde_json::from_slice(&out.stdout)
                .with_context(|| format!("{} {}", out.status, String::from_utf8_lossy(&out.stderr)))?;
            ensure!(said["bytes"] == 300 * MIB && said["error"] == "CUDA_ERROR_OUT_OF_MEMORY", "{said}");
            Ok(())
        }),
        Case::anywhere("every_test_the_list_names_is_there", named),
    ])
}

fn tenant(bench: &Bench, what: &str) -> anyhow::Result<Child> {
    Ok(bench.command(&[], &std::env::current_exe()?, &["tenant", what]).spawn()?)
}

fn end(tenant: Child) -> anyhow::Result<()> {
    let out = tenant.wait_with_output()?;
    ensure!(out.status.success(), "{} {}", out.status, String::from_utf8_lossy(&out.stderr));
    Ok(())
}

/// The shim, with cuInit called.
fn cuda() -> anyhow::Result<Library> {
    // SAFETY: loading a driver library has no conditions.
    let cuda = unsafe { Library::new("libcuda.so.1")? };
    ok(&cuda, "cuInit", &[0])?;
    Ok(cuda)
}

fn frees() -> anyhow::Result<()> {
    let cuda = cuda()?;
    // SAFETY: as above.
    let real = unsafe { Library::new("libcuda-real.so")? };
    let (mut context, mut address, mut free, mut total) = (0u64, 0u64, 0u64, 0u64);
    ok(&cuda, "cuCtxCreate_v2", &[at(&mut context), 0, 0])?;
    ok(&cuda, "cuMemAlloc_v2", &[at(&mut address), 100 * MIB])?;
    ok(&cuda, "cuMemFree_v2", &[address])?;
    for unknown in [address, 4096, u64::MAX] {
        for name in ["cuMemFree_v2", "cuMemFreeAsync", "cuMemRelease", "cuArrayDestroy", "cuMemPoolDestroy"] {
            let (ours, theirs) = (call(&cuda, name, &[unknown, 0])?, call(&real, name, &[unknown, 0])?);
            ensure!(ours == theirs && ours != 0, "{name} of {unknown:#x}: {ours}, the driver says {theirs}");
        }
        ok(&cuda, "cuMemGetInfo_v2", &[at(&mut free), at(&mut total)])?;
        ensure!((free, total) == (500 * MIB, 500 * MIB), "{free} of {total} bytes are free");
    }
    // What was made without the limiter's knowledge is freed through it, as after a fork of tools or an import.
    ok(&real, "cuMemAlloc_v2", &[at(&mut address), MIB])?;
    ok(&cuda, "cuMemFree_v2", &[address])?;
    ok(&cuda, "cuMemGetInfo_v2", &[at(&mut free), at(&mut total)])?;
    ensure!(free == 500 * MIB, "{free} bytes are free");
    Ok(())
}

/// Ten MiB on the first GPU, the rest on the second: by a context of its own, and by the place that is asked for, with the
/// first one's context current, and in a thread that has none.
fn second_gpu() -> anyhow::Result<()> {
    let cuda = cuda()?;
    let (mut one, mut two, mut address, mut handle) = (0u64, 0u64, 0u64, 0u64);
    // CUmemAllocationProp: pinned memory of a place (1: a GPU, 2: the host) and its number.
    let place = |kind: i32, number: i32| {
        let mut properties = [0i32; 22];
        properties[..4].copy_from_slice(&[1, 0, kind, number]);
        properties
    };
    ok(&cuda, "cuCtxCreate_v2", &[at(&mut two), 0, 1])?;
    ok(&cuda, "cuMemAlloc_v2", &[at(&mut address), 32 * MIB])?;
    ok(&cuda, "cuCtxCreate_v2", &[at(&mut one), 0, 0])?;
    ok(&cuda, "cuMemAlloc_v2", &[at(&mut address), 10 * MIB])?;
    ok(&cuda, "cuMemCreate", &[at(&mut handle), 64 * MIB, at(&mut place(1, 1)), 0])?;
    ok(&cuda, "cuMemCreate", &[at(&mut handle), 64 * MIB, at(&mut place(2, 850_725_928)), 0])?;
    std::thread::scope(|scope| {
        let thread = scope.spawn(|| {
            let mut handle = 0u64;
            ok(&cuda, "cuMemCreate", &[at(&mut handle), 40 * MIB, at(&mut place(1, 1)), 0])?;
            let code = call(&cuda, "cuMemCreate", &[at(&mut handle), 600 * MIB, at(&mut place(1, 1)), 0])?;
            ensure!(code == 2, "600 of 500 MiB: {code}");
            Ok(())
        });
        thread.join().unwrap_or_else(|_| Err(anyhow::anyhow!("the thread panicked")))
    })?;
    println!("ready");
    loop {
        std::thread::park();
    }
}

/// A name in the list's last column is a test somewhere in the sources.
fn named() -> anyhow::Result<()> {
    let root =
        Path::new(env!("CARGO_MANIFEST_DIR")).parent().and_then(Path::parent).context("a workspace")?;
    let mut sources = String::new();
    let mut folders =
        ["libvgpu", "kubelet-plugin", "e2e", "controller", "xtask"].map(|f| root.join(f)).to_vec();
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(folder)? {
            let path = entry?.path();
            if path.is_dir() {
                folders.push(path);
            } else if path.extension().is_some_and(|e| e == "rs") {
                sources.push_str(&std::fs::read_to_string(path)?);
            }
        }
    }
    let words: BTreeSet<&str> =
        sources.split(|c: char| !c.is_ascii_alphanumeric() && c != '_').filter(|w| w.len() > 3).collect();
    let list = std::fs::read_to_string(root.join("libvgpu/COMPLAINTS.md"))?;
    let mut seen = 0;
    for line in list.lines().filter(|line| line.starts_with('|')) {
        let last = line.trim_end_matches('|').rsplit('|').next().unwrap_or_default();
        // Names of tests have several words; commands and metrics among them do not.
        for name in
            last.split('`').skip(1).step_by(2).filter(|name| name.contains('_') || name.contains("::"))
        {
            let name = name.rsplit("::").next().unwrap_or_default();
            ensure!(words.contains(name), "there is no test {name}: {line}");
            seen += 1;
        }
    }
    ensure!(seen > 60, "{seen} tests are named");
    Ok(())
}
