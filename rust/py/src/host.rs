//! Python as the engine's host: how a body is called on a worker thread, and what its end means.

use std::sync::{Arc, Weak};
use std::time::Duration;

use bide_core::event::Retry;
use bide_core::shown::shown;
use bide_core::{Failure, Outcome, PollPolicy, TaskRef, Value, pack};
use bide_executor::failpoint::{self, Failpoint};
use bide_executor::{Attached, BodyCx, Call, Engine, Gate, GateWorker, Host, Level, Polled, Pool, Run, Source, Worker};
use bide_sync::Mutex;
use pyo3::prelude::*;
use pyo3::types::{PyBytes, PyDict, PyString};
use smallvec::SmallVec;

use crate::errors::{self, Names, names};
use crate::gil::{self, Kept, Owned, Raised};
use crate::handle::PyTaskHandle;
use crate::thread::Kind;
use crate::workflow::{Argument, Binding, PyBody};
use crate::{panics, thread, turn};

/// The host.
pub(crate) struct Python3;

/// What is kept with each run.
#[derive(Default)]
pub(crate) struct Local {
    /// The submitter's contextvars; `None` if it had none, or if another process submitted the run.
    contextvars: Option<Arc<Vars>>,
    originals: Mutex<Weak<Originals>>,
}

/// The original exceptions of tasks that failed for good here, until somebody was told. The handles have them, not the
/// run: an exception has frames, those have the body's handle, and that has the run, which nobody could collect.
/// A box and not a vector, since almost all are empty, and there is one for each handle.
pub(crate) type Originals = Mutex<Box<[(u32, Kept)]>>;

impl Local {
    /// `originals` has to live until the run's first handle is made, which may be after the run's end.
    pub(crate) fn new(contextvars: Option<Arc<Vars>>, originals: &Arc<Originals>) -> Self {
        Self { contextvars, originals: Mutex::new(Arc::downgrade(originals)) }
    }

    /// What one more handle of the run has.
    pub(crate) fn originals(&self) -> Arc<Originals> {
        let mut known = self.originals.lock();
        known.upgrade().unwrap_or_else(|| {
            let new = Arc::default();
            *known = Arc::downgrade(&new);
            new
        })
    }
}

/// The submitter's contextvars, which are never entered: each call of a body or of a gate's condition runs in a copy of
/// its own.
pub(crate) struct Vars {
    /// `context.copy`, bound to them: the cheapest way to a copy.
    copy: Kept,
    /// Whether `decimal`'s context is in it. That is an object which can be changed, and a copy of the contextvars
    /// shares it.
    has_decimal: bool,
}

impl Vars {
    /// `None` if there is nothing in them.
    pub(crate) fn new(context: Bound<'_, PyAny>) -> PyResult<Option<Self>> {
        if context.len()? == 0 {
            return Ok(None);
        }
        let has_decimal = names(context.py())?.has_decimal.bind(context.py());
        let has_decimal = gil::is_truthy(&*gil::call1(has_decimal, &context)?)?;
        let copy = context.getattr(pyo3::intern!(context.py(), "copy"))?;
        Ok(Some(Self { copy: Kept::new(copy.unbind()), has_decimal }))
    }

    /// A copy of them, for one call.
    #[inline]
    fn copied<'py>(&self, names: &Names, py: Python<'py>) -> Result<Owned<'py>, Raised> {
        let own = gil::call0(self.copy.bind(py))?;
        if self.has_decimal {
            gil::call_args(names.run_in_vars.bind(py), &[&own, names.own_decimal.bind(py)])?;
        }
        Ok(own)
    }
}

pub(crate) type PyEngine = Engine<Python3>;
pub(crate) type PyRun = Run<Python3>;

impl Host for Python3 {
    const STEP_ADVICE: &'static str = "If the order of its uses may change, as in a loop over a set, loop over \
                                       sorted(...) or give each use a name of its own, such as name=f\"fetch {item}\"";

    type Body = PyBody;
    type Local = Local;
    type Dispatch = Pool<Self>;

    fn sources(body: &PyBody) -> &[Source] {
        &body.sources
    }

    fn no_panic<R>(f: impl FnOnce() -> R) -> Result<R, String> {
        panics::no_panic(f).map_err(|panicked| panicked.to_string())
    }

    fn retries_timeout(body: &PyBody) -> bool {
        body.retries_timeout
    }

    fn gate_policy(body: &PyBody) -> PollPolicy {
        body.gate.as_ref().map_or(PollPolicy::every(Duration::from_secs(1)), |gate| gate.policy)
    }
}

