//! What a call holds, and how it is fed.

use std::collections::HashMap;
use std::num::NonZeroU64;
use std::sync::Arc;
use std::time::Duration;

use bide_core::attempt::{Action, Fed, Request, Sleep, Within};
use bide_core::event::Retry;
use bide_core::{Event, RunId, Value};
use bide_executor::{CallError, CoroutineBody, OpenCall, Polled, RegisteredWorkflow, RunRequest};
use bide_sync::Mutex;
use pyo3::prelude::*;

use super::super::coroutine::PyCoroutine;
use super::super::pending::Future;
use super::what::What;
use crate::body::{PyRetry, covers};
use crate::errors::{self};
use crate::gil::{Kept, Raised};
use crate::host::Python3;
use crate::value::Codec;
use crate::wait;

pub(super) type Body = Arc<CoroutineBody<Python3>>;

/// A call in progress.
#[pyclass(frozen, module = "bide._core", name = "Call")]
pub(crate) struct PyCall {
    /// Whose call it is.
    pub(super) coroutine: Py<PyCoroutine>,
    /// What it does, and how far it has come. Never locked while Python code runs.
    pub(super) state: Mutex<State>,
    /// The call, in the engine.
    pub(super) call: Arc<OpenCall>,
}

pub(super) struct State {
    /// Its future, while it is polled, and the last one once that is done.
    pub(super) future: Option<Box<Future<Action>>>,
    /// The future is polled.
    pub(super) waits: bool,
    /// Its ticket, while it rests between two polls.
    pub(super) rests: Option<NonZeroU64>,
    /// The contextvars of its body say that a condition is asked in them.
    pub(super) is_placed: bool,
    /// What it has come to. None while it waits: many wait at once.
    pub(super) next: Option<Box<Next>>,
    /// Code of the user's executes for it.
    pub(super) executes: bool,
    /// What it does.
    pub(super) what: What,
}

impl Drop for PyCall {
    fn drop(&mut self) {
        let state = self.state.lock();
        if state.executes {
            let coroutine = self.coroutine.get();
            coroutine.queue.executes(false);
            if state.what.is_wait() {
                coroutine.asks(false);
            }
        }
    }
}

/// The outcome of a call, taken by the thread that continues with it.
pub(super) enum Next {
    /// It is to rest for this span once its task awaits it.
    Sleeps(Duration),
    /// This was polled and is to be done by Python.
    Ready(Action),
    /// A condition was begun aside.
    Asking(Asking),
    /// These children are to be created for it, by the numbers of their starts.
    Creates(Vec<usize>, Box<Event>),
    /// Its result.
    Result(Result<Value, CallError>),
}

impl State {
    fn take_next<T>(&mut self, pick: impl FnOnce(Next) -> Result<T, Next>) -> Option<T> {
        match pick(*self.next.take()?) {
            Ok(taken) => Some(taken),
            Err(other) => {
                self.next = Some(Box::new(other));
                None
            }
        }
    }

    pub(super) fn take_sleep(&mut self) -> Option<Duration> {
        self.take_next(|next| if let Next::Sleeps(span) = next { Ok(span) } else { Err(next) })
    }

    pub(super) fn take_ready(&mut self) -> Option<Action> {
        self.take_next(|next| if let Next::Ready(action) = next { Ok(action) } else { Err(next) })
    }

    pub(super) fn take_asking(&mut self) -> Option<Asking> {
        self.take_next(|next| if let Next::Asking(asking) = next { Ok(asking) } else { Err(next) })
    }

    pub(super) fn take_creates(&mut self) -> Option<(Vec<usize>, Box<Event>)> {
        self.take_next(|next| if let Next::Creates(which, event) = next { Ok((which, event)) } else { Err(next) })
    }

    pub(super) fn take_result(&mut self) -> Option<Result<Value, CallError>> {
        self.take_next(|next| if let Next::Result(result) = next { Ok(result) } else { Err(next) })
    }
}

/// A condition that was begun outside of its task, and is not done.
pub(super) struct Asking {
    /// The number of its part.
    pub(super) part: usize,
    /// What to await, or what it has raised that is no `Exception`.
    pub(super) begun: Result<Kept, Raised>,
}

