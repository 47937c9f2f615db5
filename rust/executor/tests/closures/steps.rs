//! Steps: executed once, replayed, and refused where they are not possible.

use std::future::pending;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use bide_executor::core::{FailureKind, RunStatus};
use bide_executor::{Error, Runner, StepSettings, TaskContext, TaskError, Workflow};
use tokio::sync::{Barrier, Notify};

use crate::support::{HANG, SOON, on_every_store};
use crate::{counter, retry};

#[test]
fn a_recorded_step_or_failure_is_replayed_until_a_retry() {
    on_every_store(|place| async move {
        let (paid, charges) = counter();
        let (tried, checks) = counter();
        let workflow = Workflow::builder("steps")
            .task("pay", move |cx: TaskContext| {
                let (paid, tried) = (Arc::clone(&paid), Arc::clone(&tried));
                async move {
                    let handle = cx.handle();
                    let charge = || async { Ok(paid.fetch_add(1, Ordering::SeqCst) + 100) };
                    let receipt: u32 = handle.step("charge", &("card", 5), charge).await?;
                    let check = || async {
                        match tried.fetch_add(1, Ordering::SeqCst) {
                            0 => Err(TaskError::new("not yet")),
                            n => Ok(n),
                        }
                    };
                    let checked: u32 = handle.step("check", &receipt, check).await?;
                    Ok((receipt, checked))
                }
            })
            .retry(retry(2))
            .build()
            .unwrap();
        let runner = place.runner(1);
        let result = runner.run(&workflow, ()).await.unwrap();
        assert_eq!(result.output::<(u32, u32)>("pay").unwrap(), (100, 1));
        assert_eq!((charges.load(Ordering::SeqCst), checks.load(Ordering::SeqCst)), (1, 2));
        assert_eq!(result.task("pay").unwrap().attempts, 2);
        runner.close().await;
    });
}

#[test]
fn a_step_with_other_arguments_pauses_the_run_and_says_why() {
    on_every_store(|place| async move {
        let (amount, waits) = (Arc::new(AtomicU32::new(5)), Arc::new(Notify::new()));
        let parts = (Arc::clone(&amount), Arc::clone(&waits));
        let workflow = Workflow::builder("mismatch")
            .task("pay", move |cx: TaskContext| {
                let (amount, waits) = parts.clone();
                async move {
                    let amount = amount.load(Ordering::SeqCst);
                    cx.handle().step("charge", &amount, || async { Ok(()) }).await?;
                    waits.notify_one();
                    cx.handle().defer_until(|| async { false }, SOON).await?;
                    Ok(())
                }
            })
            .build()
            .unwrap();
        let runner = place.runner(1);
        let run = runner.submit(&workflow, &()).await.unwrap().id();
        waits.notified().await;
        runner.close().await;
        amount.store(6, Ordering::SeqCst);
        let runner = Runner::open(place.open_for_runner()).slots(1).log(|_, _| ()).start().unwrap();
        runner.register(&workflow).await.unwrap();
        let error = runner.handle(run).await.unwrap().result().await.unwrap_err();
        assert!(
            matches!(&error, Error::Blocked(why) if why.contains("charge") && why.contains("other arguments")),
            "{error}"
        );
        assert_eq!(runner.get(run).await.unwrap().status, RunStatus::Paused);
        runner.close().await;
    });
}

#[test]
fn waits_and_steps_within_steps_and_conditions_are_refused() {
    on_every_store(|place| async move {
        let workflow = Workflow::builder("nested")
            .task("step_in_step", |cx: TaskContext| async move {
                let handle = cx.handle();
                let inner = || async { handle.step("inner", &(), || async { Ok(()) }).await };
                handle.step("outer", &(), inner).await
            })
            .task("wait_in_condition", |cx: TaskContext| async move {
                let handle = cx.handle();
                handle.defer_until(|| async { handle.sleep(SOON).await.map(|()| true) }, SOON).await
            })
            .task("two_at_once", |cx: TaskContext| async move {
                let handle = cx.handle();
                // The first does not end before the second asks, even on a slow machine.
                tokio::try_join!(handle.sleep(HANG), handle.sleep(HANG)).map(|_| ())
            })
            .task("key_in_condition", |cx: TaskContext| async move {
                let handle = cx.handle();
                let step = || handle.step_with(StepSettings::new().key("k"), "inner", &(), || async { Ok(()) });
                handle.defer_until(|| async { step().await.map(|()| true) }, SOON).await
            })
            .task("one_key_twice", |cx: TaskContext| async move {
                let handle = cx.handle();
                let step = || handle.step_with(StepSettings::new().key("k"), "twice", &(), pending::<Result<(), _>>);
                tokio::try_join!(step(), step()).map(|_| ())
            })
            .task("once_and_again", |cx: TaskContext| async move {
                let settings = StepSettings::new().once().retry(retry(2));
                cx.handle().step_with(settings, "pay", &(), || async { Ok(()) }).await
            })
            .build()
            .unwrap();
        let runner = place.runner(1);
        let error = runner.run(&workflow, ()).await.unwrap_err();
        for task in &error.run_failed().unwrap().result.tasks {
            let failure = task.error.as_ref().unwrap();
            assert_eq!(failure.kind, FailureKind::Definition, "{}: {failure}", task.name);
            let says = match &*task.name {
                "two_at_once" => "the wait 'sleep' beside the wait 'sleep': ",
                "one_key_twice" => "the step 'twice \"k\"' is under way already",
                "once_and_again" => "step 'pay': one that is executed at most once cannot be tried again",
                _ => " inside ",
            };
            assert!(failure.message().contains(says), "{}: {failure}", task.name);
        }
        runner.close().await;
    });
}

#[test]
fn steps_with_keys_run_side_by_side_and_within_a_step() {
    on_every_store(|place| async move {
        let workflow = Workflow::builder("keyed")
            .task("t", |cx: TaskContext| async move {
                let handle = cx.handle();
                let both = Barrier::new(2);
                let item = |key: &'static str| {
                    let (handle, both) = (&handle, &both);
                    async move {
                        let executes = || async {
                            both.wait().await;
                            Ok(key.to_owned())
                        };
                        handle.step_with(StepSettings::new().key(key), "item", &(), executes).await
                    }
                };
                let (a, b) = tokio::try_join!(item("a"), item("b"))?;
                let inner =
                    || handle.step_with(StepSettings::new().key("c"), "item", &(), || async { Ok("c".to_owned()) });
                let c: String = handle.step("outer", &(), inner).await?;
                // The key alone says that it is the same.
                let again: String = item("a").await?;
                Ok(format!("{a}{b}{c}{again}"))
            })
            .build()
            .unwrap();
        let runner = place.runner(1);
        assert_eq!(runner.run(&workflow, ()).await.unwrap().output::<String>("t").unwrap(), "abca");
        runner.close().await;
    });
}
