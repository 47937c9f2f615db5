//! Keeps SQLite whole through a fork: the mutexes that it has for the whole process (for its memory, page cache, random
//! numbers, open files) are taken before the fork and released after it on both sides. Otherwise a child that was
//! forked while another thread was inside one would wait for it for ever, as soon as it opened a store of its own.

use std::sync::Once;

use rusqlite::ffi;

/// In the order in which SQLite itself takes one within another; memory is always the innermost.
const MUTEXES: [i32; 9] = [
    ffi::SQLITE_MUTEX_STATIC_MAIN,
    ffi::SQLITE_MUTEX_STATIC_OPEN,
    ffi::SQLITE_MUTEX_STATIC_VFS1,
    ffi::SQLITE_MUTEX_STATIC_VFS2,
    ffi::SQLITE_MUTEX_STATIC_VFS3,
    ffi::SQLITE_MUTEX_STATIC_LRU,
    ffi::SQLITE_MUTEX_STATIC_PMEM,
    ffi::SQLITE_MUTEX_STATIC_PRNG,
    ffi::SQLITE_MUTEX_STATIC_MEM,
];

/// To be called before the first connection of a process is opened.
pub(super) fn install() {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| {
        // SAFETY: SQLite may be initialized at any time. The handlers only lock and unlock, and this library is never
        // unloaded. That they cannot be installed (no memory) leaves forks as they were.
        unsafe {
            if ffi::sqlite3_initialize() == ffi::SQLITE_OK {
                libc::pthread_atfork(Some(before), Some(after), Some(after));
            }
        }
    });
}

extern "C" fn before() {
    for id in MUTEXES {
        // SAFETY: SQLite is initialized, and these are its static mutexes, which allocating only looks up.
        unsafe { ffi::sqlite3_mutex_enter(ffi::sqlite3_mutex_alloc(id)) };
    }
}

extern "C" fn after() {
    for id in MUTEXES.into_iter().rev() {
        // SAFETY: as before the fork; this thread has taken them there, or is the child's copy of the one that has.
        unsafe { ffi::sqlite3_mutex_leave(ffi::sqlite3_mutex_alloc(id)) };
    }
}
