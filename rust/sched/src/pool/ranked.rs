//! Jobs that are not of the usual priority: those with a higher one go before all others, those with a lower one after
//! them. Apart from the deques, which have no order but that of arrival, so that a job of the usual priority costs a
//! look at one counter.

use std::cmp::Reverse;
use std::collections::BTreeMap;

use crate::sync::Mutex;
use crate::sync::atomic::{AtomicUsize, Ordering};

/// The jobs, by priority and then in the order in which they came.
pub(super) struct Ranked<J> {
    /// Those that wait.
    waiting: Mutex<Waiting<J>>,
    /// How many there are: for a look without the lock.
    count: AtomicUsize,
}

struct Waiting<J> {
    /// The jobs, the first one first.
    jobs: BTreeMap<(Reverse<i32>, u64), J>,
    /// The number of the last one that came.
    last: u64,
}

impl<J> Ranked<J> {
    pub(super) fn new() -> Self {
        Self { waiting: Mutex::new(Waiting { jobs: BTreeMap::new(), last: 0 }), count: AtomicUsize::new(0) }
    }

    pub(super) fn is_empty(&self) -> bool {
        self.count.load(Ordering::SeqCst) == 0
    }

    pub(super) fn len(&self) -> usize {
        self.count.load(Ordering::SeqCst)
    }

    pub(super) fn push(&self, priority: i32, job: J) {
        let Waiting { jobs, last } = &mut *self.waiting.lock();
        *last += 1;
        jobs.insert((Reverse(priority), *last), job);
        self.count.store(jobs.len(), Ordering::SeqCst);
    }

    /// The first job that goes before those of the usual priority.
    pub(super) fn pop_urgent(&self) -> Option<J> {
        self.pop(|priority| priority > 0)
    }

    /// The first job.
    pub(super) fn pop_any(&self) -> Option<J> {
        self.pop(|_| true)
    }

    fn pop(&self, is_wanted: impl Fn(i32) -> bool) -> Option<J> {
        if self.is_empty() {
            return None;
        }
        let jobs = &mut self.waiting.lock().jobs;
        let first = jobs.first_entry().filter(|first| is_wanted(first.key().0.0))?;
        let job = first.remove();
        self.count.store(jobs.len(), Ordering::SeqCst);
        Some(job)
    }
}
