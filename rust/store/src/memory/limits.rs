//! Limits in memory: their definitions, and the shares and starts that count. See [`crate::Limits`].

use std::collections::{BTreeMap, HashMap};
use std::convert::Infallible;
use std::sync::Arc;

use bide_core::limits::{LimitSpec, Rank, Room, Starts};
use bide_core::record::{RunRowId, Write};
use bide_core::{TaskId, TaskStatus, Time};

use super::MemoryStore;
use super::run::{MemRun, RowHash};
use super::state::State;
use crate::limits::{Shares, answer, stands};
use crate::{Answer, Lease, LimitCall, LimitInfo, LimitUse, Limits, LineClaims, ShareId, StoreError};

/// A limit's name, and a value of its key.
type LineKey = (Arc<str>, Arc<str>);

/// All that is kept of limits.
#[derive(Default)]
pub(super) struct MemLimits {
    /// What is allowed, by name.
    specs: BTreeMap<Arc<str>, LimitSpec>,
    /// The attempts in flight.
    shares: BTreeMap<ShareId, Share>,
    /// How many there are: that execute, and all.
    used: HashMap<LineKey, (u64, u64)>,
    /// The starts that count, by up to when their bodies may have been entered.
    starts: HashMap<LineKey, BTreeMap<Time, u32>>,
    /// Where attempts are held back, by runner: how many, and the rank of the first one.
    lines: HashMap<LineKey, BTreeMap<i64, (u64, Rank)>>,
}

struct Share {
    line: LineKey,
    runner: Option<i64>,
    executing: bool,
}

impl MemLimits {
    fn count(&mut self, line: &LineKey, executing: i64, in_flight: i64) {
        let used = self.used.entry(line.clone()).or_default();
        *used = (used.0.saturating_add_signed(executing), used.1.saturating_add_signed(in_flight));
        if *used == (0, 0) {
            self.used.remove(line);
        }
    }

    fn release(&mut self, share: ShareId) -> bool {
        let Some(known) = self.shares.remove(&share) else { return false };
        self.count(&known.line, -i64::from(known.executing), -1);
        true
    }

    fn idle(&mut self, share: ShareId) -> bool {
        let Some(known) = self.shares.get_mut(&share).filter(|known| known.executing) else { return false };
        known.executing = false;
        let line = known.line.clone();
        self.count(&line, -1, 0);
        true
    }

    fn give(&mut self, share: ShareId, line: LineKey, runner: i64) {
        self.release(share);
        self.count(&line, 1, 1);
        self.shares.insert(share, Share { line, runner: Some(runner), executing: true });
    }

    fn of_run(&self, run: RunRowId) -> Vec<ShareId> {
        let first = ShareId { run, task: TaskId::MIN, map: i32::MIN };
        self.shares.range(first..).map(|(share, _)| *share).take_while(|share| share.run == run).collect()
    }

    /// What a write does to shares. True if it releases one.
    pub(super) fn written(&mut self, write: &Write) -> bool {
        if self.shares.is_empty() {
            return false;
        }
        match (write, ShareId::released_by(write)) {
            (Write::Run(update), _) if update.status.is_ended() => self.release_run(update.run),
            (Write::Run(update), _) if stands(update) => {
                self.of_run(update.run).into_iter().fold(false, |any, share| self.idle(share) || any)
            }
            (_, Some(share)) => self.release(share),
            (_, None) => false,
        }
    }

    /// A run has ended.
    pub(super) fn release_run(&mut self, run: RunRowId) -> bool {
        self.of_run(run).into_iter().fold(false, |any, share| self.release(share) || any)
    }

    /// A runner is gone: its bodies do not execute any more. What waits keeps its share.
    pub(super) fn abandon(&mut self, runner: i64, runs: &HashMap<RunRowId, MemRun, RowHash>) {
        let theirs = self.shares.iter().filter(|(_, known)| known.runner == Some(runner)).map(|(share, _)| *share);
        for share in theirs.collect::<Vec<_>>() {
            let status = runs.get(&share.run).and_then(|run| run.task_status(share.task, share.map));
            if status != Some(TaskStatus::Running) {
                self.release(share);
                continue;
            }
            self.idle(share);
            if let Some(known) = self.shares.get_mut(&share) {
                known.runner = None;
            }
        }
        self.lines.retain(|_, lines| {
            lines.remove(&runner);
            !lines.is_empty()
        });
    }

