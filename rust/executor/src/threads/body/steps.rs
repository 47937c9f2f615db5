//! A body's steps and checkpoints: begun, executed by the host, ended, and delayed between two tries.
//!
//! Steps with a key work on any thread of the body. A thread that is not the body's own has no slot to release and no
//! place of the pool to sleep at: it gets one for the delay.

use std::sync::Arc;

use bide_core::attempt::{Action, Call, CallError, Fed, Request, Sleep, StepOptions, now_value, read_now};
use bide_core::event::Retry;
use bide_core::record::StepRecord;
use bide_core::{EntryKey, Failure, RetryPolicy, StepArguments, Time, Value};
use bide_sched::Woken;
use bide_store::Lease;

use super::BodyCx;
use super::waits::{Next, Waiting};
use crate::host::{Attached, Host};
use crate::threads::pool::Pool;

/// A step, as a body states it.
#[derive(Clone, Debug, Default)]
pub struct StepRequest {
    /// What it is called with, as it is compared; none for one with a key.
    pub proof: Option<Arc<[u8]>>,
    /// The caller's key: it stands for the use and the arguments.
    pub key: Option<Arc<str>>,
    /// It is executed at most once.
    pub once: bool,
    /// When it is tried again.
    pub retry: Option<RetryPolicy>,
    /// What a message says about the step in the place of [`Host::STEP_ADVICE`].
    pub advice: Option<&'static str>,
}

/// What the refusal of a record of bide's own says: it takes no key.
const OWN_THREAD: &str = "Call it on the body's own thread, before the other threads start, and pass them its result";

impl StepRequest {
    /// A step that is found by its name, use and arguments, and is executed until its result is recorded.
    #[must_use]
    pub fn plain(proof: Option<Arc<[u8]>>) -> Self {
        Self { proof, ..Self::default() }
    }
}

impl StepStart {
    /// What it returned, if it has not to be executed (again).
    #[must_use]
    pub fn returned(self) -> Option<Value> {
        match self {
            Self::Returned(value) => Some(value),
            Self::Execute(_) => None,
        }
    }
}

/// What to do about a step.
#[derive(Debug)]
pub enum StepStart {
    /// It is recorded: this is what it returned.
    Returned(Value),
    /// It has to be executed; return the call with its result.
    Execute(Box<Call>),
}

/// How a step that was executed ended.
#[derive(Debug)]
pub enum StepEnd {
    /// It returned or raised.
    Executed(Result<Value, Failure>),
    /// It raised what its retry policy covers.
    Raised(Failure, Retry),
    /// It is to leave no record.
    Unrecorded,
}

impl<H: Host<Dispatch = Pool<H>>> BodyCx<H> {
    /// Begins a step: what is recorded of it, or a call to execute it.
    /// `older` gives the proof as the first version of bide computed it; it is asked only if the journal has such.
    ///
    /// # Errors
    /// See [`CallError`]; what a recorded step raised is `Failed`, and other arguments than recorded are a `Mismatch`.
    pub fn begin_step(
        &self,
        at: &mut dyn Attached,
        name: &Arc<str>,
        request: StepRequest,
        older: &mut dyn FnMut() -> Option<Arc<[u8]>>,
    ) -> Result<StepStart, CallError> {
        let StepRequest { proof, key, once, retry, advice } = request;
        let has_older = key.is_none() && self.run.state.lock().has_older_steps(self.task);
        let older = if has_older { older() } else { None };
        let arguments = StepArguments { proof, older, advice: advice.unwrap_or(H::STEP_ADVICE) };
        let options = StepOptions { keyed: key.is_some(), once, retry };
        let name = key.map_or_else(|| Arc::clone(name), |key| EntryKey::keyed_name(name, &key));
        let call = self.begin(&name, Request::Step { arguments, options })?;
        self.drive_step(at, call, Fed::Begin)
    }

    /// Ends a step: commits its result and returns it, or has it tried again after its delay.
    ///
    /// # Errors
    /// `Failed` if the step failed; every other [`CallError`] means that it is not recorded, and will be executed
    /// again.
    pub fn end_step(&self, at: &mut dyn Attached, call: Box<Call>, end: StepEnd) -> Result<StepStart, CallError> {
        let fed = match end {
            StepEnd::Executed(result) => Fed::Executed(result),
            StepEnd::Raised(failure, retry) => Fed::Raised(failure, retry),
            StepEnd::Unrecorded => Fed::Unrecorded,
        };
        self.drive_step(at, call, fed)
    }

    /// Leaves a step without recording it: it was interrupted.
    pub fn abandon_step(&self, call: Box<Call>) {
        self.attempt.lock().abandon(&call);
    }

