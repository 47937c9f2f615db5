//! `_core.Runner`: an engine with Python as its host, opened on a store, closed once.

mod access;
pub(crate) mod inner;
mod threads;

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use bide_core::Time;
use bide_executor::failpoint::{self, Failpoint};
use bide_executor::{Coroutines, Engine, Pool, SourceId, SystemClock, default_max_parked, default_slots};
use bide_store::RunFilter;
use pyo3::prelude::*;
use pyo3::types::{PyBytes, PyDict};

use crate::aio::{Loop, LoopQueue, PyLoopQueue};
use crate::channel::{self, PyChannel};
use crate::control::{self, PyAsk};
use crate::exit;
use crate::follower::{self, PyFollower};
use crate::fork::{self, PyFork};
use crate::gil;
use crate::history::{self, PyHappened};
use crate::limits::{self, PyLimitInfo};
use crate::messages::{self, PyLetter, PySent, run_id};
use crate::notify::Notifier;
use crate::observe;
use crate::options::PyOptions;
use crate::process;
use crate::run_handle::PyRunHandle;
use crate::schedules::{self, PySchedule, PyStarted};
use crate::snapshot::{self, PySnapshot};
use crate::test_clock::PyTestClock;
use crate::watches::{self, PyWatch};
use crate::why::{self, PyListed, PyPosition, PyWhy};
use crate::workflow::PyWorkflow;
use crate::{errors, location, metrics, panics, submission};

pub(crate) use inner::Inner;

/// How long coroutines that are cancelled at the end of their grace may take to unwind.
const CANCEL_GRACE: Duration = Duration::from_millis(200);

/// Executes runs.
#[pyclass(frozen, module = "bide._core", name = "Runner")]
pub(crate) struct PyRunner {
    /// Shared with its handles.
    pub(crate) inner: Arc<Inner>,
}

