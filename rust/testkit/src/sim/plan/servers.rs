//! Worlds whose store is a server that several machines use: connections and commits that are lost, and clocks that differ.

use super::super::rng::Rng;
use super::{Case, Disaster};
use crate::fault::Fault;

/// How far ahead of the server's the clock of a machine is at most, in milliseconds.
const SKEW: usize = 7_200_000;

/// How many moves are lost at most.
pub(in super::super) const MOST_LOST: usize = 60;

fn moment(rng: &mut Rng) -> u32 {
    let within = [60, 400][rng.below(2)];
    rng.below(within) as u32
}

impl Case {
    /// The same world on a server.
    pub(super) fn on_server(mut self, rng: &mut Rng) -> Self {
        if !rng.one_in(3) {
            return self;
        }
        let skew = |rng: &mut Rng| [0, rng.below(SKEW) as i64, -(rng.below(SKEW) as i64)][rng.below(3)];
        self.server = Some((0..1 + rng.below(4)).map(|_| skew(rng)).collect());
        for _ in 0..rng.below(12) {
            let lost = [Fault::LostBefore, Fault::LostAfter][rng.below(2)];
            let disaster =
                if rng.one_in(5) { Disaster::Birth(1 + rng.below(8) as u64, lost) } else { Disaster::Fault(lost) };
            self.disasters.push((moment(rng), disaster));
        }
        for _ in 0..rng.below(4) {
            self.disasters.push((moment(rng), Disaster::Loses(1 + rng.below(MOST_LOST))));
        }
        self.disasters.sort_by_key(|(at, _)| *at);
        self
    }
}
