//! The pool of worker threads: bodies that block a thread are executed here.
//!
//! A slot is the right to execute a body, and carries a deque of ready bodies and a group of gathered results, so
//! that nobody else touches these while it is held. A worker with a slot takes bodies one by one (nothing is claimed
//! ahead: what waits in a deque can be stolen). Whenever a deque has work and nobody searches, one more worker is
//! woken. A body that defers gives its slot back and parks its thread; another thread goes on in its place.

// With their paths, for `rust/models` includes this file.
#[path = "pool/admit.rs"]
mod admit;
#[path = "pool/cell.rs"]
mod cell;
#[path = "pool/hands.rs"]
mod hands;
#[path = "pool/polls.rs"]
mod polls;

use std::collections::VecDeque;
use std::sync::{Arc, OnceLock, Weak};
use std::time::Duration;

use bide_core::{Event, TaskRef, Time};
use bide_sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering, fence};
use bide_sync::{Condvar, Mutex};
use crossbeam_deque::{Injector, Steal, Stealer, Worker as Deque};

pub(crate) use admit::ASK_AGAIN;
pub(crate) use cell::{Cell, TimeReached, Woken};

use crate::commit::Group;
use crate::engine::Engine;
use crate::flow::Run;
use crate::gates::Gates;
use crate::host::{Dispatch, Gate, Host, Ready};
use crate::pacer::Pacer;
use crate::slots::{SlotNo, Slots};
use crate::spin;
use crate::timers::Timers;

/// Starts a worker thread; false if the host is ending and needs none. Called only on threads of the host that may do
/// so.
pub type StartWorker<H> = Box<dyn Fn(&Arc<Engine<H>>) -> Result<bool, String> + Send + Sync>;

/// The pool.
pub struct Pool<H: Host> {
    pub(crate) shared: Arc<Shared<H>>,
    pub(crate) gates: Gates<H>,
    start_worker: StartWorker<H>,
    /// When the system may be asked for a thread again, in nanoseconds of steady time; 0: it has refused none.
    ask_again: AtomicU64,
}

/// What the pool's threads share.
pub(crate) struct Shared<H: Host> {
    state: Mutex<State<H>>,
    injector: Injector<Ready<H>>,
    stealers: Box<[Stealer<Ready<H>>]>,
    sides: Box<[Side<H>]>,
    /// A hint of how many slots are free, so that a full pool is not locked for a wake-up.
    free: AtomicUsize,
    /// A hint of how many resumed bodies wait for a slot.
    resumed: AtomicUsize,
    /// A worker was woken and has not found work yet.
    searching: AtomicBool,
    /// Callers that are about to make bodies ready.
    coming: AtomicUsize,
    closing: AtomicBool,
    /// Bodies with a handle that execute or are parked.
    handles: AtomicUsize,
    /// How many may be at most.
    most_handles: usize,
    /// How many may be now: fewer while the system gives no more threads.
    max_parked: AtomicUsize,
    emptied: Condvar,
    /// Where a look at the polls is asked for; from the opening on.
    timers: OnceLock<Weak<Timers>>,
}

/// What belongs to a slot while nobody holds it.
struct Side<H: Host> {
    deque: Mutex<Option<Deque<Ready<H>>>>,
    group: Arc<Group<H>>,
    /// The body that executes on the slot.
    current: Mutex<Option<Current<H>>>,
}

/// A body that executes.
struct Current<H: Host> {
    run: Arc<Run<H>>,
    task: TaskRef,
    attempt: u32,
    since: Time,
}

/// A start is written once a body has executed for so long, for other processes to see.
const SHOW_AFTER: Duration = Duration::from_millis(100);

struct State<H: Host> {
    slots: Slots<Arc<Cell<H>>>,
    idle: Vec<Arc<Cell<H>>>,
    /// Threads that are not parked in a body (those that are being started included).
    threads: usize,
    /// Threads that are.
    parked: usize,
    /// Bodies with a handle, parked or not: they are told of the end.
    bodies: Vec<Weak<Cell<H>>>,
    pacer: Pacer<(Arc<Cell<H>>, u64)>,
    polling: Vec<polls::Polling<H>>,
    last_poll: u64,
    stuck_alarm: bool,
    /// Bodies with a handle that may not start while too many are parked.
    held_back: VecDeque<Ready<H>>,
}

