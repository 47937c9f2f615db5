//! The one write to the store that a group of requests comes to, and what each of them gets of it.

use std::sync::Arc;
use std::time::Duration;

use bide_core::record::{Batch, Committed, NewRun, RunRowId};
use bide_core::{Effect, Pending, Time};
use bide_sched::counts;
use bide_store::{Commit, CommitId, Lease, LineAnswers, LineClaims, Store, StoreError, Written};
use smallvec::SmallVec;

use super::request::Request;
use super::upcalls::Upcalls;
use crate::host::{Host, Ready};
use crate::runs::run::Run;

/// How often a commit is tried that finds the store locked by others. On a file each try takes 10 s, so that a commit
/// waits for a lock that is held for half a minute: the work to be committed has been done, and if the engine stopped
/// it would be done again.
const TRIES: u32 = 6;

/// How many of the runs that end with a commit are announced while it is made. A caller who waits for many runs does
/// not wait for a thread to wake.
const ANNOUNCED: usize = 1;

/// What is claimed with a commit, and when.
type Claims<'a> = Option<(Time, &'a [LineClaims])>;

/// A run, and the number of the request in its group whose event it is.
pub(super) type Tagged<H> = (Arc<Run<H>>, usize);

/// Writes a group's batch and gives each request what follows from it.
///
/// # Errors
/// Nothing of it is committed, or whether it is is not known. Runs that alone could not be created are no error: only
/// their requests are refused.
pub(super) fn write<H: Host>(
    engine: &impl Upcalls<H>,
    pending: &mut Pending<Tagged<H>>,
    group: &mut [&mut Request<H>],
    lease: Lease,
) -> Result<(), StoreError> {
    let creates = group.iter().any(|request| request.rows().is_some());
    if pending.is_empty() && !creates {
        return Ok(());
    }
    engine.crash().before_commit()?;
    let store = &*engine.store();
    if store.blocks() {
        pending.settling().take(ANNOUNCED).for_each(|(run, _)| run.settled.announce());
    }
    let ending = engine.ending(&pending.batch);
    let made =
        make(engine, store, pending, group, (lease, creates), ending.claims().map(|claims| (engine.now(), claims)));
    let Made { committed, skipped, answers } = match made {
        Ok(Some(made)) => made,
        nothing => {
            engine.not_ended(&ending);
            return nothing.map(drop);
        }
    };
    let mut grants = engine.ended(ending, answers);
    engine.crash().after_commit()?;
    for ((run, number), effect) in pending.committed(committed) {
        let Some(request) = group.get_mut(number) else { continue };
        match effect {
            _ if skipped.binary_search(&run.id.row()).is_ok() => {}
            Effect::Ready { task } => request.outcome.ready.push(Ready { run, task }),
            other => request.outcome.effects.push((run, other)),
        }
    }
    if let (Some(grants), Some(first)) = (&mut grants, group.first_mut()) {
        first.outcome.ready.append(&mut grants.starts);
    }
    if let Some(first) = group.first_mut() {
        first.outcome.grants = grants;
    }
    Ok(())
}

/// What the store has written.
struct Made {
    /// That it has.
    committed: Committed,
    /// The runs that are not created. Sorted.
    skipped: Vec<RunRowId>,
    /// The answers to the claims.
    answers: Option<Vec<LineAnswers>>,
}

/// Writes a group's batch, with the runs to create if there are any. `None`: there is nothing left to write.
fn make<H: Host>(
    engine: &impl Upcalls<H>,
    store: &dyn Store,
    pending: &mut Pending<Tagged<H>>,
    group: &mut [&mut Request<H>],
    (lease, creates): (Lease, bool),
    claims: Claims<'_>,
) -> Result<Option<Made>, StoreError> {
    if !creates {
        return commit_retrying_busy(engine, store, lease, &mut pending.batch, claims).map(Some);
    }
    // The record of a child's start is in the batch, and in memory: both are committed, or neither.
    let child = group.iter().any(|request| request.starts_child());
    let made = counted(engine, store, || match child {
        true => retrying_busy(engine, || create(store, pending, group, lease, claims)),
        false => create(store, pending, group, lease, claims),
    });
    match made {
        Ok(made) => Ok(Some(made)),
        Err(error @ (StoreError::Fenced { .. } | StoreError::Unknown(_))) => Err(error),
        Err(error) if child => Err(error),
        Err(error) => {
            refuse_runs(pending, group, &error);
            if pending.is_empty() {
                return Ok(None);
            }
            commit_retrying_busy(engine, store, lease, &mut pending.batch, claims).map(Some)
        }
    }
}

