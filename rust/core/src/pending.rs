//! The writes and effects of a group of events, of one run or of many.
//!
//! Effects are released only against a store's [`Committed`], so that the compiler checks guarantees 2 ("a task starts
//! only after what it depends on is committed") and 6 ("a result is reported only when it is committed").

use crate::event::{Effect, Event, Refused};
use crate::record::{Batch, Committed, RunRowId};
use crate::run::RunState;
use crate::time::Time;

/// A batch that is not committed yet, and the effects that wait for it. `R` names a run for the caller.
#[derive(Debug)]
pub struct Pending<R> {
    /// What has to be committed.
    pub batch: Batch,
    /// Effects that wait for the commit.
    held: Vec<(R, Effect)>,
    /// The runs whose events had writes but no effects: a failed commit concerns them too.
    silent: Vec<R>,
    /// The effects of one event; kept for its memory.
    scratch: Vec<Effect>,
}

/// The memory of more effects than these is not kept: one event may expand a task into a hundred thousand elements.
const KEPT: usize = 1024;

impl<R> Default for Pending<R> {
    fn default() -> Self {
        Self { batch: Batch::new(), held: Vec::new(), silent: Vec::new(), scratch: Vec::new() }
    }
}

impl<R: Clone> Pending<R> {
    /// Applies an event to a run.
    ///
    /// # Errors
    /// Refused if it comes too late; it changes nothing then.
    pub fn apply(&mut self, run: &R, state: &mut RunState, event: Event, now: Time) -> Result<(), Refused> {
        if self.held.is_empty() && self.held.capacity() > KEPT {
            self.held = Vec::new();
        }
        state.apply(event, now, &mut self.batch, &mut self.scratch)?;
        if self.scratch.is_empty() {
            self.silent.push(run.clone());
        }
        self.held.extend(self.scratch.drain(..).map(|effect| (run.clone(), effect)));
        if self.scratch.capacity() > KEPT {
            self.scratch = Vec::new();
        }
        Ok(())
    }

    /// Adds an effect of an event that was applied.
    pub fn follow(&mut self, run: &R, effect: Effect) {
        self.held.push((run.clone(), effect));
    }

    /// Whether there is nothing to commit and nothing held. `Begin` and a retry that is due can have effects without
    /// a write.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.batch.is_empty() && self.held.is_empty()
    }

    /// The runs that end or pause with this batch.
    pub fn settling(&self) -> impl Iterator<Item = &R> {
        self.held.iter().filter(|(_, effect)| matches!(effect, Effect::Settled { .. })).map(|(run, _)| run)
    }

    /// Releases the effects of a committed batch, in the order in which they arose.
    pub fn committed(&mut self, _token: Committed) -> std::vec::Drain<'_, (R, Effect)> {
        self.batch.clear();
        self.silent.clear();
        self.held.drain(..)
    }

    /// Drops what was applied to some runs, as if it had not been: they were not created. `row_of` returns a run's row
    /// number, and `rows` are sorted.
    pub fn forget(&mut self, rows: &[RunRowId], row_of: impl Fn(&R) -> RunRowId) {
        let stays = |row: RunRowId| rows.binary_search(&row).is_err();
        self.batch.retain(|write| stays(write.run()));
        self.held.retain(|(run, _)| stays(row_of(run)));
        self.silent.retain(|run| stays(row_of(run)));
    }

    /// Drops batch and effects after a failed commit, or one of unknown outcome. Returns every run to which an event
    /// was applied, some more than once: their state is ahead of the store and has to be read again.
    pub fn discard(&mut self) -> impl Iterator<Item = R> + '_ {
        self.batch.clear();
        self.silent.drain(..).chain(self.held.drain(..).map(|(run, _)| run))
    }
}
