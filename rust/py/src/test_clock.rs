//! `_core.TestClock`: the clock of runners in tests, and the calls that move it while nothing happens.

use std::sync::atomic::Ordering;
use std::sync::{Arc, Weak};
use std::time::{Duration, Instant};

use bide_core::Time;
use bide_executor::{Clock, Due, TestClock};
use bide_sync::Mutex;
use pyo3::prelude::*;

use crate::errors;
use crate::gil;
use crate::host::PyEngine;
use crate::panics;
use crate::process::{self, SLICE};
use crate::run_handle::PyRunHandle;
use crate::runner::PyRunner;
use crate::test_hooks;

/// How often a caller looks without a rest, after it has moved something.
const BUSY: u32 = 200;

/// How long a caller rests between two looks, at most.
const LONGEST_REST: Duration = Duration::from_micros(200);

/// The clock of the runners of a test.
#[pyclass(frozen, module = "bide._core", name = "TestClock")]
pub(crate) struct PyTestClock {
    /// The clock.
    clock: Arc<TestClock>,
    /// The engines that go by it.
    engines: Mutex<Vec<Weak<PyEngine>>>,
}

impl PyTestClock {
    pub(crate) fn clock(&self) -> Arc<dyn Clock> {
        Arc::clone(&self.clock) as _
    }

    /// An engine goes by this clock.
    pub(crate) fn moves(&self, engine: &Arc<PyEngine>) {
        let mut engines = self.engines.lock();
        engines.retain(|engine| engine.strong_count() > 0);
        engines.push(Arc::downgrade(engine));
    }

    fn watch(&self) -> Watch {
        let engines = self.engines.lock();
        let engines = engines.iter().filter_map(Weak::upgrade).filter(|engine| engine.stopped().is_none()).collect();
        Watch {
            time: self.clock.steady(),
            clock: Arc::clone(&self.clock),
            engines,
            looks: 0,
            questions: None,
            commits: 0,
            asked: None,
            has_moved: false,
        }
    }
}

#[pymethods]
impl PyTestClock {
    /// A clock that shows this time, in microseconds since 1970.
    #[new]
    fn new(start: i64) -> Self {
        Self { clock: TestClock::new(Time(start)), engines: Mutex::default() }
    }

    /// The time that it shows, in microseconds since 1970.
    #[getter]
    fn micros(&self) -> i64 {
        self.clock.now().0
    }

    /// A call of the test begins, until `release` is called.
    fn hold(&self) {
        self.clock.holds.fetch_add(1, Ordering::SeqCst);
    }

    /// It has ended.
    fn release(&self) {
        self.clock.holds.fetch_sub(1, Ordering::SeqCst);
    }

    /// How many answers are prescribed for conditions and not given yet.
    fn prescribe(&self, answers: usize) {
        self.clock.prescribed.store(answers, Ordering::SeqCst);
    }

    /// Waits until nothing happens any more, without moving the time.
    fn settle(&self, py: Python<'_>) -> PyResult<()> {
        panics::method(|| {
            let mut watch = self.watch();
            until(py, &mut watch, |watch| watch.is_at_rest().then_some(()))
        })
    }

    /// Moves the time by this many seconds, from alarm to alarm, and waits until nothing happens any more.
    fn advance(&self, py: Python<'_>, seconds: f64) -> PyResult<()> {
        panics::method(|| {
            let mut watch = self.watch();
            let span = Duration::try_from_secs_f64(seconds).unwrap_or(Duration::MAX);
            let target = self.clock.steady().saturating_add(span);
            until(py, &mut watch, |watch| watch.move_towards(target, Watch::is_at_rest).then_some(()))
        })
    }

    /// Moves the time by this many seconds, from alarm to alarm, while bodies execute: for them it passes, too.
    fn elapse(&self, py: Python<'_>, seconds: f64) -> PyResult<()> {
        panics::method(|| {
            let mut watch = self.watch();
            let span = Duration::try_from_secs_f64(seconds).unwrap_or(Duration::MAX);
            let target = self.clock.steady().saturating_add(span);
            until(py, &mut watch, |watch| watch.move_towards(target, Watch::has_rung).then_some(()))
        })
    }

