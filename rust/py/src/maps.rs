//! Checks whether the process can have enough memory maps for more threads.
//!
//! Linux limits how many maps a process has (`vm.max_map_count`), and every parked body's thread takes some. At the
//! very limit the thread is made, but CPython or the C library finds no memory within it: then
//! `threading.Thread.start` waits for ever for its first sign of life, or the process is aborted. So a thread is only
//! started while there is room for more than it needs.

use std::sync::atomic::{AtomicU32, Ordering};

/// How many threads may be started after one check.
const THREADS: u32 = 16;

/// Maps that must be free then: a few for each of the threads, and some for all else in the process.
#[cfg(target_os = "linux")]
const ROOM: usize = 16 * 5 + 80;

/// How many more threads may be started before the room is checked again.
static REMAINING: AtomicU32 = AtomicU32::new(0);

/// Whether one more thread has room.
pub(crate) fn have_room() -> bool {
    let took = REMAINING.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |remaining| remaining.checked_sub(1));
    if took.is_ok() {
        return true;
    }
    let room = look();
    if room {
        REMAINING.store(THREADS - 1, Ordering::Relaxed);
    }
    room
}

/// Creates [`ROOM`] maps for a moment: a page whose access rights differ from its neighbours' is a map of its own.
#[cfg(target_os = "linux")]
fn look() -> bool {
    const PAGE: usize = 1 << 16;
    let length = ROOM * PAGE;
    let flags = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_NORESERVE;
    // SAFETY: a new map at an address of the kernel's choice touches nothing that exists.
    let start = unsafe { libc::mmap(std::ptr::null_mut(), length, libc::PROT_NONE, flags, -1, 0) };
    if start == libc::MAP_FAILED {
        return false;
    }
    let made = (1..ROOM).step_by(2).all(|page| {
        // SAFETY: the page lies within the map above, which is known only here; its size is a multiple of every page
        // size that Linux has.
        unsafe { libc::mprotect(start.cast::<u8>().wrapping_add(page * PAGE).cast(), PAGE, libc::PROT_READ) == 0 }
    });
    // SAFETY: the whole map from above, of which no reference was ever made.
    unsafe { libc::munmap(start, length) };
    made
}

#[cfg(not(target_os = "linux"))]
fn look() -> bool {
    true
}
