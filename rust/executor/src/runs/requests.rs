//! Requests: messages whose senders wait for an answer (`answers.rs`), and how these learn that none will come.
//!
//! The answer is a row that the commit of the body's reply writes. A sender in the same process gets it with the
//! effects of that commit; one elsewhere sees it when the store changes.

use std::sync::Arc;
use std::time::Duration;

use bide_core::{Address, RunId, RunStatus, Value};
use bide_store::{Sent, StoreError};
use bide_sync::Mutex;

use crate::control::Control;
use crate::host::Host;
use crate::runs::answers::{Reply, Slot};
use crate::runs::mail::{Letter, Mail};
use crate::runs::settled::Settlement;
use crate::runs::watch::{Handle, Watch};

/// A request that was sent. Dropping it ends the wait for its answer, and leaves the request where it is.
pub struct PendingRequest<H: Host> {
    /// To which run.
    run: RunId,
    /// Its number.
    number: i64,
    /// Where its answer arrives.
    slot: Arc<Slot>,
    /// Where the slot is registered.
    control: Arc<Control<H>>,
    /// Where the end of the run is reported.
    handle: Mutex<Option<Handle<H>>>,
}

/// What a sender whose request has no answer yet can expect.
#[derive(Debug)]
pub enum Outlook {
    /// It may still be answered.
    Open,
    /// It is answered now.
    Answered(Reply),
    /// The run has ended, and the request has no answer.
    Ended(RunStatus),
    /// The run was deleted.
    Gone,
    /// This runner has stopped.
    Stopped(Settlement),
}

impl<H: Host> PendingRequest<H> {
    /// The number of its message.
    #[must_use]
    pub const fn number(&self) -> i64 {
        self.number
    }

    /// Waits for the answer, at most for a span. Blocks.
    #[must_use]
    pub fn wait(&self, span: Duration) -> Option<Reply> {
        self.slot.wait(span)
    }

    /// As [`PendingRequest::wait`], for as long as it takes.
    pub(crate) async fn answered(&self) -> Reply {
        self.slot.answered().await
    }
}

impl<H: Host> Drop for PendingRequest<H> {
    fn drop(&mut self) {
        self.control.requests.remove(self.number, &self.slot);
    }
}

impl<H: Host> Mail<H> {
    fn pending(&self, run: RunId, number: i64) -> PendingRequest<H> {
        let slot = self.control.requests.add(number, run);
        PendingRequest { run, number, slot, control: Arc::clone(&self.control), handle: Mutex::default() }
    }

    /// Sends a request; the same once more, by its id, waits for the answer to the first one. Blocks.
    ///
    /// # Errors
    /// From the store.
    pub(crate) fn request(&self, letter: Letter) -> Result<Result<PendingRequest<H>, Sent>, StoreError> {
        let Letter { run, address, id, .. } = &letter;
        let (run, address, id) = (*run, address.clone(), id.clone());
        // Registered before it is sent: the answer may come at once.
        let pending = self.pending(run, self.ids.message());
        match self.send_numbered(pending.number, letter)? {
            Sent::Stored => {
                pending.slot.set_sent();
                Ok(Ok(pending))
            }
            Sent::Duplicate => {
                let messages = self.control.store().messages(run, 0)?;
                let first = messages.into_iter().map(|stored| stored.message).find(|known| known.id == id);
                let Some(first) = first.filter(|first| first.address == address) else { return Ok(Err(Sent::IdTaken)) };
                let pending = self.pending(run, first.number);
                pending.slot.set_sent();
                self.look_for_answer(first.number, run)?;
                Ok(Ok(pending))
            }
            refused => Ok(Err(refused)),
        }
    }

    /// Withdraws a request whose sender gives up, unless somebody has taken it. Blocks.
    ///
    /// # Errors
    /// From the store.
    pub(crate) fn withdraw(&self, pending: &PendingRequest<H>) -> Result<(), StoreError> {
        let address = Address::withdrawal(pending.number);
        self.send(Letter { run: pending.run, address, id: None, content: Ok(Value::NONE) }).map(drop)
    }

    /// Looks in the store for the answers that senders wait for here.
    ///
    /// # Errors
    /// From the store.
    pub(super) fn look_for_answers(&self) -> Result<(), StoreError> {
        self.control.requests.open().into_iter().try_for_each(|(request, run)| self.look_for_answer(request, run))
    }

    fn look_for_answer(&self, request: i64, run: RunId) -> Result<(), StoreError> {
        let answer = self.control.store().answer(run, request)?;
        answer.iter().for_each(|answer| self.control.requests.answered(request, answer));
        Ok(())
    }
}

impl<H: Host> Watch<H> {
    /// What the sender of a request can expect: asked now and then while no answer comes.
    ///
    /// # Errors
    /// From the store.
    pub(crate) fn outlook(&self, pending: &PendingRequest<H>) -> Result<Outlook, StoreError> {
        let control = &pending.control;
        if let Some(stopped) = control.stopped() {
            return Ok(Outlook::Stopped(stopped.clone()));
        }
        let mut handle = pending.handle.lock();
        let settled = match &*handle {
            Some(known) => known.settled().get(),
            None => None,
        };
        match (&*handle, settled) {
            (Some(_), None) => return Ok(Outlook::Open),
            (_, Some(settlement @ (Settlement::Closed | Settlement::Broken(_) | Settlement::Panicked(_)))) => {
                return Ok(Outlook::Stopped(settlement));
            }
            // Somebody else may have it by now, or resume it.
            (None, _) | (Some(_), Some(Settlement::Elsewhere | Settlement::NotHere(_) | Settlement::Run(_))) => {}
        }
        let current = self.handle(pending.run)?;
        let outlook = match (current.settled().get(), &current) {
            (Some(Settlement::Run(status)), _) if status.is_ended() => Outlook::Ended(status),
            (Some(Settlement::Elsewhere), Handle::Watched(_)) => Outlook::Gone,
            _ => Outlook::Open,
        };
        *handle = Some(current);
        if matches!(outlook, Outlook::Ended(_))
            && let Some(answer) = control.store().answer(pending.run, pending.number)?
        {
            return Ok(Outlook::Answered(answer));
        }
        Ok(outlook)
    }
}
