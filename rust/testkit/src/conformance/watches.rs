//! Watches: they read back, and of several changes of one the first stands, with the runs of its new items.

use bide_core::watches::{Watch, run_key};
use bide_store::{WatchChange, WatchChanged, WatchItem};

use super::*;

fn inbox(desk: &Desk<'_>, name: &str) -> Watch {
    Watch {
        name: name.into(),
        workflow: "ingest".into(),
        number: desk.workflow,
        every: 5_000_000,
        cursor: Value::new(b"i7"),
        created_at: START,
        paused_at: Some(later(1)),
        runner: Some(desk.lease.runner),
        started: 3,
        last: Some((later(2), fresh_id(START))),
        error: Some((later(3), "OSError: no such folder".into())),
    }
}

fn change(expected: Option<i64>, watch: &Watch, items: Vec<WatchItem>) -> WatchChange {
    WatchChange { name: Arc::clone(&watch.name), expected, watch: Some(watch.clone()), items }
}

fn item(desk: &Desk<'_>, watch: &str, key: &str) -> WatchItem {
    WatchItem { key: key.into(), run: desk.new_run(START, Some(&run_key(watch, key))) }
}

/// Makes a change: the new revision, the watch, and how many runs it has started. `None`: the watch was another one.
fn set(store: &dyn Store, change: &WatchChange) -> Option<(i64, Option<Watch>, usize)> {
    match ok(store.change_watch(change)) {
        WatchChanged::Done { revision, watch, started } => Some((revision, watch.map(|watch| *watch), started)),
        _ => None,
    }
}

fn read(store: &dyn Store, name: &str) -> Option<(i64, Option<Watch>)> {
    ok(store.watch(name)).map(|stored| (stored.revision, ok(stored.watch)))
}

pub fn a_watch_reads_back_until_it_is_removed(store: &dyn Store) {
    let desk = Desk::new(store);
    assert_eq!(read(store, "one"), None);
    let one = inbox(&desk, "one");
    let other = Watch::new("other".into(), ("ingest".into(), desk.workflow), 7, START);
    let (first, ..) = set(store, &change(None, &one, vec![])).expect("a watch");
    assert!(set(store, &change(None, &one, vec![])).is_none(), "it is there");
    assert!(set(store, &change(None, &other, vec![])).is_some());
    assert_eq!(read(store, "one"), Some((first, Some(one.clone()))));
    assert_eq!(read(store, "other").map(|(_, watch)| watch), Some(Some(other)));
    let names = || -> Vec<Arc<str>> { ok(store.watches()).into_iter().map(|row| row.name).collect() };
    assert_eq!(names(), ["one".into(), "other".into()]);
    let removal = WatchChange { name: "one".into(), expected: Some(first), watch: None, items: vec![] };
    let (second, ..) = set(store, &removal).expect("a removal");
    assert!(second > first);
    assert_eq!((read(store, "one"), names()), (Some((second, None)), vec!["other".into()]));
    assert!(set(store, &removal).is_none());
    let (third, ..) = set(store, &change(None, &one, vec![])).expect("its name can be used again");
    assert!(third > second);
}

pub fn each_key_of_a_watch_starts_one_run(store: &dyn Store) {
    let desk = Desk::new(store);
    let one = Watch { started: 0, last: None, ..inbox(&desk, "one") };
    let [a, b, again] = ["a", "b", "a"].map(|key| item(&desk, "one", key));
    let new = change(None, &one, vec![a.clone(), b.clone(), again.clone()]);
    let (revision, stored, started) = set(store, &new).expect("a watch");
    let stored = stored.expect("it is there");
    assert_eq!((started, stored.started, stored.last), (2, 2, Some((START, b.run.id))));
    assert_eq!(read(store, "one"), Some((revision, Some(stored.clone()))));
    // They belong to nobody, and can be claimed.
    let standing = ok(store.standing(a.run.id)).expect("the run");
    assert_eq!((standing.status, standing.runner), (RunStatus::Pending, None));
    assert!(ok(store.standing(again.run.id)).is_none());
    assert_eq!(ok(store.claim(desk.lease, &[desk.version], at(START), 9)), [a.run.id, b.run.id]);
    // Its keys stay when the watch is removed.
    let removal = WatchChange { watch: None, items: vec![], ..change(Some(revision), &one, vec![]) };
    assert!(set(store, &removal).is_some());
    let [b, c] = ["b", "c"].map(|key| item(&desk, "one", key));
    let (_, stored, started) = set(store, &change(None, &one, vec![b, c.clone()])).expect("a watch");
    assert_eq!((started, stored.and_then(|watch| watch.last)), (1, Some((START, c.run.id))));
    // Another watch has keys of its own.
    let other = inbox(&desk, "other");
    assert_eq!(set(store, &change(None, &other, vec![item(&desk, "other", "a")])).map(|done| done.2), Some(1));
}

