//! The limiter's files as they are shipped: linked by zig against glibc 2.17, for both processors.
//!
//! Nothing runs when they are loaded, and nothing is printed if they ever panic. Rust's standard library brings a
//! constructor, which remembers the program's arguments, and a panic's message with its backtrace, which is a third of a
//! file; a linker script drops the one and ends the process in place of the other. The script names symbols of the
//! standard library, whose names change with the compiler: they are read from it.

use std::ffi::OsString;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context, ensure};

use crate::cargo;
use crate::zig::ensure_zig;

/// Oldest glibc they run with.
const GLIBC: &str = "2.17";
/// Processors by Rust's name.
const PROCESSORS: [&str; 2] = ["x86_64", "aarch64"];
const PACKAGES: [&str; 3] = ["vgpu-cuda-shim", "vgpu-nvml-shim", "vgpu-preload"];
const FILES: [&str; 3] = ["libvgpu_cuda_shim.so", "libvgpu_nvml_shim.so", "libvgpu_preload.so"];

/// Where panics and failed allocations end, in the standard library.
const ENDS: [&str; 4] = [
    "17rust_begin_unwind",
    "26___rust_alloc_error_handler",
    "17___rust_drop_panic",
    "24___rust_foreign_exception",
];
/// What ends the process without a word.
const ABORT: &str = "12___rust_abort";
/// What stands before those names: the module they are in, after the compiler's own hash.
const MODULE: &str = "_7___rustc";

#[derive(clap::Args)]
pub(crate) struct Args {}

pub(crate) fn run(_: &Args) -> anyhow::Result<std::process::ExitCode> {
    let built = build()?;
    for processor in PROCESSORS {
        match built.lacks(processor) {
            Some(why) => println!("{processor}: not built: {why}"),
            None => {
                for file in FILES {
                    let path = built.folder.join(processor).join(file);
                    println!("{}: {} bytes", path.display(), fs::metadata(&path)?.len());
                }
            }
        }
    }
    Ok(std::process::ExitCode::SUCCESS)
}

/// What was built, by processor.
pub(crate) struct Built {
    folder: PathBuf,
    lacking: Vec<(&'static str, String)>,
}

impl Built {
    fn lacks(&self, processor: &str) -> Option<&str> {
        self.lacking.iter().find(|(p, _)| *p == processor).map(|(_, why)| why.as_str())
    }

