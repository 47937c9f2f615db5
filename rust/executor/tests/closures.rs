//! Workflows of async closures through the real engine: failure, retry, skip, gates, steps, keys, closing.
#![expect(clippy::unwrap_used, reason = "tests")]

mod support;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::time::Duration;

use bide_executor::core::{FailureKind, RetryPolicy, RunIf, RunStatus, SubStatus, TaskStatus};
use bide_executor::store::Store;
use bide_executor::{Error, RunHandle, Runner, Skip, TaskContext, TaskError, Workflow, after, until};
use support::{SOON, on_every_store, row};
use tokio::sync::{Notify, Semaphore};

/// A retry without a delay.
fn retry(attempts: u32) -> RetryPolicy {
    RetryPolicy { delay: Duration::ZERO, jitter: 0.0, ..RetryPolicy::new(attempts) }
}

fn counter() -> (Arc<AtomicU32>, Arc<AtomicU32>) {
    let counter = Arc::new(AtomicU32::new(0));
    (Arc::clone(&counter), counter)
}

#[test]
fn values_pass_from_inputs_through_every_task() {
    on_every_store(|place| async move {
        let flow = Workflow::builder("values")
            .task("words", |cx: TaskContext| async move {
                Ok(cx.input::<String>("text")?.split(' ').map(str::to_owned).collect::<Vec<_>>())
            })
            .task("count", |cx: TaskContext| async move { Ok(cx.output::<Vec<String>>("words")?.len()) })
            .after(["words"])
            .task("report", |cx: TaskContext| async move {
                let (words, count): (Vec<String>, usize) = (cx.output("words")?, cx.output("count")?);
                Ok(format!("{count}: {}", words.join("+")))
            })
            .after(["words", "count"])
            .build()
            .unwrap();
        let runner = place.runner(2);
        let inputs = serde_json::json!({"text": "a b c", "unused": [1.5, null]});
        let result = runner.run(&flow, inputs).await.unwrap();
        assert_eq!(result.output::<String>("report").unwrap(), "3: a+b+c");
        // What the store returns is what the runner returned.
        let stored = runner.get(result.id).await.unwrap();
        assert_eq!(stored.output::<String>("report").unwrap(), "3: a+b+c");
        assert!(matches!(result.output::<u32>("report"), Err(Error::Serialization(_))));
        assert!(result.output::<u32>("reprot").unwrap_err().to_string().contains("report"));
        runner.close().await;
    });
}

#[test]
fn a_failure_skips_what_depends_on_it_and_other_branches_finish() {
    on_every_store(|place| async move {
        let flow = Workflow::builder("failure")
            .task("fails", |_| async { Err::<(), _>(std::io::Error::other("disk on fire").into()) })
            .task("dependent", |_| async { Ok(()) })
            .after(["fails"])
            .task("cleanup", |cx: TaskContext| async move { Ok(cx.try_output::<()>("fails")?.is_none()) })
            .after(["fails"])
            .run_if(RunIf::Done)
            .task("alarm", |_| async { Ok("rung") })
            .after(["dependent"])
            .run_if(RunIf::Failed)
            .task("other", |_| async { Ok(1) })
            .build()
            .unwrap();
        let runner = place.runner(2);
        let error = runner.run(&flow, ()).await.unwrap_err();
        let result = &error.run_failed().unwrap().result;
        let message = error.to_string();
        assert!(message.contains("task \"fails\"") && message.contains("disk on fire"), "{message}");
        let statuses: Vec<(&str, TaskStatus)> = result.tasks.iter().map(|task| (&*task.name, task.status)).collect();
        assert_eq!(
            statuses,
            [
                ("fails", TaskStatus::Failed),
                ("dependent", TaskStatus::Skipped),
                ("cleanup", TaskStatus::Completed),
                ("alarm", TaskStatus::Completed),
                ("other", TaskStatus::Completed),
            ]
        );
        assert_eq!(result.task("dependent").unwrap().blocked_by.as_deref(), Some("fails"));
        assert!(result.output::<bool>("cleanup").unwrap());
        runner.close().await;
    });
}

