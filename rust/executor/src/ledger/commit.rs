//! The commit lock: events are applied, written and followed by their effects here and nowhere else. One thread does it
//! for all who wait.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use bide_core::observe::Cause;
use bide_core::record::{NewRun, RunUpdate, Write};
use bide_core::{EntryState, Event, Pending, Refused, RunStatus, Time};
use bide_sched::leader::{LeaderQueue, Turn};
use bide_store::{Creation, Lease, StoreError};
use bide_sync::{Mutex, MutexGuard};
use smallvec::SmallVec;

use super::applied::applied;
use super::committer::Committer;
use super::group::{Group, QueuedEvent, begins};
use super::request::{Failed, Lost, Outcome, Request};
use super::upcalls::Upcalls;
use super::write::{Tagged, write};
use crate::clock::Clock;
use crate::failpoint::{self, Failpoint};
use crate::host::{Host, Ready};
use crate::runs::run::Run;
use crate::runs::settled::Settlement;

/// The way to the store's writes.
pub(crate) struct Ledger<H: Host> {
    /// The commit lock: its holder applies events, commits and takes the effects, so that no run is ever ahead of its
    /// rows by more than the one batch, and batches arise in the order in which they are committed.
    commit_lock: Mutex<Pending<Tagged<H>>>,
    /// Where threads wait while another one commits, for the next to commit for all of them. `None` for a store that
    /// does not block: to wait for the lock takes less time there.
    pub(super) queue: Option<LeaderQueue<Request<H>>>,
    /// What is committed by the committer thread.
    pub(super) committer: Committer<H>,
    /// When a body's own events happen, and how old groups are.
    pub(super) clock: Arc<dyn Clock>,
    /// The number of the last batch, and that of the last one that was written. Changed with the commit lock.
    batch: AtomicU64,
    written: AtomicU64,
    /// How many commits have begun, and how many have ended with all that follows from them.
    begun: AtomicU64,
    ended: AtomicU64,
    /// With a clock that is moved by hand: how many events were applied that move a run, which are all but what is shown
    /// and what conditions raise. Changed with the commit lock.
    moves: Option<AtomicU64>,
}

/// A commit and what follows from it, under way until this is dropped.
pub(crate) struct Underway<'a>(&'a AtomicU64);

impl Drop for Underway<'_> {
    fn drop(&mut self) {
        self.0.fetch_add(1, Ordering::AcqRel);
    }
}

/// The guard of the commit lock: while it exists nothing is committed, and the state in memory is in the store.
pub(crate) struct CommitLock<'a, H: Host>(
    #[expect(dead_code, reason = "held for its drop")] MutexGuard<'a, Pending<Tagged<H>>>,
);

impl<H: Host> Ledger<H> {
    /// `blocks`: what [`Store::blocks`] says.
    pub(crate) fn new(clock: Arc<dyn Clock>, blocks: bool) -> Self {
        Self {
            commit_lock: Mutex::new(Pending::default()),
            queue: blocks.then(LeaderQueue::default),
            committer: Committer::new(),
            moves: clock.is_manual().then(AtomicU64::default),
            clock,
            batch: AtomicU64::new(0),
            written: AtomicU64::new(0),
            begun: AtomicU64::new(0),
            ended: AtomicU64::new(0),
        }
    }