/// A worker thread's or the gate thread's side.
pub(crate) struct Thread<'py> {
    py: Python<'py>,
    engine: Arc<PyEngine>,
    /// What the condition of a gate has just raised, and whether the task's retry policy covers it.
    last: Option<(Failure, bool)>,
    /// Contextvars with nothing in them, for the next call that has none to begin with.
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
    fn execute(&mut self, call: Call<Python3>) -> Outcome {
        let py = self.py;
        panics::no_panic(|| execute(py, &self.engine, call, &mut self.empty))
            .unwrap_or_else(|panicked| Outcome::Failed { failure: errors::panicked(&panicked), retry: None })
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
            .unwrap_or_else(|panicked| Polled::Broken(errors::panicked(&panicked)))
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

/// Starts a thread that polls gates.
pub(crate) fn start_gate_thread(py: Python<'_>, engine: &Arc<PyEngine>) -> Result<(), thread::StartError> {
    let engine = Arc::clone(engine);
    thread::start_thread(py, "bide-gates", Kind::Bodies, move |py| {
        let mut here = Thread::new(py, Arc::clone(&engine));
        engine.work_on_gates(&mut here);
    })
}

fn execute<'py>(
    py: Python<'py>,
    engine: &Arc<PyEngine>,
    call: Call<Python3>,
    empty: &mut Option<Owned<'py>>,
) -> Outcome {
    let result = run_body(py, engine, &call, empty);
    if call.body.as_ref().is_some_and(|body| body.suspending()) {
        // Whatever the body returned or raised on its way out, it goes on from its journal.
        return Outcome::Suspended;
    }
    match result {
        Ok((output, changes)) => Outcome::Completed { output, changes },
        Err(raised) => ended_by(py, engine, &call, raised),
    }
}

type Returned = (Value, Option<Arc<[u8]>>);

fn run_body<'py>(
    py: Python<'py>,
    engine: &Arc<PyEngine>,
    call: &Call<Python3>,
    empty: &mut Option<Owned<'py>>,
) -> Result<Returned, Raised> {
    let target = call.target();
    let context = if target.binding.wants_context { Some(context_of(py, engine, &call.run, call.task)?) } else { None };
    let handle = match &call.body {
        None => None,
        Some(body) => Some(handle_of(py, body, context.as_ref())?),
    };
    let _logged = Logged::enter(py, call)?;
    let arguments = Arguments { py, args: &call.args, context: context.as_ref(), handle: handle.as_ref() };
    let value = arguments.call(&call.run.local, empty, target.function.bind(py), &target.binding)?;
    let output = target.returns.encode(&value)?;
    let changes = match &context {
        None => None,
        Some(context) => changes_of(py, context)?,
    };
    Ok((output, changes))
}

#[inline(never)]
fn handle_of<'py>(
    py: Python<'py>,
    body: &Arc<BodyCx<Python3>>,
    context: Option<&Owned<'py>>,
) -> Result<Owned<'py>, Raised> {
    let context = context.map(|context| Kept::new(Bound::clone(context).unbind()));
    let handle = Bound::new(py, PyTaskHandle::new(Arc::clone(body), context));
    handle.map(|handle| Owned::from(handle.into_any())).map_err(|error| Raised::new(py, error))
}

/// The arguments of one call.
struct Arguments<'a, 'py> {
    py: Python<'py>,
    args: &'a [Option<Value>],
    context: Option<&'a Owned<'py>>,
    handle: Option<&'a Owned<'py>>,
}