#[test]
fn a_failed_attempt_is_tried_again_as_often_as_its_policy_says() {
    on_every_store(|place| async move {
        let (tries, seen) = counter();
        let flow = Workflow::builder("retry")
            .task("flaky", move |cx: TaskContext| {
                let n = tries.fetch_add(1, Ordering::SeqCst) + 1;
                async move {
                    assert_eq!(cx.attempt(), n);
                    if n < 3 { Err(TaskError::new(format_args!("try {n}"))) } else { Ok(n) }
                }
            })
            .retry(retry(3))
            .build()
            .unwrap();
        let runner = place.runner(1);
        let result = runner.run(&flow, ()).await.unwrap();
        assert_eq!(result.output::<u32>("flaky").unwrap(), 3);
        assert_eq!(result.task("flaky").unwrap().attempts, 3);

        seen.store(10, Ordering::SeqCst);
        let (tries, seen) = counter();
        let never = Workflow::builder("never")
            .task("picky", move |_| {
                tries.fetch_add(1, Ordering::SeqCst);
                async { Err::<(), _>(TaskError::new("for good")) }
            })
            .retry(retry(5))
            .retry_if(|failure| !failure.message().contains("for good"))
            .build()
            .unwrap();
        let error = runner.run(&never, ()).await.unwrap_err();
        assert_eq!(error.run_failed().unwrap().result.task("picky").unwrap().attempts, 1);
        assert_eq!(seen.load(Ordering::SeqCst), 1);
        runner.close().await;
    });
}

#[test]
fn a_skip_skips_the_dependents_too_and_the_run_completes() {
    on_every_store(|place| async move {
        let flow = Workflow::builder("skip")
            .task("look", |_| async { Err::<u32, _>(Skip("nothing new").into()) })
            .task("work", |_| async { Ok(()) })
            .after(["look"])
            .build()
            .unwrap();
        let runner = place.runner(1);
        let result = runner.run(&flow, ()).await.unwrap();
        assert_eq!(result.status, RunStatus::Completed);
        assert_eq!(result.task("look").unwrap().status, TaskStatus::Skipped);
        assert_eq!(result.task("look").unwrap().blocked_by.as_deref(), Some("nothing new"));
        assert_eq!(result.task("work").unwrap().status, TaskStatus::Skipped);
        runner.close().await;
    });
}

#[test]
fn a_panic_fails_its_task_and_the_runner_stays_usable() {
    on_every_store(|place| async move {
        let flow = Workflow::builder("panics")
            .task("early", |_| {
                let fine = std::env::args().count() > 1_000_000;
                assert!(fine, "before the future");
                async { Ok(()) }
            })
            .task("late", |cx: TaskContext| async move {
                cx.handle().sleep(SOON).await?;
                let nothing: Option<u32> = None;
                Ok(nothing.expect("after a wait"))
            })
            .build()
            .unwrap();
        let fine = Workflow::builder("fine").task("one", |_| async { Ok(1) }).build().unwrap();
        let runner = place.runner(1);
        let error = runner.run(&flow, ()).await.unwrap_err();
        let result = &error.run_failed().unwrap().result;
        for (task, message) in [("early", "before the future"), ("late", "after a wait")] {
            let failure = result.task(task).unwrap().error.as_ref().unwrap();
            assert_eq!(failure.kind, FailureKind::Panic);
            assert!(failure.message().contains(message), "{failure}");
        }
        assert_eq!(runner.run(&fine, ()).await.unwrap().output::<u8>("one").unwrap(), 1);
        runner.close().await;
        assert_eq!(runner.slots_in_use().0, 0, "no slot has leaked");
    });
}

#[test]
fn what_cannot_be_stored_is_the_tasks_failure_and_names_the_place() {
    on_every_store(|place| async move {
        let flow = Workflow::builder("nan")
            .task("mean", |_| async { Ok(vec![("a", 1.0), ("b", f64::NAN)]) })
            .retry(retry(5))
            .build()
            .unwrap();
        let runner = place.runner(1);
        let error = runner.run(&flow, ()).await.unwrap_err();
        let task = error.run_failed().unwrap().result.task("mean").unwrap().clone();
        let failure = task.error.unwrap();
        assert_eq!((failure.kind, task.attempts), (FailureKind::Serialization, 1), "not retried unless it is named");
        assert!(failure.message().contains("\"mean\"") && failure.message().contains("[1][1]"), "{failure}");
        runner.close().await;
    });
}

