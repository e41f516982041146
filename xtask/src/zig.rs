//! Zig, as a linker for any glibc: fetched once from PyPI into the cache folder, as a wheel of a pinned version.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, bail, ensure};

/// The wheel's version; the folder in the cache is called after it.
const VERSION: &str = "0.13.0.post1";

/// The program, fetched if it is not there.
///
/// # Errors
/// There is no Python with pip, or the wheel cannot be had.
pub(crate) fn ensure_zig() -> anyhow::Result<PathBuf> {
    let cache = vgpu_programs::cache_folder();
    let folder = cache.join(format!("zig-{VERSION}"));
    let program = folder.join("ziglang/zig");
    if program.is_file() {
        return Ok(program);
    }
    // Two runs at once both fetch it, and the first to end gives the folder its name.
    let own = cache.join(format!("zig-{VERSION}-{}", std::process::id()));
    fs::create_dir_all(&own).with_context(|| format!("cannot create {}", own.display()))?;
    let fetched = fetch(&own);
    if fetched.is_ok() {
        // Fails if another run was faster.
        let _ = fs::rename(&own, &folder);
    }
    let _ = fs::remove_dir_all(&own);
    fetched?;
    ensure!(program.is_file(), "the wheel ziglang {VERSION} holds no zig");
    Ok(program)
}

fn fetch(folder: &Path) -> anyhow::Result<()> {
    eprintln!("  fetching zig {VERSION} (80 MB) from PyPI");
    let mut pip = Command::new("python3");
    pip.args([
        "-m",
        "pip",
        "download",
        "--quiet",
        "--no-deps",
        "--no-cache-dir",
        "--only-binary=:all:",
        "--dest",
    ]);
    run("pip", pip.arg(folder).arg(format!("ziglang=={VERSION}")))?;
    let wheel = fs::read_dir(folder)?
        .filter_map(|entry| Some(entry.ok()?.path()))
        .find(|path| path.extension().is_some_and(|e| e == "whl"))
        .context("pip left no wheel")?;
    run("unpacking zig", Command::new("python3").args(["-m", "zipfile", "-e"]).arg(&wheel).arg(folder))?;
    fs::remove_file(wheel)?;
    let program = folder.join("ziglang/zig");
    let mode = std::os::unix::fs::PermissionsExt::from_mode(0o755);
    fs::set_permissions(&program, mode)
        .with_context(|| format!("cannot make {} a program", program.display()))
}

/// Runs to the end, with a line every quarter minute.
fn run(what: &str, command: &mut Command) -> anyhow::Result<()> {
    let start = Instant::now();
    let mut child = command
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .with_context(|| format!("cannot start {what}"))?;
    let mut told = 0;
    let status = loop {
        if let Some(status) = child.try_wait()? {
            break status;
        }
        std::thread::sleep(Duration::from_millis(100));
        let quarters = start.elapsed().as_secs() / 15;
        if quarters > told {
            told = quarters;
            eprintln!("  {what}: {} s", start.elapsed().as_secs());
        }
    };
    if status.success() {
        return Ok(());
    }
    let said = child.stderr.take().map(std::io::read_to_string).transpose()?.unwrap_or_default();
    bail!("{what} ended with {status}: {}", said.trim().lines().last().unwrap_or_default())
}
