//! Small workflows, crashed before and after every single call of their store, through the real engine.
#![expect(clippy::unwrap_used, reason = "tests")]

mod cases;
mod threads;
mod world;

use std::sync::Arc;
use std::time::Duration;

use bide_executor::core::{RetryPolicy, RunIf};
use bide_executor::{Skip, TaskContext, TaskError, Workflow, WorkflowBuilder, after, until};

use world::{Ledger, at_every_call, on_tokio};

/// A short interval, for conditions that are soon true.
const SOON: Duration = Duration::from_millis(1);

fn workflow(name: &str) -> WorkflowBuilder {
    Workflow::builder(name)
}

fn retry(attempts: u32) -> RetryPolicy {
    RetryPolicy { delay: Duration::ZERO, jitter: 0.0, ..RetryPolicy::new(attempts) }
}

/// Waits for a condition that is true at its third poll.
async fn wait(cx: &TaskContext, ledger: &Arc<Ledger>, name: &str) -> Result<(), TaskError> {
    let condition = || {
        let holds = ledger.third_poll();
        async move { holds }
    };
    cx.handle().defer_until(condition, SOON).named(name).given(&()).await.map(drop)
}

/// A step that returns a number.
async fn step(cx: &TaskContext, ledger: &Arc<Ledger>, name: &'static str, returns: u32) -> Result<u32, TaskError> {
    let executes = || async {
        ledger.steps(cx.run_id(), cx.task_name(), name);
        Ok(returns)
    };
    cx.handle().step(name, &(), executes).await
}

/// Adds a task whose body shares the ledger; the names are its dependencies.
macro_rules! task {
    ($builder:expr, $ledger:expr, $name:literal after [$($on:literal),*], |$cx:ident, $l:ident| $body:expr) => {{
        let shared = Arc::clone($ledger);
        $builder
            .task($name, move |$cx: TaskContext| {
                let $l = Arc::clone(&shared);
                async move {
                    $l.enters($cx.run_id(), $cx.task_name(), &[$($on),*]);
                    let (ledger, name) = (Arc::clone(&$l), $cx.task_name().to_owned());
                    let returned = async { $body }.await;
                    ledger.returns(&name);
                    returned
                }
            })
            .after(<[&str; _]>::from([$($on),*]))
    }};
}

fn two_waits_in_a_row(ledger: &Arc<Ledger>) -> Workflow {
    task!(workflow("waits"), ledger, "a" after [], |cx, ledger| {
        wait(&cx, &ledger, "first").await?;
        wait(&cx, &ledger, "second").await?;
        Ok(1)
    })
    .build()
    .unwrap()
}

fn a_step_between_waits(ledger: &Arc<Ledger>) -> Workflow {
    let built = task!(workflow("step-between"), ledger, "a" after [], |cx, ledger| {
        wait(&cx, &ledger, "first").await?;
        let number = step(&cx, &ledger, "submit", 7).await?;
        wait(&cx, &ledger, "second").await?;
        Ok(number)
    });
    task!(built, ledger, "b" after ["a"], |cx, _ledger| Ok(cx.output::<u32>("a")? + 1)).build().unwrap()
}

fn a_retry_after_a_wait(ledger: &Arc<Ledger>) -> Workflow {
    task!(workflow("retry"), ledger, "a" after [], |cx, ledger| {
        wait(&cx, &ledger, "first").await?;
        let number = step(&cx, &ledger, "kept", 7).await?;
        if cx.attempt() < 3 { Err(TaskError::new("not yet")) } else { Ok(number) }
    })
    .retry(retry(3))
    .build()
    .unwrap()
}

fn a_retry_with_a_fresh_journal(ledger: &Arc<Ledger>) -> Workflow {
    task!(workflow("fresh"), ledger, "a" after [], |cx, ledger| {
        let number = step(&cx, &ledger, "again", 7).await?;
        wait(&cx, &ledger, "first").await?;
        if cx.attempt() < 2 { Err(TaskError::new("not yet")) } else { Ok(number) }
    })
    .retry(RetryPolicy { fresh: true, ..retry(2) })
    .build()
    .unwrap()
}

