//! Waits of the tests until the engine has come to rest.

use bide_executor::Runner;
use bide_executor::core::record::TaskRow;
use bide_executor::core::{RunId, SubStatus};

use crate::support::Place;

/// Waits until a task's wait is committed.
pub(crate) async fn is_deferred(place: &Place, run: RunId, task: &str) {
    let store = place.open();
    let deferred = |row: &TaskRow| row.sub_status == Some(SubStatus::Deferred);
    loop {
        let stored = store.load(run).unwrap().unwrap();
        let id = stored.tasks.iter().find(|recorded| &*recorded.name == task).unwrap().id;
        if stored.rows.iter().any(|row| row.task == id && deferred(row)) {
            return;
        }
        tokio::task::yield_now().await;
    }
}

/// Waits until no body holds a slot: a wait is committed before its slot is released.
pub(crate) async fn no_slot_in_use(runner: &Runner) {
    while runner.slots_in_use().0 > 0 {
        tokio::task::yield_now().await;
    }
}
