//! Child runs: which runs the bodies have started, and the waits for their ends. The end of one of many children is
//! found without a search.

use std::collections::HashMap;

use crate::attempt::child_wait;
use crate::entry::{Entry, EntryKey, Lookup, Operation};
use crate::event::{ChildStart, Wait};
use crate::failure::{Failure, FailureKind};
use crate::id::{RunId, TaskRef};
use crate::journal::Recall;
use crate::quick_hash::QuickHash;
use crate::status::{RunStatus, TaskStatus};
use crate::value::Value;

use super::{Out, RunState};

/// The runs that the bodies of a run have started.
#[derive(Clone, Debug, Default)]
pub(crate) struct Children(HashMap<RunId, Child, QuickHash>);

/// One of them.
#[derive(Clone, Debug, Default)]
struct Child {
    /// How it has ended, if it has.
    end: Option<RunStatus>,
    /// The waits for its end that were opened. One that is over is skipped, also if its key is another wait's by now.
    waits: Vec<(TaskRef, EntryKey)>,
}

/// What the wait for a child gets that has ended.
fn end_of(run: RunId, status: RunStatus) -> Result<Value, Failure> {
    match status {
        RunStatus::Completed => Ok(Value::NONE),
        _ => Err(Failure::new(FailureKind::ChildFailed, "bide.RunFailed", &format!("the child run {run} is {status}"))),
    }
}

impl RunState {
    fn children(&self) -> Option<&Children> {
        self.run_detail.as_ref()?.children.as_deref()
    }

    fn child(&mut self, run: RunId) -> Option<&mut Child> {
        self.run_detail.as_mut()?.children.as_mut()?.0.get_mut(&run)
    }

    /// Whether one of the bodies has started this run.
    #[must_use]
    pub fn has_child(&self, run: RunId) -> bool {
        self.children().is_some_and(|children| children.0.contains_key(&run))
    }

    /// The children that are not known to have ended.
    #[must_use]
    pub fn unended_children(&self) -> Vec<RunId> {
        let children = self.children().into_iter().flat_map(|children| &children.0);
        children.filter(|(_, child)| child.end.is_none()).map(|(run, _)| *run).collect()
    }

    /// Whether a child has ended without completing.
    pub(super) fn has_failed(&self, run: RunId) -> bool {
        let child = self.children().and_then(|children| children.0.get(&run));
        child.and_then(|child| child.end).is_some_and(|status| status != RunStatus::Completed)
    }

    /// A child that has ended is executed again.
    pub(super) fn reopen_child(&mut self, run: RunId) {
        if let Some(child) = self.child(run) {
            child.end = None;
        }
    }

    /// For each body that is deferred until a child ends: the child that it has waited for the longest.
    #[must_use]
    pub fn awaited_children(&self) -> Vec<(TaskRef, RunId)> {
        if self.children().is_none() {
            return Vec::new();
        }
        let awaited = self.all().filter_map(|(task, state)| {
            let open = state.detail.as_ref()?.journal.open_entries();
            let oldest = open.filter_map(|entry| Some((entry.seq, child_of(entry)?))).min()?;
            Some((task, oldest.1))
        });
        awaited.collect()
    }

    /// The bodies that are not in memory and will be entered when children end, with their attempts and these children.
    #[must_use]
    pub fn entered_by_children(&self) -> Vec<(TaskRef, u32, Vec<RunId>)> {
        if self.status != RunStatus::Running || self.children().is_none() {
            return Vec::new();
        }
        let sleeping = self.all().filter(|(_, state)| state.reenter && state.status == TaskStatus::Running);
        let awaited = sleeping.filter_map(|(task, state)| {
            let open = state.detail.as_ref()?.journal.open_entries();
            let children: Vec<RunId> = open.filter_map(child_of).collect();
            (!children.is_empty()).then_some((task, state.attempts, children))
        });
        awaited.collect()
    }

    /// What is recorded of a start. One whose child was not created is made again: the process died in between.
    pub(super) fn recall_start(&self, lookup: &Lookup, recall: Recall) -> Recall {
        let is_start = matches!(lookup, Lookup::Start(_) | Lookup::KeyedStart);
        match &recall {
            Recall::Satisfied(value)
                if is_start && !RunId::from_value(value).is_some_and(|run| self.has_child(run)) =>
            {
                Recall::Ask { deadline: None }
            }
            _ => recall,
        }
    }

