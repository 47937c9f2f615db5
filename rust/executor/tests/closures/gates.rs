//! Gates: a task does not start before its gate is satisfied, and a gate takes no slot.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use bide_executor::core::{FailureKind, TaskStatus};
use bide_executor::{TaskContext, TaskError, Workflow, after, until};
use tokio::sync::Notify;

use crate::counter;
use crate::support::{SOON, on_every_store, row};

#[test]
fn a_gate_is_satisfied_before_the_body_starts_and_takes_no_slot() {
    on_every_store(|place| async move {
        let (open, asked) = (Arc::new(AtomicBool::new(false)), Arc::new(Notify::new()));
        let parts = (Arc::clone(&open), Arc::clone(&asked));
        let workflow = Workflow::builder("gates")
            .task("file", |_| async { Ok("a.csv") })
            .task("load", move |cx: TaskContext| async move { cx.output::<String>("file") })
            .after(["file"])
            .gate(
                until(move |scope| {
                    let (open, asked) = parts.clone();
                    async move {
                        assert_eq!(scope.output::<String>("file")?, "a.csv");
                        asked.notify_one();
                        Ok::<_, TaskError>(open.load(Ordering::SeqCst))
                    }
                })
                .every(SOON),
            )
            .task("later", |_| async { Ok(()) })
            .gate(after(5 * SOON))
            .build()
            .unwrap();
        let runner = place.runner(1);
        let run = runner.submit(&workflow, &()).await.unwrap();
        asked.notified().await;
        asked.notified().await;
        let store = place.open();
        assert_eq!(row(&store, run.id(), "load").status, TaskStatus::Pending);
        let other = Workflow::builder("other").task("one", |_| async { Ok(1) }).build().unwrap();
        runner.run(&other, ()).await.unwrap();
        open.store(true, Ordering::SeqCst);
        let result = run.result().await.unwrap();
        assert_eq!(result.output::<String>("load").unwrap(), "a.csv");
        let later = result.task("later").unwrap();
        let opened = later.started_at.unwrap().duration_since(result.started_at).unwrap();
        assert!(opened >= 5 * SOON, "{opened:?}");
        runner.close().await;
    });
}

#[test]
fn a_gate_that_stays_shut_fails_its_task_and_survives_a_restart() {
    on_every_store(|place| async move {
        let (open, seen) = counter();
        let workflow = Workflow::builder("shut")
            .task("never", |_| async { Ok(()) })
            .gate(until(|_| async { false }).every(SOON).timeout(4 * SOON))
            .task("reopened", |_| async { Ok(()) })
            .gate(
                until(move |_| {
                    let polls = open.fetch_add(1, Ordering::SeqCst);
                    async move { polls >= 1000 }
                })
                .every(SOON),
            )
            .build()
            .unwrap();
        let runner = place.runner(1);
        let run = runner.submit(&workflow, &()).await.unwrap().id();
        while seen.load(Ordering::SeqCst) < 2 {
            tokio::task::yield_now().await;
        }
        drop(runner);
        seen.store(1000, Ordering::SeqCst);
        let runner = place.runner(1);
        runner.register(&workflow).await.unwrap();
        let error = runner.handle(run).await.unwrap().result().await.unwrap_err();
        let result = &error.run_failed().unwrap().result;
        assert_eq!(result.task("never").unwrap().error.as_ref().unwrap().kind, FailureKind::WaitTimeout);
        assert_eq!(result.task("reopened").unwrap().status, TaskStatus::Completed);
        runner.close().await;
    });
}
