//! The dispatcher of closures: slots, and lanes on the caller's tokio.
//!
//! A lane is a tokio task that holds a slot and executes bodies one after the other (see `lane.rs`). A slot is an
//! RAII value: when it is dropped, the slot machine decides which body gets it next.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, OnceLock, Weak};

use bide_core::TaskRef;
use bide_sched::{HandOff, SlotNo, Slots};
use bide_sync::Mutex;
use tokio::runtime::{Handle, RuntimeFlavor};
use tokio::sync::{Notify, oneshot, watch};

use super::closures::Closures;
use crate::engine::Engine;
use crate::host::{Dispatch, Gate, Ready};
use crate::ledger::Group;
use crate::runs::run::Run;

/// Starts a lane with a slot and its first body.
type StartLane = fn(&Arc<Engine<Closures>>, Slot, Ready<Closures>);

/// Starts to poll a gate that is open.
type StartWatch = fn(&Arc<Engine<Closures>>, Gate<Closures>);

/// The dispatcher of closures.
pub struct OnTokio {
    /// Where lanes and gates are executed.
    runtime: Handle,
    /// Starts a lane; a function, so that this file does not depend on `work.rs`.
    start_lane: StartLane,
    /// Starts to poll a gate; likewise.
    start_watch: StartWatch,
    /// The engine that it was opened for.
    engine: OnceLock<Weak<Engine<Closures>>>,
    /// The slots and the bodies that are ready.
    state: Mutex<State>,
    /// The phase of the runner, for lanes and gates.
    phase: watch::Sender<Phase>,
    /// The results of the lanes' bodies, with a store that does not block. Committed when enough have gathered, by a
    /// lane that has nothing else to execute or whose body waits, or by the committer while a body keeps executing.
    pub(super) group: Arc<Group<Closures>>,
    /// The store may block: a thread of the runtime does not commit.
    pub(super) store_blocks: bool,
    /// The runtime has other threads that continue while one of them blocks.
    multi_thread: bool,
    /// A lane is committing on its own thread.
    committing: AtomicBool,
    /// Notified when a lane ends.
    lane_ended: Notify,
}

struct State {
    /// Decides which bodies execute; resumed bodies wait on a channel.
    slots: Slots<oneshot::Sender<Slot>>,
    /// Bodies that may start and have no slot yet.
    ready: VecDeque<Ready<Closures>>,
    /// Lanes that exist, those of deferred bodies included.
    lanes: usize,
    /// No body starts or resumes any more.
    closing: bool,
}

/// Whether the runner is open, and how far its end has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Phase {
    Open,
    /// No body starts or resumes; deferred ones are suspended.
    Closing,
    /// Bodies are dropped where they wait.
    Stopped,
}

impl Phase {
    /// Returns when this phase is over.
    pub(super) async fn ended(phase: &mut watch::Receiver<Phase>, from: Phase) {
        // An error means that the dispatcher is gone, which is an end too.
        let _ = phase.wait_for(|now| *now != from).await;
    }

    /// Returns when bodies are to be dropped.
    pub(super) async fn stopped(phase: &mut watch::Receiver<Phase>) {
        let _ = phase.wait_for(|now| *now == Phase::Stopped).await;
    }
}

/// What a lane between two bodies does next.
pub(super) enum NextStep {
    /// It executes this one.
    Next(Ready<Closures>),
    /// It commits what has gathered, keeps its slot, and asks again.
    Commit,
    /// It ends: its slot was released or belongs to another lane now.
    End,
}

/// The permit to execute a body. Dropping it releases the slot to the next body.
pub(super) struct Slot {
    /// Its number.
    no: SlotNo,
    /// Where it is released when dropped; `None`: it is not released.
    engine: Option<Arc<Engine<Closures>>>,
}

impl Slot {
    pub(super) fn new(no: SlotNo, engine: &Arc<Engine<Closures>>) -> Self {
        Self { no, engine: Some(Arc::clone(engine)) }
    }

