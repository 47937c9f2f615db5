//! Combinations: the first of several waits, or all of them. Decided in the commit that closes a member.
//!
//! A combination is an entry that names the entries of its members; a member may be a combination itself. If the first
//! of several came, the others are closed as lost in the same commit, so that a message that comes later stays queued.

use std::collections::HashMap;

use crate::entry::{Entry, EntryKey, EntryState, Operation};
use crate::event::Wait;
use crate::failure::{Failure, FailureKind};
use crate::id::TaskRef;
use crate::value::Value;

use super::{Out, RunState, TaskDetail};

/// The open combinations of a task.
#[derive(Clone, Debug, Default)]
pub(crate) struct Combinations {
    /// The combination of each member.
    parents: HashMap<EntryKey, EntryKey>,
    /// How many members of each are not closed.
    open: HashMap<EntryKey, usize>,
}

impl Combinations {
    fn note(&mut self, key: &EntryKey, members: &[EntryKey], open: usize) {
        for member in members {
            self.parents.insert(member.clone(), key.clone());
        }
        self.open.insert(key.clone(), open);
    }

    fn outermost<'a>(&'a self, mut key: &'a EntryKey) -> &'a EntryKey {
        while let Some(parent) = self.parents.get(key) {
            key = parent;
        }
        key
    }
}

/// Whether a member counts as closed: one that was lost is waited for again if its combination is opened again.
fn is_closed(entry: &Entry) -> bool {
    matches!(entry.state, EntryState::Satisfied | EntryState::Failed)
}

impl TaskDetail {
    fn open_members(&self, members: &[EntryKey]) -> usize {
        members.iter().filter(|key| !self.journal.get(key).is_some_and(is_closed)).count()
    }

    /// The combinations of a task that has some; made from the journal after a recovery.
    fn combinations(&mut self) -> &mut Combinations {
        if self.combinations.is_none() {
            let mut found = Combinations::default();
            let open = self.journal.entries().filter(|entry| entry.state == EntryState::Open);
            for entry in open.filter(|entry| !entry.operation.members().is_empty()) {
                let members = entry.operation.members();
                found.note(&entry.key, members, self.open_members(members));
            }
            self.combinations = Some(Box::new(found));
        }
        self.combinations.get_or_insert_default()
    }
}

impl RunState {
    /// Whether the waits that a body opens have come to their end meanwhile: the machine closes an open entry that the
    /// body has found in its journal whenever what it waits for comes. A combination is opened again if it has other
    /// members than recorded, or one of its conditions is to be asked again.
    pub(super) fn is_decided(&self, task: TaskRef, waits: &[Wait]) -> bool {
        let journal = self.known_detail(task).map(|detail| &detail.journal);
        let Some((journal, first)) = journal.zip(waits.first()) else { return false };
        let entry_of = |wait: &Wait| journal.get(&wait.key).filter(|entry| entry.kind() == wait.operation.kind());
        if matches!(first.operation, Operation::Condition { .. }) || !entry_of(first).is_some_and(is_closed) {
            return false;
        }
        waits.iter().all(|wait| match (&wait.operation, entry_of(wait)) {
            (Operation::Condition { .. }, Some(entry)) => !is_closed(entry),
            (operation, Some(entry)) => operation.members() == entry.operation.members(),
            (_, None) => true,
        })
    }

    /// Notes the members of the combinations among the waits that are about to be opened. Members that a combination
    /// had and does not have any more are lost.
    pub(super) fn note_combinations(&mut self, task: TaskRef, waits: &[Wait], out: &mut Out<'_>) {
        for Wait { key, operation, .. } in waits {
            // What it was a member of in an earlier attempt is over.
            if let Some(detail) = &mut self.task_mut(task).detail
                && let Some(combinations) = &mut detail.combinations
            {
                combinations.parents.remove(key);
            }
            let before = self.known_detail(task).and_then(|detail| detail.journal.get(key));
            let before: Vec<EntryKey> = before.map_or_else(Vec::new, |entry| entry.operation.members().to_vec());
            for gone in before.iter().filter(|member| !operation.members().contains(member)) {
                if let Some(lost) = self.detail(task).journal.lose(gone, out.now).cloned() {
                    self.write_entry(task, &lost, out);
                    self.lose_open(task, gone, out);
                }
            }
        }
        for Wait { key, operation, .. } in waits {
            if let Operation::Any { members } | Operation::All { members } = operation {
                let detail = self.detail(task);
                let open = detail.open_members(members);
                detail.combinations().note(key, members, open);
            }
        }
    }

