//! What every store must do. A store's own test file calls [`crate::conformance!`] and gets one test per guarantee.

mod leases;
mod runs;
mod writes;

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use bide_core::record::{DoneRow, NewRun, RunRow, RunRowId, RunUpdate, StoredRun};
use bide_core::{
    Entry, EntryKey, EntryKind, EntryState, NO_MAP, RunId, RunStatus, TaskRow, TaskStatus, Time, Value, Write,
};
use bide_store::{Creation, LEASE, Lease, RunFilter, Store, StoreError};
use proptest::prelude::*;

use crate::rows;

pub use leases::*;
pub use runs::*;
pub use writes::*;

/// Makes one `#[test]` of every guarantee. The argument is a function that opens an empty store and hands it to a
/// check: `fn with_store(check: fn(&dyn Store))`.
#[macro_export]
macro_rules! conformance {
    ($with_store:path) => {
        $crate::conformance!($with_store:
            a_created_run_reads_back
            what_is_not_there_is_none_and_no_error
            a_key_names_one_run_of_its_workflow
            a_creation_of_unknown_outcome_can_be_repeated
            a_row_number_in_use_is_said_and_the_other_runs_are_created
            every_task_row_reads_back
            every_short_row_reads_back_as_a_task_completed_at_its_first_try
            every_journal_entry_reads_back
            every_run_update_reads_back
            a_later_row_or_entry_replaces_the_earlier
            a_journal_is_read_in_order_and_loses_what_is_dropped
            a_batch_is_written_as_a_whole_or_not_at_all
            a_lapsed_lease_is_taken_over_and_its_holder_fenced
            a_living_runner_keeps_its_runs
            who_leaves_frees_its_runs_and_is_fenced
            a_released_run_can_be_claimed_by_another
            what_a_runner_released_it_is_not_given_again_until_something_is_registered
            claims_are_oldest_first_and_only_what_was_asked_for
            a_run_is_claimed_by_one_of_many
            task_numbers_are_dense_and_the_same_in_every_version
            runs_are_listed_newest_first_and_filtered
            a_purge_deletes_what_ended_before_and_nothing_else
            only_an_ended_run_can_be_deleted
            news_reach_every_runner_and_own_commits_are_none
            commits_of_many_threads_are_all_there
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

static COUNTER: AtomicU64 = AtomicU64::new(1);

/// A fresh id with the milliseconds of a time.
pub fn fresh_id(at: Time) -> RunId {
    let n = COUNTER.fetch_add(1, Ordering::Relaxed);
    RunId::new(at.0 as u64 / 1000, n as u16, n << 40)
}

/// One runner on a store with a workflow of two tasks.
struct Desk<'s> {
    store: &'s dyn Store,
    lease: Lease,
    workflow: i64,
    version: i64,
}

fn names(names: &[&str]) -> Vec<(Arc<str>, Vec<Arc<str>>)> {
    names.iter().map(|name| (Arc::from(*name), Vec::new())).collect()
}

impl<'s> Desk<'s> {
    fn new(store: &'s dyn Store) -> Self {
        Self::named(store, "ingest")
    }

    fn named(store: &'s dyn Store, workflow: &str) -> Self {
        let found = ok(store.register(workflow, "v1", &names(&["fetch", "process"])));
        Self { store, lease: ok(store.enroll(START)), workflow: found.workflow, version: found.version }
    }

    fn new_run(&self, at: Time, key: Option<&str>) -> NewRun {
        NewRun {
            id: fresh_id(at),
            workflow: self.workflow,
            version: self.version,
            key: key.map(Into::into),
            inputs: Arc::from(&b"\x01a\x03n!"[..]),
            created_at: at,
        }
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

    fn claim(&self, now: Time) -> Vec<RunRowId> {
        ok(self.store.claim(self.lease, &[self.workflow], now, 100))
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

fn update(run: RunId, status: RunStatus, ended_at: Option<Time>) -> Write {
    Write::Run(Box::new(RunUpdate { run: run.row(), status, failure: None, ended_at, blocked_by: None, crashes: 0 }))
}

fn done(run: RunId, task: i64, output: &[u8]) -> Write {
    let (started_at, ended_at) = (later(1), later(2));
    Write::Done(DoneRow { run: run.row(), task, map: NO_MAP, output: Value::new(output), started_at, ended_at })
}

fn entry(run: RunId, name: &str, n: u32, seq: u32) -> Write {
    let entry = Entry {
        key: EntryKey { name: name.into(), n },
        seq,
        kind: EntryKind::Condition,
        state: EntryState::Open,
        proof: None,
        due: None,
        deadline: Some(later(60)),
        value: None,
        failure: None,
        opened_at: START,
        closed_at: None,
    };
    Write::Entry { run: run.row(), task: 0, map: NO_MAP, entry: Box::new(entry) }
}

fn exists(creation: &Creation) -> &RunRow {
    match creation {
        Creation::Exists(row) => row,
        other => panic!("{other:?}"),
    }
}
