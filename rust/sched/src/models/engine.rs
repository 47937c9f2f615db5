//! The engine of a model: jobs are numbers, bodies are functions, an alarm is due as soon as it is set.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use bide_core::Time;
use loom::thread::{self, JoinHandle};

use crate::sync::atomic::{AtomicUsize, Ordering};
use crate::sync::{Condvar, Mutex};
use crate::{Alarm, Parker, Permit, Pool, Upcalls, WorkerThread};

/// Explores all interleavings with at most two preemptions, or as many as `LOOM_MAX_PREEMPTIONS` says. An interleaving
/// in which no thread can move any more is reported as a deadlock; so a lost wake is.
pub(super) fn explore(model: impl Fn() + Sync + Send + 'static) {
    let mut builder = loom::model::Builder::new();
    builder.preemption_bound = builder.preemption_bound.or(Some(2));
    builder.check(model);
}

/// What a body does with its slot. `None`: it was suspended and has none.
pub(super) type Body = fn(&Arc<Engine>, u32, Permit<Engine>, &Arc<Parker<Engine>>) -> Option<Permit<Engine>>;

/// A pool, and what the threads of a model share.
pub(super) struct Engine {
    pub(super) pool: Pool<Self>,
    slots: usize,
    /// The pool decides whether a body may start. Else each may, because most models can afford no thread in reserve.
    admission: bool,
    /// Bodies that have a slot.
    active: AtomicUsize,
    events: Events,
    alarms: Alarms,
    /// The threads of the pool.
    threads: Mutex<Vec<JoinHandle<()>>>,
}

/// What has happened, for threads that wait for it.
#[derive(Default)]
struct Events {
    happened: Mutex<Vec<u32>>,
    changed: Condvar,
}

/// The timers.
#[derive(Default)]
struct Alarms {
    state: Mutex<AlarmState>,
    changed: Condvar,
}

#[derive(Default)]
struct AlarmState {
    due: VecDeque<(Arc<dyn Alarm>, u64)>,
    stop: bool,
}

impl Upcalls for Engine {
    type Job = u32;
    type Body = u32;
    /// The jobs that the results make ready. The lock is not loom's, because only the holder of the slot touches it.
    type Group = std::sync::Mutex<Vec<u32>>;

    fn now(&self) -> Time {
        Time(0)
    }

    /// Stands still: nothing is slow here.
    fn steady(&self) -> Duration {
        Duration::ZERO
    }

    fn ring_poll(&self, _span: Duration, _endless: bool, alarm: Arc<dyn Alarm>, ticket: u64) {
        self.ring_soon(Duration::ZERO, alarm, ticket);
    }

    fn ring_soon(&self, _span: Duration, alarm: Arc<dyn Alarm>, ticket: u64) {
        self.alarms.state.lock().due.push_back((alarm, ticket));
        self.alarms.changed.notify_one();
    }

    fn warn(&self, line: &str) {
        unreachable!("the pool warns of nothing here: {line}")
    }

    fn look_after(&self, _group: &Arc<Self::Group>) {}

    fn leave(&self, _group: &Self::Group) {}

    fn is_empty(group: &Self::Group) -> bool {
        group.lock().expect("no panic").is_empty()
    }

    fn commit(self: &Arc<Self>, group: &Self::Group, ready: &mut Vec<u32>) {
        ready.append(&mut group.lock().expect("no panic"));
    }

    fn show_start(&self, _body: u32) {}

    fn set_blocked(_job: &u32, _by: Option<String>) {}
}

impl Engine {
    /// A pool with its first worker. All bodies take a handle.
    pub(super) fn open(slots: u32, body: Body) -> Arc<Self> {
        Self::start(Self::new(slots, 10, Some(body)))
    }

    /// As [`Engine::open`], with at most `max_parked` bodies at once.
    pub(super) fn open_limited(slots: u32, max_parked: usize, body: Body) -> Arc<Self> {
        Self::start(Self { admission: true, ..Self::new(slots, max_parked, Some(body)) })
    }

    fn start(engine: Self) -> Arc<Self> {
        let engine = Arc::new(engine);
        engine.pool.open(&engine).expect("no thread is refused");
        engine
    }

    /// A pool without workers, for models that bring the threads of their bodies themselves.
    pub(super) fn without_workers(slots: u32) -> Arc<Self> {
        Self::start(Self::new(slots, 10, None))
    }

