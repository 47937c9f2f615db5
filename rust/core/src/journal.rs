//! The journal of one task: its recorded waits and steps, and the rule by which a record is reused.
//!
//! A record is looked up by key, so that differently named entries may be added, removed and reordered between two
//! versions of the code; `uses.rs` says which key the next use of a name has. A time or a signal is always reused. A
//! condition is reused only if it is provably the same wait; else it is polled again: under its recorded deadline, or
//! under a new one if it was satisfied. A step whose arguments differ is a mismatch.

mod entries;

use std::collections::HashSet;
use std::sync::Arc;

use crate::entry::{Entry, EntryKey, EntryKind, EntryState, Lookup, Operation, RecordKind, StepArguments, StepMode};
use crate::event::{GateTime, Wait};
use crate::failure::{Failure, FailureKind};
use crate::id::RunId;
use crate::message::{answered_number, request_number};
use crate::time::Time;
use crate::value::Value;

pub use entries::Entries;

/// The first byte of a step's proof in the second version: [`PROOF`] bytes are compared, and a description of the
/// arguments follows them, for messages. Every other proof is compared as a whole.
const DESCRIBED: u8 = 2;

/// The length of version and digest in a proof that is described.
const PROOF: usize = 17;

/// What the journal has for a wait or step.
#[derive(Clone, Debug, PartialEq)]
pub enum Recall {
    /// Nothing, or another condition: poll it or execute it. The deadline of a wait that was not satisfied still holds.
    Ask {
        /// The recorded deadline.
        deadline: Option<Time>,
    },
    /// It is recorded and, as far as is recorded, not over.
    Open {
        /// When it is reached.
        due: Option<Time>,
        /// When the wait times out.
        deadline: Option<Time>,
    },
    /// It is open, and the body is deferred by it: see [`StartRequest::awaited`](crate::attempt::StartRequest).
    Waits,
    /// A step that was begun and has no result.
    Begun {
        /// How it is executed.
        mode: StepMode,
        /// When it is tried again.
        due: Option<Time>,
    },
    /// It is over and has this value.
    Satisfied(Value),
    /// It is over and has failed.
    Failed(Failure),
    /// The code asks for something else than was recorded under this key; says what.
    Mismatch(String),
    /// It waits for a callback of which the journal knows nothing, so that no answer to it is accepted.
    NoCallback,
}

/// The journal of one task.
#[derive(Clone, Debug, Default)]
pub struct Journal {
    /// All entries of the task, by key.
    entries: Entries,
    /// The number of the newest entry; the next one gets a higher one.
    last_seq: u32,
    /// A step was restored whose proof is as long as those of the first version.
    has_older_steps: bool,
    /// It has, or had, a combination of waits.
    has_combinations: bool,
    /// It has, or had, a wait for a request.
    has_requests: bool,
}

/// The part of a proof that is compared: all of it, or the version and the digest of one that is described. A step
/// without a proof has no arguments; a condition without one is never the same, which the caller checks.
pub(crate) fn comparable(proof: Option<&[u8]>) -> &[u8] {
    match proof.unwrap_or_default() {
        described @ [DESCRIBED, ..] if described.len() > PROOF => &described[..PROOF],
        whole => whole,
    }
}

/// The arguments that are described after a proof: for each a short digest and its text. Stops at bytes that are not
/// a description.
fn described(proof: Option<&[u8]>) -> Vec<([u8; 4], String)> {
    let proof = proof.unwrap_or_default();
    let mut rest = &proof[comparable(Some(proof)).len()..];
    let mut arguments = Vec::new();
    while let Some(([a, b, c, d, size], more)) = rest.split_first_chunk::<5>() {
        let Some((text, more)) = more.split_at_checked(usize::from(*size)) else { break };
        arguments.push(([*a, *b, *c, *d], String::from_utf8_lossy(text).into_owned()));
        rest = more;
    }
    arguments
}

impl Entry {
    /// The deadline under which it is polled again: none if it was satisfied, because that wait is over.
    fn standing_deadline(&self) -> Option<Time> {
        self.deadline.filter(|_| !matches!(self.state, EntryState::Satisfied | EntryState::Lost))
    }

