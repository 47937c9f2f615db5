//! A fork: a new run that begins with the outcomes of another one, of all tasks but those that are done again.
//!
//! Done again are the tasks that the caller names and all that depends on them, as by a retry from there; and what the
//! other run has not ended, or was cancelled. A mapped task keeps those of its elements that are not done again. Tasks
//! are found by their names, so that the new run may have newer code. Journals, messages and children stay behind.

use std::collections::HashMap;
use std::sync::Arc;

use crate::decode::DecodeError;
use crate::definition::DefinitionError;
use crate::graph::Graph;
use crate::id::{NO_MAP, RunId, TaskId, TaskIx, TaskRef};
use crate::message::Message;
use crate::nearest::did_you_mean;
use crate::record::{Mark, RunRow, RunRowId, StoredRun, TaskRow, Write};
use crate::shown::shown;
use crate::status::TaskStatus;
use crate::time::Time;
use crate::value::Value;

use super::again::Again;
use super::{Out, RunState, Task};

/// How a run differs from the one that it is forked from.
#[derive(Clone, Debug, Default)]
pub struct Fork {
    /// The tasks and elements from which it is done again.
    pub start_at: Vec<Arc<str>>,
    /// The outputs of tasks and elements that are not done again, by name.
    pub edit: Vec<(Arc<str>, Value)>,
    /// The inputs that are others, each with a task that reads it.
    pub changed: Vec<(Arc<str>, Arc<str>)>,
}

/// What the histories tell of a fork.
#[derive(Clone, Debug)]
pub struct Forked {
    /// The run that it was forked from.
    pub from: RunRowId,
    /// What the history of that run tells.
    pub there: Message,
    /// What the history of the new run tells.
    pub here: Vec<Message>,
}

fn refuse<T>(why: &str) -> Result<T, DefinitionError> {
    Err(DefinitionError(shown(why).into_owned()))
}

/// The rows that a fork begins with: of tasks that the graph still has, and that have ended or are mapped.
fn kept_rows(graph: &Graph, ids: &[TaskId], source: &StoredRun) -> Vec<TaskRow> {
    let positions: HashMap<TaskId, TaskIx> =
        source.tasks.iter().filter_map(|task| Some((task.id, graph.find_current(&task.name)?))).collect();
    let mapped = |row: &TaskRow| row.map == NO_MAP && row.length.is_some();
    let expanded: Vec<TaskId> = source.rows.iter().filter(|row| mapped(row)).map(|row| row.task).collect();
    let kept = source.rows.iter().filter_map(|row| {
        let ix = *positions.get(&row.task)?;
        let is_list = mapped(row) || expanded.contains(&row.task);
        // One that was not mapped, or is not any more, has another output now.
        let same =
            graph.is_mapped(ix) == is_list || (row.map == NO_MAP && !is_list && row.status != TaskStatus::Completed);
        let ended = row.status.is_ended() || mapped(row);
        (same && ended).then(|| TaskRow {
            task: ids[ix as usize],
            mark: Mark::default(),
            retry_at: None,
            sub_status: None,
            ..row.clone()
        })
    });
    kept.collect()
}

impl RunState {
    /// The state of a run that is forked from a stored one. [`RunState::tell_fork`] and `Begin` are next.
    ///
    /// # Errors
    /// The inner one says what cannot be done; the outer one that the stored run does not read back.
    pub fn forked(
        id: RunId,
        graph: &Arc<Graph>,
        ids: &Arc<[TaskId]>,
        source: &StoredRun,
        fork: &Fork,
        now: Time,
    ) -> Result<Result<Self, DefinitionError>, DecodeError> {
        let StoredRun { run, tasks, .. } = source;
        let run = RunRow::new(id, Arc::clone(&run.workflow), Arc::clone(&run.version), now);
        let rows = kept_rows(graph, ids, source);
        let (entries, messages, progress, children) = Default::default();
        let stored = StoredRun { run, tasks: Arc::clone(tasks), rows, entries, messages, progress, children };
        let mut state = Self::recover(graph, ids, None, stored)?;
        state.recovered = false;
        Ok(state.begin_where(fork, now).map(|()| state))
    }

