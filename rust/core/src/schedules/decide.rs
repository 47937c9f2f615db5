//! What is due of a schedule, and what becomes of it.

use super::{MOST_QUEUED, MOST_STARTED, OnMiss, Overlap, Schedule, Timetable};
use crate::id::RunId;
use crate::time::Time;

/// A tick that is later than this was missed, even if a runner was there: the machine has slept.
const LATE: i64 = 60_000_000;

/// How long a runner that begins to serve a schedule leaves ticks before that to other runners, if it would drop them.
const SETTLE: i64 = 1_000_000;

/// A moment at which a schedule is looked at.
#[derive(Clone, Copy, Debug)]
pub struct At {
    /// The wall's time.
    pub now: Time,
    /// Since when the runner that looks serves the schedule.
    pub serving: Time,
}

/// What is due.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Due {
    /// Nothing before this moment; `None`: nothing ever.
    Nothing(Option<Time>),
    /// These ticks.
    Ticks {
        /// Those that are to start runs, the oldest first. Perhaps none.
        ticks: Vec<Time>,
        /// The ticks up to here are decided by that.
        decided: Time,
        /// The first and the last of the ticks that start no run because they were missed.
        missed: Option<(Time, Time)>,
    },
}

/// What becomes of ticks that are due, and of those that wait.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Plan {
    /// These start a run each.
    pub starts: Vec<Time>,
    /// These wait for the end of a run.
    pub queue: Vec<Time>,
    /// The runs that have not ended are to be cancelled.
    pub cancels: bool,
    /// So many ticks start no run because another one has not ended.
    pub dropped: usize,
}

/// What is due of a schedule.
#[must_use]
pub fn due(schedule: &Schedule, table: &Timetable, at: At) -> Due {
    if schedule.paused_at.is_some() {
        return Due::Nothing(None);
    }
    let Some(first) = table.next_after(schedule.decided) else { return Due::Nothing(None) };
    if schedule.due_at(first) > at.now {
        return Due::Nothing(Some(schedule.due_at(first)));
    }
    if schedule.on_miss == OnMiss::All {
        return all(schedule, table, first, at.now);
    }
    let settled = Time(at.serving.0.saturating_add(SETTLE));
    if schedule.on_miss == OnMiss::Skip && first < at.serving && at.now < settled {
        return Due::Nothing(Some(settled));
    }
    let mut newest = table.newest(schedule.decided, at.now).unwrap_or(first).max(first);
    while newest > first && schedule.due_at(newest) > at.now {
        newest = table.newest(schedule.decided, Time(newest.0 - 1)).unwrap_or(first).max(first);
    }
    let late = at.now.0.saturating_sub(schedule.due_at(newest).0) > LATE;
    if schedule.on_miss == OnMiss::Skip && (late || schedule.due_at(newest) < at.serving) {
        return Due::Ticks { ticks: Vec::new(), decided: newest, missed: Some((first, newest)) };
    }
    let missed = (newest > first).then(|| (first, table.newest(schedule.decided, Time(newest.0 - 1)).unwrap_or(first)));
    Due::Ticks { ticks: vec![newest], decided: newest, missed }
}

fn all(schedule: &Schedule, table: &Timetable, first: Time, now: Time) -> Due {
    let (mut ticks, mut next) = (Vec::new(), Some(first));
    while let Some(tick) = next.filter(|tick| ticks.len() < MOST_STARTED && schedule.due_at(*tick) <= now) {
        ticks.push(tick);
        next = table.next_after(tick);
    }
    let decided = ticks.last().copied().unwrap_or(first);
    Due::Ticks { ticks, decided, missed: None }
}

/// What becomes of ticks that are due. `open`: the runs of the schedule that have not ended.
#[must_use]
pub fn plan(schedule: &Schedule, due: &[Time], open: &[RunId]) -> Plan {
    let mut ticks: Vec<Time> = schedule.queue.iter().chain(due).copied().collect();
    let is_free = open.is_empty();
    match schedule.overlap {
        Overlap::Allow => Plan { starts: ticks, ..Plan::default() },
        Overlap::Skip => {
            let all = ticks.len();
            ticks.truncate(usize::from(is_free));
            Plan { dropped: all - ticks.len(), starts: ticks, ..Plan::default() }
        }
        Overlap::Queue => {
            let starts: Vec<Time> = ticks.drain(..usize::from(is_free).min(ticks.len())).collect();
            let dropped = ticks.len().saturating_sub(MOST_QUEUED);
            ticks.truncate(MOST_QUEUED);
            Plan { starts, queue: ticks, cancels: false, dropped }
        }
        Overlap::Cancel => {
            // Of several the newest: it would cancel the run of each other one.
            let newest = ticks.last().copied();
            let dropped = ticks.len().saturating_sub(1);
            let (starts, queue) = if is_free { (newest, None) } else { (None, newest) };
            let [starts, queue] = [starts, queue].map(|tick| tick.into_iter().collect::<Vec<_>>());
            Plan { starts, cancels: !queue.is_empty(), queue, dropped }
        }
    }
}

/// When a schedule is to be looked at next, if no run ends before that. `None`: never.
#[must_use]
pub fn next_look(schedule: &Schedule, table: &Timetable) -> Option<Time> {
    if schedule.paused_at.is_some() {
        return None;
    }
    table.next_after(schedule.decided).map(|tick| schedule.due_at(tick))
}
