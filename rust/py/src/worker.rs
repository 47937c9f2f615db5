//! The threads that execute bodies and poll gates: what the engine asks of them, and what the end of a body means to
//! its run.

use std::cell::OnceCell;
use std::sync::Arc;
use std::time::Duration;

use bide_core::event::Retry;
use bide_core::items::{Items, NotAList};
use bide_core::run::{MAX_ELEMENTS, different_lengths, no_list, not_a_list, too_many};
use bide_core::{Failure, GateTime, NO_MAP, Outcome, TaskRef, Value};
use bide_executor::failpoint::{self, Failpoint};
use bide_executor::{Arg, Attached, BodyCx, Call, Gate, GateWorker, Polled, Source, Worker};
use pyo3::prelude::*;

use crate::body::{Purpose, PyBody, PyGate};
use crate::call::{Arguments, LogScope};
use crate::context::{changes_of, context_of, read_only};
use crate::current::{self, Executing};
use crate::errors::{self, names};
use crate::gil::{self, Kept, Owned, Raised};
use crate::handle::PyTaskHandle;
use crate::host::{PyEngine, PyRun, Python3};
use crate::process::Kind;
use crate::wait::time_of;
use crate::workflow::PyWorkflow;
use crate::{panics, test_hooks, thread, turn};

/// A worker thread's or the gate thread's side.
pub(crate) struct Thread<'py> {
    /// The attached thread.
    py: Python<'py>,
    /// The engine that it works for.
    engine: Arc<PyEngine>,
    /// What the condition of a gate has just raised, and whether the task's retry policy covers it.
    last: Option<(Failure, bool)>,
    /// Contextvars with nothing in them, for the next call that starts without any.
    empty: Option<Owned<'py>>,
}

impl<'py> Thread<'py> {
    pub(crate) fn new(py: Python<'py>, engine: Arc<PyEngine>) -> Self {
        turn::begin(&engine);
        Self { py, engine, last: None, empty: None }
    }
}

impl Attached for Thread<'_> {
    fn detached(&mut self, f: &mut dyn FnMut()) {
        let f = gil::Engines(f);
        turn::detached(self.py, &self.engine, move || f.call());
    }

    fn idle(&mut self, f: &mut dyn FnMut()) {
        let f = gil::Engines(f);
        turn::idle(self.py, &self.engine, move || f.call());
    }
}

impl Worker<Python3> for Thread<'_> {
    fn execute(&mut self, call: &Call<'_, Python3>) -> Outcome {
        let py = self.py;
        let mut ended = Outcome::Suspended;
        if let Err(panicked) = panics::no_panic(|| execute(py, &self.engine, call, &mut self.empty, &mut ended)) {
            ended = Outcome::Failed { failure: panicked.failure(), retry: None };
        }
        ended
    }

    fn between(&mut self, now: Duration) {
        turn::between(self.py, &self.engine, now);
    }

    fn thread(&self) -> u64 {
        // SAFETY: always succeeds. It is what `threading.get_ident` returns.
        (unsafe { libc::pthread_self() }) as u64
    }
}

impl GateWorker<Python3> for Thread<'_> {
    fn poll_gate(&mut self, gate: &Gate<Python3>) -> Polled {
        let py = self.py;
        panics::no_panic(|| poll_gate(py, &self.engine, gate, &mut self.last, &mut self.empty))
            .unwrap_or_else(|panicked| Polled::Broken(panicked.failure()))
    }

    fn gate_time(&mut self, gate: &Gate<Python3>) -> Result<GateTime, Failure> {
        let py = self.py;
        panics::no_panic(|| gate_time(py, &self.engine, gate, &mut self.last, &mut self.empty))
            .unwrap_or_else(|panicked| Err(panicked.failure()))
    }

    fn retries(&mut self, gate: &Gate<Python3>, failure: &Failure) -> bool {
        match &self.last {
            // As the condition raised it: what is stored of it may not be enough for its class.
            Some((last, covered)) if last == failure => *covered,
            _ => gate_retries(self.py, gate, failure),
        }
    }

    fn between(&mut self, now: Duration) {
        Worker::between(self, now);
    }

    fn start_spare(&mut self, engine: &Arc<PyEngine>) -> Result<(), String> {
        start_gate_thread(self.py, engine).map_err(|error| error.to_string())
    }
}

/// Starts the thread that polls gates, once a workflow has one.
pub(crate) fn start_gates(py: Python<'_>, engine: &Arc<PyEngine>, workflow: &PyWorkflow) -> PyResult<()> {
    if workflow.has_gates() { start_poller(py, engine) } else { Ok(()) }
}

