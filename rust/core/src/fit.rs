//! Whether a run can continue with another version of its workflow, and what of it goes where then.
//!
//! Tasks are known by their names, and by those that they had before (`Graph::with_renamed`). A version as a whole fits
//! if every recorded task still exists with the same dependencies and is mapped over the same lists. With other names
//! or more dependencies it depends on the run: a task that has begun may depend on more tasks only if these have ended.

use std::collections::{HashMap, HashSet};
use std::fmt;
use std::sync::Arc;

use crate::graph::Graph;
use crate::id::{NO_MAP, TaskId, TaskIx};
use crate::record::{RecordedTask, StoredRun};
use crate::status::TaskStatus;

/// Whether the runs of a recorded version can continue with a graph.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fit {
    /// Each of them can.
    Every,
    /// It depends on the run, which is to be converted first: see [`moves`].
    Some,
    /// None can.
    None,
}

/// Why a run cannot continue with a graph.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Misfit {
    /// There is no such task any more.
    Gone(Arc<str>),
    /// Two of its tasks are one now.
    Joined(Arc<str>),
    /// The task depended on another one.
    Removed {
        /// The task.
        task: Arc<str>,
        /// The other one.
        on: Arc<str>,
    },
    /// The task has begun, and depends on another one now, which has not ended.
    Added {
        /// The task.
        task: Arc<str>,
        /// The other one.
        on: Arc<str>,
    },
    /// The task is mapped over other lists, or is not mapped any more.
    Mapped(Arc<str>),
}

impl fmt::Display for Misfit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Gone(task) => {
                write!(f, "it has no task '{task}'; if that has another name now, name both by Workflow(renamed=...)")
            }
            Self::Joined(task) => write!(f, "two tasks of the run are called '{task}' now"),
            Self::Removed { task, on } => write!(f, "task '{task}' does not depend on '{on}' any more"),
            Self::Added { task, on } => {
                write!(f, "task '{task}', which has begun, depends on '{on}' now, which has not ended")
            }
            Self::Mapped(task) => write!(f, "task '{task}' is mapped over other lists than before"),
        }
    }
}

/// Whether the runs of a version with these tasks can continue with a graph.
#[must_use]
pub fn of_version(graph: &Graph, recorded: &[RecordedTask]) -> Fit {
    let same = |task: &RecordedTask| {
        let Some(ix) = graph.find(&task.name) else { return false };
        task.dependencies.len() == graph.dependencies(ix).len()
    };
    match misfit(graph, recorded, None) {
        Some(_) => Fit::None,
        None if recorded.iter().all(same) => Fit::Every,
        None => Fit::Some,
    }
}

/// Why a run cannot continue with a graph, if it cannot.
#[must_use]
pub fn of_run(graph: &Graph, stored: &StoredRun) -> Option<Misfit> {
    misfit(graph, &stored.tasks, Some(stored))
}

fn misfit(graph: &Graph, recorded: &[RecordedTask], run: Option<&StoredRun>) -> Option<Misfit> {
    let mut found = HashSet::new();
    let run = run.map(|run| (run, Standing::of(run)));
    for task in recorded {
        let name = &task.name;
        let Some(ix) = graph.find_current(name) else { return Some(Misfit::Gone(Arc::clone(name))) };
        if !found.insert(ix) {
            return Some(Misfit::Joined(Arc::clone(graph.name(ix))));
        }
        let then: Vec<&str> = task.dependencies.iter().map(|on| graph.current_name(on)).collect();
        let now = graph.dependencies(ix).iter().map(|on| &**graph.name(*on));
        if let Some(on) = then.iter().find(|on| now.clone().all(|now| now != **on)) {
            return Some(Misfit::Removed { task: Arc::clone(name), on: (*on).into() });
        }
        let mut over: Vec<&str> = task.over.iter().map(|list| graph.current_name(list)).collect();
        over.sort_unstable();
        if graph.spec(ix).map.as_ref().map_or_else(Vec::new, |map| map.over_names()) != over {
            return Some(Misfit::Mapped(Arc::clone(name)));
        }
        let Some((run, standing)) = run.as_ref().filter(|(_, standing)| standing.has_begun(task.id)) else { continue };
        let ended = |on: &str| {
            let of_name = |other: &&RecordedTask| graph.current_name(&other.name) == on;
            run.tasks.iter().find(of_name).is_some_and(|other| standing.has_ended(other.id))
        };
        let mut added = now.filter(|on| !then.contains(on));
        if let Some(on) = added.find(|on| !ended(on)) {
            return Some(Misfit::Added { task: Arc::clone(name), on: on.into() });
        }
    }
    None
}

/// How far the tasks of a run have come.
struct Standing {
    /// Of those with a row.
    statuses: HashMap<TaskId, TaskStatus>,
    /// Those that were mapped over a list.
    mapped: HashSet<TaskId>,
    /// Those with a journal, or a gate that waits.
    journals: HashSet<TaskId>,
}

impl Standing {
    fn of(run: &StoredRun) -> Self {
        let plain = run.rows.iter().filter(|row| row.map == NO_MAP);
        Self {
            statuses: plain.map(|row| (row.task, row.status)).collect(),
            mapped: run.rows.iter().filter(|row| row.length.is_some()).map(|row| row.task).collect(),
            journals: run.entries.iter().map(|(task, ..)| *task).collect(),
        }
    }

    fn has_ended(&self, task: TaskId) -> bool {
        self.statuses.get(&task).is_some_and(|status| status.is_ended())
    }

    /// Whether a task has begun, or waits at its gate, and has not ended.
    fn has_begun(&self, task: TaskId) -> bool {
        !self.has_ended(task) && (self.statuses.contains_key(&task) || self.journals.contains(&task))
    }
}

/// The tasks of a run that have not ended and that a graph does not have, or has in another form: nobody can vouch for
/// these.
#[must_use]
pub fn unfinished(graph: &Graph, stored: &StoredRun) -> Vec<Arc<str>> {
    let standing = Standing::of(stored);
    let lost = |task: &&RecordedTask| match graph.find_current(&task.name) {
        None => !standing.has_ended(task.id),
        Some(ix) => {
            let status = standing.statuses.get(&task.id);
            let written = matches!(status, Some(TaskStatus::Completed | TaskStatus::Running));
            written && standing.mapped.contains(&task.id) != graph.is_mapped(ix)
        }
    };
    stored.tasks.iter().filter(lost).map(|task| Arc::clone(&task.name)).collect()
}

/// Where what is recorded under the numbers of a version's tasks goes, if a run continues with a graph whose tasks have
/// these numbers: each number that changes, with the new one, or none if the graph has no such task.
#[must_use]
pub fn moves(graph: &Graph, ids: &[TaskId], recorded: &[RecordedTask]) -> Vec<(TaskId, Option<TaskId>)> {
    let mut taken: HashSet<TaskIx> = HashSet::new();
    let mut moves = Vec::new();
    for task in recorded {
        // Of two that have the same name now the first one counts.
        let ix = graph.find_current(&task.name).filter(|ix| taken.insert(*ix));
        let new = ix.map(|ix| ids[ix as usize]);
        if new != Some(task.id) {
            moves.push((task.id, new));
        }
    }
    moves
}
