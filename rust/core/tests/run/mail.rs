//! Messages: each satisfies one wait for its address, the oldest, in the commit that brings it; one id is one message.

use bide_core::event::{Timer, Wait};
use bide_core::{
    Address, EntryKind, Event, GateSpec, GateUntil, Message, MessageKind, Operation, Outcome, Recall, RecordKind,
    Refused, RetryPolicy, StoredMessage, SubStatus, TaskSpec, TaskStatus, Time, Value,
};

use crate::script::{RETRY, Script, key, seconds, spec};

fn value(n: u8) -> Value {
    Value::tagged(b'i', &[b'0' + n])
}

fn message(n: u8, address: Address) -> Message {
    Message { number: i64::from(n), address, id: None, content: Ok(value(n)), sent_at: Time(1) }
}

fn signal(n: u8) -> Message {
    message(n, Address::signal("go"))
}

fn with_id(n: u8, id: &str) -> Message {
    Message { id: Some(id.into()), ..signal(n) }
}

fn send(script: &mut Script, message: Message) -> Result<(), Refused> {
    script.apply(Event::Message { message: Box::new(message) })
}

fn wait_for(address: Address) -> Wait {
    Wait { key: key(&address.name), operation: Operation::Message(address), timeout: Some(seconds(60)) }
}

fn wait() -> Wait {
    wait_for(Address::signal("go"))
}

fn gated(names: &[&str]) -> Script {
    let gate = || GateSpec { name: "go".into(), until: GateUntil::Message(Address::signal("go")), timeout: None };
    Script::new(names.iter().map(|name| TaskSpec { gate: Some(gate()), ..spec(name, &[]) }).collect())
}

/// A look of the owner into the store, which it has not acted on yet.
fn look(script: &mut Script) -> Vec<StoredMessage> {
    let read = script.state.begin_look();
    script.store.messages.iter().filter(|stored| stored.seq > read).cloned().collect()
}

/// The messages that others have sent, as the owner reads them.
fn fetch(script: &mut Script) {
    let messages = look(script);
    script.apply(Event::Mail { messages }).unwrap();
}

#[test]
fn a_signal_closes_its_wait_in_one_commit_and_leaves_no_row() {
    let mut script = Script::new(vec![spec("a", &[])]);
    script.enter("a");
    script.open("a", wait());
    assert_eq!(script.row("a").sub_status, Some(SubStatus::Deferred));
    send(&mut script, signal(1)).unwrap();
    assert_eq!(script.recall("a", &wait()), Recall::Satisfied(value(1)));
    assert_eq!(script.row("a").sub_status, Some(SubStatus::Active));
    assert!(script.woken("a") && script.store.messages.is_empty());
}

#[test]
fn a_signal_that_comes_before_its_wait_is_queued_and_survives() {
    let mut script = Script::new(vec![spec("a", &[])]);
    for n in 1..=3 {
        send(&mut script, signal(n)).unwrap();
    }
    script.die();
    script.enter("a");
    script.open("a", wait());
    assert_eq!(script.recall("a", &wait()), Recall::Satisfied(value(1)), "the oldest");
    assert_eq!(script.row("a").sub_status, Some(SubStatus::Active), "it was there: nothing is deferred");
    assert_eq!(script.store.messages.len(), 2);
}

#[test]
fn a_signal_enters_a_body_that_is_not_in_memory() {
    let mut script = Script::new(vec![spec("a", &[])]);
    script.enter("a");
    script.open("a", wait());
    script.die();
    assert!(script.ready().is_empty());
    send(&mut script, signal(1)).unwrap();
    assert_eq!(script.ready(), ["a"]);
    assert!(script.enter("a").reentry);
    assert_eq!(script.recall("a", &wait()), Recall::Satisfied(value(1)));
}

#[test]
fn a_signal_that_came_while_nobody_had_the_run_is_delivered_at_recovery() {
    let mut script = Script::new(vec![spec("a", &[])]);
    script.enter("a");
    script.open("a", wait());
    script.store.send(signal(1), false);
    script.die();
    assert_eq!(script.ready(), ["a"]);
    script.enter("a");
    assert_eq!(script.recall("a", &wait()), Recall::Satisfied(value(1)));
    assert!(script.store.messages.is_empty());
}

