//! Waits between two polls that the host makes itself: found by a ticket, which is also what their alarm rings with.
//!
//! They are due at common times, a few milliseconds apart, so that many are asked in one turn of the loop.

use std::collections::BTreeMap;
use std::num::NonZeroU64;
use std::sync::Arc;
use std::time::Duration;

use bide_sched::Alarm;
use bide_sync::Mutex;

/// A poll may come later than asked for by this share of its interval.
const LATE: u32 = 256;

/// The waits between two polls; `T` is what is kept of each.
pub(super) struct Resting<T> {
    pub(super) state: Mutex<State<T>>,
    /// Wakes the loop: a wait was rung.
    wake: Box<dyn Fn() + Send + Sync>,
}

pub(super) struct State<T> {
    /// By the index in a ticket.
    pub(super) places: Vec<Place<T>>,
    /// Places without a wait.
    free: Vec<u32>,
    /// Those that are due, by the steady clock.
    due: BTreeMap<Duration, Bucket>,
    /// Those that were rung.
    pub(super) rung: Vec<u64>,
}

/// The waits that are due at one time.
#[derive(Default)]
struct Bucket {
    /// Their tickets, and some of waits that are over.
    tickets: Vec<u64>,
    /// How many are not over.
    waits: usize,
}

/// A bucket may have so many tickets of waits that are over, and as many as it has waits.
const OVER: usize = 64;

pub(super) struct Place<T> {
    /// How many waits have been here before: tells their tickets apart.
    pub(super) generation: u32,
    /// The wait.
    pub(super) wait: Option<Wait<T>>,
}

/// A wait between two polls.
pub(super) struct Wait<T> {
    pub(super) kept: T,
    /// When it is due, in nanoseconds. `None`: it is asked now.
    due: Option<NonZeroU64>,
}

impl<T> Wait<T> {
    /// When it is due. `None`: it is asked now.
    pub(super) fn due(&self) -> Option<Duration> {
        self.due.map(|nanos| Duration::from_nanos(nanos.get()))
    }
}

/// The place of a wait, from its ticket.
#[must_use]
pub fn place_of(ticket: u64) -> usize {
    (ticket & u64::from(u32::MAX)) as usize
}

/// The first common time at or after this one, for a poll whose interval is `span`.
pub(super) fn common(due: Duration, span: Duration) -> Duration {
    let step = (span / LATE).as_nanos().checked_ilog2().map_or(1, |log| 1 << log);
    Duration::from_nanos(u64::try_from(due.as_nanos().next_multiple_of(step)).unwrap_or(u64::MAX))
}

/// Whether the wait of a ticket is not over.
fn is_there<T>(places: &[Place<T>], ticket: u64) -> bool {
    places
        .get(place_of(ticket))
        .is_some_and(|place| place.wait.is_some() && u64::from(place.generation) == ticket >> 32)
}

impl<T> State<T> {
    pub(super) fn get(&mut self, ticket: u64) -> Option<&mut Wait<T>> {
        let place = self.places.get_mut(place_of(ticket))?;
        place.wait.as_mut().filter(|_| u64::from(place.generation) == ticket >> 32)
    }

    /// Adds a wait that is not due yet. Returns its ticket.
    pub(super) fn add(&mut self, kept: T) -> u64 {
        let index = self.free.pop().unwrap_or_else(|| {
            // Many rest at once: room for all of them at once would be twice as much.
            if self.places.len() == self.places.capacity() {
                self.places.reserve_exact(self.places.len() / 8 + 64);
            }
            self.places.push(Place { generation: 1, wait: None });
            (self.places.len() - 1) as u32
        });
        let place = &mut self.places[index as usize];
        place.wait = Some(Wait { kept, due: None });
        u64::from(place.generation) << 32 | u64::from(index)
    }

    pub(super) fn remove(&mut self, ticket: u64) -> Option<Wait<T>> {
        self.get(ticket)?;
        let place = &mut self.places[place_of(ticket)];
        // No ticket is 0.
        place.generation = place.generation.wrapping_add(1).max(1);
        let removed = place.wait.take();
        self.free.push(place_of(ticket) as u32);
        if let Some(due) = removed.as_ref().and_then(Wait::due) {
            self.leave(due);
        }
        removed
    }

    /// A wait that is due at this time is over. Its ticket stays for a while: to search for it would take longer.
    fn leave(&mut self, due: Duration) {
        let Some(bucket) = self.due.get_mut(&due) else { return };
        bucket.waits -= 1;
        if bucket.waits == 0 {
            self.due.remove(&due);
        } else if bucket.tickets.len() > 2 * bucket.waits + OVER {
            bucket.tickets.retain(|ticket| is_there(&self.places, *ticket));
        }
    }

