//! Submits the runs of callers on event loops, on a thread of its own: what the coroutines of a turn of their loop submit
//! to a workflow is one commit, and so is what they submit while that is made. A run with a priority is submitted alone.

use std::sync::Arc;

use bide_core::{Graph, RunOptions};
use bide_executor::{Handle, Inputs, RunRequest, SubmitError};
use bide_sync::{Condvar, Mutex};

use crate::body::PyBody;
use crate::host::{Originals, PyEngine, Python3, Vars};
use crate::panics::{self, Panicked};
use crate::submission;

/// How many runs are submitted in one commit.
const MOST: usize = 256;

/// Who gets to know what has come of a run that it has put.
pub(crate) trait Caller: Send + Sync {
    /// It is submitted.
    fn submitted(self: Arc<Self>, handle: Handle<Python3>, originals: Arc<Originals>);

    /// It is not submitted to this workflow.
    fn failed(&self, workflow: &Arc<str>, error: &Arc<SubmitError>);

    /// It is not submitted, because of a bug.
    fn panicked(&self, panicked: &Arc<Panicked>);
}

/// A run to submit.
pub(crate) struct Submission {
    /// Its workflow, as it is registered.
    pub(crate) graph: Arc<Graph>,
    pub(crate) bodies: Arc<[PyBody]>,
    /// Its inputs and its key.
    pub(crate) run: (Inputs, Option<Arc<str>>),
    pub(crate) options: RunOptions,
    pub(crate) vars: Option<Arc<Vars>>,
    /// Its caller waits for it until its end.
    pub(crate) awaited: bool,
    pub(crate) caller: Arc<dyn Caller>,
}

impl Submission {
    fn request(&self, originals: &Arc<Originals>) -> RunRequest<Python3> {
        let (run, options, vars) = (self.run.clone(), self.options.clone(), self.vars.clone());
        submission::request(run, options, vars, originals).awaited(self.awaited)
    }

    /// Whether both may be submitted in one commit. One that is to go before others is submitted alone: of many that are
    /// too many for this runner, it might be left to another one.
    fn goes_with(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.graph, &other.graph) && self.options.priority <= 0 && other.options.priority <= 0
    }
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
    /// Puts a run into the queue: it is submitted after the next flush, or with one that another loop asks for earlier.
    /// False: nothing is submitted any more.
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
            let mut together: Vec<Vec<Submission>> = Vec::new();
            for submission in batch {
                match together.iter_mut().find(|known| known[0].goes_with(&submission)) {
                    Some(known) => known.push(submission),
                    None => together.push(vec![submission]),
                }
            }
            together.into_iter().for_each(|same| submit(engine, same));
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

/// Submits runs of one workflow, in one commit; each alone, if one of them is refused.
fn submit(engine: &Arc<PyEngine>, same: Vec<Submission>) {
    let Some(first) = same.first() else { return };
    let (graph, bodies) = (Arc::clone(&first.graph), Arc::clone(&first.bodies));
    let name = Arc::clone(graph.workflow());
    let originals: Vec<Arc<Originals>> = same.iter().map(|_| Arc::default()).collect();
    let submitted = panics::no_panic(|| {
        let workflow = engine.register(graph, bodies).map_err(SubmitError::Store)?;
        engine.submit(&workflow, same.iter().zip(&originals).map(|(one, originals)| one.request(originals)))
    });
    match submitted {
        Ok(Ok(handles)) => {
            for ((submission, originals), handle) in same.into_iter().zip(originals).zip(handles) {
                submission.caller.submitted(handle, originals);
            }
        }
        Ok(Err(SubmitError::Refused(_) | SubmitError::OtherInputs { .. })) if same.len() > 1 => {
            same.into_iter().for_each(|one| submit(engine, vec![one]));
        }
        Ok(Err(error)) => {
            let error = Arc::new(error);
            same.iter().for_each(|one| one.caller.failed(&name, &error));
        }
        Err(panicked) => {
            let panicked = Arc::new(panicked);
            same.iter().for_each(|one| one.caller.panicked(&panicked));
        }
    }
}
