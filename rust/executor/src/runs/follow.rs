//! Those who follow what live runs show: they are woken when there may be something new of their run.
//!
//! A follower reads the store, and what it reads is committed. If its run is executed here it is woken by each commit
//! of events; of a run that another process executes it looks at the store again and again.

use std::time::Duration;

use bide_core::{RunId, StoredEvents};
pub use bide_sched::bell::Bell;
use bide_sched::bell::Bells;
use bide_store::ChangedRuns;

/// How often a follower looks at the store for a run that another process executes.
pub(crate) const LOOK: Duration = Duration::from_millis(20);

/// And for one that is executed here, whose commits wake it: only in case that changes.
pub(crate) const RECHECK: Duration = Duration::from_secs(1);

/// The bells of the runs that are followed here.
pub(crate) type Followers = Bells<RunId>;

/// There may be something new of the runs that have changed.
pub(crate) fn ring_changed(followers: &Followers, changed: &ChangedRuns) {
    followers.ring_where(|run| match changed {
        ChangedRuns::Any => true,
        ChangedRuns::These(runs) => runs.contains(&run.row()),
    });
}

/// What a follower has read.
#[derive(Debug)]
pub struct Followed {
    /// The events, in order.
    pub events: Vec<StoredEvents>,
    /// The run had ended before these were read. If fewer than were asked for came, they are the last.
    pub ended: bool,
}
