//! A draft is published once a person has approved it; after a while without an answer, a second person is asked.
//!
//! The wait takes no slot and survives a restart of the process; a decision may also come before its wait.
//! Start it with `cargo run -p bide-executor --example signals`.

use std::sync::Arc;
use std::time::Duration;

use bide_executor::store::{Durability, SqliteStore, Store};
use bide_executor::{Runner, Skip, TaskContext, Workflow, after, signal};
use serde::{Deserialize, Serialize};

#[derive(Debug, Deserialize, Serialize)]
struct Decision {
    approved: bool,
    by: String,
}

/// Two days, for people who read this in a hurry.
const PATIENCE: Duration = Duration::from_millis(300);

fn publishing() -> Result<Workflow, Box<dyn std::error::Error>> {
    let workflow = Workflow::builder("publish")
        .task("approve", |cx: TaskContext| async move {
            let handle = cx.handle();
            handle
                .step("ask the editor", &(), || async {
                    println!("approve: dear editor, may we?");
                    Ok(())
                })
                .await?;
            let (decision, _) = handle.wait_any((signal::<Decision>("decision"), after(PATIENCE))).await?;
            let decision = match decision {
                Some(decision) => decision,
                None => {
                    handle
                        .step("escalate", &(), || async {
                            println!("approve: dear publisher, may we?");
                            Ok(())
                        })
                        .await?;
                    handle.wait_for("decision").timeout(Duration::from_secs(60)).await?
                }
            };
            if !decision.approved {
                return Err(Skip(format!("rejected by {}", decision.by)).into());
            }
            Ok(decision.by)
        })
        .task("publish", |cx: TaskContext| async move {
            let by: String = cx.output("approve")?;
            println!("publish: approved by {by}");
            Ok(())
        })
        .after(["approve"])
        .signals(["decision"])
        .build()?;
    Ok(workflow)
}

#[tokio::main]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let directory = std::env::temp_dir().join(format!("bide-signals-{}", std::process::id()));
    std::fs::create_dir_all(&directory)?;
    let outcome = publish(SqliteStore::open(&directory.join("bide.db"), Durability::Normal)?).await;
    std::fs::remove_dir_all(&directory)?;
    outcome
}

/// Publishes two drafts on a store.
pub(crate) async fn publish(store: Arc<dyn Store>) -> Result<(), Box<dyn std::error::Error>> {
    let runner = Runner::open(store).slots(1).start()?;
    let workflow = publishing()?;

    // The editor is on holiday. The id lets the publisher's answer be sent again if it is unknown whether it arrived.
    let slow = runner.submit(&workflow, &()).await?;
    let yes = Decision { approved: true, by: "the publisher".to_owned() };
    tokio::time::sleep(2 * PATIENCE).await;
    slow.signal("decision", &yes).id("publisher").await?;
    assert_eq!(slow.result().await?.output::<String>("approve")?, "the publisher");

    // This editor decides at once, even before the wait.
    let quick = runner.submit(&workflow, &()).await?;
    quick.signal("decision", &Decision { approved: false, by: "the editor".to_owned() }).await?;
    let result = quick.result().await?;
    println!("run {} has {}: approve was {}", result.id, result.status, result.task("approve")?.status);

    runner.close().await;
    Ok(())
}
