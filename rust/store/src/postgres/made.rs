//! What this process knows of the calls that it has made: their outcomes, and the records of them that are to go.

use std::collections::{HashMap, HashSet, VecDeque};

use bide_sync::Mutex;

use crate::{CommitId, Creation};

/// How many records of calls are kept until they are deleted together.
const KEPT: usize = 256;

/// How many outcomes are kept: one that is gone is found out from the rows.
const WITH_OUTCOME: usize = 4;

/// The calls of one runner.
#[derive(Default)]
struct OfRunner {
    /// The last ones, oldest first, and the outcomes of the very last.
    last: VecDeque<(CommitId, Option<Vec<Vec<Creation>>>)>,
    /// Those whose answer was lost once. The server may still be at work on the first try, and finds the record.
    unknown: HashSet<CommitId>,
}

/// The calls of all runners of this process.
#[derive(Default)]
pub(super) struct Made(Mutex<HashMap<i64, OfRunner>>);

impl Made {
    /// The outcome of a commit that was made already.
    pub(super) fn outcome(&self, runner: i64, id: CommitId) -> Option<Vec<Vec<Creation>>> {
        let runners = self.0.lock();
        let of_runner = runners.get(&runner)?;
        // A commit is made again soon or never.
        of_runner.last.iter().rev().find(|(other, _)| *other == id).and_then(|(_, creations)| creations.clone())
    }

    /// Whether a call was made before, or may have been.
    pub(super) fn is_known(&self, runner: i64, id: CommitId) -> bool {
        let runners = self.0.lock();
        runners.get(&runner).is_some_and(|of_runner| {
            of_runner.unknown.contains(&id) || of_runner.last.iter().any(|(other, _)| *other == id)
        })
    }

    /// The records that the next commit is to delete.
    pub(super) fn to_forget(&self, runner: i64) -> Vec<i64> {
        let runners = self.0.lock();
        let Some(of_runner) = runners.get(&runner).filter(|of_runner| of_runner.last.len() >= KEPT) else {
            return Vec::new();
        };
        let known = of_runner.last.iter().map(|(id, _)| *id).filter(|id| !of_runner.unknown.contains(id));
        known.map(|id| id.0.cast_signed()).collect()
    }

    /// Whether a commit was made is not known.
    pub(super) fn is_unknown(&self, runner: i64, id: CommitId) {
        self.0.lock().entry(runner).or_default().unknown.insert(id);
    }

    /// A commit was made, and has deleted these records.
    pub(super) fn remember(&self, runner: i64, id: CommitId, creations: &[Vec<Creation>], forgotten: &[i64]) {
        let mut runners = self.0.lock();
        let of_runner = runners.entry(runner).or_default();
        if !forgotten.is_empty() {
            of_runner.last.retain(|(id, _)| !forgotten.contains(&id.0.cast_signed()));
        }
        of_runner.last.push_back((id, Some(creations.to_vec())));
        let old = of_runner.last.len().checked_sub(1 + WITH_OUTCOME);
        if let Some((_, outcome)) = old.and_then(|at| of_runner.last.get_mut(at)) {
            *outcome = None;
        }
    }

    /// A runner is gone.
    pub(super) fn forget(&self, runner: i64) {
        self.0.lock().remove(&runner);
    }
}
