//! The notifier thread of a runner: delivers to Python what Rust's own threads report, which are log lines,
//! callbacks of those who follow a run, and events for those who observe. Those threads never attach; they queue messages
//! here.

use std::collections::VecDeque;
use std::sync::Arc;

use bide_executor::Level;
use bide_sync::{Condvar, Mutex};
use pyo3::prelude::*;
use pyo3::types::PyString;

use crate::gil::{self, Kept};
use crate::observe::{Observed, ObservedCommit};

/// Makes a line for the log, if there is something to say by then.
type MakesLine = dyn FnOnce(Python<'_>) -> PyResult<Option<String>> + Send;

/// A report for Python.
enum Message {
    /// A line for the log.
    Log(Level, String),
    /// A line that is made here: if there is something to say.
    Made(Box<MakesLine>),
    /// A callback, called without arguments.
    Call(Kept),
    /// An event, for who observes.
    Observed(Box<Observed>),
    /// How long a commit took, for who observes.
    Committed(ObservedCommit),
}

/// The queue of messages for Python.
#[derive(Default)]
pub(crate) struct Notifier {
    /// The queue.
    state: Mutex<State>,
    /// Notified when a message is queued, and at the stop.
    changed: Condvar,
}

#[derive(Default)]
struct State {
    /// Messages in the order in which they were reported.
    queue: VecDeque<Message>,
    /// The thread waits for messages.
    resting: bool,
    /// How often it has taken some.
    batches: u64,
    /// The thread ends once the queue is empty.
    stop: bool,
}

impl Notifier {
    pub(crate) fn log(&self, level: Level, line: &str) {
        self.push(Message::Log(level, line.to_owned()));
    }

    /// Warns with a line that is made once that is attached, if there is something to say by then.
    pub(crate) fn warn_by(&self, make: impl FnOnce(Python<'_>) -> PyResult<Option<String>> + Send + 'static) {
        self.push(Message::Made(Box::new(make)));
    }

    pub(crate) fn call(&self, callback: Kept) {
        self.push(Message::Call(callback));
    }

    pub(crate) fn observed(&self, event: Observed) {
        self.push(Message::Observed(Box::new(event)));
    }

    pub(crate) fn committed(&self, commit: ObservedCommit) {
        self.push(Message::Committed(commit));
    }

    fn push(&self, message: Message) {
        self.state.lock().queue.push_back(message);
        self.changed.notify_one();
    }

    /// `None`: something is to be delivered, or is being delivered. Else how often something was.
    pub(crate) fn rest(&self) -> Option<u64> {
        let state = self.state.lock();
        (state.queue.is_empty() && state.resting).then_some(state.batches)
    }

    /// Ends the thread once the queue is empty.
    pub(crate) fn stop(&self) {
        self.state.lock().stop = true;
        self.changed.notify_all();
    }

    /// The thread.
    pub(crate) fn run(self: &Arc<Self>, py: Python<'_>) {
        while let Some(batch) = gil::idle(py, || self.take()) {
            for message in batch {
                // An error in a logging handler or a callback has no caller to go to.
                let _ = match message {
                    Message::Log(level, line) => log(py, level, &line),
                    Message::Made(make) => {
                        make(py).and_then(|line| line.map_or(Ok(()), |line| log(py, Level::Warning, &line)))
                    }
                    Message::Call(callback) => gil::call0(callback.bind(py)).map(drop).map_err(Into::into),
                    Message::Observed(event) => event.deliver(py),
                    Message::Committed(commit) => commit.deliver(py),
                };
            }
        }
    }

    fn take(&self) -> Option<VecDeque<Message>> {
        let mut state = self.state.lock();
        while state.queue.is_empty() {
            if state.stop {
                return None;
            }
            state.resting = true;
            self.changed.wait(&mut state);
        }
        state.resting = false;
        state.batches += 1;
        Some(std::mem::take(&mut state.queue))
    }
}

fn log(py: Python<'_>, level: Level, line: &str) -> PyResult<()> {
    let logging = py.import("logging")?;
    let logger = gil::call1(&logging.getattr("getLogger")?, PyString::new(py, "bide").as_any())?;
    let (method, line) = match level {
        Level::Warning => ("warning", line.to_owned()),
        Level::Error => ("error", line.to_owned()),
        Level::Stuck { thread } => ("warning", format!("{line} ({})", place_of(py, thread)?)),
    };
    let method = gil::getattr(&logger, &PyString::new(py, method))?;
    let percent = PyString::new(py, "%s").into_any();
    gil::call_args(&method, &[&percent, PyString::new(py, &line).as_any()])?;
    Ok(())
}

/// Where a thread is now.
fn place_of(py: Python<'_>, thread: u64) -> PyResult<String> {
    let frames = gil::call0(&py.import("sys")?.getattr("_current_frames")?)?;
    let Ok(frame) = frames.get_item(thread) else { return Ok("it has just returned".to_owned()) };
    let file: String = frame.getattr("f_code")?.getattr("co_filename")?.extract()?;
    let line: Option<u32> = frame.getattr("f_lineno")?.extract()?;
    Ok(format!("it is at {file}:{}", line.unwrap_or(0)))
}
