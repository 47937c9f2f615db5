//! The tables of the attempt machine, one scenario a row: what is fed, and the actions that must come of it.

mod steps;

use super::*;
use crate::id::TaskRef;
use crate::poll::Tolerance;

struct At {
    wall: i64,
    steady: u64,
}

impl Clocks for At {
    fn wall(&self) -> Time {
        Time(self.wall)
    }
    fn steady(&self) -> Duration {
        Duration::from_micros(self.steady)
    }
    fn random(&self) -> f64 {
        0.5
    }
}

const MS: i64 = 1000;

fn attempt() -> Attempt {
    Attempt::new(TaskRef::plain(0), "load".into(), 1)
}

fn condition(timeout: Option<Duration>) -> Request {
    let policy = PollPolicy {
        tolerate: Tolerance::Tolerate(2, Duration::ZERO),
        ..PollPolicy::every(Duration::from_millis(100))
    };
    Request::Condition { proof: Some([1].into()), policy, timeout }
}

fn value() -> Value {
    Value::tagged(b's', b"here")
}

fn boom() -> Failure {
    Failure::new(FailureKind::Raised, "OSError", "boom")
}

/// An action in one word, as the tables name it.
fn name(action: &Action) -> String {
    match action {
        Action::CheckLease => "CheckLease".into(),
        Action::Recall => "Recall".into(),
        Action::Prove => "Prove".into(),
        Action::Ask => "Ask".into(),
        Action::AskPart(part) => format!("AskPart {part}"),
        Action::ProvePart(part) => format!("ProvePart {part}"),
        Action::Acquire => "Acquire".into(),
        Action::Read => "Read".into(),
        Action::Execute => "Execute".into(),
        Action::StartChildren { which, .. } => format!("StartChildren {which:?}"),
        Action::Commit(event) => format!("Commit {}", event_name(event)),
        Action::Release => "Release".into(),
        Action::Sleep(Sleep::Poll(span)) => format!("Poll {}", span.as_millis()),
        Action::Sleep(Sleep::Closed) => "Closed".into(),
        Action::Sleep(Sleep::PollOrClosed(span)) => format!("Poll {} or Closed", span.as_millis()),
        Action::Sleep(Sleep::Until(time)) => format!("Until {}", time.0 / MS),
        Action::CommitAndAcquire(event) => format!("CommitAndAcquire {}", event_name(event)),
        Action::Done(Ok(value)) => format!("Done {}", String::from_utf8_lossy(value.as_bytes())),
        Action::Done(Err(error)) => match error {
            CallError::Failed(failure) => format!("Failed {}", failure.type_name()),
            CallError::Suspended => "Suspended".into(),
            CallError::Over(_) => "Over".into(),
            CallError::Mismatch(why) => format!("Mismatch {why}"),
            CallError::TimedOut(_) => "TimedOut".into(),
            CallError::Misuse(_) => "Misuse".into(),
        },
    }
}

fn event_name(event: &Event) -> &'static str {
    match event {
        Event::Opened { .. } => "Opened",
        Event::Recorded { result: Ok(_), .. } => "Recorded",
        Event::Recorded { result: Err(_), .. } => "Recorded failure",
        Event::Closed { result: Ok(_), .. } => "Closed",
        Event::Closed { result: Err(_), .. } => "Closed failure",
        Event::Block { .. } => "Block",
        Event::Intended { .. } => "Intended",
        Event::Delayed { deferred: true, .. } => "Delayed",
        Event::Delayed { deferred: false, .. } => "Delayed with its slot",
        Event::Resumed { .. } => "Resumed",
        Event::Unrecorded { .. } => "Unrecorded",
        Event::Checkpoint { .. } => "Checkpoint",
        _ => "?",
    }
}

/// Feeds a call one thing after the other, each at a wall time in milliseconds, and returns the names of the actions.
fn play(attempt: &mut Attempt, request: Request, fed: Vec<(i64, Fed)>) -> Vec<String> {
    let mut call = attempt.begin(&"x".into(), request, Standing::default()).expect("a call");
    fed.into_iter()
        .map(|(ms, fed)| {
            let clocks = At { wall: ms * MS, steady: ms as u64 * 1000 };
            name(&attempt.advance(&mut call, fed, &clocks))
        })
        .collect()
}

