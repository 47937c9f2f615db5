//! A priority queue for items that mostly arrive in the order in which they leave, as the polls of gates with one
//! interval do.

use std::cmp::Reverse;
use std::collections::{BinaryHeap, VecDeque};

/// A priority queue, the least item first. An item that arrives in order costs one comparison.
#[derive(Debug)]
pub struct Queue<T> {
    /// Items that were not less than the last one here when they arrived.
    steady: VecDeque<T>,
    /// All others.
    heap: BinaryHeap<Reverse<T>>,
}

impl<T: Ord> Default for Queue<T> {
    fn default() -> Self {
        Self { steady: VecDeque::new(), heap: BinaryHeap::new() }
    }
}

impl<T: Ord> Queue<T> {
    /// An empty queue.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds an item.
    pub fn push(&mut self, item: T) {
        if self.steady.back().is_none_or(|last| *last <= item) {
            self.steady.push_back(item);
        } else {
            self.heap.push(Reverse(item));
        }
    }

    /// The least item.
    #[must_use]
    pub fn peek(&self) -> Option<&T> {
        let other = self.heap.peek().map(|Reverse(item)| item);
        self.steady.front().into_iter().chain(other).min()
    }

    /// All items, in no order.
    pub fn iter(&self) -> impl Iterator<Item = &T> {
        self.steady.iter().chain(self.heap.iter().map(|Reverse(item)| item))
    }

    /// Takes the least item.
    pub fn pop(&mut self) -> Option<T> {
        let from_heap = match (self.steady.front(), self.heap.peek()) {
            (Some(steady), Some(Reverse(other))) => other < steady,
            (steady, _) => steady.is_none(),
        };
        if from_heap { self.heap.pop().map(|Reverse(item)| item) } else { self.steady.pop_front() }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn items_leave_in_order_however_they_come(acts: Vec<Option<u8>>) {
            let (mut queue, mut model) = (Queue::new(), BinaryHeap::new());
            for act in acts {
                if let Some(item) = act {
                    queue.push(item);
                    model.push(Reverse(item));
                } else {
                    prop_assert_eq!(queue.pop(), model.pop().map(|Reverse(item)| item));
                }
                prop_assert_eq!(queue.iter().count(), model.len());
                prop_assert_eq!(queue.peek().copied(), model.peek().map(|Reverse(item)| *item));
            }
        }
    }
}
