//! Schedules: they read back, and of several changes of one the first stands, with the runs that it starts.

use bide_core::schedules::{MomentInput, OnMiss, Overlap, Schedule, When};
use bide_store::{ScheduleChange, ScheduleChanged};

use super::*;

fn nightly(desk: &Desk<'_>, name: &str) -> Schedule {
    Schedule {
        name: name.into(),
        workflow: "ingest".into(),
        version: (desk.workflow, desk.version),
        when: When::Cron { expression: "30 2 * * *".into(), zone: "Europe/Berlin".into() },
        inputs: Arc::from(&b"\x01a\x03n!"[..]),
        moment: MomentInput::Datetime,
        on_miss: OnMiss::All,
        overlap: Overlap::Queue,
        jitter: 5,
        timeout: Some(7),
        created_at: START,
        paused_at: Some(later(1)),
        decided: later(2),
        last: Some((later(3), fresh_id(START))),
        queue: vec![later(4), later(5)],
        open: vec![fresh_id(START), fresh_id(START)],
    }
}

fn change(expected: Option<i64>, schedule: &Schedule, runs: Vec<NewRun>) -> ScheduleChange {
    ScheduleChange { name: Arc::clone(&schedule.name), expected, schedule: Some(schedule.clone()), runs }
}

/// Makes one change; the new revision, or `None` if the schedule was another one.
fn set(store: &dyn Store, change: ScheduleChange) -> Option<(i64, Option<Schedule>, Vec<Creation>)> {
    match ok(store.change_schedules(&[change])).pop() {
        Some(ScheduleChanged::Done { revision, schedule, creations }) => {
            Some((revision, schedule.map(|schedule| *schedule), creations))
        }
        _ => None,
    }
}

fn read(store: &dyn Store, name: &str) -> Option<(i64, Option<Schedule>)> {
    ok(store.schedule(name)).map(|stored| (stored.revision, ok(stored.schedule)))
}

pub fn a_schedule_reads_back_until_it_is_removed(store: &dyn Store) {
    let desk = Desk::new(store);
    assert_eq!(read(store, "one"), None);
    let one = nightly(&desk, "one");
    let every = When::Every { micros: 60_000_000, anchor: START };
    let other = Schedule {
        when: every,
        moment: MomentInput::None,
        on_miss: OnMiss::Latest,
        overlap: Overlap::Allow,
        timeout: None,
        paused_at: None,
        last: None,
        queue: Vec::new(),
        open: Vec::new(),
        ..nightly(&desk, "other")
    };
    let first = set(store, change(None, &one, vec![])).expect("a schedule").0;
    let second = set(store, change(None, &other, vec![])).expect("a schedule").0;
    assert_eq!(read(store, "one"), Some((first, Some(one.clone()))));
    assert_eq!(read(store, "other"), Some((second, Some(other.clone()))));
    let since = |revision| -> Vec<(Arc<str>, bool)> {
        ok(store.schedules(revision)).into_iter().map(|row| (row.name, ok(row.schedule).is_some())).collect()
    };
    assert_eq!(since(0), [("one".into(), true), ("other".into(), true)]);
    assert_eq!(since(first), [("other".into(), true)]);
    let removal = ScheduleChange { name: "one".into(), expected: Some(first), schedule: None, runs: vec![] };
    let third = set(store, removal.clone()).expect("a removal").0;
    assert!(first < second && second < third);
    assert_eq!(read(store, "one"), Some((third, None)));
    assert_eq!((since(0), since(second)), (vec![("other".into(), true)], vec![("one".into(), false)]));
    assert!(set(store, removal).is_none());
    assert!(set(store, change(None, &one, vec![])).is_some(), "its name can be used again");
}

