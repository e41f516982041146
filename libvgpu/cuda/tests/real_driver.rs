//! The limiter over NVIDIA's own driver libraries, on a machine without a GPU: each of their functions is reached, those
//! with a hook by every route through it, and the answers are the ones the libraries give alone. And under NVIDIA's own
//! clients: CUDA's runtimes over these libraries and over the fake driver, nvidia-smi over the fake NVML.
//!
//! The files of two branches are Debian's packages, fetched once into the cache; where they cannot be had, the tests are
//! skipped with the reason.

mod bench;
#[path = "routes/call.rs"]
mod call;
#[path = "routes/compiler.rs"]
mod compiler;
#[path = "routes/packages.rs"]
mod packages;
#[path = "routes/probe.rs"]
mod probe;
#[path = "routes/route.rs"]
mod route;

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::{Context, ensure};

use bench::{Bench, Case, Form, MIB, run_cases, until};
use route::{Program, ROUTES, Route};

/// Branch, and the release of Debian that has it.
const BRANCHES: [(&str, &str); 2] = [("535", "bookworm"), ("550", "trixie")];
const FORMS: [(Form, &str); 2] = [(Form::Shim, "shim"), (Form::Preload, "preload")];
/// Releases of CUDA's runtime on PyPI.
const RUNTIMES: [(&str, &str); 3] = [
    ("nvidia-cuda-runtime-cu11", "11.8.89"),
    ("nvidia-cuda-runtime-cu12", "12.9.79"),
    ("nvidia-cuda-runtime", "13.5.37"),
];

/// The two libraries of a branch.
#[derive(Debug, Clone)]
struct Driver {
    cuda: PathBuf,
    nvml: PathBuf,
}

impl Driver {
    fn fetch(suite: &str) -> Result<Self, String> {
        let library = |package, name| {
            packages::debian(suite, "non-free", package).and_then(|folder| packages::find(&folder, name))
        };
        let cuda = library("libcuda1", "libcuda.so.1")?;
        Ok(Self { cuda, nvml: library("libnvidia-ml1", "libnvidia-ml.so.1")? })
    }

    fn bench(&self, form: Form) -> anyhow::Result<Bench> {
        let bench = Bench::with(form)?;
        bench.put_driver(&self.cuda, &self.nvml)?;
        Ok(bench)
    }
}

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().collect();
    if let [_, first, rest @ ..] = &arguments[..]
        && first == "probe"
    {
        return probe::main(rest);
    }
    let is_listing = arguments.iter().any(|a| a == "--list");
    let asked = if is_listing { Err("only listed".to_owned()) } else { Ok(()) };
    let compiler = compiler::lacks();
    let mut cases =
        vec![Case::anywhere("apts_sources_are_read_in_both_notations", packages::check_notations)];
    for (branch, suite) in BRANCHES {
        let driver = asked.clone().and_then(|()| Driver::fetch(suite));
        let lacks = driver.as_ref().err().cloned();
        for (form, prefix) in FORMS {
            let case = |name: &str, test: fn(&Driver, Form) -> anyhow::Result<()>| {
                let driver = driver.clone();
                let run = move || test(&driver.map_err(anyhow::Error::msg)?, form);
                Case::new(format!("r{branch}::{prefix}::{name}"), run).lacking(lacks.as_deref())
            };
            cases.push(case("every_exported_function_is_reached", reached));
            cases.push(case("without_a_gpu_the_answers_are_the_drivers_own", answers));
            cases.push(case("each_route_leads_to_the_hooks", routes).lacking(compiler.as_deref()));
            let program = asked.clone().and_then(|()| packages::debian(suite, "non-free", "nvidia-smi"));
            let lacks = program.as_ref().err().cloned();
            let run = move || nvidia_smi(&program.map_err(anyhow::Error::msg)?, form);
            let case = Case::new(format!("r{branch}::{prefix}::nvidia_smi_shows_the_share"), run);
            cases.push(case.lacking(lacks.as_deref()));
        }
        cases.extend(runtimes(&format!("r{branch}"), &asked, &driver.map(Some), compiler.as_deref()));
    }
    cases.extend(runtimes("fake", &asked, &Ok(None), compiler.as_deref()));
    run_cases(cases)
}

/// CUDA's runtimes as clients of a driver, as libraries and linked into a program; `None` is the fake one.
fn runtimes(
    prefix: &str,
    asked: &Result<(), String>,
    driver: &Result<Option<Driver>, String>,
    compiler: Option<&str>,
) -> Vec<Case> {
    let mut cases = Vec::new();
    for (name, version) in RUNTIMES {
        let runtime = asked.clone().and_then(|()| packages::wheel(name, version));
        let lacks = driver.as_ref().err().or(runtime.as_ref().err()).cloned();
        for (what, test) in
            [("cuda_runtime", dynamic_runtime as Runtime), ("static_cuda_runtime", static_runtime)]
        {
            let (driver, runtime) = (driver.clone(), runtime.clone());
            let run = move || {
                let driver = driver.map_err(anyhow::Error::msg)?;
                test(driver.as_ref(), &runtime.map_err(anyhow::Error::msg)?, version)
            };
            let mut lacks = lacks.clone();
            if what == "static_cuda_runtime" {
                lacks = lacks.or(compiler.map(str::to_owned));
                // The package of CUDA 11 has the library alone.
                if version.starts_with("11.") {
                    continue;
                }
            }
            let case = Case::new(format!("{prefix}::{what}_{version}_gets_the_same_answers"), run);
            cases.push(case.lacking(lacks.as_deref()));
        }
    }
    cases
}

