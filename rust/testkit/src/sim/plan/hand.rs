//! What an operator does to a run by hand, and when runs begin and must have ended.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use bide_core::{Ask, RunOptions, TaskIx, Time, Value};

use super::super::rng::Rng;
use super::{Case, Disaster, MOST};

/// What somebody asks of one task.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Hand {
    /// To satisfy what it waits for.
    Satisfy,
    /// To give what it waits for this many milliseconds more.
    Extend(u64),
    /// To ask its condition now.
    PollNow,
    /// To skip it.
    Skip,
}

/// The value of a wait that somebody has satisfied by hand.
pub(in super::super) fn value_by_hand() -> Value {
    Value::tagged(b's', b"by hand")
}

impl Hand {
    pub(super) fn random(rng: &mut Rng) -> Self {
        match rng.below(4) {
            0 => Self::Satisfy,
            1 => Self::Extend(1 + rng.below(40_000) as u64),
            2 => Self::PollNow,
            _ => Self::Skip,
        }
    }

    /// As a request about a task or element of this name.
    pub(in super::super) fn ask(self, task: Arc<str>) -> Ask {
        match self {
            Self::Satisfy => Ask::Satisfy { task, value: value_by_hand() },
            Self::Extend(ms) => Ask::Extend { task, span: Duration::from_millis(ms) },
            Self::PollNow => Ask::PollNow { task },
            Self::Skip => Ask::Skip { task },
        }
    }
}

impl Case {
    /// Adds what somebody asks, and when runs begin and must have ended: from a source of its own, so that it does not
    /// change what else a world has in it.
    pub(super) fn handled(mut self, rng: &mut Rng) -> Self {
        let runs = self.calls.len();
        for _ in 0..rng.below(4) * rng.below(2) {
            let (at, run) = (rng.below(300) as u32, rng.below(runs));
            let asked = match rng.below(6) {
                0 => Disaster::CancelByForce(run),
                _ => Disaster::Hand(run, Hand::random(rng), rng.below(250) as u8),
            };
            self.disasters.push((at, asked));
        }
        self.disasters.sort_by_key(|(at, _)| *at);
        if rng.one_in(3) {
            self.retries = (0..1 + rng.below(2)).map(|_| (rng.below(runs), rng.one_in(3))).collect();
        }
        self.starts = (0..runs).map(|_| rng.one_in(8).then(|| rng.below(30_000) as u64)).collect();
        self.limit = rng.one_in(10).then(|| 100 + rng.below(60_000) as u64);
        self.deletes = rng.one_in(4);
        self
    }

    /// What is said of a run when it is created.
    pub(in super::super) fn options(&self, run: usize, now: Time) -> RunOptions {
        let start_at = self.starts.get(run).copied().flatten().map(|ms| now.after(Duration::from_millis(ms)));
        let tags = BTreeMap::from([("run".into(), run.to_string().into())]);
        RunOptions { tags, priority: run as i32, start_at, deadline: None }
    }

    /// The task or element that a request by hand is about.
    pub(in super::super) fn nth_task(&self, which: u8) -> TaskIx {
        let elements = self.mapped().map(|ix| self.first_of_elements(ix)).flat_map(|first| first..first + MOST);
        let places: Vec<TaskIx> = (0..self.tasks.len() as TaskIx).chain(elements).collect();
        places[usize::from(which) % places.len()]
    }
}
