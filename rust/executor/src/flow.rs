//! A registered workflow, and a run of it in memory.

use std::sync::Arc;

use bide_core::record::{RecordedTask, RunRow, StoredRun};
use bide_core::{Graph, RunId, RunState, TaskId, Time, Value, pack};
use bide_store::Lease;
use parking_lot::Mutex;

use crate::host::{Args, Host, Source};
use crate::settled::Settled;

/// A workflow with its bodies, as registered with an engine.
pub struct Flow<H: Host> {
    /// Its shape.
    pub graph: Arc<Graph>,
    /// One body for each task.
    pub bodies: Arc<[H::Body]>,
    /// The store's number of the workflow.
    pub workflow: i64,
    /// The store's number of this version.
    pub version: i64,
    /// The store's numbers of the tasks.
    pub ids: Arc<[TaskId]>,
    /// The tasks as the store records them.
    pub recorded: Arc<[RecordedTask]>,
}

/// A run in memory.
pub struct Run<H: Host> {
    /// Its id.
    pub id: RunId,
    /// The caller's key.
    pub key: Option<Arc<str>>,
    /// Its workflow.
    pub flow: Arc<Flow<H>>,
    /// Its inputs, in order of name.
    pub inputs: Box<[(Arc<str>, Value)]>,
    /// When it was created.
    pub created_at: Time,
    /// The lease under which it is executed here. Under any other it is somebody else's.
    pub lease: Lease,
    /// Its state. Held only for a transition: never across a commit, a wake-up or a call of a body.
    pub state: Mutex<RunState>,
    /// What the host keeps with it.
    pub local: H::Local,
    /// Where callers wait for it.
    pub settled: Settled,
}

impl<H: Host> Run<H> {
    /// An input by name.
    #[must_use]
    pub fn input(&self, name: &str) -> Option<&Value> {
        let at = self.inputs.binary_search_by(|(key, _)| (**key).cmp(name)).ok()?;
        Some(&self.inputs[at].1)
    }

    /// The values of these sources.
    #[must_use]
    pub fn args(&self, sources: &[Source], state: &RunState) -> Args {
        sources
            .iter()
            .map(|source| match source {
                Source::Output(ix) => state.output(*ix).cloned(),
                Source::Input(name) => self.input(name).cloned(),
            })
            .collect()
    }

    /// The run as it stands in memory, in the form in which a store returns it. Journals are left out.
    #[must_use]
    pub fn snapshot(&self) -> StoredRun {
        let state = self.state.lock();
        StoredRun {
            run: RunRow {
                id: self.id,
                workflow: Arc::clone(self.flow.graph.workflow()),
                version: self.flow.graph.version().into(),
                key: self.key.clone(),
                status: state.status(),
                inputs: pack::pack(self.inputs.iter().map(|(name, value)| (&**name, Some(value)))).into(),
                failure: state.failure().cloned(),
                created_at: self.created_at,
                ended_at: state.ended_at(),
                blocked_by: state.blocked_by().cloned(),
                crashes: 0,
                runner: None,
            },
            tasks: Arc::clone(&self.flow.recorded),
            rows: (0..self.flow.graph.len() as u32).map(|ix| state.task_row(ix)).collect(),
            entries: Vec::new(),
        }
    }
}
