//! Which record of its journal belongs to the next wait or step of a body.
//!
//! The n-th use of a name has the n-th record of that name. Steps are looked up by their arguments too: a body that
//! uses a name in another order than before (a loop over a set) finds for each use the record of its arguments. Each
//! record is used once in each entry of the body, and a new use gets a number that no record has. A step with a key is
//! found by name and key, as often as it is asked for.

use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;

use crate::entry::{Entry, EntryKey, EntryKind, Lookup, StepArguments};
use crate::journal::{Journal, Recall, comparable};
use crate::quick_hash::QuickHash;

/// How often a body has used each name since it was entered, and which records of steps it has not used yet.
#[derive(Clone, Debug, Default)]
pub struct Uses {
    /// How often each name was used.
    counts: Counts,
    /// Built when a step first differs from the record of its number. As long as every use has the record of its own
    /// number, the used records are the first `count` ones.
    unused: Option<Box<Unused>>,
    /// There was no record when the body was entered: all that come are used ones.
    is_new: bool,
}

/// How often each name was used. Many bodies wait at once that have used one.
#[derive(Clone, Debug, Default)]
struct Counts {
    /// The name that was used first.
    first: Option<(Arc<str>, u32)>,
    /// The others.
    #[expect(clippy::box_collection, reason = "most bodies that wait have none")]
    others: Option<Box<HashMap<Arc<str>, u32, QuickHash>>>,
}

impl Counts {
    fn is_empty(&self) -> bool {
        self.first.is_none()
    }

    fn get(&self, name: &str) -> u32 {
        match (&self.first, &self.others) {
            (Some((first, count)), _) if **first == *name => *count,
            (_, Some(others)) => others.get(name).copied().unwrap_or(0),
            _ => 0,
        }
    }

    fn get_mut(&mut self, name: &Arc<str>) -> &mut u32 {
        let (first, count) = self.first.get_or_insert_with(|| (Arc::clone(name), 0));
        if first == name {
            return count;
        }
        self.others.get_or_insert_default().entry(Arc::clone(name)).or_insert(0)
    }
}

/// The steps in a journal that the body has not used yet, by name and comparable proof: their numbers.
type Unused = HashMap<Arc<str>, HashMap<Box<[u8]>, BTreeSet<u32>>>;

impl Uses {
    /// Whether a name was used, also one that was taken back.
    pub(crate) const fn is_used(&self) -> bool {
        self.is_new || self.counts.first.is_some() || self.unused.is_some()
    }

    fn next(&mut self, name: &Arc<str>) -> EntryKey {
        let count = self.counts.get_mut(name);
        *count += 1;
        EntryKey { name: Arc::clone(name), n: *count }
    }

    /// How often the body has used a name.
    #[must_use]
    pub fn count(&self, name: &str) -> u32 {
        self.counts.get(name)
    }

    /// Takes the last use of a name back, because its wait was left open: the next use has the same number.
    pub fn take_back(&mut self, key: &EntryKey) {
        if self.count(&key.name) == key.n {
            let count = self.counts.get_mut(&key.name);
            *count = count.saturating_sub(1);
        }
    }

    /// Whether no use so far has had this record. Call it before the use that may have it is counted.
    fn is_unused(&self, entry: &Entry) -> bool {
        match &self.unused {
            None if self.is_new => false,
            None => entry.key.n > self.count(&entry.key.name),
            Some(unused) => unused
                .get(&entry.key.name)
                .and_then(|name| name.get(comparable(entry.proof())))
                .is_some_and(|numbers| numbers.contains(&entry.key.n)),
        }
    }

    /// Marks a record as used.
    fn take(&mut self, entry: &Entry) {
        let Some(name) = self.unused.as_mut().and_then(|unused| unused.get_mut(&entry.key.name)) else { return };
        if let Some(numbers) = name.get_mut(comparable(entry.proof())) {
            numbers.remove(&entry.key.n);
        }
    }

