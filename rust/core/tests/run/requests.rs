//! Requests: each is answered once, by the body that has taken it, or refused when nobody can answer it any more.

use bide_core::attempt::reply_name;
use bide_core::event::Wait;
use bide_core::{
    Address, Effect, EntryKey, EntryKind, Event, Failure, FailureKind, GateSpec, GateUntil, Message, MessageKind,
    Operation, Outcome, Recall, RecordKind, Refused, RetryPolicy, TaskSpec, Time, Value, Write,
};

use crate::script::{self, RETRY, Script, key, spec};

fn address() -> Address {
    Address { kind: MessageKind::Request, name: "quote".into() }
}

fn value(n: i64) -> Value {
    Value::tagged(b'i', n.to_string().as_bytes())
}

fn request(number: i64) -> Message {
    Message { number, address: address(), id: None, content: Ok(value(number)), sent_at: Time(1) }
}

fn send(script: &mut Script, message: Message) -> Result<(), Refused> {
    script.apply(Event::Message { message: Box::new(message) })
}

fn withdrawal(number: i64, request: i64) -> Message {
    let (address, content) = (Address::withdrawal(request), Ok(Value::NONE));
    Message { number, address, id: None, content, sent_at: Time(1) }
}

fn wait(n: u32) -> Wait {
    let key = EntryKey { n, ..key("quote") };
    Wait { key, operation: Operation::Message(address()), timeout: None }
}

fn reply(script: &mut Script, name: &str, request: i64, answer: Result<Value, Failure>) {
    let (task, attempt) = (script.find(name), script.attempt(name));
    let key = EntryKey { name: reply_name("quote", request), n: 1 };
    let wait = Wait { key, operation: Operation::Record(RecordKind::Reply), timeout: None };
    script.apply(Event::Replied { task, attempt, wait, request, answer }).unwrap();
}

fn complete(script: &mut Script, name: &str) {
    script.end(name, Outcome::Completed { output: Value::NONE, changes: None }).unwrap();
}

/// The reason for which a request was refused.
fn refusal(script: &Script, request: i64) -> String {
    match &script.store.answers[&request] {
        Err(failure) => {
            assert_eq!(failure.kind, FailureKind::RequestRefused);
            failure.message()
        }
        Ok(value) => panic!("answered: {value:?}"),
    }
}

/// The requests whose senders were told since the last call.
fn told(script: &mut Script) -> Vec<i64> {
    let told = |effect: &Effect| match effect {
        Effect::Answered { request, .. } => Some(*request),
        _ => None,
    };
    let found = script.effects.iter().filter_map(told).collect();
    script.effects.retain(|effect| told(effect).is_none());
    found
}

#[test]
fn a_body_gets_the_number_of_a_request_and_its_reply_is_one_commit_with_the_answer() {
    let mut script = Script::new(vec![spec("a", &[])]);
    script.enter("a");
    script.open("a", wait(1));
    send(&mut script, request(7)).unwrap();
    let taken = [b"r" as &[u8], &7_i64.to_be_bytes(), b"i7"].concat();
    assert_eq!(script.recall("a", &wait(1)), Recall::Satisfied(Value::new(&taken)));
    assert!(script.store.messages.is_empty());
    script.die();
    script.enter("a");
    reply(&mut script, "a", 7, Ok(value(70)));
    assert!(matches!(script.batch.first(), Some(Write::Entry { .. })), "the record: {:?}", script.batch);
    assert!(matches!(script.batch.last(), Some(Write::Answer { .. })), "and the answer: {:?}", script.batch);
    assert_eq!(script.store.answers[&7], Ok(value(70)));
    assert_eq!(told(&mut script), [7]);
    complete(&mut script, "a");
    assert_eq!(script.store.answers.len(), 1);
}

#[test]
fn a_request_without_an_answer_is_refused_when_its_task_ends() {
    for crash in [false, true] {
        let mut script = Script::new(vec![spec("a", &[]), spec("b", &[])]);
        for number in 1..=3 {
            send(&mut script, request(number)).unwrap();
        }
        script.enter("a");
        for n in 1..=3 {
            script.open("a", wait(n));
        }
        reply(&mut script, "a", 2, Err(Failure::new(FailureKind::RequestRefused, "bide.RequestRefused", "sold out")));
        if crash {
            script.die();
            script.enter("a");
        }
        complete(&mut script, "a");
        assert_eq!(refusal(&script, 1), "task 'a' has ended without having answered it");
        assert_eq!(refusal(&script, 2), "sold out");
        assert_eq!(refusal(&script, 3), refusal(&script, 1));
    }
}

