//! A store that is a server: its clients, and what it loses.

use std::sync::Arc;

use bide_store::{MemorySnapshot, Store};

use super::super::oracle::Oracle;
use super::super::plan::{Disaster, Letter, MOST_LOST};
use super::World;
use crate::fault::FaultyStore;

/// What there was before a move.
pub(super) struct Before {
    /// All rows.
    rows: MemorySnapshot,
    /// What the oracle knew of them.
    oracle: Oracle,
    /// What was still to be asked for and sent.
    calls: Vec<usize>,
    letters: Vec<Letter>,
    resumes: Vec<(u32, usize)>,
    retries: Vec<(usize, bool)>,
}

impl World {
    /// What the next process has of the store, and how far its clock is ahead of the right one.
    pub(super) fn client(&mut self) -> (Arc<FaultyStore>, i64) {
        let base = Arc::clone(&self.base) as Arc<dyn Store>;
        let Some(ahead) = &self.shared.case.server else { return (FaultyStore::new(base), 0) };
        self.started += 1;
        (FaultyStore::of_server(base, &self.server), ahead[self.started % ahead.len()])
    }

    /// A process decides something.
    pub(super) fn judge(&self, which: usize) {
        self.shared.oracle.lock().judges(self.processes[which].runner());
    }

    /// Keeps what there is, if it may be lost.
    pub(super) fn remember(&mut self) {
        if !self.disasters.iter().any(|(_, disaster)| matches!(disaster, Disaster::Loses(_))) {
            self.before.clear();
            return;
        }
        if self.before.len() == MOST_LOST {
            self.before.pop_front();
        }
        self.before.push_back(Before {
            rows: self.base.snapshot(),
            oracle: self.shared.oracle.lock().clone(),
            calls: self.calls.clone(),
            letters: self.letters.clone(),
            resumes: self.resumes.clone(),
            retries: self.retries.clone(),
        });
    }

    /// The server loses what was committed in the last moves. Callers ask again for what is gone.
    pub(super) fn lose(&mut self, moves: usize) {
        let at = self.before.len().saturating_sub(moves);
        self.before.truncate(at + 1);
        let Some(before) = self.before.pop_back() else { return };
        let lost = self.base.history();
        self.base.lose(&before.rows);
        self.server.forget();
        let mut oracle = self.shared.oracle.lock();
        oracle.forgets(&before.oracle);
        oracle.note(format!("the server loses commits, for the {lost}. time before"));
        oracle.meets("a server that loses its last commits");
        oracle.lost.extend(self.processes.iter().map(super::Process::runner));
        drop(oracle);
        (self.calls, self.letters) = (before.calls, before.letters);
        (self.resumes, self.retries) = (before.resumes, before.retries);
        self.processes.iter_mut().for_each(super::Process::is_told_no_more);
    }
}
