//! Launches under a cap in streams of every kind, captured ones among them: a program notices nothing, and all of it is
//! charged what it took.

use std::ffi::c_void;
use std::sync::atomic::Ordering;

use anyhow::{Context, ensure};
use libloading::{Library, Symbol};
use vgpu_share::Share;

use crate::Tenant;
use crate::bench::{Bench, MIB};

const PTX: &[u8] =
    b".version 7.0\n.target sm_50\n.address_size 64\n.visible .entry spin(.param .u64 n)\n{ ret; }\n\0";
/// Of a kernel, in nanoseconds.
const LENGTH: u64 = 200_000;

type Launch =
    extern "C" fn(usize, u32, u32, u32, u32, u32, u32, u32, usize, *mut *mut c_void, *mut *mut c_void) -> i32;

struct Program(Library);

macro_rules! call {
    ($self:ident, $name:ident($($value:expr => $type:ty),*)) => {{
        let name = concat!(stringify!($name), "\0").as_bytes();
        // SAFETY: the signature is that of cuda.h; pointers among the arguments are to locals.
        let code = unsafe {
            let function: Symbol<'_, unsafe extern "C" fn($($type),*) -> i32> = $self.0.get(name)?;
            function($($value),*)
        };
        ensure!(code == 0, "{}: {code}", stringify!($name));
    }};
}

impl Program {
    fn launch(&self, name: &str, function: usize, stream: usize) -> anyhow::Result<()> {
        self.launch_of(LENGTH, name, function, stream)
    }

    fn launch_of(&self, nanos: u64, name: &str, function: usize, stream: usize) -> anyhow::Result<()> {
        let mut length = nanos;
        let mut parameters = [(&raw mut length).cast::<c_void>()];
        // SAFETY: the signature is that of cuda.h.
        let launch: Symbol<'_, Launch> = unsafe { self.0.get(name.as_bytes())? };
        let none = std::ptr::null_mut();
        let code = launch(function, 1, 1, 1, 32, 1, 1, 0, stream, parameters.as_mut_ptr(), none);
        ensure!(code == 0, "{name} on {stream}: {code}");
        Ok(())
    }

    fn function(&self) -> anyhow::Result<usize> {
        let (mut module, mut function) = (0usize, 0usize);
        call!(self, cuModuleLoadData(&raw mut module => *mut usize, PTX.as_ptr() => *const u8));
        call!(self, cuModuleGetFunction(
            &raw mut function => *mut usize, module => usize, c"spin".as_ptr() => *const std::ffi::c_char));
        Ok(function)
    }
}

/// Launches so many kernels, says how many, and ends.
pub(crate) fn tenant() -> anyhow::Result<()> {
    // SAFETY: loading a driver library has no conditions.
    let program = Program(unsafe { Library::new("libcuda.so.1") }.context("cannot load libcuda.so.1")?);
    let (mut context, mut streams) = (0usize, [0usize; 2]);
    call!(program, cuInit(0 => u32));
    call!(program, cuCtxCreate_v2(&raw mut context => *mut usize, 0 => u32, 0 => i32));
    for stream in &mut streams {
        call!(program, cuStreamCreate(&raw mut *stream => *mut usize, 1 => u32));
    }
    let [one, other] = streams;
    let (plain, own) = ("cuLaunchKernel", "cuLaunchKernel_ptsz");
    let function = program.function()?;
    let mut kernels = 0u64;
    for round in 0..10 {
        for (name, stream) in [(plain, one), (plain, other), (plain, 0), (own, 0), (own, one)] {
            for _ in 0..=round {
                program.launch(name, function, stream)?;
                kernels += 1;
            }
        }
    }
    // What is captured is not work. Beside it the other stream goes on, with events in flight.
    let (mut graph, mut run) = (0usize, 0usize);
    call!(program, cuStreamBeginCapture_v2(one => usize, 0 => i32));
    for _ in 0..20 {
        program.launch(plain, function, one)?;
        program.launch(plain, function, other)?;
        kernels += 1;
    }
    call!(program, cuStreamEndCapture(one => usize, &raw mut graph => *mut usize));
    call!(program, cuGraphInstantiateWithFlags(&raw mut run => *mut usize, graph => usize, 0 => u64));
    for _ in 0..30 {
        call!(program, cuGraphLaunch(run => usize, one => usize));
        kernels += 20;
    }
    call!(program, cuCtxSynchronize());
    // Work of a context that goes, and of the one after it.
    program.launch(plain, function, one)?;
    call!(program, cuCtxDestroy_v2(context => usize));
    call!(program, cuCtxCreate_v2(&raw mut context => *mut usize, 0 => u32, 0 => i32));
    let function = program.function()?;
    for _ in 0..20 {
        program.launch(plain, function, 0)?;
        kernels += 1;
    }
    call!(program, cuCtxSynchronize());
    kernels += 1;
    std::thread::sleep(std::time::Duration::from_millis(20));
    println!("{kernels}");
    Ok(())
}

