//! Child runs of closures: started once, waited for without a slot, found again after a restart.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use bide_executor::core::{FailureKind, RunStatus};
use bide_executor::{ChildRun, Error, RunResult, TaskContext, TaskError, Workflow, after, signal};
use tokio::sync::Notify;

use crate::settle::{is_deferred, no_slot_in_use};
use crate::support::{HANG, on_every_store};
use crate::{counter, retry};

/// A workflow that doubles its input once it is told to.
fn doubles() -> Workflow {
    Workflow::builder("doubles")
        .task("double", |cx: TaskContext| async move {
            cx.handle().wait_for::<()>("go").await?;
            Ok(2 * cx.input::<u64>("number")?)
        })
        .build()
        .unwrap()
}

fn answer(result: &RunResult) -> u64 {
    result.output("double").unwrap()
}

#[test]
fn a_parent_waits_for_its_children_without_a_slot_and_gets_their_results() {
    on_every_store(|place| async move {
        let sums = Workflow::builder("sums")
            .task("children", move |cx: TaskContext| async move {
                let handle = cx.handle();
                let mut children = Vec::new();
                for number in 1..4_u64 {
                    children.push(handle.start(&doubles(), &[("number", number)]).await?);
                }
                assert!(children.iter().all(|child| child.workflow() == "doubles"));
                let results = handle.wait_all(children.clone()).await?;
                // Each wait for one gets it.
                assert_eq!(answer(&handle.wait(&children[0]).await?), 2);
                Ok(results.iter().map(answer).sum::<u64>())
            })
            .build()
            .unwrap();
        let runner = place.runner(1);
        let run = runner.submit(&sums, &()).await.unwrap();
        is_deferred(&place, run.id(), "children").await;
        no_slot_in_use(&runner).await;
        for (child, _) in place.open().children(run.id()).unwrap() {
            runner.signal(child, "go", &()).await.unwrap();
        }
        assert_eq!(run.result().await.unwrap().output::<u64>("children").unwrap(), 12);
        runner.close().await;
    });
}

#[test]
fn ten_levels_finish_on_one_slot() {
    on_every_store(|place| async move {
        let mut workflow = Workflow::builder("level 0").task("level", |_| async { Ok(1_u64) }).build().unwrap();
        for level in 1..10 {
            let below = workflow;
            workflow = Workflow::builder(format!("level {level}"))
                .task("level", move |cx: TaskContext| {
                    let below = below.clone();
                    async move { Ok(1 + cx.handle().run(&below, &()).await?.output::<u64>("level")?) }
                })
                .build()
                .unwrap();
        }
        let runner = place.runner(1);
        assert_eq!(runner.run(&workflow, ()).await.unwrap().output::<u64>("level").unwrap(), 10);
        runner.close().await;
    });
}

#[test]
fn children_are_found_again_after_a_restart_and_never_started_twice() {
    on_every_store(|place| async move {
        let (entries, entered) = counter();
        let parent = Workflow::builder("parent")
            .task("children", move |cx: TaskContext| {
                let entries = Arc::clone(&entries);
                async move {
                    let handle = cx.handle();
                    let child = |number: u64| handle.start(&doubles(), &serde_json::json!({"number": number}));
                    // Those with a key are found in any order.
                    let children = if entries.fetch_add(1, Ordering::SeqCst) == 0 {
                        [child(1).key("a").await?, child(2).key("b").await?, child(3).await?]
                    } else {
                        let b = child(2).key("b").await?;
                        [child(1).key("a").await?, b, child(3).await?]
                    };
                    let results = handle.wait_all(children.to_vec()).await?;
                    Ok(results.iter().map(answer).collect::<Vec<_>>())
                }
            })
            .build()
            .unwrap();
        let runner = place.runner(1);
        let run = runner.submit(&parent, &()).await.unwrap().id();
        is_deferred(&place, run, "children").await;
        let before = place.open().children(run).unwrap();
        drop(runner);

        // The body registers the workflow of its children again.
        let runner = place.runner(1);
        runner.register(&parent).await.unwrap();
        for (child, _) in &before {
            runner.signal(*child, "go", &()).await.unwrap();
        }
        let result = runner.handle(run).await.unwrap().result().await.unwrap();
        assert_eq!(result.output::<Vec<u64>>("children").unwrap(), [2, 4, 6]);
        assert_eq!((place.open().children(run).unwrap().len(), before.len()), (3, 3));
        assert_eq!(entered.load(Ordering::SeqCst), 2);
        runner.close().await;
    });
}

/// A workflow that fails.
fn fails() -> Workflow {
    let body = |_| async { Err::<(), _>(TaskError::new("boom")) };
    Workflow::builder("fails").task("fail", body).build().unwrap()
}

