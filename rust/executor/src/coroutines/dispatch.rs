//! The dispatcher of coroutines: which of them execute. Slots are counted apart from those of worker threads.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, OnceLock, Weak};
use std::time::Duration;

use bide_core::record::RunRowId;
use bide_core::{Event, TaskRef};
use bide_sched::{HandOff, SlotNo, Slots};
use bide_sync::{Condvar, Mutex, MutexGuard};
use tokio::sync::oneshot;

use super::alarm::SleepingGates;
use super::body::{CoroutineBody, OpenCall};
use super::rest::RestBook;
use super::resting::Resting;
use crate::clock::LastSeen;
use crate::engine::Engine;
use crate::host::{Dispatch, Gate, Host, Load, Ready};
use crate::ledger::{Group, QueuedEvent};
use crate::runs::run::Run;

/// The queue keeps the memory of this many bodies when it is empty.
const KEPT: usize = 1024;

/// The dispatcher of coroutines.
pub struct Coroutines<H: Host> {
    /// The slots, and what waits for the loop.
    pub(super) state: Mutex<State<H>>,
    /// The engine that it was opened for.
    engine: OnceLock<Weak<Engine<H>>>,
    /// The loop, to be woken when there is something to take, or the runner closes.
    event_loop: Arc<dyn EventLoop>,
    /// Waits whose conditions the loop asks itself.
    pub(super) resting: Arc<Resting<BodysCall<H>>>,
    /// Where results gather until the loop's next turn.
    pub(super) group: Arc<Group<H>>,
    /// Notified when the last body has ended.
    emptied: Condvar,
    /// With a clock that is moved by hand: which bodies and gates have something to do.
    pub(super) book: OnceLock<Arc<RestBook>>,
    /// Every run in memory was lost to another runner, and the loop was not told yet.
    lost: AtomicBool,
    /// The wall clock, as it was read last for a body.
    pub(super) seen: Mutex<LastSeen>,
    /// When a body ended last, in nanoseconds of the machine's time.
    pub(super) ended: AtomicU64,
    /// Bodies that may have to be interrupted, until the loop is told.
    interrupted: Mutex<Vec<(RunRowId, TaskRef)>>,
    /// Gates between two polls.
    pub(super) sleeping_gates: SleepingGates,
}

/// A call of a body.
type BodysCall<H> = (Arc<CoroutineBody<H>>, Arc<OpenCall>);

pub(super) struct State<H: Host> {
    /// Decides which bodies execute; resumed ones wait on a channel.
    slots: Slots<oneshot::Sender<Slot<H>>>,
    /// Bodies that may start and have no slot yet.
    ready: VecDeque<Ready<H>>,
    /// Bodies that have a slot, for the loop to start.
    startable: VecDeque<(SlotNo, Ready<H>)>,
    /// Open gates, for the loop to poll.
    gates: Vec<Gate<H>>,
    /// The body that was begun last, and since when it is known to execute: `None` until it was looked at.
    pub(super) latest: (Weak<CoroutineBody<H>>, Option<Duration>),
    /// Bodies that have suspended, the oldest first, until they were looked at for having executed for long.
    pub(super) recent: VecDeque<(Duration, Weak<CoroutineBody<H>>)>,
    /// Bodies that were taken and have not ended.
    bodies: usize,
    /// No body starts or resumes any more.
    closing: bool,
}

/// The permit to execute a coroutine. Dropping it releases the slot to the next one.
pub(super) struct Slot<H: Host> {
    no: SlotNo,
    /// Where it is released when dropped.
    coroutines: Option<Arc<Coroutines<H>>>,
}

impl<H: Host> Slot<H> {
    fn forget(mut self) {
        self.coroutines = None;
    }
}

impl<H: Host> Drop for Slot<H> {
    fn drop(&mut self) {
        if let Some(coroutines) = self.coroutines.take() {
            coroutines.release(self.no);
        }
    }
}

/// The loop of a host, as the dispatcher sees it. Called on any thread; neither may block.
pub trait EventLoop: Send + Sync {
    /// Wakes it: it is to take what is there.
    fn wake(&self);

    /// A body is ready or a gate is open: there is to be a loop, if there is none yet.
    fn want(&self);

