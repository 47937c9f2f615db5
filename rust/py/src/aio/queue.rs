//! What waits for a turn of the event loop that executes bodies. See [`super::bell`] for how the loop is woken.

use std::os::fd::RawFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::task::Wake;
use std::time::Duration;

use bide_executor::EventLoop;
use bide_sync::Mutex;
use pyo3::prelude::*;
use pyo3::types::PyString;

use super::bell::Bell;
use super::driven::Spare;
use super::rest::AllResting;
use crate::gil::{self, Kept};
use crate::notify::Notifier;
use crate::process::Home;

/// What other threads leave to the loop.
pub(crate) struct LoopQueue {
    /// Futures that can be polled again.
    woken: Mutex<Vec<Arc<Sleeper>>>,
    /// Waits between two polls. Never locked while Python code runs.
    pub(super) resting: Mutex<AllResting>,
    /// The task in which the conditions of bodies without one are asked.
    pub(super) spare: Mutex<Option<Spare>>,
    /// The task within which a driver begins bodies now.
    pub(super) first: Mutex<Option<Kept>>,
    /// Wakes it.
    bell: Bell,
    /// How many turns the loop has had, and bodies it has begun.
    turns: AtomicU64,
    /// The number of the last question whether nothing is ready on the loop, and of the last one that it has answered.
    pub(super) asked: AtomicU64,
    pub(super) answered: AtomicU64,
    /// The loop's thread, as `threading.get_ident` names it; 0 before its first turn.
    thread: AtomicU64,
    /// How many conditions and steps it executes.
    executing: AtomicUsize,
    /// Whether the loop is blocked, as far as is known.
    watched: Mutex<Watched>,
    /// Reports that it is.
    notifier: Arc<Notifier>,
    /// The `BodyLoop`, while it executes bodies.
    pub(super) bodies: Mutex<Option<Kept>>,
    /// Called once there is something to do and no `BodyLoop` yet: it is to be made.
    wanted: Mutex<Option<Kept>>,
    /// The process in which it was made.
    pub(super) home: Home,
}

/// What the last look at the loop has seen.
#[derive(Default)]
struct Watched {
    /// The number of its turn, and when that was first seen.
    turn: u64,
    since: Duration,
    /// When it was reported last.
    reported: Option<Duration>,
}

/// A loop that has no turn for this long is blocked.
const BLOCKED: Duration = Duration::from_millis(100);

/// That it is blocked is reported no more often.
const REPORT_EVERY: Duration = Duration::from_secs(5);

/// A condition that the loop executes, as long as this exists.
pub(super) struct Executing(Arc<LoopQueue>);

impl Executing {
    pub(super) fn of(queue: &Arc<LoopQueue>) -> Self {
        queue.executes(true);
        Self(Arc::clone(queue))
    }
}

impl Drop for Executing {
    fn drop(&mut self) {
        self.0.executes(false);
    }
}

/// Where a future waits for its turn.
pub(crate) struct Sleeper {
    /// The queue that it is put into.
    queue: Arc<LoopQueue>,
    /// What waits there.
    parked: Mutex<Option<Parked>>,
    /// It is in the queue.
    queued: AtomicBool,
}

/// What waits for a turn of the loop.
pub(super) struct Parked {
    /// The `asyncio.Future` that is completed then. `None`: the call's body has no task.
    pub(super) future: Option<Kept>,
    /// The `PyCall` that is continued before: if it has to wait again, the future is not completed.
    pub(super) call: Option<Kept>,
}

impl LoopQueue {
    pub(crate) fn new(notifier: &Arc<Notifier>) -> Arc<Self> {
        Arc::new(Self {
            woken: Mutex::default(),
            resting: Mutex::default(),
            spare: Mutex::default(),
            first: Mutex::default(),
            bell: Bell::default(),
            turns: AtomicU64::new(0),
            asked: AtomicU64::new(0),
            answered: AtomicU64::new(0),
            thread: AtomicU64::new(0),
            executing: AtomicUsize::new(0),
            watched: Mutex::default(),
            notifier: Arc::clone(notifier),
            bodies: Mutex::default(),
            wanted: Mutex::default(),
            home: Home::here(),
        })
    }

    /// What the loop reads from.
    pub(super) fn fileno(&self, py: Python<'_>) -> PyResult<RawFd> {
        self.bell.fileno(py)
    }

    /// Has this called, on a thread of the runner, once there is something to do and no loop yet.
    pub(super) fn when_wanted(&self, callback: Py<PyAny>) {
        *self.wanted.lock() = Some(Kept::new(callback));
    }

    /// The `BodyLoop` is there, or not any more.
    pub(super) fn set_bodies(&self, bodies: Option<Py<PyAny>>) {
        let wanted = self.wanted.lock().take();
        let resting = if bodies.is_none() { std::mem::take(&mut *self.resting.lock()) } else { AllResting::default() };
        drop(resting);
        let before = std::mem::replace(&mut *self.bodies.lock(), bodies.map(Kept::new));
        drop((wanted, before));
    }

