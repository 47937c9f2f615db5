//! Gates that wait for a condition: polled by one thread of the host, for a row and an entry of a heap each. The sources
//! of watches are polled in the same way (`threads/sources.rs`).
//!
//! The threads that may poll: one is the main one and takes every gate that is due, the others are spares. A
//! condition that takes longer than 50 ms does not hold up the rest: the gate is named in the log and is polled by
//! spares from then on, and a spare becomes the main thread. There is always a spare that is idle, up to the limit.

mod queue;

use std::sync::Arc;
use std::time::Duration;

use bide_core::attempt::polling::Polling;
use bide_core::event::Retry;
use bide_core::{Event, Failure, GateSpec, GateTime, GateUntil, Value};
use bide_sched::RETRY_THREAD_AFTER;

use crate::engine::Engine;
use crate::engine::clocks::At;
use crate::host::{Attached, Gate, Host, Polled};
use crate::ledger::QueuedEvent;
use crate::log::Level;
use crate::threads::pool::Pool;

pub(crate) use queue::Gates;
use queue::{Item, NextPoll, Polls, nanos};

/// The lease is checked again before a poll that begins this long after the last check: a process that was stopped
/// shows a gap.
const SURE: Duration = Duration::from_millis(100);

/// How many polls are made before their results are committed.
const BATCH: usize = 64;

/// A thread that polls gates.
pub trait GateWorker<H: Host>: Attached {
    /// Asks a gate's condition. Never panics.
    fn poll_gate(&mut self, gate: &Gate<H>) -> Polled;

    /// Computes the time of a gate that waits for one of [`GateUntil::Computed`]. Never panics.
    ///
    /// # Errors
    /// How the gate fails.
    fn gate_time(&mut self, gate: &Gate<H>) -> Result<GateTime, Failure>;

    /// Whether the task's retry policy covers a failure of its gate.
    fn retries(&mut self, gate: &Gate<H>, failure: &Failure) -> bool;

    /// Between two polls: lets other threads of the host have a turn. `now` is the engine's steady time.
    fn between(&mut self, now: Duration);

    /// Starts one more thread that polls gates.
    ///
    /// # Errors
    /// Says why there can be none.
    fn start_spare(&mut self, engine: &Arc<Engine<H>>) -> Result<(), String>;
}

impl<H: Host<Dispatch = Pool<H>>> Engine<H> {
    /// Whether the caller is to start the first thread that polls gates.
    #[must_use]
    pub fn wants_gate_thread(&self) -> bool {
        let mut state = self.dispatch().gates.state.lock();
        let first = state.threads == 0 && !state.close;
        state.threads += usize::from(first);
        first
    }

    /// A thread that was wanted to poll gates could not be started: it does not count, and a spare is wanted again
    /// after a while.
    pub fn no_gate_thread(&self) {
        let mut state = self.dispatch().gates.state.lock();
        state.threads -= 1;
        state.ask_again = self.clock().steady() + RETRY_THREAD_AFTER;
    }

    /// What a thread that polls gates does until the runner closes.
    pub fn work_on_gates<C: GateWorker<H>>(self: &Arc<Self>, cx: &mut C) {
        if let Err(why) = H::no_panic(|| self.poll_gates(cx)) {
            self.panicked(&why);
        }
    }

