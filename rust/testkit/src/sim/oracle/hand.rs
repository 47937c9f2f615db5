//! What must hold of requests by hand, of retries of whole runs, and of the times of runs.

use std::collections::{BTreeSet, HashMap, HashSet};
use std::sync::Arc;
use std::time::Duration;

use bide_core::record::{NewRun, RunRowId, RunUpdate, StoredRun};
use bide_core::{Ask, Entry, EntryKey, EntryKind, EntryState, FailureKind, RunStatus, TaskIx, TaskStatus, Time};

use super::super::plan::value_by_hand;
use super::{Committed, Oracle};

/// What was asked of runs, and what was said of them when they were created.
#[derive(Clone, Default)]
pub(super) struct Asked {
    /// The requests: the run, the name of the task, and what.
    requests: HashSet<(RunRowId, Arc<str>, &'static str)>,
    /// Waits that were given more time when their deadline had passed: they may have been found to time out by then.
    too_late: HashSet<(RunRowId, TaskIx, EntryKey)>,
    /// The runs that are retried from the beginning.
    fresh: HashSet<RunRowId>,
    /// When each run begins and must have ended.
    times: HashMap<RunRowId, (Option<Time>, Option<Time>)>,
    /// Since when, by the steady clock, a run has not ended that must have.
    late: HashMap<RunRowId, Duration>,
}

/// Whether a run has ended because its time was over.
fn expired(update: &RunUpdate) -> bool {
    update.failure.as_ref().is_some_and(|failure| failure.kind == FailureKind::RunTimeout)
}

impl Oracle {
    /// Somebody is about to ask something of a run.
    pub fn is_asked(&mut self, run: RunRowId, ask: &Ask) {
        self.note(format!("asks {ask:?} of {run}"));
        self.meets(ask.name());
        if let Ask::Retry { fresh: true, .. } = ask {
            self.asked.fresh.insert(run);
        }
        let task = ask.task().map_or_else(|| "".into(), Arc::clone);
        self.asked.requests.insert((run, task, ask.name()));
    }

    /// The tasks and elements of a run that have an open wait, in order.
    #[must_use]
    pub fn waiting(&self, run: RunRowId) -> Vec<TaskIx> {
        let open = self.entries.iter().filter(|((of, ..), entry)| *of == run && entry.state == EntryState::Open);
        let waits = |ix: &TaskIx| self.task(run, *ix).is_none_or(|task| !task.status.is_ended());
        let places: BTreeSet<TaskIx> = open.map(|((_, ix, _), _)| *ix).filter(waits).collect();
        places.into_iter().collect()
    }

    /// Whether something was asked of a task.
    pub(super) fn was_asked(&self, run: RunRowId, ix: TaskIx, what: &'static str) -> bool {
        self.asked.requests.contains(&(run, self.name(ix), what))
    }

    /// Whether somebody has asked for a retry of a run, or of the one that has started it.
    pub(super) fn is_retried(&self, run: RunRowId) -> bool {
        let of = |run: RunRowId| self.asked.requests.contains(&(run, "".into(), "retry"));
        of(run) || self.parent(run).is_some_and(of)
    }

    /// Whether it begins from the beginning then.
    pub(super) fn is_retried_from_the_beginning(&self, run: RunRowId) -> bool {
        let of = |run: RunRowId| self.asked.fresh.contains(&run);
        of(run) || self.parent(run).is_some_and(of)
    }

    /// A store has ended a run that nobody executes, because somebody has cancelled it by force: no runner has written
    /// that.
    pub fn is_ended_by_its_store(&mut self, stored: &StoredRun) {
        let (run, row) = (stored.run.id.row(), &stored.run);
        let known = self.run(run).is_some_and(|run| run.status.is_ended());
        if known || row.status != RunStatus::Cancelled {
            return;
        }
        self.meets("a run that its store ends");
        self.must(row.cancel.is_some(), "a store ends a run that nobody has cancelled", || format!("{row:?}"));
        for task in &stored.rows {
            let name = self.name(self.place(run, task.task, task.map));
            let right = task.status.is_ended();
            self.must(right, "a store ends a run without its tasks", || format!("{name}: {task:?}"));
            self.tasks.insert((run, self.place(run, task.task, task.map)), Committed::by(0, task));
        }
        let update = RunUpdate { cancel: row.cancel.clone(), ..RunUpdate::new(run, RunStatus::Cancelled) };
        self.runs.insert(run, RunUpdate { ended_at: row.ended_at, failure: row.failure.clone(), ..update });
    }

    /// Whether the results of a run depend on what somebody has asked.
    #[must_use]
    pub fn is_touched(&self, run: RunRowId) -> bool {
        self.asked.requests.iter().any(|(of, _, what)| *of == run && matches!(*what, "satisfy" | "skip" | "retry"))
    }

    /// Whether a wait was satisfied by hand, or given more time too late.
    pub(super) fn is_by_hand(&self, run: RunRowId, ix: TaskIx, entry: &Entry) -> bool {
        if self.asked.too_late.contains(&(run, ix, entry.key.clone())) && entry.state == EntryState::Failed {
            return true;
        }
        let by_hand = entry.kind() == EntryKind::Time || entry.value.as_ref() == Some(&value_by_hand());
        entry.state == EntryState::Satisfied && by_hand && self.was_asked(run, ix, "satisfy")
    }

