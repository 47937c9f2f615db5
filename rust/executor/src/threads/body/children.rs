//! How a body starts child runs. It waits for them as for anything else (`body/waits.rs`).

use std::collections::HashMap;
use std::sync::Arc;

use bide_core::attempt::{Action, CallError, Fed, Request, StartRequest};
use bide_core::quick_hash::QuickHash;
use bide_core::{EntryKey, RunId, StepArguments};

use super::BodyCx;
use crate::host::{Attached, Host};
use crate::ledger::Lost;
use crate::runs::children::MAX_LEVELS;
use crate::runs::run::{RegisteredWorkflow, Run, RunRequest};
use crate::threads::pool::Pool;

/// What makes a start the same as a recorded one.
pub enum StartIdentity {
    /// The use of the workflow's name, with equal inputs: these, encoded.
    Inputs(Arc<[u8]>),
    /// A key of the caller's.
    Key(Arc<str>),
}

impl StartIdentity {
    /// The start of a child of this workflow, as a body asks for it; `awaited` as [`StartRequest::awaited`].
    pub(crate) fn request<H: Host>(self, workflow: &Arc<str>, awaited: bool) -> StartRequest {
        let (name, proof, keyed) = match self {
            Self::Inputs(proof) => (Arc::clone(workflow), Some(proof), false),
            Self::Key(key) => (EntryKey::keyed_name(workflow, &key), None, true),
        };
        let arguments = StepArguments { proof, older: None, advice: H::START_ADVICE };
        StartRequest { name, arguments, keyed, awaited }
    }
}

/// A child run that was started, now or by an earlier entry of the body.
pub struct StartedChild {
    /// Its id.
    pub id: RunId,
    /// The key of its start in the journal.
    pub key: EntryKey,
}

/// Children by their ids.
pub(super) type Started<H> = Option<Box<HashMap<RunId, Arc<Run<H>>, QuickHash>>>;

/// How many children are kept in memory for a body. The results of further ones are read from the store.
const KEPT: usize = 16_384;

impl<H: Host> BodyCx<H> {
    fn keep_children(&self, runs: &[Arc<Run<H>>]) {
        let mut children = self.children.lock();
        let children = children.get_or_insert_default();
        let room = KEPT.saturating_sub(children.len());
        children.extend(runs.iter().take(room).map(|run| (run.id, Arc::clone(run))));
    }

    /// A child of this body whose end it has waited for, if it is still in memory.
    pub fn take_child(&self, id: RunId) -> Option<Arc<Run<H>>> {
        self.children.lock().as_mut()?.remove(&id)
    }

    /// Whether a body of this run has started that one.
    #[must_use]
    pub fn has_child(&self, id: RunId) -> bool {
        self.run.state.lock().has_child(id)
    }
}

impl<H: Host<Dispatch = Pool<H>>> BodyCx<H> {
    /// Starts runs of a workflow as children, those that are not recorded: each in one commit with the record of its
    /// start. A re-entered body gets the same children. `awaited`: there is one, and the next call is the wait for it,
    /// as [`StartRequest::awaited`] says.
    ///
    /// # Errors
    /// See [`CallError`]; other inputs than recorded are a `Mismatch`, and too many levels are `Misuse`.
    pub fn start_children(
        &self,
        at: &mut dyn Attached,
        workflow: &Arc<RegisteredWorkflow<H>>,
        starts: Vec<(StartIdentity, RunRequest<H>)>,
        awaited: bool,
    ) -> Result<Vec<StartedChild>, CallError> {
        if self.run.depth() + 1 >= MAX_LEVELS
            && let Some(why) = at.detach(|| self.engine.refuse_level(&self.run, workflow))
        {
            return Err(CallError::Misuse(format!("task '{}': {why}", self.task_name())));
        }
        let name = workflow.graph.workflow();
        let (identities, requests): (Vec<_>, Vec<_>) = starts.into_iter().unzip();
        let request = |identity: StartIdentity| identity.request::<H>(name, awaited);
        let mut call = self.begin(name, Request::Start(identities.into_iter().map(request).collect()))?;
        let mut requests: Vec<Option<RunRequest<H>>> = requests.into_iter().map(Some).collect();
        let mut new: Vec<Option<RunId>> = vec![None; requests.len()];
        let mut fed = Fed::Begin;
        loop {
            fed = match self.drive(at, &mut call, &mut fed) {
                Action::StartChildren { which, event } => {
                    let requests = which.iter().filter_map(|at| requests[*at].take()).collect();
                    let started = at.detach(|| {
                        if awaited {
                            // The wait is opened with it, after which the slot is released.
                            self.commit_gathered();
                        }
                        self.engine.start_children(&self.run, *event, workflow, requests)
                    });
                    match started {
                        Ok(children) => {
                            for (at, child) in which.into_iter().zip(&children) {
                                new[at] = Some(child.id);
                            }
                            self.keep_children(&children);
                            Fed::Committed { deadline: None }
                        }
                        Err(Lost::Refused(refused)) if !self.run.is_lost() => Fed::Refused(refused),
                        Err(_) => Fed::Stopped,
                    }
                }
                Action::Done(result) => {
                    result?;
                    return Ok(self.started(call.part_keys(), &new));
                }
                action => unreachable!("{action:?} of a start"),
            }
        }
    }

    /// Commits what has gathered on the body's slot.
    fn commit_gathered(&self) {
        let group = self.permit.lock().as_ref().map(|permit| Arc::clone(permit.group()));
        if let Some(group) = group.filter(|group| !group.is_empty()) {
            let mut ready = Vec::new();
            self.engine.commit_group(&group, &mut ready);
            self.engine.dispatch_ready(&mut ready);
        }
    }

    /// The children of these records, of which `new` are just created.
    fn started(&self, keys: Vec<EntryKey>, new: &[Option<RunId>]) -> Vec<StartedChild> {
        let state = self.run.state.lock();
        let child = |(at, key): (usize, EntryKey)| {
            let id = new[at].or_else(|| state.started_child(self.task, &key))?;
            Some(StartedChild { id, key })
        };
        keys.into_iter().enumerate().filter_map(child).collect()
    }
}
