//! Has other processes learn of something: see [`super::changes`].

use bide_core::record::RunRowId;

use super::PostgresStore;
use super::changes::Kind;
use super::error::Failed;
use super::session::Session;

const ANNOUNCE: &str = "INSERT INTO bide.change (process, kind, run) VALUES ($1::int8, $2::int8, $3::int8)";

impl PostgresStore {
    /// Has other processes learn of something, if the transaction is committed.
    pub(super) fn announce(&self, session: &mut Session<'_>, kind: Kind, run: Option<RunRowId>) -> Result<(), Failed> {
        session.execute(ANNOUNCE, &[&self.process.number, &(kind as i64), &run]).map(drop)
    }

    pub(super) fn announce_unowned(&self, session: &mut Session<'_>) -> Result<(), Failed> {
        self.announce(session, Kind::Unowned, None)
    }
}
