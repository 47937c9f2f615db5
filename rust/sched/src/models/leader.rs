//! Leaders and followers: each request is worked on once, by one thread at a time, and comes back to its thread.

use std::sync::Arc;
use std::time::Duration;

use loom::thread;

use super::engine::explore;
use crate::leader::{LeaderQueue, Turn};
use crate::sync::Mutex;
use crate::sync::atomic::{AtomicBool, Ordering};

/// What the threads of a model share.
#[derive(Default)]
struct Shared {
    queue: LeaderQueue<Request>,
    /// How long each group takes: long enough for the next leader to wait for its members, or no time.
    took: Duration,
    /// A leader works.
    busy: AtomicBool,
    /// The threads whose requests were worked on, in order.
    log: Mutex<Vec<u32>>,
}

struct Request {
    thread: u32,
    done: bool,
}

impl Shared {
    /// Brings a request and works on those of the group, if it leads. False if it was not worked on.
    fn commit(&self, thread: u32, fails: bool) -> bool {
        match self.queue.enter(Request { thread, done: false }) {
            Turn::Done(request) => {
                assert_eq!(request.thread, thread, "another thread's request");
                request.done
            }
            Turn::Lead(mut leader) => {
                assert!(!self.busy.swap(true, Ordering::Relaxed), "two threads lead");
                if !fails {
                    for request in leader.requests() {
                        self.log.lock().push(request.thread);
                        request.done = true;
                    }
                }
                self.busy.store(false, Ordering::Relaxed);
                if fails {
                    // As by a panic.
                    drop(leader);
                    return false;
                }
                leader.pass_on(self.took);
                let request = leader.end();
                assert_eq!(request.thread, thread, "another thread's request");
                request.done
            }
        }
    }
}

/// These threads, each with as many requests, one after the other. Answers whose were worked on.
fn threads(requests: &[u32], took: Duration) -> Vec<u32> {
    let shared = Arc::new(Shared { took, ..Shared::default() });
    let others: Vec<_> = (1..requests.len())
        .map(|thread| {
            let (shared, requests) = (Arc::clone(&shared), requests[thread]);
            thread::spawn(move || (0..requests).for_each(|_| assert!(shared.commit(thread as u32, false))))
        })
        .collect();
    (0..requests[0]).for_each(|_| assert!(shared.commit(0, false)));
    for other in others {
        other.join().expect("a thread");
    }
    let mut log = std::mem::take(&mut *shared.log.lock());
    log.sort_unstable();
    log
}

#[test]
fn each_request_is_worked_on_once_and_no_thread_waits_for_ever() {
    explore(|| assert_eq!(threads(&[2, 2], Duration::ZERO), [0, 0, 1, 1]));
}

#[test]
fn a_leader_that_waits_for_others_loses_no_request_and_leads_in_the_end() {
    explore(|| assert_eq!(threads(&[2, 2], Duration::from_secs(1)), [0, 0, 1, 1]));
}

#[test]
fn a_leader_works_for_all_who_came_while_another_led() {
    explore(|| assert_eq!(threads(&[1, 1, 1], Duration::ZERO), [0, 1, 2]));
}

#[test]
fn followers_of_a_leader_that_fails_get_their_requests_back_and_others_lead() {
    explore(|| {
        let shared = Arc::new(Shared::default());
        let failing = {
            let shared = Arc::clone(&shared);
            thread::spawn(move || shared.commit(1, true))
        };
        let other = {
            let shared = Arc::clone(&shared);
            thread::spawn(move || shared.commit(2, false))
        };
        let _ = shared.commit(0, false);
        let _ = failing.join().expect("a thread");
        let _ = other.join().expect("a thread");
        assert!(shared.commit(0, false), "nobody leads after a failure");
    });
}
