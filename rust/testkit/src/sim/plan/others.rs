//! Callbacks, requests and child runs. Answers come from outside, so a body does not look at them; what it sees of a
//! child that it waits for without a timeout is whether that has completed, which is the same in every world.

use std::sync::Arc;
use std::time::Duration;

use bide_core::attempt::{Request, StartRequest, child_name, reply_name};
use bide_core::{
    Address, EntryKey, Failure, Graph, MessageKind, RecordKind, RunId, StepArguments, TaskIx, TaskRef, Value,
};

use super::{Act, Case, TaskPlan, Version};

/// The workflow of child runs.
pub(in super::super) const CHILD: &str = "simulated child";

/// The numbers of the tasks of child runs begin here.
pub(super) const CHILD_NUMBER: usize = 200;

impl Case {
    /// The workflow of child runs: the same in every version.
    pub(in super::super) fn child_graph(&self) -> Graph {
        Self::graph_of(CHILD, &self.child.iter().collect::<Vec<_>>(), false)
    }

    /// The tasks of all versions and after them those of child runs, by which the oracle knows them.
    ///
    /// Last come the elements of mapped tasks, as tasks of their own.
    pub(in super::super) fn every_task(&self) -> Graph {
        let mut tasks = self.tasks(Version::Grown);
        tasks.extend(&self.child);
        let elements = self.elements(&Self::graph_of("mapped", &tasks, false));
        // A mapped task itself has no gate.
        let gate = |task: &TaskPlan| task.gate.filter(|_| task.map.is_none());
        let whole = |task: &&TaskPlan| TaskPlan { gate: gate(task), map: None, ..(*task).clone() }.spec(|_| false);
        let specs = tasks.iter().map(whole).chain(elements).collect();
        Graph::build("all of it", specs, false).unwrap_or_else(|error| panic!("{error:?}"))
    }

    /// The position of a run's task or element among those of [`Case::every_task`].
    pub(in super::super) fn place(&self, is_child: bool, task: TaskRef) -> TaskIx {
        match TaskIx::try_from(task.map) {
            Ok(map) => self.first_of_elements(task.ix) + map,
            Err(_) if is_child => self.first_of_child() + task.ix,
            Err(_) => task.ix,
        }
    }

    /// The position of the first task of child runs among those of [`Case::every_task`].
    pub(in super::super) fn first_of_child(&self) -> TaskIx {
        self.tasks.len() as TaskIx + 1
    }

    /// A task by its position among those of [`Case::every_task`].
    pub(in super::super) fn task(&self, place: TaskIx) -> &TaskPlan {
        if let Some(task) = self.task_of_element(place) {
            return &self.tasks[task as usize];
        }
        let (at, own) = (place as usize, self.tasks.len());
        if at <= own { self.tasks.get(at).unwrap_or(&self.added) } else { &self.child[at - own - 1] }
    }
}

/// The address of the answers to a callback.
pub(in super::super) fn answer_address(secret: &str) -> Address {
    Address { kind: MessageKind::Answer, name: secret.into() }
}

/// As a body asks for a record that it has made a callback.
pub(in super::super) fn callback_request(secret: &str) -> (Arc<str>, Request) {
    let value = Value::tagged(b's', secret.as_bytes());
    ("callback".into(), Request::Record { kind: RecordKind::Callback, value })
}

/// As a body waits for the answer to a callback.
pub(in super::super) fn answer_request(secret: &str, timeout: Option<u64>) -> (Arc<str>, Request) {
    let timeout = timeout.map(Duration::from_millis);
    ("answer".into(), Request::Message { address: answer_address(secret), timeout })
}

/// The address of requests.
pub(in super::super) fn request_address() -> Address {
    Address { kind: MessageKind::Request, name: "request".into() }
}

/// As a body waits for a request.
pub(in super::super) fn take_request(timeout: Option<u64>) -> (Arc<str>, Request) {
    let timeout = timeout.map(Duration::from_millis);
    ("request".into(), Request::Message { address: request_address(), timeout })
}

/// As a body answers a request.
pub(in super::super) fn reply_request(request: i64, answer: Result<Value, Failure>) -> (Arc<str>, Request) {
    (reply_name("request", request), Request::Reply { request, answer })
}

/// As a body starts a child; whether it waits for it next.
pub(in super::super) fn start_request(key: Option<u8>, at: usize, awaited: bool) -> (Arc<str>, Request) {
    let start = match key {
        Some(key) => {
            let name = EntryKey::keyed_name(CHILD, &format!("child {key}"));
            StartRequest { name, arguments: StepArguments::default(), keyed: true, awaited }
        }
        None => {
            let proof = Some(format!("act {at}").into_bytes().into());
            StartRequest {
                name: CHILD.into(),
                arguments: StepArguments { proof, ..StepArguments::default() },
                keyed: false,
                awaited,
            }
        }
    };
    (CHILD.into(), Request::Start(vec![start]))
}

/// As a body waits for the end of a child, under a name of its own if it has not just started it.
pub(in super::super) fn child_request(
    run: RunId,
    timeout: Option<u64>,
    start: Option<&EntryKey>,
) -> (Arc<str>, Request) {
    (
        start.map_or_else(|| "end of a child".into(), child_name),
        Request::Child { run, timeout: timeout.map(Duration::from_millis) },
    )
}

impl Act {
    /// Whether a task of a child run may do it: no run may wait for ever, and children start none.
    pub(super) fn fits_a_child(self) -> bool {
        !matches!(self, Self::Forever | Self::Kills(_) | Self::Starts(_) | Self::Joins(_))
    }
}
