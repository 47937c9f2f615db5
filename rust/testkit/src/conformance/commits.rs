//! A commit that creates runs and writes to runs: one transaction, in which several callers' requests stand beside each
//! other.

use super::*;

/// Commits requests and writes together.
fn write(desk: &Desk<'_>, requests: &[&[NewRun]], mut batch: Vec<Write>) -> Vec<Vec<Creation>> {
    let mut commit = Commit::new(CommitId::unique(), requests, &mut batch);
    ok(desk.store.write(desk.lease, &mut commit)).creations
}

fn task_rows(desk: &Desk<'_>, run: RunId) -> usize {
    desk.load(run).rows.len()
}

pub fn runs_are_created_and_written_to_in_one_commit(store: &dyn Store) {
    let desk = Desk::new(store);
    let old = desk.create(START, None);
    let (first, second) = ([desk.new_run(START, None), desk.new_run(START, Some("key"))], [desk.new_run(START, None)]);
    let ended = update(second[0].id, RunStatus::Completed, Some(later(1)));
    let batch = vec![done(old, 0, b"t"), done(first[1].id, 0, b"t"), entry(first[0].id, "gate", 0, 1), ended];
    let creations = write(&desk, &[&first, &[], &second], batch);
    assert_eq!(creations, [vec![Creation::Created; 2], vec![], vec![Creation::Created]]);
    assert_eq!([old, first[0].id, first[1].id].map(|run| task_rows(&desk, run)), [1, 0, 1]);
    assert_eq!(desk.load(first[0].id).entries.len(), 1);
    assert_eq!(desk.load(second[0].id).run.status, RunStatus::Completed);
}

pub fn a_refused_request_concerns_no_other_of_its_commit(store: &dyn Store) {
    let desk = Desk::new(store);
    let key_owner = desk.create(START, Some("key"));
    let other_inputs = desk.new_run(START, Some("key")).with_inputs(Arc::from(&b"\x01a\x03n?"[..]));
    let mut number_taken = desk.new_run(START, None);
    number_taken.id = RunId(desk.create(START, None).0 ^ 1);
    let new = || desk.new_run(START, None);
    let requests: [&[NewRun]; 5] = [
        &[new()],
        &[new(), other_inputs, new()],
        &[new(), desk.new_run(START, Some("key"))],
        &[new(), number_taken.clone()],
        &[new()],
    ];
    let keyed = requests.iter().copied().flatten().filter(|new| new.id != number_taken.id);
    let batch = keyed.map(|new| done(new.id, 0, b"t")).chain([done(key_owner, 0, b"t")]).collect();
    let creations = write(&desk, &requests, batch);
    let created: Vec<Vec<bool>> =
        creations.iter().map(|made| made.iter().map(|made| *made == Creation::Created).collect()).collect();
    assert_eq!(created, [vec![true], vec![true, false, true], vec![true, false], vec![true, false], vec![true]]);
    assert!(matches!(&creations[1][1], Creation::OtherInputs(row) if row.id == key_owner));
    assert_eq!(exists(&creations[2][1]).id, key_owner);
    assert_eq!(creations[3][1], Creation::NumberTaken);
    let mut expected: Vec<RunId> = [0, 2, 4].map(|request: usize| requests[request][0].id).into();
    for run in &expected {
        assert_eq!(task_rows(&desk, *run), 1);
    }
    assert_eq!(task_rows(&desk, key_owner), 1);
    expected.extend([key_owner, RunId(number_taken.id.0 ^ 1)]);
    expected.sort_unstable();
    let mut listed: Vec<RunId> = ok(store.list(&RunFilter::default())).iter().map(|stored| stored.run.id).collect();
    listed.sort_unstable();
    assert_eq!(listed, expected);
}

pub fn requests_of_one_commit_see_the_keys_of_those_before(store: &dyn Store) {
    let desk = Desk::new(store);
    desk.create(START, Some("taken"));
    let keyed = |key, inputs: &'static [u8]| desk.new_run(START, Some(key)).with_inputs(Arc::from(inputs));
    let first = [keyed("new", b"\x01a\x03n!")];
    let requests: [&[NewRun]; 5] = [
        &first,
        &[keyed("new", b"\x01a\x03n!")],
        &[keyed("new", b"\x01a\x03n?")],
        // Refused as a whole, so that its first key is free again.
        &[keyed("free", b"\x01a\x03n?"), keyed("taken", b"\x01a\x03n?")],
        &[keyed("free", b"\x01a\x03n!")],
    ];
    let creations = write(&desk, &requests, vec![]);
    assert_eq!(creations[0], [Creation::Created]);
    assert_eq!(exists(&creations[1][0]).id, first[0].id);
    assert!(matches!(&creations[2][0], Creation::OtherInputs(row) if row.id == first[0].id));
    assert!(creations[3].iter().any(Creation::prevents_all));
    assert_eq!(creations[4], [Creation::Created]);
    assert_eq!(ok(store.by_key("free", None)), [(requests[4][0].id, "ingest".into())]);
}

pub fn requests_that_are_all_refused_write_nothing(store: &dyn Store) {
    let desk = Desk::new(store);
    desk.create(START, Some("key"));
    let refused = [desk.new_run(START, Some("key")).with_inputs(Arc::from(&b"\x01a\x03n?"[..]))];
    let with_others = [desk.new_run(START, None), refused[0].clone()];
    let batch = vec![done(refused[0].id, 0, b"t"), done(with_others[0].id, 0, b"t")];
    let creations = write(&desk, &[&refused, &with_others], batch);
    assert!(creations.iter().all(|made| made.iter().any(Creation::prevents_all)));
    assert_eq!(ok(store.list(&RunFilter::default())).len(), 1);
    assert_eq!(ok(store.load(with_others[0].id)), None);
}

pub fn a_commit_that_fails_writes_and_creates_nothing_and_its_batch_is_whole(store: &dyn Store) {
    let (desk, loser) = (Desk::new(store), Desk::new(store));
    let old = desk.create(START, None);
    desk.commit(vec![done(old, 0, b"t")]);
    ok(store.leave(loser.lease));
    let new = [desk.new_run(START, Some("key"))];
    let whole = vec![done(new[0].id, 0, b"t"), done(old, 1, b"t"), done(old, 0, b"f")];
    for (lease, is_fenced) in [(desk.lease, false), (loser.lease, true)] {
        let mut batch = whole.clone();
        let failed = store.write(lease, &mut Commit::new(CommitId::unique(), &[&new], &mut batch));
        match is_fenced {
            true => fenced(failed, lease),
            false => assert!(matches!(failed, Err(StoreError::Corrupt(_))), "{failed:?}"),
        }
        assert_eq!(batch, whole);
        assert_eq!(ok(store.load(new[0].id)), None);
        assert_eq!(ok(store.by_key("key", None)), []);
        assert_eq!(task_rows(&desk, old), 1);
    }
    assert_eq!(write(&desk, &[&new], vec![done(new[0].id, 0, b"t")]), [[Creation::Created]]);
    // A commit of nothing asks about the lease.
    assert_eq!(write(&desk, &[], vec![]), [] as [Vec<Creation>; 0]);
    assert_eq!(write(&desk, &[&[]], vec![]), [vec![]]);
    fenced(store.write(loser.lease, &mut Commit::of(&mut vec![])), loser.lease);
}
