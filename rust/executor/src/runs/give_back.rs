//! A runner that is alone on a store of several hosts keeps all runs that it submits, which saves a claim for each. As
//! soon as another one is there, it gives back those that it has not begun and cannot soon execute.

use bide_core::record::RunRowId;
use bide_store::StoreError;

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
        control.sharing.gives_back(self.leave_unbegun());
        loop {
            let rows = control.sharing.given_back(TOGETHER);
            if rows.is_empty() {
                return Ok(());
            }
            match control.store().give_back(lease, &rows) {
                // Whoever has fenced this lease has them.
                Ok(()) | Err(StoreError::Fenced { .. }) => {}
                Err(error) => {
                    control.sharing.gives_back(rows);
                    return Err(error);
                }
            }
        }
    }

    /// Drops the runs that nobody has begun, but for the oldest ones. Returns which.
    fn leave_unbegun(&self) -> Vec<RunRowId> {
        let control = &self.control;
        let mut runs = control.runs.all();
        runs.sort_unstable_by_key(|run| run.id);
        // What is applied to them is committed, and no event comes to them any more.
        let committing = self.path.ledger.lock();
        let lease = control.lease();
        let mut oldest = [false, true].map(|coroutines| control.sharing.few(&control.dispatch, coroutines));
        runs.retain(|run| {
            let mut state = run.state.lock();
            if run.parent.is_some() || run.lease != lease || !state.is_untouched() {
                return false;
            }
            let oldest = &mut oldest[usize::from(run.workflow.has_coroutines())];
            let leaves = *oldest == 0;
            *oldest = oldest.saturating_sub(1);
            if leaves {
                state.abandon();
            }
            leaves
        });
        drop(committing);
        control.runs.give_back(&runs);
        runs.iter().map(|run| run.id.row()).collect()
    }
}
