//! One run in memory: the rows and journals of its tasks, and how a write changes them.

use std::collections::{BTreeMap, HashMap};
use std::hash::{BuildHasher, Hasher};
use std::sync::Arc;

use bide_core::journal::Entries;
use bide_core::record::{DoneRow, Mark, NewRun, Parent, RunRowId, RunUpdate, Write};
use bide_core::{
    BlockReason, Cancel, Entry, EntryKind, Failure, NO_MAP, RunId, RunOptions, RunStatus, SubStatus, TaskId, TaskRow,
    TaskStatus, Time, Value,
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
    /// The task with number 0, in place: many runs have only one.
    first: Kept,
    /// The tasks from number 1 on.
    others: Vec<Kept>,
    /// It has made a callback.
    has_callbacks: bool,
    /// Elements of mapped tasks in blocks of [`BLOCK`], by task number and number of the block.
    mapped: BTreeMap<(TaskId, i32), Vec<Kept>>,
}

/// The text of what the task that was written last waits for: thousands of tasks wait for the same.
#[derive(Clone, Default)]
pub(super) struct LastText(Option<Arc<str>>);

impl LastText {
    /// The same text, shared with the task before if that waits for the same.
    fn shared(&mut self, text: Arc<str>) -> Arc<str> {
        match &self.0 {
            Some(last) if *last == text => Arc::clone(last),
            _ => Arc::clone(self.0.insert(text)),
        }
    }
}

/// The most rows of a block: a look-up is one in a tree of few entries, and a single high index takes little room.
const BLOCK: i32 = 1024;

/// The block of a map index, and the place in it.
const fn place(map: i32) -> (i32, usize) {
    (map.div_euclid(BLOCK), map.rem_euclid(BLOCK) as usize)
}

/// What is kept of a task.
#[derive(Clone, Default)]
struct Kept {
    /// Its row.
    row: Row,
    /// Its journal, shared with the run that is in memory.
    entries: Entries,
}

/// A task's row, in the form in which it was written: most are short ones, which need no allocation. Where a row stands
/// says of which task it is.
#[derive(Clone, Default)]
enum Row {
    #[default]
    None,
    /// That of a task that completed at its first attempt.
    Done { output: Value, started_at: Time, ended_at: Time },
    /// That of a task whose first attempt runs or waits: a hundred thousand may wait at once.
    Running { sub_status: Option<SubStatus>, started_at: Time, blocked_by: Option<Arc<str>> },
    /// Any other one.
    Whole(Box<TaskRow>),
}

impl Row {
    fn of(row: Box<TaskRow>, texts: &mut LastText) -> Self {
        let TaskRow { run, task, map, sub_status, .. } = *row;
        let Some(started_at) = row.started_at.filter(|_| row.status == TaskStatus::Running) else {
            return Self::Whole(row);
        };
        let blocked_by = row.blocked_by.clone().map(|text| texts.shared(text));
        let short = Self::Running { sub_status, started_at, blocked_by };
        if short.read(run, task, map).is_some_and(|read| read == *row) { short } else { Self::Whole(row) }
    }

    fn read(&self, run: RunRowId, task: TaskId, map: i32) -> Option<TaskRow> {
        match self {
            Self::None => None,
            Self::Done { output, started_at, ended_at } => {
                let row = DoneRow::new(run, task, output.clone(), *started_at, *ended_at);
                Some(DoneRow { map, ..row }.into())
            }
            Self::Running { sub_status, started_at, blocked_by } => Some(TaskRow {
                map,
                status: TaskStatus::Running,
                sub_status: *sub_status,
                attempts: 1,
                first_started_at: Some(*started_at),
                started_at: Some(*started_at),
                blocked_by: blocked_by.clone(),
                ..TaskRow::pending(run, task)
            }),
            Self::Whole(row) => Some((**row).clone()),
        }
    }

