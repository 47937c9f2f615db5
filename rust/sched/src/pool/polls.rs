//! The polls of parked bodies, one after the other: the pacing machine ([`crate::pacer`]) decides, this carries out.
//!
//! A poll that takes very long is named in the log and no longer counts: the others continue as if it were not there.

use std::sync::{Arc, Weak};
use std::time::Duration;

use super::{Parker, Shared};
use crate::pacer::STUCK_AFTER;
use crate::upcalls::{Alarm, Upcalls};

/// A poll that takes longer does not count any more.
const SLOW: Duration = Duration::from_secs(1);

/// The number of a poll, for [`super::Pool::end_poll`].
pub type PollNo = u64;

/// A poll that runs.
pub(super) struct Polling<E: Upcalls> {
    /// Its number, by which it is ended.
    number: PollNo,
    /// Whose poll it is, for the log.
    body: E::Body,
    /// The name of its condition, for the log.
    condition: Arc<str>,
    /// When it started, by the steady clock.
    since: Duration,
    /// It was named already, and the pacing machine takes it for ended.
    slow: bool,
}

/// Looks whether polls are stuck.
struct Stuck<E: Upcalls>(Weak<Shared<E>>);

impl<E: Upcalls> Alarm for Stuck<E> {
    fn ring(self: Arc<Self>, ticket: u64) {
        if let Some(shared) = self.0.upgrade() {
            shared.look_for_stuck_polls(ticket, &self);
        }
    }
}

impl<E: Upcalls> Shared<E> {
    /// A parked body is to poll: now, or when the polls before it have ended. From here on an alarm looks after the
    /// poll that runs now, however early it started: if it does not end in time, others run beside it.
    pub(super) fn poll_due(self: &Arc<Self>, parker: Arc<Parker<E>>, ticket: u64) {
        let mut state = self.state.lock();
        let next = state.pacer.due((parker, ticket));
        let (turns, waiting) = state.pacer.progress();
        let watch = waiting && !std::mem::replace(&mut state.stuck_alarm, true);
        drop(state);
        self.wake_poll(next);
        if watch {
            self.look_later(Arc::new(Stuck(Arc::downgrade(self))), turns);
        }
    }

    /// A poll starts, on its body's own thread.
    pub(super) fn begin_poll(&self, since: Duration, body: E::Body, condition: Arc<str>) -> PollNo {
        let mut state = self.state.lock();
        state.last_poll += 1;
        let number = state.last_poll;
        state.polling.push(Polling { number, body, condition, since, slow: false });
        number
    }

    /// A poll has ended, if there was one: the next one that is due has its turn.
    pub(super) fn end_poll(&self, number: Option<PollNo>) {
        let Some(number) = number else { return };
        let mut state = self.state.lock();
        let at = state.polling.iter().position(|polling| polling.number == number);
        let ended = at.map(|at| state.polling.swap_remove(at));
        let counts = ended.as_ref().is_none_or(|polling| !polling.slow);
        let next = if counts { state.pacer.done() } else { None };
        drop(state);
        self.wake_poll(next);
    }

    /// Takes polls that do not return out of the count, and names them.
    pub(super) fn name_slow_polls(&self, engine: &E) {
        let now = engine.steady();
        loop {
            let mut state = self.state.lock();
            let slow = |polling: &&mut Polling<E>| !polling.slow && now.saturating_sub(polling.since) > SLOW;
            let Some(polling) = state.polling.iter_mut().find(slow) else { return };
            polling.slow = true;
            let line = format!(
                "the condition '{}' of {} has not returned for {SLOW:?}: its body cannot continue, time out or be suspended \
                 before it does; other waits continue",
                polling.condition, polling.body
            );
            let next = state.pacer.done();
            drop(state);
            self.wake_poll(next);
            engine.warn(&line);
        }
    }

    /// Wakes the body whose turn it is. One that no longer waits passes its turn on.
    fn wake_poll(&self, mut next: Option<(Arc<Parker<E>>, u64)>) {
        while let Some((parker, ticket)) = next {
            if parker.unpark(ticket) {
                return;
            }
            next = self.state.lock().pacer.done();
        }
    }

    fn look_later(&self, alarm: Arc<Stuck<E>>, turns: u64) {
        if let Some(engine) = self.engine.get().and_then(Weak::upgrade) {
            engine.ring_soon(STUCK_AFTER, alarm, turns);
        }
    }

    /// Looks every [`STUCK_AFTER`] as long as a body waits for its turn.
    fn look_for_stuck_polls(&self, turns_before: u64, alarm: &Arc<Stuck<E>>) {
        let mut state = self.state.lock();
        let (turns, waiting) = state.pacer.progress();
        if !waiting {
            state.stuck_alarm = false;
            return;
        }
        let next = if turns == turns_before { state.pacer.stuck() } else { None };
        let (turns, _) = state.pacer.progress();
        drop(state);
        self.wake_poll(next);
        self.look_later(Arc::clone(alarm), turns);
    }
}
