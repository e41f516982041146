//! Shares whose memory may lie in the host's, and memory that another process opens.

use std::io::Write;

use anyhow::{Context, bail, ensure};
use libloading::Library;
use vgpu_core::limits::Limits;
use vgpu_share::Share;

use crate::bench::{Bench, MIB, until};
use crate::cuda::{Cuda, OUT_OF_MEMORY};
use crate::families::{DEVICE, at, call, props};
use crate::{Tenant, agrees, used};

const LIMIT: u64 = 1000 * MIB;
const RESIDENT: u64 = 400 * MIB;
const INVALID_VALUE: i32 = 1;

struct Driver(Library);

impl Driver {
    fn start() -> anyhow::Result<Self> {
        // SAFETY: loading a driver library has no conditions.
        let driver = Self(unsafe { Library::new("libcuda.so.1") }?);
        let mut context = 0u64;
        driver.ok("cuInit", &[0])?;
        driver.ok("cuCtxCreate_v2", &[at(&mut context), 0, 0])?;
        Ok(driver)
    }

    fn ok(&self, name: &str, arguments: &[u64]) -> anyhow::Result<()> {
        let code = call(&self.0, name, arguments)?;
        ensure!(code == 0, "{name}: {code}");
        Ok(())
    }

    fn refuses(&self, name: &str, arguments: &[u64], code: i32) -> anyhow::Result<()> {
        let found = call(&self.0, name, arguments)?;
        ensure!(found == code, "{name}: {found} instead of {code}");
        Ok(())
    }

    fn alloc(&self, mib: u64) -> anyhow::Result<u64> {
        let mut address = 0u64;
        self.ok("cuMemAlloc_v2", &[at(&mut address), mib * MIB])?;
        Ok(address)
    }

    /// Free and total MiB of the share as the program sees it, and MiB of the GPU it holds in truth.
    fn is(&self, free: u64, on_gpu: u64) -> anyhow::Result<()> {
        let (mut f, mut t) = (0u64, 0u64);
        self.ok("cuMemGetInfo_v2", &[at(&mut f), at(&mut t)])?;
        println!("{on_gpu}");
        std::io::stdout().flush()?;
        // The test compares with what the driver holds.
        let mut line = String::new();
        std::io::stdin().read_line(&mut line)?;
        ensure!((f, t) == (free * MIB, LIMIT), "{} MiB free of {}, expected {free}", f / MIB, t / MIB);
        ensure!(line.trim() == "right", "{line}");
        Ok(())
    }
}

pub(crate) fn tenant() -> anyhow::Result<()> {
    let driver = Driver::start()?;
    driver.is(1000, 0)?;
    let first = driver.alloc(300)?;
    driver.is(700, 300)?;
    let second = driver.alloc(300)?;
    driver.is(400, 400)?;
    // What cannot be moved is on the GPU, and that has no room left for the share.
    let (mut other, mut wanted) = (0u64, props(DEVICE));
    let physical = at(&mut wanted);
    driver.refuses("cuMemAlloc_v2", &[at(&mut other), MIB], OUT_OF_MEMORY)?;
    driver.refuses("cuMemCreate", &[at(&mut other), 2 * MIB, physical, 0], OUT_OF_MEMORY)?;
    driver.refuses("cuMemAllocManaged", &[at(&mut other), 4 * MIB, 1], OUT_OF_MEMORY)?;
    driver.refuses("cuMemAllocAsync", &[at(&mut other), 4 * MIB, 0], OUT_OF_MEMORY)?;
    let third = driver.alloc(400)?;
    driver.is(0, 400)?;
    driver.refuses("cuMemAlloc_v2", &[at(&mut other), 2 * MIB], OUT_OF_MEMORY)?;
    // It is memory, wherever it lies.
    for address in [first, second, third] {
        let (mut byte, last) = (0u8, address + 300 * MIB - 1);
        driver.ok("cuMemsetD8_v2", &[last, 0x5a, 1])?;
        driver.ok("cuMemcpyDtoH_v2", &[at(&mut byte), last, 1])?;
        ensure!(byte == 0x5a);
    }
    driver.ok("cuMemFree_v2", &[first])?;
    driver.is(300, 100)?;
    driver.ok("cuMemCreate", &[at(&mut other), 300 * MIB, physical, 0])?;
    driver.is(0, 400)?;
    driver.ok("cuMemRelease", &[other])?;
    driver.ok("cuMemFree_v2", &[third])?;
    let mut pitch = 0u64;
    driver.ok("cuMemAllocPitch_v2", &[at(&mut other), at(&mut pitch), 4000, 1024, 4])?;
    ensure!(pitch == 4096);
    driver.is(696, 104)?;
    driver.ok("cuMemFree_v2", &[other])?;
    // Exported it cannot be. From then on what is allocated can.
    let mut handle = [0u64; 8];
    driver.refuses("cuIpcGetMemHandle", &[at(&mut handle), second], INVALID_VALUE)?;
    let plain = driver.alloc(300)?;
    driver.ok("cuIpcGetMemHandle", &[at(&mut handle), plain])?;
    driver.is(400, 400)?;
    driver.refuses("cuMemAlloc_v2", &[at(&mut other), 2 * MIB], OUT_OF_MEMORY)?;
    println!("end");
    loop {
        std::thread::park();
    }
}

