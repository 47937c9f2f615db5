//! A call of a coroutine's handle, in progress: `bide/_async_handle.py` executes what only Python can.

use std::collections::HashMap;
use std::sync::Arc;

use bide_core::attempt::{Fed, Request, StepOptions, child_name, reply_name};
use bide_core::{EntryKey, FailureKind, RecordKind, RetryPolicy, StepArguments, Value};
use bide_executor::{CallError, Host, Polled, new_token};
use pyo3::exceptions::{PyException, PyStopIteration};
use pyo3::prelude::*;
use pyo3::types::PyList;

use super::coroutine::PyCoroutine;
use crate::errors::{self, names};
use crate::gil::{self, Kept, Raised};
use crate::host::Python3;
use crate::plan::{Plan, PlannedCondition, outcomes};
use crate::step::Described;
use crate::wait::Until;
use crate::workflow::read_retry;
use crate::{callback, children, panics, test_hooks, wait};

mod ask;
mod course;
mod state;
mod what;

pub(super) use ask::Asks;
pub(crate) use state::PyCall;
use state::{Asking, Starts, StepParts, within};
use what::{Asked, What};

/// What awaiting it returns, but for the number of a condition to ask.
pub(super) const PENDING: i32 = -1;
pub(super) const DONE: i32 = -2;
const EXECUTE: i32 = -3;
const CREATE: i32 = -4;
pub(super) const CANCELLED: i32 = -5;
const ASKING: i32 = -6;

/// The beginnings of calls.
#[pymethods]
impl PyCall {
    /// A wait, by its plan.
    #[staticmethod]
    fn wait(coroutine: &Bound<'_, PyCoroutine>, plan: &Bound<'_, PyAny>, within: u8) -> PyResult<Self> {
        panics::method(|| {
            let py = coroutine.py();
            let (requests, conditions) = Plan::read(plan)?.requests()?;
            let children = children::among(&requests);
            if !children.is_empty() {
                let own = coroutine.get();
                let body = own.body()?;
                children::check_by(py, |id| body.has_child(id), &own.task_name(), body.run(), &children)?;
            }
            let (parts, mut asked) = (requests.len(), Vec::with_capacity(conditions.len()));
            for planned in conditions {
                let PlannedCondition { part, until: Until { condition, name, is_async, .. }, proof } = planned;
                let shared = &requests[part].name;
                let name = name.map_or_else(|| wait::name_of(&condition), Ok)?;
                let name = (**shared != *name).then(|| Box::new(name.into()));
                let condition = Kept::new(condition.unbind());
                // A wait that is alone has its proof in the engine.
                let proof = proof.filter(|_| parts > 1).map(Box::new);
                asked.push(Asked { part: part as u32, condition, is_async, name, proof, last: None });
            }
            let rests = parts == 1 && asked.first().is_some_and(|asked| asked.is_async);
            let name = requests.first().map_or_else(|| "".into(), |part| Arc::clone(&part.name));
            coroutine.get().begins_wait();
            let what = What::of_wait(asked, children, parts);
            let call = Self::begin(coroutine, &name, Request::of_parts(requests), within, what)?;
            // With a clock that is moved by hand each wait has a timer of its own.
            if rests && !call.body()?.engine().clock().is_manual() {
                call.call.give_polls_to_host();
            }
            Ok(call)
        })
    }

    /// A step, as `bide._steps.describe_async_step` describes it; `older` is its proof as the first version computed
    /// it.
    #[staticmethod]
    fn step(
        coroutine: &Bound<'_, PyCoroutine>,
        described: Described,
        retry: Option<Bound<'_, PyAny>>,
        older: Option<Vec<u8>>,
        within: u8,
    ) -> PyResult<Self> {
        panics::method(|| {
            let (name, proof, codec, key, once) = described;
            let mut policy = RetryPolicy::NONE;
            let retry = retry.map(|retry| read_retry(&retry, &mut policy, false)).transpose()?;
            let (proof, older) = (proof.map(Into::into), older.map(Into::into));
            let arguments = StepArguments { proof, older, advice: Python3::STEP_ADVICE };
            let options = StepOptions { keyed: key.is_some(), once, retry: retry.as_ref().map(|_| policy) };
            let name = key.map_or_else(|| name.as_str().into(), |key| EntryKey::keyed_name(&name, &key));
            let what = What::Step(Box::new(StepParts { codec, retry, raised: None }));
            Self::begin(coroutine, &name, Request::Step { arguments, options }, within, what)
        })
    }

