//! `_core.Wait`: the coroutine of a wait. A hundred thousand may wait at once, so it has no frame of Python's meanwhile:
//! what a condition, an exception or the value of the wait need of Python is done by a coroutine of the handle, which it
//! awaits.

use std::mem;

use bide_sync::Mutex;
use pyo3::exceptions::{PyGeneratorExit, PyRuntimeError, PyRuntimeWarning, PyStopIteration, PyValueError};
use pyo3::prelude::*;
use pyo3::types::{PyInt, PyString};

use super::call::{CANCELLED, DONE, PENDING, PyCall};
use super::coroutine::PyCoroutine;
use super::step::{resume, thrown};
use crate::gil::{self, Kept, Owned, Sent};
use crate::panics;

/// A wait, to be awaited once.
#[pyclass(frozen, module = "bide._core", name = "Wait")]
pub(crate) struct PyWait {
    /// How far it has come. Never locked while Python code runs.
    course: Mutex<Course>,
}

enum Course {
    /// It was not awaited yet.
    New(Box<New>),
    /// It waits.
    Waits(Begun),
    /// It awaits a coroutine of the handle.
    Helped(Box<(Begun, Helper)>),
    /// It makes a step.
    Steps,
    /// It has ended.
    Over,
}

struct New {
    /// The `AsyncTaskHandle`.
    handle: Kept,
    plan: Kept,
    /// The method that has made it.
    what: Kept,
}

struct Begun {
    call: Py<PyCall>,
    /// What makes its value of the outcomes.
    finish: Kept,
}

/// A coroutine of the handle.
struct Helper {
    coroutine: Kept,
    does: Does,
}

/// What a coroutine of the handle does for a wait.
enum Does {
    /// It asks a condition.
    Attend,
    /// It leaves the wait because of this exception.
    Leave(Kept),
    /// It makes the value of the wait.
    Finish,
}

/// What a step has come to.
enum Stepped<'py> {
    Awaits(Owned<'py>, Course),
    Returned(Owned<'py>),
}

impl PyWait {
    /// Makes a step, or gets an exception. Returns what it awaits; its end is a `StopIteration`.
    fn step<'py>(&self, py: Python<'py>, thrown: Option<Bound<'py, PyAny>>) -> PyResult<Bound<'py, PyAny>> {
        let course = mem::replace(&mut *self.course.lock(), Course::Steps);
        let stepped = match course {
            Course::New(new) => match thrown {
                Some(error) => Err(PyErr::from_value(error)),
                None => new.begin(py).and_then(|begun| begun.advance(py, None, None)),
            },
            Course::Waits(begun) => begun.advance(py, None, thrown),
            Course::Helped(helped) => {
                let (begun, helper) = *helped;
                begun.advance(py, Some(helper), thrown)
            }
            Course::Steps => return Err(PyRuntimeError::new_err("coroutine already executing")),
            Course::Over => Err(PyRuntimeError::new_err("cannot reuse already awaited coroutine")),
        };
        let (made, next) = match stepped {
            Ok(Stepped::Awaits(awaited, next)) => (Ok(awaited.into_bound()), next),
            Ok(Stepped::Returned(value)) => {
                (Err(PyStopIteration::new_err((value.into_bound().unbind(),))), Course::Over)
            }
            Err(error) => (Err(error), Course::Over),
        };
        *self.course.lock() = next;
        made
    }
}

impl New {
    fn begin(&self, py: Python<'_>) -> PyResult<Begun> {
        let (handle, plan) = (self.handle.bind(py), self.plan.bind(py));
        let call = gil::call_method1(handle, pyo3::intern!(py, "_begin_wait"), plan)?.into_bound();
        let finish = gil::getattr(plan, pyo3::intern!(py, "finish"))?.into_bound();
        Ok(Begun { call: call.cast_into::<PyCall>()?.unbind(), finish: Kept::new(finish.unbind()) })
    }
}

impl Begun {
    /// Continues up to something to await, or to the end.
    fn advance<'py>(
        self,
        py: Python<'py>,
        mut helper: Option<Helper>,
        mut thrown: Option<Bound<'py, PyAny>>,
    ) -> PyResult<Stepped<'py>> {
        let call = self.call.bind(py).clone();
        loop {
            let raised = match helper.take() {
                Some(Helper { coroutine, does }) => {
                    let sent = resume(py, coroutine.bind(py), None, thrown.take().as_ref());
                    match (sent, does) {
                        (Ok(Sent::Awaits(awaited)), does) => {
                            let next = Course::Helped(Box::new((self, Helper { coroutine, does })));
                            return Ok(Stepped::Awaits(awaited, next));
                        }
                        (Ok(Sent::Returned(value)), Does::Finish) => return Ok(Stepped::Returned(value)),
                        (Ok(Sent::Returned(stays)), Does::Leave(error)) if !gil::is_truthy(&stays)? => {
                            return Err(PyErr::from_value(error.into_owned(py).into_bound()));
                        }
                        (Ok(Sent::Returned(_)), _) => continue,
                        (Err(raised), Does::Attend) => raised.into_err(py),
                        (Err(raised), _) => return Err(raised.into_err(py)),
                    }
                }
                None => {
                    match thrown.take().map_or_else(|| PyCall::continues(&call), |error| Err(PyErr::from_value(error)))
                    {
                        Ok(PENDING) => {
                            let awaited = PyCall::awaited(&call)?.into();
                            return Ok(Stepped::Awaits(awaited, Course::Waits(self)));
                        }
                        Ok(todo) => {
                            helper = Some(self.help(py, todo)?);
                            continue;
                        }
                        Err(error) => error,
                    }
                }
            };
            let raised = raised.into_value(py).into_bound(py).into_any();
            let coroutine = self.coroutine(pyo3::intern!(py, "_leave"), &[call.as_any(), &raised])?;
            helper = Some(Helper { coroutine, does: Does::Leave(Kept::new(raised.unbind())) });
        }
    }

    /// What does for a call what it needs now.
    fn help(&self, py: Python<'_>, todo: i32) -> PyResult<Helper> {
        let (call, number) = (self.call.bind(py).as_any(), PyInt::new(py, todo).into_any());
        let (method, third, does) = match todo {
            DONE | CANCELLED => (pyo3::intern!(py, "_finish_wait"), self.finish.bind(py), Does::Finish),
            _ => (pyo3::intern!(py, "_attend"), &py.None().into_bound(py), Does::Attend),
        };
        Ok(Helper { coroutine: self.coroutine(method, &[call, &number, third])?, does })
    }

    /// A coroutine of the handle.
    fn coroutine<'py>(&self, method: &Bound<'py, PyString>, arguments: &[&Bound<'py, PyAny>]) -> PyResult<Kept> {
        let py = method.py();
        let handle = PyCoroutine::handle_of(self.call.bind(py).get().parts().0.bind(py))?;
        let method = gil::getattr(&handle, method)?;
        Ok(Kept::new(gil::call_args(&method, arguments)?.into_bound().unbind()))
    }
}

