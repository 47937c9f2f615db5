//! The pacing machine: which parked body polls its condition now. No I/O, threads or clock.
//!
//! Parked bodies poll on their own threads, and threads that wake together fight for the interpreter: one at a time
//! costs 11 µs a poll, a few at once 109 µs. So a poll that ends hands on to the next one that is due; only if none
//! has handed on for [`STUCK_AFTER`] may one more run beside it, and never more than the width.

use std::collections::VecDeque;
use std::time::Duration;

/// A poll that runs for longer no longer holds up the others.
pub const STUCK_AFTER: Duration = Duration::from_millis(1);

/// The pacing machine. `B` names a parked body.
#[derive(Debug)]
pub struct Pacer<B> {
    due: VecDeque<B>,
    running: usize,
    width: usize,
    /// Hand-overs so far: lets the timer see whether there was one since it last looked.
    handed: u64,
}

impl<B> Pacer<B> {
    /// A machine that lets at most `width` polls run at once.
    #[must_use]
    pub fn new(width: usize) -> Self {
        Self { due: VecDeque::new(), running: 0, width, handed: 0 }
    }

    /// A poll is due: the body to wake now, if it is its turn.
    pub fn due(&mut self, body: B) -> Option<B> {
        if self.running == 0 {
            self.running = 1;
            self.handed += 1;
            return Some(body);
        }
        self.due.push_back(body);
        None
    }

    /// A poll has ended: the body to wake next.
    pub fn done(&mut self) -> Option<B> {
        self.handed += 1;
        if let Some(next) = self.due.pop_front() {
            return Some(next);
        }
        self.running = self.running.saturating_sub(1);
        None
    }

    /// Nobody has handed on for a while (`handed` has not moved): one more may run.
    pub fn stuck(&mut self) -> Option<B> {
        if self.running >= self.width {
            return None;
        }
        let next = self.due.pop_front()?;
        self.running += 1;
        self.handed += 1;
        Some(next)
    }

    /// How many hand-overs there were, and whether somebody waits for one.
    #[must_use]
    pub fn progress(&self) -> (u64, bool) {
        (self.handed, !self.due.is_empty())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn polls_run_one_after_the_other_unless_one_is_stuck() {
        let mut pacer = Pacer::new(2);
        assert_eq!(pacer.due('a'), Some('a'));
        assert_eq!(pacer.due('b'), None);
        assert_eq!(pacer.due('c'), None);
        assert_eq!(pacer.due('d'), None);
        assert_eq!(pacer.done(), Some('b'));
        assert_eq!(pacer.stuck(), Some('c'));
        assert_eq!(pacer.stuck(), None, "the width is reached");
        assert_eq!(pacer.done(), Some('d'));
        assert_eq!(pacer.done(), None);
        assert_eq!(pacer.done(), None);
        assert_eq!(pacer.due('e'), Some('e'));
    }
}
