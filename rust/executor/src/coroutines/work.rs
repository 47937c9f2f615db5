//! How a coroutine is begun and how it ends: enters it in its run, and queues its outcome to be committed.

use std::sync::Arc;

use bide_core::{Event, Outcome};
use tokio::sync::oneshot;

use super::body::{CoroutineBody, Own};
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
    /// The same attempt was entered before.
    pub reentry: bool,
}

impl<H: Host> Start<H> {
    /// Enters the body in its run. `None`: it is not executed.
    pub async fn begin(self) -> Option<Begun<H>> {
        let Self { ready, slot, counted } = self;
        let (engine, coroutines) = (Arc::clone(&counted.engine), Arc::clone(&counted.coroutines));
        let ready = Arc::clone(&ready.run).wait_for_overdue(ready)?;
        let (Ready { run, task }, turn) = engine.admit_suspect(ready)?;
        if !engine.is_sure_of_lease_async().await {
            return None;
        }
        let now = engine.now();
        let (entered, args) = {
            let mut state = run.state.lock();
            let entered = state.enter(task, now)?;
            let sources = H::sources(&run.workflow.bodies[task.ix as usize]);
            (entered, run.args(task, sources, &state))
        };
        let own = Own { counted, turn, mark: entered.mark };
        let body = CoroutineBody::new(&run, task, entered.attempt, slot, own);
        let started = Event::Started { task, attempt: entered.attempt };
        if entered.mark && !matches!(body.commit(started).await, bide_core::attempt::Fed::Committed { .. }) {
            // Without its mark a body is not called: the engine has stopped, or has lost the run.
            body.suspend();
            body.end(Outcome::Suspended).await;
            return None;
        }
        coroutines.begins(&body, engine.steady());
        Some(Begun { body, args, reentry: entered.reentry })
    }
}

impl<H: Host> CoroutineBody<H> {
    /// The body has returned. Its slot is released once that is queued to be committed; with a mark, once it is
    /// committed: the next body may kill the process, and this one's run would be suspected of it.
    pub async fn end(self: Arc<Self>, outcome: Outcome) {
        let attempt = self.attempt();
        let (own, slot) = self.take();
        let Some(Own { counted, turn, mark }) = own else { return };
        let engine = self.engine();
        // What a body comes to that was cancelled because its time is used up.
        let reached = self.limit.as_ref().filter(|limit| limit.is_reached()).map(|limit| limit.outcome());
        let outcome = reached.unwrap_or(outcome);
        if let Some(next) = self.limit.as_ref().and_then(|limit| limit.end()) {
            engine.dispatch_ready(&mut vec![next]);
        }
        let event = Event::Ended { task: self.task(), attempt, outcome };
        if mark {
            let _ = self.commit(event).await;
        } else {
            counted.coroutines.queue(QueuedEvent {
                run: Arc::clone(self.run()),
                event,
                at: engine.now(),
                completion: None,
            });
        }
        drop((turn, slot, counted));
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
