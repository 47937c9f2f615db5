//! From events to committed rows to effects: the one place where they meet.
//!
//! Results gather in groups so that one transaction serves many. A group is committed by the thread that made it
//! (its work is done, 64 have gathered, or the oldest is 1 ms old), or by the committer thread: for what other
//! threads leave in the inbox, and for what has gathered behind a body that runs on.

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use bide_core::record::{Batch, Committed};
use bide_core::{Effect, Event, Refused, RunStatus, Time};
use bide_sched::counts;
use bide_store::{Lease, StoreError};
use bide_sync::{Condvar, Mutex};

use crate::engine::{Engine, Level};
use crate::failpoint::{self, Failpoint};
use crate::host::{Dispatch, Gate, Host, Ready};
use crate::runs::run::Run;
use crate::runs::settled::Settlement;
use crate::services::timers::Alarm;

/// A group is committed when so many results have gathered.
pub(crate) const GROUP: usize = 64;

/// A result waits at most so long for others.
pub(crate) const PATIENCE: Duration = Duration::from_millis(1);

/// A commit that finds the store locked by others is tried so often. On a file each try takes 10 s, so that a lock that
/// somebody holds for half a minute is only waited for: what is to be committed has happened, and stopping for a lock
/// would do it again.
const TRIES: u32 = 6;

/// So many runs that end with a commit are announced while it is made. Those who wait for a lot of runs do not wait for a
/// thread to wake.
const ANNOUNCED: usize = 1;

/// The committer looks for forgotten groups so many times before it sleeps until it is armed again.
const LOOKS: u32 = 8;

/// An event on its way to the store.
pub(crate) struct Done<H: Host> {
    pub(crate) run: Arc<Run<H>>,
    pub(crate) event: Event,
    pub(crate) at: Time,
    /// Who awaits it, if anybody does.
    pub(crate) reply: Option<Reply>,
}

/// Tells what an event came to, once that is committed. Dropped unsent if the engine stops before.
pub(crate) type Reply = tokio::sync::oneshot::Sender<Result<(), Refused>>;

/// Why a body's own event was not committed.
#[derive(Debug)]
#[cfg_attr(not(feature = "testing"), expect(unreachable_pub, reason = "drive has it"))]
pub enum Lost {
    /// It came too late.
    Refused(Refused),
    /// The engine has stopped, or stopped over it.
    Stopped,
}

/// The committer thread's side.
pub(crate) struct Committer<H: Host> {
    state: Mutex<State<H>>,
    changed: Condvar,
    armed: AtomicBool,
}

struct State<H: Host> {
    inbox: VecDeque<Done<H>>,
    /// Groups that a slot's holder may leave behind while a body runs on.
    groups: Vec<Arc<Group<H>>>,
    stop: bool,
}

/// What has gathered on one slot; of closures in memory, on all.
pub struct Group<H: Host>(Mutex<Gathered<H>>);

struct Gathered<H: Host> {
    items: Vec<Done<H>>,
    /// The memory of what was committed last. It stays with the slot: a thread may park for long.
    spare: Vec<Done<H>>,
    since: Duration,
}

impl<H: Host> Default for Group<H> {
    fn default() -> Self {
        Self(Mutex::new(Gathered { items: Vec::with_capacity(GROUP), spare: Vec::new(), since: Duration::ZERO }))
    }
}

impl<H: Host> Group<H> {
    pub(crate) fn new() -> Arc<Self> {
        Arc::default()
    }

    /// Adds a result; true if the group should be committed now.
    pub(crate) fn push(&self, done: Done<H>, now: Duration) -> bool {
        let mut gathered = self.0.lock();
        if gathered.items.is_empty() {
            gathered.since = now;
        }
        gathered.items.push(done);
        gathered.items.len() >= GROUP || now.saturating_sub(gathered.since) >= PATIENCE
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.0.lock().items.is_empty()
    }

    /// Takes what has gathered.
    fn take(&self) -> Vec<Done<H>> {
        let gathered = &mut *self.0.lock();
        std::mem::replace(&mut gathered.items, std::mem::take(&mut gathered.spare))
    }

    /// Gives back the memory of what was taken.
    fn give_back(&self, emptied: Vec<Done<H>>) {
        self.0.lock().spare = emptied;
    }

