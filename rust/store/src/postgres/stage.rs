//! The writes that one statement makes, as the rows of its parts.
//!
//! A row is in a statement once. A later write of the same row takes the place of the earlier; where that would not be the
//! same as one after the other, the later one is for the next statement.

use std::collections::HashMap;
use std::collections::hash_map::Entry as Place;

use bide_core::record::{DoneRow, NewRun, Parent, RunRowId, RunUpdate, Write};
use bide_core::{
    Ask, BlockReason, Entry, EntryKey, Failure, Message, MessageKind, NewEvents, Progress, ProgressRow, RunOptions,
    RunStatus, TaskId, TaskRow, Time, Value,
};

use super::columns::{Cell, Column, Rows};
use super::statement::{self, PARTS, RUN, Shape};

/// A task of a run.
type TaskPlace = (RunRowId, TaskId, i32);

/// A run to create, with what the same commit writes to its row.
struct Created<'a> {
    new: &'a NewRun,
    owned: bool,
    update: Option<RunUpdate>,
}

/// How far a statement continues a channel.
#[derive(Default)]
struct Emitted<'a> {
    /// The events, each with how far it begins behind the end that is committed.
    rows: Vec<(i64, &'a NewEvents)>,
    /// Where they end, likewise.
    end: i64,
    /// How many the channel keeps, if it does not keep all.
    keep: Option<u32>,
}

