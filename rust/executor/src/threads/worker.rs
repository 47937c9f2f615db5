//! What a host whose bodies block a thread does for a worker: execute one body.

use std::sync::Arc;
use std::time::Duration;

use bide_core::{Outcome, TaskRef};

use crate::host::{Args, Attached, Host};
use crate::runs::run::Run;
use crate::threads::body::BodyCx;

/// Everything a worker needs to execute a body.
pub struct Call<H: Host> {
    /// The run.
    pub run: Arc<Run<H>>,
    /// The task.
    pub task: TaskRef,
    /// Which try.
    pub attempt: u32,
    /// The same attempt was entered before.
    pub reentry: bool,
    /// The arguments.
    pub args: Args,
    /// What a body with a handle talks to the engine through; `None` for all others.
    pub body: Option<Arc<BodyCx<H>>>,
}

impl<H: Host> Call<H> {
    /// The host's side of the task.
    #[must_use]
    pub fn target(&self) -> &H::Body {
        &self.run.workflow.bodies[self.task.ix as usize]
    }
}

/// A thread that executes bodies, as the pool sees it.
pub trait Worker<H: Host>: Attached {
    /// Executes a body on this thread. Never panics.
    fn execute(&mut self, call: Call<H>) -> Outcome;

    /// Between two bodies: lets other threads of the host have a turn. `now` is the engine's steady time.
    fn between(&mut self, now: Duration);

    /// The host's name of this thread, for its log.
    fn thread(&self) -> u64 {
        0
    }
}
