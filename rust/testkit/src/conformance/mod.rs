//! What every store must do. A store's own test file calls [`crate::conformance!`] and gets one test per guarantee.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use bide_core::record::{DoneRow, Mark, NewRun, RunRow, RunUpdate, StoredRun};
use bide_core::{Entry, EntryKey, NO_MAP, Operation, RunId, RunStatus, TaskRow, TaskStatus, Time, Value, Write};
use bide_store::{
    Boot, ChangedRuns, Changes, Commit, CommitId, Creation, LEASE, Lease, LeaseTime, Purged, RunFilter, Seen, Standing,
    Store, StoreError, Uptime,
};
use proptest::prelude::*;

use crate::rows;

#[expect(missing_docs, reason = "each check's name is its documentation")]
mod changes;
#[expect(missing_docs, reason = "each check's name is its documentation")]
mod commits;

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
            a_key_with_other_inputs_or_a_row_number_in_use_creates_nothing
            runs_are_created_and_written_to_in_one_commit
            a_refused_request_concerns_no_other_of_its_commit
            requests_of_one_commit_see_the_keys_of_those_before
            what_is_refused_alone_writes_nothing
            a_commit_that_fails_writes_and_creates_nothing_and_its_batch_is_whole
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
            a_runner_is_alive_from_its_enrolment_until_it_leaves_or_its_lease_runs_out
            whoever_claims_a_run_finds_its_marks_set_aside_and_blames_nobody
            versions_are_listed_and_a_run_moves_to_the_one_it_goes_on_with
            claims_are_oldest_first_and_only_what_was_asked_for
            what_belongs_to_nobody_is_told_by_version
            a_run_is_claimed_by_one_of_many
            task_numbers_are_dense_and_the_same_in_every_version
            runs_are_listed_newest_first_and_filtered
            a_purge_deletes_what_ended_before_and_nothing_else
            a_purge_leaves_what_has_not_ended_however_old_it_is
            a_standing_tells_where_a_run_stands
            only_an_ended_run_can_be_deleted
            changes_reach_every_runner_and_own_commits_free_no_runs
            runs_that_end_or_pause_are_among_the_changes
            a_wait_ends_once_runs_belong_to_nobody
            an_interruption_ends_every_wait_before_or_after_its_begin
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
    Write::Entry { run: run.row(), task: 0, map: NO_MAP, entry: Box::new(entry) }
}

fn exists(creation: &Creation) -> &RunRow {
    match creation {
        Creation::Exists(row) => row,
        other => panic!("{other:?}"),
    }
}

#[expect(missing_docs, reason = "each check's name is its documentation")]
mod checks {
    use super::*;

    pub fn a_created_run_reads_back(store: &dyn Store) {
        let desk = Desk::new(store);
        let new = desk.new_run(START, Some("2026-11-24"));
        assert_eq!(ok(store.create(desk.lease, std::slice::from_ref(&new))), [Creation::Created]);

        let stored = desk.load(new.id);
        let expected = RunRow {
            key: new.key,
            inputs: new.inputs,
            runner: Some(desk.lease.runner),
            ..RunRow::new(new.id, "ingest".into(), "v1".into(), START)
        };
        assert_eq!(stored.run, expected);
        assert_eq!(stored.tasks.iter().map(|task| &*task.name).collect::<Vec<_>>(), ["fetch", "process"]);
        assert!(stored.rows.is_empty() && stored.entries.is_empty());
    }

    pub fn what_is_not_there_is_none_and_no_error(store: &dyn Store) {
        let desk = Desk::new(store);
        let stranger = fresh_id(START);
        assert_eq!(ok(store.load(stranger)), None);
        assert_eq!(ok(store.by_key("nothing", None)), []);
        assert_eq!(ok(store.list(&RunFilter::default())), []);
        assert!(!ok(store.delete(stranger)));
        assert_eq!(ok(store.purge(Time::NEVER, 0, 10)).runs, 0);
        assert_eq!(desk.claim(START), [] as [RunId; 0]);
        // An id that shares the row number, but not the rest, is another run.
        let run = desk.create(START, None);
        assert_eq!(ok(store.load(RunId(run.0 ^ 1))), None);
        assert!(!ok(store.delete(RunId(run.0 ^ 1))));
    }

