//! How much of the work in a store that several hosts share this runner takes: what its slots can soon execute. The rest
//! stays free for others, and is claimed once there is room.

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use bide_sync::Mutex;

use crate::host::{Dispatch, Host, Load};
use crate::runs::run::RegisteredWorkflow;

/// How many bodies are taken for each slot, however long they take.
const FOR_A_SLOT: usize = 4;

/// Of short bodies those are taken that end in this time, judged by those that were claimed last.
const SOON: Duration = Duration::from_millis(50);

/// How many runs are claimed at most in one commit.
const MOST: usize = 1_024;

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
    /// What was claimed last.
    last: Mutex<LastClaim>,
}

/// How fast bodies end.
#[derive(Default)]
struct LastClaim {
    /// When runs were claimed, by the machine's clock.
    at: Duration,
    /// How many bodies there were then.
    bodies: usize,
}

impl Sharing {
    pub(crate) fn new(is_shared: bool) -> Self {
        Self { is_shared, ..Self::default() }
    }

    /// How many more runs of a workflow a submitter keeps. `None`: any number.
    pub(crate) fn room<H: Host>(&self, dispatch: &H::Dispatch, workflow: &RegisteredWorkflow<H>) -> Option<usize> {
        let Load { slots, bodies } = self.load(dispatch, workflow)?;
        Some(slots.saturating_mul(FOR_A_SLOT).saturating_sub(bodies))
    }

    /// How many runs of a workflow are to be claimed now. `None`: any number.
    pub(crate) fn room_to_claim<H: Host>(
        &self,
        dispatch: &H::Dispatch,
        workflow: &RegisteredWorkflow<H>,
        now: Duration,
    ) -> Option<usize> {
        let Load { slots, bodies } = self.load(dispatch, workflow)?;
        let few = slots.saturating_mul(FOR_A_SLOT);
        let soon = self.last.lock().soon(bodies, now);
        // A claim is a commit: many short bodies are taken at once.
        Some(if soon <= few {
            few.saturating_sub(bodies)
        } else if bodies > soon / 2 {
            0
        } else {
            (soon - bodies).min(MOST)
        })
    }

    fn load<H: Host>(&self, dispatch: &H::Dispatch, workflow: &RegisteredWorkflow<H>) -> Option<Load> {
        self.is_shared.then(|| dispatch.load(workflow.bodies.iter().any(H::is_coroutine)))
    }

    /// Runs were claimed and have begun. `all`: there were no more.
    pub(crate) fn claimed<H: Host>(
        &self,
        dispatch: &H::Dispatch,
        workflow: &RegisteredWorkflow<H>,
        versions: &[i64],
        all: bool,
        now: Duration,
    ) {
        let Some(Load { bodies, .. }) = self.load(dispatch, workflow) else { return };
        if all {
            let mut left = self.left.lock();
            left.remove(&workflow.number);
            self.has_left.store(!left.is_empty(), Ordering::Relaxed);
        } else {
            self.left_some(workflow, versions);
        }
        *self.last.lock() = LastClaim { at: now, bodies };
    }

    /// Runs may have been left for lack of room.
    pub(crate) fn left_some<H: Host>(&self, workflow: &RegisteredWorkflow<H>, versions: &[i64]) {
        self.left.lock().insert(workflow.number, versions.to_vec());
        self.has_left.store(true, Ordering::Relaxed);
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

impl LastClaim {
    /// How many bodies end within [`SOON`], if they go on ending as they have since the last claim.
    fn soon(&self, bodies: usize, now: Duration) -> usize {
        let passed = now.saturating_sub(self.at).max(LOOK_FOR_ROOM).as_micros();
        let ended = self.bodies.saturating_sub(bodies) as u128;
        usize::try_from(ended * SOON.as_micros() / passed).unwrap_or(usize::MAX)
    }
}
