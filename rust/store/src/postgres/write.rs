//! Writing runs: a commit is one statement and one round trip, unless its writes have to follow each other.
//!
//! Each commit records that it was made, in a row of its own. One whose outcome is not known because the connection was
//! lost is made again under the same number: if the first one was or is still being carried out, the second finds that row.

use std::sync::atomic::Ordering;

use bide_core::RunStatus;
use bide_core::record::{NewRun, RunRowId, Write};
use postgres::error::SqlState;

use super::PostgresStore;
use super::changes::Kind;
use super::columns::Column;
use super::create::{Creator, constraint};
use super::error::Failed;
use super::notify::Hint;
use super::session::{Param, Session};
use super::stage::Stage;
use super::statement::{Shape, statement};
use crate::{Commit, CommitId, Creation, Lease, StoreError, Written};

const FENCE: &str = "SELECT 1 FROM bide.runner WHERE id = $1::int8 AND epoch = $2::int8";
const MADE: &str = "SELECT 1 FROM bide.made WHERE runner = $1::int8 AND id = $2::int8";
const GONE: &str =
    "SELECT id FROM unnest($1::int8[]) u(id) WHERE NOT EXISTS (SELECT 1 FROM bide.run r WHERE r.id = u.id) LIMIT 1";

/// How many bytes the values of one row have at most.
const LARGEST: usize = 900 << 20;

/// How often a commit begins anew because others have created runs with its keys meanwhile.
const TRIES: usize = 100;

/// Fails if the lease was lost. Only a look: what is to be written needs the fence of a commit.
pub(super) fn check(session: &mut Session<'_>, lease: Lease) -> Result<(), Failed> {
    match session.query_opt(FENCE, &[&lease.runner, &lease.epoch])? {
        Some(_) => Ok(()),
        None => Err(StoreError::Fenced { runner: lease.runner }.into()),
    }
}

/// Whether a commit is there already.
fn was_made(session: &mut Session<'_>, lease: Option<Lease>, id: CommitId) -> Result<bool, Failed> {
    let Some(lease) = lease else { return Ok(false) };
    Ok(session.query_opt(MADE, &[&lease.runner, &id.0.cast_signed()])?.is_some())
}

/// How one try of a commit has ended.
enum Outcome {
    /// It is committed.
    Made,
    /// It was committed before.
    MadeBefore,
    /// Another run has a key or a number of those to be created. Nothing is written.
    Taken,
}

impl PostgresStore {
    pub(super) fn write_commit(&self, lease: Lease, commit: &mut Commit<'_>) -> Result<Written, StoreError> {
        if commit.is_empty() {
            // What it belongs to, such as a run's creation, is committed already.
            let mut creations = Vec::new();
            creations.resize_with(commit.requests.len(), Vec::new);
            self.connections.writer(|session| {
                self.check_history(lease)?;
                check(session, lease)
            })?;
            return Ok(Written::of(creations));
        }
        let made = &self.remembered.made;
        if let Some(creations) = made.outcome(lease, commit.id) {
            return Ok(Written::of(creations));
        }
        let forgotten = made.to_forget(lease);
        let mut others_wait = false;
        let creations = self.connections.writer(|session| {
            // The session may be a new one, to a server that has lost what this builds on.
            self.check_history(lease)?;
            self.make(session, Some(lease), commit.id, commit.requests, commit.batch, &forgotten, &mut others_wait)
        });
        let (creations, is_recorded) = match creations {
            Ok(done) => done,
            Err(error) => {
                if matches!(error, StoreError::Disconnected { .. }) {
                    made.is_unknown(lease, commit.id);
                }
                return Err(error);
            }
        };
        made.remember(lease, commit.id, &creations, &forgotten, is_recorded);
        self.log_changed_runs(commit.batch);
        if others_wait {
            self.limits_released()?;
        }
        Ok(Written::of(creations))
    }

    /// Creates runs that belong to nobody, and has all runners look for them.
    pub(super) fn create_free(&self, runs: &[NewRun]) -> Result<Vec<Creation>, StoreError> {
        let (requests, batch) = ([runs], Vec::new());
        let (creations, _) = self
            .connections
            .writer(|session| self.make(session, None, CommitId(0), &requests, &batch, &[], &mut false))?;
        let creations = creations.into_iter().next().unwrap_or_default();
        if creations.contains(&Creation::Created) && !creations.iter().any(Creation::prevents_all) {
            self.changes.unowned();
            self.notifier.send(Hint::Look);
        }
        Ok(creations)
    }