    /// The tasks of a run have other numbers from now on; what has none is forgotten.
    pub(super) fn renumber(&mut self, run: RunRowId, new: impl Fn(TaskId) -> Option<TaskId>) {
        let known: Vec<(ShareId, Share)> =
            self.of_run(run).into_iter().filter_map(|share| self.shares.remove_entry(&share)).collect();
        for (share, known) in known {
            match new(share.task) {
                Some(task) => drop(self.shares.insert(ShareId { task, ..share }, known)),
                None => self.count(&known.line, -i64::from(known.executing), -1),
            }
        }
    }

    fn others_wait(&self, runner: i64) -> bool {
        self.lines.values().any(|lines| lines.keys().any(|other| *other != runner))
    }
}

/// The shares of one limit and one value of its key.
struct OfLine<'a> {
    limits: &'a mut MemLimits,
    runs: &'a HashMap<RunRowId, MemRun, RowHash>,
    runner: i64,
    line: LineKey,
}

impl Shares for OfLine<'_> {
    type Error = Infallible;

    fn is_current(&mut self, share: ShareId) -> Result<bool, Infallible> {
        let run = self.runs.get(&share.run);
        Ok(run.is_some_and(|run| {
            let has_ended = run.task_status(share.task, share.map).is_some_and(TaskStatus::is_ended);
            !run.status.is_ended() && run.runner == Some(self.runner) && !has_ended
        }))
    }

    fn held(&mut self, share: ShareId) -> Result<Option<bool>, Infallible> {
        let known = self.limits.shares.get(&share).filter(|known| known.line == self.line);
        Ok(known.map(|known| known.executing))
    }

    fn give(&mut self, share: ShareId) -> Result<(), Infallible> {
        self.limits.give(share, self.line.clone(), self.runner);
        Ok(())
    }

    fn start(&mut self, latest: Time) -> Result<(), Infallible> {
        *self.limits.starts.entry(self.line.clone()).or_default().entry(latest).or_default() += 1;
        Ok(())
    }
}

impl State {
    fn answer(&mut self, runner: i64, claims: &LineClaims, now: Time) -> Vec<Answer> {
        let line = (Arc::clone(&claims.limit), Arc::clone(&claims.key));
        let limits = &mut self.limits;
        let Some(spec) = limits.specs.get(&claims.limit).cloned() else {
            return claims.claims.iter().map(|_| Answer::Granted(None)).collect();
        };
        let since = Room::counts_since(&spec, now);
        let starts: Vec<Starts> = limits.starts.get_mut(&line).map_or_else(Vec::new, |starts| {
            *starts = starts.split_off(&since);
            starts.iter().map(|(latest, count)| (*latest, *count)).collect()
        });
        let others: Vec<Rank> = limits.lines.get(&line).map_or_else(Vec::new, |lines| {
            lines.iter().filter(|(other, _)| **other != runner).map(|(_, (_, rank))| *rank).collect()
        });
        let used = limits.used.get(&line).copied().unwrap_or_default();
        let mut shares = OfLine { limits, runs: &self.runs, runner, line };
        let Ok(answers) = answer(&mut shares, &spec, claims, used, (starts, &others), now);
        let OfLine { line, .. } = shares;
        match claims.waiting(&answers) {
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
        answers
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

    fn claim_limits(&self, lease: Lease, now: Time, call: &LimitCall) -> Result<Vec<Vec<Answer>>, StoreError> {
        let state = &mut *self.state.lock();
        state.fence(lease)?;
        let limits = &mut state.limits;
        let mut released = false;
        for share in &call.released {
            released |= limits.release(*share);
        }
        for share in &call.idle {
            released |= limits.idle(*share);
        }
        for one in &call.unstarted {
            let starts = limits.starts.get_mut(&(Arc::clone(&one.limit), Arc::clone(&one.key)));
            if let Some(count) = starts.and_then(|starts| starts.get_mut(&one.latest)) {
                *count = count.saturating_sub(1);
                released = true;
            }
        }
        let answers = call.lines.iter().map(|line| state.answer(lease.runner, line, now)).collect();
        if released && state.limits.others_wait(lease.runner) {
            self.changes.limits();
        }
        Ok(answers)
    }

    fn limits(&self, now: Time) -> Result<Vec<LimitInfo>, StoreError> {
        let state = &*self.state.lock();
        let limits = &state.limits;
        let info = |spec: &LimitSpec| {
            let keys = limits.used.keys().chain(limits.starts.keys()).chain(limits.lines.keys());
            let keys: std::collections::BTreeSet<&LineKey> = keys.filter(|(name, _)| *name == spec.name).collect();
            let since = Room::counts_since(spec, now);
            let used = |line: &LineKey| {
                let (executing, in_flight) = limits.used.get(line).copied().unwrap_or_default();
                let started = limits
                    .starts
                    .get(line)
                    .map_or(0, |starts| starts.range(since..).map(|(_, count)| u64::from(*count)).sum());
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
