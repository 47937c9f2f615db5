//! The commit path: the ledger with what it asks of an engine, and what follows a commit.

use std::sync::{Arc, Weak};

use bide_core::attempt::polling::timed_out;
use bide_core::event::Retry;
use bide_core::observe::{Happened, What};
use bide_core::record::{Batch, RunRowId};
use bide_core::{Effect, Event, RunStatus, TaskRef, TaskStatus, Time};
use bide_store::{Lease, LineAnswers, Store, StoreError};
use bide_sync::RwLockReadGuard;

use super::commit::Ledger;
use super::group::{Group, QueuedEvent};
use super::request::Lost;
use super::upcalls::Upcalls;
use crate::control::Control;
use crate::crash::Crash;
use crate::host::{Dispatch, Gate, Host, Ready};
use crate::ids::IdMaker;
use crate::limits::{Ending, Grants};
use crate::meter::Meter;
use crate::runs::run::Run;
use crate::runs::settled::Settlement;
use crate::services::timers::{Alarm, Timers};

/// The way of an engine's events to the store, and of what follows from them to the dispatcher, the timers and the
/// callers.
pub(crate) struct CommitPath<H: Host> {
    /// The commit lock, and what waits to be committed.
    pub(crate) ledger: Ledger<H>,
    /// Whether anything may be committed, and what stops if a commit fails.
    control: Arc<Control<H>>,
    /// Rings when a wait for a time is over.
    timers: Arc<Timers>,
    /// For what is random in the delays of retries.
    ids: Arc<IdMaker>,
}

impl<H: Host> Upcalls<H> for CommitPath<H> {
    fn store(&self) -> Arc<dyn Store> {
        self.control.store()
    }

    fn lease(&self) -> Lease {
        self.control.lease()
    }

    fn now(&self) -> Time {
        self.control.clock.now()
    }

    fn crash(&self) -> &Crash {
        &self.control.crash
    }

    fn meter(&self) -> &Meter {
        &self.control.meter
    }

    fn is_observed(&self) -> bool {
        self.control.observer.get().is_some()
    }

    fn is_stopped(&self) -> bool {
        self.control.stopped().is_some()
    }

    fn is_closing(&self) -> bool {
        self.control.is_closing()
    }

    fn warn(&self, line: &str) {
        self.control.warn(line);
    }

    fn stop_over(&self, error: &StoreError) -> bool {
        self.control.stop_over(error)
    }

    fn report_stop(self: &Arc<Self>, error: &StoreError) {
        self.control.report_stop(error);
    }

    fn panicked(self: &Arc<Self>, why: &str) {
        self.control.panicked(why);
    }

    fn fenced(self: &Arc<Self>, lease: Lease) {
        self.control.fenced(lease);
    }

    fn is_live(&self, row: RunRowId) -> bool {
        self.control.runs.has(row)
    }

    fn live(&self, row: RunRowId) -> Option<Arc<Run<H>>> {
        self.control.runs.by_row(row)
    }

    fn adopting(&self) -> RwLockReadGuard<'_, ()> {
        self.control.runs.adopting.read()
    }

    fn adopt(&self, run: &Arc<Run<H>>) {
        self.control.runs.adopt(run);
    }

    fn release(&self, lost: Vec<Arc<Run<H>>>) {
        lost.iter().for_each(|run| self.control.runs.release(run));
    }

    fn carry_out(self: &Arc<Self>, run: Arc<Run<H>>, effect: Effect) {
        match effect {
            Effect::Ready { task } => self.control.dispatch_ready(&mut vec![Ready { run, task }]),
            Effect::Timer { at, event } => {
                let is_deadline = matches!(*event, Event::Expired);
                let due = Due { path: Arc::clone(self), run: Arc::downgrade(&run), event: *event };
                let key = self.timers.at(at, Arc::new(due), 0);
                if is_deadline {
                    run.rare.lock().get_or_insert_default().deadline = key;
                }
            }
            Effect::Gate { task, attempt, part, deadline } => {
                self.control.dispatch.gate(Gate { run, task, attempt, part, deadline });
            }
            Effect::Grace { task, attempt, used, since } => {
                let (grace, limit) = self.control.cancel_grace();
                let now = self.control.clock.now();
                let at = now.after(grace.saturating_sub(used)).min(since.after(limit));
                let event = Event::GraceOver { task, attempt, grace, limit };
                let due = Due { path: Arc::clone(self), run: Arc::downgrade(&run), event };
                self.timers.at(at, Arc::new(due), 0);
            }
            Effect::Interrupted { task } => self.control.dispatch.interrupt(&run, task),
            Effect::PollNow { task } => self.control.dispatch.poll_now(&run, task),
            Effect::Woken { task } => {
                if run.ring(task) {
                    run.state.lock().take_poll_now(task);
                }
            }
            Effect::Answered { request, answer } => self.control.requests.answered(request, &answer),
            Effect::Consumed { number } => run.state.lock().forget_message(number),
            Effect::Cleared { task } => self.control.suspects().clear(&run, task),
            Effect::Emitted => self.control.followers.ring(run.id),
            Effect::Happened(happened) => {
                happened.iter().for_each(|one| self.log_failed_attempt(&run, one));
                if let Some(observer) = self.control.observer.get() {
                    observer(&run, &happened);
                }
            }
            Effect::Settled { status } => {
                self.control.runs.remove(&run);
                if let Some(line) = bad_end(&run, status) {
                    self.control.unobserved.add(&run, line, self.control.clock.machine());
                }
                if matches!(status, RunStatus::Completed | RunStatus::Failed) {
                    for conflict in run.unreported_conflicts() {
                        self.control.warn(&conflict.message(&run.workflow.graph));
                    }
                }
                self.control.runs.settle(&run, &Settlement::Run(status));
                let deadline = run.rare.lock().as_mut().and_then(|rare| rare.deadline.take());
                if let Some(deadline) = deadline {
                    self.timers.cancel(deadline);
                    run.ring_all();
                }
                self.control.followers.ring(run.id);
            }
        }
    }

    fn ending(&self, batch: &Batch) -> Ending<H> {
        let control = &self.control;
        control.limits.ending(batch, control.lease(), || control.store().grants_in_commits())
    }

    fn ended(&self, ending: Ending<H>, answers: Option<Vec<LineAnswers>>) -> Option<Box<Grants<H>>> {
        self.control.limits.ended(ending, answers)
    }

    fn not_ended(&self, ending: &Ending<H>) {
        self.control.limits.not_ended(ending);
    }

    fn granted(&self, grants: Grants<H>) {
        grants.carry_out(&self.control);
    }

    fn dispatch(self: &Arc<Self>, ready: &mut Vec<Ready<H>>) {
        self.control.dispatch_ready(ready);
    }
}

