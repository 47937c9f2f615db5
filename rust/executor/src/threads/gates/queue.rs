//! What is polled and when: the gates of an engine and the sources of its watches, in the order in which they are due, and
//! the threads that wait for them.

use std::collections::HashSet;
use std::sync::Arc;
use std::time::Duration;

use bide_core::attempt::polling::Polling;
use bide_core::poll::Progress;
use bide_core::{TaskIx, TaskRef};
use bide_sched::Queue;
use bide_sync::{Condvar, Mutex};

use crate::due::{AlarmKind, Due};
use crate::engine::Engine;
use crate::host::{Gate, Host};
use crate::log::Level;
use crate::runs::local_watch::LocalWatch;
use crate::runs::polls::GatePolls;
use crate::runs::run::Run;

/// Polls that are due within this span are taken one after the other without a sleep.
const SLICE: Duration = Duration::from_millis(1);

/// A condition that takes longer is polled by spares.
const SLOW: Duration = Duration::from_millis(50);

/// How many more threads there may be for sources that block.
const MOST_FOR_SOURCES: usize = 64;

/// The gates of an engine.
pub(crate) struct Gates<H: Host> {
    /// The gates and the threads that poll them.
    pub(super) state: Mutex<State<H>>,
    /// Notified when a gate is due earlier than before, and at the close.
    changed: Condvar,
}

pub(super) struct State<H: Host> {
    /// Gates that were never slow.
    quick: Queue<Item<H>>,
    /// Gates that were.
    slow: Queue<Item<H>>,
    /// The slow gates that were reported: once for each task, however many runs there are.
    reported: HashSet<(i64, TaskIx)>,
    /// How many items were put, and threads begun, so far.
    pub(super) seq: u64,
    /// The thread that polls the quick ones, by number.
    main: Option<usize>,
    /// What the main thread polls, and since when.
    polling: Option<(Duration, Polls<H>)>,
    /// How many watches have a source here: each may need a thread.
    pub(super) sources: usize,
    /// How many of these have sources that answer later.
    pub(super) unanswered: isize,
    /// Threads so far.
    pub(super) threads: usize,
    /// Spares that wait for work.
    idle: usize,
    /// Threads that wait until a gate is due.
    waiting: usize,
    /// How often a gate was taken to be polled.
    taken: u64,
    /// No more threads than this.
    limit: usize,
    /// The system has refused a thread: it is asked again no sooner than this, by the steady clock.
    pub(super) ask_again: Duration,
    /// The runner closes: nothing is polled any more.
    pub(super) close: bool,
}

/// A gate between two polls. There may be a hundred thousand of them: kept small, and without an allocation.
pub(super) struct Item<H: Host> {
    /// When it is asked next, by the steady clock in nanoseconds.
    pub(super) due: u64,
    /// Decides between gates that are due at the same time: the lower number first.
    pub(super) seq: u64,
    /// The gate, or the watch.
    pub(super) what: Polls<H>,
    /// The polls of the gate so far.
    pub(super) progress: Progress,
}

/// What is polled.
pub(super) enum Polls<H: Host> {
    /// A gate.
    Gate(Gate<H>),
    /// The source of a watch.
    Source(Arc<LocalWatch<H>>),
}

impl<H: Host> Clone for Polls<H> {
    fn clone(&self) -> Self {
        match self {
            Self::Gate(gate) => Self::Gate(gate.clone()),
            Self::Source(watch) => Self::Source(Arc::clone(watch)),
        }
    }
}

impl<H: Host> Item<H> {
    /// The gate, if it is one.
    fn gate(&self) -> Option<&Gate<H>> {
        match &self.what {
            Polls::Gate(gate) => Some(gate),
            Polls::Source(_) => None,
        }
    }
}

/// What to poll now.
pub(super) struct NextPoll<H: Host> {
    /// The gate with its polls so far.
    pub(super) item: Item<H>,
    /// Whether the caller is to start one more thread; that is counted already.
    pub(super) wants_spare: bool,
    /// When it was taken, by the steady clock.
    pub(super) at: Duration,
}

