//! Which runner is alive, and what becomes of one that is not.

use super::*;

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

pub fn a_runner_is_alive_until_it_leaves_or_its_lease_runs_out(store: &dyn Store) {
    let lease = ok(store.enroll(at(START)));
    assert!(ok(store.is_alive(lease.runner, at(later(1)))));
    assert!(!ok(store.is_alive(lease.runner, at(START.after(LEASE)))));
    ok(store.renew(lease, at(later(5))));
    assert!(ok(store.is_alive(lease.runner, at(START.after(LEASE)))));
    ok(store.leave(lease));
    assert!(!ok(store.is_alive(lease.runner, at(later(6)))));
    assert!(!ok(store.is_alive(lease.runner + 1_000, at(later(6)))));
}

pub fn leaving_frees_the_runs_and_fences_the_runner(store: &dyn Store) {
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
