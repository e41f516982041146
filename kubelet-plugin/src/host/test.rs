//! A node that needs no privilege, and that can be killed at any step.

use std::collections::BTreeSet;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

use super::*;

/// Mounts of a [`TestHost`], which outlive it as those of a node outlive the plugin.
pub(crate) type Mounts = Arc<Mutex<BTreeSet<PathBuf>>>;

/// As [`LinuxHost`], but a mount is only a note, and from the step `dies_at` on every step fails. Of that step itself
/// nothing is done, or half when `half` is set.
#[derive(Debug, Clone, Default)]
pub(crate) struct TestHost {
    pub(crate) mounts: Mounts,
    pub(crate) dies_at: Option<usize>,
    pub(crate) half: bool,
    pub(crate) steps: Arc<AtomicUsize>,
}

enum Step {
    Whole,
    Half,
}

impl TestHost {
    fn step(&self) -> io::Result<Step> {
        let step = self.steps.fetch_add(1, Ordering::Relaxed);
        match self.dies_at {
            Some(last) if step == last && self.half => Ok(Step::Half),
            Some(last) if step >= last => Err(io::Error::other("killed")),
            _ => Ok(Step::Whole),
        }
    }

    fn whole_or(
        &self,
        half: impl FnOnce() -> io::Result<()>,
        whole: impl FnOnce() -> io::Result<()>,
    ) -> io::Result<()> {
        match self.step()? {
            Step::Whole => whole(),
            Step::Half => half().and(Err(io::Error::other("killed half way"))),
        }
    }

    fn half_written(path: &Path, bytes: &[u8]) -> io::Result<()> {
        fs::write(temporary(path), &bytes[..bytes.len() / 2])
    }
}

impl Host for TestHost {
    fn replace(&self, path: &Path, bytes: &[u8], mode: u32) -> io::Result<()> {
        self.whole_or(|| Self::half_written(path, bytes), || LinuxHost.replace(path, bytes, mode))
    }
    // Nobody cuts the power of a test, and hundreds of kills would wait for the disk.
    fn store(&self, path: &Path, bytes: &[u8], mode: u32) -> io::Result<()> {
        self.whole_or(|| Self::half_written(path, bytes), || LinuxHost.replace(path, bytes, mode))
    }
    fn rewrite(&self, path: &Path, change: &dyn Fn(&File) -> io::Result<()>) -> io::Result<()> {
        self.whole_or(|| Ok(()), || LinuxHost.rewrite(path, change))
    }
    fn remove(&self, path: &Path) -> io::Result<()> {
        // Half of a removal is a removal nobody was told of.
        self.whole_or(|| LinuxHost.remove(path), || LinuxHost.remove(path))
    }
    fn make_fifo(&self, path: &Path) -> io::Result<()> {
        self.whole_or(|| Ok(()), || LinuxHost.make_fifo(path))
    }
    fn make_folder(&self, path: &Path) -> io::Result<()> {
        let parent = path.parent().unwrap_or(path);
        self.whole_or(|| LinuxHost.make_folder(parent), || LinuxHost.make_folder(path))
    }
    fn remove_folder(&self, path: &Path) -> io::Result<()> {
        if self.mounts.lock().unwrap().iter().any(|m| m.starts_with(path)) {
            return Err(io::Error::new(io::ErrorKind::ResourceBusy, "something is mounted in it"));
        }
        let first = || fs::read_dir(path).into_iter().flatten().flatten().map(|e| e.path()).min();
        self.whole_or(
            || first().map_or(Ok(()), |p| LinuxHost.remove_folder(&p).or_else(|_| fs::remove_file(p))),
            || LinuxHost.remove_folder(path),
        )
    }
    fn mount_tmpfs(&self, path: &Path, _size: u64) -> io::Result<()> {
        let mount = || {
            self.mounts.lock().unwrap().insert(path.to_owned());
            Ok(())
        };
        self.whole_or(mount, mount)
    }
    fn unmount(&self, path: &Path) -> io::Result<()> {
        let unmount = || {
            // What lay on it is gone.
            if self.mounts.lock().unwrap().remove(path) {
                fs::remove_dir_all(path)?;
                fs::create_dir(path)?;
            }
            Ok(())
        };
        self.whole_or(unmount, unmount)
    }
    fn is_mounted(&self, path: &Path) -> bool {
        self.mounts.lock().unwrap().contains(path)
    }
}
