//! Events and progress of closures.

use std::sync::Arc;

use bide_executor::{Event, StepSettings, TaskContext, Workflow};
use tokio::sync::Notify;

use crate::support::{SOON, on_every_store};

#[test]
fn a_closure_emits_events_that_its_caller_reads() {
    on_every_store(|place| async move {
        let workflow = Workflow::builder("shows")
            .task("body", |cx: TaskContext| async move {
                let handle = cx.handle();
                handle.emit("log", &("first", 1)).await?;
                let within = || async { handle.emit("log", &("step", 2)).await };
                handle.step("charge", &(), within).await?;
                let within = || async { handle.emit("log", &("keyed step", 3)).await };
                handle.step_with(StepSettings::new().key("a"), "fetch", &(), within).await?;
                handle.progress(1.0, Some(2.0), Some("half"))?;
                for n in 0..50_000_u32 {
                    handle.emit("many", &n).await?;
                }
                Ok(())
            })
            .build()
            .unwrap();
        let runner = place.runner(1);
        let handle = runner.submit(&workflow, &()).await.unwrap();
        handle.result().await.unwrap();
        let log: Vec<Event<(String, u32)>> = handle.events("log", 0).await.unwrap();
        let seen: Vec<_> =
            log.iter().map(|event| (event.offset, event.value.1, event.attempt, event.entry.as_deref())).collect();
        assert_eq!(seen, [(1, 1, 1, None), (2, 2, 1, Some("charge")), (3, 3, 1, Some("fetch \"a\""))]);
        assert_eq!(log[0].task, "body");
        let many: Vec<Event<u32>> = handle.events("many", 10).await.unwrap();
        assert_eq!(many.iter().map(|event| event.value).collect::<Vec<_>>(), (10..50_000).collect::<Vec<_>>());
        assert!(handle.events::<String>("many", 0).await.unwrap_err().to_string().contains("'many'"));
        runner.close().await;
    });
}

#[test]
fn events_are_committed_although_the_closure_records_nothing() {
    on_every_store(|place| async move {
        let go = Arc::new(Notify::new());
        let waits = Arc::clone(&go);
        let workflow = Workflow::builder("blocks")
            .task("body", move |cx: TaskContext| {
                let waits = Arc::clone(&waits);
                async move {
                    cx.handle().emit("log", "there").await?;
                    waits.notified().await;
                    Ok(())
                }
            })
            .build()
            .unwrap();
        let runner = place.runner(1);
        let handle = runner.submit(&workflow, &()).await.unwrap();
        while handle.events::<String>("log", 0).await.unwrap().is_empty() {
            tokio::time::sleep(SOON).await;
        }
        go.notify_one();
        handle.result().await.unwrap();
        runner.close().await;
    });
}
