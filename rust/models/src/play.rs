//! A pool with its workers, told as far as a model needs it, and what a model waits for.

use std::sync::{Arc, Weak};
use std::time::Duration;

use bide_core::TaskRef;
use loom::thread::{self, JoinHandle};

use crate::atomic::{AtomicUsize, Ordering};
use crate::engine::Engine;
use crate::flow::Run;
use crate::host::{Dispatch, Host, Ready};
use crate::pool::{Cell, Held, Pool, Shared};
use crate::sync::{Condvar, Mutex};
use crate::timers::Timers;

pub(crate) struct Model;

impl Host for Model {}

/// Goes through all interleavings with at most two preemptions, or as many as `LOOM_MAX_PREEMPTIONS` says. A model in
/// which nobody can move any more is reported as a deadlock: so a lost wake is.
pub(crate) fn explore(model: impl Fn() + Sync + Send + 'static) {
    let mut builder = loom::model::Builder::new();
    builder.preemption_bound = builder.preemption_bound.or(Some(2));
    builder.check(model);
}

/// What a body does with its slot. `None`: it was suspended and has none.
pub(crate) type Body = fn(&World, u32, Held<Model>, &Arc<Cell<Model>>) -> Option<Held<Model>>;

/// What the threads of a model share.
pub(crate) struct World {
    pub(crate) pool: Pool<Model>,
    engine: Arc<Engine<Model>>,
    slots: usize,
    /// Bodies that have a slot.
    active: AtomicUsize,
    told: Mutex<Vec<u32>>,
    changed: Condvar,
    threads: Mutex<Vec<JoinHandle<()>>>,
}

impl World {
    /// A pool with its first worker. All bodies take a handle.
    pub(crate) fn open(slots: u32, body: Body) -> Arc<Self> {
        Self::new(slots, Some(body))
    }

    /// A pool without workers, for models that bring the threads of their bodies themselves.
    pub(crate) fn idle(slots: u32) -> Arc<Self> {
        Self::new(slots, None)
    }

    fn new(slots: u32, body: Option<Body>) -> Arc<Self> {
        let world = Arc::new_cyclic(|world: &Weak<Self>| {
            let world = Weak::clone(world);
            let start = move |_: &Arc<Engine<Model>>| {
                let (Some(world), Some(body)) = (world.upgrade(), body) else { return Ok(false) };
                let theirs = Arc::clone(&world);
                world.threads.lock().push(thread::spawn(move || theirs.work(body)));
                Ok(true)
            };
            Self {
                pool: Pool::new(slots, 10, Box::new(start)),
                engine: Engine::new(),
                slots: slots as usize,
                active: AtomicUsize::new(0),
                told: Mutex::new(Vec::new()),
                changed: Condvar::new(),
                threads: Mutex::new(Vec::new()),
            }
        });
        world.pool.open(&world.engine).expect("the first worker");
        world
    }

    pub(crate) fn timers(&self) -> Arc<Timers> {
        Arc::clone(&self.engine.timers)
    }

    pub(crate) fn engine(&self) -> &Engine<Model> {
        &self.engine
    }

    pub(crate) fn shared(&self) -> &Shared<Model> {
        &self.pool.shared
    }

    /// Bodies become ready, as a commit makes them.
    pub(crate) fn ready(&self, bodies: &[u32]) {
        let one = |ix: &u32| Ready { run: Arc::new(Run::default()), task: TaskRef { ix: *ix, map: -1 } };
        self.pool.ready(&self.engine, &mut bodies.iter().map(one).collect());
    }

    /// Says that something has happened.
    pub(crate) fn tell(&self, what: u32) {
        self.told.lock().push(what);
        self.changed.notify_all();
    }

    /// Waits until something has happened.
    pub(crate) fn hear(&self, what: u32) {
        let mut told = self.told.lock();
        while !told.contains(&what) {
            self.changed.wait(&mut told);
        }
    }

    /// A body has a slot from here on.
    fn is_active(&self) {
        let active = self.active.fetch_add(1, Ordering::Relaxed) + 1;
        assert!(active <= self.slots, "{active} bodies are active on {} slots", self.slots);
    }

    /// A body has none any more.
    fn is_not_active(&self) {
        self.active.fetch_sub(1, Ordering::Relaxed);
    }

    /// `Engine::work` and `Thread::with_slot`, less commits.
    fn work(&self, body: Body) {
        let shared = self.shared();
        let cell = Cell::new(&self.pool.shared);
        while let Some(mut held) = shared.idle(&cell) {
            self.pool.keep_spare(&self.engine);
            loop {
                if shared.someone_resumes() {
                    match shared.between(held) {
                        Some(still) => held = still,
                        None => break,
                    }
                }
                let next = match shared.find(&held.deque) {
                    Some(ready) => {
                        shared.found();
                        self.execute(body, ready, held, &cell)
                    }
                    None => shared.nothing_found(held),
                };
                match next {
                    Some(still) => held = still,
                    None => break,
                }
            }
        }
    }

    /// `Thread::execute`.
    fn execute(
        &self,
        body: Body,
        ready: Ready<Model>,
        held: Held<Model>,
        cell: &Arc<Cell<Model>>,
    ) -> Option<Held<Model>> {
        self.shared().begin_at_once(cell);
        self.is_active();
        let kept = body(self, ready.task.ix, held, cell);
        if kept.is_some() {
            self.is_not_active();
        }
        self.shared().dismiss(cell);
        self.tell(ready.task.ix);
        kept
    }

    /// `BodyCx::defer`, what is waited for (false: the runner closes), and `BodyCx::go_on`.
    pub(crate) fn defer(
        &self,
        held: Held<Model>,
        cell: &Arc<Cell<Model>>,
        wait: impl FnOnce() -> bool,
    ) -> Option<Held<Model>> {
        self.is_not_active();
        self.shared().give_back(held);
        self.pool.keep_spare(&self.engine);
        if !wait() {
            self.shared().unpark_without_slot();
            return None;
        }
        let held = self.shared().resume(cell)?;
        self.is_active();
        Some(held)
    }

    /// Closes the pool and waits until all of its threads have left it.
    pub(crate) fn close(&self) {
        self.pool.close(&self.engine);
        assert!(self.pool.wait_idle(Duration::MAX));
        let threads = std::mem::take(&mut *self.threads.lock());
        for thread in threads {
            thread.join().expect("a thread of the pool");
        }
    }

    /// Closes a pool in which no body was suspended: each slot is back.
    pub(crate) fn close_with_all_slots(&self) {
        self.close();
        assert_eq!(self.pool.slots_in_use(), (0, self.slots));
    }
}
