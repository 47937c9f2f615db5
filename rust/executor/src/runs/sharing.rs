//! How much of the work in a store that several hosts share this runner takes: what its slots can soon execute. The rest
//! stays free for others, and is claimed once there is room. A runner that is alone keeps what it submits until others
//! come (`give_back.rs`).

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use bide_core::record::RunRowId;
use bide_sync::Mutex;

use crate::host::{Dispatch, Host, Load};
use crate::runs::run::RegisteredWorkflow;

/// How many bodies are taken for each slot, however long they take.
const FOR_A_SLOT: usize = 4;

/// How many runs a runner has in memory at most that keeps more because it is alone.
const ALONE: usize = 32_768;

/// Of short bodies those are taken that end in this time, judged by those that were claimed last.
const SOON: Duration = Duration::from_millis(50);

/// Or in the time of this many claims, if that is longer: on a server that is far away or busy a runner would
/// otherwise take fewer with each claim, and others all the more.
const CLAIMS: u32 = 4;

/// But never more than those that end in this time.
const LATEST: Duration = Duration::from_millis(500);

/// How many runs are claimed at most in one commit.
const MOST: usize = 256;

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
    last: Mutex<Claim>,
    /// More was kept than is left to others, because there were none.
    has_kept: AtomicBool,
    /// What of it does not belong to this runner any more, and the store does not know yet.
    given_back: Mutex<Vec<RunRowId>>,
}

/// Runs that are to be claimed, or were.
#[derive(Clone, Copy, Default)]
pub(crate) struct Claim {
    /// How many are to be claimed at most.
    pub(crate) room: usize,
    /// When the claim began, by the machine's clock.
    began: Duration,
    /// How long it took.
    took: Duration,
    /// How many bodies there were when it began, and those that it brought.
    bodies: usize,
}

impl Sharing {
    pub(crate) fn new(is_shared: bool) -> Self {
        Self { is_shared, ..Self::default() }
    }

    /// How many more runs of a workflow a submitter keeps: beside other runners, and if it is alone. `None`: any number.
    /// `in_memory`: how many runs it has.
    pub(crate) fn room<H: Host>(
        &self,
        dispatch: &H::Dispatch,
        workflow: &RegisteredWorkflow<H>,
        in_memory: usize,
    ) -> Option<(usize, usize)> {
        let Load { slots, bodies } = self.load(dispatch, workflow)?;
        let few = slots.saturating_mul(FOR_A_SLOT);
        // What waits for a share of a limit, or has one, is not given back.
        let alone = if slots == 0 || workflow.has_limits() { 0 } else { few.max(ALONE) };
        Some((few.saturating_sub(bodies), alone.saturating_sub(in_memory)))
    }

    /// How many runs are kept beside others that were not begun, of workflows with coroutines or without.
    pub(crate) fn few<H: Host>(&self, dispatch: &impl Dispatch<H>, coroutines: bool) -> usize {
        dispatch.load(coroutines).slots.saturating_mul(FOR_A_SLOT)
    }

    /// More is kept than is left to others once there are any.
    pub(crate) fn keeps(&self) {
        self.has_kept.store(true, Ordering::Release);
    }

    /// Whether more may have been kept than is left to others, or given back without the knowledge of the store.
    pub(crate) fn has_kept(&self) -> bool {
        self.has_kept.load(Ordering::Acquire) || !self.given_back.lock().is_empty()
    }

    /// What was kept until now is about to be given back.
    pub(crate) fn begin_to_give_back(&self) {
        self.has_kept.store(false, Ordering::Release);
    }

    /// These runs do not belong to this runner any more, which the store is to be told.
    pub(crate) fn gives_back(&self, runs: Vec<RunRowId>) {
        self.given_back.lock().extend(runs);
    }

    /// Takes some of those that the store is to be told, the first ones.
    pub(crate) fn given_back(&self, most: usize) -> Vec<RunRowId> {
        let mut runs = self.given_back.lock();
        let most = most.min(runs.len());
        runs.drain(..most).collect()
    }

