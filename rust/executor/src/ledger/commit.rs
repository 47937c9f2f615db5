//! The commit lock: events are applied, committed and followed by their effects here and nowhere else.

use std::sync::Arc;
use std::time::Duration;

use bide_core::record::{Batch, Committed};
use bide_core::{Effect, Event, Pending, Refused, Time};
use bide_sched::counts;
use bide_store::{Lease, Store, StoreError};
use bide_sync::{Mutex, MutexGuard};

use super::committer::Committer;
use super::group::{Completion, Group, QueuedEvent};
use crate::clock::Clock;
use crate::failpoint::{self, Failpoint};
use crate::host::{Host, Ready};
use crate::runs::run::Run;
use crate::runs::settled::Settlement;

/// How often a commit is tried that finds the store locked by others. On a file each try takes 10 s, so that a lock that
/// somebody holds for half a minute is waited for: what is to be committed has happened, and stopping for a lock would
/// do it again.
const TRIES: u32 = 6;

/// How many of the runs that end with a commit are announced while it is made. A caller who waits for many runs does not
/// wait for a thread to wake.
const ANNOUNCED: usize = 1;

/// Why a body's own event was not committed.
#[cfg_attr(not(feature = "testing"), expect(unreachable_pub, reason = "drive has it"))]
#[derive(Debug)]
pub enum Lost {
    /// It came too late.
    Refused(Refused),
    /// The engine has stopped, or stopped over it.
    Stopped,
}

/// What the ledger asks of the engine.
pub(crate) trait Upcalls<H: Host>: Send + Sync {
    /// The store.
    fn store(&self) -> Arc<dyn Store>;

    /// The lease that batches are committed under.
    fn lease(&self) -> Lease;

    /// Nothing is committed any more.
    fn is_stopped(&self) -> bool;

    /// No body starts any more.
    fn is_closing(&self) -> bool;

    /// Writes a warning to the log.
    fn warn(&self, line: &str);

    /// A commit has failed: nothing is committed any more from here on. Called with the commit lock held. True if the
    /// engine had not stopped before: then the caller calls [`Upcalls::report_stop`] without the lock.
    fn stop_over(&self, error: &StoreError) -> bool;

    /// Tells everybody that the engine has stopped over a failed commit.
    fn report_stop(self: &Arc<Self>, error: &StoreError);

    /// A commit has panicked: stops the engine. Called with the commit lock held.
    fn panicked(self: &Arc<Self>, why: &str);

    /// Another runner has fenced this lease.
    fn fenced(self: &Arc<Self>, lease: Lease);

    /// These runs were lost with an earlier lease: callers are to look for them elsewhere.
    fn release(&self, lost: Vec<Arc<Run<H>>>);

    /// Carries out what follows from a committed event.
    fn carry_out(self: &Arc<Self>, run: Arc<Run<H>>, effect: Effect);

    /// Has bodies executed that may start.
    fn dispatch(self: &Arc<Self>, ready: &mut Vec<Ready<H>>);
}

/// The way to the store's writes.
pub(crate) struct Ledger<H: Host> {
    /// The commit lock: its holder applies events, commits and takes the effects, so that no run is ever ahead of its
    /// rows by more than the one batch, and batches arise in the order in which they are committed.
    commit_lock: Mutex<Pending<Arc<Run<H>>>>,
    /// What is committed by the committer thread.
    pub(super) committer: Committer<H>,
    /// When a body's own events happen, and how old groups are.
    pub(super) clock: Arc<dyn Clock>,
}

/// The commit lock, held: nobody commits, and what is in memory is in the store.
pub(crate) struct CommitLock<'a, H: Host>(
    #[expect(dead_code, reason = "held for its drop")] MutexGuard<'a, Pending<Arc<Run<H>>>>,
);

impl<H: Host> Ledger<H> {
    pub(crate) fn new(clock: Arc<dyn Clock>) -> Self {
        Self { commit_lock: Mutex::new(Pending::default()), committer: Committer::new(), clock }
    }