    pub(super) fn no(&self) -> SlotNo {
        self.no
    }

    /// Gives up the permit without releasing the slot.
    pub(super) fn into_no(mut self) -> SlotNo {
        self.engine = None;
        self.no
    }
}

impl Drop for Slot {
    fn drop(&mut self) {
        if let Some(engine) = self.engine.take()
            && let NextStep::Next(ready) = engine.dispatch().next_step(&engine, self.no, &mut Vec::new(), false)
        {
            (engine.dispatch().start_lane)(&engine, Slot::new(self.no, &engine), ready);
        }
    }
}

impl OnTokio {
    pub(super) fn new(
        runtime: Handle,
        slots: u32,
        store_blocks: bool,
        start_lane: StartLane,
        start_watch: StartWatch,
    ) -> Self {
        Self {
            start_lane,
            start_watch,
            engine: OnceLock::new(),
            multi_thread: runtime.runtime_flavor() == RuntimeFlavor::MultiThread,
            runtime,
            state: Mutex::new(State { slots: Slots::new(slots), ready: VecDeque::new(), lanes: 0, closing: false }),
            phase: watch::Sender::new(Phase::Open),
            group: Group::new(),
            store_blocks,
            committing: AtomicBool::new(false),
            lane_ended: Notify::new(),
        }
    }

    /// Gets its engine, once.
    pub(super) fn open(&self, engine: &Arc<Engine<Closures>>) {
        let _ = self.engine.set(Arc::downgrade(engine));
        engine.path().ledger.look_after(Arc::clone(&self.group));
    }

    /// Its engine; none before it is opened, and none once the engine is gone.
    fn engine(&self) -> Option<Arc<Engine<Closures>>> {
        self.engine.get()?.upgrade()
    }

    pub(super) fn runtime(&self) -> &Handle {
        &self.runtime
    }

    pub(super) fn phase(&self) -> watch::Receiver<Phase> {
        self.phase.subscribe()
    }

    /// How many slots are in use, and how many there are.
    pub(super) fn slots_in_use(&self) -> (usize, usize) {
        let state = self.state.lock();
        let total = state.slots.total() as usize;
        (total - state.slots.free(), total)
    }

    /// Decides what the holder of a slot does after a body has ended. `fresh` are the bodies that became ready;
    /// `commits`: it can commit what has gathered.
    pub(super) fn next_step(
        &self,
        engine: &Arc<Engine<Closures>>,
        no: SlotNo,
        fresh: &mut Vec<Ready<Closures>>,
        commits: bool,
    ) -> NextStep {
        let mut state = self.state.lock();
        if state.closing {
            fresh.clear();
        }
        Ready::queue(&mut state.ready, fresh);
        if commits && state.ready.is_empty() && !self.group.is_empty() {
            return NextStep::Commit;
        }
        let mine = loop {
            let new_waits = !state.ready.is_empty();
            match state.slots.release(no, new_waits) {
                HandOff::New => break state.ready.pop_front(),
                HandOff::Free => break None,
                HandOff::Resumed(resumed) => {
                    // Not with the lock: it wakes a task of the runtime.
                    let sent = bide_sync::MutexGuard::unlocked(&mut state, || resumed.send(Slot::new(no, engine)));
                    match sent {
                        Ok(()) => break None,
                        // Its body was dropped meanwhile.
                        Err(slot) => {
                            slot.into_no();
                        }
                    }
                }
            }
        };
        let others = state.start();
        drop(state);
        self.spawn(engine, others);
        mine.map_or(NextStep::End, NextStep::Next)
    }

    /// Waits for a slot to resume a deferred body. `None` if the runner closes first.
    pub(super) async fn resume(
        &self,
        engine: &Arc<Engine<Closures>>,
        run: &Run<Closures>,
        task: TaskRef,
    ) -> Option<Slot> {
        let receiver = {
            let mut state = self.state.lock();
            if state.closing {
                return None;
            }
            let (sender, receiver) = oneshot::channel();
            if let Some((no, _)) = state.slots.resume_ranked(sender, run.priority()) {
                return Some(Slot::new(no, engine));
            }
            receiver
        };
        let _waits = engine.slot_queue().enter(run.id.row(), task);
        receiver.await.ok()
    }

