//! What bodies emit, and the guarantee about it.

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;

use bide_core::record::RunRowId;
use bide_core::{Batch, Channel, NO_MAP, NewEvents, StoredEvents, TaskIx, Write};

use super::Oracle;

/// What bodies have emitted.
#[derive(Default)]
pub(super) struct Shown {
    /// How many events there were.
    count: u64,
    /// What is not committed yet, by the runner that executes the run and by channel, oldest first.
    pending: HashMap<(i64, RunRowId, Arc<str>), VecDeque<u64>>,
}

impl Oracle {
    /// A body emits an event: which, and to which channel. The bodies of a run share two.
    pub fn emits(&mut self, runner: i64, run: RunRowId, ix: TaskIx) -> (u64, Channel) {
        let name: Arc<str> = if ix.is_multiple_of(4) { "log".into() } else { "state".into() };
        self.shown.count += 1;
        let event = self.shown.count;
        self.note(format!("emits {event} in '{name}' of {run}"));
        self.shown.pending.entry((runner, run, Arc::clone(&name))).or_default().push_back(event);
        (event, Channel { name, type_name: "".into(), keep: None })
    }

    /// Events are committed in order, and no record of a run is committed before what its bodies emitted earlier.
    pub(super) fn what_is_shown_is_never_later_than_a_record(&mut self, runner: i64, batch: &Batch) {
        for write in batch {
            let Write::Events(new) = write else { continue };
            for event in numbers(new) {
                self.note(format!("committed: event {event} in '{}'", new.channel));
                let pending = self.shown.pending.get_mut(&(runner, new.run, Arc::clone(&new.channel)));
                let next = pending.and_then(VecDeque::pop_front);
                self.must(next == Some(event), "events are committed in order, once", || {
                    format!("{event} in the place of {next:?} in '{}'", new.channel)
                });
            }
            self.meets("an event that is committed");
        }
        // What others send to a run, such as the cancellation of its parent, is no record of its bodies.
        let records = |write: &&Write| !matches!(write, Write::Message { .. });
        let of_batch = |run: RunRowId| batch.iter().filter(records).any(|write| write.run() == run);
        let left =
            self.shown.pending.iter().find(|((by, run, _), left)| *by == runner && !left.is_empty() && of_batch(*run));
        let left = left.map(|((.., channel), events)| format!("{events:?} in '{channel}'"));
        self.must(left.is_none(), "nothing is committed before what was shown earlier", || format!("{left:?}"));
    }
}

fn numbers(new: &NewEvents) -> Vec<u64> {
    let stored = StoredEvents {
        first: 1,
        count: new.count,
        task: "".into(),
        map: NO_MAP,
        attempt: new.attempt,
        entry: None,
        emitted_at: new.emitted_at,
        packed: new.packed.clone(),
    };
    let number = |payload: &[u8]| std::str::from_utf8(payload).ok().and_then(|text| text.parse().ok());
    let events = stored.events().unwrap_or_default();
    events.iter().filter_map(|event| number(event.value.payload())).collect()
}
