//! The guarantees, one function each.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use bide_core::record::{RunRowId, RunUpdate};
use bide_core::{
    Entry, EntryKey, EntryKind, EntryState, Failure, FailureKind, Operation, RunIf, RunStatus, StepMode, SubStatus,
    TaskIx, TaskStatus,
};
use bide_sched::slots::NEW_EVERY;
use bide_store::{LEASE, LeaseTime};

use super::{Committed, Oracle};

impl Oracle {
    /// Guarantee 1: a committed output is never produced again.
    pub(super) fn no_committed_output_is_produced_again(&mut self, run: RunRowId, ix: TaskIx, row: &Committed) {
        let before = self.tasks.get(&(run, ix)).map(|task| task.status);
        if self.may_begin_again(run, ix, row) {
            return;
        }
        let name = Arc::clone(self.graph.name(ix));
        self.must(before.is_none_or(|status| !status.is_ended()), "a committed output is produced again", || {
            format!("{name} was {before:?} and is written again")
        });
    }

    /// Guarantee 1: a committed step never runs again. Asked when a step is about to be executed by a runner that
    /// still has its run.
    pub fn no_committed_step_runs_again(&mut self, run: RunRowId, ix: TaskIx, key: &EntryKey, proof: Option<&[u8]>) {
        let same = |entry: &Entry| proof.is_some() && entry.kind() == EntryKind::Step && entry.proof() == proof;
        let is_it = |entry: &Entry| entry.key == *key || same(entry);
        let mine = self.entries.iter().filter(|((of, task, _), _)| (*of, *task) == (run, ix));
        let recorded = mine.map(|(_, entry)| entry).find(|entry| is_it(entry)).cloned();
        let name = Arc::clone(self.graph.name(ix));
        self.must(
            recorded.as_ref().is_none_or(|entry| entry.state == EntryState::Open),
            "a committed step runs again",
            || format!("{name} executes {key:?}, which is recorded as {recorded:?}"),
        );
    }

    /// Guarantee 1: a step that may be executed only once is, and only after its intent is committed, whether or not
    /// the process still has the run, unless the server has lost commits. (A fresh journal forgets it on purpose.)
    pub fn a_step_is_executed_at_most_once(&mut self, run: RunRowId, ix: TaskIx, key: &EntryKey) {
        let place = (run, ix, key.clone());
        let (name, entry) = (Arc::clone(self.graph.name(ix)), self.entries.get(&place).cloned());
        // The intent is gone with what the server has lost, and the next body does not know of this.
        if self.graph.spec(ix).retry.fresh || self.is_of_lost {
            return;
        }
        self.must(entry.is_some(), "a step is executed before its intent is committed", || {
            format!("{name}: {entry:?}")
        });
        let first = self.executed_once.insert(place);
        self.must(first, "a step is executed twice that may be executed only once", || format!("{name}: {key:?}"));
    }

    /// A step is tried again only once the wall has shown its time. Returns how often it has failed, as is committed.
    pub fn a_step_is_tried_again_after_its_delay(&mut self, run: RunRowId, ix: TaskIx, key: &EntryKey) -> u32 {
        let entry = self.entries.get(&(run, ix, key.clone())).cloned();
        let (name, latest) = (Arc::clone(self.graph.name(ix)), self.latest);
        let due = entry.as_ref().and_then(Entry::due);
        self.must(due.is_none_or(|due| due <= latest), "a step is tried again before its time", || {
            format!("{name}: {entry:?} at {latest:?}")
        });
        match entry.map(|entry| entry.mode()) {
            Some(StepMode::Retried { tries }) => {
                self.meets("a step that is tried again");
                tries
            }
            _ => 0,
        }
    }

