//! Models of those who wait for what other threads commit: the follower of a run, whom each commit of events wakes, and
//! the sender of a request, to whom its answer is brought. Bells and answers are the real ones. Stand-ins are the store,
//! a list under a lock, and the table of senders, kept as in the executor (`runs/answers.rs`): a sender is entered
//! before its request is sent, and the answer is committed before it is brought to those in the table.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use loom::thread;

use super::engine::explore;
use crate::bell::{Bells, Once};
use crate::sync::Mutex;

/// Longer than any model: one who is not woken stands still, which is reported.
const EVER: Duration = Duration::from_secs(1_000_000);

/// What is committed.
type Store<T> = Arc<Mutex<Vec<T>>>;

/// Reads what comes, until there is as much as this.
fn follows(bells: &Bells<u32>, store: &Store<u32>, most: usize) {
    let bell = bells.bell(7);
    loop {
        let seen = bell.rings();
        if store.lock().len() >= most {
            return;
        }
        bell.wait(seen, EVER);
    }
}

#[test]
fn a_follower_is_woken_by_each_commit_whatever_it_does_then() {
    explore(|| {
        let (bells, store): (Arc<Bells<u32>>, Store<u32>) = Default::default();
        let follower = {
            let (bells, store) = (Arc::clone(&bells), Arc::clone(&store));
            thread::spawn(move || follows(&bells, &store, 2))
        };
        for event in 0..2 {
            store.lock().push(event);
            bells.ring(7);
        }
        follower.join().expect("the follower returns");
    });
}

#[test]
fn two_followers_of_a_run_are_woken_and_neither_takes_the_others_wake() {
    explore(|| {
        let (bells, store): (Arc<Bells<u32>>, Store<u32>) = Default::default();
        let followers = [(); 2].map(|()| {
            let (bells, store) = (Arc::clone(&bells), Arc::clone(&store));
            thread::spawn(move || follows(&bells, &store, 1))
        });
        store.lock().push(1);
        bells.ring_where(|_| true);
        followers.into_iter().for_each(|follower| follower.join().expect("the follower returns"));
    });
}

#[test]
fn one_who_is_called_back_is_so_once_whenever_it_has_asked() {
    explore(|| {
        let (bells, store): (Arc<Bells<u32>>, Store<u32>) = Default::default();
        let called = Arc::new(Once::default());
        let bell = bells.bell(7);
        let committer = {
            let (bells, store) = (Arc::clone(&bells), Arc::clone(&store));
            thread::spawn(move || {
                store.lock().push(1);
                bells.ring(7);
            })
        };
        let seen = bell.rings();
        if store.lock().is_empty() {
            let calls = Arc::clone(&called);
            bell.on_ring(seen, Box::new(move || calls.put(&())));
            assert_eq!(called.wait(EVER), Some(()));
        }
        committer.join().expect("the committer returns");
    });
}

/// The senders of requests, and what is committed of these.
#[derive(Default)]
struct Requests {
    /// Where each waits, by the number of its request.
    senders: Mutex<HashMap<u32, Arc<Once<u32>>>>,
    sent: Mutex<Vec<u32>>,
}

impl Requests {
    /// Sends a request, and waits for the answer.
    fn send(&self, number: u32) -> Option<u32> {
        let slot = Arc::new(Once::default());
        // Entered before it is sent: the answer may come at once.
        self.senders.lock().insert(number, Arc::clone(&slot));
        self.sent.lock().push(number);
        slot.wait(EVER)
    }

    /// A body answers what was sent, and that is committed. False if there is nothing.
    fn answer(&self) -> bool {
        let Some(number) = self.sent.lock().pop() else { return false };
        let sender = self.senders.lock().get(&number).cloned();
        sender.into_iter().for_each(|sender| sender.put(&(10 * number)));
        true
    }
}

#[test]
fn the_sender_of_a_request_gets_the_answer_however_soon_it_comes() {
    explore(|| {
        let requests = Arc::new(Requests::default());
        let senders = [1, 2].map(|number| {
            let requests = Arc::clone(&requests);
            thread::spawn(move || assert_eq!(requests.send(number), Some(10 * number)))
        });
        for _ in 0..2 {
            while !requests.answer() {
                thread::yield_now();
            }
        }
        senders.into_iter().for_each(|sender| sender.join().expect("the sender returns"));
    });
}