#[test]
fn each_signal_satisfies_one_gate_the_oldest() {
    let mut script = gated(&["a", "b", "c"]);
    for (n, name) in [(1, "a"), (2, "b")] {
        send(&mut script, signal(n)).unwrap();
        assert_eq!(script.ready(), [name]);
        assert_eq!(script.gate_value(name), Some(value(n)));
    }
    script.die();
    send(&mut script, signal(3)).unwrap();
    assert_eq!(script.row("c").status, TaskStatus::Ready);
}

#[test]
fn a_wait_that_a_retry_opens_again_is_younger_than_those_that_were_opened_meanwhile() {
    let retry = RetryPolicy { fresh: true, ..RetryPolicy::new(2) };
    let mut script = Script::new(vec![TaskSpec { retry, ..spec("a", &[]) }, spec("b", &[])]);
    script.enter("a");
    script.open("a", wait());
    // From the first message on waits are noted.
    send(&mut script, message(1, Address::signal("other"))).unwrap();
    script.fail("a", RETRY);
    script.enter("b");
    script.open("b", wait());
    script.due("a", Timer::Retry).unwrap();
    script.enter("a");
    script.open("a", wait());
    send(&mut script, signal(2)).unwrap();
    assert_eq!(script.recall("b", &wait()), Recall::Satisfied(value(2)));
    send(&mut script, signal(3)).unwrap();
    assert_eq!(script.recall("a", &wait()), Recall::Satisfied(value(3)));
}

#[test]
fn a_message_of_another_process_comes_before_those_sent_later_here() {
    let mut script = gated(&["a", "b"]);
    script.store.send(signal(1), false);
    fetch(&mut script);
    send(&mut script, signal(2)).unwrap();
    assert_eq!((script.gate_value("a"), script.gate_value("b")), (Some(value(1)), Some(value(2))));
    assert!(script.store.messages.is_empty());
    // Read again, what is known already counts once.
    fetch(&mut script);
}

#[test]
fn one_id_is_one_signal_also_after_it_was_consumed() {
    let mut script = gated(&["a", "b"]);
    send(&mut script, with_id(1, "x")).unwrap();
    assert_eq!(send(&mut script, with_id(2, "x")), Err(Refused::Duplicate));
    script.die();
    assert_eq!(send(&mut script, with_id(3, "x")), Err(Refused::Duplicate));
    assert_eq!(script.ready(), ["a"]);
    // Sent by two processes at once, before either knew: the store has one row of it.
    assert_eq!(script.row("b").status, TaskStatus::Pending);
}

#[test]
fn a_wait_times_out_by_the_machine_and_a_signal_then_stays_queued() {
    let mut script = Script::new(vec![spec("a", &[])]);
    script.enter("a");
    script.open("a", wait());
    script.ring();
    let Recall::Failed(failure) = script.recall("a", &wait()) else { panic!("not timed out") };
    assert_eq!(failure.message(), "task 'a' waited for 'go' until its deadline passed");
    assert!(script.woken("a"));
    send(&mut script, signal(1)).unwrap();
    assert_eq!(script.store.messages.len(), 1);
}

#[test]
fn the_answer_to_a_callback_is_given_once_and_kept_for_every_wait() {
    let mut script = Script::new(vec![spec("a", &[])]);
    let answer = || Address { kind: MessageKind::Answer, name: "secret".into() };
    script.enter("a");
    let made = Wait { key: key("callback"), operation: Operation::Record(RecordKind::Callback), timeout: None };
    script.record("a", made, Ok(Value::tagged(b's', b"secret")));
    send(&mut script, message(1, answer())).unwrap();
    assert_eq!(send(&mut script, message(2, answer())), Err(Refused::Answered));
    assert_eq!(send(&mut script, message(1, answer())), Err(Refused::Answered), "without an id it is another one");
    for n in 1..=2 {
        let wait = Wait { key: bide_core::EntryKey { name: "secret".into(), n }, ..wait_for(answer()) };
        script.open("a", wait.clone());
        let entry = script.store.entry(0, &wait.key).unwrap();
        assert_eq!((entry.kind(), entry.value.clone()), (EntryKind::Answer, Some(value(1))));
        script.die();
        script.enter("a");
    }
}

