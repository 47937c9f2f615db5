//! The committer: commits what threads leave in its inbox because they must not block, and the groups that have
//! gathered behind a body that runs on.

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use bide_sched::counts;
use bide_sync::{Condvar, Mutex};

use super::commit::Ledger;
use super::group::{Group, MAX_AGE, QueuedEvent};
use super::upcalls::Upcalls;
use crate::host::{Host, Ready};

/// The committer looks for forgotten groups this many times before it sleeps until it is armed again.
const LOOKS: u32 = 8;

/// What the committer thread shares with the threads that queue events for it.
pub(super) struct Committer<H: Host> {
    /// The queue and the groups.
    state: Mutex<State<H>>,
    /// Notified when there is something to commit, and at the close.
    changed: Condvar,
    /// The groups are to be checked: results have gathered while a body keeps executing.
    armed: AtomicBool,
}

struct State<H: Host> {
    /// Queued events, which no other thread commits.
    inbox: VecDeque<QueuedEvent<H>>,
    /// The committer was notified since it last took the inbox, or went to sleep.
    notified: bool,
    /// Groups whose results may gather while their slot's holder executes a long body.
    groups: Vec<Arc<Group<H>>>,
    /// The committer thread waits for events.
    resting: bool,
    /// The engine closes: nothing is taken any more.
    stop: bool,
}

impl<H: Host> Committer<H> {
    pub(super) fn new() -> Self {
        Self {
            state: Mutex::new(State {
                inbox: VecDeque::new(),
                notified: false,
                groups: Vec::new(),
                resting: false,
                stop: false,
            }),
            changed: Condvar::new(),
            armed: AtomicBool::new(false),
        }
    }

    /// What has gathered on all slots.
    pub(super) fn take_gathered(&self) -> Vec<QueuedEvent<H>> {
        let state = self.state.lock();
        let mut gathered = Vec::new();
        for group in state.groups.iter().filter(|group| !group.is_empty()) {
            let mut items = group.take();
            gathered.append(&mut items);
            group.reuse(items);
        }
        gathered
    }

    fn take_inbox(&self) -> Vec<QueuedEvent<H>> {
        self.state.lock().inbox.drain(..).collect()
    }

    fn take_all(&self) -> (Vec<QueuedEvent<H>>, Vec<Arc<Group<H>>>) {
        let mut state = self.state.lock();
        (state.inbox.drain(..).collect(), state.groups.clone())
    }
}

impl<H: Host> Ledger<H> {
    /// Has the committer look after a group.
    pub(crate) fn look_after(&self, group: Arc<Group<H>>) {
        self.committer.state.lock().groups.push(group);
    }

    /// Whether a commit blocks its thread.
    pub(crate) fn blocks(&self) -> bool {
        self.queue.is_some()
    }

    /// Results have gathered and their thread is about to execute another body.
    pub(crate) fn arm(&self) {
        let committer = &self.committer;
        if !committer.armed.load(Ordering::SeqCst) && !committer.armed.swap(true, Ordering::SeqCst) {
            let _state = committer.state.lock();
            counts::add_wake();
            committer.changed.notify_one();
        }
    }

    /// Whether no event is queued, gathered or being committed. If it is so and no commit has begun since, it was so
    /// all the time in between.
    pub(crate) fn is_at_rest(&self) -> bool {
        let state = self.committer.state.lock();
        state.inbox.is_empty() && state.resting && state.groups.iter().all(|group| group.is_empty())
    }

    /// Leaves an event to the committer.
    pub(crate) fn enqueue(&self, event: QueuedEvent<H>) {
        self.enqueue_quietly(event);
        self.wake_committer();
    }

    /// Leaves what has gathered in a group to the committer. Once that has stopped it stays there, for a flush.
    pub(crate) fn enqueue_group(&self, group: &Group<H>) {
        let mut state = self.committer.state.lock();
        if state.stop {
            return;
        }
        let mut items = group.take();
        state.inbox.extend(items.drain(..));
        drop(state);
        group.reuse(items);
        self.wake_committer();
    }

