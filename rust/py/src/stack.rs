//! Releases the unused pages of a parked thread's stack. A body that waits got there through deep calls (a commit, an
//! import, a hash of its condition), and each page that they touched would stay allocated for as long as it waits.

/// Returns the pages below the caller's frame to the system. They are allocated again when needed, empty. Does nothing
/// on a stack that is not the thread's own (a coroutine of a C library, a fiber): what lies below there is not
/// known.
#[cfg(target_os = "linux")]
#[inline(never)]
pub(crate) fn release_unused() {
    let here = 0_u8;
    let here = &raw const here as usize;
    let stack = STACK.get().unwrap_or_else(own);
    STACK.set(Some(stack));
    // What is called from here has its frames below this one's.
    let end = here.saturating_sub(MARGIN) & !(page_size() - 1);
    if stack.contains(here) && stack.lowest < end {
        let start = stack.lowest as *mut libc::c_void;
        // SAFETY: whole pages of this thread's own stack, on which it executes now and which only this thread
        // uses, all below its last frame, where there is nothing that will be read. A page that was returned reads as
        // zeros.
        unsafe { libc::madvise(start, end - stack.lowest, libc::MADV_DONTNEED) };
    }
}

#[cfg(not(target_os = "linux"))]
pub(crate) fn release_unused() {}

/// More than the frame of a system call.
#[cfg(target_os = "linux")]
const MARGIN: usize = 512;

/// A thread's stack, its guard not included. Empty if it is not known.
#[cfg(target_os = "linux")]
#[derive(Clone, Copy)]
struct Stack {
    lowest: usize,
    /// The first address above it.
    end: usize,
}

#[cfg(target_os = "linux")]
impl Stack {
    const UNKNOWN: Self = Self { lowest: 0, end: 0 };

    fn contains(self, address: usize) -> bool {
        (self.lowest..self.end).contains(&address)
    }
}

#[cfg(target_os = "linux")]
thread_local! {
    /// This thread's stack, once it has been asked for.
    static STACK: std::cell::Cell<Option<Stack>> = const { std::cell::Cell::new(None) };
}

#[cfg(target_os = "linux")]
fn page_size() -> usize {
    // SAFETY: asks for a number. Every Linux has it; if it failed, no range would be whole pages and nothing would be
    // returned.
    usize::try_from(unsafe { libc::sysconf(libc::_SC_PAGESIZE) }).unwrap_or(1 << (usize::BITS - 1))
}

/// The stack that this thread was started on.
#[cfg(target_os = "linux")]
fn own() -> Stack {
    let mut attributes = std::mem::MaybeUninit::<libc::pthread_attr_t>::uninit();
    let (mut address, mut size) = (std::ptr::null_mut(), 0);
    // SAFETY: the attributes are initialized by the first call if it succeeds, read, and destroyed.
    unsafe {
        if libc::pthread_getattr_np(libc::pthread_self(), attributes.as_mut_ptr()) != 0 {
            return Stack::UNKNOWN;
        }
        let failed = libc::pthread_attr_getstack(attributes.as_ptr(), &raw mut address, &raw mut size);
        libc::pthread_attr_destroy(attributes.as_mut_ptr());
        if failed == 0 {
            Stack { lowest: address as usize, end: (address as usize).saturating_add(size) }
        } else {
            Stack::UNKNOWN
        }
    }
}
