//! The same steps and checkpoints on worker threads, and steps with keys on threads that a body starts.

use std::time::Duration;

use bide_executor::core::event::Retry;
use bide_executor::core::{Failure, FailureKind, RetryPolicy};
use bide_executor::{CallError, Free, StepEnd, StepRequest, StepStart};

use crate::threads::{Body, Defined, SOON, number_of, number_value, task};

impl Body<'_> {
    /// A step that fails until it was executed three times.
    fn flaky(&mut self, delay: Duration) -> Result<u32, CallError> {
        let retry = Some(RetryPolicy { delay, jitter: 0.0, ..RetryPolicy::new(3) });
        let request = StepRequest { retry, ..StepRequest::default() };
        let mut start = self.cx.begin_step(self.thread, &"flaky".into(), request, &mut || None)?;
        loop {
            let call = match start {
                StepStart::Returned(value) => return Ok(number_of(&value)),
                StepStart::Execute(call) => call,
            };
            let ledger = &self.task.ledger;
            ledger.steps(self.cx.run().id, self.task.name, "flaky");
            let end = if ledger.times("a/flaky") < 3 {
                StepEnd::Raised(Failure::new(FailureKind::Raised, "Boom", "not yet"), Retry { random: 0.5 })
            } else {
                StepEnd::Executed(Ok(number_value(7)))
            };
            start = self.cx.end_step(self.thread, call, end)?;
        }
    }

    fn once(&mut self) -> Result<u32, CallError> {
        let request = StepRequest { once: true, ..StepRequest::default() };
        let start = match self.cx.begin_step(self.thread, &"pay".into(), request, &mut || None) {
            Ok(StepStart::Execute(call)) => {
                self.task.ledger.executes_once(self.cx.run().id, "pay");
                self.cx.end_step(self.thread, call, StepEnd::Executed(Ok(number_value(7))))
            }
            other => other,
        };
        match start {
            Err(CallError::Failed(failure)) if failure.kind == FailureKind::StepInterrupted => Ok(7),
            other => other.map(|start| number_of(&start.returned().unwrap())),
        }
    }

    /// Steps with keys, each on a thread of its own.
    fn keyed(&self, items: u32) -> Result<u32, CallError> {
        let (cx, task) = (self.cx, self.task);
        let item = |item: u32| {
            let request = StepRequest { key: Some(item.to_string().into()), ..StepRequest::default() };
            let start = match cx.begin_step(&mut Free, &"item".into(), request, &mut || None)? {
                StepStart::Execute(call) => {
                    task.ledger.steps(cx.run().id, task.name, &format!("item \"{item}\""));
                    cx.end_step(&mut Free, call, StepEnd::Executed(Ok(number_value(item))))?
                }
                returned => returned,
            };
            Ok(number_of(&start.returned().unwrap()))
        };
        std::thread::scope(|scope| {
            let threads: Vec<_> = (0..items).map(|n| scope.spawn(move || item(n))).collect();
            threads.into_iter().map(|thread| thread.join().unwrap()).sum()
        })
    }
}

fn a_step_that_is_tried_again() -> Vec<Defined> {
    vec![task("a", &[], |body| body.flaky(Duration::ZERO))]
}

fn a_step_that_is_tried_again_later() -> Vec<Defined> {
    vec![task("a", &[], |body| body.flaky(SOON))]
}

fn a_step_that_is_executed_at_most_once() -> Vec<Defined> {
    vec![task("a", &[], |body| body.once())]
}

fn steps_with_keys_on_threads_of_their_own() -> Vec<Defined> {
    vec![task("a", &[], |body| body.keyed(3))]
}

fn a_loop_with_checkpoints() -> Vec<Defined> {
    vec![task("a", &[], |body| {
        let mut turn = body.cx.last_checkpoint().map_or(0, |state| number_of(&state));
        while turn < 3 {
            turn = body.step("turn", turn + 1)?;
            body.cx.checkpoint(body.thread, number_value(turn))?;
        }
        Ok(turn)
    })]
}

crash_points! {
    a_step_that_is_tried_again
    a_step_that_is_tried_again_later
    a_step_that_is_executed_at_most_once
    steps_with_keys_on_threads_of_their_own
    a_loop_with_checkpoints
}