pub(crate) fn agree(_: &Bench) -> anyhow::Result<()> {
    let bench = Bench::in_virtual_time(1)?;
    let share = Share::open(&bench.share("s", 1000 * MIB, 60)?)?;
    let clock = bench.clock(0);
    let wrapper: Vec<&str> = clock.iter().map(String::as_str).collect();
    let out = Tenant::start(&bench, &wrapper, &["capture"])?.end()?;
    let kernels: u64 = out.trim().parse().with_context(|| format!("it said {out:?}"))?;
    let busy = bench.gpus()?.busy_nanos(&bench.uuid)?;
    let charged = share.usage.compute.account.charged.load(Ordering::Relaxed);
    println!("  {kernels} kernels: the GPU was busy for {busy} ns, {charged} are charged");
    ensure!(busy == kernels * LENGTH, "{kernels} kernels took {busy} ns");
    ensure!(charged.abs_diff(busy) <= busy / 20, "{charged} ns are charged for {busy}");
    Ok(())
}

/// Of a kernel of several threads: short, so that most are launched on loan.
const SHORT: u64 = 20_000;
const EACH: u64 = 1_000;

/// Launches by threads in streams of their own, in the same one, with pauses, and by one that ends in the middle.
pub(crate) fn threads() -> anyhow::Result<()> {
    // SAFETY: loading a driver library has no conditions.
    let program = Program(unsafe { Library::new("libcuda.so.1") }.context("cannot load libcuda.so.1")?);
    let mut context = 0usize;
    call!(program, cuInit(0 => u32));
    call!(program, cuCtxCreate_v2(&raw mut context => *mut usize, 0 => u32, 0 => i32));
    let function = program.function()?;
    let launch = |name: &str, rounds: u64, pause: u64| {
        call!(program, cuCtxSetCurrent(context => usize));
        for round in 1..=rounds {
            program.launch_of(SHORT, name, function, 0)?;
            if pause > 0 && round % pause == 0 {
                std::thread::sleep(std::time::Duration::from_micros(700));
            }
        }
        Ok(rounds)
    };
    let (plain, own) = ("cuLaunchKernel", "cuLaunchKernel_ptsz");
    let kernels: anyhow::Result<u64> = std::thread::scope(|scope| {
        let works = [(plain, EACH, 0), (plain, EACH, 0), (own, EACH, 0), (own, EACH, 7), (plain, 30, 0)];
        let threads: Vec<_> =
            works.map(|(name, rounds, pause)| scope.spawn(move || launch(name, rounds, pause))).into();
        threads.into_iter().map(|t| t.join().map_err(|_| anyhow::anyhow!("a thread panicked"))?).sum()
    });
    let kernels = kernels?;
    call!(program, cuCtxSynchronize());
    std::thread::sleep(std::time::Duration::from_millis(20));
    println!("{kernels}");
    Ok(())
}

pub(crate) fn threads_agree(_: &Bench) -> anyhow::Result<()> {
    let bench = Bench::in_virtual_time(1)?;
    let share = Share::open(&bench.share("s", 1000 * MIB, 60)?)?;
    let clock = bench.clock(0);
    let wrapper: Vec<&str> = clock.iter().map(String::as_str).collect();
    let out = Tenant::start(&bench, &wrapper, &["threads"])?.end()?;
    let kernels: u64 = out.trim().parse().with_context(|| format!("it said {out:?}"))?;
    let busy = bench.gpus()?.busy_nanos(&bench.uuid)?;
    let charged = share.usage.compute.account.charged.load(Ordering::Relaxed);
    println!("  {kernels} kernels: the GPU was busy for {busy} ns, {charged} are charged");
    ensure!(busy == kernels * SHORT, "{kernels} kernels took {busy} ns");
    // More it may be: between the events of one thread lie kernels of the others.
    ensure!(charged >= busy - busy / 20, "{charged} ns are charged for {busy}");
    Ok(())
}
