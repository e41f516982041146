//! File locks between the instances of a node's plugin: one around everything that changes the node's state, one for the
//! instance that arbitrates.
//!
//! During an upgrade two instances of the plugin run side by side and the kubelet may call either, so a mutex would not
//! do. The kernel gives the lock back when its holder ends, however that happens.

use std::fs::{File, OpenOptions};
use std::io;
use std::path::{Path, PathBuf};

use rustix::fs::FlockOperation;

/// The lock file; it holds nothing and is never removed.
#[derive(Debug, Clone)]
pub struct FileLock {
    path: PathBuf,
}

/// Held until dropped.
#[derive(Debug)]
pub struct Held {
    _file: File,
}

impl FileLock {
    /// Names the file; it is made when first locked.
    pub fn new(path: impl AsRef<Path>) -> Self {
        Self { path: path.as_ref().to_owned() }
    }

    /// The lock file.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The lock, or `None` while another has it.
    pub fn try_lock(&self) -> io::Result<Option<Held>> {
        let file = OpenOptions::new().create(true).truncate(false).write(true).open(&self.path)?;
        match rustix::fs::flock(&file, FlockOperation::NonBlockingLockExclusive) {
            Err(rustix::io::Errno::WOULDBLOCK | rustix::io::Errno::INTR) => Ok(None),
            result => result.map(|()| Some(Held { _file: file })).map_err(Into::into),
        }
    }

    /// Waits for the lock. Each call opens the file anew, so threads exclude each other as processes do.
    pub fn lock(&self) -> io::Result<Held> {
        let file = OpenOptions::new().create(true).truncate(false).write(true).open(&self.path)?;
        loop {
            match rustix::fs::flock(&file, FlockOperation::LockExclusive) {
                Err(rustix::io::Errno::INTR) => {}
                result => return result.map(|()| Held { _file: file }).map_err(Into::into),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc;
    use std::time::Duration;

    use super::*;

    #[test]
    fn a_second_holder_waits_for_the_first() {
        let dir = tempfile::tempdir().unwrap();
        let lock = FileLock::new(dir.path().join("lock"));
        let first = lock.lock().unwrap();
        let (sender, receiver) = mpsc::channel();
        let other = lock.clone();
        let waiter = std::thread::spawn(move || {
            let _held = other.lock().unwrap();
            sender.send(()).unwrap();
        });
        assert!(receiver.recv_timeout(Duration::from_millis(50)).is_err());
        assert!(lock.try_lock().unwrap().is_none());
        drop(first);
        receiver.recv_timeout(Duration::from_secs(10)).unwrap();
        waiter.join().unwrap();
        assert!(lock.try_lock().unwrap().is_some());
    }
}
