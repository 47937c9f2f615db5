//! The elements of mapped tasks.
//!
//! A mapped task is ready like any other when its lists are there. Its execution only counts their items
//! (`Outcome::Expanded`); from then on it is Running and has elements, each with the state of a task, a row, retries,
//! waits and a gate of its own. It ends with its last element.
//!
//! A mapped task that follows another one, because it is mapped over that one's outputs, does not wait for its end: it
//! is expanded as soon as the other one is, and each of its elements waits for the element of the same index. One that
//! only follows others is expanded without being executed, because its length is theirs.

use std::sync::Arc;

use smallvec::SmallVec;

use crate::failure::{Failure, FailureKind};
use crate::id::{NO_MAP, TaskIx, TaskRef};
use crate::status::TaskStatus;
use crate::time::Time;
use crate::value::Value;

use super::{Out, RunState, SkipCause, Task};

/// The largest number of elements of one task.
pub const MAX_ELEMENTS: u32 = 1_000_000;

/// The elements of the mapped tasks of a run that have been expanded, by position of the task.
#[derive(Debug, Default)]
pub(crate) struct Maps(Vec<(TaskIx, Elements)>);

/// The elements of one task.
#[derive(Debug)]
pub(crate) struct Elements {
    /// Their states, by map index.
    states: Box<[Task]>,
    /// How many have not ended.
    remaining: u32,
    /// How many have failed.
    failed: u32,
}

/// What the elements of a mapped task have come to, once all have ended. Those in neither list were skipped.
#[derive(Clone, Debug, Default)]
pub struct ElementOutcomes {
    /// The index and output of each that completed, in order.
    pub completed: Vec<(u32, Value)>,
    /// The index and failure of each that failed, in order.
    pub failed: Vec<(u32, Failure)>,
    /// How many elements there are.
    pub total: u32,
}

impl ElementOutcomes {
    /// The first element that has no output.
    #[must_use]
    pub fn missing(&self) -> Option<u32> {
        let mut completed = self.completed.iter().map(|(index, _)| *index);
        (0..self.total).find(|index| completed.next() != Some(*index))
    }
}

impl Maps {
    fn of(&self, ix: TaskIx) -> Option<&Elements> {
        let at = self.0.binary_search_by_key(&ix, |(ix, _)| *ix).ok()?;
        Some(&self.0[at].1)
    }

    fn of_mut(&mut self, ix: TaskIx) -> Option<&mut Elements> {
        let at = self.0.binary_search_by_key(&ix, |(ix, _)| *ix).ok()?;
        Some(&mut self.0[at].1)
    }

    pub(super) fn element(&self, task: TaskRef) -> Option<&Task> {
        self.of(task.ix)?.states.get(usize::try_from(task.map).ok()?)
    }

    pub(super) fn element_mut(&mut self, task: TaskRef) -> Option<&mut Task> {
        self.of_mut(task.ix)?.states.get_mut(usize::try_from(task.map).ok()?)
    }

    /// False if the task has no elements.
    pub(super) fn remove(&mut self, ix: TaskIx) -> bool {
        let at = self.0.binary_search_by_key(&ix, |(ix, _)| *ix);
        at.is_ok_and(|at| self.0.remove(at).0 == ix)
    }

    fn insert(&mut self, ix: TaskIx, elements: Elements) {
        match self.0.binary_search_by_key(&ix, |(ix, _)| *ix) {
            Ok(at) => self.0[at].1 = elements,
            Err(at) => self.0.insert(at, (ix, elements)),
        }
    }
}

impl RunState {
    /// A task's or element's state; none if there is no such element.
    pub(crate) fn get(&self, task: TaskRef) -> Option<&Task> {
        if task.map == NO_MAP { self.tasks.get(task.ix as usize) } else { self.maps.as_ref()?.element(task) }
    }

    /// As [`RunState::get`], for writing.
    pub(super) fn get_mut(&mut self, task: TaskRef) -> Option<&mut Task> {
        if task.map == NO_MAP { self.tasks.get_mut(task.ix as usize) } else { self.maps.as_mut()?.element_mut(task) }
    }

