//! Where there are no abstract sockets, processes only poll: a [`Wake`] that does nothing.

use std::sync::Arc;

use bide_core::record::RunRowId;

use super::lock::LockFile;
use super::surroundings::FileId;
use crate::changes::ChangeLog;

pub(super) struct Wake;

impl Wake {
    pub(super) fn start(_file: FileId, _own: i64, _changes: &Arc<ChangeLog>) -> Self {
        Self
    }

    pub(super) fn set_peers(&self, _bytes: &[i64], _lock: &LockFile) {}

    pub(super) fn is_alone(&self) -> bool {
        true
    }

    pub(super) fn watch(&self) {}

    pub(super) fn poll_others(&self) {}

    pub(super) fn tell_watchers(&self, _runs: &[RunRowId]) {}

    pub(super) fn tell(&self, _process: i64, _run: RunRowId) {}
}
