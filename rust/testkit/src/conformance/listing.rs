//! Listing runs, and deleting those that have ended.

use std::collections::BTreeMap;
use std::sync::Arc;

use bide_core::RunOptions;

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

pub fn runs_are_listed_by_each_status_and_by_a_range_of_ids(store: &dyn Store) {
    let desk = Desk::new(store);
    let runs: Vec<RunId> = (0..12).map(|at| desk.create(later(at), None)).collect();
    for (run, status) in runs.iter().zip(RunStatus::ALL.iter().copied().cycle()) {
        desk.commit(vec![update(*run, status, status.is_ended().then(|| later(50)))]);
    }
    let list =
        |filter: RunFilter| -> Vec<RunId> { ok(store.list(&filter)).iter().map(|stored| stored.run.id).collect() };
    let all = RunFilter::default;
    for (at, status) in RunStatus::ALL.iter().copied().enumerate() {
        let of = || RunFilter { status: Some(status), ..all() };
        assert_eq!(list(of()), [runs[at + 6], runs[at]], "{status}");
        assert_eq!(list(RunFilter { limit: Some(1), ..of() }), [runs[at + 6]], "{status}");
        assert_eq!(list(RunFilter { since: Some(later(at as u64 + 1)), ..of() }), [runs[at + 6]], "{status}");
        assert_eq!(list(RunFilter { ids: Some(runs[0]..=runs[at]), ..of() }), [runs[at]], "{status}");
    }
    assert_eq!(list(RunFilter { ids: Some(runs[3]..=runs[5]), ..all() }), [runs[5], runs[4], runs[3]]);
    // The beginning of an id; and numbers that no id of this century has.
    let begin = RunId(runs[3].0 & !0xffff)..=RunId(runs[3].0 | 0xffff);
    assert!(list(RunFilter { ids: Some(begin), ..all() }).contains(&runs[3]));
    assert_eq!(list(RunFilter { ids: Some(RunId(0)..=RunId(u128::MAX)), ..all() }).len(), 12);
    assert_eq!(list(RunFilter { ids: Some(RunId(0x7 << 124)..=RunId(u128::MAX)), ..all() }), []);
    assert_eq!(list(RunFilter { ids: Some(RunId(runs[3].0 ^ 1)..=RunId(runs[3].0 ^ 1)), ..all() }), []);
}

pub fn runs_are_found_by_tags_keys_and_parents(store: &dyn Store) {
    let (ingest, report) = (Desk::new(store), Desk::named(store, "report"));
    let tags = |pairs: &[(&str, &str)]| -> BTreeMap<Arc<str>, Arc<str>> {
        pairs.iter().map(|(name, value)| ((*name).into(), (*value).into())).collect()
    };
    let create = |desk: &Desk<'_>, at: Time, key: &str, options: RunOptions| -> RunId {
        let new = desk.new_run(at, Some(key)).with_options(Some(Box::new(options)));
        let id = new.id;
        assert_eq!(ok(store.create(desk.lease, &[new])), [Creation::Created]);
        id
    };
    let both = RunOptions {
        tags: tags(&[("customer", "7"), ("kind", "big")]),
        priority: -3,
        start_at: Some(later(5)),
        deadline: Some(later(6)),
    };
    let first = create(&ingest, START, "order/1", both.clone());
    let other =
        create(&ingest, later(1), "order/2", RunOptions { tags: tags(&[("customer", "8")]), ..RunOptions::default() });
    let third =
        create(&report, later(2), "order/1", RunOptions { tags: tags(&[("customer", "7")]), ..RunOptions::default() });
    let plain = ingest.create(later(3), Some("other"));
    assert_eq!(ingest.load(first).run.options, both);
    assert_eq!(ingest.load(plain).run.options, RunOptions::default());
    let list =
        |filter: RunFilter| -> Vec<RunId> { ok(store.list(&filter)).iter().map(|stored| stored.run.id).collect() };
    let all = RunFilter::default;
    assert_eq!(list(RunFilter { tags: tags(&[("customer", "7")]), ..all() }), [third, first]);
    assert_eq!(list(RunFilter { tags: tags(&[("customer", "7"), ("kind", "big")]), ..all() }), [first]);
    assert_eq!(list(RunFilter { tags: tags(&[("customer", "7"), ("kind", "small")]), ..all() }), []);
    assert_eq!(list(RunFilter { tags: tags(&[("customer", "7")]), workflow: Some("report".into()), ..all() }), [third]);
    assert_eq!(list(RunFilter { tags: tags(&[("customer", "7")]), limit: Some(1), ..all() }), [third]);
    assert_eq!(list(RunFilter { tags: tags(&[("customer", "7")]), since: Some(later(1)), ..all() }), [third]);
    assert_eq!(list(RunFilter { key_prefix: Some("order/".into()), ..all() }), [third, other, first]);
    let mixed = RunFilter { key_prefix: Some("order/1".into()), tags: tags(&[("kind", "big")]), ..all() };
    assert_eq!(list(mixed), [first]);
    assert_eq!(list(RunFilter { key_prefix: Some("%".into()), ..all() }), []);

    let child = ingest.child_of(first, 1).with_options(Some(Box::new(both)));
    let below = child.id;
    assert_eq!(ok(store.create(ingest.lease, &[child])), [Creation::Created]);
    assert_eq!(list(RunFilter { parent: Some(first), ..all() }), [below]);
    assert_eq!(
        list(RunFilter { parent: Some(RunId(first.0 ^ 1)), ..all() }),
        [],
        "the row number alone is not the run"
    );
    assert_eq!(list(RunFilter { parent: Some(first), tags: tags(&[("kind", "big")]), ..all() }), [below]);

    // A run that is gone is not found, and another one under its key has tags of its own.
    ingest.end(other, later(4));
    assert!(ok(store.delete(other)));
    assert_eq!(list(RunFilter { tags: tags(&[("customer", "8")]), ..all() }), []);
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
    let other = desk.create(later(2), None);
    let both = ok(store.standings(&[other, RunId(other.0 ^ 1), run]));
    assert_eq!(both, [ok(store.standing(other)), None, ok(store.standing(run))], "in the order of the question");
    assert!(ok(store.delete(run)));
    assert_eq!(ok(store.standing(run)), None);
    assert_eq!(ok(store.standings(&[run])), [None]);
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
