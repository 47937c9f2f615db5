//! How a lane executes bodies: enters one, drives its future, queues its outcome to be committed, and takes the next.

use std::future::poll_fn;
use std::pin::Pin;
use std::sync::Arc;
use std::task::Poll;
use std::time::Duration;

use bide_core::event::Retry;
use bide_core::{Event, Failure, FailureKind, Outcome, TaskRef, Value};
use tokio::sync::{oneshot, watch};

use super::catch_panic::CatchPanic;
use super::closures::Closures;
use super::context::{Scope, TaskContext};
use super::dispatch::{NextStep, Phase, Slot};
use super::enqueue::{commit_gathered, enqueue, enqueue_from_lane};
use super::lane::Lane;
use super::task_error::{BodyEnd, TaskError};
use crate::engine::Engine;
use crate::host::Ready;
use crate::ledger::QueuedEvent;
use crate::runs::run::Run;

/// How many bodies are executed before other tasks of the runtime have a turn.
const TURNS: u64 = 32;

/// A body's start is written once it has executed for this long, so that other processes can see it.
const SHOW_AFTER: Duration = Duration::from_millis(100);

/// Starts a lane with a slot and its first body.
pub(super) fn start_lane(engine: &Arc<Engine<Closures>>, slot: Slot, ready: Ready<Closures>) {
    let lane = Lane::new(engine, slot);
    engine.dispatch().lane_begins();
    let guard = Guard { lane, ended: false };
    engine.dispatch().runtime().spawn(guard.work(ready));
}

impl Lane {
    /// Executes a body. Bodies that become ready by it are added to `fresh`.
    async fn execute(
        self: &Arc<Self>,
        ready: Ready<Closures>,
        turn: &mut u64,
        fresh: &mut Vec<Ready<Closures>>,
        phase: &mut watch::Receiver<Phase>,
    ) {
        let engine = &self.engine;
        let Some((ready, _turn)) = engine.admit_suspect(ready) else { return };
        let Ready { run, task } = ready;
        if !engine.lease_holds() && !self.is_sure_of_lease().await {
            return;
        }
        let now = engine.clock().now();
        let entered = run.state.lock().enter(task, now);
        let Some(entered) = entered else { return };
        let attempt = entered.attempt;
        let body = &run.workflow.bodies[task.ix as usize];
        if entered.mark && !self.commit_now(&run, Event::Started { task, attempt }).await {
            // Without its mark a body is not called: the engine has stopped, or has lost the run.
            return;
        }
        let cx = TaskContext { scope: Scope::new(&run, task), lane: Arc::clone(self), attempt, turn: *turn };
        let mut body_future = CatchPanic::new((body.call)(cx));
        let returned = match poll_fn(|cx| Poll::Ready(Pin::new(&mut body_future).poll(cx))).await {
            Poll::Ready(returned) => Some(returned),
            Poll::Pending => {
                commit_gathered(engine);
                self.run_on(body_future, &run, task, attempt, *turn, phase).await
            }
        };
        let (ended, next) = self.end_turn();
        *turn = next;
        let suspended = ended.is_some_and(|body| body.suspending());
        let outcome = match returned {
            Some(returned) if !suspended => outcome(engine, returned, |failure| body.retries(failure)),
            _ => Outcome::Suspended,
        };
        let event = Event::Ended { task, attempt, outcome };
        if entered.mark {
            // While that is not committed the mark stands: the next body may kill the process, and this one's run
            // would be suspected of it.
            self.commit_now(&run, event).await;
            return;
        }
        let at = engine.clock().now();
        enqueue_from_lane(engine, QueuedEvent { run, event, at, completion: None }, fresh);
    }

    /// A body that does not return at once: shown to others if it takes long, dropped if the runner stops.
    async fn run_on<T>(
        self: &Arc<Self>,
        mut body: CatchPanic<'_, T>,
        run: &Arc<Run<Closures>>,
        task: TaskRef,
        attempt: u32,
        turn: u64,
        phase: &mut watch::Receiver<Phase>,
    ) -> Option<Result<T, Failure>> {
        let limit = self.limit(run, task, turn);
        tokio::pin!(limit);
        tokio::select! {
            biased;
            returned = &mut body => return Some(returned),
            () = Phase::stopped(phase) => return None,
            timed_out = &mut limit => return Some(Err(timed_out)),
            () = tokio::time::sleep(SHOW_AFTER) => {}
        }
        // One that is deferred has a row already.
        if self.holds_slot(turn) {
            let (event, at) = (Event::Started { task, attempt }, self.engine.clock().now());
            enqueue(&self.engine, QueuedEvent { run: Arc::clone(run), event, at, completion: None });
        }
        tokio::select! {
            biased;
            returned = body => Some(returned),
            () = Phase::stopped(phase) => None,
            timed_out = limit => Some(Err(timed_out)),
        }
    }