pub(super) fn nanos(span: Duration) -> u64 {
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
            sources: 0,
            unanswered: 0,
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
        self.add(engine, Polls::Gate(gate), |_| ());
    }

    /// Polls the source of a watch from now on.
    pub(crate) fn watch_source(&self, engine: &Engine<H>, watch: Arc<LocalWatch<H>>) {
        self.add(engine, Polls::Source(watch), |state| state.sources += 1);
    }

    /// A source that answers later has done so.
    pub(crate) fn answered(&self, engine: &Engine<H>, watch: Arc<LocalWatch<H>>) {
        self.add(engine, Polls::Source(watch), |state| state.unanswered -= 1);
    }

    fn add(&self, engine: &Engine<H>, what: Polls<H>, count: impl FnOnce(&mut State<H>)) {
        let item = Item { due: nanos(engine.clock().steady()), seq: 0, what, progress: Progress::default() };
        let mut state = self.state.lock();
        count(&mut state);
        if state.put(item, false) {
            self.changed.notify_all();
        }
    }

    /// The gates between two polls, of those that are wanted.
    pub(crate) fn polls(&self, is_wanted: &dyn Fn(&Gate<H>) -> bool) -> Vec<GatePolls> {
        let state = self.state.lock();
        let shown = |item: &Item<H>| {
            let gate = item.gate().filter(|gate| is_wanted(gate))?;
            Some(GatePolls {
                run: gate.run.id.row(),
                task: gate.task,
                part: gate.part,
                count: item.progress.polls(),
                due: Duration::from_nanos(item.due),
            })
        };
        state.quick.iter().chain(state.slow.iter()).filter_map(shown).collect()
    }

    /// Has the gate of a task asked now. Takes time for each gate: nobody asks for it often.
    pub(crate) fn poll_now(&self, engine: &Engine<H>, run: &Arc<Run<H>>, task: TaskRef) {
        let (mut state, now) = (self.state.lock(), nanos(engine.clock().steady()));
        for slow in [false, true] {
            let queue = std::mem::take(if slow { &mut state.slow } else { &mut state.quick });
            let mut rest = queue;
            while let Some(mut item) = rest.pop() {
                if item.gate().is_some_and(|gate| gate.task == task && Arc::ptr_eq(&gate.run, run)) {
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
        (!is_due && state.unanswered == 0 && state.waiting == state.threads).then_some(state.taken)
    }

    /// Adds when gates are polled next, by the steady clock.
    pub(crate) fn add_due(&self, dues: &mut Due) {
        let state = self.state.lock();
        for item in state.quick.iter().chain(state.slow.iter()) {
            let kind = item.gate().map_or(AlarmKind::Recurring, |gate| {
                let policy = H::gate_policy(&gate.workflow().bodies[gate.task.ix as usize], gate.part);
                AlarmKind::of_poll(Polling::with_progress(policy, gate.deadline, item.progress).is_endless())
            });
            dues.add(Duration::from_nanos(item.due), kind);
        }
    }

    pub(crate) fn close(&self) {
        self.state.lock().close = true;
        self.changed.notify_all();
    }

    /// If the main thread's condition runs for too long, another thread becomes the main one.
    pub(crate) fn look(&self, engine: &Engine<H>) {
        let (culprit, none_idle, threads) = {
            let mut state = self.state.lock();
            let now = engine.clock().steady();
            match &state.polling {
                Some((since, what)) if now.saturating_sub(*since) > SLOW => {
                    let gate = match what {
                        Polls::Gate(gate) => Some(gate.clone()),
                        Polls::Source(_) => None,
                    };
                    (state.main, state.polling) = (None, None);
                    let gate = gate.filter(|gate| state.reported.insert((gate.workflow().number, gate.task.ix)));
                    (gate, state.idle == 0 && state.threads >= state.most_threads(), state.threads)
                }
                _ => return,
            }
        };
        self.changed.notify_all();
        if none_idle {
            let line = format!(
                "all {threads} threads that poll gates and watches are in conditions and sources that do not return: no \
                 gate opens before one of them does"
            );
            engine.log(Level::Warning, &line);
        }
        let Some(culprit) = culprit else { return };
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
    pub(super) fn take(&self, engine: &Engine<H>, me: usize, at: Option<Duration>) -> Option<NextPoll<H>> {
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
                        state.polling = Some((now, item.what.clone()));
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
    pub(super) fn polled(&self, me: usize, again: Option<Item<H>>) {
        self.polled_with(me, again, |_| ());
    }

    pub(super) fn polled_with(&self, me: usize, again: Option<Item<H>>, count: impl FnOnce(&mut State<H>)) {
        let mut state = self.state.lock();
        count(&mut state);
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

    /// How many threads there may be.
    fn most_threads(&self) -> usize {
        self.limit + self.sources.min(MOST_FOR_SOURCES)
    }

    /// Whether one more thread is wanted; counts it.
    fn wants_spare(&mut self, now: Duration) -> bool {
        let wanted = self.idle == 0 && self.threads < self.most_threads() && now >= self.ask_again && !self.close;
        self.threads += usize::from(wanted);
        wanted
    }
}
