//! A disk that fails on command: SQLite's own VFS, with every operation counted, and an error returned for the one that
//! a test names.
//!
//! It is the default VFS of this test process, so that the store under test does not notice it. It has one plan
//! for the whole process: tests that use it take turns ([`Disk::take`]).

#![expect(
    clippy::undocumented_unsafe_blocks,
    reason = "SQLite calls these functions with the arguments for its own VFS, which gets them unchanged"
)]

use std::ffi::{CStr, c_char, c_int, c_void};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Mutex, MutexGuard, OnceLock, PoisonError};

use rusqlite::ffi;

/// An operation of SQLite on the file system.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Call {
    Open,
    Read,
    Write,
    Truncate,
    Sync,
    Size,
    Lock,
    ShmMap,
    ShmLock,
}

/// The outcome of the call.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Fault {
    /// It fails with this SQLite code and does nothing.
    Fails(c_int),
    /// It does half of its work, then fails with this SQLite code: a torn write, a short read.
    Half(c_int),
}

/// For how long.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Lasts {
    /// This one call.
    Once,
    /// From this call on, until the disk is healed, as with a full or missing disk.
    On,
}

#[derive(Clone, Copy)]
struct Plan {
    call: Call,
    nth: usize,
    fault: Fault,
    lasts: Lasts,
}

static PLAN: Mutex<Option<Plan>> = Mutex::new(None);
static PLANNED: AtomicBool = AtomicBool::new(false);
static SEEN: AtomicUsize = AtomicUsize::new(0);
static HIT: AtomicUsize = AtomicUsize::new(0);
static TURN: Mutex<()> = Mutex::new(());

