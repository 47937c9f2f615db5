//! Limits in memory: their definitions, and the shares and starts that count. What stores do with them is in `claims.rs`.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use bide_core::limits::{LimitSpec, Rank};
use bide_core::record::{RunRowId, Write};
use bide_core::{TaskId, TaskStatus, Time};

use super::run::{MemRun, RowHash};
use crate::ShareId;

/// A limit's name, and a value of its key.
pub(super) type LineKey = (Arc<str>, Arc<str>);

/// All that is kept of limits.
#[derive(Clone, Default)]
pub(super) struct MemLimits {
    /// What is allowed, by name.
    pub(super) specs: BTreeMap<Arc<str>, LimitSpec>,
    /// The attempts in flight.
    pub(super) shares: BTreeMap<ShareId, Share>,
    /// How many there are: that execute, and all.
    pub(super) used: HashMap<LineKey, (u64, u64)>,
    /// The starts that count.
    pub(super) starts: HashMap<LineKey, MemStarts>,
    /// Where attempts are held back, by runner: how many, and the rank of the first one.
    pub(super) lines: HashMap<LineKey, BTreeMap<i64, (u64, Rank)>>,
}

/// Starts of one limit and one value of its key.
#[derive(Clone, Default)]
pub(super) struct MemStarts {
    /// How many, by up to when their bodies may have been entered.
    at: BTreeMap<Time, u32>,
    /// How many there are in all.
    all: u64,
}

impl MemStarts {
    pub(super) fn add(&mut self, latest: Time, count: u32) {
        *self.at.entry(latest).or_default() += count;
        self.all += u64::from(count);
    }

    /// False: there are not as many.
    pub(super) fn take(&mut self, latest: Time, count: u32) -> bool {
        let Some(known) = self.at.get_mut(&latest).filter(|known| **known >= count) else { return false };
        *known -= count;
        if *known == 0 {
            self.at.remove(&latest);
        }
        self.all -= u64::from(count);
        true
    }

    /// Forgets those before a time.
    pub(super) fn forget_before(&mut self, since: Time) {
        while let Some(first) = self.at.first_entry().filter(|first| *first.key() < since) {
            self.all -= u64::from(first.remove());
        }
    }

    /// How many there are, and the oldest.
    pub(super) fn counted(&self) -> (u64, Option<Time>) {
        (self.all, self.at.keys().next().copied())
    }

    /// How many there are from a time on.
    pub(super) fn since(&self, since: Time) -> u64 {
        self.at.range(since..).map(|(_, count)| u64::from(*count)).sum()
    }
}

#[derive(Clone)]
pub(super) struct Share {
    pub(super) line: LineKey,
    pub(super) runner: Option<i64>,
    pub(super) executing: bool,
}

impl MemLimits {
    fn count(&mut self, line: &LineKey, executing: i64, in_flight: i64) {
        let used = self.used.entry(line.clone()).or_default();
        *used = (used.0.saturating_add_signed(executing), used.1.saturating_add_signed(in_flight));
        if *used == (0, 0) {
            self.used.remove(line);
        }
    }

    pub(super) fn release(&mut self, share: ShareId) -> bool {
        let Some(known) = self.shares.remove(&share) else { return false };
        self.count(&known.line, -i64::from(known.executing), -1);
        true
    }

    pub(super) fn idle(&mut self, share: ShareId) -> bool {
        let Some(known) = self.shares.get_mut(&share).filter(|known| known.executing) else { return false };
        known.executing = false;
        let line = known.line.clone();
        self.count(&line, -1, 0);
        true
    }

    /// True if it had a share of another line, which is released.
    pub(super) fn give(&mut self, share: ShareId, line: LineKey, runner: i64) -> bool {
        let is_elsewhere = self.shares.get(&share).is_some_and(|known| known.line != line);
        self.release(share);
        self.count(&line, 1, 1);
        self.shares.insert(share, Share { line, runner: Some(runner), executing: true });
        is_elsewhere
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
            (_, Some(share)) => self.release(share),
            (_, None) => false,
        }
    }

    /// No body of a run executes from now on, though it has not ended. True if something is released.
    pub(super) fn stand(&mut self, run: RunRowId, runs: &HashMap<RunRowId, MemRun, RowHash>) -> bool {
        self.of_run(run).into_iter().filter(|share| self.stands(*share, runs)).count() > 0
    }

    /// A run has ended.
    pub(super) fn release_run(&mut self, run: RunRowId) -> bool {
        self.of_run(run).into_iter().filter(|share| self.release(*share)).count() > 0
    }

    /// A body does not execute any more, though its attempt has not ended. One that has not recorded anything is entered
    /// anew, and asked about anew. True if it used something.
    fn stands(&mut self, share: ShareId, runs: &HashMap<RunRowId, MemRun, RowHash>) -> bool {
        let status = runs.get(&share.run).and_then(|run| run.task_status(share.task, share.map));
        if status == Some(TaskStatus::Running) { self.idle(share) } else { self.release(share) }
    }

    /// A runner is gone: its bodies do not execute any more. What waits keeps its share.
    pub(super) fn abandon(&mut self, runner: i64, runs: &HashMap<RunRowId, MemRun, RowHash>) {
        let theirs = self.shares.iter().filter(|(_, known)| known.runner == Some(runner)).map(|(share, _)| *share);
        for share in theirs.collect::<Vec<_>>() {
            self.stands(share, runs);
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

    pub(super) fn others_wait(&self, runner: i64) -> bool {
        self.lines.values().any(|lines| lines.keys().any(|other| *other != runner))
    }
}
