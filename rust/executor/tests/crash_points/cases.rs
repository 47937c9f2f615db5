//! The cases of the crash points on worker threads: small workflows, each crashed at every call of its store.

use std::sync::Arc;
use std::time::Duration;

use bide_executor::core::graph::{MapSpec, Over, Tolerated};
use bide_executor::core::{FailureKind, GateSpec, GateUntil, RetryPolicy, RunIf};
use bide_executor::{CallError, Polled};

use crate::threads::{Defined, Function, SOON, raised, task};

fn two_waits_in_a_row() -> Vec<Defined> {
    vec![task("a", &[], |body| {
        body.wait("first")?;
        body.wait("second")?;
        Ok(1)
    })]
}

fn a_step_between_waits() -> Vec<Defined> {
    vec![
        task("a", &[], |body| {
            body.wait("first")?;
            let number = body.step("submit", 7)?;
            body.wait("second")?;
            Ok(number)
        }),
        task("b", &["a"], |body| body.step("then", 8)),
    ]
}

fn a_retry_after_a_wait() -> Vec<Defined> {
    let mut a = task("a", &[], |body| {
        body.wait("first")?;
        let number = body.step("kept", 7)?;
        if body.cx.attempt() < 3 { Err(raised("not yet")) } else { Ok(number) }
    });
    a.spec.retry = RetryPolicy { delay: Duration::ZERO, jitter: 0.0, ..RetryPolicy::new(3) };
    vec![a]
}

fn a_gate_before_a_step() -> Vec<Defined> {
    let mut a = task("a", &[], |body| body.step("submit", 7));
    a.spec.gate = Some(GateSpec { name: "gate".into(), until: GateUntil::Condition, timeout: None });
    let mut b = task("b", &["a"], |body| body.step("then", 8));
    b.spec.gate = Some(GateSpec { name: "gate".into(), until: GateUntil::After(SOON), timeout: None });
    vec![a, b]
}

fn a_wait_whose_timeout_passes_during_downtime() -> Vec<Defined> {
    vec![task("a", &[], |body| {
        let before = body.step("before", 7)?;
        let ledger = Arc::clone(&body.task.ledger);
        let mut never = || {
            if ledger.third_poll() {
                ledger.clock.skip(Duration::from_secs(2 * 3600));
            }
            Polled::False
        };
        match body.wait_for("never", Some(Duration::from_secs(3600)), &mut never) {
            Err(CallError::Failed(failure)) if failure.kind == FailureKind::WaitTimeout => {
                body.step("late", before + 1)
            }
            other => other.map(|()| 0),
        }
    })]
}

fn a_child_between_steps() -> Vec<Defined> {
    vec![task("a", &[], |body| {
        let first = body.step("first", 7)?;
        body.child()?;
        Ok(first + body.step("last", 8)?)
    })]
}

fn a_sleep_between_steps() -> Vec<Defined> {
    vec![task("a", &[], |body| {
        let first = body.step("first", 7)?;
        body.sleep(Duration::from_millis(5))?;
        Ok(first + body.step("second", 8)?)
    })]
}

/// A task that is mapped over others. `after` names their elements of the same index with "[]".
fn mapped(name: &'static str, over: &[&'static str], after: &'static [&'static str], function: Function) -> Defined {
    let names = || over.iter().map(|on| Arc::from(*on));
    let map = MapSpec { over: names().map(Over::Task).collect(), tolerate: Tolerated::Count(1) };
    let mut mapped = task(name, after, function);
    mapped.spec.dependencies = names().collect();
    mapped.spec.map = Some(Box::new(map));
    mapped
}

fn a_mapped_task_and_one_that_follows_it() -> Vec<Defined> {
    let mut each = mapped("each", &["list"], &["list"], |body| {
        let number = body.step("submit", 7)?;
        if body.index == 1 {
            body.wait("second")?;
            if body.cx.attempt() < 2 {
                return Err(raised("not yet"));
            }
        }
        Ok(number + body.index)
    });
    each.spec.retry = RetryPolicy { delay: Duration::ZERO, jitter: 0.0, ..RetryPolicy::new(2) };
    let follows = mapped("follows", &["each"], &["each[]"], |body| {
        if body.index == 0 { Err(raised("it may fail")) } else { body.step("then", 8) }
    });
    let mut reads = task("reads", &["each", "follows"], |_| Ok(9));
    reads.spec.gathers = vec!["follows".into()];
    vec![task("list", &[], |_| Ok(1)), each, follows, reads]
}

fn a_failing_branch_with_a_task_for_failures() -> Vec<Defined> {
    let fails = task("fails", &[], |body| {
        body.step("before", 7)?;
        Err(raised("it broke"))
    });
    let skipped = task("skipped", &["fails"], |_| Ok(1));
    let mut cleans = task("cleans", &["skipped"], |body| {
        body.wait("clear")?;
        body.step("clean", 9)
    });
    cleans.spec.run_if = RunIf::Failed;
    vec![fails, skipped, cleans, task("fine", &[], |_| Ok(2))]
}

fn a_diamond_that_changes_the_context_on_both_sides() -> Vec<Defined> {
    vec![
        task("top", &[], |body| {
            body.set("top", 1);
            body.set("both", 1);
            Ok(1)
        }),
        task("left", &["top"], |body| {
            body.set("left", body.get("top") + 1);
            body.wait("left")?;
            body.set("both", 2);
            Ok(2)
        }),
        task("right", &["top"], |body| {
            let number = body.step("right", 5)?;
            body.set("right", number + body.get("top"));
            body.set("both", 3);
            Ok(number)
        }),
        // Of two tasks that changed one key, the one declared later wins.
        task("bottom", &["left", "right"], |body| {
            body.wait("bottom")?;
            let seen = ["top", "left", "right", "both"].map(|key| body.get(key));
            assert_eq!(seen, [1, 2, 6, 3]);
            Ok(seen.iter().sum())
        }),
    ]
}

/// The changes of a failed attempt are discarded; those of the attempt that returns are kept.
fn a_context_that_a_failed_attempt_has_changed() -> Vec<Defined> {
    let mut changes = task("changes", &[], |body| {
        body.step("kept", 7)?;
        if body.cx.attempt() == 1 {
            body.set("first", 1);
            return Err(raised("not yet"));
        }
        let seen = body.context.len() as u32;
        body.set("second", 2);
        Ok(seen)
    });
    changes.spec.retry = RetryPolicy { delay: Duration::ZERO, jitter: 0.0, ..RetryPolicy::new(2) };
    vec![changes, task("sees", &["changes"], |body| Ok(10 * body.context.len() as u32 + body.get("second")))]
}

macro_rules! crash_points {
    ($($define:ident)+) => {
        mod survives_a_crash_at_every_call {
            $(#[test]
            fn $define() {
                crate::world::at_every_call(&|store, ledger| crate::threads::on_threads(store, ledger, super::$define(), 2));
            })+
        }
    };
}

crash_points! {
    two_waits_in_a_row
    a_step_between_waits
    a_retry_after_a_wait
    a_gate_before_a_step
    a_wait_whose_timeout_passes_during_downtime
    a_sleep_between_steps
    a_child_between_steps
    a_mapped_task_and_one_that_follows_it
    a_failing_branch_with_a_task_for_failures
    a_diamond_that_changes_the_context_on_both_sides
    a_context_that_a_failed_attempt_has_changed
}

#[path = "thread_fork.rs"]
mod fork;
#[path = "thread_steps.rs"]
mod steps;
#[path = "thread_waits.rs"]
mod waits;
