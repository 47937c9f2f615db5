//! Claims of runs that have no owner: what nobody else is about to claim, from where the last claim has ended.

use bide_core::RunId;

use super::PostgresStore;
use super::error::Failed;
use super::session::{Session, Uuid};
use crate::{CommitId, Lease, LeaseTime, StoreError};

const IS_FREE: &str = "SELECT EXISTS (SELECT 1 FROM unnest($1::int8[]) v(id) CROSS JOIN LATERAL (SELECT 1 FROM bide.run r \
     WHERE r.version = v.id AND r.status < 3 AND r.runner IS NULL AND (r.status <> 2 OR r.held) LIMIT 1) r)";
const CLAIMED: &str = "SELECT claimed FROM bide.made WHERE runner = $1::int8 AND id = $2::int8";
/// Runs of these versions after these numbers, oldest first. What another claim has locked is left to that. Marks of
/// bodies are set aside, because the new owner has entered none of them.
const CLAIM: &str = "WITH f AS MATERIALIZED (SELECT 1 FROM bide.runner WHERE id = $1::int8 AND epoch = $2::int8 FOR KEY SHARE), \
     free AS MATERIALIZED (SELECT r.id, r.uuid, r.version FROM f CROSS JOIN unnest($4::int8[], $5::int8[]) v(id, after) \
     CROSS JOIN LATERAL (SELECT r.id, r.uuid, r.version FROM bide.run r \
     WHERE r.version = v.id AND r.id > v.after AND r.status < 3 AND r.runner IS NULL AND (r.status <> 2 OR r.held) \
     ORDER BY r.version, r.id LIMIT $6::int8 FOR NO KEY UPDATE SKIP LOCKED) r ORDER BY r.id LIMIT $6::int8), \
     made AS (INSERT INTO bide.made (runner, id, claimed) SELECT $1::int8, $3::int8, array_agg(uuid ORDER BY free.id) \
     FROM free HAVING count(*) > 0), \
     taken AS (UPDATE bide.run r SET runner = $1::int8, epoch = $2::int8, \
     status = CASE WHEN r.held THEN r.status ELSE 1 END FROM free WHERE r.id = free.id), \
     aside AS (UPDATE bide.task t SET entered = -t.entered FROM free WHERE t.run = free.id AND t.entered > 0) \
     SELECT (SELECT count(*) FROM f), free.id, free.uuid, free.version FROM (SELECT 1) one LEFT JOIN free ON true \
     ORDER BY free.id";

impl PostgresStore {
    /// Fences dead runners and claims runs: see [`crate::Store::claim`].
    pub(super) fn claim_runs(
        &self,
        id: CommitId,
        lease: Lease,
        versions: &[i64],
        now: LeaseTime,
        limit: usize,
    ) -> Result<Vec<RunId>, StoreError> {
        let most = i64::try_from(limit).unwrap_or(i64::MAX);
        let made = &self.remembered.made;
        let claimed = self.connections.lease(|session| {
            self.check_history(lease)?;
            let dead = self.dead(session, lease, now)?;
            if !dead.is_empty() {
                self.fence_off(session, &dead, lease, now)?;
            }
            if lease == Lease::NONE || limit == 0 || versions.is_empty() {
                return Ok(Vec::new());
            }
            if made.is_known(lease, id)
                && let Some(row) = session.query_opt(CLAIMED, &[&lease.runner, &id.0.cast_signed()])?
            {
                let claimed: Option<Vec<Uuid>> = row.try_get(0)?;
                return Ok(claimed.unwrap_or_default().into_iter().map(|id| RunId(id.0)).collect());
            }
            let versions = versions.to_vec();
            // Nearly always there is nothing, which a look finds without writing anything.
            let free = match session.query_opt(IS_FREE, &[&versions])? {
                Some(row) => row.try_get(0)?,
                None => false,
            };
            if free { self.take(session, id, lease, versions, most) } else { Ok(Vec::new()) }
        });
        if matches!(claimed, Err(StoreError::Disconnected { .. })) {
            made.is_unknown(lease, id);
        }
        let claimed = claimed?;
        if !claimed.is_empty() {
            made.remember(lease, id, &[], &[], true);
            self.find_shares()?;
        }
        Ok(claimed)
    }

    fn take(
        &self,
        session: &mut Session<'_>,
        id: CommitId,
        lease: Lease,
        versions: Vec<i64>,
        most: i64,
    ) -> Result<Vec<RunId>, Failed> {
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
            let mut claimed = Vec::with_capacity(rows.len());
            let mut positions = self.remembered.positions.lock();
            for row in &rows {
                let Some(run) = row.try_get::<_, Option<i64>>(1)? else { continue };
                claimed.push(RunId(row.try_get::<_, Uuid>(2)?.0));
                positions.insert(row.try_get(3)?, run);
            }
            if i64::try_from(claimed.len()).is_ok_and(|count| count >= most) {
                return Ok(claimed);
            }
            // The end was reached.
            for version in &versions {
                positions.remove(version);
            }
            let began_first = after.iter().all(|after| *after == i64::MIN);
            if !claimed.is_empty() && !began_first {
                // Before the position there may be runs that a dead runner had: they are looked for next.
                self.changes.unowned();
            }
            if !claimed.is_empty() || began_first {
                return Ok(claimed);
            }
            after.fill(i64::MIN);
        }
    }
}
