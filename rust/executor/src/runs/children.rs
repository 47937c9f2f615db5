//! Child runs: a body starts one in the commit of its record. The end of one that is executed here is passed to its
//! parent by the ledger, in the commit of the child; that of any other is found here.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use bide_core::record::{NewRun, Parent, RunRowId};
use bide_core::{Event, RunId, RunState, RunStatus};
use bide_store::{ChangedRuns, Creation, StoreError};
use bide_sync::Mutex;

use crate::control::Control;
use crate::host::Host;
use crate::ids::IdMaker;
use crate::ledger::{CommitPath, Lost, QueuedEvent};
use crate::runs::run::{RegisteredWorkflow, Run, RunRequest, packed};

/// How many runs may be above each other. A workflow that starts itself without end comes to this.
pub(crate) const MAX_LEVELS: u32 = 100;

/// How many children are created and begin in one commit. The first ones execute while others are created: with fewer
/// in a commit, the two hand the commit lock to each other more often.
const TOGETHER: usize = 1_024;

/// Starts child runs, and finds the ends of those that are executed elsewhere.
pub(crate) struct Children<H: Host> {
    /// The store, and the runs that are executed here.
    control: Arc<Control<H>>,
    /// Commits starts and ends.
    path: Arc<CommitPath<H>>,
    /// Makes the ids of children.
    ids: Arc<IdMaker>,
    /// The children of recovered parents that had not ended when they were last looked at, with the parent of each.
    /// Others are executed here as long as their parents are.
    elsewhere: Mutex<HashMap<RunRowId, RunId>>,
}

impl<H: Host> Children<H> {
    pub(crate) fn new(control: &Arc<Control<H>>, path: &Arc<CommitPath<H>>, ids: &Arc<IdMaker>) -> Arc<Self> {
        let (control, path, ids) = (Arc::clone(control), Arc::clone(path), Arc::clone(ids));
        Arc::new(Self { control, path, ids, elsewhere: Mutex::default() })
    }

    /// Creates children and commits the records of their starts: of many some in each commit, so that the first ones
    /// execute while the others are created. Blocks.
    ///
    /// # Errors
    /// `Refused` if the parent's attempt or run is over, `Stopped` if the engine is. Some may have been created before.
    pub(crate) fn start(
        &self,
        parent: &Arc<Run<H>>,
        record: Event,
        workflow: &Arc<RegisteredWorkflow<H>>,
        mut requests: Vec<RunRequest<H>>,
    ) -> Result<Vec<Arc<Run<H>>>, Lost> {
        let Event::ChildrenStarted { task, attempt, mut starts } = record else {
            unreachable!("children are started by the event for it, not by {record:?}")
        };
        let mut children = Vec::with_capacity(requests.len());
        while !starts.is_empty() {
            let later =
                (starts.split_off(starts.len().min(TOGETHER)), requests.split_off(requests.len().min(TOGETHER)));
            let record = Event::ChildrenStarted { task, attempt, starts };
            children.append(&mut self.start_together(parent, record, workflow, requests)?);
            (starts, requests) = later;
        }
        Ok(children)
    }

    /// The same in one commit. The ids are filled in here.
    fn start_together(
        &self,
        parent: &Arc<Run<H>>,
        mut record: Event,
        workflow: &Arc<RegisteredWorkflow<H>>,
        requests: Vec<RunRequest<H>>,
    ) -> Result<Vec<Arc<Run<H>>>, Lost> {
        let Event::ChildrenStarted { task, starts, .. } = &mut record else {
            unreachable!("children are started by the event for it, not by {record:?}")
        };
        let (depth, now) = (parent.depth() + 1, self.control.clock.now());
        let (number, map) = (parent.workflow.ids[task.ix as usize], task.map);
        let state = |id| RunState::new(id, Arc::clone(&workflow.graph), Arc::clone(&workflow.ids));
        let mut children = Vec::with_capacity(requests.len());
        let mut rows = Vec::with_capacity(requests.len());
        for (start, request) in starts.iter_mut().zip(requests) {
            start.run = self.ids.next(now);
            let request = request.below(parent).with_deadline(&workflow.graph, now);
            let child = Arc::new(Run::new(workflow, parent.lease, state(start.run), request, now));
            let above = Parent { run: parent.id, task: number, map, key: start.key.clone(), depth };
            let new = NewRun::new(start.run, workflow.number, workflow.version, now).with_parent(Some(Arc::new(above)));
            rows.push(new.with_inputs(packed(&child.inputs)).with_options(child.options.clone()));
            children.push(child);
        }
        loop {
            let event = record.clone();
            let creations = self.path.ledger.start_children(&self.path, parent, event, &mut rows, &children)?;
            if !creations.iter().any(Creation::prevents_all) {
                break;
            }
            // Another process has taken the number of one of them in the same millisecond: none has been created, but
            // their states have begun. The records are made again, under other ids.
            if let Event::ChildrenStarted { starts, .. } = &mut record {
                for ((start, row), creation) in starts.iter_mut().zip(&mut rows).zip(&creations) {
                    if *creation == Creation::NumberTaken {
                        row.id = self.ids.next(self.control.clock.now());
                        start.run = row.id;
                    }
                }
            }
            children = children.into_iter().zip(&rows).map(|(run, row)| Run::renamed(run, state(row.id))).collect();
        }
        // Adopted before this is asked, stopped before all are settled: one of the two sees the other.
        self.control.settle_late_comers();
        Ok(children)
    }

