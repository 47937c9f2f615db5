//! Whether a thread executes a step, for `handle.in_step`.

use std::cell::Cell;

thread_local! {
    /// How many steps the thread executes, each within the one before.
    static STEPS: Cell<u32> = const { Cell::new(0) };
}

/// While it exists, the thread executes a step.
pub(crate) struct InStep(());

impl InStep {
    pub(crate) fn enter() -> Self {
        STEPS.set(STEPS.get() + 1);
        Self(())
    }
}

impl Drop for InStep {
    fn drop(&mut self) {
        STEPS.set(STEPS.get() - 1);
    }
}

/// Whether the calling thread executes a step.
pub(crate) fn in_step() -> bool {
    STEPS.get() > 0
}