    /// Guarantee 1: what is recorded of a step is never replaced.
    pub(super) fn a_recorded_step_stays_as_it_is(&mut self, run: RunRowId, ix: TaskIx, entry: &Entry) {
        let before = self.entries.get(&(run, ix, entry.key.clone())).cloned();
        let name = Arc::clone(self.graph.name(ix));
        let is_step = |before: &Entry| before.kind() == EntryKind::Step && before.state != EntryState::Open;
        self.must(before.as_ref().is_none_or(|it| !is_step(it) || it == entry), "a recorded step is replaced", || {
            format!("{name}: {before:?} becomes {entry:?}")
        });
    }

    /// Guarantees 1 and 2: a task starts only after what it depends on is committed, its gate is satisfied, the delay
    /// of its retry is over, and never once it has ended itself. (A runner that has lost its run and does not know
    /// yet may start what another one has ended meanwhile: nothing of it will be committed.)
    pub fn a_task_starts_only_after_what_it_depends_on(&mut self, run: RunRowId, ix: TaskIx, still_has_it: bool) {
        let graph = Arc::clone(&self.graph);
        let name = graph.name(ix);
        for &on in graph.dependencies(ix) {
            let expanded = self.maps.follows(ix, on) && self.maps.is_expanded(run, on);
            let ended = expanded || self.task(run, on).is_some_and(|task| task.status.is_ended());
            self.must(ended, "a task starts before what it depends on is committed", || {
                format!("{name} starts before {}", graph.name(on))
            });
        }
        let own = self.task(run, ix).cloned();
        self.must(
            !still_has_it || own.as_ref().is_none_or(|task| !task.status.is_ended()),
            "a task that has ended starts again",
            || name.to_string(),
        );
        if !still_has_it {
            self.must(false, "a body starts in a process that has lost its run", || name.to_string());
            return;
        }
        self.nothing_starts_before_the_time_of_its_run(run, ix);
        let (held, cancelled) = self.runs.get(&run).map_or((false, false), |run| (run.is_held(), run.cancel.is_some()));
        self.must(!held, "a body starts in a run that is paused", || name.to_string());
        let running = own.as_ref().is_some_and(|task| task.status == TaskStatus::Running);
        // A body that has begun has no row before it waits or ends, but it may have recorded a step.
        let has_called = || self.entries.keys().any(|(of, task, key)| (*of, *task) == (run, ix) && key.n > 0);
        let may = !cancelled || running || (own.is_none() && has_called()) || graph.spec(ix).run_if == RunIf::Done;
        self.must(may, "a task starts in a run that is cancelled", || format!("{name}: {own:?}"));
        let (due, latest) = (own.as_ref().and_then(|task| task.retry_at), self.latest);
        self.must(due.is_none_or(|due| due <= latest), "a retry starts before its time", || {
            format!("{name} starts at {latest:?}, not before {due:?}")
        });
        if let Some(gate) = &graph.spec(ix).gate {
            let state = self.entries.get(&(run, ix, gate.key())).map(|entry| entry.state);
            self.must(state == Some(EntryState::Satisfied), "a task starts before its gate is satisfied", || {
                format!("{name}: its gate is {state:?}")
            });
        }
    }

    /// Guarantee 4: a runner that renews its lease in time keeps it, however the wall clock is set.
    pub fn a_lease_is_lost_only_once_it_has_run_out(&mut self, renewed: Option<LeaseTime>, now: LeaseTime) {
        let lasts = renewed.is_some_and(|renewed| now.micros() < renewed.after(LEASE).micros());
        self.must(!lasts, "a living runner is fenced", || format!("renewed at {renewed:?}, lost at {now:?}"));
    }

