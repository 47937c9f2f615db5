//! An open gate: one small tokio task polls its condition.

use std::sync::Arc;

use bide_core::attempt::Polled;
use bide_core::attempt::polling::Polling;
use bide_core::event::Retry;
use bide_core::{Event, GateSpec, Value};

use super::catch_panic::CatchPanic;
use super::closures::Closures;
use super::context::Scope;
use super::dispatch::Phase;
use super::enqueue::enqueue;
use super::lane::is_sure_of_lease;
use crate::engine::Engine;
use crate::host::{Gate, Host};
use crate::ledger::QueuedEvent;

/// Starts to poll a gate that is open.
pub(super) fn start_watch(engine: &Arc<Engine<Closures>>, gate: Gate<Closures>) {
    engine.dispatch().runtime().spawn(watch(Arc::clone(engine), gate));
}

/// Polls an open gate until it is satisfied, has failed, or the runner closes.
async fn watch(engine: Arc<Engine<Closures>>, gate: Gate<Closures>) {
    let run = Arc::clone(&gate.run);
    let body = &run.workflow.bodies[gate.task.ix as usize];
    let mut phase = engine.dispatch().phase();
    let mut polling = Polling::new(Closures::gate_policy(body, gate.part), gate.deadline);
    let result = loop {
        if !is_sure_of_lease(&engine).await || !gate.is_awaited() {
            return;
        }
        let polled = match body.gate_condition(gate.part) {
            Some(condition) => {
                let scope = Scope::new(&run, gate.task);
                let asked = CatchPanic::new((condition.ask)(scope));
                tokio::select! {
                    biased;
                    asked = asked => asked.unwrap_or_else(Polled::Raised),
                    () = Phase::ended(&mut phase, Phase::Open) => return,
                }
            }
            // The workflow's newer version has no condition here any more: nothing to wait for.
            None => Polled::True(Value::NONE),
        };
        let result = polling.judge(polled, &*engine, || gate.timed_out());
        run.note_error(gate.task, polling.error());
        if let Some(result) = result {
            break result;
        }
        let span = polling.next(&*engine);
        for event in gate.note_polls(&polling, span, &**engine.clock()) {
            enqueue(&engine, QueuedEvent { run: Arc::clone(&run), event, at: engine.clock().now(), completion: None });
        }
        tokio::select! {
            biased;
            () = Phase::ended(&mut phase, Phase::Open) => return,
            () = tokio::time::sleep(span) => {}
        }
    };
    let Some(key) = gate.spec().map(GateSpec::key) else { return };
    let retry = match &result {
        Err(failure) if body.retries(failure) => Some(Retry { random: engine.random() }),
        _ => None,
    };
    let event = Event::Closed {
        task: gate.task,
        attempt: gate.attempt,
        key,
        result,
        proved: true,
        polls: polling.asked(),
        retry,
    };
    enqueue(&engine, QueuedEvent { run, event, at: engine.clock().now(), completion: None });
}
