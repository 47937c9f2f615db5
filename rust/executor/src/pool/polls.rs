//! The polls of parked bodies, one after the other: the pacing machine ([`crate::pacer`]) decides, this carries out.
//!
//! A poll that takes very long is named in the log and no longer counts: the others go on as if it were not there.

use std::sync::{Arc, Weak};
use std::time::Duration;

use bide_core::TaskIx;

use super::{Cell, Shared};
use crate::engine::{Engine, Level};
use crate::flow::Run;
use crate::host::Host;
use crate::pacer::STUCK_AFTER;
use crate::timers::Alarm;

/// A poll that takes longer does not count any more.
const SLOW: Duration = Duration::from_secs(1);

/// A poll that has begun and not ended.
pub(super) struct Polling<H: Host> {
    number: u64,
    run: Arc<Run<H>>,
    task: TaskIx,
    condition: Arc<str>,
    /// By the steady clock.
    since: Duration,
    /// It has taken so long that the pacing machine takes it for ended.
    slow: bool,
}

/// No poll has handed on for a while.
struct Stuck<H: Host>(Weak<Shared<H>>);

impl<H: Host> Alarm for Stuck<H> {
    fn ring(self: Arc<Self>, ticket: u64) {
        if let Some(shared) = self.0.upgrade() {
            shared.look_for_stuck(ticket, &self);
        }
    }
}

impl<H: Host> Shared<H> {
    /// A parked body is to poll: now, or when those before it have handed on. However early the one that polls now
    /// began, from here on somebody has an eye on it: if it does not hand on in time, others go on beside it.
    pub(crate) fn poll_due(self: &Arc<Self>, cell: Arc<Cell<H>>, ticket: u64) {
        let mut state = self.state.lock();
        let next = state.pacer.due((cell, ticket));
        let (handed, waiting) = state.pacer.progress();
        let watch = waiting && !std::mem::replace(&mut state.stuck_alarm, true);
        drop(state);
        self.offer_polls(next);
        if watch {
            self.look_later(Arc::new(Stuck(Arc::downgrade(self))), handed);
        }
    }

    /// A poll begins, on its body's own thread. Its number is for [`Shared::poll_ends`].
    pub(crate) fn poll_begins(&self, engine: &Engine<H>, run: &Arc<Run<H>>, task: TaskIx, name: &Arc<str>) -> u64 {
        let since = engine.clock.steady();
        let mut state = self.state.lock();
        state.last_poll += 1;
        let (number, run, condition) = (state.last_poll, Arc::clone(run), Arc::clone(name));
        state.polling.push(Polling { number, run, task, condition, since, slow: false });
        number
    }

    /// A poll has ended, if there was one: the next one that is due has its turn.
    pub(crate) fn poll_ends(&self, number: Option<u64>) {
        let Some(number) = number else { return };
        let mut state = self.state.lock();
        let at = state.polling.iter().position(|polling| polling.number == number);
        let ended = at.map(|at| state.polling.swap_remove(at));
        let counts = ended.as_ref().is_none_or(|polling| !polling.slow);
        let next = if counts { state.pacer.done() } else { None };
        drop(state);
        self.offer_polls(next);
    }

    /// Takes polls that do not return out of the count, and names them.
    pub(super) fn look_for_slow_polls(&self, engine: &Engine<H>) {
        let now = engine.clock.steady();
        loop {
            let mut state = self.state.lock();
            let slow = |polling: &&mut Polling<H>| !polling.slow && now.saturating_sub(polling.since) > SLOW;
            let Some(polling) = state.polling.iter_mut().find(slow) else { return };
            polling.slow = true;
            let name = polling.run.flow.graph.name(polling.task);
            let line = format!(
                "the condition '{}' of task '{name}' in run {} has not returned for {SLOW:?}: its body cannot go on, time \
                 out or be suspended before it does; the others go on",
                polling.condition, polling.run.id
            );
            let next = state.pacer.done();
            drop(state);
            self.offer_polls(next);
            engine.log(Level::Warning, &line);
        }
    }

    fn offer_polls(&self, mut next: Option<(Arc<Cell<H>>, u64)>) {
        while let Some((cell, ticket)) = next {
            if cell.offer(ticket) {
                return;
            }
            next = self.state.lock().pacer.done();
        }
    }

    fn look_later(&self, alarm: Arc<Stuck<H>>, handed: u64) {
        if let Some(timers) = self.timers.get().and_then(Weak::upgrade) {
            timers.after(STUCK_AFTER, alarm, handed);
        }
    }

    /// Looks every [`STUCK_AFTER`] as long as a body waits for its turn.
    fn look_for_stuck(&self, before: u64, alarm: &Arc<Stuck<H>>) {
        let mut state = self.state.lock();
        let (handed, waiting) = state.pacer.progress();
        if !waiting {
            state.stuck_alarm = false;
            return;
        }
        let next = if handed == before { state.pacer.stuck() } else { None };
        let (handed, _) = state.pacer.progress();
        drop(state);
        self.offer_polls(next);
        self.look_later(Arc::clone(alarm), handed);
    }
}
