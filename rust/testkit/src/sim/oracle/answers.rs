//! What must hold of callbacks: the oracle's own record of those that were made and of the answers, and the guarantees.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use bide_core::record::RunRowId;
use bide_core::{
    Address, Entry, EntryKey, EntryState, Failure, FailureKind, MessageKind, Operation, RecordKind, RunId,
    StoredMessage, TaskIx, TaskStatus, Value,
};
use bide_store::{Sent, StoreError};

use super::Oracle;

/// What an answer says.
pub(in super::super) type Content = Result<Value, Failure>;

/// What is known of an answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Fate {
    /// It may have been given: its sender does not know.
    Perhaps,
    /// It was the first.
    First,
    /// It was refused, or is the first one once more.
    Refused,
}

/// An answer that somebody has given, or tried to.
#[derive(Clone, Debug)]
struct Answer {
    id: Option<Arc<str>>,
    content: Content,
    /// Its run had ended when it was given.
    was_over: bool,
    fate: Fate,
}

/// A callback that is recorded, or was.
#[derive(Clone, Debug)]
struct Callback {
    secret: Arc<str>,
    run: RunRowId,
    /// Its record is still there.
    stands: bool,
    answers: Vec<Answer>,
}

/// The callbacks.
#[derive(Clone, Default)]
pub(super) struct Callbacks {
    /// How many secrets were made.
    secrets: u64,
    /// Oldest first.
    made: Vec<Callback>,
    /// Since when, by the steady clock, a wait is open whose answer is in the store.
    passed_over: HashMap<Arc<str>, Duration>,
}

fn answered(entry: &Entry) -> Option<&Arc<str>> {
    match &entry.operation {
        Operation::Message(Address { kind: MessageKind::Answer, name }) => Some(name),
        _ => None,
    }
}

fn secret(entry: &Entry) -> Option<&str> {
    let is_callback = entry.operation == Operation::Record(RecordKind::Callback);
    entry.value.as_ref().filter(|_| is_callback).and_then(|value| std::str::from_utf8(value.payload()).ok())
}

impl Oracle {
    /// A secret for a callback. The bodies of all processes share the counter, as they share what makes secrets unique.
    pub fn new_secret(&mut self) -> String {
        self.callbacks.secrets += 1;
        format!("secret {}", self.callbacks.secrets)
    }

    /// One of the callbacks that were made so far, counted from the newest: its run and its secret.
    #[must_use]
    pub fn nth_callback(&self, nth: usize) -> Option<(RunRowId, Arc<str>)> {
        let made = &self.callbacks.made;
        let callback = made.iter().rev().nth(nth % made.len().max(1))?;
        Some((callback.run, Arc::clone(&callback.secret)))
    }

    /// The callbacks for whose answers the tasks of a run wait.
    #[must_use]
    pub fn awaited_callbacks(&self, run: RunRowId) -> Vec<Arc<str>> {
        let open = self.entries.iter().filter(|((of, ..), entry)| *of == run && entry.state == EntryState::Open);
        let running = |ix: &TaskIx| self.task(run, *ix).is_none_or(|task| task.status == TaskStatus::Running);
        let mut secrets: Vec<Arc<str>> =
            open.filter(|((_, ix, _), _)| running(ix)).filter_map(|(_, entry)| answered(entry).cloned()).collect();
        secrets.sort_unstable();
        secrets.dedup();
        secrets
    }

    fn callback(&mut self, secret: &str) -> Option<&mut Callback> {
        self.callbacks.made.iter_mut().find(|callback| &*callback.secret == secret)
    }

    /// A callback's record stands as it is, and no two have one secret.
    pub(super) fn a_callback_keeps_its_secret(&mut self, run: RunRowId, ix: TaskIx, entry: &Entry) {
        let Some(secret) = secret(entry) else { return };
        let before = self.entries.get(&(run, ix, entry.key.clone())).cloned();
        self.must(before.is_none(), "a callback is recorded twice", || format!("{before:?} becomes {entry:?}"));
        let known = self.callback(secret).cloned();
        self.must(known.is_none(), "two callbacks have one secret", || format!("{known:?} and {entry:?}"));
        self.callbacks.made.push(Callback { secret: secret.into(), run, stands: true, answers: Vec::new() });
    }

    /// A record is dropped, by a checkpoint or for a retry.
    pub(super) fn is_dropped(&mut self, run: RunRowId, ix: TaskIx, key: &EntryKey) {
        let Some(secret) = self.entries.get(&(run, ix, key.clone())).and_then(secret).map(str::to_owned) else {
            return;
        };
        self.callback(&secret).into_iter().for_each(|callback| callback.stands = false);
        self.meets("a callback that is dropped");
    }

    /// An answer is about to be given. Returns its number among those to its callback.
    pub fn is_answered(&mut self, secret: &str, id: Option<Arc<str>>, content: &Content) -> usize {
        self.note(format!("answers '{secret}' with {content:?}, {id:?}"));
        let run = self.callback(secret).map(|callback| callback.run);
        let was_over = run.and_then(|run| self.run(run)).is_some_and(|run| run.status.is_ended());
        let answer = Answer { id, content: content.clone(), was_over, fate: Fate::Perhaps };
        let Some(callback) = self.callback(secret) else { return 0 };
        callback.answers.push(answer);
        callback.answers.len() - 1
    }