    /// Children are started: the commit that creates them has their records. A record may replace that of a child which
    /// was not created.
    pub(super) fn children_started(&mut self, task: TaskRef, starts: Vec<ChildStart>, out: &mut Out<'_>) {
        let mut waits = Vec::new();
        for ChildStart { key, proof, run, awaited } in starts {
            let wait_key = awaited.then(|| child_wait(&key));
            let before = self.started_child(task, &key);
            let children = self.run_detail().children.get_or_insert_default();
            before.iter().for_each(|before| drop(children.0.remove(before)));
            children.0.insert(run, Child::default());
            let journal = &mut self.detail(task).journal;
            let wait = Wait { key, operation: Operation::Start { proof }, timeout: None };
            let key = journal.open(wait, out.now).key.clone();
            if let Some(entry) = journal.close(&key, Ok(run.to_value()), true, out.now).cloned() {
                self.write_entry(task, entry, out);
            }
            // A body may have given another wait this name.
            let is_free = |key: &EntryKey| {
                let entry = self.known_detail(task).and_then(|detail| detail.journal.get(key));
                entry.is_none_or(|entry| before.is_some() && child_of(entry) == before)
            };
            if let Some(key) = wait_key.filter(is_free) {
                waits.push(Wait { key, operation: Operation::Child { run }, timeout: None });
            }
        }
        self.new_record(out);
        self.clear_suspicion(task, out);
        if !waits.is_empty() {
            self.opened(task, waits, out);
        }
    }

    /// The child of a recorded start.
    #[must_use]
    pub fn started_child(&self, task: TaskRef, key: &EntryKey) -> Option<RunId> {
        let entry = self.known_detail(task)?.journal.get(key)?;
        RunId::from_value(entry.value.as_ref()?).filter(|_| matches!(entry.operation, Operation::Start { .. }))
    }

    /// What the wait for a child finds when it is opened.
    pub(super) fn take_child_end(&self, run: RunId) -> Option<Result<Value, Failure>> {
        match self.children().and_then(|children| children.0.get(&run)) {
            Some(child) => child.end.map(|status| end_of(run, status)),
            None => {
                let why = format!("no body of this run has started run {run}: a body waits for its own child runs");
                Some(Err(Failure::new(FailureKind::Definition, "bide.DefinitionError", &why)))
            }
        }
    }

    /// A wait for a child was opened, and the child has not ended.
    pub(super) fn note_child_wait(&mut self, run: RunId, task: TaskRef, key: &EntryKey) {
        if let Some(child) = self.child(run) {
            child.waits.push((task, key.clone()));
        }
    }

    /// A child has ended: closes the waits for it. A second time nothing happens.
    pub(super) fn child_ended(&mut self, run: RunId, status: RunStatus, out: &mut Out<'_>) {
        let Some(child) = self.child(run).filter(|child| child.end.is_none() && status.is_ended()) else { return };
        child.end = Some(status);
        for (task, key) in std::mem::take(&mut child.waits) {
            if self.waits_in_body(task, &key) && self.awaited_child(task, &key) == Some(run) {
                self.push_closed(task, &key, end_of(run, status), out);
            }
        }
    }

    /// Whether a body waits. An attempt that has failed, because its time was used up say, leaves its wait open.
    fn waits_in_body(&self, task: TaskRef, key: &EntryKey) -> bool {
        let state = self.task(task);
        let can_wait = match state.status {
            TaskStatus::Running => true,
            TaskStatus::Ready => state.reenter,
            _ => false,
        };
        can_wait && self.is_open(task, key)
    }

    fn awaited_child(&self, task: TaskRef, key: &EntryKey) -> Option<RunId> {
        self.known_detail(task)?.journal.get(key).and_then(child_of)
    }

    /// Restores the children of a stored run, after its journals.
    pub(crate) fn restore_children(&mut self, children: Vec<(RunId, RunStatus)>) {
        let child = |(run, status): (RunId, RunStatus)| {
            (run, Child { end: Some(status).filter(|status| status.is_ended()), waits: Vec::new() })
        };
        self.run_detail().children = Some(Box::new(Children(children.into_iter().map(child).collect())));
    }

    /// After a recovery: closes the waits for children that have ended meanwhile, and notes the others.
    pub(crate) fn deliver_ends(&mut self, out: &mut Out<'_>) {
        let mut waits = Vec::new();
        for (task, state) in self.all() {
            let open = state.detail.iter().flat_map(|detail| detail.journal.open_entries());
            waits.extend(open.filter_map(|entry| Some((task, entry.seq, entry.key.clone(), child_of(entry)?))));
        }
        waits.sort_unstable_by_key(|(task, seq, ..)| (*task, *seq));
        for (task, _, key, run) in waits {
            if !self.waits_in_body(task, &key) {
                continue;
            }
            match self.take_child_end(run) {
                Some(result) => self.push_closed(task, &key, result, out),
                None => self.note_child_wait(run, task, &key),
            }
        }
    }
}

fn child_of(entry: &Entry) -> Option<RunId> {
    match entry.operation {
        Operation::Child { run } => Some(run),
        _ => None,
    }
}