/// What the log says of a run that has failed or is paused, unless a caller gets to know it.
fn bad_end<H: Host>(run: &Run<H>, status: RunStatus) -> Option<String> {
    let (id, name) = (run.id, run.workflow.graph.workflow());
    match status {
        RunStatus::Paused => {
            let reason = run.state.lock().blocked_by().map_or("on request".to_owned(), ToString::to_string);
            Some(format!("run {id} of '{name}' is paused: {reason}"))
        }
        RunStatus::Failed => {
            let failure = run.state.lock().failure().map(ToString::to_string).unwrap_or_default();
            Some(format!("run {id} of '{name}' has failed: {failure}"))
        }
        _ => None,
    }
}

impl<H: Host> CommitPath<H> {
    fn log_failed_attempt(&self, run: &Run<H>, happened: &Happened) {
        let Happened { what, task: Some((id, map)), attempt: Some(attempt), failure: Some(failure), .. } = happened
        else {
            return;
        };
        let next = match what {
            What::Retried(at) => {
                let span = at.since(self.control.clock.now());
                if span.is_zero() {
                    "it is tried again now".to_owned()
                } else {
                    format!("it is tried again in {span:.1?}")
                }
            }
            What::TaskEnded(TaskStatus::Failed) => "it is not tried again".to_owned(),
            _ => return,
        };
        let graph = &run.workflow.graph;
        let Some(ix) = run.workflow.ix(*id) else { return };
        let (task, name, id) = (graph.name_of(TaskRef { ix, map: *map }), graph.workflow(), run.id);
        self.control
            .warn(&format!("task '{task}' of run {id} of '{name}': attempt {attempt} failed ({next}): {failure}"));
    }

    pub(crate) fn new(control: &Arc<Control<H>>, timers: &Arc<Timers>, ids: &Arc<IdMaker>) -> Arc<Self> {
        let ledger = Ledger::new(Arc::clone(&control.clock), control.store().blocks());
        Arc::new(Self { ledger, control: Arc::clone(control), timers: Arc::clone(timers), ids: Arc::clone(ids) })
    }

    /// Leaves an event to the committer: for threads that must not block.
    pub(crate) fn enqueue(&self, run: Arc<Run<H>>, event: Event) {
        let at = self.control.clock.now();
        self.ledger.enqueue(QueuedEvent { run, event, at, completion: None });
    }

    /// See [`super::Ledger::commit`].
    pub(crate) fn commit(self: &Arc<Self>, items: &mut Vec<QueuedEvent<H>>, ready: &mut Vec<Ready<H>>) {
        self.ledger.commit(self, items, ready);
    }

    /// Commits events, and has the bodies executed that may start then. Blocks.
    pub(crate) fn commit_now(self: &Arc<Self>, items: &mut Vec<QueuedEvent<H>>) {
        let mut ready = Vec::new();
        self.commit(items, &mut ready);
        self.control.dispatch_ready(&mut ready);
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
}

/// A timer of the run machine.
struct Due<H: Host> {
    /// The way that its event takes.
    path: Arc<CommitPath<H>>,
    /// Live runs are held elsewhere: the timer of one that has ended, which rings up to years later, must not keep it.
    run: Weak<Run<H>>,
    /// What happens at the time.
    event: Event,
}

impl<H: Host> Alarm for Due<H> {
    fn ring(self: Arc<Self>, _ticket: u64) {
        let Some(run) = self.run.upgrade() else { return };
        let mut event = self.event.clone();
        if let Event::Elapsed { task, key, times_out: true, retry, .. } = &mut event
            && key.n == 0
        {
            // Of a gate: that is a failed attempt of its task.
            let failure = timed_out(&run.workflow.graph.name_of(*task), &key.name);
            let is_retried = H::retries_gate_timeout(&run.workflow.bodies[task.ix as usize], &failure);
            *retry = is_retried.then(|| Retry { random: self.path.ids.random() });
        }
        self.path.enqueue(run, event);
    }
}
