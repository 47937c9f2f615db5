//! Signals to runs of closures: for a body, for a gate, before and after their wait, and those that are refused.

use std::sync::Arc;
use std::time::Duration;

use bide_executor::core::{FailureKind, RunId, TaskStatus};
use bide_executor::{Error, RunHandle, TaskContext, Workflow, after, signal};
use serde::{Deserialize, Serialize};
use tokio::sync::Notify;

use crate::retry;
use crate::settle::{is_deferred, no_slot_in_use};
use crate::support::{Place, SOON, on_every_store, row};

#[derive(Debug, PartialEq, Deserialize, Serialize)]
struct Decision {
    approved: bool,
    by: String,
}

fn decision() -> Decision {
    Decision { approved: true, by: "ada".to_owned() }
}

/// A body that returns the decision it has waited for.
fn decides() -> Workflow {
    Workflow::builder("decides")
        .task("ask", |cx: TaskContext| async move { cx.handle().wait_for::<Decision>("decision").await })
        .build()
        .unwrap()
}

async fn decided(run: &RunHandle, task: &str) -> Decision {
    run.result().await.unwrap().output(task).unwrap()
}

#[test]
fn a_signal_ends_the_wait_of_a_body_which_holds_no_slot() {
    on_every_store(|place| async move {
        let runner = place.runner(1);
        let run = runner.submit(&decides(), &()).await.unwrap();
        is_deferred(&place, run.id(), "ask").await;
        no_slot_in_use(&runner).await;
        runner.signal(run.id(), "decision", &decision()).await.unwrap();
        assert_eq!(decided(&run, "ask").await, decision());
        runner.close().await;
    });
}

#[test]
fn signals_that_come_first_are_kept_and_taken_in_their_order() {
    on_every_store(|place| async move {
        let workflow = Workflow::builder("sums")
            .task("sum", |cx: TaskContext| async move {
                let handle = cx.handle();
                handle.wait_for::<()>("begin").await?;
                let mut seen: Vec<u32> = Vec::new();
                for _ in 0..3 {
                    seen.push(handle.wait_for("item").await?);
                }
                Ok(seen)
            })
            .build()
            .unwrap();
        let runner = place.runner(1);
        let run = runner.submit(&workflow, &()).await.unwrap();
        for item in [3, 1, 2] {
            run.signal("item", &item).id(format!("item {item}")).await.unwrap();
            // One id is one signal.
            run.signal("item", &99).id(format!("item {item}")).await.unwrap();
        }
        run.signal("begin", &()).await.unwrap();
        assert_eq!(run.result().await.unwrap().output::<Vec<u32>>("sum").unwrap(), [3, 1, 2]);
        runner.close().await;
    });
}

#[test]
fn the_value_of_a_gates_signal_reaches_the_body() {
    on_every_store(|place| async move {
        let workflow = Workflow::builder("gated")
            .task("publish", |cx: TaskContext| async move { cx.gate::<Decision>() })
            .gate(signal::<Decision>("decision"))
            .build()
            .unwrap();
        let runner = place.runner(1);
        let run = runner.submit(&workflow, &()).await.unwrap();
        assert_eq!(row(&place.open(), run.id(), "publish").status, TaskStatus::Pending);
        run.signal("decision", &decision()).await.unwrap();
        assert_eq!(decided(&run, "publish").await, decision());
        runner.close().await;
    });
}

#[test]
fn a_wait_for_a_signal_is_open_again_after_a_restart() {
    on_every_store(|place| async move {
        let runner = place.runner(1);
        let run = runner.submit(&decides(), &()).await.unwrap().id();
        is_deferred(&place, run, "ask").await;
        drop(runner);
        let runner = place.runner(1);
        // Sent while nobody executes the run: it is in the store.
        runner.signal(run, "decision", &decision()).await.unwrap();
        runner.register(&decides()).await.unwrap();
        assert_eq!(decided(&runner.handle(run).await.unwrap(), "ask").await, decision());
        runner.close().await;
    });
}

#[test]
fn a_wait_for_a_signal_times_out_and_goes_on_with_the_next() {
    on_every_store(|place| async move {
        let timed_out = Arc::new(Notify::new());
        let parts = Arc::clone(&timed_out);
        let workflow = Workflow::builder("late")
            .task("ask", move |cx: TaskContext| {
                let timed_out = Arc::clone(&parts);
                async move {
                    let handle = cx.handle();
                    let error = handle.wait_for::<u32>("number").timeout(SOON).await.unwrap_err();
                    assert!(error.is_wait_timeout(), "{error}");
                    timed_out.notify_one();
                    handle.wait_for::<u32>("number").await
                }
            })
            .task("gated", |_| async { Ok(()) })
            .gate(signal::<u32>("other").timeout(SOON))
            .build()
            .unwrap();
        let runner = place.runner(1);
        let run = runner.submit(&workflow, &()).await.unwrap();
        while row(&place.open(), run.id(), "gated").status != TaskStatus::Failed {
            tokio::task::yield_now().await;
        }
        timed_out.notified().await;
        run.signal("number", &7).await.unwrap();
        let error = run.result().await.unwrap_err();
        let result = &error.run_failed().unwrap().result;
        assert_eq!(result.output::<u32>("ask").unwrap(), 7);
        assert_eq!(result.task("gated").unwrap().error.as_ref().unwrap().kind, FailureKind::WaitTimeout);
        runner.close().await;
    });
}

