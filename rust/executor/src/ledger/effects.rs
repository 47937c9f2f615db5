//! The engine's side of the ledger: what the ledger asks of it, and what follows a commit.

use std::sync::Arc;

use bide_core::{Effect, Event, RunStatus};
use bide_store::{Lease, Store, StoreError};

use super::commit::{Lost, Upcalls};
use super::group::{Group, QueuedEvent};
use crate::engine::{Engine, Level};
use crate::host::{Dispatch, Gate, Host, Ready};
use crate::runs::run::Run;
use crate::runs::settled::Settlement;
use crate::services::timers::Alarm;

impl<H: Host> Upcalls<H> for Engine<H> {
    fn store(&self) -> Arc<dyn Store> {
        self.store()
    }

    fn lease(&self) -> Lease {
        *self.lease.read()
    }

    fn is_stopped(&self) -> bool {
        self.stopped().is_some()
    }

    fn is_closing(&self) -> bool {
        self.is_closing()
    }

    fn warn(&self, line: &str) {
        self.log(Level::Warning, line);
    }

    fn stop_over(&self, error: &StoreError) -> bool {
        self.stop_over(error)
    }

    fn report_stop(self: &Arc<Self>, error: &StoreError) {
        self.tell_of_break_down(error, true);
    }

    fn panicked(self: &Arc<Self>, why: &str) {
        self.panicked(why);
    }

    fn fenced(self: &Arc<Self>, lease: Lease) {
        self.fenced(lease);
    }

    fn adopt(&self, run: &Arc<Run<H>>) {
        self.adopt(run);
    }

    fn release(&self, lost: Vec<Arc<Run<H>>>) {
        for run in lost {
            let mut runs = self.runs.lock();
            if runs.get(&run.id.row()).is_some_and(|live| Arc::ptr_eq(live, &run)) {
                runs.remove(&run.id.row());
            }
            drop(runs);
            run.settled.settle(Settlement::Elsewhere);
        }
    }

    fn carry_out(self: &Arc<Self>, run: Arc<Run<H>>, effect: Effect) {
        match effect {
            Effect::Ready { task } => self.dispatch_ready(&mut vec![Ready { run, task }]),
            Effect::Timer { at, event } => {
                self.timers.at(at, Arc::new(Due { engine: Arc::clone(self), run, event: *event }), 0);
            }
            Effect::Gate { task, attempt, deadline } => {
                self.dispatch.gate(self, Gate { run, task, attempt, deadline });
            }
            Effect::Cleared { task } => self.cleared(&run, task),
            Effect::Settled { status } => {
                self.runs.lock().remove(&run.id.row());
                if status == RunStatus::Paused {
                    let reason = run.state.lock().blocked_by().map_or("on request".to_owned(), ToString::to_string);
                    let name = run.workflow.graph.workflow();
                    self.log(Level::Warning, &format!("run {} of '{name}' is paused: {reason}", run.id));
                }
                if matches!(status, RunStatus::Completed | RunStatus::Failed) {
                    for conflict in run.unreported_conflicts() {
                        self.log(Level::Warning, &conflict.message(&run.workflow.graph));
                    }
                }
                run.settled.settle(Settlement::Run(status));
                let watched = self.watched.lock().remove(&run.id);
                if let Some(settled) = watched.and_then(|settled| settled.upgrade()) {
                    settled.settle(Settlement::Run(status));
                }
            }
        }
    }

    fn dispatch(self: &Arc<Self>, ready: &mut Vec<Ready<H>>) {
        self.dispatch_ready(ready);
    }
}

/// What the engine's parts commit by.
impl<H: Host> Engine<H> {
    /// Leaves an event to the committer: for threads that must not block.
    pub(crate) fn enqueue(&self, run: Arc<Run<H>>, event: Event) {
        let at = self.clock.now();
        self.ledger.enqueue(QueuedEvent { run, event, at, completion: None });
    }

    /// See [`super::Ledger::commit`].
    pub(crate) fn commit(self: &Arc<Self>, items: &mut Vec<QueuedEvent<H>>, ready: &mut Vec<Ready<H>>) {
        self.ledger.commit(self, items, ready);
    }

    /// See [`super::Ledger::commit_own`].
    ///
    /// # Errors
    /// As there.
    pub(crate) fn commit_own(
        self: &Arc<Self>,
        group: Option<&Group<H>>,
        run: &Arc<Run<H>>,
        event: Event,
    ) -> Result<(), Lost> {
        self.ledger.commit_own(self, group, run, event)
    }

    /// See [`super::Ledger::commit_group`].
    pub(crate) fn commit_group(self: &Arc<Self>, group: &Group<H>, ready: &mut Vec<Ready<H>>) {
        self.ledger.commit_group(self, group, ready);
    }

    pub(crate) fn dispatch_ready(self: &Arc<Self>, ready: &mut Vec<Ready<H>>) {
        if !ready.is_empty() {
            self.dispatch.ready(self, ready);
        }
    }
}

/// A timer of the run machine.
struct Due<H: Host> {
    engine: Arc<Engine<H>>,
    run: Arc<Run<H>>,
    event: Event,
}

impl<H: Host> Alarm for Due<H> {
    fn ring(self: Arc<Self>, _ticket: u64) {
        self.engine.enqueue(Arc::clone(&self.run), self.event.clone());
    }
}