type Runtime = fn(Option<&Driver>, &Path, &'static str) -> anyhow::Result<()>;

/// What a probe says, as a tenant.
fn probe(bench: &Bench, arguments: &[&str]) -> anyhow::Result<String> {
    let own = std::env::current_exe()?;
    let out = bench.command(&[], &own, &[&["probe"], arguments].concat()).output()?;
    let error = String::from_utf8_lossy(&out.stderr).into_owned();
    ensure!(out.status.success(), "{arguments:?}: {} {error}", out.status);
    Ok(String::from_utf8(out.stdout)?)
}

fn text(path: &Path) -> anyhow::Result<&str> {
    path.to_str().context("a path in UTF-8")
}

/// Files the limiter and the driver's library are called by in a form.
fn files(form: Form, plain: &'static str, real: &'static str) -> (&'static str, &'static str) {
    match form {
        Form::Shim => (plain, real),
        Form::Preload => ("libvgpu_preload.so", plain),
        Form::Native => (plain, plain),
    }
}

fn reached(driver: &Driver, form: Form) -> anyhow::Result<()> {
    let bench = driver.bench(form)?;
    let artifacts = bench::artifacts()?;
    for (path, plain, real, shim) in [
        (&driver.cuda, "libcuda.so.1", "libcuda-real.so", "libvgpu_cuda_shim.so"),
        (&driver.nvml, "libnvidia-ml.so.1", "libnvidia-ml-real.so", "libvgpu_nvml_shim.so"),
    ] {
        let hooks = probe::exported(&bench::limiter(&artifacts, shim))?;
        let functions = probe::exported(path)?;
        let (limiter, below) = files(form, plain, real);
        let said = probe(&bench, &["symbols", plain, text(path)?])?;
        let mut seen = 0;
        for line in said.lines() {
            let (name, file) = line.split_once(' ').with_context(|| line.to_owned())?;
            let expected = if hooks.contains(name) { limiter } else { below };
            ensure!(file == expected, "{name} is in {file}, not in {expected}");
            seen += 1;
        }
        ensure!(seen == functions.len() && seen > 300, "{seen} of {} functions", functions.len());
        let hooked = functions.intersection(&hooks).count();
        println!("  {plain}: {seen} functions, {hooked} of them through the limiter");
    }
    Ok(())
}

fn answers(driver: &Driver, form: Form) -> anyhow::Result<()> {
    let native = probe(&driver.bench(Form::Native)?, &["answers"])?;
    let limited = probe(&driver.bench(form)?, &["answers"])?;
    let differing = native.lines().zip(limited.lines()).find(|(a, b)| a != b);
    ensure!(differing.is_none(), "alone and under the limiter: {differing:?}");
    let (alone, under) = (native.lines().count(), limited.lines().count());
    ensure!(alone == under && alone > 4000, "{alone} answers alone, {under} under the limiter");
    Ok(())
}

/// By base name and flavour: exported names with a hook.
fn hooked() -> BTreeSet<&'static str> {
    let lines = include_str!("../../generate/entry_points.tsv").lines().skip(1);
    let fields = lines.map(|line| line.split('\t').collect::<Vec<_>>());
    fields.filter(|f| f[5] != "pass").map(|f| f[4]).collect()
}

fn routes(driver: &Driver, form: Form) -> anyhow::Result<()> {
    let hooked = hooked();
    let native = driver.bench(Form::Native)?;
    let bench = driver.bench(form)?;
    let (limiter, below) = files(form, "libcuda.so.1", "libcuda-real.so");
    for route in &ROUTES {
        let (alone, _) = said(route, &native).with_context(|| format!("{} alone", route.name))?;
        let (code, files) = said(route, &bench).with_context(|| route.name)?;
        ensure!(code == alone, "{}: cuInit gives {code}, alone {alone}", route.name);
        let is_past = form == Form::Preload && route.program == Program::Plugin;
        for (name, file) in files {
            let base = name.strip_suffix("_ptsz").unwrap_or(&name);
            let expected = if route.absent.contains(&base) {
                "absent"
            } else if route.is_interposed && route.program == Program::Linked {
                "interposer.so"
            } else if hooked.contains(name.as_str()) && !is_past {
                limiter
            } else {
                below
            };
            // What comes with graphs' memory is absent too.
            let is_early = !route.absent.is_empty() && file == "absent" && base.starts_with("cuGraph");
            let is_early =
                is_early || (!route.absent.is_empty() && file == "absent" && base == "cuDeviceGraphMemTrim");
            ensure!(file == expected || is_early, "{}: {name} is in {file}, not in {expected}", route.name);
        }
    }
    Ok(())
}

