//! Gates that wait for a condition: polled in batches by one thread of the host, for a row and an entry of a heap each.

use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::sync::Arc;
use std::time::Duration;

use bide_core::event::Retry;
use bide_core::poll::Poll;
use bide_core::{Event, Failure, FailureKind, Time, Value};
use bide_sync::{Condvar, Mutex};

use crate::commit::Done;
use crate::engine::Engine;
use crate::host::{Attached, Gate, Host, Polled};
use crate::pool::Pool;

/// Polls that are due within so long are taken together.
const SLICE: Duration = Duration::from_millis(1);

/// The gates of an engine.
pub(crate) struct Gates<H: Host> {
    state: Mutex<State<H>>,
    changed: Condvar,
}

struct State<H: Host> {
    heap: BinaryHeap<Reverse<Item<H>>>,
    seq: u64,
    close: bool,
}

struct Item<H: Host> {
    due: Duration,
    seq: u64,
    gate: Box<Gate<H>>,
    poll: Poll,
}

impl<H: Host> PartialEq for Item<H> {
    fn eq(&self, other: &Self) -> bool {
        (self.due, self.seq) == (other.due, other.seq)
    }
}
impl<H: Host> Eq for Item<H> {}
impl<H: Host> PartialOrd for Item<H> {
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}
impl<H: Host> Ord for Item<H> {
    fn cmp(&self, other: &Self) -> std::cmp::Ordering {
        (self.due, self.seq).cmp(&(other.due, other.seq))
    }
}

/// A thread that polls gates.
pub trait GateWorker<H: Host>: Attached {
    /// Asks a gate's condition. Never panics.
    fn poll_gate(&mut self, gate: &Gate<H>) -> Polled;

    /// Whether the task's retry policy covers a failure of its gate.
    fn retries(&mut self, gate: &Gate<H>, failure: &Failure) -> bool;

    /// Between two polls: lets other threads of the host have a turn.
    fn between(&mut self);
}

impl<H: Host> Default for Gates<H> {
    fn default() -> Self {
        Self { state: Mutex::new(State { heap: BinaryHeap::new(), seq: 0, close: false }), changed: Condvar::new() }
    }
}

impl<H: Host> Gates<H> {
    /// Watches a gate: its first poll is due at once.
    pub(crate) fn watch(&self, engine: &Engine<H>, gate: Gate<H>) {
        let policy = H::gate_policy(&gate.run.flow.bodies[gate.task.ix as usize]);
        let due = engine.clock.steady();
        self.add(due, Box::new(gate), Poll::new(policy));
    }

    fn add(&self, due: Duration, gate: Box<Gate<H>>, poll: Poll) {
        let mut state = self.state.lock();
        state.seq += 1;
        let seq = state.seq;
        let first = state.heap.peek().is_none_or(|Reverse(item)| due < item.due);
        state.heap.push(Reverse(Item { due, seq, gate, poll }));
        drop(state);
        if first {
            self.changed.notify_one();
        }
    }

    pub(crate) fn close(&self) {
        self.state.lock().close = true;
        self.changed.notify_all();
    }

    /// Waits for gates that are due and takes them. `None`: the runner closes. Blocks.
    fn take(&self, engine: &Engine<H>) -> Option<Vec<Item<H>>> {
        let mut state = self.state.lock();
        loop {
            if state.close {
                state.heap.clear();
                return None;
            }
            let now = engine.clock.steady();
            match state.heap.peek() {
                None => self.changed.wait(&mut state),
                Some(Reverse(item)) if item.due > now => {
                    // Rounded up, so that what is due shortly after one another is taken together.
                    let span = (item.due - now).max(SLICE);
                    self.changed.wait_for(&mut state, span);
                }
                Some(_) => {
                    let mut items = Vec::new();
                    while items.len() < 64 && state.heap.peek().is_some_and(|Reverse(item)| item.due <= now) {
                        items.extend(state.heap.pop().map(|Reverse(item)| item));
                    }
                    return Some(items);
                }
            }
        }
    }
}

impl<H: Host> Engine<H> {
    /// What the gate thread does until the runner closes.
    pub fn work_on_gates<C: GateWorker<H>>(self: &Arc<Self>, cx: &mut C)
    where
        H: Host<Dispatch = Pool<H>>,
    {
        let gates = &self.dispatch.gates;
        let (mut done, mut ready) = (Vec::new(), Vec::new());
        loop {
            let due = (cx as &mut dyn Attached).wait(|| {
                self.commit(&mut done, &mut ready);
                self.dispatch_ready(&mut ready);
                gates.take(self)
            });
            let Some(due) = due else { return };
            for item in due {
                if let Some(event) = self.poll_gate(gates, item, cx) {
                    done.push(event);
                }
                cx.between();
            }
        }
    }

    fn poll_gate<C: GateWorker<H>>(&self, gates: &Gates<H>, item: Item<H>, cx: &mut C) -> Option<Done<H>> {
        let Item { gate, mut poll, .. } = item;
        let late = gate.deadline.is_some_and(|deadline| self.clock.now() >= deadline);
        let result = match cx.poll_gate(&gate) {
            Polled::True(value) => Ok(value),
            Polled::Broken(failure) => Err(failure),
            Polled::Raised(failure) if poll.failed() => Err(failure),
            Polled::Raised(_) | Polled::False if late => Err(self.gate_timed_out(&gate)),
            polled => {
                if matches!(polled, Polled::False) {
                    poll.ok();
                }
                let now = self.clock.now();
                let span = poll.next(now, gate.deadline, self.random()).since(now);
                gates.add(self.clock.steady() + span, gate, poll);
                return None;
            }
        };
        self.gate_closed(&gate, result, cx)
    }

    fn gate_closed<C: GateWorker<H>>(
        &self,
        gate: &Gate<H>,
        result: Result<Value, Failure>,
        cx: &mut C,
    ) -> Option<Done<H>> {
        let key = gate.flow().graph.spec(gate.task.ix).gate.as_ref()?.key();
        let retry = match &result {
            Err(failure) if cx.retries(gate, failure) => Some(Retry { random: self.random() }),
            _ => None,
        };
        let event = Event::Closed { task: gate.task, attempt: gate.attempt, key, result, retry };
        Some(Done { run: Arc::clone(&gate.run), event, at: self.clock.now(), reply: None })
    }

    fn gate_timed_out(&self, gate: &Gate<H>) -> Failure {
        let message =
            format!("the gate of task {:?} stayed shut until its deadline", gate.flow().graph.name(gate.task.ix));
        Failure::new(FailureKind::WaitTimeout, "bide.WaitTimeout", &message)
    }

    /// The wall's time, for hosts.
    #[must_use]
    pub fn now(&self) -> Time {
        self.clock.now()
    }
}