    fn status(&self) -> Option<TaskStatus> {
        match self {
            Self::None => None,
            Self::Done { .. } => Some(TaskStatus::Completed),
            Self::Running { .. } => Some(TaskStatus::Running),
            Self::Whole(row) => Some(row.status),
        }
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
            first: Kept::default(),
            others: Vec::new(),
            has_callbacks: false,
            mapped: BTreeMap::new(),
        }
    }

    fn kept(&self, task: TaskId, map: i32) -> Option<&Kept> {
        match usize::try_from(task).ok()? {
            0 if map == NO_MAP => Some(&self.first),
            at if map == NO_MAP => self.others.get(at - 1),
            _ => {
                let (block, at) = place(map);
                self.mapped.get(&(task, block))?.get(at)
            }
        }
    }

    fn kept_mut(&mut self, task: TaskId, map: i32) -> &mut Kept {
        let (list, at) = match usize::try_from(task) {
            Ok(0) if map == NO_MAP => return &mut self.first,
            Ok(at) if map == NO_MAP => (&mut self.others, at - 1),
            _ => {
                let (block, at) = place(map);
                (self.mapped.entry((task, block)).or_default(), at)
            }
        };
        if list.len() <= at {
            // Most runs are small: no room for more than they have.
            list.reserve_exact(if list.is_empty() { at + 1 } else { 0 });
            list.resize_with(at + 1, Kept::default);
        }
        &mut list[at]
    }

    /// All that is kept, by task and map index.
    fn all(&self) -> impl Iterator<Item = (TaskId, i32, &Kept)> {
        let plain = std::iter::once(&self.first).chain(&self.others);
        let plain = plain.zip(0..).map(|(kept, task)| (task, NO_MAP, kept));
        let elements = self
            .mapped
            .iter()
            .flat_map(|((task, block), kept)| kept.iter().zip(block * BLOCK..).map(|(kept, map)| (*task, map, kept)));
        plain.chain(elements)
    }

    fn all_mut(&mut self) -> impl Iterator<Item = (TaskId, i32, &mut Kept)> {
        let plain = std::iter::once(&mut self.first).chain(&mut self.others);
        let plain = plain.zip(0..).map(|(kept, task)| (task, NO_MAP, kept));
        let elements = self.mapped.iter_mut().flat_map(|((task, block), kept)| {
            kept.iter_mut().zip(block * BLOCK..).map(|(kept, map)| (*task, map, kept))
        });
        plain.chain(elements)
    }

    pub(super) fn has_task(&self, task: TaskId, map: i32) -> bool {
        self.kept(task, map).is_some_and(|kept| !matches!(kept.row, Row::None))
    }

    /// Where a task stands, if that is recorded.
    pub(super) fn task_status(&self, task: TaskId, map: i32) -> Option<TaskStatus> {
        self.kept(task, map)?.row.status()
    }

    /// The rows of its tasks, by number and map index.
    pub(super) fn task_rows(&self) -> Vec<TaskRow> {
        let read = |(task, map, kept): (TaskId, i32, &Kept)| kept.row.read(self.id.row(), task, map);
        let mut rows: Vec<TaskRow> = self.all().filter_map(read).collect();
        rows.sort_by_key(|row| (row.task, row.map));
        rows
    }

    /// The journals of its tasks, by task, map index and `seq`.
    pub(super) fn entries(&self) -> Vec<(TaskId, i32, Entry)> {
        let mut entries: Vec<_> = self.shared_entries().map(|(task, map, entry)| (task, map, entry.clone())).collect();
        entries.sort_by_key(|(task, map, entry)| (*task, *map, entry.seq));
        entries
    }

    /// The same, in no order.
    pub(super) fn shared_entries(&self) -> impl Iterator<Item = (TaskId, i32, &Entry)> {
        self.all().flat_map(|(task, map, kept)| kept.entries.as_slice().iter().map(move |entry| (task, map, &**entry)))
    }

    /// Whether it has made the callback with this secret.
    pub(super) fn has_callback(&self, secret: &str) -> bool {
        let secret = Value::tagged(b's', secret.as_bytes());
        let made = |entry: &Entry| entry.kind() == EntryKind::Callback && entry.value.as_ref() == Some(&secret);
        self.has_callbacks && self.shared_entries().any(|(.., entry)| made(entry))
    }

    /// How many marked bodies its owner has entered.
    pub(super) fn executed_marked(&self) -> usize {
        self.all().filter(|(.., kept)| matches!(&kept.row, Row::Whole(row) if row.mark.executes)).count()
    }

    /// It has another owner now.
    pub(super) fn set_marks_aside(&mut self) {
        for (.., kept) in self.all_mut() {
            if let Row::Whole(row) = &mut kept.row {
                row.mark = row.mark.set_aside();
            }
        }
    }

    /// Its tasks have other numbers from now on; what has none is forgotten.
    pub(super) fn renumber(&mut self, new: impl Fn(TaskId) -> Option<TaskId>) {
        let mut before = self.clone();
        (self.first, self.others, self.mapped) = Default::default();
        for (task, map, kept) in before.all_mut() {
            let Some(task) = new(task) else { continue };
            if let Row::Whole(row) = &mut kept.row {
                row.task = task;
            }
            *self.kept_mut(task, map) = std::mem::take(kept);
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
        let run = self.id.row();
        for (task, map, kept) in self.all_mut() {
            if kept.row.status().is_none_or(TaskStatus::is_ended) {
                continue;
            }
            let Some(mut row) = kept.row.read(run, task, map) else { continue };
            row.status = TaskStatus::Cancelled;
            (row.sub_status, row.retry_at, row.mark) = (None, None, Mark::default());
            (row.ended_at, row.blocked_by) = (Some(cancel.at), Some(cancel.text().into()));
            kept.row = Row::Whole(Box::new(row));
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
    texts: &mut LastText,
    messages: &mut Messages,
    write: Write,
) -> Option<RunRowId> {
    match write {
        Write::Done(DoneRow { run, task, map, output, started_at, ended_at }) => {
            runs.get_mut(&run)?.kept_mut(task, map).row = Row::Done { output, started_at, ended_at };
        }
        Write::Task(row) => {
            let kept = runs.get_mut(&row.run)?.kept_mut(row.task, row.map);
            kept.row = Row::of(row, texts);
        }
        Write::Entry { run, task, map, entry } => {
            let run = runs.get_mut(&run)?;
            run.has_callbacks |= entry.kind() == EntryKind::Callback;
            run.kept_mut(task, map).entries.put(entry);
        }
        Write::DropEntries { run, task, map, keys } => {
            let entries = &mut runs.get_mut(&run)?.kept_mut(task, map).entries;
            keys.iter().for_each(|key| drop(entries.remove(key)));
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
