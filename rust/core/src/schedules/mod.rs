//! Schedules: what is due at a moment, which of it starts a run, and which runs have to end first.
//!
//! A schedule is a row. Its *ticks* are instants, made by its [`Timetable`]; those up to [`Schedule::decided`] are
//! decided for good. Nothing here reads a clock: whoever serves schedules asks [`due`] and [`plan`], and commits the
//! answer with the runs that it starts, if the row is still the one that was asked about.

mod cron;
mod decide;
mod moment;
mod timetable;

use std::sync::Arc;

pub use decide::{At, Due, Plan, due, next_look, plan};
pub use moment::{run_key, text as moment_text};
pub use timetable::{Timetable, TooManyTicks};

use crate::id::RunId;
use crate::pack;
use crate::status::stored_enum;
use crate::time::Time;
use crate::value::Value;

/// The name of the input that gets the moment of the tick, if the workflow has it.
pub const MOMENT_INPUT: &str = "scheduled_at";

/// How many ticks wait at most for the end of an earlier run.
pub const MOST_QUEUED: usize = 1000;

/// How many runs a schedule starts in one commit.
pub const MOST_STARTED: usize = 100;

stored_enum! {
    /// What becomes of the ticks at which no runner was there.
    OnMiss {
        /// The newest of them starts a run.
        Latest = 0,
        /// Each of them starts a run.
        All = 1,
        /// None of them starts a run.
        Skip = 2,
    }
}

stored_enum! {
    /// What a tick does while a run of its schedule has not ended.
    Overlap {
        /// It starts a run.
        Allow = 0,
        /// It starts none.
        Skip = 1,
        /// It starts a run once that has ended.
        Queue = 2,
        /// It cancels that run, and starts one once it has ended.
        Cancel = 3,
    }
}

stored_enum! {
    /// How the input [`MOMENT_INPUT`] is stored.
    MomentInput {
        /// The workflow has none.
        None = 0,
        /// As a datetime.
        Datetime = 1,
        /// As a text.
        Text = 2,
    }
}

/// When a schedule has its ticks, as a user has said it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum When {
    /// By a cron expression.
    Cron {
        /// The expression.
        expression: Arc<str>,
        /// The name of the time zone that it counts in.
        zone: Arc<str>,
    },
    /// At equal distances.
    Every {
        /// The distance, in microseconds.
        micros: i64,
        /// One of the ticks, from which the others are counted.
        anchor: Time,
    },
}

impl When {
    /// Whether the ticks are the same. Where equal distances are counted from makes no difference: the first one
    /// stands.
    #[must_use]
    pub fn same(&self, other: &Self) -> bool {
        match (self, other) {
            (Self::Every { micros, .. }, Self::Every { micros: others, .. }) => micros == others,
            _ => self == other,
        }
    }
}

/// A schedule, as it is stored.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Schedule {
    /// Its name, unique in the store.
    pub name: Arc<str>,
    /// The name of the workflow of which it starts runs.
    pub workflow: Arc<str>,
    /// The store's numbers of the workflow and of the version that it was defined with.
    pub version: (i64, i64),
    /// When it has its ticks.
    pub when: When,
    /// The inputs of its runs, packed, without the moment.
    pub inputs: Arc<[u8]>,
    /// How its runs get the moment of their tick.
    pub moment: MomentInput,
    /// What becomes of missed ticks.
    pub on_miss: OnMiss,
    /// What a tick does while a run has not ended.
    pub overlap: Overlap,
    /// By how much a run starts after its tick at most, in microseconds.
    pub jitter: i64,
    /// How long its runs may take, in microseconds: the workflow's own timeout.
    pub timeout: Option<i64>,
    /// When it was defined first.
    pub created_at: Time,
    /// Since when it is paused, if it is.
    pub paused_at: Option<Time>,
    /// The ticks up to this moment are decided.
    pub decided: Time,
    /// The last tick that has started a run, and the run.
    pub last: Option<(Time, RunId)>,
    /// Ticks that wait for the end of a run, the oldest first.
    pub queue: Vec<Time>,
    /// The runs that may not have ended, unless they may overlap.
    pub open: Vec<RunId>,
}

impl Schedule {
    /// The inputs of the run of a tick, packed. `None`, if those of the schedule do not read back.
    #[must_use]
    pub fn inputs_at(&self, tick: Time) -> Option<Arc<[u8]>> {
        let text = moment_text(tick);
        let moment = match self.moment {
            MomentInput::None => return Some(Arc::clone(&self.inputs)),
            MomentInput::Datetime => Value::tagged(b'j', format!("\"{text}\"").as_bytes()),
            MomentInput::Text => Value::tagged(b's', text.as_bytes()),
        };
        let mut inputs = pack::unpack(&self.inputs).ok()?;
        inputs.push((MOMENT_INPUT.into(), Some(moment)));
        inputs.sort_by(|(one, _), (other, _)| one.cmp(other));
        Some(pack::pack(inputs.iter().map(|(name, value)| (&**name, value.as_ref()))).into())
    }

    /// By how much the run of a tick starts after it: the same in every process.
    #[must_use]
    pub fn delay(&self, tick: Time) -> i64 {
        if self.jitter <= 0 {
            return 0;
        }
        // FNV-1a, and a last mix: neighbouring ticks differ in few bits.
        let bytes = self.name.bytes().chain(tick.0.to_le_bytes());
        let hash = bytes
            .fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| (hash ^ u64::from(byte)).wrapping_mul(0x0000_0100_0000_01b3));
        let mixed = (hash ^ (hash >> 29)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let range = u128::from(self.jitter.unsigned_abs()) + 1;
        i64::try_from((u128::from(mixed) * range) >> 64).unwrap_or(0)
    }

    /// The key of a run's tick named another run, which is there already.
    pub fn replace_run(&mut self, new: RunId, existing: RunId) {
        let of_last = self.last.iter_mut().map(|(_, run)| run);
        of_last.chain(&mut self.open).filter(|run| **run == new).for_each(|run| *run = existing);
    }

    /// When a tick is due.
    #[must_use]
    pub fn due_at(&self, tick: Time) -> Time {
        Time(tick.0.saturating_add(self.delay(tick)))
    }
}

#[cfg(test)]
mod tests;