/// How far a call has come.
pub(super) enum Progress {
    /// It is over.
    Over,
    /// It waits.
    Waits,
    /// This is to be done for it.
    Needs(Action),
}

/// What a step is recorded by.
pub(super) struct StepParts {
    pub(super) codec: Codec,
    pub(super) retry: Option<PyRetry>,
    /// What it has raised, for the caller to raise again.
    pub(super) raised: Option<Raised>,
}

/// The start of children.
pub(super) struct Starts {
    pub(super) workflow: Arc<RegisteredWorkflow<Python3>>,
    pub(super) requests: Vec<Option<RunRequest<Python3>>>,
    /// Those that are just created, by the number of their start.
    pub(super) created: HashMap<usize, RunId>,
}

/// `bide/_async_handle.py` says by a number what a call is made within.
pub(super) fn within(number: u8) -> Within {
    match number {
        0 => Within::Body,
        1 => Within::Step,
        _ => Within::Condition,
    }
}

impl PyCall {
    pub(super) fn begin(
        coroutine: &Bound<'_, PyCoroutine>,
        name: &Arc<str>,
        request: Request,
        within_number: u8,
        what: What,
    ) -> PyResult<Self> {
        let (py, own) = (coroutine.py(), coroutine.get());
        let body = own.body()?;
        let call = body.begin(name, request, within(within_number)).map_err(|error| own.error(py, &error))?;
        Ok(Self::of(coroutine, body, call, what))
    }

    pub(super) fn of(coroutine: &Bound<'_, PyCoroutine>, body: &Body, call: Arc<OpenCall>, what: What) -> Self {
        let driven = Arc::clone(body).drive(Arc::clone(&call), Fed::Begin);
        let future = Some(Box::new(Future::new(&coroutine.get().queue, driven)));
        let state = State { future, waits: true, rests: None, is_placed: false, next: None, executes: false, what };
        Self { coroutine: coroutine.clone().unbind(), state: Mutex::new(state), call }
    }

    /// How the result of a step is stored; `None` if this is none.
    pub(crate) fn step_codec(&self, py: Python<'_>) -> Option<Codec> {
        match &self.state.lock().what {
            What::Step(step) => Some(step.codec.kept(py)),
            _ => None,
        }
    }

    /// The coroutine whose call it is, and the call in the engine.
    pub(crate) fn parts(&self) -> (&Py<PyCoroutine>, &Arc<OpenCall>) {
        (&self.coroutine, &self.call)
    }

    /// The user's code for a step has come to this.
    pub(crate) fn step_ends(&self, py: Python<'_>, fed: Fed) -> PyResult<()> {
        self.feed(py, fed)
    }

    pub(super) fn body(&self) -> PyResult<&Body> {
        self.coroutine.get().body()
    }

    /// The user's code for it has returned.
    pub(super) fn feed(&self, py: Python<'_>, fed: Fed) -> PyResult<()> {
        self.leaves(py)?;
        self.drive(fed)
    }

    pub(super) fn drive(&self, fed: Fed) -> PyResult<()> {
        self.renew(Arc::clone(self.body()?).drive(Arc::clone(&self.call), fed));
        Ok(())
    }

    /// It sleeps until its next poll by a timer of its own.
    pub(super) fn sleep(&self, span: Duration) -> PyResult<()> {
        self.renew(Arc::clone(self.body()?).sleeps(Arc::clone(&self.call), Sleep::Poll(span)));
        Ok(())
    }

    fn renew(&self, driven: impl std::future::Future<Output = Action> + Send + 'static) {
        let state = &mut *self.state.lock();
        state.waits = true;
        match &mut state.future {
            Some(future) => future.renew(driven),
            None => state.future = Some(Box::new(Future::new(&self.coroutine.get().queue, driven))),
        }
    }

