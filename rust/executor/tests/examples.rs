//! The examples do what they claim: they check it themselves. Here each of them executes on a store in memory.
#![expect(clippy::unwrap_used, reason = "tests")]

use bide_executor::store::MemoryStore;

#[path = "../../../examples/approvals.rs"]
#[expect(dead_code, reason = "its main uses a file")]
mod approvals;
#[path = "../../../examples/deferred_tasks.rs"]
#[expect(dead_code, reason = "its main uses a file")]
mod deferred_tasks;
#[path = "../../../examples/signals.rs"]
#[expect(dead_code, reason = "its main uses a file")]
mod signals;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn approvals_are_child_runs_whose_callbacks_outlive_their_process() {
    approvals::buy(MemoryStore::new()).await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_task_waits_for_its_file_and_feeds_the_next() {
    let directory = tempfile::tempdir().unwrap();
    deferred_tasks::pipeline(directory.path().join("data.csv"), MemoryStore::new()).await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn drafts_are_published_as_people_decide() {
    signals::publish(MemoryStore::new()).await.unwrap();
}
