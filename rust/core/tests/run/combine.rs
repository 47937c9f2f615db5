//! Combinations: decided in the commit that closes a member, and the others are closed as lost.

use bide_core::event::{Timer, Wait};
use bide_core::{
    Address, EntryKey, EntryState, Event, GateSpec, GateUntil, Message, Operation, Recall, RetryPolicy, TaskSpec,
    TaskStatus, Time, Value,
};

use crate::harness::failure;
use crate::script::{RETRY, Script, key, seconds, spec};

fn signal(name: &str) -> Wait {
    Wait { key: key(name), operation: Operation::Message(Address::signal(name)), timeout: None }
}

fn keys(names: &[&str]) -> std::sync::Arc<[EntryKey]> {
    names.iter().map(|name| key(name)).collect()
}

fn any(name: &str, of: &[&str]) -> Wait {
    Wait { key: key(name), operation: Operation::Any { members: keys(of) }, timeout: Some(seconds(60)) }
}

fn all(name: &str, of: &[&str]) -> Wait {
    Wait { operation: Operation::All { members: keys(of) }, ..any(name, of) }
}

fn open(script: &mut Script, waits: Vec<Wait>) {
    let (task, attempt) = (script.find("a"), script.attempt("a"));
    script.apply(Event::Opened { task, attempt, waits }).unwrap();
}

fn send(script: &mut Script, name: &str) {
    let content = Ok(Value::tagged(b's', name.as_bytes()));
    let message = Message { number: 1, address: Address::signal(name), id: None, content, sent_at: Time(1) };
    script.apply(Event::Message { message: Box::new(message) }).unwrap();
}

fn state(script: &Script, name: &str) -> EntryState {
    script.store.entry(0, &key(name)).unwrap().state
}

fn entered() -> Script {
    let mut script = Script::new(vec![spec("a", &[])]);
    script.enter("a");
    script
}

#[test]
fn the_first_of_several_wins_and_the_others_are_lost_in_the_same_commit() {
    let mut script = entered();
    open(&mut script, vec![any("either", &["paid", "left"]), signal("paid"), signal("left")]);
    send(&mut script, "left");
    let states = ["either", "paid", "left"].map(|name| state(&script, name));
    assert_eq!(states, [EntryState::Satisfied, EntryState::Lost, EntryState::Satisfied]);
    assert_eq!(script.recall("a", &any("either", &["paid", "left"])), Recall::Satisfied(Value::tagged(b'i', b"1")));
    assert!(script.woken("a"));
    send(&mut script, "paid");
    assert_eq!(script.store.messages.len(), 1, "the wait for it was lost, so it stays queued");
}

#[test]
fn what_is_there_when_it_opens_decides_and_the_rest_is_not_opened() {
    let mut script = entered();
    send(&mut script, "paid");
    send(&mut script, "left");
    open(&mut script, vec![any("either", &["paid", "left"]), signal("paid"), signal("left")]);
    assert_eq!((state(&script, "either"), state(&script, "paid")), (EntryState::Satisfied, EntryState::Satisfied));
    assert!(script.store.entry(0, &key("left")).is_none());
    assert_eq!(script.store.messages.len(), 1);
}

#[test]
fn all_of_several_is_satisfied_by_its_last_member_also_after_a_crash() {
    let mut script = entered();
    open(&mut script, vec![all("both", &["paid", "sent"]), signal("paid"), signal("sent")]);
    send(&mut script, "paid");
    assert_eq!(state(&script, "both"), EntryState::Open);
    assert!(!script.woken("a"));
    script.die();
    assert!(script.ready().is_empty(), "a member alone enters no body");
    send(&mut script, "sent");
    assert_eq!(script.ready(), ["a"]);
    script.enter("a");
    assert_eq!(script.recall("a", &all("both", &["paid", "sent"])), Recall::Satisfied(Value::NONE));
}

#[test]
fn a_member_that_fails_ends_all_and_leaves_any_to_the_others() {
    let mut script = entered();
    open(&mut script, vec![all("both", &["x", "y"]), signal("x"), signal("y")]);
    script.close("a", key("x"), Err(failure("x"))).unwrap();
    assert_eq!(
        ["both", "x", "y"].map(|name| state(&script, name)),
        [EntryState::Failed, EntryState::Failed, EntryState::Lost]
    );

    let mut script = entered();
    open(&mut script, vec![any("either", &["x", "y"]), signal("x"), signal("y")]);
    script.close("a", key("x"), Err(failure("x"))).unwrap();
    assert_eq!(state(&script, "either"), EntryState::Open);
    script.close("a", key("y"), Err(failure("y"))).unwrap();
    let Recall::Failed(failure) = script.recall("a", &any("either", &["x", "y"])) else { panic!("not failed") };
    assert_eq!(failure.message(), "all 2 waits of 'either' failed");
}