    /// A checkpoint.
    #[staticmethod]
    fn checkpoint(coroutine: &Bound<'_, PyCoroutine>, value: &Bound<'_, PyAny>, within: u8) -> PyResult<Self> {
        panics::method(|| {
            let codec = coroutine.get().checkpoint_codec(value.get_type().as_any())?;
            let state = codec.encode(value)?;
            Self::begin(coroutine, &"checkpoint".into(), Request::Checkpoint(state), within, What::Record)
        })
    }

    /// The time, recorded.
    #[staticmethod]
    fn now(coroutine: &Bound<'_, PyCoroutine>, within: u8) -> PyResult<Self> {
        panics::method(|| {
            let arguments = StepArguments { proof: Some([].into()), older: None, advice: Python3::STEP_ADVICE };
            let request = Request::Step { arguments, options: StepOptions::PLAIN };
            Self::begin(coroutine, &"now".into(), request, within, What::Record)
        })
    }

    /// A callback that is made.
    #[staticmethod]
    fn callback(coroutine: &Bound<'_, PyCoroutine>, name: &str, within: u8) -> PyResult<Self> {
        panics::method(|| {
            let (py, own) = (coroutine.py(), coroutine.get());
            let token = new_token(own.body()?.run().id).map_err(|error| own.error(py, &error))?;
            let value = token.to_value();
            let request = Request::Record { kind: RecordKind::Callback, value };
            Self::begin(coroutine, &name.into(), request, within, What::Record)
        })
    }

    /// The answer to a request, given by its name and number; without an answer it is refused for a reason.
    #[staticmethod]
    fn reply(
        coroutine: &Bound<'_, PyCoroutine>,
        name: &str,
        number: i64,
        answer: Option<&[u8]>,
        reason: &str,
        within: u8,
    ) -> PyResult<Self> {
        panics::method(|| {
            let answer = answer.map(Value::new).ok_or_else(|| callback::refused(reason));
            let request = Request::Reply { request: number, answer };
            Self::begin(coroutine, &reply_name(name, number), request, within, What::Record)
        })
    }

