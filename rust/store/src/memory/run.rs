//! One run in memory: its task rows by number, its journal by key, and how a write changes them.

use std::collections::{BTreeMap, HashMap};
use std::hash::{BuildHasher, Hasher};
use std::sync::Arc;

use bide_core::record::{DoneRow, Mark, NewRun, Parent, RunRowId, RunUpdate, Write};
use bide_core::{
    BlockReason, Cancel, Entry, EntryKey, EntryKind, EntryState, Failure, NO_MAP, RunId, RunOptions, RunStatus,
    SubStatus, TaskId, TaskRow, TaskStatus, Time, Value,
};

use super::messages::Messages;

#[derive(Clone)]
pub(super) struct MemRun {
    /// The id of the run.
    pub(super) id: RunId,
    /// The number of its workflow.
    pub(super) workflow: i64,
    /// The number of the version that it is executed with.
    pub(super) version: i64,
    /// The caller's key, if it has one.
    pub(super) key: Option<Arc<str>>,
    /// Its status.
    pub(super) status: RunStatus,
    /// Its inputs, packed.
    pub(super) inputs: Arc<[u8]>,
    /// The first committed failure.
    pub(super) failure: Option<Failure>,
    /// When it was created.
    pub(super) created_at: Time,
    /// When it ended.
    pub(super) ended_at: Option<Time>,
    /// Why it is paused.
    pub(super) blocked_by: Option<BlockReason>,
    /// How often in a row it was found dead with a marked task.
    pub(super) crashes: u32,
    /// That it was cancelled, if it was.
    pub(super) cancel: Option<Arc<Cancel>>,
    /// The runner that may execute it; `None`: it has no owner, or it has ended.
    pub(super) runner: Option<i64>,
    /// The body that has started it, if one has.
    pub(super) parent: Option<Arc<Parent>>,
    /// Tags, priority and times; none if nothing was said.
    pub(super) options: Option<Box<RunOptions>>,
    /// By task number.
    plain: Vec<Row>,
    /// Rows of elements of mapped tasks in blocks of [`BLOCK`], by task number and number of the block.
    mapped: BTreeMap<(TaskId, i32), Vec<Row>>,
    /// It has, or had, journal entries.
    has_journal: bool,
}

/// The journals of all runs. One tree of small nodes: a tree for each run would keep room for eleven entries in each.
#[derive(Clone, Default)]
pub(super) struct Journals {
    entries: BTreeMap<(RunRowId, TaskId, i32, EntryKey), Box<Entry>>,
    /// What the task that was written last waits for.
    waits_for: Option<Arc<str>>,
}

impl Journals {
    /// The text of what a task waits for, shared with the task before that waits for the same.
    fn with_shared_text(&mut self, mut row: RunningRow) -> RunningRow {
        match (&row.blocked_by, &self.waits_for) {
            (Some(text), Some(last)) if text == last => row.blocked_by = Some(Arc::clone(last)),
            (Some(text), _) => self.waits_for = Some(Arc::clone(text)),
            (None, _) => {}
        }
        row
    }

    fn of(&self, run: RunRowId) -> impl Iterator<Item = (&(RunRowId, TaskId, i32, EntryKey), &Box<Entry>)> {
        let first = (run, TaskId::MIN, i32::MIN, EntryKey { name: "".into(), n: 0 });
        self.entries.range(first..).take_while(move |(key, _)| key.0 == run)
    }

    /// The journals of a run, by task, map index and `seq`.
    pub(super) fn entries(&self, run: &MemRun) -> Vec<(TaskId, i32, Entry)> {
        if !run.has_journal {
            return Vec::new();
        }
        let copied = self.of(run.id.row()).map(|((_, task, map, _), entry)| (*task, *map, (**entry).clone()));
        let mut entries: Vec<_> = copied.collect();
        entries.sort_by_key(|(task, map, entry)| (*task, *map, entry.seq));
        entries
    }

