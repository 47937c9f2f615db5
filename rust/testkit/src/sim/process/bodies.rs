//! What bodies do in a simulated process, one move at a time.

use std::sync::Arc;
use std::time::Duration;

use bide_core::event::Event;
use bide_core::poll::Poll;
use bide_core::{EntryKey, EntryKind, Failure, FailureKind, Outcome, Recall, Time, Value};
use bide_executor::Run;
use bide_executor::slots::SlotNo;

use super::super::body::{Body, Parked, Phase, Stated, Then, mix, number, of_result, timed_out};
use super::super::host::SimHost;
use super::super::plan::{Act, TaskPlan};
use super::super::rng::Rng;
use super::{BodyNo, Holder, Process};

impl Process {
    pub(super) fn body_moves(&mut self, slot: SlotNo, no: BodyNo, rng: &mut Rng) {
        let Some(mut body) = self.bodies.remove(&no) else {
            self.shared.oracle.lock().violations.push(format!("slot {slot} went to body {no}, which is gone"));
            self.holders.remove(&slot);
            return;
        };
        let next = match std::mem::replace(&mut body.phase, Phase::Acts) {
            Phase::Mark => {
                let event = Event::Started { task: body.task, attempt: body.attempt };
                let _ = self.driver.commit_own(None, &body.run, event);
                Phase::Acts
            }
            Phase::Acts => {
                if rng.one_in(12) {
                    self.driver.leave(Arc::clone(&body.run), Event::Started { task: body.task, attempt: body.attempt });
                }
                self.act(&mut body)
            }
            Phase::Commit(event, then) => {
                let gathering = &self.sides[slot as usize].gathering;
                match (self.driver.commit_own(Some(gathering), &body.run, event), then) {
                    (Err(_), _) => Phase::Ended(Outcome::Suspended),
                    (Ok(()), Then::Next(seen)) => {
                        body.seen = mix(body.seen, seen);
                        body.at += 1;
                        Phase::Acts
                    }
                    (Ok(()), Then::Defer(key, parked)) => Phase::GiveBack(key, parked),
                }
            }
            Phase::GiveBack(key, parked) => {
                let (run, ix) = (body.run.id.row(), body.task.ix);
                if self.still_has(&body.run) {
                    self.shared.oracle.lock().a_wait_is_committed_before_its_slot_is_released(run, ix, &key);
                }
                let parked = match parked {
                    Parked::Poll { poll, holds_at, slow, polled, .. } => {
                        let deadline = body.run.state.lock().deadline(ix, &key);
                        Parked::Poll { poll, holds_at, slow, deadline, polled }
                    }
                    time @ Parked::Time(_) => time,
                };
                self.give_back(slot);
                let phase = self.park(&mut body, no, key, parked);
                body.phase = phase;
                self.bodies.insert(no, body);
                return;
            }
            Phase::WantsSlot(Some(seen)) => {
                // The slot has come.
                body.seen = mix(body.seen, seen);
                body.at += 1;
                Phase::Acts
            }
            Phase::WantsSlot(None) => Phase::Ended(Outcome::Suspended),
            Phase::Ended(outcome) => {
                let event = Event::Ended { task: body.task, attempt: body.attempt, outcome };
                self.holders.insert(slot, Holder::Worker);
                if self.driver.gather(&self.sides[slot as usize].gathering, body.run, event) {
                    self.commit(slot);
                }
                return;
            }
            phase @ (Phase::Parked(..) | Phase::Polling(..) | Phase::Close(..)) => phase,
        };
        body.phase = next;
        self.bodies.insert(no, body);
    }

    /// Whether a run is still this process's, as far as the store says.
    pub(super) fn still_has(&self, run: &Run<SimHost>) -> bool {
        let stored = self.store.inner().load(run.id).ok().flatten();
        stored.is_some_and(|stored| stored.run.runner == Some(run.lease.runner))
    }

