//! Polling the sources of watches, on the threads that poll gates.

use std::sync::Arc;
use std::time::Duration;

use crate::engine::Engine;
use crate::host::{Attached, Host};
use crate::runs::local_watch::{LocalWatch, SourceAnswer};
use crate::runs::sources::Begun;

/// What a poll of a source has come to.
pub(crate) struct PolledSource {
    /// When the watch is due again.
    pub(crate) after: Option<Duration>,
    /// The source answers later.
    pub(crate) is_unanswered: bool,
    /// It is not polled any more.
    pub(crate) is_over: bool,
}

impl<H: Host> Engine<H> {
    /// Looks at a watch that is due, and calls its source if this runner is to do that.
    pub(crate) fn poll_source(&self, watch: &Arc<LocalWatch<H>>, cx: &mut dyn Attached) -> PolledSource {
        let watcher = self.watcher();
        let polled = |after: Option<Duration>, is_unanswered: bool| PolledSource {
            after,
            is_unanswered,
            is_over: after.is_none() && !is_unanswered,
        };
        match cx.detach(|| watcher.begin(watch)) {
            Begun::Over => polled(None, false),
            Begun::Wait(span) => polled(Some(span), false),
            Begun::Call(source, cursor) => {
                let answer = source(watch.id, &cursor);
                let is_unanswered = answer == SourceAnswer::Later;
                let after = if watcher.is_idle(watch, &answer) {
                    watcher.end(watch, answer)
                } else {
                    cx.detach(|| watcher.end(watch, answer))
                };
                polled(after, is_unanswered)
            }
        }
    }
}
