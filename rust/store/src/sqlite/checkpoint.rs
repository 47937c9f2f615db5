//! The checkpointer: a thread that copies the write-ahead log back into the database file.
//!
//! A checkpoint by the writer halves the speed of chains, so the writer never makes one. The thread first copies
//! passively, on a connection of its own, while the writer goes on; then the little that has been added meanwhile,
//! under the writer's lock: only when everything is copied does the next commit start the log from its beginning
//! (passively alone it grew without bound).

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

use bide_sync::{Condvar, Mutex};
use rusqlite::Connection;

/// The log is copied when about so many bytes were written to it.
const LIMIT: u64 = 4 << 20;
/// And when a store with something in its log has been idle for so long.
const IDLE: Duration = Duration::from_secs(1);

/// How long a reader or another process may keep the last step waiting, which keeps our own writer waiting.
pub(super) const PATIENCE: Duration = Duration::from_millis(2);
/// And how long until the next try, if one did.
const PAUSE: Duration = Duration::from_millis(100);

/// What the writer tells the checkpointer.
#[derive(Default)]
pub(super) struct Debt {
    /// About how many bytes the log has that the database file does not.
    bytes: AtomicU64,
    stop: Mutex<bool>,
    wake: Condvar,
}

impl Debt {
    /// After a commit of about so many bytes. Wakes the thread when there is a first byte and when there are enough.
    pub(super) fn add(&self, bytes: u64) {
        let before = self.bytes.fetch_add(bytes, Ordering::Relaxed);
        if before == 0 || (before < LIMIT && before + bytes >= LIMIT) {
            // Taken so that the thread is either waiting or has not looked yet.
            drop(self.stop.lock());
            self.wake.notify_one();
        }
    }
}

/// The running thread; stops promptly when dropped.
pub(super) struct Checkpointer {
    debt: Arc<Debt>,
    thread: Option<JoinHandle<()>>,
}

impl Checkpointer {
    /// Starts the thread.
    pub(super) fn start(
        debt: Arc<Debt>,
        connection: Connection,
        writer: Arc<Mutex<Connection>>,
    ) -> std::io::Result<Self> {
        let theirs = debt.clone();
        let thread = std::thread::Builder::new()
            .name("bide-checkpoint".into())
            .spawn(move || serve(&theirs, &connection, &writer))?;
        Ok(Self { debt, thread: Some(thread) })
    }
}

impl Drop for Checkpointer {
    fn drop(&mut self) {
        *self.debt.stop.lock() = true;
        self.debt.wake.notify_one();
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

fn serve(debt: &Debt, connection: &Connection, writer: &Mutex<Connection>) {
    let mut stop = debt.stop.lock();
    while !*stop {
        let before = debt.bytes.load(Ordering::Relaxed);
        if before == 0 {
            debt.wake.wait(&mut stop);
            continue;
        }
        if before < LIMIT {
            debt.wake.wait_for(&mut stop, IDLE);
            if *stop {
                return;
            }
        }
        bide_sync::MutexGuard::unlocked(&mut stop, || checkpoint(debt, connection, writer));
        // A reader or another process is in the way: not again at once.
        if !*stop && debt.bytes.load(Ordering::Relaxed) >= LIMIT {
            debt.wake.wait_for(&mut stop, PAUSE);
        }
    }
}

/// Failures are left to the writer to find: what stays in the log is safe there.
fn checkpoint(debt: &Debt, connection: &Connection, writer: &Mutex<Connection>) {
    let _ = copy(connection, "PASSIVE");
    let held = writer.lock();
    let before = debt.bytes.load(Ordering::Relaxed);
    // FULL keeps other processes' writers out for the moment too, as far as the connection's short patience allows.
    let whole = copy(connection, "FULL").unwrap_or(false);
    if whole || before < LIMIT {
        debt.bytes.fetch_sub(before, Ordering::Relaxed);
    }
    drop(held);
}

/// Whether everything is copied.
fn copy(connection: &Connection, mode: &str) -> rusqlite::Result<bool> {
    let mut statement = connection.prepare_cached(&format!("PRAGMA wal_checkpoint({mode})"))?;
    statement.query_row([], |row| {
        let (busy, log, copied): (i64, i64, i64) = (row.get(0)?, row.get(1)?, row.get(2)?);
        Ok(busy == 0 && log == copied)
    })
}
