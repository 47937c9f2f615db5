//! The first of several waits, or all of them, for bodies and for gates of closures.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use bide_executor::core::{TaskStatus, Tolerance};
use bide_executor::{TaskContext, TaskError, Workflow, after, all_of, any_of, signal, until};
use tokio::sync::Notify;

use crate::counter;
use crate::settle::{is_deferred, no_slot_in_use};
use crate::support::{HANG, SOON, on_every_store, row};

#[test]
fn the_first_of_several_is_returned_and_the_others_are_withdrawn() {
    on_every_store(|place| async move {
        let workflow = Workflow::builder("first")
            .task("order", |cx: TaskContext| async move {
                let handle = cx.handle();
                let first =
                    handle.wait_any((signal::<u32>("paid"), signal::<String>("cancelled"), after(HANG))).await?;
                assert_eq!(first, (None, Some("by phone".to_owned()), None));
                // The signal that lost is kept for the next wait.
                handle.wait_for::<u32>("paid").await
            })
            .build()
            .unwrap();
        let runner = place.runner(1);
        let run = runner.submit(&workflow, &()).await.unwrap();
        is_deferred(&place, run.id(), "order").await;
        no_slot_in_use(&runner).await;
        run.signal("cancelled", "by phone").await.unwrap();
        run.signal("paid", &7).await.unwrap();
        assert_eq!(run.result().await.unwrap().output::<u32>("order").unwrap(), 7);
        runner.close().await;
    });
}

#[test]
fn a_time_and_a_condition_win_as_well() {
    on_every_store(|place| async move {
        let workflow = Workflow::builder("winners")
            .task("time", |cx: TaskContext| async move {
                let late = || Box::pin(cx.handle().wait_any((signal::<()>("never"), after(SOON))).into_future());
                assert_eq!(late().await?, (None, Some(())));
                Ok(())
            })
            .task("condition", |cx: TaskContext| async move {
                let polls = std::sync::atomic::AtomicU32::new(0);
                let third = until(|_| async { (polls.fetch_add(1, Ordering::SeqCst) == 2).then_some(42) }).every(SOON);
                let (answer, never) = cx.handle().wait_any((third, signal::<()>("never"))).await?;
                assert_eq!((never, polls.load(Ordering::SeqCst)), (None, 3));
                Ok(answer)
            })
            .build()
            .unwrap();
        let runner = place.runner(1);
        let result = runner.run(&workflow, ()).await.unwrap();
        assert_eq!(result.output::<Option<u32>>("condition").unwrap(), Some(42));
        runner.close().await;
    });
}

#[test]
fn all_of_several_are_returned_however_deep() {
    on_every_store(|place| async move {
        let workflow = Workflow::builder("all")
            .task("collect", |cx: TaskContext| async move {
                let number = |n: u32| signal::<u32>(format!("number {n}"));
                let nested = any_of((signal::<bool>("yes"), signal::<bool>("no")));
                let waits = (all_of((0..3).map(number).collect::<Vec<_>>()), nested, after(SOON));
                let (numbers, (yes, no), ()) = cx.handle().wait_all(waits).await?;
                Ok((numbers, yes, no))
            })
            .build()
            .unwrap();
        let runner = place.runner(1);
        let run = runner.submit(&workflow, &()).await.unwrap();
        is_deferred(&place, run.id(), "collect").await;
        for n in [2, 0, 1] {
            run.signal(format!("number {n}"), &(10 * n)).await.unwrap();
        }
        run.signal("no", &false).await.unwrap();
        let result = run.result().await.unwrap();
        let collected: (Vec<u32>, Option<bool>, Option<bool>) = result.output("collect").unwrap();
        assert_eq!(collected, (vec![0, 10, 20], None, Some(false)));
        runner.close().await;
    });
}

