//! Who may execute what: leases, fences, claims and the news of them.
#![expect(missing_docs, reason = "each check's name is its documentation")]

use super::*;

pub fn a_lapsed_lease_is_taken_over_and_its_holder_fenced(store: &dyn Store) {
    let (slow, quick) = (Desk::new(store), Desk::new(store));
    let run = slow.create(START, None);
    let before = START.after(LEASE - Duration::from_secs(1));
    ok(store.renew(quick.lease, before));
    assert_eq!(quick.claim(before), [] as [i64; 0]);
    let after = START.after(LEASE);
    assert_eq!(quick.claim(after), [run.row()]);

    fenced(store.commit(slow.lease, &mut vec![done(run, 0, b"f")]), slow.lease);
    fenced(store.create(slow.lease, &[slow.new_run(after, None)]), slow.lease);
    fenced(store.renew(slow.lease, after), slow.lease);
    fenced(store.claim(slow.lease, &[slow.workflow], after, 1), slow.lease);
    fenced(store.release(slow.lease, &[run.row()]), slow.lease);
    ok(store.leave(slow.lease));
    let stored = quick.load(run);
    assert_eq!((stored.run.runner, stored.rows), (Some(quick.lease.runner), vec![]));
    assert_eq!(ok(store.list(&RunFilter::default())).len(), 1);
    // It may come back as a new runner.
    assert_ne!(ok(store.enroll(after)).runner, slow.lease.runner);
}

pub fn a_living_runner_keeps_its_runs(store: &dyn Store) {
    let (one, other) = (Desk::new(store), Desk::new(store));
    one.create(START, None);
    ok(store.renew(one.lease, later(10)));
    ok(store.renew(other.lease, later(20)));
    assert_eq!(other.claim(later(20)), [] as [i64; 0]);
    assert_eq!(one.claim(later(20)), [] as [i64; 0]);
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
    assert_eq!(other.claim(later(2)), [open.row()]);
    let found = other.load(open).run;
    assert_eq!((found.runner, found.status), (Some(other.lease.runner), RunStatus::Running));
}

pub fn a_released_run_can_be_claimed_by_another(store: &dyn Store) {
    let (one, other) = (Desk::new(store), Desk::new(store));
    let (kept, released) = (one.create(START, None), one.create(START, None));
    // Only its owner can release a run.
    ok(store.release(other.lease, &[kept.row(), released.row()]));
    assert_eq!(other.claim(START), [] as [i64; 0]);
    ok(store.release(one.lease, &[released.row()]));
    assert_eq!(other.claim(START), [released.row()]);
    assert_eq!(one.load(kept).run.runner, Some(one.lease.runner));
}

pub fn what_a_runner_released_it_is_not_given_again_until_something_is_registered(store: &dyn Store) {
    let (desk, other) = (Desk::new(store), Desk::new(store));
    let runs: Vec<RunRowId> = (0..3).map(|at| desk.create(later(at), None).row()).collect();
    let fourth = other.create(later(9), None);
    ok(store.release(desk.lease, &runs));
    assert_eq!(desk.claim(START), [] as [i64; 0]);
    // They stand in the way of nothing else, however few are asked for.
    ok(store.leave(other.lease));
    assert_eq!(ok(store.claim(desk.lease, &[desk.workflow], START, 1)), [fourth.row()]);
    ok(store.register("ingest", "v2", &names(&["fetch"])));
    assert_eq!(desk.claim(START), runs);
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
    assert_eq!(claimer.claim(later(4)), [] as [i64; 0]);
    let both = [report.workflow, ingest.workflow];
    assert_eq!(ok(store.claim(claimer.lease, &both, later(4), 2)), [first.row(), second.row()]);
    assert_eq!(ok(store.claim(claimer.lease, &both, later(4), 2)), [third.row()]);
    assert_eq!(ok(store.claim(claimer.lease, &both, later(4), 2)), [] as [i64; 0]);
}

pub fn a_run_is_claimed_by_one_of_many(store: &dyn Store) {
    let desk = Desk::new(store);
    let runs: Vec<RunRowId> = (0..40).map(|at| desk.create(later(at), None).row()).collect();
    ok(store.leave(desk.lease));
    let mut claimed: Vec<RunRowId> = std::thread::scope(|scope| {
        let claim = || {
            let desk = Desk::new(store);
            let mut mine = Vec::new();
            loop {
                let some = ok(store.claim(desk.lease, &[desk.workflow], START, 3));
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

pub fn news_reach_every_runner_and_own_commits_are_none(store: &dyn Store) {
    let (one, other) = (Desk::new(store), Desk::new(store));
    let seen = ok(store.news());
    let (first, second) = (one.create(START, None), one.create(START, None));
    one.commit(vec![done(first, 0, b"t")]);
    one.load(first);
    assert_eq!(ok(store.news()), seen);

    ok(store.release(one.lease, &[first.row()]));
    let released = ok(store.news());
    assert!(released > seen);
    // A second runner that asks later sees it too.
    assert!(ok(store.news()) > seen);
    assert_eq!(other.claim(START), [first.row()]);

    ok(store.leave(one.lease));
    assert!(ok(store.news()) > released);
    assert_eq!(other.claim(START), [second.row()]);

    // A lease that has run out shows when somebody renews.
    ok(store.enroll(START));
    let before = ok(store.news());
    ok(store.renew(other.lease, START.after(LEASE)));
    assert!(ok(store.news()) > before);
}
