//! What live runs show: events by channel, and progress.

use super::*;

/// Events of a body of the task `fetch`, one for each value.
fn events(run: RunId, channel: &str, values: &[&str]) -> NewEvents {
    let mut outbox = Outbox::default();
    let channel = Channel { name: channel.into(), type_name: "".into(), keep: None };
    for value in values {
        let origin = Origin { task: TaskRef::plain(0), attempt: 1, entry: None };
        let filled = outbox.emit(&channel, origin, value.as_bytes(), START);
        assert!(filled.is_ok());
    }
    let chunk = outbox.take(None, Duration::ZERO).and_then(|mut published| published.events.pop()).expect("events");
    NewEvents {
        run: run.row(),
        channel: chunk.channel,
        keep: None,
        skipped: 0,
        count: chunk.count,
        task: 0,
        map: NO_MAP,
        attempt: 1,
        entry: None,
        emitted_at: chunk.at,
        packed: chunk.packed,
    }
}

fn write(events: NewEvents) -> Write {
    Write::Events(Box::new(events))
}

/// The offsets and values of a channel after an offset.
fn read(store: &dyn Store, run: RunId, channel: &str, after: u64, most: usize) -> Vec<(u64, String)> {
    let found = ok(store.events(run, channel, EventRange::After { offset: after, most })).expect("the run is there");
    let all = found.iter().flat_map(|row| row.events().expect("whole"));
    let text = |value: &Value| String::from_utf8_lossy(value.as_bytes()).into_owned();
    all.filter(|event| event.offset > after).map(|event| (event.offset, text(&event.value))).collect()
}

fn numbered(from: u64, values: &[&str]) -> Vec<(u64, String)> {
    (from..).zip(values).map(|(offset, value)| (offset, (*value).to_owned())).collect()
}

pub fn events_get_their_offsets_in_the_order_of_the_commits(store: &dyn Store) {
    let desk = Desk::new(store);
    let (run, other) = (desk.create(START, None), desk.create(START, None));
    assert_eq!(read(store, run, "log", 0, 100), []);
    desk.commit(vec![write(events(run, "log", &["a", "b"])), write(events(other, "log", &["x"]))]);
    desk.commit(vec![write(events(run, "log", &["c"])), write(events(run, "state", &["y"]))]);
    assert_eq!(read(store, run, "log", 0, 100), numbered(1, &["a", "b", "c"]));
    assert_eq!(read(store, run, "state", 0, 100), numbered(1, &["y"]));
    assert_eq!(read(store, other, "log", 0, 100), numbered(1, &["x"]));
    // Another runner goes on from there.
    assert!(store.leave(desk.lease).is_ok());
    let next = Desk::new(store);
    assert_eq!(next.claim(later(1)).len(), 2);
    next.commit(vec![write(events(run, "log", &["d"]))]);
    assert_eq!(read(store, run, "log", 0, 100), numbered(1, &["a", "b", "c", "d"]));
}

pub fn events_are_read_from_the_row_that_has_the_next_one(store: &dyn Store) {
    let desk = Desk::new(store);
    let run = desk.create(START, None);
    for values in [&["a", "b", "c"][..], &["d", "e"], &["f"], &["g", "h"]] {
        desk.commit(vec![write(events(run, "log", values))]);
    }
    let all = numbered(1, &["a", "b", "c", "d", "e", "f", "g", "h"]);
    for after in 0..9 {
        assert_eq!(read(store, run, "log", after, 100), all[(after as usize).min(8)..]);
    }
    assert_eq!(read(store, run, "log", u64::MAX, 100), []);
    // About so many: the rows up to the one that has the last of them.
    assert_eq!(read(store, run, "log", 1, 1), all[1..3]);
    assert_eq!(read(store, run, "log", 3, 3), all[3..6]);
    assert_eq!(read(store, run, "log", 3, 0), []);
    let last = ok(store.events(run, "log", EventRange::Last)).expect("the run is there");
    assert_eq!(last.iter().map(|row| (row.first, row.count)).collect::<Vec<_>>(), [(7, 2)]);
    assert_eq!(ok(store.events(run, "other", EventRange::Last)), Some(vec![]));
    assert_eq!(ok(store.events(fresh_id(START), "log", EventRange::Last)), None);
}

pub fn every_row_of_events_reads_back(store: &dyn Store) {
    let desk = Desk::new(store);
    proptest!(|(map in rows::maps(), attempt: u32, entry in proptest::option::of(rows::texts()),
                emitted_at in rows::times(), skipped in 0..1_000_000_u64, packed: Vec<u8>, count in 1..1000_u32)| {
        let run = desk.create(START, None);
        let new = NewEvents {
            skipped, count, map, attempt, entry, emitted_at, packed, task: 1, ..events(run, "log", &["t"])
        };
        desk.commit(vec![write(new.clone())]);
        let found = ok(store.events(run, "log", EventRange::Last));
        let expected = StoredEvents {
            first: skipped + 1,
            count,
            task: "process".into(),
            map,
            attempt,
            entry: new.entry,
            emitted_at,
            packed: new.packed,
        };
        prop_assert_eq!(found, Some(vec![expected]));
    });
}