    /// As [`RunState::get`], of one that is there: effects and events that have passed the fence name no other.
    pub(crate) fn task(&self, task: TaskRef) -> &Task {
        self.get(task).unwrap_or_else(|| unreachable!("{task:?} is a task or element of the run"))
    }

    /// As [`RunState::task`], for writing.
    pub(crate) fn task_mut(&mut self, task: TaskRef) -> &mut Task {
        self.get_mut(task).unwrap_or_else(|| unreachable!("{task:?} is a task or element of the run"))
    }

    /// All tasks and elements with their states: tasks in declaration order, after each its elements.
    pub(crate) fn all(&self) -> impl Iterator<Item = (TaskRef, &Task)> {
        (0..).zip(&self.tasks).flat_map(|(ix, state)| {
            let elements = self.elements(ix).iter().zip(0..).map(move |(state, map)| (TaskRef { ix, map }, state));
            std::iter::once((TaskRef::plain(ix), state)).chain(elements)
        })
    }

    /// How many elements a mapped task has, once that is known.
    #[must_use]
    pub fn length(&self, task: TaskRef) -> Option<u32> {
        Some(self.maps.as_ref()?.of(task.ix)?.states.len() as u32)
    }

    /// The states of a task's elements; none of a task that is not mapped.
    pub(crate) fn elements(&self, ix: TaskIx) -> &[Task] {
        self.maps.as_ref().and_then(|maps| maps.of(ix)).map_or(&[], |elements| &elements.states)
    }

    /// What a mapped task's elements have come to; `None` before all have ended.
    #[must_use]
    pub fn outcomes(&self, ix: TaskIx) -> Option<ElementOutcomes> {
        let elements = self.maps.as_ref()?.of(ix).filter(|elements| elements.remaining == 0)?;
        let mut outcomes = ElementOutcomes { total: elements.states.len() as u32, ..ElementOutcomes::default() };
        for (index, state) in (0..).zip(&elements.states) {
            match state.status {
                TaskStatus::Completed => outcomes.completed.push((index, state.output.clone())),
                TaskStatus::Failed => {
                    let failure = state.detail.as_ref().and_then(|detail| detail.rare().failure.clone());
                    outcomes.failed.extend(failure.map(|failure| (index, failure)));
                }
                _ => {}
            }
        }
        Some(outcomes)
    }

    /// Whether this is a mapped task itself that has its elements.
    pub(crate) fn is_expanded(&self, task: TaskRef) -> bool {
        self.maps.is_some() && task.map == NO_MAP && self.length(task).is_some()
    }

    /// The lists of a mapped task are there: has their items counted, or takes the length of what it follows.
    pub(super) fn count_elements(&mut self, task: TaskRef, out: &mut Out<'_>) {
        if !self.graph.only_follows(task.ix) {
            self.ready(task, out);
            return;
        }
        let lengths = self.graph.follows(task.ix).iter().map(|on| (*on, self.length(TaskRef::plain(*on))));
        let lengths: SmallVec<[(TaskIx, Option<u32>); 4]> = lengths.collect();
        let Some(length) = lengths.first().and_then(|(_, length)| *length) else {
            let failure = self.no_list(task.ix);
            self.attempt_failed(task, failure, None, out);
            return;
        };
        match lengths.iter().find(|(_, other)| *other != Some(length)) {
            None => self.expand(task.ix, length, out),
            Some((other, other_length)) => {
                let names = [lengths[0].0, *other].map(|ix| self.graph.name(ix));
                let failure = other_length.map_or_else(
                    || self.no_list(task.ix),
                    |other| different_lengths(self.graph.name(task.ix), (names[0], length), (names[1], other)),
                );
                self.attempt_failed(task, failure, None, out);
            }
        }
    }

    fn no_list(&self, ix: TaskIx) -> Failure {
        let missing = self.graph.follows(ix).iter().find(|on| self.length(TaskRef::plain(**on)).is_none());
        let on = missing.map_or("", |on| self.graph.name(*on));
        no_list(self.graph.name(ix), on, missing.map(|on| self.tasks[*on as usize].status))
    }

