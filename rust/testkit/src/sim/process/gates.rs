//! Gates that wait for a condition: as the threads that poll gates do.

use std::sync::Arc;
use std::time::Duration;

use bide_core::attempt::Polled;
use bide_core::attempt::polling::Polling;
use bide_core::event::Retry;
use bide_core::{Event, GateSpec, Value};
use bide_executor::Gate as OpenGate;

use super::super::host::SimHost;
use super::super::plan::{Gate, TaskPlan};
use super::Process;

/// A gate that is open.
pub(super) struct Watched {
    /// The gate, as the engine opened it.
    pub(super) gate: OpenGate<SimHost>,
    /// The polls so far.
    pub(super) polling: Polling,
    /// When it is asked next, by the steady clock.
    pub(super) due: Duration,
}

impl Process {
    /// Takes the gates that the engine has opened.
    pub(super) fn watch_gates(&mut self) {
        let gates = std::mem::take(&mut *self.driver.engine().dispatch().gates.lock());
        for gate in gates {
            let policy =
                self.shared.script.as_ref().map_or_else(TaskPlan::policy, |script| script.probe.call(0).poll().0);
            let polling = Polling::new(policy, gate.deadline);
            self.gates.push(Watched { gate, polling, due: self.steady() });
        }
    }

    /// A gate is asked.
    pub(super) fn poll_gate(&mut self, at: usize) {
        let Watched { gate, mut polling, .. } = self.gates.swap_remove(at);
        if !self.driver.may_start() || !gate.is_awaited() {
            return;
        }
        let plan = self.shared.case.task(self.place(&gate.run, gate.task)).gate;
        let (holds_at, retried) = match plan {
            Some(Gate::Until(ms)) => (Some(ms), false),
            Some(Gate::Never(_, retried)) => (None, retried),
            Some(Gate::Several(several)) => (several.holds_at(), false),
            _ => (None, false),
        };
        let polled = match self.shared.script.clone() {
            Some(script) => {
                let (says, meanwhile) = script.probe.ask(0);
                self.meanwhile(None, meanwhile);
                says.polled()
            }
            None if self.holds(holds_at) => Polled::True(Value::tagged(b't', b"")),
            None => Polled::False,
        };
        let clocks = &**self.driver.engine();
        let Some(result) = polling.judge(polled, clocks, || gate.timed_out()) else {
            let due = self.steady() + polling.next(clocks);
            self.gates.push(Watched { gate, polling, due });
            return;
        };
        let Some(key) = gate.spec().map(GateSpec::key) else { return };
        let retry = (result.is_err() && retried).then_some(Retry { random: 0.5 });
        let event =
            Event::Closed { task: gate.task, attempt: gate.attempt, key, result, proved: true, polls: 0, retry };
        self.driver.enqueue(Arc::clone(&gate.run), event);
    }
}
