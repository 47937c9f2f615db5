//! The pacing machine: which parked body polls its condition now. No I/O, threads or clock.
//!
//! Parked bodies poll on their own threads, and threads that wake together compete for the interpreter: one at a time
//! costs 11 µs a poll, a few at once 109 µs. So the end of a poll starts the next one that is due. Only if no poll has
//! ended for [`STUCK_AFTER`] does one more run beside those that do, and never more than the width.

use std::collections::VecDeque;
use std::time::Duration;

/// If no poll ends for this long, one more may run.
pub const STUCK_AFTER: Duration = Duration::from_millis(1);

/// The pacing machine. `B` names a parked body.
#[derive(Debug)]
pub struct Pacer<B> {
    /// Bodies whose poll is due and has not started, the longest waiting first.
    due: VecDeque<B>,
    /// Polls that run.
    running: usize,
    /// How many may run at once.
    width: usize,
    /// Turns so far, including those at the end of a poll. If the number is unchanged later, no poll has ended since.
    turns: u64,
}

impl<B> Pacer<B> {
    /// A machine that lets at most `width` polls run at once.
    #[must_use]
    pub fn new(width: usize) -> Self {
        Self { due: VecDeque::new(), running: 0, width, turns: 0 }
    }

    /// A poll is due: the body to wake now, if it is its turn.
    pub fn due(&mut self, body: B) -> Option<B> {
        if self.running == 0 {
            self.running = 1;
            self.turns += 1;
            return Some(body);
        }
        self.due.push_back(body);
        None
    }

    /// A poll has ended: the body to wake next.
    pub fn done(&mut self) -> Option<B> {
        self.turns += 1;
        if let Some(next) = self.due.pop_front() {
            return Some(next);
        }
        self.running = self.running.saturating_sub(1);
        None
    }

    /// No poll has ended for a while (the turns have not moved): the body to wake beside those that poll.
    pub fn stuck(&mut self) -> Option<B> {
        if self.running >= self.width {
            return None;
        }
        let next = self.due.pop_front()?;
        self.running += 1;
        self.turns += 1;
        Some(next)
    }

    /// How many turns there were, and whether a body waits for one.
    #[must_use]
    pub fn progress(&self) -> (u64, bool) {
        (self.turns, !self.due.is_empty())
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
