//! What a parked thread does not need of its stack. A body that waits got there through deep calls (a commit, an import,
//! a hash of its condition), and each page that they touched would stay with its thread for as long as it waits.

/// Gives the pages below the caller's frame back to the system. They come back, empty, when they are needed.
#[cfg(target_os = "linux")]
#[inline(never)]
pub(crate) fn give_back_unused() {
    let here = 0_u8;
    // What is called from here has its frames below this one's.
    let end = (&raw const here as usize).saturating_sub(MARGIN) & !(page_size() - 1);
    let start = LOWEST.get();
    let start = if start == 0 { lowest() } else { start };
    LOWEST.set(start);
    if start < end {
        // SAFETY: whole pages of this thread's own stack, which nobody but this thread uses, all below its last frame,
        // where there is nothing that anybody will read. A page that is given back reads as zeros.
        unsafe { libc::madvise(start as *mut libc::c_void, end - start, libc::MADV_DONTNEED) };
    }
}

#[cfg(not(target_os = "linux"))]
pub(crate) fn give_back_unused() {}

/// More than the frame of a system call.
#[cfg(target_os = "linux")]
const MARGIN: usize = 512;

#[cfg(target_os = "linux")]
thread_local! {
    /// Where this thread's stack ends; 0: not asked yet, [`usize::MAX`]: not known.
    static LOWEST: std::cell::Cell<usize> = const { std::cell::Cell::new(0) };
}

#[cfg(target_os = "linux")]
fn page_size() -> usize {
    // SAFETY: asks for a number. No Linux is without it; should it fail, nothing is whole pages and nothing given back.
    usize::try_from(unsafe { libc::sysconf(libc::_SC_PAGESIZE) }).unwrap_or(1 << (usize::BITS - 1))
}

/// Where this thread's stack ends, its guard not included.
#[cfg(target_os = "linux")]
fn lowest() -> usize {
    let mut attributes = std::mem::MaybeUninit::<libc::pthread_attr_t>::uninit();
    let (mut address, mut size) = (std::ptr::null_mut(), 0);
    // SAFETY: the attributes are initialized by the first call if it succeeds, read, and destroyed.
    unsafe {
        if libc::pthread_getattr_np(libc::pthread_self(), attributes.as_mut_ptr()) != 0 {
            return usize::MAX;
        }
        let failed = libc::pthread_attr_getstack(attributes.as_ptr(), &raw mut address, &raw mut size);
        libc::pthread_attr_destroy(attributes.as_mut_ptr());
        if failed == 0 { address as usize } else { usize::MAX }
    }
}