    /// Waits until a run ends, or until nothing happens any more by itself. With `moves`, the time moves to the next
    /// alarm whenever nothing happens; with `once` one time at most. Returns what has come: the end, nothing any more,
    /// `seconds` of this clock, or that the time was moved.
    #[pyo3(signature = (run, moves, seconds=None, once=false))]
    fn drive(
        &self,
        py: Python<'_>,
        run: Option<&Bound<'_, PyRunHandle>>,
        moves: bool,
        seconds: Option<f64>,
        once: bool,
    ) -> PyResult<&'static str> {
        panics::method(|| {
            let mut watch = self.watch();
            let run = run.map(Bound::get);
            let span = seconds.map(|seconds| Duration::try_from_secs_f64(seconds).unwrap_or(Duration::MAX));
            let limit = span.map(|span| self.clock.steady().saturating_add(span));
            until(py, &mut watch, |watch| watch.drive(run, moves, limit, once))
        })
    }

    /// Ends a runner as if the process died now. What it executes unwinds on its own. False: it was closed before.
    #[staticmethod]
    fn crash(py: Python<'_>, runner: &Bound<'_, PyRunner>) -> PyResult<bool> {
        panics::method(|| {
            let inner = &runner.get().inner;
            inner.home.check("Runner")?;
            Ok(gil::detached(py, || inner.crash()))
        })
    }

    /// Has a runner crash before or after a commit to come, counted from the first one that it makes.
    #[staticmethod]
    fn crash_at(runner: &Bound<'_, PyRunner>, commit: u64, after: bool) {
        runner.get().inner.engine.crash_at(commit, after);
    }

    /// Tells a runner from the others of the process.
    #[staticmethod]
    fn number(runner: &Bound<'_, PyRunner>) -> usize {
        test_hooks::number(&runner.get().inner.engine)
    }

    /// How many commits a runner has begun.
    #[staticmethod]
    fn commits(runner: &Bound<'_, PyRunner>) -> u64 {
        runner.get().inner.engine.begun_commits()
    }

    /// Whether a runner has crashed.
    #[staticmethod]
    fn has_crashed(runner: &Bound<'_, PyRunner>) -> bool {
        runner.get().inner.engine.has_crashed()
    }
}

/// Repeats `look` until it has an answer. A signal that raises ends it.
#[expect(clippy::disallowed_methods, reason = "how long a caller waits is not the engine's time")]
fn until<R: Send>(
    py: Python<'_>,
    watch: &mut Watch,
    mut look: impl FnMut(&mut Watch) -> Option<R> + Send,
) -> PyResult<R> {
    loop {
        let found = gil::idle(py, || {
            let begun = Instant::now();
            while begun.elapsed() < SLICE {
                if let Some(found) = look(watch) {
                    return Some(found);
                }
                watch.looks += 1;
                match watch.looks.checked_sub(BUSY) {
                    None => std::thread::yield_now(),
                    Some(more) => std::thread::sleep((Duration::from_micros(10) * (more / 10 + 1)).min(LONGEST_REST)),
                }
            }
            None
        });
        if let Some(found) = found {
            return Ok(found);
        }
        if process::closing() {
            return Err(errors::closed(py, "the interpreter is exiting"));
        }
        py.check_signals()?;
    }
}

/// A caller that waits for the engines of a clock.
struct Watch {
    clock: Arc<TestClock>,
    engines: Vec<Arc<PyEngine>>,
    /// How often its caller has looked since it has last moved something.
    looks: u32,
    /// The questions to the event loops, by engine, whether nothing is ready on them.
    questions: Option<Vec<Option<u64>>>,
    /// The number of commits and the time at the last look.
    commits: u64,
    time: Duration,
    /// What had moved when the conditions without a deadline were asked once more.
    asked: Option<u64>,
    /// The time was moved.
    has_moved: bool,
}

impl Watch {
    fn commits(&self) -> u64 {
        self.engines.iter().map(|engine| engine.begun_commits()).sum()
    }