    /// What is to be claimed now of a workflow. `None`: any number.
    pub(crate) fn next_claim<H: Host>(
        &self,
        dispatch: &H::Dispatch,
        workflow: &RegisteredWorkflow<H>,
        now: Duration,
    ) -> Option<Claim> {
        let Load { slots, bodies } = self.load(dispatch, workflow)?;
        let few = slots.saturating_mul(FOR_A_SLOT);
        let soon = self.last.lock().soon(bodies, now);
        // A claim is a commit: many short bodies are taken at once.
        let room = if soon <= few {
            few.saturating_sub(bodies)
        } else if bodies > soon / 2 {
            0
        } else {
            (soon - bodies).min(MOST)
        };
        Some(Claim { room, began: now, took: Duration::ZERO, bodies })
    }

    fn load<H: Host>(&self, dispatch: &H::Dispatch, workflow: &RegisteredWorkflow<H>) -> Option<Load> {
        self.is_shared.then(|| dispatch.load(workflow.has_coroutines()))
    }

    /// This number of a workflow's runs was claimed, and they have begun.
    pub(crate) fn claimed<H: Host>(
        &self,
        claim: Claim,
        runs: usize,
        workflow: &RegisteredWorkflow<H>,
        versions: &[i64],
        now: Duration,
    ) {
        if runs < claim.room {
            let mut left = self.left.lock();
            left.remove(&workflow.number);
            self.has_left.store(!left.is_empty(), Ordering::Relaxed);
        } else {
            self.left_some(workflow, versions);
        }
        let (took, bodies) = (now.saturating_sub(claim.began), claim.bodies + runs);
        *self.last.lock() = Claim { took, bodies, ..claim };
    }

    /// Runs may have been left for lack of room.
    pub(crate) fn left_some<H: Host>(&self, workflow: &RegisteredWorkflow<H>, versions: &[i64]) {
        self.left.lock().insert(workflow.number, versions.to_vec());
        self.has_left.store(true, Ordering::Relaxed);
    }

    /// Workflows may have other numbers from now on.
    pub(crate) fn forget_left(&self) {
        self.left.lock().clear();
        self.has_left.store(false, Ordering::Relaxed);
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

impl<H: Host> RegisteredWorkflow<H> {
    /// Whether a limit holds back some of its bodies.
    pub(crate) fn has_limits(&self) -> bool {
        self.bodies.iter().any(|body| H::limit(body).is_some())
    }

    /// Whether some of its bodies are coroutines.
    pub(crate) fn has_coroutines(&self) -> bool {
        self.bodies.iter().any(H::is_coroutine)
    }
}

impl Claim {
    /// How many bodies end soon, if they continue to end as they have since this claim began.
    fn soon(&self, bodies: usize, now: Duration) -> usize {
        let soon = SOON.max(self.took * CLAIMS).min(LATEST);
        let passed = now.saturating_sub(self.began).max(LOOK_FOR_ROOM).as_micros();
        let ended = self.bodies.saturating_sub(bodies) as u128;
        usize::try_from(ended * soon.as_micros() / passed).unwrap_or(usize::MAX)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// How many runs are taken at a time in the end, where a claim takes this time, and the commit of its bodies too.
    fn taken_in_the_end(took: Duration) -> usize {
        let few = 2 * FOR_A_SLOT;
        (0..100).fold(few, |bodies, _| {
            let executed = Duration::from_micros(100 * bodies as u64);
            let claim = Claim { room: bodies, began: Duration::ZERO, took, bodies };
            claim.soon(0, took + executed + took).clamp(few, MOST)
        })
    }

    #[test]
    fn a_runner_takes_many_short_bodies_at_a_time_however_long_its_commits_take() {
        for ms in [0, 1, 10, 60, 100] {
            assert!(taken_in_the_end(Duration::from_millis(ms)) > 200, "commits of {ms} ms");
        }
    }
}