    pub fn a_key_names_one_run_of_its_workflow(store: &dyn Store) {
        let (ingest, report) = (Desk::new(store), Desk::named(store, "report"));
        let first = ingest.create(START, Some("monday"));
        let again = [ingest.new_run(later(1), Some("monday")), ingest.new_run(later(1), Some("tuesday"))];
        let made = ok(store.create(ingest.lease, &again));
        assert_eq!(exists(&made[0]).id, first);
        assert_eq!(exists(&made[0]).inputs, again[0].inputs);
        assert_eq!(made[1], Creation::Created);
        assert_eq!(ok(store.load(again[0].id)), None);

        // Twice in one call, too.
        let twice = [ingest.new_run(later(2), Some("friday")), ingest.new_run(later(2), Some("friday"))];
        let made = ok(store.create(ingest.lease, &twice));
        assert_eq!((&made[0], exists(&made[1]).id), (&Creation::Created, twice[0].id));

        // The same key of another workflow is another run.
        let other = report.create(later(3), Some("monday"));
        let found = ok(store.by_key("monday", None));
        assert_eq!(found, [(first, "ingest".into()), (other, "report".into())]);
        assert_eq!(ok(store.by_key("monday", Some("report"))), [(other, "report".into())]);
        assert_eq!(ok(store.by_key("monday", Some("nobody"))), []);
    }

    pub fn a_creation_of_unknown_outcome_can_be_repeated(store: &dyn Store) {
        let (desk, neighbour) = (Desk::new(store), Desk::new(store));
        for new in [desk.new_run(START, None), desk.new_run(START, Some("once"))] {
            let new = std::slice::from_ref(&new);
            assert_eq!(ok(store.create(desk.lease, new)), [Creation::Created]);
            assert_eq!(ok(store.create(desk.lease, new)), [Creation::Created]);
            // Who does not have the run must not begin it.
            assert_eq!(exists(&ok(store.create(neighbour.lease, new))[0]).id, new[0].id);
        }
        assert_eq!(ok(store.list(&RunFilter::default())).len(), 2);
    }

    pub fn a_key_with_other_inputs_or_a_row_number_in_use_creates_nothing(store: &dyn Store) {
        let (desk, neighbour) = (Desk::new(store), Desk::new(store));
        let first = desk.create(START, Some("taken"));
        let plain = || desk.new_run(START, None);
        let keyed = |key, inputs: &'static [u8]| desk.new_run(START, Some(key)).with_inputs(Arc::from(inputs));
        let mut unlucky = desk.new_run(START, Some("key"));
        unlucky.id = RunId(first.0 ^ 1);
        let (same, other) = (desk.new_run(START, None).inputs, Arc::from(&b"\x01a\x03n?"[..]));
        assert_ne!(same, other);
        let create = |runs: &[NewRun]| {
            // Whoever asks: the run that has the key may be anybody's.
            let made = ok(store.create(neighbour.lease, runs));
            assert_eq!(ok(store.list(&RunFilter::default())).len(), 1);
            for run in runs {
                assert_eq!(ok(store.load(run.id)).is_some(), run.id == first);
            }
            made
        };
        let refused = |made: &Creation| match made {
            Creation::OtherInputs(row) => (row.id, row.inputs.clone()),
            made => panic!("{made:?}"),
        };

        for before in 0..3 {
            for after in 0..3 {
                let around = |one: &NewRun| -> Vec<NewRun> {
                    let before = (0..before).map(|_| plain()).chain([one.clone()]);
                    before.chain((0..after).map(|_| plain())).collect()
                };
                let made = create(&around(&keyed("taken", b"\x01a\x03n?")));
                assert_eq!(refused(&made[before]), (first, same.clone()));
                assert_eq!(create(&around(&unlucky))[before], Creation::NumberTaken);
            }
        }
        // A key that is new and used twice.
        let twice = [keyed("new", b"\x01a\x03n!"), plain(), keyed("new", b"\x01a\x03n?")];
        assert_eq!(refused(&create(&twice)[2]), (twice[0].id, twice[0].inputs.clone()));
        assert_eq!(ok(store.by_key("new", None)), []);

        // Without what is refused, all of it is created.
        unlucky.id = fresh_id(START);
        let fine = [plain(), unlucky, keyed("new", b"\x01a\x03n?"), keyed("taken", b"\x01a\x03n!")];
        let made = ok(store.create(neighbour.lease, &fine));
        assert_eq!(made[..3], [Creation::Created, Creation::Created, Creation::Created]);
        assert_eq!(exists(&made[3]).id, first);
        // Once more, as after an unknown outcome, beside what is refused: they stay.
        let again = [fine[0].clone(), fine[1].clone(), keyed("taken", b"\x01a\x03n?")];
        assert_eq!(refused(&ok(store.create(neighbour.lease, &again))[2]).0, first);
        assert_eq!(ok(store.list(&RunFilter::default())).len(), 4);
    }

