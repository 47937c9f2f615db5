//! The messages that come to the runs of a world, and the answers to their callbacks.

use std::sync::Arc;

use bide_core::record::{RunRow, RunRowId};
use bide_core::{Address, Failure, FailureKind, Message, MessageKind, RunId, RunStatus, StoredMessage};
use bide_executor::{Clock, Letter as Sending};
use bide_store::{Sent, Store, StoreError};

use super::super::body::number;
use super::super::oracle::answers::Content;
use super::super::oracle::mail::value_of;
use super::super::plan::{Letter, Sender, Target, answer_address, request_address, signal_name};
use super::{World, key_of};

/// What a run waits for and somebody has to send.
enum Awaited {
    Signal(RunId, u8),
    Answer(RunRowId, Arc<str>),
    Request(RunId),
}

impl World {
    /// The messages are sent whose time has come.
    pub(super) fn deliver(&mut self) {
        let due = |letter: &Letter| letter.at <= self.moves;
        let Some(at) = self.letters.iter().position(due) else { return };
        let letter = self.letters[at];
        let runs = self.base.by_key(&key_of(letter.run), None).unwrap_or_default();
        if let [(run, _)] = runs[..] {
            self.letters.remove(at);
            match letter.to {
                Target::Request => self.request(run, letter.from),
                Target::Signal(signal) => self.send(run, signal, letter.id, letter.from),
                Target::Answer(nth) => {
                    let callback = self.shared.oracle.lock().nth_callback(usize::from(nth));
                    callback.into_iter().for_each(|(run, secret)| self.answer(run, &secret, letter.id, letter.from));
                }
            }
        }
    }

    /// Nothing else happens: now and then somebody sends what a run waits for, or registers the workflow of a child
    /// that nobody executes.
    pub(super) fn supply(&mut self) {
        if !self.rng.one_in(3) {
            return;
        }
        let running = |row: &RunRow| row.status == RunStatus::Running;
        let rows = self.rows();
        if rows.iter().any(|row| row.parent.is_some() && running(row)) && !self.processes.is_empty() {
            let which = self.rng.below(self.processes.len());
            let _ = self.processes[which].register_child();
        }
        let awaited: Vec<Awaited> = {
            let oracle = self.shared.oracle.lock();
            let of_run = |row: &RunRow| {
                let awaits = |signal: &u8| oracle.awaits(row.id.row(), &signal_name(*signal));
                let signals = (0..3).filter(awaits).map(|signal| Awaited::Signal(row.id, signal));
                let request = oracle.awaits_request(row.id.row()).then_some(Awaited::Request(row.id));
                let callbacks = oracle.awaited_callbacks(row.id.row()).into_iter();
                let callbacks = callbacks.map(|secret| Awaited::Answer(row.id.row(), secret));
                signals.chain(callbacks).chain(request).collect::<Vec<_>>()
            };
            rows.iter().filter(|row| running(row)).flat_map(of_run).collect()
        };
        if awaited.is_empty() {
            return;
        }
        let from = [Sender::Owner, Sender::Any, Sender::Outside][self.rng.below(3)];
        match &awaited[self.rng.below(awaited.len())] {
            Awaited::Signal(run, signal) => self.send(*run, *signal, None, from),
            Awaited::Request(run) => {
                self.request(*run, from);
                if self.rng.one_in(3) && !self.processes.is_empty() {
                    // Perhaps before it is taken.
                    let (which, nth) = (self.rng.below(self.processes.len()), self.rng.below(8));
                    self.processes[which].withdraw(nth);
                }
            }
            Awaited::Answer(run, secret) => {
                // Now and then somebody answers twice, or another callback that was made before.
                let id = self.rng.one_in(3).then(|| self.rng.below(2) as u8);
                self.answer(*run, secret, id, from);
                let nth = self.rng.below(4);
                let other = self.shared.oracle.lock().nth_callback(nth).filter(|_| self.rng.one_in(3));
                other.into_iter().for_each(|(run, secret)| self.answer(run, &secret, id, Sender::Any));
            }
        }
    }

