//! Waits that are opened again: by a body that is entered again, by another attempt, or by another version of the code.
//! What has come meanwhile is neither lost nor asked for twice.

use std::sync::Arc;

use bide_core::event::{Timer, Wait};
use bide_core::{
    Address, Entry, EntryKey, EntryKind, EntryState, Event, GateSpec, GateUntil, Message, NO_MAP, Operation, Recall,
    RetryPolicy, SubStatus, TaskSpec, TaskStatus, Time, Value, Write,
};

use crate::harness::failure;
use crate::script::{RETRY, Script, key, seconds, spec, wait};

fn signal(name: &str) -> Wait {
    Wait { key: key(name), operation: Operation::Message(Address::signal(name)), timeout: None }
}

fn time(name: &str, due: Time) -> Wait {
    Wait { key: key(name), operation: Operation::Time { due }, timeout: None }
}

fn keys(names: &[&str]) -> std::sync::Arc<[EntryKey]> {
    names.iter().map(|name| key(name)).collect()
}

fn any(name: &str, of: &[&str]) -> Wait {
    Wait { key: key(name), operation: Operation::Any { members: keys(of) }, timeout: None }
}

fn all(name: &str, of: &[&str]) -> Wait {
    Wait { key: key(name), operation: Operation::All { members: keys(of) }, timeout: None }
}

fn open(script: &mut Script, waits: Vec<Wait>) {
    let (task, attempt) = (script.find("a"), script.attempt("a"));
    script.apply(Event::Opened { task, attempt, waits }).unwrap();
}

fn said(text: &str) -> Value {
    Value::tagged(b's', text.as_bytes())
}

fn message(name: &str, text: &str) -> Message {
    let number = text.bytes().fold(7, |number, byte| 31 * number + i64::from(byte));
    Message { number, address: Address::signal(name), id: None, content: Ok(said(text)), sent_at: Time(1) }
}

fn send(script: &mut Script, name: &str) {
    script.apply(Event::Message { message: Box::new(message(name, name)) }).unwrap();
}

fn state(script: &Script, name: &str) -> Option<EntryState> {
    script.store.entry(0, &key(name)).map(|entry| entry.state)
}

fn entered() -> Script {
    let mut script = Script::new(vec![spec("a", &[])]);
    script.enter("a");
    script
}

fn retried() -> Script {
    let mut script = Script::new(vec![TaskSpec { retry: RetryPolicy::new(3), ..spec("a", &[]) }]);
    script.enter("a");
    script
}

fn fails_and_is_tried_again(script: &mut Script) {
    script.fail("a", RETRY);
    script.due("a", Timer::Retry).unwrap();
    script.enter("a");
}

const OPEN: Option<EntryState> = Some(EntryState::Open);
const SATISFIED: Option<EntryState> = Some(EntryState::Satisfied);
const FAILED: Option<EntryState> = Some(EntryState::Failed);

#[test]
fn a_signal_between_the_look_up_and_the_opening_of_its_wait_is_kept() {
    let mut script = entered();
    open(&mut script, vec![signal("go")]);
    script.die();
    // The run makes progress elsewhere, or its body would only be entered by the signal.
    send(&mut script, "go");
    script.enter("a");
    open(&mut script, vec![signal("go")]);
    assert_eq!(script.recall("a", &signal("go")), Recall::Satisfied(said("go")));
    assert_eq!(script.row("a").sub_status, Some(SubStatus::Active));
}

#[test]
fn a_decision_between_the_look_up_and_the_opening_of_its_combination_stands() {
    let waits = || vec![any("either", &["x", "y"]), signal("x"), signal("y")];
    let mut script = entered();
    open(&mut script, waits());
    send(&mut script, "y");
    send(&mut script, "x");
    open(&mut script, waits());
    assert_eq!(script.recall("a", &any("either", &["x", "y"])), Recall::Satisfied(Value::tagged(b'i', b"1")));
    assert_eq!([state(&script, "x"), state(&script, "y")], [Some(EntryState::Lost), SATISFIED]);
    assert_eq!(script.store.messages.len(), 1, "a member that was lost takes nothing");

    let mut script = entered();
    let waits = || vec![all("both", &["x", "y"]), signal("x"), signal("y")];
    open(&mut script, waits());
    send(&mut script, "y");
    open(&mut script, waits());
    assert_eq!([state(&script, "both"), state(&script, "y")], [OPEN, SATISFIED]);
    send(&mut script, "x");
    assert_eq!(state(&script, "both"), SATISFIED);
}

