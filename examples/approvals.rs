//! A purchase is one run, and the approval of each of its items a child run of its own. A mail with a link goes to a
//! person, whose click answers the callback in it. A request tells how far the purchase is.
//!
//! None of these waits takes a slot, and all of them survive a restart of the process.
//! Start it with `cargo run -p bide-executor --example approvals`.

use std::error::Error;
use std::sync::Arc;
use std::time::Duration;

use bide_executor::store::{Durability, SqliteStore, Store};
use bide_executor::{Runner, TaskContext, Workflow, all_of, request};
use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel};

/// What a person gets: the item, and the token of the callback, which would be a part of a link.
type Mail = (String, String);

/// Approves one item: true if the person says so.
fn approval(mails: UnboundedSender<Mail>) -> Result<Workflow, Box<dyn Error>> {
    let workflow = Workflow::builder("approval")
        .task("ask", move |cx: TaskContext| {
            let mails = mails.clone();
            async move {
                let item: String = cx.input("item")?;
                let handle = cx.handle();
                let decision = handle.callback::<bool>("decision").await?;
                handle.step("mail", &item, || async { Ok(mails.send((item.clone(), decision.token()))?) }).await?;
                match handle.wait(&decision).timeout(Duration::from_secs(60)).await {
                    Err(error) if error.is_callback_rejected() => {
                        println!("{item}: rejected: {error}");
                        Ok(false)
                    }
                    decided => decided,
                }
            }
        })
        .build()?;
    Ok(workflow)
}

/// Buys the items that are approved.
fn purchase(approval: Workflow) -> Result<Workflow, Box<dyn Error>> {
    let workflow = Workflow::builder("purchase")
        .task("buy", move |cx: TaskContext| {
            let approval = approval.clone();
            async move {
                let items: Vec<String> = cx.input("items")?;
                let handle = cx.handle();
                let mut children = Vec::new();
                for item in &items {
                    // With a key it is the same child however often the body is entered, and in any order.
                    children.push(handle.start(&approval, &[("item", item)]).key(item.as_str()).await?);
                }
                let approved = loop {
                    let waits = (all_of(children.clone()), request::<String, String>("status"));
                    match handle.wait_any(waits).await? {
                        (Some(approved), _) => break approved,
                        (_, Some(asked)) => {
                            asked.reply(&format!("{}, {} items are being approved", asked.value, items.len())).await?;
                        }
                        _ => {}
                    }
                };
                let mut bought = Vec::new();
                for (item, approval) in items.into_iter().zip(approved) {
                    if approval.output("ask")? {
                        bought.push(item);
                    }
                }
                Ok(bought)
            }
        })
        .signals(["status"])
        .build()?;
    Ok(workflow)
}

async fn next(mails: &mut UnboundedReceiver<Mail>) -> Result<Mail, Box<dyn Error>> {
    Ok(mails.recv().await.ok_or("no mail was sent")?)
}

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    let directory = std::env::temp_dir().join(format!("bide-approvals-{}", std::process::id()));
    std::fs::create_dir_all(&directory)?;
    let outcome = buy(SqliteStore::open(&directory.join("bide.db"), Durability::Normal)?).await;
    std::fs::remove_dir_all(&directory)?;
    outcome
}

/// Does it all on a store.
pub(crate) async fn buy(store: Arc<dyn Store>) -> Result<(), Box<dyn Error>> {
    let (sender, mut mails) = unbounded_channel();
    let approval = approval(sender)?;
    let purchase = purchase(approval.clone())?;
    let runner = Runner::open(store.clone()).slots(1).start()?;
    let items = serde_json::json!({"items": ["a desk", "a yacht"]});
    let run = runner.submit(&purchase, &items).await?;
    let letters = [next(&mut mails).await?, next(&mut mails).await?];
    let status: String = run.request("status", "dear boss").timeout(Duration::from_secs(10)).await?;
    println!("status: {status}");
    let id = run.id();

    // The process ends. The mails lie in two inboxes for a week.
    drop((run, runner));
    let runner = Runner::open(store).slots(1).start()?;
    for (item, token) in letters {
        // The id: a webhook that is delivered twice gives one answer.
        match &*item {
            "a yacht" => runner.reject(token, "too long").id("webhook 1").await?,
            _ => runner.resolve(token, &true).id("webhook 2").await?,
        }
    }
    for workflow in [&purchase, &approval] {
        runner.register(workflow).await?;
    }
    let bought: Vec<String> = runner.handle(id).await?.result().await?.output("buy")?;
    println!("bought: {}", bought.join(", "));
    assert_eq!(bought, ["a desk"]);
    runner.close().await;
    Ok(())
}
