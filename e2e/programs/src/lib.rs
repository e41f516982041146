//! What a local cluster needs of its machine, and its programs, built from pinned Go modules into a cache folder.
//!
//! `kube` is etcd, kube-apiserver, kube-controller-manager, kube-scheduler, kubelet and kubectl in one binary; helm
//! comes from the same module, so both share compiled packages. containerd and the CNI plugins come from a second one.
//! runc is the distribution's. The folder's name is a hash of everything that decides what is built, so a change of
//! pins builds anew and an unchanged one costs nothing; a build that dies leaves nothing that looks finished.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::time::{Duration, Instant};

use sha2::{Digest, Sha256};

pub mod machine;
mod step;

use step::Step;

/// Go release the pinned modules need, as (major, minor).
const GO: (u32, u32) = (1, 26);

/// Why the programs cannot be had. The text says what to do.
#[derive(Debug, thiserror::Error)]
pub enum ProgramsError {
    /// A tool is missing or too old.
    #[error("{tool} is missing: {cure}")]
    Missing {
        /// The tool.
        tool: &'static str,
        /// How to get it.
        cure: String,
    },
    /// A build failed.
    #[error("building {what} failed (its output is in {log}): {tail}")]
    Build {
        /// What was built.
        what: &'static str,
        /// File with the whole output.
        log: String,
        /// Its last lines.
        tail: String,
    },
    /// A file or folder of the cache.
    #[error("cannot {action} {path}")]
    Io {
        /// What was tried.
        action: &'static str,
        /// On what.
        path: PathBuf,
        /// Why not.
        source: io::Error,
    },
}

/// Built programs.
#[derive(Debug, Clone)]
pub struct Programs {
    folder: PathBuf,
    runc: PathBuf,
}

/// `$XDG_CACHE_HOME/vgpu-dra`, or `~/.cache/vgpu-dra`.
pub fn cache_folder() -> PathBuf {
    let base = std::env::var_os("XDG_CACHE_HOME").filter(|v| !v.is_empty()).map(PathBuf::from);
    let home = || PathBuf::from(std::env::var_os("HOME").unwrap_or_else(|| "/root".into())).join(".cache");
    base.unwrap_or_else(home).join("vgpu-dra")
}

impl Programs {
    /// Builds what is missing. `say` gets a line when a build begins, every quarter minute, and when it ends.
    ///
    /// # Errors
    /// [`ProgramsError`]: no Go, no runc and no way to install it, or a build that failed.
    pub fn ensure(say: &(dyn Fn(&str) + Sync)) -> Result<Self, ProgramsError> {
        let go = go_version()?;
        let runc = ensure_runc(say)?;
        let cache = cache_folder();
        create_dir(&cache)?;
        let folder = cache.join(format!("programs-{}", fingerprint(&go)?));
        let lock = cache.join("programs.lock");
        let lock = fs::File::create(&lock).map_err(io_error("create", &lock))?;
        // Two runs at once: the second waits and finds everything built. The kernel drops the lock with its holder.
        rustix::fs::flock(&lock, rustix::fs::FlockOperation::LockExclusive)
            .map_err(|e| io_error("lock", &cache)(e.into()))?;
        if !folder.join("complete").exists() {
            create_dir(&folder)?;
            for step in Step::ALL {
                step.build(&folder, say)?;
            }
            link_names(&folder)?;
            let done = folder.join("complete");
            fs::write(&done, "").map_err(io_error("write", &done))?;
        }
        Ok(Self { folder, runc })
    }

    /// Whether they are there or can be built, in a moment.
    ///
    /// # Errors
    /// [`ProgramsError::Missing`]: no Go.
    pub fn check() -> Result<(), ProgramsError> {
        go_version().map(drop)
    }

    /// The folder with `kube` under each of its names, containerd, its shim and ctr, helm; `cni/` beside them.
    pub fn folder(&self) -> &Path {
        &self.folder
    }

    /// One program of [`Self::folder`].
    pub fn path(&self, name: &str) -> PathBuf {
        self.folder.join(name)
    }

    /// The distribution's runc.
    pub fn runc(&self) -> &Path {
        &self.runc
    }
}

/// Folder of the Go modules.
fn sources() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("this crate lies in e2e")
}

fn io_error<'a>(action: &'static str, path: &'a Path) -> impl FnOnce(io::Error) -> ProgramsError + 'a {
    move |source| ProgramsError::Io { action, path: path.to_owned(), source }
}

