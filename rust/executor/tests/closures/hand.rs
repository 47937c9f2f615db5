//! What is said of a run when it is submitted, and an operator's hand on its tasks.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use bide_executor::core::{RunStatus, TaskStatus};
use bide_executor::{Error, TaskContext, TaskError, Workflow, signal};

use crate::counter;
use crate::settle::is_deferred;
use crate::support::on_every_store;

fn waits() -> Workflow {
    Workflow::builder("waits")
        .task("wait", |cx: TaskContext| async move {
            cx.handle().wait(signal::<u32>("go").timeout(Duration::from_secs(3600))).await
        })
        .task("next", |cx: TaskContext| async move { Ok(cx.output::<u32>("wait")? + 1) })
        .after(["wait"])
        .build()
        .unwrap()
}

#[test]
fn an_operator_satisfies_extends_and_skips_what_a_task_waits_for() {
    on_every_store(|place| async move {
        let runner = place.runner(2);
        let run = runner.submit(&waits(), &()).await.unwrap();
        is_deferred(&place, run.id(), "wait").await;
        run.extend("wait", Duration::from_secs(60)).await.unwrap();
        run.poll_now("wait").await.unwrap();
        let unknown = run.satisfy("wiat", &7).await.unwrap_err();
        assert!(unknown.to_string().contains("has no task 'wiat'; did you mean 'wait'?"), "{unknown}");
        run.satisfy("wait", &7).by("ana").reason("by hand").await.unwrap();
        assert_eq!(run.result().await.unwrap().output::<u32>("next").unwrap(), 8);
        let second = runner.submit(&waits(), &()).await.unwrap();
        is_deferred(&place, second.id(), "wait").await;
        runner.skip(second.id(), "wait").await.unwrap();
        let result = second.result().await.unwrap();
        assert!(result.tasks.iter().all(|task| task.status == TaskStatus::Skipped));
        assert!(matches!(second.skip("wait").await.unwrap_err(), Error::TooLate(_)));
        runner.close().await;
    });
}

#[test]
fn a_run_has_tags_and_a_priority_and_so_do_its_children() {
    on_every_store(|place| async move {
        let runner = place.runner(2);
        let child = Workflow::builder("child").task("only", |_| async { Ok(1) }).build().unwrap();
        let parent = Workflow::builder("parent")
            .task("start", move |cx: TaskContext| {
                let child = child.clone();
                async move { Ok(cx.handle().run(&child, &()).await?.id.to_string()) }
            })
            .build()
            .unwrap();
        let result = runner.run(&parent, ()).tag("customer", "7").priority(3).await.unwrap();
        let child = runner.get(result.output::<String>("start").unwrap().parse().unwrap()).await.unwrap();
        for run in [result, child] {
            assert_eq!((run.tags.get("customer").map(|tag| &**tag), run.priority), (Some("7"), 3));
        }
        runner.close().await;
    });
}

#[test]
fn a_run_begins_at_its_time_and_fails_at_its_deadline() {
    on_every_store(|place| async move {
        let runner = place.runner(2);
        let later = runner.submit(&waits(), &()).start_after(Duration::from_secs(3600)).await.unwrap();
        let limited = Workflow::builder("limited")
            .task("wait", |cx: TaskContext| async move { cx.handle().wait_for::<u32>("never").await })
            .run_timeout(Duration::from_millis(50))
            .build()
            .unwrap();
        let error = runner.run(&limited, ()).await.unwrap_err();
        assert_eq!(error.run_failed().unwrap().result.status, RunStatus::Failed);
        let waiting = runner.get(later.id()).await.unwrap();
        assert!(waiting.tasks.iter().all(|task| task.status == TaskStatus::Pending && task.attempts == 0));
        runner.close().await;
    });
    let zero = Workflow::builder("w").task("a", |_| async { Ok(1) }).run_timeout(Duration::ZERO).build();
    assert!(zero.unwrap_err().0.contains("run_timeout must be more than zero"));
}

#[test]
fn a_run_is_retried_from_a_task_that_has_completed() {
    on_every_store(|place| async move {
        let (first, second) = (counter(), counter());
        let (calls, tries) = (first.0, second.0);
        let workflow = Workflow::builder("tries")
            .task("first", move |_| {
                let calls = Arc::clone(&calls);
                async move { Ok(calls.fetch_add(1, Ordering::Relaxed)) }
            })
            .task("second", move |_| {
                let tries = Arc::clone(&tries);
                async move {
                    if tries.fetch_add(1, Ordering::Relaxed) == 0 { Err(TaskError::new("not yet")) } else { Ok(1) }
                }
            })
            .after(["first"])
            .build()
            .unwrap();
        let runner = place.runner(2);
        let run = runner.submit(&workflow, &()).await.unwrap();
        run.result().await.unwrap_err();
        assert!(matches!(run.retry().from_task("nobody").await.unwrap_err(), Error::Unknown(_)));
        run.retry().from_task("first").await.unwrap();
        run.result().await.unwrap();
        assert_eq!(first.1.load(Ordering::Relaxed), 2);
        runner.close().await;
    });
}
