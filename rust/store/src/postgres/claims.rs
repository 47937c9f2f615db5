//! Claims of runs that have no owner: what nobody else is about to claim, from where the last claim has ended.

use bide_core::record::{RunRow, RunRowId, StoredRun};
use bide_core::{RunId, RunStatus};
use postgres::Row;

use super::PostgresStore;
use super::error::Failed;
use super::notify::Hint;
use super::parts::{run_columns, run_joins, run_row};
use super::session::{Session, Uuid};
use crate::{Claimed, CommitId, Lease, LeaseTime, StoreError};

const IS_FREE: &str = "SELECT EXISTS (SELECT 1 FROM unnest($1::int8[]) v(id) CROSS JOIN LATERAL (SELECT 1 FROM bide.run r \
     WHERE r.version = v.id AND r.status < 3 AND r.runner IS NULL AND (r.status <> 2 OR r.held) LIMIT 1) r)";
const CLAIMED: &str = "SELECT claimed FROM bide.made WHERE runner = $1::int8 AND id = $2::int8";
/// Runs of these versions after these numbers, oldest first. What another claim has locked is left to that. Marks of
/// bodies are set aside, because the new owner has entered none of them. Of those of which nothing is recorded but that they
/// exist, everything is returned, as it was before.
const CLAIM: &str = concat!(
    "WITH f AS MATERIALIZED (SELECT 1 FROM bide.runner WHERE id = $1::int8 AND epoch = $2::int8 FOR KEY SHARE), \
     free AS MATERIALIZED (SELECT r.* FROM f CROSS JOIN unnest($4::int8[], $5::int8[]) v(id, after) \
     CROSS JOIN LATERAL (SELECT r.* FROM bide.run r \
     WHERE r.version = v.id AND r.id > v.after AND r.status < 3 AND r.runner IS NULL AND (r.status <> 2 OR r.held) \
     ORDER BY r.version, r.id LIMIT $6::int8 FOR NO KEY UPDATE SKIP LOCKED) r ORDER BY r.id LIMIT $6::int8), \
     made AS (INSERT INTO bide.made (runner, id, claimed) SELECT $1::int8, $3::int8, array_agg(uuid ORDER BY free.id) \
     FROM free HAVING count(*) > 0), \
     taken AS (UPDATE bide.run r SET runner = $1::int8, epoch = $2::int8, \
     status = CASE WHEN r.held THEN r.status ELSE 1 END FROM free WHERE r.id = free.id), \
     aside AS (UPDATE bide.task t SET entered = -t.entered FROM free WHERE t.run = free.id AND t.entered > 0) \
     SELECT (SELECT count(*) FROM f), r.id, r.uuid, r.version, \
     r.status = 0 AND NOT r.held AND NOT EXISTS (SELECT 1 FROM bide.task t WHERE t.run = r.id) \
     AND NOT EXISTS (SELECT 1 FROM bide.message m WHERE m.run = r.id), ",
    run_columns!(),
    " FROM (SELECT 1) one LEFT JOIN free r ON true ",
    run_joins!(),
    " ORDER BY r.id"
);

/// Runs are as they were created.
const GIVE_BACK: &str = "WITH f AS MATERIALIZED (SELECT 1 FROM bide.runner WHERE id = $1::int8 AND epoch = $2::int8 FOR KEY SHARE), \
     free AS (UPDATE bide.run r SET runner = NULL, status = 0 FROM f \
     WHERE r.id = ANY ($3::int8[]) AND r.runner = $1::int8 AND r.status < 2) SELECT count(*) FROM f";

impl PostgresStore {
    /// Runs that nobody has begun belong to nobody from now on.
    pub(super) fn free_runs(&self, lease: Lease, runs: &[RunRowId]) -> Result<(), StoreError> {
        let runs = runs.to_vec();
        self.connections.lease(|session| {
            self.check_history(lease)?;
            session.transact(|session| {
                let held = session.query_opt(GIVE_BACK, &[&lease.runner, &lease.epoch, &runs])?;
                if held.map_or(Ok(0), |row| row.try_get::<_, i64>(0))? == 0 {
                    return Err(StoreError::Fenced { runner: lease.runner }.into());
                }
                self.announce_unowned(session)
            })
        })?;
        self.changes.unowned();
        self.notifier.send(Hint::Look);
        Ok(())
    }

