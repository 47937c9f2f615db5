//! What must hold of child runs: the oracle's own record of which body has started which, and the guarantees.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use bide_core::record::{NewRun, RunRowId, RunUpdate};
use bide_core::{Entry, EntryKey, EntryState, FailureKind, Operation, RunId, RunStatus, TaskId, TaskIx, TaskStatus};

use super::Oracle;

/// A run that a body has started.
#[derive(Clone, Debug)]
struct Child {
    id: RunId,
    /// The task of the body, and the record of the start.
    started_by: (RunRowId, TaskIx, EntryKey),
    /// The runner that has committed its end.
    ended_by: Option<i64>,
}

/// What bodies have started.
#[derive(Clone, Default)]
pub(super) struct Children {
    /// By their row numbers.
    all: HashMap<RunRowId, Child>,
    /// The position of their first task among those of all workflows.
    first: TaskIx,
    /// Since when, by the steady clock, a wait is open whose child has ended.
    passed_over: HashMap<RunRowId, Duration>,
}

impl Children {
    pub(super) fn of(first: TaskIx) -> Self {
        Self { first, ..Self::default() }
    }
}

impl Oracle {
    /// The position of a run's task or element among those of all workflows.
    pub(super) fn place(&self, run: RunRowId, task: TaskId, map: i32) -> TaskIx {
        let first = if self.children.all.contains_key(&run) { self.children.first } else { 0 };
        let place = first + task as TaskIx;
        self.maps.element(place, map).unwrap_or(place)
    }

    /// The run whose body has started a run.
    pub(super) fn parent(&self, run: RunRowId) -> Option<RunRowId> {
        self.children.all.get(&run).map(|child| child.started_by.0)
    }

    /// How many runs were started by bodies.
    #[must_use]
    pub fn count_of_children(&self) -> usize {
        self.children.all.len()
    }

    /// A run was created.
    pub(super) fn is_created(&mut self, new: &NewRun) {
        let Some(parent) = &new.parent else { return };
        self.note(format!("created: child {} of {}", new.id, parent.run));
        let run = parent.run.row();
        let started_by = (run, self.place(run, parent.task, parent.map), parent.key.clone());
        let child = Child { id: new.id, started_by, ended_by: None };
        let of_element = self.maps.is_element(child.started_by.1);
        self.children.all.insert(new.id.row(), child);
        self.meets(if of_element { "a child run of an element" } else { "a child run" });
    }

    /// A child is created in the commit of the record of its start.
    pub(super) fn a_child_is_created_with_its_record(&mut self, new: &NewRun) {
        let Some(child) = self.children.all.get(&new.id.row()).cloned() else { return };
        let record = self.entries.get(&child.started_by).cloned();
        let names = record.as_ref().is_some_and(|record| {
            matches!(record.operation, Operation::Start { .. }) && record.value == Some(new.id.to_value())
        });
        self.must(names, "a child is created without the record of its start", || format!("{child:?}: {record:?}"));
    }

    /// The record of a start names a child that was created with it, and always the same.
    pub(super) fn a_start_is_one_child(&mut self, run: RunRowId, ix: TaskIx, entry: &Entry) {
        // A cancellation may take the place of a start.
        if !matches!(entry.operation, Operation::Start { .. }) || entry.state == EntryState::Failed {
            return;
        }
        let named = entry.value.as_ref().and_then(RunId::from_value);
        let child = named.and_then(|child| self.children.all.get(&child.row())).cloned();
        let place = (run, ix, entry.key.clone());
        let before = self.entries.get(&place).cloned();
        let right = child.as_ref().is_some_and(|child| Some(child.id) == named && child.started_by == place);
        self.must(right, "the record of a start names no child of it", || format!("{entry:?}: {child:?}"));
        self.must(before.is_none(), "a child is started twice", || format!("{before:?} becomes {entry:?}"));
    }

    /// A run was written.
    pub(super) fn child_ends(&mut self, runner: i64, update: &RunUpdate) {
        if let Some(child) = self.children.all.get_mut(&update.run).filter(|_| update.status.is_ended()) {
            child.ended_by = Some(runner);
        }
    }