    /// Guarantee 3: a wait is committed before its slot is released.
    pub fn a_wait_is_committed_before_its_slot_is_released(&mut self, run: RunRowId, ix: TaskIx, key: &EntryKey) {
        let state = self.entries.get(&(run, ix, key.clone())).map(|entry| entry.state);
        let name = Arc::clone(self.graph.name(ix));
        let pushed = self.entries.get(&(run, ix, key.clone())).is_some_and(|entry| {
            // What it waits for may come between the two.
            matches!(
                entry.operation,
                Operation::Message(_) | Operation::Child { .. } | Operation::Any { .. } | Operation::All { .. }
            )
        });
        // A cancellation ends any wait, and so does an operator's hand or the deadline of the run.
        let over = self.runs.get(&run).is_some_and(|run| run.cancel.is_some() || run.status.is_ended());
        let by_hand = self.was_asked(run, ix, "satisfy") || self.was_asked(run, ix, "skip");
        let cancelled = state.is_some() && (over || by_hand);
        let right = pushed || cancelled || state == Some(EntryState::Open);
        self.must(right, "a slot is released before its wait is committed", || format!("{name}: {key:?} is {state:?}"));
    }

    /// Guarantee 3: deadlines and times are absolute. While an entry is there, neither moves; but a wait that was
    /// satisfied and is asked again has its whole time once more.
    pub(super) fn deadlines_never_move(&mut self, run: RunRowId, ix: TaskIx, entry: &Entry) {
        let before =
            self.entries.get(&(run, ix, entry.key.clone())).filter(|before| before.kind() == entry.kind()).cloned();
        let name = Arc::clone(self.graph.name(ix));
        let span = |entry: &Entry| entry.deadline.map(|deadline| deadline.0 - entry.opened_at.0);
        let stands = |before: &Entry| {
            if before.state == EntryState::Lost {
                // It was one of several, and is waited for again: anew.
                return true;
            }
            // So is a combination whose decisive condition is asked again.
            let asked = matches!(before.kind(), EntryKind::Condition | EntryKind::Any | EntryKind::All);
            let again = before.state == EntryState::Satisfied && asked;
            if again { span(before) == span(entry) } else { before.deadline == entry.deadline }
        };
        if before.as_ref().is_some_and(|before| self.is_extended(run, ix, before, entry)) {
            return;
        }
        self.must(
            before.as_ref().is_none_or(|before| {
                let moves = entry.kind() == EntryKind::Step || before.state == EntryState::Lost;
                stands(before) && (moves || before.due() == entry.due())
            }),
            "a deadline moved",
            || format!("{name}: {before:?} becomes {entry:?}"),
        );
    }

    /// Guarantee 3: never early by the wall clock. A wait for a time ends only once the wall has shown it, and
    /// a wait times out only once the wall has shown its deadline.
    pub(super) fn nothing_wakes_early(&mut self, run: RunRowId, ix: TaskIx, entry: &Entry) {
        if self.is_by_hand(run, ix, entry) {
            return;
        }
        let until = match (&entry.operation, entry.state) {
            (Operation::Time { due }, EntryState::Satisfied) => Some(*due),
            (_, EntryState::Failed) => {
                let timed_out = entry.failure.as_ref().is_some_and(|why| why.kind == FailureKind::WaitTimeout);
                entry.deadline.filter(|_| timed_out)
            }
            _ => None,
        };
        let (name, latest) = (Arc::clone(self.graph.name(ix)), self.latest);
        self.must(until.is_none_or(|until| until <= latest), "a wait ends early", || {
            format!("{name}: {entry:?} although the wall has shown {latest:?} at most")
        });
    }

    /// Guarantee 5: active bodies never exceed the slots, and every slot is in one hand.
    pub fn active_bodies_never_exceed_the_slots(&mut self, in_use: usize, free: usize, total: usize) {
        self.must(in_use + free == total, "slots are lost or made", || {
            format!("{in_use} in use and {free} free of {total}")
        });
    }

    /// Guarantee 5: resumed bodies go before new ones, one new in eight.
    pub fn resumed_bodies_go_first(&mut self, to_new: bool, resumed_wait: usize, new_wait: bool, streak: &mut u32) {
        let turn_of_new = *streak + 1 >= NEW_EVERY;
        if resumed_wait > 0 {
            let fair = if turn_of_new { to_new == new_wait } else { !to_new };
            let seen = *streak;
            self.must(fair, "resumed bodies go first, one new in eight", || {
                format!("the slot went to new work: {to_new}, after {seen} resumed in a row; {resumed_wait} waited")
            });
        }
        *streak = if to_new { 0 } else { *streak + u32::from(resumed_wait > 0) };
    }

