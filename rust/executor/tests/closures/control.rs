//! Control of runs of closures: cancel, pause, resume and retry.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use bide_executor::core::{RunStatus, SubStatus, TaskStatus};
use bide_executor::{Error, TaskContext, TaskError, Workflow};

use crate::settle::is_deferred;
use crate::support::{on_every_store, row};

/// A body that waits, and cleans up when it is cancelled.
fn waits(undone: &Arc<AtomicU32>) -> Workflow {
    let undone = Arc::clone(undone);
    Workflow::builder("waits")
        .task("wait", move |cx: TaskContext| {
            let undone = Arc::clone(&undone);
            async move {
                let handle = cx.handle();
                match handle.wait_for::<u32>("go").await {
                    Err(error) if error.is_cancelled() => {
                        handle
                            .step("undo", &(), async || {
                                undone.fetch_add(1, Ordering::Relaxed);
                                Ok(())
                            })
                            .await?;
                        Err(error)
                    }
                    waited => waited,
                }
            }
        })
        .task("next", |_| async { Ok(1) })
        .after(["wait"])
        .build()
        .unwrap()
}

#[test]
fn a_cancelled_body_cleans_up_and_its_run_ends_cancelled() {
    on_every_store(|place| async move {
        let undone = Arc::new(AtomicU32::new(0));
        let runner = place.runner(2);
        let run = runner.submit(&waits(&undone), &()).await.unwrap();
        is_deferred(&place, run.id(), "wait").await;
        run.cancel().by("ana").reason("too late").await.unwrap();
        let error = run.result().await.unwrap_err();
        assert!(error.to_string().contains("was cancelled by ana: too late"), "{error}");
        let result = &error.run_failed().unwrap().result;
        assert_eq!(result.status, RunStatus::Cancelled);
        assert!(result.tasks.iter().all(|task| task.status == TaskStatus::Cancelled));
        assert_eq!(undone.load(Ordering::Relaxed), 1);
        run.cancel().await.unwrap();
        runner.close().await;
    });
}

#[test]
fn a_paused_run_records_what_comes_and_continues_with_it() {
    on_every_store(|place| async move {
        let runner = place.runner(2);
        let run = runner.submit(&waits(&Arc::default()), &()).await.unwrap();
        is_deferred(&place, run.id(), "wait").await;
        run.pause().by("bo").await.unwrap();
        assert_eq!(run.status().await.unwrap(), RunStatus::Paused);
        run.signal("go", &7).await.unwrap();
        let store = place.open();
        while row(&store, run.id(), "wait").sub_status != Some(SubStatus::Active) {
            tokio::task::yield_now().await;
        }
        assert_eq!(run.status().await.unwrap(), RunStatus::Paused);
        runner.resume(run.id()).await.unwrap();
        assert_eq!(run.result().await.unwrap().output::<u32>("wait").unwrap(), 7);
        runner.close().await;
    });
}

#[test]
fn a_failed_run_is_retried_from_what_has_failed() {
    on_every_store(|place| async move {
        let (first, second) = (Arc::new(AtomicU32::new(0)), Arc::new(AtomicU32::new(0)));
        let (calls, tries) = (Arc::clone(&first), Arc::clone(&second));
        let workflow = Workflow::builder("fails")
            .task("first", move |_| {
                let calls = Arc::clone(&calls);
                async move { Ok(calls.fetch_add(1, Ordering::Relaxed)) }
            })
            .task("second", move |_| {
                let tries = Arc::clone(&tries);
                async move {
                    match tries.fetch_add(1, Ordering::Relaxed) {
                        0 => Err(TaskError::new("not yet")),
                        n => Ok(n),
                    }
                }
            })
            .after(["first"])
            .build()
            .unwrap();
        let runner = place.runner(2);
        let run = runner.submit(&workflow, &()).await.unwrap();
        assert!(matches!(run.result().await.unwrap_err(), Error::Failed(_)));
        run.retry().await.unwrap();
        assert_eq!(run.result().await.unwrap().output::<u32>("second").unwrap(), 1);
        assert_eq!(first.load(Ordering::Relaxed), 1);
        assert!(matches!(run.retry().await.unwrap_err(), Error::TooLate(_)));
        assert!(matches!(run.cancel().await.unwrap_err(), Error::TooLate(_)));
        runner.close().await;
    });
}