    /// The open entries of all runs.
    pub(super) fn open(&self) -> impl Iterator<Item = (RunRowId, TaskId, i32, &Entry)> {
        let open = self.entries.iter().filter(|(_, entry)| entry.state == EntryState::Open);
        open.map(|((run, task, map, _), entry)| (*run, *task, *map, &**entry))
    }

    /// Whether a run has made the callback with this secret.
    pub(super) fn has_callback(&self, run: &MemRun, secret: &str) -> bool {
        let secret = Value::tagged(b's', secret.as_bytes());
        let made = |entry: &Entry| entry.kind() == EntryKind::Callback && entry.value.as_ref() == Some(&secret);
        run.has_journal && self.of(run.id.row()).any(|(_, entry)| made(entry))
    }

    /// Puts an entry of a run in.
    pub(super) fn insert(&mut self, run: RunRowId, task: TaskId, map: i32, entry: Entry) {
        self.entries.insert((run, task, map, entry.key.clone()), Box::new(entry));
    }

    /// Forgets what belongs to a run.
    pub(super) fn forget(&mut self, run: &MemRun) {
        if run.has_journal {
            let keys: Vec<_> = self.of(run.id.row()).map(|(key, _)| key.clone()).collect();
            for key in keys {
                self.entries.remove(&key);
            }
        }
    }
}

/// The most rows of a block: a look-up is one in a tree of few entries, and a single high index takes little room.
const BLOCK: i32 = 1024;

/// The block of a map index, and the place in it.
const fn place(map: i32) -> (i32, usize) {
    (map.div_euclid(BLOCK), map.rem_euclid(BLOCK) as usize)
}

/// A task's row, in the form in which it was written: most are short ones, which need no allocation.
#[derive(Clone, Default)]
enum Row {
    #[default]
    None,
    Done(DoneRow),
    Running(RunningRow),
    Whole(Box<TaskRow>),
}

/// The row of a task whose first attempt runs or waits: a hundred thousand may wait at once.
#[derive(Clone)]
struct RunningRow {
    run: RunRowId,
    task: TaskId,
    map: i32,
    sub_status: Option<SubStatus>,
    started_at: Time,
    blocked_by: Option<Arc<str>>,
}

impl RunningRow {
    /// `None`: there is more in the row.
    fn of(row: &TaskRow) -> Option<Self> {
        let TaskRow { run, task, map, sub_status, .. } = *row;
        let started_at = row.started_at?;
        let short = Self { run, task, map, sub_status, started_at, blocked_by: row.blocked_by.clone() };
        (TaskRow::from(short.clone()) == *row).then_some(short)
    }
}

impl From<RunningRow> for TaskRow {
    fn from(row: RunningRow) -> Self {
        Self {
            map: row.map,
            status: TaskStatus::Running,
            sub_status: row.sub_status,
            attempts: 1,
            first_started_at: Some(row.started_at),
            started_at: Some(row.started_at),
            blocked_by: row.blocked_by,
            ..Self::pending(row.run, row.task)
        }
    }
}

impl Row {
    fn read(&self) -> Option<TaskRow> {
        match self {
            Self::None => None,
            Self::Done(done) => Some(done.clone().into()),
            Self::Running(row) => Some(row.clone().into()),
            Self::Whole(row) => Some((**row).clone()),
        }
    }

    /// That of a task that has not completed, to be changed.
    fn whole(&mut self) -> Option<&mut TaskRow> {
        if let Self::Running(row) = self {
            *self = Self::Whole(Box::new(row.clone().into()));
        }
        if let Self::Whole(row) = self { Some(row) } else { None }
    }
}

impl MemRun {
    pub(super) fn new(new: &NewRun, runner: Option<i64>) -> Self {
        Self {
            id: new.id,
            workflow: new.workflow,
            version: new.version,
            key: new.key.clone(),
            status: if runner.is_some() { RunStatus::Running } else { RunStatus::Pending },
            inputs: new.inputs.clone(),
            failure: None,
            created_at: new.created_at,
            ended_at: None,
            blocked_by: None,
            crashes: 0,
            cancel: None,
            runner,
            parent: new.parent.clone(),
            options: new.options.clone(),
            plain: Vec::new(),
            mapped: BTreeMap::new(),
            has_journal: false,
        }
    }

