//! Messages: what comes to a run from outside, and the mailbox in which a run keeps those that no wait has consumed.
//!
//! A message has an [`Address`]. Each message satisfies one wait for its address, the oldest; one that comes before its
//! wait is queued. The answer to a callback is kept: every wait for it gets it.
//!
//! A request is a message whose sender waits for an answer. The body that has taken it answers by its number, which
//! the value of its wait has in front ([`Message::delivered`]).

use std::collections::{HashMap, HashSet, VecDeque};
use std::sync::Arc;

use crate::entry::{EntryKey, EntryKind};
use crate::failure::Failure;
use crate::id::TaskRef;
use crate::status::stored_enum;
use crate::time::Time;
use crate::value::Value;

stored_enum! {
    /// What a message is.
    MessageKind {
        /// A named message that wants no answer.
        Signal = 0,
        /// A named message whose sender waits for an answer.
        Request = 1,
        /// The answer to a callback.
        Answer = 2,
        /// The sender of a request does not wait for its answer any more. No wait gets it.
        Withdrawal = 3,
        /// What somebody asks of the run itself: see [`crate::control`]. No wait gets it.
        Control = 4,
    }
}

/// Where a message goes, and what a wait for it waits for.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Address {
    /// What the message is.
    pub kind: MessageKind,
    /// The name of the signal or request; of a callback its secret; of a withdrawal the number of the request; of a
    /// control request what is asked.
    pub name: Arc<str>,
}

impl Address {
    /// A signal's.
    #[must_use]
    pub fn signal(name: &str) -> Self {
        Self { kind: MessageKind::Signal, name: name.into() }
    }

    /// A request's.
    #[must_use]
    pub fn request(name: &str) -> Self {
        Self { kind: MessageKind::Request, name: name.into() }
    }

    /// Of a withdrawal of the request with this number.
    #[must_use]
    pub fn withdrawal(request: i64) -> Self {
        Self { kind: MessageKind::Withdrawal, name: request.to_string().into() }
    }

    /// The request that a withdrawal is about.
    pub(crate) fn withdrawn(&self) -> Option<i64> {
        if self.kind == MessageKind::Withdrawal { self.name.parse().ok() } else { None }
    }

    /// The kind of the journal entry of a wait for it.
    #[must_use]
    pub const fn entry_kind(&self) -> EntryKind {
        match self.kind {
            MessageKind::Signal => EntryKind::Signal,
            MessageKind::Request | MessageKind::Withdrawal | MessageKind::Control => EntryKind::Request,
            MessageKind::Answer => EntryKind::Answer,
        }
    }
}

/// A message to a run.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Message {
    /// Made by the sender: no other message has it.
    pub number: i64,
    /// Where it goes.
    pub address: Address,
    /// The sender's id, if any: a run takes one message with an id, and refuses all later ones.
    pub id: Option<Arc<str>>,
    /// What it says. Only the answer to a callback can be a failure.
    pub content: Result<Value, Failure>,
    /// When it was sent.
    pub sent_at: Time,
}

/// The tag of the value of a wait for a request. The number follows in eight bytes, and then the value that was sent.
const REQUEST: u8 = b'r';

impl Message {
    /// What a wait for it gets.
    ///
    /// # Errors
    /// If the message is a failure.
    pub fn delivered(&self) -> Result<Value, Failure> {
        match (self.address.kind, &self.content) {
            (MessageKind::Request, Ok(value)) => {
                let mut payload = Vec::with_capacity(8 + value.as_bytes().len());
                payload.extend_from_slice(&self.number.to_be_bytes());
                payload.extend_from_slice(value.as_bytes());
                Ok(Value::tagged(REQUEST, &payload))
            }
            (_, content) => content.clone(),
        }
    }

    /// Whether it is this earlier message once more: with the same id, which both have, and the same content.
    #[must_use]
    pub fn repeats(&self, earlier: &Self) -> bool {
        self.id.is_some() && self.id == earlier.id && self.content == earlier.content
    }
}