/// Starts the thread that polls gates and watches, if there is none yet.
pub(crate) fn start_poller(py: Python<'_>, engine: &Arc<PyEngine>) -> PyResult<()> {
    if engine.wants_gate_thread() {
        start_gate_thread(py, engine).inspect_err(|_| engine.no_gate_thread())?;
    }
    Ok(())
}

fn start_gate_thread(py: Python<'_>, engine: &Arc<PyEngine>) -> Result<(), thread::StartError> {
    let engine = Arc::clone(engine);
    thread::start_thread(py, "bide-gates", Kind::Bodies, move |py| {
        let mut here = Thread::new(py, Arc::clone(&engine));
        engine.work_on_gates(&mut here);
    })
}

/// Executes a body, and sets its outcome. While the body is parked this frame is on its thread's stack: what is done
/// before and after the call has frames of its own.
fn execute<'py>(
    py: Python<'py>,
    engine: &Arc<PyEngine>,
    call: &Call<'_, Python3>,
    empty: &mut Option<Owned<'py>>,
    ended: &mut Outcome,
) {
    if call.counts_elements() {
        *ended = count_elements(call);
        return;
    }
    let (mut context, mut logged) = (None, None);
    let returned = call_body(py, engine, call, empty, &mut context, &mut logged);
    *ended = outcome(py, engine, call, returned, context, logged);
}

/// The outcome of a body.
#[inline(never)]
fn outcome(
    py: Python<'_>,
    engine: &PyEngine,
    call: &Call<'_, Python3>,
    returned: Result<Owned<'_>, Raised>,
    context: Option<Owned<'_>>,
    logged: Option<LogScope<'_>>,
) -> Outcome {
    let stored = |value: Owned<'_>| {
        let output = call.target().returns.encode(&value)?;
        let changes = match &context {
            None => None,
            Some(context) => changes_of(py, context)?,
        };
        Ok((output, changes))
    };
    let stored = returned.and_then(stored);
    drop(logged);
    if call.body().is_some_and(|body| body.suspending()) {
        // What the body returned or raised while it unwound does not count: it continues from its journal.
        return Outcome::Suspended;
    }
    match stored {
        Ok((output, changes)) => Outcome::Completed { output, changes },
        Err(raised) => {
            let Call { run, task, attempt, .. } = call;
            ended_by(py, &Whose { engine, run, task: *task, attempt: *attempt, target: call.target() }, raised)
        }
    }
}

/// Whose body has ended.
pub(crate) struct Whose<'a> {
    /// The engine.
    pub(crate) engine: &'a PyEngine,
    /// Its run.
    pub(crate) run: &'a PyRun,
    /// Its task.
    pub(crate) task: TaskRef,
    /// Which try it was.
    pub(crate) attempt: u32,
    /// The host's side of the task.
    pub(crate) target: &'a PyBody,
}

/// Counts the items of a mapped task's lists. They must be equally many.
#[inline(never)]
fn count_elements(call: &Call<Python3>) -> Outcome {
    let (ix, graph) = (call.task.ix, &call.run.workflow.graph);
    let mut first: Option<(&str, u32)> = None;
    for (at, (source, arg)) in call.target().sources.iter().zip(&call.args).enumerate() {
        let over = match source {
            Source::ItemOfOutput(on) | Source::SameElement(on) => &**graph.name(*on),
            Source::ItemOfInput(name) => name,
            Source::Output(_) | Source::Input(_) | Source::Gate(..) | Source::Elements(_) | Source::Failure(_) => {
                continue;
            }
        };
        let length = match (source, arg) {
            (Source::SameElement(on), _) => call.run.state.lock().length(TaskRef::plain(*on)).ok_or(None),
            (_, Arg::Value(list)) => {
                let items = call.run.local.items(&call.run.workflow.bodies, call.target(), at, || Some(list.clone()));
                match items.map(|items| items.map_or(0, Items::len)) {
                    Ok(length) if length > MAX_ELEMENTS as usize => {
                        return failed(too_many(graph.name(ix), over, length));
                    }
                    Ok(length) => Ok(length as u32),
                    Err(NotAList(what)) => Err(Some(what)),
                }
            }
            _ => Err(None),
        };
        match (length, first) {
            (Err(Some(what)), _) => return failed(not_a_list(graph.name(ix), over, what)),
            (Err(None), _) => {
                let status = graph.find(over).map(|on| call.run.state.lock().task_status(TaskRef::plain(on)));
                return failed(no_list(graph.name(ix), over, status));
            }
            (Ok(length), None) => first = Some((over, length)),
            (Ok(length), Some(first)) if length != first.1 => {
                return failed(different_lengths(graph.name(ix), first, (over, length)));
            }
            (Ok(_), Some(_)) => {}
        }
    }
    Outcome::Expanded { length: first.map_or(0, |(_, length)| length) }
}

const fn failed(failure: Failure) -> Outcome {
    Outcome::Failed { failure, retry: None }
}

