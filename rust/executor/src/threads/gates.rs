//! Gates that wait for a condition: polled by one thread of the host, for a row and an entry of a heap each.
//!
//! The threads that may poll: one is the main one and takes every gate that is due, the others are spares. A
//! condition that takes longer than [`SLOW`] does not hold up the rest: the gate is named in the log and is polled by
//! spares from then on, and a spare becomes the main thread. There is always a spare that is idle, up to the limit.

use std::collections::HashSet;
use std::sync::Arc;
use std::time::Duration;

use bide_core::attempt::polling::Polling;
use bide_core::event::Retry;
use bide_core::poll::Progress;
use bide_core::{Event, Failure, GateSpec, GateTime, GateUntil, TaskIx, TaskRef, Value};
use bide_sched::{Queue, RETRY_THREAD_AFTER};
use bide_sync::{Condvar, Mutex};

use crate::due::Due;
use crate::engine::Engine;
use crate::engine::api::At;
use crate::host::{Attached, Gate, Host, Polled};
use crate::ledger::QueuedEvent;
use crate::log::Level;
use crate::runs::polls::GatePolls;
use crate::runs::run::Run;
use crate::threads::pool::Pool;

/// Polls that are due within this span are taken one after the other without a sleep.
const SLICE: Duration = Duration::from_millis(1);

/// A condition that takes longer is polled by spares.
const SLOW: Duration = Duration::from_millis(50);

/// The lease is checked again before a poll that begins this long after the last check: a process that was stopped
/// shows a gap.
const SURE: Duration = Duration::from_millis(100);

/// How many polls are made before their results are committed.
const BATCH: usize = 64;

/// The gates of an engine.
pub(crate) struct Gates<H: Host> {
    /// The gates and the threads that poll them.
    state: Mutex<State<H>>,
    /// Notified when a gate is due earlier than before, and at the close.
    changed: Condvar,
}

struct State<H: Host> {
    /// Gates that were never slow.
    quick: Queue<Item<H>>,
    /// Gates that were.
    slow: Queue<Item<H>>,
    /// The slow gates that were reported: once for each task, however many runs there are.
    reported: HashSet<(i64, TaskIx)>,
    /// How many items were put, and threads begun, so far.
    seq: u64,
    /// The thread that polls the quick ones, by number.
    main: Option<usize>,
    /// What the main thread polls, and since when.
    polling: Option<(Duration, Gate<H>)>,
    /// Threads so far.
    threads: usize,
    /// Spares that wait for work.
    idle: usize,
    /// Threads that wait until a gate is due.
    waiting: usize,
    /// How often a gate was taken to be polled.
    taken: u64,
    /// No more threads than this.
    limit: usize,
    /// The system has refused a thread: it is asked again no sooner than this, by the steady clock.
    ask_again: Duration,
    /// The runner closes: nothing is polled any more.
    close: bool,
}

/// A gate between two polls. There may be a hundred thousand of them: kept small, and without an allocation.
struct Item<H: Host> {
    /// When it is asked next, by the steady clock in nanoseconds.
    due: u64,
    /// Decides between gates that are due at the same time: the lower number first.
    seq: u64,
    /// The gate.
    gate: Gate<H>,
    /// The polls so far.
    progress: Progress,
}

/// A gate to poll now.
struct NextPoll<H: Host> {
    /// The gate with its polls so far.
    item: Item<H>,
    /// Whether the caller is to start one more thread; that is counted already.
    wants_spare: bool,
    /// When it was taken, by the steady clock.
    at: Duration,
}

