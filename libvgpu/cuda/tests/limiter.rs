//! Real processes under the shims, on fake GPUs, each in a mount namespace in which `/run/vgpu-dra` is the test's.
//!
//! What a share may use is compared with what the fake driver knows: bytes it handed out, nanoseconds its GPU was busy.
//! Mount namespaces need root; without it every test is skipped, with that reason.

mod bench;

use std::fs::{self, OpenOptions};
use std::process::{Child, ExitCode};
use std::time::Duration;

use anyhow::{Context, ensure};
use serde_json::Value;

use bench::{Bench, MIB, Test, until};

const TESTS: [(&str, Test); 11] = [
    ("a_share_gets_its_memory_to_the_byte_and_then_out_of_memory", exact_limit),
    ("processes_racing_for_a_share_get_all_of_it_and_no_more", racing),
    ("a_killed_process_gives_its_memory_back", killed),
    ("cuda_and_nvidia_smi_report_the_share", reports),
    ("two_shares_of_a_gpu_add_up", two_shares),
    ("a_cap_holds_for_kernels_of_every_length_streamed_or_waited_for", cap),
    ("processes_of_a_share_have_one_cap", neighbours),
    ("beside_another_share_none_gets_more_than_its_cap", contention),
    ("a_changed_cap_acts_at_once", change),
    ("without_a_share_everything_passes_through", pass_through),
    ("a_broken_share_is_no_licence", broken_share),
];

const SECOND: u64 = 1_000_000_000;

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

/// What a spinning tenant says of itself.
fn result(tenant: Child) -> anyhow::Result<Value> {
    let out = tenant.wait_with_output()?;
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    ensure!(out.status.success(), "{} {} {}", out.status, text(&out.stdout), text(&out.stderr));
    serde_json::from_str(text(&out.stdout).trim()).context("a result")
}

/// Percent of the time from a tenant's first to after its last kernel in which the GPU was busy, events included.
fn percent(bench: &Bench, result: &Value) -> anyhow::Result<f64> {
    let elapsed =
        result["elapsedGpuNanos"].as_f64().with_context(|| format!("elapsedGpuNanos of {result}"))?;
    Ok(bench.gpus()?.busy_nanos(&bench.uuid)? as f64 * 100.0 / elapsed)
}

fn cap(_: &Bench) -> anyhow::Result<()> {
    for (cores, lengths, sync, seconds) in [
        (30, "5000", false, 10),
        (30, "5000", true, 10),
        (70, "1000", true, 10),
        (20, "100", false, 5),
        (95, "100", false, 5),
        (50, "100", true, 5),
        (50, "10000", false, 10),
        (30, "10", false, 2),
        (30, "10", true, 2),
        (30, "50,20000", false, 20),
        (5, "1000", false, 10),
    ] {
        let what = format!("cap {cores} %, kernels of {lengths} us, sync {sync}");
        let bench = Bench::in_virtual_time(1)?;
        bench.share("s", 1000 * MIB, cores)?;
        let length = seconds.to_string();
        let mut args = vec!["spin", "--lengths-micros", lengths, "--seconds", &length];
        args.extend(sync.then_some("--sync"));
        let percent = percent(&bench, &result(bench.start_by_its_clock(0, &args)?)?)?;
        println!("  {what}: {percent:.2} %");
        // An idle share begins with 20 ms saved.
        let (cap, saved) = (f64::from(cores), 2.0 / f64::from(seconds));
        ensure!(percent <= cap + saved + 0.5 && percent >= 0.97 * cap, "{what}: {percent:.2} %");
    }
    Ok(())
}

