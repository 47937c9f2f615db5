//! How a run comes to belong to another version of its workflow, or to another workflow.

use std::sync::Arc;

use bide_core::{Message, TaskId};

/// What changes.
#[derive(Clone, Debug)]
pub struct Conversion {
    /// The hash of the version that the run has: if it has another one by now, nothing changes.
    pub from: Arc<str>,
    /// The number of the workflow that it is to belong to.
    pub workflow: i64,
    /// The number of the version.
    pub version: i64,
    /// The numbers of tasks that change, each with the new one; what is recorded of a task without one is deleted.
    pub tasks: Vec<(TaskId, Option<TaskId>)>,
    /// What its history tells of that.
    pub told: Option<Message>,
}

/// What became of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Converted {
    /// It is done.
    Done,
    /// The run is gone, has completed, has an owner, or another version: nothing has changed.
    NotFree,
    /// A run of the other workflow has its key: nothing has changed.
    KeyTaken,
}
