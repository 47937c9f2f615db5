//! Waiting for changes.

use super::*;

/// Long enough that a test which waits for it has failed.
const FOREVER: Duration = Duration::from_secs(600);

fn look(store: &dyn Store, seen: Seen) -> Changes {
    ok(store.wait_for_changes(seen, Duration::ZERO))
}

pub fn changes_reach_every_runner_and_own_commits_free_no_runs(store: &dyn Store) {
    let (one, other) = (Desk::new(store), Desk::new(store));
    let seen = look(store, Seen::default()).seen;
    let run = one.create(START, None);
    one.commit(vec![done(run, 0, b"t")]);
    one.load(run);
    let changes = look(store, seen);
    assert_eq!((changes.unowned, &changes.runs), (false, &ChangedRuns::These(vec![])));

    ok(store.leave(one.lease));
    let changes = look(store, seen);
    assert_eq!((changes.unowned, &changes.runs), (true, &ChangedRuns::Any));
    // A second runner that asks later sees it too; one that has handled it does not see it again.
    assert!(look(store, seen).unowned);
    assert!(!look(store, changes.seen).unowned);
    assert_eq!(other.claim(START), [run]);

    // A lease that has run out is noticed when another runner renews.
    ok(store.enroll(at(START)));
    ok(store.renew(other.lease, at(START.after(LEASE / 3))));
    let seen = look(store, Seen::default()).seen;
    ok(store.renew(other.lease, at(START.after(LEASE))));
    let changes = look(store, seen);
    assert!(changes.unowned);
    // So is that it was fenced: a runner with its workflow is to claim its runs.
    assert_eq!(ok(store.claim(other.lease, &[], at(START.after(LEASE)), 1)), []);
    assert!(look(store, changes.seen).unowned);
}

pub fn runs_that_end_or_pause_are_among_the_changes(store: &dyn Store) {
    let desk = Desk::new(store);
    let runs = [(); 3].map(|()| desk.create(START, None));
    let seen = look(store, Seen::default()).seen;
    desk.end(runs[0], later(1));
    desk.commit(vec![done(runs[1], 0, b"t"), update(runs[2], RunStatus::Paused, None)]);
    let changes = look(store, seen);
    assert!(!changes.unowned);
    let ChangedRuns::These(mut changed) = changes.runs else { panic!("{changes:?}") };
    changed.sort_unstable();
    assert_eq!(changed, [runs[0].row(), runs[2].row()]);
    assert_eq!(look(store, changes.seen).runs, ChangedRuns::These(vec![]));
}

pub fn a_wait_ends_once_runs_belong_to_nobody(store: &dyn Store) {
    let (one, other) = (Desk::new(store), Desk::new(store));
    let run = one.create(START, None);
    let seen = look(store, Seen::default()).seen;
    std::thread::scope(|scope| {
        let waits = || ok(store.wait_for_changes(seen, FOREVER));
        let waiting = [scope.spawn(waits), scope.spawn(waits)];
        ok(store.leave(one.lease));
        for waiting in waiting {
            assert!(waiting.join().expect("no panic").unowned);
        }
    });
    assert_eq!(other.claim(START), [run]);
}

pub fn an_interruption_ends_every_wait_before_or_after_its_begin(store: &dyn Store) {
    let seen = look(store, Seen::default()).seen;
    std::thread::scope(|scope| {
        let waits = || ok(store.wait_for_changes(seen, FOREVER));
        let waiting = [scope.spawn(waits), scope.spawn(waits)];
        store.interrupt_waits();
        for waiting in waiting {
            assert!(!waiting.join().expect("no panic").unowned);
        }
    });
    let changes = ok(store.wait_for_changes(seen, FOREVER));
    // It ends one wait of each.
    ok(store.wait_for_changes(changes.seen, Duration::from_millis(1)));
}
