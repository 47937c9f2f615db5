//! Waits whose condition the host asks on its loop itself: between two polls nothing is kept of such a wait but its call.
//! What the host asks and how is its own business; what an answer means is core's.
//!
//! A wait that rests is found by its ticket, which is also what its alarm rings with. Those of a loop are due at common
//! times, a few milliseconds apart, so that many are asked in one turn.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use bide_core::attempt::{Action, Fed, Sleep};
use bide_sched::Alarm;
use bide_sync::Mutex;

use super::body::{CoroutineBody, OpenCall};
use super::dispatch::{Coroutines, EventLoop};
use crate::host::Host;
use crate::runs::polls::RestingPolls;
use crate::runs::run::Run;

/// A poll may come later than asked for by this share of its interval.
const LATE: u32 = 256;

/// The waits between two polls.
pub(super) struct Polls<H: Host> {
    state: Mutex<State<H>>,
    /// Woken when a wait is rung, and when one is due before all others.
    event_loop: Arc<dyn EventLoop>,
}

struct State<H: Host> {
    /// By the index in a ticket.
    places: Vec<Place<H>>,
    /// Places without a wait.
    free: Vec<u32>,
    /// Tickets, by when they are due by the steady clock.
    due: BTreeMap<Duration, Vec<u64>>,
    /// Those that were rung.
    rung: Vec<u64>,
}

struct Place<H: Host> {
    /// How many waits have been here before: tells their tickets apart.
    generation: u32,
    /// The wait.
    resting: Option<Resting<H>>,
}

/// A wait between two polls.
struct Resting<H: Host> {
    body: Arc<CoroutineBody<H>>,
    call: Arc<OpenCall>,
    /// When it is due. `None`: it is asked now.
    due: Option<Duration>,
}

/// The place of a wait, from its ticket.
#[must_use]
pub fn place_of(ticket: u64) -> usize {
    (ticket & u64::from(u32::MAX)) as usize
}

/// The first common time at or after this one, for a poll whose interval is `span`.
fn common(due: Duration, span: Duration) -> Duration {
    let step = (span / LATE).as_nanos().checked_ilog2().map_or(1, |log| 1 << log);
    Duration::from_nanos(u64::try_from(due.as_nanos().next_multiple_of(step)).unwrap_or(u64::MAX))
}

impl<H: Host> State<H> {
    fn resting(&mut self, ticket: u64) -> Option<&mut Resting<H>> {
        let place = self.places.get_mut(place_of(ticket))?;
        place.resting.as_mut().filter(|_| u64::from(place.generation) == ticket >> 32)
    }

    fn add(&mut self, resting: Resting<H>) -> u64 {
        let index = self.free.pop().unwrap_or_else(|| {
            self.places.push(Place { generation: 0, resting: None });
            (self.places.len() - 1) as u32
        });
        let place = &mut self.places[index as usize];
        place.resting = Some(resting);
        u64::from(place.generation) << 32 | u64::from(index)
    }

    fn remove(&mut self, ticket: u64) -> Option<Resting<H>> {
        self.resting(ticket)?;
        let place = &mut self.places[place_of(ticket)];
        place.generation = place.generation.wrapping_add(1);
        let removed = place.resting.take();
        self.free.push(place_of(ticket) as u32);
        if let Some(due) = removed.as_ref().and_then(|resting| resting.due)
            && let Some(tickets) = self.due.get_mut(&due)
        {
            if let Some(at) = tickets.iter().position(|other| *other == ticket) {
                tickets.swap_remove(at);
            }
            if tickets.is_empty() {
                self.due.remove(&due);
            }
        }
        removed
    }

    /// Sets when a wait is due. True: before all others.
    fn set_due(&mut self, ticket: u64, due: Duration) -> bool {
        let Some(resting) = self.resting(ticket) else { return false };
        resting.due = Some(due);
        let first = self.due.first_key_value().is_none_or(|(first, _)| due < *first);
        self.due.entry(due).or_default().push(ticket);
        first
    }
}

impl<H: Host> Polls<H> {
    pub(super) fn new(event_loop: Arc<dyn EventLoop>) -> Arc<Self> {
        let state = State { places: Vec::new(), free: Vec::new(), due: BTreeMap::new(), rung: Vec::new() };
        Arc::new(Self { state: Mutex::new(state), event_loop })
    }
}