    /// When a poll ends, the next one that is due starts.
    pub fn a_poll_that_ends_starts_the_next(&mut self, next_starts: bool, others_wait: bool) {
        self.must(next_starts || !others_wait, "a poll ends and the next one does not start", || {
            "others are due".to_owned()
        });
    }

    /// At most `slots` conditions run at once.
    pub fn so_many_polls_at_once(&mut self, polling: usize, slots: usize) {
        self.must(polling <= slots, "too many polls at once", || format!("{polling} with {slots} slots"));
    }

    /// An ended run stays as it is.
    pub(super) fn an_ended_run_stays_as_it_is(&mut self, update: &RunUpdate) {
        let before = self.runs.get(&update.run).map(|run| run.status);
        if before.is_some_and(|before| self.may_run_again(before, update)) {
            return;
        }
        self.must(before.is_none_or(|status| !status.is_ended()), "an ended run is written again", || {
            format!("{before:?} becomes {update:?}")
        });
    }

    /// Guarantee 6: a result is reported only when it is committed.
    pub fn a_result_is_reported_only_when_committed(&mut self, run: RunRowId, reported: RunStatus) {
        let committed = self.runs.get(&run).map(|run| run.status);
        self.must(committed == Some(reported), "a result is reported before it is committed", || {
            format!("reported {reported:?}, committed {committed:?}")
        });
    }

    /// Every run ends or waits for something nameable: a task that has not ended says what it waits for, unless
    /// something that it depends on does. `endless` says of each task whether it may wait for ever.
    #[must_use]
    pub fn what_is_left_is_nameable(&self, run: RunRowId, endless: &[bool]) -> bool {
        let ended = |ix: TaskIx| self.task(run, ix).is_some_and(|task| task.status.is_ended());
        let named = |ix: TaskIx| {
            self.waits_for_a_paused_child(run, ix)
                || self.task(run, ix).is_some_and(|task| {
                    task.sub_status == Some(SubStatus::Deferred)
                        && task.blocked_by.as_ref().is_some_and(|why| &**why == "waits for forever")
                })
        };
        (0..endless.len() as TaskIx).all(|ix| {
            let blocked = self.graph.dependencies(ix).iter().any(|on| !ended(*on));
            ended(ix) || (endless[ix as usize] && (blocked || named(ix)))
        })
    }

    /// Guarantee 1 and the rule of retries: a retry keeps the journal less the failed entries at its tail, unless it
    /// is to be fresh. The start of a child goes with the wait for it that has failed.
    pub(super) fn a_retry_keeps_what_is_recorded(&mut self, run: RunRowId, ix: TaskIx, dropped: &[EntryKey]) {
        let fresh = self.graph.spec(ix).retry.fresh;
        let satisfied = |key: &&EntryKey| {
            let entry = self.entries.get(&(run, ix, (*key).clone()));
            entry.is_some_and(|entry| entry.state == EntryState::Satisfied)
        };
        let replaced = |key: &&EntryKey| {
            self.is_start_of_a_failed_child(run, ix, key, dropped) || self.is_after_cancellation(run, ix, key)
        };
        let lost = dropped.iter().filter(satisfied).find(|key| !replaced(key)).cloned();
        if dropped.iter().any(|key| replaced(&key)) {
            self.meets("a child that replaces one that has failed");
            self.replaced.insert((run, ix));
        }
        let name = Arc::clone(self.graph.name(ix));
        let fresh = fresh || self.is_retried_from_the_beginning(run);
        self.must(fresh || lost.is_none(), "a retry drops what is recorded", || format!("{name}: {lost:?}"));
    }