    /// The next act of a body that has a slot.
    fn act(&mut self, body: &mut Body) -> Phase {
        if self.is_closing() && body.at < self.plan(body).acts.len() {
            return Phase::Ended(Outcome::Suspended);
        }
        let plan = self.plan(body);
        let Some(act) = plan.acts.get(body.at).copied() else { return Phase::Ended(body.end(plan)) };
        let stated = Stated::of(&plan.acts, body.at);
        let recall =
            body.run.state.lock().recall(body.task, body.attempt, &stated.key, stated.kind, stated.proof.as_deref());
        let (recorded_due, recorded_deadline, open) = match recall {
            Err(_) => return Phase::Ended(Outcome::Suspended),
            Ok(Recall::Satisfied(value)) => {
                body.seen = mix(body.seen, of_result(&Ok(value)));
                body.at += 1;
                return Phase::Acts;
            }
            Ok(Recall::Failed(failure)) => {
                body.seen = mix(body.seen, of_result(&Err(failure)));
                body.at += 1;
                return Phase::Acts;
            }
            Ok(Recall::Mismatch(why)) => {
                self.shared.oracle.lock().violations.push(format!("unchanged code does not match its journal: {why}"));
                return Phase::Ended(Outcome::Suspended);
            }
            Ok(Recall::Ask { deadline }) => (None, deadline, false),
            Ok(Recall::Open { due, deadline }) => (due, deadline, due.is_some()),
        };
        match act {
            Act::Step(works) => {
                if self.still_has(&body.run) {
                    let (run, ix) = (body.run.id.row(), body.task.ix);
                    self.shared.oracle.lock().no_committed_step_runs_again(run, ix, &stated.key);
                }
                let value = body.step_value(&stated.key);
                let result = if works { Ok(number(value)) } else { Err(boom(value)) };
                record(body, &stated, None, result)
            }
            Act::Sleep(ms) => {
                let due = recorded_due.unwrap_or_else(|| self.now().after(Duration::from_millis(ms)));
                if due <= self.now() {
                    if open {
                        let event = body.closed(stated.key.clone(), Ok(Value::NONE));
                        return Phase::Commit(event, Then::Next(of_result(&Ok(Value::NONE))));
                    }
                    return record(body, &stated, Some(due), Ok(Value::NONE));
                }
                let event = body.opened(stated.wait(Some(due)));
                Phase::Commit(event, Then::Defer(stated.key, Parked::Time(due)))
            }
            Act::Until(..) | Act::Unprovable(_) | Act::TimesOut(_) | Act::Forever => {
                let (holds_at, slow) = match act {
                    Act::Until(ms, slow) => (Some(ms), slow),
                    Act::Unprovable(ms) => (Some(ms), false),
                    _ => (None, false),
                };
                if self.holds(holds_at) {
                    return record(body, &stated, None, Ok(Value::tagged(b't', b"")));
                }
                if recorded_deadline.is_some_and(|deadline| self.now() >= deadline) {
                    return record(body, &stated, None, Err(timed_out()));
                }
                let poll = Poll::new(TaskPlan::policy());
                let parked = Parked::Poll { poll, holds_at, slow, deadline: None, polled: false };
                let event = body.opened(stated.wait(None));
                Phase::Commit(event, Then::Defer(stated.key, parked))
            }
        }
    }
}

// Bodies without a slot.
impl Process {
    /// A body parks: it is rung when its next poll is due, or its time has come.
    fn park(&mut self, body: &mut Body, no: BodyNo, key: EntryKey, parked: Parked) -> Phase {
        body.ticket += 1;
        body.woken = false;
        let (rung, ticket) = (Arc::clone(&self.rung), body.ticket);
        match parked {
            Parked::Time(due) => {
                self.driver.ring_at(due, move || rung.lock().push((no, ticket, Some(due))));
                Phase::Parked(key, parked)
            }
            Parked::Poll { mut poll, holds_at, slow, deadline, polled } => {
                let now = self.now();
                let span = poll.next(now, deadline, 0.5).since(now);
                self.driver.ring_after(span, move || rung.lock().push((no, ticket, None)));
                if polled {
                    self.poll_done();
                }
                Phase::Parked(key, Parked::Poll { poll, holds_at, slow, deadline, polled })
            }
        }
    }

