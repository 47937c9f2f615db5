//! Messages, callbacks, requests, combinations and child runs on worker threads. Who sends to a run is one of its own
//! bodies, so that a crash interrupts that too: with an id, by which a message that is sent again is the same one.

use std::sync::Arc;
use std::time::Duration;

use bide_executor::core::attempt::{Part, PartRequest};
use bide_executor::core::{Address, Channel, Failure, FailureKind, MessageKind, RetryPolicy, RunId, RunStatus, Value};
use bide_executor::store::{Sent, StoreError};
use bide_executor::{CallError, Letter, PendingRequest, Polled, Reply, RunRequest, StartIdentity};

use crate::threads::{Body, Defined, Function, Threads, number_of, number_value, raised, task};
use crate::world::HANG;

/// A wait of its own, or a member of a combination.
fn part(name: &str, part: Part) -> PartRequest {
    PartRequest { name: name.into(), part, timeout: None }
}

pub(super) fn signal(name: &str) -> PartRequest {
    part(name, Part::Message(Address::signal(name)))
}

fn answer(secret: &str) -> PartRequest {
    part("answer", Part::Message(answer_address(secret)))
}

fn answer_address(secret: &str) -> Address {
    Address { kind: MessageKind::Answer, name: secret.into() }
}

fn rejected() -> Failure {
    Failure::new(FailureKind::CallbackRejected, "bide.CallbackRejected", "no")
}

/// The number after that of a request, in the value of a wait for it.
fn taken(value: &Value) -> (i64, u32) {
    let (number, sent) = value.payload().split_first_chunk().unwrap();
    (i64::from_be_bytes(*number), number_of(&Value::new(sent)))
}

impl Body<'_> {
    /// Calls the engine until it has an outcome: a call that has failed may have been carried out or not.
    fn until_known<T>(&self, mut call: impl FnMut() -> Result<T, StoreError>) -> Result<T, CallError> {
        loop {
            match call() {
                Ok(outcome) => return Ok(outcome),
                Err(_) if self.cx.engine().stopped().is_some() || self.cx.suspending() => {
                    return Err(CallError::Suspended);
                }
                Err(_) => std::thread::yield_now(),
            }
        }
    }

    fn letter(&self, address: Address, id: &str, content: Reply) -> Letter {
        Letter { run: self.cx.run().id, address, id: Some(id.into()), content }
    }

    fn send(&self, address: &Address, id: &str, content: &Reply) -> Result<Sent, CallError> {
        self.until_known(|| self.cx.engine().send(self.letter(address.clone(), id, content.clone())))
    }

    /// Sends a signal to its own run.
    fn signal(&self, name: &str, id: &str, number: u32) -> Result<(), CallError> {
        let sent = self.send(&Address::signal(name), id, &Ok(number_value(number)))?;
        assert!(matches!(sent, Sent::Stored | Sent::Duplicate), "{sent:?}");
        Ok(())
    }

    /// The first answer to a callback, which is the same one again, and a second, which is refused.
    fn answers(&self, secret: &str, content: &Reply) -> Result<(), CallError> {
        let first = self.send(&answer_address(secret), &format!("first to {secret}"), content)?;
        assert!(matches!(first, Sent::Stored | Sent::Duplicate), "{first:?}");
        let second = self.send(&answer_address(secret), &format!("second to {secret}"), &Ok(number_value(99)))?;
        assert_eq!(second, Sent::Answered);
        Ok(())
    }

    fn request(&self, id: &str, number: u32) -> Result<PendingRequest<Threads>, CallError> {
        let address = Address { kind: MessageKind::Request, name: "ask".into() };
        let sent = self.until_known(|| {
            let letter = self.letter(address.clone(), id, Ok(number_value(number)));
            self.cx.engine().request(letter)
        })?;
        Ok(sent.unwrap_or_else(|refused| panic!("{refused:?}")))
    }

    pub(super) fn wait_one(&mut self, one: PartRequest) -> Result<Value, CallError> {
        self.cx.wait_parts(self.thread, vec![one], &mut || Polled::False).0
    }

    /// Makes a callback. Returns its secret, which the ledger has under this name.
    fn callback(&mut self, name: &str) -> Result<String, CallError> {
        let secret = self.cx.make_callback(self.thread, &"callback".into())?.address().name.to_string();
        self.task.ledger.secrets.lock().unwrap().insert(name.to_owned(), secret.clone());
        Ok(secret)
    }

    fn secret(&self, name: &str) -> Option<String> {
        self.task.ledger.secrets.lock().unwrap().get(name).cloned()
    }

    /// Starts children, each with its key, in one commit. However often that is tried, they are the same.
    fn start(&mut self, name: &'static str, child: Function, keys: &[&str]) -> Result<Vec<RunId>, CallError> {
        let workflow = self.registered(name, child)?;
        let start = |key: &&str| (StartIdentity::Key((*key).into()), RunRequest::new(Box::default()));
        let started = self.cx.start_children(self.thread, &workflow, keys.iter().map(start).collect(), false)?;
        Ok(started.into_iter().map(|child| child.id).collect())
    }

    /// Starts one child and waits for it.
    fn child_of(&mut self, name: &'static str, child: Function) -> Result<(), CallError> {
        let children = self.start(name, child, &["1"])?;
        self.wait_one(part("child", Part::Child(children[0]))).map(drop)
    }

    /// The children of its run are these, with these statuses.
    fn children_are(&self, expected: &[RunStatus]) {
        if let Ok(children) = self.cx.engine().store().children(self.cx.run().id) {
            assert_eq!(children.iter().map(|(_, status)| *status).collect::<Vec<_>>(), expected);
        }
    }
}