    /// Keeps everybody from committing while the answer lives. Blocks for a commit under way.
    pub(crate) fn lock(&self) -> CommitLock<'_, H> {
        CommitLock(self.commit_lock.lock())
    }

    /// As [`Ledger::lock`], but gives up after a span.
    pub(crate) fn try_lock_for(&self, span: Duration) -> Option<CommitLock<'_, H>> {
        self.commit_lock.try_lock_for(span).map(CommitLock)
    }

    /// Applies events, commits them and carries out what follows. Bodies that may start now are added to `ready`
    /// for the caller to execute or dispatch. Blocks.
    pub(crate) fn commit(
        &self,
        engine: &Arc<impl Upcalls<H>>,
        items: &mut Vec<QueuedEvent<H>>,
        ready: &mut Vec<Ready<H>>,
    ) {
        let _ = self.commit_with(engine, items, None, ready);
    }

    /// Commits a body's own event (after what has gathered on its slot). Blocks.
    ///
    /// # Errors
    /// `Refused` if the attempt or the run is over; `Stopped` if the engine is, or the commit failed.
    pub(crate) fn commit_own(
        &self,
        engine: &Arc<impl Upcalls<H>>,
        group: Option<&Group<H>>,
        run: &Arc<Run<H>>,
        event: Event,
    ) -> Result<(), Lost> {
        let mut items = group.map_or_else(Vec::new, Group::take);
        let mut ready = Vec::new();
        let outcome = self.commit_with(engine, &mut items, Some((run, event)), &mut ready);
        if let Some(group) = group {
            group.give_back(items);
        }
        engine.dispatch(&mut ready);
        outcome
    }

    /// Commits a group on the thread that made it. Blocks.
    pub(crate) fn commit_group(&self, engine: &Arc<impl Upcalls<H>>, group: &Group<H>, ready: &mut Vec<Ready<H>>) {
        let mut items = group.take();
        self.commit(engine, &mut items, ready);
        group.give_back(items);
    }

    fn commit_with(
        &self,
        engine: &Arc<impl Upcalls<H>>,
        items: &mut Vec<QueuedEvent<H>>,
        own: Option<(&Arc<Run<H>>, Event)>,
        ready: &mut Vec<Ready<H>>,
    ) -> Result<(), Lost> {
        let mut rest: Vec<(Arc<Run<H>>, Effect)> = Vec::new();
        let mut completions: Vec<(Completion, Result<(), Refused>)> = Vec::new();
        let mut lost = Vec::new();
        let mut own_outcome = Ok(());
        let mut pending = self.commit_lock.lock();
        if engine.is_stopped() {
            items.clear();
            return Err(Lost::Stopped);
        }
        let lease = engine.lease();
        let written = H::no_panic(|| {
            failpoint::hit(Failpoint::Commit);
            for QueuedEvent { run, event, at, completion } in items.drain(..) {
                if run.lease != lease {
                    // It was lost with the lease that it was claimed under, whatever its state in memory says.
                    completions.extend(completion.map(|completion| (completion, Err(Refused::RunOver))));
                    lost.push(run);
                    continue;
                }
                // A refused event came too late: its attempt was over. It changes nothing.
                let outcome = pending.apply(&run, &mut run.state.lock(), event, at);
                completions.extend(completion.map(|completion| (completion, outcome)));
            }
            if let Some((run, event)) = own {
                let now: Time = self.clock.now();
                own_outcome = if run.lease == lease {
                    pending.apply(run, &mut run.state.lock(), event, now).map_err(Lost::Refused)
                } else {
                    Err(Lost::Refused(Refused::RunOver))
                };
            }
            if pending.is_empty() {
                return Ok(());
            }
            counts::add_commit();
            let store = engine.store();
            if store.blocks() {
                pending.settling().take(ANNOUNCED).for_each(|run| run.settled.announce());
            }
            let token = commit_patiently(&**engine, &*store, lease, &mut pending.batch)?;
            for (run, effect) in pending.committed(token) {
                match effect {
                    Effect::Ready { task } => ready.push(Ready { run, task }),
                    other => rest.push((run, other)),
                }
            }
            Ok(())
        });
        match written {
            Ok(Ok(())) => {}
            Ok(Err(error)) => {
                // While the lock is still held: the memory of these runs is ahead of the store, and nobody may build on
                // it or show it.
                let fenced = matches!(error, StoreError::Fenced { .. });
                let first = !fenced && engine.stop_over(&error);
                for run in pending.discard() {
                    if fenced {
                        run.settled.settle(Settlement::Elsewhere);
                    }
                }
                drop(pending);
                if fenced {
                    engine.fenced(lease);
                } else if first {
                    engine.report_stop(&error);
                }
                engine.release(lost);
                return Err(Lost::Stopped);
            }
            Err(why) => {
                // Before the lock is released: nobody is to commit what is half applied.
                engine.panicked(&why);
                pending.discard().for_each(drop);
                items.clear();
                ready.clear();
                return Err(Lost::Stopped);
            }
        }
        drop(pending);
        for (run, effect) in rest {
            engine.carry_out(run, effect);
        }
        engine.release(lost);
        for (completion, outcome) in completions {
            // A receiver that is gone does not need it.
            let _ = completion.send(outcome);
        }
        own_outcome
    }
}

/// Commits a batch; waits for a store that others keep locked, and says so. A runner that is closing waits for one
/// try only.
fn commit_patiently<H: Host>(
    engine: &impl Upcalls<H>,
    store: &dyn Store,
    lease: Lease,
    batch: &mut Batch,
) -> Result<Committed, StoreError> {
    let mut in_all = Duration::ZERO;
    for remaining in (0..TRIES).rev() {
        match store.commit(lease, batch) {
            Err(StoreError::Busy { store, waited }) => {
                in_all += waited;
                let error = StoreError::Busy { store, waited: in_all };
                if remaining == 0 || engine.is_closing() {
                    return Err(error);
                }
                engine.warn(&format!("{error} yet; a commit goes on trying, and bodies wait for it"));
            }
            outcome => return outcome,
        }
    }
    unreachable!("the last try returns")
}
