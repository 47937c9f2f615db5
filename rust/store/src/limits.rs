//! The shares of limits, as a store keeps and grants them. What is granted `bide_core::limits` decides.

use std::sync::Arc;
use std::time::Duration;

use bide_core::limits::{LimitSpec, Need, Rank, Room, Starts, Verdict};
use bide_core::record::{RunRowId, RunUpdate, Write};
use bide_core::{BlockReason, RunStatus, TaskId, TaskStatus, Time};

use crate::{Lease, StoreError};

/// Whose share it is: the current attempt of a task, or of an element of a mapped one. Its end releases the share, in
/// the same commit.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ShareId {
    /// The row number of the run.
    pub run: RunRowId,
    /// The number of the task.
    pub task: TaskId,
    /// The map index.
    pub map: i32,
}

/// Whether no body of the run executes from this write on, though the run has not ended: it waits for somebody to resume
/// it. One that is paused on request lets its bodies end.
pub(crate) fn stands(update: &RunUpdate) -> bool {
    update.status == RunStatus::Paused && !update.blocked_by.as_ref().is_some_and(BlockReason::is_requested)
}

impl ShareId {
    /// The share that a write releases, because the attempt has ended.
    #[must_use]
    pub fn released_by(write: &Write) -> Option<Self> {
        match write {
            Write::Done(row) => Some(Self { run: row.run, task: row.task, map: row.map }),
            Write::Task(row) if row.status.is_ended() || row.status == TaskStatus::Pending => {
                Some(Self { run: row.run, task: row.task, map: row.map })
            }
            _ => None,
        }
    }
}

/// An attempt that is asked about.
#[derive(Clone, Copy, Debug)]
pub struct LimitClaim {
    /// Whose share it is.
    pub share: ShareId,
    /// Its rank.
    pub rank: Rank,
    /// It starts, and its body is entered at most this much later; `None`: it continues.
    pub starts: Option<Duration>,
}

/// The attempts that wait at a runner for one limit and one value of its key.
#[derive(Clone, Debug)]
pub struct LineClaims {
    /// The name of the limit.
    pub limit: Arc<str>,
    /// The value of its key, as text; empty for a limit without one.
    pub key: Arc<str>,
    /// Those that are asked about, in this order.
    pub claims: Vec<LimitClaim>,
    /// How many wait behind these, and the rank of the first one.
    pub behind: Option<(u64, Rank)>,
}

impl LineClaims {
    /// What waits once these answers are given: how many, and the rank of the first one.
    pub(crate) fn waiting(&self, answers: &[Answer]) -> Option<(u64, Rank)> {
        let held = self.claims.iter().zip(answers).filter(|(_, answer)| matches!(answer, Answer::Held { .. }));
        let first = held.clone().map(|(claim, _)| claim.rank).chain(self.behind.map(|(_, rank)| rank)).min()?;
        Some((held.count() as u64 + self.behind.map_or(0, |(count, _)| count), first))
    }
}

/// A start that was granted too long ago: the body was not entered, and has to be granted one again.
#[derive(Clone, Debug)]
pub struct Unstarted {
    /// The name of the limit.
    pub limit: Arc<str>,
    /// The value of its key.
    pub key: Arc<str>,
    /// Up to when it could have been entered.
    pub latest: Time,
}

/// What a runner asks and tells about its shares, in one transaction.
#[derive(Clone, Debug, Default)]
pub struct LimitCall {
    /// Shares that are not needed.
    pub released: Vec<ShareId>,
    /// Attempts whose bodies do not execute any more, and have not ended.
    pub idle: Vec<ShareId>,
    /// Starts that have not happened.
    pub unstarted: Vec<Unstarted>,
    /// The attempts that wait.
    pub lines: Vec<LineClaims>,
}