/// A slot in somebody's hands.
pub(crate) struct Held<H: Host> {
    pub(crate) no: SlotNo,
    pub(crate) deque: Deque<Ready<H>>,
    pub(crate) group: Arc<Group<H>>,
}

impl<H: Host> Pool<H> {
    /// A pool without threads: `start_worker` starts each.
    #[must_use]
    pub fn new(slots: u32, max_parked: usize, start_worker: StartWorker<H>) -> Self {
        let deques: Vec<Deque<Ready<H>>> = (0..slots).map(|_| Deque::new_fifo()).collect();
        let shared = Shared {
            stealers: deques.iter().map(Deque::stealer).collect(),
            sides: deques
                .into_iter()
                .map(|deque| Side { deque: Mutex::new(Some(deque)), group: Group::new(), current: Mutex::new(None) })
                .collect(),
            state: Mutex::new(State {
                slots: Slots::new(slots),
                idle: Vec::new(),
                threads: 0,
                parked: 0,
                bodies: Vec::new(),
                pacer: Pacer::new(slots as usize),
                polling: Vec::new(),
                last_poll: 0,
                stuck_alarm: false,
                held_back: VecDeque::new(),
            }),
            injector: Injector::new(),
            free: AtomicUsize::new(slots as usize),
            resumed: AtomicUsize::new(0),
            searching: AtomicBool::new(false),
            coming: AtomicUsize::new(0),
            closing: AtomicBool::new(false),
            handles: AtomicUsize::new(0),
            most_handles: max_parked,
            max_parked: AtomicUsize::new(max_parked),
            emptied: Condvar::new(),
            timers: OnceLock::new(),
        };
        let gates = Gates::new(slots as usize + 1);
        Self { shared: Arc::new(shared), gates, start_worker, ask_again: AtomicU64::new(0) }
    }

    /// Starts the first worker thread and lets the committer look after the groups. Call once, on a thread that may
    /// start threads.
    ///
    /// # Errors
    /// Says why the thread cannot be started.
    pub fn open(&self, engine: &Arc<Engine<H>>) -> Result<(), String> {
        self.open_by(engine, || (self.start_worker)(engine))
    }

    /// As [`Pool::open`], for a host that has more to say of a thread that cannot be started than a text.
    ///
    /// # Errors
    /// What the first start came to.
    pub fn open_by<E>(&self, engine: &Arc<Engine<H>>, start_first: impl FnOnce() -> Result<bool, E>) -> Result<(), E> {
        let _ = self.shared.timers.set(Arc::downgrade(&engine.timers));
        for side in &self.shared.sides {
            engine.committer.look_after(Arc::clone(&side.group));
        }
        self.start(start_first).map(drop)
    }

    /// How many slots are in use, and how many there are.
    #[must_use]
    pub fn slots_in_use(&self) -> (usize, usize) {
        let state = self.shared.state.lock();
        let total = state.slots.total() as usize;
        (total - state.slots.free(), total)
    }

    /// How many bodies with a handle execute or are parked, and how many may.
    #[must_use]
    pub fn handles(&self) -> (usize, usize) {
        (self.shared.handles.load(Ordering::Relaxed), self.shared.max_parked.load(Ordering::Relaxed))
    }

    /// Waits until no body executes, at most for a span. True if none does. Blocks.
    #[must_use]
    pub fn wait_idle(&self, span: Duration) -> bool {
        let mut state = self.shared.state.lock();
        let idle = |state: &State<H>| state.threads == 0 && self.shared.handles.load(Ordering::Relaxed) == 0;
        if !idle(&state) {
            self.shared.emptied.wait_while_for(&mut state, |state| !idle(state), span);
        }
        idle(&state)
    }
}

impl<H: Host> Dispatch<H> for Pool<H> {
    fn ready(&self, _engine: &Arc<Engine<H>>, ready: &mut Vec<Ready<H>>) {
        for one in ready.drain(..) {
            self.shared.injector.push(one);
        }
        self.shared.wake_one();
    }

    fn coming(&self) {
        self.shared.coming.fetch_add(1, Ordering::SeqCst);
        if spin::pays() {
            self.shared.wake_one();
        }
    }

    fn came(&self) {
        self.shared.coming.fetch_sub(1, Ordering::SeqCst);
    }

