//! Deleting ended runs from a file: in short steps, by several processes at once, and the effect on the file's size.
#![expect(clippy::unwrap_used, reason = "tests")]

use std::path::Path;
use std::sync::Arc;

use bide_core::record::{DoneRow, NewRun, NewTask, Parent, RunUpdate};
use bide_core::{EntryKey, NO_MAP, RunId, RunStatus, Time, Value, Write};
use bide_store::{Durability, Lease, Maintenance, Purged, SqliteStore, Store};
use rusqlite::Connection;

const NOW: Time = Time(9000);

/// Creates this many runs of one task.
fn create(store: &dyn Store, count: u64) -> (Lease, Vec<RunId>) {
    let workflow = store.register("workflow", "v1", &[NewTask::new("task", vec![])]).unwrap();
    let lease = store.enroll(Time(0).into()).unwrap();
    let new = |n: u64| {
        let id = RunId::new(7, n as u16, n);
        NewRun::new(id, workflow.number, workflow.version, Time(7000)).with_key(Some(format!("key {n}").into()))
    };
    let runs: Vec<NewRun> = (0..count).map(new).collect();
    store.create(lease, &runs).unwrap();
    (lease, runs.iter().map(|run| run.id).collect())
}

fn done(run: RunId, output: &[u8]) -> Write {
    Write::Done(DoneRow::new(run.row(), 0, Value::new(output), Time(7000), Time(8000)))
}

fn ended(run: RunId) -> Write {
    Write::Run(Box::new(RunUpdate { ended_at: Some(Time(8000)), ..RunUpdate::new(run.row(), RunStatus::Completed) }))
}

fn pragma(path: &Path, name: &str) -> i64 {
    Connection::open(path).unwrap().query_row(&format!("PRAGMA {name}"), [], |row| row.get(0)).unwrap()
}

#[test]
fn deletion_releases_space_in_short_steps_but_keeps_some_for_new_runs() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("bide.db");
    let store = SqliteStore::open(&path, Durability::Normal).unwrap();
    let (lease, runs) = create(&*store, 1);
    let big = vec![b's'; 4 << 20];
    let _ = store.commit(lease, &mut vec![done(runs[0], &big), ended(runs[0])]).unwrap();
    let before = pragma(&path, "page_count");
    assert!(!store.shrink().unwrap(), "nothing is free");
    assert!(store.delete(runs[0]).unwrap());
    // Freed for new runs, not yet released to the system.
    assert_eq!(pragma(&path, "page_count"), before);
    assert!(pragma(&path, "freelist_count") > 2000);
    let mut steps = 0;
    let mut pages = before;
    while store.shrink().unwrap() {
        let left = pragma(&path, "page_count");
        assert!(left < pages && pages - left <= 70, "{pages} to {left}");
        (pages, steps) = (left, steps + 1);
    }
    assert!(steps > 20, "{steps}");
    let kept = pragma(&path, "freelist_count");
    assert!((400..=512).contains(&kept), "{kept} of {} pages are free", pragma(&path, "page_count"));
}

#[test]
fn a_step_of_a_purge_is_short_for_any_amount_to_delete() {
    let directory = tempfile::tempdir().unwrap();
    let store = SqliteStore::open(&directory.path().join("bide.db"), Durability::Normal).unwrap();
    let (lease, runs) = create(&*store, 1000);
    let mut batch: Vec<Write> = runs.iter().flat_map(|run| [done(*run, b"t"), ended(*run)]).collect();
    // Limited by the freed pages: a run of half a megabyte is a step by itself.
    batch[0] = done(runs[0], &vec![b's'; 600_000]);
    let _ = store.commit(lease, &mut batch).unwrap();
    let step = store.purge(NOW, 0, 5000).unwrap();
    assert_eq!(step, Purged { runs: 1, next: Some(runs[1].row()) });
    // Limited by rows: a run and its task are two.
    let step = store.purge(NOW, 0, 5000).unwrap();
    assert_eq!(step, Purged { runs: 64, next: Some(runs[65].row()) });
}

#[test]
fn large_children_of_one_run_are_deleted_in_several_steps() {
    let directory = tempfile::tempdir().unwrap();
    let store = SqliteStore::open(&directory.path().join("bide.db"), Durability::Normal).unwrap();
    let (lease, runs) = create(&*store, 2);
    let workflow = store.register("workflow", "v1", &[NewTask::new("task", vec![])]).unwrap();
    for (n, parent) in (1..).zip([runs[0], runs[0], runs[1], runs[1]]) {
        let key = EntryKey { name: "child".into(), n };
        let above = Parent { run: parent, task: 0, map: NO_MAP, key, depth: 1 };
        let id = RunId::new(8, n as u16, 0);
        let new = NewRun::new(id, workflow.number, workflow.version, Time(8000)).with_parent(Some(Arc::new(above)));
        store.create(lease, &[new]).unwrap();
        let _ = store.commit(lease, &mut vec![done(id, &vec![b's'; 1_200_000]), ended(id)]).unwrap();
    }
    let _ = store.commit(lease, &mut runs.iter().map(|run| ended(*run)).collect()).unwrap();
    assert_eq!(store.purge(NOW, 0, 9).unwrap(), Purged { runs: 1, next: Some(runs[0].row()) });
    assert_eq!(store.purge(NOW, 0, 9).unwrap(), Purged { runs: 2, next: Some(runs[1].row()) });
    assert!(store.delete(runs[1]).unwrap());
    assert_eq!(store.list(&Default::default()).unwrap(), []);
}

#[test]
fn two_purges_at_once_delete_each_due_run_exactly_once() {
    let directory = tempfile::tempdir().unwrap();
    let store = SqliteStore::open(&directory.path().join("bide.db"), Durability::Normal).unwrap();
    let (lease, runs) = create(&*store, 2001);
    let mut batch: Vec<Write> = runs[1..].iter().map(|run| ended(*run)).collect();
    let _ = store.commit(lease, &mut batch).unwrap();
    let purge = || {
        let (mut from, mut deleted) = (Some(0), 0);
        while let Some(row) = from {
            let step = store.purge(NOW, row, 100).unwrap();
            deleted += step.runs;
            from = step.next;
        }
        deleted
    };
    let (one, other) = std::thread::scope(|scope| {
        let (one, other) = (scope.spawn(purge), scope.spawn(purge));
        (one.join().unwrap(), other.join().unwrap())
    });
    assert_eq!(one + other, 2000);
    let left: Vec<RunId> = store.list(&Default::default()).unwrap().iter().map(|stored| stored.run.id).collect();
    assert_eq!(left, runs[..1]);
}
