//! A step in progress: executed, begun before it is executed if that may happen only once, and tried again.
//!
//! | state     | fed                                          | next state | action                      |
//! |-----------|----------------------------------------------|------------|-----------------------------|
//! | Look      | `Recalled`: ask                              | Executing  | `Execute`                   |
//! | Look      | `Recalled`: ask, at most once                | Beginning  | `Commit(Intended)`          |
//! | Look      | `Recalled`: begun, at most once              | Recording  | `Commit(Recorded)` failure  |
//! | Look      | `Recalled`: begun, its next try is due       | Executing  | `Execute`                   |
//! | Look      | `Recalled`: begun, its next try is not due   | Delaying   | `Commit(Delayed)`           |
//! | Beginning | `Committed`                                  | Executing  | `Execute`                   |
//! | Executing | `Executed`                                   | Recording  | `Commit(Recorded)`          |
//! | Executing | `Raised`, tries remain                       | Delaying   | `Commit(Delayed)`           |
//! | Executing | `Raised`, it was the last try                | Recording  | `Commit(Recorded)` failure  |
//! | Executing | `Unrecorded`, it was written that it began   | Removing   | `Commit(Unrecorded)`        |
//! | Executing | `Unrecorded`                                 | End        | `Done`                      |
//! | Removing  | `Committed`                                  | End        | `Done`                      |
//! | Delaying  | `Committed`                                  | Releasing  | `Release`                   |
//! | Releasing | `Released`                                   | Sleeping   | `Sleep(Until)`              |
//! | Sleeping  | `Woken`, not before its time                 | Resuming   | `CommitAndAcquire(Resumed)` |
//! | Resuming  | `Acquired`                                   | Lease      | `CheckLease`                |
//! | Lease     | `LeaseHeld`                                  | Executing  | `Execute`                   |
//!
//! Recording is the state of that name in `call.rs`. A delay of nothing goes from Delaying to Lease. A step keeps the
//! slot of its body while it is delayed if the body does something else meanwhile: it is called on another thread, or
//! other calls are under way. Then Delaying leads to Sleeping, and Sleeping to Resuming by `Commit(Resumed)`.

use std::sync::Arc;
use std::time::Duration;

use super::call::{Call, Kind, State as CallState};
use super::{Action, CallError, Caller, Clocks, Fed, Named, Sleep, StepOptions, used_up};
use crate::entry::{Operation, StepMode};
use crate::event::{Event, Retry};
use crate::failure::{Failure, FailureKind};
use crate::retry::RetryPolicy;
use crate::time::Time;
use crate::value::Value;

/// What a step has beside its name and its arguments.
#[derive(Debug)]
pub(super) struct Step {
    /// It may be executed only once: that it begins is recorded first.
    once: bool,
    /// When it is tried again.
    retry: Option<Box<RetryPolicy>>,
    /// How often it has failed.
    tries: u32,
    /// When it was last executed; `None` if it was not yet.
    began: Option<Time>,
    /// That it began is in the journal.
    begun: bool,
    /// It is called on another thread than the body's, which has the slot.
    elsewhere: bool,
    /// It keeps the slot while it is delayed. Decided when the delay begins.
    keeps_slot: bool,
}

/// Where a step stands; see the table above.
#[derive(Debug)]
pub(super) enum State {
    Beginning,
    Executing,
    Removing,
    Delaying(Delay),
    Releasing(Time),
    Sleeping(Time),
    Resuming,
    Lease,
}

/// The delay before the next try.
#[derive(Debug)]
pub(super) struct Delay {
    /// When it is over; `None`: it takes no time.
    due: Option<Time>,
}

impl Step {
    pub(super) fn new(options: &StepOptions, caller: Caller) -> Self {
        let StepOptions { once, retry, .. } = options;
        let (retry, elsewhere) = (retry.map(Box::new), caller == Caller::Elsewhere);
        Self { once: *once, retry, tries: 0, began: None, begun: false, elsewhere, keeps_slot: elsewhere }
    }
}

impl Call {
    fn step(&mut self) -> &mut Step {
        match &mut self.kind {
            Kind::Step(step) => step,
            kind => unreachable!("a step's state of {kind:?}"),
        }
    }

    /// A delay of the step may begin: it keeps the slot if other calls of the body are under way.
    pub(super) fn may_be_delayed(&mut self, others: bool) {
        if let Kind::Step(step) = &mut self.kind {
            step.keeps_slot = step.elsewhere || others;
        }
    }

    /// When a step was last executed; `None` if this is none, or was not executed here.
    pub(super) fn step_began(&self) -> Option<Time> {
        match &self.kind {
            Kind::Step(step) => step.began,
            _ => None,
        }
    }

    fn execute(&mut self, clocks: &dyn Clocks) -> Action {
        self.step().began = Some(clocks.wall());
        self.go_step(State::Executing, Action::Execute)
    }

    fn go_step(&mut self, state: State, action: Action) -> Action {
        self.go(CallState::Step(state), action)
    }

    /// Nothing is recorded of the step.
    pub(super) fn step_is_new(&mut self, clocks: &dyn Clocks) -> Action {
        if !self.step().once {
            return self.execute(clocks);
        }
        self.step().begun = true;
        let wait = self.wait(Operation::step(self.proof()));
        let event = Event::Intended { task: self.task, attempt: self.attempt, wait };
        self.go_step(State::Beginning, Action::Commit(Box::new(event)))
    }

