//! The pool of worker threads: executes bodies that block a thread.
//!
//! A slot permits its holder to execute a body. It comes with a deque of ready jobs and a group of results, which only
//! the holder uses. A worker takes jobs one at a time, so that all that waits in a deque can be stolen. When a deque
//! has jobs, a slot is free and no worker searches, one more worker is woken. A body that defers releases its slot and
//! parks its thread; another thread executes in its place.

mod admit;
mod hand_off;
mod parker;
mod polls;
mod ranked;
mod rest;
mod waits;
mod worker;

use std::collections::VecDeque;
use std::sync::{Arc, OnceLock, Weak};
use std::time::Duration;

use bide_core::Time;

use crate::pacer::Pacer;
use crate::slots::{SlotNo, Slots};
use crate::spin;
use crate::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering, fence};
use crate::sync::{Condvar, Deque, Injector, Mutex, Steal, Stealer};
use crate::upcalls::Upcalls;

pub use admit::RETRY_THREAD_AFTER;
pub use parker::{Parker, Woken, be_punctual};
pub use polls::PollNo;
use ranked::Ranked;
pub use rest::RestMark;
pub use worker::WorkerThread;

/// Starts a worker thread; false if the host is ending and needs none. Called only on threads of the host that may
/// start threads.
pub type StartWorker<E> = Box<dyn Fn(&Arc<E>) -> Result<bool, String> + Send + Sync>;

/// A start is shown to other processes once the body has executed for this long.
const SHOW_AFTER: Duration = Duration::from_millis(100);

/// The pool of an engine.
pub struct Pool<E: Upcalls> {
    /// What the threads share.
    shared: Arc<Shared<E>>,
    /// Starts a worker thread.
    start_worker: StartWorker<E>,
    /// When the system may be asked for a thread again, in nanoseconds of steady time. 0: it has refused none.
    retry_thread_at: AtomicU64,
}

/// What the pool's threads share.
struct Shared<E: Upcalls> {
    /// What changes under one lock: slots, threads, waiting bodies.
    state: Mutex<State<E>>,
    /// Jobs from outside, for any worker.
    injector: Injector<E::Job>,
    /// Jobs that are not of the usual priority.
    ranked: Ranked<E::Job>,
    /// The other end of each slot's deque.
    stealers: Box<[Stealer<E::Job>]>,
    /// What belongs to each slot.
    sides: Box<[Side<E>]>,
    /// How many slots are free: a copy of the slot machine's number, so that a wake-up does not lock a full pool.
    free: AtomicUsize,
    /// How many resumed bodies wait for a slot: likewise a copy.
    resumed: AtomicUsize,
    /// A worker was woken and has not found a job yet. While this is set no other one is woken.
    searching: AtomicBool,
    /// Callers that have announced jobs and not delivered them yet.
    announced: AtomicUsize,
    /// No body starts or resumes any more.
    closing: AtomicBool,
    /// Bodies with a handle that execute or are parked. Changed with the state locked.
    handles: AtomicUsize,
    /// How many there may be at most.
    most_handles: usize,
    /// How many there may be now: fewer while the system gives no more threads. Changed with the state locked.
    max_parked: AtomicUsize,
    /// Notified when a thread or a body with a handle ends.
    emptied: Condvar,
    /// The engine, for alarms, which come without it. Set when the pool opens.
    engine: OnceLock<Weak<E>>,
}

/// What belongs to one slot.
struct Side<E: Upcalls> {
    /// The deque, while the slot has no holder.
    deque: Mutex<Option<Deque<E::Job>>>,
    /// The results that gather on the slot.
    group: Arc<E::Group>,
    /// The body that executes on the slot, until its start has been shown.
    current: Mutex<Option<Current<E>>>,
}

struct Current<E: Upcalls> {
    /// The body.
    body: E::Body,
    /// When it started, by the wall clock.
    since: Time,
}

struct State<E: Upcalls> {
    /// Decides which thread gets a slot; resumed bodies wait as their parkers.
    slots: Slots<Arc<Parker<E>>>,
    /// Workers that wait for a slot.
    idle: Vec<Arc<Parker<E>>>,
    /// Threads that are not parked in a body, including those that are being started.
    threads: usize,
    /// Threads that are parked in a body.
    parked: usize,
    /// Counts what gives a thread something to do, and its end: slots that move, threads that come and go.
    changes: u64,
    /// The parkers of bodies with a handle, parked or not: the end is signalled to them.
    bodies: Vec<Weak<Parker<E>>>,
    /// Whose poll it is, by parker and ticket.
    pacer: Pacer<(Arc<Parker<E>>, u64)>,
    /// Polls that run.
    polling: Vec<polls::Polling<E>>,
    /// The number of the last poll that started.
    last_poll: PollNo,
    /// An alarm is set that looks whether polls are stuck.
    stuck_alarm: bool,
    /// Jobs with a handle that may not start while too many bodies are parked.
    held_back: VecDeque<E::Job>,
}