    /// A task has as many attempts as its policy allows; a planned one begins with the journal that it should have.
    pub(super) fn a_task_has_its_attempts_and_no_more(&mut self, run: RunRowId, ix: TaskIx, row: &Committed) {
        let (graph, policy) = (Arc::clone(&self.graph), self.graph.spec(ix).retry);
        let name = graph.name(ix);
        let retried = self.is_retried(run);
        self.must(retried || row.attempts <= policy.attempts, "a task has more attempts than it may", || {
            format!("{name} has {} of {}", row.attempts, policy.attempts)
        });
        if row.retry_at.is_none() || row.status != TaskStatus::Pending {
            return;
        }
        self.meets("a retry");
        if self.replaced.remove(&(run, ix)) {
            // What the body has recorded before it started the child stays, whatever came of it.
            return;
        }
        let last = self.entries.iter().filter(|((of, task, _), _)| (*of, *task) == (run, ix)).map(|(_, entry)| entry);
        // A step that may be executed only once is kept, whatever came of it.
        let last = last.filter(|entry| policy.fresh || entry.mode() != StepMode::Once);
        let last = last.max_by_key(|entry| entry.seq).cloned();
        let right = match &last {
            None => true,
            Some(last) => !policy.fresh && last.state == EntryState::Satisfied,
        };
        self.must(right, "a retry begins with the wrong journal", || format!("{name}: {last:?} is still there"));
    }

    /// A run ends when every task has, `Failed` if any has failed; the first committed failure is the cause.
    pub(super) fn a_run_ends_with_its_tasks(&mut self, update: &RunUpdate) {
        if !update.status.is_ended() {
            return;
        }
        let rows = || self.tasks.iter().filter(|((run, _), _)| *run == update.run).map(|(_, row)| row);
        let open = rows().filter(|row| !row.status.is_ended()).count();
        let tasks = self.tasks.iter().filter(|((run, ix), _)| *run == update.run && !self.maps.is_element(*ix));
        let failed = tasks.map(|(_, row)| row).any(|row| row.status == TaskStatus::Failed);
        let status = match (&update.cancel, failed) {
            (Some(_), _) => RunStatus::Cancelled,
            (None, true) => RunStatus::Failed,
            (None, false) => RunStatus::Completed,
        };
        if self.is_expired(update) {
            self.must(open == 0 && update.status == RunStatus::Failed, "a run times out and does not fail", || {
                format!("{:?} with {open} tasks open", update.status)
            });
            return;
        }
        self.must(open == 0 && update.status == status, "a run ends otherwise than its tasks", || {
            format!("{:?} with {open} tasks open; one has failed: {failed}", update.status)
        });
        let text = |failure: &Failure| (failure.kind, failure.type_name(), failure.message());
        let (cause, first) = (update.failure.as_ref().map(text), self.first_failure.get(&update.run).map(text));
        self.must(cause == first, "the first committed failure is the cause", || {
            format!("{cause:?} instead of {first:?}")
        });
    }

    /// A record takes the place of a wait or step only if it is provably the same.
    pub fn a_record_is_reused_only_if_it_is_the_same(
        &mut self,
        run: RunRowId,
        ix: TaskIx,
        key: &EntryKey,
        proof: Option<&[u8]>,
    ) {
        let entry = self.entries.get(&(run, ix, key.clone())).cloned();
        // Where a cancellation was raised it is raised again, whatever the wait is.
        let cancelled = |entry: &Entry| entry.failure.as_ref().is_some_and(|why| why.kind == FailureKind::Cancelled);
        let always = |entry: &Entry| entry.kind() == EntryKind::Time || entry.key.is_keyed() || cancelled(entry);
        let same = |entry: &Entry| proof.is_some() && entry.proof() == proof;
        let right =
            entry.as_ref().is_some_and(|entry| entry.state != EntryState::Open && (always(entry) || same(entry)));
        let name = Arc::clone(self.graph.name(ix));
        self.must(right, "a record is reused that is not the same", || format!("{name}: {entry:?} for {proof:?}"));
    }