    pub fn every_task_row_reads_back(store: &dyn Store) {
        let desk = Desk::new(store);
        proptest!(|(mut row in rows::task_rows())| {
            let run = desk.create(START, None);
            row.run = run.row();
            desk.commit(vec![Write::Task(Box::new(row.clone()))]);
            prop_assert_eq!(desk.load(run).rows, vec![row]);
        });
    }

    pub fn every_short_row_reads_back_as_a_task_completed_at_its_first_try(store: &dyn Store) {
        let desk = Desk::new(store);
        proptest!(|(mut row in rows::done_rows())| {
            let run = desk.create(START, None);
            row.run = run.row();
            desk.commit(vec![Write::Done(row.clone())]);
            let expected = TaskRow {
                run: row.run,
                task: row.task,
                map: row.map,
                status: TaskStatus::Completed,
                sub_status: None,
                attempts: 1,
                mark: Mark::default(),
                output: Some(row.output),
                changes: None,
                failure: None,
                first_started_at: Some(row.started_at),
                started_at: Some(row.started_at),
                ended_at: Some(row.ended_at),
                waited: 0,
                retry_at: None,
                blocked_by: None,
            };
            prop_assert_eq!(desk.load(run).rows, vec![expected]);
        });
    }

    pub fn every_journal_entry_reads_back(store: &dyn Store) {
        let desk = Desk::new(store);
        proptest!(|(entry in rows::entries(), task in 0..50_i64, map in rows::maps())| {
            let run = desk.create(START, None);
            desk.commit(vec![Write::Entry { run: run.row(), task, map, entry: Box::new(entry.clone()) }]);
            prop_assert_eq!(desk.load(run).entries, vec![(task, map, entry)]);
        });
    }

    pub fn every_run_update_reads_back(store: &dyn Store) {
        let desk = Desk::new(store);
        proptest!(|(mut update in rows::run_updates())| {
            let run = desk.create(START, None);
            update.run = run.row();
            desk.commit(vec![Write::Run(Box::new(update.clone()))]);
            let found = desk.load(run).run;
            prop_assert_eq!(found.status, update.status);
            prop_assert_eq!(found.failure, update.failure);
            prop_assert_eq!(found.ended_at, update.ended_at);
            prop_assert_eq!(found.blocked_by, update.blocked_by);
            prop_assert_eq!(found.crashes, update.crashes);
            let owner = (!update.status.is_ended()).then_some(desk.lease.runner);
            prop_assert_eq!(found.runner, owner);
        });
    }

    pub fn a_later_row_or_entry_replaces_the_earlier(store: &dyn Store) {
        let desk = Desk::new(store);
        let run = desk.create(START, None);
        let mut row = TaskRow {
            status: TaskStatus::Running,
            attempts: 1,
            mark: Mark { times: 1, executes: true },
            first_started_at: Some(START),
            started_at: Some(START),
            blocked_by: Some("a file".into()),
            ..TaskRow::pending(run.row(), 1)
        };
        desk.commit(vec![Write::Task(Box::new(row.clone())), entry(run, "ready", 1, 1)]);
        row.attempts = 2;
        row.started_at = Some(later(9));
        row.blocked_by = None;
        desk.commit(vec![Write::Task(Box::new(row.clone())), entry(run, "ready", 1, 7), done(run, 0, b"t")]);

        let stored = desk.load(run);
        assert_eq!(stored.rows.iter().map(|row| row.task).collect::<Vec<_>>(), [0, 1]);
        assert_eq!(stored.rows[1], row);
        assert_eq!(stored.entries.iter().map(|(_, _, entry)| entry.seq).collect::<Vec<_>>(), [7]);
    }

