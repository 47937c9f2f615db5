//! A tiny thread pool over `gil.rs`, for trying interpreter exits, forks and neighbours without the
//! rest of bide. Built with the cargo feature `probe` only; never in a release.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bide_sync::{Condvar, Mutex};
use pyo3::exceptions::{PyBaseException, PyRuntimeError, PyTimeoutError};
use pyo3::prelude::*;
use pyo3::types::{PyDict, PyTuple};

use crate::exit::{self, CloseAtExit, Home};
use crate::gil::{self, Kept, Raised};
use crate::turn::Turn;
use crate::{panics, thread};

pyo3::create_exception!(_probe, Suspended, PyBaseException);

/// Adds the submodule.
pub(crate) fn register(m: &Bound<'_, PyModule>) -> PyResult<()> {
    let py = m.py();
    let probe = PyModule::new(py, "_probe")?;
    probe.add_class::<Pool>()?;
    probe.add_class::<Ticket>()?;
    probe.add_class::<Handle>()?;
    probe.add("Suspended", py.get_type::<Suspended>())?;
    probe.add_function(wrap_pyfunction!(unguarded, &probe)?)?;
    probe.add_function(wrap_pyfunction!(call, &probe)?)?;
    probe.add_function(wrap_pyfunction!(panic, &probe)?)?;
    probe.add_function(wrap_pyfunction!(cost, &probe)?)?;
    probe.add_function(wrap_pyfunction!(from_rust_thread, &probe)?)?;
    m.add_submodule(&probe)
}

#[derive(Default)]
struct State {
    queue: VecDeque<(Kept, Arc<Outcome>)>,
    /// Threads that run or look for bodies; those with a parked body are not counted.
    active: usize,
    started: usize,
    closing: bool,
}

struct Inner {
    home: Home,
    slots: usize,
    state: Mutex<State>,
    /// Work has come.
    work: Condvar,
    /// Closing has begun: what parked bodies wait for.
    close: Condvar,
}

#[derive(Default)]
struct Outcome {
    value: Mutex<Option<Result<Kept, Raised>>>,
    set: Condvar,
}

impl CloseAtExit for Inner {
    fn begin_close(&self) {
        self.state.lock().closing = true;
        self.work.notify_all();
        self.close.notify_all();
    }

    fn end_close(&self) {
        // Bodies that nobody will run: released by whoever attaches next, if anyone does.
        let dropped = std::mem::take(&mut self.state.lock().queue);
        drop(dropped);
    }
}

/// Runs bodies on `slots` threads.
#[pyclass(frozen, module = "bide._core._probe")]
struct Pool(Arc<Inner>);

#[pymethods]
impl Pool {
    #[new]
    fn new(py: Python<'_>, slots: usize) -> PyResult<Self> {
        panics::method(|| {
            if exit::closing() {
                return Err(PyRuntimeError::new_err("the interpreter is exiting"));
            }
            let inner = Arc::new(Inner {
                home: Home::here(),
                slots,
                state: Mutex::default(),
                work: Condvar::new(),
                close: Condvar::new(),
            });
            let weak: std::sync::Weak<Inner> = Arc::downgrade(&inner);
            exit::close_at_exit(py, weak)?;
            for _ in 0..slots {
                start_worker(py, &inner)?;
            }
            Ok(Self(inner))
        })
    }

    /// Has `body(handle)` run.
    fn go(&self, body: Py<PyAny>) -> PyResult<Ticket> {
        panics::method(|| {
            self.0.home.check("Pool")?;
            let outcome = Arc::new(Outcome::default());
            let mut state = self.0.state.lock();
            if state.closing {
                return Err(PyRuntimeError::new_err("the pool is closed"));
            }
            state.queue.push_back((Kept::new(body), Arc::clone(&outcome)));
            drop(state);
            self.0.work.notify_one();
            Ok(Ticket(self.0.home, outcome))
        })
    }
}

impl Drop for Pool {
    fn drop(&mut self) {
        if self.0.home.is_here() {
            self.0.begin_close();
        }
    }
}

/// What came of a body.
#[pyclass(frozen, module = "bide._core._probe")]
struct Ticket(Home, Arc<Outcome>);

#[pymethods]
impl Ticket {
    /// Waits for the body's end; returns what it returned or raises what it raised.
    #[pyo3(signature = (timeout=None))]
    fn result(&self, py: Python<'_>, timeout: Option<f64>) -> PyResult<Py<PyAny>> {
        panics::method(|| {
            self.0.check("Ticket")?;
            let deadline = timeout.map(|s| Instant::now() + Duration::from_secs_f64(s));
            loop {
                if let Some(value) = self.1.value.lock().take() {
                    return Ok(value?.into_owned(py).into_bound().unbind());
                }
                if deadline.is_some_and(|d| Instant::now() >= d) {
                    return Err(PyTimeoutError::new_err("the body has not ended"));
                }
                if exit::closing() {
                    return Err(PyRuntimeError::new_err("the interpreter is exiting"));
                }
                gil::idle(py, || {
                    let mut value = self.1.value.lock();
                    if value.is_none() {
                        self.1.set.wait_for(&mut value, Duration::from_millis(50));
                    }
                });
                py.check_signals()?;
            }
        })
    }
}

/// What a body gets.
#[pyclass(frozen, module = "bide._core._probe")]
struct Handle(Arc<Inner>);

