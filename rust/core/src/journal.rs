//! The journal of one task: its recorded waits and steps, and the rule by which a record is reused.
//!
//! A record is looked up by key, so that differently named entries may be added, removed and reordered between two
//! versions of the code. A time or a signal is always reused. A condition is reused only if it is provably the same
//! wait; else it is asked again under its recorded deadline. A step whose arguments differ is a mismatch.

use std::collections::HashMap;

use crate::event::Wait;
use crate::failure::Failure;
use crate::record::{Entry, EntryKey, EntryKind, EntryState};
use crate::time::Time;
use crate::value::Value;

/// What the journal knows of a wait or step.
#[derive(Clone, Debug, PartialEq)]
pub enum Recall {
    /// Nothing, or (for a condition) something else: ask. A recorded deadline stands.
    Ask {
        /// The recorded deadline.
        deadline: Option<Time>,
    },
    /// The time is recorded and not reached, as far as anybody has written down.
    Open {
        /// When it is reached.
        due: Option<Time>,
        /// When the wait times out.
        deadline: Option<Time>,
    },
    /// It is over and has this value.
    Satisfied(Value),
    /// It is over and failed so.
    Failed(Failure),
    /// The code asks for something else than what was recorded under this key; says what.
    Mismatch(String),
}

/// The journal of one task.
#[derive(Clone, Debug, Default)]
pub struct Journal {
    entries: HashMap<EntryKey, Entry>,
    last_seq: u32,
}

impl Journal {
    /// Takes up a stored entry.
    pub fn restore(&mut self, entry: Entry) {
        self.last_seq = self.last_seq.max(entry.seq);
        self.entries.insert(entry.key.clone(), entry);
    }

    /// What is known of a wait or step.
    #[must_use]
    pub fn recall(&self, key: &EntryKey, kind: EntryKind, proof: Option<&[u8]>) -> Recall {
        let Some(entry) = self.entries.get(key) else {
            return Recall::Ask { deadline: None };
        };
        if entry.kind != kind {
            return Recall::Mismatch(format!(
                "{:?} (use {}) was recorded as a {} and is now a {}",
                key.name, key.n, entry.kind, kind
            ));
        }
        let same = entry.proof.is_some() && entry.proof.as_deref() == proof;
        match kind {
            EntryKind::Condition if !same || entry.state == EntryState::Open => {
                Recall::Ask { deadline: entry.deadline }
            }
            EntryKind::Step if !same => Recall::Mismatch(format!(
                "step {:?} (use {}) was recorded with other arguments; its result does not belong to this call",
                key.name, key.n
            )),
            _ => match (entry.state, &entry.value, &entry.failure) {
                (EntryState::Satisfied, value, _) => Recall::Satisfied(value.clone().unwrap_or(Value::NONE)),
                (EntryState::Failed, _, Some(failure)) => Recall::Failed(failure.clone()),
                _ => Recall::Open { due: entry.due, deadline: entry.deadline },
            },
        }
    }

    /// Opens an entry; one that is there keeps its place, its times and its deadline.
    pub fn open(&mut self, wait: Wait, now: Time) -> &Entry {
        let last_seq = &mut self.last_seq;
        let entry = self.entries.entry(wait.key).or_insert_with_key(|key| {
            *last_seq += 1;
            Entry {
                key: key.clone(),
                seq: *last_seq,
                kind: wait.kind,
                state: EntryState::Open,
                proof: None,
                due: wait.due,
                deadline: wait.timeout.map(|timeout| now.after(timeout)),
                value: None,
                failure: None,
                opened_at: now,
                closed_at: None,
            }
        });
        entry.state = EntryState::Open;
        entry.proof = wait.proof;
        entry.value = None;
        entry.failure = None;
        entry.closed_at = None;
        entry
    }

    /// Closes an entry with its result. `None` if there is no such entry.
    pub fn close(&mut self, key: &EntryKey, result: Result<Value, Failure>, now: Time) -> Option<&Entry> {
        let entry = self.entries.get_mut(key)?;
        entry.closed_at = Some(now);
        match result {
            Ok(value) => {
                entry.state = EntryState::Satisfied;
                entry.value = Some(value);
            }
            Err(failure) => {
                entry.state = EntryState::Failed;
                entry.failure = Some(failure);
            }
        }
        Some(entry)
    }

    /// The entry under a key.
    #[must_use]
    pub fn get(&self, key: &EntryKey) -> Option<&Entry> {
        self.entries.get(key)
    }

    /// The body's open wait, if it has one.
    #[must_use]
    pub fn open_wait(&self) -> Option<&Entry> {
        self.entries.values().find(|entry| entry.state == EntryState::Open && entry.key.n > 0)
    }

    /// The gate's entry, if it was ever opened.
    #[must_use]
    pub fn gate(&self) -> Option<&Entry> {
        self.entries.values().find(|entry| entry.key.n == 0)
    }

    /// Prepares for a new attempt: drops the failed (and the abandoned open) entries at the tail, or everything,
    /// and returns the keys of what was dropped.
    pub fn rewind(&mut self, everything: bool) -> Vec<EntryKey> {
        let mut by_age: Vec<(u32, EntryKey, EntryState)> =
            self.entries.values().map(|entry| (entry.seq, entry.key.clone(), entry.state)).collect();
        by_age.sort_unstable_by_key(|(seq, ..)| std::cmp::Reverse(*seq));
        let dropped: Vec<EntryKey> = by_age
            .into_iter()
            .take_while(|(.., state)| everything || *state != EntryState::Satisfied)
            .map(|(_, key, _)| key)
            .collect();
        for key in &dropped {
            self.entries.remove(key);
        }
        dropped
    }
}
