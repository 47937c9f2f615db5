//! Stand-ins for the lock-free deques. Jobs are in a list behind a lock; a counter beside it shows whether it is empty,
//! with the weakest order that the real deques promise (release, acquire, and a fence in `is_empty`). So the wake rule
//! gets no order from the deque here that it would not get in production.

use std::collections::VecDeque;
use std::sync::Arc;

use crate::sync::Mutex;
use crate::sync::atomic::{AtomicUsize, Ordering, fence};

/// What was found in a deque.
pub(crate) enum Steal<T> {
    Success(T),
    Empty,
    #[expect(dead_code, reason = "the real deque asks to try again when another thread was faster")]
    Retry,
}

struct Items<T> {
    list: Mutex<VecDeque<T>>,
    count: AtomicUsize,
}

impl<T> Items<T> {
    fn new() -> Self {
        Self { list: Mutex::new(VecDeque::new()), count: AtomicUsize::new(0) }
    }

    fn push(&self, item: T) {
        let mut list = self.list.lock();
        list.push_back(item);
        self.count.store(list.len(), Ordering::Release);
    }

    fn pop(&self) -> Option<T> {
        if self.is_empty() {
            return None;
        }
        let mut list = self.list.lock();
        let item = list.pop_front();
        self.count.store(list.len(), Ordering::Release);
        item
    }

    fn is_empty(&self) -> bool {
        self.len() == 0
    }

    fn len(&self) -> usize {
        fence(Ordering::SeqCst);
        self.count.load(Ordering::Acquire)
    }
}

/// The queue of jobs from outside.
pub(crate) struct Injector<T>(Items<T>);

impl<T> Injector<T> {
    pub(crate) fn new() -> Self {
        Self(Items::new())
    }

    pub(crate) fn push(&self, item: T) {
        self.0.push(item);
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    pub(crate) fn len(&self) -> usize {
        self.0.len()
    }

    /// A batch of one.
    pub(crate) fn steal_batch_with_limit_and_pop(&self, _into: &Worker<T>, _limit: usize) -> Steal<T> {
        self.0.pop().map_or(Steal::Empty, Steal::Success)
    }
}

/// A slot's own deque.
pub(crate) struct Worker<T>(Arc<Items<T>>);

impl<T> Worker<T> {
    pub(crate) fn new_fifo() -> Self {
        Self(Arc::new(Items::new()))
    }

    pub(crate) fn stealer(&self) -> Stealer<T> {
        Stealer(Arc::clone(&self.0))
    }

    pub(crate) fn push(&self, item: T) {
        self.0.push(item);
    }

    pub(crate) fn pop(&self) -> Option<T> {
        self.0.pop()
    }
}

/// The other end of a slot's deque.
pub(crate) struct Stealer<T>(Arc<Items<T>>);

impl<T> Stealer<T> {
    pub(crate) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    pub(crate) fn len(&self) -> usize {
        self.0.len()
    }

    pub(crate) fn steal(&self) -> Steal<T> {
        self.0.pop().map_or(Steal::Empty, Steal::Success)
    }
}