/// Writes a batch together with runs to create. Answers the numbers of those that are not created.
///
/// # Errors
/// `Unknown` is final; any other means that nothing was written.
fn create<H: Host>(
    store: &dyn Store,
    pending: &mut Pending<Tagged<H>>,
    group: &mut [&mut Request<H>],
    lease: Lease,
    claims: Claims<'_>,
) -> Result<Made, StoreError> {
    let nothing_else = group.iter().all(|request| request.creates.is_some() && !request.starts_child());
    let requests: SmallVec<[&[NewRun]; 8]> = group.iter().filter_map(|request| request.rows()).collect();
    let mut commit = Commit::new(CommitId::unique(), &requests, &mut pending.batch).claiming(claims);
    let mut outcome = store.write(lease, &mut commit);
    if let Err(StoreError::Unknown(why)) = &outcome
        && nothing_else
        && !store.may_repeat()
    {
        // The runs may be there, belong to this runner, and then no other would ever begin them. Repeating
        // the creation with the same ids shows it. What was written with them is not written twice: the messages in it
        // would be there twice.
        let why = why.clone();
        let mut rows = requests.iter().flat_map(|rows| rows.iter());
        let is_there = rows.try_fold(false, |found, new| Ok(found || store.standing(new.id)?.is_some()));
        outcome = is_there.and_then(|is_there| {
            if is_there {
                commit.batch.clear();
            }
            store.write(lease, &mut commit)
        });
        outcome = outcome.map_err(|error| match error {
            StoreError::Fenced { .. } | StoreError::Unknown(_) => error,
            error => StoreError::Unknown(format!("{why}; then {error}")),
        });
    }
    let Written { committed, creations, answers } = outcome?;
    let skipped = commit.not_created(&creations);
    drop(requests);
    let creating = group.iter_mut().filter(|request| request.rows().is_some());
    for (request, creations) in creating.zip(creations) {
        request.created(creations);
    }
    Ok(Made { committed, skipped, answers })
}

/// None of a group's runs is created; its other requests are not concerned.
fn refuse_runs<H: Host>(pending: &mut Pending<Tagged<H>>, group: &mut [&mut Request<H>], error: &StoreError) {
    let mut rows = Vec::new();
    for request in group.iter_mut() {
        if let Some(refused) = request.rows() {
            rows.extend(refused.iter().map(|new| new.id.row()));
            request.refuse(error);
        }
    }
    rows.sort_unstable();
    pending.forget(&rows, |(run, _)| run.id.row());
}

/// Commits a batch. Retries while other processes keep the store locked, with a warning for each retry. A runner that
/// is closing tries only once.
fn commit_retrying_busy<H: Host>(
    engine: &impl Upcalls<H>,
    store: &dyn Store,
    lease: Lease,
    batch: &mut Batch,
    claims: Claims<'_>,
) -> Result<Made, StoreError> {
    let write = || {
        let Written { committed, answers, .. } = store.write(lease, &mut Commit::of(batch).claiming(claims))?;
        Ok(Made { committed, skipped: Vec::new(), answers })
    };
    counted(engine, store, || retrying_busy(engine, write))
}

/// Counts a commit with all its tries, once it is made.
fn counted<H: Host, R>(
    engine: &impl Upcalls<H>,
    store: &dyn Store,
    commit: impl FnOnce() -> Result<R, StoreError>,
) -> Result<R, StoreError> {
    engine.meter().commit(store.blocks(), commit).inspect(|_| counts::add_commit())
}

fn retrying_busy<H: Host, R>(
    engine: &impl Upcalls<H>,
    mut commit: impl FnMut() -> Result<R, StoreError>,
) -> Result<R, StoreError> {
    let mut total_wait = Duration::ZERO;
    for remaining in (0..TRIES).rev() {
        match commit() {
            Err(StoreError::Busy { store, waited }) => {
                total_wait += waited;
                let error = StoreError::Busy { store, waited: total_wait };
                if remaining == 0 || engine.is_closing() {
                    return Err(error);
                }
                engine.warn(&format!("{error} yet; the commit is retried, and bodies wait for it"));
            }
            outcome => return outcome,
        }
    }
    unreachable!("the last try returns")
}