#[test]
fn combinations_nest_and_a_lost_one_takes_its_members_with_it() {
    let mut script = entered();
    let waits =
        || vec![any("top", &["both", "stop"]), all("both", &["x", "y"]), signal("x"), signal("y"), signal("stop")];
    open(&mut script, waits());
    send(&mut script, "x");
    send(&mut script, "stop");
    let states = ["top", "both", "x", "y", "stop"].map(|name| state(&script, name));
    use EntryState::{Lost, Satisfied};
    assert_eq!(states, [Satisfied, Lost, Satisfied, Lost, Satisfied]);

    let mut script = entered();
    open(&mut script, waits());
    script.die();
    send(&mut script, "y");
    send(&mut script, "x");
    assert_eq!(script.ready(), ["a"]);
    assert_eq!(["top", "both", "stop"].map(|name| state(&script, name)), [Satisfied, Satisfied, Lost]);
}

#[test]
fn a_combination_times_out_as_a_whole() {
    let mut script = entered();
    open(&mut script, vec![any("either", &["x", "y"]), signal("x"), signal("y")]);
    script.ring();
    assert_eq!(
        ["either", "x", "y"].map(|name| state(&script, name)),
        [EntryState::Failed, EntryState::Lost, EntryState::Lost]
    );
}

#[test]
fn a_member_that_a_new_version_of_the_code_has_dropped_is_lost() {
    let mut script = entered();
    open(&mut script, vec![any("either", &["x", "y"]), signal("x"), signal("y")]);
    open(&mut script, vec![any("either", &["x", "z"]), signal("x"), signal("z")]);
    assert_eq!(
        ["x", "y", "z"].map(|name| state(&script, name)),
        [EntryState::Open, EntryState::Lost, EntryState::Open]
    );
    send(&mut script, "y");
    assert_eq!(script.store.messages.len(), 1);
}

#[test]
fn a_retry_may_wait_alone_for_what_was_one_of_several() {
    let specs = vec![TaskSpec { retry: RetryPolicy::new(2), ..spec("a", &[]) }];
    let mut script = Script::new(specs);
    script.enter("a");
    open(&mut script, vec![any("either", &["x", "y"]), signal("x"), signal("y")]);
    script.ring();
    script.fail("a", RETRY);
    script.due("a", Timer::Retry).unwrap();
    script.enter("a");
    open(&mut script, vec![signal("x")]);
    send(&mut script, "x");
    assert_eq!(state(&script, "x"), EntryState::Satisfied);
    assert!(script.woken("a"));
}

#[test]
fn what_comes_between_the_look_into_the_journal_and_the_opening_is_kept() {
    let mut script = entered();
    open(&mut script, vec![signal("x")]);
    script.die();
    send(&mut script, "x");
    script.enter("a");
    open(&mut script, vec![signal("x")]);
    assert_eq!(state(&script, "x"), EntryState::Satisfied);

    let mut script = entered();
    let waits = || vec![any("either", &["x", "y"]), signal("x"), signal("y")];
    open(&mut script, waits());
    script.die();
    send(&mut script, "y");
    script.enter("a");
    open(&mut script, waits());
    assert_eq!(
        ["either", "x", "y"].map(|name| state(&script, name)),
        [EntryState::Satisfied, EntryState::Lost, EntryState::Satisfied]
    );
}

#[test]
fn a_gate_can_be_the_first_of_several() {
    let part = |name: &str, until| GateSpec { name: name.into(), until, timeout: None };
    let go = part("go", GateUntil::Message(Address::signal("go")));
    let late = part("after", GateUntil::After(seconds(5)));
    let gate = part("either", GateUntil::Any(vec![go, late]));
    let specs = || vec![TaskSpec { gate: Some(gate.clone()), ..spec("a", &[]) }];
    let mut script = Script::new(specs());
    assert!(script.ready().is_empty());
    script.die();
    send(&mut script, "go");
    assert_eq!(script.ready(), ["a"]);
    let mut script = Script::new(specs());
    script.ring();
    assert_eq!(script.row("a").status, TaskStatus::Ready);
    let lost = EntryKey { name: "go".into(), n: 0 };
    assert_eq!(script.store.entry(0, &lost).unwrap().state, EntryState::Lost);
}
