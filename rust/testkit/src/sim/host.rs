//! The engine's host in a simulation: it only puts down what the engine hands out, for a process to pick up.

use std::collections::VecDeque;

use bide_core::LimitSpec;
use bide_core::PollPolicy;
use bide_executor::{Dispatch, Gate, Host, Ready, Source, TaskLimit};
use bide_sync::Mutex;

use super::plan::TaskPlan;

/// Bodies are programs of a [`super::plan::Case`], known by their task's position.
#[derive(Debug)]
pub(super) struct SimHost;

/// What the engine asks of a body.
pub(super) struct SimBody {
    /// Its policy covers its timeout.
    pub(super) retries_timeout: bool,
    /// Its limit.
    limit: Option<TaskLimit>,
}

impl SimBody {
    /// The body of a task.
    pub(super) fn of(task: &TaskPlan) -> Self {
        let limit = task.limit.map(|limit| {
            let (name, executing, in_flight) = (format!("limit {limit}"), limit.executing(), limit.in_flight());
            let spec = LimitSpec { name: name.into(), executing, in_flight, rate: None, key: None };
            TaskLimit { spec, key: None }
        });
        Self { retries_timeout: task.timeout.is_some_and(|(_, retried)| retried), limit }
    }
}

/// What the engine has dispatched.
#[derive(Default)]
pub(super) struct Outbox {
    /// Bodies that may start.
    pub(super) ready: Mutex<VecDeque<Ready<SimHost>>>,
    /// Gates to be watched.
    pub(super) gates: Mutex<Vec<Gate<SimHost>>>,
}

impl Host for SimHost {
    type Body = SimBody;
    type Local = ();
    type Dispatch = Outbox;

    fn sources(_body: &SimBody) -> &[Source] {
        &[]
    }

    fn gate_policy(_body: &SimBody, _part: u16) -> PollPolicy {
        TaskPlan::policy()
    }

    fn limit(body: &SimBody) -> Option<&TaskLimit> {
        body.limit.as_ref()
    }

    fn retries_timeout(body: &SimBody) -> bool {
        body.retries_timeout
    }
}

impl Dispatch<SimHost> for Outbox {
    fn ready(&self, ready: &mut Vec<Ready<SimHost>>) {
        self.ready.lock().extend(ready.drain(..));
    }

    fn gate(&self, gate: Gate<SimHost>) {
        self.gates.lock().push(gate);
    }

    fn close(&self) {}
}