    /// A wait has the value that somebody gives by hand only if somebody did.
    pub(super) fn what_is_given_by_hand_was_asked(&mut self, run: RunRowId, ix: TaskIx, entry: &Entry) {
        if entry.value.as_ref() == Some(&value_by_hand()) {
            let right = self.is_by_hand(run, ix, entry);
            self.must(right, "a wait is satisfied by hand that nobody has asked for", || format!("{entry:?}"));
            self.meets("a wait that is satisfied by hand");
        }
    }

    /// Whether somebody has given a wait more time.
    pub(super) fn is_extended(&mut self, run: RunRowId, ix: TaskIx, before: &Entry, entry: &Entry) -> bool {
        // One that was satisfied and is asked again has its first time once more.
        let moves = before.deadline < entry.deadline || before.state == EntryState::Satisfied;
        let extended = self.was_asked(run, ix, "extend") && moves;
        if extended {
            if before.deadline.is_some_and(|deadline| deadline <= self.latest) {
                self.asked.too_late.insert((run, ix, entry.key.clone()));
            }
            self.meets("a deadline that is moved by hand");
        }
        extended
    }

    /// A task that has ended is written again only by the retry of its run: if it did not complete, or if something
    /// that it depends on is done again.
    pub(super) fn may_begin_again(&mut self, run: RunRowId, ix: TaskIx, row: &Committed) -> bool {
        if !self.is_retried(run) {
            return false;
        }
        let Some(before) = self.tasks.get(&(run, ix)).map(|task| task.status) else { return true };
        let graph = Arc::clone(&self.graph);
        let again = |on: TaskIx| self.tasks.get(&(run, on)).is_some_and(|task| !task.status.is_ended());
        let expanded = row.status == TaskStatus::Running && self.maps.is_expanded(run, ix);
        let begins = row.status == TaskStatus::Pending || expanded;
        let right = before != TaskStatus::Completed || expanded || graph.ancestors(ix).any(again);
        begins && right
    }

    /// A run that has ended runs again if somebody has asked for that, and it did not complete.
    pub(super) fn may_run_again(&mut self, before: RunStatus, update: &RunUpdate) -> bool {
        let again = matches!(before, RunStatus::Failed | RunStatus::Cancelled)
            && !update.status.is_ended()
            && self.is_retried(update.run);
        if again {
            self.meets("a run that is retried");
            self.first_failure.remove(&update.run);
            self.deaths.remove(&update.run);
            // What its deadline was is over.
            self.asked.times.remove(&update.run);
        }
        again
    }

    /// A retry forgets what a body has recorded since it got that its run was cancelled.
    pub(super) fn is_after_cancellation(&self, run: RunRowId, ix: TaskIx, key: &EntryKey) -> bool {
        let mine =
            || self.entries.iter().filter(|((of, task, _), _)| (*of, *task) == (run, ix)).map(|(_, entry)| entry);
        let told = |entry: &&Entry| entry.failure.as_ref().is_some_and(|why| why.kind == FailureKind::Cancelled);
        let since = mine().filter(told).map(|entry| entry.seq).min();
        let seq = mine().find(|entry| entry.key == *key).map(|entry| entry.seq);
        self.is_retried(run) && since.is_some_and(|since| seq.is_some_and(|seq| seq >= since))
    }

    /// A run was created: when it begins and must have ended.
    pub(super) fn has_times(&mut self, new: &NewRun) {
        if let Some(options) = &new.options {
            self.asked.times.insert(new.id.row(), (options.start_at, options.deadline));
        }
    }

    /// No body of a run starts before its time.
    pub(super) fn nothing_starts_before_the_time_of_its_run(&mut self, run: RunRowId, ix: TaskIx) {
        let start_at = self.asked.times.get(&run).and_then(|times| times.0);
        let (name, latest) = (self.name(ix), self.latest);
        let cancelled = self.run(run).is_some_and(|run| run.cancel.is_some());
        if start_at.is_some() {
            self.meets("a run that begins later");
        }
        self.must(cancelled || start_at.is_none_or(|at| at <= latest), "a run begins before its time", || {
            format!("{name} at {latest:?}, not before {start_at:?}")
        });
    }

    /// Whether a run has ended because its time was over: only once the wall has shown that.
    pub(super) fn is_expired(&mut self, update: &RunUpdate) -> bool {
        if !expired(update) {
            return false;
        }
        let (deadline, latest) = (self.asked.times.get(&update.run).and_then(|times| times.1), self.latest);
        self.must(deadline.is_some_and(|deadline| deadline <= latest), "a run times out early", || {
            format!("at {latest:?}, not before {deadline:?}")
        });
        self.meets("a run that times out");
        true
    }

    /// Whether the row of a task says that its run has timed out.
    pub(super) fn fails_by_deadline(&self, run: RunRowId, ix: TaskIx) -> bool {
        let failure = self.task(run, ix).and_then(|task| task.failure.as_ref());
        failure.is_some_and(|failure| failure.kind == FailureKind::RunTimeout)
    }

    /// A run whose time is over has ended when the timers look at the wall again, 31 s later at most.
    pub fn no_run_outlives_its_deadline(&mut self, now: Time, steady: Duration, executed: impl Fn(RunRowId) -> bool) {
        let over = self.asked.times.iter().filter(|(_, times)| times.1.is_some_and(|deadline| deadline <= now));
        let late: HashMap<RunRowId, Duration> = over
            .filter(|(run, _)| executed(**run))
            .map(|(run, _)| (*run, self.asked.late.get(run).copied().unwrap_or(steady)))
            .collect();
        let worst = late.values().map(|since| steady.saturating_sub(*since)).max().unwrap_or_default();
        self.asked.late = late;
        self.must(worst <= Duration::from_secs(31), "a run outlives its deadline", || format!("by {worst:?}"));
    }
}
