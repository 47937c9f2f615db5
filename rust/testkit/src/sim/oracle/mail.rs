//! What must hold of signals and of waits for several things: the oracle's own record of what was sent, and the
//! guarantees.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use bide_core::record::RunRowId;
use bide_core::{
    Address, Entry, EntryKey, EntryKind, EntryState, MessageKind, Operation, StoredMessage, TaskIx, TaskStatus, Value,
};
use bide_store::{Sent, StoreError};

use super::Oracle;

/// What is known of a signal.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Fate {
    /// It may have been sent: its sender does not know.
    Perhaps,
    /// It was sent: its sender knows.
    Certain,
    /// It was refused.
    Refused,
}

/// A signal that somebody has sent, or tried to.
#[derive(Clone, Debug)]
struct Letter {
    run: RunRowId,
    name: Arc<str>,
    id: Option<Arc<str>>,
    /// Tells it from all others, and is what it says.
    value: u64,
    fate: Fate,
    /// The wait that has consumed it.
    consumed_by: Option<(TaskIx, EntryKey)>,
}

/// What was sent.
#[derive(Clone, Default)]
pub(super) struct Letters {
    /// In the order in which they were sent.
    all: Vec<Letter>,
    /// The waits in the order in which they were opened. Their times can show another one, because the results that
    /// open them are gathered.
    opened: HashMap<(RunRowId, TaskIx, EntryKey), usize>,
    /// Since when, by the steady clock, a wait is open whose signal is in the store.
    passed_over: HashMap<(RunRowId, Arc<str>), Duration>,
}

/// The number that a signal says.
pub(in super::super) fn value_of(value: &Value) -> Option<u64> {
    std::str::from_utf8(value.payload()).ok()?.parse().ok()
}

fn signal(entry: &Entry) -> Option<&Arc<str>> {
    match &entry.operation {
        Operation::Message(Address { kind: MessageKind::Signal, name }) => Some(name),
        _ => None,
    }
}

impl Oracle {
    /// A signal is about to be sent.
    pub fn is_sent(&mut self, run: RunRowId, address: &Address, id: Option<Arc<str>>, value: u64) {
        self.note(format!("sends {value} to '{}' with {id:?}", address.name));
        let name = Arc::clone(&address.name);
        self.letters.all.push(Letter { run, name, id, value, fate: Fate::Perhaps, consumed_by: None });
    }

    /// What came of it.
    pub fn was_sent(&mut self, value: u64, outcome: &Result<Sent, StoreError>) {
        self.note(format!("has sent {value}: {outcome:?}"));
        let Some(at) = self.letters.all.iter().position(|letter| letter.value == value) else { return };
        let letter = self.letters.all[at].clone();
        let same = |other: &Letter| other.run == letter.run && other.id.is_some() && other.id == letter.id;
        let others: Vec<usize> = (0..at).filter(|at| same(&self.letters.all[*at])).collect();
        let fate_of = |oracle: &Self, fate| others.iter().filter(|at| oracle.letters.all[**at].fate == fate).count();
        let (certain, perhaps) = (fate_of(self, Fate::Certain), fate_of(self, Fate::Perhaps));
        self.letters.all[at].fate = match outcome {
            Ok(Sent::Stored) => {
                self.must(certain == 0, "one id is one signal", || format!("{letter:?} was taken too"));
                // What was perhaps sent with its id was not.
                others.iter().for_each(|at| self.letters.all[*at].fate = Fate::Refused);
                Fate::Certain
            }
            Ok(Sent::Duplicate) => {
                self.meets("a signal that is sent twice");
                self.must(certain + perhaps > 0, "a signal is refused as sent before", || format!("{letter:?}"));
                Fate::Refused
            }
            Ok(Sent::Ended(_)) => {
                let ended = self.run(letter.run).is_some_and(|run| run.status.is_ended());
                self.must(ended, "a signal is refused because its run has ended", || format!("{letter:?}"));
                Fate::Refused
            }
            Ok(other) => {
                self.must(false, "a signal is refused for no reason", || format!("{other:?}: {letter:?}"));
                Fate::Refused
            }
            Err(_) => Fate::Perhaps,
        };
        let letter = self.letters.all[at].clone();
        self.must(letter.fate != Fate::Refused || letter.consumed_by.is_none(), "a refused signal is consumed", || {
            format!("{letter:?}")
        });
    }

    /// Whether a task of a run waits for a signal.
    pub fn awaits(&self, run: RunRowId, name: &str) -> bool {
        self.open_waits(run).any(|(.., of)| **of == *name)
    }