fn signals_before_and_after_their_waits() -> Vec<Defined> {
    vec![
        task("a", &[], |body| {
            body.signal("early", "1", 1)?;
            let first = number_of(&body.wait_one(signal("early"))?);
            let between = body.step("between", 10)?;
            Ok(first + between + number_of(&body.wait_one(signal("late"))?))
        }),
        task("b", &[], |body| {
            let number = body.step("before", 100)?;
            body.signal("late", "2", number)?;
            body.step("after", 1000)
        }),
    ]
}

fn a_callback_that_is_answered() -> Vec<Defined> {
    vec![task("a", &[], |body| {
        let secret = body.callback(&format!("secret {}", body.task.ledger.times("a")))?;
        let number = body.step("ask", 7)?;
        body.answers(&secret, &Ok(number_value(35)))?;
        let answered = number_of(&body.wait_one(answer(&secret))?);
        let last = body.step("then", number + answered)?;
        // A later wait for it gets the same.
        Ok(last + number_of(&body.wait_one(answer(&secret))?))
    })]
}

/// The answer comes from another thread, and the slot is released meanwhile.
fn a_callback_that_is_rejected_while_its_body_waits() -> Vec<Defined> {
    vec![
        task("a", &[], |body| {
            let secret = body.callback("secret")?;
            match body.wait_one(answer(&secret)) {
                Err(CallError::Failed(failure)) if failure.kind == FailureKind::CallbackRejected => {
                    body.step("undo", 3)
                }
                other => other.map(|_| 0),
            }
        }),
        task("b", &[], |body| {
            let (engine, run) = (Arc::clone(body.cx.engine()), body.cx.run().id);
            let ledger = Arc::clone(&body.task.ledger);
            let mut rejects = || {
                let made = ledger.secrets.lock().unwrap().get("secret").cloned();
                let Some(secret) = made else { return Polled::False };
                let (address, id) = (answer_address(&secret), Some("first".into()));
                match engine.send(Letter { run, address, id, content: Err(rejected()) }) {
                    Ok(Sent::Stored | Sent::Duplicate) => Polled::True(Value::NONE),
                    // It is not made yet.
                    Ok(Sent::NoCallback) | Err(_) => Polled::False,
                    other => panic!("{other:?}"),
                }
            };
            body.wait_for("made", None, &mut rejects)?;
            Ok(2)
        }),
    ]
}

/// The callback of each turn is dropped with its journal, and an answer to it is refused from then on.
fn callbacks_and_events_in_a_loop_with_checkpoints() -> Vec<Defined> {
    vec![task("a", &[], |body| {
        let channel = Channel { name: "log".into(), type_name: "".into(), keep: None };
        let mut turn = body.cx.last_checkpoint().map_or(0, |state| number_of(&state));
        while turn < 3 {
            turn += 1;
            body.cx.emit(body.thread, &channel, &number_value(turn))?;
            let secret = body.callback(&format!("secret {turn}"))?;
            body.cx.progress(f64::from(turn), Some(3.0), None)?;
            if turn < 3 {
                body.answers(&secret, &Ok(number_value(turn)))?;
                assert_eq!(number_of(&body.wait_one(answer(&secret))?), turn);
            }
            body.cx.checkpoint(body.thread, number_value(turn))?;
            body.task.ledger.has_event(body.cx.run().id, turn);
        }
        let last = body.secret("secret 3").unwrap();
        let late = body.send(&answer_address(&last), "late", &Ok(number_value(1)))?;
        assert_eq!(late, Sent::NoCallback);
        body.step("then", turn)
    })]
}