    /// Gives a mapped task its elements, starts those that can start, and does the same for the tasks that follow it.
    pub(super) fn expand(&mut self, ix: TaskIx, length: u32, out: &mut Out<'_>) {
        let graph = Arc::clone(&self.graph);
        let mut next: SmallVec<[TaskIx; 4]> = smallvec::smallvec![ix];
        let mut expanded: SmallVec<[TaskIx; 4]> = SmallVec::new();
        while let Some(ix) = next.pop() {
            let task = TaskRef::plain(ix);
            if self.task_status(task).is_ended() {
                // Another follower failed as it started, and that skips what has not started.
                continue;
            }
            self.insert_elements(ix, length);
            let state = self.task_mut(task);
            state.status = TaskStatus::Running;
            state.attempts = 1;
            if state.started_at == Time::default() {
                state.started_at = out.now;
            }
            self.write_row(task, out);
            expanded.push(ix);
            for &follower in graph.followers(ix) {
                let state = self.task_mut(TaskRef::plain(follower));
                state.unmet -= 1;
                if state.unmet > 0 || state.status != TaskStatus::Pending {
                    continue;
                }
                // One that follows others of another length fails there.
                let same = |on: &TaskIx| self.length(TaskRef::plain(*on)) == Some(length);
                let skipped = self.skipped_by(TaskRef::plain(follower)).is_some();
                if !skipped && graph.only_follows(follower) && graph.follows(follower).iter().all(same) {
                    next.push(follower);
                } else {
                    self.start_or_skip(TaskRef::plain(follower), out);
                }
            }
        }
        let stopped_by = if graph.fail_fast() { self.first_failed() } else { None };
        // Chosen before any of them changes: the others start with the elements that they follow.
        let elements = expanded.iter().flat_map(|ix| (0..length.cast_signed()).map(|map| TaskRef { ix: *ix, map }));
        let open: Vec<TaskRef> = elements.filter(|element| self.task(*element).unmet == 0).collect();
        for element in open {
            if self.task_status(element) != TaskStatus::Pending {
                continue;
            }
            match stopped_by.filter(|_| !graph.spec(element.ix).run_if.runs_after_failures()) {
                None => self.start_or_skip(element, out),
                Some(cause) => {
                    self.skip(element, SkipCause::Task(cause), true, out);
                    self.task_ended(element, out);
                }
            }
        }
        for ix in expanded {
            self.end_if_done(ix, out);
        }
    }

    fn insert_elements(&mut self, ix: TaskIx, length: u32) {
        let states = (0..length.cast_signed()).map(|map| Task::new(self.unmet_of(TaskRef { ix, map }))).collect();
        let elements = Elements { states, remaining: length, failed: 0 };
        self.maps.get_or_insert_default().insert(ix, elements);
    }

    /// How many of the elements that an element follows have not ended.
    fn unmet_of(&self, task: TaskRef) -> u32 {
        let ended = |on: &&TaskIx| self.get(TaskRef { ix: **on, ..task }).is_some_and(|state| state.status.is_ended());
        self.graph.follows(task.ix).iter().filter(|on| !ended(on)).count() as u32
    }

    /// An element has ended: starts or skips the elements that follow it, and ends its task with the last one.
    pub(super) fn element_ended(&mut self, task: TaskRef, out: &mut Out<'_>) {
        let graph = Arc::clone(&self.graph);
        let mut over: SmallVec<[TaskRef; 4]> = smallvec::smallvec![task];
        while let Some(ended) = over.pop() {
            for &follower in graph.followers(ended.ix) {
                let next = TaskRef { ix: follower, map: ended.map };
                // It may not be expanded yet: then it will find this one ended.
                let Some(before) = self.get(next).map(|state| state.unmet) else { continue };
                let unmet = self.unmet_of(next);
                let state = self.task_mut(next);
                state.unmet = unmet;
                // One that was expanded after this one had ended, and before that was told here, has started already.
                if before == 0 || unmet > 0 || state.status != TaskStatus::Pending {
                    continue;
                }
                if self.is_cancelled_instead(next) {
                    self.end_cancelled(next, out);
                    over.push(next);
                } else if let Some((cause, failed)) = self.skipped_by(next) {
                    self.skip(next, cause, failed, out);
                    over.push(next);
                } else {
                    self.start(next, out);
                }
            }
            if let Some(elements) = self.maps.as_mut().and_then(|maps| maps.of_mut(ended.ix)) {
                elements.remaining -= 1;
            }
            self.end_if_done(ended.ix, out);
        }
    }