    /// The records of steps that are not used yet.
    fn unused(&mut self, journal: &Journal) -> &Unused {
        let (counts, is_new) = (&self.counts, self.is_new);
        self.unused.get_or_insert_with(|| {
            let mut unused = Unused::new();
            if is_new {
                return Box::new(unused);
            }
            for entry in journal.entries().filter(|entry| entry.kind() == EntryKind::Step && !entry.key.is_keyed()) {
                if entry.key.n > counts.get(&entry.key.name) {
                    let name = unused.entry(Arc::clone(&entry.key.name)).or_default();
                    name.entry(comparable(entry.proof()).into()).or_default().insert(entry.key.n);
                }
            }
            Box::new(unused)
        })
    }
}

impl Journal {
    /// What is recorded of the next use of a name, and the key under which it is or will be recorded.
    #[must_use]
    pub fn recall_next(&self, uses: &mut Uses, name: &Arc<str>, lookup: &Lookup) -> (EntryKey, Recall) {
        if uses.counts.is_empty() && self.is_empty() {
            uses.is_new = true;
        }
        match lookup {
            Lookup::Step(arguments) => self.recall_step(uses, name, arguments),
            Lookup::KeyedStep | Lookup::KeyedStart => {
                let key = EntryKey { name: Arc::clone(name), n: EntryKey::KEYED };
                let recall = self.recall(&key, lookup);
                (key, recall)
            }
            wait => self.recall_wait(uses, name, wait),
        }
    }

    fn recall_wait(&self, uses: &mut Uses, name: &Arc<str>, wait: &Lookup) -> (EntryKey, Recall) {
        loop {
            let key = uses.next(name);
            // A step of the same name may have been given this number out of turn.
            let is_used_step = |entry: &Entry| entry.kind() == EntryKind::Step && !uses.is_unused(entry);
            if (uses.unused.is_none() && !uses.is_new) || !self.get(&key).is_some_and(is_used_step) {
                let recall = self.recall(&key, wait);
                return (key, recall);
            }
        }
    }

    fn recall_step(&self, uses: &mut Uses, name: &Arc<str>, arguments: &StepArguments) -> (EntryKey, Recall) {
        let n = uses.count(name) + 1;
        let own = self.get(&EntryKey { name: Arc::clone(name), n });
        let is_step = own.is_some_and(|entry| entry.kind() == EntryKind::Step);
        let is_free = own.is_some_and(|entry| uses.is_unused(entry));
        if let Some(entry) = own.filter(|entry| is_free && is_step && entry.has_arguments(arguments)) {
            uses.take(entry);
            return (uses.next(name), entry.recalled());
        }
        let other = self.unused_step(uses, name, arguments);
        let mut key = uses.next(name);
        if let Some(entry) = other {
            uses.take(entry);
            return (entry.key.clone(), entry.recalled());
        }
        match own {
            Some(entry) if !is_step => {
                let recall = Recall::Mismatch(entry.is_another_kind(EntryKind::Step));
                (key, recall)
            }
            Some(entry) if is_free => {
                let why = entry.other_arguments(arguments.proof.as_deref(), arguments.advice);
                (key, Recall::Mismatch(why))
            }
            _ => {
                while self.get(&key).is_some() {
                    key.n += 1;
                }
                (key, Recall::Ask { deadline: None })
            }
        }
    }

    /// The first record of this step that is not used yet, of any number.
    fn unused_step(&self, uses: &mut Uses, name: &Arc<str>, arguments: &StepArguments) -> Option<&Entry> {
        let unused = uses.unused(self).get(name)?;
        let mine = std::iter::once(comparable(arguments.proof.as_deref()));
        let numbers = mine.chain(arguments.older.as_deref()).filter_map(|proof| unused.get(proof)?.first().copied());
        let n = numbers.min()?;
        self.get(&EntryKey { name: Arc::clone(name), n })
    }
}
