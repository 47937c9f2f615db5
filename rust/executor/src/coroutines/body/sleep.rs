//! The sleep of a call: until its next poll, until a time, or until what it waits for has come.

use std::sync::Arc;
use std::time::Duration;

use bide_core::attempt::{Fed, Sleep};
use bide_sched::Alarm;

use super::super::alarm::{Ring, Sleeping};
use super::super::rest::BegunBody;
use super::{CoroutineBody, OpenCall};
use crate::host::Host;

impl<H: Host> CoroutineBody<H> {
    /// With a clock that is moved by hand: for what is counted of the body, until it ends.
    pub(super) fn in_book<R>(&self, f: impl FnOnce(&BegunBody) -> R) -> Option<R> {
        self.held.lock().own.as_ref().and_then(|own| own.rare.as_ref()?.begun.as_ref()).map(f)
    }

    pub(super) async fn sleep(&self, call: &OpenCall, sleep: Sleep) -> Fed {
        let noted = self.run.note_sleep((self.task, self.attempt()), &call.call.lock(), sleep, &**self.engine.clock());
        noted.into_iter().for_each(|event| self.enqueue(event, None));
        let asleep = self.in_book(|body| body.book().sleep(body.whose()));
        let (key, ring) = (call.key(), Ring::new(asleep));
        let alarm: Arc<dyn Alarm> = Arc::clone(&ring) as Arc<dyn Alarm>;
        let timers = self.engine.timers();
        let timer = match sleep {
            Sleep::Poll(span) | Sleep::PollOrClosed(span) => {
                let is_endless = call.call.lock().is_endless();
                Some(timers.poll_after(span, is_endless, Arc::clone(&alarm), 0))
            }
            Sleep::Until(due) => timers.at(due, Arc::clone(&alarm), 0),
            Sleep::Closed => None,
        };
        let sleeping = Sleeping { engine: &self.engine, timer, ring };
        loop {
            self.run.set_alarm(self.task, &key, Arc::clone(&alarm), 0);
            sleeping.ring.rung().await;
            match (sleep, self.after_ring(call, sleep)) {
                // Somebody has rung for what is no reason to wake.
                (Sleep::Until(due), Fed::Woken) if self.engine.now() < due => sleeping.ring.continue_sleep(),
                (_, fed) => return fed,
            }
        }
    }

    /// A call that sleeps was rung: what to feed it.
    pub(in crate::coroutines) fn after_ring(&self, call: &OpenCall, sleep: Sleep) -> Fed {
        if self.run.has_deadline() && self.run.is_over() {
            return Fed::Stopped;
        }
        let mut call = call.call.lock();
        let (closed, deadline) = {
            let state = self.run.state.lock();
            (state.closed_entry(self.task, call.key()).is_some(), state.deadline(self.task, call.key()))
        };
        match sleep {
            Sleep::Closed | Sleep::PollOrClosed(_) => {}
            _ if closed => return Fed::Closed,
            Sleep::Until(_) => {}
            Sleep::Poll(_) => call.set_deadline(deadline),
        }
        Fed::Woken
    }

    /// A call rests until its next poll: notes that, if anything was or is to be said about its polls.
    pub(in crate::coroutines) fn note_rest(&self, call: &OpenCall, span: Duration) {
        let (body, sleep) = ((self.task, self.attempt()), Sleep::Poll(span));
        let call = call.call.lock();
        if call.last_error().is_none() && !self.run.has_noted_polls(self.task) {
            return;
        }
        let noted = self.run.note_sleep(body, &call, sleep, &**self.engine.clock());
        drop(call);
        noted.into_iter().for_each(|event| self.enqueue(event, None));
    }
}
