//! A pipeline that waits for a file without holding a slot: `wait_for_data` -> `process_data`.
//!
//! There is one slot. While `wait_for_data` is deferred, another run uses the slot and writes the file.
//! Start it with `cargo run -p bide-executor --example deferred_tasks`.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use bide_executor::store::{Durability, SqliteStore, Store};
use bide_executor::{Runner, TaskContext, Workflow};

#[tokio::main]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let directory = std::env::temp_dir().join(format!("bide-example-{}", std::process::id()));
    std::fs::create_dir_all(&directory)?;
    let store = SqliteStore::open(&directory.join("bide.db"), Durability::Normal)?;
    let outcome = pipeline(directory.join("data.csv"), store).await;
    std::fs::remove_dir_all(&directory)?;
    outcome
}

/// Delivers the file and processes it, on a store.
pub(crate) async fn pipeline(data: PathBuf, store: Arc<dyn Store>) -> Result<(), Box<dyn std::error::Error>> {
    let ingest = Workflow::builder("ingest")
        .task("wait_for_data", |cx: TaskContext| async move {
            let path: PathBuf = cx.input("path")?;
            let handle = cx.handle();
            println!("wait_for_data: waiting for {} (slot held: {})", path.display(), handle.is_slot_held());
            // Polled at once, then every 50 ms, until it returns a size. Meanwhile the slot is free.
            let size = || async { tokio::fs::metadata(&path).await.ok().map(|data| data.len()) };
            let bytes: u64 =
                handle.defer_until(size, Duration::from_millis(50)).timeout(Duration::from_secs(60)).await?;
            println!("wait_for_data: {bytes} bytes have appeared (slot held: {})", handle.is_slot_held());
            Ok(path)
        })
        .task("process_data", |cx: TaskContext| async move {
            let text = tokio::fs::read_to_string(cx.output::<PathBuf>("wait_for_data")?).await?;
            let sum: u64 = text.lines().map(|line| line.parse::<u64>()).sum::<Result<_, _>>()?;
            println!("process_data: the sum is {sum}");
            Ok(sum)
        })
        .after(["wait_for_data"])
        .build()?;

    let deliver = Workflow::builder("deliver")
        .task("write", |cx: TaskContext| async move {
            let path: PathBuf = cx.input("path")?;
            println!("write: this executes in the slot that wait_for_data has released");
            // Write under another name first, so that no reader sees an incomplete file.
            let unfinished = path.with_extension("part");
            tokio::fs::write(&unfinished, "1\n2\n39\n").await?;
            tokio::fs::rename(&unfinished, &path).await?;
            Ok(())
        })
        .gate(bide_executor::after(Duration::from_millis(300)))
        .build()?;

    let runner = Runner::open(store).slots(1).start()?;
    let waiting = runner.submit(&ingest, &[("path", &data)]).await?;
    runner.run(&deliver, [("path", &data)]).await?;
    let result = waiting.result().await?;

    let wait = result.task("wait_for_data")?;
    println!("run {} has {}: waited {:.2?} in {} attempt", result.id, result.status, wait.waited, wait.attempts);
    assert_eq!(result.output::<u64>("process_data")?, 42);
    assert!(wait.waited >= Duration::from_millis(250), "it did wait: {:?}", wait.waited);
    runner.close().await;
    Ok(())
}