    /// Called every 50 ms or so, with the machine's time: it may find out whether the loop is blocked. `executing`: bodies
    /// execute.
    fn look(&self, now: Duration, executing: bool);

    /// `None`: it is to take something, or what was left to the host's other threads is not done. Else a number that
    /// changes whenever either happens.
    fn rest(&self) -> Option<u64>;

    /// Asks it, if it is there, to go through what is ready on it now. Returns the number of the question.
    fn ask(&self) -> Option<u64>;

    /// The number of the last question that it has answered.
    fn answered(&self) -> u64;
}

/// A body that has a slot, for the loop to begin.
pub struct Start<H: Host> {
    /// What starts.
    pub(super) ready: Ready<H>,
    /// Its slot.
    pub(super) slot: Slot<H>,
    /// Counts it as one that executes.
    pub(super) counted: Counted<H>,
    pub(super) engine: Arc<Engine<H>>,
}

impl<H: Host> Start<H> {
    /// The run and the task.
    #[must_use]
    pub fn ready(&self) -> &Ready<H> {
        &self.ready
    }
}

/// A body that was taken and has not ended.
pub(super) struct Counted<H: Host> {
    /// Where it is counted.
    pub(super) coroutines: Arc<Coroutines<H>>,
}

impl<H: Host> Drop for Counted<H> {
    fn drop(&mut self) {
        self.coroutines.ends();
    }
}

impl<H: Host> Coroutines<H> {
    /// A dispatcher with this many slots.
    pub fn new(slots: u32, event_loop: impl EventLoop + 'static) -> Self {
        let state = State {
            slots: Slots::new(slots),
            ready: VecDeque::new(),
            startable: VecDeque::new(),
            gates: Vec::new(),
            latest: (Weak::new(), None),
            recent: VecDeque::new(),
            bodies: 0,
            closing: false,
        };
        let event_loop: Arc<dyn EventLoop> = Arc::new(event_loop);
        let woken = Arc::clone(&event_loop);
        Self {
            state: Mutex::new(state),
            engine: OnceLock::new(),
            resting: Resting::new(move || woken.wake()),
            event_loop,
            group: Group::new(),
            emptied: Condvar::new(),
            book: OnceLock::new(),
            lost: AtomicBool::new(false),
            seen: Mutex::default(),
            ended: AtomicU64::new(0),
            interrupted: Mutex::default(),
            sleeping_gates: SleepingGates::default(),
        }
    }

    /// Gets its engine, once.
    pub(crate) fn open(&self, engine: &Arc<Engine<H>>) {
        let _ = self.engine.set(Arc::downgrade(engine));
        if engine.clock().is_manual() {
            let _ = self.book.set(Arc::default());
        }
        engine.path().ledger.look_after(Arc::clone(&self.group));
    }

    fn engine(&self) -> Option<Arc<Engine<H>>> {
        self.engine.get()?.upgrade()
    }

    pub(super) fn wake(&self) {
        self.event_loop.wake();
    }

    /// Takes the coroutines out of what is ready, and dispatches them.
    pub(crate) fn divert(&self, ready: &mut Vec<Ready<H>>) {
        let is_coroutine = |ready: &Ready<H>| {
            let Ready { run, task } = ready;
            H::is_coroutine(&run.workflow.bodies[task.ix as usize]) && !run.workflow.graph.is_expansion(*task)
        };
        if !ready.iter().any(is_coroutine) {
            return;
        }
        let mut diverted = Vec::new();
        for one in std::mem::take(ready) {
            if is_coroutine(&one) { diverted.push(one) } else { ready.push(one) }
        }
        self.ready(&mut diverted);
    }

    /// Takes bodies that have a slot, at most this many. Fewer: there are no more for now.
    pub fn take(self: &Arc<Self>, most: usize) -> Vec<Start<H>> {
        let Some(engine) = self.engine() else { return Vec::new() };
        let taken: Vec<_> = {
            let mut state = self.state.lock();
            let taken: Vec<_> = (0..most).map_while(|_| state.next()).collect();
            state.bodies += taken.len();
            taken
        };
        let start = |(no, ready)| Start {
            ready,
            slot: self.slot(no),
            counted: Counted { coroutines: Arc::clone(self) },
            engine: Arc::clone(&engine),
        };
        taken.into_iter().map(start).collect()
    }