#[test]
fn a_child_that_fails_fails_the_wait_for_it_with_its_result() {
    on_every_store(|place| async move {
        let parent = Workflow::builder("parent")
            .task("catches", |cx: TaskContext| async move {
                let handle = cx.handle();
                let child = handle.start(&fails(), &()).await?;
                let error = handle.wait(&child).await.unwrap_err();
                let failed = error.run_failed().ok_or_else(|| TaskError::new("it is not the child's failure"))?;
                assert_eq!((failed.result.id, failed.result.status), (child.id(), RunStatus::Failed));
                assert!(error.to_string().contains("task 'fail': bide.TaskError: boom"), "{error}");
                let all = handle.wait_all((signal::<()>("never"), &child)).await.unwrap_err();
                assert_eq!(all.run_failed().map(|failed| failed.result.id), Some(child.id()));
                let (none, late) = handle.wait_any((child, after(std::time::Duration::ZERO))).await?;
                assert!(none.is_none() && late.is_some(), "a failed child is out");
                Ok(())
            })
            .task("passes_on", |cx: TaskContext| async move { cx.handle().run(&fails(), &()).await.map(drop) })
            .build()
            .unwrap();
        let runner = place.runner(1);
        let error = runner.run(&parent, ()).await.unwrap_err();
        let result = &error.run_failed().unwrap().result;
        assert_eq!(result.task("catches").unwrap().error, None);
        let failure = result.task("passes_on").unwrap().error.as_ref().unwrap();
        assert_eq!(failure.kind, FailureKind::ChildFailed);
        assert!(failure.to_string().starts_with("bide.RunFailed: run "), "{failure}");
        runner.close().await;
    });
}

#[test]
fn the_next_attempt_replaces_a_child_that_failed() {
    on_every_store(|place| async move {
        let (tries, tried) = counter();
        let flaky = Workflow::builder("flaky")
            .task("fail", move |_| {
                let attempt = tries.fetch_add(1, Ordering::SeqCst);
                async move { if attempt == 0 { Err(TaskError::new("boom")) } else { Ok(attempt) } }
            })
            .build()
            .unwrap();
        let parent = Workflow::builder("parent")
            .task("child", move |cx: TaskContext| {
                let flaky = flaky.clone();
                async move { Ok(cx.handle().run(&flaky, &()).key("one").await?.output::<u32>("fail")?) }
            })
            .retry(retry(2))
            .build()
            .unwrap();
        let runner = place.runner(1);
        assert_eq!(runner.run(&parent, ()).await.unwrap().output::<u32>("child").unwrap(), 1);
        assert_eq!(tried.load(Ordering::SeqCst), 2);
        runner.close().await;
    });
}

#[test]
fn a_child_run_is_a_value_that_another_body_of_the_run_can_wait_for() {
    on_every_store(|place| async move {
        let started = Arc::new(Notify::new());
        let notify = Arc::clone(&started);
        let parent = Workflow::builder("parent")
            .task("starts", move |cx: TaskContext| {
                let notify = Arc::clone(&notify);
                async move {
                    let child = cx.handle().start(&doubles(), &[("number", 4)]).await?;
                    notify.notify_one();
                    Ok(child)
                }
            })
            .task("waits", |cx: TaskContext| async move {
                let child: ChildRun = cx.output("starts")?;
                let (ended, _) = cx.handle().wait_any((child, after(HANG))).await?;
                Ok(ended.as_ref().map(answer))
            })
            .after(["starts"])
            .build()
            .unwrap();
        let runner = place.runner(1);
        let run = runner.submit(&parent, &()).await.unwrap();
        started.notified().await;
        is_deferred(&place, run.id(), "waits").await;
        let child = place.open().children(run.id()).unwrap()[0].0;
        runner.signal(child, "go", &()).await.unwrap();
        assert_eq!(run.result().await.unwrap().output::<Option<u64>>("waits").unwrap(), Some(8));

        // No body of another run can.
        let stranger = run.result().await.unwrap().output::<ChildRun>("starts").unwrap();
        let other = Workflow::builder("other")
            .task("waits", move |cx: TaskContext| {
                let stranger = stranger.clone();
                async move { cx.handle().wait(stranger).await.map(drop) }
            })
            .build()
            .unwrap();
        let error = runner.run(&other, ()).await.unwrap_err().to_string();
        assert!(error.contains("which is no child of its run"), "{error}");
        runner.close().await;
    });
}

#[test]
fn what_cannot_be_a_child_or_a_gate_is_refused() {
    on_every_store(|place| async move {
        let parent = Workflow::builder("parent")
            .task("starts", |cx: TaskContext| async move {
                let handle = cx.handle();
                let error = handle.start(&fails(), &3).await.unwrap_err().to_string();
                assert!(error.contains("child run of 'fails': the inputs cannot be stored"), "{error}");
                let child = handle.start(&fails(), &()).await?;
                let gate = Workflow::builder("gated").task("t", |_| async { Ok(()) }).gate(child.wait()).build();
                assert!(gate.unwrap_err().0.contains("its gate: 'child fails' is a child run, which only a body has"));
                let paid = handle.callback::<()>("paid").await?;
                let gate = Workflow::builder("gated").task("t", |_| async { Ok(()) }).gate(paid.wait()).build();
                assert!(gate.unwrap_err().0.contains("its gate: 'paid' is a callback, which only a body has"));
                Ok(())
            })
            .build()
            .unwrap();
        let runner = place.runner(1);
        runner.run(&parent, ()).await.unwrap();
        runner.close().await;
    });
}

#[test]
fn a_workflow_that_starts_itself_without_end_is_refused_with_the_chain() {
    fn endless() -> Workflow {
        let body = |cx: TaskContext| async move { cx.handle().run(&endless(), &()).await.map(drop) };
        Workflow::builder("endless").task("again", body).build().unwrap()
    }
    let place = crate::support::Place::memory();
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    runtime.block_on(async {
        let runner = place.runner(1);
        let error = runner.run(&endless(), ()).await.unwrap_err();
        assert!(matches!(error, Error::Failed(_)), "{error:?}");
        let error = error.to_string();
        assert!(error.contains("more than 100 levels of child runs: 'endless' (101 times)"), "{error}");
        runner.close().await;
    });
}