    fn is_older_than(&self, age: Duration, now: Duration) -> bool {
        let gathered = self.0.lock();
        !gathered.items.is_empty() && now.saturating_sub(gathered.since) >= age
    }
}

impl<H: Host> Committer<H> {
    pub(crate) fn new() -> Self {
        Self {
            state: Mutex::new(State { inbox: VecDeque::new(), groups: Vec::new(), stop: false }),
            changed: Condvar::new(),
            armed: AtomicBool::new(false),
        }
    }

    /// Lets the committer look after a group.
    pub(crate) fn look_after(&self, group: Arc<Group<H>>) {
        self.state.lock().groups.push(group);
    }

    /// Results have gathered and their thread is about to execute another body.
    pub(crate) fn arm(&self) {
        if !self.armed.load(Ordering::SeqCst) && !self.armed.swap(true, Ordering::SeqCst) {
            let _state = self.state.lock();
            counts::add_wake();
            self.changed.notify_one();
        }
    }

    pub(crate) fn leave(&self, done: Done<H>) {
        self.put_down(done);
        self.wake();
    }

    /// Leaves an event without waking the committer: the caller commits it itself, or wakes it after all.
    pub(crate) fn put_down(&self, done: Done<H>) {
        let mut state = self.state.lock();
        if state.stop {
            // Dropped, once the lock is released, so that whoever awaits a reply hears that there will be none.
            drop(state);
            return;
        }
        state.inbox.push_back(done);
    }

    pub(crate) fn wake(&self) {
        counts::add_wake();
        self.changed.notify_one();
    }

    /// What was left until now is still committed, by the thread's last turn or by a flush.
    pub(crate) fn stop(&self) {
        self.state.lock().stop = true;
        self.changed.notify_all();
    }
}

/// Answers those who await their events. One who has gone away does not mind.
fn tell(replies: Vec<(Reply, Result<(), Refused>)>) {
    for (reply, outcome) in replies {
        let _ = reply.send(outcome);
    }
}

impl<H: Host> Engine<H> {
    /// Leaves an event to the committer: for threads that must not block.
    pub(crate) fn leave(&self, run: Arc<Run<H>>, event: Event) {
        let at = self.clock.now();
        self.committer.leave(Done { run, event, at, reply: None });
    }

    /// Applies events, commits them and carries out what follows. Bodies that may start now are added to `ready`
    /// for the caller to execute or dispatch. Blocks.
    pub(crate) fn commit(self: &Arc<Self>, items: &mut Vec<Done<H>>, ready: &mut Vec<Ready<H>>) {
        let _ = self.commit_with(items, None, ready);
    }

    /// Commits a body's own event (after what has gathered on its slot). Blocks.
    ///
    /// # Errors
    /// `Refused` if the attempt or the run is over; `Stopped` if the engine is, or the commit failed.
    pub(crate) fn commit_own(
        self: &Arc<Self>,
        group: Option<&Group<H>>,
        run: &Arc<Run<H>>,
        event: Event,
    ) -> Result<(), Lost> {
        let mut items = group.map_or_else(Vec::new, Group::take);
        let mut ready = Vec::new();
        let outcome = self.commit_with(&mut items, Some((run, event)), &mut ready);
        if let Some(group) = group {
            group.give_back(items);
        }
        self.dispatch_ready(&mut ready);
        outcome
    }

    /// Commits a group on the thread that made it. Blocks.
    pub(crate) fn commit_group(self: &Arc<Self>, group: &Group<H>, ready: &mut Vec<Ready<H>>) {
        let mut items = group.take();
        self.commit(&mut items, ready);
        group.give_back(items);
    }

    pub(crate) fn dispatch_ready(self: &Arc<Self>, ready: &mut Vec<Ready<H>>) {
        if !ready.is_empty() {
            self.dispatch.ready(self, ready);
        }
    }

