//! A task's `timeout`: the limit of one attempt's execution, time deferred excluded.
//!
//! A thread cannot be stopped. So when the limit is reached the attempt fails at once, and is fenced: what its body
//! does from there on changes nothing. Its slot stays taken until the body returns, and so does its place in the run:
//! the next attempt waits for that.
//!
//! With a clock that is moved by hand, both count: the time that it was moved by while the body executed, and the time
//! that the body has really taken.

use std::sync::{Arc, OnceLock};
use std::time::Duration;

use bide_core::event::Retry;
use bide_core::{Event, Failure, FailureKind, Outcome, TaskRef};
use bide_sync::Mutex;

use crate::engine::Engine;
use crate::host::{Host, Ready};
use crate::log::Level;
use crate::runs::run::Run;
use crate::services::timers::{Alarm, Key};

/// The limit of one attempt.
pub(crate) struct Limit<H: Host> {
    /// The engine, whose timers it uses.
    engine: Arc<Engine<H>>,
    /// The run of the body.
    run: Arc<Run<H>>,
    /// The task of the body.
    task: TaskRef,
    /// The attempt that is limited.
    attempt: u32,
    /// The host's name of the thread that executes the body.
    thread: u64,
    /// Cancels the body, if it can be cancelled.
    cancel: OnceLock<Box<dyn Fn() + Send + Sync>>,
    /// The remaining time, and the timer that ends it.
    state: Mutex<State>,
}

struct State {
    /// A ring with another ticket is of an earlier stretch.
    ticket: u64,
    /// What remained of the limit when the body began or continued.
    remaining: Duration,
    /// When that was, by the steady clock and by the machine's.
    since: (Duration, Duration),
    /// The time is used up, and the attempt has failed.
    reached: bool,
    /// Rings when the time is used up; none while the body is deferred.
    timer: Option<Key>,
}

impl<H: Host> Limit<H> {
    /// Starts to count, if the task has a limit.
    pub(crate) fn start(
        engine: &Arc<Engine<H>>,
        run: &Arc<Run<H>>,
        task: TaskRef,
        attempt: u32,
        thread: u64,
    ) -> Option<Arc<Self>> {
        let remaining = run.workflow.graph.spec(task.ix).timeout?;
        Some(Self::of(engine, run, task, attempt, thread, remaining))
    }

    /// Made in a frame of its own: most tasks have none.
    #[inline(never)]
    fn of(
        engine: &Arc<Engine<H>>,
        run: &Arc<Run<H>>,
        task: TaskRef,
        attempt: u32,
        thread: u64,
        remaining: Duration,
    ) -> Arc<Self> {
        let limit = Arc::new(Self {
            engine: Arc::clone(engine),
            run: Arc::clone(run),
            task,
            attempt,
            thread,
            cancel: OnceLock::new(),
            state: Mutex::new(State {
                ticket: 0,
                remaining,
                since: (Duration::ZERO, Duration::ZERO),
                reached: false,
                timer: None,
            }),
        });
        limit.resume();
        limit
    }

    /// Has this called when the limit is reached: the body can be cancelled.
    pub(crate) fn cancels(&self, cancel: Box<dyn Fn() + Send + Sync>) {
        let _ = self.cancel.set(cancel);
    }

    /// The body executes from here on.
    pub(crate) fn resume(self: &Arc<Self>) {
        let mut state = self.state.lock();
        state.ticket += 1;
        state.since = self.times();
        let alarm = Arc::clone(self) as Arc<dyn Alarm>;
        if self.engine.clock().is_manual() {
            self.engine.timers().soon(state.remaining, Arc::clone(&alarm), state.ticket);
        }
        state.timer = Some(self.engine.timers().after(state.remaining, alarm, state.ticket));
    }

    /// The body is deferred from here on. False: its time is used up already, and it is to unwind.
    pub(crate) fn pause(&self) -> bool {
        let (timer, reached) = {
            let mut state = self.state.lock();
            state.ticket += 1;
            let ((steady, machine), now) = (state.since, self.times());
            state.remaining =
                state.remaining.saturating_sub(now.0.saturating_sub(steady) + now.1.saturating_sub(machine));
            (state.timer.take(), state.reached)
        };
        self.cancel(timer);
        !reached
    }

    /// The steady time, and the machine's if that is another one.
    fn times(&self) -> (Duration, Duration) {
        let clock = self.engine.clock();
        (clock.steady(), if clock.is_manual() { clock.machine() } else { Duration::ZERO })
    }

    /// Cancels a timer, which would keep the run until it rings.
    fn cancel(&self, timer: Option<Key>) {
        if let Some(timer) = timer {
            self.engine.timers().cancel(timer);
        }
    }

    /// Whether the limit was reached.
    pub(crate) fn is_reached(&self) -> bool {
        self.state.lock().reached
    }

    /// The outcome of an attempt whose limit was reached.
    pub(crate) fn outcome(&self) -> Outcome {
        let failure = Failure::new(FailureKind::TaskTimeout, "bide.TaskTimeout", &self.message());
        let retried = H::retries_timeout(&self.run.workflow.bodies[self.task.ix as usize]);
        let retry = retried.then(|| Retry { random: self.engine.random() });
        Outcome::Failed { failure, retry }
    }

    fn message(&self) -> String {
        let graph = &self.run.workflow.graph;
        let (name, limit) = (graph.name_of(self.task), graph.spec(self.task.ix).timeout.unwrap_or_default());
        format!("task '{name}' was not done after {} s of execution", limit.as_secs_f64())
    }

    /// The body has returned. The attempt that waited for that, if there is one.
    pub(crate) fn end(&self) -> Option<Ready<H>> {
        let (reached, timer) = {
            let mut state = self.state.lock();
            state.ticket += 1;
            (state.reached, state.timer.take())
        };
        self.cancel(timer);
        if reached { self.run.rare.lock().as_mut()?.overdue.remove(&self.task).flatten() } else { None }
    }
}

impl<H: Host> Alarm for Limit<H> {
    fn ring(self: Arc<Self>, ticket: u64) {
        {
            let mut state = self.state.lock();
            if state.ticket != ticket || state.reached {
                return;
            }
            state.reached = true;
            self.run.rare.lock().get_or_insert_default().overdue.insert(self.task, None);
        }
        let outcome = self.outcome();
        match self.cancel.get() {
            Some(cancel) => cancel(),
            None => self.engine.log(
                Level::Stuck { thread: self.thread },
                &format!("{}; its attempt has failed, and its slot stays taken until the body returns", self.message()),
            ),
        }
        let event = Event::Ended { task: self.task, attempt: self.attempt, outcome };
        self.engine.enqueue(Arc::clone(&self.run), event);
    }
}

impl<H: Host> Run<H> {
    /// Holds a body back while its last attempt has timed out and not returned yet.
    #[inline]
    pub(crate) fn wait_for_overdue(&self, ready: Ready<H>) -> Option<Ready<H>> {
        if self.workflow.graph.spec(ready.task.ix).timeout.is_none() {
            return Some(ready);
        }
        match self.rare.lock().as_mut().and_then(|rare| rare.overdue.get_mut(&ready.task)) {
            None => Some(ready),
            Some(place) => {
                *place = Some(ready);
                None
            }
        }
    }
}
