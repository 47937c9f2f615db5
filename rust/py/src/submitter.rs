//! Submits the runs of callers on event loops, on a thread of its own: what the coroutines of a turn of their loop submit
//! is one commit, and so is what comes while that is made.

use std::sync::Arc;

use bide_core::Graph;
use bide_executor::{RunRequest, SubmitError};
use bide_sync::{Condvar, Mutex};

use crate::aio::Caller;
use crate::body::PyBody;
use crate::host::{Originals, PyEngine, Python3};
use crate::panics;

/// How many runs are submitted in one commit.
const MOST: usize = 256;

/// A run to submit.
pub(crate) struct Submission {
    /// Its workflow, as it is registered.
    pub(crate) graph: Arc<Graph>,
    pub(crate) bodies: Arc<[PyBody]>,
    /// The run.
    pub(crate) request: RunRequest<Python3>,
    pub(crate) originals: Arc<Originals>,
    /// See [`Caller::submitted`].
    pub(crate) awaited: bool,
    pub(crate) until_end: bool,
    /// Who gets its handle.
    pub(crate) caller: Arc<Caller>,
}

/// The thread, which begins with the first run.
#[derive(Default)]
pub(crate) struct Submitter {
    state: Mutex<State>,
    /// Notified when something is to be submitted, and at the stop.
    changed: Condvar,
}

#[derive(Default)]
struct State {
    queue: Vec<Submission>,
    /// What is in the queue is to be submitted now.
    flushed: bool,
    started: bool,
    stopped: bool,
}

impl Submitter {
    /// Puts a run into the queue: for the next commit, or for one after the next flush. False: nothing is submitted any
    /// more.
    ///
    /// # Errors
    /// The thread cannot be started.
    pub(crate) fn put(self: &Arc<Self>, engine: &Arc<PyEngine>, submission: Submission) -> std::io::Result<bool> {
        let mut state = self.state.lock();
        if state.stopped {
            return Ok(false);
        }
        if !state.started {
            let (own, engine) = (Arc::clone(self), Arc::clone(engine));
            std::thread::Builder::new().name("bide-submit".to_owned()).spawn(move || own.serve(&engine))?;
            state.started = true;
        }
        state.queue.push(submission);
        Ok(true)
    }

    /// Has what is in the queue submitted.
    pub(crate) fn flush(&self) {
        self.state.lock().flushed = true;
        self.changed.notify_one();
    }

    /// Nothing is taken any more. What has come by now is still answered.
    pub(crate) fn stop(&self) {
        self.state.lock().stopped = true;
        self.changed.notify_one();
    }

    fn serve(&self, engine: &Arc<PyEngine>) {
        while let Some(batch) = self.take() {
            let mut by_workflow: Vec<Vec<Submission>> = Vec::new();
            for submission in batch {
                match by_workflow.iter_mut().find(|known| Arc::ptr_eq(&known[0].graph, &submission.graph)) {
                    Some(known) => known.push(submission),
                    None => by_workflow.push(vec![submission]),
                }
            }
            by_workflow.into_iter().for_each(|same| submit(engine, same));
        }
    }

    /// What is to be submitted next, once there is something.
    fn take(&self) -> Option<Vec<Submission>> {
        let mut state = self.state.lock();
        loop {
            if !state.queue.is_empty() && (state.flushed || state.stopped) {
                let count = state.queue.len().min(MOST);
                let batch = state.queue.drain(..count).collect();
                state.flushed = !state.queue.is_empty();
                return Some(batch);
            }
            if state.stopped {
                return None;
            }
            state.flushed = false;
            self.changed.wait(&mut state);
        }
    }
}

/// Submits runs of one workflow, in one commit.
fn submit(engine: &Arc<PyEngine>, same: Vec<Submission>) {
    let Some((graph, bodies)) = same.first().map(|first| (Arc::clone(&first.graph), Arc::clone(&first.bodies))) else {
        return;
    };
    let workflow = Arc::clone(graph.workflow());
    let (mut requests, mut callers) = (Vec::with_capacity(same.len()), Vec::with_capacity(same.len()));
    for Submission { request, originals, awaited, until_end, caller, .. } in same {
        requests.push(request);
        callers.push((caller, originals, awaited, until_end));
    }
    let submitted = panics::no_panic(|| {
        let workflow = engine.register(graph, bodies).map_err(SubmitError::Store)?;
        engine.submit(&workflow, requests)
    });
    match submitted {
        Ok(Ok(handles)) => {
            for ((caller, originals, awaited, until_end), handle) in callers.into_iter().zip(handles) {
                caller.submitted(handle, originals, awaited, until_end);
            }
        }
        Ok(Err(error)) => {
            let error = Arc::new(error);
            callers.iter().for_each(|(caller, ..)| caller.failed(&workflow, &error));
        }
        Err(panicked) => {
            let panicked = Arc::new(panicked);
            callers.iter().for_each(|(caller, ..)| caller.panicked(&panicked));
        }
    }
}
