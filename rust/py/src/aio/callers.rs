//! Callers on an event loop: where they await what they have submitted. `bide/_caller_loop.py` has the loop's side. What
//! they submit goes to the runner's submitter, and what comes of it waits here for a turn of their loop.

use std::collections::VecDeque;
use std::os::fd::RawFd;
use std::sync::Arc;

use bide_executor::failpoint::{self, Failpoint};
use bide_executor::{Awaiting, Handle, SubmitError};
use bide_sync::Mutex;
use pyo3::prelude::*;

use super::bell::Bell;
use crate::gil::Kept;
use crate::host::{Originals, Python3, Vars};
use crate::options::PyOptions;
use crate::panics::{self, Panicked};
use crate::refused::refused;
use crate::run_handle::PyRunHandle;
use crate::runner::PyRunner;
use crate::submission::{RunInput, taken};
use crate::submitter::{Caller, Submission};
use crate::workflow::PyWorkflow;
use crate::{errors, exit};

/// What has come for the callers on one loop.
#[derive(Default)]
struct Arrivals {
    /// In the order in which it has come, with weak references to futures: these are their callers', whose loop would
    /// otherwise stay with what nobody takes any more.
    queue: Mutex<VecDeque<(Kept, What)>>,
    /// Wakes the loop.
    bell: Bell,
}

/// What has come for a caller.
enum What {
    /// Its run is submitted, and has ended if the caller waits for that.
    Run(Handle<Python3>, Arc<Originals>),
    /// Its run, which it knows, has ended, or is executed elsewhere.
    Settled,
    /// Nothing is submitted to this workflow.
    Failed(Arc<str>, Arc<SubmitError>),
    /// Likewise, because of a bug.
    Panicked(Arc<Panicked>),
}

impl Arrivals {
    fn push(&self, future: Kept, what: What) {
        self.queue.lock().push_back((future, what));
        self.bell.ring();
    }

    /// Takes the first ones. If there are more, the bell rings on.
    fn take(&self, most: usize) -> VecDeque<(Kept, What)> {
        let mut queue = self.queue.lock();
        if queue.len() <= most {
            self.bell.hear();
            return std::mem::take(&mut *queue);
        }
        queue.drain(..most).collect()
    }
}

/// A coroutine that awaits something.
struct Coroutine {
    arrivals: Arc<Arrivals>,
    /// It wants to know how the run ends that it submits.
    awaited: bool,
    /// It gets the handle of that run only then.
    until_end: bool,
    state: Mutex<State>,
}

struct State {
    /// A weak reference to the `asyncio.Future` that it awaits: until that is to be completed, or the caller has given up.
    future: Option<Kept>,
    /// The run whose end it wants to know.
    run: Option<Wanted>,
    /// It has given up.
    is_gone: bool,
}

struct Wanted {
    handle: Handle<Python3>,
    /// It waits for that now. Of a run that it has submitted: with where the original exceptions are.
    waits: Option<(Awaiting<Python3>, Option<Arc<Originals>>)>,
}

impl Coroutine {
    fn new(arrivals: &Arc<Arrivals>, future: Py<PyAny>, awaited: bool, until_end: bool) -> Arc<Self> {
        let state = Mutex::new(State { future: Some(Kept::new(future)), run: None, is_gone: false });
        Arc::new(Self { arrivals: Arc::clone(arrivals), awaited, until_end, state })
    }

    fn gets(&self, what: What) {
        let future = self.state.lock().future.take();
        if let Some(future) = future {
            self.arrivals.push(future, what);
        }
    }

    /// Keeps the run whose end it wants to know. False: it has given up.
    fn wants(&self, wanted: Wanted) -> bool {
        let handle = wanted.handle.clone();
        let mut state = self.state.lock();
        if state.is_gone {
            drop(state);
            handle.settled().give_up();
            return false;
        }
        state.run = Some(wanted);
        true
    }

    /// It gets to know once the run is settled.
    fn waits(self: &Arc<Self>, handle: Handle<Python3>, originals: Option<Arc<Originals>>) {
        let waits = Some((Awaiting::new(&handle), originals));
        if self.wants(Wanted { handle: handle.clone(), waits }) {
            // One that is dropped while it waits has given up.
            let caller = Arc::downgrade(self);
            handle.settled().on_settled(Box::new(move || {
                if let Some(caller) = caller.upgrade() {
                    caller.settled();
                }
            }));
        }
    }

    fn settled(&self) {
        let run = self.state.lock().run.take();
        if let Some(Wanted { handle, waits: Some((_awaiting, originals)) }) = run {
            self.gets(originals.map_or(What::Settled, |originals| What::Run(handle, originals)));
        }
    }

    fn gives_up(&self) {
        let (future, run) = {
            let mut state = self.state.lock();
            state.is_gone = true;
            (state.future.take(), state.run.take())
        };
        if let Some(Wanted { handle, .. }) = run {
            handle.settled().give_up();
        }
        drop(future);
    }
}

impl Caller for Coroutine {
    fn submitted(self: Arc<Self>, handle: Handle<Python3>, originals: Arc<Originals>) {
        if self.until_end {
            self.waits(handle, Some(originals));
        } else if !self.awaited || self.wants(Wanted { handle: handle.clone(), waits: None }) {
            self.gets(What::Run(handle, originals));
        }
    }

