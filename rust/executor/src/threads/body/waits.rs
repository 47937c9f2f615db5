//! A body's waits, on its own thread: for a condition, which that thread polls, and for a time.
//!
//! The order of a wait is that of the attempt machine (`bide_core::attempt`). A close in between leaves the rows as
//! they are: the body is entered again from them.

use std::sync::Arc;
use std::time::Duration;

use bide_core::attempt::{Action, Call, CallError, Fed, PartRequest, Polled, Request, Sleep};
use bide_core::{Event, Failure, Time, Value};
use bide_sched::{PollNo, Woken};

use super::{BodyCx, Condition};
use crate::host::{Attached, Host};
use crate::ledger::Lost;
use crate::threads::limit::Limit;
use crate::threads::pool::{Permit, Pool};

/// With no more bodies than this, a thread that parks keeps the memory that it may soon need again: to return it takes as
/// long as a short wait.
const FEW: usize = 64;

/// A condition as the thread of its body asks it.
pub trait Check {
    /// Asks it once.
    fn ask(&mut self) -> Polled;

    /// Whether what proved it the same before it was asked proves that still. Asked once, at the end of its wait.
    fn is_unchanged(&mut self) -> bool;

    /// Asks a part of a combination, by its number.
    fn ask_part(&mut self, _part: usize) -> Polled {
        self.ask()
    }

    /// As [`Check::is_unchanged`], of a part of a combination.
    fn is_part_unchanged(&mut self, _part: usize) -> bool {
        self.is_unchanged()
    }
}

/// A condition that cannot change what proves it.
impl<F: FnMut() -> Polled> Check for F {
    fn ask(&mut self) -> Polled {
        self()
    }

    fn is_unchanged(&mut self) -> bool {
        true
    }
}

/// A wait under way. Boxed, because it is kept while its thread is parked, and the stack of a parked thread is to stay
/// small.
pub(super) struct Waiting<H: Host> {
    /// The call that waits.
    pub(super) call: Box<Call>,
    /// What the call is fed next.
    pub(super) fed: Fed,
    /// The slot is released, or about to be, and the thread counts as parked.
    parked: bool,
    /// The slot, until the thread is about to sleep: who gets it would otherwise wait for what this thread still holds,
    /// such as the interpreter.
    leaving: Option<Permit<H>>,
    /// The slot that the thread has taken in the same absence in which it slept, if it has, or that there is none: the
    /// next thing that the call asks for.
    acquired: Option<Acquired<H>>,
    /// The poll that has not ended yet: the thread that polls next is woken when this one is detached.
    poll: Option<PollNo>,
    /// The result of the wait.
    pub(super) done: Option<Result<Value, CallError>>,
}

impl<H: Host> Waiting<H> {
    pub(super) fn new(call: Box<Call>, fed: Fed) -> Self {
        Self { call, fed, parked: false, leaving: None, acquired: None, poll: None, done: None }
    }
}

/// The slot that a body has waited for: none if the pool closes. `None`: it may not have one, and stays parked.
type Acquired<H> = Option<Option<Permit<H>>>;

/// The outcome of a combination, and of each of its parts.
pub(super) type Combined = (Result<Value, CallError>, Vec<Option<Result<Value, Failure>>>);

/// What the frame in which a body waits has to do itself.
pub(super) enum Next {
    Ask,
    AskPart(usize),
    Prove,
    ProvePart(usize),
    Execute,
    Sleep(Sleep),
    Done,
}

impl<H: Host<Dispatch = Pool<H>>> BodyCx<H> {
    /// Waits until a condition holds and returns its value. `check` asks it, on this thread.
    ///
    /// # Errors
    /// See [`CallError`]; a timeout is `Failed` with [`bide_core::FailureKind::WaitTimeout`].
    pub fn wait_condition(
        &self,
        at: &mut dyn Attached,
        condition: Condition,
        check: &mut dyn Check,
    ) -> Result<Value, CallError> {
        let waiting = self.begin_condition(condition)?;
        self.wait(at, waiting, check)
    }

