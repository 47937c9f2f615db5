//! Cron expressions in a time zone. The crate `croner` reads them and finds the times of day that match; what they mean
//! when clocks are set is decided here. The zones are those of the IANA database that is built in.
//!
//! It is that of Vixie cron. An expression with fixed times has one tick for each of them on each day: a time that is
//! left out has its tick at the first moment afterwards, one that comes twice the first time. An expression whose
//! minute or hour begins with `*` goes by the clock: what is left out has no tick, what comes twice has two.

use chrono::{DateTime, Offset, TimeZone, Utc};
use chrono_tz::{TZ_VARIANTS, Tz};
use croner::Cron;
use croner::parser::{CronParser, Seconds, Year};

use crate::definition::DefinitionError;
use crate::nearest::did_you_mean;
use crate::time::Time;

/// No zone sets its clocks twice within this many seconds.
const APART: i64 = 12 * 3600;

/// A cron expression that was read, and its zone.
#[derive(Clone, Debug)]
pub(super) struct CronTable {
    /// The expression.
    cron: Box<Cron>,
    /// The zone that it counts in.
    zone: Tz,
    /// It has fixed times.
    is_fixed: bool,
}

/// Clocks are set: from this second on, after these seconds ahead of UTC it is those.
#[derive(Clone, Copy)]
struct Set {
    at: i64,
    before: i64,
    after: i64,
}

impl CronTable {
    pub(super) fn new(expression: &str, zone: &str) -> Result<Self, DefinitionError> {
        let refuse = |why: &str| DefinitionError(format!("the cron expression '{expression}' cannot be read: {why}"));
        let zone = zone_named(zone)?;
        let text = expression.trim();
        let fields: Vec<&str> = text.split_ascii_whitespace().collect();
        let is_fixed = match *fields {
            [name] if name.starts_with('@') => !name.eq_ignore_ascii_case("@hourly"),
            [minute, hour, _, _, _] | [_, minute, hour, _, _, _] => !minute.starts_with('*') && !hour.starts_with('*'),
            _ => {
                let why = "five fields are needed, minute, hour, day of month, month and day of week, or six with \
                           seconds before them";
                return Err(refuse(why));
            }
        };
        let parser = CronParser::builder().seconds(Seconds::Optional).year(Year::Optional).build();
        let cron = parser.parse(text).map_err(|error| refuse(&error.to_string()))?;
        Ok(Self { cron: Box::new(cron), zone, is_fixed })
    }

    /// The first tick after a moment; `None` if there is none.
    pub(super) fn next_after(&self, after: Time) -> Option<Time> {
        // Ticks are whole seconds.
        let mut at = after.0.div_euclid(1_000_000);
        // The time of day from which on the expression is to match, and whether that itself is meant.
        let (mut from, mut inclusive) = (at + self.offset(at)?, false);
        if self.is_fixed
            && let Some(set) = self.first_set(at - APART, at)
            && from < set.at + set.before
        {
            // It comes a second time.
            (from, inclusive) = (set.at + set.before, true);
        }
        loop {
            let local = self.matching(from, inclusive)?;
            let tick = local - self.offset(at)?;
            let Some(set) = self.first_set(at, tick) else { return tick.checked_mul(1_000_000).map(Time) };
            if self.is_fixed && local < set.at + set.after {
                return set.at.checked_mul(1_000_000).map(Time);
            }
            let again = if self.is_fixed { set.before.max(set.after) } else { set.after };
            (from, inclusive, at) = (set.at + again, true, set.at);
        }
    }

    /// The first time of day from one on that matches, in seconds as if it were UTC.
    fn matching(&self, from: i64, inclusive: bool) -> Option<i64> {
        let from = DateTime::<Utc>::from_timestamp(from, 0)?;
        self.cron.find_next_occurrence(&from, inclusive).ok().map(|found| found.timestamp())
    }

    /// How many seconds clocks are ahead of UTC.
    fn offset(&self, at: i64) -> Option<i64> {
        let at = DateTime::<Utc>::from_timestamp(at, 0)?;
        Some(i64::from(self.zone.offset_from_utc_datetime(&at.naive_utc()).fix().local_minus_utc()))
    }

    /// The first time after a moment and not after another at which clocks are set.
    fn first_set(&self, after: i64, until: i64) -> Option<Set> {
        let before = self.offset(after)?;
        let mut start = after;
        while start < until {
            let (mut low, mut high) = (start, (start + APART).min(until));
            start = high;
            if self.offset(high)? == before {
                continue;
            }
            while high - low > 1 {
                let middle = low + (high - low) / 2;
                if self.offset(middle)? == before { low = middle } else { high = middle }
            }
            return Some(Set { at: high, before, after: self.offset(high)? });
        }
        None
    }
}

fn zone_named(name: &str) -> Result<Tz, DefinitionError> {
    name.parse().map_err(|_| {
        let close = did_you_mean(name, TZ_VARIANTS.iter().map(|zone| zone.name()));
        DefinitionError(format!(
            "there is no time zone '{name}'{close} (zones have names such as 'Europe/Berlin' or 'UTC')"
        ))
    })
}
