//! How much of the work in a store that several hosts share this runner takes: what its slots can soon execute. The rest
//! stays free for others, and is claimed once there is room.

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use bide_sync::Mutex;

use crate::host::{Dispatch, Host, Load};
use crate::runs::run::RegisteredWorkflow;

/// How many bodies are taken for each slot.
const FOR_A_SLOT: usize = 4;

/// How many runs are claimed at most beyond that, if most of those that were claimed last have ended.
const MOST: usize = 128;

/// While runs were left in the store for lack of room, how often is looked whether there is room.
pub(crate) const LOOK_FOR_ROOM: Duration = Duration::from_millis(2);

/// What this runner has left to others.
#[derive(Default)]
pub(crate) struct Sharing {
    /// The store is shared by several hosts.
    is_shared: bool,
    /// The versions of which runs were left, by the number of the workflow.
    left: Mutex<HashMap<i64, Vec<i64>>>,
    /// There are some.
    has_left: AtomicBool,
    /// How many runs are claimed at once: more as long as they end soon.
    batch: AtomicUsize,
}

impl Sharing {
    pub(crate) fn new(is_shared: bool) -> Self {
        Self { is_shared, ..Self::default() }
    }

    /// For how many more runs of a workflow there is room. `None`: for any number.
    pub(crate) fn room<H: Host>(&self, dispatch: &H::Dispatch, workflow: &RegisteredWorkflow<H>) -> Option<usize> {
        if !self.is_shared {
            return None;
        }
        let Load { slots, bodies } = dispatch.load(workflow.bodies.iter().any(H::is_coroutine));
        let most = slots.saturating_mul(FOR_A_SLOT);
        let room = most.saturating_sub(bodies);
        // Short bodies: most of those that were claimed have ended meanwhile.
        let batch = self.batch.load(Ordering::Relaxed);
        Some(if bodies <= batch / 4 { room.max(batch) } else { room })
    }

    /// Runs were claimed, as many as there was room for, or fewer: then there are no others.
    pub(crate) fn claimed<H: Host>(&self, workflow: &RegisteredWorkflow<H>, versions: &[i64], count: usize, all: bool) {
        let mut left = self.left.lock();
        if all {
            left.remove(&workflow.number);
            self.batch.store(0, Ordering::Relaxed);
        } else {
            left.insert(workflow.number, versions.to_vec());
            if count > 0 {
                self.batch.store((2 * count).min(MOST), Ordering::Relaxed);
            }
        }
        self.has_left.store(!left.is_empty(), Ordering::Relaxed);
    }

    /// Whether runs were left for lack of room.
    pub(crate) fn has_left(&self) -> bool {
        self.has_left.load(Ordering::Relaxed)
    }

    /// The versions of which runs were left, by the number of the workflow.
    pub(crate) fn left(&self) -> Vec<(i64, Vec<i64>)> {
        self.left.lock().iter().map(|(workflow, versions)| (*workflow, versions.clone())).collect()
    }
}