    /// Ends a mapped task if its last element has ended, with what follows from it.
    pub(crate) fn end_if_done(&mut self, ix: TaskIx, out: &mut Out<'_>) {
        if self.ends_with_elements(ix, out) {
            self.task_ended(TaskRef::plain(ix), out);
        }
    }

    /// Ends a mapped task alone, if its last element has ended. It ends after those that it follows, because what has
    /// become of them decides how it ends.
    pub(super) fn ends_with_elements(&mut self, ix: TaskIx, out: &mut Out<'_>) -> bool {
        let task = TaskRef::plain(ix);
        let Some(elements) = self.maps.as_ref().and_then(|maps| maps.of(ix)) else { return false };
        let follows_unended = |on: &TaskIx| !self.tasks[*on as usize].status.is_ended();
        if elements.remaining > 0
            || self.tasks[ix as usize].status.is_ended()
            || self.graph.follows(ix).iter().any(follows_unended)
        {
            return false;
        }
        if self.is_over_tolerance(ix) {
            let failed = elements.states.iter().filter(|state| state.status == TaskStatus::Failed);
            let first = failed.min_by_key(|state| state.ended_at).and_then(|state| state.detail.as_ref());
            let failure = first.and_then(|detail| detail.rare().failure.clone());
            self.detail(task).rare_mut().failure = failure;
            let state = self.task_mut(task);
            state.status = TaskStatus::Failed;
            state.failed = true;
        } else if elements.states.iter().any(|state| state.status == TaskStatus::Cancelled) {
            self.detail(task).rare_mut().skipped = self.cancel_cause();
            self.task_mut(task).status = TaskStatus::Cancelled;
        } else if let Some(cause) = self.lost_by(ix) {
            self.detail(task).rare_mut().skipped = Some(cause);
            let state = self.task_mut(task);
            state.status = TaskStatus::Skipped;
            state.failed = true;
        } else {
            self.task_mut(task).status = TaskStatus::Completed;
        }
        self.task_mut(task).ended_at = out.now;
        self.has_unsuccessful |= self.task_status(task) != TaskStatus::Completed;
        self.write_row(task, out);
        true
    }

    /// If elements were skipped because of a failure that fails the run: for which.
    fn lost_by(&self, ix: TaskIx) -> Option<SkipCause> {
        if !self.has_unsuccessful {
            return None;
        }
        let follows_failed = self.graph.follows(ix).iter().any(|on| self.tasks[*on as usize].failed);
        let stopped = self.graph.fail_fast() && self.failure().is_some();
        if !follows_failed && !stopped {
            return None;
        }
        let lost = self.elements(ix).iter().find(|state| state.status == TaskStatus::Skipped && state.failed)?;
        lost.detail.as_ref()?.rare().skipped.clone()
    }

    /// Whether more elements of a mapped task have failed than may.
    pub(crate) fn is_over_tolerance(&self, ix: TaskIx) -> bool {
        let Some(elements) = self.maps.as_ref().and_then(|maps| maps.of(ix)) else { return false };
        let tolerate = self.graph.spec(ix).map.as_ref().map_or(0, |map| map.tolerate.of(elements.states.len() as u32));
        elements.failed > tolerate
    }

    /// A task or element has failed: whether it is an element that may.
    pub(super) fn is_tolerated(&mut self, task: TaskRef) -> bool {
        if task.map == NO_MAP {
            return false;
        }
        if let Some(elements) = self.maps.as_mut().and_then(|maps| maps.of_mut(task.ix)) {
            elements.failed += 1;
        }
        !self.is_over_tolerance(task.ix)
    }

