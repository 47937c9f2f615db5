//! Messages: each closes the oldest open wait for its address in the commit that brings it, or is queued. And the
//! answers to requests: given by the body that has taken one, else refused when nobody can give one any more.

use std::sync::Arc;

use crate::entry::{EntryKey, EntryState, Lookup, Operation};
use crate::event::{Effect, Refused, Wait};
use crate::failure::{Failure, FailureKind};
use crate::id::TaskRef;
use crate::journal::Recall;
use crate::message::{Address, Mailbox, Message, MessageKind, NotedWait, Queued, StoredMessage, answered_value};
use crate::record::Write;
use crate::shown::shown;
use crate::status::{RunStatus, TaskStatus};
use crate::time::Time;
use crate::value::Value;

use super::{Out, RunState, TaskDetail};

/// The answer to a request that nobody answers.
fn refused(why: &str) -> Failure {
    Failure::new(FailureKind::RequestRefused, "bide.RequestRefused", &shown(why))
}

impl RunState {
    /// A look into the store for messages of others begins. Returns the `seq` of the last one that was found before.
    /// [`Event::Mail`](crate::Event::Mail) ends it; if there is nothing to apply, end it by [`RunState::end_look`].
    pub fn begin_look(&mut self) -> i64 {
        self.mail().begin_look()
    }

    /// A look into the store has ended without messages.
    pub fn end_look(&mut self) {
        self.mail().end_look();
    }

    /// The store's count of arrivals before the last look that has found all there was.
    pub fn seen_arrivals(&self) -> Option<u64> {
        self.run_detail.as_ref()?.mail.as_ref()?.arrivals
    }

    /// A look that began after the store's count of arrivals was this has ended, and what it found was applied.
    pub fn see_arrivals(&mut self, arrivals: Option<u64>) {
        self.mail().arrivals = arrivals;
    }

    /// A message that was sent from this process is not in the store any more: see [`Effect::Consumed`].
    pub fn forget_message(&mut self, number: i64) {
        self.mail().forget(number);
    }

    /// What a look into the store has found: whether all of it was sent from this process. Then the look has ended.
    pub fn find_own(&mut self, messages: &[StoredMessage]) -> bool {
        let mail = self.mail();
        let own = messages.iter().all(|stored| mail.is_own(stored.message.number));
        if own {
            for stored in messages {
                mail.receive(&stored.message, Some(stored.seq));
            }
            mail.end_look();
        }
        own
    }

    fn mail(&mut self) -> &mut Mailbox {
        self.run_detail().mail.get_or_insert_default()
    }

    /// A message that was sent from this process.
    pub(super) fn message(&mut self, message: Message, out: &mut Out<'_>) -> Result<(), Refused> {
        let mail = self.mail();
        let is_answer = message.address.kind == MessageKind::Answer;
        if is_answer && let Some(first) = mail.take(&message.address) {
            return Err(if message.repeats(&first.message) { Refused::Duplicate } else { Refused::Answered });
        }
        if message.id.as_ref().is_some_and(|id| mail.has_id(id)) {
            // An answer must not be taken for another message.
            return Err(if is_answer { Refused::IdTaken } else { Refused::Duplicate });
        }
        mail.receive(&message, None);
        self.deliver(message, None, out);
        Ok(())
    }

    /// Messages that others have stored.
    pub(super) fn mail_came(&mut self, messages: Vec<StoredMessage>, out: &mut Out<'_>) {
        for StoredMessage { seq, message, consumed } in messages {
            let new = self.mail().receive(&message, Some(seq));
            if new && !consumed {
                self.deliver(message, Some(seq), out);
            }
        }
        self.mail().end_look();
    }

