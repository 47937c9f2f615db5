//! What must hold of limits: none is exceeded in any moment, and none leaks.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::sync::Arc;
use std::time::Duration;

use bide_core::record::RunRowId;
use bide_core::{TaskIx, TaskStatus};
use bide_store::LimitInfo;

use super::Oracle;
use crate::sim::plan::{Case, Limit};

/// The attempts of one limit.
type Attempts = BTreeSet<(RunRowId, TaskIx)>;

/// The tasks with a limit.
pub(super) fn limited(case: &Case) -> HashSet<TaskIx> {
    (0..case.every_task().len() as TaskIx).filter(|ix| case.task(*ix).limit.is_some()).collect()
}

impl Oracle {
    /// Nobody is held back for long while there is room. `idle`: no process is stopped or closes.
    pub fn nobody_is_held_back_beside_room(&mut self, steady: Duration, limits: &[LimitInfo], idle: bool) {
        let room = |most: Option<u32>, used: u64| most.is_none_or(|most| used < u64::from(most));
        let has_room = |info: &&LimitInfo| {
            let spec = &info.spec;
            let used = info.uses.iter().find(|used| used.waiting > 0);
            used.is_some_and(|used| room(spec.executing, used.executing) && room(spec.in_flight, used.in_flight))
        };
        let held: HashMap<Arc<str>, Duration> = limits
            .iter()
            .filter(|info| idle && has_room(info))
            .map(|info| &info.spec.name)
            .map(|name| (Arc::clone(name), self.held_back.get(name).copied().unwrap_or(steady)))
            .collect();
        let longest = held.values().map(|since| steady.saturating_sub(*since)).max().unwrap_or_default();
        self.held_back = held;
        self.must(longest <= Duration::from_secs(31), "an attempt is held back though there is room", || {
            format!("for {longest:?}: {limits:?}")
        });
    }

    /// `entered`: the attempts whose bodies were entered by a process that has their run, and whether each has a slot.
    pub fn no_limit_is_exceeded(&mut self, case: &Case, entered: &[(RunRowId, TaskIx, bool)]) {
        let mut used: BTreeMap<Limit, (usize, Attempts)> = BTreeMap::new();
        for (run, ix, has_slot) in entered {
            let Some(limit) = case.task(*ix).limit else { continue };
            let (executing, in_flight) = used.entry(limit).or_default();
            *executing += usize::from(*has_slot);
            in_flight.insert((*run, *ix));
        }
        for ((run, ix), task) in &self.tasks {
            // What waits is in flight, whoever has its run.
            let over = self.run(*run).is_some_and(|run| run.status.is_ended());
            let limit = Some(()).filter(|()| task.status == TaskStatus::Running && !over).and(case.task(*ix).limit);
            // Of a mapped task the elements are limited.
            let is_whole = case.task(*ix).map.is_some() && !self.maps.is_element(*ix);
            if let Some(limit) = limit.filter(|_| !is_whole) {
                used.entry(limit).or_default().1.insert((*run, *ix));
            }
        }
        for (limit, (executing, in_flight)) in used {
            let fits = |most: Option<u32>, used: usize| most.is_none_or(|most| used <= most as usize);
            let holds = fits(limit.executing(), executing) && fits(limit.in_flight(), in_flight.len());
            self.must(holds, "a limit is exceeded", || {
                format!("{limit}: {executing} execute, in flight {in_flight:?}")
            });
            if limit.in_flight().is_some_and(|most| in_flight.len() == most as usize) {
                self.meets("a limit that is used up");
            }
        }
    }
}
