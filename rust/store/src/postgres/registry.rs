//! The stores that are open in this process: one for each URL, however many runners use it, because each has connections.
//!
//! A store is opened under this registry's lock, so that two that are opened at once are one.

use std::sync::{Arc, Weak};
use std::time::{Duration, Instant};

use bide_sync::Mutex;

use super::{Options, PostgresStore};
use crate::StoreError;

/// A store that was opened.
struct Entry {
    /// The process that opened it: a forked child cannot use it, and opens its own.
    pid: u32,
    options: Options,
    store: Weak<PostgresStore>,
}

static OPEN: Mutex<Vec<Entry>> = Mutex::new(Vec::new());

/// Longer than any opening takes; passed only if a fork happened in the middle of one.
const TIMEOUT: Duration = Duration::from_secs(120);

impl PostgresStore {
    /// The store of this URL that is open in this process, else [`PostgresStore::open`].
    ///
    /// # Errors
    /// As [`PostgresStore::open`].
    pub fn shared(options: &Options) -> Result<Arc<Self>, StoreError> {
        let Some(mut open) = OPEN.try_lock_until(Instant::now() + TIMEOUT) else {
            return Err(StoreError::Unavailable(format!(
                "{}: another thread of this process has been opening a store for too long, or this process was forked \
                 meanwhile; use spawn instead",
                options.name()
            )));
        };
        let pid = std::process::id();
        open.retain(|entry| entry.pid == pid && entry.store.strong_count() > 0);
        let known = open.iter().find(|entry| entry.options.is_same_store(options));
        if let Some(store) = known.and_then(|entry| entry.store.upgrade()) {
            return Ok(store);
        }
        let store = Self::open(options)?;
        open.push(Entry { pid, options: options.clone(), store: Arc::downgrade(&store) });
        Ok(store)
    }
}
