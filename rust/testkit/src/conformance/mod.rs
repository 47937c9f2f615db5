//! What every store must do. A store's own test file calls [`crate::conformance!`] and gets one test per guarantee.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use bide_core::record::{DoneRow, Mark, NewRun, NewTask, RunRow, RunUpdate, StoredRun};
use bide_core::{
    Channel, Entry, EntryKey, NO_MAP, NewEvents, Operation, Origin, Outbox, Progress, ProgressRow, RunId, RunStatus,
    StoredEvents, TaskRef, TaskRow, TaskStatus, Time, Value, Write,
};
use bide_store::{
    Boot, ChangedRuns, Changes, Commit, CommitId, Creation, EventRange, LEASE, Lease, LeaseTime, Purged, RunFilter,
    Seen, Standing, Store, StoreError, Uptime,
};
use proptest::prelude::*;

use crate::rows;

#[expect(missing_docs, reason = "each check's name is its documentation")]
mod answers;
#[expect(missing_docs, reason = "each check's name is its documentation")]
mod batches;
#[expect(missing_docs, reason = "each check's name is its documentation")]
mod changes;
#[expect(missing_docs, reason = "each check's name is its documentation")]
mod children;
#[expect(missing_docs, reason = "each check's name is its documentation")]
mod claims;
#[expect(missing_docs, reason = "each check's name is its documentation")]
mod commits;
#[expect(missing_docs, reason = "each check's name is its documentation")]
mod control;
#[expect(missing_docs, reason = "each check's name is its documentation")]
mod convert;
#[expect(missing_docs, reason = "each check's name is its documentation")]
mod creation;
#[expect(missing_docs, reason = "each check's name is its documentation")]
mod leases;
#[expect(missing_docs, reason = "each check's name is its documentation")]
mod limits;
#[expect(missing_docs, reason = "each check's name is its documentation")]
mod listing;
#[expect(missing_docs, reason = "each check's name is its documentation")]
mod live;
#[expect(missing_docs, reason = "each check's name is its documentation")]
mod looks;
#[expect(missing_docs, reason = "each check's name is its documentation")]
mod messages;
#[expect(missing_docs, reason = "each check's name is its documentation")]
mod repeats;
#[expect(missing_docs, reason = "each check's name is its documentation")]
mod schedules;
#[expect(missing_docs, reason = "each check's name is its documentation")]
mod watches;

