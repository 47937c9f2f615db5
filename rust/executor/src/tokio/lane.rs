//! A lane: a tokio task that executes bodies one after the other while it has a slot. How it does that is in `work.rs`;
//! this is what its bodies share.
//!
//! A deferred body stays in its lane, which releases its slot meanwhile; other lanes continue. A lane ends when its
//! slot goes to another one.

use std::sync::Arc;
use std::time::Duration;

use bide_core::TaskRef;
use bide_sched::SlotNo;
use bide_sync::Mutex;

use super::body::BodyState;
use super::closures::Closures;
use super::dispatch::Slot;
use crate::engine::Engine;
use crate::runs::run::Run;

/// One entry of a body in a lane.
pub(super) struct Entry<'a> {
    /// The run of the body.
    pub(super) run: &'a Arc<Run<Closures>>,
    /// The task of the body.
    pub(super) task: TaskRef,
    /// The attempt that the body executes.
    pub(super) attempt: u32,
    /// Which body of the lane it is.
    pub(super) turn: u64,
}

/// What a lane's bodies share.
pub(super) struct Lane {
    /// The engine that it belongs to.
    pub(super) engine: Arc<Engine<Closures>>,
    /// Its slot and its current body.
    state: Mutex<LaneState>,
}

struct LaneState {
    /// None while its body is deferred, and once it is over.
    slot: Option<Slot>,
    /// The current body, once it has asked for a handle.
    body: Option<Arc<BodyState>>,
    /// Counts its bodies, so that a handle of an earlier one is recognised and refused.
    turn: u64,
}

impl Lane {
    pub(super) fn new(engine: &Arc<Engine<Closures>>, slot: Slot) -> Arc<Self> {
        let state = LaneState { slot: Some(slot), body: None, turn: 0 };
        Arc::new(Self { engine: Arc::clone(engine), state: Mutex::new(state) })
    }

    /// The current body's state, for its handle; one that is over if the body is.
    pub(super) fn body(self: &Arc<Self>, body: &Entry<'_>) -> Arc<BodyState> {
        let mut state = self.state.lock();
        if state.turn != body.turn {
            return BodyState::new(self, body, true);
        }
        Arc::clone(state.body.get_or_insert_with(|| BodyState::new(self, body, false)))
    }

    pub(super) fn holds_slot(&self, turn: u64) -> bool {
        let state = self.state.lock();
        state.turn == turn && state.slot.is_some()
    }

    pub(super) fn take_slot(&self) -> Option<Slot> {
        self.state.lock().slot.take()
    }

    /// The slot of a body that defers; none if the body is over (its handle has outlived it).
    pub(super) fn release_slot(&self, turn: u64) -> Option<Slot> {
        let mut state = self.state.lock();
        if state.turn == turn { state.slot.take() } else { None }
    }

    /// A deferred body has got a slot again. One that is over meanwhile cannot keep it.
    pub(super) fn keep_slot(&self, turn: u64, slot: Slot) {
        let surplus = {
            let mut state = self.state.lock();
            if state.turn == turn { state.slot.replace(slot) } else { Some(slot) }
        };
        drop(surplus);
    }

    /// Ends the body and its handle. Returns the next body's turn, too.
    pub(super) fn end_turn(&self) -> (Option<Arc<BodyState>>, u64) {
        let (body, next) = {
            let mut state = self.state.lock();
            state.turn += 1;
            (state.body.take(), state.turn)
        };
        (body.inspect(|body| body.end()), next)
    }

    /// A lease that has run out is renewed before anything starts; off the runtime's threads, because that may block.
    pub(super) async fn is_sure_of_lease(&self) -> bool {
        is_sure_of_lease(&self.engine).await
    }

    /// How long the body of a turn has had no slot until now.
    pub(super) fn deferred(&self, turn: u64, now: Duration) -> Duration {
        let state = self.state.lock();
        let body = state.body.as_ref().filter(|_| state.turn == turn);
        body.map_or(Duration::ZERO, |body| body.deferred(now))
    }

    /// The number of its slot, if it has one.
    pub(super) fn slot_no(&self) -> Option<SlotNo> {
        self.state.lock().slot.as_ref().map(Slot::no)
    }
}

/// As [`Lane::is_sure_of_lease`], for what has no lane.
pub(super) async fn is_sure_of_lease(engine: &Arc<Engine<Closures>>) -> bool {
    if engine.lease_holds() {
        return true;
    }
    let engine = Arc::clone(engine);
    tokio::task::spawn_blocking(move || engine.make_sure_of_lease()).await.unwrap_or(false)
}
