//! What a host whose bodies block a thread does for a worker: execute one body.

use std::cell::{OnceCell, RefCell};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use bide_core::{Outcome, TaskRef};

use crate::engine::Engine;
use crate::host::{Args, Attached, Host};
use crate::runs::run::Run;
use crate::threads::body::BodyCx;
use crate::threads::limit::Limit;
use crate::threads::pool::{Parker, Permit, Pool};

/// Everything a worker needs to execute a body.
pub struct Call<'a, H: Host> {
    /// The engine that executes it.
    pub(crate) engine: &'a Arc<Engine<H>>,
    /// Where its thread sleeps.
    pub(crate) parker: &'a Arc<Parker<H>>,
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
    /// Its slot, as long as the body has no handle; then the handle has it.
    pub(crate) permit: RefCell<Option<Permit<H>>>,
    /// The timeout of the attempt, if it has one.
    pub(crate) limit: Option<Arc<Limit<H>>>,
    /// What the body talks to the engine through, once it has a handle.
    pub(crate) body: OnceCell<Arc<BodyCx<H>>>,
}

impl<H: Host> Call<'_, H> {
    /// The host's side of the task.
    #[must_use]
    pub fn target(&self) -> &H::Body {
        &self.run.workflow.bodies[self.task.ix as usize]
    }

    /// Whether this is not a call of the body: the items of a mapped task's lists are counted, which are the arguments.
    /// The outcome is `Expanded`, or a failure.
    #[must_use]
    pub fn counts_elements(&self) -> bool {
        self.run.workflow.graph.is_expansion(self.task)
    }

    /// What a body with a handle talks to the engine through; `None` for all others.
    #[must_use]
    pub fn body(&self) -> Option<&Arc<BodyCx<H>>> {
        self.body.get()
    }

    pub(crate) fn new_body(&self) -> Arc<BodyCx<H>> {
        let (permit, limit) = (self.permit.take(), self.limit.clone());
        BodyCx::new(self.engine, &self.run, self.task, self.attempt, self.parker, permit, limit)
    }
}

impl<H: Host<Dispatch = Pool<H>>> Call<'_, H> {
    /// The same, made now for a body that has asked for none before: from here on it counts as one that may park. On
    /// the body's own thread, while it executes.
    pub fn late_body(&self) -> &Arc<BodyCx<H>> {
        self.body.get_or_init(|| {
            self.run.workflow.late_handles[self.task.ix as usize].store(true, Ordering::Relaxed);
            self.engine.dispatch().workers.admit_late(self.engine, self.parker);
            self.new_body()
        })
    }
}

/// A thread that executes bodies, as the pool sees it.
pub trait Worker<H: Host>: Attached {
    /// Executes a body on this thread. Never panics.
    fn execute(&mut self, call: &Call<'_, H>) -> Outcome;

    /// Between two bodies: lets other threads of the host have a turn. `now` is the engine's steady time.
    fn between(&mut self, now: Duration);

    /// The host's name of this thread, for its log.
    fn thread(&self) -> u64 {
        0
    }
}
