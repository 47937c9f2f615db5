//! What a body has bide record for it, beside its waits and steps: that it has made a callback, and its answers to
//! requests.

use std::sync::Arc;

use bide_core::attempt::{Action, CallError, Fed, Request, reply_name};
use bide_core::{CallbackToken, RecordKind, Value};

use super::BodyCx;
use crate::host::{Attached, Host};
use crate::ids::{recorded_token, token};
use crate::runs::answers::Reply;
use crate::threads::pool::Pool;

impl<H: Host<Dispatch = Pool<H>>> BodyCx<H> {
    /// Records that the body has made a callback. Returns its token: on re-entry it is the same.
    ///
    /// # Errors
    /// See [`CallError`].
    pub fn make_callback(&self, at: &mut dyn Attached, name: &Arc<str>) -> Result<CallbackToken, CallError> {
        let run = self.run.id;
        let value = token(run)?.to_value();
        let recorded = self.record_own(at, name, Request::Record { kind: RecordKind::Callback, value })?;
        recorded_token(run, &self.task_name(), name, &recorded)
    }

    /// Answers a request that the body has taken, by its name and number.
    ///
    /// # Errors
    /// See [`CallError`]; `Misuse` if this entry of the body has answered it before.
    pub fn reply(&self, at: &mut dyn Attached, name: &str, request: i64, answer: Reply) -> Result<(), CallError> {
        let name = reply_name(name, request);
        self.record_own(at, &name, Request::Reply { request, answer }).map(drop)
    }

    fn record_own(&self, at: &mut dyn Attached, name: &Arc<str>, request: Request) -> Result<Value, CallError> {
        let mut call = self.begin(name, request)?;
        match self.drive(at, &mut call, &mut Fed::Begin) {
            Action::Done(result) => result,
            action => unreachable!("{action:?} of a record"),
        }
    }
}
