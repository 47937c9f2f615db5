//! Watches, which all runners of a server have in common.

use super::PostgresStore;
use crate::{StoreError, StoredWatch, WatchChange, WatchChanged, Watches};

impl Watches for PostgresStore {
    fn watches(&self) -> Result<Vec<StoredWatch>, StoreError> {
        Ok(Vec::new())
    }

    fn watch(&self, _name: &str) -> Result<Option<StoredWatch>, StoreError> {
        Ok(None)
    }

    fn change_watch(&self, _change: &WatchChange) -> Result<WatchChanged, StoreError> {
        Err(self.not_there_yet("watches"))
    }
}