    /// Fences dead runners and claims runs: see [`crate::Store::claim`].
    pub(super) fn claim_runs(
        &self,
        id: CommitId,
        lease: Lease,
        versions: &[i64],
        now: LeaseTime,
        limit: usize,
    ) -> Result<Claimed, StoreError> {
        let most = i64::try_from(limit).unwrap_or(i64::MAX);
        let made = &self.remembered.made;
        let claimed = self.connections.lease(|session| {
            self.check_history(lease)?;
            let dead = self.dead(session, lease, now)?;
            if !dead.is_empty() {
                self.fence_off(session, &dead, lease, now)?;
            }
            if lease == Lease::NONE || limit == 0 || versions.is_empty() {
                return Ok(Claimed::default());
            }
            if made.is_known(lease, id)
                && let Some(row) = session.query_opt(CLAIMED, &[&lease.runner, &id.0.cast_signed()])?
            {
                let claimed: Option<Vec<Uuid>> = row.try_get(0)?;
                let runs = claimed.unwrap_or_default().into_iter().map(|id| RunId(id.0)).collect();
                return Ok(Claimed { runs, new: Vec::new() });
            }
            let versions = versions.to_vec();
            // Nearly always there is nothing, which a look finds without writing anything; unless the last claim has left some.
            let has_left = {
                let positions = self.remembered.positions.lock();
                versions.iter().any(|version| positions.contains_key(version))
            };
            let free = has_left || Self::is_free(session, &versions)?;
            if free { self.take(session, id, lease, versions, most) } else { Ok(Claimed::default()) }
        });
        if matches!(claimed, Err(StoreError::Disconnected { .. })) {
            made.is_unknown(lease, id);
        }
        let claimed = claimed?;
        if !claimed.runs.is_empty() {
            made.remember(lease, id, &[], &[], true);
            self.find_shares()?;
        }
        Ok(claimed)
    }

    fn is_free(session: &mut Session<'_>, versions: &[i64]) -> Result<bool, Failed> {
        Ok(session.query_opt(IS_FREE, &[&versions])?.map_or(Ok(false), |row| row.try_get(0))?)
    }

    fn take(
        &self,
        session: &mut Session<'_>,
        id: CommitId,
        lease: Lease,
        versions: Vec<i64>,
        most: i64,
    ) -> Result<Claimed, Failed> {
        let mut after: Vec<i64> = {
            let positions = self.remembered.positions.lock();
            versions.iter().map(|version| positions.get(version).copied().unwrap_or(i64::MIN)).collect()
        };
        loop {
            let number = id.0.cast_signed();
            let rows = session.query(CLAIM, &[&lease.runner, &lease.epoch, &number, &versions, &after, &most])?;
            let holds: i64 = rows.first().map_or(Ok(0), |row| row.try_get(0))?;
            if holds == 0 {
                return Err(StoreError::Fenced { runner: lease.runner }.into());
            }
            let (mut claimed, mut new) = (Vec::with_capacity(rows.len()), Vec::new());
            {
                let mut positions = self.remembered.positions.lock();
                for row in &rows {
                    let Some(run) = row.try_get::<_, Option<i64>>(1)? else { continue };
                    claimed.push(RunId(row.try_get::<_, Uuid>(2)?.0));
                    positions.insert(row.try_get(3)?, run);
                    if row.try_get(4)? {
                        new.push(row);
                    }
                }
            }
            let claimed = Claimed { runs: claimed, new: self.new_runs(session, lease, &new) };
            let mut positions = self.remembered.positions.lock();
            if i64::try_from(claimed.runs.len()).is_ok_and(|count| count >= most) {
                return Ok(claimed);
            }
            // The end was reached.
            for version in &versions {
                positions.remove(version);
            }
            drop(positions);
            let began_first = after.iter().all(|after| *after == i64::MIN);
            if !claimed.runs.is_empty() || began_first {
                // Some may be left before the position, or were locked: by another claim, or by who sends them a message.
                if Self::is_free(session, &versions)? {
                    self.changes.unowned();
                }
                return Ok(claimed);
            }
            after.fill(i64::MIN);
        }
    }

    /// Claimed runs of which nothing is recorded yet but that they exist. One that does not read back is left out: who loads it
    /// gets the reason.
    fn new_runs(&self, session: &mut Session<'_>, lease: Lease, rows: &[&Row]) -> Vec<StoredRun> {
        let mut read = |row: &Row| {
            let (run, version) = run_row(row, 5, self.name_str()).ok()?;
            let tasks = self.recorded_tasks(session, version).ok()?;
            let run = RunRow { status: RunStatus::Running, runner: Some(lease.runner), ..run };
            let (rows, entries, messages, progress, children) = Default::default();
            Some(StoredRun { run, tasks, rows, entries, messages, progress, children })
        };
        rows.iter().filter_map(|row| read(row)).collect()
    }
}
