//! What the ledger asks of the engine.

use std::sync::Arc;

use bide_core::record::{Batch, RunRowId};
use bide_core::{Effect, Time};
use bide_store::{Lease, LineAnswers, Store, StoreError};
use bide_sync::RwLockReadGuard;

use crate::crash::Crash;
use crate::host::{Host, Ready};
use crate::limits::{Ending, Grants};
use crate::meter::Meter;
use crate::runs::run::Run;

/// What the ledger asks of the engine.
pub(crate) trait Upcalls<H: Host>: Send + Sync {
    /// The store.
    fn store(&self) -> Arc<dyn Store>;

    /// The lease that batches are committed under.
    fn lease(&self) -> Lease;

    /// The time.
    fn now(&self) -> Time;

    /// The crash that a test has asked for.
    fn crash(&self) -> &Crash;

    /// Counts events and commits.
    fn meter(&self) -> &Meter;

    /// Whether somebody observes what happens.
    fn is_observed(&self) -> bool;

    /// Nothing is committed any more.
    fn is_stopped(&self) -> bool;

    /// No body starts any more.
    fn is_closing(&self) -> bool;

    /// Writes a warning to the log.
    fn warn(&self, line: &str);

    /// A commit has failed: nothing is committed any more from here on. Called with the commit lock held. True if the
    /// engine had not stopped before: then the caller calls [`Upcalls::report_stop`] without the lock.
    fn stop_over(&self, error: &StoreError) -> bool;

    /// Reports to all callers that the engine has stopped over a failed commit.
    fn report_stop(self: &Arc<Self>, error: &StoreError);

    /// A commit has panicked: stops the engine. Called with the commit lock held.
    fn panicked(self: &Arc<Self>, why: &str);

    /// Another runner has fenced this lease.
    fn fenced(self: &Arc<Self>, lease: Lease);

    /// Whether a run with this row number is executed here.
    fn is_live(&self, row: RunRowId) -> bool;

    /// The run with this row number, if it is executed here.
    fn live(&self, row: RunRowId) -> Option<Arc<Run<H>>>;

    /// Runs are about to be created: held until they are adopted, so that no message to one of them is passed over.
    /// Blocks.
    fn adopting(&self) -> RwLockReadGuard<'_, ()>;

    /// This run is created, and executed here from now on.
    fn adopt(&self, run: &Arc<Run<H>>);

    /// These runs were lost with an earlier lease: callers are to look for them elsewhere.
    fn release(&self, lost: Vec<Arc<Run<H>>>);

    /// Carries out what follows from a committed event.
    fn carry_out(self: &Arc<Self>, run: Arc<Run<H>>, effect: Effect);

    /// The attempts under a limit that end with a batch, and what is claimed with it.
    fn ending(&self, batch: &Batch) -> Ending<H>;

    /// Their batch is committed, and its claims are answered: returns what follows.
    fn ended(&self, ending: Ending<H>, answers: Option<Vec<LineAnswers>>) -> Option<Box<Grants<H>>>;

    /// Their batch is not committed.
    fn not_ended(&self, ending: &Ending<H>);

    /// Has those execute that were granted their shares, except for those that start.
    fn granted(&self, grants: Grants<H>);

    /// Has bodies executed that may start.
    fn dispatch(self: &Arc<Self>, ready: &mut Vec<Ready<H>>);
}