    /// Takes those that are due now.
    pub(super) fn take_due(&mut self, now: Duration) -> Vec<u64> {
        let mut taken = Vec::new();
        while let Some(first) = self.due.first_entry().filter(|first| *first.key() <= now) {
            taken.extend(first.remove().tickets);
        }
        taken.retain(|ticket| self.get(*ticket).map(|wait| wait.due = None).is_some());
        taken
    }

    /// When the first one is due.
    pub(super) fn next_due(&self) -> Option<Duration> {
        self.due.first_key_value().map(|(due, _)| *due)
    }

    /// Forgets all.
    pub(super) fn clear(&mut self) -> Vec<Wait<T>> {
        self.due.clear();
        let ticket = |(index, place): (usize, &Place<T>)| u64::from(place.generation) << 32 | index as u64;
        let tickets: Vec<u64> = self.places.iter().enumerate().map(ticket).collect();
        tickets.into_iter().filter_map(|ticket| self.remove(ticket)).collect()
    }

    /// Sets when a wait is due. True: before all others.
    pub(super) fn set_due(&mut self, ticket: u64, due: Duration) -> bool {
        let Some(wait) = self.get(ticket) else { return false };
        wait.due = NonZeroU64::new(u64::try_from(due.as_nanos()).unwrap_or(u64::MAX).max(1));
        let first = self.next_due().is_none_or(|first| due < first);
        let bucket = self.due.entry(due).or_default();
        bucket.tickets.push(ticket);
        bucket.waits += 1;
        first
    }
}

impl<T> Resting<T> {
    pub(super) fn new(wake: impl Fn() + Send + Sync + 'static) -> Arc<Self> {
        let state = State { places: Vec::new(), free: Vec::new(), due: BTreeMap::new(), rung: Vec::new() };
        Arc::new(Self { state: Mutex::new(state), wake: Box::new(wake) })
    }
}

impl<T: Send> Alarm for Resting<T> {
    fn ring(self: Arc<Self>, ticket: u64) {
        self.state.lock().rung.push(ticket);
        (self.wake)();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn of_many_that_are_due_at_one_time_those_that_have_not_left_are_taken() {
        let resting = Resting::<usize>::new(|| ());
        let mut state = resting.state.lock();
        let (due, later) = (Duration::from_secs(1), Duration::from_secs(2));
        let tickets: Vec<u64> = (0..1000).map(|n| state.add(n)).collect();
        for ticket in &tickets {
            state.set_due(*ticket, due);
        }
        let last = state.add(1000);
        assert!(!state.set_due(last, later));
        // Their places are taken again, by waits that are due later.
        for ticket in &tickets[..990] {
            assert_eq!(state.remove(*ticket).map(|wait| wait.due()), Some(Some(due)));
            let next = state.add(0);
            state.set_due(next, later);
        }
        assert!(state.due[&due].tickets.len() <= 2 * 10 + OVER, "what has left does not gather");
        assert!(state.remove(tickets[0]).is_none());
        assert_eq!((state.next_due(), state.take_due(due)), (Some(due), tickets[990..].to_vec()));
        // Those that were taken are due at no time.
        assert!(state.get(tickets[990]).is_some_and(|wait| wait.due.is_none()));
        assert_eq!(state.remove(tickets[990]).map(|wait| wait.due()), Some(None));
        state.set_due(tickets[991], due);
        assert!(state.remove(tickets[991]).is_some());
        assert_eq!((state.next_due(), state.take_due(later).len()), (Some(later), 991));
        assert_eq!((state.next_due(), state.clear().len(), state.clear().len()), (None, 999, 0));
    }

    #[test]
    fn a_poll_is_never_early_and_late_by_a_256th_of_its_interval_at_most() {
        for span in [1, 999, 1_000_000, 20_000_000, 1_000_000_000, 3_600_000_000_000].map(Duration::from_nanos) {
            for begun in [0, 1, 12_345_678_901, u64::MAX / 2].map(Duration::from_nanos) {
                let due = begun + span;
                let at = common(due, span);
                assert!(at >= due && at - due <= span / LATE, "{span:?} from {begun:?}: {at:?}");
            }
        }
        let near = [1_000_400_000, 1_002_000_000].map(|due| common(Duration::from_nanos(due), Duration::from_secs(1)));
        assert_eq!(near[0], near[1], "asked in one turn");
    }
}
