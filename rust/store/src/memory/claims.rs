//! [`Limits`] of the store in memory: definitions, claims and uses.

use std::collections::{BTreeSet, HashMap};
use std::convert::Infallible;
use std::sync::Arc;

use bide_core::limits::{LimitSpec, Rank, Room, Used};
use bide_core::record::RunRowId;
use bide_core::{TaskStatus, Time};

use super::MemoryStore;
use super::limits::{LineKey, MemLimits};
use super::run::{MemRun, RowHash};
use super::state::State;
use crate::limits::{Given, Shares, answer};
use crate::{
    Lease, LimitCall, LimitInfo, LimitUse, Limits, LineAnswers, LineClaims, Moved, Passed, ShareId, StoreError,
};

/// The shares of one limit and one value of its key.
struct OfLine<'a> {
    limits: &'a mut MemLimits,
    runs: &'a HashMap<RunRowId, MemRun, RowHash>,
    runner: i64,
    line: LineKey,
    /// Shares of other lines were released.
    released: bool,
}

impl Shares for OfLine<'_> {
    type Error = Infallible;

    fn held(&mut self, share: ShareId) -> Result<Option<bool>, Infallible> {
        let known = self.limits.shares.get(&share).filter(|known| known.line == self.line);
        Ok(known.map(|known| known.executing))
    }

    fn give(&mut self, share: ShareId, any: bool) -> Result<Given, Infallible> {
        let held = self.held(share)?;
        if !any && held.is_none() && !self.is_current(share) {
            return Ok(Given::Gone);
        }
        self.released |= self.limits.give(share, self.line.clone(), self.runner);
        Ok(Given::of_holder(held))
    }

    fn start(&mut self, latest: Time, count: u32) -> Result<(), Infallible> {
        self.limits.starts.entry(self.line.clone()).or_default().add(latest, count);
        Ok(())
    }
}

impl OfLine<'_> {
    /// Whether the attempt's run belongs to the holder and its task has not ended.
    fn is_current(&self, share: ShareId) -> bool {
        self.runs.get(&share.run).is_some_and(|run| {
            let has_ended = run.task_status(share.task, share.map).is_some_and(TaskStatus::is_ended);
            !run.status.is_ended() && run.runner == Some(self.runner) && !has_ended
        })
    }
}

impl State {
    /// Answers the claims of a line. True if shares of other lines were released.
    fn answer(&mut self, runner: i64, claims: &LineClaims, now: Time) -> (LineAnswers, bool) {
        let line = (Arc::clone(&claims.limit), Arc::clone(&claims.key));
        let limits = &mut self.limits;
        let Some(spec) = limits.specs.get(&claims.limit).cloned() else {
            return (LineAnswers::unlimited(claims), false);
        };
        let starts = limits.starts.get_mut(&line).map(|starts| {
            starts.forget_before(Room::counts_since(&spec, now));
            starts.counted()
        });
        let (started, oldest) = starts.unwrap_or_default();
        let others: Vec<Rank> = limits.lines.get(&line).map_or_else(Vec::new, |lines| {
            lines.iter().filter(|(other, _)| **other != runner).map(|(_, (_, rank))| *rank).collect()
        });
        let (executing, in_flight) = limits.used.get(&line).copied().unwrap_or_default();
        let used = Used { executing, in_flight, started, oldest };
        let mut shares = OfLine { limits, runs: &self.runs, runner, line, released: false };
        let Ok(answers) = answer(&mut shares, &spec, claims, (used, &others), now);
        let OfLine { line, released, .. } = shares;
        match claims.waiting(&answers.claims) {
            Some(waiting) => drop(self.limits.lines.entry(line).or_default().insert(runner, waiting)),
            None => {
                if let Some(lines) = self.limits.lines.get_mut(&line) {
                    lines.remove(&runner);
                    if lines.is_empty() {
                        self.limits.lines.remove(&line);
                    }
                }
            }
        }
        (answers, released)
    }
}