    /// Does something in a transaction that creates runs, again as long as others create runs with the same keys or numbers
    /// meanwhile. It is told whether the numbers may be in use.
    pub(super) fn until_free<T>(
        &self,
        session: &mut Session<'_>,
        mut act: impl FnMut(&mut Session<'_>, bool) -> Result<T, Failed>,
    ) -> Result<T, Failed> {
        for attempt in 0..TRIES {
            match session.transact(|session| act(session, attempt > 0)) {
                Err(Failed::Server(error)) if matches!(constraint(&error), Some("run_key" | "run_pkey")) => {}
                done => return done,
            }
        }
        Err(self.unavailable("others keep creating and deleting runs with the same keys").into())
    }

    /// Creates runs that belong to nobody within a transaction of [`PostgresStore::until_free`]: each of the requests has
    /// one. Returns what became of each. `None`: another run has a number of theirs, and nothing is written.
    pub(super) fn create_within(
        &self,
        session: &mut Session<'_>,
        requests: &[&[NewRun]],
        looks_for_ids: bool,
    ) -> Result<Option<Vec<Creation>>, Failed> {
        let mut creator = Creator::new(self, None, requests);
        if looks_for_ids {
            creator.look_for_ids();
        }
        let (creations, created) = creator.decide(session)?;
        let creations: Vec<Creation> = creations.into_iter().flatten().collect();
        if creations.contains(&Creation::NumberTaken) {
            return Ok(None);
        }
        if !created.is_empty() {
            for stage in stages(None, &created, &[], &[]) {
                self.carry_out(session, None, CommitId(0), &stage, false, &[])?;
            }
        }
        Ok(Some(creations))
    }

    /// Makes a commit, again as long as others create runs with its keys meanwhile. Returns what became of the runs, and
    /// whether the commit was recorded: one that has nothing to write is not.
    #[expect(clippy::too_many_arguments, reason = "the parts of a commit, each used once")]
    fn make(
        &self,
        session: &mut Session<'_>,
        lease: Option<Lease>,
        id: CommitId,
        requests: &[&[NewRun]],
        batch: &[Write],
        forgotten: &[i64],
        others_wait: &mut bool,
    ) -> Result<(Vec<Vec<Creation>>, bool), Failed> {
        let mut creator = Creator::new(self, lease, requests);
        for _ in 0..TRIES {
            let (creations, created) = creator.decide(session)?;
            let skipped = skipped(requests, &creations);
            let mut stages = stages(lease, &created, batch, &skipped);
            if stages.iter().all(Stage::is_empty) {
                if let Some(lease) = lease {
                    check(session, lease)?;
                }
                return Ok((creations, false));
            }
            if let Some(stage) = stages.first_mut() {
                if lease.is_none() {
                    stage.announce(self.process.number, Kind::Unowned, None);
                }
                for (write, kind) in batch.iter().filter_map(|write| Some((write, Kind::of(write)?))) {
                    stage.announce(self.process.number, kind, Some(write.run()));
                }
            }
            match self.execute(session, lease, id, &stages, (batch, &skipped), forgotten, others_wait)? {
                Outcome::Made => return Ok((creations, lease.is_some())),
                Outcome::MadeBefore => {
                    creator.look_for_ids();
                    return Ok((creator.decide(session)?.0, lease.is_some()));
                }
                Outcome::Taken => creator.look_for_ids(),
            }
        }
        Err(self.unavailable("others keep creating and deleting runs with the same keys").into())
    }

    /// One try of a commit.
    #[expect(clippy::too_many_arguments, reason = "the parts of a commit, each used once")]
    fn execute(
        &self,
        session: &mut Session<'_>,
        lease: Option<Lease>,
        id: CommitId,
        stages: &[Stage<'_>],
        (batch, skipped): (&[Write], &[RunRowId]),
        forgotten: &[i64],
        others_wait: &mut bool,
    ) -> Result<Outcome, Failed> {
        let releases = self.has_shares.load(Ordering::Relaxed) && lease.is_some();
        let mut carried_out = |session: &mut Session<'_>| -> Result<(), Failed> {
            for (at, stage) in stages.iter().enumerate() {
                self.carry_out(session, lease, id, stage, at == 0, forgotten)?;
            }
            if let (true, Some(lease)) = (releases, lease) {
                *others_wait = self.release_shares(session, lease, batch, skipped)?;
            }
            Ok(())
        };
        let done = if stages.len() == 1 && !releases { carried_out(session) } else { session.transact(carried_out) };
        let Err(Failed::Server(error)) = done else { return done.map(|()| Outcome::Made) };
        match constraint(&error) {
            Some("made_pkey") => Ok(Outcome::MadeBefore),
            // A commit that was made before finds its rows in any order.
            Some(_) if was_made(session, lease, id)? => Ok(Outcome::MadeBefore),
            Some("run_key" | "run_pkey") => Ok(Outcome::Taken),
            Some("task_pkey") => Err(self.done_twice(&error).into()),
            _ if error.code() == Some(&SqlState::INVALID_TEXT_REPRESENTATION) => Err(self.gone(session, batch)?.into()),
            _ => Err(Failed::Server(error)),
        }
    }

    fn carry_out(
        &self,
        session: &mut Session<'_>,
        lease: Option<Lease>,
        id: CommitId,
        stage: &Stage<'_>,
        first: bool,
        forgotten: &[i64],
    ) -> Result<(), Failed> {
        if stage.bytes() > LARGEST {
            return Err(self
                .unavailable(&format!(
                    "a row would have {} MiB of values, such as all inputs of a run, more than the {} MiB that PostgreSQL \
                     takes; store paths instead",
                    stage.bytes() >> 20,
                    LARGEST >> 20
                ))
                .into());
        }
        let (shape, columns, runs) = stage.build();
        let fenced = lease.is_some();
        let shape = Shape { marks: first && fenced, forgets: first && !forgotten.is_empty(), fenced, ..shape };
        let sql = self.statements.lock().entry(shape).or_insert_with(|| statement(shape).into()).clone();
        let lease = lease.unwrap_or(Lease::NONE);
        let number = id.0.cast_signed();
        let mut params: Vec<&dyn Param> = vec![&lease.runner, &lease.epoch, &number, &forgotten, &runs];
        params.extend(columns.iter().map(Column::as_param));
        let holds: i64 = match session.query_opt(&sql, &params)? {
            Some(row) => row.try_get(0)?,
            None => 0,
        };
        if holds == 0 { Err(StoreError::Fenced { runner: lease.runner }.into()) } else { Ok(()) }
    }

    fn done_twice(&self, error: &postgres::Error) -> StoreError {
        let detail = error.as_db_error().and_then(|error| error.detail()).unwrap_or_default();
        self.corrupt(&format!("a task has a row already but was written as if it had none: {detail}"))
    }

    /// Which run is not there any more.
    fn gone(&self, session: &mut Session<'_>, batch: &[Write]) -> Result<StoreError, Failed> {
        let runs: Vec<i64> = batch.iter().filter(|write| matches!(write, Write::Run(_))).map(Write::run).collect();
        let found = session.query_opt(GONE, &[&runs])?;
        let run: i64 = found.map_or(Ok(0), |row| row.try_get(0))?;
        Ok(self.corrupt(&format!("the run with row number {run} is gone")))
    }

    /// Tells the runners of this process, and those who watch in others.
    fn log_changed_runs(&self, batch: &[Write]) {
        let mut changes = None;
        let mut to_tell = Vec::new();
        let (mut answered, mut posted) = (false, false);
        let is_watched = self.notifier.is_watched();
        for write in batch {
            match write {
                Write::Run(update) => {
                    changes.get_or_insert_with(|| self.changes.lock()).run(update.run);
                    if is_watched && (update.status.is_ended() || update.status == RunStatus::Paused) {
                        to_tell.push(update.run);
                    }
                }
                Write::Message { run, .. } if Kind::of(write).is_some() => {
                    changes.get_or_insert_with(|| self.changes.lock()).run(*run);
                    posted = true;
                }
                Write::Answer { .. } => answered = true,
                _ => {}
            }
        }
        drop(changes);
        if posted {
            self.changes.unowned();
        }
        if answered {
            // Another runner of this process may wait for it.
            self.changes.mail();
        }
        if posted || answered {
            self.notifier.send(Hint::Look);
        }
        if !to_tell.is_empty() {
            self.notifier.send(Hint::Ended(to_tell));
        }
    }
}

/// See [`Commit::not_created`].
fn skipped(requests: &[&[NewRun]], creations: &[Vec<Creation>]) -> Vec<RunRowId> {
    Commit::new(CommitId(0), requests, &mut Vec::new()).not_created(creations)
}

/// The statements of a commit.
fn stages<'a>(
    lease: Option<Lease>,
    created: &[&'a NewRun],
    batch: &'a [Write],
    skipped: &[RunRowId],
) -> Vec<Stage<'a>> {
    let mut stage = Stage::default();
    let mut stages = Vec::with_capacity(1);
    for new in created {
        if !stage.create(new, lease.is_some()) {
            stages.push(std::mem::take(&mut stage));
            // Alone it fits into any.
            let _ = stage.create(new, lease.is_some());
        }
    }
    for write in batch.iter().filter(|write| skipped.binary_search(&write.run()).is_err()) {
        if !stage.add(write) {
            stages.push(std::mem::take(&mut stage));
            // Alone it fits into any.
            let _ = stage.add(write);
        }
    }
    stages.push(stage);
    stages
}
