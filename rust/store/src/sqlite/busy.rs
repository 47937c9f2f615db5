//! Waits for a file that another process holds, in short, jittered sleeps up to a timeout.
//!
//! SQLite's own handler sleeps longer and longer (a second among four processes, where this one takes a millisecond).

use std::cell::Cell;
use std::hash::{BuildHasher, Hasher, RandomState};
use std::time::{Duration, Instant};

use rusqlite::Connection;

thread_local! {
    /// The state of the random numbers for naps, one for each thread.
    static SEED: Cell<u64> = Cell::new(random() | 1);
}

/// A random number, without a dependency: the standard library seeds its hashers from the system.
pub(super) fn random() -> u64 {
    let mut hasher = RandomState::new().build_hasher();
    // After a fork both processes have the same seeds.
    hasher.write_u32(std::process::id());
    hasher.finish()
}

/// Sleeps 20 to 200 microseconds.
pub(super) fn nap() {
    let draw = SEED.with(|seed| {
        let mut x = seed.get();
        x ^= x << 13;
        x ^= x >> 7;
        x ^= x << 17;
        seed.set(x);
        x
    });
    std::thread::sleep(Duration::from_micros(20 + draw % 181));
}

/// Makes a connection wait for locks for at most `busy_timeout`, counted for each statement.
pub(super) fn wait_for(
    connection: &mut Connection,
    busy_timeout: impl Fn() -> Duration + Send + 'static,
) -> rusqlite::Result<()> {
    let mut since = Instant::now();
    connection.busy_handler(Some(move |tries: i32| {
        if tries == 0 {
            since = Instant::now();
        }
        let waits = since.elapsed() < busy_timeout();
        if waits {
            nap();
        }
        waits
    }))
}
