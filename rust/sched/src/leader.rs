//! A queue of leaders and followers, for work that only one thread can do at a time: the first thread leads and works
//! on its request. Those that arrive meanwhile wait, and the next leader works on the requests of all of them at once.
//!
//! The queue does not know the work. A thread enters with a request, the leader works on it, and the request returns to
//! its thread.
//!
//! Threads that come again and again would soon work in two groups that take turns, each half as large as it could be:
//! when a group ends, the next leader has started before its members are back. So a leader first waits for them, for a
//! fraction of the time that the work takes. It does not wait for a thread that is alone, nor for quick work, and
//! rarely where waiting has brought nobody.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use crate::sync::{Condvar, Mutex, MutexGuard};

/// A leader waits for others if the work takes at least this long. Otherwise they are not back in time.
const WORTH_WAITING: Duration = Duration::from_micros(200);

/// A leader waits at most for this fraction of the time that the last group took.
const FRACTION: u32 = 4;

/// After this many waits in a row that brought nobody, the pause no longer grows.
const MAX_FAILURES: u32 = 6;

/// Where requests wait for a leader.
pub struct LeaderQueue<T> {
    /// The leader and its followers.
    state: Mutex<State<T>>,
    /// Notified when all have arrived for whom a leader waits.
    complete: Condvar,
}

struct State<T> {
    /// A thread leads, or is about to: it has been made the next leader.
    led: bool,
    /// Requests for the next leader, in the order of arrival. Empty while there is no leader.
    waiting: VecDeque<(T, Arc<Follower<T>>)>,
    /// How many threads were there when the last group ended: its members, and those that had come meanwhile.
    present: usize,
    /// How long the last group took.
    took: Duration,
    /// How many waits for others in a row have not paid.
    failures: u32,
    /// How many more groups start without such a wait.
    pause: u32,
}

/// Where a thread waits that does not lead.
struct Follower<T> {
    /// What it wakes to; `None` until a leader has replied.
    reply: Mutex<Option<Reply<T>>>,
    /// Notified when there is a reply.
    changed: Condvar,
}

/// What a follower wakes to.
enum Reply<T> {
    /// It leads now, with its own request.
    Lead(T),
    /// A leader has worked on its request.
    Done(T),
}

/// What a thread that came with a request has to do.
pub enum Turn<'a, T> {
    /// It works on its own request and on those of the followers.
    Lead(Leader<'a, T>),
    /// Another thread has worked on its request.
    Done(T),
}

/// The requests of a group, and the permit to work on them. When it is dropped, the next leader is woken and each
/// follower gets its request back.
pub struct Leader<'a, T> {
    /// `None` once another thread leads.
    queue: Option<&'a LeaderQueue<T>>,
    /// The leader's own request. `None` only once [`Leader::end`] has returned it.
    own: Option<T>,
    /// The requests of the threads that wait for this leader.
    followers: VecDeque<(T, Arc<Follower<T>>)>,
}

impl<T> Default for LeaderQueue<T> {
    fn default() -> Self {
        let (waiting, took) = (VecDeque::new(), Duration::ZERO);
        let state = State { led: false, waiting, present: 0, took, failures: 0, pause: 0 };
        Self { state: Mutex::new(state), complete: Condvar::new() }
    }
}

impl<T> LeaderQueue<T> {
    /// How many requests wait for the next leader.
    #[must_use]
    pub fn waiting(&self) -> usize {
        self.state.lock().waiting.len()
    }

    /// Whether a thread leads.
    #[must_use]
    pub fn is_led(&self) -> bool {
        self.state.lock().led
    }

    /// Brings a request. Blocks while another thread leads.
    pub fn enter(&self, request: T) -> Turn<'_, T> {
        let mut state = self.state.lock();
        if !state.led {
            state.led = true;
            return Turn::Lead(self.lead(request, state));
        }
        let follower = Arc::new(Follower { reply: Mutex::new(None), changed: Condvar::new() });
        state.waiting.push_back((request, Arc::clone(&follower)));
        let complete = state.is_complete();
        drop(state);
        if complete {
            // Not counted, as are no wakes by a lock.
            self.complete.notify_one();
        }
        match follower.wait() {
            Reply::Lead(own) => Turn::Lead(self.lead(own, self.state.lock())),
            Reply::Done(request) => Turn::Done(request),
        }
    }

    /// The leader of all who have come, and of those who come while it waits for them.
    fn lead<'a>(&'a self, own: T, mut state: MutexGuard<'a, State<T>>) -> Leader<'a, T> {
        let span = state.worth_waiting();
        if !span.is_zero() && !state.is_complete() {
            let before = state.waiting.len();
            self.wait_for_others(&mut state, span);
            state.waited(before);
        }
        let followers = std::mem::take(&mut state.waiting);
        Leader { queue: Some(self), own: Some(own), followers }
    }

    #[cfg(not(test))]
    fn wait_for_others(&self, state: &mut MutexGuard<'_, State<T>>, span: Duration) {
        self.complete.wait_while_for(state, |state| !state.is_complete(), span);
    }

    /// In the models the time of a wait passes at any moment.
    #[cfg(test)]
    fn wait_for_others(&self, state: &mut MutexGuard<'_, State<T>>, _span: Duration) {
        MutexGuard::unlocked(state, loom::thread::yield_now);
    }
}

