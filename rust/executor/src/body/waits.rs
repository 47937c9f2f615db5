//! A body's waits, on its own thread: for a condition, which that thread polls, and for a time.
//!
//! The order of a wait is always the same: look into the journal; check once while the slot is held; commit the open
//! wait; give the slot back; park; when the wait is over, commit that; take a slot; go on. A close in between leaves
//! the rows as they are: the body is entered again from them.

use std::sync::Arc;
use std::time::Duration;

use bide_core::event::Wait;
use bide_core::poll::Poll;
use bide_core::{Asked, EntryKey, EntryKind, Failure, Recall, Time, Value};
use bide_sched::{PollNo, Woken};

use super::{BodyCx, Condition, Inside, WaitError, timed_out};
use crate::host::{Attached, Host, Polled};
use crate::limit::Limit;
use crate::pool::Pool;

/// A condition as the thread of its body asks it.
pub trait Check {
    /// Asks it once.
    fn ask(&mut self) -> Polled;

    /// Whether what proved it the same before it was asked proves that still. Asked once, at the end of its wait.
    fn is_unchanged(&mut self) -> bool;
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

/// A wait for a condition that is open.
struct OpenCondition {
    key: EntryKey,
    poll: Poll,
    /// When it was asked last, by the steady clock: what is done in between is part of its interval.
    asked: Duration,
    deadline: Option<Time>,
}

/// What opening a wait came to.
enum Opened {
    /// It is over already.
    Over(Value),
    /// The body is to be deferred.
    Waits(Box<OpenCondition>),
}

impl<H: Host<Dispatch = Pool<H>>> BodyCx<H> {
    /// Waits until a condition holds and returns its value. `check` asks it, on this thread.
    ///
    /// # Errors
    /// See [`WaitError`]; a timeout is `Failed` with [`FailureKind::WaitTimeout`].
    pub fn wait_condition(
        &self,
        at: &mut dyn Attached,
        condition: Condition,
        check: &mut dyn Check,
    ) -> Result<Value, WaitError> {
        match self.open_condition(at, condition, check)? {
            Opened::Over(value) => Ok(value),
            Opened::Waits(mut open) => {
                self.defer()?;
                at.parks();
                let (result, poll) = self.poll_until(at, &mut open, check);
                let proved = result.is_none() || self.within(&open.key.name, || check.is_unchanged());
                self.go_on(at, open.key, result, proved, poll)
            }
        }
    }

    /// Up to where the body is deferred. A function of its own: what it needs on the stack, a parked thread does not.
    #[inline(never)]
    fn open_condition(
        &self,
        at: &mut dyn Attached,
        condition: Condition,
        check: &mut dyn Check,
    ) -> Result<Opened, WaitError> {
        self.usable("a wait")?;
        self.sure_of_lease(at)?;
        let Condition { name, proof, policy, timeout } = condition;
        let asked = Asked::new(Arc::clone(&name), EntryKind::Condition, proof);
        let (key, recall) = self.recall(&asked)?;
        let recorded_deadline = match recall {
            Recall::Satisfied(value) => return Ok(Opened::Over(value)),
            Recall::Failed(failure) => return Err(WaitError::Failed(failure)),
            Recall::Mismatch(why) => return Err(self.mismatch(at, why)),
            Recall::Ask { deadline } | Recall::Open { deadline, .. } => deadline,
        };
        let mut wait = Wait { key: key.clone(), kind: EntryKind::Condition, proof: asked.proof, due: None, timeout };
        let mut open = Box::new(OpenCondition { key, poll: Poll::new(policy), asked: Duration::ZERO, deadline: None });
        let first = self.check(check, &mut open);
        let now = self.engine.clock.now();
        let first = match first {
            None if recorded_deadline.is_some_and(|deadline| now >= deadline) => Some(Err(self.timed_out(&open.key))),
            first => first,
        };
        if let Some(result) = first {
            if !self.within(&name, || check.is_unchanged()) {
                wait.proof = None;
            }
            self.commit(at, self.recorded(wait, result.clone()))?;
            return result.map(Opened::Over).map_err(WaitError::Failed);
        }
        self.commit(at, self.wait_event(wait))?;
        open.deadline = self.run.state.lock().deadline(self.task.ix, &open.key);
        Ok(Opened::Waits(open))
    }

    /// Asks a condition once. `None`: not yet.
    fn check(&self, check: &mut dyn Check, open: &mut OpenCondition) -> Option<Result<Value, Failure>> {
        let polled = self.within(&open.key.name, || check.ask());
        open.asked = self.engine.clock.steady();
        self.run.judge(self.task.ix, &mut open.poll, polled)
    }

    /// Calls code of the user that belongs to a condition: nothing may be recorded in it.
    fn within<R>(&self, condition: &Arc<str>, f: impl FnOnce() -> R) -> R {
        *self.inside.lock() = Some(Inside::Condition(Arc::clone(condition)));
        let result = f();
        *self.inside.lock() = None;
        result
    }