/// The permit to execute a body on a slot, with what belongs to the slot. A worker holds it, or a body with a handle.
#[must_use = "a permit that is dropped takes its slot with it"]
pub struct Permit<E: Upcalls> {
    /// The number of the slot.
    slot: SlotNo,
    /// The slot's ready jobs.
    deque: Deque<E::Job>,
    /// The slot's results.
    group: Arc<E::Group>,
}

impl<E: Upcalls> Permit<E> {
    /// Where the results of the slot gather.
    #[must_use]
    pub fn group(&self) -> &Arc<E::Group> {
        &self.group
    }
}

impl<E: Upcalls> Pool<E> {
    /// A pool without threads; `start_worker` starts each one. At most `max_parked` bodies with a handle execute or are
    /// parked at once.
    #[must_use]
    pub fn new(slots: u32, max_parked: usize, start_worker: StartWorker<E>) -> Self {
        let deques: Vec<Deque<E::Job>> = (0..slots).map(|_| Deque::new_fifo()).collect();
        let shared = Shared {
            stealers: deques.iter().map(Deque::stealer).collect(),
            sides: deques
                .into_iter()
                .map(|deque| Side { deque: Mutex::new(Some(deque)), group: Arc::default(), current: Mutex::new(None) })
                .collect(),
            state: Mutex::new(State {
                slots: Slots::new(slots),
                idle: Vec::new(),
                threads: 0,
                parked: 0,
                changes: 0,
                bodies: Vec::new(),
                pacer: Pacer::new(slots as usize),
                polling: Vec::new(),
                last_poll: 0,
                stuck_alarm: false,
                held_back: VecDeque::new(),
            }),
            injector: Injector::new(),
            ranked: Ranked::new(),
            free: AtomicUsize::new(slots as usize),
            resumed: AtomicUsize::new(0),
            searching: AtomicBool::new(false),
            announced: AtomicUsize::new(0),
            closing: AtomicBool::new(false),
            handles: AtomicUsize::new(0),
            most_handles: max_parked,
            max_parked: AtomicUsize::new(max_parked),
            emptied: Condvar::new(),
            engine: OnceLock::new(),
        };
        Self { shared: Arc::new(shared), start_worker, retry_thread_at: AtomicU64::new(0) }
    }

    /// Starts the first worker thread and has the engine look after the groups. Call once, on a thread that may start
    /// threads.
    ///
    /// # Errors
    /// Says why the thread cannot be started.
    pub fn open(&self, engine: &Arc<E>) -> Result<(), String> {
        self.open_by(engine, || (self.start_worker)(engine))
    }

    /// As [`Pool::open`], for a host whose first start fails with more than a text.
    ///
    /// # Errors
    /// The error of `start_first`.
    pub fn open_by<F>(&self, engine: &Arc<E>, start_first: impl FnOnce() -> Result<bool, F>) -> Result<(), F> {
        let _ = self.shared.engine.set(Arc::downgrade(engine));
        for side in &self.shared.sides {
            engine.look_after(&side.group);
        }
        self.start(start_first).map(drop)
    }

    /// Takes jobs that may start.
    pub fn push(&self, jobs: &mut Vec<E::Job>) {
        for job in jobs.drain(..) {
            self.shared.put(job);
        }
        self.shared.wake_one();
    }

    /// Jobs are about to be pushed, until [`Pool::withdraw_announcement`] is called: a worker may be woken meanwhile.
    pub fn announce(&self) {
        self.shared.announced.fetch_add(1, Ordering::SeqCst);
        if spin::pays() {
            self.shared.wake_one();
        }
    }

    /// What was announced has been pushed, or will not be.
    pub fn withdraw_announcement(&self) {
        self.shared.announced.fetch_sub(1, Ordering::SeqCst);
    }

    /// No body starts or resumes from here on; parked ones are woken to unwind.
    pub fn close(&self) {
        self.shared.closing.store(true, Ordering::SeqCst);
        let (idle, bodies) = {
            let mut state = self.shared.state.lock();
            (std::mem::take(&mut state.idle), state.bodies.clone())
        };
        for parker in idle.into_iter().chain(bodies.iter().filter_map(Weak::upgrade)) {
            parker.close();
        }
    }

    /// Every run in memory belongs to another runner now: the bodies that execute or are parked are to unwind, others
    /// may start.
    pub fn suspend_bodies(&self) {
        let bodies = self.shared.state.lock().bodies.clone();
        for parker in bodies.iter().filter_map(Weak::upgrade) {
            parker.suspend();
        }
    }

    /// To be called every 50 ms or so: names polls that do not return, shows the start of bodies that run on, and ends
    /// threads that are not needed.
    pub fn sweep(&self, engine: &Arc<E>) {
        self.shared.end_surplus();
        self.shared.name_slow_polls(engine);
        let now = engine.now();
        for side in &self.shared.sides {
            let mut current = side.current.lock();
            // Removed, so that each start is shown once.
            if current.as_ref().is_some_and(|current| now.since(current.since) >= SHOW_AFTER)
                && let Some(Current { body, .. }) = current.take()
            {
                engine.show_start(body);
            }
        }
    }