    /// What a body gets for the wait or step that it records.
    pub(crate) fn recalled(&self) -> Recall {
        match (self.state, &self.value, &self.failure) {
            // It was a member of a combination: it is opened again, with new times.
            (EntryState::Lost, ..) => Recall::Ask { deadline: None },
            (EntryState::Satisfied, value, _) => Recall::Satisfied(value.clone().unwrap_or(Value::NONE)),
            (EntryState::Failed, _, Some(failure)) => Recall::Failed((**failure).clone()),
            _ if self.kind() == EntryKind::Step => Recall::Begun { mode: self.mode(), due: self.due() },
            _ => Recall::Open { due: self.due(), deadline: self.deadline },
        }
    }

    /// The child that it has waited for, if that has failed.
    fn failed_child(&self) -> Option<RunId> {
        let failed = self.failure.as_ref().is_some_and(|failure| failure.kind == FailureKind::ChildFailed);
        match self.operation {
            Operation::Child { run } if failed => Some(run),
            _ => None,
        }
    }

    /// The failure, if it is where the body has got that its run was cancelled.
    pub(crate) fn cancellation(&self) -> Option<&Failure> {
        self.failure
            .as_deref()
            .filter(|failure| failure.kind == FailureKind::Cancelled && self.state == EntryState::Failed)
    }

    /// The number of the request of which it records that it was answered.
    fn answered(&self) -> Option<i64> {
        self.value.as_ref().filter(|_| self.kind() == EntryKind::Reply).and_then(answered_number)
    }

    /// Whether a step was recorded with these arguments.
    pub(crate) fn has_arguments(&self, arguments: &StepArguments) -> bool {
        let (mine, older) = (self.proof(), arguments.older.as_deref());
        comparable(mine) == comparable(arguments.proof.as_deref()) || (older.is_some() && mine == older)
    }

    /// The message that the code asks for something of another kind.
    pub(crate) fn is_another_kind(&self, kind: EntryKind) -> String {
        format!("{} was recorded as {} and is now {}", self.key, self.kind().described(), kind.described())
    }

    /// The message that the code waits for another message or child than was recorded.
    fn is_another(&self, what: &str) -> String {
        format!("{} was recorded as a wait for another {what}", self.key)
    }

    /// The message that the arguments of a step differ; names those that do, as far as both are described.
    pub(crate) fn other_arguments(&self, proof: Option<&[u8]>, advice: &str) -> String {
        let (then, now) = (described(self.proof()), described(proof));
        let pairs = (0..then.len().max(now.len())).map(|at| (then.get(at), now.get(at)));
        let differences: Vec<String> = pairs
            .filter(|(then, now)| then.map(|it| it.0) != now.map(|it| it.0))
            .map(|(then, now)| {
                let text = |it: Option<&([u8; 4], String)>| it.map_or("nothing".to_owned(), |it| it.1.clone());
                format!("{} was recorded, and now it is {}", text(then), text(now))
            })
            .collect();
        let what = if then.is_empty() || now.is_empty() || differences.is_empty() {
            "its result does not belong to this call".to_owned()
        } else {
            differences.join("; ")
        };
        let advice = if advice.is_empty() { String::new() } else { format!(". {advice}") };
        if self.kind() == EntryKind::Start {
            return format!("child run {} was started with other inputs: {what}{advice}", self.key);
        }
        format!("step {} was recorded with other arguments: {what}{advice}", self.key)
    }
}

impl Journal {
    /// Whether a task may have combinations of waits.
    pub(crate) const fn has_combinations(&self) -> bool {
        self.has_combinations
    }

    /// Closes an open wait that was one of several, because another of them came first.
    pub(crate) fn lose(&mut self, key: &EntryKey, now: Time) -> Option<&Arc<Entry>> {
        let entry = self.open_mut(key)?;
        let lost = Arc::make_mut(entry);
        lost.closed_at = Some(now);
        lost.state = EntryState::Lost;
        Some(entry)
    }

