//! Messages to runs: those that callers here send, and those that others have left in the store. Answers to requests
//! are in `requests.rs`.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use bide_core::control::{Cancel, Control as Asked};
use bide_core::longest::too_long;
use bide_core::record::RunRowId;
use bide_core::{Address, Event, Failure, Message, MessageKind, Refused, RunId, StoredMessage, Value};
use bide_store::{Changes, Sent, StoreError};

use tokio::sync::oneshot;

use crate::control::Control;
use crate::host::Host;
use crate::ids::IdMaker;
use crate::ledger::{CommitPath, Lost, QueuedEvent};
use crate::runs::run::Run;
use crate::runs::settled::Settlement;

/// Sends messages, and hands those of others to the runs that are executed here.
pub(crate) struct Mail<H: Host> {
    /// The store, and the runs that are executed here.
    pub(super) control: Arc<Control<H>>,
    /// Where a run gets its messages.
    path: Arc<CommitPath<H>>,
    /// Numbers the messages.
    pub(super) ids: Arc<IdMaker>,
}

/// A message on its way.
enum Sending {
    /// What became of it.
    Done(Result<Sent, StoreError>),
    /// It is committed with others: what comes of that.
    Here(RunId, Box<Message>, oneshot::Receiver<Result<(), Refused>>),
}

/// A message that a caller sends.
pub struct Letter {
    /// To which run.
    pub run: RunId,
    /// Where it goes there.
    pub address: Address,
    /// The caller's id: a run takes one message with an id.
    pub id: Option<Arc<str>>,
    /// What it says.
    pub content: Result<Value, Failure>,
}

impl<H: Host> Mail<H> {
    pub(crate) fn new(control: &Arc<Control<H>>, path: &Arc<CommitPath<H>>, ids: &Arc<IdMaker>) -> Arc<Self> {
        Arc::new(Self { control: Arc::clone(control), path: Arc::clone(path), ids: Arc::clone(ids) })
    }

    /// Sends a message: it is committed when this returns. Blocks.
    ///
    /// # Errors
    /// From the store.
    pub(crate) fn send(&self, letter: Letter) -> Result<Sent, StoreError> {
        self.send_numbered(self.ids.message(), letter)
    }

    /// Ends a run that nobody executes as cancelled, at once. False if somebody does, or it has ended. Blocks.
    ///
    /// # Errors
    /// From the store.
    pub(crate) fn end_unowned(&self, run: RunId, control: &Asked) -> Result<bool, StoreError> {
        let store = self.control.store();
        // Of no version: this only releases the runs of dead runners.
        store.claim(self.control.lease(), &[], self.control.clock.lease_time(), 0)?;
        // After all that its bodies have recorded, also if the clock was set back since.
        let recorded = match store.load(run) {
            Ok(stored) => stored.and_then(|stored| stored.last_recorded()),
            // It can be cancelled all the same.
            Err(StoreError::Corrupt(_)) => None,
            Err(error) => return Err(error),
        };
        let now = self.control.clock.now();
        let at = recorded.map_or(now, |recorded| now.max(recorded.after(Duration::from_micros(1))));
        let number = self.ids.message();
        let (address, content) = (control.address(), Ok(control.content()));
        let cancel = Cancel { by: control.by.clone(), reason: control.reason.clone(), at };
        store.end_unowned(run, &cancel, &Message { number, address, id: None, content, sent_at: at })
    }

    /// As [`Mail::send`], with this number for the message.
    pub(super) fn send_numbered(&self, number: i64, letter: Letter) -> Result<Sent, StoreError> {
        self.check(&letter)?;
        let Letter { run: id, address, id: own_id, content } = letter;
        let message = Message { number, address, id: own_id, content, sent_at: self.control.clock.now() };
        if message.address.kind == MessageKind::Answer {
            return self.send_answer(id, &message);
        }
        if let Some(run) = self.control.runs.get(id)
            && let Some(sent) = self.deliver(&run, &message)?
        {
            return Ok(sent);
        }
        self.control.store().send(id, &message)
    }

    /// Fails if the store does not take the id of a message.
    fn check(&self, letter: &Letter) -> Result<(), StoreError> {
        let id = letter.id.as_deref().unwrap_or_default();
        too_long("id", id, self.control.longest_name)
            .map_or(Ok(()), |why| Err(StoreError::Unavailable(format!("{}: {why}", self.control.store().name()))))
    }

    /// A message was not committed with others. Without an error only the lease was lost, and the store takes it.
    ///
    /// # Errors
    /// Why the engine has stopped, if it has.
    fn not_committed(&self) -> Result<(), StoreError> {
        match self.control.stopped() {
            None => Ok(()),
            Some(Settlement::Broken(error)) => Err((**error).clone()),
            Some(_) => Err(StoreError::Closed { store: self.control.store().name().to_owned() }),
        }
    }

    /// Answers a callback. The store decides which answer is the first, because every process may give one.
    fn send_answer(&self, id: RunId, message: &Message) -> Result<Sent, StoreError> {
        let sent = self.control.store().send(id, message)?;
        if sent == Sent::Stored
            && let Some(run) = self.control.runs.get(id)
        {
            self.fetch(&run)?;
        }
        Ok(sent)
    }