    /// The start of children, as `bide._children` describes them.
    #[staticmethod]
    fn start<'py>(
        coroutine: &Bound<'py, PyCoroutine>,
        described: &Bound<'py, PyAny>,
        within_number: u8,
    ) -> PyResult<Self> {
        panics::method(|| {
            let (py, own) = (coroutine.py(), coroutine.get());
            let body = own.body()?;
            let (workflow, starts) = children::described(py, body.engine(), described)?;
            let (identities, requests): (Vec<_>, Vec<_>) = starts.into_iter().unzip();
            let call = body.begin_start(&workflow, identities, within(within_number));
            let call = call.map_err(|error| own.error(py, &error))?;
            let requests = requests.into_iter().map(Some).collect();
            let what = What::Start(Box::new(Starts { workflow, requests, created: HashMap::new() }));
            Ok(Self::of(coroutine, body, call, what))
        })
    }

    // The course of a call.

    /// Continues, awaited by what carries it out. Returns what Python has to do: see the numbers above.
    fn __await__(slf: Py<Self>) -> Py<Self> {
        slf
    }

    fn __next__<'py>(slf: &Bound<'py, Self>) -> PyResult<Bound<'py, PyAny>> {
        panics::method(|| match Self::continues(slf)? {
            PENDING => Self::future(slf),
            todo => Err(PyStopIteration::new_err((todo,))),
        })
    }

    /// A condition that was begun aside: its part, and what to await. Raises what it has raised that ends the wait.
    /// `None` if there is none.
    fn asking<'py>(&self, py: Python<'py>) -> PyResult<Option<(usize, Bound<'py, PyAny>)>> {
        let asking = self.state.lock().take_asking();
        let Some(Asking { part, begun }) = asking else { return Ok(None) };
        begun.map(|begun| Some((part, begun.into_owned(py).into_bound()))).map_err(|raised| raised.into_err(py))
    }

    /// An `asyncio` future to await if a commit of it is under way, which a cancelled call waits for.
    fn commits<'py>(slf: &Bound<'py, Self>) -> PyResult<Option<Bound<'py, PyAny>>> {
        panics::method(|| {
            let own = slf.get();
            let waits = own.call.is_committing() && own.advance(slf.py())? == PENDING && own.call.is_committing();
            if waits { Self::waits(slf).map(Some) } else { Ok(None) }
        })
    }

    /// The condition that is this part.
    pub(in crate::aio) fn condition<'py>(&self, py: Python<'py>, part: usize) -> PyResult<Option<Bound<'py, PyAny>>> {
        let condition = {
            let state = self.state.lock();
            let Some(asked) = state.what.condition(part) else { return Ok(None) };
            asked.condition.bind(py).clone()
        };
        let name = self.name_of(part);
        let body = self.body()?;
        let stub = test_hooks::condition(body.engine(), body.run().id, &name, &condition)?;
        Ok(Some(stub.unwrap_or(condition)))
    }

    /// What is called in place of this step in a test: the step itself, in most cases.
    fn tested_step<'py>(&self, name: &str, function: &Bound<'py, PyAny>) -> PyResult<Bound<'py, PyAny>> {
        let body = self.body()?;
        let stub = test_hooks::step(body.engine(), body.run().id, name, function)?;
        Ok(stub.unwrap_or_else(|| function.clone()))
    }

    /// A condition has returned.
    fn asked(&self, part: usize, value: &Bound<'_, PyAny>) -> PyResult<()> {
        panics::method(|| {
            let py = value.py();
            let truthy = match gil::is_truthy(value) {
                Ok(truthy) => truthy,
                Err(raised) => {
                    return self.ask_raised(py, part, raised.into_err(py).into_value(py).into_bound(py).into_any());
                }
            };
            let polled = if !truthy {
                Polled::False
            } else {
                match names(py)?.plain_codec.encode(value) {
                    Ok(value) => Polled::True(value),
                    Err(raised) => Polled::Broken(errors::unencodable(py, &raised, &self.name_of(part))),
                }
            };
            self.polled(part, polled, None, py)
        })
    }

    /// A condition has raised an exception.
    fn ask_raised(&self, py: Python<'_>, part: usize, exception: Bound<'_, PyAny>) -> PyResult<()> {
        panics::method(|| {
            let raised = Raised::new(py, PyErr::from_value(exception));
            let failure = errors::describe(py, &raised);
            // A handle that is misused will be misused at the next poll, too.
            let misuse = names(py).is_ok_and(|names| raised.is_a(names.definition_error.bind(py)));
            let ordinary = raised.is::<PyException>(py) && !misuse;
            let polled = if ordinary { Polled::Raised(failure) } else { Polled::Broken(failure) };
            self.polled(part, polled, Some(raised), py)
        })
    }

    /// A step has returned.
    fn step_returned(&self, value: &Bound<'_, PyAny>) -> PyResult<()> {
        panics::method(|| {
            let py = value.py();
            let encoded = {
                let state = self.state.lock();
                let What::Step(step) = &state.what else { return Ok(()) };
                let codec = step.codec.kept(py);
                drop(state);
                codec.encode(value)
            };
            match encoded {
                Ok(value) => {
                    let before = match &mut self.state.lock().what {
                        What::Step(step) => step.raised.take(),
                        _ => None,
                    };
                    drop(before);
                    self.feed(py, Fed::Executed(Ok(value)))
                }
                Err(raised) => self.step_failed(py, raised),
            }
        })
    }

    /// A step has raised an exception, an `Exception`.
    fn step_raised(&self, py: Python<'_>, exception: Bound<'_, PyAny>) -> PyResult<()> {
        panics::method(|| self.step_failed(py, Raised::new(py, PyErr::from_value(exception))))
    }

    /// A step has raised `bide.Unrecorded`.
    fn step_unrecorded(&self, py: Python<'_>) -> PyResult<()> {
        panics::method(|| self.feed(py, Fed::Unrecorded))
    }

    /// Creates the children. Blocks.
    fn create(&self, py: Python<'_>) -> PyResult<()> {
        panics::method(|| {
            let body = Arc::clone(self.body()?);
            let (which, event, workflow, requests) = {
                let mut state = self.state.lock();
                let Some((which, event)) = state.take_creates() else { return Ok(()) };
                let What::Start(starts) = &mut state.what else { return Ok(()) };
                let requests = which.iter().filter_map(|at| starts.requests[*at].take()).collect();
                (which, event, Arc::clone(&starts.workflow), requests)
            };
            let (ids, fed) = gil::detached(py, || body.create_children(*event, &workflow, requests));
            if let What::Start(starts) = &mut self.state.lock().what {
                starts.created.extend(which.into_iter().zip(ids));
            }
            self.feed(py, fed)
        })
    }

    /// Leaves it as it is.
    pub(in crate::aio) fn abandon(&self, py: Python<'_>) -> PyResult<()> {
        panics::method(|| {
            self.is_back(py)?;
            self.leaves(py)?;
            let (future, next, rests) = {
                let mut state = self.state.lock();
                (state.future.take(), state.next.take(), state.rests.take())
            };
            drop((future, next));
            if let Some(ticket) = rests {
                self.leave_rest(ticket.get())?;
            }
            self.body()?.abandon(&self.call);
            Ok(())
        })
    }

    // The results of calls.

    /// Whether it waits for a child run.
    fn has_children(&self) -> bool {
        !self.state.lock().what.children().is_empty()
    }

    /// The outcomes of the parts of a wait, for what makes its value. Reads the store if there are children.
    fn outcomes<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyList>> {
        panics::method(|| {
            let result = self.state.lock().take_result();
            let waited = result.unwrap_or(Err(CallError::Suspended));
            let whole = match &waited {
                Ok(value) => Some(Ok(value.clone())),
                Err(CallError::Failed(failure)) if failure.kind != FailureKind::Cancelled => Some(Err(failure.clone())),
                Err(error) => return Err(self.error(py, error)),
            };
            let body = self.body()?;
            let parts = body.outcomes(&self.call);
            let (parts, known) = {
                let state = self.state.lock();
                let known = state.what.children().to_vec();
                (if parts.is_empty() { vec![whole] } else { parts }, known)
            };
            let mut raised = {
                let mut state = self.state.lock();
                let asked = state.what.conditions_mut().iter_mut();
                asked.filter_map(|asked| Some((asked.part as usize, *asked.last.take()?))).collect::<Vec<_>>()
            };
            // An exception that did not end its part is not raised: the condition was asked again, or the deadline came
            // first.
            raised.retain(|(part, (failure, _))| parts.get(*part) == Some(&Some(Err(failure.clone()))));
            let ended = |at: usize| {
                let id = known.get(at).copied().flatten();
                children::ended_by(py, body.engine(), &body.task_name(), id, |id| body.take_child(id))
            };
            let outcomes = outcomes(py, &body.task_name(), parts, ended)?;
            // The exceptions themselves, with their tracebacks, in place of what is stored of them.
            for (part, (_, raised)) in raised {
                if outcomes.get_item(part)?.is_instance_of::<PyException>() {
                    outcomes.set_item(part, raised.into_err(py).into_value(py))?;
                }
            }
            Ok(outcomes)
        })
    }

    /// What a step has returned; raises what it has raised.
    fn step_result<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyAny>> {
        panics::method(|| {
            let (result, codec, raised) = {
                let mut state = self.state.lock();
                let result = state.take_result().unwrap_or(Err(CallError::Suspended));
                let What::Step(step) = &mut state.what else { return Ok(py.None().into_bound(py)) };
                (result, step.codec.kept(py), step.raised.take())
            };
            match (result, raised) {
                // Between two tries: what it has raised last is not how it ended.
                (Err(CallError::Failed(failure)), _) if failure.kind == FailureKind::Cancelled => {
                    Err(self.error(py, &CallError::Failed(failure)))
                }
                (Ok(_) | Err(CallError::Failed(_)), Some(raised)) => Err(raised.into_err(py)),
                (Ok(value), None) => Ok(codec.decode(py, &value)?.into_bound()),
                (Err(error), _) => Err(self.error(py, &error)),
            }
        })
    }

    /// What was recorded of one of bide's own values: text, a time, or nothing.
    fn recorded<'py>(&self, py: Python<'py>, is_time: bool) -> PyResult<Option<Bound<'py, PyAny>>> {
        panics::method(|| {
            let result = self.state.lock().take_result().unwrap_or(Err(CallError::Suspended));
            let value = result.map_err(|error| self.error(py, &error))?;
            if is_time {
                return self.coroutine.get().recorded_time(py, &value).map(Some);
            }
            let text = (value.tag() == b's').then(|| String::from_utf8_lossy(value.payload()).into_owned());
            text.map(|text| Ok(pyo3::types::PyString::new(py, &text).into_any())).transpose()
        })
    }

    /// The children that were started: their ids, and their names as waits.
    fn started(&self, py: Python<'_>) -> PyResult<Vec<(String, String)>> {
        panics::method(|| {
            let body = self.body()?;
            let mut state = self.state.lock();
            let result = state.take_result().unwrap_or(Err(CallError::Suspended));
            if let Err(error) = result {
                drop(state);
                return Err(self.error(py, &error));
            }
            let children = body.started_children(&self.call);
            let What::Start(starts) = &state.what else { return Ok(Vec::new()) };
            let named = children.into_iter().enumerate().filter_map(|(at, (key, recorded))| {
                let id = starts.created.get(&at).copied().or(recorded)?;
                Some((id.to_string(), child_name(&key).to_string()))
            });
            Ok(named.collect())
        })
    }
}
