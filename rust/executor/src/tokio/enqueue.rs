//! Queues the events of closures: for the committer thread if the store blocks, else in the group that all lanes share.

use std::sync::Arc;

use super::closures::Closures;
use crate::engine::Engine;
use crate::host::Ready;
use crate::ledger::QueuedEvent;

/// Queues an event of a body to be committed. Never blocks for long: with a store that blocks, the committer thread
/// commits it together with the other events that have gathered.
pub(super) fn enqueue(engine: &Arc<Engine<Closures>>, event: QueuedEvent<Closures>) {
    if engine.dispatch().store_blocks {
        engine.path().ledger.enqueue(event);
        return;
    }
    engine.dispatch().group.push(event, engine.clock().machine());
    commit_gathered(engine);
}

/// Commits what has gathered, with a store that does not block.
pub(super) fn commit_gathered(engine: &Arc<Engine<Closures>>) {
    let group = &engine.dispatch().group;
    if !group.is_empty() {
        let mut ready = Vec::new();
        engine.commit_group(group, &mut ready);
        engine.dispatch_ready(&mut ready);
    }
}

/// As [`enqueue`], for a lane between two bodies: it commits the event with others before it ends. Bodies that a commit
/// makes ready are added to `ready`, for the lane to execute.
pub(super) fn enqueue_from_lane(
    engine: &Arc<Engine<Closures>>,
    event: QueuedEvent<Closures>,
    ready: &mut Vec<Ready<Closures>>,
) {
    let (dispatch, path) = (engine.dispatch(), engine.path());
    if dispatch.store_blocks {
        path.ledger.enqueue_quietly(event);
        if !dispatch.commits_itself(|| path.ledger.commit_inbox(path, ready)) {
            path.ledger.wake_committer();
        }
        return;
    }
    if dispatch.group.push(event, engine.clock().machine()) {
        engine.commit_group(&dispatch.group, ready);
    } else {
        path.ledger.arm();
    }
}
