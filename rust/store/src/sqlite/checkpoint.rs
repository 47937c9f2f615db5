//! The checkpointer: a thread that copies the write-ahead log back into the database file.
//!
//! A checkpoint by the writer halves the speed of chains, so the writer never makes one. The thread first copies
//! passively, on a connection of its own, while the writer continues; then the little that has been added meanwhile,
//! under the writer's lock: only when everything is copied does the next commit start the log from its beginning
//! (passively alone it grew without bound).

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

use bide_sync::{Condvar, Mutex};
use rusqlite::Connection;

use super::error::is_busy;
use super::writer::Writer;

/// The size of the log, in bytes, at which it is copied.
pub(super) const LIMIT: u64 = 4 << 20;
/// And when a store with something in its log has been idle for this long.
const IDLE: Duration = Duration::from_secs(1);

/// How long other processes' writers may keep the last step waiting, which keeps our own writer waiting: the longer
/// the log, the longer, so that it ends at some point.
const BUSY_TIMEOUT: std::ops::RangeInclusive<Duration> = Duration::from_millis(2)..=Duration::from_millis(100);
/// And how long until the next try, if one did.
const PAUSE: Duration = Duration::from_millis(100);

/// A log that is longer is cut to this length when it starts from its beginning, and until then it is worth a warning.
pub(super) const LONG: u64 = 64 << 20;

/// What the writer reports to the checkpointer, and the checkpointer to the thread that logs warnings.
#[derive(Default)]
pub(super) struct Debt {
    /// About how many bytes the log has that the database file does not.
    bytes: AtomicU64,
    /// Why the log is not copied, for warnings.
    trouble: Mutex<Trouble>,
    /// The thread is to end.
    stop: Mutex<bool>,
    /// Notified when there is something to copy, and at the stop.
    wake: Condvar,
}

/// Why a checkpoint does not copy the log.
#[derive(Default)]
struct Trouble {
    /// A warning to be logged, once.
    unreported: Option<String>,
    /// The length of the log at which the warning is repeated.
    again_at: u64,
    /// Whether the user was warned that checkpoints fail.
    failing: bool,
}

impl Debt {
    /// A warning about the log, once.
    pub(super) fn warning(&self, name: &str) -> Option<String> {
        self.trouble.lock().unreported.take().map(|what| format!("{name}: {what}"))
    }

    /// Nothing is copied any more.
    fn forget(&self) {
        self.bytes.store(0, Ordering::Relaxed);
    }

    /// A checkpoint copied the whole log.
    fn is_well(&self) {
        *self.trouble.lock() = Trouble::default();
    }

    /// A reader's old state keeps the log from being copied.
    fn is_pinned(&self, length: u64) {
        let mut trouble = self.trouble.lock();
        if length >= LONG.max(trouble.again_at) {
            trouble.again_at = length.saturating_mul(4);
            trouble.unreported = Some(format!(
                "its write-ahead log has grown to {} MiB, because a reader keeps an old state open (a transaction left \
                 open in another process, a long backup); end that, and the log is checkpointed and reused",
                length >> 20
            ));
        }
    }

    fn fails(&self, error: &rusqlite::Error) {
        let mut trouble = self.trouble.lock();
        if !trouble.failing {
            trouble.failing = true;
            trouble.unreported = Some(format!(
                "its write-ahead log cannot be checkpointed ({error}) and grows until it can be; check the \
                 disk and its free space"
            ));
        }
    }

    /// Notes a commit of about this many bytes. Wakes the thread when there is a first byte and when there are enough.
    pub(super) fn add(&self, bytes: u64) {
        let before = self.bytes.fetch_add(bytes, Ordering::Relaxed);
        if before == 0 || (before < LIMIT && before + bytes >= LIMIT) {
            // Locked once, so that the thread is either waiting or has not checked yet.
            drop(self.stop.lock());
            self.wake.notify_one();
        }
    }