    /// Whether there are bodies to take.
    #[must_use]
    pub fn has_ready(&self) -> bool {
        let state = self.state.lock();
        !state.closing && (!state.startable.is_empty() || (!state.ready.is_empty() && state.slots.free() > 0))
    }

    /// Takes the gates that have opened.
    pub fn take_gates(&self) -> Vec<Gate<H>> {
        std::mem::take(&mut self.state.lock().gates)
    }

    /// Whether there are results to be committed.
    #[must_use]
    pub fn has_gathered(&self) -> bool {
        !self.group.is_empty()
    }

    /// Has the results that have gathered committed: by the committer, or here if the store does not block.
    pub fn commit_gathered(&self) {
        if self.group.is_empty() {
            return;
        }
        let Some(engine) = self.engine() else { return };
        if engine.store().blocks() {
            engine.path().ledger.enqueue_group(&self.group);
        } else {
            let mut ready = Vec::new();
            engine.commit_group(&self.group, &mut ready);
            engine.dispatch_ready(&mut ready);
        }
    }

    /// Whether runs were lost to another runner since this was last asked: their bodies are to be suspended.
    pub fn take_lost(&self) -> bool {
        self.lost.load(Ordering::Relaxed) && self.lost.swap(false, Ordering::Acquire)
    }

    /// Takes the bodies that may have to be interrupted.
    pub fn take_interrupted(&self) -> Vec<(RunRowId, TaskRef)> {
        std::mem::take(&mut *self.interrupted.lock())
    }

    /// Queues an event that nobody waits for. It is committed with others, at the latest in the loop's next turn, or by
    /// the committer if the loop is blocked. `now` is the machine's time.
    pub(super) fn queue(&self, engine: &Engine<H>, event: QueuedEvent<H>, now: Duration) {
        if self.group.push(event, now) {
            self.commit_gathered();
            return;
        }
        if engine.path().ledger.blocks() {
            engine.path().ledger.arm();
        }
        self.wake();
    }

    /// `None`: a body executes or is about to, or a call has something to do. Else numbers that change if one has.
    pub(crate) fn rest(&self) -> Option<(u64, u64)> {
        let state = self.state.lock();
        let waits = !state.ready.is_empty()
            || !state.startable.is_empty()
            || !state.gates.is_empty()
            || state.slots.resumed() > 0
            || !self.group.is_empty();
        let changes = self.book.get().map_or(Some(0), |book| book.rest(state.bodies))?;
        drop(state);
        if waits {
            return None;
        }
        self.event_loop.rest().map(|turns| (changes, turns))
    }

    /// The loop, for who asks it whether it is idle.
    pub(crate) fn event_loop(&self) -> &dyn EventLoop {
        &*self.event_loop
    }

    /// Whether no body starts or resumes any more.
    #[must_use]
    pub fn is_closing(&self) -> bool {
        self.state.lock().closing
    }

    /// How many slots there are, and how many bodies execute or are ready to.
    pub(crate) fn load(&self) -> Load {
        let state = self.state.lock();
        let slots = state.slots.total() as usize;
        let others = state.ready.len() + state.startable.len() + state.slots.resumed();
        Load { slots, bodies: slots - state.slots.free() + others }
    }

    /// How many slots are in use, and how many there are.
    #[must_use]
    pub fn slots_in_use(&self) -> (usize, usize) {
        let state = self.state.lock();
        let total = state.slots.total() as usize;
        (total - state.slots.free(), total)
    }

    /// How many bodies have begun and not ended.
    #[must_use]
    pub fn bodies(&self) -> usize {
        self.state.lock().bodies
    }

    /// Waits until no body executes or is deferred, at most for a span. True if none does. Blocks.
    #[must_use]
    pub fn wait_idle(&self, span: Duration) -> bool {
        let mut state = self.state.lock();
        if state.bodies > 0 {
            self.emptied.wait_while_for(&mut state, |state| state.bodies > 0, span);
        }
        state.bodies == 0
    }