impl<T> State<T> {
    /// Whether as many threads are here as when the last group ended.
    fn is_complete(&self) -> bool {
        self.waiting.len() + 1 >= self.present
    }

    /// How long the next leader waits for others; zero if not at all.
    fn worth_waiting(&mut self) -> Duration {
        if self.present < 2 || self.took < WORTH_WAITING {
            return Duration::ZERO;
        }
        if self.pause > 0 {
            self.pause -= 1;
            return Duration::ZERO;
        }
        self.took / FRACTION
    }

    /// A leader has waited for others. That pays if it brings as large a fraction of the group as it takes of its time.
    fn waited(&mut self, before: usize) {
        let members = self.waiting.len() + 1;
        if self.is_complete() || (self.waiting.len() - before) * FRACTION as usize >= members {
            self.failures = 0;
        } else {
            self.failures = (self.failures + 1).min(MAX_FAILURES);
            self.pause = 1 << self.failures;
        }
    }
}

impl<T> Follower<T> {
    fn wait(&self) -> Reply<T> {
        let mut reply = self.reply.lock();
        loop {
            match reply.take() {
                Some(reply) => return reply,
                None => self.changed.wait(&mut reply),
            }
        }
    }

    fn wake(&self, reply: Reply<T>) {
        *self.reply.lock() = Some(reply);
        // Not counted, as are no wakes by a lock: the thread waits for no work, only for its turn.
        self.changed.notify_one();
    }
}

impl<T> Leader<'_, T> {
    /// The requests of the group, the leader's own first.
    pub fn requests(&mut self) -> impl Iterator<Item = &mut T> {
        self.own.iter_mut().chain(self.followers.iter_mut().map(|(request, _)| request))
    }

    /// Makes the first waiting thread the next leader, if there is one. `took`: how long this one has worked.
    pub fn pass_on(&mut self, took: Duration) {
        let Some(queue) = self.queue.take() else { return };
        let next = {
            let mut state = queue.state.lock();
            state.present = self.followers.len() + 1 + state.waiting.len();
            state.took = took;
            let next = state.waiting.pop_front();
            state.led = next.is_some();
            next
        };
        if let Some((request, follower)) = next {
            follower.wake(Reply::Lead(request));
        }
    }

    /// Passes the lead on, returns the followers' requests to them, and returns the leader's own.
    #[must_use]
    pub fn end(mut self) -> T {
        self.own.take().unwrap_or_else(|| unreachable!("a leader ends once"))
    }
}

impl<T> Drop for Leader<'_, T> {
    fn drop(&mut self) {
        // The next leader first: it has work to do, while followers continue with theirs.
        self.pass_on(Duration::ZERO);
        for (request, follower) in self.followers.drain(..) {
            follower.wake(Reply::Done(request));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// As a group has left it that took this long, with this many threads present when it ended.
    fn after(present: usize, took: Duration) -> State<u32> {
        State { led: true, waiting: VecDeque::new(), present, took, failures: 0, pause: 0 }
    }

    fn add_waiting(state: &mut State<u32>, thread: u32) {
        let follower = Follower { reply: Mutex::new(None), changed: Condvar::new() };
        state.waiting.push_back((thread, Arc::new(follower)));
    }

    #[test]
    fn a_leader_waits_for_a_quarter_of_the_last_group_if_others_took_part() {
        assert_eq!(after(2, Duration::from_millis(2)).worth_waiting(), Duration::from_micros(500));
    }

    #[test]
    fn a_thread_that_is_alone_never_waits_nor_does_a_leader_of_quick_work() {
        assert_eq!(after(0, Duration::from_secs(1)).worth_waiting(), Duration::ZERO);
        assert_eq!(after(1, Duration::from_secs(1)).worth_waiting(), Duration::ZERO);
        assert_eq!(after(9, WORTH_WAITING - Duration::from_micros(1)).worth_waiting(), Duration::ZERO);
    }

    #[test]
    fn waits_that_bring_nobody_become_rare_until_one_pays() {
        loom::model(|| {
            let mut state = after(3, Duration::from_secs(1));
            let mut skipped = Vec::new();
            for _ in 0..4 {
                skipped.push((0..).take_while(|_| state.worth_waiting().is_zero()).count());
                state.waited(0);
            }
            assert_eq!(skipped, [0, 2, 4, 8]);
            state.pause = 0;
            add_waiting(&mut state, 1);
            state.waited(0);
            assert!(!state.worth_waiting().is_zero());
        });
    }
}
