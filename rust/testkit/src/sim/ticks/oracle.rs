//! What must hold of schedules, as it is seen in the store after every move.

use std::collections::{BTreeMap, BTreeSet, HashSet, VecDeque};
use std::sync::Arc;

use bide_core::record::RunRow;
use bide_core::schedules::{OnMiss, Overlap, Schedule, Timetable};
use bide_core::{RunId, Time};
use chrono::DateTime;

use super::Planned;

/// So much of what happened is kept.
const TRACE: usize = 60;

/// A tick is due at the latest this long after it was, in microseconds, once nothing goes wrong.
const LATE: i64 = 2_000_000;

/// A missed tick that is skipped may be so late, in microseconds: a machine may have slept.
const STILL_ON_TIME: i64 = 61_000_000;

pub(super) struct Oracle {
    /// The latest time that the wall has shown.
    latest: Time,
    /// The wall was set to an earlier time.
    was_set_back: bool,
    /// The runs that were seen, with their schedule and tick.
    seen: BTreeMap<RunId, (Arc<str>, Time)>,
    /// The runs that a user has started, beside the ticks.
    triggered: HashSet<RunId>,
    /// The schedules that a user has changed: whose runs may be other ones than those of their ticks.
    changed: HashSet<Arc<str>>,
    pub(super) met: BTreeSet<&'static str>,
    pub(super) violations: Vec<String>,
    pub(super) trace: VecDeque<String>,
}

impl Oracle {
    pub(super) fn new(now: Time) -> Self {
        Self {
            latest: now,
            was_set_back: false,
            seen: BTreeMap::new(),
            triggered: HashSet::new(),
            changed: HashSet::new(),
            met: BTreeSet::new(),
            violations: Vec::new(),
            trace: VecDeque::new(),
        }
    }

    pub(super) fn note(&mut self, line: String) {
        if self.trace.len() == TRACE {
            self.trace.pop_front();
        }
        self.trace.push_back(format!("{:?} {line}", self.latest));
    }

    pub(super) fn meets(&mut self, what: &'static str) {
        self.met.insert(what);
    }

    pub(super) fn wall_shows(&mut self, now: Time) {
        self.latest = self.latest.max(now);
    }

    pub(super) fn wall_is_set(&mut self, now: Time, by: i64) {
        self.was_set_back |= by < 0;
        self.wall_shows(now);
    }

    pub(super) fn is_triggered(&mut self, run: RunId) {
        self.meets("a run that a user has triggered");
        self.triggered.insert(run);
    }

    pub(super) fn is_changed(&mut self, name: &Arc<str>) {
        self.changed.insert(Arc::clone(name));
    }

    fn must(&mut self, holds: bool, guarantee: &str, seen: impl FnOnce() -> String) {
        if !holds {
            self.violations.push(format!("{guarantee}: {}", seen()));
        }
    }

    /// After a move: all runs that are stored.
    pub(super) fn looks(&mut self, rows: &[RunRow], planned: &[Planned]) {
        // A listing begins with the newest.
        for row in rows.iter().rev() {
            if !self.seen.contains_key(&row.id) {
                self.is_created(row, planned);
            }
        }
        for planned in planned.iter().filter(|planned| planned.overlap != Overlap::Allow) {
            if self.changed.contains(&planned.name) {
                continue;
            }
            let of_it = |row: &&RunRow| self.seen.get(&row.id).is_some_and(|(name, _)| *name == planned.name);
            let open: Vec<RunId> =
                rows.iter().filter(of_it).filter(|row| !row.status.is_ended()).map(|row| row.id).collect();
            self.must(open.len() <= 1, "runs of a schedule overlap that must not", || format!("{planned:?}: {open:?}"));
        }
        if rows.iter().any(|row| row.cancel.is_some()) {
            self.meets("a run that the next one cancels");
        }
    }

