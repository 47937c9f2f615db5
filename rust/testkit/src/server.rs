//! What makes a store a server that several machines share: it has its own time, and a call whose answer was lost is made
//! again and carried out once.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use bide_core::{RunId, Time};
use bide_store::{Clock, CommitId, Lease, Sent, Uptime};
use bide_sync::Mutex;

use crate::distant::Answered;

/// What all clients of a server have in common.
pub struct SharedServer {
    /// The server's clock.
    clock: Arc<dyn Clock>,
    /// The calls that were carried out.
    pub(crate) made: Mutex<MadeCalls>,
}

/// The outcomes of calls, for callers that have lost the answer.
#[derive(Default)]
pub(crate) struct MadeCalls {
    /// Of commits.
    pub(crate) written: HashMap<(Lease, CommitId), Answered>,
    /// Of claims.
    pub(crate) claimed: HashMap<(Lease, CommitId), Vec<RunId>>,
    /// Of messages, by their numbers.
    pub(crate) sent: HashMap<i64, Sent>,
}

impl SharedServer {
    /// A server with this clock.
    #[must_use]
    pub fn new(clock: Arc<dyn Clock>) -> Arc<Self> {
        Arc::new(Self { clock, made: Mutex::default() })
    }

    /// It has lost its last commits, and what it knew of them.
    pub fn forget(&self) {
        *self.made.lock() = MadeCalls::default();
    }

    /// The clock of a client whose machine has this one.
    pub(crate) fn clock_of(&self, here: Arc<dyn Clock>) -> Arc<dyn Clock> {
        Arc::new(ServerTime { here, server: Arc::clone(&self.clock) })
    }
}

/// Wall and lease are the server's, steady time is the machine's.
struct ServerTime {
    here: Arc<dyn Clock>,
    server: Arc<dyn Clock>,
}

impl Clock for ServerTime {
    fn now(&self) -> Time {
        self.server.now()
    }

    fn steady(&self) -> Duration {
        self.here.steady()
    }

    fn uptime(&self) -> Option<Uptime> {
        self.server.uptime()
    }
}
