//! The retention thread: deletes ended runs once they have been kept for long enough, a short step at a time, and then
//! returns freed space to the file system, if it is much.
//!
//! Several runners on one store may do so at once; the one that keeps its runs for the shortest decides. A step that
//! fails is no reason to stop a runner: what should have gone is still there. It is logged and tried again later.

use std::sync::Arc;
use std::time::Duration;

use bide_core::Time;
use bide_core::record::RunRowId;
use bide_core::time::micros;
use bide_store::StoreError;

use crate::control::Control;
use crate::host::Host;
use crate::services::{Service, Signal};

/// How long ended runs are kept, unless the user says otherwise.
pub const RETENTION: Duration = Duration::from_secs(30 * 24 * 3600);

/// How often the thread searches for old runs: this part of the retention time, within limits.
const PART: u32 = 10;
/// The shortest and longest time between two searches.
const MIN_INTERVAL: Duration = Duration::from_millis(50);
const MAX_INTERVAL: Duration = Duration::from_secs(3600);

/// How many runs are looked at in one step. How many of them it deletes is limited by the store.
const LOOK: usize = 256;

/// After a step the thread rests for this many times as long, so that it has the store for a third of the time at most.
const REST: u32 = 2;
const SHORTEST_REST: Duration = Duration::from_millis(1);

/// The longest span between two looks at the clock.
const RECHECK: Duration = Duration::from_secs(30);

/// What the thread works with.
pub(crate) struct RetentionService<H: Host> {
    /// The store.
    control: Arc<Control<H>>,
    /// How long ended runs are kept; `None`: for ever.
    kept: Option<Duration>,
    /// Set when the thread is to end.
    stop: Signal,
}

/// The progress of a sweep.
pub(crate) struct Sweep {
    /// When the next step is due, by the steady clock.
    due: Duration,
    /// What the next step does.
    phase: Phase,
}

enum Phase {
    /// Deleting, from this row number on.
    Purge(RunRowId),
    /// Returning free pages to the file system; at last, what is not used of limits is forgotten.
    Shrink,
}

impl Sweep {
    /// The first one begins at once: a process may not live for long.
    pub(crate) fn new() -> Self {
        Self { due: Duration::ZERO, phase: Phase::Purge(0) }
    }
}

impl<H: Host> Service for RetentionService<H> {
    fn name(&self) -> &'static str {
        "bide-retention"
    }

    fn run(&self, started: &Signal) {
        let mut sweep = Sweep::new();
        let mut rest = Duration::ZERO;
        started.set();
        while !self.stop.wait_for(rest) {
            rest = self.step(&mut sweep).min(RECHECK);
        }
    }

    fn stop(&self) {
        self.stop.set();
    }
}

impl<H: Host> RetentionService<H> {
    pub(crate) fn new(control: &Arc<Control<H>>, kept: Option<Duration>) -> Arc<Self> {
        Arc::new(Self { control: Arc::clone(control), kept, stop: Signal::default() })
    }

    /// One step of the thread, if it is due. Returns how long it rests then.
    pub(crate) fn step(&self, sweep: &mut Sweep) -> Duration {
        if self.control.is_closing() || self.control.stopped().is_some() {
            return RECHECK;
        }
        let began = self.control.clock.machine();
        if began < sweep.due {
            return sweep.due.saturating_sub(began);
        }
        let again = self.kept.map_or(MAX_INTERVAL, |kept| (kept / PART).clamp(MIN_INTERVAL, MAX_INTERVAL));
        let rest = match self.sweep_step(&mut sweep.phase) {
            Ok(true) => (self.control.clock.machine().saturating_sub(began) * REST).max(SHORTEST_REST),
            Ok(false) => again,
            Err(error) => {
                sweep.phase = Phase::Purge(0);
                let line = format!("old runs could not be deleted: {error}; tried again in {again:?}");
                self.control.warn(&line);
                again
            }
        };
        sweep.due = self.control.clock.machine().saturating_add(rest);
        rest
    }

    /// True if the sweep continues with another step.
    fn sweep_step(&self, phase: &mut Phase) -> Result<bool, StoreError> {
        match (&phase, self.kept) {
            (Phase::Purge(from), Some(kept)) => {
                let before = Time(self.control.clock.now().0.saturating_sub(micros(kept)));
                let purged = self.control.store().purge(before, *from, LOOK)?;
                *phase = purged.next.map_or(Phase::Shrink, Phase::Purge);
                Ok(true)
            }
            (Phase::Purge(_), None) => {
                *phase = Phase::Shrink;
                Ok(true)
            }
            (Phase::Shrink, _) => {
                let more = self.control.store().shrink()?;
                if !more {
                    self.control.store().purge_limits(self.control.clock.now())?;
                    *phase = Phase::Purge(0);
                }
                Ok(more)
            }
        }
    }
}
