//! Listing runs, and deleting those that have ended.

use super::*;

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
    let mixed =
        RunFilter { since: Some(later(1)), workflow: Some("ingest".into()), limit: Some(5), ..RunFilter::default() };
    assert_eq!(list(mixed), [new]);
}

pub fn a_standing_agrees_with_the_run(store: &dyn Store) {
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

pub fn a_purge_deletes_what_ended_before_and_nothing_else(store: &dyn Store) {
    let desk = Desk::new(store);
    let runs: Vec<RunId> = (0..5).map(|at| desk.create(later(at), Some(&format!("k{at}")))).collect();
    for (run, at) in runs.iter().zip(10..) {
        desk.commit(vec![done(*run, 0, b"t"), entry(*run, "a", 1, 1)]);
        if at < 14 {
            desk.end(*run, later(at));
        }
    }
    let remaining =
        || -> Vec<RunId> { ok(store.list(&RunFilter::default())).iter().rev().map(|stored| stored.run.id).collect() };
    assert_eq!(ok(store.purge(later(10), 0, 10)), Purged { runs: 0, next: None });
    let first = ok(store.purge(later(13), 0, 2));
    assert_eq!(first.runs, 2);
    assert_eq!(remaining(), runs[2..]);
    let second = ok(store.purge(later(13), first.next.expect("there are more runs"), 2));
    assert_eq!(second.runs, 1);
    assert_eq!(remaining(), runs[3..]);
    assert_eq!(purge_all(store, later(13)), 0);
    assert_eq!(remaining(), runs[3..]);
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
    let remaining: Vec<RunStatus> =
        ok(store.list(&RunFilter::default())).iter().map(|stored| stored.run.status).collect();
    assert_eq!(remaining, [RunStatus::Paused, RunStatus::Running].repeat(10));
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