/// What cuInit answers, and the file of each function.
fn said(route: &Route, bench: &Bench) -> anyhow::Result<(String, BTreeMap<String, String>)> {
    let out = route.client(bench)?.env("LOOK", "1").output()?;
    let error = String::from_utf8_lossy(&out.stderr).into_owned();
    let said = String::from_utf8_lossy(&out.stdout).into_owned();
    ensure!(out.status.success(), "{} {said} {error}", out.status);
    let mut files = BTreeMap::new();
    let mut code = String::new();
    for line in said.lines() {
        match line.split(' ').collect::<Vec<_>>()[..] {
            ["cuInit", answer] => code = answer.to_owned(),
            [name, flavour, file] => {
                let is_per_thread = route.arguments[0] == "dlopen-per-thread" && flavour == "1";
                let flavour = if is_per_thread { "_ptsz" } else { "" };
                files.insert(format!("{name}{flavour}"), file.to_owned());
            }
            _ => anyhow::bail!("it says {line}"),
        }
    }
    ensure!(!code.is_empty() && files.len() > 45, "it says {said}");
    Ok((code, files))
}

/// NVIDIA's program over the fake NVML: to people, and to programs.
fn nvidia_smi(folder: &Path, form: Form) -> anyhow::Result<()> {
    let bench = Bench::with(form)?;
    bench.share("s", 2000 * MIB, 0)?;
    // /usr/bin gets a link to it by a package that is not needed here.
    let program = folder.join("usr/lib/nvidia/current/nvidia-smi");
    let mut holder = bench.start("vgpu-workload", &["allocate", "--mib", "500", "--hold"])?;
    let say = |arguments: &[&str]| -> anyhow::Result<String> {
        let out = bench.command(&[], &program, arguments).output()?;
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        ensure!(out.status.success(), "{} {} {}", out.status, text(&out.stdout), text(&out.stderr));
        Ok(text(&out.stdout))
    };
    let held = until("it holds its memory", || Ok(bench.handed_out()? == 500 * MIB));
    let seen = held.and_then(|()| {
        let query = "--query-gpu=memory.total,memory.used,memory.free";
        Ok((say(&["-L"])?, say(&[query, "--format=csv,noheader,nounits"])?, say(&[])?))
    });
    holder.kill()?;
    holder.wait()?;
    let (list, query, table) = seen?;
    ensure!(list.contains(&bench.uuid), "{list}");
    ensure!(query.trim() == "2000, 500, 1500", "{query}");
    // The branches space it differently.
    let words = table.split_whitespace().collect::<Vec<_>>().join(" ");
    ensure!(words.contains("| 500MiB / 2000MiB |"), "{table}");
    Ok(())
}

/// A bench over a driver of NVIDIA's or the fake one, with a share.
fn over(driver: Option<&Driver>, form: Form) -> anyhow::Result<Bench> {
    let bench = driver.map_or_else(|| Bench::with(form), |driver| driver.bench(form))?;
    bench.share("s", 1 << 30, 0)?;
    Ok(bench)
}

/// It looks up some four hundred functions, and then finds no GPU, or no private table that it checks the driver by.
fn dynamic_runtime(driver: Option<&Driver>, folder: &Path, _: &str) -> anyhow::Result<()> {
    let name = |name: &std::ffi::OsStr| name.to_string_lossy().starts_with("libcudart.so.");
    let library = probe::find_file(folder, &name).context("the wheel has no libcudart")?;
    same(|form| probe(&over(driver, form)?, &["runtime", text(&library)?]))
}

/// The same from within the program.
fn static_runtime(driver: Option<&Driver>, folder: &Path, version: &str) -> anyhow::Result<()> {
    let file = |name: &'static str| probe::find_file(folder, &|n: &std::ffi::OsStr| n == name);
    let mut libraries = vec![file("libcudart_static.a").context("the wheel has no libcudart_static")?];
    libraries.extend(file("libculibos.a"));
    let mut flags = libraries.iter().map(|l| text(l)).collect::<Result<Vec<_>, _>>()?;
    flags.extend(["-lpthread", "-ldl", "-lrt"]);
    same(|form| {
        let bench = over(driver, form)?;
        let program = compiler::build(&bench, &format!("runtime-{version}"), &["runtime.c"], &flags, false)?;
        let out = bench.command(&[], &program, &[]).output()?;
        ensure!(out.status.success(), "{}", out.status);
        Ok(String::from_utf8(out.stdout)?)
    })
}

/// Whether a client gets the same answers without the limiter and under each of its forms.
fn same(ask: impl Fn(Form) -> anyhow::Result<String>) -> anyhow::Result<()> {
    let native = ask(Form::Native)?;
    println!("  {}", native.trim().replace('\n', "; "));
    for (form, prefix) in FORMS {
        let limited = ask(form)?;
        ensure!(limited == native, "{prefix}: {limited} alone: {native}");
    }
    Ok(())
}
