//! Messages to runs: those that anybody sends, and those that the runs' owner writes with its commits.

use bide_core::{Address, Failure, FailureKind, Message, MessageKind, RecordKind, StoredMessage};
use bide_store::Sent;

use super::*;

fn message(number: i64, name: &str) -> Message {
    let content = Ok(Value::tagged(b'i', number.to_string().as_bytes()));
    Message { number, address: Address::signal(name), id: None, content, sent_at: later(number.unsigned_abs()) }
}

fn with_id(number: i64, id: &str) -> Message {
    Message { id: Some(id.into()), ..message(number, "go") }
}

/// The owner of a run sends a message to it.
fn write(run: RunId, message: Message, consumed: bool) -> Write {
    Write::Message { run: run.row(), message: Box::new(message), consumed }
}

fn consumed(run: RunId, number: i64, id: Option<&str>) -> Write {
    Write::Consumed { run: run.row(), number, id: id.map(Into::into), from: 0 }
}

fn numbers(messages: &[StoredMessage]) -> Vec<i64> {
    messages.iter().map(|stored| stored.message.number).collect()
}

/// Gives a run a callback with this secret.
fn make_callback(desk: &Desk<'_>, run: RunId, secret: &str) {
    let key = EntryKey { name: "callback".into(), n: 1 };
    let mut entry = Entry::new(key, 1, Operation::Record(RecordKind::Callback), START);
    entry.state = bide_core::EntryState::Satisfied;
    entry.value = Some(Value::tagged(b's', secret.as_bytes()));
    desk.commit(vec![Write::Entry { run: run.row(), task: 0, map: NO_MAP, entry: Arc::new(entry) }]);
}

fn answer(number: i64, secret: &str, content: Result<Value, Failure>) -> Message {
    let address = Address { kind: MessageKind::Answer, name: secret.into() };
    Message { address, content, ..message(number, secret) }
}

pub fn every_message_reads_back_in_the_order_in_which_it_came(store: &dyn Store) {
    let desk = Desk::new(store);
    let (run, other) = (desk.create(START, None), desk.create(START, None));
    make_callback(&desk, run, "secret");
    let request = Address { kind: MessageKind::Request, name: "go".into() };
    let rejected = Err(Failure::new(FailureKind::Raised, "Rejected", "no"));
    let sent = [
        Message { content: Ok(Value::NONE), ..message(7, "späť \0") },
        message(-3, "go"),
        Message { address: request, ..with_id(5, "id") },
        answer(9, "secret", rejected),
    ];
    for (at, message) in sent.iter().enumerate() {
        // The owner's messages and those of others stand in one order.
        if at == 1 {
            desk.commit(vec![write(run, message.clone(), false)]);
        } else {
            assert_eq!(ok(store.send(run, message)), Sent::Stored);
        }
    }
    assert_eq!(ok(store.send(other, &message(11, "go"))), Sent::Stored);
    let stored = ok(store.messages(run, 0));
    assert!(stored.iter().zip(&sent).all(|(stored, sent)| stored.message == *sent && !stored.consumed), "{stored:?}");
    assert_eq!(stored.len(), sent.len());
    assert!(stored.is_sorted_by(|one, other| one.seq < other.seq));
    assert_eq!(ok(store.messages(run, stored[1].seq)), stored[2..]);
    assert_eq!(desk.load(run).messages, stored);
    assert!(ok(store.list(&RunFilter::default())).iter().all(|listed| listed.messages.is_empty()));
    let mail = ok(store.mail(stored[1].seq));
    assert_eq!(mail.iter().map(|(_, row)| *row).collect::<Vec<_>>(), [run.row(), run.row(), other.row()]);
    assert_eq!(mail[0].0, stored[2].seq);
    assert_eq!(ok(store.mail(mail[2].0)), []);
}

/// A store that counts none says so each time.
pub fn a_message_from_elsewhere_is_counted_as_an_arrival(store: &dyn Store) {
    let desk = Desk::new(store);
    let run = desk.create(START, None);
    let before = store.arrivals();
    desk.commit(vec![write(run, message(1, "go"), false)]);
    assert_eq!(store.arrivals(), before);
    assert_eq!(ok(store.send(run, &message(2, "go"))), Sent::Stored);
    let after = store.arrivals();
    assert_eq!(after == before, before.is_none());
    desk.commit(vec![write(run, message(3, "go"), false)]);
    assert_eq!(store.arrivals(), after);
}