    /// How long the checkpointer's connection waits for others.
    pub(super) fn busy_timeout(&self) -> Duration {
        let times = u32::try_from(self.bytes.load(Ordering::Relaxed) / LIMIT).unwrap_or(u32::MAX);
        BUSY_TIMEOUT.start().saturating_mul(times).clamp(*BUSY_TIMEOUT.start(), *BUSY_TIMEOUT.end())
    }

    #[cfg(test)]
    pub(super) fn is_paid(&self) -> bool {
        self.bytes.load(Ordering::Relaxed) == 0
    }
}

/// The running thread; stops promptly when dropped.
pub(super) struct Checkpointer {
    /// What it shares with the writer.
    debt: Arc<Debt>,
    /// The thread, to join it.
    thread: Option<JoinHandle<()>>,
}

impl Checkpointer {
    /// Starts the thread. It copies nothing unless `may` says that the files are those that were opened.
    pub(super) fn start(
        debt: Arc<Debt>,
        connection: Connection,
        writer: Arc<Mutex<Writer>>,
        may: impl Fn() -> bool + Send + 'static,
    ) -> std::io::Result<Self> {
        let theirs = debt.clone();
        let thread = std::thread::Builder::new()
            .name("bide-checkpoint".into())
            .spawn(move || serve(&theirs, &connection, &writer, &may))?;
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

fn serve(debt: &Debt, connection: &Connection, writer: &Mutex<Writer>, may: &dyn Fn() -> bool) {
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
        bide_sync::MutexGuard::unlocked(&mut stop, || {
            if may() {
                checkpoint(debt, connection, writer);
            } else {
                debt.forget();
            }
        });
        // A reader or another process is in the way: not again at once.
        if !*stop && debt.bytes.load(Ordering::Relaxed) >= LIMIT {
            debt.wake.wait_for(&mut stop, PAUSE);
        }
    }
}

/// What stays in the log is safe there: a failure is worth a warning and no more.
fn checkpoint(debt: &Debt, connection: &Connection, writer: &Mutex<Writer>) {
    // The writer's own snapshot must not keep frames from being copied.
    let hold = || {
        let writer = writer.lock();
        writer.fresh();
        writer
    };
    drop(hold());
    let copied = copy(connection, "PASSIVE");
    // Much remains only if a reader keeps an old state open: keeping the writer waiting would not help.
    let pinned = !copied.as_ref().is_ok_and(|log| log.remaining <= LIMIT / 1024);
    let held = (!pinned).then(hold);
    let before = debt.bytes.load(Ordering::Relaxed);
    // FULL keeps other processes' writers out for the moment too.
    let copied = if pinned { copied } else { copy(connection, "FULL") };
    let whole = copied.as_ref().is_ok_and(|log| log.remaining == 0);
    if whole || before < LIMIT {
        debt.bytes.fetch_sub(before, Ordering::Relaxed);
    }
    drop(held);
    match copied {
        Ok(_) if whole => debt.is_well(),
        Ok(log) => debt.is_pinned(log.frames * FRAME),
        Err(error) if is_busy(&error) => {}
        Err(error) => debt.fails(&error),
    }
}

/// About how many bytes a page has in the log.
const FRAME: u64 = super::options::PAGE_SIZE as u64 + 24;

/// What a checkpoint found.
struct Log {
    /// How many pages the log had.
    frames: u64,
    /// How many of those that were there at the start could not be copied.
    remaining: u64,
}

/// Copies what can be copied.
fn copy(connection: &Connection, mode: &str) -> rusqlite::Result<Log> {
    let mut statement = connection.prepare_cached(&format!("PRAGMA wal_checkpoint({mode})"))?;
    statement.query_row([], |row| {
        let (log, copied): (i64, i64) = (row.get(1)?, row.get(2)?);
        // Both are -1 if another process is making a checkpoint.
        if log < 0 {
            return Ok(Log { frames: 0, remaining: 1 });
        }
        Ok(Log { frames: log.unsigned_abs(), remaining: log.abs_diff(copied) })
    })
}
