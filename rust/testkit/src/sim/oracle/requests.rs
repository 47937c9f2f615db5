//! What must hold of requests: the oracle's own record of those that were sent and of their answers, and the
//! guarantees.

use std::collections::HashMap;
use std::time::Duration;

use bide_core::record::RunRowId;
use bide_core::{
    Batch, Entry, EntryKey, EntryState, FailureKind, MessageKind, Operation, TaskIx, TaskStatus, Value, Write,
};
use bide_store::{Sent, StoreError};

use super::Oracle;
use super::answers::Content;
use super::mail::value_of;

/// A request that somebody has sent, or tried to.
#[derive(Clone, Debug)]
struct Request {
    run: RunRowId,
    /// Tells it from all others, and is what it says.
    value: u64,
    /// Its number, once it is known.
    number: Option<i64>,
    /// It was not stored.
    refused: bool,
    /// The wait that has taken it.
    taken_by: Option<(TaskIx, EntryKey)>,
}

/// What was sent, and the answers.
#[derive(Clone, Default)]
pub(super) struct Requests {
    all: Vec<Request>,
    /// The answers that are committed, by the number of the request.
    answers: HashMap<i64, Content>,
    /// What bodies have answered, whether or not that is committed.
    replies: HashMap<i64, Content>,
    /// Since when, by the steady clock, an answer is committed that its sender has not got.
    passed_over: HashMap<i64, Duration>,
}

/// The number of a request and what it says, from the value of a wait for it.
pub(in super::super) fn taken(value: &Value) -> Option<(i64, u64)> {
    let (number, sent) = value.payload().split_first_chunk()?;
    Some((i64::from_be_bytes(*number), value_of(&Value::new(sent))?))
}

fn is_request(entry: &Entry) -> bool {
    matches!(&entry.operation, Operation::Message(address) if address.kind == MessageKind::Request)
}

impl Oracle {
    /// A request is about to be sent.
    pub fn is_requested(&mut self, run: RunRowId, value: u64) {
        self.note(format!("requests {value}"));
        self.requests.all.push(Request { run, value, number: None, refused: false, taken_by: None });
    }

    /// What came of it.
    pub fn was_requested(&mut self, value: u64, outcome: &Result<Result<i64, Sent>, StoreError>) {
        self.note(format!("has requested {value}: {outcome:?}"));
        let Some(at) = self.requests.all.iter().position(|request| request.value == value) else { return };
        let ended = self.run(self.requests.all[at].run).is_some_and(|run| run.status.is_ended());
        let right = match outcome {
            Ok(Err(Sent::Ended(_))) => ended,
            Ok(Err(_)) => false,
            Ok(Ok(_)) | Err(_) => true,
        };
        self.must(right, "a request is refused for no reason", || format!("{value}: {outcome:?}"));
        let request = &mut self.requests.all[at];
        match outcome {
            Ok(Ok(number)) => request.number = Some(*number),
            Ok(Err(_)) => request.refused = true,
            Err(_) => {}
        }
    }

    /// A body answers a request that it has taken.
    pub fn replies(&mut self, request: i64, answer: &Content) {
        self.requests.replies.insert(request, answer.clone());
    }

    /// Whether a task of a run waits for a request.
    #[must_use]
    pub fn awaits_request(&self, run: RunRowId) -> bool {
        let running = |ix: &TaskIx| self.task(run, *ix).is_some_and(|task| task.status == TaskStatus::Running);
        let open = |entry: &Entry| entry.state == EntryState::Open && is_request(entry);
        self.entries.iter().any(|((of, ix, _), entry)| *of == run && running(ix) && open(entry))
    }

