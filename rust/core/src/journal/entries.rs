//! Journal entries by key, in as little memory as most tasks need: they have one, or none.

use std::collections::HashMap;
use std::sync::Arc;

use crate::entry::{Entry, EntryKey};
use crate::quick_hash::QuickHash;

/// Up to this many entries are searched one after the other.
const SHORT: usize = 8;

/// The entries of one task by key. They are shared: a store in memory keeps the same ones as the run.
#[derive(Clone, Debug, Default)]
pub struct Entries(Kept);

#[derive(Clone, Debug, Default)]
enum Kept {
    #[default]
    None,
    One(Arc<Entry>),
    Several(Box<Several>),
}

/// A list is best for a few; a map is added for many.
#[derive(Clone, Debug, Default)]
struct Several {
    /// The entries in the order in which they were added.
    list: Vec<Arc<Entry>>,
    /// Positions in the list, once it is longer than [`SHORT`].
    index: Option<HashMap<EntryKey, usize, QuickHash>>,
}

impl Entries {
    /// All entries, in no order.
    #[must_use]
    pub fn as_slice(&self) -> &[Arc<Entry>] {
        match &self.0 {
            Kept::None => &[],
            Kept::One(entry) => std::slice::from_ref(entry),
            Kept::Several(several) => &several.list,
        }
    }

    fn position(&self, key: &EntryKey) -> Option<usize> {
        if let Kept::Several(several) = &self.0
            && let Some(index) = &several.index
        {
            return index.get(key).copied();
        }
        self.as_slice().iter().position(|entry| entry.key == *key)
    }

    pub(super) fn get(&self, key: &EntryKey) -> Option<&Arc<Entry>> {
        self.position(key).map(|at| &self.as_slice()[at])
    }

    pub(super) fn get_mut(&mut self, key: &EntryKey) -> Option<&mut Arc<Entry>> {
        let at = self.position(key)?;
        match &mut self.0 {
            Kept::None => None,
            Kept::One(entry) => Some(entry),
            Kept::Several(several) => several.list.get_mut(at),
        }
    }

    /// Inserts an entry, or replaces the one with its key.
    pub fn put(&mut self, entry: Arc<Entry>) -> &Arc<Entry> {
        let at = self.position(&entry.key).unwrap_or(self.as_slice().len());
        match (std::mem::take(&mut self.0), at) {
            (Kept::None, _) | (Kept::One(_), 0) => self.0 = Kept::One(entry),
            (Kept::One(first), _) => {
                self.0 = Kept::Several(Box::new(Several { list: vec![first, entry], index: None }))
            }
            (Kept::Several(mut several), _) => {
                several.put(at, entry);
                self.0 = Kept::Several(several);
            }
        }
        &self.as_slice()[at]
    }

    /// Removes the entry with a key.
    pub fn remove(&mut self, key: &EntryKey) -> Option<Arc<Entry>> {
        let at = self.position(key)?;
        match std::mem::take(&mut self.0) {
            Kept::None => None,
            Kept::One(entry) => Some(entry),
            Kept::Several(mut several) => {
                let removed = several.remove(at);
                if !several.list.is_empty() {
                    self.0 = Kept::Several(several);
                }
                Some(removed)
            }
        }
    }
}

impl Several {
    fn put(&mut self, at: usize, entry: Arc<Entry>) {
        if let Some(place) = self.list.get_mut(at) {
            *place = entry;
            return;
        }
        if let Some(index) = &mut self.index {
            index.insert(entry.key.clone(), at);
        }
        self.list.push(entry);
        if self.index.is_none() && self.list.len() > SHORT {
            self.index = Some(self.list.iter().zip(0..).map(|(entry, at)| (entry.key.clone(), at)).collect());
        }
    }

    fn remove(&mut self, at: usize) -> Arc<Entry> {
        let entry = self.list.swap_remove(at);
        if let Some(index) = &mut self.index {
            index.remove(&entry.key);
            if let Some(moved) = self.list.get(at) {
                index.insert(moved.key.clone(), at);
            }
        }
        entry
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::entry::Operation;
    use crate::time::Time;

    fn entry(n: u32, seq: u32) -> Arc<Entry> {
        Arc::new(Entry::new(EntryKey { name: "step".into(), n }, seq, Operation::step(None), Time(1)))
    }

    proptest! {
        /// One entry, few and many are kept as a map keeps them.
        #[test]
        fn entries_are_found_by_key_however_many_there_are(acts: Vec<(bool, u8)>, keys in 1..24_u8) {
            let (mut entries, mut model) = (Entries::default(), HashMap::new());
            for ((put, n), seq) in acts.into_iter().zip(0..) {
                let entry = entry(u32::from(n % keys), seq);
                if put {
                    model.insert(entry.key.clone(), Arc::clone(&entry));
                    prop_assert_eq!(entries.put(Arc::clone(&entry)), &entry);
                } else {
                    prop_assert_eq!(entries.remove(&entry.key), model.remove(&entry.key));
                }
                prop_assert_eq!(entries.as_slice().len(), model.len());
                prop_assert!(model.iter().all(|(key, entry)| entries.get(key) == Some(entry)));
            }
        }
    }
}
