//! Messages: each closes the oldest open wait for its address in the commit that brings it, or is queued.

use crate::entry::{Entry, EntryKey, EntryKind, EntryState, Operation};
use crate::event::Refused;
use crate::failure::Failure;
use crate::id::TaskRef;
use crate::message::{Address, Mailbox, Message, MessageKind, StoredMessage};
use crate::record::Write;
use crate::status::TaskStatus;
use crate::value::Value;

use super::{Out, RunState};

impl RunState {
    /// The highest `seq` of a message that was read from the store.
    #[must_use]
    pub fn mail_read(&self) -> i64 {
        self.run_detail.as_ref().and_then(|detail| detail.mail.as_ref()).map_or(0, |mail| mail.read)
    }

    /// Whether one of the run's bodies has made the callback with this secret.
    #[must_use]
    pub fn has_callback(&self, secret: &str) -> bool {
        let secret = Value::tagged(b's', secret.as_bytes());
        let made = |entry: &Entry| entry.kind() == EntryKind::Callback && entry.value.as_ref() == Some(&secret);
        self.all().filter_map(|(_, task)| task.detail.as_ref()).any(|detail| detail.journal.entries().any(made))
    }

    fn mail(&mut self) -> &mut Mailbox {
        self.run_detail().mail.get_or_insert_default()
    }

    /// A message that was sent from this process.
    pub(super) fn message(&mut self, message: Message, out: &mut Out<'_>) -> Result<(), Refused> {
        let mail = self.mail();
        if message.id.as_ref().is_some_and(|id| mail.has_id(id)) {
            return Err(Refused::Duplicate);
        }
        if message.address.kind == MessageKind::Answer && mail.take(&message.address).is_some() {
            return Err(Refused::Answered);
        }
        mail.receive(&message, None);
        self.deliver(message, false, out);
        Ok(())
    }

    /// Messages that others have stored.
    pub(super) fn mail_came(&mut self, messages: Vec<StoredMessage>, out: &mut Out<'_>) {
        for StoredMessage { seq, message, consumed } in messages {
            let new = self.mail().receive(&message, Some(seq));
            if new && !consumed {
                self.deliver(message, true, out);
            }
        }
    }

    fn deliver(&mut self, message: Message, stored: bool, out: &mut Out<'_>) {
        self.find_waits();
        let kept = message.address.kind == MessageKind::Answer;
        if kept {
            // Every wait for an answer gets it, those to come as well.
            if !stored {
                self.store_message(&message, false, out);
            }
            let (address, content) = (message.address.clone(), message.content.clone());
            self.mail().queue(message);
            while let Some((task, key)) = self.next_wait(&address) {
                self.push_closed(task, &key, content.clone(), out);
            }
            return;
        }
        match self.next_wait(&message.address) {
            Some((task, key)) => {
                self.consumed(&message, stored, out);
                self.push_closed(task, &key, message.content, out);
            }
            None => {
                if !stored {
                    self.store_message(&message, false, out);
                }
                self.mail().queue(message);
            }
        }
    }

    fn store_message(&self, message: &Message, consumed: bool, out: &mut Out<'_>) {
        out.batch.push(Write::Message { run: self.row(), message: Box::new(message.clone()), consumed });
    }

    /// A wait has consumed a message; `stored`: the store has it.
    fn consumed(&mut self, message: &Message, stored: bool, out: &mut Out<'_>) {
        if stored {
            let (number, id) = (message.number, message.id.clone());
            out.batch.push(Write::Consumed { run: self.row(), number, id });
        } else if message.id.is_some() {
            self.store_message(message, true, out);
        }
        if message.id.is_none() {
            self.mail().forget(message.number);
        }
    }

    /// The message that a wait finds when it is opened.
    pub(super) fn take_message(&mut self, address: &Address, out: &mut Out<'_>) -> Option<Result<Value, Failure>> {
        let message = self.run_detail.as_mut()?.mail.as_mut()?.take(address)?;
        if address.kind != MessageKind::Answer {
            self.consumed(&message, true, out);
        }
        Some(message.content)
    }

    /// A wait for a message was opened and has found none.
    pub(super) fn note_wait(&mut self, address: &Address, task: TaskRef, key: &EntryKey) {
        if !self.run_detail.as_ref().and_then(|detail| detail.mail.as_ref()).is_some_and(|mail| mail.has_waits) {
            return;
        }
        // A body that waits in a loop for one of several leaves a wait that is over at each turn.
        while let Some((of, noted)) = self.mail().first_wait(address).cloned()
            && !self.is_open_wait(of, &noted, address)
        {
            self.mail().next_wait(address);
        }
        self.mail().note_wait(address, task, key);
    }

    /// The oldest open wait for an address.
    fn next_wait(&mut self, address: &Address) -> Option<(TaskRef, EntryKey)> {
        loop {
            let (task, key) = self.mail().next_wait(address)?;
            if self.is_open_wait(task, &key, address) {
                return Some((task, key));
            }
        }
    }

    fn is_open_wait(&self, task: TaskRef, key: &EntryKey, address: &Address) -> bool {
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
            for entry in detail.journal.entries().filter(|entry| entry.state == EntryState::Open) {
                if let Operation::Message(address) = &entry.operation {
                    waits.push((entry.opened_at, task, entry.seq, entry.key.clone(), address.clone()));
                }
            }
        }
        waits.sort_unstable_by_key(|(opened_at, task, seq, ..)| (*opened_at, *task, *seq));
        for (_, task, _, key, address) in waits {
            self.mail().note_wait(&address, task, &key);
        }
    }

    /// Takes all messages that no wait has consumed.
    pub(crate) fn take_queued(&mut self) -> Vec<Message> {
        let mail = self.run_detail.as_mut().and_then(|detail| detail.mail.as_mut());
        mail.map(|mail| mail.take_all()).unwrap_or_default()
    }

    /// Delivers stored messages, oldest first.
    pub(crate) fn deliver_all(&mut self, messages: Vec<Message>, out: &mut Out<'_>) {
        for message in messages {
            self.deliver(message, true, out);
        }
    }

    /// Restores the messages of a stored run.
    pub(crate) fn restore_mail(&mut self, messages: Vec<StoredMessage>) {
        for StoredMessage { seq, message, consumed } in messages {
            if self.mail().receive(&message, Some(seq)) && !consumed {
                self.mail().queue(message);
            }
        }
    }
}
