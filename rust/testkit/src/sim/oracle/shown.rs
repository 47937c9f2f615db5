//! What bodies emit, how far they say that they have come, and the guarantees about it.

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;

use bide_core::record::RunRowId;
use bide_core::{Batch, Channel, NO_MAP, NewEvents, ProgressRow, StoredEvents, TaskIx, TaskStatus, Write};

use super::Oracle;

/// What bodies have emitted.
#[derive(Clone, Default)]
pub(super) struct Shown {
    /// How many events there were.
    count: u64,
    /// What is not committed yet, by the runner that executes the run and by channel, oldest first.
    pending: HashMap<(i64, RunRowId, Arc<str>), VecDeque<u64>>,
    /// What the body of a task has said last of its progress, and in which attempt, by the runner that executes it.
    said: HashMap<(i64, RunRowId, TaskIx), (u32, f64)>,
    /// The progress that is committed.
    progress: HashMap<(RunRowId, TaskIx), f64>,
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

    /// A body says how far it has come: each time a larger number.
    pub fn says_progress(&mut self, runner: i64, run: RunRowId, ix: TaskIx, attempt: u32) -> f64 {
        self.shown.count += 1;
        let done = self.shown.count as f64;
        self.shown.said.insert((runner, run, ix), (attempt, done));
        done
    }

    /// The progress of a task is something that its body has said, and never less than before.
    pub(super) fn progress_is_what_was_said(&mut self, runner: i64, row: &ProgressRow) {
        let place = (row.run, self.place(row.run, row.task, row.map));
        let (said, before) = (self.shown.said.get(&(runner, place.0, place.1)), self.shown.progress.get(&place));
        let done = row.progress.done;
        let right = said.is_some_and(|said| done <= said.1) && before.is_none_or(|before| *before < done);
        let seen = format!("{} says {done}: {said:?}, before {before:?}", self.name(place.1));
        self.must(right, "the progress of a task goes back", || seen);
        self.shown.progress.insert(place, done);
        self.meets("progress that is committed");
    }

    /// What a body has said last is committed with its end.
    pub(super) fn the_last_progress_of_a_task_is_kept(&mut self, runner: i64, batch: &Batch) {
        for write in batch {
            let (run, ix, attempt) = match write {
                Write::Task(row) if row.status == TaskStatus::Completed => {
                    (row.run, self.place(row.run, row.task, row.map), row.attempts)
                }
                Write::Done(done) => (done.run, self.place(done.run, done.task, done.map), 1),
                _ => continue,
            };
            let said = self.shown.said.get(&(runner, run, ix)).filter(|said| said.0 == attempt).map(|said| said.1);
            let kept = self.shown.progress.get(&(run, ix)).copied();
            let name = self.name(ix);
            self.must(said.is_none() || kept == said, "the last progress of a task is lost", || {
                format!("{name} has said {said:?}, and {kept:?} is committed")
            });
        }
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