/// Exclusive access to the faults of the disk.
pub(crate) struct Disk(#[expect(dead_code, reason = "held until dropped, never read")] MutexGuard<'static, ()>);

impl Disk {
    /// Waits until the other tests have finished with it.
    pub(crate) fn take() -> Self {
        install();
        Self(TURN.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// The nth such call from now on fails (the first is 1).
    pub(crate) fn fail(&self, call: Call, nth: usize, fault: Fault, lasts: Lasts) {
        SEEN.store(0, Ordering::SeqCst);
        HIT.store(0, Ordering::SeqCst);
        *PLAN.lock().unwrap() = Some(Plan { call, nth, fault, lasts });
        PLANNED.store(true, Ordering::SeqCst);
    }

    /// From now on nothing fails; returns how many calls have failed.
    pub(crate) fn heal(&self) -> usize {
        PLANNED.store(false, Ordering::SeqCst);
        *PLAN.lock().unwrap() = None;
        HIT.load(Ordering::SeqCst)
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        PLANNED.store(false, Ordering::SeqCst);
        *PLAN.lock().unwrap_or_else(PoisonError::into_inner) = None;
    }
}

/// The outcome of this call, if it is one that fails.
fn verdict(call: Call) -> Option<Fault> {
    if !PLANNED.load(Ordering::SeqCst) {
        return None;
    }
    let plan = (*PLAN.lock().unwrap_or_else(PoisonError::into_inner)).filter(|plan| plan.call == call)?;
    let number = SEEN.fetch_add(1, Ordering::SeqCst) + 1;
    let fails = number == plan.nth || (plan.lasts == Lasts::On && number > plan.nth);
    fails.then(|| {
        HIT.fetch_add(1, Ordering::SeqCst);
        plan.fault
    })
}

/// Returns this code without doing anything.
fn refusal(call: Call) -> Option<c_int> {
    verdict(call).map(|fault| match fault {
        Fault::Fails(code) | Fault::Half(code) => code,
    })
}

/// A table of a file's methods that contains ours, followed by the original table: a pointer to the first is also a
/// pointer to the whole.
#[repr(C)]
struct Methods {
    ours: ffi::sqlite3_io_methods,
    theirs: *const ffi::sqlite3_io_methods,
}

struct Tables(Vec<&'static Methods>);

// SAFETY: the targets of its pointers are constant for the life of the process.
unsafe impl Send for Tables {}

/// One for each method table of SQLite's own VFS (one for files with locks, one for files without).
static TABLES: Mutex<Tables> = Mutex::new(Tables(Vec::new()));

struct Base(*mut ffi::sqlite3_vfs);

// SAFETY: SQLite's own VFS is never changed or freed, and may be used by any thread.
unsafe impl Send for Base {}
// SAFETY: as above.
unsafe impl Sync for Base {}

static BASE: OnceLock<Base> = OnceLock::new();

fn install() {
    BASE.get_or_init(|| {
        // SAFETY: the default VFS exists once SQLite is initialized and is a plain structure; its copy, with another
        // name and open function, lives forever, as SQLite requires of a registered VFS.
        unsafe {
            assert_eq!(ffi::sqlite3_initialize(), ffi::SQLITE_OK);
            let base = ffi::sqlite3_vfs_find(std::ptr::null());
            let mut copy = *base;
            copy.zName = c"faulty".as_ptr();
            copy.pNext = std::ptr::null_mut();
            copy.xOpen = Some(open);
            assert_eq!(ffi::sqlite3_vfs_register(Box::leak(Box::new(copy)), 1), ffi::SQLITE_OK);
            Base(base)
        }
    });
}

unsafe extern "C" fn open(
    vfs: *mut ffi::sqlite3_vfs,
    name: *const c_char,
    file: *mut ffi::sqlite3_file,
    flags: c_int,
    out: *mut c_int,
) -> c_int {
    unsafe {
        (*file).pMethods = std::ptr::null();
        let Some(base) = BASE.get() else { return ffi::SQLITE_CANTOPEN };
        let Some(open) = (*base.0).xOpen else { return ffi::SQLITE_CANTOPEN };
        if !name.is_null()
            && CStr::from_ptr(name).to_bytes().ends_with(b".db")
            && let Some(code) = refusal(Call::Open)
        {
            return code;
        }
        let result = open(vfs, name, file, flags, out);
        if result == ffi::SQLITE_OK && !(*file).pMethods.is_null() {
            (*file).pMethods = std::ptr::from_ref(table((*file).pMethods)).cast();
        }
        result
    }
}

unsafe fn table(theirs: *const ffi::sqlite3_io_methods) -> &'static Methods {
    let mut tables = TABLES.lock().unwrap_or_else(PoisonError::into_inner);
    if let Some(known) = tables.0.iter().find(|known| known.theirs == theirs) {
        return known;
    }
    let mut ours = unsafe { *theirs };
    ours.xRead = Some(read);
    ours.xWrite = Some(write);
    ours.xTruncate = Some(truncate);
    ours.xSync = Some(sync);
    ours.xFileSize = Some(size);
    ours.xLock = Some(lock);
    ours.xShmMap = ours.xShmMap.map(|_| shm_map as _);
    ours.xShmLock = ours.xShmLock.map(|_| shm_lock as _);
    let made: &'static Methods = Box::leak(Box::new(Methods { ours, theirs }));
    tables.0.push(made);
    made
}

/// The method that SQLite itself would have called.
unsafe fn theirs(file: *mut ffi::sqlite3_file) -> &'static ffi::sqlite3_io_methods {
    unsafe { &*(*(*file).pMethods.cast::<Methods>()).theirs }
}

macro_rules! pass {
    ($file:expr, $method:ident $(, $argument:expr)*) => {
        match theirs($file).$method {
            Some(method) => method($file $(, $argument)*),
            None => ffi::SQLITE_ERROR,
        }
    };
}

unsafe extern "C" fn read(file: *mut ffi::sqlite3_file, to: *mut c_void, amount: c_int, at: i64) -> c_int {
    unsafe {
        match verdict(Call::Read) {
            None => pass!(file, xRead, to, amount, at),
            Some(Fault::Fails(code)) => code,
            Some(Fault::Half(code)) => {
                // As SQLite requires for a read beyond the end: the rest is zeros.
                let half = amount / 2;
                let _ = pass!(file, xRead, to, half, at);
                to.cast::<u8>().add(half as usize).write_bytes(0, (amount - half) as usize);
                code
            }
        }
    }
}

unsafe extern "C" fn write(file: *mut ffi::sqlite3_file, from: *const c_void, amount: c_int, at: i64) -> c_int {
    unsafe {
        match verdict(Call::Write) {
            None => pass!(file, xWrite, from, amount, at),
            Some(Fault::Fails(code)) => code,
            Some(Fault::Half(code)) => {
                let _ = pass!(file, xWrite, from, amount / 2, at);
                code
            }
        }
    }
}

unsafe extern "C" fn truncate(file: *mut ffi::sqlite3_file, size: i64) -> c_int {
    match refusal(Call::Truncate) {
        Some(code) => code,
        None => unsafe { pass!(file, xTruncate, size) },
    }
}

unsafe extern "C" fn sync(file: *mut ffi::sqlite3_file, flags: c_int) -> c_int {
    match refusal(Call::Sync) {
        Some(code) => code,
        None => unsafe { pass!(file, xSync, flags) },
    }
}

unsafe extern "C" fn size(file: *mut ffi::sqlite3_file, to: *mut i64) -> c_int {
    match refusal(Call::Size) {
        Some(code) => code,
        None => unsafe { pass!(file, xFileSize, to) },
    }
}

unsafe extern "C" fn lock(file: *mut ffi::sqlite3_file, level: c_int) -> c_int {
    match refusal(Call::Lock) {
        Some(code) => code,
        None => unsafe { pass!(file, xLock, level) },
    }
}

unsafe extern "C" fn shm_map(
    file: *mut ffi::sqlite3_file,
    region: c_int,
    size: c_int,
    extend: c_int,
    to: *mut *mut c_void,
) -> c_int {
    match refusal(Call::ShmMap) {
        Some(code) => code,
        None => unsafe { pass!(file, xShmMap, region, size, extend, to) },
    }
}

unsafe extern "C" fn shm_lock(file: *mut ffi::sqlite3_file, offset: c_int, n: c_int, flags: c_int) -> c_int {
    // Releasing a lock does not fail.
    let refused = if flags & ffi::SQLITE_SHM_LOCK != 0 { refusal(Call::ShmLock) } else { None };
    match refused {
        Some(code) => code,
        None => unsafe { pass!(file, xShmLock, offset, n, flags) },
    }
}