#[test]
fn a_failure_ends_all_and_only_the_last_one_ends_any() {
    on_every_store(|place| async move {
        let broken =
            || until(|_| async { Err::<bool, _>(TaskError::new("boom")) }).every(SOON).on_error(Tolerance::Raise);
        let workflow = Workflow::builder("failures")
            .task("all", move |cx: TaskContext| async move {
                let error = cx.handle().wait_all((signal::<()>("never"), broken())).await.unwrap_err();
                assert!(error.to_string().contains("boom"), "{error}");
                Ok(())
            })
            .task("any", move |cx: TaskContext| async move {
                let waits = (broken().named("first"), signal::<()>("never").timeout(2 * SOON));
                let error = cx.handle().wait_any(waits).named("both").await.unwrap_err().to_string();
                assert!(error.contains("all 2 waits of 'both' failed: 'first': "), "{error}");
                assert!(error.contains("boom") && error.contains("; 'never': "), "{error}");
                Ok(())
            })
            .task("time", |cx: TaskContext| async move {
                let handle = cx.handle();
                let error = handle.wait(after(HANG)).timeout(SOON).await.unwrap_err();
                assert!(error.is_wait_timeout(), "{error}");
                let error = handle.wait_any((after(HANG), signal::<()>("never"))).timeout(SOON).await.unwrap_err();
                assert!(error.is_wait_timeout(), "{error}");
                handle.wait(after(SOON)).timeout(HANG).await
            })
            .build()
            .unwrap();
        let runner = place.runner(3);
        runner.run(&workflow, ()).await.unwrap();
        runner.close().await;
    });
}

#[test]
fn a_gate_is_a_combination_and_its_values_reach_the_body() {
    on_every_store(|place| async move {
        let (open, asked) = (Arc::new(AtomicBool::new(false)), Arc::new(Notify::new()));
        let parts = (Arc::clone(&open), Arc::clone(&asked));
        let condition = until(move |scope| {
            let (open, asked) = parts.clone();
            async move {
                asked.notify_one();
                Ok::<_, TaskError>(open.load(Ordering::SeqCst).then_some(scope.input::<u32>("price")?))
            }
        });
        let workflow = Workflow::builder("gates")
            .task("ship", |cx: TaskContext| async move { cx.gate::<(u32, (Option<String>, Option<()>))>() })
            .gate(all_of((condition.every(SOON), any_of((signal::<String>("address"), after(HANG))))))
            .build()
            .unwrap();
        let runner = place.runner(1);
        let run = runner.submit(&workflow, &[("price", 12)]).await.unwrap();
        asked.notified().await;
        run.signal("address", "here").await.unwrap();
        assert_eq!(row(&place.open(), run.id(), "ship").status, TaskStatus::Pending);
        drop(runner);
        open.store(true, Ordering::SeqCst);
        let runner = place.runner(1);
        runner.register(&workflow).await.unwrap();
        let result = runner.handle(run.id()).await.unwrap().result().await.unwrap();
        let value: (u32, (Option<String>, Option<()>)) = result.output("ship").unwrap();
        assert_eq!(value.0, 12);
        assert_eq!(value.1.0.as_deref(), Some("here"));
        runner.close().await;
    });
}

#[test]
fn what_was_decided_is_read_again_after_a_restart() {
    on_every_store(|place| async move {
        let (asked, polls) = counter();
        let decided = Arc::new(Notify::new());
        let notify = Arc::clone(&decided);
        let workflow = Workflow::builder("again")
            .task("order", move |cx: TaskContext| {
                let (asked, decided) = (Arc::clone(&asked), Arc::clone(&notify));
                async move {
                    let handle = cx.handle();
                    let condition = until(|_| async { Some(asked.fetch_add(1, Ordering::SeqCst)) });
                    let stated = condition.given("what it depends on").named("condition");
                    let first = handle.wait_any((stated, signal::<()>("never"))).await?;
                    decided.notify_one();
                    handle.wait_for::<()>("go").await?;
                    Ok(first.0)
                }
            })
            .build()
            .unwrap();
        let runner = place.runner(1);
        let run = runner.submit(&workflow, &()).await.unwrap().id();
        decided.notified().await;
        is_deferred(&place, run, "order").await;
        drop(runner);
        let runner = place.runner(1);
        runner.register(&workflow).await.unwrap();
        runner.signal(run, "go", &()).await.unwrap();
        let result = runner.handle(run).await.unwrap().result().await.unwrap();
        assert_eq!(result.output::<Option<u32>>("order").unwrap(), Some(0));
        assert_eq!(polls.load(Ordering::SeqCst), 1);
        runner.close().await;
    });
}

#[test]
fn a_combination_of_nothing_is_refused() {
    on_every_store(|place| async move {
        let workflow = Workflow::builder("nothing")
            .task("waits", |cx: TaskContext| async move {
                cx.handle().wait_all(Vec::<bide_executor::Wait<'_, ()>>::new()).await.map(drop)
            })
            .build()
            .unwrap();
        let runner = place.runner(1);
        let error = runner.run(&workflow, ()).await.unwrap_err().to_string();
        assert!(error.contains("a combination has at least one wait"), "{error}");
        runner.close().await;
    });
}
