//! Slots and handles: never more bodies than slots, and no use of a handle loses or adds a slot.

use std::pin::Pin;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bide_executor::core::TaskStatus;
use bide_executor::{TaskContext, TaskError, Workflow};
use tokio::sync::{Barrier, oneshot};

use crate::support::{SOON, on_every_store};

#[test]
fn never_more_bodies_execute_than_there_are_slots() {
    on_every_store(|place| async move {
        let (now, most) = (Arc::new(AtomicU32::new(0)), Arc::new(AtomicU32::new(0)));
        // Each new body waits for two others to execute beside it.
        let beside = Arc::new(Barrier::new(3));
        let mut workflow = Workflow::builder("slots");
        for n in 0..60 {
            let (now, most, beside) = (Arc::clone(&now), Arc::clone(&most), Arc::clone(&beside));
            workflow = workflow.task(format!("t{n}"), move |cx: TaskContext| {
                let (now, most, beside) = (Arc::clone(&now), Arc::clone(&most), Arc::clone(&beside));
                async move {
                    for entry in 0..2 {
                        most.fetch_max(now.fetch_add(1, Ordering::SeqCst) + 1, Ordering::SeqCst);
                        if entry == 0 {
                            beside.wait().await;
                        }
                        now.fetch_sub(1, Ordering::SeqCst);
                        cx.handle().sleep(SOON).await?;
                    }
                    Ok(())
                }
            });
        }
        let workflow = workflow.build().unwrap();
        let runner = place.runner(3);
        runner.run(&workflow, ()).await.unwrap();
        assert_eq!(most.load(Ordering::SeqCst), 3, "all slots were used, never more");
        runner.close().await;
        assert_eq!(runner.slots_in_use(), (0, 3));
    });
}

#[test]
fn a_handle_that_outlives_its_body_is_refused() {
    on_every_store(|place| async move {
        let kept = Arc::new(std::sync::Mutex::new(None));
        let keep = Arc::clone(&kept);
        let workflow = Workflow::builder("escape")
            .task("leak", move |cx: TaskContext| {
                *keep.lock().unwrap() = Some(cx.clone());
                async { Ok(()) }
            })
            .build()
            .unwrap();
        let runner = place.runner(1);
        runner.run(&workflow, ()).await.unwrap();
        let cx = kept.lock().unwrap().take().unwrap();
        let error = cx.handle().sleep(SOON).await.unwrap_err();
        assert!(error.is_suspended() && error.to_string().contains("over"), "{error}");
        assert!(!cx.handle().is_slot_held());
        runner.run(&workflow, ()).await.unwrap();
        runner.close().await;
    });
}

#[test]
fn a_body_may_abandon_a_wait_midway_and_continue() {
    on_every_store(|place| async move {
        let workflow = Workflow::builder("impatient")
            .task("race", |cx: TaskContext| async move {
                let handle = cx.handle();
                let long = handle.sleep(Duration::from_secs(3600));
                let timed_out = tokio::time::timeout(5 * SOON, long).await.is_err();
                handle.sleep(SOON).await?;
                Ok((timed_out, handle.is_slot_held()))
            })
            .build()
            .unwrap();
        let runner = place.runner(1);
        let result = runner.run(&workflow, ()).await.unwrap();
        assert_eq!(result.output::<(bool, bool)>("race").unwrap(), (true, true));
        runner.close().await;
        assert_eq!(runner.slots_in_use(), (0, 1));
    });
}

type Body = Pin<Box<dyn Future<Output = Result<i32, TaskError>> + Send>>;

/// A run of two tasks on one slot: a quick one, then a long one that executes until the test releases it.
fn behind(long: impl Fn(oneshot::Receiver<()>) -> Body + Send + Sync + 'static) {
    let long = Arc::new(long);
    on_every_store(|place| {
        let long = Arc::clone(&long);
        async move {
            let (release, released) = oneshot::channel();
            let released = Mutex::new(Some(released));
            let workflow = Workflow::builder("behind")
                .task("quick", |_| async { Ok(1) })
                .task("long", move |_| long(released.lock().unwrap().take().unwrap()))
                .build()
                .unwrap();
            let runner = place.runner(1);
            let run = runner.submit(&workflow, &()).await.unwrap();
            let store = place.open();
            let quick_is_committed = || {
                let stored = store.load(run.id()).unwrap().unwrap();
                stored.rows.iter().any(|row| row.status == TaskStatus::Completed)
            };
            while !quick_is_committed() {
                tokio::task::yield_now().await;
            }
            release.send(()).unwrap();
            run.result().await.unwrap();
            runner.close().await;
        }
    });
}

#[test]
fn a_result_does_not_wait_behind_a_body_that_blocks_its_thread() {
    behind(|released| {
        Box::pin(async move {
            tokio::task::block_in_place(|| released.blocking_recv()).unwrap();
            Ok(2)
        })
    });
}

#[test]
fn a_result_does_not_wait_behind_a_body_that_awaits() {
    behind(|released| {
        Box::pin(async move {
            released.await.unwrap();
            Ok(2)
        })
    });
}