    /// Gives the slot back and makes sure that a thread is there to use it.
    #[inline(never)]
    fn defer(&self) -> Result<(), WaitError> {
        // Asked with the slot held: the next attempt waits for this body, and this one may wait for ever.
        if self.is_slot_held() && self.limit.as_ref().is_some_and(|limit| !limit.pause()) {
            return Err(self.used_up());
        }
        match self.permit.lock().take() {
            Some(permit) => self.engine.dispatch.workers.release(&self.engine, permit),
            None => return Err(WaitError::Misuse("a wait while another wait of this body is open".to_owned())),
        }
        Ok(())
    }

    /// Polls a condition on this thread, parked in between. `None`: the runner closes, or has lost the run. The last
    /// poll has not ended yet: whoever polls next is woken when this thread is detached.
    fn poll_until(
        &self,
        at: &mut dyn Attached,
        open: &mut OpenCondition,
        check: &mut dyn Check,
    ) -> (Option<Result<Value, Failure>>, Option<PollNo>) {
        let workers = &self.engine.dispatch.workers;
        let mut last = None;
        loop {
            let now = self.engine.clock.now();
            let asked = now.before(self.engine.clock.steady().saturating_sub(open.asked));
            let span = open.poll.next(asked, open.deadline, self.engine.random()).since(now);
            let woken = at.wait(|| workers.park_until_poll(&self.engine, &self.parker, span, last));
            if woken == Woken::Closed {
                return (None, None);
            }
            last = Some(workers.begin_poll(&self.engine, self.executing(), Arc::clone(&open.key.name)));
            if self.sure_of_lease(at).is_err() {
                return (None, last);
            }
            let late = open.deadline.is_some_and(|deadline| self.engine.clock.now() >= deadline);
            let result = match self.check(check, open) {
                None if late => Some(Err(self.timed_out(&open.key))),
                result => result,
            };
            if result.is_some() {
                return (result, last);
            }
        }
    }

    /// Commits the end of an open wait and takes a slot again.
    #[inline(never)]
    fn go_on(
        &self,
        at: &mut dyn Attached,
        key: EntryKey,
        result: Option<Result<Value, Failure>>,
        proved: bool,
        poll: Option<PollNo>,
    ) -> Result<Value, WaitError> {
        let workers = &self.engine.dispatch.workers;
        let Some(result) = result else {
            workers.end_poll(poll);
            workers.unpark_without_slot();
            return Err(self.suspend());
        };
        let event = self.closed(key, result.clone(), proved);
        // Both at once: in between there is nothing to attach for.
        let (outcome, permit) = at.wait(|| {
            workers.end_poll(poll);
            let outcome = self.engine.commit_own(None, &self.run, event);
            (outcome, workers.resume(&self.parker))
        });
        let committed = self.told(outcome);
        let regained = permit.is_some();
        *self.permit.lock() = permit;
        if !regained {
            return Err(self.suspend());
        }
        self.limit.iter().for_each(Limit::go_on);
        committed?;
        result.map_err(WaitError::Failed)
    }

    fn timed_out(&self, key: &EntryKey) -> Failure {
        timed_out(self.task_name(), &key.name)
    }

    /// Waits until a point in time. `due` is asked for only if nothing is recorded.
    ///
    /// # Errors
    /// See [`WaitError`].
    pub fn wait_time(
        &self,
        at: &mut dyn Attached,
        name: Arc<str>,
        due: impl FnOnce(Time) -> Time,
    ) -> Result<(), WaitError> {
        self.usable("a sleep")?;
        let (key, recall) = self.recall(&Asked::new(name, EntryKind::Time, None))?;
        let (due, open) = match recall {
            Recall::Satisfied(_) => return Ok(()),
            Recall::Failed(failure) => return Err(WaitError::Failed(failure)),
            Recall::Mismatch(why) => return Err(self.mismatch(at, why)),
            Recall::Open { due: Some(due), .. } => (due, true),
            Recall::Ask { .. } | Recall::Open { .. } => (due(self.engine.clock.now()), false),
        };
        let wait = Wait { key: key.clone(), kind: EntryKind::Time, proof: None, due: Some(due), timeout: None };
        if due <= self.engine.clock.now() {
            let event =
                if open { self.closed(key, Ok(Value::NONE), true) } else { self.recorded(wait, Ok(Value::NONE)) };
            return self.commit(at, event);
        }
        self.commit(at, self.wait_event(wait))?;
        self.defer()?;
        at.parks();
        let set_alarm = |alarm, ticket| self.engine.timers.at(due, alarm, ticket);
        let woken = at.wait(|| self.parker.park_until(set_alarm));
        let result = (woken == Woken::Rung).then_some(Ok(Value::NONE));
        self.go_on(at, key, result, true, None).map(drop)
    }
}