    pub(super) fn has_task(&self, task: TaskId, map: i32) -> bool {
        if map == NO_MAP {
            usize::try_from(task).ok().and_then(|at| self.plain.get(at)).is_some_and(|row| !matches!(row, Row::None))
        } else {
            let (block, at) = place(map);
            let row = self.mapped.get(&(task, block)).and_then(|rows| rows.get(at));
            row.is_some_and(|row| !matches!(row, Row::None))
        }
    }

    /// Where a task stands, if that is recorded.
    pub(super) fn task_status(&self, task: TaskId, map: i32) -> Option<TaskStatus> {
        let row = if map == NO_MAP {
            self.plain.get(usize::try_from(task).ok()?)?
        } else {
            let (block, at) = place(map);
            self.mapped.get(&(task, block))?.get(at)?
        };
        match row {
            Row::None => None,
            Row::Done(_) => Some(TaskStatus::Completed),
            Row::Running(_) => Some(TaskStatus::Running),
            Row::Whole(row) => Some(row.status),
        }
    }

    fn rows(&self) -> impl Iterator<Item = &Row> {
        self.plain.iter().chain(self.mapped.values().flatten())
    }

    /// The rows of its tasks, by number and map index.
    pub(super) fn task_rows(&self) -> Vec<TaskRow> {
        let mut rows: Vec<TaskRow> = self.rows().filter_map(Row::read).collect();
        rows.sort_by_key(|row| (row.task, row.map));
        rows
    }

    /// How many marked bodies its owner has entered.
    pub(super) fn executed_marked(&self) -> usize {
        let marked = |row: &&Row| matches!(row, Row::Whole(row) if row.mark.executes);
        self.rows().filter(marked).count()
    }

    /// It has another owner now.
    pub(super) fn set_marks_aside(&mut self) {
        for row in self.plain.iter_mut().chain(self.mapped.values_mut().flatten()) {
            if let Row::Whole(row) = row {
                row.mark = row.mark.set_aside();
            }
        }
    }

    fn put(&mut self, task: TaskId, map: i32, row: Row) {
        match usize::try_from(task) {
            Ok(at) if map == NO_MAP => {
                if self.plain.len() <= at {
                    // Most runs are small: no room for more than they have.
                    self.plain.reserve_exact(if self.plain.is_empty() { at + 1 } else { 0 });
                    self.plain.resize_with(at + 1, Row::default);
                }
                self.plain[at] = row;
            }
            _ => {
                let (block, at) = place(map);
                let rows = self.mapped.entry((task, block)).or_default();
                if rows.len() <= at {
                    rows.resize_with(at + 1, Row::default);
                }
                rows[at] = row;
            }
        }
    }

    /// Its tasks have other numbers from now on; what has none is forgotten.
    pub(super) fn renumber(&mut self, new: impl Fn(TaskId) -> Option<TaskId>) {
        let rows = self.task_rows();
        (self.plain, self.mapped) = Default::default();
        for row in rows {
            if let Some(task) = new(row.task) {
                self.put(task, row.map, Row::Whole(Box::new(TaskRow { task, ..row })));
            }
        }
    }

    /// It is paused on request: it has an owner, or waits for one.
    pub(super) fn is_held(&self) -> bool {
        self.status == RunStatus::Paused && self.blocked_by.as_ref().is_some_and(BlockReason::is_requested)
    }

    /// It is paused, and nobody executes it until somebody asks for that.
    pub(super) fn stands(&self) -> bool {
        self.status == RunStatus::Paused && !self.is_held()
    }