    /// The record of a step that is being executed and returned this value, for a transaction of the user's. With the
    /// lease under which that is to be written.
    ///
    /// # Errors
    /// What another call of the handle would be refused for now.
    pub fn step_record(&self, call: &Call, value: Value) -> Result<(Lease, StepRecord), CallError> {
        // Before the check: a run that was lost is not written under the lease that came after.
        let lease = self.engine.lease();
        self.attempt.lock().may_show(self.standing())?;
        Ok((lease, self.run.state.lock().step_record(call, value, self.engine.now())))
    }

    /// Ends a step that cannot be recorded, because another runner has the run: the body has to return.
    pub fn lose_step(&self, mut call: Box<Call>) -> CallError {
        match self.advance(&mut call, Fed::LeaseLost) {
            Action::Done(Err(error)) => error,
            action => unreachable!("{action:?} of a step without a lease"),
        }
    }

    /// Feeds a step up to where it is executed or over.
    fn drive_step(&self, at: &mut dyn Attached, mut call: Box<Call>, mut fed: Fed) -> Result<StepStart, CallError> {
        match self.drive(at, &mut call, &mut fed) {
            Action::Execute => Ok(StepStart::Execute(call)),
            Action::Done(result) => result.map(StepStart::Returned),
            action => self.delay_step(at, call, action),
        }
    }

    /// A step is delayed: as a wait for a time, after which it is executed. In a frame of its own.
    #[cold]
    #[inline(never)]
    fn delay_step(&self, at: &mut dyn Attached, call: Box<Call>, action: Action) -> Result<StepStart, CallError> {
        let mut waiting = Box::new(Waiting::new(call, Fed::Begin));
        let mut next = self.carry_out(at, &mut waiting, action);
        loop {
            match next {
                Some(Next::Sleep(Sleep::Until(due))) if !self.is_own_thread() => {
                    waiting.fed = match self.sleep_elsewhere(at, due) {
                        Woken::Rung => Fed::Woken,
                        Woken::Closed => Fed::Stopped,
                    };
                }
                Some(Next::Sleep(sleep)) => {
                    at.parks();
                    let woken = self.sleep(at, &mut waiting, sleep);
                    self.wakes(&mut waiting, sleep, woken);
                }
                Some(Next::Execute) => return Ok(StepStart::Execute(waiting.call)),
                Some(Next::Done) => {
                    let done = waiting.done.take().unwrap_or(Err(CallError::Suspended));
                    return done.map(StepStart::Returned);
                }
                Some(Next::Ask | Next::AskPart(_) | Next::Prove | Next::ProvePart(_)) => {
                    unreachable!("a step asks no condition")
                }
                None => {}
            }
            next = Some(self.act(at, &mut waiting));
        }
    }

    /// Sleeps on a thread that is not the pool's.
    fn sleep_elsewhere(&self, at: &mut dyn Attached, due: Time) -> Woken {
        let workers = &self.engine.dispatch().workers;
        let parker = workers.new_parker();
        at.wait(|| {
            workers.enlist(&parker);
            let woken = parker.park_until(|alarm, ticket| {
                let _ = self.engine.timers().at(due, alarm, ticket);
            });
            workers.discharge(&parker);
            woken
        })
    }

    /// Records a state in the place of the journal.
    ///
    /// # Errors
    /// See [`CallError`].
    pub fn checkpoint(&self, at: &mut dyn Attached, state: Value) -> Result<(), CallError> {
        let mut call = self.begin(&"checkpoint".into(), Request::Checkpoint(state))?;
        match self.drive(at, &mut call, &mut Fed::Begin) {
            Action::Done(result) => result.map(drop),
            action => unreachable!("{action:?} of a checkpoint"),
        }
    }

    /// Records a value of bide's own: on re-entry it is the same again.
    ///
    /// # Errors
    /// See [`CallError`].
    pub fn record(&self, at: &mut dyn Attached, name: &str, value: impl FnOnce() -> Value) -> Result<Value, CallError> {
        let request = StepRequest { advice: Some(OWN_THREAD), ..StepRequest::plain(Some([].into())) };
        let start = match self.begin_step(at, &name.into(), request, &mut || None)? {
            StepStart::Execute(call) => self.end_step(at, call, StepEnd::Executed(Ok(value())))?,
            returned => returned,
        };
        match start {
            StepStart::Returned(value) => Ok(value),
            StepStart::Execute(_) => unreachable!("it is not tried again"),
        }
    }

    /// The time, recorded.
    ///
    /// # Errors
    /// See [`CallError`]; a record that is no time is `Failed`.
    pub fn now(&self, at: &mut dyn Attached) -> Result<Time, CallError> {
        let value = self.record(at, "now", || now_value(self.engine.now()))?;
        read_now(&self.task_name(), &value)
    }
}