/// The number of a request and the value that was sent, from what a wait for it got.
#[must_use]
pub fn taken_request(value: &Value) -> Option<(i64, Value)> {
    Some((request_number(value)?, Value::new(value.payload().get(8..)?)))
}

/// The number of the request that is the value of a wait.
pub(crate) fn request_number(value: &Value) -> Option<i64> {
    let number = value.payload().first_chunk().filter(|_| value.tag() == REQUEST)?;
    Some(i64::from_be_bytes(*number))
}

/// What the record of an answer has: the number of the request.
pub(crate) fn answered_value(request: i64) -> Value {
    Value::tagged(b'i', request.to_string().as_bytes())
}

/// The number of the request that was answered by a record.
pub(crate) fn answered_number(value: &Value) -> Option<i64> {
    std::str::from_utf8(value.payload()).ok()?.parse().ok()
}

/// A message as a store keeps it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StoredMessage {
    /// The store's number: later messages to the run have a higher one.
    pub seq: i64,
    /// The message; without content once it was consumed.
    pub message: Message,
    /// A wait has consumed it, and it is kept because of its id; or it was a control request, and the run has acted on
    /// it.
    pub consumed: bool,
}

/// A message that waits to be consumed, and where the store has it.
#[derive(Clone, Debug)]
pub(crate) struct Queued {
    /// The message.
    pub(crate) message: Message,
    /// Its `seq` in the store, or, for one that was written by this process, the lowest that it can have.
    pub(crate) from: i64,
}

/// A wait for a message: whose, its key, and when it was opened. A later wait of another attempt can have the same key.
pub(crate) type NotedWait = (TaskRef, EntryKey, Time);

/// The messages that a run has got, as far as they still matter, and the waits for them.
#[derive(Clone, Debug, Default)]
pub(crate) struct Mailbox {
    /// Messages that no wait has consumed, oldest first.
    queued: HashMap<Address, VecDeque<Queued>>,
    /// The ids of all messages so far.
    ids: HashSet<Arc<str>>,
    /// The numbers of the messages that were not read from the store, and that a later look there will find.
    own: HashSet<i64>,
    /// Waits that were opened, oldest first, each with when it was. Some may be over by now, or be noted twice: the
    /// reader checks it.
    waits: HashMap<Address, VecDeque<NotedWait>>,
    /// `waits` has all open waits of the run. False until the first message comes, and after a recovery.
    pub(crate) has_waits: bool,
    /// The highest `seq` that was read from the store.
    read: i64,
    /// How many messages were written since then: each has a higher `seq` than the one before.
    written: i64,
    /// The store's count of arrivals before the last look that has found all there was, once there was one.
    pub(crate) arrivals: Option<u64>,
    /// How many looks into the store are under way: one may still find a message that is consumed meanwhile.
    looks: u32,
    /// Control requests that came while nobody executed the run, oldest first.
    controls: Vec<Queued>,
    /// Of `own` those that are not in the store any more, until no look is under way.
    gone: Vec<i64>,
}

impl Mailbox {
    /// Whether a message is new. One that is counts as received from now on; `seq` is that of one read from the store.
    pub(crate) fn receive(&mut self, message: &Message, seq: Option<i64>) -> bool {
        match seq {
            // Two threads have read it from the store.
            Some(seq) if seq <= self.read => return false,
            Some(seq) => {
                (self.read, self.written) = (seq, 0);
                if self.own.remove(&message.number) {
                    return false;
                }
            }
            None => drop(self.own.insert(message.number)),
        }
        match &message.id {
            Some(id) => {
                let new = self.ids.insert(Arc::clone(id));
                if !new {
                    self.own.remove(&message.number);
                }
                new
            }
            None => true,
        }
    }

    /// Whether a message was sent from this process, and has not been found in the store yet.
    pub(crate) fn is_own(&self, number: i64) -> bool {
        self.own.contains(&number)
    }

    /// A message that was sent from this process is not in the store, or not any more.
    pub(crate) fn forget(&mut self, number: i64) {
        if self.looks == 0 {
            self.own.remove(&number);
        } else {
            self.gone.push(number);
        }
    }

