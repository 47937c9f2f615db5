//! How a coroutine is begun and how it ends: enters it in its run, and queues its outcome to be committed.

use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use bide_core::attempt::Fed;
use bide_core::{Event, Outcome};
use tokio::sync::oneshot;

use super::body::{CoroutineBody, Own, Rare};
use super::dispatch::Start;
use crate::engine::Engine;
use crate::host::{Args, Host, Ready};
use crate::ledger::QueuedEvent;
use crate::log::Level;

/// A body that has begun.
pub struct Begun<H: Host> {
    /// The body.
    pub body: Arc<CoroutineBody<H>>,
    /// What it is called with.
    pub args: Args,
}

/// How far the beginning of a body has come.
pub enum Beginning<H: Host> {
    /// It has begun; with nothing, it is not executed.
    Done(Option<Begun<H>>),
    /// That has to be waited for.
    Waits(Pin<Box<dyn Future<Output = Option<Begun<H>>> + Send>>),
}

impl<H: Host> Start<H> {
    /// Enters the body in its run.
    pub fn begin(self) -> Beginning<H> {
        let now = self.engine.clock().lease_micros();
        if !self.engine.lease_holds_at(now) {
            let engine = Arc::clone(&self.engine);
            return Beginning::Waits(Box::pin(async move {
                if !engine.is_sure_of_lease_async().await {
                    return None;
                }
                let now = engine.clock().lease_micros();
                match self.enter(now) {
                    Beginning::Done(begun) => begun,
                    Beginning::Waits(waits) => waits.await,
                }
            }));
        }
        self.enter(now)
    }

    /// `now` is the time of the lease's clock.
    fn enter(self, now: i64) -> Beginning<H> {
        let Self { ready, slot, counted, engine } = self;
        let engine = &engine;
        let admitted = Arc::clone(&ready.run).wait_for_overdue(ready).and_then(|ready| engine.admit_suspect(ready));
        let Some((Ready { run, task }, turn)) = admitted else { return Beginning::Done(None) };
        let now = counted.coroutines.wall(&**engine.clock(), now);
        let entered = engine.limiter().enter(&run, task, now, &**engine.clock(), |now| {
            let mut state = run.state.lock();
            let entered = state.enter(task, now)?;
            let sources = H::sources(&run.workflow.bodies[task.ix as usize]);
            Some((entered, run.args(task, sources, &state)))
        });
        let Some((entered, args)) = entered else { return Beginning::Done(None) };
        let begun = counted.coroutines.book.get().map(|book| book.body());
        let mark = entered.mark;
        let rare = (mark || turn.is_some() || begun.is_some()).then(|| Box::new(Rare { mark, turn, begun }));
        let own = Own { counted, rare };
        let body = CoroutineBody::new(engine, &run, task, entered.attempt, slot, own);
        body.coroutines.begins(&body);
        if !entered.mark {
            return Beginning::Done(Some(Begun { body, args }));
        }
        let begun = Begun { body: Arc::clone(&body), args };
        Beginning::Waits(Box::pin(async move {
            let started = Event::Started { task, attempt: entered.attempt };
            if !matches!(body.commit(started).await, Fed::Committed { .. }) {
                // Without its mark a body is not called: the engine has stopped, or has lost the run.
                body.suspend();
                if let Some(waits) = body.end(Outcome::Suspended) {
                    waits.await;
                }
                return None;
            }
            Some(begun)
        }))
    }
}

impl<H: Host> CoroutineBody<H> {
    /// The body has suspended for the first time.
    pub fn suspends(self: &Arc<Self>) {
        self.coroutines.suspends(self, self.engine().clock().machine());
    }

    /// The body has returned. Its slot is released once that is queued to be committed; with a mark, once it is
    /// committed, which has to be waited for: the next body may kill the process, and this one's run would be suspected
    /// of it. The same if the host wants to know of the commit.
    pub fn end(self: &Arc<Self>, outcome: Outcome) -> Option<Pin<Box<dyn Future<Output = ()> + Send>>> {
        let (attempt, has_records) = {
            let mut attempt = self.attempt.lock();
            attempt.end();
            (attempt.number(), attempt.may_have_records())
        };
        let (own, slot) = self.take();
        let Own { counted, rare } = own?;
        let mark = rare.as_ref().is_some_and(|rare| rare.mark);
        let engine = self.engine();
        // What a body comes to that was cancelled because its time is used up.
        let reached = self.limit.as_ref().filter(|limit| limit.is_reached()).map(|limit| limit.outcome());
        let outcome = reached.unwrap_or(outcome);
        if let Some(next) = self.limit.as_ref().and_then(|limit| limit.end()) {
            engine.dispatch_ready(&mut vec![next]);
        }
        if matches!(outcome, Outcome::Suspended) {
            engine.limiter().idle(self.run(), self.task());
        }
        if !has_records && let Some(next) = engine.passes_on(self.run(), self.task(), attempt, &outcome) {
            engine.dispatch_ready(&mut vec![next]);
        }
        let event = Event::Ended { task: self.task(), attempt, outcome };
        if mark || self.recorded.wanted.load(Ordering::Relaxed) {
            let body = Arc::clone(self);
            return Some(Box::pin(async move {
                let is_end = !matches!(event, Event::Ended { outcome: Outcome::Suspended, .. });
                let committed = body.commit(event).await;
                body.recorded.done.store(is_end && matches!(committed, Fed::Committed { .. }), Ordering::Release);
                drop((rare, slot, counted));
            }));
        }
        let (at, now) = counted.coroutines.ends_at(&**engine.clock());
        let run = Arc::clone(self.run());
        counted.coroutines.queue(engine, QueuedEvent { run, event, at, completion: None }, now);
        drop((rare, slot, counted));
        None
    }
}

impl<H: Host> Engine<H> {
    /// As [`Engine::make_sure_of_lease`], without blocking: one that has run out is renewed on a thread of its own.
    pub(super) async fn is_sure_of_lease_async(self: &Arc<Self>) -> bool {
        if self.lease_holds() {
            return true;
        }
        let (sender, renewed) = oneshot::channel();
        let engine = Arc::clone(self);
        let renews = move || {
            let _ = sender.send(engine.make_sure_of_lease());
        };
        match std::thread::Builder::new().name("bide-renew".to_owned()).spawn(renews) {
            Ok(_) => renewed.await.unwrap_or(false),
            Err(error) => {
                self.log(Level::Warning, &format!("no thread could be started to renew the lease: {error}"));
                false
            }
        }
    }
}