    /// One wait takes a request, and none takes one that was answered before: withdrawn, say.
    pub(super) fn a_request_is_taken_once(&mut self, run: RunRowId, ix: TaskIx, entry: &Entry) {
        if !is_request(entry) || entry.state != EntryState::Satisfied {
            return;
        }
        let place = (ix, entry.key.clone());
        let Some((number, value)) = entry.value.as_ref().and_then(taken) else {
            return self.must(false, "a request has no number", || format!("{entry:?}"));
        };
        let to_it = |request: &Request| request.run == run && request.value == value;
        let at = self.requests.all.iter().position(to_it);
        let request = at.map(|at| self.requests.all[at].clone());
        let answered = self.requests.answers.contains_key(&number);
        let again = |request: &Request| request.taken_by.as_ref() == Some(&place);
        let right = request.as_ref().is_some_and(|request| {
            again(request)
                || (request.taken_by.is_none()
                    && !request.refused
                    && !answered
                    && request.number.is_none_or(|it| it == number))
        });
        self.must(right, "a request is taken that is not there", || {
            format!("{request:?} by {place:?}; answered: {answered}")
        });
        if let Some(at) = at {
            self.requests.all[at].taken_by = Some(place);
            self.requests.all[at].number = Some(number);
        }
        self.meets("a request that a body takes");
    }

    /// A request has one answer: what the body said, or a refusal.
    pub(super) fn a_request_has_one_answer(&mut self, number: i64, answer: &Content) {
        let before = self.requests.answers.get(&number).cloned();
        let of = self.requests.all.iter().find(|request| request.number == Some(number)).map(|request| request.run);
        if before.is_some() && of.is_some_and(|run| self.is_retried(run)) {
            // The task that has taken it is done again. The first answer stands.
            return;
        }
        self.must(before.is_none(), "a request is answered twice", || format!("{number}: {before:?}, then {answer:?}"));
        let said = self.requests.replies.get(&number).cloned();
        let refused = answer.as_ref().is_err_and(|why| why.kind == FailureKind::RequestRefused);
        self.must(refused || said.as_ref() == Some(answer), "an answer is not what the body said", || {
            format!("{number}: {answer:?} instead of {said:?}")
        });
        self.meets(if refused { "a request that is refused" } else { "a request that is answered" });
        self.requests.answers.insert(number, answer.clone());
    }

    /// A task that has ended has left no request without an answer that it had taken.
    pub(super) fn what_a_task_has_taken_is_answered_at_its_end(&mut self, batch: &Batch) {
        for write in batch {
            let (run, ix) = match write {
                Write::Task(row) if row.status.is_ended() => (row.run, self.place(row.run, row.task, row.map)),
                Write::Done(done) => (done.run, self.place(done.run, done.task, done.map)),
                _ => continue,
            };
            let taken =
                |request: &&Request| request.run == run && request.taken_by.as_ref().is_some_and(|by| by.0 == ix);
            let open = |request: &&Request| !request.number.is_some_and(|it| self.requests.answers.contains_key(&it));
            let left = self.requests.all.iter().filter(taken).find(open).cloned();
            self.must(left.is_none(), "a task ends and leaves a request without an answer", || format!("{left:?}"));
        }
    }

    /// What the sender of a request gets is committed.
    pub fn a_sender_gets_the_committed_answer(&mut self, number: i64, got: &Content) {
        let committed = self.requests.answers.get(&number).cloned();
        self.must(committed.as_ref() == Some(got), "a sender gets an answer that is not committed", || {
            format!("{number}: {got:?} instead of {committed:?}")
        });
        self.meets("an answer that reaches the sender of its request");
    }

    /// A sender that waits gets the answer: 31 s after it was committed at most.
    pub fn no_answer_to_a_request_is_missed(&mut self, number: i64, steady: Duration) {
        if !self.requests.answers.contains_key(&number) {
            return;
        }
        let since = *self.requests.passed_over.entry(number).or_insert(steady);
        let span = steady.saturating_sub(since);
        self.must(span <= Duration::from_secs(31), "an answer to a request is not delivered", || {
            format!("{number}, for {span:?}")
        });
    }
}