    /// A message is about to be written. Returns the lowest `seq` that it can get.
    pub(crate) const fn write(&mut self) -> i64 {
        self.written += 1;
        self.read.saturating_add(self.written)
    }

    /// A look into the store begins, for messages with a higher `seq` than this.
    pub(crate) const fn begin_look(&mut self) -> i64 {
        self.looks += 1;
        self.read
    }

    /// A look into the store has ended.
    pub(crate) fn end_look(&mut self) {
        self.looks = self.looks.saturating_sub(1);
        if self.looks == 0 {
            for number in self.gone.drain(..) {
                self.own.remove(&number);
            }
        }
    }

    /// Whether a message with this id was received.
    pub(crate) fn has_id(&self, id: &str) -> bool {
        self.ids.contains(id)
    }

    /// Takes a queued request out, as if it had never come: its id can be used again.
    pub(crate) fn withdraw(&mut self, number: i64) -> Option<Queued> {
        let is =
            |queued: &Queued| queued.message.number == number && queued.message.address.kind == MessageKind::Request;
        let queued = self.queued.values_mut().find_map(|queue| {
            let at = queue.iter().position(is)?;
            queue.remove(at)
        })?;
        self.own.remove(&number);
        if let Some(id) = &queued.message.id {
            self.ids.remove(id);
        }
        Some(queued)
    }

    /// The requests that no wait has taken.
    pub(crate) fn requests(&self) -> impl Iterator<Item = &Message> {
        let all = self.queued.values().flatten().map(|queued| &queued.message);
        all.filter(|message| message.address.kind == MessageKind::Request)
    }

    /// Queues a message for the next wait; a control request until the run begins again.
    pub(crate) fn queue(&mut self, message: Message, from: i64) {
        let queued = Queued { message, from };
        if queued.message.address.kind == MessageKind::Control {
            self.controls.push(queued);
            return;
        }
        self.queued.entry(queued.message.address.clone()).or_default().push_back(queued);
    }

    /// The numbers of the requests of which a withdrawal is queued.
    pub(crate) fn withdrawn(&self) -> Vec<i64> {
        self.queued.keys().filter_map(Address::withdrawn).collect()
    }

    /// All queued messages, to be delivered again: in order for each address.
    pub(crate) fn take_all(&mut self) -> Vec<Queued> {
        let mut queues: Vec<_> = std::mem::take(&mut self.queued).into_iter().collect();
        queues.sort_unstable_by(|(one, _), (other, _)| {
            (one.kind.code(), &one.name).cmp(&(other.kind.code(), &other.name))
        });
        queues.into_iter().flat_map(|(_, queue)| queue).collect()
    }

    /// The queued control requests, oldest first.
    pub(crate) fn take_controls(&mut self) -> Vec<Queued> {
        std::mem::take(&mut self.controls)
    }

    /// The oldest message to an address: taken out, but for the answer to a callback.
    pub(crate) fn take(&mut self, address: &Address) -> Option<Queued> {
        let queue = self.queued.get_mut(address)?;
        if address.kind == MessageKind::Answer {
            return queue.front().cloned();
        }
        let message = queue.pop_front();
        if queue.is_empty() {
            self.queued.remove(address);
        }
        message
    }

    /// Notes an open wait.
    pub(crate) fn note_wait(&mut self, address: &Address, wait: NotedWait) {
        self.waits.entry(address.clone()).or_default().push_back(wait);
    }

    /// The oldest noted wait for an address.
    pub(crate) fn first_wait(&self, address: &Address) -> Option<&NotedWait> {
        self.waits.get(address)?.front()
    }

    /// The oldest noted wait for an address; it is not noted any more.
    pub(crate) fn next_wait(&mut self, address: &Address) -> Option<NotedWait> {
        let waits = self.waits.get_mut(address)?;
        let next = waits.pop_front();
        if waits.is_empty() {
            self.waits.remove(address);
        }
        next
    }
}