    pub fn a_journal_is_read_in_order_and_loses_what_is_dropped(store: &dyn Store) {
        let desk = Desk::new(store);
        let run = desk.create(START, None);
        let other = desk.create(START, None);
        desk.commit(vec![
            entry(run, "b", 1, 1),
            entry(run, "a", 2, 3),
            entry(run, "c", 1, 4),
            entry(run, "a", 1, 2),
            entry(other, "a", 1, 1),
        ]);
        let order = |run| -> Vec<String> {
            desk.load(run).entries.iter().map(|(_, _, it)| format!("{}{}", it.key.name, it.key.n)).collect()
        };
        assert_eq!(order(run), ["b1", "a1", "a2", "c1"]);

        let keys = vec![EntryKey { name: "a".into(), n: 1 }, EntryKey { name: "c".into(), n: 1 }];
        desk.commit(vec![Write::DropEntries { run: run.row(), task: 0, map: NO_MAP, keys }]);
        assert_eq!(order(run), ["b1", "a2"]);
        assert_eq!(order(other), ["a1"]);
    }

    pub fn a_batch_is_written_as_a_whole_or_not_at_all(store: &dyn Store) {
        let desk = Desk::new(store);
        let run = desk.create(START, None);
        desk.commit(vec![done(run, 0, b"t")]);
        let mut batch = vec![done(run, 1, b"t"), entry(run, "a", 1, 1), done(run, 0, b"f")];
        let failed = store.commit(desk.lease, &mut batch);
        assert!(matches!(failed, Err(StoreError::Corrupt(_))), "{failed:?}");
        let stored = desk.load(run);
        assert_eq!(stored.rows.len(), 1);
        assert_eq!(stored.rows[0].output, Some(Value::new(b"t")));
        assert!(stored.entries.is_empty());
    }

    pub fn a_lapsed_lease_is_taken_over_and_its_holder_fenced(store: &dyn Store) {
        let (slow, quick) = (Desk::new(store), Desk::new(store));
        let run = slow.create(START, None);
        let before = START.after(LEASE - Duration::from_secs(1));
        ok(store.renew(quick.lease, at(before)));
        assert_eq!(quick.claim(before), [] as [RunId; 0]);
        let after = START.after(LEASE);
        assert_eq!(quick.claim(after), [run]);

        fenced(store.commit(slow.lease, &mut vec![done(run, 0, b"f")]), slow.lease);
        fenced(store.create(slow.lease, &[slow.new_run(after, None)]), slow.lease);
        fenced(store.renew(slow.lease, at(after)), slow.lease);
        fenced(store.claim(slow.lease, &[slow.version], at(after), 1), slow.lease);
        ok(store.leave(slow.lease));
        let stored = quick.load(run);
        assert_eq!((stored.run.runner, stored.rows), (Some(quick.lease.runner), vec![]));
        assert_eq!(ok(store.list(&RunFilter::default())).len(), 1);
        // It may come back as a new runner.
        assert_ne!(ok(store.enroll(at(after))).runner, slow.lease.runner);
    }

    pub fn a_wall_that_is_set_neither_ends_a_lease_nor_prolongs_it(store: &dyn Store) {
        let (one, other) = (Desk::new(store), Desk::new(store));
        let run = one.create(START, None);
        let by_wall = |jump: i64, up: Time| LeaseTime { wall: Time(START.0 + jump * 1_000_000), ..at(up) };
        for jump in [-31_536_000, -16, -1, 1, 14, 16, 31_536_000] {
            let now = by_wall(jump, later(14));
            assert_eq!(ok(store.claim(other.lease, &[other.version], now, 9)), [], "{jump} s");
            assert!(ok(store.is_alive(one.lease.runner, now)), "{jump} s");
        }
        let set_back = by_wall(-31_536_000, START.after(LEASE));
        assert!(!ok(store.is_alive(one.lease.runner, set_back)));
        ok(store.renew(other.lease, by_wall(3600, later(10))));
        assert_eq!(ok(store.claim(other.lease, &[other.version], set_back, 9)), [run]);
    }

