//! How closures get to execute: slots, lanes on the caller's tokio, and the hand-in of what they came to.
//!
//! A lane is a tokio task that holds a slot and executes bodies one after the other (see `lane.rs`). A slot is an
//! RAII value: however it is dropped, it goes on to whom the slot machine names.

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use bide_sched::{HandOff, SlotNo, Slots};
use bide_sync::Mutex;
use tokio::runtime::{Handle, RuntimeFlavor};
use tokio::sync::{Notify, oneshot, watch};

use super::gate;
use super::lane::Lane;
use super::workflow::Closures;
use crate::engine::Engine;
use crate::host::{Dispatch, Gate, Ready};
use crate::ledger::{Group, QueuedEvent};

/// The dispatcher of closures.
pub struct OnTokio {
    runtime: Handle,
    state: Mutex<State>,
    stage: watch::Sender<Stage>,
    /// What the lanes' bodies have come to, with a store that does not block. Committed by a lane that has nothing else
    /// to execute or whose body waits, when enough has gathered, or by the committer behind a body that runs on.
    pub(super) group: Arc<Group<Closures>>,
    /// The store may block: a thread of the runtime does not commit.
    pub(super) store_blocks: bool,
    multi_thread: bool,
    /// A lane commits itself.
    committing: AtomicBool,
    lane_ended: Notify,
}

struct State {
    slots: Slots<oneshot::Sender<Slot>>,
    ready: VecDeque<Ready<Closures>>,
    lanes: usize,
    closing: bool,
}

/// How far the end has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Stage {
    Open,
    /// No body starts or resumes; deferred ones are suspended.
    Closing,
    /// Bodies are dropped where they wait.
    Stopped,
}

impl Stage {
    /// Returns when the stage is another than this one.
    pub(super) async fn left(stage: &mut watch::Receiver<Stage>, from: Stage) {
        // An error means that the dispatcher is gone, which is an end too.
        let _ = stage.wait_for(|now| *now != from).await;
    }

    /// Returns when bodies are to be dropped.
    pub(super) async fn stopped(stage: &mut watch::Receiver<Stage>) {
        let _ = stage.wait_for(|now| *now == Stage::Stopped).await;
    }
}

/// What a lane between two bodies does next.
pub(super) enum Passed {
    /// It executes this one.
    Next(Ready<Closures>),
    /// It commits what has gathered, with its slot in hand, and asks again.
    Commit,
    /// It ends: its slot is somebody else's.
    Gone,
}

/// The right to execute a body. Dropping it hands it on.
pub(super) struct Slot {
    no: SlotNo,
    engine: Option<Arc<Engine<Closures>>>,
}

impl Slot {
    pub(super) fn new(no: SlotNo, engine: &Arc<Engine<Closures>>) -> Self {
        Self { no, engine: Some(Arc::clone(engine)) }
    }

    pub(super) fn no(&self) -> SlotNo {
        self.no
    }

    /// Ends the right without handing it on.
    pub(super) fn into_no(mut self) -> SlotNo {
        self.engine = None;
        self.no
    }
}

impl Drop for Slot {
    fn drop(&mut self) {
        if let Some(engine) = self.engine.take()
            && let Passed::Next(ready) = engine.dispatch().pass(&engine, self.no, &mut Vec::new(), false)
        {
            Lane::spawn(&engine, Slot::new(self.no, &engine), ready);
        }
    }
}

impl OnTokio {
    pub(super) fn new(runtime: Handle, slots: u32, store_blocks: bool) -> Self {
        Self {
            multi_thread: runtime.runtime_flavor() == RuntimeFlavor::MultiThread,
            runtime,
            state: Mutex::new(State { slots: Slots::new(slots), ready: VecDeque::new(), lanes: 0, closing: false }),
            stage: watch::Sender::new(Stage::Open),
            group: Group::new(),
            store_blocks,
            committing: AtomicBool::new(false),
            lane_ended: Notify::new(),
        }
    }

    pub(super) fn runtime(&self) -> &Handle {
        &self.runtime
    }

    pub(super) fn stage(&self) -> watch::Receiver<Stage> {
        self.stage.subscribe()
    }

    /// How many slots are in use, and how many there are.
    pub(super) fn slots_in_use(&self) -> (usize, usize) {
        let state = self.state.lock();
        let total = state.slots.total() as usize;
        (total - state.slots.free(), total)
    }