    /// What tests are told: the folder with one folder per processor, and why one is not there.
    pub(crate) fn environment(&self) -> Vec<(String, OsString)> {
        let mut all = vec![("VGPU_LIMITER".to_owned(), self.folder.clone().into())];
        let lacking = self.lacking.iter();
        all.extend(lacking.map(|(p, why)| (format!("VGPU_LIMITER_LACKS_{}", p.to_uppercase()), why.into())));
        all
    }
}

/// Builds what can be built here.
///
/// # Errors
/// The sources do not compile. What this machine lacks is no error but in [`Built`].
pub(crate) fn build() -> anyhow::Result<Built> {
    let folder =
        cargo::artifacts()?.parent().context("the artifacts lie in the target folder")?.join("limiter");
    let mut built = Built { folder, lacking: Vec::new() };
    let zig = ensure_zig();
    for processor in PROCESSORS {
        let target = format!("{processor}-unknown-linux-gnu");
        let ready = match &zig {
            Ok(zig) => standard_library(&target).map(|library| (zig, library)),
            Err(error) => Err(anyhow::anyhow!("zig cannot be had: {error:#}")),
        };
        match ready {
            Ok((zig, library)) => {
                build_for(processor, &target, zig, &library, &built.folder)
                    .with_context(|| format!("the limiter for {processor}"))?;
            }
            Err(error) => {
                let why = format!("{error:#}").lines().collect::<Vec<_>>().join(" ");
                // Files of an earlier build must not be taken for this one's.
                let _ = fs::remove_dir_all(built.folder.join(processor));
                eprintln!("  the limiter for {processor} is not built: {why}");
                built.lacking.push((processor, why));
            }
        }
    }
    Ok(built)
}

fn output(command: &mut Command) -> anyhow::Result<String> {
    let name = command.get_program().to_string_lossy().into_owned();
    let out = command.stdin(Stdio::null()).output().with_context(|| format!("cannot start {name}"))?;
    ensure!(out.status.success(), "{name} said: {}", String::from_utf8_lossy(&out.stderr).trim());
    Ok(String::from_utf8_lossy(&out.stdout).trim().to_owned())
}

/// Rust's standard library for a target, installed if it is not.
fn standard_library(target: &str) -> anyhow::Result<PathBuf> {
    let find = || -> anyhow::Result<Option<PathBuf>> {
        let mut rustc = Command::new("rustc");
        rustc.current_dir(cargo::root()).args(["--print", "target-libdir", "--target", target]);
        let folder = PathBuf::from(output(&mut rustc)?);
        let mut files = fs::read_dir(folder).into_iter().flatten().flatten().map(|entry| entry.path());
        Ok(files.find(|path| {
            let name = path.file_name().unwrap_or_default().to_string_lossy();
            name.starts_with("libstd-") && name.ends_with(".rlib")
        }))
    };
    if let Some(found) = find()? {
        return Ok(found);
    }
    eprintln!("  installing Rust's standard library for {target}");
    output(Command::new("rustup").current_dir(cargo::root()).args(["target", "add", target]))?;
    find()?.with_context(|| format!("there is no standard library for {target}"))
}

fn build_for(processor: &str, target: &str, zig: &Path, library: &Path, to: &Path) -> anyhow::Result<()> {
    let folder = to.join(processor);
    fs::create_dir_all(&folder).with_context(|| format!("cannot create {}", folder.display()))?;
    let write = |name: &str, content: String| -> anyhow::Result<PathBuf> {
        let path = folder.join(name);
        // An unchanged file keeps its age: cargo links again when the linker is newer.
        if fs::read_to_string(&path).ok().as_deref() != Some(&content) {
            fs::write(&path, content).with_context(|| format!("cannot write {}", path.display()))?;
        }
        Ok(path)
    };
    let script = write("limiter.ld", script(&fs::read(library)?)?)?;
    let linker = write("zig-cc", linker(zig, processor))?;
    fs::set_permissions(&linker, std::os::unix::fs::PermissionsExt::from_mode(0o755))?;
    let upper = target.to_uppercase().replace('-', "_");
    // Of its own for each: build scripts of this machine's are linked as the target's, where both are one.
    let build = to.join("build").join(processor);
    let mut command = cargo::command();
    command.args(["build", "--profile", "limiter", "--target", target, "--target-dir"]).arg(&build);
    for package in PACKAGES {
        command.args(["--package", package]);
    }
    let zig_cache = vgpu_programs::cache_folder().join("zig-cache");
    command
        .env("CC", &linker)
        .env(format!("CARGO_TARGET_{upper}_LINKER"), &linker)
        .env("RUSTFLAGS", format!("-C link-arg=-Wl,-T,{}", script.display()))
        .env("ZIG_GLOBAL_CACHE_DIR", &zig_cache)
        .env("ZIG_LOCAL_CACHE_DIR", &zig_cache)
        .env_remove("CARGO_ENCODED_RUSTFLAGS")
        .stdout(Stdio::from(std::io::stderr()));
    eprintln!("  cargo build --profile limiter --target {target}");
    let status = command.status().context("cannot start cargo")?;
    ensure!(status.success(), "cargo build --profile limiter --target {target} failed");
    for file in FILES {
        let from = build.join(target).join("limiter").join(file);
        fs::copy(&from, folder.join(file)).with_context(|| format!("cannot copy {}", from.display()))?;
    }
    Ok(())
}

/// Zig called as rustc calls a C compiler. Its unwinder stands for gcc's, which not every container has.
fn linker(zig: &Path, processor: &str) -> String {
    format!(
        "#!/bin/sh
for a do
  shift
  case $a in
    -lgcc_s) set -- \"$@\" -lunwind ;;
    --target=*) ;;
    *) set -- \"$@\" \"$a\" ;;
  esac
done
exec '{}' cc -target {processor}-linux-gnu.{GLIBC} \"$@\"
",
        zig.display()
    )
}

/// The linker script, given the standard library's bytes.
fn script(library: &[u8]) -> anyhow::Result<String> {
    let mut lines =
        vec!["SECTIONS { /DISCARD/ : { *(.init_array .init_array.*) } } INSERT BEFORE .text;".to_owned()];
    let abort = symbol(library, ABORT)?;
    for end in ENDS {
        lines.push(format!("{} = {abort};", symbol(library, end)?));
    }
    lines.push(String::new());
    Ok(lines.join("\n"))
}

/// The whole name of a symbol of [`MODULE`].
fn symbol(library: &[u8], name: &str) -> anyhow::Result<String> {
    let tail = format!("{MODULE}{name}\0");
    let at = library.windows(tail.len()).position(|window| window == tail.as_bytes());
    let at =
        at.with_context(|| format!("Rust's standard library has no {name}: this compiler's is another"))?;
    let start = library[..at].iter().rposition(|byte| !byte.is_ascii_alphanumeric() && *byte != b'_');
    let start = start.map_or(0, |before| before + 1);
    let whole = std::str::from_utf8(&library[start..at + tail.len() - 1]).context("a symbol in ASCII")?;
    // A section of that name begins with a dot, which is not part of it.
    ensure!(whole.starts_with("_RNvC"), "Rust's standard library has {whole}, of another scheme");
    Ok(whole.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn symbols_are_found_whatever_the_compilers_hash() {
        let mut library = Vec::new();
        for name in ENDS.iter().chain([&ABORT]) {
            library
                .extend(format!(".text._RNvCsQ1{MODULE}{name}x\0.text.\0_RNvCsQ1{MODULE}{name}\0").bytes());
        }
        let script = script(&library).unwrap();
        assert!(
            script.contains("\n_RNvCsQ1_7___rustc17rust_begin_unwind = _RNvCsQ1_7___rustc12___rust_abort;\n")
        );
        assert_eq!(script.lines().count(), 5);
        assert!(super::script(b"nothing").is_err());
    }
}