    /// Adds a stored entry.
    pub fn restore(&mut self, entry: Entry) {
        self.has_combinations |= !entry.operation.members().is_empty();
        self.has_requests |= entry.kind() == EntryKind::Request;
        self.last_seq = self.last_seq.max(entry.seq);
        self.has_older_steps |=
            matches!(&entry.operation, Operation::Step { proof: Some(proof), .. } if proof.len() == 16);
        self.entries.put(Arc::new(entry));
    }

    /// What is recorded of a wait or step.
    #[must_use]
    pub fn recall(&self, key: &EntryKey, lookup: &Lookup) -> Recall {
        let Some(entry) = self.entries.get(key) else {
            return Recall::Ask { deadline: None };
        };
        if let Some(failure) = entry.cancellation() {
            // That is raised here once more, whatever the code asks for.
            return Recall::Failed(failure.clone());
        }
        if entry.kind() != lookup.kind() {
            return Recall::Mismatch(entry.is_another_kind(lookup.kind()));
        }
        let proof = lookup.proof().map(AsRef::as_ref);
        let same = comparable(entry.proof()) == comparable(proof);
        match lookup {
            Lookup::Condition { .. } if !same || proof.is_none() || entry.state == EntryState::Open => {
                Recall::Ask { deadline: entry.standing_deadline() }
            }
            Lookup::Step(arguments) | Lookup::Start(arguments) if !same => {
                Recall::Mismatch(entry.other_arguments(proof, arguments.advice))
            }
            Lookup::Message(address) if entry.operation != Operation::Message(address.clone()) => {
                Recall::Mismatch(entry.is_another("message"))
            }
            Lookup::Child { run } if entry.operation != (Operation::Child { run: *run }) => {
                Recall::Mismatch(entry.is_another("child run"))
            }
            _ => entry.recalled(),
        }
    }

    /// Opens an entry. If there is one of the same kind, its times are kept (the deadline unless it was satisfied, and
    /// when it was opened if it still is); but it moves to the end of the order of recording, where [`Journal::rewind`]
    /// begins.
    pub fn open(&mut self, wait: Wait, now: Time) -> &Arc<Entry> {
        self.has_combinations |= !wait.operation.members().is_empty();
        self.has_requests |= wait.operation.kind() == EntryKind::Request;
        let old = self.entries.remove(&wait.key).filter(|old| old.kind() == wait.operation.kind());
        self.last_seq += 1;
        let (mut operation, mut deadline, mut opened_at, mut value) = (wait.operation, None, now, None);
        if let Some(old) = old.map(Arc::unwrap_or_clone) {
            deadline = old.standing_deadline();
            if old.state == EntryState::Open {
                opened_at = old.opened_at;
                // That it was executed once, or how often it has failed.
                value = old.value.filter(|_| old.operation.kind() == EntryKind::Step);
            }
            if matches!(old.operation, Operation::Time { due } if due != Time::NEVER) {
                operation = old.operation;
            }
        }
        deadline = deadline.or(wait.timeout.map(|span| now.after(span)));
        let opened = Entry { deadline, value, ..Entry::new(wait.key, self.last_seq, operation, opened_at) };
        self.entries.put(Arc::new(opened))
    }

    /// Closes an open entry with its result; it keeps its proof only if `proved`. `None` if there is no open entry: a
    /// closed one stays as it is.
    pub fn close(
        &mut self,
        key: &EntryKey,
        result: Result<Value, Failure>,
        proved: bool,
        now: Time,
    ) -> Option<&Arc<Entry>> {
        let shared = self.open_mut(key)?;
        let entry = Arc::make_mut(shared);
        entry.closed_at = Some(now);
        if !proved {
            entry.operation.drop_proof();
        }
        match result {
            Ok(value) => {
                if entry.kind() != EntryKind::Step {
                    // What a poll before has raised.
                    entry.failure = None;
                }
                entry.state = EntryState::Satisfied;
                entry.value = Some(value);
            }
            Err(failure) => {
                if let StepMode::Retried { tries } = entry.mode() {
                    entry.value = StepMode::Retried { tries: tries.saturating_add(1) }.to_value();
                }
                entry.state = EntryState::Failed;
                entry.failure = Some(Box::new(failure));
            }
        }
        Some(shared)
    }