    /// The waits for signals that are open: of a gate before its body starts, of a body while it runs.
    fn open_waits(&self, run: RunRowId) -> impl Iterator<Item = (TaskIx, &Entry, &Arc<str>)> {
        self.entries.iter().filter_map(move |((of, ix, key), entry)| {
            let status = self.task(run, *ix).map_or(TaskStatus::Pending, |task| task.status);
            let wants = if key.n == 0 { TaskStatus::Pending } else { TaskStatus::Running };
            let open = *of == run && entry.state == EntryState::Open && status == wants;
            Some((*ix, entry, signal(entry).filter(|_| open)?))
        })
    }

    /// A wait for a signal is satisfied only by one that was sent to its name, each signal satisfies one wait, the
    /// first that was sent the oldest.
    pub(super) fn each_signal_satisfies_one_wait(&mut self, run: RunRowId, ix: TaskIx, entry: &Entry) {
        let Some(name) = signal(entry).cloned() else { return };
        let before = self.entries.get(&(run, ix, entry.key.clone())).cloned();
        let had = before.as_ref().filter(|before| before.state == EntryState::Satisfied);
        let value = entry.value.as_ref().and_then(value_of);
        if let Some(had) = had {
            self.must(had.value == entry.value, "a wait that has got its signal waits again", || {
                format!("{had:?} becomes {entry:?}")
            });
            return;
        }
        if self.is_by_hand(run, ix, entry) {
            return;
        }
        let place = (run, ix, entry.key.clone());
        if entry.state == EntryState::Open && before.as_ref().is_none_or(|before| before.state != EntryState::Open) {
            let number = self.letters.opened.values().max().map_or(0, |last| last + 1);
            self.letters.opened.insert(place.clone(), number);
        }
        if entry.state != EntryState::Satisfied {
            self.must(value.is_none(), "a wait that was not satisfied has consumed a signal", || format!("{entry:?}"));
            return;
        }
        let to_it = |letter: &Letter| letter.run == run && letter.name == name;
        let at = self.letters.all.iter().position(|letter| Some(letter.value) == value && to_it(letter));
        let Some(at) = at else {
            self.must(false, "a wait is satisfied by a signal that nobody sent", || format!("{entry:?}"));
            return;
        };
        let letter = self.letters.all[at].clone();
        self.must(letter.consumed_by.is_none(), "a signal satisfies two waits", || {
            format!("{letter:?} satisfies {place:?} too")
        });
        self.must(letter.fate != Fate::Refused, "a refused signal satisfies a wait", || format!("{letter:?}"));
        let earlier = |other: &&Letter| to_it(other) && other.fate == Fate::Certain && other.consumed_by.is_none();
        let first = self.letters.all[..at].iter().find(earlier).cloned();
        self.must(first.is_none(), "a signal overtakes another", || format!("{letter:?} comes before {first:?}"));
        let opened_at = before.map_or(entry.opened_at, |before| before.opened_at.max(entry.opened_at));
        let older = |(task, of, to): &(TaskIx, &Entry, &Arc<str>)| {
            let [mine, other] = [&place, &(run, *task, of.key.clone())].map(|place| self.letters.opened.get(place));
            **to == name
                && (*task, &of.key) != (ix, &entry.key)
                && of.opened_at < opened_at
                && (mine.is_none() || other < mine)
        };
        let older = self.open_waits(run).find(older).map(|(ix, of, _)| (ix, of.clone()));
        self.must(self.wall_was_set_back || older.is_none(), "an older wait is passed over", || {
            format!("{older:?} for {place:?}")
        });
        self.letters.all[at].consumed_by = Some((ix, entry.key.clone()));
        self.meets("a signal that satisfies a wait");
    }

    /// What has decided a combination is decided once, and who has lost has consumed nothing. `batch`: the combinations
    /// and their members that were written together.
    pub(super) fn a_combination_is_decided_once(&mut self, run: RunRowId, ix: TaskIx, entry: &Entry) {
        let before = self.entries.get(&(run, ix, entry.key.clone())).cloned();
        let Some(before) = before.filter(|before| before.state == EntryState::Satisfied) else { return };
        let Operation::Any { members } = &before.operation else { return };
        let winner = before.value.as_ref().and_then(value_of).and_then(|at| members.get(at as usize));
        let of = winner.and_then(|winner| self.entries.get(&(run, ix, winner.clone()))).map(Entry::kind);
        let lasting = matches!(of, Some(EntryKind::Signal | EntryKind::Time));
        self.must(!lasting || before.value == entry.value, "a combination is decided twice", || {
            format!("{before:?} becomes {entry:?}")
        });
    }

    /// As [`Oracle::combinations_fit_their_members`], of those that an entry belongs to.
    pub(super) fn combinations_fit(&mut self, run: RunRowId, ix: TaskIx, member: &EntryKey) {
        let of = |(other, task, _): &(RunRowId, TaskIx, EntryKey)| (*other, *task) == (run, ix);
        let mine = self.entries.iter().filter(|(place, entry)| of(place) && entry.operation.members().contains(member));
        let combinations: Vec<EntryKey> = mine.map(|((.., key), _)| key.clone()).collect();
        combinations.iter().for_each(|key| self.combinations_fit_their_members(run, ix, key));
    }