    /// Waits for these parts: one wait, or a combination before its members. Returns the outcome of each part, in their
    /// order, beside that of the whole; a part that is not over has none.
    pub fn wait_parts(&self, at: &mut dyn Attached, parts: Vec<PartRequest>, check: &mut dyn Check) -> Combined {
        if let Err(error) = self.run.check_declared(self.task.ix, &parts) {
            return (Err(error), Vec::new());
        }
        let name = parts.first().map_or_else(|| "".into(), |part| Arc::clone(&part.name));
        let waiting = match self.waiting(&name, Request::of_parts(parts)) {
            Ok(waiting) => waiting,
            Err(error) => return (Err(error), Vec::new()),
        };
        let mut outcomes = Vec::new();
        let waited = self.wait_keeping(at, waiting, check, &mut outcomes);
        if outcomes.is_empty() {
            let whole = match &waited {
                Ok(value) => Some(Ok(value.clone())),
                Err(CallError::Failed(failure)) => Some(Err(failure.clone())),
                Err(_) => None,
            };
            return (waited, vec![whole]);
        }
        (waited, outcomes)
    }

    /// Waits until a point in time.
    ///
    /// # Errors
    /// See [`CallError`].
    pub fn wait_until(&self, at: &mut dyn Attached, name: &Arc<str>, time: Time) -> Result<(), CallError> {
        self.wait_time(at, name, Request::Until(time))
    }

    /// Waits for a span from now on; on re-entry the time stands that was recorded first.
    ///
    /// # Errors
    /// See [`CallError`].
    pub fn wait_after(&self, at: &mut dyn Attached, name: &Arc<str>, span: Duration) -> Result<(), CallError> {
        self.wait_time(at, name, Request::After(span))
    }

    fn wait_time(&self, at: &mut dyn Attached, name: &Arc<str>, request: Request) -> Result<(), CallError> {
        let waiting = self.waiting(name, request)?;
        self.wait(at, waiting, &mut || Polled::True(Value::NONE)).map(drop)
    }

    #[inline(never)]
    fn begin_condition(&self, condition: Condition) -> Result<Box<Waiting<H>>, CallError> {
        let Condition { name, proof, policy, timeout } = condition;
        self.waiting(&name, Request::Condition { proof, policy, timeout })
    }

    #[inline(never)]
    fn waiting(&self, name: &Arc<str>, request: Request) -> Result<Box<Waiting<H>>, CallError> {
        let call = self.begin(name, request)?;
        Ok(Box::new(Waiting::new(call, Fed::Begin)))
    }

    /// The frame within which the thread parks and asks: it holds no action and nothing that is fed.
    #[inline(never)]
    fn wait(&self, at: &mut dyn Attached, waiting: Box<Waiting<H>>, check: &mut dyn Check) -> Result<Value, CallError> {
        self.wait_keeping(at, waiting, check, &mut Vec::new())
    }

    /// As [`BodyCx::wait`]; `keys` gets the keys of the parts of a combination.
    #[inline(never)]
    fn wait_keeping(
        &self,
        at: &mut dyn Attached,
        mut waiting: Box<Waiting<H>>,
        check: &mut dyn Check,
        outcomes: &mut Vec<Option<Result<Value, Failure>>>,
    ) -> Result<Value, CallError> {
        let mut has_slept = false;
        loop {
            match self.act(at, &mut waiting) {
                Next::Ask => waiting.fed = Fed::Asked(check.ask()),
                Next::AskPart(part) => waiting.fed = Fed::Asked(check.ask_part(part)),
                Next::ProvePart(part) => waiting.fed = Fed::Proved(check.is_part_unchanged(part)),
                Next::Prove => waiting.fed = Fed::Proved(check.is_unchanged()),
                Next::Execute => unreachable!("a wait executes nothing"),
                Next::Sleep(sleep) => {
                    let few = || self.engine.dispatch().workers.handles().0 <= FEW;
                    if !std::mem::replace(&mut has_slept, true) && !few() {
                        at.parks();
                    }
                    let woken = self.sleep(at, &mut waiting, sleep);
                    self.wakes(&mut waiting, sleep, woken);
                }
                Next::Done => {
                    *outcomes = waiting.call.outcomes(&self.run.state.lock());
                    return waiting.done.take().unwrap_or(Err(CallError::Suspended));
                }
            }
        }
    }