/// Calls a body, with what it sees of the context.
fn call_body<'py>(
    py: Python<'py>,
    engine: &Arc<PyEngine>,
    call: &Call<'_, Python3>,
    empty: &mut Option<Owned<'py>>,
    context: &mut Option<Owned<'py>>,
    logged: &mut Option<LogScope<'py>>,
) -> Result<Owned<'py>, Raised> {
    let target = call.target();
    if target.binding.wants_context {
        let seen = context_of(py, engine, &call.run, call.task)?;
        if call.task.map != NO_MAP {
            // Elements run side by side: what they change would depend on their order.
            read_only(py, &seen, true)?;
        }
        *context = Some(seen);
    }
    let handle = match call.body() {
        None => None,
        Some(body) => Some(handle_of(py, body, context.as_ref(), call.task.map != NO_MAP)?),
    };
    let known = handle.as_ref().map_or_else(OnceCell::new, |handle| OnceCell::from(current::kept(handle)));
    let executing = Executing { call, context: context.as_ref().map(current::kept), handle: known };
    let _here = executing.enter();
    *logged = Some(LogScope::enter(py, call)?);
    let arguments = Arguments {
        py,
        run: &call.run,
        task: call.task,
        args: &call.args,
        context: context.as_ref(),
        handle: handle.as_ref(),
    };
    arguments.call(empty, target.function.bind(py), &target.binding)
}

#[inline(never)]
fn handle_of<'py>(
    py: Python<'py>,
    body: &Arc<BodyCx<Python3>>,
    context: Option<&Owned<'py>>,
    is_element: bool,
) -> Result<Owned<'py>, Raised> {
    let context = context.map(|context| Kept::new(Bound::clone(context).unbind()));
    let handle = Bound::new(py, PyTaskHandle::new(Arc::clone(body), context, is_element));
    handle.map(|handle| Owned::from(handle.into_any())).map_err(|error| Raised::new(py, error))
}

/// The outcome of a body that raised an exception.
#[inline(never)]
pub(crate) fn ended_by(py: Python<'_>, whose: &Whose<'_>, raised: Raised) -> Outcome {
    let Whose { engine, run, task, attempt, target } = whose;
    if names(py).is_ok_and(|names| raised.is_a(names.skip.bind(py))) {
        let reason = gil::getattr(raised.value(py), pyo3::intern!(py, "reason")).ok();
        let reason = reason.and_then(|reason| reason.extract::<String>().ok());
        return Outcome::Skipped { reason: reason.unwrap_or_default().into() };
    }
    failpoint::hit(Failpoint::Body);
    let (raised, covered) = match covers(target, py, raised.value(py)) {
        Ok(covered) => (raised, covered),
        Err(broken) => (broken, false),
    };
    let failure = errors::describe_end(py, &raised);
    if names(py).is_ok_and(|names| raised.is_a(names.cancelled.bind(py))) {
        return Outcome::Cancelled { failure };
    }
    let retry = covered.then(|| Retry { random: engine.random() });
    let last = !run.workflow.graph.spec(task.ix).retry.allows_after(*attempt);
    if retry.is_none() || last {
        run.local.keep_original(*task, raised.value(py));
    }
    Outcome::Failed { failure, retry }
}

/// Whether the task's retry policy covers an exception; an error if it cannot say.
pub(crate) fn covers(body: &PyBody, py: Python<'_>, exception: &Bound<'_, PyAny>) -> Result<bool, Raised> {
    body.retry.as_ref().map_or(Ok(false), |retry| retry.covers(py, exception))
}

/// Asks once. What it raised is kept in `last`, with whether the task's retry policy covers it.
fn poll_gate<'py>(
    py: Python<'py>,
    engine: &PyEngine,
    gate: &Gate<Python3>,
    last: &mut Option<(Failure, bool)>,
    empty: &mut Option<Owned<'py>>,
) -> Polled {
    *last = None;
    let body = &gate.run.workflow.bodies[gate.task.ix as usize];
    let Some(target) = body.gate(gate.part) else { return Polled::True(Value::NONE) };
    let polled = call_gate(py, engine, gate, target, empty)
        .and_then(|value| Ok(if gil::is_truthy(&value)? { Some(value) } else { None }));
    match polled {
        Ok(None) => Polled::False,
        Ok(Some(value)) => match names(py).map_err(|error| Raised::new(py, error)) {
            Ok(names) => match names.plain_codec.encode(&value) {
                Ok(value) => Polled::True(value),
                Err(raised) => {
                    let name = gate.spec().map(|spec| Arc::clone(&spec.name));
                    Polled::Broken(errors::unencodable(py, &raised, &name.unwrap_or_default()))
                }
            },
            Err(raised) => Polled::Broken(errors::describe_end(py, &raised)),
        },
        Err(raised) => match gate_raised(py, gate, &raised, last) {
            Ok(failure) => Polled::Raised(failure),
            Err(broken) => Polled::Broken(broken),
        },
    }
}