fn look(recall: Recall) -> Vec<(i64, Fed)> {
    let key = EntryKey { name: "x".into(), n: 1 };
    vec![(0, Fed::Begin), (0, Fed::LeaseHeld), (0, Fed::Recalled(key, recall))]
}

fn unknown() -> Vec<(i64, Fed)> {
    look(Recall::Ask { deadline: None })
}

/// Up to the first sleep of a wait that was not satisfied at once, with a deadline in milliseconds.
fn asleep(deadline: Option<i64>) -> Vec<(i64, Fed)> {
    let mut fed = unknown();
    fed.push((0, Fed::Asked(Polled::False)));
    fed.push((1, Fed::Committed { deadline: deadline.map(|ms| Time(ms * MS)) }));
    fed.push((2, Fed::Released));
    fed
}

fn and(mut fed: Vec<(i64, Fed)>, more: Vec<(i64, Fed)>) -> Vec<(i64, Fed)> {
    fed.extend(more);
    fed
}

const LOOKED: [&str; 2] = ["CheckLease", "Recall"];
const SLEPT: [&str; 6] = ["CheckLease", "Recall", "Ask", "Commit Opened", "Release", "Poll 98"];

fn plays(request: Request, fed: Vec<(i64, Fed)>, before: &[&str], then: &[&str]) {
    let expected: Vec<&str> = before.iter().chain(then).copied().collect();
    assert_eq!(play(&mut attempt(), request, fed), expected);
}

#[test]
fn a_recorded_wait_is_not_asked_again() {
    plays(condition(None), look(Recall::Satisfied(value())), &LOOKED, &["Done shere"]);
    plays(condition(None), look(Recall::Failed(boom())), &LOOKED, &["Failed OSError"]);
}

#[test]
fn what_does_not_match_its_record_pauses_the_run_before_it_is_reported() {
    let fed = and(look(Recall::Mismatch("other".into())), vec![(0, Fed::Committed { deadline: None })]);
    plays(condition(None), fed, &LOOKED, &["Commit Block", "Mismatch task 'load': other"]);
}

#[test]
fn a_condition_that_holds_at_once_never_releases_the_slot() {
    let fed = and(
        unknown(),
        vec![(0, Fed::Asked(Polled::True(value()))), (0, Fed::Proved(true)), (0, Fed::Committed { deadline: None })],
    );
    plays(condition(None), fed, &LOOKED, &["Ask", "Prove", "Commit Recorded", "Done shere"]);
}

#[test]
fn a_wait_is_committed_before_the_slot_is_released_and_closed_before_one_is_taken() {
    let fed = and(
        asleep(None),
        vec![
            (100, Fed::Woken),
            (100, Fed::LeaseHeld),
            (100, Fed::Asked(Polled::True(value()))),
            (100, Fed::Proved(true)),
            (101, Fed::Acquired { commit: Ok(()), slot: true }),
        ],
    );
    plays(condition(None), fed, &SLEPT, &["CheckLease", "Ask", "Prove", "CommitAndAcquire Closed", "Done shere"]);
}

#[test]
fn the_interval_counts_from_the_last_answer() {
    let fed = and(asleep(None), vec![(130, Fed::Woken), (130, Fed::LeaseHeld), (140, Fed::Asked(Polled::False))]);
    plays(condition(None), fed, &SLEPT, &["CheckLease", "Ask", "Poll 100"]);
}

#[test]
fn at_its_deadline_a_condition_is_asked_once_more_and_may_still_hold() {
    let woken = |answer| {
        let more = vec![
            (50, Fed::Woken),
            (50, Fed::LeaseHeld),
            (50, Fed::Asked(answer)),
            (50, Fed::Proved(true)),
            (51, Fed::Acquired { commit: Ok(()), slot: true }),
        ];
        and(asleep(Some(50)), more)
    };
    let mut slept = SLEPT;
    slept[5] = "Poll 48";
    plays(
        condition(None),
        woken(Polled::True(value())),
        &slept,
        &["CheckLease", "Ask", "Prove", "CommitAndAcquire Closed", "Done shere"],
    );
    plays(
        condition(None),
        woken(Polled::False),
        &slept,
        &["CheckLease", "Ask", "Prove", "CommitAndAcquire Closed failure", "Failed bide.WaitTimeout"],
    );
}