#[test]
fn all_of_three_that_was_recovered_is_satisfied_by_its_third_member() {
    let mut script = entered();
    let names = ["x", "y", "z"];
    open(&mut script, [vec![all("every", &names)], names.map(signal).to_vec()].concat());
    script.die();
    for (name, expected) in [("x", OPEN), ("y", OPEN), ("z", SATISFIED)] {
        send(&mut script, name);
        assert_eq!(state(&script, "every"), expected, "{name}");
    }
}

#[test]
fn a_condition_that_is_asked_again_counts_as_open_in_its_combination() {
    let mut script = entered();
    let condition = |name| wait(name, EntryKind::Condition);
    let waits = || vec![all("both", &["w", "v", "x"]), condition("w"), condition("v"), signal("x")];
    open(&mut script, waits());
    script.close("a", key("w"), Ok(Value::NONE)).unwrap();
    script.die();
    script.enter("a");
    // It cannot be compared with the one that was satisfied.
    open(&mut script, waits());
    assert_eq!(state(&script, "w"), OPEN);
    send(&mut script, "x");
    script.close("a", key("v"), Ok(Value::NONE)).unwrap();
    assert_eq!(state(&script, "both"), OPEN);
    script.close("a", key("w"), Ok(Value::NONE)).unwrap();
    assert_eq!(state(&script, "both"), SATISFIED);
}

#[test]
fn a_time_that_is_reached_while_its_body_is_away_decides_its_combination() {
    let mut script = entered();
    let due = script.now.after(seconds(5));
    open(&mut script, vec![any("either", &["late", "x"]), time("late", due), signal("x")]);
    script.die();
    let [(at, Timer::Reenter)] = script.timers()[..] else { panic!("{:?}", script.timers()) };
    assert_eq!(at, due);
    script.now = due;
    script.due("a", Timer::Reenter).unwrap();
    assert_eq!(
        ["either", "late", "x"].map(|name| state(&script, name)),
        [SATISFIED, SATISFIED, Some(EntryState::Lost)]
    );
    assert_eq!(script.ready(), ["a"]);
}

#[test]
fn a_body_that_is_away_is_entered_when_its_combination_times_out() {
    let mut script = entered();
    let either = Wait { timeout: Some(seconds(60)), ..any("either", &["x", "y"]) };
    let waits = vec![either, signal("x"), signal("y")];
    open(&mut script, waits.clone());
    let deadline = script.store.entry(0, &key("either")).unwrap().deadline.unwrap();
    script.die();
    let [(at, Timer::Reenter)] = script.timers()[..] else { panic!("{:?}", script.timers()) };
    assert_eq!(at, deadline);
    script.now = deadline;
    script.due("a", Timer::Reenter).unwrap();
    script.enter("a");
    open(&mut script, waits);
    script.ring();
    assert_eq!(state(&script, "either"), FAILED);
}

#[test]
fn a_retry_waits_again_for_what_has_failed_and_keeps_what_was_consumed() {
    let mut script = retried();
    let waits = || vec![all("both", &["x", "y"]), signal("x"), signal("y")];
    open(&mut script, waits());
    send(&mut script, "x");
    script.close("a", key("y"), Err(failure("y"))).unwrap();
    assert_eq!(state(&script, "both"), FAILED);
    fails_and_is_tried_again(&mut script);
    assert_eq!(["both", "x", "y"].map(|name| state(&script, name)), [None, SATISFIED, None]);
    open(&mut script, waits()[..1].iter().chain(&waits()[2..]).cloned().collect());
    send(&mut script, "y");
    assert_eq!(state(&script, "both"), SATISFIED);
}

#[test]
fn a_gate_that_is_tried_again_keeps_what_its_members_have_consumed() {
    let part = |name: &str| GateSpec {
        name: name.into(),
        until: GateUntil::Message(Address::signal(name)),
        timeout: (name == "y").then_some(seconds(5)),
    };
    let until = GateUntil::All(vec![part("x"), part("y")]);
    let gate = GateSpec { name: "both".into(), until, timeout: None };
    let retry = RetryPolicy::new(3);
    let mut script = Script::new(vec![TaskSpec { gate: Some(gate), retry, ..spec("a", &[]) }]);
    send(&mut script, "x");
    let y = EntryKey { name: "y".into(), n: 0 };
    let task = script.find("a");
    let result = Err(failure("y"));
    script.apply(Event::Closed { task, attempt: 0, key: y, result, proved: true, polls: 0, retry: RETRY }).unwrap();
    assert_eq!(script.row("a").status, TaskStatus::Pending);
    script.due("a", Timer::Retry).unwrap();
    assert!(script.ready().is_empty());
    send(&mut script, "y");
    assert_eq!(script.ready(), ["a"]);
}

