//! One call of a handle: the states of the table in `mod.rs`.

use std::time::Duration;

use super::polling::{Polling, timed_out};
use super::{Action, CallError, Clocks, Fed, Request, Sleep, used_up};
use crate::event::{Event, MISMATCH, Wait};
use crate::failure::Failure;
use crate::id::TaskRef;
use crate::journal::Recall;
use crate::record::{EntryKey, EntryKind};
use crate::time::Time;
use crate::value::Value;

/// A wait or step of a body, under way. Boxed by whoever holds it: a parked body keeps it.
#[derive(Debug)]
pub struct Call {
    task: TaskRef,
    attempt: u32,
    wait: Wait,
    kind: Kind,
    state: State,
}

/// What the call waits for or does.
#[derive(Debug)]
enum Kind {
    Condition(Polling),
    Until(Time),
    After(Duration),
    Step,
}

/// Where the call stands; see the table in `mod.rs`.
#[derive(Debug)]
enum State {
    Start,
    Lease,
    Look,
    First,
    Executing,
    Recording(Result<Value, Failure>),
    Opening,
    Releasing,
    Sleeping,
    LeaseAgain,
    Asking,
    Closing(Result<Value, Failure>),
    Pausing(String),
    End,
}

impl Call {
    pub(super) fn new(task: TaskRef, attempt: u32, key: EntryKey, request: Request) -> Self {
        let (entry, proof, timeout, kind) = match request {
            Request::Condition { proof, policy, timeout } => {
                (EntryKind::Condition, proof, timeout, Kind::Condition(Polling::new(policy, None)))
            }
            Request::Until(time) => (EntryKind::Time, None, None, Kind::Until(time)),
            Request::After(span) => (EntryKind::Time, None, None, Kind::After(span)),
            Request::Step { proof } => (EntryKind::Step, proof, None, Kind::Step),
        };
        let wait = Wait { key, kind: entry, proof, due: None, timeout };
        Self { task, attempt, wait, kind, state: State::Start }
    }

    /// The key of its record.
    #[must_use]
    pub const fn key(&self) -> &EntryKey {
        &self.wait.key
    }

    /// What its condition last raised, for whoever looks at the run.
    #[must_use]
    pub const fn last_error(&self) -> Option<&Failure> {
        match &self.kind {
            Kind::Condition(polling) => polling.error(),
            _ => None,
        }
    }

    pub(super) fn advance(&mut self, fed: Fed, task: &str, clocks: &dyn Clocks) -> Action {
        let state = std::mem::replace(&mut self.state, State::End);
        match (state, fed) {
            (_, Fed::LeaseLost | Fed::Stopped) => self.end(Err(CallError::Suspended)),
            (_, Fed::Refused(refused)) => self.end(Err(CallError::Over(refused))),
            (State::Start, Fed::Begin) => self.go(State::Lease, Action::CheckLease),
            (State::Lease, Fed::LeaseHeld) => {
                let (key, proof) = (self.wait.key.clone(), self.wait.proof.clone());
                self.go(State::Look, Action::Recall { key, kind: self.wait.kind, proof })
            }
            (State::Look, Fed::Recalled(recall)) => self.recalled(recall, task, clocks),
            (State::First, Fed::Asked(polled)) => match self.judge(polled, task, clocks) {
                Some(result) => self.record(result),
                None => self.open(),
            },
            (State::Executing, Fed::Executed(result)) => self.record(result),
            (State::Recording(result), Fed::Committed { .. }) => self.end(result.map_err(CallError::Failed)),
            (State::Opening, Fed::Committed { deadline }) => {
                if let Kind::Condition(polling) = &mut self.kind {
                    polling.set_deadline(deadline);
                }
                self.go(State::Releasing, Action::Release)
            }
            (State::Releasing, Fed::Released) => self.sleep(clocks),
            (State::Releasing, Fed::NotReleased) => self.end(Err(used_up(task))),
            (State::Sleeping, Fed::Woken) => match self.kind {
                Kind::Condition(_) => self.go(State::LeaseAgain, Action::CheckLease),
                _ => self.close(Ok(Value::NONE)),
            },
            (State::LeaseAgain, Fed::LeaseHeld) => self.go(State::Asking, Action::Ask),
            (State::Asking, Fed::Asked(polled)) => match self.judge(polled, task, clocks) {
                Some(result) => self.close(result),
                None => self.sleep(clocks),
            },
            (State::Closing(_), Fed::Acquired { slot: false, .. }) => self.end(Err(CallError::Suspended)),
            (State::Closing(result), Fed::Acquired { commit, slot: true }) => {
                self.end(commit.and(result.map_err(CallError::Failed)))
            }
            (State::Pausing(why), Fed::Committed { .. }) => self.end(Err(CallError::Mismatch(why))),
            (state, fed) => unreachable!("a driver answered {fed:?} in {state:?}"),
        }
    }

