//! Limits across the runners of a server.

use bide_core::record::{RunRowId, Write};
use bide_core::{LimitSpec, TaskId, Time};

use super::PostgresStore;
use super::error::Failed;
use super::session::Session;
use crate::{Answer, Lease, LimitCall, LimitInfo, Limits, StoreError};

/// Releases the shares of attempts that these writes end, within their transaction. True if another runner waits for
/// them.
pub(super) fn release(
    _session: &mut Session<'_>,
    _lease: Lease,
    _batch: &[Write],
    _skipped: &[RunRowId],
) -> Result<bool, Failed> {
    Ok(false)
}

/// Runners are gone: their bodies execute no more.
pub(super) fn abandon(_session: &mut Session<'_>, _runners: &[i64]) -> Result<(), Failed> {
    Ok(())
}

/// A run has ended.
pub(super) fn release_run(_session: &mut Session<'_>, _run: RunRowId) -> Result<(), Failed> {
    Ok(())
}

/// A task of a run is gone.
pub(super) fn release_task(_session: &mut Session<'_>, _run: RunRowId, _task: TaskId) -> Result<(), Failed> {
    Ok(())
}

/// A task gets another number: one below zero first.
pub(super) fn renumber(_session: &mut Session<'_>, _run: RunRowId, _old: TaskId, _new: TaskId) -> Result<(), Failed> {
    Ok(())
}

/// And then that number.
pub(super) fn settle(_session: &mut Session<'_>, _run: RunRowId) -> Result<(), Failed> {
    Ok(())
}

impl PostgresStore {
    /// Tells runners that wait for shares.
    pub(super) fn limits_released(&self) -> Result<(), StoreError> {
        self.changes.limits();
        Ok(())
    }

    /// Runs were claimed: if there are limits, they may have shares.
    pub(super) fn find_shares(&self) -> Result<(), StoreError> {
        Ok(())
    }
}

impl Limits for PostgresStore {
    fn define_limit(&self, _limit: &LimitSpec) -> Result<Option<LimitSpec>, StoreError> {
        Err(self.not_there_yet("limits"))
    }

    fn claim_limits(&self, _lease: Lease, _now: Time, _call: &LimitCall) -> Result<Vec<Vec<Answer>>, StoreError> {
        Err(self.not_there_yet("limits"))
    }

    fn purge_limits(&self, _now: Time) -> Result<(), StoreError> {
        Ok(())
    }

    fn limits(&self, _now: Time) -> Result<Vec<LimitInfo>, StoreError> {
        Ok(Vec::new())
    }
}