    /// Ends it as cancelled, with all tasks that have a row and have not ended.
    pub(super) fn end_cancelled(&mut self, cancel: &Cancel) {
        (self.status, self.ended_at, self.blocked_by) = (RunStatus::Cancelled, Some(cancel.at), None);
        self.cancel = Some(Arc::new(cancel.clone()));
        for row in self.plain.iter_mut().chain(self.mapped.values_mut().flatten()) {
            if let Some(row) = row.whole()
                && !row.status.is_ended()
            {
                row.status = TaskStatus::Cancelled;
                (row.sub_status, row.retry_at, row.mark) = (None, None, Mark::default());
                (row.ended_at, row.blocked_by) = (Some(cancel.at), Some(cancel.text().into()));
            }
        }
    }

    fn update(&mut self, update: RunUpdate) {
        self.status = update.status;
        self.failure = update.failure;
        self.ended_at = update.ended_at;
        self.blocked_by = update.blocked_by;
        self.crashes = update.crashes;
        self.version = update.version.unwrap_or(self.version);
        self.cancel = update.cancel;
        if self.status.is_ended() || self.stands() {
            self.runner = None;
        }
    }
}

/// Makes one write; answers the run if that ended it.
pub(super) fn apply(
    runs: &mut HashMap<RunRowId, MemRun, RowHash>,
    journals: &mut Journals,
    messages: &mut Messages,
    write: Write,
) -> Option<RunRowId> {
    match write {
        Write::Done(done) => runs.get_mut(&done.run)?.put(done.task, done.map, Row::Done(done)),
        Write::Task(row) => {
            let (task, map) = (row.task, row.map);
            let run = runs.get_mut(&row.run)?;
            let short = RunningRow::of(&row).map(|row| Row::Running(journals.with_shared_text(row)));
            run.put(task, map, short.unwrap_or(Row::Whole(row)));
        }
        Write::Entry { run, task, map, entry } => {
            runs.get_mut(&run)?.has_journal = true;
            journals.entries.insert((run, task, map, entry.key.clone()), entry);
        }
        Write::DropEntries { run, task, map, keys } => {
            for key in keys {
                journals.entries.remove(&(run, task, map, key));
            }
        }
        Write::Message { run, message, consumed } => messages.insert(run, *message, consumed),
        Write::Consumed { run, number, id, from } => messages.consume(run, number, id.as_deref(), from),
        Write::Applied { run, number, from, .. } => messages.apply(run, number, from),
        Write::Forked { from, message, .. } => {
            if runs.contains_key(&from) {
                messages.insert(from, *message, true);
            }
        }
        Write::DropElements { run, task } => {
            runs.get_mut(&run)?.mapped.retain(|(of, _), _| *of != task);
            let of_elements = (run, task, 0, EntryKey { name: "".into(), n: 0 });
            let keys = journals.entries.range(of_elements..).take_while(|(key, _)| (key.0, key.1) == (run, task));
            for key in keys.map(|(key, _)| key.clone()).collect::<Vec<_>>() {
                journals.entries.remove(&key);
            }
        }
        Write::Answer { run, number, answer, .. } => messages.put_answer(run, number, answer),
        // Kept apart from the runs.
        Write::Events(_) | Write::Progress(_) => {}
        Write::Run(update) => {
            let id = update.run;
            let run = runs.get_mut(&id)?;
            let had_ended = run.status.is_ended();
            run.update(*update);
            return (run.status.is_ended() && !had_ended).then_some(id);
        }
    }
    None
}

/// Row numbers are random enough in their low bits; one multiplication spreads them over the table.
#[derive(Clone, Default)]
pub(super) struct RowHash;

pub(super) struct RowHasher(u64);

impl BuildHasher for RowHash {
    type Hasher = RowHasher;

    fn build_hasher(&self) -> RowHasher {
        RowHasher(0)
    }
}

impl Hasher for RowHasher {
    fn finish(&self) -> u64 {
        self.0
    }

    fn write(&mut self, bytes: &[u8]) {
        for byte in bytes {
            self.write_i64(i64::from(*byte));
        }
    }

    fn write_i64(&mut self, number: i64) {
        let product = u128::from(self.0 ^ number as u64) * 0x9e37_79b9_7f4a_7c15;
        self.0 = (product as u64) ^ ((product >> 64) as u64);
    }
}