pub fn of_two_changes_of_a_schedule_the_first_stands_with_its_runs(store: &dyn Store) {
    let desk = Desk::new(store);
    let one = nightly(&desk, "one");
    let revision = set(store, change(None, &one, vec![])).expect("a schedule").0;
    assert!(set(store, change(None, &one, vec![])).is_none(), "it is there");
    let tick = |key: &str| {
        let new = desk.new_run(START, Some(key));
        let after = Schedule { decided: later(9), last: Some((later(9), new.id)), open: vec![new.id], ..one.clone() };
        (new.id, change(Some(revision), &after, vec![new]))
    };
    let [(run, first), (lost, second)] = ["one@a", "one@b"].map(tick);
    let outcomes = ok(store.change_schedules(&[first, second]));
    assert!(matches!(&outcomes[..], [ScheduleChanged::Done { .. }, ScheduleChanged::Moved]), "{outcomes:?}");
    let (_, stored) = read(store, "one").expect("a schedule");
    assert_eq!(stored.map(|stored| (stored.decided, stored.open)), Some((later(9), vec![run])));
    assert!(ok(store.standing(lost)).is_none());
    // They belong to nobody, and can be claimed.
    let standing = ok(store.standing(run)).expect("the run");
    assert_eq!((standing.status, standing.runner), (RunStatus::Pending, None));
    assert_eq!(ok(store.claim(desk.lease, &[desk.version], at(START), 9)), [run]);
}

pub fn a_tick_whose_key_names_a_run_starts_no_other(store: &dyn Store) {
    let desk = Desk::new(store);
    let there = desk.new_run(START, Some("one@a")).with_inputs(Arc::from(&b"\x01a\x03n?"[..]));
    ok(store.create(desk.lease, std::slice::from_ref(&there)));
    let new = desk.new_run(START, Some("one@a"));
    let other = desk.new_run(START, Some("one@b"));
    let one = Schedule { last: Some((START, new.id)), open: vec![new.id, other.id], ..nightly(&desk, "one") };
    let (_, stored, creations) = set(store, change(None, &one, vec![new, other.clone()])).expect("a schedule");
    assert!(matches!(&creations[..], [Creation::OtherInputs(row), Creation::Created] if row.id == there.id));
    let stored = stored.expect("it is there");
    assert_eq!((stored.last, &stored.open), (Some((START, there.id)), &vec![there.id, other.id]));
    assert_eq!(read(store, "one").expect("a schedule").1, Some(stored));
}

pub fn a_row_number_in_use_changes_no_schedule(store: &dyn Store) {
    let desk = Desk::new(store);
    let there = desk.new_run(START, None);
    ok(store.create(desk.lease, std::slice::from_ref(&there)));
    let mut same_row = desk.new_run(START, Some("one@b"));
    same_row.id = RunId(there.id.0 ^ 1);
    assert_eq!(same_row.id.row(), there.id.row());
    let free = desk.new_run(START, Some("one@a"));
    let changes = [
        change(None, &nightly(&desk, "one"), vec![free.clone()]),
        change(None, &nightly(&desk, "two"), vec![same_row]),
    ];
    let outcomes = ok(store.change_schedules(&changes));
    assert!(matches!(&outcomes[..], [ScheduleChanged::NumberTaken, ScheduleChanged::NumberTaken]), "{outcomes:?}");
    assert_eq!((read(store, "one"), read(store, "two")), (None, None));
    assert!(ok(store.standing(free.id)).is_none());
}

pub fn a_change_of_a_schedule_ends_waits_for_changes(store: &dyn Store) {
    let desk = Desk::new(store);
    let before = ok(store.wait_for_changes(Seen::default(), Duration::ZERO));
    assert!(set(store, change(None, &nightly(&desk, "one"), vec![])).is_some());
    let changes = ok(store.wait_for_changes(before.seen, Duration::from_secs(60)));
    assert!(changes.unowned);
}

pub fn a_purge_leaves_schedules(store: &dyn Store) {
    let desk = Desk::new(store);
    let one = nightly(&desk, "one");
    let (revision, ..) = set(store, change(None, &one, vec![])).expect("a schedule");
    let mut from = Some(0);
    while let Some(row) = from {
        from = ok(store.purge(later(1_000_000_000), row, 100)).next;
    }
    assert_eq!(read(store, "one"), Some((revision, Some(one))));
}