impl<'py> Arguments<'_, 'py> {
    /// Calls a function within contextvars of its own. `empty` are some that a call has left as they were made: to look
    /// into them is cheaper than to make others.
    #[inline]
    fn call(
        &self,
        local: &Local,
        empty: &mut Option<Owned<'py>>,
        function: &Bound<'py, PyAny>,
        binding: &Binding,
    ) -> Result<Owned<'py>, Raised> {
        let names = names(self.py).map_err(|error| Raised::new(self.py, error))?;
        let vars = match &local.contextvars {
            Some(vars) => vars.copied(names, self.py)?,
            None => empty.take().map_or_else(|| gil::call0(names.no_vars.bind(self.py)), Ok)?,
        };
        let result = self.call_within(names, &vars, function, binding);
        if local.contextvars.is_none() && vars.len().is_ok_and(|len| len == 0) {
            *empty = Some(vars);
        }
        result
    }

    #[inline]
    fn call_within(
        &self,
        names: &Names,
        vars: &Bound<'py, PyAny>,
        function: &Bound<'py, PyAny>,
        binding: &Binding,
    ) -> Result<Owned<'py>, Raised> {
        let run = names.run_in_vars.bind(self.py);
        let mut values: SmallVec<[Owned<'py>; 4]> = SmallVec::new();
        for argument in &binding.positional {
            values.push(self.value(argument)?);
        }
        let mut positional: SmallVec<[&Bound<'py, PyAny>; 6]> = SmallVec::new();
        positional.extend([vars, function]);
        positional.extend(values.iter().map(|one| &**one));
        if binding.keyword.is_empty() {
            return gil::call_args(run, &positional);
        }
        let keywords = gil::dict(self.py)?;
        for (name, argument) in &binding.keyword {
            let value = self.value(argument)?;
            gil::set_item(&keywords, name.bind(self.py).as_any(), &value)?;
        }
        let tuple = gil::tuple(self.py, &positional)?;
        let keywords = keywords.cast::<PyDict>().map_err(|error| Raised::new(self.py, error.into()))?;
        gil::call(run, &tuple, Some(keywords))
    }

    fn value(&self, argument: &Argument) -> Result<Owned<'py>, Raised> {
        let copy = |of: Option<&Owned<'py>>| {
            let value = of.map_or_else(|| self.py.None().into_bound(self.py), |of| Bound::clone(of));
            Ok(Owned::from(value))
        };
        match argument {
            Argument::Context => copy(self.context),
            Argument::Handle => copy(self.handle),
            Argument::Value { at, codec, default } => match (self.args.get(*at).and_then(Option::as_ref), default) {
                (Some(value), _) => codec.decode(self.py, value),
                (None, Some(default)) => Ok(Owned::from(default.bind(self.py).clone())),
                (None, None) => Err(Raised::new(self.py, errors::definition(self.py, "an argument has no value"))),
            },
        }
    }
}

/// What a body sees of the context, as a `bide.Context` of its own.
#[inline(never)]
fn context_of<'py>(py: Python<'py>, engine: &PyEngine, run: &PyRun, task: TaskRef) -> Result<Owned<'py>, Raised> {
    let (values, conflicts) =
        run.context_of(task.ix).map_err(|why| Raised::new(py, errors::bide(py, &why.to_string())))?;
    for conflict in run.unreported(conflicts) {
        engine.log(Level::Warning, &conflict.message(&run.workflow.graph));
    }
    let base = gil::dict(py)?;
    for (key, value) in values {
        let key = PyString::new(py, &key).into_any();
        gil::set_item(&base, &key, PyBytes::new(py, value.as_bytes()).as_any())?;
    }
    let whose = PyString::new(py, &format!("task '{}'", shown(run.workflow.graph.name(task.ix)))).into_any();
    let make = names(py).map_err(|error| Raised::new(py, error))?;
    gil::call_args(make.context.bind(py), &[&base, &whose])
}

/// What a body changed, packed.
#[inline(never)]
fn changes_of(py: Python<'_>, context: &Bound<'_, PyAny>) -> Result<Option<Arc<[u8]>>, Raised> {
    let changes = gil::getattr(context, &PyString::new(py, "changes"))?;
    let changes = gil::call0(&changes)?;
    let pairs: Vec<(String, Option<Vec<u8>>)> = changes.extract().map_err(|error| Raised::new(py, error))?;
    if pairs.is_empty() {
        return Ok(None);
    }
    let pairs: Vec<(String, Option<Value>)> =
        pairs.into_iter().map(|(key, value)| (key, value.map(|value| Value::new(&value)))).collect();
    Ok(Some(pack::pack(pairs.iter().map(|(key, value)| (&**key, value.as_ref()))).into()))
}

/// What an exception that left a body means.
#[inline(never)]
fn ended_by(py: Python<'_>, engine: &PyEngine, call: &Call<Python3>, raised: Raised) -> Outcome {
    if names(py).is_ok_and(|names| raised.is_a(names.skip.bind(py))) {
        let reason = gil::getattr(raised.value(py), pyo3::intern!(py, "reason")).ok();
        let reason = reason.and_then(|reason| reason.extract::<String>().ok());
        return Outcome::Skipped { reason: reason.unwrap_or_default().into() };
    }
    failpoint::hit(Failpoint::Body);
    let failure = errors::describe_end(py, &raised);
    let retry = matches(call.target(), py, raised.value(py)).then(|| Retry { random: engine.random() });
    let last = call.attempt >= call.run.workflow.graph.spec(call.task.ix).retry.attempts;
    if retry.is_none() || last {
        let originals = call.run.local.originals.lock().upgrade();
        if let Some(originals) = originals {
            let original = Kept::new(raised.value(py).clone().unbind());
            let mut known = originals.lock();
            let mut all = std::mem::take(&mut *known).into_vec();
            all.push((call.task.ix, original));
            *known = all.into();
        }
    }
    Outcome::Failed { failure, retry }
}