#[test]
fn a_failed_attempt_keeps_its_requests_unless_it_starts_anew() {
    for fresh in [false, true] {
        let retry = RetryPolicy { fresh, ..RetryPolicy::new(2) };
        let mut script = Script::new(vec![TaskSpec { retry, ..spec("a", &[]) }]);
        send(&mut script, request(1)).unwrap();
        script.enter("a");
        script.open("a", wait(1));
        script.fail("a", RETRY);
        assert_eq!(script.store.answers.len(), usize::from(fresh));
        if fresh {
            assert_eq!(
                refusal(&script, 1),
                "task 'a' has failed and starts again from the beginning, without having answered it"
            );
        }
    }
}

#[test]
fn a_request_that_nobody_has_taken_is_refused_when_the_run_ends() {
    let mut script = Script::new(vec![spec("a", &[])]);
    for number in [1, 2] {
        send(&mut script, request(number)).unwrap();
    }
    script.complete("a");
    assert!(refusal(&script, 1).ends_with("has ended (Completed), and no task has taken it"));
    assert!(script.store.messages.is_empty(), "none takes it when the run is retried");
    assert_eq!(told(&mut script), [1, 2]);
}

#[test]
fn the_request_of_a_gate_is_refused_if_its_task_is_skipped() {
    let gate = GateSpec { name: "quote".into(), until: GateUntil::Message(address()), timeout: None };
    let mut script = Script::fail_fast(vec![TaskSpec { gate: Some(gate), ..spec("a", &[]) }, spec("b", &[])]);
    send(&mut script, request(1)).unwrap();
    script.enter("b");
    script.fail("b", None);
    assert_eq!(refusal(&script, 1), "task 'a' has ended without having answered it");
}

#[test]
fn a_request_is_withdrawn_unless_somebody_has_taken_it() {
    let mut script = Script::new(vec![spec("a", &[])]);
    send(&mut script, Message { id: Some("x".into()), ..request(1) }).unwrap();
    send(&mut script, request(2)).unwrap();
    send(&mut script, withdrawal(11, 1)).unwrap();
    assert_eq!(refusal(&script, 1), "its sender does not wait for the answer any more");
    assert_eq!(script.store.messages.len(), 1);
    // Its id is free again.
    send(&mut script, Message { id: Some("x".into()), ..request(3) }).unwrap();
    script.enter("a");
    script.open("a", wait(1));
    script.open("a", wait(2));
    send(&mut script, withdrawal(12, 3)).unwrap();
    assert!(!script.store.answers.contains_key(&3), "it was taken");
    reply(&mut script, "a", 2, Ok(value(1)));
    reply(&mut script, "a", 3, Ok(value(1)));
}

#[test]
fn a_request_that_was_withdrawn_while_nobody_had_the_run_reaches_no_wait() {
    let mut script = Script::new(vec![spec("a", &[])]);
    script.enter("a");
    script.open("a", wait(1));
    script.store.send(request(1), false);
    script.store.send(withdrawal(11, 1), false);
    script.die();
    assert!(script.ready().is_empty(), "its wait is open still");
    assert_eq!(refusal(&script, 1), "its sender does not wait for the answer any more");
    assert!(script.store.messages.is_empty());
}

#[test]
fn a_checkpoint_refuses_the_requests_that_it_forgets() {
    let mut script = Script::new(vec![spec("a", &[])]);
    for number in [1, 2] {
        send(&mut script, request(number)).unwrap();
    }
    script.enter("a");
    script.open("a", wait(1));
    script.open("a", wait(2));
    reply(&mut script, "a", 1, Ok(value(1)));
    let (task, attempt) = (script.find("a"), script.attempt("a"));
    script.apply(Event::Checkpoint { task, attempt, state: Value::NONE }).unwrap();
    assert_eq!(refusal(&script, 2), "task 'a' has recorded a checkpoint without having answered it");
    complete(&mut script, "a");
    assert_eq!(script.store.answers.len(), 2);
}

#[test]
fn a_checkpoint_leaves_the_request_of_the_gate_and_its_answer() {
    for answered in [false, true] {
        let gate = GateSpec { name: "gate".into(), until: GateUntil::Message(address()), timeout: None };
        let mut script = Script::new(vec![TaskSpec { gate: Some(gate), ..spec("a", &[]) }]);
        send(&mut script, request(1)).unwrap();
        script.enter("a");
        if answered {
            reply(&mut script, "a", 1, Ok(value(10)));
        }
        for turn in 1..=2 {
            script.record("a", script::wait("turn", EntryKind::Step), Ok(value(turn)));
            let (task, attempt) = (script.find("a"), script.attempt("a"));
            script.apply(Event::Checkpoint { task, attempt, state: value(turn) }).unwrap();
            assert_eq!(told(&mut script).len(), usize::from(answered && turn == 1), "by the body");
        }
        script.die();
        script.enter("a");
        if !answered {
            reply(&mut script, "a", 1, Ok(value(10)));
        }
        complete(&mut script, "a");
        assert_eq!(script.store.answers[&1], Ok(value(10)));
        assert_eq!(told(&mut script).len(), usize::from(!answered), "told once");
    }
}