    fn send(&mut self, run: RunId, signal: u8, id: Option<u8>, from: Sender) {
        self.sent += 1;
        let (value, address) = (number(self.sent), Address::signal(&signal_name(signal)));
        let id: Option<Arc<str>> = id.map(|id| format!("id {id}").into());
        debug_assert_eq!(value_of(&value), Some(self.sent));
        self.shared.oracle.lock().is_sent(run.row(), &address, id.clone(), self.sent);
        let number = self.sent;
        let sent = self.send_from(from, Sending { run, address, id, content: Ok(value) });
        self.shared.oracle.lock().was_sent(number, &sent);
    }

    /// A request is sent. From outside nobody waits for the answer.
    fn request(&mut self, run: RunId, from: Sender) {
        self.sent += 1;
        let (value, address) = (self.sent, request_address());
        self.shared.oracle.lock().is_requested(run.row(), value);
        let letter = Sending { run, address, id: None, content: Ok(number(value)) };
        let sent = match self.sender(from, run) {
            Some(which) => self.processes[which].request(letter),
            None => {
                let message = self.message(letter);
                self.base.send(run, &message).map(|sent| match sent {
                    Sent::Stored => Ok(message.number),
                    refused => Err(refused),
                })
            }
        };
        self.shared.oracle.lock().was_requested(value, &sent);
    }

    /// A callback is answered: with an id always in the same way.
    fn answer(&mut self, run: RunRowId, secret: &str, id: Option<u8>, from: Sender) {
        let Some(run) = self.rows().into_iter().map(|row| row.id).find(|id| id.row() == run) else { return };
        self.sent += 1;
        let says = id.map_or(self.sent, u64::from);
        let content: Content = if says.is_multiple_of(3) {
            Err(Failure::new(FailureKind::CallbackRejected, "bide.CallbackRejected", &format!("no, {says}")))
        } else {
            Ok(number(says))
        };
        let id: Option<Arc<str>> = id.map(|id| format!("answer {id} to {secret}").into());
        let at = self.shared.oracle.lock().is_answered(secret, id.clone(), &content);
        let sent = self.send_from(from, Sending { run, address: answer_address(secret), id, content });
        self.shared.oracle.lock().was_answered(secret, at, &sent);
    }

    fn send_from(&mut self, from: Sender, letter: Sending) -> Result<Sent, StoreError> {
        match self.sender(from, letter.run) {
            Some(which) => self.processes[which].send(letter),
            None => self.base.send(letter.run, &self.message(letter)),
        }
    }

    /// The process that sends a message to a run; none if it comes from outside.
    fn sender(&mut self, from: Sender, run: RunId) -> Option<usize> {
        let owner = self.rows().iter().find(|row| row.id == run).and_then(|row| row.runner);
        let able = |which: &usize| !self.processes[*which].is_frozen() && !self.processes[*which].is_over();
        let able: Vec<usize> = (0..self.processes.len()).filter(able).collect();
        match from {
            Sender::Owner => {
                let is_owner = |which: &usize| owner.is_some_and(|owner| self.processes[*which].is_runner(owner));
                able.into_iter().find(is_owner)
            }
            Sender::Any if able.is_empty() => None,
            Sender::Any => Some(able[self.rng.below(able.len())]),
            Sender::Outside => None,
        }
    }

    /// A message from outside.
    fn message(&self, letter: Sending) -> Message {
        let Sending { address, id, content, .. } = letter;
        // No process makes such a number.
        let (number, sent_at) = (-(self.sent as i64), self.shared.clock.now());
        Message { number, address, id, content, sent_at }
    }

    /// The messages in the store that no wait has consumed, by their values.
    pub(super) fn queued(&self, rows: &[RunRow], run: RunRowId) -> Vec<u64> {
        let id = rows.iter().find(|row| row.id.row() == run).map(|row| row.id);
        let messages = id.and_then(|id| self.base.messages(id, 0).ok()).unwrap_or_default();
        let signals = |stored: &&StoredMessage| stored.message.address.kind == MessageKind::Signal;
        let queued = messages.iter().filter(|stored| !stored.consumed).filter(signals);
        queued.filter_map(|stored| value_of(stored.message.content.as_ref().ok()?)).collect()
    }
}
