//! The runner of closures: opens an engine on a store, takes runs in, and ends it all safely.

use std::sync::Arc;
use std::time::Duration;

use bide_core::{DefinitionError, RunId};
use bide_store::Store;
use serde::Serialize;
use tokio::runtime::Handle;

use super::blocking::blocking;
use super::closures::Closures;
use super::dispatch::OnTokio;
use super::error::Error;
use super::result::RunResult;
use super::run_handle::RunHandle;
use super::submit::{Submit, SubmitAndWait};
use super::workflow::Workflow;
use super::{codec, gate_watch, work};
use crate::clock::{Clock, SystemClock};
use crate::control::{CANCEL_GRACE, CANCEL_LIMIT};
#[cfg(feature = "testing")]
use crate::drive::Driver;
use crate::engine::{Engine, default_slots};
use crate::log::{Level, Log};
use crate::runs::run::{RegisteredWorkflow, RunRequest};
use crate::services::retention::RETENTION;

/// How long bodies may keep executing when the runner closes.
const GRACE: Duration = Duration::from_secs(5);

/// How long the close waits for bodies that are dropped.
const DROPPING: Duration = Duration::from_secs(1);

/// Executes runs of workflows on the tokio runtime on which it was started. Dropping it suspends its runs: nothing is
/// lost, and the next runner on the store continues them.
pub struct Runner {
    /// The engine, closed when the runner is dropped.
    pub(super) engine: Arc<Engine<Closures>>,
}

/// A runner to be started.
pub struct RunnerBuilder {
    /// Where runs are stored.
    store: Arc<dyn Store>,
    /// The clock of the engine.
    clock: Arc<dyn Clock>,
    /// How many bodies execute at once.
    slots: u32,
    /// How long ended runs are kept; `None`: for ever.
    retention: Option<Duration>,
    /// How long a body may clean up whose run was cancelled: in execution, and by the wall.
    cancel_grace: (Duration, Duration),
    /// Where log lines go.
    log: Log,
}

impl RunnerBuilder {
    /// How many bodies may execute at once (those that await something included, unless they await their handle).
    #[must_use]
    pub fn slots(mut self, slots: u32) -> Self {
        self.slots = slots;
        self
    }

    /// How long ended runs are kept, [`RETENTION`] by default; `None`: for ever. Of several runners on one store the
    /// one that keeps them for the shortest decides.
    #[must_use]
    pub fn retention(mut self, retention: Option<Duration>) -> Self {
        self.retention = retention;
        self
    }

    /// How long a body may clean up whose run was cancelled, before its task ends all the same: how long it may
    /// execute, and how long by the wall. A minute and an hour by default.
    #[must_use]
    pub fn cancel_grace(mut self, grace: Duration, limit: Duration) -> Self {
        self.cancel_grace = (grace, limit);
        self
    }

    /// The clock that it reads.
    #[must_use]
    pub fn clock(mut self, clock: Arc<dyn Clock>) -> Self {
        self.clock = clock;
        self
    }

    /// Where it writes what a person should read; else to standard error.
    #[must_use]
    pub fn log(mut self, log: impl Fn(Level, &str) + Send + Sync + 'static) -> Self {
        self.log = Box::new(log);
        self
    }

    /// Starts it on the current tokio runtime, whose time driver must be enabled.
    ///
    /// # Errors
    /// If the store cannot be used, there are no slots, or this is not called on a tokio runtime.
    pub fn start(self) -> Result<Runner, Error> {
        let runtime = Handle::try_current()
            .map_err(|_| DefinitionError("a runner starts on a tokio runtime; call start within one".to_owned()))?;
        if self.slots == 0 {
            return Err(DefinitionError("slots must be at least 1".to_owned()).into());
        }
        let dispatch = self.dispatch(runtime);
        let engine = Engine::<Closures>::start_with(self.store, self.clock, dispatch, self.log, self.retention)?;
        engine.set_cancel_grace(self.cancel_grace.0, self.cancel_grace.1);
        engine.dispatch().open(&engine);
        Ok(Runner { engine })
    }

    /// As [`RunnerBuilder::start`], without the engine's threads: the driver takes their turns. For tests under a clock
    /// that is moved by hand.
    ///
    /// # Errors
    /// If the store gives no lease.
    #[cfg(feature = "testing")]
    pub fn start_driven(self, runtime: Handle, seed: u64) -> Result<(Runner, Driver<Closures>), Error> {
        let dispatch = self.dispatch(runtime);
        let driver = Driver::<Closures>::open_with(self.store, self.clock, dispatch, self.log, seed, self.retention)?;
        let engine = Arc::clone(driver.engine());
        engine.set_cancel_grace(self.cancel_grace.0, self.cancel_grace.1);
        engine.dispatch().open(&engine);
        Ok((Runner { engine }, driver))
    }

    fn dispatch(&self, runtime: Handle) -> OnTokio {
        OnTokio::new(runtime, self.slots, self.store.blocks(), work::start_lane, gate_watch::start_watch)
    }
}

