//! What must hold of mapped tasks and their elements. The oracle knows an element by a position of its own, as if it
//! were a task.

use std::collections::HashMap;
use std::sync::Arc;

use bide_core::record::RunRowId;
use bide_core::run::ElementOutcomes;
use bide_core::{Batch, TaskIx, TaskRow, TaskStatus, Write};

use super::super::plan::{Case, MOST};
use super::Oracle;

/// A mapped task.
#[derive(Clone, Debug)]
struct Task {
    /// The position of its first element.
    first: TaskIx,
    /// How many of its elements may fail.
    tolerate: usize,
    /// How many items its list has, if it has one besides those that it follows.
    items: Option<u32>,
    /// The mapped tasks that it follows.
    follows: Vec<TaskIx>,
}

/// The mapped tasks of a world.
#[derive(Clone, Default)]
pub(super) struct Maps {
    /// By their positions.
    tasks: HashMap<TaskIx, Task>,
    /// How many elements each has, as was committed first.
    lengths: HashMap<(RunRowId, TaskIx), u32>,
}

impl Maps {
    pub(super) fn of(case: &Case) -> Self {
        let graph = case.graph(super::super::plan::Version::First);
        let task = |ix: TaskIx| {
            let plan = case.task(ix);
            let items = (!graph.only_follows(ix)).then(|| plan.items());
            let (first, follows) = (case.first_of_elements(ix), graph.follows(ix).to_vec());
            let tolerate = plan.map.map_or(0, |map| usize::from(map.tolerate));
            (ix, Task { first, tolerate, items, follows })
        };
        Self { tasks: case.mapped().map(task).collect(), lengths: HashMap::new() }
    }

    /// The task of an element, and its index.
    fn task_of(&self, place: TaskIx) -> Option<(TaskIx, u32)> {
        let is = |(_, task): &(&TaskIx, &Task)| (task.first..task.first + MOST).contains(&place);
        self.tasks.iter().find(is).map(|(ix, task)| (*ix, place - task.first))
    }

    /// The task of an element.
    pub(super) fn element_of(&self, place: TaskIx) -> Option<TaskIx> {
        self.task_of(place).map(|(task, _)| task)
    }

    /// The position of an element.
    pub(super) fn element(&self, task: TaskIx, map: i32) -> Option<TaskIx> {
        Some(self.tasks.get(&task)?.first + TaskIx::try_from(map).ok()?)
    }

    /// Whether this is an element.
    pub(super) fn is_element(&self, place: TaskIx) -> bool {
        self.task_of(place).is_some()
    }

    /// Whether it is a mapped task that has its elements.
    pub(super) fn is_expanded(&self, run: RunRowId, place: TaskIx) -> bool {
        self.lengths.contains_key(&(run, place))
    }

    /// Whether a mapped task starts without waiting for the end of this one: its elements wait for those of that one.
    pub(super) fn follows(&self, place: TaskIx, on: TaskIx) -> bool {
        self.tasks.get(&place).is_some_and(|task| task.follows.contains(&on))
    }
}

impl Oracle {
    /// The committed elements of a mapped task.
    fn elements(&self, run: RunRowId, ix: TaskIx) -> impl Iterator<Item = (u32, Option<&super::Committed>)> {
        let length = self.maps.lengths.get(&(run, ix)).copied().unwrap_or(0);
        let first = self.maps.tasks.get(&ix).map_or(0, |task| task.first);
        (0..length).map(move |map| (map, self.task(run, first + map)))
    }

    fn failed_elements(&self, run: RunRowId, ix: TaskIx) -> usize {
        self.elements(run, ix).filter(|(_, row)| row.is_some_and(|row| row.status == TaskStatus::Failed)).count()
    }

    /// How many elements a task has is decided once, by the lists that it is mapped over.
    pub(super) fn a_length_stays(&mut self, place: TaskIx, row: &TaskRow) {
        let before = self.maps.lengths.get(&(row.run, place)).copied();
        let Some(length) = row.length else {
            let name = self.name(place);
            return self.must(before.is_none(), "a mapped task forgets its elements", || format!("{name}: {row:?}"));
        };
        let Some(task) = self.maps.tasks.get(&place).cloned() else {
            return self.must(false, "a task has elements that is not mapped", || format!("{row:?}"));
        };
        let followed = task.follows.iter().map(|on| self.maps.lengths.get(&(row.run, *on)).copied());
        let right = followed.chain(task.items.map(Some)).all(|of| of == Some(length));
        let name = self.name(place);
        self.must(right && before.is_none_or(|before| before == length), "the length of a mapped task changes", || {
            format!("{name}: {before:?} becomes {length}")
        });
        if before.is_none() {
            self.meets(if task.follows.is_empty() { "a mapped task" } else { "a mapped task that follows another" });
            self.deaths.remove(&row.run);
        }
        self.maps.lengths.insert((row.run, place), length);
    }

