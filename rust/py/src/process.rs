//! State of the process and of the calling thread that every part reads: whether the interpreter is exiting, whether
//! the process is still the one in which an object was made, and whether the thread is one of bide's.
//!
//! Only facts, which `exit.rs` and `thread.rs` state. Nothing here touches Python.

use std::cell::Cell;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::time::Duration;

/// A waiting caller checks for signals (Ctrl-C) at least this often.
pub(crate) const SLICE: Duration = Duration::from_millis(50);

/// Set once, when interpreter exit begins.
static CLOSING: AtomicBool = AtomicBool::new(false);
/// Set once, when everything has been closed.
static CLOSED: AtomicBool = AtomicBool::new(false);
/// The process id, kept here because asking the system for it costs more than a comparison.
static PID: AtomicU32 = AtomicU32::new(0);

thread_local! {
    /// What this thread is for and in which process it was started, if bide started it.
    static OWN: Cell<Option<(Kind, Home)>> = const { Cell::new(None) };
}

/// Whether the interpreter is exiting. From here on no thread is started, and no detached one attaches.
#[inline]
pub(crate) fn closing() -> bool {
    CLOSING.load(Ordering::SeqCst)
}

/// Whether the interpreter is exiting and everything has been closed: nothing is settled any more.
pub(crate) fn closed() -> bool {
    CLOSED.load(Ordering::SeqCst)
}

/// Interpreter exit begins.
pub(crate) fn begin_closing() {
    CLOSING.store(true, Ordering::SeqCst);
}

/// Everything has been closed.
pub(crate) fn end_closing() {
    CLOSED.store(true, Ordering::SeqCst);
}

/// What a thread is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    /// It calls bodies and conditions, and ends when closing begins: exit gives it time to.
    Bodies,
    /// It delivers the reports of Rust's own threads to Python, and ends when closing has ended.
    Notifier,
}

/// The calling thread is bide's, and for this.
pub(crate) fn own_thread(kind: Kind) {
    OWN.set(Some((kind, Home::here())));
}

/// Whether the calling thread was started here.
pub(crate) fn is_own() -> bool {
    OWN.get().is_some()
}

/// Whether the calling thread executes a body or a condition, whose slot or turn others wait for. The child of a fork
/// within a body has no such others.
pub(crate) fn is_in_body() -> bool {
    OWN.get().is_some_and(|(kind, home)| kind == Kind::Bodies && home.is_here())
}

/// The process in which an object was made.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Home(u32);

/// An object was used in another process than its own.
#[derive(Debug, thiserror::Error)]
#[error(
    "this {what} belongs to process {home} and cannot be used in process {here}, which was forked \
     from it: create a new one after the fork"
)]
pub(crate) struct Elsewhere {
    /// The object's name for the user.
    what: &'static str,
    /// The process in which it was made.
    home: u32,
    /// The process in which it was used.
    here: u32,
}

impl Home {
    /// This process.
    #[inline]
    pub(crate) fn here() -> Self {
        Self(PID.load(Ordering::Relaxed))
    }

    /// Whether this is still the same process: what `Drop` asks before it does anything.
    #[inline]
    pub(crate) fn is_here(self) -> bool {
        self == Self::here()
    }

    /// What every method asks first; `what` is the object's name for the user, such as `Runner`.
    #[inline]
    pub(crate) fn check(self, what: &'static str) -> Result<(), Elsewhere> {
        if self.is_here() { Ok(()) } else { Err(Elsewhere { what, home: self.0, here: PID.load(Ordering::Relaxed) }) }
    }
}

/// The process is another one: the first, or the child of a fork. Async-signal-safe.
pub(crate) fn begin_process() {
    PID.store(std::process::id(), Ordering::SeqCst);
}
