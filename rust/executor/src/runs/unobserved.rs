//! Runs that have failed or are paused and of which no caller has got to know: they are logged.
//!
//! Whether a caller waits for a run shows a moment after its end at the latest: one that has submitted it a moment ago may
//! not have begun to wait.

use std::sync::Arc;
use std::time::Duration;

use bide_sync::Mutex;

use crate::host::Host;
use crate::runs::run::Run;

/// How long after the end of a run a caller may begin to wait for it.
const GRACE: Duration = Duration::from_millis(100);

/// The lines to log, in the order in which the runs ended.
pub(crate) struct Unobserved<H: Host>(Mutex<Vec<Line<H>>>);

struct Line<H: Host> {
    /// When its run ended, by the machine's clock.
    since: Duration,
    /// The run: its caller may have got its result and dropped it.
    run: Arc<Run<H>>,
    text: String,
}

impl<H: Host> Default for Unobserved<H> {
    fn default() -> Self {
        Self(Mutex::default())
    }
}

impl<H: Host> Unobserved<H> {
    pub(crate) fn add(&self, run: &Arc<Run<H>>, text: String, now: Duration) {
        self.0.lock().push(Line { since: now, run: Arc::clone(run), text });
    }

    /// The lines about runs that ended before the grace, or about all, if no caller has got to know of them.
    pub(crate) fn take(&self, now: Option<Duration>) -> Vec<String> {
        let mut lines = self.0.lock();
        let over = |line: &Line<H>| now.is_none_or(|now| now.saturating_sub(line.since) >= GRACE);
        let count = lines.iter().take_while(|line| over(line)).count();
        let due: Vec<Line<H>> = lines.drain(..count).collect();
        drop(lines);
        due.into_iter().filter(|line| !line.run.settled.is_observed()).map(|line| line.text).collect()
    }
}
