//! The thread of limits: takes the turns of `limits/turn.rs` whenever there is something to do. It is started with the
//! first workflow that has a limit.

use std::sync::Arc;

use crate::control::Control;
use crate::host::Host;
use crate::limits::turn;
use crate::services::timers::Timers;
use crate::services::{Service, Signal};

/// What the thread works with.
pub(crate) struct LimitService<H: Host> {
    /// The lines, the store and the dispatcher.
    pub(crate) control: Arc<Control<H>>,
    /// Rings when a rate has room again.
    pub(crate) timers: Arc<Timers>,
}

impl<H: Host> Service for LimitService<H> {
    fn name(&self) -> &'static str {
        "bide-limits"
    }

    fn run(&self, started: &Signal) {
        started.set();
        while self.control.limits.wait() {
            turn(&self.control, &self.timers);
        }
    }

    fn stop(&self) {
        self.control.limits.close();
    }
}