    /// The `BodyLoop`, while it executes bodies.
    pub(crate) fn body_loop<'py>(&self, py: Python<'py>) -> Option<Bound<'py, PyAny>> {
        self.bodies.lock().as_ref().map(|bodies| bodies.bind(py).clone())
    }

    /// Wakes the loop, unless that is under way. Does not block.
    pub(crate) fn wake(&self) {
        self.bell.ring();
    }

    /// A condition or a step begins, or ends: the loop is to have turns meanwhile.
    pub(super) fn executes(&self, begins: bool) {
        if begins {
            self.executing.fetch_add(1, Ordering::Relaxed);
        } else {
            self.executing.fetch_sub(1, Ordering::Relaxed);
        }
    }

    /// The loop goes on: it is not blocked.
    pub(super) fn beat(&self) {
        self.turns.fetch_add(1, Ordering::Relaxed);
    }

    /// Takes what can be polled again. What comes from here on wakes the loop again.
    pub(super) fn take(&self) -> Vec<Arc<Sleeper>> {
        self.beat();
        // SAFETY: always succeeds. It is what `threading.get_ident` returns.
        self.thread.store((unsafe { libc::pthread_self() }) as u64, Ordering::Relaxed);
        self.bell.hear();
        let woken = std::mem::take(&mut *self.woken.lock());
        for sleeper in &woken {
            sleeper.queued.store(false, Ordering::Release);
        }
        woken
    }
}

/// Says why the event loop has no turns: it was closed or stopped, or something blocks its thread, whose stack is shown.
fn why_it_stands(py: Python<'_>, thread: u64, queue: &LoopQueue) -> PyResult<Option<String>> {
    if let Some(bodies) = queue.body_loop(py) {
        let event_loop = gil::getattr(&bodies, pyo3::intern!(py, "loop"))?;
        let says =
            |question: &str| gil::is_truthy(&*gil::call0(&*gil::getattr(&event_loop, &PyString::new(py, question))?)?);
        if says("is_closed")? {
            let line = "the event loop that executes async bodies was closed before its runner: their runs continue once a \
                        runner opens the store again; close the runner first, as async with bide.Runner(...) does";
            return Ok(Some(line.to_owned()));
        }
        if !says("is_running")? {
            let line = "the event loop that executes async bodies does not run: they continue once it does; keep it \
                        running until the runner is closed, as async with bide.Runner(...) does";
            return Ok(Some(line.to_owned()));
        }
    }
    let frames = gil::call0(&py.import("sys")?.getattr("_current_frames")?)?;
    let Ok(frame) = frames.get_item(thread) else { return Ok(None) };
    let stack = gil::call1(&py.import("traceback")?.getattr("format_stack")?, &frame)?;
    let stack: Vec<String> = stack.extract()?;
    let line = "the event loop that executes async bodies has been blocked for over 100 ms: nothing else on it continues \
                meanwhile; give what blocks it to a thread, as in await handle.step(function) with a plain function";
    Ok(Some(format!("{line}. It is at:\n{}", stack.concat().trim_end())))
}

/// The loop, as the dispatcher of the engine sees it.
pub(crate) struct Loop(pub(crate) Arc<LoopQueue>);

impl EventLoop for Loop {
    fn wake(&self) {
        self.0.wake();
    }

    fn want(&self) {
        if let Some(wanted) = self.0.wanted.lock().take() {
            self.0.notifier.call(wanted);
        }
    }

    /// While it is to have turns, each look asks for one and sees whether there was one since.
    fn look(&self, now: Duration, executing: bool) {
        let queue = &self.0;
        let executing = executing || queue.executing.load(Ordering::Relaxed) > 0;
        let (turn, thread) = (queue.turns.load(Ordering::Relaxed), queue.thread.load(Ordering::Relaxed));
        let mut watched = queue.watched.lock();
        if turn != watched.turn || thread == 0 || !(executing || queue.bell.rings()) {
            (watched.turn, watched.since) = (turn, now);
        } else if now.saturating_sub(watched.since) >= BLOCKED
            && watched.reported.is_none_or(|last| now.saturating_sub(last) >= REPORT_EVERY)
        {
            watched.reported = Some(now);
            let stands = Arc::clone(queue);
            queue.notifier.warn_by(move |py| why_it_stands(py, thread, &stands));
        }
        drop(watched);
        if executing {
            queue.wake();
        }
    }

    fn rest(&self) -> Option<u64> {
        let queue = &self.0;
        let told = queue.notifier.rest()?;
        let is_there = queue.bodies.lock().is_some();
        let is_asked = is_there && queue.bell.rings();
        (!is_asked && queue.woken.lock().is_empty()).then(|| told + queue.turns.load(Ordering::SeqCst))
    }

    fn ask(&self) -> Option<u64> {
        self.0.bodies.lock().as_ref()?;
        let number = self.0.asked.fetch_add(1, Ordering::SeqCst) + 1;
        self.0.wake();
        Some(number)
    }

    fn answered(&self) -> u64 {
        self.0.answered.load(Ordering::SeqCst)
    }
}

impl Sleeper {
    pub(super) fn new(queue: &Arc<LoopQueue>) -> Arc<Self> {
        Arc::new(Self { queue: Arc::clone(queue), parked: Mutex::default(), queued: AtomicBool::new(false) })
    }

    /// What waits there, until now.
    pub(super) fn parked(&self) -> Option<Parked> {
        self.parked.lock().take()
    }

    /// Waits there for its turn.
    pub(super) fn park(&self, parked: Parked) {
        let before = self.parked.lock().replace(parked);
        drop(before);
    }
}

impl Wake for Sleeper {
    fn wake(self: Arc<Self>) {
        if !self.queued.swap(true, Ordering::AcqRel) {
            let queue = Arc::clone(&self.queue);
            queue.woken.lock().push(self);
            queue.wake();
        }
    }
}
