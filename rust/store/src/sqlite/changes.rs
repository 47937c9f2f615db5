//! Waiting for changes of a file: this process logs its own, and polls the file for those of others.

use std::time::{Duration, Instant};

use super::SqliteStore;
use crate::{Changes, Seen, StoreError};

/// The interval of the poll while a runner waits.
const POLL: Duration = Duration::from_millis(50);

/// The lock bytes of the other processes that have runners here.
const OTHERS: &str = "SELECT DISTINCT lock FROM runner WHERE expires IS NOT NULL AND lock <> ?1";

/// What the last poll of the file showed.
#[derive(Default)]
pub(super) struct LastPoll {
    /// SQLite's counter of other connections' commits. Own commits do not move it.
    data_version: Option<i64>,
    /// The lock bytes of the other processes that have runners here.
    others: Vec<i64>,
}

impl SqliteStore {
    pub(super) fn await_changes(&self, seen: Seen, timeout: Duration) -> Result<Changes, StoreError> {
        // Before any lock: in a forked child a thread that held it may be missing.
        self.live()?;
        let since = Instant::now();
        loop {
            let remaining = timeout.saturating_sub(since.elapsed());
            self.changes.wait(seen, remaining.min(POLL));
            self.poll()?;
            if self.changes.wait(seen, Duration::ZERO) || since.elapsed() >= timeout {
                return Ok(self.changes.since(seen));
            }
        }
    }

    /// Notices whether another process has written or has died.
    fn poll(&self) -> Result<(), StoreError> {
        let live = self.live()?;
        self.files.still_there(&self.identity)?;
        let mut last = live.last_poll.lock();
        let writer = live.writer.lock();
        let mut read = || -> rusqlite::Result<()> {
            let writer = writer.fresh();
            let version = writer.prepare_cached("PRAGMA data_version")?.query_row([], |row| row.get(0))?;
            let moved = last.data_version != Some(version);
            if moved {
                let mut others = writer.prepare_cached(OTHERS)?;
                last.others = others.query_map([live.lock.own()], |row| row.get(0))?.collect::<Result<_, _>>()?;
                // Every runner of this process hears of it, whatever fails from here on.
                last.data_version = Some(version);
                self.changes.unowned();
            }
            Ok(())
        };
        read().map_err(|error| self.identity.error(&error))?;
        drop(writer);
        let mut died = false;
        let mut living = Vec::with_capacity(last.others.len());
        for byte in &last.others {
            if self.is_held(&live.lock, *byte)? {
                living.push(*byte);
            } else {
                died = true;
            }
        }
        last.others = living;
        if died {
            self.changes.unowned();
        }
        Ok(())
    }
}
