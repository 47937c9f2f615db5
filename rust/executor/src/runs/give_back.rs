//! A runner that is alone on a store of several hosts keeps all runs that it submits, which saves a claim for each. As
//! soon as another one is there, it gives back those that it has not begun and cannot soon execute.

use std::cmp::Reverse;

use bide_core::record::RunRowId;
use bide_store::{Lease, StoreError};

use super::recover::Recovery;
use crate::host::Host;

/// How many runs are given back in one transaction.
const TOGETHER: usize = 1_000;

impl<H: Host> Recovery<H> {
    /// Gives back what others can execute sooner, if there are any. Blocks.
    ///
    /// # Errors
    /// From the store; then the next call does what is left.
    pub(crate) fn give_back(&self) -> Result<(), StoreError> {
        let control = &self.control;
        if !(control.sharing.has_kept() && control.store().has_others()) {
            return Ok(());
        }
        let lease = control.lease();
        control.sharing.begin_to_give_back();
        control.sharing.gives_back(self.leave_unbegun(lease));
        // Nobody here claims them in between, also if the call has to be made again.
        let _adopting = control.runs.adopting.write();
        loop {
            let mut rows = control.sharing.given_back(TOGETHER);
            if rows.is_empty() {
                return Ok(());
            }
            rows.retain(|row| !control.runs.has(*row));
            match control.store().give_back(lease, &rows) {
                // The runner that has fenced this lease has them.
                Ok(()) | Err(StoreError::Fenced { .. }) => {}
                Err(error) => {
                    control.sharing.gives_back(rows);
                    return Err(error);
                }
            }
        }
    }

    /// Drops the runs that nobody has begun, but for those that come first. Returns which, in their order.
    fn leave_unbegun(&self, lease: Lease) -> Vec<RunRowId> {
        let control = &self.control;
        let mut runs = control.runs.all();
        runs.sort_unstable_by_key(|run| (Reverse(run.priority()), run.id));
        // What is applied to them is committed, and no event comes to them any more.
        let committing = self.path.ledger.lock();
        let mut first = [false, true].map(|coroutines| control.sharing.few(&control.dispatch, coroutines));
        runs.retain(|run| {
            let mut state = run.state.lock();
            // One that was recovered may end its process: the next runner that claims it has to know that.
            let stays = run.parent.is_some() || run.recovered || run.lease != lease || run.workflow.has_limits();
            if stays || !state.is_untouched() {
                return false;
            }
            let first = &mut first[usize::from(run.workflow.has_coroutines())];
            let leaves = *first == 0;
            *first = first.saturating_sub(1);
            if leaves {
                state.abandon();
            }
            leaves
        });
        control.runs.give_back(&runs);
        drop(committing);
        runs.iter().map(|run| run.id.row()).collect()
    }
}