    fn go(&mut self, state: State, action: Action) -> Action {
        self.state = state;
        action
    }

    fn end(&mut self, result: Result<Value, CallError>) -> Action {
        self.go(State::End, Action::Done(result))
    }

    fn recalled(&mut self, recall: Recall, task: &str, clocks: &dyn Clocks) -> Action {
        let (due, deadline) = match recall {
            Recall::Satisfied(value) => return self.end(Ok(value)),
            Recall::Failed(failure) => return self.end(Err(CallError::Failed(failure))),
            Recall::Mismatch(why) => {
                let why = format!("task '{task}': {why}");
                let reason = format!("{MISMATCH}{why}").into();
                return self.go(State::Pausing(why), Action::Commit(Event::Block { reason }));
            }
            Recall::Ask { deadline } => (None, deadline),
            Recall::Open { due, deadline } => (due, deadline),
        };
        let time = match &mut self.kind {
            Kind::Condition(polling) => {
                polling.set_deadline(deadline);
                return self.go(State::First, Action::Ask);
            }
            Kind::Step => return self.go(State::Executing, Action::Execute),
            Kind::Until(time) => due.unwrap_or(*time),
            Kind::After(span) => due.unwrap_or_else(|| clocks.wall().after(*span)),
        };
        self.wait.due = Some(time);
        if time > clocks.wall() {
            return self.open();
        }
        let done = Ok(Value::NONE);
        if due.is_some() { self.commit(State::Recording(done), Self::closed) } else { self.record(done) }
    }

    fn judge(&mut self, polled: super::Polled, task: &str, clocks: &dyn Clocks) -> Option<Result<Value, Failure>> {
        let Kind::Condition(polling) = &mut self.kind else { return Some(Ok(Value::NONE)) };
        let name = &self.wait.key.name;
        polling.judge(polled, clocks, || timed_out(task, name))
    }

    fn sleep(&mut self, clocks: &dyn Clocks) -> Action {
        let sleep = match &mut self.kind {
            Kind::Condition(polling) => Sleep::Poll(polling.next(clocks)),
            _ => Sleep::Until(self.wait.due.unwrap_or_default()),
        };
        self.go(State::Sleeping, Action::Sleep(sleep))
    }

    fn commit(&mut self, state: State, event: impl FnOnce(&Self, Result<Value, Failure>) -> Event) -> Action {
        let (State::Recording(result) | State::Closing(result)) = &state else { unreachable!("nothing to commit") };
        let event = event(self, result.clone());
        self.go(state, Action::Commit(event))
    }

    fn record(&mut self, result: Result<Value, Failure>) -> Action {
        self.commit(State::Recording(result), |call, result| Event::Recorded {
            task: call.task,
            attempt: call.attempt,
            wait: call.wait.clone(),
            result,
        })
    }

    fn open(&mut self) -> Action {
        let event = Event::Opened { task: self.task, attempt: self.attempt, wait: self.wait.clone() };
        self.go(State::Opening, Action::Commit(event))
    }

    fn close(&mut self, result: Result<Value, Failure>) -> Action {
        let event = self.closed(result.clone());
        self.go(State::Closing(result), Action::CommitAndAcquire(event))
    }

    fn closed(&self, result: Result<Value, Failure>) -> Event {
        Event::Closed { task: self.task, attempt: self.attempt, key: self.wait.key.clone(), result, retry: None }
    }
}