#[pymethods]
impl PyRunner {
    /// Opens a store and starts the threads. For tests: with a clock that is moved by hand, and on the store of a runner
    /// that has crashed.
    #[new]
    #[pyo3(signature = (
        store, slots, durability, max_parked, retention, async_slots, cancel_grace, clock=None, crashed=None
    ))]
    #[expect(clippy::too_many_arguments, reason = "those of Python, each by its name")]
    fn new(
        py: Python<'_>,
        store: OsString,
        slots: Option<u32>,
        durability: &str,
        max_parked: Option<usize>,
        retention: Option<f64>,
        async_slots: u32,
        cancel_grace: (f64, f64),
        clock: Option<&Bound<'_, PyTestClock>>,
        crashed: Option<&Bound<'_, Self>>,
    ) -> PyResult<Self> {
        panics::method(|| {
            errors::names(py)?;
            channel::prepare(py)?;
            if process::closing() {
                return Err(errors::closed(py, "the interpreter is exiting: no runner can be made any more"));
            }
            let opened = match crashed.and_then(|crashed| crashed.get().inner.left_in_memory()) {
                Some(left) => Ok(left),
                None => gil::detached(py, || location::open(&store, durability)),
            };
            let store = opened.map_err(|error| errors::store(py, &error))?;
            let slots = slots.unwrap_or_else(default_slots);
            let executes = slots > 0;
            let pool =
                Pool::new(slots.max(1), max_parked.unwrap_or_else(default_max_parked), Box::new(threads::start_worker));
            // The notifier's thread must not be the first to import it: during an exit it could not end in there.
            py.import("logging")?;
            let notifier = Arc::new(Notifier::default());
            let queue = LoopQueue::new(&notifier);
            let pool = pool.with_coroutines(Coroutines::new(async_slots, Loop(Arc::clone(&queue))));
            let span = |seconds| Duration::try_from_secs_f64(seconds).unwrap_or(Duration::MAX);
            let retention = retention.map(span);
            let log = Arc::clone(&notifier);
            let time = clock.map_or_else(SystemClock::shared, |clock| clock.get().clock());
            let kept = clock.map(|_| Arc::clone(&store));
            let started = gil::detached(py, || {
                let log = Box::new(move |level, line: &str| log.log(level, line));
                if executes {
                    Engine::start_with(store, time, pool, log, retention)
                } else {
                    Engine::start_client(store, time, pool, log)
                }
            });
            let engine = started.map_err(|error| errors::store(py, &error))?;
            engine.set_cancel_grace(span(cancel_grace.0), span(cancel_grace.1));
            clock.into_iter().for_each(|clock| clock.get().moves(&engine));
            let inner = Arc::new(Inner::new(engine, notifier, queue, kept));
            metrics::add(&inner);
            let as_closed: std::sync::Weak<Inner> = Arc::downgrade(&inner);
            // From here on it is closed when it is dropped, as by an interrupt in one of these calls.
            let runner = Self { inner };
            exit::close_at_exit(py, as_closed)?;
            threads::start(py, &runner.inner.engine, &runner.inner.notifier).map(|()| runner)
        })
    }

    /// One that submits, sends and looks, and executes nothing: on the store that a path or URL names.
    #[staticmethod]
    fn client(py: Python<'_>, store: OsString) -> PyResult<Self> {
        panics::method(|| {
            errors::names(py)?;
            channel::prepare(py)?;
            let opened = gil::detached(py, || location::open_existing(&store));
            Self::client_on(py, opened.map_err(|error| errors::store(py, &error))?)
        })
    }

    /// The same, on the store of this runner.
    fn client_here(&self, py: Python<'_>) -> PyResult<Self> {
        panics::method(|| {
            self.open(py)?;
            Self::client_on(py, self.inner.engine.store())
        })
    }

    /// Has `callback(event)` called with all that happens from here on, and `commits(seconds)` with how long each commit
    /// takes: see `bide._observe`.
    fn observe(
        &self,
        py: Python<'_>,
        callback: Py<PyAny>,
        commits: Option<Py<PyAny>>,
        in_micros: bool,
    ) -> PyResult<()> {
        self.within(py, |engine| {
            engine.observe(observe::observer(callback, in_micros, &self.inner.notifier));
            commits.into_iter().for_each(|call| engine.observe_commits(observe::commits(call, &self.inner.notifier)));
            Ok(())
        })
    }

    /// Registers a workflow and takes its unfinished runs up.
    fn register(&self, py: Python<'_>, workflow: &PyWorkflow) -> PyResult<()> {
        panics::method(|| {
            self.at_store(py)?;
            self.start_gates(py, workflow)?;
            let engine = &self.inner.engine;
            let (graph, bodies) = workflow.shared(py);
            let done = gil::detached(py, || engine.register(graph, bodies));
            done.map(drop).map_err(|error| errors::store(py, &error))
        })
    }

    /// Creates runs in one commit, or attaches to those that their keys name. With `linger` it returns only once the
    /// first of them has ended, or a little later, if the store takes its time: a caller that waits for it anyway
    /// leaves the interpreter to the body for all that time. `many` is for the words of errors: which of them was
    /// refused. `contextvars` are those of each run, or one for all. `awaited`: the caller waits for them until their ends.
    #[expect(clippy::too_many_arguments, reason = "each is said apart in Python")]
    #[pyo3(signature = (workflow, runs, contextvars, linger, many, options=None, awaited=false))]
    fn submit(
        &self,
        py: Python<'_>,
        workflow: &PyWorkflow,
        runs: Vec<submission::RunInput>,
        contextvars: Vec<Bound<'_, PyAny>>,
        linger: bool,
        many: bool,
        options: Option<PyOptions>,
        awaited: bool,
    ) -> PyResult<Vec<PyRunHandle>> {
        panics::method(|| {
            self.at_store(py)?;
            failpoint::hit(Failpoint::Caller);
            self.start_gates(py, workflow)?;
            let options = options.map(Into::into).unwrap_or_default();
            let (given, how) = ((runs, options), submission::How { linger, many, awaited });
            let handle = |handle, originals| PyRunHandle::submitted(Arc::clone(&self.inner), handle, originals);
            submission::submit(py, &self.inner.engine, workflow, given, contextvars, how, handle)
        })
    }

    /// The ids and workflows of the runs with this id or key.
    fn find(&self, py: Python<'_>, text: &str, workflow: Option<&str>) -> PyResult<Vec<(String, String)>> {
        panics::method(|| {
            self.at_store(py)?;
            snapshot::find(py, &self.inner.engine, text, workflow)
        })
    }

    /// A handle of a run that exists.
    fn attach(&self, py: Python<'_>, id: &str) -> PyResult<PyRunHandle> {
        panics::method(|| {
            self.at_store(py)?;
            let id = run_id(py, id)?;
            let handle = gil::detached(py, || self.inner.engine.handle(id));
            handle.map(|handle| self.handle(handle)).map_err(|error| errors::store(py, &error))
        })
    }

    /// A run as it stands; `None` if there is none.
    fn snapshot(&self, py: Python<'_>, id: &str) -> PyResult<Option<PySnapshot>> {
        panics::method(|| {
            self.at_store(py)?;
            let id = run_id(py, id)?;
            PySnapshot::load(py, &self.inner.engine, id)
        })
    }

    /// Sends messages to runs; says of each what became of it.
    fn send(&self, py: Python<'_>, letters: Vec<PyLetter>) -> PyResult<Vec<PySent>> {
        self.within(py, |engine| messages::send(py, engine, letters))
    }

    /// Answers a callback, with a value or by rejecting it; says what became of the answer.
    #[pyo3(signature = (callback, value, reason, id))]
    fn answer(
        &self,
        py: Python<'_>,
        callback: (String, String),
        value: Option<&[u8]>,
        reason: &str,
        id: Option<&str>,
    ) -> PyResult<PySent> {
        panics::method(|| {
            self.at_store(py)?;
            messages::answer(py, &self.inner.engine, (&callback.0, &callback.1), value, reason, id)
        })
    }

    /// Sends a request and waits for its answer: what became of it, and the answer, unless the time is over.
    #[pyo3(signature = (run, name, value, id, timeout))]
    fn request<'py>(
        &self,
        py: Python<'py>,
        run: &str,
        name: &str,
        value: &[u8],
        id: Option<&str>,
        timeout: Option<f64>,
    ) -> PyResult<(PySent, Option<Bound<'py, PyBytes>>)> {
        panics::method(|| {
            self.at_store(py)?;
            messages::request(py, &self.inner.engine, (run, name), value, id, timeout)
        })
    }

    /// Asks something of runs as a whole, or of one of their tasks; says of each what became of that.
    fn ask(&self, py: Python<'_>, runs: Vec<String>, asked: PyAsk) -> PyResult<Vec<PySent>> {
        self.within(py, |engine| control::ask(py, engine, &runs, asked))
    }

    /// Forks a run of a workflow.
    fn fork(
        &self,
        py: Python<'_>,
        workflow: &PyWorkflow,
        asked: PyFork,
        contextvars: Bound<'_, PyAny>,
    ) -> PyResult<PyRunHandle> {
        panics::method(|| {
            self.at_store(py)?;
            fork::fork(py, &self.inner.engine, workflow, asked, contextvars).map(|handle| self.handle(handle))
        })
    }

    /// Has a run continue with a workflow that it does not fit; says what became of that.
    fn adopt(
        &self,
        py: Python<'_>,
        workflow: &PyWorkflow,
        run: &str,
        by: Option<String>,
        reason: Option<String>,
    ) -> PyResult<PySent> {
        self.within(py, |engine| fork::adopt(py, engine, workflow, run, by, reason))
    }

    /// Defines a schedule, or changes it; as a dict.
    fn schedule<'p>(&self, py: Python<'p>, workflow: &PyWorkflow, asked: PySchedule) -> PyResult<Bound<'p, PyDict>> {
        self.within(py, |engine| schedules::define(py, engine, workflow, asked))
    }

    /// All schedules, as dicts.
    fn schedules<'py>(&self, py: Python<'py>) -> PyResult<Vec<Bound<'py, PyDict>>> {
        self.within(py, |engine| schedules::list(py, engine))
    }

    /// Pauses, resumes or removes a schedule, or starts a run of it, which it answers.
    fn alter_schedule(&self, py: Python<'_>, name: &str, what: &str) -> PyResult<Option<PyStarted>> {
        self.within(py, |engine| schedules::alter(py, engine, name, what))
    }

    /// Starts the runs of past ticks of a schedule, at most so many; all of them.
    fn backfill(&self, py: Python<'_>, name: &str, since: i64, until: i64, most: usize) -> PyResult<Vec<PyStarted>> {
        self.within(py, |engine| schedules::backfill(py, engine, name, since, until, most))
    }

    /// Defines a watch, or changes it, and has its source called here; as a dict.
    fn watch<'p>(&self, py: Python<'p>, workflow: &PyWorkflow, asked: PyWatch) -> PyResult<Bound<'p, PyDict>> {
        self.within(py, |engine| watches::define(py, engine, workflow, asked))
    }

    /// All watches, as dicts.
    fn watches<'py>(&self, py: Python<'py>) -> PyResult<Vec<Bound<'py, PyDict>>> {
        self.within(py, |engine| watches::list(py, engine))
    }

    /// Pauses, resumes or removes a watch.
    fn alter_watch(&self, py: Python<'_>, name: &str, what: &str) -> PyResult<()> {
        self.within(py, |engine| watches::alter(py, engine, name, what))
    }

    /// The source that was to answer later has done so.
    fn source_is_ready(&self, source: u64) -> PyResult<()> {
        panics::method(|| {
            self.inner.engine.source_is_ready(SourceId(source));
            Ok(())
        })
    }

    /// What has happened to a run; `None` if there is none.
    fn history<'py>(&self, py: Python<'py>, id: &str) -> PyResult<Option<Vec<PyHappened<'py>>>> {
        self.within(py, |engine| history::history(py, engine, run_id(py, id)?))
    }

    /// How many requests wait for their answers here.
    fn pending_requests(&self) -> PyResult<usize> {
        self.inner.home.check("Runner")?;
        Ok(self.inner.engine.pending_requests())
    }

    /// Runs as they stand, newest first.
    #[pyo3(signature = (status, workflow, since, limit, tags=None, key_prefix=None, parent=None, ids=None))]
    #[expect(clippy::too_many_arguments, reason = "each narrows the listing down")]
    fn runs(
        &self,
        py: Python<'_>,
        status: Option<&str>,
        workflow: Option<String>,
        since: Option<i64>,
        limit: Option<usize>,
        tags: Option<BTreeMap<String, String>>,
        key_prefix: Option<String>,
        parent: Option<&str>,
        ids: Option<(String, String)>,
    ) -> PyResult<Vec<PySnapshot>> {
        panics::method(|| {
            self.at_store(py)?;
            let status = snapshot::status_named(py, status)?;
            let tags = tags.into_iter().flatten().map(|(name, value)| (name.into(), value.into())).collect();
            let parent = parent.map(|id| run_id(py, id)).transpose()?;
            let since = since.map(Time);
            let ids = ids.map(|(first, last)| PyResult::Ok(run_id(py, &first)?..=run_id(py, &last)?)).transpose()?;
            let filter = RunFilter { status, workflow, since, limit, tags, key_prefix, parent, ids };
            snapshot::list(py, &self.inner.engine, &filter)
        })
    }

    /// What holds a run; `None` if there is none.
    fn explain<'py>(&self, py: Python<'py>, id: &str) -> PyResult<Option<PyWhy<'py>>> {
        self.within(py, |engine| why::explain(py, engine, run_id(py, id)?))
    }

    /// The limits of the store, and how much of each is used.
    fn limits(&self, py: Python<'_>) -> PyResult<Vec<PyLimitInfo>> {
        self.within(py, |engine| limits::all(py, engine))
    }

    /// A page of the open waits of all runs, the oldest first.
    fn open_waits<'py>(&self, py: Python<'py>, after: Option<PyPosition>, most: usize) -> PyResult<Vec<PyListed<'py>>> {
        self.within(py, |engine| why::open_waits(py, engine, after, most))
    }

    /// The names of the channels that a run has emitted to.
    fn channels(&self, py: Python<'_>, id: &str) -> PyResult<Vec<String>> {
        self.within(py, |engine| {
            let id = run_id(py, id)?;
            let names = gil::detached(py, || engine.store().channels(id)).map_err(|error| errors::store(py, &error))?;
            Ok(names.iter().map(ToString::to_string).collect())
        })
    }

    /// The last event of a channel of a run; `None` if there is none.
    fn latest<'py>(
        &self,
        py: Python<'py>,
        id: &str,
        channel: &Bound<'py, PyChannel>,
    ) -> PyResult<Option<follower::Event<'py>>> {
        self.within(py, |engine| follower::latest(py, engine, run_id(py, id)?, channel.get()))
    }

    /// Reads and follows a channel of a run.
    fn follow(&self, py: Python<'_>, id: &str, channel: &Bound<'_, PyChannel>) -> PyResult<PyFollower> {
        panics::method(|| {
            self.at_store(py)?;
            let Inner { engine, notifier, home, .. } = &*self.inner;
            Ok(PyFollower::new(engine, notifier, *home, run_id(py, id)?, channel))
        })
    }

    /// Deletes an ended run; false if it has not ended.
    fn delete(&self, py: Python<'_>, id: &str) -> PyResult<bool> {
        panics::method(|| {
            self.at_store(py)?;
            let id = run_id(py, id)?;
            let deleted = gil::detached(py, || self.inner.engine.store().delete(id));
            deleted.map_err(|error| errors::store(py, &error))
        })
    }

    /// Slots in use and in all, bodies with a handle that execute or are parked, and how many may be.
    fn load(&self) -> PyResult<(usize, usize, usize, usize)> {
        self.inner.home.check("Runner")?;
        let (used, total) = self.inner.engine.dispatch().slots_in_use();
        let (handles, most) = self.inner.engine.dispatch().handles();
        Ok((used, total, handles, most))
    }

    /// What it has counted, and what it has now, by name.
    fn metrics<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyDict>> {
        metrics::of(py, &self.inner)
    }

    /// The event loop's side.
    fn loop_queue(&self) -> PyResult<PyLoopQueue> {
        self.inner.home.check("Runner")?;
        Ok(PyLoopQueue::new(Arc::clone(&self.inner.queue), Arc::clone(&self.inner.engine)))
    }

    /// The store's name, without secrets.
    #[getter]
    fn store(&self) -> String {
        self.inner.engine.store().name().to_owned()
    }

    /// Whether it is closed or has stopped.
    #[getter]
    fn closed(&self) -> bool {
        !self.inner.home.is_here() || self.inner.closed.load(Ordering::Acquire) || self.inner.engine.stopped().is_some()
    }

    /// Whether this is another process than its own, forked from that.
    #[getter]
    fn elsewhere(&self) -> bool {
        !self.inner.home.is_here()
    }

    /// Suspends what is deferred, gives bodies `grace` seconds to end, has coroutines cancelled that have not, and
    /// releases the store. False: another call does that, or has done it.
    fn close(&self, py: Python<'_>, grace: f64, cancel: &Bound<'_, PyAny>) -> PyResult<bool> {
        panics::method(|| {
            self.inner.home.check("Runner")?;
            let first = !self.inner.closed.swap(true, Ordering::AcqRel);
            if !first {
                return Ok(false);
            }
            let inner = &self.inner;
            inner.submitter.stop();
            inner.engine.begin_close();
            let ended = threads::wait_for_bodies(py, &inner.engine, grace);
            let mut cancelled = Ok(());
            if let Some(coroutines) = inner.engine.dispatch().coroutines()
                && coroutines.bodies() > 0
            {
                cancelled = gil::call0(cancel).map(drop);
                let _ = gil::idle(py, || coroutines.wait_idle(CANCEL_GRACE));
            }
            // Whatever was raised: the store is released.
            let released = threads::release(py, inner);
            cancelled?;
            ended?;
            released.map(|()| true)
        })
    }
}
