//! The writes that one statement makes, as the rows of its parts.
//!
//! A row is in a statement once. A later write of the same row takes the place of the earlier; where that would not be the
//! same as one after the other, the later one is for the next statement.

use std::collections::HashMap;
use std::collections::hash_map::Entry as Place;

use bide_core::record::{DoneRow, NewRun, RunRowId, RunUpdate, Write};
use bide_core::{
    Entry, EntryKey, Failure, Message, MessageKind, NewEvents, Progress, ProgressRow, TaskId, TaskRow, Time, Value,
};

use super::cells::{Created, content, entry, message, reopens, run, task};
use super::changes::Kind;
use super::columns::{Cell, Column, Rows};
use super::statement::{self, PARTS, RUN, Shape};

/// About how many bytes of values a statement has at most, unless one row alone has more. The server takes messages of less
/// than 1 GiB.
const MOST_BYTES: usize = 128 << 20;

/// A task of a run.
type TaskPlace = (RunRowId, TaskId, i32);

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

/// About how many bytes of values a write has.
fn bytes_of(write: &Write) -> usize {
    let of_value = |value: &Value| value.as_bytes().len();
    let of_result = |result: &Result<Value, Failure>| result.as_ref().map_or(0, of_value);
    match write {
        Write::Done(row) => of_value(&row.output),
        Write::Task(row) => row.output.as_ref().map_or(0, of_value) + row.changes.as_ref().map_or(0, |it| it.len()),
        Write::Entry { entry, .. } => entry.value.as_ref().map_or(0, of_value) + entry.proof().map_or(0, <[u8]>::len),
        Write::Message { message, .. } | Write::Forked { message, .. } => of_result(&message.content),
        Write::Answer { answer, .. } => of_result(answer),
        Write::Events(new) => new.packed.len(),
        _ => 0,
    }
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
    /// What other processes must learn of.
    changes: Vec<(i64, Kind, Option<RunRowId>)>,
    count: usize,
    /// About how many bytes of values there are.
    bytes: usize,
}

impl<'a> Stage<'a> {
    pub(super) fn is_empty(&self) -> bool {
        self.count == 0 && self.created.is_empty()
    }

    /// Creates a run. Before any write. False if that is for the next statement.
    pub(super) fn create(&mut self, new: &'a NewRun, owned: bool) -> bool {
        let fits = self.has_room(new.inputs.len());
        if fits {
            self.created_at.insert(new.id.row(), self.created.len());
            self.created.push(Created { new, owned, update: None });
        }
        fits
    }

    /// About how many bytes of values there are.
    pub(super) fn bytes(&self) -> usize {
        self.bytes
    }

    /// Whether this many bytes more fit, which are counted then. Any number fits into an empty one.
    fn has_room(&mut self, bytes: usize) -> bool {
        let total = self.bytes.saturating_add(bytes);
        let fits = self.bytes == 0 || total <= MOST_BYTES;
        if fits {
            self.bytes = total;
        }
        fits
    }

    /// Has other processes learn of something; `process` is this one.
    pub(super) fn announce(&mut self, process: i64, kind: Kind, run: Option<RunRowId>) {
        self.changes.push((process, kind, run));
    }

    /// Takes a write; false if that is for the next statement.
    pub(super) fn add(&mut self, write: &'a Write) -> bool {
        if self.dropped.is_some() || !self.has_room(bytes_of(write)) {
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
                let fits =
                    !(asks && (self.runs.contains_key(run) || self.requests.iter().any(|(other, _)| other == run)));
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
        for (process, kind, run) in &self.changes {
            row!(statement::CHANGE, [(*process).into(), (*kind as i64).into(), (*run).into()]);
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_that_are_too_large_together_are_for_the_next_statement() {
        let value = Value::new(&vec![0; 50 << 20]);
        let rows: Vec<Write> =
            (0..3).map(|task| Write::Done(DoneRow::new(1, task, value.clone(), Time(0), Time(0)))).collect();
        let mut stage = Stage::default();
        assert_eq!(rows.iter().map(|row| stage.add(row)).collect::<Vec<_>>(), [true, true, false]);
        assert_eq!(stage.bytes(), 100 << 20);
        assert!(Stage::default().add(&rows[2]));
        let run = bide_core::RunId(1 << 64);
        let new = NewRun::new(run, 1, 1, Time(0)).with_inputs(vec![0; MOST_BYTES + 1].into());
        let mut stage = Stage::default();
        assert!(stage.create(&new, true), "one row is in a statement, however large it is");
        assert!(!stage.create(&new, true));
        assert!(!stage.add(&rows[0]));
    }
}