    /// Whether nothing happens in any of the engines.
    fn is_at_rest(&mut self) -> bool {
        let (commits, time) = (self.commits(), self.clock.steady());
        if (commits, time) != (self.commits, self.time) {
            (self.questions, self.commits, self.time) = (None, commits, time);
        }
        if !self.engines.iter().all(|engine| engine.stopped().is_some() || engine.is_at_rest()) {
            return false;
        }
        let (engines, looks) = (&self.engines, &mut self.looks);
        let asked = self.questions.get_or_insert_with(|| {
            *looks = 0;
            engines.iter().map(|engine| engine.ask_loop()).collect()
        });
        let answered = |(engine, asked): (&Arc<PyEngine>, &Option<u64>)| {
            asked.is_none_or(|asked| engine.stopped().is_some() || engine.loop_answered() >= asked)
        };
        // An answer comes after what was ready: whether all are at rest still is known only now.
        self.engines.iter().zip(&*asked).all(answered)
            && self.engines.iter().all(|engine| engine.stopped().is_some() || engine.is_at_rest())
    }

    fn due(&self) -> Due {
        let mut due = Due::default();
        self.engines.iter().for_each(|engine| due.merge(engine.due()));
        due
    }

    fn move_to(&mut self, steady: Duration) {
        self.clock.move_to(steady);
        self.engines.iter().for_each(|engine| engine.clock_was_moved());
        (self.has_moved, self.looks) = (true, 0);
    }

    /// Whether what was due has rung in all of the engines.
    fn has_rung(&mut self) -> bool {
        self.engines.iter().all(|engine| engine.stopped().is_some() || engine.has_rung())
    }

    /// Moves the time to the next alarm, at most to this one, if it `may` be moved. True: it is there, and may still be.
    fn move_towards(&mut self, target: Duration, may: impl FnOnce(&mut Self) -> bool) -> bool {
        let clock = Arc::clone(&self.clock);
        let _moving = clock.moving.lock();
        if !may(self) {
            return false;
        }
        let due = self.due().first().filter(|due| *due <= target);
        let is_there = due.is_none() && self.clock.steady() >= target;
        if !is_there {
            self.move_to(due.unwrap_or(target));
        }
        is_there
    }

    fn drive(
        &mut self,
        run: Option<&PyRunHandle>,
        moves: bool,
        limit: Option<Duration>,
        once: bool,
    ) -> Option<&'static str> {
        let has_ended = || run.is_some_and(PyRunHandle::is_settled);
        if has_ended() || self.engines.iter().any(|engine| engine.stopped().is_some()) {
            return Some("ended");
        }
        let clock = Arc::clone(&self.clock);
        let _moving = clock.moving.lock();
        if (run.is_some() && self.clock.is_held()) || !self.is_at_rest() {
            return None;
        }
        if has_ended() {
            return Some("ended");
        }
        let now = self.clock.steady();
        if limit.is_some_and(|limit| limit <= now) {
            return Some("timeout");
        }
        if once && self.has_moved {
            return Some("moved");
        }
        if !moves {
            return Some("nothing");
        }
        let due = self.due();
        let next = if self.clock.keeps_polls() { due.first_of_waits() } else { due.ending };
        let moves = self.engines.iter().map(|engine| engine.moves()).sum();
        // What comes again and again may end the wait for a run; by itself it never ends.
        let recurring = due.recurring.filter(|_| run.is_some());
        let last = due.endless.into_iter().chain(recurring).map(|(_, last)| last).max();
        let next = match (next, last) {
            (Some(next), _) => Some(next),
            (None, Some(last)) if self.asked != Some(moves) => {
                self.asked = Some(moves);
                Some(last)
            }
            _ => limit,
        };
        let Some(next) = next else { return Some("nothing") };
        // Schedules and watches miss nothing on the way.
        let on_the_way = due.recurring.map(|(first, _)| first);
        self.move_to([limit, on_the_way].into_iter().flatten().fold(next, Duration::min));
        None
    }
}
