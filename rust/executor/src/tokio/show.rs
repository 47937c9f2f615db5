//! What a closure shows while it lives, events and progress, and how its callers read the events.

use std::sync::Arc;

use bide_core::{Channel, Origin, Progress, Time};
use bide_store::{EventRange, StoreError};
use serde::Serialize;
use serde::de::DeserializeOwned;
use tokio::sync::oneshot;

use super::blocking::blocking;
use super::codec::{decode, encode, serialization_failure};
use super::enqueue::enqueue;
use super::error::Error;
use super::handle::TaskHandle;
use super::run_handle::RunHandle;
use super::task_error::TaskError;
use crate::engine::show::{Room, publish};
use crate::ledger::QueuedEvent;

/// An event that a body has emitted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Event<T> {
    /// What was emitted.
    pub value: T,
    /// Its offset in the channel, from 1.
    pub offset: u64,
    /// When it was emitted.
    pub time: Time,
    /// The task whose body emitted it.
    pub task: String,
    /// Its attempt.
    pub attempt: u32,
    /// The name of the step or wait within which it was emitted.
    pub entry: Option<Arc<str>>,
}

impl TaskHandle {
    /// Appends a value to a channel of the run: it is committed soon, and before anything that the body records later.
    /// Waits only if many events wait to be committed.
    ///
    /// # Errors
    /// If the value cannot be stored; or the body is to return.
    pub async fn emit<T: Serialize + ?Sized>(&self, channel: impl Into<Arc<str>>, value: &T) -> Result<(), TaskError> {
        let body = &self.0;
        let name = channel.into();
        let value = encode(value).map_err(|why| {
            let message =
                format!("task '{}': an event of the channel '{name}' cannot be stored: {why}", body.task_name());
            TaskError::failed(serialization_failure(&message))
        })?;
        let channel = Channel { name, type_name: "".into(), keep: None };
        let origin = self.origin()?;
        let engine = body.engine();
        if engine.emit(&body.run, &channel, origin, &value).map_err(TaskError::of_call)? == Room::Left {
            return Ok(());
        }
        let (completion, committed) = oneshot::channel();
        let (run, at) = (Arc::clone(&body.run), engine.clock().now());
        enqueue(engine, QueuedEvent { run, event: publish(), at, completion: Some(completion) });
        // If it is not committed, the next call of the handle says why.
        let _ = committed.await;
        Ok(())
    }

    /// Says how far the task has come: written once a second at most, and when the attempt ends.
    ///
    /// # Errors
    /// The body is to return.
    pub fn progress(&self, done: f64, total: Option<f64>, message: Option<&str>) -> Result<(), TaskError> {
        let body = &self.0;
        let attempt = self.origin()?.attempt;
        let progress = Progress { done, total, message: message.map(Into::into), said_at: body.engine().now() };
        body.engine().progress(&body.run, body.task, attempt, progress);
        Ok(())
    }

    fn origin(&self) -> Result<Origin, TaskError> {
        let (task, attempt) = (self.0.task, self.0.attempt());
        let entry = self.0.may_show().map_err(TaskError::of_call)?;
        Ok(Origin { task, attempt, entry })
    }
}

impl RunHandle {
    /// The events that the run has emitted to a channel so far, those after an offset.
    ///
    /// # Errors
    /// From the store; or an event is of another type.
    pub async fn events<T: DeserializeOwned>(&self, channel: &str, after: u64) -> Result<Vec<Event<T>>, Error> {
        let (run, name) = (self.id(), channel.to_owned());
        let range = EventRange::After { offset: after, most: usize::MAX };
        let read = blocking(self.engine(), move |engine| engine.store().events(run, &name, range)).await??;
        let mut events = Vec::new();
        let damaged = |why: &dyn std::fmt::Display| {
            Error::Store(StoreError::Corrupt(format!("run {run}: an event of the channel '{channel}': {why}")))
        };
        for chunk in read.ok_or_else(|| Error::unknown_run(run))? {
            for event in chunk.events().map_err(|why| damaged(&why))?.into_iter().filter(|event| event.offset > after) {
                events.push(Event {
                    value: decode(&event.value).map_err(|why| damaged(&why))?,
                    offset: event.offset,
                    time: event.at,
                    task: chunk.task_name(),
                    attempt: chunk.attempt,
                    entry: chunk.entry.clone(),
                });
            }
        }
        Ok(events)
    }
}