    fn new(slots: u32, max_parked: usize, body: Option<Body>) -> Self {
        let start_worker = move |engine: &Arc<Self>| {
            let Some(body) = body else { return Ok(false) };
            let theirs = Arc::clone(engine);
            engine.threads.lock().push(thread::spawn(move || theirs.work(body)));
            Ok(true)
        };
        Self {
            pool: Pool::new(slots, max_parked, Box::new(start_worker)),
            slots: slots as usize,
            admission: false,
            active: AtomicUsize::new(0),
            events: Events::default(),
            alarms: Alarms::default(),
            threads: Mutex::new(Vec::new()),
        }
    }

    fn work(self: &Arc<Self>, body: Body) {
        let parker = self.pool.new_parker();
        self.pool.work(self, &parker, &mut Worker { engine: self, parker: &parker, body });
    }

    /// Jobs become ready, as by a commit.
    pub(super) fn push(&self, jobs: &[u32]) {
        self.pool.push(&mut jobs.to_vec());
    }

    /// The result of a body gathers on its slot. Once it is committed it makes these jobs ready.
    pub(super) fn gather(permit: &Permit<Self>, jobs: &[u32]) {
        permit.group().lock().expect("no panic").extend(jobs);
    }

    /// Says that something has happened.
    pub(super) fn signal(&self, event: u32) {
        self.events.happened.lock().push(event);
        self.events.changed.notify_all();
    }

    /// Waits until something has happened.
    pub(super) fn await_event(&self, event: u32) {
        let mut happened = self.events.happened.lock();
        while !happened.contains(&event) {
            self.events.changed.wait(&mut happened);
        }
    }

    /// A body has a slot from here on.
    fn activate(&self) {
        let active = self.active.fetch_add(1, Ordering::Relaxed) + 1;
        assert!(active <= self.slots, "{active} bodies are active on {} slots", self.slots);
    }

    /// A body has no slot any more.
    fn deactivate(&self) {
        self.active.fetch_sub(1, Ordering::Relaxed);
    }

    /// A body waits: `wait` says whether what it waits for came (false: the runner closes).
    pub(super) fn defer(
        self: &Arc<Self>,
        permit: Permit<Self>,
        parker: &Arc<Parker<Self>>,
        wait: impl FnOnce() -> bool,
    ) -> Option<Permit<Self>> {
        self.deactivate();
        if self.pool.release(permit) {
            self.pool.keep_spare(self);
        }
        if !wait() {
            self.pool.unpark_without_slot();
            return None;
        }
        let permit = self.pool.resume(parker, 0, || ())?;
        self.activate();
        Some(permit)
    }

    /// The timer thread's loop.
    pub(super) fn run_timers(&self) {
        let mut state = self.alarms.state.lock();
        while !state.stop {
            if let Some((alarm, ticket)) = state.due.pop_front() {
                drop(state);
                alarm.ring(ticket);
                // An alarm that is set again and again must not keep other threads from moving.
                thread::yield_now();
                state = self.alarms.state.lock();
            } else {
                self.alarms.changed.wait(&mut state);
            }
        }
    }

    /// Ends [`Engine::run_timers`].
    pub(super) fn stop_timers(&self) {
        self.alarms.state.lock().stop = true;
        self.alarms.changed.notify_one();
    }

    /// Closes the pool and waits until all of its threads have left it.
    pub(super) fn close(&self) {
        self.pool.close();
        assert!(self.pool.wait_idle(Duration::MAX));
        let threads = std::mem::take(&mut *self.threads.lock());
        for thread in threads {
            thread.join().expect("a thread of the pool");
        }
    }

    /// Closes a pool in which no body was suspended: each slot is back.
    pub(super) fn close_with_all_slots(&self) {
        self.close();
        assert_eq!(self.pool.slots_in_use(), (0, self.slots));
    }
}

/// A thread of the pool.
struct Worker<'a> {
    engine: &'a Arc<Engine>,
    parker: &'a Arc<Parker<Engine>>,
    body: Body,
}

impl WorkerThread<Engine> for Worker<'_> {
    fn wait<R>(&mut self, f: impl FnOnce() -> R) -> R {
        f()
    }

    fn execute(&mut self, job: u32, permit: Permit<Engine>) -> Option<Permit<Engine>> {
        let engine = self.engine;
        let job = if engine.admission {
            let Some(job) = engine.pool.admit(engine, job, self.parker) else { return Some(permit) };
            job
        } else {
            engine.pool.admit_at_once(self.parker);
            job
        };
        engine.activate();
        let kept = (self.body)(engine, job, permit, self.parker);
        if kept.is_some() {
            engine.deactivate();
        }
        engine.pool.dismiss(self.parker);
        engine.signal(job);
        kept
    }
}
