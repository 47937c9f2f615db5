//! Feeds a call, and carries out what the attempt machine asks for.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use bide_core::Event;
use bide_core::attempt::{Action, CallError, Fed, Sleep};

use super::{CoroutineBody, OpenCall};
use crate::host::Host;

impl<H: Host> CoroutineBody<H> {
    /// Feeds a call, and carries out its actions up to one that needs the user's code.
    pub fn drive(self: Arc<Self>, call: Arc<OpenCall>, fed: Fed) -> impl Future<Output = Action> + Send + use<H> {
        let action = self.advance(&call, fed);
        self.carry_out(call, action)
    }

    /// Carries out a sleep that the host has got, and what follows.
    pub async fn sleeps(self: Arc<Self>, call: Arc<OpenCall>, sleep: Sleep) -> Action {
        let fed = self.sleep(&call, sleep).await;
        let action = self.advance(&call, fed);
        self.carry_out(call, action).await
    }

    pub(in crate::coroutines) fn advance(&self, call: &OpenCall, fed: Fed) -> Action {
        let asked = matches!(fed, Fed::Asked(_));
        let mut call = call.call.lock();
        let action = self.attempt.lock().advance(&mut call, fed, &*self.engine);
        if asked {
            self.run.note_error(self.task, call.last_error());
        }
        action
    }

    // Many wait for their first commit at once: what else is awaited is in boxes.
    #[expect(clippy::manual_async_fn, reason = "the parameters of an async fn are in its future twice")]
    fn carry_out(
        self: Arc<Self>,
        call: Arc<OpenCall>,
        mut action: Action,
    ) -> impl Future<Output = Action> + Send + use<H> {
        async move {
            loop {
                let fed = match action {
                    Action::CheckLease => {
                        let is_sure = self.engine.lease_holds() || Box::pin(self.engine.is_sure_of_lease_async()).await;
                        let holds = is_sure && !self.run.is_lost() && !self.run.is_over();
                        if holds { Fed::LeaseHeld } else { Fed::LeaseLost }
                    }
                    Action::Recall => {
                        let (recalled, is_pushed) = {
                            let call = call.call.lock();
                            (self.attempt.lock().recall(&call, &mut self.run.state.lock()), call.is_pushed())
                        };
                        if is_pushed && !Box::pin(self.is_committed()).await { Fed::Stopped } else { recalled }
                    }
                    Action::Read => {
                        let closed = {
                            let call = call.call.lock();
                            self.attempt.lock().read(&call, &self.run.state.lock())
                        };
                        if closed.is_some() && !Box::pin(self.is_committed()).await {
                            Fed::Stopped
                        } else {
                            Fed::EntryRead(closed)
                        }
                    }
                    Action::Commit(event) => {
                        let opens = matches!(*event, Event::Opened { .. });
                        let committed = self.commit_for(&call, *event).await;
                        match committed {
                            Fed::Committed { .. } if opens => {
                                let deadline = self.run.state.lock().deadline(self.task, &call.key());
                                Fed::Committed { deadline }
                            }
                            other => other,
                        }
                    }
                    Action::Release => self.release(),
                    Action::Sleep(Sleep::Poll(_)) if call.hosted.load(Ordering::Relaxed) => return action,
                    Action::Sleep(sleep) => Box::pin(self.sleep(&call, sleep)).await,
                    Action::CommitAndAcquire(event) => {
                        let commit = match self.commit_for(&call, *event).await {
                            Fed::Refused(refused) => Err(CallError::Over(refused)),
                            Fed::Stopped => Err(CallError::Suspended),
                            _ => Ok(()),
                        };
                        let slot = !self.is_held() && Box::pin(self.acquire()).await;
                        Fed::Acquired { commit, slot }
                    }
                    Action::Acquire => {
                        Fed::Acquired { commit: Ok(()), slot: !self.is_held() && Box::pin(self.acquire()).await }
                    }
                    action => {
                        if matches!(action, Action::Done(_)) {
                            call.under_way.lock().take();
                        }
                        return action;
                    }
                };
                action = self.advance(&call, fed);
            }
        }
    }
}
