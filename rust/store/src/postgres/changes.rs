//! What other processes must learn of: rows that the transaction writes which has changed something, so that none is missed.
//! That there are some is told by a notification ([`super::notify`]), and looked at each second without one.

use bide_core::MessageKind;
use bide_core::record::{RunRowId, Write};

use super::error::Failed;
use super::session::{Session, Text};

/// Of transactions that were not committed when the snapshot was taken, whichever numbers they have.
const SINCE: &str = "SELECT DISTINCT kind::int8, run FROM bide.change \
     WHERE xact >= pg_snapshot_xmin($1::text::pg_snapshot) AND NOT pg_visible_in_snapshot(xact, $1::text::pg_snapshot) \
     AND process <> $2::int8";
const PRUNE: &str = "DELETE FROM bide.change WHERE xact < pg_snapshot_xmin(pg_current_snapshot()) \
     AND at < now() - interval '10 minutes'";

/// What has changed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    /// Runs may have no owner, or schedules, watches or runners have changed.
    Unowned = 0,
    /// A message has come to a run, or an answer to a request.
    Mail = 1,
    /// Shares of limits were released for which other runners wait.
    Limits = 2,
}

impl Kind {
    /// What others must learn of a write, if they must.
    pub(super) fn of(write: &Write) -> Option<Self> {
        match write {
            // To another run, which anybody may execute.
            Write::Message { message, consumed: false, .. } if message.address.kind == MessageKind::Control => {
                Some(Self::Unowned)
            }
            Write::Answer { .. } => Some(Self::Mail),
            _ => None,
        }
    }
}

/// What other processes have changed since a snapshot.
pub(super) fn since(
    session: &mut Session<'_>,
    snapshot: &str,
    process: i64,
) -> Result<Vec<(i64, Option<RunRowId>)>, Failed> {
    let rows = session.query(SINCE, &[&Text::from(snapshot), &process])?;
    rows.iter().map(|row| Ok((row.try_get(0)?, row.try_get(1)?))).collect()
}

/// Deletes what everybody has seen.
pub(super) fn prune(session: &mut Session<'_>) -> Result<(), Failed> {
    session.execute(PRUNE, &[]).map(drop)
}
