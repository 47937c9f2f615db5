//! Combinations: the first of several waits, or all of them. Decided in the commit that closes a member.
//!
//! A combination is an entry that names the entries of its members; a member may be a combination itself. If the first
//! of several came, the others are closed as lost in the same commit, so that a message that comes later stays queued.

use std::collections::{HashMap, HashSet};

use crate::attempt::RecalledPart;
use crate::entry::{Entry, EntryKey, EntryState, Operation};
use crate::event::Wait;
use crate::failure::{Failure, FailureKind};
use crate::id::TaskRef;
use crate::quick_hash::QuickHash;
use crate::value::Value;

use super::{Out, RunState, TaskDetail};

/// The value of a combination that one member decides.
pub(crate) fn number_of_winner(winner: usize) -> Value {
    Value::tagged(b'i', winner.to_string().as_bytes())
}

/// The open combinations of a task.
#[derive(Clone, Debug, Default)]
pub(crate) struct Combinations {
    /// The combination of each member.
    parents: HashMap<EntryKey, EntryKey, QuickHash>,
    /// How many members of each are not closed.
    open: HashMap<EntryKey, usize, QuickHash>,
}

impl Combinations {
    fn note(&mut self, key: &EntryKey, members: &[EntryKey], open: usize) {
        // In a file that was changed by hand a combination can be its own member.
        let above: Vec<EntryKey> = self.upwards(key).cloned().collect();
        for member in members.iter().filter(|member| !above.contains(member)) {
            self.parents.insert(member.clone(), key.clone());
        }
        self.open.insert(key.clone(), open);
    }

    /// An entry, its combination, the combination of that, and so on.
    fn upwards<'a>(&'a self, key: &'a EntryKey) -> impl Iterator<Item = &'a EntryKey> {
        std::iter::successors(Some(key), |key| self.parents.get(*key))
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

    /// The combinations of a task that has some; made from the journal after a recovery, before the next entry is
    /// closed.
    pub(super) fn combinations(&mut self) -> &mut Combinations {
        if self.rare().combinations.is_none() {
            let mut found = Combinations::default();
            let open = self.journal.open_entries();
            for entry in open.filter(|entry| !entry.operation.members().is_empty()) {
                let members = entry.operation.members();
                found.note(&entry.key, members, self.open_members(members));
            }
            self.rare_mut().combinations = Some(Box::new(found));
        }
        self.rare_mut().combinations.get_or_insert_default()
    }
}

/// Keys that are looked up.
type Keys = HashSet<EntryKey, QuickHash>;

impl RunState {
    /// The waits that are really to be opened, of those that a body or a gate asks for: not those that were closed
    /// after the body had looked them up, nor the members of such a combination.
    pub(super) fn still_open(&self, task: TaskRef, waits: Vec<Wait>) -> Vec<Wait> {
        let Some(detail) = self.known_detail(task).filter(|detail| !detail.journal.is_empty()) else { return waits };
        if let [wait] = &waits[..] {
            return if self.stands(task, wait, &Keys::default()) { Vec::new() } else { waits };
        }
        let mut opening = Keys::default();
        // Members before their combinations.
        for wait in waits.iter().rev().filter(|wait| detail.journal.get(&wait.key).is_some()) {
            if !self.stands(task, wait, &opening) {
                opening.insert(wait.key.clone());
            }
        }
        let mut standing = Keys::default();
        for wait in &waits {
            let closed = detail.journal.get(&wait.key).is_some() && !opening.contains(&wait.key);
            if closed || standing.contains(&wait.key) {
                standing.insert(wait.key.clone());
                standing.extend(wait.operation.members().iter().cloned());
            }
        }
        waits.into_iter().filter(|wait| !standing.contains(&wait.key)).collect()
    }

    /// Whether an entry is closed and stays so, though a wait for it is opened. `opening`: the members that do not.
    fn stands(&self, task: TaskRef, wait: &Wait, opening: &Keys) -> bool {
        let entry = self.known_detail(task).and_then(|detail| detail.journal.get(&wait.key));
        entry.filter(|entry| is_closed(entry)).is_some_and(|entry| match &wait.operation {
            Operation::Message(_) | Operation::Child { .. } => entry.operation == wait.operation,
            Operation::Time { .. } => entry.kind() == wait.operation.kind(),
            Operation::Any { .. } | Operation::All { .. } if entry.kind() != wait.operation.kind() => false,
            Operation::Any { .. } | Operation::All { .. } if entry.state == EntryState::Failed => true,
            Operation::Any { members } => {
                let winner = self.winner(task, &wait.key);
                winner.is_some_and(|(winner, _)| members.contains(&winner) && !opening.contains(&winner))
            }
            Operation::All { members } => !members.iter().any(|member| opening.contains(member)),
            _ => false,
        })
    }

    /// Notes the members of the combinations among the waits that are about to be opened. The first one is nobody's
    /// member, though it was in the version of the code that opened it before.
    pub(super) fn note_combinations(&mut self, task: TaskRef, waits: &[Wait]) {
        let has_some = |detail: &TaskDetail| detail.journal.has_combinations();
        if waits.len() < 2 && !self.known_detail(task).is_some_and(has_some) {
            return;
        }
        let Some(first) = waits.first() else { return };
        let detail = self.detail(task);
        detail.combinations().parents.remove(&first.key);
        let opening: HashSet<&EntryKey, QuickHash> = waits.iter().map(|wait| &wait.key).collect();
        for Wait { key, operation, .. } in waits {
            if let Operation::Any { members } | Operation::All { members } = operation {
                let closed = |member: &EntryKey| detail.journal.get(member).is_some_and(is_closed);
                let open = members.iter().filter(|member| opening.contains(member) || !closed(member)).count();
                detail.combinations().note(key, members, open);
            }
        }
    }