    fn gate(&self, engine: &Arc<Engine<H>>, gate: Gate<H>) {
        self.gates.watch(engine, gate);
    }

    fn close(&self, _engine: &Arc<Engine<H>>) {
        self.shared.close();
        self.gates.close();
    }

    fn lost(&self, _engine: &Arc<Engine<H>>) {
        // Whatever is parked now belongs to a run that is lost: a new lease has none yet.
        let bodies = self.shared.state.lock().bodies.clone();
        for cell in bodies.iter().filter_map(Weak::upgrade) {
            cell.lose();
        }
    }

    fn look(&self, engine: &Arc<Engine<H>>) {
        self.gates.look(engine);
        self.shared.look_for_slow_polls(engine);
        let now = engine.clock.now();
        for side in &self.shared.sides {
            let mut current = side.current.lock();
            // Told once: taken out when it has been.
            if current.as_ref().is_some_and(|body| now.since(body.since) >= SHOW_AFTER)
                && let Some(Current { run, task, attempt, .. }) = current.take()
            {
                engine.leave(run, Event::Started { task, attempt });
            }
        }
    }
}

impl<H: Host> Shared<H> {
    fn close(&self) {
        self.closing.store(true, Ordering::SeqCst);
        let (idle, bodies) = {
            let mut state = self.state.lock();
            (std::mem::take(&mut state.idle), state.bodies.clone())
        };
        for cell in idle.into_iter().chain(bodies.iter().filter_map(Weak::upgrade)) {
            cell.close();
        }
    }

    pub(crate) fn is_closing(&self) -> bool {
        self.closing.load(Ordering::Relaxed)
    }

    fn has_work(&self) -> bool {
        !self.injector.is_empty() || self.stealers.iter().any(|stealer| !stealer.is_empty())
    }

    /// Takes the next ready body: from the own deque, from outside, from another slot.
    pub(crate) fn find(&self, deque: &Deque<Ready<H>>) -> Option<Ready<H>> {
        if self.is_closing() {
            return None;
        }
        if let Some(ready) = deque.pop() {
            return Some(ready);
        }
        loop {
            match self.injector.steal_batch_with_limit_and_pop(deque, 16) {
                Steal::Success(ready) => return Some(ready),
                Steal::Retry => {}
                Steal::Empty => break,
            }
        }
        for stealer in &self.stealers {
            loop {
                match stealer.steal() {
                    Steal::Success(ready) => return Some(ready),
                    Steal::Retry => {}
                    Steal::Empty => break,
                }
            }
        }
        None
    }

    /// A body starts to execute on a slot.
    pub(crate) fn begins(&self, slot: SlotNo, run: &Arc<Run<H>>, task: TaskRef, attempt: u32, since: Time) {
        *self.sides[slot as usize].current.lock() = Some(Current { run: Arc::clone(run), task, attempt, since });
    }

    /// No body executes on a slot any more.
    pub(crate) fn ends(&self, slot: SlotNo) {
        *self.sides[slot as usize].current.lock() = None;
    }

    /// A worker has found work: if there is more and a slot is free, one more worker is woken.
    pub(crate) fn found(&self) {
        if self.searching.load(Ordering::Relaxed) {
            self.searching.store(false, Ordering::SeqCst);
        }
        if self.free.load(Ordering::Relaxed) > 0 && self.has_work() {
            self.wake_one();
        }
    }

    /// Wakes a worker for work that was just made visible, unless one is searching already.
    pub(crate) fn wake_one(&self) {
        fence(Ordering::SeqCst);
        if self.free.load(Ordering::SeqCst) == 0 || self.searching.load(Ordering::SeqCst) {
            return;
        }
        let mut state = self.state.lock();
        if state.idle.is_empty() {
            // A thread that is on its way to be idle looks for work once more before it sleeps.
            return;
        }
        if let Some(slot) = state.slots.take_new()
            && let Some(cell) = state.idle.pop()
        {
            self.searching.store(true, Ordering::SeqCst);
            self.hint(&state);
            drop(state);
            cell.give(slot);
        }
    }

    fn hint(&self, state: &State<H>) {
        self.free.store(state.slots.free(), Ordering::SeqCst);
        self.resumed.store(state.slots.resumed(), Ordering::SeqCst);
    }
}