    pub fn a_living_runner_keeps_its_runs(store: &dyn Store) {
        let (one, other) = (Desk::new(store), Desk::new(store));
        one.create(START, None);
        ok(store.renew(one.lease, at(later(10))));
        ok(store.renew(other.lease, at(later(20))));
        assert_eq!(other.claim(later(20)), [] as [RunId; 0]);
        assert_eq!(one.claim(later(20)), [] as [RunId; 0]);
    }

    pub fn a_runner_is_alive_from_its_enrolment_until_it_leaves_or_its_lease_runs_out(store: &dyn Store) {
        let lease = ok(store.enroll(at(START)));
        assert!(ok(store.is_alive(lease.runner, at(later(1)))));
        assert!(!ok(store.is_alive(lease.runner, at(START.after(LEASE)))));
        ok(store.renew(lease, at(later(5))));
        assert!(ok(store.is_alive(lease.runner, at(START.after(LEASE)))));
        ok(store.leave(lease));
        assert!(!ok(store.is_alive(lease.runner, at(later(6)))));
        assert!(!ok(store.is_alive(lease.runner + 1_000, at(later(6)))));
    }

    pub fn who_leaves_frees_its_runs_and_is_fenced(store: &dyn Store) {
        let (one, other) = (Desk::new(store), Desk::new(store));
        let (open, ended) = (one.create(START, None), one.create(START, None));
        let paused = one.create(START, None);
        one.end(ended, later(1));
        one.commit(vec![update(paused, RunStatus::Paused, None)]);
        ok(store.leave(one.lease));
        ok(store.leave(one.lease));
        assert_eq!(other.load(open).run.runner, None);
        assert_eq!(other.load(paused).run.runner, None);
        fenced(store.commit(one.lease, &mut vec![done(open, 0, b"t")]), one.lease);
        assert_eq!(other.claim(later(2)), [open]);
        let found = other.load(open).run;
        assert_eq!((found.runner, found.status), (Some(other.lease.runner), RunStatus::Running));
    }

    pub fn whoever_claims_a_run_finds_its_marks_set_aside_and_blames_nobody(store: &dyn Store) {
        let desk = Desk::new(store);
        let run = desk.create(START, None);
        let mark = Mark { times: 3, executes: true };
        let marked = TaskRow { mark, ..TaskRow::pending(run.row(), 1) };
        let mut owner = desk.lease;
        for leaves in [true, false] {
            let _committed = ok(store.commit(owner, &mut vec![Write::Task(Box::new(marked.clone()))]));
            assert_eq!(desk.load(run).rows[0].mark, mark);
            // It leaves, or its lease runs out: neither is a death.
            let now = if leaves { START } else { later(60) };
            if leaves {
                ok(store.leave(owner));
            }
            let next = ok(store.enroll(at(now)));
            assert_eq!(ok(store.claim(next, &[desk.version], at(now), 9)), [run]);
            let stored = desk.load(run);
            assert_eq!(stored.rows[0].mark, mark.set_aside());
            assert_eq!(stored.run.crashes, 0);
            owner = next;
        }
    }

    pub fn versions_are_listed_and_a_run_moves_to_the_one_it_goes_on_with(store: &dyn Store) {
        let desk = Desk::new(store);
        let newer = ok(store.register("ingest", "v2", &names(&["fetch", "process", "report"])));
        ok(store.register("other", "v1", &names(&["fetch"])));
        let listed = ok(store.versions(desk.workflow));
        let seen: Vec<(i64, &str, usize)> =
            listed.iter().map(|stored| (stored.version, &*stored.hash, stored.tasks.len())).collect();
        assert_eq!(seen, [(desk.version, "v1", 2), (newer.version, "v2", 3)]);
        assert_eq!(listed[1].tasks, newer.tasks);

        let run = desk.create(START, None);
        ok(store.leave(desk.lease));
        let other = ok(store.enroll(at(START)));
        assert_eq!(ok(store.claim(other, &[newer.version], at(START), 9)), []);
        assert_eq!(ok(store.claim(other, &[desk.version], at(START), 9)), [run]);
        let version = Some(newer.version);
        let running = RunUpdate { version, ..RunUpdate::new(run.row(), RunStatus::Running) };
        let _committed = ok(store.commit(other, &mut vec![Write::Run(Box::new(running))]));
        let stored = desk.load(run);
        assert_eq!((&*stored.run.version, stored.tasks.len()), ("v2", 3));
        ok(store.leave(other));
        let third = ok(store.enroll(at(START)));
        assert_eq!(ok(store.claim(third, &[desk.version], at(START), 9)), []);
        assert_eq!(ok(store.claim(third, &[newer.version], at(START), 9)), [run]);
    }

