//! A panic within bide is a bug in bide. On a thread of the engine, or while a batch is being committed, it stops the
//! runner with a reason that asks for a report: no caller waits for ever, and nothing that is half changed is
//! committed. Not for bodies: what they do wrong is theirs, and each host catches it around them.
//!
//! No test can wait for a bug, so a test may ask for one, at a few places that are not on the way of each body.

use std::any::Any;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicU8, Ordering};

/// Where a test may have a panic.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Place {
    /// On a caller's thread, within a call of its.
    Caller = 1,
    /// On a worker, where it looks at what a body has raised.
    Body,
    /// On a thread that polls gates.
    Gate,
    /// Wherever something is committed, with the commit gate held.
    Commit,
    /// On a worker that has just been given a slot.
    Worker,
    /// On the lease thread.
    Lease,
}

impl Place {
    /// All of them, by name.
    pub const ALL: [(&str, Self); 6] = [
        ("caller", Self::Caller),
        ("body", Self::Body),
        ("gate", Self::Gate),
        ("commit", Self::Commit),
        ("worker", Self::Worker),
        ("lease", Self::Lease),
    ];
}

/// Where the next panic is wanted; 0: nowhere.
static WANTED: AtomicU8 = AtomicU8::new(0);

/// Has the next thread of this process that comes by the place panic there.
pub fn panic_once_at(place: Place) {
    WANTED.store(place as u8, Ordering::SeqCst);
}

/// This is the place. Costs one relaxed load.
#[inline]
pub fn is_at(place: Place) {
    if WANTED.load(Ordering::Relaxed) == place as u8 {
        panic_if_first(place);
    }
}

#[cold]
#[inline(never)]
fn panic_if_first(place: Place) {
    let first = WANTED.compare_exchange(place as u8, 0, Ordering::SeqCst, Ordering::SeqCst).is_ok();
    assert!(!first, "a test has asked for this");
}

/// Runs a piece of the engine. A panic in it becomes a message that asks for a report; where it arose is printed by
/// the panic hook.
pub(crate) fn no_panic<R>(f: impl FnOnce() -> R) -> Result<R, String> {
    catch_unwind(AssertUnwindSafe(f)).map_err(|payload| {
        format!(
            "bide itself failed ({}): this is a bug in bide and not in your code. Please report it with this message \
             and what led to it",
            text_of(payload.as_ref())
        )
    })
}

/// What a panic says.
#[must_use]
pub fn text_of(payload: &(dyn Any + Send)) -> String {
    if let Some(text) = payload.downcast_ref::<&str>() {
        (*text).to_owned()
    } else if let Some(text) = payload.downcast_ref::<String>() {
        text.clone()
    } else {
        "a panic without a message".to_owned()
    }
}