#[pymethods]
impl Handle {
    /// Parks until `condition()` is truthy, polled on this thread; another thread takes its place.
    #[pyo3(signature = (condition, poll_interval_ms=1000))]
    fn defer_until(&self, py: Python<'_>, condition: Bound<'_, PyAny>, poll_interval_ms: u64) -> PyResult<Py<PyAny>> {
        panics::method(|| {
            self.0.home.check("Handle")?;
            let mut parked = false;
            loop {
                let value = gil::call0(&condition)?;
                if gil::is_truthy(&value)? {
                    if parked {
                        self.0.state.lock().active += 1;
                    }
                    return Ok(value.into_bound().unbind());
                }
                if !parked {
                    parked = true;
                    self.0.state.lock().active -= 1;
                    replace_worker(py, &self.0);
                }
                let closing = gil::idle(py, || {
                    let mut state = self.0.state.lock();
                    let interval = Duration::from_millis(poll_interval_ms);
                    if !state.closing {
                        self.0.close.wait_for(&mut state, interval);
                    }
                    if state.closing {
                        state.active += 1;
                    }
                    state.closing
                });
                if closing {
                    return Err(Suspended::new_err("the pool is closing"));
                }
            }
        })
    }
}

fn start_worker(py: Python<'_>, inner: &Arc<Inner>) -> Result<(), thread::StartError> {
    let name = {
        let mut state = inner.state.lock();
        state.active += 1;
        state.started += 1;
        format!("bide-probe-{}", state.started)
    };
    let worker = Arc::clone(inner);
    thread::start_thread(py, &name, move |py| work(py, &worker)).inspect_err(|_| {
        inner.state.lock().active -= 1;
    })
}

/// As many threads again as there are slots, if that can be had.
fn replace_worker(py: Python<'_>, inner: &Arc<Inner>) {
    let state = inner.state.lock();
    let wanted = state.active < inner.slots && !state.closing;
    drop(state);
    if wanted {
        // At the cap the pool simply has one slot less until a body resumes.
        let _ = start_worker(py, inner);
    }
}

fn work(py: Python<'_>, inner: &Arc<Inner>) {
    let mut turn = Turn::begin();
    loop {
        let next = {
            let mut state = inner.state.lock();
            if state.closing || state.active > inner.slots {
                state.active -= 1;
                return;
            }
            state.queue.pop_front()
        };
        let Some((body, outcome)) = next else {
            turn.idle(py, || {
                let mut state = inner.state.lock();
                if state.queue.is_empty() && !state.closing {
                    inner.work.wait(&mut state);
                }
            });
            continue;
        };
        let body = body.into_owned(py);
        let result = match Bound::new(py, Handle(Arc::clone(inner))) {
            Ok(handle) => gil::call1(&body, handle.as_any()).map(gil::Owned::keep),
            Err(error) => Err(Raised::new(py, error)),
        };
        if !inner.home.is_here() {
            // The body forked and returned in the child as well: there is no pool here.
            return;
        }
        *outcome.value.lock() = Some(result);
        outcome.set.notify_all();
        drop(outcome);
        turn.between(py, Instant::now());
    }
}

/// Calls `f` on a Python thread as PyO3 would, without the guard.
#[pyfunction]
fn unguarded(py: Python<'_>, f: Py<PyAny>) -> PyResult<()> {
    thread::start_thread(py, "bide-probe-unguarded", move |py| {
        let _ = f.call0(py);
    })?;
    Ok(())
}

/// Calls `f` ever again from a thread that Rust owns, until the interpreter goes.
#[pyfunction]
fn from_rust_thread(f: Py<PyAny>) {
    let f = Kept::new(f);
    std::thread::spawn(move || {
        while gil::attach(|py| gil::call0(f.bind(py)).is_ok()).is_some() {
            std::thread::sleep(Duration::from_micros(100));
        }
    });
}

/// `f(*args, **kwargs)`, in the form that fits.
#[pyfunction]
#[pyo3(signature = (f, *args, **kwargs))]
fn call(
    py: Python<'_>,
    f: Bound<'_, PyAny>,
    args: Bound<'_, PyTuple>,
    kwargs: Option<Bound<'_, PyDict>>,
) -> PyResult<Py<PyAny>> {
    panics::method(|| {
        let result = if let Some(kwargs) = kwargs {
            let copy = gil::dict(py)?;
            for (key, value) in kwargs {
                gil::set_item(&copy, &key, &value)?;
            }
            gil::call(&f, &args, Some(copy.cast::<PyDict>()?))?
        } else {
            let args: Vec<_> = args.iter().collect();
            gil::call_args(&f, &args.iter().collect::<Vec<_>>())?
        };
        Ok(result.into_bound().unbind())
    })
}

/// Panics.
#[pyfunction]
fn panic() -> PyResult<()> {
    panics::method(|| panic!("asked to"))
}

/// Nanoseconds per call of `f()` and `g(None)`: by PyO3, and by the guarded calls.
#[pyfunction]
fn cost(py: Python<'_>, f: Bound<'_, PyAny>, g: Bound<'_, PyAny>, n: u32) -> PyResult<(f64, f64, f64, f64)> {
    let none = py.None().into_bound(py);
    let each = |start: Instant| start.elapsed().as_secs_f64() * 1e9 / f64::from(n);
    let start = Instant::now();
    for _ in 0..n {
        f.call0()?;
    }
    let a = each(start);
    let start = Instant::now();
    for _ in 0..n {
        gil::call0(&f)?;
    }
    let b = each(start);
    let start = Instant::now();
    for _ in 0..n {
        g.call1((&none,))?;
    }
    let c = each(start);
    let start = Instant::now();
    for _ in 0..n {
        gil::call1(&g, &none)?;
    }
    Ok((a, b, c, each(start)))
}