    /// A wait for a time is slept out: nothing is asked for it. A step is executed, not asked.
    pub fn only_conditions_are_asked(&mut self, ix: TaskIx, is_condition: bool) {
        let name = Arc::clone(self.graph.name(ix));
        self.must(is_condition, "something is asked that is no condition", || name.to_string());
    }

    /// Five exceptions in a row end a wait, no fewer and no more.
    pub fn the_fifth_error_in_a_row_ends_a_wait(&mut self, in_a_row: u32, ends: bool) {
        self.must(ends == (in_a_row >= 5), "the fifth error in a row ends a wait", || {
            format!("the wait ends with error {in_a_row}: {ends}")
        });
        if ends {
            self.meets("a condition that raises too often");
        }
    }

    /// A runner starts an attempt once, and only while it has the lease under which it took the run up.
    pub fn a_body_starts_once_and_only_under_its_lease(&mut self, ix: TaskIx, twice: bool, lost: bool) {
        let name = Arc::clone(self.graph.name(ix));
        self.must(!twice, "two bodies of one task execute at once", || name.to_string());
        self.must(!lost, "a body starts although its runner has seen its lease lost", || name.to_string());
    }

    /// A task sees every key that a task before it has set.
    pub fn a_task_sees_what_its_ancestors_have_set<I: Iterator<Item = Arc<str>>>(
        &mut self,
        run: RunRowId,
        ix: TaskIx,
        view: &BTreeSet<Arc<str>>,
        sets: impl Fn(TaskIx) -> I,
    ) {
        let graph = Arc::clone(&self.graph);
        let completed = |on: &TaskIx| self.task(run, *on).is_some_and(|task| task.status == TaskStatus::Completed);
        let mut set = graph.ancestors(ix).filter(completed).flat_map(|on| sets(on).map(move |key| (on, key)));
        let missing = set.find(|(_, key)| !view.contains(key));
        self.must(missing.is_none(), "a change of the context is lost", || {
            format!("{} does not see {missing:?}", graph.name(ix))
        });
    }

    /// A body that sleeps is entered again only when its time is reached.
    pub fn a_sleeping_body_is_left_alone(&mut self, run: RunRowId, ix: TaskIx) {
        let open = |entry: &&Entry| entry.state == EntryState::Open && entry.key.n > 0;
        let of = self.entries.iter().filter(|((of, task, _), _)| (*of, *task) == (run, ix)).map(|(_, entry)| entry);
        // One of several waits may be for a time that is not reached yet.
        let members: Vec<&EntryKey> = of.clone().flat_map(|entry| entry.operation.members()).collect();
        let latest = self.latest;
        let lone = |entry: &&Entry| !members.contains(&&entry.key);
        let sleeping = of.filter(open).filter(lone).find(|entry| entry.due().is_some_and(|due| due > latest)).cloned();
        let name = Arc::clone(self.graph.name(ix));
        self.must(sleeping.is_none(), "a sleeping body is entered before its time", || format!("{name}: {sleeping:?}"));
    }

    /// A body that has used up its time has failed, whether it returns or not.
    pub fn a_timeout_fails_its_attempt_at_once(&mut self, run: RunRowId, ix: TaskIx, attempt: u32) {
        let runs = |task: &Committed| task.status == TaskStatus::Running && task.attempts == attempt;
        let running = self.task(run, ix).is_none_or(runs) && self.run(run).is_none_or(|run| !run.status.is_ended());
        let name = Arc::clone(self.graph.name(ix));
        self.must(!running, "a timeout does not fail its attempt", || format!("attempt {attempt} of {name}"));
    }

    /// A result never waits behind a slow body: the committer looks every millisecond.
    pub fn a_result_never_waits_behind_a_slow_body(&mut self, age: Duration) {
        self.must(age <= Duration::from_millis(3), "a result waits behind a slow body", || format!("for {age:?}"));
    }
}