    /// `stored`: where the store has it, as [`Queued::from`]; None: it has not.
    fn deliver(&mut self, message: Message, stored: Option<i64>, out: &mut Out<'_>) {
        if message.address.kind == MessageKind::Control {
            let at = out.now;
            match stored {
                Some(from) => out.batch.push(Write::Applied { run: self.row(), number: message.number, from, at }),
                None => drop(self.store_message(&message, true, out)),
            }
            self.control(&message, out);
            return;
        }
        if message.address.kind == MessageKind::Withdrawal {
            let request = message.address.withdrawn().and_then(|number| self.mail().withdraw(number));
            request.into_iter().for_each(|request| self.withdrawn(&request, out));
            match stored {
                Some(from) => self.push_consumed(message.number, None, from, out),
                None => self.mail().forget(message.number),
            }
            return;
        }
        self.find_waits();
        let kept = message.address.kind == MessageKind::Answer;
        if kept {
            // Every wait for an answer gets it, those to come as well.
            let from = stored.unwrap_or_else(|| self.store_message(&message, false, out));
            let (address, content) = (message.address.clone(), message.content.clone());
            self.mail().queue(message, from);
            while let Some((task, key)) = self.next_wait(&address) {
                self.push_closed(task, &key, content.clone(), out);
            }
            return;
        }
        match self.next_wait(&message.address) {
            Some((task, key)) => {
                self.consumed(&message, stored, out);
                self.push_closed(task, &key, message.delivered(), out);
            }
            None => {
                let from = stored.unwrap_or_else(|| self.store_message(&message, false, out));
                self.mail().queue(message, from);
            }
        }
    }

    /// Returns the lowest `seq` that it can get.
    fn store_message(&mut self, message: &Message, consumed: bool, out: &mut Out<'_>) -> i64 {
        out.batch.push(Write::Message { run: self.row(), message: Box::new(message.clone()), consumed });
        self.mail().write()
    }

    fn push_consumed(&self, number: i64, id: Option<Arc<str>>, from: i64, out: &mut Out<'_>) {
        out.batch.push(Write::Consumed { run: self.row(), number, id, from });
    }

    /// A wait has consumed a message; `stored` as in [`RunState::deliver`].
    fn consumed(&mut self, message: &Message, stored: Option<i64>, out: &mut Out<'_>) {
        if let Some(from) = stored {
            let (number, id) = (message.number, message.id.clone());
            self.push_consumed(number, id, from, out);
            if message.id.is_none() && self.mail().is_own(number) {
                // A look into the store may still find it, until this is committed.
                out.effects.push(Effect::Consumed { number });
            }
        } else if message.id.is_some() {
            self.store_message(message, true, out);
        } else {
            self.mail().forget(message.number);
        }
    }

    /// The message that a wait finds when it is opened.
    pub(super) fn take_message(&mut self, address: &Address, out: &mut Out<'_>) -> Option<Result<Value, Failure>> {
        let Queued { message, from } = self.run_detail.as_mut()?.mail.as_mut()?.take(address)?;
        if address.kind != MessageKind::Answer {
            self.consumed(&message, Some(from), out);
        }
        Some(message.delivered())
    }

    /// A wait for the answer to a callback ends only if the callback is recorded: the store refuses every other answer.
    pub(super) fn recall_answer(&self, task: TaskRef, lookup: &Lookup, recall: Recall) -> Recall {
        let Lookup::Message(Address { kind: MessageKind::Answer, name: secret }) = lookup else { return recall };
        if !matches!(recall, Recall::Ask { .. } | Recall::Open { .. }) {
            return recall;
        }
        let made = |of: TaskRef| self.known_detail(of).is_some_and(|detail| detail.journal.has_callback(secret));
        if made(task) || self.all().any(|(other, _)| made(other)) { recall } else { Recall::NoCallback }
    }

    /// A wait for a message was opened and has found none.
    pub(super) fn note_wait(&mut self, address: &Address, task: TaskRef, key: &EntryKey) {
        if !self.run_detail.as_ref().and_then(|detail| detail.mail.as_ref()).is_some_and(|mail| mail.has_waits) {
            return;
        }
        // A body that waits in a loop for one of several leaves a wait that is over at each turn.
        while let Some(noted) = self.mail().first_wait(address).cloned()
            && !self.is_open_wait(&noted, address)
        {
            self.mail().next_wait(address);
        }
        let Some(since) = self.opened_at(task, key) else { return };
        self.mail().note_wait(address, (task, key.clone(), since));
    }

