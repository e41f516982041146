//! Programs that have nothing to do with CUDA, and interpreters that have, under the preload object: they start and behave
//! as without it, and what does not go through glibc's loader does not meet it.
//!
//! Each runs twice, with and without the object named in its `/etc/ld.so.preload`.

mod bench;
#[path = "routes/compiler.rs"]
mod compiler;
#[path = "routes/packages.rs"]
mod packages;

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};

use anyhow::{Context, ensure};

use bench::{Bench, Case, Form, MIB, run_cases};

fn main() -> ExitCode {
    let compiler = compiler::lacks();
    let compiler = compiler.as_deref();
    let go = is_there("go", "version").or(compiler);
    let is_listing = std::env::args().any(|a| a == "--list");
    let musl = if is_listing { Err("only listed".to_owned()) } else { Musl::fetch() };
    let lacks_musl = musl.as_ref().err().cloned();
    run_cases(vec![
        Case::new("a_program_of_musl_does_not_meet_it", || musl_program(&musl.map_err(anyhow::Error::msg)?))
            .lacking(compiler)
            .lacking(lacks_musl.as_deref()),
        Case::new("python_starts_as_ever_and_nothing_of_it_is_changed", python)
            .lacking(is_there("python3", "-V")),
        Case::new("python_ctypes_sees_the_share", ctypes).lacking(is_there("python3", "-V")),
        Case::new("java_starts_as_ever", java).lacking(is_there("java", "-version")),
        Case::new("a_go_program_with_threads_and_signals_runs_as_ever", go_program).lacking(go),
        Case::new("an_interposer_named_after_it_finds_the_next_function", second).lacking(compiler),
        Case::new("an_allocator_that_looks_up_the_next_one_is_asked_for_nothing_meanwhile", allocator)
            .lacking(compiler),
        Case::new("a_static_program_does_not_meet_it", static_program).lacking(compiler),
        Case::new("an_emptied_environment_does_not_take_it_away", emptied).lacking(compiler),
    ])
}

/// A reason to skip, if a program is missing.
fn is_there(program: &str, argument: &str) -> Option<&'static str> {
    let started = Command::new(program).arg(argument).output();
    (!started.is_ok_and(|out| out.status.success())).then_some(match program {
        "python3" => "there is no python3",
        "java" => "there is no java",
        _ => "there is no go",
    })
}

/// Status, output and errors of a program under a form.
fn run(bench: &Bench, wrapper: &[&str], program: &Path, arguments: &[&str]) -> anyhow::Result<String> {
    let out = bench.command(wrapper, program, arguments).output()?;
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    Ok(format!("{}\n{}{}", out.status, text(&out.stdout), text(&out.stderr)))
}

/// The same under both: what a program says without the object, and with it.
fn both(program: &Path, arguments: &[&str]) -> anyhow::Result<(String, String)> {
    let under = |form| run(&Bench::with(form)?, &[], program, arguments);
    Ok((under(Form::Native)?, under(Form::Preload)?))
}

fn python() -> anyhow::Result<()> {
    let script = "
import os, sys, threading
print(oct(os.umask(0)), os.getcwd(), threading.active_count(), len(os.listdir('/proc/self/fd')))
print([l for l in open('/proc/self/status') if l.startswith(('Sig', 'Threads', 'Shd'))])
maps = open('/proc/self/maps').read()
print('libcuda' in maps, 'libnvidia' in maps)
print('libvgpu_preload' in maps, file=sys.stderr)
";
    let (without, with) = both(Path::new("python3"), &["-c", script])?;
    let (alone, beside) = (without.strip_suffix("False\n"), with.strip_suffix("True\n"));
    ensure!(alone.is_some() && alone == beside, "{without} {with}");
    Ok(())
}

fn ctypes() -> anyhow::Result<()> {
    let script = "
import ctypes
cuda, size = ctypes.CDLL('libcuda.so.1'), ctypes.c_size_t()
assert cuda.cuInit(0) == 0 and cuda.cuDeviceTotalMem_v2(ctypes.byref(size), 0) == 0
nvml, device = ctypes.CDLL('libnvidia-ml.so.1'), ctypes.c_void_p()
assert nvml.nvmlInit_v2() == 0 and nvml.nvmlDeviceGetHandleByIndex_v2(0, ctypes.byref(device)) == 0
memory = (ctypes.c_uint64 * 3)()
assert nvml.nvmlDeviceGetMemoryInfo(device, ctypes.byref(memory)) == 0
print(size.value, memory[0])
";
    for form in [Form::Shim, Form::Preload] {
        let bench = Bench::with(form)?;
        bench.share("s", 700 * MIB, 0)?;
        let said = run(&bench, &[], Path::new("python3"), &["-c", script])?;
        ensure!(said.ends_with(&format!("\n{} {}\n", 700 * MIB, 700 * MIB)), "{form:?}: {said}");
    }
    Ok(())
}

