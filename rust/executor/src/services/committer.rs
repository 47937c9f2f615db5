//! The committer thread: commits what other threads leave to it. What it does is the ledger's.

use std::sync::Arc;

use crate::host::Host;
use crate::ledger::CommitPath;
use crate::services::{Service, Signal};

/// The thread of a commit path.
pub(crate) struct CommitterService<H: Host>(pub(crate) Arc<CommitPath<H>>);

impl<H: Host> Service for CommitterService<H> {
    fn name(&self) -> &'static str {
        "bide-commit"
    }

    fn run(&self, started: &Signal) {
        started.set();
        self.0.ledger.run_committer(&self.0);
    }

    fn stop(&self) {
        self.0.ledger.stop_committer();
    }
}