    /// Decides a combination that was just opened, if a member decides it that was closed before.
    fn decide_opened(&mut self, task: TaskRef, key: &EntryKey, opening: &Keys, out: &mut Out<'_>) {
        let Some(detail) = self.known_detail(task) else { return };
        let entry = detail.journal.get(key).filter(|entry| entry.state == EntryState::Open);
        let Some(entry) = entry else { return };
        let with = |state| {
            let is = |member: &&EntryKey| {
                !opening.contains(*member) && detail.journal.get(member).is_some_and(|entry| entry.state == state)
            };
            entry.operation.members().iter().find(is).cloned()
        };
        let member = match &entry.operation {
            Operation::Any { .. } => with(EntryState::Satisfied).or_else(|| with(EntryState::Failed)),
            _ => with(EntryState::Failed).or_else(|| with(EntryState::Satisfied)),
        };
        let Some(member) = member else { return };
        if let Some(open) = self.detail(task).combinations().open.get_mut(key) {
            // It was not counted, and is when it decides.
            *open += 1;
        }
        self.decide(task, &member, out);
    }

    /// Opens waits: a combination before its members.
    pub(super) fn open_entries(&mut self, task: TaskRef, waits: Vec<Wait>, out: &mut Out<'_>) {
        let waits = self.still_open(task, waits);
        self.lose_dropped(task, &waits, out);
        self.note_combinations(task, &waits);
        let combined = waits.len() > 1 || waits.iter().any(|wait| !wait.operation.members().is_empty());
        let opening: Keys =
            if combined { waits.iter().map(|wait| wait.key.clone()).collect() } else { Keys::default() };
        for wait in waits {
            let key = combined.then(|| wait.key.clone());
            self.open_entry(task, wait, out);
            if let Some(key) = key {
                self.decide_opened(task, &key, &opening, out);
            }
        }
    }

    /// Members that a combination had when it was opened before, and has not any more, are lost: no message that comes
    /// later is theirs.
    fn lose_dropped(&mut self, task: TaskRef, waits: &[Wait], out: &mut Out<'_>) {
        for Wait { key, operation, .. } in waits.iter().filter(|wait| !wait.operation.members().is_empty()) {
            let before = self.known_detail(task).and_then(|detail| detail.journal.get(key));
            let before: Vec<EntryKey> = before.map_or_else(Vec::new, |entry| entry.operation.members().to_vec());
            let members: HashSet<&EntryKey, QuickHash> = match before.is_empty() {
                true => HashSet::default(),
                false => operation.members().iter().collect(),
            };
            for dropped in before.iter().filter(|member| !members.contains(member)) {
                if let Some(lost) = self.detail(task).journal.lose(dropped, out.now).cloned() {
                    self.write_entry(task, lost, out);
                    self.lose_open(task, dropped, out);
                }
            }
        }
    }

    /// Whether an entry is to be opened: not if the combination that it belongs to is decided already.
    pub(super) fn is_wanted(&self, task: TaskRef, key: &EntryKey) -> bool {
        let combinations = self.known_detail(task).and_then(|detail| detail.rare().combinations.as_deref());
        let parent = combinations.and_then(|combinations| combinations.parents.get(key));
        parent.is_none_or(|parent| self.is_open(task, parent))
    }

    /// Whether an entry is a member of a combination.
    pub(super) fn is_member(&self, task: TaskRef, key: &EntryKey) -> bool {
        let combinations = self.known_detail(task).and_then(|detail| detail.rare().combinations.as_deref());
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
        Some((member.clone(), journal.has_consumed(member)))
    }

    /// A combination that the body has not come to yet, that was decided by a message, and that has lost one of these
    /// messages, if that one is not among the parts: the body waits for other members now. Returns it with the message.
    pub(crate) fn left_out(
        &self,
        task: TaskRef,
        parts: &[RecalledPart],
        messages: &[EntryKey],
        is_used: impl Fn(&EntryKey) -> bool,
    ) -> Option<(EntryKey, EntryKey)> {
        let journal = &self.known_detail(task)?.journal;
        let has_lost = |member: &EntryKey| {
            messages.contains(member) && journal.get(member).is_none_or(|entry| entry.state == EntryState::Lost)
        };
        let decided = journal.entries().filter(|entry| matches!(entry.operation, Operation::Any { .. }));
        decided.filter(|entry| !is_used(&entry.key)).find_map(|entry| {
            let (winner, consumed) = self.winner(task, &entry.key)?;
            let is_there = parts.iter().any(|part| part.key == winner);
            let is_other_form = consumed && !is_there && entry.operation.members().iter().any(has_lost);
            is_other_form.then(|| (entry.key.clone(), winner))
        })
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
            combinations.upwards(key).last()?.clone()
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
        let failure = detail.journal.get(member)?.failure.as_deref().cloned();
        let entry = detail.journal.get(key).filter(|entry| entry.state == EntryState::Open)?;
        let is_any = matches!(entry.operation, Operation::Any { .. });
        let members = entry.operation.members();
        let count = members.len();
        // Asked once: many members of many waits close one after the other.
        let index = || members.iter().position(|of| of == member);
        let winner = if is_any && failure.is_none() { index() } else { None };
        let open = detail.combinations().open.get_mut(key)?;
        *open = open.saturating_sub(1);
        match failure {
            None if is_any => Some(Ok(number_of_winner(winner?))),
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
            if self.detail(task).combinations().parents.get(member) != Some(key) {
                // Another version of the code waits for it in another way.
                continue;
            }
            if let Some(lost) = self.detail(task).journal.lose(member, out.now).cloned() {
                self.write_entry(task, lost, out);
                self.lose_open(task, member, out);
            }
        }
    }
}