/// Computes the time of a gate. What the function raised is kept as by [`poll_gate`].
fn gate_time<'py>(
    py: Python<'py>,
    engine: &PyEngine,
    gate: &Gate<Python3>,
    last: &mut Option<(Failure, bool)>,
    empty: &mut Option<Owned<'py>>,
) -> Result<GateTime, Failure> {
    *last = None;
    let body = &gate.run.workflow.bodies[gate.task.ix as usize];
    let Some(target) = body.gate(gate.part) else { return Ok(GateTime::After(Duration::ZERO)) };
    call_gate(py, engine, gate, target, empty)
        .and_then(|value| computed_time(&value, target.purpose))
        .map_err(|raised| gate_raised(py, gate, &raised, last).unwrap_or_else(|broken| broken))
}

/// The time that a function of a gate has returned.
pub(crate) fn computed_time(value: &Bound<'_, PyAny>, purpose: Purpose) -> Result<GateTime, Raised> {
    let py = value.py();
    // A gate of another version of the workflow waits for nothing here.
    let Some(kind) = purpose.computes() else { return Ok(GateTime::After(Duration::ZERO)) };
    let names = names(py).map_err(|error| Raised::new(py, error))?;
    let kind = pyo3::types::PyString::new(py, kind);
    let seconds = gil::call_args(names.computed.bind(py), &[kind.as_any(), value])?;
    let seconds = seconds.extract::<f64>().map_err(|error| Raised::new(py, error))?;
    let is_span = matches!(purpose, Purpose::Span);
    Ok(if is_span { GateTime::After(Duration::from_secs_f64(seconds)) } else { GateTime::At(time_of(seconds)) })
}

/// Calls a function of a gate.
fn call_gate<'py>(
    py: Python<'py>,
    engine: &PyEngine,
    gate: &Gate<Python3>,
    target: &PyGate,
    empty: &mut Option<Owned<'py>>,
) -> Result<Owned<'py>, Raised> {
    with_gate_call(py, engine, gate, target, |call, function| call.call(empty, function, &target.binding))
}

/// Has a function of a gate called, with its arguments.
pub(crate) fn with_gate_call<'py, R>(
    py: Python<'py>,
    engine: &PyEngine,
    gate: &Gate<Python3>,
    target: &PyGate,
    call: impl FnOnce(&Arguments<'_, 'py>, &Bound<'py, PyAny>) -> Result<R, Raised>,
) -> Result<R, Raised> {
    failpoint::hit(Failpoint::Gate);
    let body = &gate.run.workflow.bodies[gate.task.ix as usize];
    let args = if body.sources.is_empty() {
        bide_executor::Args::new()
    } else {
        gate.run.args(gate.task, &body.sources, &gate.run.state.lock())
    };
    let context = if target.binding.wants_context {
        let context = context_of(py, engine, &gate.run, gate.task)?;
        read_only(py, &context, true)?;
        Some(context)
    } else {
        None
    };
    let (run, task) = (&gate.run, gate.task);
    let arguments = Arguments { py, run, task, args: &args, context: context.as_ref(), handle: None };
    let (function, name) = (target.function.bind(py), gate.spec().map(|spec| &*spec.name).unwrap_or_default());
    let stub = match target.purpose.computes() {
        None => test_hooks::condition(engine, run.id, name, function)?,
        Some(_) => None,
    };
    call(&arguments, stub.as_ref().unwrap_or(function))
}

/// The failure of a function of a gate that raised; kept in `last`, as the exception is. An error if the task's retry
/// policy cannot say whether it covers that.
fn gate_raised(
    py: Python<'_>,
    gate: &Gate<Python3>,
    raised: &Raised,
    last: &mut Option<(Failure, bool)>,
) -> Result<Failure, Failure> {
    let body = &gate.run.workflow.bodies[gate.task.ix as usize];
    let covered = covers(body, py, raised.value(py));
    let failure = errors::describe_end(py, covered.as_ref().err().unwrap_or(raised));
    *last = Some((failure.clone(), covered.as_ref().is_ok_and(|covered| *covered)));
    if covered.is_ok() { Ok(failure) } else { Err(failure) }
}

/// A failure of a gate: whether the task's retry policy covers it.
pub(crate) fn gate_retries(py: Python<'_>, gate: &Gate<Python3>, failure: &Failure) -> bool {
    let body = &gate.run.workflow.bodies[gate.task.ix as usize];
    body.retry.is_some() && covers(body, py, errors::rebuild(py, failure).value(py).as_any()).unwrap_or(false)
}
