//! What a store keeps: the rows of runs and tasks, and the writes of which a batch consists.
//!
//! Rows are whole: a write replaces its row. Only `Done`, the row of a task that completed at its first attempt, is a
//! shorter form of `Task`, because almost every row of a busy store is one.

use std::sync::Arc;

use crate::block::BlockReason;
use crate::control::Cancel;
use crate::decode::{Damage, DecodeError, Field};
use crate::emit::{NewEvents, ProgressRow};
use crate::entry::{Entry, EntryKey};
use crate::failure::Failure;
use crate::graph::Graph;
use crate::id::{NO_MAP, RunId, TaskId, TaskIx};
use crate::message::{Message, StoredMessage};
use crate::options::RunOptions;
use crate::pack::{Pair, unpack};
use crate::status::{RunStatus, SubStatus, TaskStatus};
use crate::time::Time;
use crate::value::Value;

/// A run's row number, see [`RunId::row`].
pub type RunRowId = i64;

/// How often in a row a body was entered as a suspect: after a process that may have died of it, with nothing recorded
/// since.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Mark {
    /// How many times; 0 if it is not a suspect.
    pub times: u32,
    /// The runner that owns the run has entered it; otherwise an earlier runner had.
    pub executes: bool,
}

impl Mark {
    /// That of a body that is no suspect.
    pub const NONE: Self = Self { times: 0, executes: false };

    /// As it is stored: the count, negative unless the body executes.
    #[must_use]
    pub const fn code(self) -> i64 {
        if self.executes { self.times as i64 } else { -(self.times as i64) }
    }

    /// The mark of a stored number; `None` for one that is larger than any count can be.
    #[must_use]
    pub fn from_code(code: i64) -> Option<Self> {
        let times = u32::try_from(code.unsigned_abs()).ok().filter(|times| i32::try_from(*times).is_ok())?;
        Some(Self { times, executes: code > 0 })
    }

    /// The same mark once another runner owns the run.
    #[must_use]
    pub const fn set_aside(self) -> Self {
        Self { executes: false, ..self }
    }

    /// The mark of a body that is entered once more.
    #[must_use]
    pub const fn entered(self) -> Self {
        if self.executes { self } else { Self { times: self.times.saturating_add(1), executes: true } }
    }
}

/// The whole row of a task.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TaskRow {
    /// Its run.
    pub run: RunRowId,
    /// The task's number in this store.
    pub task: TaskId,
    /// Map index, or [`crate::id::NO_MAP`].
    pub map: i32,
    /// How many elements it has; only of a mapped task itself, once that is known.
    pub length: Option<u32>,
    /// Where it stands.
    pub status: TaskStatus,
    /// While running: whether it holds a slot.
    pub sub_status: Option<SubStatus>,
    /// Attempts so far, from 1; 0 before the first.
    pub attempts: u32,
    /// Whether its body may have ended an earlier process.
    pub mark: Mark,
    /// What the body returned.
    pub output: Option<Value>,
    /// The body's changes of the context, packed (see [`crate::pack`]).
    pub changes: Option<Arc<[u8]>>,
    /// The last failed attempt's failure, or why it was skipped.
    pub failure: Option<Failure>,
    /// When the first attempt started; kept through retries.
    pub first_started_at: Option<Time>,
    /// When the current attempt started.
    pub started_at: Option<Time>,
    /// When it ended.
    pub ended_at: Option<Time>,
    /// Microseconds spent deferred or behind its gate, in closed waits.
    pub waited: i64,
    /// When the next attempt may start.
    pub retry_at: Option<Time>,
    /// What it is blocked by or was skipped for, in words.
    pub blocked_by: Option<Arc<str>>,
}

impl TaskRow {
    /// The row of a task that has none yet: nothing has happened to it.
    #[must_use]
    pub fn pending(run: RunRowId, task: TaskId) -> Self {
        Self {
            run,
            task,
            map: NO_MAP,
            length: None,
            status: TaskStatus::Pending,
            sub_status: None,
            attempts: 0,
            mark: Mark::default(),
            output: None,
            changes: None,
            failure: None,
            first_started_at: None,
            started_at: None,
            ended_at: None,
            waited: 0,
            retry_at: None,
            blocked_by: None,
        }
    }
}

impl From<DoneRow> for TaskRow {
    /// The whole row that a short one stands for.
    fn from(done: DoneRow) -> Self {
        Self {
            map: done.map,
            status: TaskStatus::Completed,
            attempts: 1,
            output: Some(done.output),
            first_started_at: Some(done.started_at),
            started_at: Some(done.started_at),
            ended_at: Some(done.ended_at),
            ..Self::pending(done.run, done.task)
        }
    }
}