/// Makes one `#[test]` of every guarantee. The argument is a function that opens an empty store and hands it to a
/// check: `fn with_store(check: fn(&dyn Store))`.
#[macro_export]
macro_rules! conformance {
    ($with_store:path) => {
        $crate::conformance!($with_store:
            a_created_run_reads_back
            what_is_missing_is_none_and_no_error
            a_key_names_one_run_of_its_workflow
            a_creation_of_unknown_outcome_can_be_repeated
            a_key_with_other_inputs_or_a_row_number_in_use_creates_nothing
            runs_are_created_and_written_to_in_one_commit
            a_refused_request_concerns_no_other_of_its_commit
            requests_of_one_commit_see_the_keys_of_those_before
            requests_that_are_all_refused_write_nothing
            a_commit_that_fails_writes_and_creates_nothing_and_its_batch_is_whole
            a_repeated_commit_is_made_once
            a_repeated_claim_is_made_once
            a_repeated_message_is_sent_once
            every_task_row_reads_back
            every_short_row_reads_back_as_a_completed_task
            every_journal_entry_reads_back
            each_of_many_entries_of_a_batch_reads_back
            every_run_update_reads_back
            a_later_row_or_entry_replaces_the_earlier
            a_journal_is_read_in_order_and_loses_what_is_dropped
            a_batch_is_written_as_a_whole_or_not_at_all
            a_lapsed_lease_is_taken_over_and_its_holder_fenced
            a_wall_that_is_set_neither_ends_a_lease_nor_prolongs_it
            a_living_runner_keeps_its_runs
            leaving_frees_the_runs_and_fences_the_runner
            a_runner_is_alive_until_it_leaves_or_its_lease_runs_out
            a_claim_sets_marks_aside_and_blames_nobody
            versions_are_listed_and_a_run_moves_to_the_one_it_goes_on_with
            claims_are_oldest_first_and_only_what_was_asked_for
            what_is_given_back_is_as_it_was_created_and_what_belongs_to_others_stays
            unowned_runs_are_listed_by_version
            a_run_is_claimed_by_one_of_many
            what_a_claim_reads_is_what_a_load_reads
            task_numbers_are_dense_and_the_same_in_every_version
            runs_are_listed_newest_first_and_filtered
            runs_are_listed_by_each_status_and_by_a_range_of_ids
            runs_are_found_by_tags_keys_and_parents
            a_purge_deletes_what_ended_before_and_nothing_else
            a_purge_leaves_what_has_not_ended_however_old_it_is
            a_standing_agrees_with_the_run
            only_an_ended_run_can_be_deleted
            changes_reach_every_runner_and_own_commits_free_no_runs
            runs_that_end_or_pause_are_among_the_changes
            a_wait_ends_once_runs_belong_to_nobody
            an_interruption_ends_every_wait_before_or_after_its_begin
            commits_of_many_threads_are_all_there
            events_get_their_offsets_in_the_order_of_the_commits
            events_are_read_from_the_row_that_has_the_next_one
            every_row_of_events_reads_back
            a_channel_that_keeps_the_last_events_forgets_the_others
            progress_is_read_with_its_run_and_replaces_the_earlier
            what_a_run_shows_is_written_with_its_batch_or_not_at_all
            what_a_run_shows_is_deleted_with_it
            every_message_reads_back_in_the_order_in_which_it_came
            a_message_from_elsewhere_is_counted_as_an_arrival
            a_consumed_message_is_gone_and_its_number_of_arrival_not_given_again
            no_message_gets_the_number_of_arrival_of_one_that_is_gone
            a_message_is_consumed_from_its_place_on
            one_id_is_one_message_of_its_run
            a_message_is_refused_where_nobody_can_take_it
            declared_signals_read_back_with_their_version
            messages_go_with_their_run
            a_fenced_owner_neither_sends_nor_consumes
            a_message_ends_a_wait_for_changes
            an_answer_reads_back_and_the_first_one_stands
            answers_outlive_the_end_of_their_run_and_go_with_it
            an_answer_wakes_those_who_wait_for_changes
            the_first_answer_to_a_callback_stands
            a_child_names_its_parent_and_is_among_its_children
            a_child_and_the_record_of_its_start_are_one_commit
            many_children_are_created_together_or_not_at_all
            a_child_goes_with_its_parent_and_not_before
            a_purge_takes_a_parent_with_however_many_children
            a_control_request_stays_once_the_run_has_acted_on_it
            a_retry_reopens_an_ended_run_and_nothing_else_does
            a_run_that_stands_is_claimed_once_somebody_asks_for_it
            a_run_that_is_paused_on_request_is_owned_like_a_running_one
            a_request_of_a_parent_reopens_its_child
            a_run_that_nobody_executes_can_be_ended
            the_elements_of_a_task_are_dropped_with_their_journals
            a_run_that_nobody_executes_moves_to_another_version
            what_a_run_has_of_tasks_that_are_gone_is_deleted
            a_run_moves_to_another_workflow_unless_its_key_is_taken_there
            a_fork_stands_in_the_history_of_the_run_it_was_made_from
            open_waits_are_listed_oldest_first_and_in_pages
            what_nobody_waits_for_is_no_open_wait
            a_run_of_nobody_is_claimed_by_a_runner_that_has_its_workflow
            a_runner_is_shown_until_it_leaves
            what_has_not_ended_is_read_without_the_rest
            the_control_requests_of_a_run_are_listed
            a_schedule_reads_back_until_it_is_removed
            of_two_changes_of_a_schedule_the_first_stands_with_its_runs
            a_tick_whose_key_names_a_run_starts_no_other
            a_row_number_in_use_changes_no_schedule
            a_change_of_a_schedule_ends_waits_for_changes
            a_purge_leaves_schedules
            a_watch_reads_back_until_it_is_removed
            each_key_of_a_watch_starts_one_run
            of_two_changes_of_a_watch_the_first_stands_with_its_runs
            an_item_whose_key_names_a_run_starts_no_other
            a_row_number_in_use_changes_no_watch
            an_item_of_a_watch_ends_waits_for_changes_and_a_purge_leaves_its_key
            a_limit_is_defined_once_and_its_newest_definition_counts
            a_share_is_released_by_the_commit_that_ends_its_attempt
            a_batch_that_fails_releases_no_share
            a_commit_grants_what_it_releases_or_nothing_if_it_fails
            what_attempts_pass_on_is_recorded_before_anything_is_released
            a_body_that_waits_does_not_execute_and_takes_that_again
            each_value_of_a_key_has_shares_of_its_own
            starts_count_for_the_span_of_their_rate
            a_runner_that_is_gone_executes_nothing_and_what_waits_keeps_its_share
            another_runner_that_waits_gets_its_turn_and_is_told
            a_share_moves_with_its_task_to_another_version
            behind_one_that_starts_and_is_held_so_are_others_but_none_that_has_a_share
            what_is_not_used_of_a_limit_is_forgotten
        );
    };
    ($with_store:path: $($check:ident)+) => {
        $(#[test]
        fn $check() {
            $with_store($crate::conformance::$check);
        })+
    };
}

/// A time in 2026.
const START: Time = Time(1_795_000_000_000_000);