    /// A commit begins.
    pub(crate) fn begin(&self) -> Underway<'_> {
        self.begun.fetch_add(1, Ordering::AcqRel);
        Underway(&self.ended)
    }

    /// How many commits there were so far; `None` while one is under way.
    pub(crate) fn commits(&self) -> Option<u64> {
        let ended = self.ended.load(Ordering::Acquire);
        (self.begun.load(Ordering::Acquire) == ended).then_some(ended)
    }

    /// How many events have moved a run so far, with a clock that is moved by hand.
    pub(crate) fn moves(&self) -> u64 {
        self.moves.as_ref().map_or(0, |moves| moves.load(Ordering::Acquire))
    }

    /// Locks the commit lock: nothing is committed while the guard lives. Blocks for a commit under way.
    pub(crate) fn lock(&self) -> CommitLock<'_, H> {
        CommitLock(self.commit_lock.lock())
    }

    /// Whether all is committed that was read from a run's state before. False: perhaps not, while a commit is under way.
    /// If what was read could not be committed, the engine has stopped, or has lost the run.
    pub(crate) fn has_committed(&self, run: &Run<H>) -> bool {
        run.batch.load(Ordering::Relaxed) <= self.written.load(Ordering::Acquire)
            || self.try_lock_for(Duration::ZERO).is_some()
    }

    /// Whether the thread that gathers in a group continues with its work instead of committing it: another one commits, and
    /// the next that does so takes this group too.
    pub(crate) fn leaves_to_next(&self, group: &Group<H>) -> bool {
        self.queue.as_ref().is_some_and(LeaderQueue::is_led) && !group.has_many()
    }

    /// As [`Ledger::lock`], but gives up after a span.
    pub(crate) fn try_lock_for(&self, span: Duration) -> Option<CommitLock<'_, H>> {
        self.commit_lock.try_lock_for(span).map(CommitLock)
    }

    /// How many threads wait for another one to commit for them.
    #[cfg(feature = "testing")]
    pub(crate) fn waiting(&self) -> usize {
        self.queue.as_ref().map_or(0, LeaderQueue::waiting)
    }

    /// Applies events, commits them and carries out what follows. Bodies that may start now are added to `ready`
    /// for the caller to execute or dispatch. Blocks.
    pub(crate) fn commit(
        &self,
        engine: &Arc<impl Upcalls<H>>,
        items: &mut Vec<QueuedEvent<H>>,
        ready: &mut Vec<Ready<H>>,
    ) {
        if !items.is_empty() {
            let _underway = self.begin();
            let _ = self.commit_with(engine, items, None, ready);
        }
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
        let _underway = self.begin();
        let mut items = group.map_or_else(Vec::new, Group::take);
        let mut ready = Vec::new();
        let outcome = self.commit_with(engine, &mut items, Some((run, event)), &mut ready);
        if let Some(group) = group {
            group.reuse(items);
        }
        engine.dispatch(&mut ready);
        outcome
    }

    /// Commits a group on the thread that made it. Blocks.
    pub(crate) fn commit_group(&self, engine: &Arc<impl Upcalls<H>>, group: &Group<H>, ready: &mut Vec<Ready<H>>) {
        let _underway = self.begin();
        let mut items = group.take();
        self.commit(engine, &mut items, ready);
        group.reuse(items);
    }

    /// Creates runs and has them begin, in one commit: all that do not exist, or none. The rows are returned in every
    /// case. Without `begin` they begin later. Blocks.
    ///
    /// # Errors
    /// From the store; then none is created (`Unknown`: they may be).
    pub(crate) fn create(
        &self,
        engine: &Arc<impl Upcalls<H>>,
        lease: Lease,
        rows: &mut Vec<NewRun>,
        runs: &[Arc<Run<H>>],
        begin: bool,
        ready: &mut Vec<Ready<H>>,
    ) -> Result<Vec<Creation>, StoreError> {
        let _underway = self.begin();
        let begins = if begin { begins(runs) } else { Vec::new() };
        let mut request = Request::create(lease, std::mem::take(rows), begins);
        let adopting = engine.adopting();
        self.perform(engine, &mut request);
        let Request { creates, mut outcome, .. } = request;
        let closed = || StoreError::Closed { store: engine.store().name().to_owned() };
        let Some(creates) = creates else { return Err(closed()) };
        *rows = creates.rows;
        let creations = creates.creations.unwrap_or_else(|| Err(closed()))?;
        if creations.iter().any(Creation::prevents_all) {
            return Ok(creations);
        }
        let created = || runs.iter().zip(&creations).filter(|(_, creation)| **creation == Creation::Created);
        created().for_each(|(run, _)| engine.adopt(run));
        drop(adopting);
        failpoint::committed();
        // Adopted before this is asked: a lease that is lost from here on takes them with it.
        if engine.lease() == lease {
            ready.append(&mut outcome.ready);
            let _ = self.carry_out(engine, outcome);
        } else {
            engine.release(created().map(|(run, _)| Arc::clone(run)).collect());
        }
        Ok(creations)
    }

    /// Creates children of a run and has them begin, in one commit with the records of their starts, which are an event
    /// of their parent's body. The rows are returned in every case. Blocks.
    ///
    /// # Errors
    /// As [`Ledger::commit_own`]; no child is created then.
    pub(crate) fn start_children(
        &self,
        engine: &Arc<impl Upcalls<H>>,
        parent: &Arc<Run<H>>,
        record: Event,
        rows: &mut Vec<NewRun>,
        children: &[Arc<Run<H>>],
    ) -> Result<Vec<Creation>, Lost> {
        let _underway = self.begin();
        let mut request = Request::start(parent, record, std::mem::take(rows), begins(children));
        let adopting = engine.adopting();
        self.perform(engine, &mut request);
        let Request { creates, mut outcome, .. } = request;
        let creations = creates.and_then(|creates| {
            *rows = creates.rows;
            creates.creations?.ok().filter(|creations| !creations.is_empty())
        });
        let Some(creations) = creations else {
            drop(adopting);
            return Err(self.carry_out(engine, outcome).err().unwrap_or(Lost::Stopped));
        };
        let created = !creations.iter().any(Creation::prevents_all);
        if created {
            children.iter().for_each(|child| engine.adopt(child));
        }
        drop(adopting);
        failpoint::committed();
        // Adopted before this is asked: a lease that is lost from here on takes them with it.
        if engine.lease() == parent.lease {
            let mut ready = std::mem::take(&mut outcome.ready);
            let _ = self.carry_out(engine, outcome);
            engine.dispatch(&mut ready);
        } else if created {
            engine.release(children.to_vec());
        }
        Ok(creations)
    }

    /// Writes the row of a run that is not in memory. Blocks.
    ///
    /// # Errors
    /// From the store.
    pub(crate) fn update(&self, engine: &impl Upcalls<H>, lease: Lease, update: RunUpdate) -> Result<(), StoreError> {
        let _lock = self.lock();
        engine.store().commit(lease, &mut vec![Write::Run(Box::new(update))]).map(drop)
    }

    fn commit_with(
        &self,
        engine: &Arc<impl Upcalls<H>>,
        items: &mut Vec<QueuedEvent<H>>,
        own: Option<(&Arc<Run<H>>, Event)>,
        ready: &mut Vec<Ready<H>>,
    ) -> Result<(), Lost> {
        let own = own.map(|(run, event)| (Arc::clone(run), event));
        let mut request = Request::new(std::mem::take(items), own, std::mem::take(ready));
        self.perform(engine, &mut request);
        failpoint::committed();
        let Request { events, mut outcome, .. } = request;
        *items = events;
        *ready = std::mem::take(&mut outcome.ready);
        self.carry_out(engine, outcome)
    }

    /// Carries out the outcome of a request, on the requester's thread.
    fn carry_out(&self, engine: &Arc<impl Upcalls<H>>, outcome: Outcome<H>) -> Result<(), Lost> {
        for (run, effect) in outcome.effects {
            engine.carry_out(run, effect);
        }
        if !outcome.lost.is_empty() {
            engine.release(outcome.lost);
        }
        if let Some(grants) = outcome.grants {
            engine.granted(*grants);
        }
        for (completion, result) in outcome.completions {
            // A receiver that is gone does not need it.
            let _ = completion.send(result);
        }
        outcome.own
    }

    /// Has a request committed: by this thread, or with others by the thread that leads.
    fn perform(&self, engine: &Arc<impl Upcalls<H>>, request: &mut Request<H>) {
        let Some(queue) = &self.queue else {
            if let Some(failed) = self.lead(engine, &mut [request]) {
                failed.report(engine);
            }
            return;
        };
        *request = match queue.enter(std::mem::replace(request, Request::new(Vec::new(), None, Vec::new()))) {
            Turn::Done(request) => request,
            Turn::Lead(mut leader) => {
                let start = self.clock.machine();
                // Creations alone can be made again if their outcome is not known.
                let takes = engine.store().may_repeat() || leader.requests().any(|request| request.creates.is_none());
                let gathered = if takes { self.committer.take_gathered() } else { Vec::new() };
                let mut gathered = Request::new(gathered, None, Vec::new());
                // Last: what a follower has brought may have gathered on the same slot before.
                let last = (!gathered.events.is_empty()).then_some(&mut gathered);
                let requests = leader.requests().chain(last);
                let failed = self.lead(engine, &mut requests.collect::<SmallVec<[_; 16]>>());
                leader.pass_on(self.clock.machine().saturating_sub(start));
                // A failure is reported to all before the followers continue.
                if let Some(failed) = failed {
                    failed.report(engine);
                }
                let own = leader.end();
                engine.dispatch(&mut gathered.outcome.ready);
                let _ = self.carry_out(engine, gathered.outcome);
                own
            }
        };
    }

    /// Commits the requests of a group in one batch, with the commit lock held.
    fn lead(&self, engine: &Arc<impl Upcalls<H>>, group: &mut [&mut Request<H>]) -> Option<Failed> {
        let pending = &mut *self.commit_lock.lock();
        if engine.is_stopped() {
            group.iter_mut().for_each(|request| request.forget());
            return None;
        }
        let lease = engine.lease();
        let batch = self.batch.fetch_add(1, Ordering::Relaxed) + 1;
        let written = H::no_panic(|| {
            failpoint::hit(Failpoint::Commit);
            for (number, request) in group.iter_mut().enumerate() {
                self.apply(&**engine, pending, request, number, lease);
            }
            write(&**engine, pending, group, lease)
        });
        match written {
            Ok(Ok(())) => {
                self.written.store(batch, Ordering::Release);
                None
            }
            Ok(Err(error)) => {
                // While the lock is still held: the memory of these runs is ahead of the store, and must not be read or
                // built on.
                let fenced = matches!(error, StoreError::Fenced { .. });
                let first = !fenced && engine.stop_over(&error);
                for (run, _) in pending.discard() {
                    if fenced {
                        run.settled.settle(Settlement::Elsewhere);
                    }
                }
                group.iter_mut().for_each(|request| request.refuse(&error));
                if fenced { Some(Failed::Fenced(lease)) } else { first.then_some(Failed::Stopped(error)) }
            }
            Err(why) => {
                // Before the lock is released, so that no thread commits what is half applied.
                engine.panicked(&why);
                pending.discard().for_each(drop);
                for request in group.iter_mut() {
                    request.forget();
                    request.outcome.lost.clear();
                }
                None
            }
        }
    }

    /// Applies a request's events.
    fn apply(
        &self,
        engine: &impl Upcalls<H>,
        pending: &mut Pending<Tagged<H>>,
        request: &mut Request<H>,
        number: usize,
        lease: Lease,
    ) {
        request.outcome.own = Ok(());
        let Request { creates, events, own, outcome } = request;
        if creates.as_ref().is_some_and(|creates| creates.lease != lease) {
            // The lease that the runs were to belong to has been lost meanwhile.
            request.refuse(&StoreError::Fenced { runner: lease.runner });
            return;
        }
        if creates.as_ref().is_some_and(|creates| creates.rows.iter().any(|new| engine.is_live(new.id.row()))) {
            // The store finds this too, but would then skip the writes of the live run, which may be in this batch.
            request.renumber(|row| engine.is_live(row));
            return;
        }
        if creates.as_ref().is_some_and(|creates| creates.by_body)
            && let Some((run, record)) = own.take()
            && let Err(lost) = self.apply_own(engine, pending, (run, number), record, lease)
        {
            request.create_nothing(lost);
            return;
        }
        for QueuedEvent { run, event, at, completion } in events.drain(..) {
            if run.lease != lease {
                // It was lost with the lease under which it was claimed, even if its state in memory looks alive.
                outcome.completions.extend(completion.map(|completion| (completion, Err(Refused::RunOver))));
                outcome.lost.push(run);
                continue;
            }
            // A refused event came too late: its attempt was over. It changes nothing.
            let result = self.apply_to(engine, pending, &(run, number), event, at, lease);
            outcome.completions.extend(completion.map(|completion| (completion, result)));
        }
        if let Some((run, event)) = own.take() {
            outcome.own = self.apply_own(engine, pending, (run, number), event, lease);
        }
    }

    fn apply_own(
        &self,
        engine: &impl Upcalls<H>,
        pending: &mut Pending<Tagged<H>>,
        tagged: Tagged<H>,
        event: Event,
        lease: Lease,
    ) -> Result<(), Lost> {
        if tagged.0.lease != lease {
            return Err(Lost::Refused(Refused::RunOver));
        }
        self.apply_to(engine, pending, &tagged, event, self.clock.now(), lease).map_err(Lost::Refused)
    }

    /// Applies an event, after what the run's bodies have shown before it. If it ends a child whose parent is executed
    /// here, the parent gets to know it.
    #[inline]
    fn apply_to(
        &self,
        engine: &impl Upcalls<H>,
        pending: &mut Pending<Tagged<H>>,
        tagged: &Tagged<H>,
        event: Event,
        at: Time,
        lease: Lease,
    ) -> Result<(), Refused> {
        let status = self.apply_one(engine, pending, tagged, event, at)?;
        if let Some(above) = tagged.0.parent.as_ref().filter(|_| status.is_ended())
            && let Some(parent) = engine.live(above.id.row()).filter(|parent| parent.lease == lease)
        {
            let event = Event::ChildEnded { run: tagged.0.id, status };
            let before = pending.batch.len();
            // Refused if the parent is over.
            let _ = self.apply_one(engine, pending, &(parent, tagged.1), event, at);
            if pending.batch[before..].iter().any(closes_a_wait) {
                tagged.0.settled.observe();
            }
        }
        Ok(())
    }

    /// Applies an event to its run, after what the run's bodies have shown before it. Answers where the run stands
    /// then.
    #[inline]
    fn apply_one(
        &self,
        engine: &impl Upcalls<H>,
        pending: &mut Pending<Tagged<H>>,
        tagged: &Tagged<H>,
        event: Event,
        at: Time,
    ) -> Result<RunStatus, Refused> {
        if let Some(moves) = &self.moves
            && !matches!(event, Event::PollRaised { .. } | Event::Published(_))
        {
            moves.fetch_add(1, Ordering::AcqRel);
        }
        let shown = tagged.0.live_output.take(&event, || self.clock.machine());
        let mut state = tagged.0.state.lock();
        // Before others see what the event changes.
        tagged.0.batch.store(self.batch.load(Ordering::Relaxed), Ordering::Relaxed);
        if let Some(shown) = shown {
            // Refused, if the run is over: then nobody is to see it.
            let _ = pending.apply(tagged, &mut state, shown, at);
        }
        let (before, cause) = (pending.batch.len(), Cause::of(&event));
        pending.apply(tagged, &mut state, event, at)?;
        applied(engine, pending, tagged, &state, before, cause, at);
        Ok(state.status())
    }
}

/// Whether a body has waited for what has come with this write.
fn closes_a_wait(write: &Write) -> bool {
    matches!(write, Write::Entry { entry, .. } if entry.state != EntryState::Open)
}
