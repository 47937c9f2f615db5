//! A commit and its outcome: runs to create, writes to runs that exist, or both.

use std::sync::atomic::{AtomicU64, Ordering};

use bide_core::Time;
use bide_core::record::{Batch, Committed, NewRun, RunRow, RunRowId};

use crate::{LineAnswers, LineClaims};

/// Names a commit, so that a store that lost its connection in the middle can be asked for the same commit again.
/// Unique among the commits of a lease.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct CommitId(pub u64);

impl CommitId {
    /// An id that no other commit of this process has.
    #[must_use]
    pub fn unique() -> Self {
        static LAST: AtomicU64 = AtomicU64::new(0);
        Self(LAST.fetch_add(1, Ordering::Relaxed) + 1)
    }
}

/// Everything that one transaction writes.
///
/// A *request* is a list of runs to create, of which either all are created that do not exist yet, or none. Several
/// callers' requests can share a commit: what is refused to one of them does not concern the others.
#[derive(Debug)]
pub struct Commit<'a> {
    /// The same for each try of the same commit.
    pub id: CommitId,
    /// The requests, each a list of runs to create.
    pub requests: &'a [&'a [NewRun]],
    /// Writes to runs that exist and to those of the requests; made after the runs are created. Writes to a run that
    /// is not created are skipped. They are found by its row number, so no other run's writes may have that number. The
    /// store may take the values out of the batch once nothing can fail; after an error the batch is whole.
    pub batch: &'a mut Batch,
    /// The lines that get what the batch releases, and the time: answered last, as by
    /// [`Limits::claim_limits`](crate::Limits::claim_limits). Nothing was granted before: they have no `moved`.
    pub claims: Option<(Time, &'a [LineClaims])>,
}

impl<'a> Commit<'a> {
    /// A commit of runs to create and of writes.
    pub const fn new(id: CommitId, requests: &'a [&'a [NewRun]], batch: &'a mut Batch) -> Self {
        Self { id, requests, batch, claims: None }
    }

    /// A commit that creates nothing.
    pub fn of(batch: &'a mut Batch) -> Self {
        Self::new(CommitId::unique(), &[], batch)
    }

    /// The same with claims of limits.
    #[must_use]
    pub const fn claiming(self, claims: Option<(Time, &'a [LineClaims])>) -> Self {
        Self { claims, ..self }
    }

    /// Whether it only asks if the lease still holds.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.batch.is_empty() && self.requests.iter().all(|request| request.is_empty())
    }

    /// The row numbers of the runs that are not created: a store skips their writes. Sorted.
    #[must_use]
    pub fn not_created(&self, creations: &[Vec<Creation>]) -> Vec<RunRowId> {
        let mut skipped = Vec::new();
        for (runs, made) in self.requests.iter().zip(creations) {
            let none = made.iter().any(Creation::prevents_all);
            let of_request = runs.iter().zip(made).filter(|(_, made)| none || **made != Creation::Created);
            skipped.extend(of_request.map(|(new, _)| new.id.row()));
        }
        skipped.sort_unstable();
        skipped
    }
}

/// What a store answers to a [`Commit`].
#[derive(Debug)]
#[must_use]
pub struct Written {
    /// The proof that it is committed.
    pub committed: Committed,
    /// For each request, the outcome for each of its runs.
    pub creations: Vec<Vec<Creation>>,
    /// For each line that claims, what became of its claims. `None`: the store has not looked at them, because it grants
    /// nothing in commits or has written nothing.
    pub answers: Option<Vec<LineAnswers>>,
}

impl Written {
    /// What a store answers that has looked at no claims.
    pub const fn of(creations: Vec<Vec<Creation>>) -> Self {
        Self { committed: Committed::by_store(), creations, answers: None }
    }
}

/// The outcome for a run that was to be created.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Creation {
    /// It is committed and belongs to the lease.
    Created,
    /// Its key names this run, which was there already and has the same inputs.
    Exists(Box<RunRow>),
    /// Its key names this run, which has other inputs. None of the request's runs was created.
    OtherInputs(Box<RunRow>),
    /// Its row number belongs to another run (two processes made the same 63 bits in one millisecond): try again under
    /// a new id. None of the request's runs was created.
    NumberTaken,
}

impl Creation {
    /// Whether none of the request's runs was created because of this one.
    #[must_use]
    pub fn prevents_all(&self) -> bool {
        matches!(self, Self::OtherInputs(_) | Self::NumberTaken)
    }
}