#[test]
fn a_value_of_another_type_fails_the_wait_and_is_consumed() {
    on_every_store(|place| async move {
        let workflow = Workflow::builder("typed")
            .task("ask", |cx: TaskContext| async move {
                let error = cx.handle().wait_for::<u32>("number").await.unwrap_err();
                assert_eq!(error.failure().unwrap().kind, FailureKind::Serialization);
                assert!(error.to_string().contains("the value of 'number' does not read back"), "{error}");
                cx.handle().wait_for::<u32>("number").await
            })
            .task("gated", |cx: TaskContext| async move { cx.gate::<u32>() })
            .gate(signal::<String>("text"))
            .task("free", |cx: TaskContext| async move { cx.gate::<u32>() })
            .build()
            .unwrap();
        let runner = place.runner(1);
        let run = runner.submit(&workflow, &()).await.unwrap();
        run.signal("number", "seven").await.unwrap();
        run.signal("number", &7).await.unwrap();
        run.signal("text", "a").await.unwrap();
        let error = run.result().await.unwrap_err();
        let result = &error.run_failed().unwrap().result;
        assert_eq!(result.output::<u32>("ask").ok(), Some(7), "{:?}", result.task("ask").unwrap().error);
        let failure = |task| result.task(task).unwrap().error.as_ref().unwrap().message().to_owned();
        assert!(failure("gated").contains("is of the type alloc::string::String, not u32"), "{}", failure("gated"));
        assert!(failure("free").contains("reads its gate, and it has none"), "{}", failure("free"));
        runner.close().await;
    });
}

#[test]
fn a_signal_that_no_wait_can_take_is_refused() {
    on_every_store(|place| async move {
        let workflow = Workflow::builder("declares")
            .task("ask", |cx: TaskContext| async move {
                let error = cx.handle().wait_for::<()>("decison").await.unwrap_err();
                assert!(error.to_string().contains("did you mean 'decision'?"), "{error}");
                cx.handle().wait_for::<bool>("decision").await
            })
            .signals(["decision"])
            .build()
            .unwrap();
        let runner = place.runner(1);
        let run = runner.submit(&workflow, &()).await.unwrap();
        let refused = |error: Error| {
            assert!(matches!(error, Error::SignalRejected(_)), "{error:?}");
            error.to_string()
        };
        let error = refused(run.signal("decison", &true).await.unwrap_err());
        assert!(error.contains("does not declare it (signals: 'decision')"), "{error}");
        let error = run.signal("decision", &f64::NAN).await.unwrap_err();
        assert!(matches!(error, Error::Definition(_)), "{error:?}");
        run.signal("decision", &true).await.unwrap();
        run.result().await.unwrap();
        let error = refused(run.signal("decision", &true).await.unwrap_err());
        assert!(error.contains("has ended (Completed)"), "{error}");
        let error = runner.signal(RunId::new(1, 1, 1), "decision", &true).await.unwrap_err();
        assert!(matches!(error, Error::Unknown(_)), "{error:?}");
        runner.close().await;
    });
}

#[test]
fn a_workflow_whose_waits_cannot_work_is_refused() {
    let gate = |gate| {
        let workflow = Workflow::builder("refused").task("t", |_| async { Ok(()) }).gate(gate).signals(["a"]);
        workflow.build().unwrap_err().0
    };
    let error = gate(signal::<()>("b"));
    assert!(error.contains("waits for the signal 'b', which the workflow does not name in signals"), "{error}");
    let error = gate(after(Duration::ZERO).every(SOON));
    assert!(
        error.contains("every(...) says how a condition is asked, and the wait 'after' is no condition"),
        "{error}"
    );
}

#[test]
fn a_signal_reaches_a_run_that_another_runner_executes() {
    let place = Place::sqlite();
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    runtime.block_on(async {
        let (owner, other) = (place.runner(1), place.runner(1));
        let run = owner.submit(&decides(), &()).await.unwrap();
        is_deferred(&place, run.id(), "ask").await;
        other.signal(run.id(), "decision", &decision()).await.unwrap();
        assert_eq!(decided(&run, "ask").await, decision());
        other.close().await;
        owner.close().await;
    });
}

#[test]
fn a_gate_that_times_out_is_retried_if_its_task_says_so() {
    on_every_store(|place| async move {
        let gated = |name, covers: bool| {
            let workflow = Workflow::builder(name).task("gated", |_| async { Ok(()) });
            let gate = signal::<()>("go").timeout(SOON);
            workflow.gate(gate).retry(retry(3)).retry_if(move |_| covers).build().unwrap()
        };
        let runner = place.runner(1);
        for (workflow, attempts) in [(gated("retried", true), 3), (gated("once", false), 1)] {
            let error = runner.run(&workflow, ()).await.unwrap_err();
            assert_eq!(error.run_failed().unwrap().result.task("gated").unwrap().attempts, attempts);
        }
        runner.close().await;
    });
}
