//! What a process remembers between its calls.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use std::time::{Duration, Instant};

use bide_core::record::RecordedTask;
use bide_sync::Mutex;

use super::made::Made;

/// What a process remembers of the rows, worth nothing once the server has lost some of them.
#[derive(Default)]
pub(super) struct Remembered {
    /// The calls that were made.
    pub(super) made: Made,
    /// The last messages that were sent.
    pub(super) sent: SentMessages,
    /// Up to where messages were read.
    pub(super) mail_positions: MailPositions,
    /// Where claims have ended.
    pub(super) positions: Positions,
    /// The tasks of versions that were read already.
    pub(super) versions: Versions,
    /// The names of versions.
    pub(super) names: Names,
}

impl Remembered {
    pub(super) fn forget(&self) {
        self.made.clear();
        self.sent.lock().clear();
        self.mail_positions.0.lock().clear();
        self.positions.lock().clear();
        self.versions.lock().clear();
        self.names.lock().clear();
    }
}

/// Where the last claims of each version have ended. What was claimed leaves entries in the index that a long transaction
/// elsewhere keeps the server from removing: a claim from the beginning would walk them all, each time.
pub(super) type Positions = Mutex<HashMap<i64, i64>>;

/// How long others have to renew, once the server is there again.
const GRACE: Duration = Duration::from_secs(1);

/// When a runner of this process last found that its own lease had run out.
#[derive(Default)]
pub(super) struct Late(Mutex<Option<Instant>>);

impl Late {
    pub(super) fn note(&self) {
        *self.0.lock() = Some(Instant::now());
    }

    pub(super) fn is_recent(&self) -> bool {
        self.0.lock().is_some_and(|when| when.elapsed() < GRACE)
    }
}

/// The task lists of the versions read so far; they never change.
pub(super) type Versions = Mutex<HashMap<i64, Arc<[RecordedTask]>>>;

/// What was committed when a caller got all messages up to a number: those that were not are still to come to it, also
/// with lower numbers.
#[derive(Default)]
pub(super) struct MailPositions(Mutex<BTreeMap<i64, String>>);

impl MailPositions {
    /// For as many runners of a process as there may be.
    const KEPT: usize = 1024;

    pub(super) fn get(&self, after: i64) -> Option<String> {
        self.0.lock().get(&after).cloned()
    }

    /// The older one of two for a number stays: what comes twice does no harm.
    pub(super) fn set(&self, after: i64, snapshot: String) {
        let mut positions = self.0.lock();
        positions.entry(after).or_insert(snapshot);
        while positions.len() > Self::KEPT {
            positions.pop_first();
        }
    }
}

/// The last messages that this process has sent, whose records are still there.
pub(super) type SentMessages = Mutex<Vec<i64>>;

/// The names of versions: of the workflow, and the hash of the graph.
pub(super) type Names = Mutex<HashMap<i64, (Arc<str>, Arc<str>)>>;