pub fn a_consumed_message_is_gone_and_its_number_of_arrival_not_given_again(store: &dyn Store) {
    let desk = Desk::new(store);
    let run = desk.create(START, None);
    for number in 1..=3 {
        assert_eq!(ok(store.send(run, &message(number, "go"))), Sent::Stored);
    }
    let last = ok(store.messages(run, 0))[2].seq;
    desk.commit(vec![consumed(run, 1, None), consumed(run, 3, None)]);
    assert_eq!(numbers(&desk.load(run).messages), [2]);
    assert_eq!(ok(store.send(run, &message(4, "go"))), Sent::Stored);
    assert_eq!(numbers(&ok(store.messages(run, last))), [4]);
    assert_eq!(ok(store.mail(last)).len(), 1);
    // One that a wait consumed in the commit that brought it leaves nothing.
    desk.commit(vec![consumed(run, 99, None)]);
    assert_eq!(numbers(&desk.load(run).messages), [2, 4]);
}

pub fn no_message_gets_the_number_of_arrival_of_one_that_is_gone(store: &dyn Store) {
    let desk = Desk::new(store);
    let (run, ended) = (desk.create(START, None), desk.create(START, None));
    let mut newest = 0;
    let mut arrives = |run, number, written: bool| {
        if written {
            desk.commit(vec![write(run, message(number, "go"), false)]);
        } else {
            assert_eq!(ok(store.send(run, &message(number, "go"))), Sent::Stored);
        }
        let mail = ok(store.mail(newest));
        assert_eq!(mail.iter().map(|(_, row)| *row).collect::<Vec<_>>(), [run.row()], "only the new one is higher");
        newest = mail[0].0;
    };
    for (first, written) in [(11, false), (21, true), (31, false)] {
        // The newest is consumed, and the only one, and one whose run is deleted.
        arrives(run, first, written);
        arrives(run, first + 1, !written);
        desk.commit(vec![consumed(run, first + 1, None)]);
        arrives(run, first + 2, written);
        desk.commit(vec![consumed(run, first + 2, None), consumed(run, first, None)]);
        arrives(run, first + 3, written);
        desk.commit(vec![consumed(run, first + 3, None)]);
    }
    arrives(ended, 5, false);
    desk.end(ended, later(1));
    assert!(ok(store.delete(ended)));
    arrives(run, 6, false);
}

pub fn a_message_is_consumed_from_its_place_on(store: &dyn Store) {
    let desk = Desk::new(store);
    let (run, other) = (desk.create(START, None), desk.create(START, None));
    for (to, number) in [(other, 11), (run, 2), (run, 1), (other, 12), (run, 3)] {
        assert_eq!(ok(store.send(to, &message(number, "go"))), Sent::Stored);
    }
    let stored = ok(store.messages(run, 0));
    let consume = |number, from| {
        desk.commit(vec![Write::Consumed { run: run.row(), number, id: None, from }]);
        (numbers(&ok(store.messages(run, 0))), numbers(&ok(store.messages(other, 0))))
    };
    assert_eq!(consume(1, stored[1].seq), (vec![2, 3], vec![11, 12]), "its own place");
    assert_eq!(consume(3, stored[0].seq), (vec![2], vec![11, 12]), "an earlier place");
    assert_eq!(consume(2, stored[0].seq), (vec![], vec![11, 12]));
}

pub fn one_id_is_one_message_of_its_run(store: &dyn Store) {
    let desk = Desk::new(store);
    let (run, other) = (desk.create(START, None), desk.create(START, None));
    assert_eq!(ok(store.send(run, &with_id(1, "x"))), Sent::Stored);
    assert_eq!(ok(store.send(run, &with_id(2, "x"))), Sent::Duplicate);
    assert_eq!(ok(store.send(run, &Message { address: Address::signal("other"), ..with_id(3, "x") })), Sent::Duplicate);
    assert_eq!(ok(store.send(other, &with_id(4, "x"))), Sent::Stored);
    // Its owner did not know of it yet: there is one, and it stays until a wait consumes it.
    desk.commit(vec![write(run, with_id(5, "x"), false)]);
    assert_eq!(numbers(&desk.load(run).messages), [1]);
    assert!(!desk.load(run).messages[0].consumed);
    desk.commit(vec![consumed(run, 5, Some("x"))]);
    let kept = desk.load(run).messages;
    assert!(kept.len() == 1 && kept[0].consumed && kept[0].message.id.as_deref() == Some("x"), "{kept:?}");
    assert_eq!(ok(store.send(run, &with_id(6, "x"))), Sent::Duplicate);
    // Consumed as it came, and again where another one was there before.
    desk.commit(vec![write(run, with_id(7, "y"), true), write(other, with_id(8, "x"), true)]);
    assert_eq!(ok(store.send(run, &with_id(9, "y"))), Sent::Duplicate);
    assert!(desk.load(run).messages[1].consumed && desk.load(other).messages[0].consumed);
}