#[test]
fn a_recorded_deadline_that_has_passed_still_grants_one_question() {
    let fed = |answer| {
        let mut fed = look(Recall::Ask { deadline: Some(Time(-5)) });
        fed.extend([(0, Fed::Asked(answer)), (0, Fed::Proved(true)), (0, Fed::Committed { deadline: None })]);
        fed
    };
    plays(condition(None), fed(Polled::True(value())), &LOOKED, &["Ask", "Prove", "Commit Recorded", "Done shere"]);
    plays(
        condition(None),
        fed(Polled::False),
        &LOOKED,
        &["Ask", "Prove", "Commit Recorded failure", "Failed bide.WaitTimeout"],
    );
}

#[test]
fn errors_in_a_row_end_a_wait_and_an_answer_forgives_them() {
    let ask = |ms, polled| vec![(ms, Fed::Woken), (ms, Fed::LeaseHeld), (ms, Fed::Asked(polled))];
    let mut fed = asleep(None);
    fed.extend(ask(100, Polled::Raised(boom())));
    fed.extend(ask(200, Polled::False));
    fed.extend(ask(300, Polled::Raised(boom())));
    fed.extend(ask(400, Polled::Raised(boom())));
    fed.push((400, Fed::Proved(true)));
    let mut then: Vec<&str> = Vec::new();
    for _ in 0..3 {
        then.extend(["CheckLease", "Ask", "Poll 100"]);
    }
    then.extend(["CheckLease", "Ask", "Prove", "CommitAndAcquire Closed failure"]);
    plays(condition(None), fed, &SLEPT, &then);
}

#[test]
fn a_broken_condition_ends_the_wait_at_once() {
    let fed = and(
        unknown(),
        vec![(0, Fed::Asked(Polled::Broken(boom()))), (0, Fed::Proved(true)), (0, Fed::Committed { deadline: None })],
    );
    plays(condition(None), fed, &LOOKED, &["Ask", "Prove", "Commit Recorded failure", "Failed OSError"]);
}

#[test]
fn a_lost_lease_suspends_before_anything_is_asked_and_for_good() {
    let mut one = attempt();
    let asked = play(&mut one, condition(None), vec![(0, Fed::Begin), (0, Fed::LeaseLost)]);
    assert_eq!(asked, ["CheckLease", "Suspended"]);
    assert!(one.is_suspended());
    let next = one.begin(&"x".into(), condition(None), Standing::default());
    assert!(matches!(next, Err(CallError::Suspended)));
    let again = and(asleep(None), vec![(100, Fed::Woken), (100, Fed::LeaseLost)]);
    plays(condition(None), again, &SLEPT, &["CheckLease", "Suspended"]);
}

#[test]
fn a_time_is_slept_out_or_recorded_at_once_and_a_recorded_one_stands() {
    let done = vec![(6, Fed::Woken), (7, Fed::Woken), (7, Fed::Acquired { commit: Ok(()), slot: true })];
    let fed = and(unknown(), vec![(0, Fed::Committed { deadline: None }), (0, Fed::Released)]);
    plays(
        Request::After(Duration::from_millis(7)),
        and(fed, done),
        &LOOKED,
        &["Commit Opened", "Release", "Until 7", "Until 7", "CommitAndAcquire Closed", "Done n"],
    );
    let at_once = and(unknown(), vec![(0, Fed::Committed { deadline: None })]);
    plays(Request::Until(Time(0)), at_once, &LOOKED, &["Commit Recorded", "Done n"]);
    let reached = look(Recall::Open { due: Some(Time(-1)), deadline: None });
    plays(Request::After(Duration::from_secs(9)), reached, &LOOKED, &["Commit Closed"]);
}

