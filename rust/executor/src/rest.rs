//! Whether an engine is at rest, and what would end that: for clocks that are moved by hand, which are moved only then.
//!
//! At rest no body executes or waits for a slot, no event is queued or being committed, no alarm rings and nothing is
//! left for the event loop or the notifier. Each part answers for itself, with a number that changes whenever it has had
//! something to do. All parts are asked twice: if each answers the same number both times, all were at rest together,
//! between the two rounds.

use crate::due::Due;
use crate::engine::Engine;
use crate::host::Host;
use crate::threads::pool::Pool;

/// What the parts answer.
type Marks = (bide_sched::RestMark, u64, (u64, u64), u64, u64, u64, u64, u64);

impl<H: Host<Dispatch = Pool<H>>> Engine<H> {
    /// Whether nothing happens until the clock is moved or something comes from outside.
    #[must_use]
    pub fn is_at_rest(&self) -> bool {
        match self.rest_marks() {
            None => false,
            Some(before) => self.rest_marks() == Some(before),
        }
    }

    fn rest_marks(&self) -> Option<Marks> {
        let pool = self.dispatch();
        let timers = self.timers().rest()?;
        let workers = pool.workers.rest()?;
        let gates = pool.gates.rest(self.steady())?;
        let coroutines = pool.coroutines().map_or(Some((0, 0)), |coroutines| coroutines.rest())?;
        let ledger = &self.path().ledger;
        let commits = ledger.commits().filter(|_| ledger.is_at_rest())?;
        let lease = self.lease_rest()?;
        let (schedules, limits) = (self.schedules_rest()?, self.limiter().rest()?);
        Some((workers, gates, coroutines, commits, timers, lease, schedules, limits))
    }

    /// Whether what was due has rung, and what followed from that is committed, whatever bodies do meanwhile.
    #[must_use]
    pub fn has_rung(&self) -> bool {
        let ledger = &self.path().ledger;
        let marks = || Some((self.timers().rest()?, ledger.commits().filter(|_| ledger.is_at_rest())?));
        marks().is_some_and(|before| marks() == Some(before))
    }

    /// What rings next.
    #[must_use]
    pub fn due(&self) -> Due {
        let mut due = Due::default();
        self.timers().add_due(&mut due);
        self.dispatch().gates.add_due(&mut due);
        due
    }

    /// The clock was moved by hand: what is due now happens. The caller is attached to no host.
    pub fn clock_was_moved(&self) {
        self.timers().clock_was_moved();
        let _ = self.dispatch().gates.clock_was_moved();
    }

    /// Asks the event loop, if there is one, to go through what is ready on it now. Returns the number of the question.
    #[must_use]
    pub fn ask_loop(&self) -> Option<u64> {
        self.dispatch().coroutines()?.event_loop().ask()
    }

    /// The number of the last question that the event loop has answered.
    #[must_use]
    pub fn loop_answered(&self) -> u64 {
        self.dispatch().coroutines().map_or(0, |coroutines| coroutines.event_loop().answered())
    }
}