    /// Writes down that a step is about to be executed, or that it has failed and when it is tried again. Without a
    /// failure the last one stays, and the delay began when that was recorded.
    pub fn begin_step(&mut self, wait: Wait, mode: StepMode, failure: Option<Failure>, now: Time) -> &Arc<Entry> {
        let key = wait.key.clone();
        let last = self.entries.get(&key).and_then(|entry| entry.failure.clone());
        self.open(wait, now);
        let Some(shared) = self.entries.get_mut(&key) else { unreachable!("it was opened just now") };
        let entry = Arc::make_mut(shared);
        entry.value = mode.to_value();
        if failure.is_some() {
            entry.opened_at = now;
        }
        entry.failure = failure.map(Box::new).or(last);
        shared
    }

    /// The time has come to try a step again. `None` if it waits for none.
    pub fn resume_step(&mut self, key: &EntryKey) -> Option<&Arc<Entry>> {
        let entry = self.open_mut(key)?;
        let Operation::Step { due: due @ Some(_), .. } = &mut Arc::make_mut(entry).operation else { return None };
        *due = None;
        Some(entry)
    }

    /// Whether a wait or step of the body is open.
    #[must_use]
    pub fn has_open(&self) -> bool {
        self.open_waits().next().is_some()
    }

    /// Removes an open entry; false if there is none.
    pub fn forget(&mut self, key: &EntryKey) -> bool {
        let is_open = self.entries.get(key).is_some_and(|entry| entry.state == EntryState::Open);
        is_open && self.entries.remove(key).is_some()
    }

    /// Puts a state in the place of all that the body has recorded, and returns the keys of what was dropped. The
    /// gate's entry stays with the answer to its request, and so do the starts of children with a key.
    pub fn checkpoint(&mut self, state: Value, now: Time) -> (Vec<EntryKey>, &Arc<Entry>) {
        let key = EntryKey::checkpoint();
        let of_gate: Vec<i64> =
            self.requests().filter(|(entry, _)| entry.key.n == 0).map(|(_, number)| number).collect();
        let stays = |entry: &Entry| match entry.kind() {
            EntryKind::Start => entry.key.is_keyed(),
            EntryKind::Reply => entry.answered().is_some_and(|number| of_gate.contains(&number)),
            _ => false,
        };
        let dropped: Vec<EntryKey> = self
            .entries()
            .filter(|entry| entry.key.n > 0 && entry.key != key && !stays(entry))
            .map(|entry| entry.key.clone())
            .collect();
        // The body has got that its run was cancelled, and does not get it again.
        let failure = self.cancellation().cloned().map(Box::new);
        for key in &dropped {
            self.entries.remove(key);
        }
        self.last_seq += 1;
        let entry = Entry::new(key, self.last_seq, Operation::Record(RecordKind::Checkpoint), now);
        let entry = Entry { state: EntryState::Satisfied, value: Some(state), failure, closed_at: Some(now), ..entry };
        (dropped, self.entries.put(Arc::new(entry)))
    }

    /// What the body has got when its run was cancelled, if it has.
    pub(crate) fn cancellation(&self) -> Option<&Failure> {
        let is = |failure: &&Failure| failure.kind == FailureKind::Cancelled;
        self.entries().find_map(|entry| entry.failure.as_deref().filter(is))
    }

    /// Forgets that the run was cancelled at a time, if it was, with all that the body has recorded since: it did that to
    /// clean up. Returns the keys of what was dropped.
    pub(crate) fn forget_cancellation(&mut self, at: Option<Time>) -> Vec<EntryKey> {
        let cleans_up = |entry: &Entry| entry.key.n > 0 && at.is_some_and(|at| entry.opened_at >= at);
        let is = |entry: &&Entry| entry.cancellation().is_some() || cleans_up(entry);
        let Some(since) = self.entries().filter(is).map(|entry| entry.seq).min() else { return Vec::new() };
        let later = self.entries().filter(|entry| entry.seq >= since && entry.key.n > 0);
        let dropped: Vec<EntryKey> = later.map(|entry| entry.key.clone()).collect();
        self.remove_all(&dropped);
        dropped
    }