    pub(super) fn lane_begins(&self) {
        self.state.lock().lanes += 1;
    }

    pub(super) fn lane_ends(&self) {
        self.state.lock().lanes -= 1;
        self.lane_ended.notify_waiters();
    }

    /// Waits until no body executes or is deferred.
    pub(super) async fn all_ended(&self) {
        loop {
            // Asked for before it is looked at, so that no end in between is missed.
            let ended = self.lane_ended.notified();
            tokio::pin!(ended);
            ended.as_mut().enable();
            if self.state.lock().lanes == 0 {
                return;
            }
            ended.await;
        }
    }

    /// Lets bodies be dropped where they wait.
    pub(super) fn stop(&self) {
        self.enter(Phase::Stopped);
    }

    /// Starts nothing any more, and ends every wait for a slot.
    pub(super) fn enter(&self, phase: Phase) {
        let remaining = {
            let mut state = self.state.lock();
            state.closing = true;
            // Bodies that wait for a slot learn of the end by this.
            let _ = state.slots.withdraw(|_| true);
            std::mem::take(&mut state.ready)
        };
        drop(remaining);
        self.phase.send_if_modified(|now| {
            let further = *now == Phase::Open || phase == Phase::Stopped;
            if further {
                *now = phase;
            }
            further
        });
    }

    /// The runtime drops its tasks: nothing can execute any more, and callers on other runtimes are to learn of it.
    pub(super) fn runtime_is_gone(&self, engine: &Arc<Engine<Closures>>) {
        if engine.is_closing() {
            return;
        }
        engine.begin_close();
        let engine = Arc::clone(engine);
        // It joins threads, for which a runtime that shuts down is no place.
        let _ = std::thread::Builder::new().name("bide-close".to_owned()).spawn(move || engine.finish_close());
    }

    /// With a store that blocks, a lane that has nothing more to execute commits on its own thread, so that the next
    /// task of a chain needs no other thread: one lane at a time, and only if the runtime has other threads. True if it
    /// committed. For tasks of the runtime only.
    pub(super) fn commits_itself(&self, commit: impl FnOnce()) -> bool {
        let idle = {
            let state = self.state.lock();
            state.ready.is_empty() && state.slots.resumed() == 0
        };
        if !self.multi_thread || !idle || self.committing.swap(true, Ordering::Acquire) {
            return false;
        }
        tokio::task::block_in_place(commit);
        self.committing.store(false, Ordering::Release);
        true
    }

    fn spawn(&self, engine: &Arc<Engine<Closures>>, bodies: Vec<(SlotNo, Ready<Closures>)>) {
        for (no, ready) in bodies {
            (self.start_lane)(engine, Slot::new(no, engine), ready);
        }
    }
}

impl State {
    /// Takes free slots for what is ready.
    fn start(&mut self) -> Vec<(SlotNo, Ready<Closures>)> {
        let mut bodies = Vec::new();
        while !self.ready.is_empty()
            && let Some(no) = self.slots.acquire()
        {
            bodies.extend(self.ready.pop_front().map(|ready| (no, ready)));
        }
        bodies
    }
}

impl Dispatch<Closures> for OnTokio {
    fn ready(&self, ready: &mut Vec<Ready<Closures>>) {
        let Some(engine) = self.engine() else { return };
        let bodies = {
            let mut state = self.state.lock();
            if state.closing {
                Vec::new()
            } else {
                Ready::queue(&mut state.ready, ready);
                state.start()
            }
        };
        ready.clear();
        self.spawn(&engine, bodies);
    }

    fn gate(&self, gate: Gate<Closures>) {
        if let Some(engine) = self.engine() {
            (self.start_watch)(&engine, gate);
        }
    }

    fn close(&self) {
        self.enter(Phase::Closing);
    }
}