    /// An element begins after its task has it.
    pub(super) fn an_element_is_one_of_its_task(&mut self, run: RunRowId, place: TaskIx) {
        let Some((task, index)) = self.maps.task_of(place) else { return };
        let length = self.maps.lengths.get(&(run, task)).copied();
        let name = self.name(place);
        self.must(
            length.is_some_and(|length| index < length),
            "an element is executed that is none of its task",
            || format!("{name} of {length:?}"),
        );
    }

    /// Whether the failure of a task fails its run: that of an element does only if no more may fail.
    pub(super) fn fails_its_run(&mut self, run: RunRowId, place: TaskIx) -> bool {
        let Some((task, _)) = self.maps.task_of(place) else { return true };
        let tolerated = self.failed_elements(run, task) < self.maps.tasks[&task].tolerate;
        if tolerated {
            self.meets("an element that may fail");
        }
        !tolerated
    }

    /// A mapped task ends with its last element, and fails only if more of them have failed than may.
    pub(super) fn mapped_tasks_end_with_their_elements(&mut self, batch: &Batch) {
        let places = batch.iter().filter_map(|write| match write {
            Write::Task(row) if row.status.is_ended() => Some((row.run, self.place(row.run, row.task, row.map))),
            _ => None,
        });
        let ended: Vec<(RunRowId, TaskIx)> =
            places.filter(|(run, place)| self.maps.is_expanded(*run, *place)).collect();
        // A retry that comes with the same commit may have begun it again.
        let is_over = |(run, ix): &(RunRowId, TaskIx)| self.task(*run, *ix).is_some_and(|task| task.status.is_ended());
        let ended: Vec<(RunRowId, TaskIx)> = ended.into_iter().filter(is_over).collect();
        for (run, ix) in ended {
            let open = |row: Option<&super::Committed>| !row.is_some_and(|row| row.status.is_ended());
            let left = self.elements(run, ix).find(|(_, row)| open(*row)).map(|(map, _)| map);
            let (name, status) = (self.name(ix), self.task(run, ix).map(|task| task.status));
            self.must(left.is_none(), "a mapped task ends before its elements", || format!("{name}: [{left:?}]"));
            let (failed, tolerate) = (self.failed_elements(run, ix), self.maps.tasks[&ix].tolerate);
            let is_failed = status == Some(TaskStatus::Failed);
            let right = is_failed == (failed > tolerate) || self.fails_by_deadline(run, ix);
            self.must(right, "a mapped task ends otherwise than its elements", || {
                format!("{name} is {status:?}; {failed} have failed, and {tolerate} may")
            });
        }
    }

    /// The elements of a task are forgotten, because it is done again.
    pub(super) fn elements_are_dropped(&mut self, run: RunRowId, ix: TaskIx) {
        self.maps.lengths.remove(&(run, ix));
        let Some(first) = self.maps.tasks.get(&ix).map(|task| task.first) else { return };
        let elements = first..first + MOST;
        self.tasks.retain(|(of, place), _| *of != run || !elements.contains(place));
        self.entries.retain(|(of, place, _), _| *of != run || !elements.contains(place));
        self.executed_once.retain(|(of, place, _)| *of != run || !elements.contains(place));
    }

    /// A task that takes the outputs of a mapped one gets what its elements have come to, as it is committed.
    pub fn elements_are_read_as_committed(&mut self, run: RunRowId, ix: TaskIx, read: &ElementOutcomes) {
        let right = {
            let with =
                |status| self.elements(run, ix).filter(move |(_, row)| row.is_some_and(|row| row.status == status));
            let completed = with(TaskStatus::Completed).filter_map(|(map, row)| Some((map, row?.output.clone()?)));
            let failed = with(TaskStatus::Failed).filter_map(|(map, row)| Some((map, row?.failure.clone()?)));
            completed.eq(read.completed.iter().map(|(map, value)| (*map, value.as_bytes().to_vec())))
                && failed.eq(read.failed.iter().cloned())
                && self.maps.lengths.get(&(run, ix)) == Some(&read.total)
        };
        let name: Arc<str> = self.name(ix);
        self.must(right, "elements are read otherwise than they are committed", || format!("{name}: {read:?}"));
        self.meets("a task that takes the outputs of a mapped one");
        if !read.failed.is_empty() && !read.completed.is_empty() {
            self.meets("a task that takes failures and outputs of a mapped one");
        }
    }
}