/// The short row of a task that completed at its first attempt and had no row before.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DoneRow {
    /// Its run.
    pub run: RunRowId,
    /// The task's number in this store.
    pub task: TaskId,
    /// Map index, or [`crate::id::NO_MAP`].
    pub map: i32,
    /// What the body returned.
    pub output: Value,
    /// When the body started.
    pub started_at: Time,
    /// When it ended.
    pub ended_at: Time,
}

impl DoneRow {
    /// The row of a task that is not mapped.
    #[must_use]
    pub const fn new(run: RunRowId, task: TaskId, output: Value, started_at: Time, ended_at: Time) -> Self {
        Self { run, task, map: NO_MAP, output, started_at, ended_at }
    }
}

/// What changes in a run's row.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RunUpdate {
    /// The run.
    pub run: RunRowId,
    /// Its new status.
    pub status: RunStatus,
    /// The first committed failure, if any.
    pub failure: Option<Failure>,
    /// When it ended.
    pub ended_at: Option<Time>,
    /// Why it is paused.
    pub blocked_by: Option<BlockReason>,
    /// How many processes in a row died while one of its bodies was the only marked one that they executed.
    pub crashes: u32,
    /// The workflow version with which the run continues, if it is another than before.
    pub version: Option<i64>,
    /// That it was cancelled, if it was.
    pub cancel: Option<Arc<Cancel>>,
}

impl RunUpdate {
    /// A run with this status and nothing else.
    #[must_use]
    pub const fn new(run: RunRowId, status: RunStatus) -> Self {
        Self { run, status, failure: None, ended_at: None, blocked_by: None, crashes: 0, version: None, cancel: None }
    }
}

impl RunUpdate {
    /// Whether it is paused on request: it has an owner, or waits for one.
    #[must_use]
    pub fn is_held(&self) -> bool {
        self.status == RunStatus::Paused && self.blocked_by.as_ref().is_some_and(BlockReason::is_requested)
    }

    /// Whether no body of the run executes from this write on, though the run has not ended: it waits for somebody to
    /// resume it. One that is paused on request lets its bodies end.
    #[must_use]
    pub fn stands(&self) -> bool {
        self.status == RunStatus::Paused && !self.is_held()
    }
}

/// One write of a batch.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Write {
    /// Insert the short row of a task that had none.
    Done(DoneRow),
    /// Insert or replace a task's row.
    Task(Box<TaskRow>),
    /// Insert or replace a journal entry.
    Entry {
        /// The run.
        run: RunRowId,
        /// The task.
        task: TaskId,
        /// The map index.
        map: i32,
        /// The entry.
        entry: Arc<Entry>,
    },
    /// Delete journal entries of a task.
    DropEntries {
        /// The run.
        run: RunRowId,
        /// The task.
        task: TaskId,
        /// The map index.
        map: i32,
        /// Their keys.
        keys: Vec<EntryKey>,
    },
    /// Insert a message, or only its id if a wait has consumed it already. One whose id is there is not inserted. A
    /// control request is inserted whole; one that the run has not acted on, which its parent has sent, reopens a run
    /// that has ended or stopped, as [`crate::control::Ask::reopens`] says.
    Message {
        /// The run.
        run: RunRowId,
        /// The message.
        message: Box<Message>,
        /// A wait has consumed it, or the run has acted on it.
        consumed: bool,
    },
    /// A wait has consumed a message: delete it, or only its content if it has an id.
    Consumed {
        /// The run.
        run: RunRowId,
        /// The message's number.
        number: i64,
        /// Its id.
        id: Option<Arc<str>>,
        /// Its `seq`, or a lower number: a store that has no index of `number` looks from there on, oldest first.
        from: i64,
    },
    /// The run has acted on a control request, which stays.
    Applied {
        /// The run.
        run: RunRowId,
        /// The request's number.
        number: i64,
        /// As that of [`Write::Consumed`].
        from: i64,
        /// When it has.
        at: Time,
    },
    /// A run was forked from another one: insert this message, which was acted on, into the history of that run, if it
    /// is still there. Made only if `run` is created.
    Forked {
        /// The new run.
        run: RunRowId,
        /// The run that it was forked from.
        from: RunRowId,
        /// What the history of that run tells.
        message: Box<Message>,
    },
    /// Delete the rows and journals of all elements of a mapped task.
    DropElements {
        /// The run.
        run: RunRowId,
        /// The mapped task.
        task: TaskId,
    },
    /// Insert the answer to a request. If there is one, that stands.
    Answer {
        /// The run.
        run: RunRowId,
        /// The number of the request.
        number: i64,
        /// The answer, or how it was refused.
        answer: Result<Value, Failure>,
        /// When it was given.
        answered_at: Time,
    },
    /// Update the run's row.
    Run(Box<RunUpdate>),
    /// Append events to a channel.
    Events(Box<NewEvents>),
    /// Insert or replace how far a task has come.
    Progress(Box<ProgressRow>),
}