#[test]
fn a_step_is_executed_once_and_committed() {
    let fed = and(unknown(), vec![(0, Fed::Executed(Ok(value()))), (0, Fed::Committed { deadline: None })]);
    plays(Request::step(None), fed, &LOOKED, &["Execute", "Commit Recorded", "Done shere"]);
    plays(Request::step(None), look(Recall::Satisfied(value())), &LOOKED, &["Done shere"]);
}

#[test]
fn a_recorded_now_that_is_no_time_is_an_error() {
    assert_eq!(read_now("load", &now_value(Time(-7))).ok(), Some(Time(-7)));
    for value in [Value::NONE, Value::tagged(b's', b"7"), Value::tagged(b'i', b"soon"), Value::tagged(b'i', b"\xff")] {
        let read = read_now("load", &value);
        assert!(matches!(&read, Err(CallError::Failed(why)) if why.kind == FailureKind::Serialization), "{read:?}");
    }
}

#[test]
fn nothing_is_recorded_within_a_step_or_a_condition() {
    let mut one = attempt();
    assert_eq!(play(&mut one, Request::step(None), unknown()).last().map(String::as_str), Some("Execute"));
    let inner = one.begin(&"y".into(), condition(None), Standing::default());
    let Err(CallError::Misuse(why)) = inner else { panic!("{inner:?}") };
    assert!(why.contains("task 'load': the wait 'y' inside the step 'x': "), "{why}");
}

#[test]
fn a_wait_for_a_callback_that_is_not_recorded_is_a_misuse_alone_and_as_one_of_several() {
    let address = || Address { kind: crate::message::MessageKind::Answer, name: "secret".into() };
    let alone = Request::Message { address: address(), timeout: None };
    plays(alone, look(Recall::NoCallback), &LOOKED, &["Misuse"]);
    let part = |name: &str, part| PartRequest { name: name.into(), part, timeout: None };
    let parts = vec![part("any", Part::Any(vec![1])), part("paid", Part::Message(address()))];
    let recalled = |name: &str, recall| {
        let key = EntryKey { name: name.into(), n: 1 };
        RecalledPart { key, recall, winner: None }
    };
    let recalled = vec![recalled("any", Recall::Ask { deadline: None }), recalled("paid", Recall::NoCallback)];
    let fed = vec![(0, Fed::Begin), (0, Fed::LeaseHeld), (0, Fed::RecalledParts(recalled))];
    plays(Request::Combined(parts), fed, &LOOKED, &["Misuse"]);
}

#[test]
fn a_slot_that_is_not_given_out_any_more_suspends() {
    let fed = and(
        asleep(None),
        vec![
            (100, Fed::Woken),
            (100, Fed::LeaseHeld),
            (100, Fed::Asked(Polled::True(value()))),
            (100, Fed::Proved(true)),
            (101, Fed::Acquired { commit: Ok(()), slot: false }),
        ],
    );
    plays(condition(None), fed, &SLEPT, &["CheckLease", "Ask", "Prove", "CommitAndAcquire Closed", "Suspended"]);
}

#[test]
fn execution_time_that_is_used_up_ends_the_call_before_the_slot_is_released() {
    let mut fed = asleep(None);
    fed.pop();
    fed.push((2, Fed::NotReleased));
    plays(condition(None), fed, &SLEPT[..5], &["TimedOut"]);
}

#[test]
fn a_condition_that_changed_what_proved_it_leaves_no_proof() {
    let mut one = attempt();
    let mut call = one.begin(&"x".into(), condition(None), Standing::default()).expect("a call");
    let clocks = At { wall: 0, steady: 0 };
    for (_, fed) in and(unknown(), vec![(0, Fed::Asked(Polled::True(value())))]) {
        one.advance(&mut call, fed, &clocks);
    }
    let Action::Commit(event) = one.advance(&mut call, Fed::Proved(false), &clocks) else { panic!("no commit") };
    let unproved = crate::entry::Operation::Condition { proof: None };
    assert!(matches!(*event, Event::Recorded { ref wait, .. } if wait.operation == unproved), "{event:?}");
}