    /// The runs whose starts are recorded.
    pub(crate) fn started(&self) -> impl Iterator<Item = RunId> {
        let starts = self.entries().filter(|entry| entry.kind() == EntryKind::Start);
        starts.filter_map(|entry| RunId::from_value(entry.value.as_ref()?))
    }

    /// Forgets the waits for children that are executed again. Returns the keys of what was dropped.
    pub(crate) fn forget_waits_for(&mut self, children: &[RunId]) -> Vec<EntryKey> {
        let is = |entry: &&Entry| matches!(entry.operation, Operation::Child { run } if children.contains(&run));
        let mut dropped: Vec<EntryKey> = self.entries().filter(is).map(|entry| entry.key.clone()).collect();
        let combines = |entry: &&Entry| entry.operation.members().iter().any(|member| dropped.contains(member));
        let above: Vec<EntryKey> = self.entries().filter(combines).map(|entry| entry.key.clone()).collect();
        dropped.extend(above);
        self.remove_all(&dropped);
        dropped
    }

    /// The oldest open wait: of several that are combined one that is not a combination itself. A step is no wait.
    pub(crate) fn oldest_wait(&self, is: impl Fn(&Entry) -> bool) -> Option<&Entry> {
        let waits = self.open_entries().filter(|entry| entry.kind() != EntryKind::Step && is(entry));
        waits.min_by_key(|entry| entry.seq)
    }

    /// Moves the deadline of an open entry. `None` if it has none.
    pub(crate) fn extend(&mut self, key: &EntryKey, span: std::time::Duration) -> Option<&Arc<Entry>> {
        let entry = self.open_mut(key)?;
        let deadline = entry.deadline?.after(span);
        Arc::make_mut(entry).deadline = Some(deadline);
        Some(entry)
    }

    /// The state of the last checkpoint.
    #[must_use]
    pub fn last_checkpoint(&self) -> Option<&Value> {
        self.entries.get(&EntryKey::checkpoint())?.value.as_ref()
    }

    /// How many waits and steps the body has recorded since its last checkpoint.
    #[must_use]
    pub fn recorded(&self) -> usize {
        self.recorded_entries().count()
    }

    /// How many of them were opened at a time or later.
    pub(crate) fn recorded_since(&self, time: Time) -> usize {
        self.recorded_entries().filter(|entry| entry.opened_at >= time).count()
    }

    /// When the last of all entries was opened.
    pub(crate) fn last_opened(&self) -> Time {
        self.entries().map(|entry| entry.opened_at).max().unwrap_or_default()
    }

    fn recorded_entries(&self) -> impl Iterator<Item = &Entry> {
        let since = self.checkpoint_seq();
        self.entries().filter(move |entry| entry.key.n > 0 && entry.seq > since)
    }

    /// Whether an entry is older than the last checkpoint, which has left it.
    pub(crate) fn outlived_checkpoint(&self, key: &EntryKey) -> bool {
        self.get(key).is_some_and(|entry| entry.seq < self.checkpoint_seq())
    }

    /// The number that the next entry gets.
    pub(crate) const fn next_seq(&self) -> u32 {
        self.last_seq.saturating_add(1)
    }

    /// The number of the last checkpoint; 0 if there is none.
    pub(crate) fn checkpoint_seq(&self) -> u32 {
        self.entries.get(&EntryKey::checkpoint()).map_or(0, |entry| entry.seq)
    }

    /// The requests that were taken and have no answer, in order of recording: the key of each wait and the number.
    pub(crate) fn unanswered(&self) -> Vec<(&EntryKey, i64)> {
        if !self.has_requests {
            return Vec::new();
        }
        let answered: HashSet<i64> = self.entries().filter_map(Entry::answered).collect();
        let mut taken: Vec<(&Entry, i64)> = self.requests().filter(|(_, number)| !answered.contains(number)).collect();
        taken.sort_unstable_by_key(|(entry, _)| entry.seq);
        taken.into_iter().map(|(entry, number)| (&entry.key, number)).collect()
    }

