//! When a record is reused, what a retry keeps of a journal, and what cannot be undone.

use bide_core::event::Wait;
use bide_core::journal::Journal;
use bide_core::{
    EntryKey, EntryKind, EntryState, Failure, FailureKind, Lookup, Operation, Outcome, Recall, RetryPolicy, TaskRef,
    TaskSpec, Time, Value,
};

use crate::harness::failure;
use crate::script::{RETRY, Script, key, lookup, operation, seconds, spec, wait};
use bide_core::event::Timer;

const OPENED: Time = Time(1_000_000);

fn with_proof(kind: EntryKind, proof: Option<&[u8]>) -> Wait {
    Wait { operation: operation(kind, proof), ..wait("w", kind) }
}

fn asked(kind: EntryKind, proof: Option<&[u8]>) -> Lookup {
    lookup(&operation(kind, proof))
}

fn recorded(wait: Wait, result: Option<Result<Value, Failure>>) -> Journal {
    let mut journal = Journal::default();
    let key = wait.key.clone();
    journal.open(Wait { timeout: Some(seconds(60)), ..wait }, OPENED);
    if let Some(result) = result {
        journal.close(&key, result, true, OPENED).unwrap();
    }
    journal
}

#[test]
fn a_record_is_reused_only_by_its_rule() {
    let value = Value::tagged(b'i', b"1");
    let ok = || Some(Ok(value.clone()));
    let err = || Some(Err(failure("timeout")));
    let satisfied = || Recall::Satisfied(value.clone());
    let failed = || Recall::Failed(failure("timeout"));
    let deadline = Some(OPENED.after(seconds(60)));
    let ask = || Recall::Ask { deadline };
    let anew = || Recall::Ask { deadline: None };
    let open = |due| Recall::Open { due, deadline };
    let same: Option<&[u8]> = Some(b"same");
    let other: Option<&[u8]> = Some(b"other");
    let table = [
        // A condition only if it is provably the same wait; its deadline stays unless it was satisfied.
        (EntryKind::Condition, same, ok(), same, satisfied()),
        (EntryKind::Condition, same, err(), same, failed()),
        (EntryKind::Condition, same, None, same, ask()),
        (EntryKind::Condition, same, ok(), other, anew()),
        (EntryKind::Condition, same, err(), other, ask()),
        (EntryKind::Condition, same, ok(), None, anew()),
        (EntryKind::Condition, None, ok(), None, anew()),
        (EntryKind::Condition, None, err(), None, ask()),
        // Times and signals always.
        (EntryKind::Time, None, ok(), None, satisfied()),
        (EntryKind::Time, None, None, None, open(Some(Time(9)))),
        (EntryKind::Signal, same, ok(), same, satisfied()),
        (EntryKind::Signal, same, None, same, open(None)),
        // Steps always, failed ones too.
        (EntryKind::Step, same, ok(), same, satisfied()),
        (EntryKind::Step, same, err(), same, failed()),
        (EntryKind::Step, None, ok(), None, satisfied()),
    ];
    for (kind, then, result, now, expected) in table {
        let journal = recorded(with_proof(kind, then), result.clone());
        assert_eq!(journal.recall(&key("w"), &asked(kind, now)), expected, "{kind} {then:?} {result:?} {now:?}");
    }
    let journal = recorded(with_proof(EntryKind::Step, same), ok());
    let Recall::Mismatch(why) = journal.recall(&key("w"), &asked(EntryKind::Step, other)) else { panic!("reused") };
    assert!(why.starts_with("step 'w' (use 1) was recorded with other arguments"), "{why}");
    let Recall::Mismatch(why) = journal.recall(&key("w"), &asked(EntryKind::Time, same)) else { panic!("reused") };
    assert_eq!(why, "'w' (use 1) was recorded as a step and is now a time");
    let journal = recorded(with_proof(EntryKind::Signal, same), None);
    let Recall::Mismatch(why) = journal.recall(&key("w"), &asked(EntryKind::Signal, other)) else { panic!("reused") };
    assert_eq!(why, "'w' (use 1) was recorded as a wait for another message");
    let journal = recorded(with_proof(EntryKind::Step, same), ok());
    assert_eq!(journal.recall(&key("other"), &asked(EntryKind::Step, same)), Recall::Ask { deadline: None });
    let second = EntryKey { n: 2, ..key("w") };
    assert_eq!(journal.recall(&second, &asked(EntryKind::Step, same)), Recall::Ask { deadline: None });
}

#[test]
fn a_condition_asked_again_after_it_was_satisfied_gets_one_new_deadline() {
    let wait = || Wait { timeout: Some(seconds(60)), ..with_proof(EntryKind::Condition, None) };
    let mut journal = recorded(wait(), Some(Ok(Value::NONE)));
    let later = OPENED.after(seconds(50));
    let entry = journal.open(wait(), later);
    assert_eq!((entry.state, entry.deadline), (EntryState::Open, Some(later.after(seconds(60)))));
    assert_eq!((entry.opened_at, entry.closed_at, entry.value.as_ref()), (later, None, None));
    let entry = journal.open(wait(), later.after(seconds(50)));
    assert_eq!(
        (entry.deadline, entry.opened_at),
        (Some(later.after(seconds(60))), later),
        "a crash does not extend it"
    );
}

#[test]
fn a_condition_asked_again_after_it_failed_keeps_its_deadline() {
    let wait = || Wait { timeout: Some(seconds(60)), ..with_proof(EntryKind::Condition, None) };
    let mut journal = recorded(wait(), Some(Err(failure("five errors"))));
    let entry = journal.open(wait(), OPENED.after(seconds(50)));
    assert_eq!((entry.state, entry.deadline), (EntryState::Open, Some(OPENED.after(seconds(60)))));
}