    /// What decides by `run_if` about a task for one of its dependencies: the dependency, its element of the same
    /// index, or nothing yet.
    pub(super) fn decides_about(&self, task: TaskRef, on: TaskIx) -> Option<TaskRef> {
        let whole = TaskRef::plain(on);
        if self.maps.is_none() || !self.is_expanded(whole) {
            return Some(whole);
        }
        if self.graph.follows(task.ix).contains(&on) {
            return (task.map != NO_MAP).then_some(TaskRef { ix: on, map: task.map });
        }
        (!self.graph.gathers(task.ix, on)).then_some(whole)
    }

    /// Whether it is a mapped task itself that follows another one: `run_if` is decided for each of its elements.
    pub(super) fn elements_decide(&self, task: TaskRef) -> bool {
        task.map == NO_MAP && self.graph.follows(task.ix).iter().any(|on| self.is_expanded(TaskRef::plain(*on)))
    }

    /// Recovery: gives a mapped task as many elements as are recorded.
    pub(crate) fn restore_elements(&mut self, ix: TaskIx, length: u32) {
        self.insert_elements(ix, length);
    }

    /// Recovery: counts what follows from the states of the elements.
    pub(crate) fn count_restored(&mut self, ix: TaskIx) {
        let length = self.elements(ix).len() as i32;
        for task in (0..length).map(|map| TaskRef { ix, map }) {
            self.task_mut(task).unmet = self.unmet_of(task);
        }
        let Some(elements) = self.maps.as_mut().and_then(|maps| maps.of_mut(ix)) else { return };
        let count = |which: fn(&Task) -> bool| elements.states.iter().filter(|state| which(state)).count() as u32;
        let (remaining, failed) =
            (count(|state| !state.status.is_ended()), count(|state| state.status == TaskStatus::Failed));
        (elements.remaining, elements.failed) = (remaining, failed);
    }
}

impl Task {
    /// A task or element that waits for this many others.
    pub(super) fn new(unmet: u32) -> Self {
        Self {
            output: Value::NONE,
            started_at: Time::default(),
            ended_at: Time::default(),
            gate_since: Time::default(),
            detail: None,
            unmet,
            attempts: 0,
            status: TaskStatus::Pending,
            has_row: false,
            failed: false,
            reenter: false,
            suspect: false,
            interrupt: false,
            has_left: false,
            poll_now: false,
        }
    }
}

fn definition(message: &str) -> Failure {
    Failure::new(FailureKind::Definition, "bide.DefinitionError", message)
}

/// The failure of a mapped task whose lists are not equally long.
#[must_use]
pub fn different_lengths(task: &str, one: (&str, u32), other: (&str, u32)) -> Failure {
    definition(&format!(
        "task '{task}' is mapped over '{}' with {} items and '{}' with {}: they must be equally long",
        one.0, one.1, other.0, other.1
    ))
}

/// The failure of a mapped task over a task that has returned no list, because it ended with this status.
#[must_use]
pub fn no_list(task: &str, over: &str, status: Option<TaskStatus>) -> Failure {
    let is = status.map_or_else(|| "not there".to_owned(), |status| status.to_string());
    definition(&format!("task '{task}' is mapped over '{over}', which has returned no list: it is {is}"))
}

/// The failure of a mapped task over a value that is no list but `what`.
#[must_use]
pub fn not_a_list(task: &str, over: &str, what: &str) -> Failure {
    definition(&format!(
        "task '{task}' is mapped over '{over}', which is {what}: map over a list or a tuple, such as list(...) of it"
    ))
}

/// The failure of a mapped task with too many elements.
#[must_use]
pub fn too_many(task: &str, over: &str, length: usize) -> Failure {
    definition(&format!(
        "task '{task}' is mapped over '{over}' with {length} items, more than {MAX_ELEMENTS}: let each item be several"
    ))
}