fn neighbours(_: &Bench) -> anyhow::Result<()> {
    let bench = Bench::in_virtual_time(2)?;
    let folder = bench.share("s", 1000 * MIB, 40)?;
    let tenants = [(1, "100"), (2, "3000")].map(|(rank, micros)| {
        bench.start_by_its_clock(rank, &["spin", "--kernel-micros", micros, "--seconds", "5"])
    });
    let [first, second] = tenants.map(|tenant| result(tenant?));
    let (first, _) = (first?, second?);
    let sum = percent(&bench, &first)?;
    // The GPU changes between the two, and a change that lies between a process's kernels is charged: it is time of the
    // share's that nobody else can use.
    let elapsed = first["elapsedGpuNanos"].as_f64().context("elapsedGpuNanos")?;
    let of = |nanos: u64| nanos as f64 * 100.0 / elapsed;
    let switching = of(bench.gpus()?.status_of(0).switching_nanos);
    let usage = fs::File::open(folder.join("usage"))?;
    let charged = of(vgpu_core::usage::read(&usage, &|_, _| Ok(false))?.gpu_nanos);
    println!(
        "  cap 40 %: {charged:.2} % charged, {sum:.2} % busy by two processes, {switching:.2} % changing"
    );
    ensure!((39.7..=40.9).contains(&charged), "cap 40 %: {charged:.2} % charged");
    ensure!(
        sum <= charged + 0.2 && charged <= sum + switching + 0.2,
        "{sum:.2}, {charged:.2}, {switching:.2}"
    );
    ensure!(switching <= 3.0, "{switching:.2} % for changing between the processes");
    Ok(())
}

/// Without an arbiter: what shares get beside each other is the hardware's to say; that none gets more than its cap is
/// ours.
fn contention(_: &Bench) -> anyhow::Result<()> {
    for (caps, kernels) in
        [([30, 70], ["100", "10000"]), ([70, 30], ["100", "10000"]), ([50, 50], ["1000", "1000"])]
    {
        let bench = Bench::in_virtual_time(2)?;
        let mut tenants = Vec::new();
        for (rank, (cap, micros)) in (1u32..).zip(caps.into_iter().zip(kernels)) {
            let container = format!("container-{rank}");
            bench.share_of(&container, "s", 1000 * MIB, cap)?;
            let args = ["spin", "--kernel-micros", micros, "--seconds", "5"];
            tenants.push((cap, bench.start_by_its_clock_in(&container, rank, &args)?));
        }
        for (cap, tenant) in tenants {
            let result = result(tenant)?;
            let number = |key: &str| result[key].as_f64().with_context(|| format!("{key} of {result}"));
            let percent = number("gpuNanos")? * 100.0 / number("elapsedGpuNanos")?;
            println!("  caps {caps:?} %, kernels of {kernels:?} us: {percent:.2} % of {cap} %");
            // 20 ms saved and a kernel more than there was credit for.
            let most = f64::from(cap) + 0.4 + 0.2 + 0.5;
            ensure!(percent <= most && percent >= 0.3 * f64::from(cap), "{percent:.2} % of {cap} %");
        }
    }
    Ok(())
}

fn change(_: &Bench) -> anyhow::Result<()> {
    let bench = Bench::in_virtual_time(1)?;
    let folder = bench.share("s", 1000 * MIB, 10)?;
    let mut tenant = bench.start_by_its_clock(0, &["spin", "--kernel-micros", "1000", "--seconds", "600"])?;
    let gpus = bench.gpus()?;
    let seen = || Ok::<_, anyhow::Error>((gpus.now(), gpus.busy_nanos(&bench.uuid)?));
    let after = |moment: u64| until("time passes", || Ok(gpus.now() >= moment));
    let percent = |from: (u64, u64), to: (u64, u64)| (to.1 - from.1) as f64 * 100.0 / (to.0 - from.0) as f64;
    after(SECOND)?;
    let first = seen()?;
    after(first.0 + 5 * SECOND)?;
    let limits =
        vgpu_core::limits::Limits { memory: 1000 * MIB, cores: 60, ..vgpu_core::limits::Limits::default() };
    vgpu_core::limits::rewrite(
        &OpenOptions::new().read(true).write(true).open(folder.join("limits"))?,
        &limits,
    )?;
    let changed = seen()?;
    after(changed.0 + 5 * SECOND)?;
    let last = seen()?;
    tenant.kill()?;
    tenant.wait()?;
    let (before, after) = (percent(first, changed), percent(changed, last));
    println!("  cap 10 %, then 60 %: {before:.2} %, then {after:.2} %");
    ensure!((9.5..=10.5).contains(&before), "cap 10 %: {before:.2} %");
    ensure!((58.5..=60.5).contains(&after), "from 10 % to a cap of 60 %: {after:.2} %");
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
