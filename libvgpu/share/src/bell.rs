//! The bell of a share: a FIFO by which its processes wake the node's arbiter.
//!
//! What is in it means nothing: a byte says "look". The FIFO stays the same file for as long as the share is there, so
//! that one mounted into a container still leads to the arbiter after the plugin was started anew, as a socket would not;
//! and each share has its own, so that nobody can take or drown another's bytes.
//!
//! Ringing never waits and never fails. When nobody listens, or the FIFO is full, or it is not there (a share made by an
//! older plugin), nothing happens, and whoever waits for an answer looks again after
//! [`vgpu_core::compute::tuning::RECHECK`].

use std::ffi::CString;
use std::fs::{File, OpenOptions};
use std::io::{self, Read};
use std::os::fd::{AsRawFd, RawFd};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{FileTypeExt, OpenOptionsExt};
use std::path::Path;

/// Its name in a share's folder.
pub const NAME: &str = "bell";

/// Reads of one silencing: a process that rings without end does not keep the arbiter.
const READS: usize = 16;

/// A tenant's end.
#[derive(Debug)]
pub struct Rope(CString);

impl Rope {
    /// Of a bell that is there or not.
    pub fn to(path: &Path) -> Self {
        // A path with a zero in it leads nowhere.
        Self(CString::new(path.as_os_str().as_bytes()).unwrap_or_default())
    }

    /// Wakes the arbiter.
    pub fn ring(&self) {
        // For reading too: writing to a FIFO nobody reads is a signal that ends the program.
        let flags = libc::O_RDWR | libc::O_NONBLOCK | libc::O_CLOEXEC;
        // SAFETY: a C string. The descriptor is this call's own.
        let fd = unsafe { libc::open(self.0.as_ptr(), flags) };
        if fd < 0 {
            return;
        }
        let byte = 1u8;
        // SAFETY: a descriptor just opened, a local of one byte.
        unsafe {
            libc::write(fd, (&raw const byte).cast(), 1);
            libc::close(fd);
        }
    }
}

/// The arbiter's end.
#[derive(Debug)]
pub struct Bell(File);

impl Bell {
    /// Opens a bell to listen.
    ///
    /// # Errors
    /// Of open(2); another kind of file.
    pub fn open(path: &Path) -> io::Result<Self> {
        // For writing too: it must not end with its last ringer.
        let mut options = OpenOptions::new();
        let file =
            options.read(true).write(true).custom_flags(libc::O_NONBLOCK | libc::O_CLOEXEC).open(path)?;
        if !file.metadata()?.file_type().is_fifo() {
            return Err(io::Error::new(io::ErrorKind::InvalidInput, "it is no FIFO"));
        }
        Ok(Self(file))
    }

    /// To wait on: readable once it has rung.
    pub fn fd(&self) -> RawFd {
        self.0.as_raw_fd()
    }

    /// Whether it has rung since the last time.
    pub fn silence(&self) -> bool {
        let mut buffer = [0; 4096];
        let mut rang = false;
        for _ in 0..READS {
            match (&self.0).read(&mut buffer) {
                Ok(read) if read > 0 => rang = true,
                _ => break,
            }
        }
        rang
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn fifo(folder: &Path) -> std::path::PathBuf {
        let path = folder.join(NAME);
        let name = CString::new(path.as_os_str().as_bytes()).unwrap();
        // SAFETY: a C string.
        assert_eq!(unsafe { libc::mkfifo(name.as_ptr(), 0o666) }, 0);
        path
    }

    #[test]
    fn it_rings_once_for_many_pulls_and_again_for_a_new_listener() {
        let folder = tempfile::tempdir().unwrap();
        let path = fifo(folder.path());
        let (bell, rope) = (Bell::open(&path).unwrap(), Rope::to(&path));
        assert!(!bell.silence());
        (0..3).for_each(|_| rope.ring());
        assert!(bell.silence() && !bell.silence());
        drop(bell);
        let bell = Bell::open(&path).unwrap();
        rope.ring();
        assert!(bell.silence());
    }

    #[test]
    fn a_pull_nobody_hears_does_no_harm() {
        let folder = tempfile::tempdir().unwrap();
        let path = fifo(folder.path());
        Rope::to(&path).ring();
        Rope::to(&folder.path().join("none")).ring();
        // Full: pulls are dropped, and nobody waits.
        let (bell, rope) = (Bell::open(&path).unwrap(), Rope::to(&path));
        (0..70_000).for_each(|_| rope.ring());
        assert!(bell.silence());
    }

    #[test]
    fn what_is_no_fifo_is_no_bell() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join(NAME);
        std::fs::write(&path, "").unwrap();
        assert_eq!(Bell::open(&path).unwrap_err().kind(), io::ErrorKind::InvalidInput);
    }
}