/// What became of a claim.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Answer {
    /// It may execute. The time is up to when its body may be entered, if it starts under a rate.
    Granted(Option<Time>),
    /// It waits: for what, and until when at least, if only time helps.
    Held {
        /// For what.
        counted: bide_core::Counted,
        /// Until when.
        until: Option<Time>,
    },
    /// Its attempt is over, or its run belongs to another runner.
    Gone,
}

/// How much of a limit is used, for one value of its key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LimitUse {
    /// The value of the key, as text; empty for a limit without one.
    pub key: Arc<str>,
    /// How many bodies execute.
    pub executing: u64,
    /// How many attempts are in flight.
    pub in_flight: u64,
    /// How many have started within the span of the rate.
    pub started: u64,
    /// How many are held back, at all runners.
    pub waiting: u64,
}

/// A limit, for people who look.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LimitInfo {
    /// What it allows.
    pub spec: LimitSpec,
    /// How much of it is used, by the value of its key; values of which nothing is used are left out.
    pub uses: Vec<LimitUse>,
}

/// The limits of a store.
pub trait Limits {
    /// Records what a limit allows from now on. Returns what was recorded before, if that was something else.
    ///
    /// # Errors
    /// Any [`StoreError`] but `Fenced`.
    fn define_limit(&self, limit: &LimitSpec) -> Result<Option<LimitSpec>, StoreError>;

    /// Grants shares to attempts of the holder's runs, as far as there are any, in one transaction, and says of each line
    /// what became of its claims. An attempt that has a share keeps it. A limit that was never defined limits nothing.
    ///
    /// # Errors
    /// Any [`StoreError`]; except for `Unknown` nothing was written. After `Unknown` the call can be made again.
    fn claim_limits(&self, lease: Lease, now: Time, call: &LimitCall) -> Result<Vec<Vec<Answer>>, StoreError>;

    /// All limits, by name.
    ///
    /// # Errors
    /// As [`crate::Store::load`].
    fn limits(&self, now: Time) -> Result<Vec<LimitInfo>, StoreError>;
}

/// What a store has to do to answer the claims of a line: the same for every store.
pub(crate) trait Shares {
    /// What a call of the store fails with.
    type Error;

    /// Whether the attempt's run belongs to the holder and its task has not ended.
    fn is_current(&mut self, share: ShareId) -> Result<bool, Self::Error>;

    /// Whether it has a share of this line, and whether it counts as executing.
    fn held(&mut self, share: ShareId) -> Result<Option<bool>, Self::Error>;

    /// Gives it one, or lets the one that it has count as executing.
    fn give(&mut self, share: ShareId) -> Result<(), Self::Error>;

    /// Lets a start count until the span of the rate after this time.
    fn start(&mut self, latest: Time) -> Result<(), Self::Error>;
}

/// Answers the claims of a line, in their order.
pub(crate) fn answer<S: Shares>(
    shares: &mut S,
    spec: &LimitSpec,
    line: &LineClaims,
    used: (u64, u64),
    (starts, others): (Vec<Starts>, &[Rank]),
    now: Time,
) -> Result<Vec<Answer>, S::Error> {
    let mut room = Room::new(spec, used, starts, others, now);
    let mut answers = Vec::with_capacity(line.claims.len());
    for claim in &line.claims {
        if !shares.is_current(claim.share)? {
            answers.push(Answer::Gone);
            continue;
        }
        let held = if spec.has_shares() { shares.held(claim.share)? } else { None };
        let need = Need {
            rank: claim.rank,
            share: held.is_none(),
            executing: held != Some(true),
            start: claim.starts.is_some(),
        };
        let latest = now.after(claim.starts.unwrap_or_default());
        answers.push(match room.ask(&need, latest) {
            Verdict::Granted => {
                if spec.has_shares() && need.executing {
                    shares.give(claim.share)?;
                }
                let start = need.start && spec.rate.is_some();
                if start {
                    shares.start(latest)?;
                }
                Answer::Granted(start.then_some(latest))
            }
            Verdict::Held { counted, until } => Answer::Held { counted, until },
        });
    }
    Ok(answers)
}
