//! The changes of a store that one process knows of: a log of the last ones, with a position.
//!
//! Every runner keeps the position up to which it has seen the changes, so that several on one store each see all of
//! them, and one that fails to deal with a change sees it again.

use std::collections::VecDeque;
use std::time::Duration;

use bide_core::record::RunRowId;
use bide_sync::{Condvar, Mutex, MutexGuard};

/// The number of changed runs that are remembered one by one. A runner that has missed older ones gets
/// [`ChangedRuns::Any`].
const REMEMBERED: usize = 4_096;

/// How far a runner has seen a store's changes. The default: not at all.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Seen {
    /// The number of the last change that was seen.
    change: u64,
    /// How many interruptions of waits there were by then.
    interruptions: u64,
}

/// What has changed since a position.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Changes {
    /// The position to continue from, once these changes are handled.
    pub seen: Seen,
    /// Runs may have no owner: a runner has died, has left, was fenced or is late to renew its lease, or another
    /// process has written. Reason to claim.
    pub unowned: bool,
    /// Messages may have come to runs, see [`crate::Store::mail`], or answers to requests, see
    /// [`crate::Store::answer`].
    pub mail: bool,
    /// Shares of limits may have been released for which another runner than the one that held them waits.
    pub limits: bool,
    /// The runs whose status or owner may have changed: reason to look at those that a caller waits for.
    pub runs: ChangedRuns,
}

/// The runs that may have changed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ChangedRuns {
    /// These, by row number, perhaps none; some more than once.
    These(Vec<RunRowId>),
    /// Any run.
    Any,
}

/// The changes that one process knows of.
pub(crate) struct ChangeLog {
    /// The changes, and what was interrupted.
    state: Mutex<LogState>,
    /// Something was logged that ends a wait.
    woken: Condvar,
}

/// The state of a [`ChangeLog`].
#[derive(Default)]
pub(crate) struct LogState {
    /// The number of the last change.
    last: u64,
    /// The number of the last change after which runs may have no owner, and any run may have changed.
    unowned: u64,
    /// The number of the last change after which messages may have come.
    mail: u64,
    /// The number of the last change after which shares of limits may have been released.
    limits: u64,
    /// The last changed runs, with the number of the change.
    runs: VecDeque<(u64, RunRowId)>,
    /// The number of the last change that `runs` no longer has.
    forgotten: u64,
    /// The number of the last change of which another process has sent a hint.
    hinted: u64,
    /// How often waits were interrupted.
    interruptions: u64,
    /// The store is to be polled now.
    poll: bool,
}

impl ChangeLog {
    /// `unowned`: whether a runner that has seen nothing yet is to claim.
    pub(crate) fn new(unowned: bool) -> Self {
        let last = u64::from(unowned);
        Self {
            state: Mutex::new(LogState { last, unowned: last, mail: last, ..LogState::default() }),
            woken: Condvar::new(),
        }
    }

    /// Runs may have no owner from here on.
    pub(crate) fn unowned(&self) {
        let mut state = self.state.lock();
        state.last += 1;
        state.unowned = state.last;
        state.mail = state.last;
        self.woken.notify_all();
    }

    /// A message has come to a run, or an answer to a request.
    pub(crate) fn mail(&self) {
        let mut state = self.state.lock();
        state.last += 1;
        state.mail = state.last;
        self.woken.notify_all();
    }

    /// Shares of limits were released for which other runners wait.
    pub(crate) fn limits(&self) {
        let mut state = self.state.lock();
        state.last += 1;
        state.limits = state.last;
        self.woken.notify_all();
    }

    /// Locks the log, to add changed runs. These end no wait: a busy runner would be woken by each run that it ends.
    pub(crate) fn lock(&self) -> MutexGuard<'_, LogState> {
        self.state.lock()
    }

    /// Another process has changed these runs. This ends waits.
    #[cfg(any(target_os = "linux", feature = "postgres"))]
    pub(crate) fn hinted(&self, runs: impl IntoIterator<Item = RunRowId>) {
        let mut state = self.state.lock();
        for run in runs {
            state.run(run);
        }
        state.hinted = state.last;
        // Perhaps it has sent them messages.
        state.mail = state.last;
        self.woken.notify_all();
    }

    /// Any run may have changed. This ends waits.
    #[cfg(feature = "postgres")]
    pub(crate) fn any_run(&self) {
        let mut state = self.state.lock();
        state.last += 1;
        state.runs.clear();
        state.forgotten = state.last;
        state.hinted = state.last;
        self.woken.notify_all();
    }

    /// Waits until something ends the wait or the timeout is over.
    #[cfg(feature = "postgres")]
    pub(crate) fn wait_for(&self, seen: Seen, timeout: Duration) {
        let mut state = self.state.lock();
        let since = std::time::Instant::now();
        while !state.ends_wait(seen) {
            let remaining = timeout.saturating_sub(since.elapsed());
            if remaining.is_zero() {
                return;
            }
            self.woken.wait_for(&mut state, remaining);
        }
    }

    /// The thread that waits, or the next one that would, is to poll the store at once.
    #[cfg(target_os = "linux")]
    pub(crate) fn ask_for_poll(&self) {
        self.state.lock().poll = true;
        self.woken.notify_all();
    }

    /// Whether a poll was asked for, once.
    pub(crate) fn take_poll(&self) -> bool {
        std::mem::take(&mut self.state.lock().poll)
    }

    /// Ends all waits that are under way, and the next one of each runner that did not wait.
    pub(crate) fn interrupt(&self) {
        self.state.lock().interruptions += 1;
        self.woken.notify_all();
    }

    /// Waits for something that ends a wait; false if there was nothing within the timeout, or a poll is asked for.
    pub(crate) fn wait(&self, seen: Seen, timeout: Duration) -> bool {
        let mut state = self.state.lock();
        if !timeout.is_zero() && !state.poll && !state.ends_wait(seen) {
            self.woken.wait_for(&mut state, timeout);
        }
        state.ends_wait(seen)
    }

    /// What has changed.
    pub(crate) fn since(&self, seen: Seen) -> Changes {
        let state = self.state.lock();
        let unowned = state.unowned > seen.change;
        let runs = if unowned || state.forgotten > seen.change {
            ChangedRuns::Any
        } else {
            let unseen = state.runs.iter().rev().take_while(|(change, _)| *change > seen.change);
            ChangedRuns::These(unseen.map(|(_, run)| *run).collect())
        };
        let (mail, limits) = (state.mail > seen.change, unowned || state.limits > seen.change);
        Changes { seen: Seen { change: state.last, interruptions: state.interruptions }, unowned, mail, limits, runs }
    }
}