    /// The requests that were taken, with their numbers.
    fn requests(&self) -> impl Iterator<Item = (&Entry, i64)> {
        let taken = |entry: &&Entry| entry.kind() == EntryKind::Request && entry.state == EntryState::Satisfied;
        self.entries().filter(taken).filter_map(|entry| Some((entry, request_number(entry.value.as_ref()?)?)))
    }

    /// Sets the time of an open entry that has none yet.
    pub(crate) fn set_due(&mut self, key: &EntryKey, time: GateTime) -> Option<&Arc<Entry>> {
        let entry = self.open_mut(key)?;
        if entry.operation != (Operation::Time { due: Time::NEVER }) {
            return None;
        }
        let due = match time {
            GateTime::After(span) => entry.opened_at.after(span),
            GateTime::At(time) => time,
        };
        Arc::make_mut(entry).operation = Operation::Time { due };
        Some(entry)
    }

    /// Sets what the condition of an open entry has raised last.
    pub(crate) fn set_error(&mut self, key: &EntryKey, error: Option<Failure>) -> Option<&Arc<Entry>> {
        let entry = self.open_mut(key)?;
        Arc::make_mut(entry).failure = error.map(Box::new);
        Some(entry)
    }

    /// Whether the callback with this secret is recorded.
    pub(crate) fn has_callback(&self, secret: &str) -> bool {
        let made = |entry: &Entry| entry.kind() == EntryKind::Callback;
        let with = |entry: &Entry| entry.value.as_ref().is_some_and(|value| value.payload() == secret.as_bytes());
        self.entries().any(|entry| made(entry) && with(entry))
    }

    /// All entries, in no order.
    pub(crate) fn entries(&self) -> impl Iterator<Item = &Entry> {
        self.entries.as_slice().iter().map(|entry| &**entry)
    }

    /// An open entry, to be changed.
    fn open_mut(&mut self, key: &EntryKey) -> Option<&mut Arc<Entry>> {
        self.entries.get_mut(key).filter(|entry| entry.state == EntryState::Open)
    }

    fn remove_all(&mut self, keys: &[EntryKey]) -> Vec<Arc<Entry>> {
        keys.iter().filter_map(|key| self.entries.remove(key)).collect()
    }

    /// The open entries, in no order.
    pub(crate) fn open_entries(&self) -> impl Iterator<Item = &Entry> {
        self.entries().filter(|entry| entry.state == EntryState::Open)
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.entries.as_slice().is_empty()
    }

    /// Whether there may be steps whose arguments have to be compared in the way of the first version of bide.
    #[must_use]
    pub fn has_older_steps(&self) -> bool {
        self.has_older_steps
    }

    /// The entry under a key.
    #[must_use]
    pub fn get(&self, key: &EntryKey) -> Option<&Entry> {
        self.entries.get(key).map(|entry| &**entry)
    }

    /// The body's open waits. There can be several: an async body has them, or another version of the code opened them.
    fn open_waits(&self) -> impl Iterator<Item = &Entry> {
        self.open_entries().filter(|entry| entry.key.n > 0)
    }

    /// When a body that is not in memory has to be entered again. `None` means at once: it was executing, or only it
    /// can poll its condition. [`Time::NEVER`] means that only a signal can end its wait.
    ///
    /// Of several open waits the earliest counts: a body that is entered too soon only reads its journal.
    #[must_use]
    pub fn enter_at(&self) -> Option<Time> {
        let mut earliest = None;
        for entry in self.open_waits() {
            let due = match entry.operation {
                Operation::Time { due } | Operation::Step { due: Some(due), .. } => Some(due),
                Operation::Message(_) | Operation::Child { .. } => None,
                // Its members are entries of their own.
                Operation::Any { .. } | Operation::All { .. } if entry.deadline.is_none() => continue,
                Operation::Any { .. } | Operation::All { .. } => None,
                _ => return None,
            };
            let at = due.into_iter().chain(entry.deadline).min().unwrap_or(Time::NEVER);
            earliest = Some(earliest.map_or(at, |earliest: Time| earliest.min(at)));
        }
        earliest
    }

