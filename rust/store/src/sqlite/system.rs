//! Between SQLite and the system: what SQLite is made to do otherwise, and what the system said when it failed.
//!
//! SQLite maps the index of its log (`-shm`) into memory and makes that file longer by one byte in each 4 KiB. On a
//! file system with smaller blocks most of it has no blocks then, and where the disk is full the first touch of such a
//! place ends the process with a bus error. So each stretch gets its space before it is mapped, and a full disk is an
//! error.
//!
//! Of a file that cannot be opened SQLite reports just that. The cause is asked for at the moment when it writes its
//! log line about it, in the thread in which it happened.

use std::cell::Cell;
use std::ffi::{c_char, c_int, c_void};
use std::io;
use std::sync::Once;

use rusqlite::ffi;

thread_local! {
    /// Why SQLite could do something with a file of late; 0 if that is nothing worth to be known.
    static CAUSE: Cell<c_int> = const { Cell::new(0) };
}

/// To be called before anything else of SQLite.
pub(super) fn install() {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| {
        // SAFETY: nothing in this process has used this copy of SQLite before, so that it may be configured; the option
        // takes a function of this type and a pointer that is passed to it. Then it may be initialized.
        let ready = unsafe {
            let log: extern "C" fn(*mut c_void, c_int, *const c_char) = note;
            ffi::sqlite3_config(ffi::SQLITE_CONFIG_LOG, log, std::ptr::null_mut::<c_void>());
            ffi::sqlite3_initialize() == ffi::SQLITE_OK
        };
        if ready {
            reserve_before_mapping();
        }
    });
}

/// What lies behind the last failure of this thread: it is asked once.
pub(super) fn cause() -> Option<io::Error> {
    let code = CAUSE.replace(0);
    (code != 0).then(|| io::Error::from_raw_os_error(code))
}

/// Is called by SQLite for each line of its log, first of all where a call to the system has failed.
extern "C" fn note(_: *mut c_void, code: c_int, _: *const c_char) {
    if matches!(code & 0xff, ffi::SQLITE_CANTOPEN | ffi::SQLITE_IOERR | ffi::SQLITE_FULL) {
        let error = io::Error::last_os_error().raw_os_error();
        if let Some(known @ (libc::EMFILE | libc::ENFILE | libc::ENOSPC | libc::EDQUOT | libc::EFBIG)) = error {
            CAUSE.set(known);
        }
    }
}

#[cfg(all(target_os = "linux", target_pointer_width = "64"))]
fn reserve_before_mapping() {
    type Mmap = unsafe extern "C" fn(*mut c_void, usize, c_int, c_int, c_int, libc::off_t) -> *mut c_void;
    let mmap: Mmap = reserve_and_map;
    // SAFETY: SQLite is initialized, and its own VFS of this name is there for as long as the process. It calls what is
    // put here with the types of mmap(2), where `off_t` has 64 bits; the type that it is passed as stands for any
    // function.
    unsafe {
        let vfs = ffi::sqlite3_vfs_find(c"unix".as_ptr());
        if let Some(vfs) = vfs.as_ref()
            && let Some(set) = vfs.xSetSystemCall
        {
            let call = std::mem::transmute::<Mmap, unsafe extern "C" fn()>(mmap);
            set(std::ptr::from_ref(vfs).cast_mut(), c"mmap".as_ptr(), Some(call));
        }
    }
}

#[cfg(not(all(target_os = "linux", target_pointer_width = "64")))]
fn reserve_before_mapping() {}

/// As mmap(2), but a stretch of a file that is going to be written to has its space first.
#[cfg(all(target_os = "linux", target_pointer_width = "64"))]
unsafe extern "C" fn reserve_and_map(
    address: *mut c_void,
    length: usize,
    protection: c_int,
    flags: c_int,
    file: c_int,
    at: libc::off_t,
) -> *mut c_void {
    if protection & libc::PROT_WRITE != 0 && flags & libc::MAP_SHARED != 0 && file >= 0 {
        loop {
            // SAFETY: touches no memory. What was in that stretch stays; the file was as long as this already. Not
            // `posix_fallocate`, which writes where the file system cannot, beside others who write.
            let failed = unsafe { libc::fallocate(file, 0, at, length as libc::off_t) } != 0;
            match io::Error::last_os_error().raw_os_error() {
                Some(libc::EINTR) if failed => {}
                Some(libc::ENOSPC | libc::EDQUOT | libc::EIO) if failed => return libc::MAP_FAILED,
                // Other errors mean that this file system reserves nothing, which is no failure.
                _ => break,
            }
        }
    }
    // SAFETY: what SQLite calls it with.
    unsafe { libc::mmap(address, length, protection, flags, file, at) }
}