    fn poll_gates<C: GateWorker<H>>(self: &Arc<Self>, cx: &mut C) {
        let gates = &self.dispatch().gates;
        let me = {
            let mut state = gates.state.lock();
            state.seq += 1;
            state.seq as usize
        };
        let (mut done, mut ready) = (Vec::new(), Vec::new());
        // Read once for each poll: the clock is a tenth of what one costs.
        let mut now = self.clock().steady();
        let mut sure = Duration::ZERO;
        loop {
            let mut item = if done.len() < BATCH { gates.take(self, me, Some(now)) } else { None };
            if item.is_none() {
                item = (cx as &mut dyn Attached).wait(|| {
                    self.path().commit(&mut done, &mut ready);
                    self.dispatch_ready(&mut ready);
                    gates.take(self, me, None)
                });
            }
            let Some(NextPoll { item, wants_spare, at }) = item else { return };
            if at.saturating_sub(sure) >= SURE {
                sure = at;
                if !self.is_sure_of_lease(cx) {
                    return;
                }
            }
            if wants_spare && let Err(why) = cx.start_spare(self) {
                let first = self.dispatch().gates.state.lock().ask_again.is_zero();
                self.no_gate_thread();
                if first {
                    let line = format!(
                        "no spare thread for the gates could be started ({why}): while one of their conditions is slow \
                         the others are late"
                    );
                    self.log(Level::Warning, &line);
                }
            }
            if let Some(event) = self.poll_gate(gates, me, item, cx, &mut now) {
                done.push(event);
            }
            cx.between(if self.clock().is_manual() { self.clock().machine() } else { now });
        }
    }

    fn poll_gate<C: GateWorker<H>>(
        &self,
        gates: &Gates<H>,
        me: usize,
        mut item: Item<H>,
        cx: &mut C,
        now: &mut Duration,
    ) -> Option<QueuedEvent<H>> {
        let gate = match &item.what {
            Polls::Gate(gate) => gate,
            Polls::Source(watch) => {
                let polled = self.poll_source(watch, cx);
                *now = self.clock().steady();
                let again = polled.after.map(|span| Item { due: nanos(*now + span), ..item });
                gates.polled_with(me, again, |state| {
                    state.unanswered += isize::from(polled.is_unanswered);
                    state.sources -= usize::from(polled.is_over);
                });
                return None;
            }
        };
        if !gate.is_awaited() {
            gates.polled(me, None);
            return None;
        }
        if gate.spec().is_some_and(|spec| spec.until == GateUntil::Computed) {
            let time = cx.gate_time(gate);
            *now = self.clock().steady();
            gates.polled(me, None);
            return match time {
                Ok(time) => self.gate_timed(gate, time),
                Err(failure) => self.gate_closed(gate, Err(failure), 0, cx),
            };
        }
        let policy = H::gate_policy(&gate.workflow().bodies[gate.task.ix as usize], gate.part);
        let mut polling = Polling::with_progress(policy, gate.deadline, item.progress);
        let polled = cx.poll_gate(gate);
        *now = self.clock().steady();
        let clocks = At { engine: self, steady: *now };
        let result = polling.judge(polled, &clocks, || gate.timed_out());
        gate.run.note_error(gate.task, polling.error());
        let noted = (gate.task, gate.attempt);
        if let Some(event) = gate.run.note_gate_error(noted, || gate.spec().map(GateSpec::key), polling.error(), *now) {
            self.enqueue(Arc::clone(&gate.run), event);
        }
        let Some(result) = result else {
            item.due = nanos(*now + polling.next(&clocks));
            item.progress = polling.progress();
            gates.polled(me, Some(item));
            return None;
        };
        let Polls::Gate(gate) = &item.what else { return None };
        gates.polled(me, None);
        self.gate_closed(gate, result, polling.asked(), cx)
    }

    fn gate_timed(&self, gate: &Gate<H>, time: GateTime) -> Option<QueuedEvent<H>> {
        let key = gate.spec().map(GateSpec::key)?;
        let event = Event::Timed { task: gate.task, attempt: gate.attempt, key, time };
        Some(QueuedEvent { run: Arc::clone(&gate.run), event, at: self.clock().now(), completion: None })
    }

    fn gate_closed<C: GateWorker<H>>(
        &self,
        gate: &Gate<H>,
        result: Result<Value, Failure>,
        polls: u32,
        cx: &mut C,
    ) -> Option<QueuedEvent<H>> {
        let key = gate.spec().map(GateSpec::key)?;
        let retry = match &result {
            Err(failure) if cx.retries(gate, failure) => Some(Retry { random: self.random() }),
            _ => None,
        };
        let event = Event::Closed { task: gate.task, attempt: gate.attempt, key, result, proved: true, polls, retry };
        Some(QueuedEvent { run: Arc::clone(&gate.run), event, at: self.clock().now(), completion: None })
    }
}
