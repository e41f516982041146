//! Calls to cargo, and what they built.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::OnceLock;

use anyhow::{Context, bail, ensure};
use serde_json::Value;

/// The workspace's root folder.
pub(crate) fn root() -> &'static Path {
    static ROOT: OnceLock<PathBuf> = OnceLock::new();
    ROOT.get_or_init(|| {
        // Cargo says where this package is now; compiled in is where it was, before somebody moved or copied the folder.
        let own = std::env::var_os("CARGO_MANIFEST_DIR").unwrap_or_else(|| env!("CARGO_MANIFEST_DIR").into());
        Path::new(&own).parent().expect("xtask lies in the workspace").to_owned()
    })
}

/// A cargo command in the workspace's root.
pub(crate) fn command() -> Command {
    let mut cargo = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    cargo.current_dir(root());
    // What `cargo run` tells this program about its own package. Build scripts that watch it (ring's, for one) would run
    // again, and everything above them would compile again, whenever cargo is called without xtask in between.
    for (name, _) in std::env::vars_os() {
        if let Some(text) = name.to_str()
            && (text.starts_with("CARGO_PKG_") || text.starts_with("CARGO_MANIFEST_"))
        {
            cargo.env_remove(name);
        }
    }
    cargo
}

/// Runs cargo with its own output; an error names the arguments.
pub(crate) fn run(args: &[&str]) -> anyhow::Result<()> {
    eprintln!("  cargo {}", args.join(" "));
    let status =
        command().args(args).stdout(Stdio::from(std::io::stderr())).status().context("cannot start cargo")?;
    ensure!(status.success(), "cargo {} failed", args.join(" "));
    Ok(())
}

/// The folder binaries and shared objects of the dev profile land in.
pub(crate) fn artifacts() -> anyhow::Result<PathBuf> {
    let out = command()
        .args(["metadata", "--no-deps", "--format-version=1"])
        .output()
        .context("cannot start cargo")?;
    ensure!(out.status.success(), "cargo metadata: {}", String::from_utf8_lossy(&out.stderr));
    let metadata: Value = serde_json::from_slice(&out.stdout).context("cargo metadata is not JSON")?;
    let target = metadata["target_directory"].as_str().context("cargo metadata has no target_directory")?;
    Ok(Path::new(target).join("debug"))
}

/// One test executable.
#[derive(Debug, Clone)]
pub(crate) struct TestBinary {
    /// Package name.
    pub(crate) package: String,
    /// Target name: the file's stem under `tests/`, or the crate's name for unit tests.
    pub(crate) target: String,
    /// Whether it holds the unit tests of a library or program.
    pub(crate) unit: bool,
    /// The package's folder; tests run there.
    pub(crate) folder: PathBuf,
    /// The executable.
    pub(crate) path: PathBuf,
}

/// Builds every test of the workspace and lists the executables, in cargo's order.
pub(crate) fn test_binaries() -> anyhow::Result<Vec<TestBinary>> {
    let args = ["test", "--workspace", "--no-run", "--message-format=json-render-diagnostics"];
    eprintln!("  cargo {}", args[..3].join(" "));
    let out = command().args(args).stderr(Stdio::inherit()).output().context("cannot start cargo")?;
    if !out.status.success() {
        bail!("the tests do not compile");
    }
    let mut found = Vec::new();
    for line in out.stdout.split(|b| *b == b'\n').filter(|l| l.starts_with(b"{")) {
        let message: Value = serde_json::from_slice(line).context("cargo printed a line that is not JSON")?;
        if message["reason"] != "compiler-artifact" || message["profile"]["test"] != true {
            continue;
        }
        let Some(path) = message["executable"].as_str() else { continue };
        let manifest =
            Path::new(message["manifest_path"].as_str().context("an artifact without a manifest")?);
        let folder = manifest.parent().context("a manifest without a folder")?.to_owned();
        found.push(TestBinary {
            package: package_name(message["package_id"].as_str().unwrap_or_default(), &folder),
            target: message["target"]["name"].as_str().unwrap_or_default().to_owned(),
            unit: message["target"]["kind"][0] != "test",
            folder,
            path: path.into(),
        });
    }
    found.sort_by(|a, b| (&a.package, !a.unit, &a.target).cmp(&(&b.package, !b.unit, &b.target)));
    Ok(found)
}

/// `path+file:///.../api#vgpu-api@0.1.0` or `path+file:///.../xtask#0.1.0`.
fn package_name(id: &str, folder: &Path) -> String {
    let tail = id.rsplit('#').next().unwrap_or_default();
    match tail.split_once('@') {
        Some((name, _)) => name.to_owned(),
        None => folder.file_name().unwrap_or_default().to_string_lossy().into_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_package_id_gives_its_name_in_both_forms() {
        assert_eq!(package_name("path+file:///w/api#vgpu-api@0.1.0", Path::new("/w/api")), "vgpu-api");
        assert_eq!(package_name("path+file:///w/xtask#0.1.0", Path::new("/w/xtask")), "xtask");
    }
}
