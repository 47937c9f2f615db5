//! Which bodies wait for a slot to continue, for those who ask why a run stands still. Only a body that finds no free slot
//! is noted.

use std::collections::HashSet;

use bide_core::TaskRef;
use bide_core::record::RunRowId;
use bide_sync::Mutex;

/// The bodies that wait.
#[derive(Default)]
pub(crate) struct SlotQueue(Mutex<HashSet<(RunRowId, TaskRef)>>);

/// A body waits as long as this exists.
pub(crate) struct InQueue<'a> {
    queue: &'a SlotQueue,
    place: (RunRowId, TaskRef),
}

impl SlotQueue {
    /// The body of a task begins to wait.
    pub(crate) fn enter(&self, run: RunRowId, task: TaskRef) -> InQueue<'_> {
        let place = (run, task);
        self.0.lock().insert(place);
        InQueue { queue: self, place }
    }

    /// The tasks of a run whose bodies wait.
    pub(crate) fn of(&self, run: RunRowId) -> Vec<TaskRef> {
        self.0.lock().iter().filter(|(of, _)| *of == run).map(|(_, task)| *task).collect()
    }
}

impl Drop for InQueue<'_> {
    fn drop(&mut self) {
        self.queue.0.lock().remove(&self.place);
    }
}