impl Runner {
    /// A runner on a store.
    #[must_use]
    pub fn open(store: Arc<dyn Store>) -> RunnerBuilder {
        let log = |level: Level, line: &str| eprintln!("bide: {level:?}: {line}");
        RunnerBuilder {
            store,
            clock: SystemClock::shared(),
            slots: default_slots(),
            retention: Some(RETENTION),
            cancel_grace: (CANCEL_GRACE, CANCEL_LIMIT),
            log: Box::new(log),
        }
    }

    /// Registers a workflow: its unfinished runs without an owner continue from here.
    ///
    /// # Errors
    /// From the store, or if the runner is closed.
    pub async fn register(&self, workflow: &Workflow) -> Result<(), Error> {
        let workflow = workflow.clone();
        blocking(&self.engine, move |engine| register(engine, &workflow).map(drop)).await?
    }

    /// A run of a workflow: awaiting it gives a handle once the run is committed. Inputs are any value that serialises
    /// to named values: a struct, a map, an array of pairs, or `()`.
    pub fn submit<T: Serialize + ?Sized>(&self, workflow: &Workflow, inputs: &T) -> Submit {
        Submit::new(&self.engine, workflow, codec::inputs(inputs))
    }

    /// As [`submit`](Self::submit), and waits for the result.
    pub fn run<T: Serialize>(&self, workflow: &Workflow, inputs: T) -> SubmitAndWait {
        self.submit(workflow, &inputs).and_wait()
    }

    /// Many runs in one commit, in the order of the inputs.
    ///
    /// # Errors
    /// None is created then.
    pub async fn submit_many<T: Serialize>(
        &self,
        workflow: &Workflow,
        inputs: impl IntoIterator<Item = T>,
    ) -> Result<Vec<RunHandle>, Error> {
        let requests: Result<Vec<_>, DefinitionError> =
            inputs.into_iter().map(|inputs| Ok(RunRequest::new(codec::inputs(&inputs)?))).collect();
        submit(&self.engine, workflow.clone(), requests?).await
    }

    /// A run as it stands, executed here or not.
    ///
    /// # Errors
    /// If there is no such run, or from the store.
    pub async fn get(&self, id: RunId) -> Result<RunResult, Error> {
        let stored = blocking(&self.engine, move |engine| match engine.live(id) {
            Some(run) => engine.committed(&run).map(Some),
            None => engine.store().load(id),
        });
        let stored = stored.await??;
        stored.map(RunResult::of).ok_or_else(|| Error::unknown_run(id))
    }

    /// A handle of a run that exists, executed here or not.
    ///
    /// # Errors
    /// If there is no such run, or from the store.
    pub async fn handle(&self, id: RunId) -> Result<RunHandle, Error> {
        blocking(&self.engine, move |engine| {
            if engine.live(id).is_none() && engine.store().load(id)?.is_none() {
                return Err(Error::unknown_run(id));
            }
            Ok(RunHandle::new(engine, engine.handle(id)?))
        })
        .await?
    }

    /// How many slots are in use, and how many there are.
    #[must_use]
    pub fn slots_in_use(&self) -> (usize, usize) {
        self.engine.dispatch().slots_in_use()
    }

    /// How many runs that have not ended this runner has in memory.
    #[must_use]
    pub fn live_runs(&self) -> usize {
        self.engine.live_count()
    }

    /// Ends it: deferred bodies are suspended, others have five seconds to end. The next runner on the store continues
    /// their runs.
    pub async fn close(&self) {
        self.close_within(GRACE).await;
    }

    /// As [`close`](Self::close) with another grace.
    pub async fn close_within(&self, grace: Duration) {
        self.engine.begin_close();
        let dispatch = self.engine.dispatch();
        if tokio::time::timeout(grace, dispatch.all_ended()).await.is_err() {
            dispatch.stop();
            if tokio::time::timeout(DROPPING, dispatch.all_ended()).await.is_err() {
                self.engine.log(Level::Warning, "a body blocks its thread and continues after the runner was closed");
            }
        }
        let engine = Arc::clone(&self.engine);
        // It joins threads, so not on a thread of the runtime. If the runtime is going down, drop will do it.
        let _ = tokio::task::spawn_blocking(move || engine.finish_close()).await;
    }
}

impl Drop for Runner {
    fn drop(&mut self) {
        self.engine.begin_close();
        self.engine.dispatch().stop();
        self.engine.finish_close();
    }
}

pub(super) fn register(
    engine: &Arc<Engine<Closures>>,
    workflow: &Workflow,
) -> Result<Arc<RegisteredWorkflow<Closures>>, Error> {
    if engine.is_closing() {
        return Err(engine.stopped().cloned().map_or(Error::Closed, Error::settled));
    }
    Ok(engine.register(Arc::clone(&workflow.graph), Arc::clone(&workflow.bodies))?)
}

pub(super) async fn submit(
    engine: &Arc<Engine<Closures>>,
    workflow: Workflow,
    requests: Vec<RunRequest<Closures>>,
) -> Result<Vec<RunHandle>, Error> {
    blocking(engine, move |engine| {
        let workflow = register(engine, &workflow)?;
        let handles = engine.submit(&workflow, requests)?;
        Ok(handles.into_iter().map(|handle| RunHandle::new(engine, handle)).collect())
    })
    .await?
}