#[test]
fn only_the_same_answer_with_the_same_id_is_a_duplicate() {
    let mut script = Script::new(vec![spec("a", &[])]);
    let answer = |n, id: &str| {
        let address = Address { kind: MessageKind::Answer, name: "secret".into() };
        Message { id: Some(id.into()), ..message(n, address) }
    };
    send(&mut script, with_id(9, "taken")).unwrap();
    assert_eq!(send(&mut script, answer(1, "taken")), Err(Refused::IdTaken), "it must not be lost without a word");
    send(&mut script, answer(1, "x")).unwrap();
    script.die();
    let again = Message { number: 5, ..answer(1, "x") };
    assert_eq!(send(&mut script, again), Err(Refused::Duplicate));
    assert_eq!(send(&mut script, answer(2, "x")), Err(Refused::Answered));
    assert_eq!(send(&mut script, answer(1, "y")), Err(Refused::Answered));
}

#[test]
fn a_message_that_two_threads_have_read_from_the_store_counts_once() {
    let mut script = gated(&["a", "b"]);
    script.store.send(signal(1), false);
    let messages = script.store.messages.clone();
    script.apply(Event::Mail { messages: messages.clone() }).unwrap();
    script.apply(Event::Mail { messages }).unwrap();
    assert_eq!(script.ready(), ["a"]);
}

#[test]
fn a_message_to_a_run_that_is_over_is_refused() {
    let mut script = Script::new(vec![spec("a", &[])]);
    script.enter("a");
    script.end("a", Outcome::Completed { output: Value::NONE, changes: None }).unwrap();
    assert_eq!(send(&mut script, signal(1)), Err(Refused::RunOver));
}

#[test]
fn a_wait_for_a_callback_that_is_not_recorded_is_refused() {
    let mut script = Script::new(vec![spec("a", &[]), spec("b", &[])]);
    script.enter("a");
    script.enter("b");
    let secret = Value::tagged(b's', b"secret");
    let wait = wait_for(Address { kind: MessageKind::Answer, name: "secret".into() });
    assert_eq!(script.recall("a", &wait), Recall::NoCallback);
    let made = Wait { key: key("made"), operation: Operation::Record(RecordKind::Callback), timeout: None };
    script.record("a", made, Ok(secret));
    assert_eq!(script.recall("a", &wait), Recall::Ask { deadline: None });
    assert_eq!(script.recall("b", &wait), Recall::Ask { deadline: None }, "another task of the run has made it");
    let (task, attempt) = (script.find("a"), script.attempt("a"));
    script.apply(Event::Checkpoint { task, attempt, state: Value::NONE }).unwrap();
    for name in ["a", "b"] {
        assert_eq!(script.recall(name, &wait), Recall::NoCallback);
    }
}

#[test]
fn a_message_that_is_consumed_while_somebody_looks_for_messages_is_not_delivered_again() {
    for own in [true, false] {
        let mut script = Script::new(vec![spec("a", &[])]);
        script.enter("a");
        if own {
            send(&mut script, signal(1)).unwrap();
        } else {
            script.store.send(signal(1), false);
        }
        let looks = [(); 2].map(|()| look(&mut script));
        if !own {
            script.apply(Event::Mail { messages: looks[0].clone() }).unwrap();
        }
        script.open("a", wait());
        assert_eq!(script.recall("a", &wait()), Recall::Satisfied(value(1)));
        script.carry_out_consumed();
        for messages in looks {
            script.apply(Event::Mail { messages }).unwrap();
        }
        let second = Wait { key: bide_core::EntryKey { name: "go".into(), n: 2 }, ..wait() };
        script.open("a", second.clone());
        assert_eq!(script.store.entry(0, &second.key).unwrap().value, None, "own: {own}");
    }
}