    /// Returns when the attempt has executed for as long as it may; never, if it has no limit.
    async fn limit(&self, run: &Arc<Run<Closures>>, task: TaskRef, turn: u64) -> Failure {
        let spec = run.workflow.graph.spec(task.ix);
        let Some(limit) = spec.timeout else { return std::future::pending().await };
        let begun = self.engine.clock().steady();
        loop {
            let now = self.engine.clock().steady();
            let executed = now.saturating_sub(begun).saturating_sub(self.deferred(turn, now));
            if executed >= limit {
                let message = format!("task '{}' has executed for longer than its timeout of {limit:?}", spec.name);
                return Failure::new(FailureKind::TaskTimeout, "bide.TaskTimeout", &message);
            }
            tokio::time::sleep(limit - executed).await;
        }
    }

    /// Commits an event and waits for that. False if it is lost.
    async fn commit_now(&self, run: &Arc<Run<Closures>>, event: Event) -> bool {
        let (completion, committed) = oneshot::channel();
        let at = self.engine.clock().now();
        enqueue(&self.engine, QueuedEvent { run: Arc::clone(run), event, at, completion: Some(completion) });
        matches!(committed.await, Ok(Ok(())))
    }
}

fn outcome(
    engine: &Engine<Closures>,
    returned: Result<Result<Value, TaskError>, Failure>,
    retries: impl Fn(&Failure) -> bool,
) -> Outcome {
    let failed = |failure: Failure| {
        let retry = retries(&failure).then(|| Retry { random: engine.random() });
        Outcome::Failed { failure, retry }
    };
    match returned {
        Ok(Ok(output)) => Outcome::Completed { output, changes: None },
        Err(panic) => failed(panic),
        Ok(Err(error)) => match error.end() {
            BodyEnd::Skipped(reason) => Outcome::Skipped { reason },
            BodyEnd::Failed(failure) if failure.kind == FailureKind::Cancelled => Outcome::Cancelled { failure },
            BodyEnd::Failed(failure) => failed(failure),
            BodyEnd::Unwound => Outcome::Suspended,
        },
    }
}

/// A lane's task. If the runtime drops it before its end, the runtime is shutting down: nothing can start any more.
struct Guard {
    lane: Arc<Lane>,
    ended: bool,
}

impl Guard {
    async fn work(mut self, first: Ready<Closures>) {
        let lane = Arc::clone(&self.lane);
        let mut phase = lane.engine.dispatch().phase();
        let mut next = Some(first);
        let mut fresh = Vec::new();
        let (mut turn, mut executed) = (0, 0);
        while let Some(ready) = next.take() {
            lane.execute(ready, &mut turn, &mut fresh, &mut phase).await;
            next = lane.next_body(&mut fresh);
            executed += 1;
            if executed % TURNS == 0 {
                tokio::task::yield_now().await;
            }
        }
        self.ended = true;
    }
}

impl Lane {
    /// Between two bodies: the next one, if the slot stays here.
    fn next_body(&self, fresh: &mut Vec<Ready<Closures>>) -> Option<Ready<Closures>> {
        let engine = &self.engine;
        let Some(no) = self.slot_no() else {
            engine.dispatch_ready(fresh);
            commit_gathered(engine);
            return None;
        };
        loop {
            match engine.dispatch().next_step(engine, no, fresh, true) {
                NextStep::Next(next) => return Some(next),
                NextStep::Commit => engine.commit_group(&engine.dispatch().group, fresh),
                NextStep::End => {
                    if let Some(slot) = self.take_slot() {
                        slot.into_no();
                    }
                    return None;
                }
            }
        }
    }
}

impl Drop for Guard {
    fn drop(&mut self) {
        let lane = &self.lane;
        let dispatch = lane.engine.dispatch();
        if !self.ended {
            lane.engine.dispatch().runtime_is_gone(&lane.engine);
            drop(lane.end_turn());
        }
        drop(lane.take_slot());
        dispatch.lane_ends();
    }
}
