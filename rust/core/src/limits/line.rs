//! The attempts that wait for a limit, in the order in which they are asked about.
//!
//! Bodies that resume go before new ones, and one in [`NEW_EVERY`] is new, as with slots. Within both the higher priority
//! goes first, then the older run, then who came first.

use std::collections::BTreeMap;

use super::Rank;

/// While bodies that resume wait, one share in this many goes to a new one.
const NEW_EVERY: u32 = 8;

/// Where an attempt stands in a line: whether it resumes, its rank, and when it came.
pub type Place = (bool, Rank, u64);

/// Attempts that wait for shares of one limit and one value of its key.
#[derive(Debug)]
pub struct Line<T> {
    /// Bodies that resume.
    resumed: BTreeMap<(Rank, u64), T>,
    /// New ones.
    new: BTreeMap<(Rank, u64), T>,
    /// The number of the last one that came.
    last: u64,
    /// How many that resume were granted a share since the last new one.
    streak: u32,
}

impl<T> Default for Line<T> {
    fn default() -> Self {
        Self { resumed: BTreeMap::new(), new: BTreeMap::new(), last: 0, streak: 0 }
    }
}

impl<T> Line<T> {
    /// How many wait.
    #[must_use]
    pub fn len(&self) -> usize {
        self.resumed.len() + self.new.len()
    }

    /// Whether nobody waits.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.resumed.is_empty() && self.new.is_empty()
    }

    /// Adds one behind its equals.
    pub fn push(&mut self, resumed: bool, rank: Rank, item: T) -> Place {
        self.last += 1;
        let place = (resumed, rank, self.last);
        self.put_back(place, item);
        place
    }

    /// Puts one where it stood before.
    pub fn put_back(&mut self, (resumed, rank, number): Place, item: T) {
        let side = if resumed { &mut self.resumed } else { &mut self.new };
        side.insert((rank, number), item);
    }

    /// The first ones, in the order in which they are asked about.
    pub fn first(&self, most: usize) -> impl Iterator<Item = (Place, &T)> {
        let (mut resumed, mut new) = (self.resumed.iter().peekable(), self.new.iter().peekable());
        let mut streak = self.streak;
        std::iter::from_fn(move || {
            let turn_of_new = streak + 1 >= NEW_EVERY && new.peek().is_some();
            if !turn_of_new && let Some(((rank, number), item)) = resumed.next() {
                streak = streak.saturating_add(1);
                return Some(((true, *rank, *number), item));
            }
            streak = 0;
            new.next().map(|((rank, number), item)| ((false, *rank, *number), item))
        })
        .take(most)
    }

    /// The first one of which this is true, in the order of [`Line::first`].
    pub fn find(&self, mut is: impl FnMut(&T) -> bool) -> Option<(Place, &T)> {
        self.first(usize::MAX).find(|(_, item)| is(item))
    }

    /// One that waits.
    #[must_use]
    pub fn get(&self, (resumed, rank, number): Place) -> Option<&T> {
        if resumed { &self.resumed } else { &self.new }.get(&(rank, number))
    }

    /// The same, to change it.
    pub fn get_mut(&mut self, (resumed, rank, number): Place) -> Option<&mut T> {
        let side = if resumed { &mut self.resumed } else { &mut self.new };
        side.get_mut(&(rank, number))
    }

    /// Takes one out that has got its share.
    pub fn granted(&mut self, place: Place) -> Option<T> {
        self.streak = if place.0 { self.streak.saturating_add(1) } else { 0 };
        self.remove(place)
    }

    /// Takes one out that does not need its share any more.
    pub fn remove(&mut self, (resumed, rank, number): Place) -> Option<T> {
        let side = if resumed { &mut self.resumed } else { &mut self.new };
        side.remove(&(rank, number))
    }

    /// Takes all out.
    pub fn drain(&mut self) -> impl Iterator<Item = T> {
        std::mem::take(&mut self.resumed).into_values().chain(std::mem::take(&mut self.new).into_values())
    }

    /// How many go before one on its side, and 1. Takes time for each of them.
    #[must_use]
    pub fn position(&self, (resumed, rank, number): Place) -> usize {
        let (ahead, side) = if resumed { (0, &self.resumed) } else { (self.resumed.len(), &self.new) };
        ahead + side.range(..(rank, number)).count() + 1
    }
}
