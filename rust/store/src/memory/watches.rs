//! The watches of a store in memory.

use std::collections::HashSet;
use std::sync::Arc;

use bide_core::record::NewRun;

use super::MemoryStore;
use super::state::{MemWatch, State};
use crate::{Creation, StoreError, StoredWatch, WatchChange, WatchChanged, WatchItem, Watches};

fn stored(name: &str, row: &MemWatch) -> StoredWatch {
    StoredWatch { name: name.into(), revision: row.revision, watch: Ok(row.watch.clone()) }
}

impl Watches for MemoryStore {
    fn watches(&self) -> Result<Vec<StoredWatch>, StoreError> {
        let state = &*self.state.lock();
        Ok(state.watches.iter().filter(|(_, row)| row.watch.is_some()).map(|(name, row)| stored(name, row)).collect())
    }

    fn watch(&self, name: &str) -> Result<Option<StoredWatch>, StoreError> {
        let state = &*self.state.lock();
        Ok(state.watches.get(name).map(|row| stored(name, row)))
    }

    fn change_watch(&self, change: &WatchChange) -> Result<WatchChanged, StoreError> {
        let state = &mut *self.state.lock();
        let row = state.watches.get(&change.name);
        if row.filter(|row| row.watch.is_some()).map(|row| row.revision) != change.expected {
            return Ok(WatchChanged::Moved);
        }
        let Some(started) = state.start_items(&change.name, &change.items)? else {
            return Ok(WatchChanged::NumberTaken);
        };
        let row = state.watches.entry(Arc::clone(&change.name)).or_default();
        row.revision += 1;
        row.watch = change.settled(&started);
        row.keys.extend(change.items.iter().map(|item| Arc::clone(&item.key)));
        if !started.is_empty() {
            self.changes.unowned();
        }
        let watch = row.watch.clone().map(Box::new);
        Ok(WatchChanged::Done { revision: row.revision, watch, started: started.len() })
    }
}

impl State {
    /// Creates the runs of items that are new: those that were created. `None`: a row number is taken, and none was.
    fn start_items<'i>(&mut self, watch: &str, items: &'i [WatchItem]) -> Result<Option<Vec<&'i NewRun>>, StoreError> {
        let (mut started, mut seen) = (Vec::new(), HashSet::new());
        for WatchItem { key, run } in items {
            let is_known = self.watches.get(watch).is_some_and(|row| row.keys.contains(key));
            if is_known || !seen.insert(key) {
                continue;
            }
            let made = self.create_unowned(std::slice::from_ref(run));
            match made.as_deref() {
                Ok([Creation::Created]) => started.push(run),
                Ok([Creation::NumberTaken]) | Err(_) => {
                    started.iter().for_each(|run| self.undo_unowned(run.id.row()));
                    return made.map(|_| None);
                }
                Ok(_) => {}
            }
        }
        Ok(Some(started))
    }
}
