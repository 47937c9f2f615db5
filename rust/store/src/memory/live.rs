//! What live runs show, in memory: their events by channel, and how far their tasks have come.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;

use bide_core::record::RunRowId;
use bide_core::{NewEvents, Progress, ProgressRow, StoredEvents, TaskId};

use crate::EventRange;

/// Of all runs.
#[derive(Clone, Default)]
pub(super) struct Live {
    /// The events of each channel of a run, oldest first.
    events: BTreeMap<(RunRowId, Arc<str>), VecDeque<StoredEvents>>,
    /// By run, task number and map index.
    progress: BTreeMap<(RunRowId, TaskId, i32), Progress>,
}

impl Live {
    /// Appends events; `task` is the name of their task.
    pub(super) fn append(&mut self, new: NewEvents, task: Arc<str>) {
        let channel = self.events.entry((new.run, new.channel)).or_default();
        let before = channel.back().map_or(0, StoredEvents::last);
        channel.push_back(StoredEvents {
            first: before + new.skipped + 1,
            count: new.count,
            task,
            map: new.map,
            attempt: new.attempt,
            entry: new.entry,
            emitted_at: new.emitted_at,
            packed: new.packed,
        });
        let last = before + new.skipped + u64::from(new.count);
        if let Some(keep) = new.keep {
            while channel.front().is_some_and(|oldest| oldest.last() + u64::from(keep) <= last) {
                channel.pop_front();
            }
        }
    }

    /// The events of a channel.
    pub(super) fn read(&self, run: RunRowId, channel: &str, range: EventRange) -> Vec<StoredEvents> {
        let Some(events) = self.events.get(&(run, Arc::from(channel))) else { return Vec::new() };
        match range {
            EventRange::Last => events.back().cloned().into_iter().collect(),
            EventRange::After { offset, most } => {
                let unseen = events.partition_point(|events| events.last() <= offset);
                let mut count = 0;
                let fits = |events: &&StoredEvents| {
                    let more = count < most;
                    count += events.count as usize;
                    more
                };
                events.range(unseen..).take_while(fits).cloned().collect()
            }
        }
    }

    /// The names of the channels of a run.
    pub(super) fn channels(&self, run: RunRowId) -> Vec<Arc<str>> {
        let channels = self.events.range((run, Arc::from(""))..).take_while(|((of, _), _)| *of == run);
        channels.map(|((_, name), _)| Arc::clone(name)).collect()
    }

    pub(super) fn set_progress(&mut self, row: ProgressRow) {
        self.progress.insert((row.run, row.task, row.map), row.progress);
    }

    /// How far the tasks of a run have come, by number and map index.
    pub(super) fn progress(&self, run: RunRowId) -> Vec<ProgressRow> {
        let of_run = self.progress.range((run, TaskId::MIN, i32::MIN)..).take_while(|((of, ..), _)| *of == run);
        of_run
            .map(|((run, task, map), progress)| ProgressRow {
                run: *run,
                task: *task,
                map: *map,
                progress: progress.clone(),
            })
            .collect()
    }

    /// The tasks of a run have other numbers from now on; what has none is forgotten.
    pub(super) fn renumber(&mut self, run: RunRowId, new: impl Fn(TaskId) -> Option<TaskId>) {
        let rows = self.progress(run);
        for row in &rows {
            self.progress.remove(&(row.run, row.task, row.map));
        }
        for row in rows {
            if let Some(task) = new(row.task) {
                self.set_progress(ProgressRow { task, ..row });
            }
        }
    }

    /// Forgets what belongs to a run.
    pub(super) fn forget(&mut self, run: RunRowId) {
        let channels = self.events.range((run, Arc::from(""))..).take_while(|((of, _), _)| *of == run);
        for key in channels.map(|(key, _)| key.clone()).collect::<Vec<_>>() {
            self.events.remove(&key);
        }
        for row in self.progress(run) {
            self.progress.remove(&(row.run, row.task, row.map));
        }
    }
}
