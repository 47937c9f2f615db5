//! What this process knows of the calls that it has made: their outcomes, and the records of them that are to go.

use std::collections::{HashMap, HashSet, VecDeque};

use bide_sync::Mutex;

use crate::{CommitId, Creation, Lease};

/// How many records of calls are kept until they are deleted together.
const KEPT: usize = 256;

/// How many outcomes are kept: one that is gone is found out from the rows.
const WITH_OUTCOME: usize = 4;

/// How many of the last records stay: a server that does not have them has lost what came after them too. More than there are
/// sessions that could make calls at once.
const WITNESSES: usize = 8;

/// A call that was made.
struct Call {
    id: CommitId,
    /// Of one of the very last.
    outcome: Option<Vec<Vec<Creation>>>,
    /// It has a record.
    is_recorded: bool,
    /// A call that may be under way deletes the record.
    is_leaving: bool,
}

/// The calls under one lease.
#[derive(Default)]
struct OfLease {
    /// The last ones, oldest first.
    last: VecDeque<Call>,
    /// Those whose answer was lost once. The server may still be at work on the first try, and finds the record.
    unknown: HashSet<CommitId>,
}

/// The calls under all leases of this process.
#[derive(Default)]
pub(super) struct Made(Mutex<HashMap<Lease, OfLease>>);

impl Made {
    /// The outcome of a commit that was made already.
    pub(super) fn outcome(&self, lease: Lease, id: CommitId) -> Option<Vec<Vec<Creation>>> {
        let leases = self.0.lock();
        // A commit is made again soon or never.
        leases.get(&lease)?.last.iter().rev().find(|call| call.id == id).and_then(|call| call.outcome.clone())
    }

    /// Whether a call was made before, or may have been.
    pub(super) fn is_known(&self, lease: Lease, id: CommitId) -> bool {
        let leases = self.0.lock();
        leases
            .get(&lease)
            .is_some_and(|of_lease| of_lease.unknown.contains(&id) || of_lease.last.iter().any(|call| call.id == id))
    }

    /// The records that the next commit is to delete.
    pub(super) fn to_forget(&self, lease: Lease) -> Vec<i64> {
        let mut leases = self.0.lock();
        let Some(OfLease { last, unknown }) = leases.get_mut(&lease).filter(|of_lease| of_lease.last.len() >= KEPT)
        else {
            return Vec::new();
        };
        let old = last.len().saturating_sub(WITNESSES);
        let known = last.iter_mut().take(old).filter(|call| !unknown.contains(&call.id));
        known
            .map(|call| {
                call.is_leaving = true;
                call.id.0.cast_signed()
            })
            .collect()
    }

    /// Whether a commit was made is not known.
    pub(super) fn is_unknown(&self, lease: Lease, id: CommitId) {
        self.0.lock().entry(lease).or_default().unknown.insert(id);
    }

    /// A commit was made, and has deleted these records. It may have had nothing to write, and so has no record.
    pub(super) fn remember(
        &self,
        lease: Lease,
        id: CommitId,
        creations: &[Vec<Creation>],
        forgotten: &[i64],
        is_recorded: bool,
    ) {
        let mut leases = self.0.lock();
        let of_lease = leases.entry(lease).or_default();
        if !forgotten.is_empty() {
            of_lease.last.retain(|call| !forgotten.contains(&call.id.0.cast_signed()));
        }
        of_lease.last.push_back(Call { id, outcome: Some(creations.to_vec()), is_recorded, is_leaving: false });
        let old = of_lease.last.len().checked_sub(1 + WITH_OUTCOME);
        if let Some(call) = old.and_then(|at| of_lease.last.get_mut(at)) {
            call.outcome = None;
        }
    }

    /// The last calls whose records must be there unless the lease was fenced.
    pub(super) fn witnesses(&self) -> Vec<(Lease, i64)> {
        let leases = self.0.lock();
        let of_lease = |(lease, of_lease): (&Lease, &OfLease)| {
            let recorded = of_lease.last.iter().rev().filter(|call| call.is_recorded && !call.is_leaving);
            recorded.take(WITNESSES).map(|call| (*lease, call.id.0.cast_signed())).collect::<Vec<_>>()
        };
        leases.iter().flat_map(of_lease).collect()
    }

    /// A lease is over.
    pub(super) fn forget(&self, lease: Lease) {
        self.0.lock().remove(&lease);
    }

    pub(super) fn clear(&self) {
        self.0.lock().clear();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LEASE: Lease = Lease { runner: 1, epoch: 2 };

    fn make(made: &Made, numbers: std::ops::Range<u64>) {
        for number in numbers {
            let forgotten = made.to_forget(LEASE);
            made.remember(LEASE, CommitId(number), &[], &forgotten, true);
        }
    }

    #[test]
    fn the_last_records_stay_and_those_that_a_call_deletes_are_no_witnesses() {
        let made = Made::default();
        make(&made, 0..KEPT as u64);
        // A call of unknown outcome: its records may be gone.
        let leaving = made.to_forget(LEASE);
        assert_eq!(leaving.len(), KEPT - WITNESSES);
        let witnesses: Vec<i64> = made.witnesses().into_iter().map(|(_, id)| id).collect();
        assert_eq!(witnesses.len(), WITNESSES);
        assert!(witnesses.iter().all(|id| !leaving.contains(id)), "{witnesses:?}");
        assert_eq!(made.to_forget(LEASE), leaving, "the same call again deletes the same");
        made.remember(LEASE, CommitId(1000), &[], &leaving, true);
        assert!(made.to_forget(LEASE).is_empty());
    }

    #[test]
    fn a_call_without_a_record_is_no_witness() {
        let made = Made::default();
        made.remember(LEASE, CommitId(1), &[], &[], false);
        assert!(made.witnesses().is_empty());
        assert!(made.is_known(LEASE, CommitId(1)));
        made.forget(LEASE);
        assert!(!made.is_known(LEASE, CommitId(1)));
    }
}
