//! The ticks of a schedule: those of a cron expression, or at equal distances.

use super::When;
use super::cron::CronTable;
use crate::definition::DefinitionError;
use crate::time::Time;

/// The shortest distance between ticks.
const SHORTEST: i64 = 1000;

/// How many ticks a search for the newest one goes through at first.
const FIRST_WINDOW: i64 = 60_000_000;

/// What makes the ticks of a schedule.
#[derive(Clone, Debug)]
pub struct Timetable(Kind);

#[derive(Clone, Debug)]
enum Kind {
    Cron(CronTable),
    Every { micros: i64, anchor: Time },
}

/// A range has more ticks than asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TooManyTicks;

impl Timetable {
    /// Reads what a user has said.
    ///
    /// # Errors
    /// Says what is wrong with the expression, the zone or the distance.
    pub fn new(when: &When) -> Result<Self, DefinitionError> {
        Ok(Self(match when {
            When::Cron { expression, zone } => Kind::Cron(CronTable::new(expression, zone)?),
            When::Every { micros, .. } if *micros < SHORTEST => {
                return Err(DefinitionError("the distance between ticks must be at least a millisecond".into()));
            }
            When::Every { micros, anchor } => Kind::Every { micros: *micros, anchor: *anchor },
        }))
    }

    /// The first tick after a moment; `None` if there is none.
    #[must_use]
    pub fn next_after(&self, after: Time) -> Option<Time> {
        match &self.0 {
            Kind::Cron(table) => table.next_after(after),
            Kind::Every { micros, anchor } => {
                let steps = after.0.checked_sub(anchor.0)?.div_euclid(*micros) + 1;
                steps.checked_mul(*micros)?.checked_add(anchor.0).map(Time)
            }
        }
    }

    /// The newest tick after one moment and not after another.
    #[must_use]
    pub fn newest(&self, after: Time, until: Time) -> Option<Time> {
        match &self.0 {
            Kind::Every { micros, anchor } => {
                let steps = until.0.checked_sub(anchor.0)?.div_euclid(*micros);
                let tick = Time(steps.checked_mul(*micros)?.checked_add(anchor.0)?);
                (tick > after).then_some(tick)
            }
            Kind::Cron(_) => {
                // Backwards by windows that grow, so that a year of minutes is not gone through.
                let mut window = FIRST_WINDOW;
                loop {
                    let from = Time(until.0.saturating_sub(window)).max(after);
                    let mut newest = None;
                    let mut last = from;
                    while let Some(tick) = self.next_after(last).filter(|tick| *tick <= until) {
                        newest = Some(tick);
                        last = tick;
                    }
                    if newest.is_some() || from == after {
                        return newest;
                    }
                    window = window.saturating_mul(8);
                }
            }
        }
    }

    /// The ticks from one moment to another, both included.
    ///
    /// # Errors
    /// If there are more than `most`.
    pub fn between(&self, since: Time, until: Time, most: usize) -> Result<Vec<Time>, TooManyTicks> {
        let mut ticks = Vec::new();
        let mut last = Time(since.0.saturating_sub(1));
        while let Some(tick) = self.next_after(last).filter(|tick| *tick <= until) {
            if ticks.len() == most {
                return Err(TooManyTicks);
            }
            ticks.push(tick);
            last = tick;
        }
        Ok(ticks)
    }
}