    /// Polls its future.
    pub(super) fn poll(&self) -> PyResult<Progress> {
        let rests = self.state.lock().rests.take();
        if let Some(ticket) = rests {
            // Its task continues while it rests.
            self.leave_rest(ticket.get())?;
            self.wake_from_rest()?;
        }
        let mut state = self.state.lock();
        if let Some(action) = state.take_ready() {
            return Ok(Progress::Needs(action));
        }
        if !state.waits {
            return Ok(Progress::Over);
        }
        Ok(match state.future.as_mut().map(|future| future.poll()) {
            None => Progress::Over,
            Some(None) => Progress::Waits,
            Some(Some(action)) => {
                state.waits = false;
                Progress::Needs(action)
            }
        })
    }

    pub(in crate::aio) fn enters(&self, py: Python<'_>) -> PyResult<()> {
        let coroutine = self.coroutine.get();
        let is_wait = {
            let mut state = self.state.lock();
            if !std::mem::replace(&mut state.executes, true) {
                coroutine.queue.executes(true);
            }
            state.what.is_wait()
        };
        if is_wait {
            coroutine.asks(true);
        }
        Ok(coroutine.make_read_only(py, true)?)
    }

    pub(in crate::aio) fn leaves(&self, py: Python<'_>) -> PyResult<()> {
        let (executed, is_wait) = {
            let mut state = self.state.lock();
            (std::mem::take(&mut state.executes), state.what.is_wait())
        };
        if !executed {
            return Ok(());
        }
        let coroutine = self.coroutine.get();
        coroutine.queue.executes(false);
        if is_wait {
            coroutine.asks(false);
        }
        Ok(coroutine.make_read_only(py, false)?)
    }

    /// Whether the proof of a condition is what it was before it was asked.
    pub(super) fn is_unchanged(&self, py: Python<'_>, part: usize) -> bool {
        let asked = {
            let state = self.state.lock();
            let asked = state.what.condition(part);
            asked.map(|asked| (asked.condition.bind(py).clone(), asked.proof.as_deref().cloned()))
        };
        let asked = asked.and_then(|(condition, proof)| Some((condition, proof.or_else(|| self.call.proof())?)));
        let Some((condition, proof)) = asked else { return true };
        wait::proof_of(&condition).is_ok_and(|now| now.as_ref() == Some(&proof))
    }

    /// What a poll of a condition came to.
    pub(super) fn polled(&self, part: usize, polled: Polled, raised: Option<Raised>, py: Python<'_>) -> PyResult<()> {
        let before = {
            let mut state = self.state.lock();
            let last = match (&polled, raised) {
                (Polled::Raised(failure) | Polled::Broken(failure), Some(raised)) => {
                    Some(Box::new((failure.clone(), raised)))
                }
                _ => None,
            };
            let asked = state.what.conditions_mut().iter_mut().find(|asked| asked.part as usize == part);
            asked.map(|asked| std::mem::replace(&mut asked.last, last))
        };
        drop(before);
        self.feed(py, Fed::Asked(polled))
    }

    pub(super) fn name_of(&self, part: usize) -> Arc<str> {
        let name = self.state.lock().what.condition(part).and_then(|asked| asked.name.as_deref().cloned());
        name.unwrap_or_else(|| self.call.name_of(part))
    }

    pub(super) fn error(&self, py: Python<'_>, error: &CallError) -> PyErr {
        self.coroutine.get().error(py, error)
    }
}

impl PyCall {
    pub(super) fn step_failed(&self, py: Python<'_>, raised: Raised) -> PyResult<()> {
        let matches = {
            let state = self.state.lock();
            let What::Step(step) = &state.what else { return Ok(()) };
            step.retry.as_ref().map(|retry| retry.matches.bind(py).clone())
        };
        let (raised, covered) = match matches.map_or(Ok(false), |matches| covers(&matches, raised.value(py))) {
            Ok(covered) => (raised, covered),
            Err(broken) => (broken, false),
        };
        let failure = errors::describe(py, &raised);
        let fed = if covered {
            Fed::Raised(failure, Retry { random: self.body()?.engine().random() })
        } else {
            Fed::Executed(Err(failure))
        };
        let before = match &mut self.state.lock().what {
            // One that is tried again and then returns has raised nothing.
            What::Step(step) => step.raised.replace(raised),
            _ => None,
        };
        drop(before);
        self.feed(py, fed)
    }
}
