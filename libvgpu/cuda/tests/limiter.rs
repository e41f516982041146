//! Real processes under the shims, on fake GPUs, each in a mount namespace in which `/run/vgpu-dra` is the test's.
//!
//! What a share may use is compared with what the fake driver knows: bytes it handed out, nanoseconds its GPU was busy.
//! Mount namespaces need root; without it every test is skipped, with that reason.

mod bench;

use std::fs;
use std::process::{Child, ExitCode};
use std::time::{Duration, Instant};

use anyhow::ensure;

use bench::{Bench, MIB, Test, until};

const TESTS: [(&str, Test); 8] = [
    ("a_share_gets_its_memory_to_the_byte_and_then_out_of_memory", exact_limit),
    ("processes_racing_for_a_share_get_all_of_it_and_no_more", racing),
    ("a_killed_process_gives_its_memory_back", killed),
    ("cuda_and_nvidia_smi_report_the_share", reports),
    ("two_shares_of_a_gpu_add_up", two_shares),
    ("a_cap_holds_for_streams_and_for_synchronised_launches", cap),
    ("without_a_share_everything_passes_through", pass_through),
    ("a_broken_share_is_no_licence", broken_share),
];

fn main() -> ExitCode {
    bench::run(&TESTS)
}

fn exact_limit(bench: &Bench) -> anyhow::Result<()> {
    bench.share("s", 3000 * MIB, 0)?;
    let got = bench.json(&["allocate"])?;
    ensure!(
        got["bytes"] == 3000 * MIB && got["error"] == "CUDA_ERROR_OUT_OF_MEMORY" && got["free"] == 0,
        "{got}"
    );
    Ok(())
}

fn racing(bench: &Bench) -> anyhow::Result<()> {
    bench.share("s", 1024 * MIB, 0)?;
    let children: Result<Vec<Child>, _> =
        (0..8).map(|_| bench.start("vgpu-workload", &["allocate", "--hold"])).collect();
    let mut children = children?;
    let limit = 1024 * MIB;
    let mut most = 0;
    until("the whole share is taken", || {
        most = most.max(bench.handed_out()?);
        Ok(most >= limit)
    })?;
    std::thread::sleep(Duration::from_millis(500));
    let end = bench.handed_out()?;
    for child in &mut children {
        child.kill()?;
        child.wait()?;
    }
    ensure!(
        most == limit && end == limit,
        "the driver handed out up to {most}, at the end {end}, of {limit} bytes"
    );
    Ok(())
}

fn killed(bench: &Bench) -> anyhow::Result<()> {
    bench.share("s", 1000 * MIB, 0)?;
    let mut holder = bench.start("vgpu-workload", &["allocate", "--mib", "900", "--hold"])?;
    until("it holds its memory", || Ok(bench.handed_out()? == 900 * MIB))?;
    let beside = bench.json(&["allocate"])?;
    ensure!(beside["bytes"] == 100 * MIB, "beside the holder: {beside}");
    holder.kill()?;
    holder.wait()?;
    let after = bench.json(&["allocate"])?;
    ensure!(after["bytes"] == 1000 * MIB, "after its end: {after}");
    Ok(())
}

fn reports(bench: &Bench) -> anyhow::Result<()> {
    bench.share("s", 2000 * MIB, 0)?;
    let mut holder = bench.start("vgpu-workload", &["allocate", "--mib", "500", "--hold"])?;
    until("it holds its memory", || Ok(bench.handed_out()? == 500 * MIB))?;
    let info = bench.json(&["info"])?;
    let query = "--query-gpu=memory.total,memory.used,memory.free";
    let smi = bench.run("nvidia-smi", &[query, "--format=csv,noheader,nounits"])?;
    let apps = bench
        .run("nvidia-smi", &["--query-compute-apps=pid,used_memory", "--format=csv,noheader,nounits"])?;
    let pid = holder.id();
    holder.kill()?;
    holder.wait()?;
    ensure!(
        info["total"] == 2000 * MIB && info["free"] == 1500 * MIB && info["deviceTotal"] == 2000 * MIB,
        "{info}"
    );
    ensure!(smi.trim() == "2000, 500, 1500", "nvidia-smi: {smi}");
    ensure!(apps.trim() == format!("{pid}, 500"), "nvidia-smi: {apps}");
    Ok(())
}

fn two_shares(bench: &Bench) -> anyhow::Result<()> {
    bench.share("a", 1000 * MIB, 0)?;
    bench.share("b", 500 * MIB, 0)?;
    let info = bench.json(&["info"])?;
    ensure!(info["total"] == 1500 * MIB, "{info}");
    let got = bench.json(&["allocate"])?;
    ensure!(got["bytes"] == 1500 * MIB, "{got}");
    Ok(())
}

fn cap(bench: &Bench) -> anyhow::Result<()> {
    let folder = bench.share("s", 1000 * MIB, 30)?;
    for (cores, micros, sync) in [
        (30, "5000", false),
        (30, "5000", true),
        (70, "1000", true),
        (20, "100", false),
        (50, "10000", false),
    ] {
        let limits = vgpu_core::limits::Limits { memory: 1000 * MIB, cores, overhead: 0 };
        fs::write(folder.join("limits"), vgpu_core::limits::encode(&limits))?;
        fs::write(folder.join("usage"), vgpu_core::usage::empty())?;
        let mut args = vec!["spin", "--kernel-micros", micros];
        args.extend(sync.then_some("--sync"));
        let mut tenant = bench.start("vgpu-workload", &args)?;
        let gpus = bench.gpus()?;
        let begin = gpus.busy_nanos(&bench.uuid)?;
        until("the first kernel", || Ok(gpus.busy_nanos(&bench.uuid)? > begin))?;
        // The saved-up burst is spent first.
        std::thread::sleep(Duration::from_millis(500));
        let (start, before) = (Instant::now(), gpus.busy_nanos(&bench.uuid)?);
        std::thread::sleep(Duration::from_secs(3));
        let busy = gpus.busy_nanos(&bench.uuid)? - before;
        let percent = busy as f64 / start.elapsed().as_nanos() as f64 * 100.0;
        tenant.kill()?;
        tenant.wait()?;
        println!("  cap {cores} %, kernels of {micros} us, sync {sync}: {percent:.1} %");
        let off = (percent - f64::from(cores)).abs();
        ensure!(off <= 5.0, "cap {cores} %, kernels of {micros} us, sync {sync}: {percent:.1} %");
    }
    Ok(())
}

fn pass_through(bench: &Bench) -> anyhow::Result<()> {
    let info = bench.json(&["info"])?;
    ensure!(info["total"] == 15_104 * MIB, "{info}");
    let got = bench.json(&["allocate"])?;
    ensure!(got["bytes"] == 15_104 * MIB, "{got}");
    Ok(())
}

fn broken_share(bench: &Bench) -> anyhow::Result<()> {
    let folder = bench.share("s", 1000 * MIB, 0)?;
    fs::write(folder.join("limits"), [0u8; 4096])?;
    let out = bench.start("vgpu-workload", &["allocate"])?.wait_with_output()?;
    let error = String::from_utf8_lossy(&out.stderr).into_owned();
    ensure!(!out.status.success() && error.contains("cuMemAlloc_v2"), "{} {error}", out.status);
    ensure!(bench.handed_out()? == 0, "memory was handed out");
    Ok(())
}