    /// What came of it: the first answer stands, the same once more is accepted, and one to a callback whose record was
    /// dropped is refused.
    pub fn was_answered(&mut self, secret: &str, at: usize, outcome: &Result<Sent, StoreError>) {
        self.note(format!("has answered '{secret}': {outcome:?}"));
        let Some(callback) = self.callback(secret).cloned() else { return };
        let mine = &callback.answers[at];
        let others = || callback.answers[..at].iter().filter(|other| other.fate != Fate::Refused);
        let first = others().any(|other| other.fate == Fate::First);
        let same = |other: &Answer| other.id.is_some() && other.id == mine.id && other.content == mine.content;
        let ended = self.run(callback.run).is_some_and(|run| run.status.is_ended());
        let (right, met) = match outcome {
            Ok(Sent::Stored) => (!first && callback.stands && !mine.was_over, "a callback that is answered"),
            Ok(Sent::Duplicate) => (others().any(same), "an answer that is given twice"),
            Ok(Sent::Answered) => (others().any(|other| !same(other)), "a second answer"),
            Ok(Sent::NoCallback) => (!callback.stands && !first, "an answer to a callback that was dropped"),
            Ok(Sent::Ended(_)) => (ended && !first, "an answer to a run that has ended"),
            Ok(_) => (false, ""),
            Err(_) => return,
        };
        self.must(right, "an answer comes to something else than it should", || {
            format!("{outcome:?} of {at}: {callback:?}; its run has ended: {ended}")
        });
        self.meets(met);
        let stored = matches!(outcome, Ok(Sent::Stored));
        let Some(callback) = self.callback(secret) else { return };
        if stored {
            // What was perhaps given before was not.
            callback.answers[..at].iter_mut().for_each(|other| other.fate = Fate::Refused);
        }
        callback.answers[at].fate = if stored { Fate::First } else { Fate::Refused };
    }

    /// Every wait for the answer to a callback gets the first.
    pub(super) fn the_first_answer_stands(&mut self, run: RunRowId, ix: TaskIx, entry: &Entry) {
        let Some(secret) = answered(entry).cloned().filter(|_| !self.is_by_hand(run, ix, entry)) else { return };
        let kinds = [FailureKind::WaitTimeout, FailureKind::Cancelled, FailureKind::RunTimeout];
        let without = |why: &Failure| kinds.contains(&why.kind);
        let without_answer = entry.failure.as_deref().is_some_and(without);
        let got: Content = match (entry.state, &entry.value, entry.failure.as_deref()) {
            (EntryState::Satisfied, Some(value), _) => Ok(value.clone()),
            (EntryState::Failed, _, Some(failure)) if !without_answer => Err(failure.clone()),
            _ => return,
        };
        let callback = self.callback(&secret).cloned();
        let right = callback.as_ref().is_some_and(|callback| {
            let first = callback.answers.iter().find(|answer| answer.fate == Fate::First);
            let perhaps = |answer: &&Answer| answer.fate == Fate::Perhaps && answer.content == got;
            callback.run == run
                && first.or_else(|| callback.answers.iter().find(perhaps)).is_some_and(|it| it.content == got)
        });
        let name = self.name(ix);
        self.must(right, "a wait gets something else than the first answer", || {
            format!("{name}: {got:?} of {callback:?}")
        });
        self.meets(if got.is_ok() { "an answer that satisfies a wait" } else { "a callback that is rejected" });
    }

    /// Nobody waits while the answer for it is in the store: of runs that a living runner has, 31 s at most.
    pub fn no_answer_is_passed_over(&mut self, steady: Duration, is_executed: impl Fn(RunRowId) -> bool) {
        let first = |callback: &&Callback| callback.answers.iter().any(|answer| answer.fate == Fate::First);
        let answered = self.callbacks.made.iter().filter(first);
        let waits = |callback: &&Callback| self.awaited_callbacks(callback.run).contains(&callback.secret);
        let late = answered.filter(|callback| is_executed(callback.run)).filter(waits);
        let since = |secret: &Arc<str>| self.callbacks.passed_over.get(secret).copied().unwrap_or(steady);
        let passed_over: HashMap<Arc<str>, Duration> =
            late.map(|callback| (Arc::clone(&callback.secret), since(&callback.secret))).collect();
        let worst = passed_over.values().map(|since| steady.saturating_sub(*since)).max().unwrap_or_default();
        self.callbacks.passed_over = passed_over;
        self.must(worst <= Duration::from_secs(31), "an answer is not delivered", || format!("for {worst:?}"));
    }

    /// The first answer to each callback is in the store, also once its run has ended.
    pub fn no_answer_is_lost(&mut self, run: RunId, stored: &[StoredMessage]) {
        let of_run: Vec<Callback> =
            self.callbacks.made.iter().filter(|callback| callback.run == run.row()).cloned().collect();
        for callback in of_run {
            let Some(first) = callback.answers.iter().find(|answer| answer.fate == Fate::First) else { continue };
            let to_it = |stored: &&StoredMessage| answered_by(stored) == Some(&callback.secret);
            let kept: Vec<&StoredMessage> = stored.iter().filter(to_it).collect();
            let right = matches!(kept[..], [one] if one.message.content == first.content);
            self.must(right, "an answer is lost, or there twice", || format!("{callback:?}: {kept:?}"));
        }
    }
}

fn answered_by(stored: &StoredMessage) -> Option<&Arc<str>> {
    (stored.message.address.kind == MessageKind::Answer).then_some(&stored.message.address.name)
}