impl Write {
    /// The run that it concerns.
    #[must_use]
    pub fn run(&self) -> RunRowId {
        match self {
            Self::Done(done) => done.run,
            Self::Task(task) => task.run,
            Self::Entry { run, .. } | Self::DropEntries { run, .. } => *run,
            Self::Message { run, .. } | Self::Consumed { run, .. } | Self::Answer { run, .. } => *run,
            Self::Applied { run, .. } | Self::DropElements { run, .. } | Self::Forked { run, .. } => *run,
            Self::Run(update) => update.run,
            Self::Events(events) => events.run,
            Self::Progress(row) => row.run,
        }
    }
}

/// The record of a step that a transaction of the user's makes, instead of a commit of its runner.
#[derive(Clone, Debug, PartialEq)]
pub struct StepRecord {
    /// The run.
    pub run: RunRowId,
    /// The task.
    pub task: TaskId,
    /// The map index.
    pub map: i32,
    /// The number of the body's last checkpoint in its journal, 0 before the first: uses of a name are counted anew
    /// after each.
    pub turn: u32,
    /// The entry of the journal.
    pub entry: Entry,
}

/// Writes that a store makes durable together or not at all.
pub type Batch = Vec<Write>;

/// Proof that a batch is committed. Only stores make one; effects are released only against it.
#[derive(Debug)]
#[must_use]
pub struct Committed(());

impl Committed {
    /// For stores, after the batch survives the death of the process (or, for memory, is visible to readers).
    pub const fn by_store() -> Self {
        Self(())
    }
}

/// A run to be created. Made by [`NewRun::new`].
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct NewRun {
    /// Its id.
    pub id: RunId,
    /// The workflow's number in this store.
    pub workflow: i64,
    /// The workflow version's number in this store.
    pub version: i64,
    /// The caller's key, unique per workflow.
    pub key: Option<Arc<str>>,
    /// The inputs, packed and in order of name (see [`crate::pack`]).
    pub inputs: Arc<[u8]>,
    /// When it was created.
    pub created_at: Time,
    /// The body that starts it as its child, if one does.
    pub parent: Option<Arc<Parent>>,
    /// Tags, priority and times; none if nothing was said.
    pub options: Option<Box<RunOptions>>,
}

/// The record by which a body has started a run as its child.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Parent {
    /// The run of the body.
    pub run: RunId,
    /// Its task.
    pub task: TaskId,
    /// The map index of its task.
    pub map: i32,
    /// The key of the record in its journal.
    pub key: EntryKey,
    /// How many parents are above the child: at least one.
    pub depth: u32,
}

impl NewRun {
    /// A run without key and inputs.
    #[must_use]
    pub fn new(id: RunId, workflow: i64, version: i64, created_at: Time) -> Self {
        Self { id, workflow, version, key: None, inputs: Arc::new([]), created_at, parent: None, options: None }
    }

    /// The same run with a key, or with none.
    #[must_use]
    pub fn with_key(self, key: Option<Arc<str>>) -> Self {
        Self { key, ..self }
    }

    /// The same run with these packed inputs.
    #[must_use]
    pub fn with_inputs(self, inputs: Arc<[u8]>) -> Self {
        Self { inputs, ..self }
    }

    /// The same run with tags, priority and times.
    #[must_use]
    pub fn with_options(self, options: Option<Box<RunOptions>>) -> Self {
        Self { options, ..self }
    }

    /// The same run as the child of a body, or of none.
    #[must_use]
    pub fn with_parent(self, parent: Option<Arc<Parent>>) -> Self {
        Self { parent, ..self }
    }
}

/// A run's row, as read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RunRow {
    /// Its id.
    pub id: RunId,
    /// The workflow's name.
    pub workflow: Arc<str>,
    /// The hash of the graph it was created with.
    pub version: Arc<str>,
    /// The caller's key.
    pub key: Option<Arc<str>>,
    /// Where it stands.
    pub status: RunStatus,
    /// The inputs, packed.
    pub inputs: Arc<[u8]>,
    /// The first committed failure.
    pub failure: Option<Failure>,
    /// When it was created.
    pub created_at: Time,
    /// When it ended.
    pub ended_at: Option<Time>,
    /// Why it is paused.
    pub blocked_by: Option<BlockReason>,
    /// How many processes in a row died while one of its bodies was the only marked one that they executed.
    pub crashes: u32,
    /// The runner that owns it, if any.
    pub runner: Option<i64>,
    /// The run whose body has started it, if one has.
    pub parent: Option<RunId>,
    /// How many parents are above it.
    pub depth: u32,
    /// That it was cancelled, if it was: its bodies may still clean up.
    pub cancel: Option<Arc<Cancel>>,
    /// Tags, priority and times.
    pub options: RunOptions,
}