/// Whether the task's retry policy covers an exception.
fn matches(body: &PyBody, py: Python<'_>, exception: &Bound<'_, PyAny>) -> bool {
    let Some(matches) = &body.matches else { return false };
    gil::call1(matches.bind(py), exception).and_then(|answer| gil::is_truthy(&answer)).unwrap_or(false)
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
    let Some(target) = &body.gate else { return Polled::True(Value::NONE) };
    failpoint::hit(Failpoint::Gate);
    let polled = (|| {
        let args = if body.sources.is_empty() {
            bide_executor::Args::new()
        } else {
            gate.run.args(&body.sources, &gate.run.state.lock())
        };
        let context = if target.binding.wants_context {
            let context = context_of(py, engine, &gate.run, gate.task)?;
            read_only(py, &context, true)?;
            Some(context)
        } else {
            None
        };
        let arguments = Arguments { py, args: &args, context: context.as_ref(), handle: None };
        let value = arguments.call(&gate.run.local, empty, target.condition.bind(py), &target.binding)?;
        Ok::<_, Raised>(if gil::is_truthy(&value)? { Some(value) } else { None })
    })();
    match polled {
        Ok(None) => Polled::False,
        Ok(Some(value)) => match names(py).map_err(|error| Raised::new(py, error)) {
            Ok(names) => match names.plain_codec.encode(&value) {
                Ok(value) => Polled::True(value),
                Err(raised) => {
                    let name =
                        gate.workflow().graph.spec(gate.task.ix).gate.as_ref().map(|spec| Arc::clone(&spec.name));
                    Polled::Broken(errors::unencodable(py, &raised, &name.unwrap_or_default()))
                }
            },
            Err(raised) => Polled::Broken(errors::describe_end(py, &raised)),
        },
        Err(raised) => {
            let failure = errors::describe_end(py, &raised);
            let body = &gate.run.workflow.bodies[gate.task.ix as usize];
            *last = Some((failure.clone(), matches(body, py, raised.value(py))));
            Polled::Raised(failure)
        }
    }
}

/// Makes a context read-only, as it is within a step and a condition.
pub(crate) fn read_only(py: Python<'_>, context: &Bound<'_, PyAny>, yes: bool) -> Result<(), Raised> {
    let set = gil::getattr(context, &PyString::new(py, "_set_read_only"))?;
    gil::call1(&set, pyo3::types::PyBool::new(py, yes).as_any()).map(drop)
}

/// Says which body this thread executes, for log records, if anybody wants to know.
struct Logged<'py>(Option<Bound<'py, PyAny>>);

impl<'py> Logged<'py> {
    fn enter(py: Python<'py>, call: &Call<Python3>) -> Result<Self, Raised> {
        let names = names(py).map_err(|error| Raised::new(py, error))?;
        if names.logging_in_use.bind(py).is_empty() {
            return Ok(Self(None));
        }
        let logging = names.logging.bind(py);
        let enter = gil::getattr(logging, pyo3::intern!(py, "enter"))?;
        let run = PyString::new(py, &call.run.id.to_string()).into_any();
        let task = PyString::new(py, call.run.workflow.graph.name(call.task.ix)).into_any();
        let attempt = call.attempt.into_pyobject(py).map_err(|error| match error {})?.into_any();
        gil::call_args(&enter, &[&run, &task, &attempt])?;
        Ok(Self(Some(gil::getattr(logging, pyo3::intern!(py, "leave"))?.into_bound())))
    }
}

impl Drop for Logged<'_> {
    fn drop(&mut self) {
        if let Some(leave) = &self.0 {
            let _ = gil::call0(leave);
        }
    }
}

/// A failure of a gate: whether the task's retry policy covers it.
fn gate_retries(py: Python<'_>, gate: &Gate<Python3>, failure: &Failure) -> bool {
    let body = &gate.run.workflow.bodies[gate.task.ix as usize];
    body.matches.is_some() && matches(body, py, errors::rebuild(py, failure).value(py).as_any())
}
