//! The harness's store: it keeps the rows of batches as a real store does, and rejects invalid batches.

use std::collections::BTreeMap;
use std::sync::Arc;

use bide_core::record::{RunRow, StoredRun};
use bide_core::{
    Entry, EntryKey, EntryKind, Failure, Graph, Message, NO_MAP, RunId, RunState, RunStatus, StoredMessage, TaskId,
    TaskIx, TaskRow, Time, Value, Write,
};

#[derive(Clone)]
pub(crate) struct Store {
    pub(crate) run: RunRow,
    pub(crate) rows: BTreeMap<(TaskId, i32), TaskRow>,
    pub(crate) entries: BTreeMap<(TaskId, i32, EntryKey), Entry>,
    pub(crate) messages: Vec<StoredMessage>,
    /// By the numbers of the requests.
    pub(crate) answers: BTreeMap<i64, Result<Value, Failure>>,
    pub(crate) children: Vec<(RunId, RunStatus)>,
    /// Messages to other runs, by their row numbers.
    pub(crate) posted: Vec<(i64, Message)>,
    last_seq: i64,
    /// The run was retried, or an operator has moved deadlines: what else is never written again may be.
    pub(crate) may_rewrite: bool,
}

/// The number that the harness's store gives a task.
pub(crate) fn id_of(ix: TaskIx) -> TaskId {
    100 + TaskId::from(ix)
}

impl Store {
    pub(crate) fn new(graph: &Graph) -> Self {
        let id = RunId::new(1, 0, 7);
        let run = RunRow::new(id, Arc::clone(graph.workflow()), graph.version().into(), Time(1));
        Self {
            run,
            rows: BTreeMap::new(),
            entries: BTreeMap::new(),
            messages: Vec::new(),
            answers: BTreeMap::new(),
            children: Vec::new(),
            posted: Vec::new(),
            last_seq: 0,
            may_rewrite: false,
        }
    }

    pub(crate) fn commit(&mut self, batch: &[Write]) {
        for write in batch {
            match write.clone() {
                Write::Done(done) => {
                    let row = TaskRow::from(done);
                    let before = self.rows.insert((row.task, row.map), row);
                    assert!(before.is_none(), "a short row where there is a row: {before:?}");
                }
                Write::Task(row) => {
                    let before = self.rows.insert((row.task, row.map), (*row).clone());
                    let ended = before.is_some_and(|before| before.status.is_ended());
                    assert!(!ended || self.may_rewrite, "an ended task is written again: {row:?}");
                }
                Write::Entry { task, map, entry, .. } => {
                    let before = self.entries.insert((task, map, entry.key.clone()), (*entry).clone());
                    if let Some(before) = before.filter(|before| before.kind() == entry.kind()) {
                        assert!(entry.deadline == before.deadline || self.may_rewrite, "a deadline moved");
                        let free = entry.kind() != EntryKind::Time || before.due() == Some(Time::NEVER);
                        assert!(free || entry.due() == before.due(), "a due time moved: {before:?} {entry:?}");
                    }
                }
                Write::DropEntries { task, map, keys, .. } => {
                    for key in keys {
                        assert!(self.entries.remove(&(task, map, key.clone())).is_some(), "nothing to drop at {key:?}");
                    }
                }
                Write::Message { run, message, consumed } if run == self.run.id.row() => self.send(*message, consumed),
                Write::Message { run, message, .. } => self.posted.push((run, *message)),
                Write::Applied { number, from, .. } => {
                    let is = |stored: &&mut StoredMessage| stored.message.number == number;
                    let stored = self.messages.iter_mut().find(is).expect("a request is applied that is not there");
                    assert!(stored.seq >= from, "a request is looked for behind its place");
                    assert!(!std::mem::replace(&mut stored.consumed, true), "a request is applied twice");
                }
                Write::Forked { from, message, .. } => self.posted.push((from, *message)),
                Write::DropElements { task, .. } => {
                    self.rows.retain(|(of, map), _| *of != task || *map == NO_MAP);
                    self.entries.retain(|(of, map, _), _| *of != task || *map == NO_MAP);
                }
                Write::Consumed { number, id, from, .. } => {
                    let is = |stored: &StoredMessage| match &id {
                        Some(id) => stored.message.id.as_ref() == Some(id),
                        None => stored.message.number == number,
                    };
                    let at = self.messages.iter().position(is).expect("a message is consumed that is not there");
                    assert!(!self.messages[at].consumed, "a message is consumed twice");
                    assert!(self.messages[at].seq >= from, "a message is looked for behind its place");
                    match id {
                        Some(_) => self.messages[at].consumed = true,
                        None => drop(self.messages.remove(at)),
                    }
                }
                Write::Answer { number, answer, .. } => {
                    let before = self.answers.insert(number, answer);
                    assert_eq!(before, None, "a request is answered twice");
                }
                Write::Run(update) => {
                    assert!(
                        !self.run.status.is_ended() || self.may_rewrite,
                        "an ended run is written again: {update:?}"
                    );
                    self.run.status = update.status;
                    self.run.failure = update.failure;
                    self.run.ended_at = update.ended_at;
                    self.run.blocked_by = update.blocked_by;
                    self.run.crashes = update.crashes;
                    self.run.cancel = update.cancel;
                }
                Write::Events(_) | Write::Progress(_) => {}
            }
        }
    }

    /// Stores a message, as a run's owner or another process does.
    pub(crate) fn send(&mut self, message: Message, consumed: bool) {
        self.last_seq += 1;
        self.messages.push(StoredMessage { seq: self.last_seq, message, consumed });
    }

    pub(crate) fn row(&self, ix: TaskIx) -> Option<&TaskRow> {
        self.rows.get(&(id_of(ix), NO_MAP))
    }

    pub(crate) fn entry(&self, ix: TaskIx, key: &EntryKey) -> Option<&Entry> {
        self.entries.get(&(id_of(ix), NO_MAP, key.clone()))
    }

    pub(crate) fn entries_of(&self, ix: TaskIx) -> Vec<&Entry> {
        let mut found: Vec<&Entry> =
            self.entries.iter().filter(|((task, ..), _)| *task == id_of(ix)).map(|(_, entry)| entry).collect();
        found.sort_by_key(|entry| entry.seq);
        found
    }

    /// The state that another process builds after this one ended; every row must come back unchanged.
    pub(crate) fn recover(&mut self, graph: &Arc<Graph>) -> RunState {
        // As a store does when it claims the run of a dead process.
        self.run.crashes += u32::from(self.rows.values().filter(|row| row.mark.executes).count() == 1);
        self.rows.values_mut().for_each(|row| row.mark = row.mark.set_aside());
        let ids: Arc<[TaskId]> = (0..graph.len() as TaskIx).map(id_of).collect();
        let stored = StoredRun {
            run: self.run.clone(),
            tasks: Arc::default(),
            rows: self.rows.values().cloned().collect(),
            entries: self.entries.iter().map(|((task, map, _), entry)| (*task, *map, entry.clone())).collect(),
            messages: self.messages.clone(),
            progress: Vec::new(),
            children: self.children.clone(),
        };
        let state = RunState::recover(graph, &ids, None, stored).unwrap();
        for (task, row) in state.rows() {
            if let Some(stored) = self.rows.get(&(id_of(task.ix), task.map)) {
                assert_eq!(&row, stored, "a row does not survive recovery");
            }
        }
        state
    }
}
