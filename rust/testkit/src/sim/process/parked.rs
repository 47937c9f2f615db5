//! Bodies without a slot: parked until their time or their next poll has come, and on their way back.

use std::sync::Arc;

use bide_core::{EntryKey, Event, Outcome, Value};

use super::super::body::{Body, Parked, Phase, of_result, timed_out};
use super::super::plan::Act;
use super::{BodyNo, Holder, Process};

impl Process {
    /// A body parks: it is rung when its next poll is due, or its time has come.
    pub(super) fn park(&mut self, body: &mut Body, no: BodyNo, key: EntryKey, parked: Parked) -> Phase {
        body.ticket += 1;
        body.woken = false;
        let (rung, ticket) = (Arc::clone(&self.rung), body.ticket);
        match parked {
            Parked::Time(due) => {
                self.driver.ring_at(due, move || rung.lock().push((no, ticket, Some(due))));
                Phase::Parked(key, parked)
            }
            Parked::Poll { mut poll, act, deadline, asked } => {
                let now = self.now();
                let span = poll.next(now, deadline, 0.5).since(now);
                self.driver.ring_after(span, move || rung.lock().push((no, ticket, None)));
                // The first time it was asked with its slot held.
                if asked > 1 {
                    self.poll_done();
                }
                Phase::Parked(key, Parked::Poll { poll, act, deadline, asked })
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
            Phase::Parked(key, parked @ Parked::Poll { act: Act::Until(_, true), .. }) => Phase::Polling(key, parked),
            Phase::Parked(key, parked) | Phase::Polling(key, parked) => self.poll(&mut body, no, key, parked),
            Phase::Close(key, result) => {
                let event = body.closed(key, result.clone());
                let committed = self.driver.commit_own(None, &body.run, event).is_ok();
                body.phase = Phase::WantsSlot(committed.then(|| of_result(&result)));
                if self.is_closing() {
                    // Nobody gets a slot any more: it unwinds without one.
                    self.suspended(body);
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
        let Parked::Poll { mut poll, act, deadline, asked } = parked else {
            return Phase::Close(key, Ok(Value::NONE));
        };
        let late = deadline.is_some_and(|deadline| self.now() >= deadline);
        let asked = asked + 1;
        match self.ask(act, &mut poll, asked).or_else(|| late.then(|| Err(timed_out()))) {
            Some(result) => {
                self.poll_done();
                Phase::Close(key, result)
            }
            None => self.park(body, no, key, Parked::Poll { poll, act, deadline, asked }),
        }
    }

    pub(super) fn suspended(&self, mut body: Body) {
        self.returns(&mut body);
        let event = Event::Ended { task: body.task, attempt: body.attempt, outcome: Outcome::Suspended };
        self.driver.leave(Arc::clone(&body.run), event);
    }
}