fn java() -> anyhow::Result<()> {
    let (without, with) = both(Path::new("java"), &["-Xshare:auto", "-version"])?;
    ensure!(without == with && with.contains("status: 0"), "{without} {with}");
    Ok(())
}

fn go_program() -> anyhow::Result<()> {
    let folder = tempfile::tempdir()?;
    let program = folder.path().join("hello");
    let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/routes/hello.go");
    let built = Command::new("go")
        .args(["build", "-o"])
        .arg(&program)
        .arg(source)
        .env("CGO_ENABLED", "1")
        .env("GOFLAGS", "-mod=mod")
        .output()?;
    ensure!(built.status.success(), "{}", String::from_utf8_lossy(&built.stderr));
    let (without, with) = both(&program, &[])?;
    ensure!(without == with && with.contains("user defined signal 1"), "{without} {with}");
    Ok(())
}

fn second() -> anyhow::Result<()> {
    let bench = Bench::with(Form::Preload)?;
    let library = compiler::build(&bench, "second.so", &["second.c"], &["-shared", "-fPIC"], false)?;
    let program = compiler::build(&bench, "hello", &["hello.c"], &[], false)?;
    let list = bench.room().join("etc/ld.so.preload");
    let named = fs::read_to_string(&list).context("the bench names the object")?;
    fs::write(&list, format!("{named}{}\n", library.display()))?;
    let said = run(&bench, &[], &program, &[])?;
    ensure!(said.ends_with("\nnext\nmapped\n"), "{said}");
    Ok(())
}

fn allocator() -> anyhow::Result<()> {
    let bench = Bench::with(Form::Preload)?;
    let flags = ["-shared", "-fPIC", "-fno-builtin"];
    let library = compiler::build(&bench, "allocator.so", &["allocator.c"], &flags, false)?;
    let program = compiler::build(&bench, "hello", &["hello.c"], &[], false)?;
    let said = run(&bench, &["env", &format!("LD_PRELOAD={}", library.display())], &program, &[])?;
    ensure!(said == "exit status: 0\nmapped\n", "{said}");
    Ok(())
}

fn static_program() -> anyhow::Result<()> {
    let bench = Bench::with(Form::Preload)?;
    let program = compiler::build(&bench, "hello-static", &["hello.c"], &["-static"], false)?;
    let said = run(&bench, &[], &program, &[])?;
    ensure!(said == "exit status: 0\nnot mapped\n", "{said}");
    Ok(())
}

/// Another C library than glibc, as Debian packs it.
struct Musl {
    loader: PathBuf,
    /// Headers and what programs are linked with.
    folder: PathBuf,
}

impl Musl {
    fn fetch() -> Result<Self, String> {
        let library = packages::debian("bookworm", "main", "musl")?;
        let loader = packages::find(&library, &format!("ld-musl-{}.so.1", std::env::consts::ARCH))?;
        Ok(Self { loader, folder: packages::debian("bookworm", "main", "musl-dev")? })
    }
}

/// Its loader does not read the list, which names an object that it could not load.
fn musl_program(musl: &Musl) -> anyhow::Result<()> {
    let bench = Bench::with(Form::Preload)?;
    let file = |name: &str| packages::find(&musl.folder, name).map_err(anyhow::Error::msg);
    let (first, before, after) = (file("Scrt1.o")?, file("crti.o")?, file("crtn.o")?);
    let headers = file("stdio.h")?;
    let headers = headers.parent().context("a header lies in a folder")?.display().to_string();
    let own = |path: &Path| path.display().to_string();
    let interpreter = format!("-Wl,-dynamic-linker,{}", own(&musl.loader));
    let (first, before, after, library) = (own(&first), own(&before), own(&after), own(&musl.loader));
    let flags = [
        "-nostdinc",
        "-isystem",
        &headers,
        "-nostdlib",
        "-nostartfiles",
        "-fno-stack-protector",
        "-pie",
        "-fPIE",
        &interpreter,
        &first,
        &before,
        &after,
        &library,
    ];
    let program = compiler::build(&bench, "hello-musl", &["hello.c"], &flags, false)?;
    let said = run(&bench, &[], &program, &[])?;
    ensure!(said == "exit status: 0\nnot mapped\n", "{said}");
    Ok(())
}

fn emptied() -> anyhow::Result<()> {
    let bench = Bench::with(Form::Preload)?;
    let program = compiler::build(&bench, "hello", &["hello.c"], &[], false)?;
    let said = run(&bench, &["env", "-i"], &program, &[])?;
    ensure!(said == "exit status: 0\nmapped\n", "{said}");
    Ok(())
}