    /// The oldest open wait for an address.
    fn next_wait(&mut self, address: &Address) -> Option<(TaskRef, EntryKey)> {
        loop {
            let noted = self.mail().next_wait(address)?;
            if self.is_open_wait(&noted, address) {
                return Some((noted.0, noted.1));
            }
        }
    }

    /// When an open wait was opened.
    fn opened_at(&self, task: TaskRef, key: &EntryKey) -> Option<Time> {
        let opened_at = |detail: &TaskDetail| detail.journal.get(key).map(|entry| entry.opened_at);
        self.known_detail(task).map_or_else(|| self.bare_gate(task).as_ref().and_then(opened_at), opened_at)
    }

    fn is_open_wait(&self, (task, key, since): &NotedWait, address: &Address) -> bool {
        let task = *task;
        let waits = |operation: &Operation, state| {
            state == EntryState::Open && matches!(operation, Operation::Message(of) if of == address)
        };
        // A gate of an older version of the workflow waits for nothing.
        let gate = self.graph.spec(task.ix).gate.as_ref();
        let state = self.task(task);
        let can_wait = match state.status {
            TaskStatus::Pending => key.n == 0 && gate.is_some_and(|gate| gate.number_of(key).is_some()),
            TaskStatus::Running => key.n > 0,
            // It is about to be entered again, and its wait is older than those that open meanwhile.
            TaskStatus::Ready => key.n > 0 && state.reenter,
            _ => false,
        };
        can_wait
            && self.opened_at(task, key) == Some(*since)
            && match self.known_detail(task) {
                Some(detail) => detail.journal.get(key).is_some_and(|entry| waits(&entry.operation, entry.state)),
                None => self.bare_gate(task).is_some(),
            }
    }

    /// Finds the open waits for messages, once: as long as no message comes, nothing is kept of them but their entries.
    fn find_waits(&mut self) {
        if std::mem::replace(&mut self.mail().has_waits, true) {
            return;
        }
        let mut waits = Vec::new();
        for (task, state) in self.all() {
            let gate = self.bare_gate(task);
            let Some(detail) = state.detail.as_deref().or(gate.as_ref()) else { continue };
            for entry in detail.journal.open_entries() {
                if let Operation::Message(address) = &entry.operation {
                    waits.push((entry.opened_at, task, entry.seq, entry.key.clone(), address.clone()));
                }
            }
        }
        waits.sort_unstable_by_key(|(opened_at, task, seq, ..)| (*opened_at, *task, *seq));
        for (opened_at, task, _, key, address) in waits {
            self.mail().note_wait(&address, (task, key, opened_at));
        }
    }

    /// Takes all messages that no wait has consumed, but for requests that were withdrawn.
    pub(crate) fn take_queued(&mut self, out: &mut Out<'_>) -> Vec<Queued> {
        let Some(mail) = self.run_detail.as_mut().and_then(|detail| detail.mail.as_mut()) else { return Vec::new() };
        for number in mail.withdrawn() {
            if let Some(request) = self.mail().withdraw(number) {
                self.withdrawn(&request, out);
            }
        }
        self.mail().take_all()
    }

    /// Takes all control requests that came while nobody executed the run.
    pub(crate) fn take_controls(&mut self) -> Vec<Queued> {
        let mail = self.run_detail.as_mut().and_then(|detail| detail.mail.as_mut());
        mail.map_or_else(Vec::new, |mail| mail.take_controls())
    }

    /// Delivers stored messages, oldest first.
    pub(crate) fn deliver_all(&mut self, messages: Vec<Queued>, out: &mut Out<'_>) {
        for Queued { message, from } in messages {
            self.deliver(message, Some(from), out);
        }
    }