/// The writes of one statement.
#[derive(Default)]
pub(super) struct Stage<'a> {
    created: Vec<Created<'a>>,
    created_at: HashMap<RunRowId, usize>,
    /// Rows of tasks that have none yet, and others; where each is.
    done: Vec<&'a DoneRow>,
    tasks: Vec<&'a TaskRow>,
    task_places: HashMap<TaskPlace, Option<usize>>,
    /// Entries of journals; `None`: the entry goes.
    entries: HashMap<(TaskPlace, &'a EntryKey), Option<&'a Entry>>,
    dropped: Option<(RunRowId, TaskId)>,
    messages: Vec<(RunRowId, &'a Message, bool, bool)>,
    requests: Vec<(RunRowId, &'a Message)>,
    /// The messages that the statement writes, by number and by id.
    numbers: HashMap<(RunRowId, i64), ()>,
    ids: HashMap<(RunRowId, &'a str), ()>,
    consumed: Vec<(RunRowId, i64, i64)>,
    consumed_ids: Vec<(RunRowId, &'a str)>,
    applied: Vec<(RunRowId, i64, i64, Time)>,
    answers: HashMap<i64, (RunRowId, &'a Result<Value, Failure>, Time)>,
    events: HashMap<(RunRowId, &'a str), Emitted<'a>>,
    progress: HashMap<TaskPlace, &'a Progress>,
    runs: HashMap<RunRowId, RunUpdate>,
    count: usize,
}

impl<'a> Stage<'a> {
    pub(super) fn is_empty(&self) -> bool {
        self.count == 0 && self.created.is_empty()
    }

    /// Creates a run. Before any write.
    pub(super) fn create(&mut self, new: &'a NewRun, owned: bool) {
        self.created_at.insert(new.id.row(), self.created.len());
        self.created.push(Created { new, owned, update: None });
    }

    /// Takes a write; false if that is for the next statement.
    pub(super) fn add(&mut self, write: &'a Write) -> bool {
        if self.dropped.is_some() {
            return false;
        }
        let fits = match write {
            Write::Done(row) => match self.task_places.entry((row.run, row.task, row.map)) {
                Place::Occupied(_) => false,
                Place::Vacant(place) => {
                    place.insert(None);
                    self.done.push(row);
                    true
                }
            },
            Write::Task(row) => match self.task_places.entry((row.run, row.task, row.map)) {
                Place::Occupied(place) => match *place.get() {
                    Some(at) => self.tasks.get_mut(at).map(|there| *there = row).is_some(),
                    None => false,
                },
                Place::Vacant(place) => {
                    place.insert(Some(self.tasks.len()));
                    self.tasks.push(row);
                    true
                }
            },
            Write::Entry { run, task, map, entry } => {
                self.entries.insert(((*run, *task, *map), &entry.key), Some(entry));
                true
            }
            Write::DropEntries { run, task, map, keys } => {
                self.entries.extend(keys.iter().map(|key| (((*run, *task, *map), key), None)));
                true
            }
            Write::DropElements { run, task } => {
                let alone = self.count == 0;
                self.dropped = alone.then_some((*run, *task));
                alone
            }
            Write::Message { run, message, consumed } => {
                let asks = !consumed && message.address.kind == MessageKind::Control;
                let fits = !(asks && (self.runs.contains_key(run) || self.requests.iter().any(|(other, _)| other == run)));
                let fits = fits && self.is_new(*run, message);
                match (fits, asks) {
                    (true, true) => self.requests.push((*run, message)),
                    (true, false) => self.messages.push((*run, message, *consumed, false)),
                    (false, _) => {}
                }
                fits
            }
            Write::Forked { from, message, .. } => {
                let fits = self.is_new(*from, message);
                if fits {
                    self.messages.push((*from, message, true, true));
                }
                fits
            }
            Write::Consumed { run, number, id, from } => match id {
                None => {
                    let fits = self.numbers.insert((*run, *number), ()).is_none();
                    if fits {
                        self.consumed.push((*run, *number, *from));
                    }
                    fits
                }
                Some(id) => {
                    let fits = self.ids.insert((*run, id), ()).is_none();
                    if fits {
                        self.consumed_ids.push((*run, id));
                    }
                    fits
                }
            },
            Write::Applied { run, number, from, at } => {
                let fits = self.numbers.insert((*run, *number), ()).is_none();
                if fits {
                    self.applied.push((*run, *number, *from, *at));
                }
                fits
            }
            Write::Answer { run, number, answer, answered_at } => {
                self.answers.entry(*number).or_insert((*run, answer, *answered_at));
                true
            }
            Write::Run(update) => self.update(update),
            Write::Events(events) => {
                self.events.entry((events.run, &events.channel)).or_default().add(events);
                true
            }
            Write::Progress(row) => {
                let ProgressRow { run, task, map, progress } = &**row;
                self.progress.insert((*run, *task, *map), progress);
                true
            }
        };
        self.count += usize::from(fits);
        fits
    }

    /// Whether no other message of the statement is this one.
    fn is_new(&mut self, run: RunRowId, message: &'a Message) -> bool {
        let place = (run, message.number);
        if self.numbers.contains_key(&place) {
            return false;
        }
        if let Some(id) = &message.id
            && self.ids.insert((run, id), ()).is_some()
        {
            return false;
        }
        self.numbers.insert(place, ());
        true
    }

    fn update(&mut self, update: &RunUpdate) -> bool {
        if self.requests.iter().any(|(run, _)| *run == update.run) {
            return false;
        }
        let merged = |earlier: Option<&RunUpdate>| {
            let version = update.version.or_else(|| earlier.and_then(|earlier| earlier.version));
            RunUpdate { version, ..update.clone() }
        };
        if let Some(created) = self.created_at.get(&update.run).and_then(|at| self.created.get_mut(*at)) {
            created.update = Some(merged(created.update.as_ref()));
            return true;
        }
        let update = merged(self.runs.get(&update.run));
        self.runs.insert(update.run, update);
        true
    }

    /// What the statement consists of, the columns that are its parameters, and how many runs it updates.
    pub(super) fn build(&'a self) -> (Shape, Vec<Column<'a>>, i64) {
        let mut parts: Vec<Rows<'a>> = PARTS.iter().map(|part| Rows::of(part.columns)).collect();
        self.fill(&mut parts);
        let mut shape = Shape { runs: !self.runs.is_empty(), ..Shape::default() };
        let mut columns = Vec::new();
        for (bit, rows) in parts.into_iter().enumerate() {
            if rows.count > 0 {
                shape.parts |= 1 << bit;
                columns.extend(rows.columns);
            }
        }
        if shape.runs {
            let mut rows = Rows::of(RUN.columns);
            for update in sorted(&self.runs) {
                rows.push(run(update));
            }
            columns.extend(rows.columns);
        }
        (shape, columns, i64::try_from(self.runs.len()).unwrap_or(i64::MAX))
    }

    fn fill(&'a self, parts: &mut [Rows<'a>]) {
        macro_rules! row {
            ($part:expr, $row:expr) => {
                if let Some(rows) = parts.get_mut($part) {
                    rows.push($row);
                }
            };
        }
        for created in &self.created {
            if created.is_plain() {
                row!(statement::NEW_RUN, created.plain());
            } else {
                row!(statement::FULL_RUN, created.full());
            }
            for (name, value) in created.new.options.iter().flat_map(|options| &options.tags) {
                row!(statement::TAG, [created.new.id.row().into(), (&**name).into(), (&**value).into()]);
            }
        }
        for row in &self.done {
            let DoneRow { run, task, map, output, started_at, ended_at } = row;
            row!(
                statement::DONE,
                [
                    (*run).into(),
                    (*task).into(),
                    i64::from(*map).into(),
                    output.as_bytes().into(),
                    started_at.0.into(),
                    ended_at.0.into(),
                ]
            );
        }
        for row in &self.tasks {
            row!(statement::TASK, task(row));
        }
        for (((run, task, map), key), found) in &self.entries {
            let place = || [(*run).into(), (*task).into(), i64::from(*map).into()];
            match found {
                Some(found) => row!(statement::ENTRY, entry(place(), found)),
                None => {
                    let [run, task, map] = place();
                    row!(statement::DROP_ENTRY, [run, task, map, (&*key.name).into(), i64::from(key.n).into()]);
                }
            }
        }
        if let Some((run, task)) = self.dropped {
            row!(statement::DROP_ELEMENT, [run.into(), task.into()]);
            row!(statement::DROP_ELEMENT_ENTRY, [run.into(), task.into()]);
        }
        for (run, sent, consumed, if_there) in &self.messages {
            let is_control = sent.address.kind == MessageKind::Control;
            let applied_at = (is_control && *consumed).then_some(sent.sent_at.0);
            let [run, number, kind, name, id, value, failure, sent_at] = message(*run, sent, !consumed || is_control);
            let if_there = i64::from(*if_there).into();
            row!(
                statement::MESSAGES,
                [run, number, kind, name, id, value, failure, sent_at, applied_at.into(), if_there]
            );
        }
        for (run, sent) in &self.requests {
            row!(statement::REQUESTS, message(*run, sent, true));
            row!(statement::REOPEN, [(*run).into(), reopens(&sent.address.name).into()]);
        }
        for (run, number, first) in &self.consumed {
            row!(statement::CONSUMED, [(*run).into(), (*number).into(), (*first).into()]);
        }
        for (run, id) in &self.consumed_ids {
            row!(statement::CONSUMED_ID, [(*run).into(), (*id).into()]);
        }
        for (run, number, first, at) in &self.applied {
            row!(statement::APPLIED, [(*run).into(), (*number).into(), (*first).into(), at.0.into()]);
        }
        for (number, (run, answer, at)) in &self.answers {
            let (value, failure) = content(Some(answer));
            row!(statement::ANSWER, [(*number).into(), (*run).into(), value, failure, at.0.into()]);
        }
        for ((run, channel), emitted) in &self.events {
            for (further, events) in emitted.kept() {
                row!(
                    statement::EVENT,
                    [
                        (*run).into(),
                        (*channel).into(),
                        (*further).into(),
                        i64::from(events.count).into(),
                        events.task.into(),
                        i64::from(events.map).into(),
                        i64::from(events.attempt).into(),
                        events.entry.as_deref().into(),
                        events.emitted_at.0.into(),
                        (&*events.packed).into(),
                    ]
                );
            }
            if let Some(keep) = emitted.keep {
                row!(
                    statement::FORGET,
                    [(*run).into(), (*channel).into(), emitted.end.saturating_sub(i64::from(keep)).into()]
                );
            }
        }
        for ((run, task, map), Progress { done, total, message, said_at }) in &self.progress {
            row!(
                statement::PROGRESS,
                [
                    (*run).into(),
                    (*task).into(),
                    i64::from(*map).into(),
                    Cell::Float(Some(*done)),
                    Cell::Float(*total),
                    message.as_deref().into(),
                    said_at.0.into(),
                ]
            );
        }
    }
}

/// In one order, so that two statements that wait for each other's rows are rare.
fn sorted(runs: &HashMap<RunRowId, RunUpdate>) -> Vec<&RunUpdate> {
    let mut all: Vec<&RunUpdate> = runs.values().collect();
    all.sort_unstable_by_key(|update| update.run);
    all
}

impl<'a> Emitted<'a> {
    fn add(&mut self, events: &'a NewEvents) {
        let skipped = i64::try_from(events.skipped).unwrap_or(i64::MAX);
        let first = self.end.saturating_add(skipped);
        self.end = first.saturating_add(i64::from(events.count));
        self.rows.push((first, events));
        self.keep = events.keep.or(self.keep);
    }

    /// The rows that are not forgotten again by the same statement.
    fn kept(&self) -> impl Iterator<Item = &(i64, &'a NewEvents)> {
        let oldest = self.keep.map_or(i64::MIN, |keep| self.end.saturating_sub(i64::from(keep)));
        self.rows.iter().filter(move |(first, events)| first.saturating_add(i64::from(events.count)) > oldest)
    }
}

impl<'a> Created<'a> {
    fn is_plain(&self) -> bool {
        let update_is_plain = self.update.as_ref().is_none_or(|update| {
            let RunUpdate { failure, blocked_by, crashes, cancel, .. } = update;
            failure.is_none() && blocked_by.is_none() && *crashes == 0 && cancel.is_none()
        });
        self.new.parent.is_none() && self.new.options.is_none() && update_is_plain
    }

    fn plain(&self) -> [Cell<'a>; 10] {
        let status = self.update.as_ref().map_or(if self.owned { RunStatus::Running } else { RunStatus::Pending }, |it| it.status);
        let stays = self.update.as_ref().is_none_or(|update| keeps_owner(update));
        let new = self.new;
        [
            new.id.row().into(),
            Cell::Id(new.id.0),
            new.workflow.into(),
            self.update.as_ref().and_then(|update| update.version).unwrap_or(new.version).into(),
            i64::from(status.code()).into(),
            i64::from(self.owned && stays).into(),
            new.created_at.0.into(),
            micros(self.update.as_ref().and_then(|update| update.ended_at)).into(),
            new.key.as_deref().into(),
            (&*new.inputs).into(),
        ]
    }

    fn full(&'a self) -> [Cell<'a>; 25] {
        let [id, uuid, workflow, version, status, owned, created_at, ended_at, key, inputs] = self.plain();
        let update = self.update.as_ref();
        let options: Option<&RunOptions> = self.new.options.as_deref();
        let parent: Option<&Parent> = self.new.parent.as_deref();
        [
            id,
            uuid,
            workflow,
            version,
            status,
            owned,
            created_at,
            ended_at,
            key,
            inputs,
            i64::from(update.is_some_and(RunUpdate::is_held)).into(),
            update.map_or(0, |update| i64::from(update.crashes)).into(),
            update.and_then(|update| json(update.failure.as_ref())).into(),
            update.and_then(|update| update.blocked_by.as_ref().map(BlockReason::to_string)).into(),
            update.and_then(|update| update.cancel.as_ref().map(|cancel| cancel.to_blob())).into(),
            options.and_then(RunOptions::tags_json).into(),
            options.map_or(0, |options| i64::from(options.priority)).into(),
            micros(options.and_then(|options| options.start_at)).into(),
            micros(options.and_then(|options| options.deadline)).into(),
            parent.map(|parent| parent.run.row()).into(),
            parent.map(|parent| parent.task).into(),
            parent.map(|parent| i64::from(parent.map)).into(),
            parent.map(|parent| &*parent.key.name).into(),
            parent.map(|parent| i64::from(parent.key.n)).into(),
            parent.map_or(0, |parent| i64::from(parent.depth)).into(),
        ]
    }
}

/// Whether a run belongs to its runner after this.
fn keeps_owner(update: &RunUpdate) -> bool {
    update.status.code() < RunStatus::Paused.code() || update.is_held()
}

/// For each status, and for each once more if the run is held, whether a request has such a run executed again.
pub(super) fn reopens(request: &str) -> i64 {
    let bit = |status: &RunStatus, held: bool| {
        i64::from(Ask::reopens(request, *status, held)) << (status.code() + if held { 8 } else { 0 })
    };
    RunStatus::ALL.iter().map(|status| bit(status, false) | bit(status, true)).sum()
}

pub(super) fn micros(time: Option<Time>) -> Option<i64> {
    time.map(|time| time.0)
}

pub(super) fn json(failure: Option<&Failure>) -> Option<&str> {
    failure.map(Failure::as_json)
}

/// What a message or an answer has in the columns `value` and `failure`.
pub(super) fn content(content: Option<&Result<Value, Failure>>) -> (Cell<'_>, Cell<'_>) {
    match content {
        None => (Cell::Blob(None), Cell::Text(None)),
        Some(Ok(value)) => (value.as_bytes().into(), Cell::Text(None)),
        Some(Err(failure)) => (Cell::Blob(None), failure.as_json().into()),
    }
}

/// The row of a message, with its content or without.
fn message(run: RunRowId, message: &Message, with_content: bool) -> [Cell<'_>; 8] {
    let (value, failure) = content(Some(&message.content).filter(|_| with_content));
    [
        run.into(),
        message.number.into(),
        i64::from(message.address.kind.code()).into(),
        (&*message.address.name).into(),
        message.id.as_deref().into(),
        value,
        failure,
        message.sent_at.0.into(),
    ]
}

fn task(row: &TaskRow) -> [Cell<'_>; 17] {
    let same = row.first_started_at == row.started_at && row.started_at.is_some();
    [
        row.run.into(),
        row.task.into(),
        i64::from(row.map).into(),
        i64::from(row.status.code()).into(),
        row.sub_status.map(|status| i64::from(status.code())).into(),
        micros(row.started_at).into(),
        micros(row.ended_at).into(),
        if same { Some(-1) } else { micros(row.first_started_at) }.into(),
        i64::from(row.attempts).into(),
        row.mark.code().into(),
        row.waited.into(),
        micros(row.retry_at).into(),
        row.length.map(i64::from).into(),
        row.output.as_ref().map(Value::as_bytes).into(),
        row.changes.as_deref().into(),
        json(row.failure.as_ref()).into(),
        row.blocked_by.as_deref().into(),
    ]
}

pub(super) fn entry<'a>([run, task, map]: [Cell<'a>; 3], row: &'a Entry) -> [Cell<'a>; 15] {
    [
        run,
        task,
        map,
        (&*row.key.name).into(),
        i64::from(row.key.n).into(),
        i64::from(row.seq).into(),
        i64::from(row.kind().code()).into(),
        i64::from(row.state.code()).into(),
        row.opened_at.0.into(),
        micros(row.closed_at).into(),
        micros(row.due()).into(),
        micros(row.deadline).into(),
        Cell::Blob(row.operation.stored_proof()),
        row.value.as_ref().map(Value::as_bytes).into(),
        json(row.failure.as_ref()).into(),
    ]
}

fn run(row: &RunUpdate) -> [Cell<'_>; 9] {
    [
        row.run.into(),
        i64::from(row.status.code()).into(),
        json(row.failure.as_ref()).into(),
        micros(row.ended_at).into(),
        row.blocked_by.as_ref().map(BlockReason::to_string).into(),
        i64::from(row.crashes).into(),
        row.version.into(),
        row.cancel.as_ref().map(|cancel| cancel.to_blob()).into(),
        i64::from(row.is_held()).into(),
    ]
}