pub fn a_message_is_refused_where_nobody_can_take_it(store: &dyn Store) {
    let desk = Desk::new(store);
    let (run, ended, paused) = (desk.create(START, None), desk.create(START, None), desk.create(START, None));
    desk.end(ended, later(1));
    desk.commit(vec![update(paused, RunStatus::Paused, None)]);
    let send = |run, message: &Message| ok(store.send(run, message));
    assert_eq!(send(ended, &message(1, "go")), Sent::Ended(RunStatus::Completed));
    assert_eq!(send(fresh_id(START), &message(2, "go")), Sent::NoRun);
    assert_eq!(send(RunId(run.0 ^ 1), &message(3, "go")), Sent::NoRun, "another run with its row number");
    assert_eq!(send(paused, &message(4, "go")), Sent::Stored, "it may continue");

    ok(store.declare(desk.version, Some(&["go".into(), "stop".into()])));
    assert_eq!(send(run, &message(5, "stop")), Sent::Stored);
    assert_eq!(send(run, &message(6, "sotp")), Sent::Undeclared(vec!["go".into(), "stop".into()]));
    ok(store.declare(desk.version, Some(&[])));
    assert_eq!(send(run, &message(7, "stop")), Sent::Undeclared(vec![]));
    ok(store.declare(desk.version, None));
    assert_eq!(send(run, &message(8, "anything")), Sent::Stored);

    let yes = || Ok(Value::tagged(b't', b""));
    assert_eq!(send(run, &answer(9, "forged", yes())), Sent::NoCallback);
    make_callback(&desk, run, "secret");
    assert_eq!(send(paused, &answer(10, "secret", yes())), Sent::NoCallback, "the callback of another run");
    assert_eq!(send(run, &Message { id: Some("a".into()), ..answer(11, "secret", yes()) }), Sent::Stored);
    assert_eq!(send(run, &answer(12, "secret", yes())), Sent::Answered);
    assert_eq!(send(run, &Message { id: Some("a".into()), ..answer(13, "secret", yes()) }), Sent::Duplicate);
    assert_eq!(numbers(&ok(store.messages(run, 0))), [5, 8, 11]);
    assert_eq!(ok(store.messages(ended, 0)), []);
}

pub fn declared_signals_read_back_with_their_version(store: &dyn Store) {
    let register = |version: &str| ok(store.register("ingest", version, &names(&["fetch"])));
    let signals = ["go".to_owned(), "ž\"[".to_owned()];
    let first = register("v1");
    assert_eq!(first.signals, None);
    ok(store.declare(first.version, Some(&signals)));
    assert_eq!((register("v1").signals.as_deref(), register("v2").signals), (Some(&signals[..]), None));
    ok(store.declare(first.version, None));
    assert_eq!(register("v1").signals, None);
}

pub fn messages_go_with_their_run(store: &dyn Store) {
    let desk = Desk::new(store);
    let runs = [(); 3].map(|()| desk.create(START, None));
    for (run, number) in runs.iter().zip(1..) {
        assert_eq!(ok(store.send(*run, &with_id(number, "x"))), Sent::Stored);
    }
    desk.end(runs[0], later(1));
    desk.end(runs[1], later(2));
    assert!(ok(store.delete(runs[0])));
    assert_eq!(purge_all(store, later(9)), 1);
    assert_eq!(ok(store.mail(0)).len(), 1);
    assert_eq!(numbers(&desk.load(runs[2]).messages), [3]);
    assert_eq!(ok(store.messages(runs[0], 0)), []);
}

pub fn a_fenced_owner_neither_sends_nor_consumes(store: &dyn Store) {
    let (desk, other) = (Desk::new(store), Desk::new(store));
    let run = desk.create(START, None);
    assert_eq!(ok(store.send(run, &message(1, "go"))), Sent::Stored);
    ok(store.leave(desk.lease));
    assert_eq!(other.claim(START), [run]);
    let mut batch = vec![write(run, message(2, "go"), false), consumed(run, 1, None)];
    fenced(store.commit(desk.lease, &mut batch), desk.lease);
    assert_eq!(numbers(&other.load(run).messages), [1]);
    assert_eq!(ok(store.send(run, &message(3, "go"))), Sent::Stored, "anybody may send");
}

pub fn a_message_ends_a_wait_for_changes(store: &dyn Store) {
    let desk = Desk::new(store);
    let run = desk.create(START, None);
    let look = |seen| ok(store.wait_for_changes(seen, Duration::ZERO));
    let seen = look(Seen::default()).seen;
    assert!(!look(seen).mail);
    let changes = std::thread::scope(|scope| {
        let waits = scope.spawn(|| ok(store.wait_for_changes(seen, Duration::from_secs(600))));
        assert_eq!(ok(store.send(run, &message(1, "go"))), Sent::Stored);
        waits.join().unwrap_or_else(|_| panic!("the wait failed"))
    });
    assert!(changes.mail && !changes.unowned);
    assert!(!look(changes.seen).mail);
    // What nobody could take is no mail, nor is what the owner writes itself.
    desk.end(desk.create(START, None), later(1));
    desk.commit(vec![write(run, message(2, "go"), false)]);
    assert_eq!(ok(store.send(fresh_id(START), &message(3, "go"))), Sent::NoRun);
    assert!(!look(changes.seen).mail);
}
