//! A queue of leaders and followers, for work that only one thread can do at a time: the first thread leads and works
//! on its request. Those that arrive meanwhile wait, and the next leader works on the requests of all of them at once.
//!
//! The queue does not know the work. A thread enters with a request, the leader works on it, and the request returns to
//! its thread.

use std::collections::VecDeque;
use std::sync::Arc;

use crate::sync::{Condvar, Mutex};

/// Where requests wait for a leader.
pub struct LeaderQueue<T>(Mutex<State<T>>);

struct State<T> {
    /// A thread leads, or is about to: it has been made the next leader.
    led: bool,
    /// Requests for the next leader, in the order of arrival. Empty while there is no leader.
    waiting: VecDeque<(T, Arc<Follower<T>>)>,
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
        Self(Mutex::new(State { led: false, waiting: VecDeque::new() }))
    }
}

impl<T> LeaderQueue<T> {
    /// How many requests wait for the next leader.
    #[must_use]
    pub fn waiting(&self) -> usize {
        self.0.lock().waiting.len()
    }

    /// Brings a request. Blocks while another thread leads.
    pub fn enter(&self, request: T) -> Turn<'_, T> {
        let follower = {
            let mut state = self.0.lock();
            if !state.led {
                state.led = true;
                return Turn::Lead(Leader { queue: Some(self), own: Some(request), followers: VecDeque::new() });
            }
            let follower = Arc::new(Follower { reply: Mutex::new(None), changed: Condvar::new() });
            state.waiting.push_back((request, Arc::clone(&follower)));
            follower
        };
        match follower.wait() {
            Reply::Lead(own) => {
                let followers = std::mem::take(&mut self.0.lock().waiting);
                Turn::Lead(Leader { queue: Some(self), own: Some(own), followers })
            }
            Reply::Done(request) => Turn::Done(request),
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

    /// Makes the first waiting thread the next leader, if there is one.
    pub fn pass_on(&mut self) {
        let Some(queue) = self.queue.take() else { return };
        let next = {
            let mut state = queue.0.lock();
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
        self.pass_on();
        for (request, follower) in self.followers.drain(..) {
            follower.wake(Reply::Done(request));
        }
    }
}