fn nanos(span: Duration) -> u64 {
    u64::try_from(span.as_nanos()).unwrap_or(u64::MAX)
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

impl<H: Host> Gates<H> {
    /// Without threads; at most `limit` of them may be started.
    pub(crate) fn new(limit: usize) -> Self {
        let state = State {
            quick: Queue::new(),
            slow: Queue::new(),
            reported: HashSet::new(),
            seq: 0,
            main: None,
            polling: None,
            threads: 0,
            idle: 0,
            waiting: 0,
            taken: 0,
            limit,
            ask_again: Duration::ZERO,
            close: false,
        };
        Self { state: Mutex::new(state), changed: Condvar::new() }
    }

    /// Watches a gate: its first poll is due at once.
    pub(crate) fn watch(&self, engine: &Engine<H>, gate: Gate<H>) {
        let item = Item { due: nanos(engine.clock().steady()), seq: 0, gate, progress: Progress::default() };
        if self.state.lock().put(item, false) {
            self.changed.notify_all();
        }
    }

    /// The gates between two polls, of those that are wanted.
    pub(crate) fn polls(&self, is_wanted: &dyn Fn(&Gate<H>) -> bool) -> Vec<GatePolls> {
        let state = self.state.lock();
        let items = state.quick.iter().chain(state.slow.iter()).filter(|item| is_wanted(&item.gate));
        let shown = |item: &Item<H>| GatePolls {
            run: item.gate.run.id.row(),
            task: item.gate.task,
            part: item.gate.part,
            count: item.progress.polls(),
            due: Duration::from_nanos(item.due),
        };
        items.map(shown).collect()
    }

    /// Has the gate of a task asked now. Takes time for each gate: nobody asks for it often.
    pub(crate) fn poll_now(&self, engine: &Engine<H>, run: &Arc<Run<H>>, task: TaskRef) {
        let (mut state, now) = (self.state.lock(), nanos(engine.clock().steady()));
        for slow in [false, true] {
            let queue = std::mem::take(if slow { &mut state.slow } else { &mut state.quick });
            let mut rest = queue;
            while let Some(mut item) = rest.pop() {
                if item.gate.task == task && Arc::ptr_eq(&item.gate.run, run) {
                    item.due = now;
                }
                state.put(item, slow);
            }
        }
        drop(state);
        self.changed.notify_all();
    }

    /// When the first gate is asked next, by the steady clock. The clock may have been moved by hand: the threads look
    /// at it again.
    pub(crate) fn clock_was_moved(&self) -> Option<Duration> {
        let state = self.state.lock();
        self.changed.notify_all();
        let due = [state.quick.peek(), state.slow.peek()].into_iter().flatten().map(|item| item.due).min();
        due.map(Duration::from_nanos)
    }

    /// `None`: a gate is polled, or is due. Else how often one was taken to be polled so far.
    pub(crate) fn rest(&self, now: Duration) -> Option<u64> {
        let state = self.state.lock();
        let is_due = [state.quick.peek(), state.slow.peek()].into_iter().flatten().any(|item| item.due <= nanos(now));
        (!is_due && state.waiting == state.threads).then_some(state.taken)
    }

    /// Adds when gates are polled next, by the steady clock.
    pub(crate) fn add_due(&self, dues: &mut Due) {
        let state = self.state.lock();
        for item in state.quick.iter().chain(state.slow.iter()) {
            let gate = &item.gate;
            let policy = H::gate_policy(&gate.workflow().bodies[gate.task.ix as usize], gate.part);
            let polling = Polling::with_progress(policy, gate.deadline, item.progress);
            dues.add(Duration::from_nanos(item.due), polling.is_endless());
        }
    }

    pub(crate) fn close(&self) {
        self.state.lock().close = true;
        self.changed.notify_all();
    }

    /// If the main thread's condition runs for too long, another thread becomes the main one.
    pub(crate) fn look(&self, engine: &Engine<H>) {
        let (culprit, reported, none_idle, threads) = {
            let mut state = self.state.lock();
            let now = engine.clock().steady();
            match &state.polling {
                Some((since, gate)) if now.saturating_sub(*since) > SLOW => {
                    let gate = gate.clone();
                    (state.main, state.polling) = (None, None);
                    let reported = !state.reported.insert((gate.workflow().number, gate.task.ix));
                    (gate, reported, state.idle == 0 && state.threads >= state.limit, state.threads)
                }
                _ => return,
            }
        };
        self.changed.notify_all();
        if none_idle {
            let line = format!(
                "all {threads} threads that poll gates are in conditions that do not return: no gate opens before one \
                 of them does"
            );
            engine.log(Level::Warning, &line);
        }
        if reported {
            return;
        }
        let (graph, ix) = (&culprit.workflow().graph, culprit.task.ix);
        let name = culprit.spec().map(|gate| &*gate.name).unwrap_or_default();
        engine.log(
            Level::Warning,
            &format!(
                "the gate of task '{}' is slow: its condition {name} takes longer than {SLOW:?}; it is polled on a \
                 thread of its own from now on",
                graph.name(ix)
            ),
        );
    }

    /// Takes a gate that was due at the time `at`; without one, waits for the next. `None`: none was due, or the runner
    /// closes.
    fn take(&self, engine: &Engine<H>, me: usize, at: Option<Duration>) -> Option<NextPoll<H>> {
        let mut state = self.state.lock();
        loop {
            if state.close {
                return None;
            }
            let now = at.unwrap_or_else(|| engine.clock().steady());
            let main = *state.main.get_or_insert(me) == me;
            let queue = if main { &mut state.quick } else { &mut state.slow };
            let span = match queue.peek().map(|item| item.due) {
                Some(due) if due <= nanos(now) => {
                    let item = queue.pop()?;
                    state.taken += 1;
                    if main {
                        state.polling = Some((now, item.gate.clone()));
                    }
                    return Some(NextPoll { item, wants_spare: state.wants_spare(now), at: now });
                }
                Some(due) => Some(Duration::from_nanos(due).saturating_sub(now).max(SLICE)),
                None => None,
            };
            if at.is_some() {
                return None;
            }
            state.idle += usize::from(!main);
            state.waiting += 1;
            match span {
                Some(span) if !engine.clock().is_manual() => drop(self.changed.wait_for(&mut state, span)),
                _ => self.changed.wait(&mut state),
            }
            state.waiting -= 1;
            state.idle -= usize::from(!main);
        }
    }

    /// A poll has ended; `again` is when the gate is to be asked the next time, if it is. One whose poll was slow, or
    /// was so before, is polled by the spares from then on.
    fn polled(&self, me: usize, again: Option<Item<H>>) {
        let mut state = self.state.lock();
        let slow = state.main != Some(me);
        if !slow {
            state.polling = None;
        }
        if again.is_some_and(|item| state.put(item, slow)) {
            drop(state);
            self.changed.notify_all();
        }
    }
}

impl<H: Host> State<H> {
    /// Puts a gate where it waits for its next poll. True if none is due before it.
    fn put(&mut self, mut item: Item<H>, slow: bool) -> bool {
        self.seq += 1;
        item.seq = self.seq;
        let queue = if slow { &mut self.slow } else { &mut self.quick };
        let first = queue.peek().is_none_or(|next| item.due < next.due);
        queue.push(item);
        first
    }

    /// Whether one more thread is wanted; counts it.
    fn wants_spare(&mut self, now: Duration) -> bool {
        let wanted = self.idle == 0 && self.threads < self.limit && now >= self.ask_again && !self.close;
        self.threads += usize::from(wanted);
        wanted
    }
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
        let gate = &item.gate;
        if !gate.is_awaited() {
            gates.polled(me, None);
            return None;
        }
        if gate.spec().is_some_and(|spec| spec.until == GateUntil::Computed) {
            let time = cx.gate_time(gate);
            *now = self.clock().steady();
            gates.polled(me, None);
            return match time {
                Ok(time) => self.gate_timed(&item.gate, time),
                Err(failure) => self.gate_closed(&item.gate, Err(failure), 0, cx),
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
        gates.polled(me, None);
        self.gate_closed(&item.gate, result, polling.asked(), cx)
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