    fn commit_with(
        self: &Arc<Self>,
        items: &mut Vec<Done<H>>,
        own: Option<(&Arc<Run<H>>, Event)>,
        ready: &mut Vec<Ready<H>>,
    ) -> Result<(), Lost> {
        let mut rest: Vec<(Arc<Run<H>>, Effect)> = Vec::new();
        let mut replies: Vec<(Reply, Result<(), Refused>)> = Vec::new();
        let mut lost = Vec::new();
        let mut own_outcome = Ok(());
        let mut pending = self.gate.lock();
        if self.stopped().is_some() {
            items.clear();
            return Err(Lost::Stopped);
        }
        let lease = *self.lease.read();
        let written = H::no_panic(|| {
            failpoint::hit(Failpoint::Commit);
            for done in items.drain(..) {
                if done.run.lease != lease {
                    // It was lost with the lease that it was taken up under, whatever its state in memory says.
                    replies.extend(done.reply.map(|reply| (reply, Err(Refused::RunOver))));
                    lost.push(done.run);
                    continue;
                }
                // A refused event came too late: its attempt was over. It changes nothing.
                let outcome = pending.apply(&done.run, &mut done.run.state.lock(), done.event, done.at);
                replies.extend(done.reply.map(|reply| (reply, outcome)));
            }
            if let Some((run, event)) = own {
                let now = self.clock.now();
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
            if self.store().blocks() {
                pending.settling().take(ANNOUNCED).for_each(|run| run.settled.announce());
            }
            let token = self.commit_patiently(lease, &mut pending.batch)?;
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
                // While the gate is still held: the memory of these runs is ahead of the store, and nobody may build on
                // it or show it.
                let fenced = matches!(error, StoreError::Fenced { .. });
                let first = !fenced && self.stop_over(&error);
                for run in pending.discard() {
                    if fenced {
                        run.settled.settle(Settlement::Elsewhere);
                    }
                }
                drop(pending);
                if fenced {
                    self.fenced(lease);
                } else {
                    self.tell_of_break_down(&error, first);
                }
                self.let_go(lost);
                return Err(Lost::Stopped);
            }
            Err(why) => {
                // Before the gate is released: nobody is to commit what is half applied.
                self.panicked(&why);
                pending.discard().for_each(drop);
                items.clear();
                ready.clear();
                return Err(Lost::Stopped);
            }
        }
        drop(pending);
        for (run, effect) in rest {
            self.carry_out(run, effect);
        }
        self.let_go(lost);
        tell(replies);
        own_outcome
    }

    /// Commits a batch; waits for a store that others keep locked, and says so. A runner that is closing waits for one
    /// try only.
    fn commit_patiently(&self, lease: Lease, batch: &mut Batch) -> Result<Committed, StoreError> {
        let mut in_all = Duration::ZERO;
        for left in (0..TRIES).rev() {
            match self.store().commit(lease, batch) {
                Err(StoreError::Busy { store, waited }) => {
                    in_all += waited;
                    let error = StoreError::Busy { store, waited: in_all };
                    if left == 0 || self.is_closing() {
                        return Err(error);
                    }
                    self.log(Level::Warning, &format!("{error} yet; a commit goes on trying, and bodies wait for it"));
                }
                outcome => return outcome,
            }
        }
        unreachable!("the last try returns")
    }

    /// These runs are executed elsewhere: whoever waits for them is to look there.
    fn let_go(&self, lost: Vec<Arc<Run<H>>>) {
        for run in lost {
            let mut runs = self.runs.lock();
            if runs.get(&run.id.row()).is_some_and(|live| Arc::ptr_eq(live, &run)) {
                runs.remove(&run.id.row());
            }
            drop(runs);
            run.settled.settle(Settlement::Elsewhere);
        }
    }

    fn carry_out(self: &Arc<Self>, run: Arc<Run<H>>, effect: Effect) {
        match effect {
            Effect::Ready { task } => self.dispatch_ready(&mut vec![Ready { run, task }]),
            Effect::Timer { at, event } => {
                self.timers.at(at, Arc::new(Due { engine: Arc::clone(self), run, event: *event }), 0);
            }
            Effect::Gate { task, attempt, deadline } => {
                self.dispatch.gate(self, Gate { run, task, attempt, deadline });
            }
            Effect::Cleared { task } => self.cleared(&run, task),
            Effect::Settled { status } => {
                self.runs.lock().remove(&run.id.row());
                if status == RunStatus::Paused {
                    let reason = run.state.lock().blocked_by().map_or("on request".to_owned(), ToString::to_string);
                    let name = run.workflow.graph.workflow();
                    self.log(Level::Warning, &format!("run {} of '{name}' is paused: {reason}", run.id));
                }
                if matches!(status, RunStatus::Completed | RunStatus::Failed) {
                    for conflict in run.unreported_conflicts() {
                        self.log(Level::Warning, &conflict.message(&run.workflow.graph));
                    }
                }
                run.settled.settle(Settlement::Run(status));
                let watched = self.watched.lock().remove(&run.id);
                if let Some(settled) = watched.and_then(|settled| settled.upgrade()) {
                    settled.settle(Settlement::Run(status));
                }
            }
        }
    }

    /// Commits what was left to the committer. Blocks.
    pub(crate) fn commit_left(self: &Arc<Self>, ready: &mut Vec<Ready<H>>) {
        let mut items: Vec<Done<H>> = self.committer.state.lock().inbox.drain(..).collect();
        self.commit(&mut items, ready);
    }

    /// Commits everything that has gathered anywhere. Blocks.
    pub(crate) fn flush(self: &Arc<Self>) {
        let (mut items, groups): (Vec<_>, Vec<_>) = {
            let mut state = self.committer.state.lock();
            (state.inbox.drain(..).collect(), state.groups.clone())
        };
        let mut ready = Vec::new();
        self.commit(&mut items, &mut ready);
        for group in groups {
            self.commit_group(&group, &mut ready);
        }
        self.dispatch_ready(&mut ready);
    }

    /// The committer thread.
    pub(crate) fn run_committer(self: Arc<Self>) {
        let mut items = Vec::new();
        let mut ready = Vec::new();
        let mut looks = 0;
        loop {
            let groups = {
                let committer = &self.committer;
                let mut state = committer.state.lock();
                if state.inbox.is_empty() && !state.stop {
                    if looks > 0 {
                        committer.changed.wait_for(&mut state, PATIENCE);
                    } else {
                        // First disarmed, then looked: a group that was left before is seen, one that is left after
                        // arms again.
                        committer.armed.store(false, Ordering::SeqCst);
                        if state.groups.iter().all(|group| group.is_empty()) {
                            committer.changed.wait(&mut state);
                        } else {
                            committer.armed.store(true, Ordering::SeqCst);
                        }
                    }
                }
                if state.stop {
                    items.extend(state.inbox.drain(..));
                    drop(state);
                    self.commit(&mut items, &mut ready);
                    return;
                }
                items.extend(state.inbox.drain(..));
                if committer.armed.load(Ordering::SeqCst) { state.groups.clone() } else { Vec::new() }
            };
            looks = if looks == 0 && self.committer.armed.load(Ordering::SeqCst) { LOOKS } else { looks };
            let waiting = self.commit_old(&groups, &mut items, &mut ready);
            looks = if waiting { LOOKS } else { looks.saturating_sub(1) };
            self.dispatch_ready(&mut ready);
        }
    }

    /// Commits what was left, then the groups whose oldest result has waited long enough. True if one had gathered.
    fn commit_old(
        self: &Arc<Self>,
        groups: &[Arc<Group<H>>],
        items: &mut Vec<Done<H>>,
        ready: &mut Vec<Ready<H>>,
    ) -> bool {
        if !items.is_empty() {
            self.commit(items, ready);
        }
        let now = self.clock.steady();
        let old: Vec<_> = groups.iter().filter(|group| group.is_older_than(PATIENCE, now)).collect();
        let waiting = groups.iter().any(|group| !group.is_empty());
        for group in old {
            self.commit_group(group, ready);
        }
        waiting
    }

    /// One look of the committer, for who drives an engine without threads.
    #[cfg(feature = "testing")]
    pub(crate) fn commit_now(self: &Arc<Self>) {
        let (mut items, groups): (Vec<_>, Vec<_>) = {
            let mut state = self.committer.state.lock();
            (state.inbox.drain(..).collect(), state.groups.clone())
        };
        let mut ready = Vec::new();
        self.commit_old(&groups, &mut items, &mut ready);
        self.dispatch_ready(&mut ready);
    }
}

/// A timer of the run machine.
struct Due<H: Host> {
    engine: Arc<Engine<H>>,
    run: Arc<Run<H>>,
    event: Event,
}

impl<H: Host> Alarm for Due<H> {
    fn ring(self: Arc<Self>, _ticket: u64) {
        self.engine.leave(Arc::clone(&self.run), self.event.clone());
    }
}
