//! The C compiler, for programs that find the driver as no Rust program would.

use std::path::{Path, PathBuf};
use std::process::Command;

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

/// Compiles files of `routes/` into the bench's folder, linked against the driver's library or not.
pub(crate) fn build(
    bench: &Bench,
    output: &str,
    sources: &[&str],
    flags: &[&str],
    is_linked: bool,
) -> anyhow::Result<PathBuf> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/routes");
    let path = bench.room().join(output);
    let mut command = Command::new(name());
    command.args(["-O1", "-Wall", "-o"]).arg(&path).args(sources.iter().map(|s| folder.join(s))).args(flags);
    if is_linked {
        // The real file: what the linker writes down is the name in it.
        let [real, plain] = ["libcuda-real.so", "libcuda.so.1"].map(|n| bench.libraries().join(n));
        command.arg(if real.exists() { real } else { plain });
    }
    let out = command.arg("-ldl").output().with_context(|| format!("cannot start {}", name()))?;
    ensure!(out.status.success(), "{output}: {}", String::from_utf8_lossy(&out.stderr));
    Ok(path)
}