    /// Whether an entry is to be opened: not if the combination that it belongs to is decided already.
    pub(super) fn is_wanted(&self, task: TaskRef, key: &EntryKey) -> bool {
        let combinations = self.known_detail(task).and_then(|detail| detail.combinations.as_deref());
        let parent = combinations.and_then(|combinations| combinations.parents.get(key));
        parent.is_none_or(|parent| self.is_open(task, parent))
    }

    /// Whether an entry is a member of a combination.
    pub(super) fn is_member(&self, task: TaskRef, key: &EntryKey) -> bool {
        let combinations = self.known_detail(task).and_then(|detail| detail.combinations.as_deref());
        combinations.is_some_and(|combinations| combinations.parents.contains_key(key))
    }

    /// Which member has decided a combination of the kind that one decides, and whether that has consumed a message.
    #[must_use]
    pub fn winner(&self, task: TaskRef, key: &EntryKey) -> Option<(EntryKey, bool)> {
        let journal = &self.known_detail(task)?.journal;
        let entry = journal.get(key).filter(|entry| entry.state == EntryState::Satisfied)?;
        let Operation::Any { members } = &entry.operation else { return None };
        let payload = std::str::from_utf8(entry.value.as_ref()?.payload()).ok()?;
        let member = members.get(payload.parse::<usize>().ok()?)?;
        let consumed = journal.get(member).is_some_and(|entry| matches!(entry.operation, Operation::Message(_)));
        Some((member.clone(), consumed))
    }

    /// An entry was closed: decides the combinations that it belongs to. Returns the outermost of them, open or not.
    pub(super) fn decide(&mut self, task: TaskRef, key: &EntryKey, out: &mut Out<'_>) -> Option<EntryKey> {
        if !self.known_detail(task)?.journal.has_combinations() {
            return None;
        }
        let mut member = key.clone();
        let outermost = {
            let combinations = self.detail(task).combinations();
            combinations.parents.get(key)?;
            combinations.outermost(key).clone()
        };
        while let Some(parent) = self.detail(task).combinations().parents.get(&member).cloned() {
            let Some(result) = self.decision(task, &parent, &member) else { break };
            // Cannot be refused: it is open.
            let _ = self.close_entry(task, &parent, result, true, out);
            self.lose_open(task, &parent, out);
            member = parent;
        }
        Some(outermost)
    }

    /// What the end of a member decides about an open combination, if anything.
    fn decision(&mut self, task: TaskRef, key: &EntryKey, member: &EntryKey) -> Option<Result<Value, Failure>> {
        let detail = self.detail(task);
        let failure = detail.journal.get(member)?.failure.clone();
        let entry = detail.journal.get(key).filter(|entry| entry.state == EntryState::Open)?;
        let is_any = matches!(entry.operation, Operation::Any { .. });
        let members = entry.operation.members();
        let (count, index) = (members.len(), members.iter().position(|of| of == member)?);
        let open = detail.combinations().open.get_mut(key)?;
        *open = open.saturating_sub(1);
        match failure {
            None if is_any => Some(Ok(Value::tagged(b'i', index.to_string().as_bytes()))),
            Some(failure) if !is_any => Some(Err(failure)),
            _ if *open > 0 => None,
            None => Some(Ok(Value::NONE)),
            Some(_) => {
                let text = format!("all {count} waits of '{}' failed", key.name);
                Some(Err(Failure::new(FailureKind::Raised, "ExceptionGroup", &text)))
            }
        }
    }

    /// A combination is over: closes the members that are still open. Nothing is done for another entry.
    pub(super) fn lose_open(&mut self, task: TaskRef, key: &EntryKey, out: &mut Out<'_>) {
        let Some(entry) = self.known_detail(task).and_then(|detail| detail.journal.get(key)) else { return };
        let members = match &entry.operation {
            Operation::Any { members } | Operation::All { members } => members.clone(),
            _ => return,
        };
        for member in members.iter() {
            if let Some(lost) = self.detail(task).journal.lose(member, out.now).cloned() {
                self.write_entry(task, &lost, out);
                self.lose_open(task, member, out);
            }
        }
    }
}
