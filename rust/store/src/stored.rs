//! What a store tells of workflows and of where runs stand.

use std::sync::Arc;

use bide_core::record::{RecordedTask, RunRow, StoredRun};
use bide_core::{BlockReason, RunId, RunStatus};

/// A workflow version as a store knows it.
#[derive(Clone, Debug)]
pub struct StoredWorkflow {
    /// The workflow's number.
    pub number: i64,
    /// The version's number.
    pub version: i64,
    /// Its tasks, in declaration order, with their numbers.
    pub tasks: Arc<[RecordedTask]>,
    /// The signals that it declares; `None`: it understands any.
    pub signals: Option<Vec<String>>,
}

/// One version of a workflow, as recorded.
#[derive(Clone, Debug)]
pub struct StoredVersion {
    /// Its number.
    pub version: i64,
    /// The hash of its graph.
    pub hash: Arc<str>,
    /// Its tasks, in declaration order.
    pub tasks: Arc<[RecordedTask]>,
}

/// Runs that were claimed.
#[derive(Debug, Default)]
pub struct Claimed {
    /// All of them, oldest first.
    pub runs: Vec<RunId>,
    /// Those that nobody has executed yet, where the claim has read them: as they were created, but with their new owner.
    pub new: Vec<StoredRun>,
}

/// Where a run stands, without anything that could be large.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Standing {
    /// Its status.
    pub status: RunStatus,
    /// The name of its workflow.
    pub workflow: Arc<str>,
    /// The hash of its version's graph.
    pub version: Arc<str>,
    /// The runner that has it.
    pub runner: Option<i64>,
    /// It is paused on request: it has an owner, or waits for one, like a running one.
    pub held: bool,
}

impl From<&RunRow> for Standing {
    fn from(run: &RunRow) -> Self {
        Self {
            status: run.status,
            workflow: run.workflow.clone(),
            version: run.version.clone(),
            runner: run.runner,
            held: run.status == RunStatus::Paused && run.blocked_by.as_ref().is_some_and(BlockReason::is_requested),
        }
    }
}

/// Which events of a channel to read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum EventRange {
    /// Those after an offset, at least `most` if there are that many: rows are read whole.
    After {
        /// The offset; 0 for the first event.
        offset: u64,
        /// How many.
        most: usize,
    },
    /// The row that has the last one.
    Last,
}
