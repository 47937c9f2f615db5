//! The retention thread: deletes ended runs once they have been kept for long enough, a short step at a time, and then
//! gives back what this has freed, if it is much.
//!
//! Several runners on one store may do so at once; the one that keeps its runs for the shortest decides. A step that
//! fails is no reason to stop a runner: what should have gone is still there. It is said and tried again later.

use std::sync::Arc;
use std::time::Duration;

use bide_core::Time;
use bide_core::record::RunRowId;
use bide_core::time::micros;
use bide_store::StoreError;
use bide_sync::{Condvar, Mutex};

use crate::engine::{Engine, Level};
use crate::host::Host;

/// How long ended runs are kept, unless the user says otherwise.
pub const RETENTION: Duration = Duration::from_secs(30 * 24 * 3600);

/// Old runs are looked for so often: a part of the time they are kept for, within limits.
const PART: u32 = 10;
const OFTEN: Duration = Duration::from_millis(50);
const SELDOM: Duration = Duration::from_secs(3600);

/// So many runs are looked at in one step. How many of them it deletes is limited by the store.
const LOOK: usize = 256;

/// After a step the thread rests for so many times as long, so that it has the store for a third of the time at most.
const REST: u32 = 2;
const SHORTEST_REST: Duration = Duration::from_millis(1);

/// The thread looks at the clock at least so often.
const RECHECK: Duration = Duration::from_secs(30);

/// Stops the thread.
#[derive(Default)]
pub(crate) struct RetentionService {
    stop: Mutex<bool>,
    changed: Condvar,
}

/// Where the thread is.
pub(crate) struct Sweep {
    /// When it goes on, by the steady clock.
    due: Duration,
    stage: Stage,
}

enum Stage {
    /// Deleting, from this row number on.
    Purge(RunRowId),
    /// Giving pages back.
    Shrink,
}

impl Sweep {
    /// The first one begins at once: a process may not live for long.
    pub(crate) fn new() -> Self {
        Self { due: Duration::ZERO, stage: Stage::Purge(0) }
    }
}

impl RetentionService {
    pub(crate) fn stop(&self) {
        *self.stop.lock() = true;
        self.changed.notify_all();
    }

    /// Rests; true when the service is to end.
    fn rest(&self, span: Duration) -> bool {
        let mut stop = self.stop.lock();
        if !*stop {
            self.changed.wait_for(&mut stop, span);
        }
        *stop
    }
}

impl<H: Host> Engine<H> {
    /// The retention thread.
    pub(crate) fn run_retention_service(self: Arc<Self>) {
        let mut sweep = Sweep::new();
        let mut rest = Duration::ZERO;
        while !self.retention_service.rest(rest) {
            rest = self.keep_retention(&mut sweep).min(RECHECK);
        }
    }

    /// One step of the retention thread, if it is due. Answers how long it would rest then.
    pub(crate) fn keep_retention(&self, sweep: &mut Sweep) -> Duration {
        if self.is_closing() || self.stopped().is_some() {
            return RECHECK;
        }
        let began = self.clock.steady();
        if began < sweep.due {
            return sweep.due.saturating_sub(began);
        }
        let again = self.retention.map_or(SELDOM, |kept| (kept / PART).clamp(OFTEN, SELDOM));
        let rest = match self.sweep_step(&mut sweep.stage) {
            Ok(true) => (self.clock.steady().saturating_sub(began) * REST).max(SHORTEST_REST),
            Ok(false) => again,
            Err(error) => {
                sweep.stage = Stage::Purge(0);
                let line = format!("old runs could not be deleted: {error}; tried again in {again:?}");
                self.log(Level::Warning, &line);
                again
            }
        };
        sweep.due = self.clock.steady().saturating_add(rest);
        rest
    }

    /// True if the sweep goes on with another step.
    fn sweep_step(&self, stage: &mut Stage) -> Result<bool, StoreError> {
        match (&stage, self.retention) {
            (Stage::Purge(from), Some(kept)) => {
                let before = Time(self.clock.now().0.saturating_sub(micros(kept)));
                let purged = self.store().purge(before, *from, LOOK)?;
                *stage = purged.next.map_or(Stage::Shrink, Stage::Purge);
                Ok(true)
            }
            (Stage::Purge(_), None) => {
                *stage = Stage::Shrink;
                Ok(true)
            }
            (Stage::Shrink, _) => {
                let more = self.store().shrink()?;
                if !more {
                    *stage = Stage::Purge(0);
                }
                Ok(more)
            }
        }
    }
}