    pub fn claims_are_oldest_first_and_only_what_was_asked_for(store: &dyn Store) {
        let (ingest, report) = (Desk::new(store), Desk::named(store, "report"));
        let third = ingest.create(later(3), None);
        let first = ingest.create(later(1), None);
        let second = report.create(later(2), None);
        let paused = ingest.create(later(0), None);
        ingest.commit(vec![update(paused, RunStatus::Paused, None)]);
        ok(store.leave(ingest.lease));
        ok(store.leave(report.lease));

        let claimer = Desk::named(store, "claimer");
        assert_eq!(claimer.claim(later(4)), [] as [RunId; 0]);
        let both = [report.version, ingest.version];
        assert_eq!(ok(store.claim(claimer.lease, &both, at(later(4)), 2)), [first, second]);
        assert_eq!(ok(store.claim(claimer.lease, &both, at(later(4)), 2)), [third]);
        assert_eq!(ok(store.claim(claimer.lease, &both, at(later(4)), 2)), [] as [RunId; 0]);
    }

    pub fn what_belongs_to_nobody_is_told_by_version(store: &dyn Store) {
        let (ingest, report) = (Desk::new(store), Desk::named(store, "report"));
        let newer = ok(store.register("ingest", "v2", &names(&["fetch"])));
        let of = |desk: &Desk<'_>| (desk.workflow, desk.version);
        let unowned = || ok(store.unowned());
        assert_eq!(unowned(), []);
        let runs: Vec<RunId> = (0..3).map(|n| ingest.create(later(n), None)).collect();
        let mut other = ingest.new_run(later(4), None);
        other.version = newer.version;
        assert_eq!(ok(store.create(ingest.lease, std::slice::from_ref(&other))), [Creation::Created]);
        let (paused, ended) = (report.create(later(5), None), report.create(later(5), None));
        report.commit(vec![update(paused, RunStatus::Paused, None)]);
        report.end(ended, later(6));
        assert_eq!(unowned(), [], "all of them belong to somebody");

        ok(store.leave(report.lease));
        assert_eq!(unowned(), [], "what is paused or has ended is nobody's concern");
        ok(store.leave(ingest.lease));
        let both = [of(&ingest), (newer.number, newer.version)];
        assert_eq!(unowned(), both);
        let claimer = Desk::named(store, "report");
        let open = claimer.create(later(7), None);
        assert_eq!(unowned(), both);
        assert_eq!(ok(store.claim(claimer.lease, &[newer.version], at(later(7)), 9)), [other.id]);
        assert_eq!(unowned(), [of(&ingest)]);
        assert_eq!(ok(store.claim(claimer.lease, &[ingest.version], at(later(7)), 9)), runs);
        assert_eq!(unowned(), []);

        // What a dead runner had, once anything was claimed, be it of no version.
        let finder = Desk::new(store);
        ok(store.renew(finder.lease, at(later(9))));
        let after = later(1).after(LEASE);
        assert_eq!(ok(store.claim(finder.lease, &[], at(after), 0)), []);
        assert_eq!(unowned(), [both[0], both[1], of(&report)]);
        assert_eq!(ok(store.claim(finder.lease, &[report.version], at(after), 9)), [open]);
    }