pub(crate) fn oversubscribed(bench: &Bench) -> anyhow::Result<()> {
    let limits = Limits { memory: LIMIT, resident: RESIDENT, ..Limits::default() };
    let share = Share::open(&bench.share_as("shares", "s", &limits)?)?;
    let mut tenant = Tenant::start_talking(bench, &["movable"])?;
    loop {
        let line = tenant.line()?;
        if line == "end" {
            break;
        }
        let on_gpu = line.parse::<u64>().with_context(|| format!("it ended or said {line:?}"))? * MIB;
        let (held, charged) = (bench.held()?, used(&share));
        tenant.say(if (held, charged) == (on_gpu, on_gpu) { "right" } else { "wrong" })?;
        ensure!((held, charged) == (on_gpu, on_gpu), "held {held}, charged {charged}, expected {on_gpu}");
    }
    ensure!(share.on_host.used() == 200 * MIB);
    let smi = bench
        .run("nvidia-smi", &["--query-gpu=memory.total,memory.used", "--format=csv,noheader,nounits"])?;
    ensure!(smi.trim() == "1000, 600", "nvidia-smi: {smi}");
    drop(tenant);
    agrees(bench, &share, 0)?;
    ensure!(share.on_host.used() == 0, "a killed process keeps {} bytes of the host", share.on_host.used());
    Ok(())
}

/// A share larger than the machine's memory.
pub(crate) fn no_host_memory(bench: &Bench) -> anyhow::Result<()> {
    let limits = Limits { memory: 1 << 40, resident: RESIDENT, ..Limits::default() };
    let share = Share::open(&bench.share_as("shares", "s", &limits)?)?;
    let error = Tenant::start(bench, &[], &["hold", &((1u64 << 40) / MIB / 2).to_string()])?.ready().err();
    ensure!(error.is_some_and(|e| e.to_string().contains('2')), "half a TiB fits");
    ensure!((used(&share), share.on_host.used()) == (0, 0));
    Tenant::start(bench, &[], &["hold", "500"])?.ready()?;
    Ok(())
}

/// Exports memory; says the handle.
pub(crate) fn owner() -> anyhow::Result<()> {
    let driver = Driver::start()?;
    let address = driver.alloc(100)?;
    let mut handle = [0u64; 8];
    driver.ok("cuIpcGetMemHandle", &[at(&mut handle), address])?;
    driver.ok("cuMemsetD8_v2", &[address, 0x5a, 100 * MIB])?;
    println!("{}", handle.map(|word| word.to_string()).join(" "));
    loop {
        std::thread::park();
    }
}

/// Opens memory by its handle, and does what it is told.
pub(crate) fn opener(words: &[String]) -> anyhow::Result<()> {
    let mut handle = [0u64; 8];
    for (word, text) in handle.iter_mut().zip(words) {
        *word = text.parse()?;
    }
    let driver = Driver::start()?;
    #[repr(C)]
    struct Handle([u64; 8]);
    type Open = unsafe extern "C" fn(*mut u64, Handle, u32) -> i32;
    let mut address = 0u64;
    // SAFETY: the signature is that of cuda.h; a pointer to a local.
    let code = unsafe {
        let open = driver.0.get::<Open>(b"cuIpcOpenMemHandle_v2")?;
        open(&raw mut address, Handle(handle), 1)
    };
    ensure!(code == 0, "cuIpcOpenMemHandle: {code}");
    println!("ready");
    let mut line = String::new();
    loop {
        line.clear();
        if std::io::stdin().read_line(&mut line)? == 0 {
            return Ok(());
        }
        match line.trim() {
            // What is another's cannot be freed.
            "free" => driver.refuses("cuMemFree_v2", &[address], INVALID_VALUE)?,
            "close" => driver.ok("cuIpcCloseMemHandle", &[address])?,
            "alloc" => drop(driver.alloc(30)?),
            other => bail!("{other:?}"),
        }
        println!("done");
    }
}

pub(crate) fn owner_pays(bench: &Bench) -> anyhow::Result<()> {
    let share = Share::open(&bench.share("s", LIMIT, 0)?)?;
    let mut owner = Tenant::start_talking(bench, &["ipc-owner"])?;
    let handle = owner.line()?;
    let words: Vec<&str> = handle.split_whitespace().collect();
    let arguments = [&["ipc-opener"], &words[..]].concat();
    let mut openers = Vec::new();
    for _ in 0..2 {
        let mut opener = Tenant::start_talking(bench, &arguments)?;
        ensure!(opener.line()? == "ready");
        agrees(bench, &share, 100 * MIB)?;
        openers.push(opener);
    }
    let mut ask = |who: usize, what: &str| -> anyhow::Result<()> {
        let opener = openers.get_mut(who).context("an opener")?;
        opener.say(what)?;
        let said = opener.line()?;
        ensure!(said == "done", "{what}: it said {said:?}");
        Ok(())
    };
    ask(0, "free")?;
    ask(0, "close")?;
    agrees(bench, &share, 100 * MIB)?;
    ask(1, "alloc")?;
    agrees(bench, &share, 130 * MIB)?;
    drop(owner);
    until("the owner's is given back, the opener's is not", || Ok(used(&share) == 30 * MIB))?;
    ask(1, "close")?;
    agrees(bench, &share, 30 * MIB)?;
    drop(openers);
    agrees(bench, &share, 0)
}

/// Holds memory beside a program that was started by vfork.
pub(crate) fn hold_after_vfork() -> anyhow::Result<()> {
    let cuda = Cuda::start()?;
    ensure!(cuda.alloc(100 * MIB).is_ok());
    let (program, argument) = (c"/bin/sleep", c"60");
    let arguments = [program.as_ptr(), argument.as_ptr(), std::ptr::null()];
    // SAFETY: the child calls nothing but execv and _exit, with what was made before.
    #[allow(deprecated, reason = "this is the call that is tested")]
    unsafe {
        if libc::vfork() == 0 {
            libc::execv(program.as_ptr(), arguments.as_ptr());
            libc::_exit(127);
        }
    }
    println!("ready");
    std::io::stdout().flush()?;
    loop {
        std::thread::park();
    }
}