fn a_gate_before_a_step(ledger: &Arc<Ledger>) -> Workflow {
    let holds = Arc::clone(ledger);
    let built = task!(workflow("gate"), ledger, "a" after [], |cx, ledger| step(&cx, &ledger, "submit", 7).await).gate(
        until(move |_| {
            let holds = holds.third_poll();
            async move { holds }
        })
        .every(SOON),
    );
    task!(built, ledger, "b" after ["a"], |cx, ledger| step(&cx, &ledger, "then", 8).await)
        .gate(after(SOON))
        .build()
        .unwrap()
}

fn a_wait_whose_timeout_passes_during_downtime(ledger: &Arc<Ledger>) -> Workflow {
    task!(workflow("timeout"), ledger, "a" after [], |cx, ledger| {
        let before = step(&cx, &ledger, "before", 7).await?;
        // Without a crash the hours pass while it is polled; with one, while no process lives.
        let never = || {
            if ledger.third_poll() {
                ledger.clock.skip(Duration::from_secs(2 * 3600));
            }
            async { false }
        };
        let waited = cx.handle().defer_until(never, SOON).named("never").given(&());
        match waited.timeout(Duration::from_secs(3600)).await {
            Err(error) if error.is_wait_timeout() => step(&cx, &ledger, "late", before + 1).await,
            other => other.map(|_| 0),
        }
    })
    .build()
    .unwrap()
}

fn a_failing_branch_with_a_task_for_failures(ledger: &Arc<Ledger>) -> Workflow {
    let built = task!(workflow("branch"), ledger, "fails" after [], |cx, ledger| {
        step(&cx, &ledger, "before", 7).await?;
        Err::<u32, _>(TaskError::new("it broke"))
    });
    let built = task!(built, ledger, "skipped" after ["fails"], |_cx, _ledger| Ok(1));
    let built = task!(built, ledger, "cleans" after ["skipped"], |cx, ledger| {
        wait(&cx, &ledger, "clear").await?;
        step(&cx, &ledger, "clean", 9).await
    })
    .run_if(RunIf::Failed);
    task!(built, ledger, "fine" after [], |_cx, _ledger| Ok(2)).build().unwrap()
}

fn a_diamond(ledger: &Arc<Ledger>) -> Workflow {
    let built = task!(workflow("diamond"), ledger, "top" after [], |_cx, _ledger| Ok(1));
    let built = task!(built, ledger, "left" after ["top"], |cx, ledger| {
        wait(&cx, &ledger, "left").await?;
        Ok(cx.output::<u32>("top")? + 1)
    });
    let built = task!(built, ledger, "right" after ["top"], |cx, ledger| step(&cx, &ledger, "right", 5).await);
    task!(built, ledger, "bottom" after ["left", "right"], |cx, _ledger| {
        Ok(cx.output::<u32>("left")? + cx.output::<u32>("right")?)
    })
    .build()
    .unwrap()
}

fn a_step_that_fails_and_is_tried_again(ledger: &Arc<Ledger>) -> Workflow {
    task!(workflow("failing-step"), ledger, "a" after [], |cx, ledger| {
        let number = step(&cx, &ledger, "good", 7).await?;
        let attempt = cx.attempt();
        let executes = || async {
            ledger.steps(cx.run_id(), cx.task_name(), "bad");
            if attempt < 2 { Err(TaskError::new("it broke")) } else { Ok(number + attempt) }
        };
        cx.handle().step("bad", &(), executes).await
    })
    .retry(retry(2))
    .build()
    .unwrap()
}

fn a_failed_step_that_its_body_survives(ledger: &Arc<Ledger>) -> Workflow {
    task!(workflow("survives"), ledger, "a" after [], |cx, ledger| {
        let executes = || async {
            ledger.steps(cx.run_id(), cx.task_name(), "bad");
            Err::<u32, _>(TaskError::new("it broke"))
        };
        let failed = match cx.handle().step("bad", &(), executes).await {
            Err(error) if error.is_suspended() => return Err(error),
            outcome => outcome.is_err(),
        };
        wait(&cx, &ledger, "after").await?;
        Ok(failed)
    })
    .build()
    .unwrap()
}

