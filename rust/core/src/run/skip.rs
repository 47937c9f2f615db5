//! Why a task is skipped: by `run_if`, by `fail_fast`, or by its own body.

use std::sync::Arc;

use crate::failure::Failure;
use crate::graph::{Graph, RunIf};
use crate::id::TaskRef;
use crate::status::TaskStatus;
use crate::time::Time;

use super::RunState;

/// How the text begins that is stored of a task that had not begun at the deadline of its run.
pub(super) const EXPIRED: &str = "the run did not end within ";

/// As it is stored of a task that runs only after a failure.
const NOTHING_FAILED: &str = "no task that it depends on failed";

/// Why a task was skipped. A store keeps the text that users see.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum SkipCause {
    /// For this task: it failed, skipped itself, or was skipped because nothing had failed. It is the root of the
    /// skip, not the task before it.
    Task(TaskRef),
    /// It runs only after a failure, and nothing that it depends on failed.
    NothingFailed,
    /// It had not begun at the deadline of its run; in words.
    Expired(Arc<str>),
    /// In words: those of its own body, as a rule.
    Reason(Arc<str>),
}

impl SkipCause {
    /// The text to store.
    pub(super) fn text(&self, graph: &Graph) -> Arc<str> {
        match self {
            Self::Task(root) => graph.name_of(*root),
            Self::NothingFailed => NOTHING_FAILED.into(),
            Self::Expired(text) | Self::Reason(text) => Arc::clone(text),
        }
    }

    /// The cause whose text is stored of a skipped task.
    pub(crate) fn from_stored(text: Arc<str>, graph: &Graph, task: TaskRef, started_at: Option<Time>) -> Self {
        // A body that skips itself may happen to give a task's name as its reason.
        if started_at.is_some_and(|at| at > Time::default()) && !graph.is_expansion(task) {
            return Self::Reason(text);
        }
        match graph.find_element(&text) {
            Some(root) if graph.spec(task.ix).run_if != RunIf::Failed => Self::Task(root),
            _ if *text == *NOTHING_FAILED => Self::NothingFailed,
            Some(root) => Self::Task(root),
            None if text.starts_with(EXPIRED) => Self::Expired(text),
            None => Self::Reason(text),
        }
    }
}

impl RunState {
    /// By `run_if`, once all dependencies have ended: why the task is skipped, and whether for a failure.
    pub(super) fn skipped_by(&self, task: TaskRef) -> Option<(SkipCause, bool)> {
        let run_if = self.graph.spec(task.ix).run_if;
        if !self.has_unsuccessful && !run_if.runs_after_failures() {
            return None;
        }
        let mut dependencies = self.graph.dependencies(task.ix).iter().filter_map(|on| self.decides_about(task, *on));
        let failed = dependencies.clone().find(|dep| self.task(*dep).failed);
        match run_if {
            RunIf::Done => None,
            RunIf::Failed if failed.is_some() || self.elements_decide(task) => None,
            RunIf::Failed => Some((SkipCause::NothingFailed, false)),
            RunIf::Succeeded | RunIf::NoneFailed => {
                let unsuccessful =
                    |dep: &TaskRef| run_if == RunIf::Succeeded && self.task_status(*dep) != TaskStatus::Completed;
                let cause = failed.or_else(|| dependencies.find(unsuccessful))?;
                Some((SkipCause::Task(self.skip_root(cause).unwrap_or(cause)), failed.is_some()))
            }
        }
    }

    /// What failed of a task, with the name of what did: the task itself, or the one because of whose failure it was
    /// skipped.
    #[must_use]
    pub fn failure_of(&self, task: TaskRef) -> Option<(Arc<str>, Failure)> {
        if !self.get(task)?.failed {
            return None;
        }
        let root = self.skip_root(task).unwrap_or(task);
        let failure = self.known_detail(root)?.rare().failure.clone()?;
        Some((self.graph.name_of(root), failure))
    }

    /// Whether a task was skipped because it had not begun at the deadline of its run.
    pub(crate) fn is_expired(&self, task: TaskRef) -> bool {
        self.known_detail(task).is_some_and(|detail| matches!(detail.rare().skipped, Some(SkipCause::Expired(_))))
    }

    /// The task for which a task was skipped. `None` for one that was not skipped, skipped itself, or was skipped
    /// because nothing had failed: then it is itself the root of what is skipped for it.
    pub(crate) fn skip_root(&self, task: TaskRef) -> Option<TaskRef> {
        match self.known_detail(task)?.rare().skipped {
            Some(SkipCause::Task(root)) => Some(root),
            _ => None,
        }
    }
}