    /// Leaves an event without waking the committer: the caller commits it itself, or wakes it after all.
    pub(crate) fn enqueue_quietly(&self, event: QueuedEvent<H>) {
        let mut state = self.committer.state.lock();
        if state.stop {
            // Dropped once the lock is released, so that the receiver of its outcome learns that there will be none.
            drop(state);
            return;
        }
        state.inbox.push_back(event);
    }

    pub(crate) fn wake_committer(&self) {
        if !std::mem::replace(&mut self.committer.state.lock().notified, true) {
            counts::add_wake();
            self.committer.changed.notify_one();
        }
    }

    /// Events queued until now are still committed, by the thread's last turn or by a flush.
    pub(crate) fn stop_committer(&self) {
        self.committer.state.lock().stop = true;
        self.committer.changed.notify_all();
    }

    /// Commits the events queued for the committer. Blocks.
    pub(crate) fn commit_inbox(&self, engine: &Arc<impl Upcalls<H>>, ready: &mut Vec<Ready<H>>) {
        self.commit(engine, &mut self.committer.take_inbox(), ready);
    }

    /// Commits everything that has gathered anywhere. Blocks.
    pub(crate) fn flush(&self, engine: &Arc<impl Upcalls<H>>) {
        let (mut items, groups) = self.committer.take_all();
        let mut ready = Vec::new();
        self.commit(engine, &mut items, &mut ready);
        for group in groups {
            self.commit_group(engine, &group, &mut ready);
        }
        engine.dispatch(&mut ready);
    }

    /// The committer thread.
    pub(crate) fn run_committer(&self, engine: &Arc<impl Upcalls<H>>) {
        let committer = &self.committer;
        let mut items = Vec::new();
        let mut ready = Vec::new();
        let mut looks = 0;
        loop {
            let groups = {
                let mut state = committer.state.lock();
                if state.inbox.is_empty() && !state.stop {
                    (state.notified, state.resting) = (false, true);
                    if looks > 0 {
                        committer.changed.wait_for(&mut state, MAX_AGE);
                    } else {
                        // Disarmed before the groups are looked at: one that gathered before is seen, one that gathers
                        // after arms again.
                        committer.armed.store(false, Ordering::SeqCst);
                        if state.groups.iter().all(|group| group.is_empty()) {
                            committer.changed.wait(&mut state);
                        } else {
                            committer.armed.store(true, Ordering::SeqCst);
                        }
                    }
                }
                (state.notified, state.resting) = (false, false);
                items.extend(state.inbox.drain(..));
                if state.stop {
                    drop(state);
                    self.commit(engine, &mut items, &mut ready);
                    return;
                }
                if committer.armed.load(Ordering::SeqCst) { state.groups.clone() } else { Vec::new() }
            };
            looks = if looks == 0 && committer.armed.load(Ordering::SeqCst) { LOOKS } else { looks };
            let waiting = self.commit_old(engine, &groups, &mut items, &mut ready);
            looks = if waiting { LOOKS } else { looks.saturating_sub(1) };
            engine.dispatch(&mut ready);
        }
    }

    /// Commits the queued events, then the groups whose oldest result has waited long enough. True if there was one.
    fn commit_old(
        &self,
        engine: &Arc<impl Upcalls<H>>,
        groups: &[Arc<Group<H>>],
        items: &mut Vec<QueuedEvent<H>>,
        ready: &mut Vec<Ready<H>>,
    ) -> bool {
        if !items.is_empty() {
            self.commit(engine, items, ready);
        }
        let now = self.clock.machine();
        let old: Vec<_> = groups.iter().filter(|group| group.is_older_than(MAX_AGE, now)).collect();
        let waiting = groups.iter().any(|group| !group.is_empty());
        for group in old {
            self.commit_group(engine, group, ready);
        }
        waiting
    }

    /// One turn of the committer, for a driver of an engine without threads.
    #[cfg(feature = "testing")]
    pub(crate) fn committer_turn(&self, engine: &Arc<impl Upcalls<H>>) {
        let (mut items, groups) = self.committer.take_all();
        let mut ready = Vec::new();
        self.commit_old(engine, &groups, &mut items, &mut ready);
        engine.dispatch(&mut ready);
    }
}