impl State {
    /// Records which attempts have left their shares to others.
    pub(super) fn pass_on(&mut self, lease: Lease, lines: &[LineClaims]) {
        for line in lines {
            let key = (Arc::clone(&line.limit), Arc::clone(&line.key));
            for Passed { from, to } in &line.passed {
                let known = self.limits.shares.get(from);
                if known.is_some_and(|share| share.line == key && share.runner == Some(lease.runner)) {
                    self.limits.release(*from);
                }
                let (limits, runs, line) = (&mut self.limits, &self.runs, key.clone());
                let Ok(_) = OfLine { limits, runs, runner: lease.runner, line, released: false }.give(*to, false);
            }
        }
    }

    /// Answers the claims of lines. True if shares of other lines were released.
    pub(super) fn answer_all(&mut self, lease: Lease, now: Time, lines: &[LineClaims]) -> (Vec<LineAnswers>, bool) {
        let mut freed = false;
        let answers = lines.iter().map(|line| {
            let (answered, frees) = self.answer(lease.runner, line, now);
            freed |= frees;
            answered
        });
        (answers.collect(), freed)
    }
}

impl Limits for MemoryStore {
    fn define_limit(&self, limit: &LimitSpec) -> Result<Option<LimitSpec>, StoreError> {
        let before = self.state.lock().limits.specs.insert(Arc::clone(&limit.name), limit.clone());
        let before = before.filter(|before| before != limit);
        if before.is_some() {
            // Who waits may have room now.
            self.changes.limits();
        }
        Ok(before)
    }

    fn claim_limits(&self, lease: Lease, now: Time, call: &LimitCall) -> Result<Vec<LineAnswers>, StoreError> {
        let state = &mut *self.state.lock();
        state.fence(lease)?;
        state.pass_on(lease, &call.lines);
        let limits = &mut state.limits;
        let mut released = false;
        for share in &call.released {
            released |= limits.release(*share);
        }
        for share in &call.idle {
            released |= limits.idle(*share);
        }
        for line in &call.lines {
            let Some(starts) = limits.starts.get_mut(&(Arc::clone(&line.limit), Arc::clone(&line.key))) else {
                continue;
            };
            for Moved { latest, count, to } in &line.moved {
                if starts.take(*latest, *count) {
                    released = true;
                    to.inspect(|to| starts.add(*to, *count));
                }
            }
        }
        let (answers, freed) = state.answer_all(lease, now, &call.lines);
        released |= freed;
        if released && state.limits.others_wait(lease.runner) {
            self.changes.limits();
        }
        Ok(answers)
    }

    fn grants_in_commits(&self) -> bool {
        true
    }

    fn purge_limits(&self, now: Time) -> Result<(), StoreError> {
        let limits = &mut self.state.lock().limits;
        limits.starts.retain(|(name, _), starts| {
            starts.forget_before(limits.specs.get(name).map_or(Time::NEVER, |spec| Room::counts_since(spec, now)));
            starts.counted().0 > 0
        });
        Ok(())
    }

    fn limits(&self, now: Time) -> Result<Vec<LimitInfo>, StoreError> {
        let state = &*self.state.lock();
        let limits = &state.limits;
        let info = |spec: &LimitSpec| {
            let keys = limits.used.keys().chain(limits.starts.keys()).chain(limits.lines.keys());
            let keys: BTreeSet<&LineKey> = keys.filter(|(name, _)| *name == spec.name).collect();
            let since = Room::counts_since(spec, now);
            let used = |line: &LineKey| {
                let (executing, in_flight) = limits.used.get(line).copied().unwrap_or_default();
                let started = limits.starts.get(line).map_or(0, |starts| starts.since(since));
                let waiting = limits.lines.get(line).map_or(0, |lines| lines.values().map(|(count, _)| *count).sum());
                LimitUse { key: Arc::clone(&line.1), executing, in_flight, started, waiting }
            };
            let is_used = |one: &LimitUse| one.executing + one.in_flight + one.started + one.waiting > 0;
            LimitInfo { spec: spec.clone(), uses: keys.into_iter().map(used).filter(is_used).collect() }
        };
        Ok(limits.specs.values().map(info).collect())
    }
}

impl State {
    /// Whether shares were released for which another runner waits.
    pub(super) fn limits_released(&self, released: bool, lease: Lease) -> bool {
        released && self.limits.others_wait(lease.runner)
    }
}