    fn failed(&self, workflow: &Arc<str>, error: &Arc<SubmitError>) {
        self.gets(What::Failed(Arc::clone(workflow), Arc::clone(error)));
    }

    fn panicked(&self, panicked: &Arc<Panicked>) {
        self.gets(What::Panicked(Arc::clone(panicked)));
    }
}

/// What a caller keeps while it awaits something.
#[pyclass(frozen, module = "bide._core", name = "Awaited")]
pub(crate) struct PyAwaited(Arc<Coroutine>);

#[pymethods]
impl PyAwaited {
    /// The caller does not await it any more.
    fn give_up(&self) {
        self.0.gives_up();
    }
}

/// The callers on one event loop.
#[pyclass(frozen, module = "bide._core", name = "Callers")]
pub(crate) struct PyCallers {
    runner: Py<PyRunner>,
    arrivals: Arc<Arrivals>,
}

#[pymethods]
impl PyCallers {
    #[new]
    fn new(runner: Py<PyRunner>) -> PyResult<Self> {
        runner.get().inner.home.check("Runner")?;
        Ok(Self { runner, arrivals: Arc::default() })
    }

    /// What the loop reads from when something has come.
    fn fileno(&self, py: Python<'_>) -> PyResult<RawFd> {
        self.arrivals.bell.fileno(py)
    }

    /// Has a run submitted after the next `flush`. Its handle completes the future to which this is a weak reference: once
    /// it is submitted, or with `until_end` once it has ended. `awaited`: the caller waits for the end of the run, or
    /// calls `give_up`.
    #[expect(clippy::too_many_arguments, reason = "each is said apart in Python")]
    fn submit(
        &self,
        py: Python<'_>,
        workflow: &PyWorkflow,
        run: RunInput,
        contextvars: Bound<'_, PyAny>,
        options: Option<PyOptions>,
        awaited: bool,
        until_end: bool,
        future: Py<PyAny>,
    ) -> PyResult<PyAwaited> {
        panics::method(|| {
            let runner = self.runner.get();
            runner.open(py)?;
            failpoint::hit(Failpoint::Caller);
            runner.start_gates(py, workflow)?;
            let vars = Vars::new(contextvars)?.map(Arc::new);
            let options = options.map(Into::into).unwrap_or_default();
            let (graph, bodies) = workflow.shared(py);
            let coroutine = Coroutine::new(&self.arrivals, future, awaited, until_end);
            let (run, caller) = (taken(run), Arc::clone(&coroutine) as Arc<dyn Caller>);
            let submission = Submission { graph, bodies, run, options, vars, awaited, caller };
            match runner.inner.submitter.put(&runner.inner.engine, submission) {
                Ok(true) => Ok(PyAwaited(coroutine)),
                // It was closed in between.
                Ok(false) => Err(runner.closed_error(py)),
                Err(error) => {
                    let why = format!("the runner cannot start the thread that submits runs of coroutines: {error}");
                    Err(errors::bide(py, &why))
                }
            }
        })
    }

    /// Has what was put submitted.
    fn flush(&self) {
        self.runner.get().inner.submitter.flush();
    }

    /// None completes the future, given as above, once `wait(0)` of the run's handle returns true or raises.
    fn settled(&self, run: &PyRunHandle, future: Py<PyAny>) -> PyResult<PyAwaited> {
        panics::method(|| {
            self.runner.get().inner.home.check("RunHandle")?;
            let coroutine = Coroutine::new(&self.arrivals, future, true, true);
            coroutine.waits(run.handle(), None);
            Ok(PyAwaited(coroutine))
        })
    }

    /// Drops what has come, and what it keeps: all callers have left.
    fn clear(&self) {
        let left = std::mem::take(&mut *self.arrivals.queue.lock());
        drop(left);
    }

    /// Takes at most `most` futures that are to be completed, as weak references, each with its result or its exception.
    fn turn<'py>(&self, py: Python<'py>, most: usize) -> PyResult<Vec<(Bound<'py, PyAny>, Bound<'py, PyAny>)>> {
        panics::method(|| {
            let arrived = self.arrivals.take(most).into_iter();
            let completed = arrived.map(|(future, what)| {
                // An error here is the result of that future alone.
                let result =
                    self.result(py, what).unwrap_or_else(|error| error.into_value(py).into_bound(py).into_any());
                (future.into_owned(py).into_bound(), result)
            });
            Ok(completed.collect())
        })
    }
}

impl PyCallers {
    fn result<'py>(&self, py: Python<'py>, what: What) -> PyResult<Bound<'py, PyAny>> {
        match what {
            What::Settled => Ok(py.None().into_bound(py)),
            What::Run(handle, originals) => {
                let runner = Arc::clone(&self.runner.get().inner);
                Ok(Bound::new(py, PyRunHandle::submitted(runner, handle, originals))?.into_any())
            }
            What::Failed(workflow, error) => {
                exit::keep_daemons(py)?;
                Err(refused(py, &workflow, &error, false))
            }
            What::Panicked(panicked) => Err(errors::bide(py, &panicked.to_string())),
        }
    }
}