impl RunRow {
    /// A run of this workflow and version that is running, has nothing recorded and belongs to no runner.
    #[must_use]
    pub fn new(id: RunId, workflow: Arc<str>, version: Arc<str>, created_at: Time) -> Self {
        Self {
            id,
            workflow,
            version,
            key: None,
            status: RunStatus::Running,
            inputs: Arc::new([]),
            failure: None,
            created_at,
            ended_at: None,
            blocked_by: None,
            crashes: 0,
            runner: None,
            parent: None,
            depth: 0,
            cancel: None,
            options: RunOptions::default(),
        }
    }

    /// The inputs, unpacked.
    ///
    /// # Errors
    /// `DecodeError::Field` if they do not read back.
    pub fn unpacked_inputs(&self) -> Result<Vec<(Arc<str>, Value)>, DecodeError> {
        let pair = |(name, value): Pair| match value {
            Some(value) => Ok((name, value)),
            None => Err(Damage::NoValue(name.to_string())),
        };
        let pairs = unpack(&self.inputs).and_then(|pairs| pairs.into_iter().map(pair).collect());
        pairs.map_err(|damage| Field::RunInputs.damaged(damage))
    }
}

/// A task as it is given to a store to be recorded.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct NewTask {
    /// Its name.
    pub name: Arc<str>,
    /// The names of the tasks it depends on, in the order given.
    pub dependencies: Vec<Arc<str>>,
    /// The names of the tasks and inputs that it is mapped over, sorted; none if it is not mapped.
    pub over: Vec<Arc<str>>,
}

impl NewTask {
    /// A task that is not mapped.
    #[must_use]
    pub fn new(name: impl Into<Arc<str>>, dependencies: Vec<Arc<str>>) -> Self {
        Self { name: name.into(), dependencies, over: Vec::new() }
    }

    /// The tasks of a graph, in declaration order.
    #[must_use]
    pub fn all_of(graph: &Graph) -> Vec<Self> {
        let task = |ix: TaskIx| {
            let map = graph.spec(ix).map.as_ref();
            Self {
                name: Arc::clone(graph.name(ix)),
                dependencies: graph.dependencies(ix).iter().map(|on| Arc::clone(graph.name(*on))).collect(),
                over: map.map_or_else(Vec::new, |map| map.over_names().into_iter().map(Into::into).collect()),
            }
        };
        (0..graph.len() as TaskIx).map(task).collect()
    }

    /// The same task under its number.
    #[must_use]
    pub fn recorded(&self, id: TaskId) -> RecordedTask {
        let Self { name, dependencies, over } = self.clone();
        RecordedTask { id, name, dependencies, over }
    }
}

/// A task as a workflow version records it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RecordedTask {
    /// The task's number in this store.
    pub id: TaskId,
    /// Its name.
    pub name: Arc<str>,
    /// The names of the tasks it depends on, in the order given.
    pub dependencies: Vec<Arc<str>>,
    /// The names of the tasks and inputs that it is mapped over, sorted; none if it is not mapped.
    pub over: Vec<Arc<str>>,
}

/// A run with all that was recorded of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StoredRun {
    /// The run's row.
    pub run: RunRow,
    /// The tasks of its workflow version, in declaration order.
    pub tasks: Arc<[RecordedTask]>,
    /// The rows of its tasks, by number and map index.
    pub rows: Vec<TaskRow>,
    /// The journals: (task, map index, entry), by task, map index and `seq`.
    pub entries: Vec<(TaskId, i32, Entry)>,
    /// Its messages, in the order in which they came. Not of a listed run.
    pub messages: Vec<StoredMessage>,
    /// How far its tasks have come, by number and map index.
    pub progress: Vec<ProgressRow>,
    /// The runs that its bodies have started, with their statuses, in order of creation. Not of a listed run.
    pub children: Vec<(RunId, RunStatus)>,
}

impl StoredRun {
    /// When the last body was entered, or the last wait or step was recorded.
    #[must_use]
    pub fn last_recorded(&self) -> Option<Time> {
        let starts = self.rows.iter().filter_map(|row| row.started_at);
        starts.chain(self.entries.iter().map(|(.., entry)| entry.opened_at)).max()
    }

    /// The run with what has not ended in it: tasks that have ended have their status alone, journals their open entries.
    #[must_use]
    pub fn into_open(mut self) -> Self {
        for row in self.rows.iter_mut().filter(|row| row.status.is_ended()) {
            (row.output, row.changes, row.failure) = (None, None, None);
        }
        self.entries.retain(|(.., entry)| entry.state == crate::entry::EntryState::Open);
        Self { messages: Vec::new(), progress: Vec::new(), children: Vec::new(), ..self }
    }
}