fn the_first_of_a_signal_and_a_callback() -> Vec<Defined> {
    vec![task("a", &[], |body| {
        let secret = body.callback("secret")?;
        let any = Part::Any(vec![1, 2, 3]);
        let parts = vec![
            part("first of", any),
            signal("go"),
            answer(&secret),
            part("after", Part::After(Duration::from_secs(3600 * 24))),
        ];
        body.answers(&secret, &Ok(number_value(5)))?;
        let (won, outcomes) = body.cx.wait_parts(body.thread, parts, &mut || Polled::False);
        won?;
        let Some(Ok(value)) = &outcomes[2] else { panic!("{outcomes:?}") };
        let answered = body.step("then", number_of(value))?;
        // The signal is there still for who waits for it.
        body.signal("go", "1", 7)?;
        Ok(answered + number_of(&body.wait_one(signal("go"))?))
    })]
}

fn all_of_a_signal_and_a_child() -> Vec<Defined> {
    vec![
        task("a", &[], |body| {
            let children = body.start("inner", |body| body.step("inner step", 3), &["1"])?;
            let parts =
                vec![part("all of", Part::All(vec![1, 2])), signal("go"), part("child", Part::Child(children[0]))];
            let (done, outcomes) = body.cx.wait_parts(body.thread, parts, &mut || Polled::False);
            done?;
            body.children_are(&[RunStatus::Completed]);
            let Some(Ok(value)) = &outcomes[1] else { panic!("{outcomes:?}") };
            body.step("then", number_of(value))
        }),
        task("b", &[], |body| {
            body.signal("go", "1", 7)?;
            Ok(1)
        }),
    ]
}

fn requests_of_which_one_is_answered() -> Vec<Defined> {
    vec![task("a", &[], |body| {
        let (first, second) = (body.request("1", 1)?, body.request("2", 2)?);
        let address = Address { kind: MessageKind::Request, name: "ask".into() };
        let (number, value) = taken(&body.wait_one(part("ask", Part::Message(address.clone())))?);
        body.step("work", value + 10)?;
        body.cx.reply(body.thread, "ask", number, Ok(number_value(value + 20)))?;
        let (refuses, other) = taken(&body.wait_one(part("ask", Part::Message(address)))?);
        let why = Failure::new(FailureKind::RequestRefused, "bide.RequestRefused", "no");
        body.cx.reply(body.thread, "ask", refuses, Err(why.clone()))?;
        assert_eq!(first.wait(HANG), Some(Ok(number_value(21))));
        assert_eq!(second.wait(HANG).map(|answer| answer.map_err(|why| why.message())), Some(Err(why.message())));
        Ok(value + other)
    })]
}

fn a_child_that_fails_and_is_replaced() -> Vec<Defined> {
    let mut a = task("a", &[], |body| {
        let number = body.step("before", 7)?;
        let fails: Function = |body| {
            let first = body.task.ledger.siblings(body.cx.run().id).1 == 1;
            if first { Err(raised("it broke")) } else { body.step("inner step", 3) }
        };
        let children = body.start("inner", fails, &["1"])?;
        match body.wait_one(part("child", Part::Child(children[0]))) {
            Err(CallError::Failed(failure)) if failure.kind == FailureKind::ChildFailed => {
                Err(raised("its child broke"))
            }
            other => other.map(|_| number),
        }
    });
    a.spec.retry = RetryPolicy { delay: Duration::ZERO, jitter: 0.0, ..RetryPolicy::new(2) };
    vec![a]
}

fn several_children_at_once() -> Vec<Defined> {
    vec![task("a", &[], |body| {
        let children = body.start("inner", |body| body.step("inner step", 3), &["1", "2", "3"])?;
        let between = body.step("between", 7)?;
        let mut parts = vec![part("all of", Part::All(vec![1, 2, 3]))];
        parts.extend(children.iter().map(|child| part("child", Part::Child(*child))));
        body.cx.wait_parts(body.thread, parts, &mut || Polled::False).0?;
        body.children_are(&[RunStatus::Completed; 3]);
        Ok(between)
    })]
}

/// One slot is enough for all of them, because who waits has none.
fn a_child_of_a_child() -> Vec<Defined> {
    vec![task("a", &[], |body| {
        body.child_of("outer child", |body| {
            body.child_of("inner child", |body| body.step("inner step", 3))?;
            body.step("outer step", 4)
        })?;
        body.step("last", 5)
    })]
}

crash_points! {
    signals_before_and_after_their_waits
    a_callback_that_is_answered
    a_callback_that_is_rejected_while_its_body_waits
    callbacks_and_events_in_a_loop_with_checkpoints
    the_first_of_a_signal_and_a_callback
    all_of_a_signal_and_a_child
    requests_of_which_one_is_answered
    a_child_that_fails_and_is_replaced
    several_children_at_once
    a_child_of_a_child
}