#[test]
fn a_gate_is_satisfied_before_the_body_starts_and_takes_no_slot() {
    on_every_store(|place| async move {
        let (open, asked) = (Arc::new(AtomicBool::new(false)), Arc::new(Notify::new()));
        let parts = (Arc::clone(&open), Arc::clone(&asked));
        let flow = Workflow::builder("gates")
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
        let run = runner.submit(&flow, &()).await.unwrap();
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
fn a_run_that_was_taken_up_after_a_failure_still_fails() {
    on_every_store(|place| async move {
        let (failed, hold) = (Arc::new(Notify::new()), Arc::new(AtomicBool::new(true)));
        let parts = (Arc::clone(&failed), Arc::clone(&hold));
        let flow = Workflow::builder("failed before")
            .task("fails", |_| async { Err::<(), _>(TaskError::new("first")) })
            .task("waits", move |cx: TaskContext| {
                let (failed, hold) = parts.clone();
                async move {
                    failed.notify_one();
                    cx.handle().defer_until(|| async { !hold.load(Ordering::SeqCst) }, SOON).await?;
                    Ok(())
                }
            })
            .after(["fails"])
            .run_if(RunIf::Done)
            .build()
            .unwrap();
        let runner = place.runner(1);
        let run = runner.submit(&flow, &()).await.unwrap().id();
        failed.notified().await;
        drop(runner);
        hold.store(false, Ordering::SeqCst);
        let runner = place.runner(1);
        runner.register(&flow).await.unwrap();
        let error = runner.handle(run).await.unwrap().result().await.unwrap_err();
        assert_eq!(error.run_failed().unwrap().result.error.as_ref().unwrap().message(), "first");
        runner.close().await;
    });
}

#[test]
fn a_gate_that_stays_shut_fails_its_task_and_survives_a_restart() {
    on_every_store(|place| async move {
        let (open, seen) = counter();
        let flow = Workflow::builder("shut")
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
        let run = runner.submit(&flow, &()).await.unwrap().id();
        while seen.load(Ordering::SeqCst) < 2 {
            tokio::task::yield_now().await;
        }
        drop(runner);
        seen.store(1000, Ordering::SeqCst);
        let runner = place.runner(1);
        runner.register(&flow).await.unwrap();
        let error = runner.handle(run).await.unwrap().result().await.unwrap_err();
        let result = &error.run_failed().unwrap().result;
        assert_eq!(result.task("never").unwrap().error.as_ref().unwrap().kind, FailureKind::WaitTimeout);
        assert_eq!(result.task("reopened").unwrap().status, TaskStatus::Completed);
        runner.close().await;
    });
}

#[test]
fn a_recorded_step_is_not_executed_again_and_its_failure_is_replayed_until_a_retry() {
    on_every_store(|place| async move {
        let (paid, charges) = counter();
        let (tried, checks) = counter();
        let flow = Workflow::builder("steps")
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
        let result = runner.run(&flow, ()).await.unwrap();
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
        let flow = Workflow::builder("mismatch")
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
        let run = runner.submit(&flow, &()).await.unwrap().id();
        waits.notified().await;
        runner.close().await;
        amount.store(6, Ordering::SeqCst);
        let runner = Runner::open(place.open()).slots(1).log(|_, _| ()).start().unwrap();
        runner.register(&flow).await.unwrap();
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
        let flow = Workflow::builder("nested")
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
                let (one, two) = tokio::join!(handle.sleep(SOON), handle.sleep(SOON));
                one.and(two)
            })
            .build()
            .unwrap();
        let runner = place.runner(1);
        let error = runner.run(&flow, ()).await.unwrap_err();
        for task in &error.run_failed().unwrap().result.tasks {
            let failure = task.error.as_ref().unwrap();
            assert_eq!(failure.kind, FailureKind::Definition, "{}: {failure}", task.name);
            assert!(failure.message().contains(" inside "), "{failure}");
        }
        runner.close().await;
    });
}

#[test]
fn a_key_attaches_to_its_run_and_other_inputs_are_refused() {
    on_every_store(|place| async move {
        let (tries, seen) = counter();
        let flow = Workflow::builder("keyed")
            .task("count", move |_| {
                let n = tries.fetch_add(1, Ordering::SeqCst);
                async move { Ok(n) }
            })
            .build()
            .unwrap();
        let runner = place.runner(2);
        let first = runner.run(&flow, [("day", 1)]).key("monday").await.unwrap();
        let again = runner.run(&flow, [("day", 1)]).key("monday").await.unwrap();
        assert_eq!((first.id, again.output::<u32>("count").unwrap()), (again.id, 0));
        let refused = runner.run(&flow, [("day", 2)]).key("monday").await.unwrap_err();
        assert!(matches!(&refused, Error::Definition(why) if why.0.contains("\"day\"")), "{refused}");
        runner.close().await;

        // The result is recorded: a new runner returns it.
        let runner = place.runner(2);
        let result = runner.run(&flow, [("day", 1)]).key("monday").await.unwrap();
        assert_eq!((result.id, seen.load(Ordering::SeqCst)), (first.id, 1));
        runner.close().await;
    });
}

#[test]
fn two_runners_on_one_store_can_wait_for_the_same_run() {
    on_every_store(|place| async move {
        let (open, entered) = (Arc::new(Semaphore::new(0)), Arc::new(Notify::new()));
        let parts = (Arc::clone(&open), Arc::clone(&entered));
        let flow = Workflow::builder("shared")
            .task("wait", move |_| {
                let (open, entered) = parts.clone();
                async move {
                    entered.notify_one();
                    open.acquire().await?.forget();
                    Ok(7)
                }
            })
            .build()
            .unwrap();
        let (one, other) = (place.runner(1), place.runner(1));
        let run = one.submit(&flow, &()).key("k").await.unwrap();
        entered.notified().await;
        let attached = other.submit(&flow, &()).key("k").await.unwrap();
        assert_eq!(attached.id(), run.id());
        open.add_permits(1);
        assert_eq!(attached.result().await.unwrap().output::<u8>("wait").unwrap(), 7);
        assert_eq!(other.slots_in_use().0, 0);
        one.close().await;
        other.close().await;
    });
}

#[test]
fn many_runs_are_one_commit_and_come_back_in_order() {
    on_every_store(|place| async move {
        let flow = Workflow::builder("double")
            .task("double", |cx: TaskContext| async move { Ok(cx.input::<u32>("n")? * 2) })
            .build()
            .unwrap();
        let runner = place.runner(4);
        let runs = runner.submit_many(&flow, (0..200).map(|n| [("n", n)])).await.unwrap();
        for (n, run) in (0..).zip(runs) {
            assert_eq!(run.result().await.unwrap().output::<u32>("double").unwrap(), 2 * n);
        }
        runner.close().await;
    });
}

#[test]
fn never_more_bodies_execute_than_there_are_slots() {
    on_every_store(|place| async move {
        let (now, most) = (Arc::new(AtomicU32::new(0)), Arc::new(AtomicU32::new(0)));
        let mut flow = Workflow::builder("slots");
        for n in 0..60 {
            let (now, most) = (Arc::clone(&now), Arc::clone(&most));
            flow = flow.task(format!("t{n}"), move |cx: TaskContext| {
                let (now, most) = (Arc::clone(&now), Arc::clone(&most));
                async move {
                    for _ in 0..2 {
                        most.fetch_max(now.fetch_add(1, Ordering::SeqCst) + 1, Ordering::SeqCst);
                        tokio::task::yield_now().await;
                        now.fetch_sub(1, Ordering::SeqCst);
                        cx.handle().sleep(SOON).await?;
                    }
                    Ok(())
                }
            });
        }
        let flow = flow.build().unwrap();
        let runner = place.runner(3);
        runner.run(&flow, ()).await.unwrap();
        assert_eq!(most.load(Ordering::SeqCst), 3, "all slots were used, never more");
        runner.close().await;
        assert_eq!(runner.slots_in_use(), (0, 3));
    });
}

#[test]
fn closing_suspends_what_waits_gives_the_rest_its_grace_and_refuses_new_runs() {
    on_every_store(|place| async move {
        let (entered, suspended) = (Arc::new(Semaphore::new(0)), Arc::new(AtomicBool::new(false)));
        let parts = (Arc::clone(&entered), Arc::clone(&suspended));
        let told = Arc::clone(&entered);
        let flow = Workflow::builder("closing")
            .task("deferred", move |cx: TaskContext| {
                let (entered, suspended) = parts.clone();
                async move {
                    entered.add_permits(1);
                    let waited = cx.handle().sleep(Duration::from_secs(3600)).await;
                    let error = waited.unwrap_err();
                    suspended.store(error.is_suspended() && cx.handle().suspending(), Ordering::SeqCst);
                    // Swallowed, and yet the task has not completed.
                    Ok("swallowed")
                }
            })
            .task("stubborn", move |_| {
                let entered = Arc::clone(&told);
                async move {
                    entered.add_permits(1);
                    std::future::pending::<()>().await;
                    Ok(())
                }
            })
            .build()
            .unwrap();
        let runner = place.runner(2);
        let run = runner.submit(&flow, &()).await.unwrap();
        entered.acquire_many(2).await.unwrap().forget();
        let store = place.open();
        while !deferred(&store, &run) {
            tokio::task::yield_now().await;
        }
        runner.close_within(Duration::from_millis(50)).await;
        assert!(suspended.load(Ordering::SeqCst));
        assert!(matches!(run.result().await, Err(Error::Closed)));
        assert!(matches!(runner.run(&flow, ()).await, Err(Error::Closed)));
        assert_eq!(row(&place.open(), run.id(), "deferred").status, TaskStatus::Running);
        runner.close().await;
    });
}

fn deferred(store: &Arc<dyn Store>, run: &RunHandle) -> bool {
    let stored = store.load(run.id()).unwrap().unwrap();
    stored.rows.iter().any(|row| row.sub_status == Some(SubStatus::Deferred))
}

#[test]
fn a_handle_that_outlives_its_body_is_of_no_use() {
    on_every_store(|place| async move {
        let kept = Arc::new(std::sync::Mutex::new(None));
        let keep = Arc::clone(&kept);
        let flow = Workflow::builder("escape")
            .task("leak", move |cx: TaskContext| {
                *keep.lock().unwrap() = Some(cx.clone());
                async { Ok(()) }
            })
            .build()
            .unwrap();
        let runner = place.runner(1);
        runner.run(&flow, ()).await.unwrap();
        let cx = kept.lock().unwrap().take().unwrap();
        let error = cx.handle().sleep(SOON).await.unwrap_err();
        assert!(error.is_suspended() && error.to_string().contains("over"), "{error}");
        assert!(!cx.handle().is_slot_held());
        runner.run(&flow, ()).await.unwrap();
        runner.close().await;
    });
}

#[test]
fn a_body_may_give_up_a_wait_midway_and_goes_on() {
    on_every_store(|place| async move {
        let flow = Workflow::builder("impatient")
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
        let result = runner.run(&flow, ()).await.unwrap();
        assert_eq!(result.output::<(bool, bool)>("race").unwrap(), (true, true));
        runner.close().await;
        assert_eq!(runner.slots_in_use(), (0, 1));
    });
}

#[test]
fn a_runtime_that_goes_down_leaves_runs_that_can_be_taken_up() {
    let place = support::Place::memory();
    let (entered, open) = (Arc::new(Semaphore::new(0)), Arc::new(AtomicBool::new(false)));
    let parts = (Arc::clone(&entered), Arc::clone(&open));
    let mut flow = Workflow::builder("shutdown");
    for n in 0..50 {
        let parts = parts.clone();
        flow = flow.task(format!("t{n}"), move |_| {
            let (entered, open) = parts.clone();
            async move {
                entered.add_permits(1);
                if !open.load(Ordering::SeqCst) {
                    std::future::pending::<()>().await;
                }
                Ok(())
            }
        });
    }
    let flow = flow.build().unwrap();
    let runtime = || tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    let first = runtime();
    let (runner, run) = first.block_on(async {
        let runner = place.runner(4);
        let run = runner.submit(&flow, &()).await.unwrap().id();
        entered.acquire_many(4).await.unwrap().forget();
        (runner, run)
    });
    drop(first);
    drop(runner);
    open.store(true, Ordering::SeqCst);
    runtime().block_on(async {
        let runner = place.runner(4);
        runner.register(&flow).await.unwrap();
        let result = runner.handle(run).await.unwrap().result().await.unwrap();
        assert_eq!(result.status, RunStatus::Completed);
        runner.close().await;
    });
}

#[test]
fn definitions_that_cannot_work_are_refused_by_name() {
    let nothing = |_: TaskContext| async { Ok(()) };
    let refused = |flow: bide_executor::WorkflowBuilder| flow.build().unwrap_err().0;
    let of = || Workflow::builder("w").task("a", nothing);
    assert!(refused(of().after(["b"])).contains("'b'"));
    assert!(refused(of().task("a", nothing)).contains("two tasks named 'a'"));
    assert!(refused(of().after(["b"]).task("b", nothing).after(["a"])).contains("cycle: a -> b -> a"));
    assert!(refused(Workflow::builder("w")).contains("no task"));
    assert!(refused(Workflow::builder(" ").task("a", nothing)).contains("name is empty"));
    assert!(refused(Workflow::builder("w").after(["a"]).task("a", nothing)).contains("before the first task"));
    assert!(refused(of().retry(RetryPolicy { attempts: 0, ..RetryPolicy::NONE })).contains("attempts"));
    assert!(refused(of().gate(until(|_| async { true }).every(Duration::ZERO))).contains("every"));
    assert!(matches!(Runner::open(support::Place::memory().open()).start(), Err(Error::Definition(_))));
}