    /// A body answers a request that it has taken.
    pub(super) fn replied(
        &mut self,
        task: TaskRef,
        wait: Wait,
        request: i64,
        answer: Result<Value, Failure>,
        out: &mut Out<'_>,
    ) {
        self.recorded(task, wait, None, Ok(answered_value(request)), out);
        self.answer(request, answer, out);
    }

    fn answer(&self, request: i64, answer: Result<Value, Failure>, out: &mut Out<'_>) {
        let (run, number, answered_at) = (self.row(), request, out.now);
        out.batch.push(Write::Answer { run, number, answer: answer.clone(), answered_at });
        out.effects.push(Effect::Answered { request, answer });
    }

    /// The sender of a request has given up, and nobody has taken it.
    fn withdrawn(&self, request: &Queued, out: &mut Out<'_>) {
        self.refuse(request, "its sender does not wait for the answer any more", out);
    }

    /// Refuses a request that is in the store, and that no task has taken.
    fn refuse(&self, request: &Queued, why: &str, out: &mut Out<'_>) {
        let number = request.message.number;
        self.push_consumed(number, None, request.from, out);
        self.answer(number, Err(refused(why)), out);
    }

    /// A task loses its journal: refuses the requests that it has taken and not answered.
    pub(crate) fn refuse_taken(&self, task: TaskRef, why: &str, out: &mut Out<'_>) {
        self.refuse_unanswered(task, |_| true, why, out);
    }

    /// A body records a checkpoint, which leaves what the gate has taken.
    pub(super) fn refuse_taken_by_body(&self, task: TaskRef, why: &str, out: &mut Out<'_>) {
        self.refuse_unanswered(task, |key| key.n > 0, why, out);
    }

    fn refuse_unanswered(&self, task: TaskRef, is_lost: fn(&EntryKey) -> bool, why: &str, out: &mut Out<'_>) {
        let Some(detail) = self.known_detail(task) else { return };
        for (_, request) in detail.journal.unanswered().into_iter().filter(|(key, _)| is_lost(key)) {
            let name = self.graph.name_of(task);
            self.answer(request, Err(refused(&format!("task '{name}' {why}"))), out);
        }
    }

    /// The run ends: refuses the requests that no task has taken. None may take one when the run is retried.
    pub(super) fn refuse_queued(&mut self, status: RunStatus, out: &mut Out<'_>) {
        let Some(mail) = self.run_detail.as_ref().and_then(|detail| detail.mail.as_ref()) else { return };
        let mut requests: Vec<i64> = mail.requests().map(|request| request.number).collect();
        requests.sort_unstable();
        for request in requests {
            let why = format!("run {} has ended ({status}), and no task has taken it", self.id);
            if let Some(queued) = self.mail().withdraw(request) {
                self.refuse(&queued, &why, out);
            }
        }
    }

    /// Restores the messages of a stored run.
    pub(crate) fn restore_mail(&mut self, messages: Vec<StoredMessage>) {
        for StoredMessage { seq, message, consumed } in messages {
            if self.mail().receive(&message, Some(seq)) && !consumed {
                self.mail().queue(message, seq);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::event::Event;
    use crate::graph::{Graph, TaskSpec};
    use crate::id::RunId;
    use crate::time::Time;

    #[test]
    fn a_withdrawal_from_this_process_leaves_nothing_in_memory() {
        let graph = Graph::build("workflow", vec![TaskSpec::new("a")], false).expect("a graph");
        let mut state = RunState::new(RunId::new(1, 1, 0), Arc::new(graph), [1].into());
        let message = Message {
            number: 11,
            address: Address::withdrawal(1),
            id: None,
            content: Ok(Value::NONE),
            sent_at: Time(1),
        };
        for event in [Event::Begin, Event::Message { message: Box::new(message) }] {
            assert_eq!(state.apply(event, Time(1), &mut Vec::new(), &mut Vec::new()), Ok(()));
        }
        assert!(!state.mail().is_own(11));
    }
}
