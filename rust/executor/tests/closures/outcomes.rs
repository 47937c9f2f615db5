//! How bodies end and the effect on other tasks: values, failure, retry, skip, panics; and refused definitions.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use bide_executor::core::{FailureKind, RetryPolicy, RunIf, RunStatus, TaskStatus};
use bide_executor::{Error, Runner, Skip, TaskContext, TaskError, Workflow, until};
use tokio::sync::Notify;

use crate::support::{Place, SOON, on_every_store};
use crate::{counter, retry};

#[test]
fn values_pass_from_inputs_through_every_task() {
    on_every_store(|place| async move {
        let workflow = Workflow::builder("values")
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
        let result = runner.run(&workflow, inputs).await.unwrap();
        assert_eq!(result.output::<String>("report").unwrap(), "3: a+b+c");
        // The store returns the same as the runner.
        let stored = runner.get(result.id).await.unwrap();
        assert_eq!(stored.output::<String>("report").unwrap(), "3: a+b+c");
        assert!(matches!(result.output::<u32>("report"), Err(Error::Serialization(_))));
        assert!(result.output::<u32>("reprot").unwrap_err().to_string().contains("report"));
        runner.close().await;
    });
}

#[test]
fn a_failure_skips_all_dependents_and_other_branches_finish() {
    on_every_store(|place| async move {
        let workflow = Workflow::builder("failure")
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
        let error = runner.run(&workflow, ()).await.unwrap_err();
        let result = &error.run_failed().unwrap().result;
        let message = error.to_string();
        assert!(message.contains("task 'fails'") && message.contains("disk on fire"), "{message}");
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
        let workflow = Workflow::builder("retry")
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
        let result = runner.run(&workflow, ()).await.unwrap();
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
        let workflow = Workflow::builder("skip")
            .task("look", |_| async { Err::<u32, _>(Skip("nothing new").into()) })
            .task("work", |_| async { Ok(()) })
            .after(["look"])
            .build()
            .unwrap();
        let runner = place.runner(1);
        let result = runner.run(&workflow, ()).await.unwrap();
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
        let workflow = Workflow::builder("panics")
            .task("early", |_| {
                let fine = std::env::args().count() > 1_000_000;
                assert!(fine, "before the future");
                async { Ok(()) }
            })
            .task("late", |cx: TaskContext| async move {
                cx.handle().sleep(SOON).await?;
                assert!(cx.attempt() > 1, "after a wait");
                Ok(())
            })
            .build()
            .unwrap();
        let fine = Workflow::builder("fine").task("one", |_| async { Ok(1) }).build().unwrap();
        let runner = place.runner(1);
        let error = runner.run(&workflow, ()).await.unwrap_err();
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
fn a_value_that_cannot_be_stored_fails_its_task_and_names_the_place() {
    on_every_store(|place| async move {
        let workflow = Workflow::builder("nan")
            .task("mean", |_| async { Ok(vec![("a", 1.0), ("b", f64::NAN)]) })
            .retry(retry(5))
            .build()
            .unwrap();
        let runner = place.runner(1);
        let error = runner.run(&workflow, ()).await.unwrap_err();
        let task = error.run_failed().unwrap().result.task("mean").unwrap().clone();
        let failure = task.error.unwrap();
        assert_eq!((failure.kind, task.attempts), (FailureKind::Serialization, 1), "not retried unless it is named");
        assert!(failure.message().contains("'mean'") && failure.message().contains("[1][1]"), "{failure}");
        runner.close().await;
    });
}

#[test]
fn a_run_recovered_after_a_failure_still_fails() {
    on_every_store(|place| async move {
        let (failed, hold) = (Arc::new(Notify::new()), Arc::new(AtomicBool::new(true)));
        let parts = (Arc::clone(&failed), Arc::clone(&hold));
        let workflow = Workflow::builder("failed before")
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
        let run = runner.submit(&workflow, &()).await.unwrap().id();
        failed.notified().await;
        drop(runner);
        hold.store(false, Ordering::SeqCst);
        let runner = place.runner(1);
        runner.register(&workflow).await.unwrap();
        let error = runner.handle(run).await.unwrap().result().await.unwrap_err();
        assert_eq!(error.run_failed().unwrap().result.error.as_ref().unwrap().message(), "first");
        runner.close().await;
    });
}

#[test]
fn definitions_that_cannot_work_are_refused_by_name() {
    let nothing = |_: TaskContext| async { Ok(()) };
    let refused = |workflow: bide_executor::WorkflowBuilder| workflow.build().unwrap_err().0;
    let of = || Workflow::builder("w").task("a", nothing);
    assert!(refused(of().after(["b"])).contains("'b'"));
    assert!(refused(of().task("a", nothing)).contains("two tasks named 'a'"));
    assert!(refused(of().after(["b"]).task("b", nothing).after(["a"])).contains("cycle: a -> b -> a"));
    assert!(refused(Workflow::builder("w")).contains("no task"));
    assert!(refused(Workflow::builder(" ").task("a", nothing)).contains("name is empty"));
    assert!(refused(Workflow::builder("w").after(["a"]).task("a", nothing)).contains("before the first task"));
    assert!(refused(of().retry(RetryPolicy { attempts: 0, ..RetryPolicy::NONE })).contains("attempts"));
    assert!(refused(of().gate(until(|_| async { true }).every(Duration::ZERO))).contains("every"));
    assert!(matches!(Runner::open(Place::memory().open()).start(), Err(Error::Definition(_))));
}

#[test]
fn an_attempt_over_its_timeout_is_retried_but_deferred_time_is_free() {
    on_every_store(|place| async move {
        let (tries, seen) = counter();
        let limit = Duration::from_millis(60);
        let workflow = Workflow::builder("limits")
            .task("hangs once", move |cx: TaskContext| {
                let tries = Arc::clone(&tries);
                async move {
                    if tries.fetch_add(1, Ordering::SeqCst) == 0 {
                        std::future::pending::<()>().await;
                    }
                    // Deferred time does not count.
                    cx.handle().sleep(2 * limit).await?;
                    Ok(cx.attempt())
                }
            })
            .timeout(limit)
            .retry(retry(2))
            .task("hangs", |_| std::future::pending::<Result<(), TaskError>>())
            .timeout(limit)
            .build()
            .unwrap();
        let runner = place.runner(1);
        let error = runner.run(&workflow, ()).await.unwrap_err();
        let result = &error.run_failed().unwrap().result;
        assert_eq!(result.output::<u32>("hangs once").unwrap(), 2);
        assert_eq!(seen.load(Ordering::SeqCst), 2);
        let failure = result.task("hangs").unwrap().error.as_ref().unwrap();
        assert_eq!(failure.kind, FailureKind::TaskTimeout);
        assert!(failure.message().contains("hangs"), "{failure}");
        runner.close().await;
        assert_eq!(runner.slots_in_use(), (0, 1));
    });
}
