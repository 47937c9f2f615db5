//! Waits whose condition the host asks on its loop itself: between two polls nothing is kept of such a wait but its call.
//! What the host asks and how is its own business; what an answer means is core's.

use std::sync::Arc;
use std::time::Duration;

use bide_core::attempt::{Action, Fed, Sleep};
use bide_sched::Alarm;

use super::body::{CoroutineBody, OpenCall};
use super::dispatch::Coroutines;
use super::resting::{Wait, common};
use crate::host::Host;
use crate::runs::polls::RestingPolls;
use crate::runs::run::Run;

impl<H: Host> CoroutineBody<H> {
    /// A call is to sleep for a span, and what it waits for is asked by the host then: [`Coroutines::take_due`]. On the
    /// loop. Returns its ticket.
    pub fn rest(self: &Arc<Self>, call: &Arc<OpenCall>, span: Duration) -> u64 {
        self.note_rest(call, span);
        let resting = &self.coroutines.resting;
        let due = common(self.engine().clock().steady().saturating_add(span), span);
        let (ticket, first) = {
            let mut state = resting.state.lock();
            let ticket = state.add((Arc::clone(self), Arc::clone(call)));
            (ticket, state.set_due(ticket, due))
        };
        if first {
            self.coroutines.wake();
        }
        let alarm: Arc<dyn Alarm> = Arc::clone(resting) as Arc<dyn Alarm>;
        self.run().set_alarm(self.task(), &call.key(), alarm, ticket);
        ticket
    }

    /// A call does not rest any more.
    pub fn leave_rest(&self, ticket: u64) {
        let left = self.coroutines.resting.state.lock().remove(ticket);
        drop(left);
    }

    /// A call has stopped resting because it was rung, or must not be asked at rest: what to feed it.
    #[must_use]
    pub fn woken(&self, call: &OpenCall) -> Fed {
        self.after_ring(call, Sleep::Poll(Duration::ZERO))
    }

    /// The condition of a call that has rested was asked, while the lease held, and did more than to answer no. The call
    /// is to be fed that.
    pub fn asked_at_rest(&self, call: &OpenCall) {
        let lease = self.advance(call, Fed::Woken);
        debug_assert!(matches!(lease, Action::CheckLease), "{lease:?}");
        let ask = self.advance(call, Fed::LeaseHeld);
        debug_assert!(matches!(ask, Action::Ask), "{ask:?}");
    }
}

impl<H: Host> Coroutines<H> {
    /// The waits that are due now: each is to be asked, unless it may not be any more.
    pub fn take_due(&self, now: Duration) -> Vec<u64> {
        self.resting.state.lock().take_due(now)
    }

    /// The waits that were rung: each is to continue with what [`CoroutineBody::woken`] says.
    pub fn take_rung(&self) -> Vec<u64> {
        std::mem::take(&mut self.resting.state.lock().rung)
    }

    /// When the next wait is due, by the steady clock.
    #[must_use]
    pub fn next_due(&self) -> Option<Duration> {
        self.resting.state.lock().next_due()
    }

    /// Whether the condition of a wait is to be asked now. The lease holds.
    #[must_use]
    pub fn may_poll(&self, ticket: u64) -> bool {
        self.resting.state.lock().get(ticket).is_some_and(|wait| !wait.kept.0.run().settled.is_set())
    }

    /// The condition does not hold yet. True: its wait rests until the next poll; false: it has to be fed what the
    /// condition has answered.
    #[must_use]
    pub fn rests_on(&self, ticket: u64) -> bool {
        let mut state = self.resting.state.lock();
        let Some(Wait { kept: (body, call), .. }) = state.get(ticket) else { return true };
        let engine = body.engine();
        let Some(span) = call.not_yet(&**engine) else { return false };
        let due = common(engine.clock().steady().saturating_add(span), span);
        // The loop looks after each turn when the next one is due.
        let _ = state.set_due(ticket, due);
        true
    }

    /// No body is resumed any more: forgets all of them.
    pub(super) fn forget_resting(&self) {
        let forgotten = self.resting.state.lock().clear();
        drop(forgotten);
    }

    /// The polls of the waits that rest, of the runs that are wanted.
    pub(crate) fn resting_of(&self, is_wanted: &dyn Fn(&Run<H>) -> bool) -> Vec<RestingPolls> {
        let state = self.resting.state.lock();
        let waits = state.places.iter().filter_map(|place| place.wait.as_ref());
        let shown = waits.filter(|wait| is_wanted(wait.kept.0.run())).filter_map(|wait| {
            let (body, call) = &wait.kept;
            let mut report = None;
            call.polls(&mut |polls| report = Some(polls));
            let (key, count) = report.map(|report| (report.key, report.polls))?;
            Some(RestingPolls { run: body.run().id.row(), task: body.task(), key, count, due: wait.due() })
        });
        shown.collect()
    }
}
