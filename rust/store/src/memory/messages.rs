//! The messages to all runs in memory, and the answers to requests.

use std::collections::BTreeMap;

use bide_core::record::RunRowId;
use bide_core::{Failure, Message, MessageKind, StoredMessage, Value};

use crate::Sent;

/// Messages by run and number of arrival.
#[derive(Clone, Default)]
pub(super) struct Messages {
    /// All that are kept.
    by_run: BTreeMap<(RunRowId, i64), StoredMessage>,
    /// The number of the newest message.
    last: i64,
    /// How many were not written by their run's owner.
    pub(super) arrivals: u64,
    /// The answers to requests, by run and the request's number.
    answers: BTreeMap<(RunRowId, i64), Result<Value, Failure>>,
}

impl Messages {
    fn of_run(&self, run: RunRowId, after: i64) -> impl Iterator<Item = &StoredMessage> {
        self.by_run.range((run, after.saturating_add(1))..=(run, i64::MAX)).map(|(_, stored)| stored)
    }

    /// The messages to a run after a number, oldest first.
    pub(super) fn of(&self, run: RunRowId, after: i64) -> Vec<StoredMessage> {
        self.of_run(run, after).cloned().collect()
    }

    /// The numbers of the messages after one, each with its run.
    pub(super) fn since(&self, after: i64) -> Vec<(i64, RunRowId)> {
        if self.last <= after {
            return Vec::new();
        }
        let mut since: Vec<_> =
            self.by_run.keys().filter(|(_, seq)| *seq > after).map(|(run, seq)| (*seq, *run)).collect();
        since.sort_unstable();
        since
    }

    /// The first answer to a request stands.
    pub(super) fn put_answer(&mut self, run: RunRowId, request: i64, answer: Result<Value, Failure>) {
        self.answers.entry((run, request)).or_insert(answer);
    }

    /// The answer to a request.
    pub(super) fn answer(&self, run: RunRowId, request: i64) -> Option<Result<Value, Failure>> {
        self.answers.get(&(run, request)).cloned()
    }

    /// What becomes of the answer to a callback that has one already.
    pub(super) fn answered(&self, run: RunRowId, message: &Message) -> Option<Sent> {
        let first = self.of_run(run, 0).find(|stored| stored.message.address == message.address)?;
        Some(if message.repeats(&first.message) { Sent::Duplicate } else { Sent::Answered })
    }

    /// Stores a message from another runner.
    pub(super) fn send(&mut self, run: RunRowId, message: &Message) -> Sent {
        if let Some(id) = &message.id
            && self.of_run(run, 0).any(|stored| stored.message.id.as_ref() == Some(id))
        {
            let is_answer = message.address.kind == MessageKind::Answer;
            return if is_answer { Sent::IdTaken } else { Sent::Duplicate };
        }
        self.insert(run, message.clone(), false);
        self.arrivals += 1;
        Sent::Stored
    }

    /// Stores a message of the run's owner. If its id is there already, only that it is consumed counts.
    pub(super) fn insert(&mut self, run: RunRowId, message: Message, consumed: bool) {
        if let Some(id) = message.id.as_deref()
            && self.consume_id(run, id, consumed)
        {
            return;
        }
        self.last += 1;
        self.by_run.insert((run, self.last), StoredMessage { seq: self.last, message, consumed });
    }

    fn consume_id(&mut self, run: RunRowId, id: &str, consumed: bool) -> bool {
        let mut of_run = self.by_run.range_mut((run, 0)..=(run, i64::MAX)).map(|(_, stored)| stored);
        let same = of_run.find(|stored| stored.message.id.as_deref() == Some(id));
        same.is_some_and(|stored| {
            stored.consumed |= consumed;
            true
        })
    }

    /// A wait has consumed a message.
    pub(super) fn consume(&mut self, run: RunRowId, number: i64, id: Option<&str>, from: i64) {
        if let Some(id) = id {
            self.consume_id(run, id, true);
            return;
        }
        let of_number = |stored: &&StoredMessage| stored.message.number == number;
        let found = self.of_run(run, from.saturating_sub(1)).find(of_number).map(|stored| stored.seq);
        found.and_then(|seq| self.by_run.remove(&(run, seq)));
    }

    /// The run has acted on a control request, which stays.
    pub(super) fn apply(&mut self, run: RunRowId, number: i64, from: i64) {
        let mut later = self.by_run.range_mut((run, from)..=(run, i64::MAX)).map(|(_, stored)| stored);
        later.find(|stored| stored.message.number == number).into_iter().for_each(|stored| stored.consumed = true);
    }

    /// Forgets what belongs to a run.
    pub(super) fn forget(&mut self, run: RunRowId) {
        let of_run: Vec<i64> = self.of_run(run, 0).map(|stored| stored.seq).collect();
        for seq in of_run {
            self.by_run.remove(&(run, seq));
        }
        let answers: Vec<_> = self.answers.range((run, i64::MIN)..=(run, i64::MAX)).map(|(key, _)| *key).collect();
        for key in answers {
            self.answers.remove(&key);
        }
    }
}
