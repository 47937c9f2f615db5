//! Runs as a whole: creation, keys, workflows, lists and deletion.
#![expect(missing_docs, reason = "each check's name is its documentation")]

use super::*;

pub fn a_created_run_reads_back(store: &dyn Store) {
    let desk = Desk::new(store);
    let new = desk.new_run(START, Some("2026-11-24"));
    assert_eq!(ok(store.create(desk.lease, std::slice::from_ref(&new))), [Creation::Created]);

    let stored = desk.load(new.id);
    let expected = RunRow {
        id: new.id,
        workflow: "ingest".into(),
        version: "v1".into(),
        key: new.key,
        status: RunStatus::Running,
        inputs: new.inputs,
        failure: None,
        created_at: START,
        ended_at: None,
        blocked_by: None,
        crashes: 0,
        runner: Some(desk.lease.runner),
    };
    assert_eq!(stored.run, expected);
    assert_eq!(stored.tasks.iter().map(|task| &*task.name).collect::<Vec<_>>(), ["fetch", "process"]);
    assert!(stored.rows.is_empty() && stored.entries.is_empty());
    assert_eq!(ok(store.id_of(new.id.row())), Some(new.id));
}

pub fn what_is_not_there_is_none_and_no_error(store: &dyn Store) {
    let desk = Desk::new(store);
    let stranger = fresh_id(START);
    assert_eq!(ok(store.load(stranger)), None);
    assert_eq!(ok(store.id_of(stranger.row())), None);
    assert_eq!(ok(store.by_key("nothing", None)), []);
    assert_eq!(ok(store.list(&RunFilter::default())), []);
    assert!(!ok(store.delete(stranger)));
    assert_eq!(ok(store.purge(Time::NEVER, 10)), 0);
    assert_eq!(desk.claim(START), [] as [i64; 0]);
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

pub fn a_row_number_in_use_is_said_and_the_other_runs_are_created(store: &dyn Store) {
    let desk = Desk::new(store);
    let first = desk.create(START, None);
    let mut unlucky = desk.new_run(START, Some("key"));
    unlucky.id = RunId(first.0 ^ 1);
    let lucky = desk.new_run(START, None);
    assert_eq!(ok(store.create(desk.lease, &[unlucky.clone(), lucky.clone()])), [Creation::Taken, Creation::Created]);
    assert_eq!(ok(store.by_key("key", None)), []);
    unlucky.id = fresh_id(START);
    assert_eq!(ok(store.create(desk.lease, &[unlucky])), [Creation::Created]);
    assert_eq!(desk.load(first).run.id, first);
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
    assert_eq!(second.workflow, first.workflow);
    assert_ne!(second.version, first.version);
    let (other, ids) = numbers("report", "v1", &[("print".into(), vec!["fetch".into(), "b".into()])]);
    assert_eq!(ids, [0]);
    assert_eq!(other.tasks[0].dependencies, ["fetch".into(), "b".into()]);
    assert_ne!(other.workflow, first.workflow);

    let (again, ids) = numbers("ingest", "v1", &names(&["fetch", "process"]));
    assert_eq!((again.workflow, again.version, ids), (first.workflow, first.version, vec![0, 1]));
}

pub fn runs_are_listed_newest_first_and_filtered(store: &dyn Store) {
    let (ingest, report) = (Desk::new(store), Desk::named(store, "report"));
    let old = ingest.create(START, None);
    let new = ingest.create(later(200), None);
    let other = report.create(later(100), Some("key"));
    ingest.end(old, later(300));
    let list = |filter: RunFilter| -> Vec<RunId> { ok(store.list(&filter)).iter().map(|run| run.id).collect() };
    let all = RunFilter::default;
    assert_eq!(list(all()), [new, other, old]);
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

pub fn a_purge_deletes_what_ended_before_and_nothing_else(store: &dyn Store) {
    let desk = Desk::new(store);
    let runs: Vec<RunId> = (0..5).map(|at| desk.create(later(at), Some(&format!("k{at}")))).collect();
    for (run, at) in runs.iter().zip(10..) {
        desk.commit(vec![done(*run, 0, b"t"), entry(*run, "a", 1, 1)]);
        if at < 14 {
            desk.end(*run, later(at));
        }
    }
    let left = || -> Vec<RunId> { ok(store.list(&RunFilter::default())).iter().rev().map(|run| run.id).collect() };
    assert_eq!(ok(store.purge(later(10), 10)), 0);
    assert_eq!(ok(store.purge(later(13), 2)), 2);
    assert_eq!(left(), runs[2..]);
    assert_eq!(ok(store.purge(later(13), 2)), 1);
    assert_eq!(ok(store.purge(later(13), 2)), 0);
    assert_eq!(left(), runs[3..]);
    assert_eq!(ok(store.load(runs[0])), None);
    assert_eq!(desk.load(runs[4]).entries.len(), 1);
    // The key is free again.
    assert_eq!(ok(store.by_key("k0", None)), []);
    desk.create(later(20), Some("k0"));
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
