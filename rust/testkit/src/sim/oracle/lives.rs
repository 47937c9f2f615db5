//! What must hold over the lives and deaths of processes: no time is missed, a regular close loses nothing, and the
//! right run is suspected.

use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;
use std::time::Duration;

use bide_core::record::RunRowId;
use bide_core::recover::MAX_CRASHES;
use bide_core::{EntryState, RunStatus, TaskIx, TaskStatus, Time};

use super::Oracle;

impl Oracle {
    /// Guarantee 3: never lost. Of runs that a living runner has, a time that the wall shows is acted on when the
    /// timers look at the wall again, 30 s later at most.
    ///
    /// The row of a retry shows nothing while it waits for a slot or a limit.
    pub fn no_time_is_missed(
        &mut self,
        now: Time,
        steady: Duration,
        is_executed: impl Fn(RunRowId) -> bool,
        may_start: impl Fn(RunRowId) -> bool,
    ) {
        let pending = |run: &RunRowId, ix: &TaskIx| self.task(*run, *ix).is_none_or(|task| !task.status.is_ended());
        let waits = self.entries.iter().filter(|(_, entry)| entry.state == EntryState::Open);
        let waits = waits.filter_map(|((run, ix, _), entry)| Some((*run, *ix, entry.due()?)));
        let retries = self.tasks.iter().filter(|(_, task)| task.status == TaskStatus::Pending);
        let retries = retries.filter(|((run, ix), _)| may_start(*run) && !self.limited.contains(ix));
        let retries = retries.filter_map(|((run, ix), task)| Some((*run, *ix, task.retry_at?)));
        let reached =
            waits.chain(retries).filter(|(run, ix, due)| *due <= now && pending(run, ix) && is_executed(*run));
        let late: HashMap<(RunRowId, TaskIx), Duration> =
            reached.map(|(run, ix, _)| ((run, ix), self.late.get(&(run, ix)).copied().unwrap_or(steady))).collect();
        let worst = late
            .iter()
            .max_by_key(|(_, since)| steady.saturating_sub(**since))
            .map(|((_, ix), since)| (Arc::clone(self.graph.name(*ix)), steady.saturating_sub(*since)));
        self.late = late;
        if let Some((name, span)) = worst {
            self.must(span <= Duration::from_secs(31), "a wake is lost", || {
                format!("{name}: its time has been reached for {span:?}")
            });
        }
    }

    /// Of the marked bodies of a process, one of which two processes may have died executes alone.
    pub(super) fn suspects_of_two_deaths_are_entered_alone(&mut self, runner: i64) {
        let marked = self.executed_marked(runner);
        let careful = |place: &(RunRowId, TaskIx)| self.tasks[place].mark.times >= 2;
        if !marked.iter().any(careful) {
            return;
        }
        let names: Vec<_> = marked.iter().map(|(run, ix)| format!("{} of {run}", self.graph.name(*ix))).collect();
        self.meets("a suspect that executes alone");
        self.must(names.len() == 1, "a suspect of two deaths executes beside others", || names.join(", "));
    }

    /// A run is paused as one that kills its process only if one of its bodies was the only suspect of five dead
    /// processes in a row, and then it is.
    pub fn only_a_run_that_kills_is_suspected(&mut self, run: RunRowId, paused: bool, exactly: bool) {
        let deaths = self.deaths.get(&run).copied().unwrap_or(0);
        self.must(!paused || deaths >= MAX_CRASHES, "a run is suspected for no reason", || {
            format!("{deaths} processes have died of it in a row")
        });
        self.must(!exactly || deaths < MAX_CRASHES || paused, "a run that kills is not found out", || {
            format!("{deaths} processes have died of it in a row")
        });
    }

    /// What a process that ends in good order has in its hands did not kill it.
    pub fn a_close_leaves_no_suspect(&mut self, runner: i64, runs: &BTreeSet<RunRowId>) {
        let marked = self.executed_marked(runner).into_iter().find(|(run, _)| runs.contains(run));
        let name = marked.map(|(_, ix)| Arc::clone(self.graph.name(ix)));
        self.must(name.is_none(), "a close leaves a body suspected of killing its process", || format!("{name:?}"));
    }

    /// Guarantee 7: what has returned before an end in good order is committed by it.
    pub fn what_has_returned_is_committed_at_the_end(
        &mut self,
        returned: impl Iterator<Item = (RunRowId, TaskIx, u32)>,
    ) {
        for (run, ix, attempt) in returned {
            let row = self.task(run, ix).cloned();
            let run_over = self.run(run).is_some_and(|run| run.status != RunStatus::Running);
            let over = row.as_ref().is_some_and(|row| {
                row.attempts > attempt || (row.attempts == attempt && row.status != TaskStatus::Running)
            });
            let over = over || self.maps.is_expanded(run, ix);
            let name = Arc::clone(self.graph.name(ix));
            self.must(over || run_over, "a close loses what has returned", || {
                format!("attempt {attempt} of {name} had returned: {row:?}")
            });
        }
    }
}