fn later(seconds: u64) -> Time {
    START.after(Duration::from_secs(seconds))
}

/// This time for a lease: by a wall that was not set since [`START`], and by the uptime.
fn at(now: Time) -> LeaseTime {
    LeaseTime { wall: now, uptime: Some(Uptime { boot: Boot(1), micros: now.0 - START.0 + 60_000_000 }) }
}

static COUNTER: AtomicU64 = AtomicU64::new(1);

/// A fresh id with the milliseconds of a time.
pub fn fresh_id(at: Time) -> RunId {
    let n = COUNTER.fetch_add(1, Ordering::Relaxed);
    RunId::new(at.0 as u64 / 1000, n as u16, n << 40)
}

/// One runner on a store with a workflow of two tasks.
struct Desk<'s> {
    /// The store under test.
    store: &'s dyn Store,
    /// The lease of the runner.
    lease: Lease,
    /// The number of the workflow.
    workflow: i64,
    /// The number of its version.
    version: i64,
}

fn names(names: &[&str]) -> Vec<NewTask> {
    names.iter().map(|name| NewTask::new(*name, Vec::new())).collect()
}

impl<'s> Desk<'s> {
    fn new(store: &'s dyn Store) -> Self {
        Self::named(store, "ingest")
    }

    fn named(store: &'s dyn Store, workflow: &str) -> Self {
        let found = ok(store.register(workflow, "v1", &names(&["fetch", "process"])));
        Self { store, lease: ok(store.enroll(at(START))), workflow: found.number, version: found.version }
    }

    fn new_run(&self, at: Time, key: Option<&str>) -> NewRun {
        let inputs = Arc::from(&b"\x01a\x03n!"[..]);
        NewRun::new(fresh_id(at), self.workflow, self.version, at).with_key(key.map(Into::into)).with_inputs(inputs)
    }

    fn create(&self, at: Time, key: Option<&str>) -> RunId {
        let new = self.new_run(at, key);
        assert_eq!(ok(self.store.create(self.lease, std::slice::from_ref(&new))), [Creation::Created]);
        new.id
    }

    fn commit(&self, writes: Vec<Write>) {
        let mut batch = writes;
        let _committed = ok(self.store.commit(self.lease, &mut batch));
    }

    fn end(&self, run: RunId, at: Time) {
        self.commit(vec![update(run, RunStatus::Completed, Some(at))]);
    }

    fn load(&self, run: RunId) -> StoredRun {
        ok(self.store.load(run)).expect("the run is there")
    }

    fn claim(&self, now: Time) -> Vec<RunId> {
        ok(self.store.claim(self.lease, &[self.version], at(now), 100))
    }
}

#[track_caller]
fn ok<T>(result: Result<T, StoreError>) -> T {
    match result {
        Ok(value) => value,
        Err(error) => panic!("{error:?}"),
    }
}

#[track_caller]
fn fenced<T: std::fmt::Debug>(result: Result<T, StoreError>, lease: Lease) {
    assert!(matches!(result, Err(StoreError::Fenced { runner }) if runner == lease.runner), "{result:?}");
}

/// A purge from its first step to its last; answers how many runs it deleted.
fn purge_all(store: &dyn Store, before: Time) -> usize {
    let (mut from, mut deleted) = (Some(0), 0);
    while let Some(row) = from {
        let purged = ok(store.purge(before, row, 7));
        deleted += purged.runs;
        from = purged.next;
    }
    deleted
}

fn update(run: RunId, status: RunStatus, ended_at: Option<Time>) -> Write {
    Write::Run(Box::new(RunUpdate { ended_at, ..RunUpdate::new(run.row(), status) }))
}

fn done(run: RunId, task: i64, output: &[u8]) -> Write {
    Write::Done(DoneRow::new(run.row(), task, Value::new(output), later(1), later(2)))
}

fn entry(run: RunId, name: &str, n: u32, seq: u32) -> Write {
    let operation = Operation::Condition { proof: None };
    let entry =
        Entry { deadline: Some(later(60)), ..Entry::new(EntryKey { name: name.into(), n }, seq, operation, START) };
    Write::Entry { run: run.row(), task: 0, map: NO_MAP, entry: Arc::new(entry) }
}

fn exists(creation: &Creation) -> &RunRow {
    match creation {
        Creation::Exists(row) => row,
        other => panic!("{other:?}"),
    }
}

pub use answers::*;
pub use batches::*;
pub use changes::*;
pub use children::*;
pub use claims::*;
pub use commits::*;
pub use control::*;
pub use convert::*;
pub use creation::*;
pub use leases::*;
pub use limits::*;
pub use listing::*;
pub use live::*;
pub use looks::*;
pub use messages::*;
pub use repeats::*;
pub use schedules::*;
pub use watches::*;
