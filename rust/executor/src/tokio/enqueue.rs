//! Where the events of closures go: to the committer thread, if the store blocks; else to the one group of all lanes.

use std::sync::Arc;

use super::closures::Closures;
use crate::engine::Engine;
use crate::host::Ready;
use crate::ledger::QueuedEvent;

/// Hands in what a body came to. Never blocks for long: with a store that blocks, the committer thread commits it
/// with all else that has gathered meanwhile.
pub(super) fn hand_in(engine: &Arc<Engine<Closures>>, event: QueuedEvent<Closures>) {
    if engine.dispatch().store_blocks {
        engine.path().ledger.enqueue(event);
        return;
    }
    engine.dispatch().group.push(event, engine.steady());
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

/// As [`hand_in`], by a lane between two bodies, which commits it with others before it ends; what may start by that is
/// left to it.
pub(super) fn hand_in_and_go_on(
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
    if dispatch.group.push(event, engine.steady()) {
        engine.commit_group(&dispatch.group, ready);
    } else {
        path.ledger.arm();
    }
}
