//! Bodies without a slot: parked until their time or their next poll has come, and on their way back.

use std::sync::Arc;

use bide_core::attempt::{Action, CallError, Fed, Sleep};
use bide_core::{Event, Outcome, Time};
use bide_executor::drive::Lost;
use bide_sched::Alarm;
use bide_sync::Mutex;

use super::super::body::{Body, OpenCall, Phase};
use super::{BodyNo, Holder, Process, RungTimer};

/// Wakes a body whose wait was closed.
struct Closed {
    /// Where the process looks for what has rung.
    rung: Arc<Mutex<Vec<RungTimer>>>,
    /// Whose body.
    no: BodyNo,
    /// What it sleeps for.
    ticket: u64,
    /// It sleeps until its next poll, for which it needs a turn.
    polls: bool,
}

impl Closed {
    fn ring(&self) {
        self.rung.lock().push((self.no, self.ticket, (!self.polls).then_some(Time(0))));
    }
}

impl Alarm for Closed {
    fn ring(self: Arc<Self>, _ticket: u64) {
        Self::ring(&self);
    }
}

impl Process {
    /// A body parks: it is rung when its next poll is due, or its time has come.
    pub(super) fn park(&mut self, body: &mut Body, no: BodyNo, open_call: &mut OpenCall, sleep: Sleep) {
        self.script_has_slot(false);
        body.ticket += 1;
        body.woken = false;
        let (rung, ticket) = (Arc::clone(&self.rung), body.ticket);
        match sleep {
            Sleep::Until(due) => {
                let closed = Arc::new(Closed { rung: Arc::clone(&rung), no, ticket, polls: false });
                self.driver.ring_at(due, move || rung.lock().push((no, ticket, Some(due))));
                body.run.set_alarm(body.task, open_call.call.key(), closed, 0);
            }
            Sleep::Poll(span) => {
                let closed = Arc::new(Closed { rung: Arc::clone(&rung), no, ticket, polls: true });
                self.driver.ring_after(span, move || rung.lock().push((no, ticket, None)));
                body.run.set_alarm(body.task, open_call.call.key(), closed, 0);
            }
            Sleep::Closed | Sleep::PollOrClosed(_) => {
                let closed = Arc::new(Closed { rung, no, ticket, polls: false });
                if let Sleep::PollOrClosed(span) = sleep {
                    let closed = Arc::clone(&closed);
                    self.driver.ring_after(span, move || Closed::ring(&closed));
                }
                body.run.set_alarm(body.task, open_call.call.key(), closed, 0);
            }
        }
        self.poll_done(open_call);
    }

    pub(super) fn wake(&mut self, no: BodyNo, ticket: u64) -> bool {
        match self.bodies.get_mut(&no) {
            Some(body) if body.ticket == ticket && body.phase.sleeps() && !body.woken => {
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

    /// The poll of a body has ended, if there was one.
    pub(super) fn poll_done(&mut self, open_call: &mut OpenCall) {
        if !std::mem::take(&mut open_call.polls) {
            return;
        }
        let next = self.pacer.done();
        let waiting = self.pacer.progress().1;
        self.shared.oracle.lock().a_poll_that_ends_starts_the_next(next.is_some(), waiting);
        self.offer(next);
    }

    /// A body without a slot continues its call.
    pub(super) fn parked_moves(&mut self, no: BodyNo) {
        let Some(mut body) = self.bodies.remove(&no) else { return };
        self.script_has_slot(false);
        match std::mem::replace(&mut body.phase, Phase::Acts) {
            Phase::Calls(mut open_call, Action::Sleep(sleep)) => {
                let is_closed = body.run.state.lock().closed_entry(body.task, open_call.call.key()).is_some();
                open_call.polls = matches!(sleep, Sleep::Poll(_));
                if open_call.polls {
                    // Somebody may have moved it.
                    let deadline = body.run.state.lock().deadline(body.task, open_call.call.key());
                    open_call.call.set_deadline(deadline);
                }
                let is_pushed = matches!(sleep, Sleep::Closed | Sleep::PollOrClosed(_));
                self.feed(body, no, open_call, if is_closed && !is_pushed { Fed::Closed } else { Fed::Woken });
            }
            Phase::Calls(mut open_call, action @ (Action::CommitAndAcquire(_) | Action::Acquire)) => {
                self.poll_done(&mut open_call);
                let committed = match action {
                    Action::CommitAndAcquire(event) => self.driver.commit_own(None, &body.run, *event),
                    _ => Ok(()),
                };
                let committed = committed.map_err(|lost| self.call_error(&body, lost));
                if self.is_closing() || body.run.state.lock().is_held() {
                    // No body gets a slot any more: it unwinds without one.
                    self.feed(body, no, open_call, Fed::Acquired { commit: committed, slot: false });
                    return;
                }
                let share = self.driver.share(&body.run, body.task);
                body.phase = Phase::WantsShare(open_call, committed, share);
                self.bodies.insert(no, body);
            }
            Phase::WantsShare(open_call, commit, mut share) => match share.is_granted() {
                None => {
                    body.phase = Phase::WantsShare(open_call, commit, share);
                    self.bodies.insert(no, body);
                }
                Some(false) => self.feed(body, no, open_call, Fed::Acquired { commit, slot: false }),
                Some(true) => {
                    body.phase = Phase::WantsSlot(open_call, commit);
                    self.bodies.insert(no, body);
                    if let Some((slot, no)) = self.slots.resume(no) {
                        self.holders.insert(slot, Holder::Body(no));
                    }
                }
            },
            Phase::Calls(open_call, action) => self.carry_out(body, no, None, open_call, action),
            phase => {
                body.phase = phase;
                self.bodies.insert(no, body);
            }
        }
    }

    /// The runner closes: a body without a slot that sleeps or wants one unwinds. One that polls does when it sleeps
    /// again.
    pub(super) fn unwind_parked(&mut self, no: BodyNo) {
        let Some(mut body) = self.bodies.remove(&no) else { return };
        match std::mem::replace(&mut body.phase, Phase::Acts) {
            Phase::Calls(open_call, Action::Sleep(_)) => self.feed(body, no, open_call, Fed::Stopped),
            Phase::WantsSlot(open_call, commit) | Phase::WantsShare(open_call, commit, _) => {
                self.feed(body, no, open_call, Fed::Acquired { commit, slot: false })
            }
            phase => {
                body.phase = phase;
                self.bodies.insert(no, body);
            }
        }
    }

    pub(super) fn suspended(&self, mut body: Body) {
        self.returns(&mut body);
        self.driver.idle(&body.run, body.task);
        let event = Event::Ended { task: body.task, attempt: body.attempt, outcome: Outcome::Suspended };
        self.driver.enqueue(Arc::clone(&body.run), event);
    }

    /// The error for a body whose commit was refused.
    pub(super) fn call_error(&self, body: &Body, lost: Lost) -> CallError {
        match lost {
            Lost::Refused(refused) if !self.is_lost(body) => CallError::Over(refused),
            _ => CallError::Suspended,
        }
    }
}