#[test]
fn a_wait_that_was_a_member_before_stands_alone_in_code_that_waits_for_it_alone() {
    let mut script = retried();
    open(&mut script, vec![any("either", &["x", "y"]), signal("x"), signal("y")]);
    script.close("a", key("x"), Err(failure("x"))).unwrap();
    script.close("a", key("y"), Err(failure("y"))).unwrap();
    fails_and_is_tried_again(&mut script);
    open(&mut script, vec![signal("x")]);
    assert_eq!(state(&script, "x"), OPEN);
    send(&mut script, "x");
    assert!(script.woken("a"));

    // The combination was still open when the process died.
    let mut script = entered();
    open(&mut script, vec![any("either", &["x", "y"]), signal("x"), signal("y")]);
    script.die();
    send(&mut script, "y");
    script.enter("a");
    open(&mut script, vec![signal("x")]);
    assert_eq!(state(&script, "x"), OPEN);
    let mut script = entered();
    open(&mut script, vec![any("either", &["x", "y"]), signal("x"), signal("y")]);
    open(&mut script, vec![signal("x")]);
    send(&mut script, "y");
    assert_eq!(state(&script, "x"), OPEN, "it is not lost with a combination that nobody waits for");
    send(&mut script, "x");
    assert_eq!(state(&script, "x"), SATISFIED);
}

#[test]
fn a_member_that_is_satisfied_already_decides_its_new_combination() {
    let mut script = entered();
    open(&mut script, vec![signal("x")]);
    send(&mut script, "x");
    script.woken("a");
    open(&mut script, vec![any("either", &["x", "y"]), signal("y")]);
    assert_eq!((state(&script, "either"), state(&script, "y")), (SATISFIED, None));
    open(&mut script, vec![all("both", &["x", "z"]), signal("z")]);
    send(&mut script, "z");
    assert_eq!(state(&script, "both"), SATISFIED);
}

#[test]
fn a_wait_that_was_open_before_a_message_came_gets_it_before_one_that_opens_at_recovery() {
    let gated = |name: &str, gate: &str| {
        let gate = GateSpec { name: gate.into(), until: GateUntil::Message(Address::signal("go")), timeout: None };
        TaskSpec { gate: Some(gate), ..spec(name, &[]) }
    };
    let mut script = Script::new(vec![gated("a", "old"), gated("b", "old")]);
    script.store.send(message("go", "first"), false);
    // The gate of 'a' is another one in this version: it opens only now.
    script.die_for_version(vec![gated("a", "new"), gated("b", "old")]);
    assert_eq!(script.ready(), ["b"]);
}

#[test]
fn a_gate_that_has_other_members_in_a_new_version_waits_for_these() {
    let gated = |names: [&str; 2]| {
        let part = |name: &str| GateSpec {
            name: name.into(),
            until: GateUntil::Message(Address::signal(name)),
            timeout: None,
        };
        let gate = GateSpec { name: "either".into(), until: GateUntil::Any(names.map(part).into()), timeout: None };
        vec![TaskSpec { gate: Some(gate), ..spec("a", &[]) }]
    };
    let mut script = Script::new(gated(["x", "y"]));
    script.die_for_version(gated(["x", "z"]));
    send(&mut script, "z");
    assert_eq!(script.ready(), ["a"]);
}

#[test]
fn a_combination_that_is_its_own_member_is_harmless() {
    let mut script = entered();
    open(&mut script, vec![signal("other")]);
    let (run, row) = (script.state.row(), script.row("a").task);
    // As in a file that was changed by hand.
    let waits = [any("p", &["q", "x"]), any("q", &["p", "x"]), signal("x"), any("r", &["r", "x", "none"])];
    for (Wait { key, operation, .. }, seq) in waits.into_iter().zip(1..) {
        let entry = Arc::new(Entry::new(key, seq, operation, Time(1)));
        script.store.commit(&[Write::Entry { run, task: row, map: NO_MAP, entry }]);
    }
    script.die();
    send(&mut script, "x");
    script.die();
}

#[test]
fn a_wait_of_a_body_that_is_about_to_be_entered_again_gets_what_has_come() {
    let mut script = Script::new(vec![spec("a", &[]), spec("b", &[])]);
    script.enter("a");
    script.enter("b");
    open(&mut script, vec![any("either", &["w", "go"]), wait("w", EntryKind::Condition), signal("go")]);
    script.store.send(message("go", "go"), false);
    script.die();
    // Its condition can be asked by nobody else, so it is entered at once.
    assert_eq!(script.ready(), ["a", "b"]);
    script.enter("b");
    script.open("b", signal("go"));
    assert_eq!((state(&script, "go"), state(&script, "either")), (SATISFIED, SATISFIED));
}
