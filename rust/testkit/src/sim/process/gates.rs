//! Gates that wait for a condition: as the threads that poll gates do.

use std::sync::Arc;
use std::time::Duration;

use bide_core::event::Retry;
use bide_core::poll::Poll;
use bide_core::{Event, GateSpec, Value};
use bide_executor::Gate as OpenGate;

use super::super::body::timed_out;
use super::super::host::SimHost;
use super::super::plan::{Gate, TaskPlan};
use super::Process;

/// A gate that is open.
pub(super) struct Watched {
    pub(super) gate: OpenGate<SimHost>,
    pub(super) poll: Poll,
    /// When it is asked next, by the steady clock.
    pub(super) due: Duration,
}

impl Process {
    /// Takes over what the engine has handed out.
    pub(super) fn watch_gates(&mut self) {
        let gates = std::mem::take(&mut *self.driver.engine().dispatch().gates.lock());
        for gate in gates {
            self.gates.push(Watched { gate, poll: Poll::new(TaskPlan::policy()), due: self.steady() });
        }
    }

    /// A gate is asked.
    pub(super) fn poll_gate(&mut self, at: usize) {
        let Watched { gate, mut poll, .. } = self.gates.swap_remove(at);
        let plan = self.shared.case.task(gate.task.ix).gate;
        let (holds_at, retried) = match plan {
            Some(Gate::Until(ms)) => (Some(ms), false),
            Some(Gate::Never(_, retried)) => (None, retried),
            _ => (None, false),
        };
        let late = gate.deadline.is_some_and(|deadline| self.now() >= deadline);
        let result = if self.holds(holds_at) {
            Ok(Value::tagged(b't', b""))
        } else if late {
            Err(timed_out())
        } else {
            let now = self.now();
            let span = poll.next(now, gate.deadline, 0.5).since(now);
            self.gates.push(Watched { gate, poll, due: self.steady() + span });
            return;
        };
        let Some(key) = self.graph.spec(gate.task.ix).gate.as_ref().map(GateSpec::key) else { return };
        let retry = (result.is_err() && retried).then_some(Retry { random: 0.5 });
        let event = Event::Closed { task: gate.task, attempt: gate.attempt, key, result, proved: true, retry };
        self.driver.leave(Arc::clone(&gate.run), event);
    }
}