    /// A wait for a child ends once the child's end is committed, and as that says.
    pub(super) fn a_wait_for_a_child_ends_with_it(&mut self, runner: i64, entry: &Entry) {
        let Operation::Child { run } = entry.operation else { return };
        let failed = |kind| entry.failure.as_ref().is_some_and(|why| why.kind == kind);
        let others = [FailureKind::WaitTimeout, FailureKind::Cancelled, FailureKind::RunTimeout];
        let completed = match entry.state {
            EntryState::Satisfied => true,
            EntryState::Failed if !others.into_iter().any(failed) => false,
            _ => return,
        };
        let status = self.run(run.row()).map(|run| run.status);
        let right = match status {
            Some(RunStatus::Completed) => completed,
            Some(RunStatus::Failed | RunStatus::Cancelled) => !completed && failed(FailureKind::ChildFailed),
            _ => false,
        };
        self.must(right, "a wait for a child ends otherwise than the child", || format!("{status:?}: {entry:?}"));
        let ended_by = self.children.all.get(&run.row()).and_then(|child| child.ended_by);
        if ended_by.is_some_and(|by| by != runner) {
            self.meets("a child that ends in another process than its parent");
        }
    }

    /// Whether a record that is dropped for a retry is the start of a child that has failed, with the wait for it.
    pub(super) fn is_start_of_a_failed_child(
        &self,
        run: RunRowId,
        ix: TaskIx,
        key: &EntryKey,
        dropped: &[EntryKey],
    ) -> bool {
        let entry = |key: &EntryKey| self.entries.get(&(run, ix, key.clone()));
        let start = entry(key).filter(|entry| matches!(entry.operation, Operation::Start { .. }));
        let Some(child) = start.and_then(|start| RunId::from_value(start.value.as_ref()?)) else { return false };
        let waits =
            |entry: &Entry| entry.operation == Operation::Child { run: child } && entry.state == EntryState::Failed;
        self.run(child.row()).is_some_and(|run| run.status != RunStatus::Completed && run.status.is_ended())
            && dropped.iter().filter_map(entry).any(waits)
    }

    /// Nobody waits for a child that has ended: of runs that a living runner has, 31 s at most.
    pub fn no_end_of_a_child_is_missed(&mut self, steady: Duration, is_executed: impl Fn(RunRowId) -> bool) {
        let mut passed_over = HashMap::new();
        for ((run, ix, key), entry) in &self.entries {
            let Operation::Child { run: child } = entry.operation else { continue };
            let waits = entry.state == EntryState::Open
                && key.n > 0
                && self.task(*run, *ix).is_some_and(|task| task.status == TaskStatus::Running);
            let ended = self.run(child.row()).is_some_and(|child| child.status.is_ended());
            if waits && ended && is_executed(*run) {
                let since = self.children.passed_over.get(&child.row()).copied().unwrap_or(steady);
                passed_over.insert(child.row(), since);
            }
        }
        let worst = passed_over.values().map(|since| steady.saturating_sub(*since)).max().unwrap_or_default();
        self.children.passed_over = passed_over;
        self.must(worst <= Duration::from_secs(31), "the end of a child is not delivered", || format!("for {worst:?}"));
    }

    /// Whether a task or one of its elements waits for a child that is paused: then it may wait for ever.
    #[must_use]
    pub fn waits_for_a_paused_child(&self, run: RunRowId, ix: TaskIx) -> bool {
        let paused = |entry: &Entry| match entry.operation {
            Operation::Child { run } => self.run(run.row()).is_some_and(|run| run.status == RunStatus::Paused),
            _ => false,
        };
        let is_its = |place: TaskIx| place == ix || self.maps.element_of(place) == Some(ix);
        let mine = self.entries.iter().filter(|((of, task, _), _)| *of == run && is_its(*task));
        mine.map(|(_, entry)| entry).any(|entry| entry.state == EntryState::Open && paused(entry))
    }

    /// The name of a task, for messages.
    pub(super) fn name(&self, ix: TaskIx) -> Arc<str> {
        Arc::clone(self.graph.name(ix))
    }
}