#[test]
fn a_proof_that_no_longer_holds_is_dropped_with_the_end_of_its_wait() {
    let same: Option<&[u8]> = Some(b"same");
    for (proved, expected) in [(true, Recall::Satisfied(Value::NONE)), (false, Recall::Ask { deadline: None })] {
        let mut journal = recorded(with_proof(EntryKind::Condition, same), None);
        journal.close(&key("w"), Ok(Value::NONE), proved, OPENED).unwrap();
        assert_eq!(journal.recall(&key("w"), &asked(EntryKind::Condition, same)), expected);
    }
}

#[test]
fn an_open_wait_counts_from_when_it_was_opened() {
    let mut journal = recorded(with_proof(EntryKind::Condition, None), None);
    assert_eq!(journal.open(with_proof(EntryKind::Condition, None), OPENED.after(seconds(50))).opened_at, OPENED);
}

#[test]
fn a_closed_wait_stays_closed() {
    let mut journal = recorded(with_proof(EntryKind::Time, None), Some(Ok(Value::NONE)));
    assert_eq!(journal.close(&key("w"), Err(failure("timeout")), true, OPENED), None);
    assert_eq!(journal.close(&key("unknown"), Ok(Value::NONE), true, OPENED), None);
    assert_eq!(journal.get(&key("w")).unwrap().state, EntryState::Satisfied);
}

fn with_retry(fresh: bool) -> Script {
    let retry = RetryPolicy { fresh, ..RetryPolicy::new(3) };
    let mut script = Script::new(vec![TaskSpec { retry, ..spec("a", &[]) }]);
    script.enter("a");
    script
}

fn again(script: &mut Script) {
    script.fail("a", RETRY);
    script.due("a", Timer::Retry).unwrap();
    script.enter("a");
}

#[test]
fn a_retry_drops_only_the_failed_entries_at_the_tail() {
    let mut script = with_retry(false);
    let (bad, good) = (|| Err(failure("raised")), || Ok(Value::NONE));
    script.record("a", wait("caught", EntryKind::Step), bad());
    script.record("a", wait("good", EntryKind::Step), good());
    script.record("a", wait("bad", EntryKind::Step), bad());
    script.record("a", wait("worse", EntryKind::Condition), bad());
    again(&mut script);
    assert_eq!(script.journal("a"), ["caught", "good"], "and so it is in the store");
    assert_eq!(script.recall("a", &wait("caught", EntryKind::Step)), Recall::Failed(failure("raised")));
    assert_eq!(script.recall("a", &wait("good", EntryKind::Step)), Recall::Satisfied(Value::NONE));
    assert_eq!(script.recall("a", &wait("worse", EntryKind::Condition)), Recall::Ask { deadline: None });
}

#[test]
fn a_retry_repeats_a_timed_out_wait_with_a_new_deadline() {
    let mut script = with_retry(false);
    let file = Wait { timeout: Some(seconds(60)), ..wait("file", EntryKind::Condition) };
    script.open("a", file.clone());
    let first = script.state.deadline(TaskRef::plain(0), &key("file")).unwrap();
    script.now = first;
    script.close("a", key("file"), Err(Failure::new(FailureKind::WaitTimeout, "WaitTimeout", "60 s"))).unwrap();
    again(&mut script);
    script.open("a", file);
    assert_eq!(script.state.deadline(TaskRef::plain(0), &key("file")), Some(script.now.after(seconds(60))));
}

#[test]
fn a_re_entry_replays_a_timeout() {
    let mut script = with_retry(false);
    let timeout = Failure::new(FailureKind::WaitTimeout, "WaitTimeout", "60 s");
    script.open("a", wait("file", EntryKind::Condition));
    script.close("a", key("file"), Err(timeout.clone())).unwrap();
    script.die();
    assert!(script.enter("a").reentry);
    assert_eq!(script.recall("a", &wait("file", EntryKind::Condition)), Recall::Failed(timeout));
}

#[test]
fn what_was_asked_again_last_is_the_tail() {
    let mut script = with_retry(false);
    let mut asked = wait("lambda", EntryKind::Condition);
    asked.operation = Operation::Condition { proof: None };
    script.record("a", asked.clone(), Ok(Value::NONE));
    script.record("a", wait("good", EntryKind::Step), Ok(Value::NONE));
    again(&mut script);
    script.record("a", asked, Err(failure("timeout")));
    again(&mut script);
    assert_eq!(script.journal("a"), ["good"], "a failure that is not dropped would be replayed for ever");
}

#[test]
fn a_fresh_retry_drops_the_whole_journal() {
    let mut script = with_retry(true);
    script.record("a", wait("good", EntryKind::Step), Ok(Value::NONE));
    again(&mut script);
    assert!(script.journal("a").is_empty());
    script.record("a", wait("good", EntryKind::Step), Ok(Value::NONE));
    script.die();
    assert_eq!(script.journal("a"), ["good"], "a re-entry is not a retry");
}

#[test]
fn a_step_without_a_row_of_its_task_is_known_after_a_crash() {
    let mut script = Script::new(vec![spec("a", &[])]);
    script.enter("a");
    script.record("a", wait("load", EntryKind::Step), Ok(Value::NONE));
    assert!(script.store.rows.is_empty(), "a step alone writes no row");
    script.die();
    let entered = script.enter("a");
    assert_eq!(entered.attempt, 1);
    assert_eq!(script.recall("a", &wait("load", EntryKind::Step)), Recall::Satisfied(Value::NONE));
    script.end("a", Outcome::Completed { output: Value::NONE, changes: None }).unwrap();
}