    /// Sleeps, with the slot released before.
    pub(super) fn sleep(&self, at: &mut dyn Attached, waiting: &mut Waiting<H>, sleep: Sleep) -> Woken {
        let (workers, mut leaving) = (&self.engine.dispatch().workers, waiting.leaving.take());
        loop {
            let woken = at.wait(|| {
                let needs_spare = leaving.take().is_some_and(|permit| workers.release(permit));
                (!needs_spare).then(|| {
                    let woken = self.sleep_detached(&waiting.call, sleep, waiting.poll);
                    let acquired = self.acquires_at_once(&waiting.call, sleep, woken).then(|| self.acquire());
                    (woken, acquired)
                })
            });
            match woken {
                Some((woken, acquired)) => {
                    waiting.acquired = acquired;
                    return woken;
                }
                None => workers.keep_spare(&self.engine),
            }
        }
    }

    /// Whether a call takes a slot now that it is woken, before anything else: then it waits for that where it has slept.
    /// Of thousands that are woken at once, only those that have a slot attach.
    fn acquires_at_once(&self, call: &Call, sleep: Sleep, woken: Woken) -> bool {
        let is_lone = || call.part_keys().is_empty();
        woken == Woken::Rung
            && !matches!(sleep, Sleep::Poll(_))
            && is_lone()
            && !self.run.is_over()
            && self.is_over(call)
    }

    /// Waits for a slot.
    fn acquire(&self) -> Acquired<H> {
        // While its run is paused it gets no slot: it is entered again afterwards.
        let held = self.run.state.lock().is_held();
        let may =
            !held && self.engine.limiter().resume(&self.run, self.task).is_none_or(|due| due.blocking_recv().is_ok());
        let waits = || self.engine.slot_queue().enter(self.run.id.row(), self.task);
        may.then(|| self.engine.dispatch().workers.resume(&self.parker, self.run.priority(), waits))
    }

    fn sleep_detached(&self, call: &Call, sleep: Sleep, last: Option<PollNo>) -> Woken {
        for event in self.run.note_sleep((self.task, self.attempt()), call, sleep, &**self.engine.clock()) {
            self.engine.enqueue(Arc::clone(&self.run), event);
        }
        let (workers, parker) = (&self.engine.dispatch().workers, &self.parker);
        match sleep {
            Sleep::Poll(span) => {
                let span = (span, call.is_endless());
                workers.park_until_poll(&self.engine, parker, span, last, |alarm, ticket| {
                    self.run.set_alarm(self.task, call.key(), alarm, ticket);
                })
            }
            Sleep::Until(due) => loop {
                let woken = parker.park_until(|alarm, ticket| {
                    self.run.set_alarm(self.task, call.key(), Arc::clone(&alarm), ticket);
                    let _ = self.engine.timers().at(due, alarm, ticket);
                });
                // Somebody may have rung for what is no reason to wake.
                if woken == Woken::Closed || self.engine.now() >= due || self.is_over(call) || self.run.is_over() {
                    break woken;
                }
            },
            Sleep::Closed => {
                parker.park_until(|alarm, ticket| self.run.set_alarm(self.task, call.key(), alarm, ticket))
            }
            Sleep::PollOrClosed(span) => parker.park_until(|alarm, ticket| {
                self.run.set_alarm(self.task, call.key(), Arc::clone(&alarm), ticket);
                let _ = self.engine.timers().poll_after(span, call.is_endless(), alarm, ticket);
            }),
        }
    }

    /// The sleep is over; one until the next poll has ended the last one.
    #[inline(never)]
    pub(super) fn wakes(&self, waiting: &mut Waiting<H>, sleep: Sleep, woken: Woken) {
        waiting.poll = None;
        // A poll is begun in any case, and finds that out itself.
        if !matches!(sleep, Sleep::Poll(_)) && self.run.has_deadline() && self.run.is_over() {
            waiting.fed = Fed::Stopped;
            return;
        }
        if woken == Woken::Rung && matches!(sleep, Sleep::Poll(_)) {
            let condition = Arc::clone(waiting.call.name());
            let workers = &self.engine.dispatch().workers;
            waiting.poll = Some(workers.begin_poll(&self.engine, self.executing(), condition));
        }
        waiting.fed = match (woken, sleep) {
            (Woken::Closed, _) => Fed::Stopped,
            (Woken::Rung, Sleep::Closed | Sleep::PollOrClosed(_)) => Fed::Woken,
            (Woken::Rung, _) if self.is_over(&waiting.call) => Fed::Closed,
            (Woken::Rung, Sleep::Until(_)) => Fed::Woken,
            (Woken::Rung, Sleep::Poll(_)) => {
                waiting.call.set_deadline(self.run.state.lock().deadline(self.task, waiting.call.key()));
                Fed::Woken
            }
        };
    }