pub fn of_two_changes_of_a_watch_the_first_stands_with_its_runs(store: &dyn Store) {
    let desk = Desk::new(store);
    let one = inbox(&desk, "one");
    let (revision, ..) = set(store, &change(None, &one, vec![])).expect("a watch");
    let tick = |key: &str| {
        let after = Watch { cursor: Value::new(key.as_bytes()), ..one.clone() };
        change(Some(revision), &after, vec![item(&desk, "one", key)])
    };
    let [first, second] = ["sa", "sb"].map(tick);
    assert!(set(store, &first).is_some());
    assert!(set(store, &second).is_none());
    assert_eq!(read(store, "one").and_then(|(_, watch)| watch).map(|watch| watch.cursor), Some(Value::new(b"sa")));
    assert!(ok(store.standing(second.items[0].run.id)).is_none());
    // What was not written left no key behind.
    let (revision, _) = read(store, "one").expect("a watch");
    let again = WatchChange { expected: Some(revision), ..second };
    assert_eq!(set(store, &again).map(|done| done.2), Some(1));
}

pub fn an_item_whose_key_names_a_run_starts_no_other(store: &dyn Store) {
    let desk = Desk::new(store);
    let there = desk.new_run(START, Some("one@a")).with_inputs(Arc::from(&b"\x01a\x03n?"[..]));
    ok(store.create(desk.lease, std::slice::from_ref(&there)));
    let one = inbox(&desk, "one");
    let (_, stored, started) = set(store, &change(None, &one, vec![item(&desk, "one", "a")])).expect("a watch");
    assert_eq!((started, stored.and_then(|watch| watch.last)), (0, one.last));
}

pub fn a_row_number_in_use_changes_no_watch(store: &dyn Store) {
    let desk = Desk::new(store);
    let there = desk.new_run(START, None);
    ok(store.create(desk.lease, std::slice::from_ref(&there)));
    let [free, mut same_row] = ["a", "b"].map(|key| item(&desk, "one", key));
    same_row.run.id = RunId(there.id.0 ^ 1);
    assert_eq!(same_row.run.id.row(), there.id.row());
    let mut new = change(None, &inbox(&desk, "one"), vec![free.clone(), same_row]);
    assert!(matches!(ok(store.change_watch(&new)), WatchChanged::NumberTaken));
    assert_eq!(read(store, "one"), None);
    assert!(ok(store.standing(free.run.id)).is_none());
    new.items[1].run.id = fresh_id(START);
    assert_eq!(set(store, &new).map(|done| done.2), Some(2));
}

pub fn an_item_of_a_watch_ends_waits_for_changes_and_a_purge_leaves_its_key(store: &dyn Store) {
    let desk = Desk::new(store);
    let one = inbox(&desk, "one");
    let (revision, ..) = set(store, &change(None, &one, vec![])).expect("a watch");
    let before = ok(store.wait_for_changes(Seen::default(), Duration::ZERO));
    let (revision, stored, _) = set(store, &change(Some(revision), &one, vec![item(&desk, "one", "a")])).expect("it");
    assert!(ok(store.wait_for_changes(before.seen, Duration::from_secs(60))).unowned);
    let run = desk.claim(later(1))[0];
    desk.end(run, later(2));
    assert_eq!(purge_all(store, later(1_000)), 1);
    assert_eq!(read(store, "one"), Some((revision, stored)));
    let again = change(Some(revision), &one, vec![item(&desk, "one", "a")]);
    assert_eq!(set(store, &again).map(|done| done.2), Some(0));
}
