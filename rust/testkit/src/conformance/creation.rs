//! Creating runs.

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

pub fn what_is_missing_is_none_and_no_error(store: &dyn Store) {
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
        // A runner that does not own the run must not begin it.
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
        // Asked by another runner: the run that has the key may have any owner.
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