fn create_dir(path: &Path) -> Result<(), ProgramsError> {
    fs::create_dir_all(path).map_err(io_error("create", path))
}

/// `kube` runs as whichever program it is called.
fn link_names(folder: &Path) -> Result<(), ProgramsError> {
    let names = ["etcd", "kube-apiserver", "kube-controller-manager", "kube-scheduler", "kubelet", "kubectl"];
    for name in names {
        let link = folder.join(name);
        match std::os::unix::fs::symlink("kube", &link) {
            Err(e) if e.kind() != io::ErrorKind::AlreadyExists => return Err(io_error("link", &link)(e)),
            _ => {}
        }
    }
    Ok(())
}

fn go_version() -> Result<String, ProgramsError> {
    let missing = |found: &str| ProgramsError::Missing {
        tool: "Go",
        cure: format!("install Go {}.{} or newer and put it on PATH{found}", GO.0, GO.1),
    };
    let out = Command::new("go").arg("version").output().map_err(|_| missing(""))?;
    let text = String::from_utf8_lossy(&out.stdout).trim().to_owned();
    let version = text.split_whitespace().find_map(|w| w.strip_prefix("go1.")).unwrap_or_default();
    let minor: u32 = version.split(['.', '-', 'r', 'b']).next().and_then(|m| m.parse().ok()).unwrap_or(0);
    if minor >= GO.1 { Ok(text) } else { Err(missing(&format!("; found: {text}"))) }
}

/// Finds runc, or installs the distribution's package, which is announced first.
fn ensure_runc(say: &(dyn Fn(&str) + Sync)) -> Result<PathBuf, ProgramsError> {
    if let Some(found) = find_runc() {
        return Ok(found);
    }
    let missing = |why: &str| ProgramsError::Missing {
        tool: "runc",
        cure: format!("install the package runc of your distribution{why}"),
    };
    if !rustix::process::geteuid().is_root() || !Path::new("/usr/bin/apt-get").exists() {
        return Err(missing(""));
    }
    say("installing the Debian package runc (apt-get install runc)");
    let apt = |args: &[&str]| -> io::Result<Output> {
        Command::new("apt-get")
            .args(args)
            .env("DEBIAN_FRONTEND", "noninteractive")
            .stdin(Stdio::null())
            .output()
    };
    let install = ["install", "-y", "--no-install-recommends", "runc"];
    let mut done = apt(&install);
    if !done.as_ref().is_ok_and(|o| o.status.success()) {
        // A fresh image has no package lists yet.
        let _ = apt(&["update"]);
        done = apt(&install);
    }
    find_runc().ok_or_else(|| match done {
        Ok(out) => missing(&format!("; apt-get said: {}", String::from_utf8_lossy(&out.stderr).trim())),
        Err(e) => missing(&format!("; apt-get did not start: {e}")),
    })
}

fn find_runc() -> Option<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let folders = std::env::split_paths(&path).chain(["/usr/sbin".into(), "/usr/bin".into(), "/sbin".into()]);
    folders.map(|f| f.join("runc")).find(|p| p.is_file())
}

/// Hash over everything that decides what is built.
fn fingerprint(go: &str) -> Result<String, ProgramsError> {
    let mut hash = Sha256::new();
    hash.update(go);
    for step in Step::ALL {
        hash.update(step.describe());
    }
    for file in ["kube/go.mod", "kube/go.sum", "kube/main.go", "node-tools/go.mod", "node-tools/go.sum"] {
        let path = sources().join(file);
        hash.update(fs::read(&path).map_err(io_error("read", &path))?);
    }
    Ok(hash.finalize().iter().take(8).map(|b| format!("{b:02x}")).collect())
}

/// Waits for a child and says every quarter minute that it still runs.
fn wait(child: &mut std::process::Child, what: &str, say: &(dyn Fn(&str) + Sync)) -> io::Result<bool> {
    let start = Instant::now();
    let mut told = 0;
    loop {
        if let Some(status) = child.try_wait()? {
            return Ok(status.success());
        }
        std::thread::sleep(Duration::from_millis(200));
        let quarters = start.elapsed().as_secs() / 15;
        if quarters > told {
            told = quarters;
            say(&format!("building {what}: {} s", start.elapsed().as_secs()));
        }
    }
}