impl PyWait {
    /// It waits, and is left.
    fn leaves(&self, py: Python<'_>) -> PyResult<()> {
        match self.step(py, Some(PyGeneratorExit::new_err(()).into_value(py).into_bound(py).into_any())) {
            Ok(_) => Err(PyRuntimeError::new_err("coroutine ignored GeneratorExit")),
            Err(error) if error.is_instance_of::<PyGeneratorExit>(py) => Ok(()),
            Err(error) if error.is_instance_of::<PyStopIteration>(py) => Ok(()),
            Err(error) => Err(error),
        }
    }
}

#[pymethods]
impl PyWait {
    /// A wait of this handle; `what` has made it.
    #[new]
    fn new(handle: Py<PyAny>, plan: Py<PyAny>, what: Py<PyString>) -> Self {
        let new = New { handle: Kept::new(handle), plan: Kept::new(plan), what: Kept::new(what.into_any()) };
        Self { course: Mutex::new(Course::New(Box::new(new))) }
    }

    fn __await__(slf: Py<Self>) -> PyResult<Py<Self>> {
        match &*slf.get().course.lock() {
            Course::New(_) => {}
            Course::Over => return Err(PyRuntimeError::new_err("cannot reuse already awaited coroutine")),
            _ => return Err(PyRuntimeError::new_err("coroutine is being awaited already")),
        }
        Ok(slf)
    }

    fn __next__<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyAny>> {
        panics::method(|| self.step(py, None))
    }

    fn send<'py>(&self, py: Python<'py>, _value: &Bound<'py, PyAny>) -> PyResult<Bound<'py, PyAny>> {
        panics::method(|| self.step(py, None))
    }

    #[pyo3(signature = (exception, value=None, _traceback=None))]
    fn throw<'py>(
        &self,
        exception: Bound<'py, PyAny>,
        value: Option<Bound<'py, PyAny>>,
        _traceback: Option<Bound<'py, PyAny>>,
    ) -> PyResult<Bound<'py, PyAny>> {
        panics::method(|| {
            let py = exception.py();
            let exception = thrown(exception, value)?;
            self.step(py, Some(exception))
        })
    }

    fn close(&self, py: Python<'_>) -> PyResult<()> {
        panics::method(|| {
            let has_begun = {
                let mut course = self.course.lock();
                if matches!(*course, Course::Steps) {
                    return Err(PyValueError::new_err("coroutine already executing"));
                }
                let has_begun = matches!(*course, Course::Waits(_) | Course::Helped(_));
                let before = if has_begun { None } else { Some(mem::replace(&mut *course, Course::Over)) };
                drop(course);
                drop(before);
                has_begun
            };
            if !has_begun {
                return Ok(());
            }
            self.leaves(py)
        })
    }

    #[getter]
    fn __name__(&self) -> &'static str {
        "wait"
    }

    #[getter]
    fn __qualname__(&self) -> &'static str {
        "AsyncTaskHandle.wait"
    }
}

impl Drop for PyWait {
    /// As Python does with its own coroutines: one that nobody has awaited is warned of, and one that waits is left.
    fn drop(&mut self) {
        if matches!(*self.course.lock(), Course::Over) {
            return;
        }
        gil::here(|py| {
            // An exception that is on its way is what has dropped it, in most cases.
            let on_its_way = PyErr::take(py);
            let left = match mem::replace(&mut *self.course.lock(), Course::Over) {
                Course::New(new) => {
                    let message = format!("coroutine '{}' was never awaited", new.what.bind(py));
                    let message = std::ffi::CString::new(message).unwrap_or_default();
                    PyErr::warn(py, &py.get_type::<PyRuntimeWarning>(), &message, 1)
                }
                // Nothing can be awaited here.
                Course::Waits(begun) => begun.call.get().abandon(py),
                Course::Helped(helped) => helped.0.call.get().abandon(py),
                Course::Steps | Course::Over => Ok(()),
            };
            if let Err(error) = left {
                error.write_unraisable(py, None);
            }
            if let Some(error) = on_its_way {
                error.restore(py);
            }
        });
    }
}