    pub(super) fn wake(&mut self, no: BodyNo, ticket: u64) -> bool {
        match self.bodies.get_mut(&no) {
            Some(body) if body.ticket == ticket && matches!(body.phase, Phase::Parked(..)) && !body.woken => {
                body.woken = true;
                true
            }
            _ => false,
        }
    }

    pub(super) fn offer(&mut self, mut next: Option<(BodyNo, u64)>) {
        while let Some((no, ticket)) = next {
            if self.wake(no, ticket) {
                return;
            }
            next = self.pacer.done();
        }
    }

    fn poll_done(&mut self) {
        let next = self.pacer.done();
        let waiting = self.pacer.progress().1;
        self.shared.oracle.lock().a_poll_that_ends_hands_on(next.is_some(), waiting);
        self.offer(next);
    }

    pub(super) fn parked_moves(&mut self, no: BodyNo) {
        let Some(mut body) = self.bodies.remove(&no) else { return };
        let next = match std::mem::replace(&mut body.phase, Phase::Acts) {
            Phase::Parked(key, Parked::Time(_)) => Phase::Close(key, Ok(Value::NONE)),
            Phase::Parked(key, parked @ Parked::Poll { slow: true, .. }) => Phase::Polling(key, parked),
            Phase::Parked(key, parked) | Phase::Polling(key, parked) => self.poll(&mut body, no, key, parked),
            Phase::Close(key, result) => {
                let event = body.closed(key, result.clone());
                let committed = self.driver.commit_own(None, &body.run, event).is_ok();
                body.phase = Phase::WantsSlot(committed.then(|| of_result(&result)));
                if self.is_closing() {
                    // Nobody gets a slot any more: it unwinds without one.
                    self.suspended(&body);
                    return;
                }
                self.bodies.insert(no, body);
                if let Some((slot, no)) = self.slots.resume(no) {
                    self.holders.insert(slot, Holder::Body(no));
                }
                return;
            }
            phase => phase,
        };
        body.phase = next;
        self.bodies.insert(no, body);
    }

    fn poll(&mut self, body: &mut Body, no: BodyNo, key: EntryKey, parked: Parked) -> Phase {
        let Parked::Poll { mut poll, holds_at, slow, deadline, .. } = parked else {
            return Phase::Close(key, Ok(Value::NONE));
        };
        let late = deadline.is_some_and(|deadline| self.now() >= deadline);
        let result = if self.holds(holds_at) {
            Some(Ok(Value::tagged(b't', b"")))
        } else {
            poll.ok();
            late.then(|| Err(timed_out()))
        };
        match result {
            Some(result) => {
                self.poll_done();
                Phase::Close(key, result)
            }
            None => self.park(body, no, key, Parked::Poll { poll, holds_at, slow, deadline, polled: true }),
        }
    }

    pub(super) fn suspended(&self, body: &Body) {
        let event = Event::Ended { task: body.task, attempt: body.attempt, outcome: Outcome::Suspended };
        self.driver.leave(Arc::clone(&body.run), event);
    }
}

fn boom(value: u64) -> Failure {
    Failure::new(FailureKind::Raised, "Boom", &format!("{value:x}"))
}

/// Records a step, or a wait that its first check has decided.
fn record(body: &Body, stated: &Stated, due: Option<Time>, result: Result<Value, Failure>) -> Phase {
    let seen = of_result(&result);
    debug_assert!(matches!(stated.kind, EntryKind::Step | EntryKind::Condition | EntryKind::Time));
    Phase::Commit(body.recorded(stated.wait(due), result), Then::Next(seen))
}