    /// Says what the histories of both runs tell.
    pub fn tell_fork(&mut self, forked: Forked) {
        self.run_detail().forked = Some(Box::new(forked));
    }

    fn begin_where(&mut self, fork: &Fork, now: Time) -> Result<(), DefinitionError> {
        let start_at: Vec<TaskRef> =
            fork.start_at.iter().map(|name| self.named(name, "start_at")).collect::<Result<_, _>>()?;
        let again = self.done_again(Some(&start_at));
        for (name, value) in &fork.edit {
            let task = self.named(name, "edit")?;
            if again.has(task) {
                return refuse(&format!(
                    "edit: task '{name}' is done again, so that its output would be replaced: leave it out"
                ));
            }
            self.edit(task, value, now)?;
        }
        self.check_inputs(fork, &again)?;
        self.forget(&again);
        self.count_again();
        self.check_kept_failures()?;
        start_at.iter().try_for_each(|task| self.check_start(*task, &again))
    }

    /// A task or element of the run.
    fn named(&self, name: &str, what: &str) -> Result<TaskRef, DefinitionError> {
        let found = self.graph.find_element(name);
        if let Some(task) = found.filter(|task| self.get(*task).is_some()) {
            return Ok(task);
        }
        let workflow = self.graph.workflow();
        if let Some(task) = found {
            let (of, length) = (self.graph.name(task.ix), self.elements(task.ix).len());
            return refuse(&format!(
                "{what}: there is no element '{name}': task '{of}' has {length} of them in this run"
            ));
        }
        let names = (0..self.graph.len() as TaskIx).map(|ix| &**self.graph.name(ix));
        refuse(&format!(
            "{what}: workflow '{workflow}' has no task '{name}'{} (tasks: {})",
            did_you_mean(name, names.clone()),
            names.collect::<Vec<_>>().join(", ")
        ))
    }

    fn edit(&mut self, task: TaskRef, value: &Value, now: Time) -> Result<(), DefinitionError> {
        if self.graph.is_expansion(task) {
            let name = self.graph.name(task.ix);
            return refuse(&format!(
                "edit: task '{name}' is mapped: replace the outputs of its elements, such as '{name}[0]'"
            ));
        }
        let state = self.task_mut(task);
        (state.status, state.output, state.failed) = (TaskStatus::Completed, value.clone(), false);
        state.attempts = state.attempts.max(1);
        for time in [&mut state.started_at, &mut state.ended_at] {
            *time = if *time > Time::default() { *time } else { now };
        }
        if let Some(rare) = state.detail.as_mut().and_then(|detail| detail.known_rare()) {
            (rare.failure, rare.skipped) = (None, None);
        }
        if task.map != NO_MAP {
            self.elements_changed(task.ix);
        }
        Ok(())
    }

    /// What a mapped task comes to is decided anew.
    fn elements_changed(&mut self, ix: TaskIx) {
        let state = self.task_mut(TaskRef::plain(ix));
        *state = Task { status: TaskStatus::Running, ended_at: Time::default(), failed: false, ..state.clone() };
        if let Some(rare) = state.detail.as_mut().and_then(|detail| detail.known_rare()) {
            (rare.failure, rare.skipped) = (None, None);
        }
    }

    fn check_inputs(&self, fork: &Fork, again: &Again) -> Result<(), DefinitionError> {
        for (input, reader) in &fork.changed {
            let Some(ix) = self.graph.find(reader) else { continue };
            let task = TaskRef::plain(ix);
            let kept = self.task_status(task).is_ended() || self.is_expanded(task);
            if kept && !again.whole.contains(&ix) {
                return refuse(&format!(
                    "inputs: '{input}' is read by task '{reader}', whose recorded outcome the new run would keep: have \
                     it done again too, by start_at"
                ));
            }
        }
        Ok(())
    }

