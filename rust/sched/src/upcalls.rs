//! What the pool asks of the engine that it executes jobs for.

use std::fmt::Display;
use std::sync::Arc;
use std::time::Duration;

use bide_core::Time;

/// An engine, as the pool sees it: what a job is, where the time comes from, and where results go.
///
/// The pool is compiled for one engine, so that nothing is dispatched dynamically for each job.
pub trait Upcalls: Send + Sync + Sized + 'static {
    /// A body that may start.
    type Job: Send + 'static;
    /// A body that executes. Its `Display` names it in the log: "task 'x' in run y".
    type Body: Display + Send + 'static;
    /// The results of one slot that wait to be committed together.
    type Group: Default + Send + Sync + 'static;

    /// The wall's time.
    fn now(&self) -> Time;

    /// The machine's steady time since some fixed point, which no test moves.
    fn steady(&self) -> Duration;

    /// Rings an alarm soon: after a span of this time.
    fn ring_soon(&self, span: Duration, alarm: Arc<dyn Alarm>, ticket: u64);

    /// Rings an alarm when a body is to poll, after a span of the time that bodies wait by. `endless`: it polls for ever
    /// if its condition goes on answering as it has.
    fn ring_poll(&self, span: Duration, endless: bool, alarm: Arc<dyn Alarm>, ticket: u64);

    /// Whether the time that bodies wait by passes only when it is moved by hand: no thread may sleep for a span of it.
    fn is_manual(&self) -> bool {
        false
    }

    /// Writes a warning to the log.
    fn warn(&self, line: &str);

    /// Looks after a group from now on: commits it when its results have waited for too long, because the body that now
    /// executes on its slot takes long. Called once for each slot.
    fn look_after(&self, group: &Arc<Self::Group>);

    /// Results stay in the group of a slot that goes to another body: they are committed with the result of that one, or
    /// once they have waited for too long.
    fn leave(&self, group: &Self::Group);

    /// Whether a group has no results.
    fn is_empty(group: &Self::Group) -> bool;

    /// Commits a group. Jobs that become ready are added to `ready`. Blocks.
    fn commit(self: &Arc<Self>, group: &Self::Group, ready: &mut Vec<Self::Job>);

    /// Shows to other processes that a body has started. Called once for a body, when it has executed for a while.
    fn show_start(&self, body: Self::Body);

    /// A job's priority: higher first. 0 is the usual one.
    fn priority(_job: &Self::Job) -> i32 {
        0
    }

    /// Shows what a job that could start waits for. `None`: nothing any more.
    fn set_blocked(job: &Self::Job, by: Option<String>);
}

/// A callback for when a time has come.
pub trait Alarm: Send + Sync {
    /// The time has come; `ticket` is what was given with the request. Must not block.
    fn ring(self: Arc<Self>, ticket: u64);
}
