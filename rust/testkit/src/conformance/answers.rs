//! Answers: to requests, and to callbacks.

use bide_core::{Address, Entry, Failure, FailureKind, Message, MessageKind, RecordKind};
use bide_store::Sent;

use super::*;

fn answer(run: RunId, number: i64, answer: Result<Value, Failure>) -> Write {
    Write::Answer { run: run.row(), number, answer, answered_at: later(3) }
}

fn refusal() -> Failure {
    Failure::new(FailureKind::RequestRefused, "bide.RequestRefused", "sold out\nfor today")
}

pub fn an_answer_reads_back_and_the_first_one_stands(store: &dyn Store) {
    let desk = Desk::new(store);
    let (run, other) = (desk.create(START, None), desk.create(START, None));
    assert_eq!(ok(store.answer(run, 7)), None);
    desk.commit(vec![answer(run, 7, Ok(Value::NONE)), answer(run, i64::MAX, Err(refusal()))]);
    desk.commit(vec![answer(run, 7, Err(refusal()))]);
    assert_eq!(ok(store.answer(run, 7)), Some(Ok(Value::NONE)));
    assert_eq!(ok(store.answer(run, i64::MAX)), Some(Err(refusal())));
    assert_eq!(ok(store.answer(other, 7)), None);
}

pub fn answers_outlive_the_end_of_their_run_and_go_with_it(store: &dyn Store) {
    let desk = Desk::new(store);
    let runs = [desk.create(START, None), desk.create(START, None), desk.create(START, None)];
    for (run, number) in runs.into_iter().zip(1..) {
        desk.commit(vec![answer(run, number, Ok(Value::NONE))]);
    }
    let [deleted, purged, kept] = runs;
    desk.end(deleted, later(10));
    desk.end(purged, later(10));
    assert_eq!(ok(store.answer(deleted, 1)), Some(Ok(Value::NONE)));
    assert!(ok(store.delete(deleted)));
    assert_eq!(purge_all(store, later(11)), 1);
    let found = [(deleted, 1), (purged, 2), (kept, 3)].map(|(run, number)| ok(store.answer(run, number)).is_some());
    assert_eq!(found, [false, false, true]);
}

pub fn an_answer_wakes_those_who_wait_for_changes(store: &dyn Store) {
    let desk = Desk::new(store);
    let run = desk.create(START, None);
    let seen = ok(store.wait_for_changes(Seen::default(), Duration::ZERO)).seen;
    desk.commit(vec![answer(run, 7, Ok(Value::NONE))]);
    assert!(ok(store.wait_for_changes(seen, Duration::from_secs(30))).mail);
}

fn callback(run: RunId) -> Write {
    let mut entry =
        Entry::new(EntryKey { name: "paid".into(), n: 1 }, 1, Operation::Record(RecordKind::Callback), START);
    entry.state = bide_core::EntryState::Satisfied;
    entry.value = Some(Value::tagged(b's', b"secret"));
    Write::Entry { run: run.row(), task: 0, map: NO_MAP, entry: Arc::new(entry) }
}

fn to_callback(number: i64, secret: &str, id: Option<&str>, content: Result<Value, Failure>) -> Message {
    let address = Address { kind: MessageKind::Answer, name: secret.into() };
    Message { number, address, id: id.map(Into::into), content, sent_at: START }
}

pub fn the_first_answer_to_a_callback_stands(store: &dyn Store) {
    let desk = Desk::new(store);
    let run = desk.create(START, None);
    let value = || Ok(Value::new(b"t"));
    let send = |message: &Message| ok(store.send(run, message));
    assert_eq!(send(&to_callback(1, "secret", None, value())), Sent::NoCallback);
    desk.commit(vec![callback(run)]);
    assert_eq!(send(&to_callback(2, "forged", None, value())), Sent::NoCallback);
    let signal = Message { address: Address::signal("go"), ..to_callback(3, "", Some("taken"), value()) };
    assert_eq!(send(&signal), Sent::Stored);
    assert_eq!(send(&to_callback(4, "secret", Some("taken"), value())), Sent::IdTaken);
    let first = to_callback(5, "secret", Some("x"), value());
    assert_eq!(send(&first), Sent::Stored);
    for ended in [false, true] {
        if ended {
            desk.end(run, later(1));
        }
        assert_eq!(send(&Message { number: 6, ..first.clone() }), Sent::Duplicate, "ended: {ended}");
        assert_eq!(send(&to_callback(7, "secret", Some("y"), value())), Sent::Answered);
        assert_eq!(send(&to_callback(8, "secret", Some("x"), Err(refusal()))), Sent::Answered);
        assert_eq!(send(&to_callback(9, "secret", None, value())), Sent::Answered);
    }
    let stored: Vec<i64> = ok(store.messages(run, 0)).iter().map(|stored| stored.message.number).collect();
    assert_eq!(stored, [3, 5]);
}