    /// How many slots are in use, and how many there are.
    #[must_use]
    pub fn slots_in_use(&self) -> (usize, usize) {
        let state = self.shared.state.lock();
        let total = state.slots.total() as usize;
        (total - state.slots.free(), total)
    }

    /// How many slots there are, and how many jobs execute, resume, or are queued.
    #[must_use]
    pub fn load(&self) -> (usize, usize) {
        let shared = &*self.shared;
        let stolen: usize = shared.stealers.iter().map(Stealer::len).sum();
        let queued = shared.injector.len() + shared.ranked.len() + stolen;
        let state = shared.state.lock();
        let total = state.slots.total() as usize;
        let others = state.slots.resumed() + state.held_back.len();
        (total, total - state.slots.free() + others + queued)
    }

    /// How many bodies with a handle execute or are parked, and how many may.
    #[must_use]
    pub fn handles(&self) -> (usize, usize) {
        (self.shared.handles.load(Ordering::Relaxed), self.shared.max_parked.load(Ordering::Relaxed))
    }

    /// Waits until no body executes or is parked, at most for `span`. True if none does. Blocks.
    #[must_use]
    pub fn wait_idle(&self, span: Duration) -> bool {
        let mut state = self.shared.state.lock();
        let idle = |state: &State<E>| state.threads == 0 && self.shared.handles.load(Ordering::Relaxed) == 0;
        if !idle(&state) {
            self.shared.emptied.wait_while_for(&mut state, |state| !idle(state), span);
        }
        idle(&state)
    }

    /// A body starts to execute on a slot.
    pub fn body_starts(&self, permit: &Permit<E>, body: E::Body, since: Time) {
        *self.shared.sides[permit.slot as usize].current.lock() = Some(Current { body, since });
    }

    /// The body on a slot has ended, or defers. False if its start was shown.
    pub fn body_stops(&self, permit: &Permit<E>) -> bool {
        self.shared.sides[permit.slot as usize].current.lock().take().is_some()
    }
}

impl<E: Upcalls> Shared<E> {
    fn is_closing(&self) -> bool {
        self.closing.load(Ordering::Relaxed)
    }

    fn has_jobs(&self) -> bool {
        !self.injector.is_empty() || !self.ranked.is_empty() || self.stealers.iter().any(|stealer| !stealer.is_empty())
    }

    /// Takes a job from outside.
    fn put(&self, job: E::Job) {
        match E::priority(&job) {
            0 => self.injector.push(job),
            priority => self.ranked.push(priority, job),
        }
    }

    /// Takes the next job: one of higher priority, from the slot's own deque, from outside, from another slot, one of
    /// lower priority.
    fn find(&self, deque: &Deque<E::Job>) -> Option<E::Job> {
        if self.is_closing() {
            return None;
        }
        if let Some(job) = self.ranked.pop_urgent().or_else(|| deque.pop()) {
            return Some(job);
        }
        loop {
            match self.injector.steal_batch_with_limit_and_pop(deque, 16) {
                Steal::Success(job) => return Some(job),
                Steal::Retry => {}
                Steal::Empty => break,
            }
        }
        for stealer in &self.stealers {
            loop {
                match stealer.steal() {
                    Steal::Success(job) => return Some(job),
                    Steal::Retry => {}
                    Steal::Empty => break,
                }
            }
        }
        self.ranked.pop_any()
    }

    /// A worker has found a job: if there are more and a slot is free, one more worker is woken.
    fn found(&self) {
        if self.searching.load(Ordering::Relaxed) {
            self.searching.store(false, Ordering::SeqCst);
        }
        if self.free.load(Ordering::Relaxed) > 0 && self.has_jobs() {
            self.wake_one();
        }
    }

    /// Wakes a worker for a job that has just become visible, unless one is searching already.
    fn wake_one(&self) {
        fence(Ordering::SeqCst);
        if self.free.load(Ordering::SeqCst) == 0 || self.searching.load(Ordering::SeqCst) {
            return;
        }
        let mut state = self.state.lock();
        if state.idle.is_empty() {
            // A thread on its way to be idle looks for jobs once more before it sleeps.
            return;
        }
        if let Some(slot) = state.slots.acquire()
            && let Some(parker) = state.idle.pop()
        {
            self.searching.store(true, Ordering::SeqCst);
            self.copy_counts(&mut state);
            drop(state);
            parker.assign(slot);
        }
    }

    /// Updates the copies of the slot machine's numbers. Call after each change of it, with the state locked.
    fn copy_counts(&self, state: &mut State<E>) {
        self.free.store(state.slots.free(), Ordering::SeqCst);
        self.resumed.store(state.slots.resumed(), Ordering::SeqCst);
        state.changes += 1;
    }
}