    /// A batch was committed: what its combinations are is what their members are.
    pub(super) fn combinations_fit_their_members(&mut self, run: RunRowId, ix: TaskIx, key: &EntryKey) {
        let entry = |key: &EntryKey| self.entries.get(&(run, ix, key.clone()));
        let Some(combination) = entry(key).filter(|entry| !entry.operation.members().is_empty()).cloned() else {
            return;
        };
        let states: Vec<Option<EntryState>> =
            combination.operation.members().iter().map(|key| entry(key).map(|entry| entry.state)).collect();
        let all = |state| states.iter().all(|of| *of == Some(state));
        let any = |state| states.contains(&Some(state));
        let right = match (&combination.operation, combination.state) {
            (Operation::Any { .. }, EntryState::Satisfied) => {
                let winner = combination.value.as_ref().and_then(value_of);
                let is = |at: u64| states.get(at as usize) == Some(&Some(EntryState::Satisfied));
                // A condition that was to be asked again, before another member came, is left as it was.
                let left = |member: &EntryKey| entry(member).is_some_and(|it| it.kind() == EntryKind::Condition);
                let mut satisfied = (0..).zip(combination.operation.members()).filter(|(at, _)| is(*at));
                winner.is_some_and(is)
                    && satisfied.all(|(at, member)| Some(at) == winner || left(member))
                    && !any(EntryState::Open)
            }
            (Operation::Any { .. }, EntryState::Open) => !any(EntryState::Satisfied) && !all(EntryState::Failed),
            (Operation::All { .. }, EntryState::Satisfied) => all(EntryState::Satisfied),
            (Operation::All { .. }, EntryState::Open) => !any(EntryState::Failed) && !all(EntryState::Satisfied),
            (_, EntryState::Failed | EntryState::Lost) => !any(EntryState::Open),
            _ => true,
        };
        if combination.state == EntryState::Satisfied {
            self.meets("a combination that is decided");
        }
        self.must(right, "a combination does not fit its members", || format!("{combination:?}: {states:?}"));
    }

    /// Nobody waits while the signal for it is in the store: of runs that a living runner has, 31 s at most.
    pub fn no_wait_is_passed_over(
        &mut self,
        steady: Duration,
        is_executed: impl Fn(RunRowId) -> bool,
        queued: impl Fn(RunRowId) -> Vec<u64>,
    ) {
        let runs: Vec<RunRowId> = self.runs_with_waits().into_iter().filter(|run| is_executed(*run)).collect();
        let mut passed_over = HashMap::new();
        for run in runs {
            for value in queued(run) {
                let letter = self.letters.all.iter().find(|letter| letter.value == value);
                let Some(name) = letter.map(|letter| Arc::clone(&letter.name)) else { continue };
                if self.awaits(run, &name) {
                    let since = self.letters.passed_over.get(&(run, Arc::clone(&name))).copied().unwrap_or(steady);
                    passed_over.insert((run, name), since);
                }
            }
        }
        let worst = passed_over.iter().max_by_key(|(_, since)| steady.saturating_sub(**since));
        let worst = worst.map(|((_, name), since)| (Arc::clone(name), steady.saturating_sub(*since)));
        self.letters.passed_over = passed_over;
        if let Some((name, span)) = worst {
            self.must(span <= Duration::from_secs(31), "a signal is not delivered", || {
                format!("'{name}' is in the store, and waited for, for {span:?}")
            });
        }
    }

    fn runs_with_waits(&self) -> Vec<RunRowId> {
        let mut runs: Vec<RunRowId> = self.entries.keys().map(|(run, ..)| *run).collect();
        runs.sort_unstable();
        runs.dedup();
        runs
    }

    /// What was sent and not consumed is in the store, and nothing else is.
    pub fn no_signal_is_lost(&mut self, run: RunRowId, stored: &[StoredMessage]) {
        let value = |stored: &StoredMessage| value_of(stored.message.content.as_ref().ok()?);
        let signals = stored.iter().filter(|stored| stored.message.address.kind == MessageKind::Signal);
        let mut queued: Vec<u64> = signals.filter(|stored| !stored.consumed).filter_map(value).collect();
        queued.sort_unstable();
        let letters: Vec<Letter> = self.letters.all.iter().filter(|letter| letter.run == run).cloned().collect();
        for letter in letters {
            let is_queued = queued.binary_search(&letter.value).is_ok();
            let right = match (letter.fate, &letter.consumed_by) {
                (Fate::Certain, None) => is_queued,
                (Fate::Perhaps, None) => true,
                (Fate::Refused, None) | (_, Some(_)) => !is_queued,
            };
            self.must(right, "a signal is lost, or there twice", || format!("in the store: {is_queued}: {letter:?}"));
        }
    }
}