    fn forget(&mut self, again: &Again) {
        for &ix in &again.whole {
            if let Some(maps) = &mut self.maps {
                maps.remove(ix);
            }
            *self.task_mut(TaskRef::plain(ix)) = Task::new(0);
        }
        for &task in &again.elements {
            *self.task_mut(task) = Task::new(0);
            self.elements_changed(task.ix);
        }
    }

    fn check_kept_failures(&mut self) -> Result<(), DefinitionError> {
        let counts = |task: &TaskRef| task.map == NO_MAP || self.is_over_tolerance(task.ix);
        let failed = self.all().filter(|(task, state)| state.status == TaskStatus::Failed && counts(task));
        let Some(task) = failed.min_by_key(|(_, state)| state.ended_at).map(|(task, _)| task) else { return Ok(()) };
        if self.graph.fail_fast() {
            let (name, workflow) = (self.graph.name_of(task), self.graph.workflow());
            return refuse(&format!(
                "start_at: task '{name}' has failed, and after a failure nothing starts in workflow '{workflow}' \
                 (fail_fast): have it done again too, or give it an output by edit"
            ));
        }
        self.run_detail().failure = self.known_detail(task).and_then(|detail| detail.rare().failure.clone());
        Ok(())
    }

    /// Refuses a start from a task that would wait for what nobody does, or be skipped.
    fn check_start(&self, task: TaskRef, again: &Again) -> Result<(), DefinitionError> {
        let name = self.graph.name_of(task);
        let mut waits = false;
        for &on in self.graph.dependencies(task.ix) {
            let follows = self.graph.follows(task.ix).contains(&on);
            let on = if follows { TaskRef { ix: on, map: task.map } } else { TaskRef::plain(on) };
            // Its elements follow one by one.
            let is_open = follows && task.map == NO_MAP;
            let by_elements = again.elements.iter().any(|element| element.ix == on.ix);
            let status = self.task_status(on);
            if again.has(on) || by_elements {
                waits = true;
            } else if !(status.is_ended() || is_open) {
                let on = self.graph.name_of(on);
                return refuse(&format!(
                    "start_at: task '{name}' depends on task '{on}', which has not ended: start at that one, or give \
                     it an output by edit"
                ));
            }
        }
        match self.skipped_by(task).filter(|_| !waits) {
            None => Ok(()),
            Some((cause, _)) => {
                let why = match cause {
                    super::SkipCause::Task(root) => {
                        format!("of task '{}', which has not succeeded", self.graph.name_of(root))
                    }
                    other => format!("{}", other.text(&self.graph)),
                };
                refuse(&format!(
                    "start_at: task '{name}' would be skipped because {why}: start at what has to succeed before, or \
                     give that an output by edit"
                ))
            }
        }
    }

    /// `Begin` of a forked run: writes what it begins with.
    pub(super) fn begin_fork(&mut self, forked: Forked, out: &mut Out<'_>) {
        let mut order = Vec::with_capacity(self.tasks.len());
        for &ix in self.graph.order() {
            order.push(TaskRef::plain(ix));
            order.extend((0..self.elements(ix).len() as i32).map(|map| TaskRef { ix, map }));
        }
        for task in &order {
            let kept = self.task_status(*task).is_ended() || self.is_expanded(*task);
            self.task_mut(*task).has_row = false;
            if kept {
                self.write_row(*task, out);
            }
        }
        for message in forked.here {
            out.batch.push(Write::Message { run: self.row(), message: Box::new(message), consumed: true });
        }
        let message = Box::new(forked.there);
        out.batch.push(Write::Forked { run: self.row(), from: forked.from, message });
        if self.failure().is_some() {
            self.write_run(out);
        }
        if self.is_held_by_time(out) {
            return;
        }
        for task in order {
            if self.is_expanded(task) {
                self.end_if_done(task.ix, out);
            } else if self.task(task).unmet == 0 && self.task_status(task) == TaskStatus::Pending {
                self.start_or_skip(task, out);
            }
        }
    }
}