    /// The step was begun, by an earlier entry of the body, and has no result.
    #[inline(never)]
    pub(super) fn step_begun(
        &mut self,
        mode: StepMode,
        due: Option<Time>,
        task: Named<'_>,
        clocks: &dyn Clocks,
    ) -> Action {
        let name = Arc::clone(&self.key.name);
        let step = self.step();
        step.begun = true;
        if step.once {
            return self.record(Operation::step(self.proof()), Err(interrupted(task, &name)));
        }
        if let StepMode::Retried { tries } = mode {
            step.tries = tries;
        }
        match due.filter(|due| *due > clocks.wall()) {
            Some(due) => self.sleep_until(due),
            None => self.execute(clocks),
        }
    }

    /// Its next try is not due yet, as an earlier entry of the body has recorded. That is written again, because the
    /// body is deferred again.
    fn sleep_until(&mut self, due: Time) -> Action {
        let tries = self.step().tries;
        self.delay(tries, None, Some(due))
    }

    #[inline(never)]
    pub(super) fn advance_step(&mut self, state: State, fed: Fed, task: Named<'_>, clocks: &dyn Clocks) -> Action {
        match (state, fed) {
            (State::Beginning, Fed::Committed { .. }) | (State::Lease, Fed::LeaseHeld) => self.execute(clocks),
            (State::Executing, Fed::Executed(result)) => self.record(Operation::step(self.proof()), result),
            (State::Executing, Fed::Raised(failure, retry)) => self.raised(failure, retry, clocks),
            (State::Executing, Fed::Unrecorded) if self.step().begun => {
                let event = Event::Unrecorded { task: self.task, attempt: self.attempt, key: self.key.clone() };
                self.go_step(State::Removing, Action::Commit(Box::new(event)))
            }
            (State::Executing, Fed::Unrecorded) | (State::Removing, Fed::Committed { .. }) => self.end(Ok(Value::NONE)),
            (State::Delaying(Delay { due: None }), Fed::Committed { .. }) => {
                self.go_step(State::Lease, Action::CheckLease)
            }
            (State::Delaying(Delay { due: Some(due) }), Fed::Committed { .. }) if self.step().keeps_slot => {
                self.go_step(State::Sleeping(due), Action::Sleep(Sleep::Until(due)))
            }
            (State::Delaying(Delay { due: Some(due) }), Fed::Committed { .. }) => {
                self.go_step(State::Releasing(due), Action::Release)
            }
            (State::Releasing(due), Fed::Released) => {
                self.go_step(State::Sleeping(due), Action::Sleep(Sleep::Until(due)))
            }
            (State::Releasing(_), Fed::NotReleased) => self.end(Err(used_up(task))),
            (State::Sleeping(_), Fed::Closed) if self.step().keeps_slot => self.go(CallState::Reading, Action::Read),
            (State::Sleeping(_), Fed::Closed) => self.go(CallState::Acquiring, Action::Acquire),
            (State::Sleeping(due), Fed::Woken) if clocks.wall() < due => {
                self.go_step(State::Sleeping(due), Action::Sleep(Sleep::Until(due)))
            }
            (State::Sleeping(_), Fed::Woken) => {
                let event = Event::Resumed { task: self.task, attempt: self.attempt, key: self.key.clone() };
                let event = Box::new(event);
                let keeps = self.step().keeps_slot;
                let action = if keeps { Action::Commit(event) } else { Action::CommitAndAcquire(event) };
                self.go_step(State::Resuming, action)
            }
            (State::Resuming, Fed::Committed { .. })
            | (State::Resuming, Fed::Acquired { slot: true, commit: Ok(()) }) => {
                self.go_step(State::Lease, Action::CheckLease)
            }
            // The run machine has closed it before.
            (State::Resuming, Fed::Acquired { slot: true, commit: Err(CallError::Over(_)) }) => {
                self.go(CallState::Reading, Action::Read)
            }
            (State::Resuming, Fed::Acquired { slot: true, commit: Err(error) }) => self.end(Err(error)),
            (State::Resuming, Fed::Acquired { slot: false, .. }) => self.end(Err(CallError::Suspended)),
            (state, fed) => unreachable!("a driver answered {fed:?} in {state:?}"),
        }
    }

    /// The step raised what its policy covers.
    fn raised(&mut self, failure: Failure, retry: Retry, clocks: &dyn Clocks) -> Action {
        let step = self.step();
        step.tries = step.tries.saturating_add(1);
        let tries = step.tries;
        let Some(policy) = step.retry.as_deref().filter(|policy| policy.allows_after(tries)) else {
            return self.record(Operation::step(self.proof()), Err(failure));
        };
        let delay = policy.delay_before(tries.saturating_add(1), retry.random);
        let due = (delay > Duration::ZERO).then(|| clocks.wall().after(delay));
        self.delay(tries, Some(failure), due)
    }

    fn delay(&mut self, tries: u32, failure: Option<Failure>, due: Option<Time>) -> Action {
        let step = self.step();
        step.begun = true;
        let deferred = due.is_some() && !step.keeps_slot;
        let wait = self.wait(Operation::Step { proof: self.proof(), due });
        let event = Event::Delayed { task: self.task, attempt: self.attempt, wait, tries, failure, deferred };
        self.go_step(State::Delaying(Delay { due }), Action::Commit(Box::new(event)))
    }
}

/// The failure of a step that was begun and may not be executed again.
fn interrupted(task: Named<'_>, step: &str) -> Failure {
    let message = format!(
        "task '{task}': the step '{step}' was begun and has no result, because the process or the attempt ended in the \
         middle of it. It may be executed only once and is not called again: find out whether it took effect, and go on \
         with what you find, or call it again under another name or key"
    );
    Failure::new(FailureKind::StepInterrupted, "bide.StepInterrupted", &message)
}
