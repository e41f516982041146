//! The C compiler, for programs that find the driver as no Rust program would.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Mutex;

use anyhow::{Context, ensure};

use crate::bench::Bench;

fn name() -> String {
    std::env::var("CC").unwrap_or_else(|_| "cc".into())
}

/// Why nothing can be compiled here, if so.
pub(crate) fn lacks() -> Option<String> {
    let started = Command::new(name()).arg("--version").output();
    (!started.is_ok_and(|out| out.status.success())).then(|| format!("there is no C compiler {}", name()))
}

/// Compiles files of `routes/` once, linked against the driver's library or not. `output` names what comes of it.
pub(crate) fn build(
    bench: &Bench,
    output: &str,
    sources: &[&str],
    flags: &[&str],
    is_linked: bool,
) -> anyhow::Result<PathBuf> {
    static BUILT: Mutex<BTreeSet<PathBuf>> = Mutex::new(BTreeSet::new());
    // Each test program has its own: one may run while another is linked.
    let to = Path::new(env!("CARGO_TARGET_TMPDIR")).join(env!("CARGO_CRATE_NAME"));
    let path = to.join(output);
    let mut built = BUILT.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
    if built.contains(&path) {
        return Ok(path);
    }
    std::fs::create_dir_all(&to).with_context(|| to.display().to_string())?;
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/routes");
    let mut command = Command::new(name());
    command.args(["-O1", "-Wall", "-o"]).arg(&path).args(sources.iter().map(|s| folder.join(s))).args(flags);
    if is_linked {
        // The real file: what the linker writes down is the name in it.
        let [real, plain] = ["libcuda-real.so", "libcuda.so.1"].map(|n| bench.libraries().join(n));
        command.arg(if real.exists() { real } else { plain });
    }
    let out = command.arg("-ldl").output().with_context(|| format!("cannot start {}", name()))?;
    ensure!(out.status.success(), "{output}: {}", String::from_utf8_lossy(&out.stderr));
    built.insert(path.clone());
    Ok(path)
}