    pub fn a_run_is_claimed_by_one_of_many(store: &dyn Store) {
        let desk = Desk::new(store);
        let runs: Vec<RunId> = (0..40).map(|at| desk.create(later(at), None)).collect();
        ok(store.leave(desk.lease));
        let mut claimed: Vec<RunId> = std::thread::scope(|scope| {
            let claim = || {
                let desk = Desk::new(store);
                let mut mine = Vec::new();
                loop {
                    let some = ok(store.claim(desk.lease, &[desk.version], at(START), 3));
                    if some.is_empty() {
                        return mine;
                    }
                    mine.extend(some);
                }
            };
            let threads: Vec<_> = (0..4).map(|_| scope.spawn(claim)).collect();
            threads.into_iter().flat_map(|thread| thread.join().expect("no panic")).collect()
        });
        claimed.sort_unstable();
        assert_eq!(claimed, runs);
    }

    pub fn task_numbers_are_dense_and_the_same_in_every_version(store: &dyn Store) {
        let numbers = |workflow: &str, version: &str, tasks: &[(Arc<str>, Vec<Arc<str>>)]| {
            let found = ok(store.register(workflow, version, tasks));
            let ids: Vec<i64> = found.tasks.iter().map(|task| task.id).collect();
            (found, ids)
        };
        let (first, ids) = numbers("ingest", "v1", &names(&["fetch", "process"]));
        assert_eq!(ids, [0, 1]);
        let (second, ids) = numbers("ingest", "v2", &names(&["process", "näher\0\u{10ffff}", "fetch"]));
        assert_eq!(ids, [1, 2, 0]);
        assert_eq!(&*second.tasks[1].name, "näher\0\u{10ffff}");
        assert_eq!(second.number, first.number);
        assert_ne!(second.version, first.version);
        let (other, ids) = numbers("report", "v1", &[("print".into(), vec!["fetch".into(), "b".into()])]);
        assert_eq!(ids, [0]);
        assert_eq!(other.tasks[0].dependencies, ["fetch".into(), "b".into()]);
        assert_ne!(other.number, first.number);

        let (again, ids) = numbers("ingest", "v1", &names(&["fetch", "process"]));
        assert_eq!((again.number, again.version, ids), (first.number, first.version, vec![0, 1]));
    }

    pub fn runs_are_listed_newest_first_and_filtered(store: &dyn Store) {
        let (ingest, report) = (Desk::new(store), Desk::named(store, "report"));
        let old = ingest.create(START, None);
        let new = ingest.create(later(200), None);
        let other = report.create(later(100), Some("key"));
        ingest.end(old, later(300));
        let list =
            |filter: RunFilter| -> Vec<RunId> { ok(store.list(&filter)).iter().map(|stored| stored.run.id).collect() };
        let all = RunFilter::default;
        assert_eq!(list(all()), [new, other, old]);
        // With all that was recorded of them.
        ingest.commit(vec![done(new, 0, b"t"), done(new, 1, b"f"), entry(new, "ready", 1, 1)]);
        report.commit(vec![entry(other, "b", 1, 2), entry(other, "a", 1, 1), done(other, 1, b"t")]);
        let listed = ok(store.list(&RunFilter { limit: Some(2), ..all() }));
        assert_eq!(listed, [ingest.load(new), report.load(other)]);
        assert_eq!(list(RunFilter { limit: Some(2), ..all() }), [new, other]);
        assert_eq!(list(RunFilter { limit: Some(0), ..all() }), []);
        assert_eq!(list(RunFilter { status: Some(RunStatus::Completed), ..all() }), [old]);
        assert_eq!(list(RunFilter { workflow: Some("report".into()), ..all() }), [other]);
        assert_eq!(list(RunFilter { workflow: Some("nobody".into()), ..all() }), []);
        assert_eq!(list(RunFilter { since: Some(later(100)), ..all() }), [new, other]);
        let mixed = RunFilter {
            since: Some(later(1)),
            workflow: Some("ingest".into()),
            limit: Some(5),
            ..RunFilter::default()
        };
        assert_eq!(list(mixed), [new]);
    }

