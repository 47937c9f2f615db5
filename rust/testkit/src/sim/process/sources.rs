//! The watch of a world, which finds items of runs: this process calls its source if the engine says so.

use std::sync::Arc;
use std::time::Duration;

use bide_core::{Value, pack};
use bide_executor::{Clock, RegisteredWorkflow, SourceAnswer, WatchRequest, WatchSource};
use bide_store::StoreError;

use super::super::host::SimHost;
use super::super::world::{WATCH, item_of, key_of};
use super::Process;

/// From one call of the source to the next.
const EVERY: Duration = Duration::from_secs(2);

/// Items that came so many milliseconds before the last call are returned again.
const AGAIN: u64 = 3_000;

impl Process {
    /// Defines the watch, in each process anew.
    pub(super) fn watch(&self, workflow: &Arc<RegisteredWorkflow<SimHost>>) -> Result<(), StoreError> {
        if !self.shared.case.has_watch() {
            return Ok(());
        }
        let request = WatchRequest { name: WATCH.into(), every: EVERY, shown: "source".into(), source: self.source() };
        self.driver.define_watch(workflow, request)
    }

    fn source(&self) -> WatchSource {
        let (case, clock) = (Arc::clone(&self.shared.case), Arc::clone(&self.shared.clock));
        Box::new(move |_, cursor| {
            let now = clock.steady().as_millis() as u64;
            let seen = std::str::from_utf8(cursor.payload()).ok().and_then(|text| text.parse().ok());
            let since = seen.map_or(0, |seen: u64| seen.saturating_sub(AGAIN));
            let items =
                case.watched.iter().enumerate().filter(|(_, ms)| ms.is_some_and(|ms| (since..=now).contains(&ms)));
            let items = items.map(|(run, _)| {
                let input = Value::tagged(b's', key_of(run).as_bytes());
                (item_of(run).into(), pack::pack([("input", Some(&input))]).into())
            });
            SourceAnswer::Items(items.collect(), Value::tagged(b'i', now.to_string().as_bytes()))
        })
    }

    /// The watch is looked at.
    pub(super) fn poll_source(&mut self) {
        let span = self.driver.source_turn(WATCH).unwrap_or(EVERY);
        self.source_due = self.steady() + span;
    }

    /// When the watch is looked at next, by the steady clock, if there is one.
    pub(super) fn next_source(&self) -> Option<Duration> {
        (self.shared.case.has_watch() && self.registered.get() && !self.is_closing()).then_some(self.source_due)
    }
}
