//! What an engine has counted, and what it has in memory.

use std::time::Duration;

use super::Engine;
use crate::host::Host;
use crate::meter::Figures;

impl<H: Host> Engine<H> {
    /// What it has counted so far, and what it has in memory now. Waits for no commit.
    #[must_use]
    pub fn figures(&self) -> Figures {
        let mut figures = self.control.meter.read();
        let runs = self.control.runs.all();
        figures.open_runs = runs.len();
        for run in runs {
            run.state.lock().each_open_wait(&mut |kind| figures.open_waits[kind as usize] += 1);
        }
        figures
    }

    /// Has this called with how long each commit takes from here on, on a store that blocks; with the commit lock held.
    /// The first one counts.
    pub fn observe_commits(&self, observer: impl Fn(Duration) + Send + Sync + 'static) {
        let _ = self.control.meter.observer.set(Box::new(observer));
    }
}
