//! The engine without bodies: a test takes the turns of its threads, and lets its store fail.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::sync::Arc;
use std::time::Duration;

use bide_executor::core::{PollPolicy, RunStatus};
use bide_executor::store::{RunFilter, Store};
use bide_executor::{Host, Pool, Source};
use bide_testkit::Fault;

mod group_commit;
mod limits;
mod mail;
mod many_workflows;
mod schedules;
mod watches;

/// Nothing here takes this long unless it hangs.
const HANG: Duration = Duration::from_secs(20);

/// A host that executes nothing.
struct Idle;

impl Host for Idle {
    type Body = ();
    type Local = ();
    type Dispatch = Pool<Self>;

    fn sources(_body: &()) -> &[Source] {
        &[]
    }

    fn gate_policy(_body: &(), _part: u16) -> PollPolicy {
        PollPolicy::every(HANG)
    }
}

/// A pool of one slot, without threads.
fn pool() -> Pool<Idle> {
    Pool::new(1, 10, Box::new(|_| Ok(false)))
}

/// The keys of the runs of a store, all of which somebody executes.
fn keys(store: &dyn Store) -> Vec<Arc<str>> {
    let runs = store.list(&RunFilter::default()).unwrap();
    assert!(runs.iter().all(|run| run.run.status == RunStatus::Running), "a run was claimed by nobody");
    let mut keys: Vec<Arc<str>> = runs.into_iter().map(|run| run.run.key.unwrap()).collect();
    keys.sort();
    keys
}

/// Plays a scene once with each fault at each call of its store. `play` returns how many calls it made.
fn with_each_fault(play: impl Fn(Option<(u64, Fault)>) -> u64) {
    let calls = play(None);
    assert!(calls > 15, "{calls}");
    for call in 1..=calls {
        for fault in [Fault::CrashBefore, Fault::CrashAfter, Fault::UnknownBefore, Fault::UnknownAfter, Fault::Busy] {
            play(Some((call, fault)));
        }
    }
}