    /// Whether the run machine has closed what a call waits for.
    fn is_over(&self, call: &Call) -> bool {
        self.run.state.lock().closed_entry(self.task, call.key()).is_some()
    }

    /// Carries out the actions of a wait up to the first one that [`BodyCx::wait`] carries out itself.
    #[inline(never)]
    pub(super) fn act(&self, at: &mut dyn Attached, waiting: &mut Waiting<H>) -> Next {
        loop {
            let action = self.drive(at, &mut waiting.call, &mut waiting.fed);
            if let Some(next) = self.carry_out(at, waiting, action) {
                return next;
            }
        }
    }

    /// Carries out one action, or returns what the frame of the wait has to do.
    pub(super) fn carry_out(&self, at: &mut dyn Attached, waiting: &mut Waiting<H>, action: Action) -> Option<Next> {
        if !matches!(action, Action::Sleep(_)) {
            self.leave(waiting);
        }
        waiting.fed = match action {
            Action::Ask => return Some(Next::Ask),
            Action::AskPart(part) => return Some(Next::AskPart(part)),
            Action::Prove => return Some(Next::Prove),
            Action::ProvePart(part) => return Some(Next::ProvePart(part)),
            Action::Execute => return Some(Next::Execute),
            Action::Sleep(sleep) => return Some(Next::Sleep(sleep)),
            Action::Release => self.release(waiting),
            Action::CommitAndAcquire(event) => self.commit_and_acquire(at, waiting, Some(*event)),
            Action::Acquire => self.commit_and_acquire(at, waiting, None),
            Action::Done(result) => {
                if let Some(permit) = waiting.acquired.take() {
                    waiting.parked = permit.is_none();
                    *self.permit.lock() = permit.flatten();
                }
                if waiting.parked {
                    let workers = &self.engine.dispatch().workers;
                    workers.end_poll(waiting.poll);
                    workers.unpark_without_slot();
                }
                waiting.done = Some(result);
                return Some(Next::Done);
            }
            action => unreachable!("{action:?} of a wait"),
        };
        None
    }

    /// Releases the slot of a body that does not sleep yet, and makes sure that a thread is there to use it.
    fn leave(&self, waiting: &mut Waiting<H>) {
        if let Some(permit) = waiting.leaving.take() {
            let workers = &self.engine.dispatch().workers;
            if workers.release(permit) {
                workers.keep_spare(&self.engine);
            }
        }
    }

    /// Gives the slot up.
    #[inline(never)]
    fn release(&self, waiting: &mut Waiting<H>) -> Fed {
        if !self.is_slot_held() {
            // It could not get one after its last wait.
            return Fed::Stopped;
        }
        // Asked with the slot held: the next attempt waits for this body, and this one may wait for ever.
        if self.limit.as_ref().is_some_and(|limit| !limit.pause()) {
            return Fed::NotReleased;
        }
        waiting.leaving = self.permit.lock().take();
        self.engine.limiter().idle(&self.run, self.task);
        waiting.parked = true;
        Fed::Released
    }

    /// Commits the end of an open wait, unless the run machine has, and takes a slot again.
    #[inline(never)]
    fn commit_and_acquire(&self, at: &mut dyn Attached, waiting: &mut Waiting<H>, event: Option<Event>) -> Fed {
        let workers = &self.engine.dispatch().workers;
        // Both at once: in between there is nothing to attach for.
        let (outcome, permit) = match waiting.acquired.take() {
            Some(permit) => (Ok(()), permit),
            None => at.wait(|| {
                workers.end_poll(waiting.poll);
                let outcome = event.map_or(Ok(()), |event| self.engine.commit_own(None, &self.run, event));
                (outcome, self.acquire())
            }),
        };
        waiting.poll = None;
        waiting.parked = permit.is_none();
        let permit = permit.flatten();
        let slot = permit.is_some();
        *self.permit.lock() = permit;
        if slot {
            self.limit.iter().for_each(Limit::resume);
        }
        let commit = outcome.map_err(|lost| match lost {
            Lost::Refused(refused) if !self.run.is_lost() => CallError::Over(refused),
            Lost::Refused(_) | Lost::Stopped => CallError::Suspended,
        });
        Fed::Acquired { commit, slot }
    }
}
