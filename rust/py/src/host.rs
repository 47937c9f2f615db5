//! Python as the engine's host: what it keeps with each body and with each run.

use std::sync::{Arc, OnceLock, Weak};
use std::time::Duration;

use bide_core::items::{Items, NotAList};
use bide_core::{PollPolicy, TaskRef, Value};
use bide_executor::{Engine, Host, Pool, Run, Source, TaskLimit};
use bide_sync::Mutex;
use pyo3::prelude::*;

use crate::body::{Purpose, PyBody};
use crate::errors::{Names, names};
use crate::gil::{self, Kept, Owned, Raised};
use crate::panics;

/// The host.
pub(crate) struct Python3;

/// What is kept with each run.
#[derive(Default)]
pub(crate) struct Local {
    /// The submitter's contextvars; `None` if it had none, or if another process submitted the run.
    contextvars: Option<Arc<Vars>>,
    /// Where the original exceptions are kept, as long as a handle may ask for them.
    originals: Mutex<Weak<Originals>>,
    /// Where the items of the lists begin that its tasks are mapped over, once one was looked into.
    lists: OnceLock<Box<[OnceLock<Items>]>>,
}

/// The original exceptions of tasks that failed for good here, until one was raised to a caller. The handles own them,
/// not the run: an exception has frames, those have the body's handle, and that has the run, a cycle that is never
/// collected. A box and not a vector, since almost all are empty, and there is one for each handle.
pub(crate) type Originals = Mutex<Box<[(TaskRef, Kept)]>>;

impl Local {
    /// `originals` has to live until the run's first handle is made, which may be after the run's end.
    pub(crate) fn new(contextvars: Option<Arc<Vars>>, originals: &Arc<Originals>) -> Self {
        Self { contextvars, originals: Mutex::new(Arc::downgrade(originals)), lists: OnceLock::new() }
    }

    /// Of a child run: its parent gets no original exceptions, because after a restart there are none.
    pub(crate) fn of_child(contextvars: Option<Arc<Vars>>) -> Self {
        Self { contextvars, ..Self::default() }
    }

    /// The submitter's contextvars, if there is anything in them.
    #[inline]
    pub(crate) fn contextvars(&self) -> Option<&Vars> {
        self.contextvars.as_deref()
    }

    /// Contextvars of its own for one call: a copy of the submitter's.
    pub(crate) fn own_vars<'py>(&self, names: &Names, py: Python<'py>) -> Result<Owned<'py>, Raised> {
        match self.contextvars() {
            Some(vars) => vars.copied(names, py),
            None => gil::call0(names.no_vars.bind(py)),
        }
    }

    /// The items of a list that the task of a body is mapped over, by its position among the body's sources. `list` is
    /// asked for the list if that was not looked into yet. `None` if there is no list.
    pub(crate) fn items(
        &self,
        bodies: &[PyBody],
        body: &PyBody,
        at: usize,
        list: impl FnOnce() -> Option<Value>,
    ) -> Result<Option<&Items>, NotAList> {
        let Some(number) = body.lists.get(at).copied().flatten() else { return Ok(None) };
        let lists = self.lists.get_or_init(|| {
            let count = bodies.iter().flat_map(|body| body.lists.iter().flatten()).max().map_or(0, |last| last + 1);
            (0..count).map(|_| OnceLock::new()).collect()
        });
        if let Some(items) = lists[number].get() {
            return Ok(Some(items));
        }
        let Some(list) = list() else { return Ok(None) };
        let items = Items::of(&list)?;
        Ok(Some(lists[number].get_or_init(|| items)))
    }

    /// Keeps the original exception of a task that has failed for good, if a handle of the run is there to ask for it.
    pub(crate) fn keep_original(&self, task: TaskRef, exception: &Bound<'_, PyAny>) {
        let Some(originals) = self.originals.lock().upgrade() else { return };
        let mut known = originals.lock();
        let mut all = std::mem::take(&mut *known).into_vec();
        all.push((task, Kept::new(exception.clone().unbind())));
        *known = all.into();
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
    pub(crate) fn copied<'py>(&self, names: &Names, py: Python<'py>) -> Result<Owned<'py>, Raised> {
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
                                       sorted(...), or give each use a key of its own, such as key=str(item)";

    const START_ADVICE: &'static str = "If the order of its uses may change, as in a loop over a set, loop over \
                                        sorted(...) or give each child a key, such as key=f\"file {item}\"";

    type Body = PyBody;
    type Local = Local;
    type Dispatch = Pool<Self>;

    fn copy_local(local: &Local) -> Local {
        let originals = Mutex::new(local.originals.lock().clone());
        Local { contextvars: local.contextvars.clone(), originals, lists: OnceLock::new() }
    }

    fn sources(body: &PyBody) -> &[Source] {
        &body.sources
    }

    fn no_panic<R>(f: impl FnOnce() -> R) -> Result<R, String> {
        panics::no_panic(f).map_err(|panicked| panicked.to_string())
    }

    fn limit(body: &PyBody) -> Option<&TaskLimit> {
        body.limit.as_deref()
    }

    fn is_coroutine(body: &PyBody) -> bool {
        body.is_async
    }

    fn is_coroutine_gate(body: &PyBody, part: u16) -> bool {
        body.gate(part).is_some_and(|gate| gate.is_async)
    }

    fn this_thread() -> u64 {
        // SAFETY: always succeeds. It is what `threading.get_ident` returns.
        (unsafe { libc::pthread_self() }) as u64
    }

    fn retries_timeout(body: &PyBody) -> bool {
        body.retry.as_ref().is_some_and(|retry| retry.covers_timeout)
    }

    fn gate_policy(body: &PyBody, part: u16) -> PollPolicy {
        match body.gate(part).map(|gate| gate.purpose) {
            Some(Purpose::Condition(policy)) => policy,
            _ => PollPolicy::every(Duration::from_secs(1)),
        }
    }
}
