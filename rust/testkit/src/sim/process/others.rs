//! What bodies have to do with others: callbacks, which are answered from outside, requests, and child runs.

use std::sync::Arc;
use std::time::Duration;

use bide_core::attempt::Fed;
use bide_core::event::Event;
use bide_core::{EntryKey, Failure, FailureKind, TaskIx, TaskRef, Value};
use bide_executor::drive::Lost;
use bide_executor::{Letter, RegisteredWorkflow, Run, RunRequest};
use bide_store::{Sent, StoreError};

use super::super::body::{Body, HandleCall, OpenCall, Phase, number};
use super::super::host::{SimBody, SimHost};
use super::super::oracle::requests::taken;
use super::super::plan::{
    Act, CHILD, Disaster, answer_request, callback_request, child_request, reply_request, start_request, take_request,
};
use super::Process;

/// Whether a run was started by a body.
pub(super) fn is_child(run: &Run<SimHost>) -> bool {
    **run.workflow.graph.workflow() == *CHILD
}

impl Process {
    /// The position of a run's task or element among those of all workflows.
    pub(super) fn place(&self, run: &Run<SimHost>, task: TaskRef) -> TaskIx {
        self.shared.case.place(is_child(run), task)
    }

    /// Registers the workflow of child runs: a body does it when it starts one. If that fails, it tries again.
    pub(in super::super) fn register_child(&mut self) -> Option<Arc<RegisteredWorkflow<SimHost>>> {
        if self.child.is_none() {
            let graph = Arc::new(self.shared.case.child_graph());
            let bodies = self.shared.case.child.iter().map(SimBody::of).collect();
            self.child = self.driver.engine().register(graph, bodies).ok();
        }
        self.child.clone()
    }

    /// A body makes a callback, starts a child, or waits for one of them. Without the one there is nothing to wait for.
    pub(super) fn act_with_others(&mut self, body: &mut Body, act: Act) -> Result<Phase, OpenCall> {
        let wanted = match act {
            Act::Callback => Some(callback_request(&self.shared.oracle.lock().new_secret())),
            Act::Answer(timeout) => body.callback.as_ref().map(|secret| answer_request(secret, timeout)),
            Act::Starts(key) => match self.register_child() {
                Some(_) => Some(start_request(key, body.at, self.awaits_child(body))),
                None => return Ok(Phase::Acts),
            },
            Act::Joins(timeout) => {
                let start = body.awaited.take();
                body.child.map(|run| child_request(run, timeout, start.as_ref()))
            }
            Act::Takes(timeout) => Some(take_request(timeout)),
            Act::Replies(answers) => body.request.take().map(|request| {
                // The same on every entry.
                let refusal = Failure::new(FailureKind::RequestRefused, "bide.RequestRefused", "no");
                let answer = if answers { Ok(number(request.unsigned_abs())) } else { Err(refusal) };
                self.shared.oracle.lock().replies(request, &answer);
                reply_request(request, answer)
            }),
            _ => None,
        };
        let Some((name, request)) = wanted else {
            body.at += 1;
            return Ok(Phase::Acts);
        };
        self.call(body, act, HandleCall { name, proof: None, request }, false)
    }

    /// Whether a body that starts a child waits for it next.
    fn awaits_child(&self, body: &Body) -> bool {
        let acts = &self.shared.case.task(body.place).acts;
        matches!(acts.get(body.at + 1), Some(Act::Joins(None)))
    }

    /// A caller sends a request to a run, and waits for the answer. Returns the number of the request.
    pub(in super::super) fn request(&mut self, letter: Letter) -> Result<Result<i64, Sent>, StoreError> {
        let sent = self.driver.engine().request(letter)?;
        Ok(sent.map(|pending| {
            let number = pending.number();
            self.requests.push(pending);
            number
        }))
    }

    /// A sender gives up and withdraws its request.
    pub(in super::super) fn withdraw(&mut self, nth: usize) {
        if self.requests.is_empty() {
            return;
        }
        let pending = self.requests.swap_remove(nth % self.requests.len());
        if self.driver.engine().withdraw(&pending).is_ok() {
            self.shared.oracle.lock().meets("a request that its sender withdraws");
        }
    }

    /// The senders of requests look for their answers.
    pub(in super::super) fn look_for_answers(&mut self) {
        // A process that was stopped may have missed its time.
        let stops = self.shared.case.has(|disaster| matches!(disaster, Disaster::Freeze(_)));
        let (steady, over) = (self.steady(), self.is_over() || self.closing || stops);
        let mut oracle = self.shared.oracle.lock();
        self.requests.retain(|pending| {
            let answer = pending.wait(Duration::ZERO);
            if let Some(answer) = &answer {
                oracle.a_sender_gets_the_committed_answer(pending.number(), answer);
            } else if !over {
                oracle.no_answer_to_a_request_is_missed(pending.number(), steady);
            }
            answer.is_none()
        });
    }

    /// A body's child is created, in the commit of its record.
    pub(super) fn start_child(&self, body: &Body, event: Event) -> Fed {
        let Some(workflow) = &self.child else { return Fed::Stopped };
        let inputs = [("input".into(), number(u64::from(body.place)))].into();
        match self.driver.start_children(&body.run, event, workflow, vec![RunRequest::new(inputs)]) {
            Ok(_) => Fed::Committed { deadline: None },
            Err(Lost::Refused(refused)) if !self.is_lost(body) => Fed::Refused(refused),
            Err(_) => Fed::Stopped,
        }
    }

    /// What a body sees of a call: the same in every world.
    pub(super) fn seen_of_others(&self, body: &mut Body, open_call: &OpenCall, result: &Result<Value, Failure>) -> u64 {
        let mut oracle = self.shared.oracle.lock();
        match (open_call.act, result) {
            (Act::Callback, Ok(secret)) => {
                body.callback = std::str::from_utf8(secret.payload()).ok().map(Into::into);
                0
            }
            (Act::Starts(_), Ok(_)) => {
                let keys = open_call.call.part_keys();
                let started = |key: &EntryKey| body.run.state.lock().started_child(body.task, key);
                body.child = keys.first().and_then(started);
                body.awaited = keys.into_iter().next().filter(|_| self.awaits_child(body));
                if body.child.is_none() {
                    oracle.violations.push("a start has recorded no child".to_owned());
                }
                0
            }
            (Act::Joins(None), Ok(_)) => 1,
            (Act::Joins(None), Err(failure)) if failure.kind == FailureKind::ChildFailed => {
                oracle.meets(if body.task.map >= 0 {
                    "a child of an element that fails"
                } else {
                    "a child that fails"
                });
                2
            }
            (Act::Takes(_), Ok(value)) => {
                body.request = taken(value).map(|(number, _)| number);
                0
            }
            (Act::Joins(Some(_)) | Act::Answer(_) | Act::Replies(_), Ok(_)) => 0,
            (Act::Joins(Some(_)) | Act::Answer(_) | Act::Takes(_), Err(failure)) => {
                let expected = match open_call.act {
                    Act::Answer(_) => FailureKind::CallbackRejected,
                    _ => FailureKind::ChildFailed,
                };
                if ![expected, FailureKind::WaitTimeout, FailureKind::RunTimeout].contains(&failure.kind) {
                    oracle.violations.push(format!("a wait fails for another reason: {failure:?}"));
                }
                0
            }
            // The run is over, and the body does not know it yet.
            (_, Err(failure)) if failure.kind == FailureKind::RunTimeout => 0,
            (act, result) => {
                oracle.violations.push(format!("{act:?} has come to {result:?}"));
                0
            }
        }
    }
}