    /// A slot for a deferred body, now or on the channel. The channel closes if the runner does.
    pub(super) fn resume(self: &Arc<Self>, priority: i32) -> Result<Slot<H>, oneshot::Receiver<Slot<H>>> {
        let (sender, receiver) = oneshot::channel();
        let mut state = self.state.lock();
        if state.closing {
            return Err(receiver);
        }
        match state.slots.resume_ranked(sender, priority) {
            Some((no, _)) => Ok(self.slot(no)),
            None => Err(receiver),
        }
    }

    fn slot(self: &Arc<Self>, no: SlotNo) -> Slot<H> {
        Slot { no, coroutines: Some(Arc::clone(self)) }
    }

    fn release(self: &Arc<Self>, no: SlotNo) {
        let mut state = self.state.lock();
        let started = loop {
            let new_waits = !state.ready.is_empty();
            match state.slots.release(no, new_waits) {
                HandOff::New => {
                    let next = state.ready.pop_front().map(|ready| (no, ready));
                    let first = state.startable.is_empty();
                    state.startable.extend(next);
                    break first;
                }
                HandOff::Free => break false,
                HandOff::Resumed(resumed) => {
                    // Not with the lock: it wakes the loop.
                    let slot = self.slot(no);
                    match MutexGuard::unlocked(&mut state, || resumed.send(slot)) {
                        Ok(()) => break false,
                        // Its wait was left meanwhile.
                        Err(slot) => slot.forget(),
                    }
                }
            }
        };
        drop(state);
        if started {
            self.wake();
        }
    }

    /// A body has ended: it is not counted any more.
    fn ends(&self) {
        let mut state = self.state.lock();
        state.bodies -= 1;
        if state.bodies == 0 {
            self.emptied.notify_all();
            if state.closing {
                MutexGuard::unlocked(&mut state, || self.wake());
            }
        }
    }
}

impl<H: Host> State<H> {
    fn next(&mut self) -> Option<(SlotNo, Ready<H>)> {
        if self.closing {
            return None;
        }
        if let Some(next) = self.startable.pop_front() {
            return Some(next);
        }
        if self.ready.is_empty() {
            return None;
        }
        let no = self.slots.acquire()?;
        let ready = self.ready.pop_front()?;
        if self.ready.capacity() > KEPT && self.ready.len() < self.ready.capacity() / 2 {
            self.ready.shrink_to(self.ready.len() * 5 / 4);
        }
        Some((no, ready))
    }
}

impl<H: Host> Dispatch<H> for Coroutines<H> {
    fn ready(&self, ready: &mut Vec<Ready<H>>) {
        let wakes = {
            let mut state = self.state.lock();
            if state.closing {
                false
            } else {
                Ready::queue(&mut state.ready, ready);
                state.slots.free() > 0
            }
        };
        ready.clear();
        if wakes {
            self.event_loop.want();
            self.wake();
        }
    }

    fn gate(&self, gate: Gate<H>) {
        self.state.lock().gates.push(gate);
        self.event_loop.want();
        self.wake();
    }

    fn poll_now(&self, run: &Arc<Run<H>>, task: TaskRef) {
        self.sleeping_gates.ring(run.id.row(), task);
    }

    fn close(&self) {
        let remaining = {
            let mut state = self.state.lock();
            state.closing = true;
            // Bodies that wait for a slot learn of the end by this.
            let _ = state.slots.withdraw(|_| true);
            (std::mem::take(&mut state.ready), std::mem::take(&mut state.startable))
        };
        drop(remaining);
        self.forget_resting();
        self.wake();
    }

    fn interrupt(&self, run: &Run<H>, task: TaskRef) {
        self.interrupted.lock().push((run.id.row(), task));
        self.wake();
    }

    fn lost(&self) {
        self.lost.store(true, Ordering::Release);
        self.wake();
    }

    fn load(&self, _coroutines: bool) -> Load {
        self.load()
    }

    fn look(&self) {
        let Some(engine) = self.engine() else { return };
        let now = engine.clock().machine();
        let (used, _) = self.slots_in_use();
        self.event_loop.look(now, used > 0);
        loop {
            let Some(body) = self.next_to_show(now) else { return };
            // One that is deferred has a row already.
            if let Some(body) = body.upgrade()
                && body.is_slot_held()
                && body.attempt.lock().show()
            {
                let event = Event::Started { task: body.task(), attempt: body.attempt() };
                engine.enqueue(Arc::clone(body.run()), event);
            }
        }
    }
}