    /// The keys of the body's open waits whose time is reached, in order of recording.
    #[must_use]
    pub fn reached(&self, now: Time) -> Vec<EntryKey> {
        let mut reached: Vec<&Entry> =
            self.open_waits().filter(|entry| entry.due().is_some_and(|due| due <= now)).collect();
        reached.sort_unstable_by_key(|entry| entry.seq);
        reached.into_iter().map(|entry| entry.key.clone()).collect()
    }

    /// The text that says what the task waits for. A step without a time is executed, and nothing is waited for.
    #[must_use]
    pub fn waits_for(&self) -> Option<Arc<str>> {
        let waits = |entry: &&Entry| entry.kind() != EntryKind::Step || entry.due().is_some();
        let open = self.open_entries().filter(waits);
        let first = open.min_by_key(|entry| entry.seq)?;
        let what = if first.kind() == EntryKind::Step { "to try again" } else { "for" };
        Some(format!("waits {what} {}", first.key.name).into())
    }

    /// Prepares for a new attempt: drops the failed (and the abandoned open) entries at the end, or everything, and
    /// returns the keys of what was dropped. Of a combination at the end that was not satisfied those members are kept
    /// that were: a message that one of them has consumed is not lost. A step that may be executed only once is kept,
    /// whatever came of it. With a member its combination is dropped, and with the wait for a child that has
    /// failed the child's start, for the next attempt starts another one, and every other wait for that child.
    pub fn rewind(&mut self, everything: bool) -> Vec<EntryKey> {
        let over = |entry: &&Entry| entry.state != EntryState::Satisfied;
        let combined = if everything { HashSet::new() } else { self.below(self.entries().filter(over)) };
        let mut by_age: Vec<&Entry> = self.entries().collect();
        by_age.sort_unstable_by_key(|entry| std::cmp::Reverse(entry.seq));
        let dropped: Vec<EntryKey> = by_age
            .into_iter()
            .take_while(|entry| everything || over(entry) || combined.contains(&entry.key))
            .filter(|entry| everything || over(entry))
            .filter(|entry| everything || entry.mode() != StepMode::Once)
            .map(|entry| entry.key.clone())
            .collect();
        let gone = self.remove_all(&dropped);
        let failed: HashSet<RunId> = gone.iter().filter_map(|entry| entry.failed_child()).collect();
        let gone: HashSet<&EntryKey> = gone.iter().map(|entry| &entry.key).collect();
        let follows = |entry: &&Entry| {
            let starts = || RunId::from_value(entry.value.as_ref()?).filter(|_| entry.kind() == EntryKind::Start);
            let members = entry.operation.members();
            entry.state == EntryState::Failed && members.iter().any(|member| gone.contains(member))
                || starts().is_some_and(|run| failed.contains(&run))
                || matches!(entry.operation, Operation::Child { run } if failed.contains(&run))
        };
        let following: Vec<EntryKey> = self.entries().filter(follows).map(|entry| entry.key.clone()).collect();
        self.remove_all(&following);
        dropped.into_iter().chain(following).collect()
    }

    /// Whether an entry, or any that it combines, has consumed a message.
    pub(crate) fn has_consumed(&self, key: &EntryKey) -> bool {
        let Some(entry) = self.get(key) else { return false };
        let consumed =
            |entry: &Entry| entry.state == EntryState::Satisfied && matches!(entry.operation, Operation::Message(_));
        let members = self.below(std::iter::once(entry));
        consumed(entry) || members.into_iter().filter_map(|key| self.get(key)).any(consumed)
    }

    /// The members of combinations, their members, and so on.
    fn below<'a>(&'a self, combinations: impl Iterator<Item = &'a Entry>) -> HashSet<&'a EntryKey> {
        let mut next: Vec<&EntryKey> = combinations.flat_map(|entry| entry.operation.members()).collect();
        let mut found = HashSet::new();
        while let Some(key) = next.pop() {
            if found.insert(key) {
                next.extend(self.get(key).into_iter().flat_map(|entry| entry.operation.members()));
            }
        }
        found
    }
}