    /// Sends many messages: those to runs that are executed here in one commit. Blocks.
    pub(crate) fn send_all(&self, mut letters: Vec<Letter>) -> Vec<Result<Sent, StoreError>> {
        if letters.len() < 2 {
            return letters.pop().map(|letter| self.send(letter)).into_iter().collect();
        }
        let at = self.control.clock.now();
        let mut items = Vec::new();
        let mut fetched = BTreeSet::new();
        let mut pending = Vec::with_capacity(letters.len());
        for letter in letters {
            if let Err(error) = self.check(&letter) {
                pending.push(Sending::Done(Err(error)));
                continue;
            }
            let Letter { run: id, address, id: own_id, content } = letter;
            let message = Message { number: self.ids.message(), address, id: own_id, content, sent_at: at };
            if message.address.kind == MessageKind::Answer {
                pending.push(Sending::Done(self.send_answer(id, &message)));
                continue;
            }
            let Some(run) = self.control.runs.get(id) else {
                pending.push(Sending::Done(self.control.store().send(id, &message)));
                continue;
            };
            if let Some(refused) = self.refused(&run, &message.address) {
                pending.push(Sending::Done(Ok(refused)));
                continue;
            }
            if fetched.insert(id.row())
                && let Err(error) = self.fetch(&run)
            {
                pending.push(Sending::Done(Err(error)));
                continue;
            }
            let (completion, outcome) = oneshot::channel();
            let event = Event::Message { message: Box::new(message.clone()) };
            items.push(QueuedEvent { run, event, at, completion: Some(completion) });
            pending.push(Sending::Here(id, Box::new(message), outcome));
        }
        self.path.commit_now(&mut items);
        pending.into_iter().map(|sending| self.sent(sending)).collect()
    }

    fn sent(&self, sending: Sending) -> Result<Sent, StoreError> {
        match sending {
            Sending::Done(sent) => sent,
            Sending::Here(id, message, mut outcome) => match outcome.try_recv() {
                Ok(Ok(())) => Ok(Sent::Stored),
                Ok(Err(refused)) => self.refusal(refused).map_or_else(|| self.control.store().send(id, &message), Ok),
                Err(_) => self.not_committed().and_then(|()| self.control.store().send(id, &message)),
            },
        }
    }

    /// Has a run that is executed here take a message. `None`: it is not executed here any more.
    fn deliver(&self, run: &Arc<Run<H>>, message: &Message) -> Result<Option<Sent>, StoreError> {
        if let Some(refused) = self.refused(run, &message.address) {
            return Ok(Some(refused));
        }
        // What others have sent before comes before.
        self.fetch(run)?;
        let event = Event::Message { message: Box::new(message.clone()) };
        match self.path.commit_own(None, run, event) {
            Ok(()) => Ok(Some(Sent::Stored)),
            Err(Lost::Refused(refused)) => Ok(self.refusal(refused)),
            Err(Lost::Stopped) => self.not_committed().map(|()| None),
        }
    }

    /// What a sender learns if a run that is executed here refuses its message. `None`: the store is to say it. The run
    /// is not executed here any more, or a server may have lost what the run has had: a refusal commits nothing that
    /// would have shown that.
    fn refusal(&self, refused: Refused) -> Option<Sent> {
        let known = match refused {
            Refused::Duplicate => Sent::Duplicate,
            Refused::Answered => Sent::Answered,
            Refused::IdTaken => Sent::IdTaken,
            Refused::RunOver | Refused::AttemptOver | Refused::Cancelled => return None,
        };
        Some(known).filter(|_| !self.control.store().may_repeat())
    }

    /// Why a run does not understand a message, if it does not.
    fn refused(&self, run: &Run<H>, address: &Address) -> Option<Sent> {
        match (address.kind, run.workflow.graph.signals()) {
            (MessageKind::Signal | MessageKind::Request, Some(signals)) => {
                let declared = signals.iter().any(|name| **name == *address.name);
                (!declared).then(|| Sent::Undeclared(signals.to_vec()))
            }
            _ => None,
        }
    }

    /// Hands a run the messages that others have stored, if there can be any.
    fn fetch(&self, run: &Arc<Run<H>>) -> Result<(), StoreError> {
        let arrivals = self.control.store().arrivals();
        if arrivals.is_some() && arrivals == run.state.lock().seen_arrivals() {
            return Ok(());
        }
        let messages = self.read(run)?;
        if !messages.is_empty() && !run.state.lock().find_own(&messages) {
            // A run that is over needs none.
            let _ = self.path.commit_own(None, run, Event::Mail { messages });
        }
        run.state.lock().see_arrivals(arrivals);
        Ok(())
    }

    /// Reads the messages to a run that others have stored.
    fn read(&self, run: &Run<H>) -> Result<Vec<StoredMessage>, StoreError> {
        let after = run.state.lock().begin_look();
        let read = self.control.store().messages(run.id, after);
        if read.as_ref().map_or(true, Vec::is_empty) {
            run.state.lock().end_look();
        }
        read
    }

    /// Hands out the messages that have come since the one with the number `seen`, which is brought up to date.
    ///
    /// # Errors
    /// From the store; then they are handed out the next time.
    pub(crate) fn look(&self, changes: &Changes, seen: &mut i64) -> Result<(), StoreError> {
        if !changes.mail {
            return Ok(());
        }
        let mut items = Vec::new();
        let adopting = self.control.runs.adopting.write();
        let mail = self.control.store().mail(*seen)?;
        let runs: BTreeSet<RunRowId> = mail.iter().map(|(_, run)| *run).collect();
        let read = runs.into_iter().filter_map(|row| self.control.runs.by_row(row)).try_for_each(|run| {
            let messages = self.read(&run)?;
            if !messages.is_empty() {
                let (event, at) = (Event::Mail { messages }, self.control.clock.now());
                items.push(QueuedEvent::new(run, event, at));
            }
            Ok(())
        });
        drop(adopting);
        self.path.commit_now(&mut items);
        // Only now: the looks that have begun end with the commit.
        read?;
        *seen = mail.last().map_or(*seen, |(seq, _)| *seq);
        self.look_for_answers()
    }
}