impl<H: Host> Alarm for Polls<H> {
    fn ring(self: Arc<Self>, ticket: u64) {
        self.state.lock().rung.push(ticket);
        self.event_loop.wake();
    }
}

impl<H: Host> CoroutineBody<H> {
    /// A call is to sleep for a span, and what it waits for is asked by the host then: [`Coroutines::take_due`]. On the
    /// loop. Returns its ticket.
    pub fn rest(self: &Arc<Self>, call: &Arc<OpenCall>, span: Duration) -> u64 {
        self.note_rest(call, span);
        let polls = &self.coroutines.polls;
        let due = common(self.engine().clock().steady().saturating_add(span), span);
        let (ticket, first) = {
            let mut state = polls.state.lock();
            let ticket = state.add(Resting { body: Arc::clone(self), call: Arc::clone(call), due: None });
            (ticket, state.set_due(ticket, due))
        };
        if first {
            self.coroutines.wake();
        }
        let alarm: Arc<dyn Alarm> = Arc::clone(polls) as Arc<dyn Alarm>;
        self.run().set_alarm(self.task(), &call.key(), alarm, ticket);
        ticket
    }

    /// A call does not rest any more.
    pub fn leave_rest(&self, ticket: u64) {
        let resting = self.coroutines.polls.state.lock().remove(ticket);
        drop(resting);
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
        let mut state = self.polls.state.lock();
        let mut taken = Vec::new();
        while let Some(first) = state.due.first_entry().filter(|first| *first.key() <= now) {
            taken.extend(first.remove());
        }
        for ticket in &taken {
            if let Some(resting) = state.resting(*ticket) {
                resting.due = None;
            }
        }
        taken
    }

    /// The waits that were rung: each is to continue by [`Coroutines::wake_up`].
    pub fn take_rung(&self) -> Vec<u64> {
        std::mem::take(&mut self.polls.state.lock().rung)
    }

    /// When the next wait is due, by the steady clock.
    #[must_use]
    pub fn next_due(&self) -> Option<Duration> {
        self.polls.state.lock().due.first_key_value().map(|(due, _)| *due)
    }

    /// Whether the condition of a wait is to be asked now. The lease holds.
    #[must_use]
    pub fn may_poll(&self, ticket: u64) -> bool {
        self.polls.state.lock().resting(ticket).is_some_and(|resting| !resting.body.run().settled.is_set())
    }

    /// The condition does not hold yet. True: its wait rests until the next poll; false: it has to be fed what the
    /// condition has answered.
    #[must_use]
    pub fn rests_on(&self, ticket: u64) -> bool {
        let mut state = self.polls.state.lock();
        let Some(Resting { body, call, .. }) = state.resting(ticket) else { return true };
        let engine = body.engine();
        let Some(span) = call.not_yet(&**engine) else { return false };
        let due = common(engine.clock().steady().saturating_add(span), span);
        // The loop looks after each turn when the next one is due.
        let _ = state.set_due(ticket, due);
        true
    }

    /// No body is resumed any more: forgets all of them.
    pub(super) fn forget_resting(&self) {
        let mut state = self.polls.state.lock();
        state.due.clear();
        let ticket = |(index, place): (usize, &Place<H>)| u64::from(place.generation) << 32 | index as u64;
        let tickets: Vec<u64> = state.places.iter().enumerate().map(ticket).collect();
        let resting: Vec<_> = tickets.into_iter().map(|ticket| state.remove(ticket)).collect();
        drop(state);
        drop(resting);
    }

    /// The polls of the waits that rest, of the runs that are wanted.
    pub(crate) fn resting_of(&self, is_wanted: &dyn Fn(&Run<H>) -> bool) -> Vec<RestingPolls> {
        let state = self.polls.state.lock();
        let resting = state.places.iter().filter_map(|place| place.resting.as_ref());
        let shown =
            resting.filter(|resting| is_wanted(resting.body.run())).filter_map(|Resting { body, call, due }| {
                let mut report = None;
                call.polls(&mut |polls| report = Some(polls));
                let (key, count) = report.map(|report| (report.key, report.polls))?;
                Some(RestingPolls { run: body.run().id.row(), task: body.task(), key, count, due: *due })
            });
        shown.collect()
    }
}