pub fn a_channel_that_keeps_the_last_events_forgets_the_others(store: &dyn Store) {
    let desk = Desk::new(store);
    let (run, other) = (desk.create(START, None), desk.create(START, None));
    let kept = |run, value, skipped| write(NewEvents { keep: Some(2), skipped, ..events(run, "state", &[value]) });
    desk.commit(vec![kept(other, "x", 0), write(events(run, "log", &["y"]))]);
    for value in ["a", "b", "c"] {
        desk.commit(vec![kept(run, value, 0)]);
    }
    assert_eq!(read(store, run, "state", 0, 100), numbered(2, &["b", "c"]));
    desk.commit(vec![kept(run, "d", 96), kept(run, "e", 0)]);
    assert_eq!(read(store, run, "state", 0, 100), numbered(100, &["d", "e"]));
    assert_eq!(read(store, run, "state", 100, 100), numbered(101, &["e"]));
    assert_eq!(read(store, run, "log", 0, 100), numbered(1, &["y"]));
    assert_eq!(read(store, other, "state", 0, 100), numbered(1, &["x"]));
}

pub fn progress_is_read_with_its_run_and_replaces_the_earlier(store: &dyn Store) {
    let desk = Desk::new(store);
    let (run, other) = (desk.create(START, None), desk.create(later(1), None));
    let row = |run: RunId, task, done, total, message: Option<&str>| {
        let progress = Progress { done, total, message: message.map(Into::into), said_at: later(3) };
        ProgressRow { run: run.row(), task, map: NO_MAP, progress }
    };
    let [first, second] = [row(run, 0, 1.0, Some(8.0), Some("eight")), row(run, 0, 2.5, None, None)];
    let third = row(run, 1, 0.0, Some(1e300), Some(""));
    desk.commit(vec![Write::Progress(Box::new(first.clone()))]);
    assert_eq!(desk.load(run).progress, [first]);
    desk.commit([&third, &second].map(|row| Write::Progress(Box::new(row.clone()))).into());
    assert_eq!(desk.load(run).progress, [second.clone(), third.clone()]);
    assert_eq!(desk.load(other).progress, []);
    let listed = ok(store.list(&RunFilter::default()));
    assert_eq!(listed.iter().map(|stored| stored.progress.clone()).collect::<Vec<_>>(), [vec![], vec![second, third]]);
}

pub fn what_a_run_shows_is_written_with_its_batch_or_not_at_all(store: &dyn Store) {
    let desk = Desk::new(store);
    let run = desk.create(START, None);
    desk.commit(vec![done(run, 0, b"t")]);
    let progress = Progress { done: 1.0, total: None, message: None, said_at: START };
    let progress = ProgressRow { run: run.row(), task: 1, map: NO_MAP, progress };
    let batch = || vec![write(events(run, "log", &["a"])), Write::Progress(Box::new(progress.clone()))];
    let mut failing = [batch(), vec![done(run, 0, b"f")]].concat();
    assert!(matches!(store.commit(desk.lease, &mut failing), Err(StoreError::Corrupt(_))));
    assert_eq!(failing.len(), 3);
    // Neither does a runner that was fenced.
    let lost = Lease { epoch: desk.lease.epoch + 1, ..desk.lease };
    fenced(store.commit(lost, &mut batch()), lost);
    assert_eq!(read(store, run, "log", 0, 100), []);
    assert_eq!(desk.load(run).progress, []);
}

pub fn what_a_run_shows_is_deleted_with_it(store: &dyn Store) {
    let desk = Desk::new(store);
    let runs: Vec<RunId> = (0..3).map(|at| desk.create(later(at), None)).collect();
    for run in &runs {
        let progress = Progress { done: 1.0, total: None, message: None, said_at: START };
        let progress = ProgressRow { run: run.row(), task: 1, map: NO_MAP, progress };
        let both = ["log", "state"].map(|channel| write(events(*run, channel, &["a", "b"])));
        desk.commit(both.into_iter().chain([Write::Progress(Box::new(progress))]).collect());
    }
    desk.end(runs[0], later(5));
    desk.end(runs[1], later(5));
    assert!(ok(store.delete(runs[0])));
    assert_eq!(purge_all(store, later(6)), 1);
    for run in &runs[..2] {
        assert_eq!(ok(store.events(*run, "log", EventRange::Last)), None);
    }
    assert_eq!(read(store, runs[2], "state", 0, 100), numbered(1, &["a", "b"]));
    assert_eq!(desk.load(runs[2]).progress.len(), 1);
}
