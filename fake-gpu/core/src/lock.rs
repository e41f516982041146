//! Open-file-description locks on single bytes.
//!
//! They belong to an open file, not to a process: two openings in one process exclude each other, a forked child shares
//! its parent's, and the kernel drops them with the last descriptor, however its owner ended.

use std::fs::File;
use std::io;
use std::os::fd::AsRawFd;

fn range(file: &File, command: libc::c_int, kind: libc::c_int, byte: i64) -> io::Result<libc::flock> {
    // SAFETY: flock is plain data, for which all zeroes is a value.
    let mut range: libc::flock = unsafe { std::mem::zeroed() };
    range.l_type = kind as libc::c_short;
    range.l_whence = libc::SEEK_SET as libc::c_short;
    range.l_start = byte;
    range.l_len = 1;
    loop {
        // SAFETY: fcntl gets a descriptor that is open as long as `file` and a pointer to a live flock.
        let result = unsafe { libc::fcntl(file.as_raw_fd(), command, &raw mut range) };
        let error = io::Error::last_os_error();
        match result {
            0 => return Ok(range),
            _ if error.kind() == io::ErrorKind::Interrupted => {}
            _ => return Err(error),
        }
    }
}

/// Waits for a byte; a file that can only be read can only be locked against writers.
pub(crate) fn take(file: &File, byte: i64, writable: bool) -> io::Result<()> {
    let kind = if writable { libc::F_WRLCK } else { libc::F_RDLCK };
    range(file, libc::F_OFD_SETLKW, kind, byte).map(drop)
}

/// Takes a byte if nobody has it.
pub(crate) fn try_take(file: &File, byte: i64) -> bool {
    range(file, libc::F_OFD_SETLK, libc::F_WRLCK, byte).is_ok()
}

/// Gives a byte back.
pub(crate) fn give(file: &File, byte: i64) {
    // It can only fail for a descriptor that is not open; then the byte is free already.
    let _ = range(file, libc::F_OFD_SETLK, libc::F_UNLCK, byte);
}

/// Whether an opening of the file other than `probe` holds a byte. Not being able to know counts as held.
pub(crate) fn is_held(probe: &File, byte: i64) -> bool {
    let asked = range(probe, libc::F_OFD_GETLK, libc::F_WRLCK, byte);
    asked.map_or(true, |range| i32::from(range.l_type) != libc::F_UNLCK)
}
