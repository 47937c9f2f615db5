//! Steps that are begun before they end, steps with keys, and checkpoints, of closures.

use std::sync::Arc;

use bide_executor::{StepSettings, TaskContext, TaskError, Workflow};

use crate::world::Ledger;
use crate::{retry, workflow};

/// It fails twice, and is tried as often as it takes: a crash before its failure is recorded is no try.
fn a_step_that_is_tried_again(ledger: &Arc<Ledger>) -> Workflow {
    task!(workflow("retried-step"), ledger, "a" after [], |cx, ledger| {
        let tries = StepSettings::new().retry(retry(3));
        let executes = || async {
            ledger.steps(cx.run_id(), cx.task_name(), "flaky");
            if ledger.times("a/flaky") < 3 { Err(TaskError::new("not yet")) } else { Ok(7) }
        };
        cx.handle().step_with(tries, "flaky", &(), executes).await
    })
    .build()
    .unwrap()
}

/// The same with a delay, in which the slot is released.
fn a_step_that_is_tried_again_later(ledger: &Arc<Ledger>) -> Workflow {
    task!(workflow("delayed-step"), ledger, "a" after [], |cx, ledger| {
        let policy = bide_executor::core::RetryPolicy { delay: crate::SOON, ..retry(3) };
        let executes = || async {
            ledger.steps(cx.run_id(), cx.task_name(), "flaky");
            if ledger.times("a/flaky") < 3 { Err(TaskError::new("not yet")) } else { Ok(7) }
        };
        cx.handle().step_with(StepSettings::new().retry(policy), "flaky", &(), executes).await
    })
    .build()
    .unwrap()
}

fn a_step_that_is_executed_at_most_once(ledger: &Arc<Ledger>) -> Workflow {
    task!(workflow("once"), ledger, "a" after [], |cx, ledger| {
        let executes = || async {
            ledger.executes_once(cx.run_id(), "pay");
            Ok(7)
        };
        match cx.handle().step_with(StepSettings::new().once(), "pay", &(), executes).await {
            Err(error) if error.is_step_interrupted() => Ok(7),
            other => other,
        }
    })
    .build()
    .unwrap()
}

fn steps_with_keys_side_by_side(ledger: &Arc<Ledger>) -> Workflow {
    task!(workflow("keyed"), ledger, "a" after [], |cx, ledger| {
        let handle = cx.handle();
        let item = |key: &'static str, returns: u32| {
            let (handle, ledger, cx) = (&handle, &ledger, &cx);
            async move {
                let executes = || async {
                    ledger.steps(cx.run_id(), cx.task_name(), &format!("item {key:?}"));
                    tokio::task::yield_now().await;
                    Ok(returns)
                };
                handle.step_with(StepSettings::new().key(key), "item", &(), executes).await
            }
        };
        let (one, two, three) = tokio::try_join!(item("1", 1), item("2", 2), item("3", 3))?;
        Ok(one + two + three)
    })
    .build()
    .unwrap()
}

fn a_loop_with_checkpoints(ledger: &Arc<Ledger>) -> Workflow {
    task!(workflow("checkpoints"), ledger, "a" after [], |cx, ledger| {
        let mut sum = cx.handle().last_checkpoint::<(u32, u32)>()?.unwrap_or_default();
        while sum.0 < 3 {
            let executes = || async {
                ledger.steps(cx.run_id(), cx.task_name(), "turn");
                Ok(sum.1 + 10)
            };
            sum = (sum.0 + 1, cx.handle().step("turn", &sum, executes).await?);
            cx.handle().checkpoint(&sum).await?;
        }
        Ok(sum.1)
    })
    .build()
    .unwrap()
}

crash_points! {
    a_step_that_is_tried_again
    a_step_that_is_tried_again_later
    a_step_that_is_executed_at_most_once
    steps_with_keys_side_by_side
    a_loop_with_checkpoints
}
