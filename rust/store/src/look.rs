//! What a store shows of all that is under way in it, to those who look: open waits, runners, runs that nobody has.

use std::sync::Arc;

use bide_core::record::{RunRowId, StoredRun};
use bide_core::{Entry, Message, RunId, TaskId, Time};

use crate::StoreError;

/// Where an open wait stands among all of them: the oldest first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct WaitPosition {
    /// When it was opened.
    pub opened_at: Time,
    /// The row number of its run.
    pub run: RunRowId,
    /// The number of its task.
    pub task: TaskId,
    /// The map index of its task.
    pub map: i32,
    /// The number of its entry in the journal of the task.
    pub seq: u32,
}

/// An open wait of an unfinished task, with what it belongs to.
#[derive(Clone, Debug, PartialEq)]
pub struct OpenWait {
    /// Its run.
    pub run: RunId,
    /// The key of the run.
    pub key: Option<Arc<str>>,
    /// The name of the workflow.
    pub workflow: Arc<str>,
    /// The number of its task.
    pub task: TaskId,
    /// The map index of its task.
    pub map: i32,
    /// The name of its task, without the map index.
    pub name: Arc<str>,
    /// The wait.
    pub entry: Entry,
}

impl OpenWait {
    /// Where it stands.
    #[must_use]
    pub const fn position(&self) -> WaitPosition {
        WaitPosition {
            opened_at: self.entry.opened_at,
            run: self.run.row(),
            task: self.task,
            map: self.map,
            seq: self.entry.seq,
        }
    }
}

/// A runner, for people who look.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RunnerInfo {
    /// The process that it belongs to.
    pub pid: u32,
    /// The name of the machine.
    pub host: String,
    /// When it was started.
    pub started_at: Time,
}

/// Unfinished runs of a workflow version that belong to no runner and are not paused.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct UnownedRuns {
    /// The name of the workflow.
    pub workflow: Arc<str>,
    /// The hash of its version.
    pub version: Arc<str>,
    /// How many.
    pub count: u64,
    /// One of them.
    pub example: RunId,
}

/// What is under way in a store.
pub trait Look {
    /// The open waits of unfinished runs, the oldest first, that stand after this position; at most `most`. Takes as long
    /// for one page as for any other, however many waits there are.
    ///
    /// # Errors
    /// As [`crate::Store::load`].
    fn open_waits(&self, after: Option<WaitPosition>, most: usize) -> Result<Vec<OpenWait>, StoreError>;

    /// A run with what has not ended in it: tasks that have ended have their status alone, journals their open entries,
    /// and there are no messages.
    ///
    /// # Errors
    /// As [`crate::Store::load`].
    fn load_open(&self, run: RunId) -> Result<Option<StoredRun>, StoreError>;

    /// The control requests to a run, the oldest first, also those that it has acted on.
    ///
    /// # Errors
    /// As [`crate::Store::load`].
    fn requests(&self, run: RunId) -> Result<Vec<Message>, StoreError>;

    /// The names of the channels that a run has emitted to, sorted.
    ///
    /// # Errors
    /// As [`crate::Store::load`].
    fn channels(&self, run: RunId) -> Result<Vec<Arc<str>>, StoreError>;

    /// A runner that has not left.
    ///
    /// # Errors
    /// As [`crate::Store::load`].
    fn runner(&self, runner: i64) -> Result<Option<RunnerInfo>, StoreError>;

    /// The runs that belong to no runner, by workflow version. Takes time for each of them.
    ///
    /// # Errors
    /// As [`crate::Store::load`].
    fn unowned_runs(&self) -> Result<Vec<UnownedRuns>, StoreError>;
}