    /// A holder has ended its body: `fresh` has become ready by that. `commits`: it can commit what has gathered.
    pub(super) fn pass(
        &self,
        engine: &Arc<Engine<Closures>>,
        no: SlotNo,
        fresh: &mut Vec<Ready<Closures>>,
        commits: bool,
    ) -> Passed {
        let mut state = self.state.lock();
        if state.closing {
            fresh.clear();
        }
        state.ready.extend(fresh.drain(..));
        if commits && state.ready.is_empty() && !self.group.is_empty() {
            return Passed::Commit;
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
                        // Its body has gone away meanwhile.
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
        mine.map_or(Passed::Gone, Passed::Next)
    }

    /// A deferred body wants to go on: a slot, or `None` if the runner closes first.
    pub(super) async fn resume(&self, engine: &Arc<Engine<Closures>>) -> Option<Slot> {
        let handed = {
            let mut state = self.state.lock();
            if state.closing {
                return None;
            }
            let (sender, handed) = oneshot::channel();
            if let Some((no, _)) = state.slots.resume(sender) {
                return Some(Slot::new(no, engine));
            }
            handed
        };
        handed.await.ok()
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
        self.enter(Stage::Stopped);
    }

    /// Starts nothing any more, and tells whoever waits.
    pub(super) fn enter(&self, stage: Stage) {
        let left = {
            let mut state = self.state.lock();
            state.closing = true;
            // Those who wait for a slot hear of it by this.
            let _ = state.slots.withdraw(|_| true);
            std::mem::take(&mut state.ready)
        };
        drop(left);
        self.stage.send_if_modified(|now| {
            let further = *now == Stage::Open || stage == Stage::Stopped;
            if further {
                *now = stage;
            }
            further
        });
    }

    /// The runtime drops its tasks: nothing can execute any more, and callers on other runtimes are to hear of it.
    pub(super) fn runtime_is_gone(&self, engine: &Arc<Engine<Closures>>) {
        if engine.is_closing() {
            return;
        }
        engine.begin_close();
        let engine = Arc::clone(engine);
        // It joins threads, for which a runtime that shuts down is no place.
        let _ = std::thread::Builder::new().name("bide-close".to_owned()).spawn(move || engine.finish_close());
    }

    /// With a store that blocks, a lane that would have nothing more to do commits itself, so that a hop of a chain
    /// crosses no threads: one lane at a time, and only where the runtime can go on without this thread. True if it
    /// did. For tasks of the runtime only.
    fn commits_itself(&self, commit: impl FnOnce()) -> bool {
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
            Lane::spawn(engine, Slot::new(no, engine), ready);
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
    fn ready(&self, engine: &Arc<Engine<Closures>>, ready: &mut Vec<Ready<Closures>>) {
        let bodies = {
            let mut state = self.state.lock();
            if state.closing {
                Vec::new()
            } else {
                state.ready.extend(ready.drain(..));
                state.start()
            }
        };
        ready.clear();
        self.spawn(engine, bodies);
    }

    fn gate(&self, engine: &Arc<Engine<Closures>>, gate: Gate<Closures>) {
        self.runtime.spawn(gate::watch(Arc::clone(engine), gate));
    }

    fn close(&self, _engine: &Arc<Engine<Closures>>) {
        self.enter(Stage::Closing);
    }
}

impl Engine<Closures> {
    /// Hands in what a body came to. Never blocks for long: with a store that blocks, the committer thread commits it
    /// with all else that has gathered meanwhile.
    pub(super) fn hand_in(self: &Arc<Self>, done: QueuedEvent<Closures>) {
        if self.dispatch.store_blocks {
            self.ledger.enqueue(done);
            return;
        }
        self.dispatch.group.push(done, self.clock.steady());
        self.commit_gathered();
    }

    /// Commits what has gathered, with a store that does not block.
    pub(super) fn commit_gathered(self: &Arc<Self>) {
        if !self.dispatch.group.is_empty() {
            let mut ready = Vec::new();
            self.commit_group(&self.dispatch.group, &mut ready);
            self.dispatch_ready(&mut ready);
        }
    }

    /// As [`Engine::hand_in`], by a lane between two bodies, which commits it with others before it ends; what may
    /// start by that is left to it.
    pub(super) fn hand_in_and_go_on(self: &Arc<Self>, done: QueuedEvent<Closures>, ready: &mut Vec<Ready<Closures>>) {
        if self.dispatch.store_blocks {
            self.ledger.enqueue_quietly(done);
            if !self.dispatch.commits_itself(|| self.ledger.commit_inbox(self, ready)) {
                self.ledger.wake_committer();
            }
            return;
        }
        if self.dispatch.group.push(done, self.clock.steady()) {
            self.commit_group(&self.dispatch.group, ready);
        } else {
            self.ledger.arm();
        }
    }
}
