//! The memory store meets the contract of every store, and deletes old ended runs by itself.
#![expect(clippy::unwrap_used, reason = "tests")]

use bide_core::record::{NewRun, NewTask, RunUpdate};
use bide_core::{RunId, RunStatus, Time, Write};
use bide_store::memory::KEPT;
use bide_store::{MemoryStore, RunFilter, Store};

fn with_store(check: fn(&dyn Store)) {
    check(&*MemoryStore::new());
}

bide_testkit::conformance!(with_store);

#[test]
fn only_the_last_ended_runs_are_kept_and_no_unfinished_one_is_forgotten() {
    let store = MemoryStore::new();
    let lease = store.enroll(Time(0).into()).unwrap();
    let workflow = store.register("workflow", "v1", &[NewTask::new("task", vec![])]).unwrap();
    let ids: Vec<RunId> = (0..KEPT as u64 + 11).map(|n| RunId::new(n, 0, 0)).collect();
    let new =
        |id: &RunId| NewRun::new(*id, workflow.number, workflow.version, Time(0)).with_key(Some(id.to_string().into()));
    store.create(lease, &ids.iter().map(new).collect::<Vec<_>>()).unwrap();
    for id in &ids[1..] {
        let update = RunUpdate { ended_at: Some(Time(1)), ..RunUpdate::new(id.row(), RunStatus::Completed) };
        let _ = store.commit(lease, &mut vec![Write::Run(Box::new(update))]).unwrap();
    }
    let left: Vec<RunId> =
        store.list(&RunFilter::default()).unwrap().iter().rev().map(|stored| stored.run.id).collect();
    assert_eq!(left[0], ids[0]);
    assert_eq!(left[1..], ids[11..]);
    assert_eq!(store.by_key(&ids[1].to_string(), None).unwrap(), []);
}
