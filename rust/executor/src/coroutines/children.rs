//! How a coroutine starts child runs. It waits for them as for anything else.

use std::sync::Arc;

use bide_core::attempt::{CallError, Fed, Request, Within};
use bide_core::{Event, RunId};

use super::body::{CoroutineBody, OpenCall};
use crate::host::Host;
use crate::ledger::Lost;
use crate::runs::run::{RegisteredWorkflow, RunRequest};
use crate::threads::body::StartIdentity;

/// How many children are kept in memory for a body. The results of further ones are read from the store.
const KEPT: usize = 16_384;

impl<H: Host> CoroutineBody<H> {
    /// Begins the start of runs of a workflow as children, those that are not recorded.
    ///
    /// # Errors
    /// See [`CallError`]; too many levels are `Misuse`.
    pub fn begin_start(
        &self,
        workflow: &Arc<RegisteredWorkflow<H>>,
        identities: Vec<StartIdentity>,
        within: Within,
    ) -> Result<Arc<OpenCall>, CallError> {
        if let Some(why) = self.engine().refuse_level(self.run(), workflow) {
            return Err(CallError::Misuse(format!("task '{}': {why}", self.task_name())));
        }
        let name = workflow.graph.workflow();
        let request = |identity: StartIdentity| identity.request::<H>(name, false);
        self.begin(name, Request::Start(identities.into_iter().map(request).collect()), within)
    }

    /// Creates children and commits the records of their starts. Blocks. Returns their ids with what the call is fed.
    pub fn create_children(
        &self,
        event: Event,
        workflow: &Arc<RegisteredWorkflow<H>>,
        requests: Vec<RunRequest<H>>,
    ) -> (Vec<RunId>, Fed) {
        match self.engine().start_children(self.run(), event, workflow, requests) {
            Ok(runs) => {
                self.keep_children(&runs, KEPT);
                (runs.iter().map(|run| run.id).collect(), Fed::Committed { deadline: None })
            }
            Err(Lost::Refused(refused)) if !self.is_lost() => (Vec::new(), Fed::Refused(refused)),
            Err(_) => (Vec::new(), Fed::Stopped),
        }
    }

    /// Whether a body of this run has started that one.
    #[must_use]
    pub fn has_child(&self, id: RunId) -> bool {
        self.run().state.lock().has_child(id)
    }
}