/// What was emitted before a record is committed with it or before it.
fn events_between_steps(ledger: &Arc<Ledger>) -> Workflow {
    let built = task!(workflow("events"), ledger, "a" after [], |cx, ledger| {
        for (event, name) in (1..).zip(["first", "second", "third"]) {
            cx.handle().emit("log", &event).await?;
            step(&cx, &ledger, name, event).await?;
            ledger.has_event(cx.run_id(), event);
        }
        cx.handle().emit("log", &4).await?;
        Ok(1)
    });
    task!(built, ledger, "b" after ["a"], |cx, ledger| {
        ledger.has_event(cx.run_id(), 4);
        Ok(2)
    })
    .build()
    .unwrap()
}

fn a_sleep_between_steps(ledger: &Arc<Ledger>) -> Workflow {
    task!(workflow("sleep"), ledger, "a" after [], |cx, ledger| {
        let first = step(&cx, &ledger, "first", 7).await?;
        cx.handle().sleep(Duration::from_millis(5)).await?;
        let second = step(&cx, &ledger, "second", 8).await?;
        Ok(first + second)
    })
    .build()
    .unwrap()
}

fn a_task_that_skips_itself(ledger: &Arc<Ledger>) -> Workflow {
    let built = task!(workflow("skip"), ledger, "skips" after [], |cx, ledger| {
        step(&cx, &ledger, "looks", 1).await?;
        Err::<u32, TaskError>(Skip("nothing to do").into())
    });
    let built = task!(built, ledger, "dependent" after ["skips"], |_cx, _ledger| Ok(1));
    task!(built, ledger, "always" after ["dependent"], |cx, _ledger| cx.try_output::<u32>("dependent"))
        .run_if(RunIf::Done)
        .build()
        .unwrap()
}

fn a_condition_that_cannot_be_compared(ledger: &Arc<Ledger>) -> Workflow {
    task!(workflow("unprovable"), ledger, "a" after [], |cx, ledger| {
        let condition = || {
            let holds = ledger.third_poll();
            async move { holds }
        };
        cx.handle().defer_until(condition, SOON).named("unprovable").await?;
        step(&cx, &ledger, "then", 7).await
    })
    .build()
    .unwrap()
}

fn a_gate_that_times_out(ledger: &Arc<Ledger>) -> Workflow {
    let built = task!(workflow("gate-timeout"), ledger, "shut" after [], |_cx, _ledger| Ok(1))
        .gate(until(|_| async { false }).every(SOON).timeout(Duration::from_millis(5)));
    task!(built, ledger, "always" after ["shut"], |cx, ledger| step(&cx, &ledger, "then", 7).await)
        .run_if(RunIf::Done)
        .build()
        .unwrap()
}

/// Two bodies in turn on one slot; neither kills its process.
fn two_bodies_on_one_slot(ledger: &Arc<Ledger>) -> Workflow {
    let built = task!(workflow("suspects"), ledger, "a" after [], |cx, ledger| {
        ledger.check_no_returned_body_is_suspected(cx.run_id());
        Ok(1)
    });
    task!(built, ledger, "b" after [], |cx, ledger| {
        ledger.check_no_returned_body_is_suspected(cx.run_id());
        Ok(2)
    })
    .build()
    .unwrap()
}

#[test]
fn a_body_that_has_returned_is_not_a_suspect_beside_the_next_one() {
    at_every_call(&|store, ledger| on_tokio(store, ledger, &two_bodies_on_one_slot(ledger), 1));
}

macro_rules! crash_points {
    ($($define:ident)+) => {
        mod survives_a_crash_at_every_call {
            $(#[test]
            fn $define() {
                crate::at_every_call(&|store, ledger| crate::on_tokio(store, ledger, &super::$define(ledger), 2));
            })+
        }
    };
}

crash_points! {
    two_waits_in_a_row
    a_step_between_waits
    a_retry_after_a_wait
    a_retry_with_a_fresh_journal
    a_gate_before_a_step
    a_wait_whose_timeout_passes_during_downtime
    a_failing_branch_with_a_task_for_failures
    a_diamond
    a_step_that_fails_and_is_tried_again
    a_failed_step_that_its_body_survives
    events_between_steps
    a_sleep_between_steps
    a_task_that_skips_itself
    a_condition_that_cannot_be_compared
    a_gate_that_times_out
}

mod children;
mod control;
mod steps;
