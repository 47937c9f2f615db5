//! The shares of limits, as a store keeps and grants them. What is granted `bide_core::limits` decides.

use std::sync::Arc;
use std::time::Duration;

use bide_core::limits::{LimitSpec, Need, Rank, Room, Used, Verdict};
use bide_core::record::{RunRowId, Write};
use bide_core::{TaskId, TaskStatus, Time};

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
    /// It starts, and has no share yet. Otherwise it continues.
    pub starts: bool,
}

/// The attempts that wait at a runner for one limit and one value of its key.
#[derive(Clone, Debug)]
pub struct LineClaims {
    /// The name of the limit.
    pub limit: Arc<str>,
    /// The value of its key, as text; empty for a limit without one.
    pub key: Arc<str>,
    /// What has become of starts that were granted before. First of all, the store counts them so.
    pub moved: Vec<Moved>,
    /// The shares that attempts have left to others. The store records that before it releases anything.
    pub passed: Vec<Passed>,
    /// How much later than now a body that starts is entered at most.
    pub patience: Duration,
    /// Those that are asked about, in this order: those that start by their rank.
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

/// A share that an attempt has left at its end to one that waited for it at the same runner.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Passed {
    /// Whose share it is in the store.
    pub from: ShareId,
    /// Whose share it is. Its body executes, or is about to.
    pub to: ShareId,
}

/// Starts that were granted, and have happened earlier than they might have, or not at all.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Moved {
    /// Up to when their bodies could have been entered.
    pub latest: Time,
    /// How many.
    pub count: u32,
    /// The last one of them has happened then; `None`: they have not happened, and have to be granted again.
    pub to: Option<Time>,
}

/// What a runner asks and tells about its shares, in one transaction.
#[derive(Clone, Debug, Default)]
pub struct LimitCall {
    /// Shares that are not needed.
    pub released: Vec<ShareId>,
    /// Attempts whose bodies do not execute any more, and have not ended.
    pub idle: Vec<ShareId>,
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

/// What became of the claims of a line.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct LineAnswers {
    /// Of each one, in their order.
    pub claims: Vec<Answer>,
    /// The runner may let attempts of the line leave their shares to others of the line, and tell the store with the
    /// commits of their ends. Until it is answered otherwise.
    pub may_pass_on: bool,
}

impl LineAnswers {
    /// Those of a line whose limit nobody has defined.
    pub(crate) fn unlimited(line: &LineClaims) -> Self {
        Self { claims: vec![Answer::Granted(None); line.claims.len()], may_pass_on: false }
    }
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
    /// what became of its claims. An attempt that has a share keeps it. Behind one that starts and is held, so are all
    /// others of the line that start. A limit that was never defined limits nothing. Whether one that starts is over the
    /// holder has to know, and to release what it does not need.
    ///
    /// # Errors
    /// Any [`StoreError`]; except for `Unknown` nothing was written. After `Unknown` the call can be made again, without
    /// its `moved`.
    fn claim_limits(&self, lease: Lease, now: Time, call: &LimitCall) -> Result<Vec<LineAnswers>, StoreError>;

    /// Whether commits answer claims, see [`Commit::claims`](crate::Commit::claims).
    fn grants_in_commits(&self) -> bool {
        false
    }

    /// Forgets the starts that count no more, and the values of keys of which nothing is used.
    ///
    /// # Errors
    /// As [`crate::Store::purge`].
    fn purge_limits(&self, now: Time) -> Result<(), StoreError>;

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

    /// Whether an attempt has a share of this line, and whether it counts as executing.
    fn held(&mut self, share: ShareId) -> Result<Option<bool>, Self::Error>;

    /// Gives it one, or lets the one that it has count as executing. `any`: also if its run does not belong to the
    /// holder, or its task has ended.
    fn give(&mut self, share: ShareId, any: bool) -> Result<Given, Self::Error>;

    /// Lets starts count until the span of the rate after this time.
    fn start(&mut self, latest: Time, count: u32) -> Result<(), Self::Error>;
}

/// What came of giving an attempt a share.
pub(crate) enum Given {
    /// It had none.
    New,
    /// It had one. Whether that counted as executing.
    Had(bool),
    /// It gets none: its run belongs to somebody else, or its task has ended.
    Gone,
}

impl Given {
    /// Of an attempt that had this before, as [`Shares::held`] says.
    pub(crate) fn of_holder(held: Option<bool>) -> Self {
        held.map_or(Self::New, Self::Had)
    }
}

/// Answers the claims of a line, in their order.
pub(crate) fn answer<S: Shares>(
    shares: &mut S,
    spec: &LimitSpec,
    line: &LineClaims,
    (used, others): (Used, &[Rank]),
    now: Time,
) -> Result<LineAnswers, S::Error> {
    let (mut room, latest) = (Room::new(spec, used, others, now), now.after(line.patience));
    let mut answers = Vec::with_capacity(line.claims.len());
    let (mut started, mut behind) = (0, None);
    for claim in &line.claims {
        if let Some(held) = behind.filter(|_| claim.starts) {
            answers.push(held);
            continue;
        }
        let needs = |held: Option<bool>| Need {
            rank: claim.rank,
            share: held.is_none(),
            executing: held != Some(true),
            start: claim.starts,
        };
        // Few have a share already, and what there is room for needs no look at that.
        let (mut held, mut verdict) = (None, room.ask(&needs(None)));
        if spec.has_shares() && verdict != Verdict::Granted {
            held = shares.held(claim.share)?;
            verdict = room.ask(&needs(held));
        }
        if let Verdict::Held { counted, until } = verdict {
            let answer = Answer::Held { counted, until };
            behind = behind.or_else(|| claim.starts.then_some(answer));
            answers.push(answer);
            continue;
        }
        if spec.has_shares() && held != Some(true) {
            held = match shares.give(claim.share, claim.starts || held.is_some())? {
                Given::New => None,
                Given::Had(executing) => Some(executing),
                Given::Gone => {
                    answers.push(Answer::Gone);
                    continue;
                }
            };
        }
        room.take(&needs(held), latest);
        let is_start = claim.starts && spec.rate.is_some();
        started += u32::from(is_start);
        answers.push(Answer::Granted(is_start.then_some(latest)));
    }
    if started > 0 {
        shares.start(latest, started)?;
    }
    Ok(LineAnswers { claims: answers, may_pass_on: room.may_pass_on() })
}
