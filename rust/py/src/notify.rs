//! The one thread of a runner that tells Python what Rust's own threads have to say: log lines, and that a run has
//! settled. Those threads never attach; they leave it in a queue here.

use std::collections::VecDeque;
use std::sync::Arc;

use bide_executor::Level;
use bide_sync::{Condvar, Mutex};
use pyo3::prelude::*;
use pyo3::types::PyString;

use crate::gil::{self, Kept};

/// Something to tell.
enum News {
    Log(Level, String),
    /// Calls this without arguments.
    Call(Kept),
}

/// The queue.
#[derive(Default)]
pub(crate) struct Notifier {
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Default)]
struct State {
    queue: VecDeque<News>,
    stop: bool,
}

impl Notifier {
    pub(crate) fn log(&self, level: Level, line: &str) {
        self.push(News::Log(level, line.to_owned()));
    }

    pub(crate) fn call(&self, callback: Kept) {
        self.push(News::Call(callback));
    }

    fn push(&self, news: News) {
        self.state.lock().queue.push_back(news);
        self.changed.notify_one();
    }

    /// Ends the thread once the queue is empty.
    pub(crate) fn stop(&self) {
        self.state.lock().stop = true;
        self.changed.notify_all();
    }

    /// The thread.
    pub(crate) fn run(self: &Arc<Self>, py: Python<'_>) {
        while let Some(batch) = gil::idle(py, || self.take()) {
            for news in batch {
                // Nobody is there to be told of an error in a logging handler or a callback.
                let _ = match news {
                    News::Log(level, line) => log(py, level, &line),
                    News::Call(callback) => gil::call0(callback.bind(py)).map(drop).map_err(Into::into),
                };
            }
        }
    }

    fn take(&self) -> Option<VecDeque<News>> {
        let mut state = self.state.lock();
        while state.queue.is_empty() {
            if state.stop {
                return None;
            }
            self.changed.wait(&mut state);
        }
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
