//! The lock file: how a process shows others that it lives.
//!
//! A process holds one byte, at a random place, for as long as it lives; its runners' rows name that byte. The kernel
//! frees it however the process ends, so a byte that no process holds means a dead process, known at once. The file's
//! content says beside which database it lies (see `names.rs`).
//!
//! POSIX locks have two traps, both of which shape this code. A process that closes *any* descriptor of a file loses
//! all its locks on it: so the file is opened once, by the one store object of file and process. And a process never
//! sees its own locks: so it asks only about bytes that are not its own. They are not inherited by `fork`.

use std::fs::{File, OpenOptions};
use std::io;
use std::os::fd::AsRawFd;
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::Path;

use super::busy::random;

pub(super) struct LockFile {
    /// The open lock file. Closing any descriptor of it would free the lock.
    file: File,
    /// The byte this process holds.
    own: i64,
}

impl LockFile {
    /// Opens the file and takes a byte.
    pub(super) fn open(path: &Path) -> io::Result<Self> {
        let file = OpenOptions::new().read(true).write(true).create(true).truncate(false).mode(0o600).open(path)?;
        loop {
            let own = (random() & 0xffff_ffff_ffff) as i64;
            match fcntl(&file, libc::F_SETLK, own) {
                Ok(_) => return Ok(Self { file, own }),
                // One in 2^48: another process has that byte.
                Err(error) if matches!(error.raw_os_error(), Some(libc::EAGAIN | libc::EACCES)) => {}
                Err(error) => return Err(error),
            }
        }
    }

    /// Writes the file's content, if it is another one.
    pub(super) fn set_content(&self, note: &[u8]) -> io::Result<()> {
        let mut there = vec![0; note.len()];
        let same = self.file.metadata()?.len() == note.len() as u64
            && self.file.read_exact_at(&mut there, 0).is_ok()
            && there == note;
        if !same {
            self.file.write_all_at(note, 0)?;
            self.file.set_len(note.len() as u64)?;
        }
        Ok(())
    }

    pub(super) fn own(&self) -> i64 {
        self.own
    }

    /// Whether some process holds that byte. Our own counts as held; the kernel is asked only about others'.
    pub(super) fn is_held(&self, byte: i64) -> io::Result<bool> {
        Ok(byte == self.own || fcntl(&self.file, libc::F_GETLK, byte)?.l_type != libc::F_UNLCK as i16)
    }

    /// The process that holds another byte than ours, if it is one that has a number here: it may run in a container.
    #[cfg(target_os = "linux")]
    pub(super) fn holder(&self, byte: i64) -> Option<libc::pid_t> {
        let lock = fcntl(&self.file, libc::F_GETLK, byte).ok()?;
        (lock.l_type != libc::F_UNLCK as i16 && lock.l_pid > 0).then_some(lock.l_pid)
    }
}

/// Takes a byte or asks about it; answers the lock that stands in the way.
fn fcntl(file: &File, command: i32, byte: i64) -> io::Result<libc::flock> {
    // SAFETY: `flock` is a plain C structure for which all zeros is a valid value.
    let mut lock: libc::flock = unsafe { std::mem::zeroed() };
    lock.l_type = libc::F_WRLCK as i16;
    lock.l_whence = libc::SEEK_SET as i16;
    lock.l_start = byte;
    lock.l_len = 1;
    // SAFETY: the descriptor is open for as long as `file` is borrowed, and the pointer is to a live local that
    // both commands read and F_GETLK writes.
    let result = unsafe { libc::fcntl(file.as_raw_fd(), command, &raw mut lock) };
    if result == -1 { Err(io::Error::last_os_error()) } else { Ok(lock) }
}