    fn is_created(&mut self, row: &RunRow, planned: &[Planned]) {
        let key = row.key.clone().unwrap_or_else(|| "".into());
        let named = key.rsplit_once('@').and_then(|(name, moment)| {
            let moment = DateTime::parse_from_rfc3339(moment).ok()?;
            Some((Arc::<str>::from(name), Time(moment.timestamp_micros())))
        });
        let Some((name, tick)) = named else {
            return self.violations.push(format!("a run has the key '{key}', which names no tick"));
        };
        self.note(format!("run {key} is created at {:?}", row.created_at));
        let by = row.created_at.max(self.latest);
        self.must(tick <= by, "a run starts before its tick", || format!("{key} at {:?}", row.created_at));
        let twice = self.seen.values().any(|(other, at)| *other == name && *at == tick);
        self.must(!twice, "a tick starts two runs", || key.to_string());
        let planned = planned.iter().find(|planned| planned.name == name);
        let Some(planned) = planned.filter(|planned| !self.changed.contains(&planned.name)) else {
            self.seen.insert(row.id, (name, tick));
            return;
        };
        let late = row.created_at.0 - tick.0;
        if planned.on_miss == OnMiss::Skip && matches!(planned.overlap, Overlap::Allow | Overlap::Skip) {
            self.must(
                late <= STILL_ON_TIME + planned.jitter.as_micros() as i64,
                "a missed tick is made up for",
                || format!("{key}, {late} µs late"),
            );
        }
        let newest = self.seen.values().filter(|(other, _)| *other == name).map(|(_, tick)| *tick).max();
        // The runs of one commit have ascending ids.
        let in_order = newest.is_none_or(|newest| newest < tick) || planned.overlap == Overlap::Allow;
        self.must(in_order, "the runs of a schedule start in another order than its ticks", || key.to_string());
        if newest.is_some_and(|newest| tick.0 - newest.0 > 2 * planned.every.as_micros() as i64) {
            self.meets("ticks that start no run");
        }
        self.seen.insert(row.id, (name, tick));
    }

    /// Nothing went wrong for a long time: what is due has been decided.
    pub(super) fn nothing_is_overdue(&mut self, stored: &Schedule, planned: &Planned, now: Time) {
        let Ok(table) = Timetable::new(&stored.when) else {
            return self.violations.push(format!("{planned:?} has no ticks"));
        };
        let overdue = table.next_after(stored.decided).filter(|tick| stored.due_at(*tick).0 + LATE < now.0);
        self.must(overdue.is_none(), "a tick is overdue", || format!("{overdue:?} of {stored:?} at {now:?}"));
        if self.changed.contains(&planned.name) {
            return;
        }
        let ran: BTreeSet<Time> =
            self.seen.values().filter(|(name, _)| *name == planned.name).map(|(_, tick)| *tick).collect();
        let all: BTreeSet<Time> =
            std::iter::successors(table.next_after(stored.created_at), |tick| table.next_after(*tick))
                .take_while(|tick| *tick <= stored.decided)
                .collect();
        self.must(ran.is_subset(&all), "a run starts without a tick", || format!("{:?}", ran.difference(&all)));
        let waits: BTreeSet<Time> = stored.queue.iter().copied().collect();
        if planned.on_miss == OnMiss::All && matches!(planned.overlap, Overlap::Allow | Overlap::Queue) {
            let lost: Vec<&Time> = all.iter().filter(|tick| !ran.contains(tick) && !waits.contains(tick)).collect();
            self.must(lost.is_empty(), "a tick starts no run", || format!("{lost:?} of {planned:?}"));
            self.meets("a schedule of which each tick starts a run");
        }
        if planned.on_miss == OnMiss::Latest && planned.overlap == Overlap::Allow {
            let newest = all.last().copied();
            let started = newest.is_none_or(|newest| ran.contains(&newest));
            self.must(started, "the newest tick starts no run", || format!("{newest:?} of {planned:?}"));
        }
    }
}
