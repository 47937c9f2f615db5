//! A panic within bide is a bug in bide. On a thread of the engine, or while a batch is being committed, it stops the
//! runner with a reason that asks for a report: no caller waits for ever, and nothing that is half changed is
//! committed. Panics of bodies are not meant here: each host catches those around its bodies.

use std::any::Any;
use std::panic::{AssertUnwindSafe, catch_unwind};

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
