//! A run to be submitted, and what its caller says of it.

use std::future::IntoFuture;
use std::sync::Arc;
use std::time::Duration;

use bide_core::{DefinitionError, RunOptions, Time};

use super::closures::{BoxFuture, Closures};
use super::error::Error;
use super::result::RunResult;
use super::run_handle::RunHandle;
use super::runner::submit;
use super::workflow::Workflow;
use crate::engine::Engine;
use crate::runs::run::{Inputs, RunRequest};

/// A run to be submitted, by awaiting it.
#[must_use = "a run is submitted when this is awaited"]
pub struct Submit {
    /// The engine that executes the run.
    engine: Arc<Engine<Closures>>,
    /// The workflow of the run.
    workflow: Workflow,
    /// Its inputs, or why they are refused.
    inputs: Result<Inputs, DefinitionError>,
    /// Its key, if it has one.
    key: Option<Arc<str>>,
    /// Its tags, its priority, and when it begins.
    options: RunOptions,
}

impl Submit {
    pub(super) fn new(
        engine: &Arc<Engine<Closures>>,
        workflow: &Workflow,
        inputs: Result<Inputs, DefinitionError>,
    ) -> Self {
        let (engine, workflow) = (Arc::clone(engine), workflow.clone());
        Self { engine, workflow, inputs, key: None, options: RunOptions::default() }
    }

    pub(super) fn and_wait(self) -> SubmitAndWait {
        SubmitAndWait(self)
    }

    /// Attaches to the workflow's run of this key if there is one, whether it has ended or not.
    pub fn key(mut self, key: impl Into<Arc<str>>) -> Self {
        self.key = Some(key.into());
        self
    }

    /// A text by which the run is found.
    pub fn tag(mut self, name: impl Into<Arc<str>>, value: impl Into<Arc<str>>) -> Self {
        self.options.tags.insert(name.into(), value.into());
        self
    }

    /// Of the tasks that are ready, those of runs with a higher priority start first. 0 by default.
    pub fn priority(mut self, priority: i32) -> Self {
        self.options.priority = priority;
        self
    }

    /// The run is committed at once, and nothing of it starts before this time.
    pub fn start_at(mut self, time: Time) -> Self {
        self.options.start_at = Some(time);
        self
    }

    /// As [`start_at`](Self::start_at), so long from now.
    pub fn start_after(self, span: Duration) -> Self {
        let at = self.engine.now().after(span);
        self.start_at(at)
    }
}

impl IntoFuture for Submit {
    type Output = Result<RunHandle, Error>;
    type IntoFuture = BoxFuture<'static, Self::Output>;

    fn into_future(self) -> Self::IntoFuture {
        Box::pin(async move {
            let request = RunRequest::new(self.inputs?).with_key(self.key).with_options(self.options);
            let mut handles = submit(&self.engine, self.workflow, vec![request]).await?;
            handles.pop().ok_or(Error::Closed)
        })
    }
}

/// A run to be submitted and waited for, by awaiting it.
#[must_use = "a run is submitted when this is awaited"]
pub struct SubmitAndWait(Submit);

impl SubmitAndWait {
    /// As [`Submit::key`].
    pub fn key(self, key: impl Into<Arc<str>>) -> Self {
        Self(self.0.key(key))
    }

    /// As [`Submit::tag`].
    pub fn tag(self, name: impl Into<Arc<str>>, value: impl Into<Arc<str>>) -> Self {
        Self(self.0.tag(name, value))
    }

    /// As [`Submit::priority`].
    pub fn priority(self, priority: i32) -> Self {
        Self(self.0.priority(priority))
    }

    /// As [`Submit::start_at`].
    pub fn start_at(self, time: Time) -> Self {
        Self(self.0.start_at(time))
    }

    /// As [`Submit::start_after`].
    pub fn start_after(self, span: Duration) -> Self {
        Self(self.0.start_after(span))
    }
}

impl IntoFuture for SubmitAndWait {
    type Output = Result<RunResult, Error>;
    type IntoFuture = BoxFuture<'static, Self::Output>;

    fn into_future(self) -> Self::IntoFuture {
        Box::pin(async move { self.0.await?.result().await })
    }
}