    pub fn a_purge_deletes_what_ended_before_and_nothing_else(store: &dyn Store) {
        let desk = Desk::new(store);
        let runs: Vec<RunId> = (0..5).map(|at| desk.create(later(at), Some(&format!("k{at}")))).collect();
        for (run, at) in runs.iter().zip(10..) {
            desk.commit(vec![done(*run, 0, b"t"), entry(*run, "a", 1, 1)]);
            if at < 14 {
                desk.end(*run, later(at));
            }
        }
        let left = || -> Vec<RunId> {
            ok(store.list(&RunFilter::default())).iter().rev().map(|stored| stored.run.id).collect()
        };
        assert_eq!(ok(store.purge(later(10), 0, 10)), Purged { runs: 0, next: None });
        let first = ok(store.purge(later(13), 0, 2));
        assert_eq!(first.runs, 2);
        assert_eq!(left(), runs[2..]);
        let second = ok(store.purge(later(13), first.next.expect("there are more runs"), 2));
        assert_eq!(second.runs, 1);
        assert_eq!(left(), runs[3..]);
        assert_eq!(purge_all(store, later(13)), 0);
        assert_eq!(left(), runs[3..]);
        assert_eq!(ok(store.load(runs[0])), None);
        assert_eq!(desk.load(runs[4]).entries.len(), 1);
        // The key is free again.
        assert_eq!(ok(store.by_key("k0", None)), []);
        desk.create(later(20), Some("k0"));
    }

    pub fn a_purge_leaves_what_has_not_ended_however_old_it_is(store: &dyn Store) {
        let desk = Desk::new(store);
        let statuses = [RunStatus::Running, RunStatus::Paused, RunStatus::Failed, RunStatus::Completed];
        let runs: Vec<RunId> = (0..40).map(|at| desk.create(later(at), None)).collect();
        for (run, status) in runs.iter().zip(statuses.into_iter().cycle()) {
            let ended_at = status.is_ended().then(|| later(50));
            desk.commit(vec![update(*run, status, ended_at)]);
        }
        assert_eq!(purge_all(store, later(60)), 20);
        let left: Vec<RunStatus> =
            ok(store.list(&RunFilter::default())).iter().map(|stored| stored.run.status).collect();
        assert_eq!(left, [RunStatus::Paused, RunStatus::Running].repeat(10));
    }

    pub fn a_standing_tells_where_a_run_stands(store: &dyn Store) {
        let desk = Desk::new(store);
        let run = desk.create(START, None);
        let standing = || ok(store.standing(run)).expect("it is there");
        assert_eq!(standing(), Standing::from(&desk.load(run).run));
        assert_eq!((standing().status, standing().runner), (RunStatus::Running, Some(desk.lease.runner)));
        desk.end(run, later(1));
        assert_eq!(standing(), Standing::from(&desk.load(run).run));
        assert_eq!((standing().status, standing().runner), (RunStatus::Completed, None));
        assert!(ok(store.delete(run)));
        assert_eq!(ok(store.standing(run)), None);
    }

    pub fn only_an_ended_run_can_be_deleted(store: &dyn Store) {
        let desk = Desk::new(store);
        let run = desk.create(START, Some("key"));
        desk.commit(vec![done(run, 0, b"t"), entry(run, "a", 1, 1)]);
        assert!(!ok(store.delete(run)));
        assert_eq!(desk.load(run).rows.len(), 1);
        desk.end(run, later(1));
        assert!(ok(store.delete(run)));
        assert!(!ok(store.delete(run)));
        assert_eq!(ok(store.load(run)), None);
        assert_eq!(ok(store.by_key("key", None)), []);
    }

    pub fn commits_of_many_threads_are_all_there(store: &dyn Store) {
        const THREADS: i64 = 4;
        const EACH: i64 = 50;
        let desk = Desk::new(store);
        let run = desk.create(START, None);
        std::thread::scope(|scope| {
            for thread in 0..THREADS {
                let desk = &desk;
                scope.spawn(move || {
                    for n in 0..EACH {
                        desk.commit(vec![done(run, thread * EACH + n, b"t")]);
                    }
                });
            }
        });
        let rows = desk.load(run).rows;
        assert_eq!(rows.iter().map(|row| row.task).collect::<Vec<_>>(), (0..THREADS * EACH).collect::<Vec<_>>());
    }
}

pub use changes::*;
pub use checks::*;
pub use commits::*;
