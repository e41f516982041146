//! What NVML says inside of a share beside a busy neighbour: the share's processes, and how busy they are of its cap.

use std::process::Child;
use std::time::Duration;

use anyhow::ensure;
use libloading::Library;

use crate::bench::{Bench, MIB};
use crate::families::{at, call};
use crate::{Talking, Tenant};

const CAP: u32 = 40;
const NOT_SUPPORTED: i32 = 3;
const NOT_FOUND: i32 = 6;
const INSUFFICIENT_SIZE: i32 = 7;

/// Killed when the test is done with it.
struct Running(Child);

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Says what NVML says whenever it gets a line.
pub(crate) fn tenant() -> anyhow::Result<()> {
    // SAFETY: loading a library has no conditions.
    let nvml = unsafe { Library::new("libnvidia-ml.so.1") }?;
    let ok = |name: &str, arguments: &[u64]| -> anyhow::Result<()> {
        let code = call(&nvml, name, arguments)?;
        ensure!(code == 0, "{name}: {code}");
        Ok(())
    };
    let mut device = 0u64;
    ok("nvmlInit_v2", &[])?;
    ok("nvmlDeviceGetHandleByIndex_v2", &[0, at(&mut device)])?;
    // What shows the whole GPU is not to be had.
    for (name, kind) in [
        ("nvmlDeviceGetSamples", 1),
        ("nvmlDeviceGetProcessesUtilizationInfo", 0),
        ("nvmlDeviceGetRunningProcessDetailList", 0),
    ] {
        let code = call(&nvml, name, &[device, kind, 0, 0, 0, 0])?;
        ensure!(code == NOT_SUPPORTED, "{name}: {code}");
    }
    for line in std::io::stdin().lines() {
        drop(line?);
        let mut said = Vec::new();
        for kind in ["Compute", "Graphics", "MPSCompute"] {
            for (version, size) in [("", 16), ("_v2", 24), ("_v3", 24)] {
                let name = format!("nvmlDeviceGet{kind}RunningProcesses{version}");
                // Asked for the number first, as NVML's users do.
                let mut count = 0u32;
                let code = call(&nvml, &name, &[device, at(&mut count), 0])?;
                ensure!(code == if count == 0 { 0 } else { INSUFFICIENT_SIZE }, "{name}: {code}, {count}");
                let mut entries = vec![0u8; 64 * size];
                let mut count = 64u32;
                ok(&name, &[device, at(&mut count), entries.as_mut_ptr() as u64])?;
                let pid = |entry: &[u8]| entry.first_chunk().copied().map_or(0, u32::from_ne_bytes);
                let pids = entries.chunks(size).take(count as usize).map(pid).map(|pid| pid.to_string());
                said.push(pids.collect::<Vec<_>>().join(","));
            }
        }
        let (mut count, mut samples) = (64u32, [[0u32; 8]; 64]);
        let code = call(
            &nvml,
            "nvmlDeviceGetProcessUtilization",
            &[device, samples.as_mut_ptr() as u64, at(&mut count), 0],
        )?;
        ensure!(code == 0 || code == NOT_FOUND, "nvmlDeviceGetProcessUtilization: {code}");
        let found = samples.iter().take(if code == 0 { count as usize } else { 0 });
        said.push(found.map(|sample| format!("{}:{}", sample[0], sample[4])).collect::<Vec<_>>().join(","));
        let mut rates = [0u32; 2];
        ok("nvmlDeviceGetUtilizationRates", &[device, at(&mut rates)])?;
        said.push(rates[0].to_string());
        println!("{}", said.join(";"));
    }
    Ok(())
}

struct Said {
    lists: Vec<String>,
    samples: String,
    percent: u32,
}

fn ask(tenant: &mut Talking) -> anyhow::Result<Said> {
    tenant.say("now")?;
    let line = tenant.line()?;
    let words: Vec<&str> = line.split(';').collect();
    ensure!(words.len() == 11, "it said {line:?}");
    Ok(Said {
        lists: words[..9].iter().map(|word| (*word).to_owned()).collect(),
        samples: words[9].to_owned(),
        percent: words[10].parse()?,
    })
}

pub(crate) fn shows_the_share(bench: &Bench) -> anyhow::Result<()> {
    bench.share("s", 1000 * MIB, CAP)?;
    bench.share_of("other", "s", 1000 * MIB, CAP)?;
    let spin = ["spin", "--kernel-ms", "1"];
    let own = Running(bench.start("vgpu-workload", &spin)?);
    let _neighbour = Running(bench.start_in("other", "vgpu-workload", &spin)?);
    let mut tenant = Tenant::start_talking(bench, &["nvml"])?;
    // NVML's figures are of the last second.
    std::thread::sleep(Duration::from_millis(2500));
    let said = ask(&mut tenant)?;
    let pid = own.0.id().to_string();
    ensure!(said.lists == [&pid, &pid, &pid, "", "", "", "", "", ""], "processes: {:?}", said.lists);
    let sample = said.samples.strip_prefix(&format!("{pid}:")).map(str::parse::<u32>);
    println!("  at its cap of {CAP} %: {} % by what is charged, {} by process", said.percent, said.samples);
    // Of the GPU it is the cap at most.
    ensure!(said.percent > CAP + 20 && said.percent <= 100, "{} %", said.percent);
    ensure!(matches!(sample, Some(Ok(percent)) if percent > CAP + 20 && percent <= 100), "{}", said.samples);
    drop(own);
    std::thread::sleep(Duration::from_millis(2500));
    ask(&mut tenant)?;
    std::thread::sleep(Duration::from_millis(300));
    let said = ask(&mut tenant)?;
    ensure!(said.lists.iter().all(String::is_empty), "processes: {:?}", said.lists);
    ensure!((said.percent, said.samples.as_str()) == (0, ""), "idle: {} % {}", said.percent, said.samples);
    Ok(())
}