impl LogState {
    /// The status of this run has changed.
    pub(crate) fn run(&mut self, run: RunRowId) {
        self.last += 1;
        if self.runs.len() == REMEMBERED
            && let Some((change, _)) = self.runs.pop_front()
        {
            self.forgotten = change;
        }
        self.runs.push_back((self.last, run));
    }

    fn ends_wait(&self, seen: Seen) -> bool {
        let newest = self.unowned.max(self.mail).max(self.limits).max(self.hinted);
        newest > seen.change || self.interruptions != seen.interruptions
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_change_is_seen_once_from_each_position() {
        let log = ChangeLog::new(false);
        let start = log.since(Seen::default());
        assert_eq!(start.runs, ChangedRuns::These(vec![]));
        log.lock().run(7);
        log.lock().run(8);
        let changes = log.since(start.seen);
        assert_eq!((changes.unowned, &changes.runs), (false, &ChangedRuns::These(vec![8, 7])));
        log.lock().run(9);
        assert_eq!(log.since(changes.seen).runs, ChangedRuns::These(vec![9]));
        assert_eq!(log.since(start.seen).runs, ChangedRuns::These(vec![9, 8, 7]));
        log.unowned();
        assert_eq!(log.since(changes.seen).runs, ChangedRuns::Any);
        assert!(log.since(changes.seen).unowned);
        let now = log.since(start.seen).seen;
        assert_eq!(log.since(now).runs, ChangedRuns::These(vec![]));
    }

    #[test]
    fn a_runner_that_has_missed_too_many_runs_gets_any() {
        let log = ChangeLog::new(false);
        let start = log.since(Seen::default()).seen;
        log.lock().run(0);
        let first = log.since(start).seen;
        for run in 1..=REMEMBERED as RunRowId {
            log.lock().run(run);
        }
        assert_eq!((log.since(start).unowned, log.since(start).runs), (false, ChangedRuns::Any));
        assert!(matches!(log.since(first).runs, ChangedRuns::These(runs) if runs.len() == REMEMBERED));
    }

    #[test]
    fn an_interruption_ends_one_wait_of_each_runner() {
        let log = ChangeLog::new(false);
        let seen = log.since(Seen::default()).seen;
        log.interrupt();
        // For two runners that are about to wait; neither waits for a day.
        for _ in 0..2 {
            assert!(log.wait(seen, Duration::from_secs(86_400)));
        }
        let seen = log.since(seen).seen;
        assert!(!log.wait(seen, Duration::from_millis(1)));
        log.lock().run(1);
        assert!(!log.wait(seen, Duration::ZERO), "a run that changes ends no wait");
    }

    #[test]
    fn mail_ends_a_wait_and_changes_no_run() {
        let log = ChangeLog::new(false);
        let seen = log.since(Seen::default()).seen;
        log.mail();
        assert!(log.wait(seen, Duration::from_secs(86_400)));
        let changes = log.since(seen);
        assert_eq!((changes.mail, changes.unowned, changes.runs), (true, false, ChangedRuns::These(vec![])));
        assert!(!log.since(changes.seen).mail);
    }

    #[test]
    #[cfg(target_os = "linux")]
    fn a_hint_of_another_process_ends_waits_and_names_its_runs() {
        let log = ChangeLog::new(false);
        let start = log.since(Seen::default()).seen;
        log.lock().run(1);
        log.hinted([2, 3]);
        assert!(log.wait(start, Duration::from_secs(86_400)));
        let changes = log.since(start);
        assert_eq!((changes.unowned, &changes.runs), (false, &ChangedRuns::These(vec![3, 2, 1])));
        assert!(!log.wait(changes.seen, Duration::ZERO));
    }

    #[test]
    #[cfg(target_os = "linux")]
    fn a_requested_poll_is_made_by_the_next_waiter() {
        let log = ChangeLog::new(false);
        let seen = log.since(Seen::default()).seen;
        log.ask_for_poll();
        assert!(!log.wait(seen, Duration::from_secs(86_400)), "not for a day, and nothing has changed yet");
        assert!(log.take_poll());
        assert!(!log.take_poll());
    }

    #[test]
    fn a_new_log_may_have_something_to_see() {
        assert!(ChangeLog::new(true).since(Seen::default()).unowned);
        assert!(!ChangeLog::new(false).since(Seen::default()).unowned);
    }
}