    /// These runs were recovered: finds the ends of their children that were committed since they were read.
    ///
    /// # Errors
    /// From the store.
    pub(crate) fn watch(&self, recovered: &[Arc<Run<H>>]) -> Result<(), StoreError> {
        for parent in recovered {
            let open = parent.state.lock().unended_children();
            if open.is_empty() {
                continue;
            }
            // Noted before the look, so that an end in between is not missed.
            self.elsewhere.lock().extend(open.iter().map(|child| (child.row(), parent.id)));
            self.look_at(parent.id)?;
        }
        Ok(())
    }

    /// The recovered runs here that have children which are executed elsewhere or not at all, as far as is known.
    pub(crate) fn parents(&self) -> Vec<Arc<Run<H>>> {
        let ids: HashSet<RunId> = self.elsewhere.lock().values().copied().collect();
        ids.into_iter().filter_map(|id| self.control.runs.get(id)).collect()
    }

    /// Looks at the children executed elsewhere that may have changed.
    ///
    /// # Errors
    /// From the store; then they are looked at with the next changes.
    pub(crate) fn look(&self, changed: &ChangedRuns) -> Result<(), StoreError> {
        let parents = {
            let elsewhere = self.elsewhere.lock();
            let mut parents: Vec<RunId> = match changed {
                ChangedRuns::Any => elsewhere.values().copied().collect(),
                ChangedRuns::These(runs) => runs.iter().filter_map(|run| elsewhere.get(run)).copied().collect(),
            };
            parents.sort_unstable();
            parents.dedup();
            parents
        };
        parents.into_iter().try_for_each(|parent| self.look_at(parent))
    }

    /// Looks at the children of a run, and passes it the ends that it does not know.
    fn look_at(&self, parent: RunId) -> Result<(), StoreError> {
        let Some(run) = self.control.runs.get(parent) else {
            self.elsewhere.lock().retain(|_, of| *of != parent);
            return Ok(());
        };
        let children: HashMap<RunId, RunStatus> = self.control.store().children(parent)?.into_iter().collect();
        let (at, mut items) = (self.control.clock.now(), Vec::new());
        let unended = run.state.lock().unended_children();
        for child in unended {
            if let Some(status) = children.get(&child).copied().filter(|status| status.is_ended()) {
                let (run, event) = (Arc::clone(&run), Event::ChildEnded { run: child, status });
                items.push(QueuedEvent::new(run, event, at));
            }
        }
        self.path.commit_now(&mut items);
        let open: HashSet<RunRowId> = run.state.lock().unended_children().iter().map(|child| child.row()).collect();
        self.elsewhere.lock().retain(|child, of| *of != parent || open.contains(child));
        Ok(())
    }

    /// Why a run may start no child of this workflow, if it may not. Blocks only then.
    pub(crate) fn refuse_level(&self, run: &Run<H>, workflow: &RegisteredWorkflow<H>) -> Option<String> {
        if run.depth() + 1 < MAX_LEVELS {
            return None;
        }
        let mut chain = self.chain(run);
        chain.push(Arc::clone(workflow.graph.workflow()));
        Some(format!(
            "more than {MAX_LEVELS} levels of child runs: {}. Has one of them no end, so that it starts itself again and \
             again?",
            shown_chain(&chain)
        ))
    }

    /// The names of the workflows from the outermost parent of a run to the run itself. Blocks.
    fn chain(&self, run: &Run<H>) -> Vec<Arc<str>> {
        let mut names = vec![Arc::clone(run.workflow.graph.workflow())];
        let mut above = run.parent.as_ref().map(|parent| parent.id);
        while let Some(id) = above.filter(|_| names.len() <= MAX_LEVELS as usize) {
            let Ok(Some(stored)) = self.control.store().load(id) else { break };
            names.push(stored.run.workflow);
            above = stored.run.parent;
        }
        names.reverse();
        names
    }
}

/// A chain of workflows in words: its beginning and its end, and how often a workflow follows itself.
fn shown_chain(chain: &[Arc<str>]) -> String {
    const ENDS: usize = 4;
    let links = chain.chunk_by(|one, other| one == other).map(|link| match link {
        [one] => format!("'{one}'"),
        several => format!("'{}' ({} times)", several[0], several.len()),
    });
    let mut links: Vec<String> = links.collect();
    if links.len() > 2 * ENDS {
        links.splice(ENDS..links.len() - ENDS, ["...".to_owned()]);
    }
    links.join(" -> ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_chain_is_shown_by_its_ends_and_repetitions() {
        let chain = |names: &[&str]| -> Vec<Arc<str>> { names.iter().map(|name| Arc::from(*name)).collect() };
        assert_eq!(shown_chain(&chain(&["a"])), "'a'");
        assert_eq!(shown_chain(&chain(&["root", "a", "a", "a"])), "'root' -> 'a' (3 times)");
        let pairs: Vec<&str> = std::iter::repeat_n(["a", "b"], 50).flatten().collect();
        assert_eq!(shown_chain(&chain(&pairs)), "'a' -> 'b' -> 'a' -> 'b' -> ... -> 'a' -> 'b' -> 'a' -> 'b'");
    }
}
