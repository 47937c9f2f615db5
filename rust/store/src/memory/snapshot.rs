//! For tests that play processes which die, or a server which loses its last commits: all that is stored, kept and put back.

use std::sync::atomic::Ordering;

use super::MemoryStore;
use super::state::State;

/// All that was stored at a moment.
pub struct MemorySnapshot(State);

impl MemoryStore {
    /// For tests that play several processes on one store: the process of this runner has died. The next claim
    /// notices it, as it would by the lock of a file.
    pub fn process_died(&self, runner: i64) {
        let state = &mut *self.state.lock();
        if let Some(runner) = state.runners.get_mut(&runner) {
            runner.died = true;
            self.changes.unowned();
        }
    }

    /// All that is stored.
    #[must_use]
    pub fn snapshot(&self) -> MemorySnapshot {
        MemorySnapshot(self.state.lock().clone())
    }

    /// What was stored since the snapshot is lost. All leases are lost with it, and their runs are free.
    pub fn lose(&self, since: &MemorySnapshot) {
        let state = &mut *self.state.lock();
        // A runner's number is never given twice.
        *state = State { last_runner: state.last_runner, ..since.0.clone() };
        let leases: Vec<i64> = state.runners.iter().filter(|(_, it)| it.expires.is_some()).map(|(id, _)| *id).collect();
        for runner in leases {
            if let Some(runner) = state.runners.get_mut(&runner) {
                (runner.epoch, runner.expires) = (runner.epoch + 1, None);
            }
            state.abandon(runner);
        }
        self.history.fetch_add(1, Ordering::SeqCst);
        self.changes.unowned();
    }
}
