//! The run machine: everything that is decided about one run.
//!
//! A task's states (see [`TaskStatus`]) and what moves it on:
//!
//! | from      | event                         | to                                   |
//! |-----------|-------------------------------|--------------------------------------|
//! | Pending   | last dependency ends          | Ready, Pending behind its gate, Skipped by `run_if` |
//! | Pending   | gate `Closed` with a value    | Ready                                |
//! | Pending   | gate `Closed` with a failure  | Pending until `Due`, or Failed       |
//! | Pending, Ready | another task fails, `fail_fast` | Skipped                       |
//! | Pending   | `Due` (retry)                 | Ready, Pending behind its gate       |
//! | Ready     | [`RunState::enter`]           | Running                              |
//! | Running   | `Opened`                      | Running, Deferred                    |
//! | Running   | `Closed`, `Recorded`          | Running, Active                      |
//! | Running   | `Ended` Completed             | Completed                            |
//! | Running   | `Ended` Skipped               | Skipped                              |
//! | Running   | `Ended` Failed                | Pending until `Due`, or Failed       |
//! | Running   | `Ended` Suspended             | Running (in the store, for the next process) |
//!
//! A run's states: Running from its creation; Completed or Failed with its last task; Paused by `Block`.
//!
//! Every event turns into writes and effects. The caller commits the writes first and only then carries the effects
//! out ([`crate::pending::Pending`] enforces it). If the commit fails, this state is dropped and read again.

use std::collections::HashMap;
use std::sync::Arc;

use crate::event::{Effect, Event, Outcome, Refused, Retry, Timer, Wait};
use crate::failure::Failure;
use crate::graph::{Graph, RunIf};
use crate::id::{NO_MAP, RunId, TaskId, TaskIx, TaskRef};
use crate::journal::{Journal, Recall};
use crate::record::{Batch, DoneRow, EntryKey, EntryKind, RunRowId, RunUpdate, TaskRow, Write};
use crate::status::{RunStatus, SubStatus, TaskStatus};
use crate::time::{Time, micros};
use crate::value::Value;

/// The state of one run, in memory.
#[derive(Debug)]
pub struct RunState {
    pub(crate) id: RunId,
    pub(crate) row: RunRowId,
    pub(crate) graph: Arc<Graph>,
    pub(crate) ids: Arc<[TaskId]>,
    pub(crate) status: RunStatus,
    pub(crate) tasks: Box<[Task]>,
    /// Only of tasks that waited, were retried, failed, were skipped or changed the context.
    pub(crate) details: HashMap<TaskIx, Box<Detail>>,
    /// Tasks that have not ended. The run ends when it reaches zero.
    pub(crate) left: u32,
    /// Some task failed or was skipped: `run_if` has to be looked at.
    pub(crate) troubled: bool,
    /// The first committed failure.
    pub(crate) failure: Option<Failure>,
    pub(crate) blocked_by: Option<Arc<str>>,
    pub(crate) crashes: u32,
    pub(crate) ended_at: Option<Time>,
    /// The workflow version to record for the run, where it was taken up by another than it was created with.
    pub(crate) version: Option<i64>,
    /// Loaded from the store, and `Begin` has not been applied yet.
    pub(crate) recovered: bool,
}

/// What every task needs; kept small, a run has one for each of its tasks.
#[derive(Clone, Debug)]
pub(crate) struct Task {
    pub(crate) output: Value,
    pub(crate) started_at: Time,
    pub(crate) ended_at: Time,
    /// Dependencies that have not ended.
    pub(crate) unmet: u32,
    pub(crate) attempts: u32,
    pub(crate) status: TaskStatus,
    pub(crate) has_row: bool,
    /// It failed, or was skipped because of a failure.
    pub(crate) failed: bool,
    /// The next entry is a re-entry of the same attempt.
    pub(crate) reenter: bool,
}

/// What few tasks need.
#[derive(Clone, Debug, Default)]
pub(crate) struct Detail {
    pub(crate) journal: Journal,
    pub(crate) sub_status: Option<SubStatus>,
    pub(crate) changes: Option<Arc<[u8]>>,
    pub(crate) failure: Option<Failure>,
    pub(crate) first_started_at: Option<Time>,
    pub(crate) waited: i64,
    pub(crate) waiting_since: Option<Time>,
    pub(crate) retry_at: Option<Time>,
    pub(crate) blocked_by: Option<Arc<str>>,
    pub(crate) entered: bool,
}

/// That a body has been entered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Entered {
    /// Which try, from 1.
    pub attempt: u32,
    /// The same attempt has been entered before.
    pub reentry: bool,
}

impl RunState {
    /// A run that has just been committed.
    #[must_use]
    pub fn new(id: RunId, graph: Arc<Graph>, ids: Arc<[TaskId]>) -> Self {
        let tasks: Box<[Task]> = (0..graph.len() as TaskIx)
            .map(|ix| Task {
                output: Value::NONE,
                started_at: Time::default(),
                ended_at: Time::default(),
                unmet: graph.dependencies(ix).len() as u32,
                attempts: 0,
                status: TaskStatus::Pending,
                has_row: false,
                failed: false,
                reenter: false,
            })
            .collect();
        Self {
            id,
            row: id.row(),
            left: tasks.len() as u32,
            graph,
            ids,
            status: RunStatus::Running,
            tasks,
            details: HashMap::new(),
            troubled: false,
            failure: None,
            blocked_by: None,
            crashes: 0,
            ended_at: None,
            version: None,
            recovered: false,
        }
    }

    /// The run's id.
    #[must_use]
    pub fn id(&self) -> RunId {
        self.id
    }

    /// The run's row number.
    #[must_use]
    pub fn row(&self) -> RunRowId {
        self.row
    }

    /// Where the run stands.
    #[must_use]
    pub fn status(&self) -> RunStatus {
        self.status
    }

    /// The first committed failure.
    #[must_use]
    pub fn failure(&self) -> Option<&Failure> {
        self.failure.as_ref()
    }

    /// Why the run does not go on.
    #[must_use]
    pub fn blocked_by(&self) -> Option<&Arc<str>> {
        self.blocked_by.as_ref()
    }

    /// When the run ended.
    #[must_use]
    pub fn ended_at(&self) -> Option<Time> {
        self.ended_at
    }

    /// Where a task stands.
    #[must_use]
    pub fn task_status(&self, ix: TaskIx) -> TaskStatus {
        self.tasks[ix as usize].status
    }

    /// What a task returned; `None` unless it completed.
    #[must_use]
    pub fn output(&self, ix: TaskIx) -> Option<&Value> {
        let task = &self.tasks[ix as usize];
        (task.status == TaskStatus::Completed).then_some(&task.output)
    }

    /// A task's committed changes of the context, packed.
    #[must_use]
    pub fn changes(&self, ix: TaskIx) -> Option<&Arc<[u8]>> {
        self.details.get(&ix).and_then(|detail| detail.changes.as_ref())
    }

    /// The key of a task's gate, if it was opened.
    #[must_use]
    pub fn gate_key(&self, ix: TaskIx) -> Option<EntryKey> {
        self.details.get(&ix).and_then(|detail| detail.journal.gate()).map(|entry| entry.key.clone())
    }

    /// The recorded deadline of an entry of a task's journal.
    #[must_use]
    pub fn deadline(&self, ix: TaskIx, key: &EntryKey) -> Option<Time> {
        self.details.get(&ix).and_then(|detail| detail.journal.get(key)).and_then(|entry| entry.deadline)
    }

    /// Applies an event: appends what has to be committed to `batch` and what has to happen then to `effects`.
    ///
    /// # Errors
    /// Refused if the event's attempt or the run is over; nothing has changed then.
    pub fn apply(
        &mut self,
        event: Event,
        now: Time,
        batch: &mut Batch,
        effects: &mut Vec<Effect>,
    ) -> Result<(), Refused> {
        if self.status != RunStatus::Running {
            return Err(Refused::RunOver);
        }
        let mut out = Out { now, batch, effects };
        match event {
            Event::Begin => self.begin(&mut out),
            Event::Started { task, attempt } => {
                self.running(task, attempt)?;
                self.write_row(task.ix, &mut out);
            }
            Event::Opened { task, attempt, wait } => {
                self.running(task, attempt)?;
                self.opened(task.ix, wait, Some(SubStatus::Deferred), &mut out);
                self.progressed(task.ix, &mut out);
                self.write_row(task.ix, &mut out);
            }
            Event::Recorded { task, attempt, wait, result } => {
                self.running(task, attempt)?;
                self.recorded(task.ix, wait, result, &mut out);
            }
            Event::Closed { task, attempt, key, result, retry } => {
                self.closed(task.ix, attempt, &key, result, retry, &mut out)?;
            }
            Event::Ended { task, attempt, outcome } => {
                self.running(task, attempt)?;
                self.ended(task.ix, outcome, &mut out);
            }
            Event::Due { task, attempt, timer } => self.due(task.ix, attempt, timer, &mut out)?,
            Event::Block { reason } => {
                self.blocked_by = Some(reason);
                self.settle(RunStatus::Paused, &mut out);
            }
        }
        Ok(())
    }

    /// The run is executed elsewhere from now on: every event is refused.
    pub fn abandon(&mut self) {
        if !self.status.is_ended() {
            self.status = RunStatus::Paused;
        }
    }

    /// Enters a body that is ready. `None` if it is not (any more): it was skipped, or the run is over.
    pub fn enter(&mut self, task: TaskRef, now: Time) -> Option<Entered> {
        if self.status != RunStatus::Running {
            return None;
        }
        let state = self.tasks.get_mut(task.ix as usize)?;
        if state.status != TaskStatus::Ready {
            return None;
        }
        state.status = TaskStatus::Running;
        let reentry = std::mem::take(&mut state.reenter);
        if !reentry {
            state.attempts += 1;
            state.started_at = now;
        }
        if let Some(detail) = self.details.get_mut(&task.ix) {
            detail.sub_status = Some(SubStatus::Active);
        }
        Some(Entered { attempt: self.tasks[task.ix as usize].attempts, reentry })
    }

    /// What the journal of a running body knows of a wait or step.
    ///
    /// # Errors
    /// Refused if the attempt or the run is over.
    pub fn recall(
        &self,
        task: TaskRef,
        attempt: u32,
        key: &EntryKey,
        kind: EntryKind,
        proof: Option<&[u8]>,
    ) -> Result<Recall, Refused> {
        if self.status != RunStatus::Running {
            return Err(Refused::RunOver);
        }
        self.running(task, attempt)?;
        Ok(match self.details.get(&task.ix) {
            None => Recall::Ask { deadline: None },
            Some(detail) => detail.journal.recall(key, kind, proof),
        })
    }

    fn running(&self, task: TaskRef, attempt: u32) -> Result<(), Refused> {
        match self.tasks.get(task.ix as usize) {
            Some(state) if state.status == TaskStatus::Running && state.attempts == attempt => Ok(()),
            _ => Err(Refused::AttemptOver),
        }
    }

    pub(crate) fn detail(&mut self, ix: TaskIx) -> &mut Detail {
        self.details.entry(ix).or_default()
    }

    fn begin(&mut self, out: &mut Out<'_>) {
        if std::mem::take(&mut self.recovered) {
            self.go_on(out);
            return;
        }
        let graph = Arc::clone(&self.graph);
        for &ix in graph.roots() {
            self.release(ix, out);
        }
    }

    fn opened(&mut self, ix: TaskIx, wait: Wait, sub_status: Option<SubStatus>, out: &mut Out<'_>) {
        let (run, task) = (self.row, self.ids[ix as usize]);
        let detail = self.detail(ix);
        detail.sub_status = sub_status;
        detail.waiting_since = Some(out.now);
        let entry = Box::new(detail.journal.open(wait, out.now).clone());
        out.batch.push(Write::Entry { run, task, map: NO_MAP, entry });
    }

    fn close_entry(&mut self, ix: TaskIx, key: &EntryKey, result: Result<Value, Failure>, out: &mut Out<'_>) {
        let (run, task) = (self.row, self.ids[ix as usize]);
        let detail = self.detail(ix);
        if let Some(since) = detail.waiting_since.take() {
            detail.waited += micros(out.now.since(since));
        }
        if let Some(entry) = detail.journal.close(key, result, out.now) {
            out.batch.push(Write::Entry { run, task, map: NO_MAP, entry: Box::new(entry.clone()) });
        }
    }

    fn recorded(&mut self, ix: TaskIx, wait: Wait, result: Result<Value, Failure>, out: &mut Out<'_>) {
        let key = wait.key.clone();
        let detail = self.detail(ix);
        detail.waiting_since = None;
        detail.journal.open(wait, out.now);
        self.close_entry(ix, &key, result, out);
        if self.progressed(ix, out) {
            self.write_row(ix, out);
        }
    }

    fn closed(
        &mut self,
        ix: TaskIx,
        attempt: u32,
        key: &EntryKey,
        result: Result<Value, Failure>,
        retry: Option<Retry>,
        out: &mut Out<'_>,
    ) -> Result<(), Refused> {
        if key.n > 0 {
            self.running(TaskRef::plain(ix), attempt)?;
            self.close_entry(ix, key, result, out);
            self.detail(ix).sub_status = Some(SubStatus::Active);
            self.progressed(ix, out);
            self.write_row(ix, out);
            return Ok(());
        }
        let state = &self.tasks[ix as usize];
        if state.status != TaskStatus::Pending || state.attempts != attempt || state.unmet > 0 {
            return Err(Refused::AttemptOver);
        }
        match result {
            Ok(value) => {
                self.close_entry(ix, key, Ok(value), out);
                self.ready(ix, out);
            }
            Err(failure) => {
                self.close_entry(ix, key, Err(failure.clone()), out);
                self.tasks[ix as usize].attempts += 1;
                self.failed(ix, failure, retry, out);
            }
        }
        Ok(())
    }

    fn ended(&mut self, ix: TaskIx, outcome: Outcome, out: &mut Out<'_>) {
        match outcome {
            Outcome::Completed { output, changes } => {
                let state = &mut self.tasks[ix as usize];
                state.status = TaskStatus::Completed;
                state.output = output;
                state.ended_at = out.now;
                if !state.has_row && changes.is_none() && state.attempts == 1 && self.crashes == 0 {
                    state.has_row = true;
                    out.batch.push(Write::Done(DoneRow {
                        run: self.row,
                        task: self.ids[ix as usize],
                        map: NO_MAP,
                        output: state.output.clone(),
                        started_at: state.started_at,
                        ended_at: out.now,
                    }));
                } else {
                    self.progressed(ix, out);
                    let detail = self.detail(ix);
                    detail.changes = changes;
                    detail.blocked_by = None;
                    self.end_detail(ix);
                    self.write_row(ix, out);
                }
                self.task_over(ix, out);
            }
            Outcome::Skipped { reason } => {
                self.progressed(ix, out);
                self.skip(ix, Some(reason), false, out);
                self.task_over(ix, out);
            }
            Outcome::Failed { failure, retry } => {
                self.progressed(ix, out);
                self.failed(ix, failure, retry, out);
            }
            Outcome::Suspended => {
                if self.details.get(&ix).is_some_and(|detail| detail.entered) {
                    self.detail(ix).entered = false;
                    self.write_row(ix, out);
                }
            }
        }
    }

    /// An attempt failed: plan the next, or fail for good.
    fn failed(&mut self, ix: TaskIx, failure: Failure, retry: Option<Retry>, out: &mut Out<'_>) {
        let attempts = self.tasks[ix as usize].attempts;
        let policy = &self.graph.spec(ix).retry;
        if let Some(retry) = retry.filter(|_| attempts < policy.attempts) {
            let at = out.now.after(policy.delay_before(attempts + 1, retry.random));
            let fresh = policy.fresh;
            let (run, task) = (self.row, self.ids[ix as usize]);
            self.tasks[ix as usize].status = TaskStatus::Pending;
            let detail = self.detail(ix);
            let keys = detail.journal.rewind(fresh);
            if !keys.is_empty() {
                out.batch.push(Write::DropEntries { run, task, map: NO_MAP, keys });
            }
            detail.failure = Some(failure);
            detail.retry_at = Some(at);
            self.end_detail(ix);
            self.write_row(ix, out);
            let task = TaskRef::plain(ix);
            out.effects.push(Effect::Timer { task, attempt: attempts, at, timer: Timer::Retry });
            return;
        }
        let state = &mut self.tasks[ix as usize];
        state.status = TaskStatus::Failed;
        state.failed = true;
        state.ended_at = out.now;
        self.troubled = true;
        if self.failure.is_none() {
            self.failure = Some(failure.clone());
        }
        self.detail(ix).failure = Some(failure);
        self.end_detail(ix);
        self.write_row(ix, out);
        if self.graph.fail_fast() {
            self.stop_short(ix, out);
        }
        self.task_over(ix, out);
    }

    fn end_detail(&mut self, ix: TaskIx) {
        let started_at = self.tasks[ix as usize].started_at;
        let detail = self.detail(ix);
        if started_at > Time::default() {
            detail.first_started_at.get_or_insert(started_at);
        }
        detail.sub_status = None;
        detail.entered = false;
    }

    /// `fail_fast`: skip what has not started, except tasks that are there for failures.
    fn stop_short(&mut self, cause: TaskIx, out: &mut Out<'_>) {
        let reason: Arc<str> = self.graph.name(cause).clone();
        for ix in 0..self.tasks.len() as TaskIx {
            let open = matches!(self.tasks[ix as usize].status, TaskStatus::Pending | TaskStatus::Ready);
            let entered_before = self.tasks[ix as usize].attempts > 0;
            if open && !entered_before && self.graph.spec(ix).run_if == RunIf::Succeeded {
                self.skip(ix, Some(reason.clone()), true, out);
                self.task_over(ix, out);
            }
        }
    }

    fn skip(&mut self, ix: TaskIx, blocked_by: Option<Arc<str>>, failed: bool, out: &mut Out<'_>) {
        let state = &mut self.tasks[ix as usize];
        state.status = TaskStatus::Skipped;
        state.failed = failed;
        state.ended_at = out.now;
        self.troubled = true;
        self.detail(ix).blocked_by = blocked_by;
        self.end_detail(ix);
        self.write_row(ix, out);
    }

    /// A task has ended: let go on what waited for it, and end the run with its last task.
    fn task_over(&mut self, ix: TaskIx, out: &mut Out<'_>) {
        let graph = Arc::clone(&self.graph);
        self.left -= 1;
        let mut over = smallvec::SmallVec::<[TaskIx; 8]>::from_elem(ix, 1);
        while let Some(ended) = over.pop() {
            for &next in graph.dependents(ended) {
                let state = &mut self.tasks[next as usize];
                state.unmet -= 1;
                if state.unmet > 0 || state.status != TaskStatus::Pending {
                    continue;
                }
                if let Some((blocked_by, failed)) = self.skipped_by(next) {
                    self.skip(next, Some(blocked_by), failed, out);
                    self.left -= 1;
                    over.push(next);
                } else {
                    self.release(next, out);
                }
            }
        }
        if self.left == 0 {
            self.settle(if self.failure.is_some() { RunStatus::Failed } else { RunStatus::Completed }, out);
        }
    }

    /// Decides `run_if` once all dependencies have ended: what the task is skipped for, and whether that is a failure.
    fn skipped_by(&self, ix: TaskIx) -> Option<(Arc<str>, bool)> {
        if !self.troubled && self.graph.spec(ix).run_if == RunIf::Succeeded {
            return None;
        }
        let dependencies = self.graph.dependencies(ix);
        let unsuccessful = |dep: &&TaskIx| self.tasks[**dep as usize].status != TaskStatus::Completed;
        let failed = dependencies.iter().find(|dep| self.tasks[**dep as usize].failed);
        match self.graph.spec(ix).run_if {
            RunIf::Done => None,
            RunIf::Failed if failed.is_some() => None,
            RunIf::Failed => Some(("no task that it depends on failed".into(), false)),
            RunIf::Succeeded => {
                let cause = *failed.or_else(|| dependencies.iter().find(unsuccessful))?;
                Some((self.root_cause(cause), failed.is_some()))
            }
        }
    }

    /// Skips a task whose dependencies have all ended, if `run_if` says so. For tasks that a newer version added.
    pub(crate) fn skip_if_decided(&mut self, ix: TaskIx, out: &mut Out<'_>) -> bool {
        let Some((blocked_by, failed)) = self.skipped_by(ix) else { return false };
        self.skip(ix, Some(blocked_by), failed, out);
        self.task_over(ix, out);
        true
    }

    /// The name of the task at the root of a skip: a skipped task passes on what it was skipped for.
    fn root_cause(&self, ix: TaskIx) -> Arc<str> {
        let state = &self.tasks[ix as usize];
        let inherited = self.details.get(&ix).and_then(|detail| detail.blocked_by.clone());
        match inherited {
            Some(cause) if state.status == TaskStatus::Skipped && state.attempts == 0 => cause,
            _ => self.graph.name(ix).clone(),
        }
    }

    /// A task may start: open its gate, or make it ready.
    pub(crate) fn release(&mut self, ix: TaskIx, out: &mut Out<'_>) {
        let Some(gate) = self.graph.spec(ix).gate.clone() else {
            self.ready(ix, out);
            return;
        };
        let recorded = self.details.get(&ix).and_then(|detail| detail.journal.gate().cloned());
        if recorded.is_some_and(|entry| entry.state == crate::record::EntryState::Satisfied) {
            self.ready(ix, out);
            return;
        }
        self.opened(ix, gate.wait(out.now), None, out);
        self.write_row(ix, out);
        self.watch_gate(ix, out);
    }

    pub(crate) fn watch_gate(&mut self, ix: TaskIx, out: &mut Out<'_>) {
        let attempt = self.tasks[ix as usize].attempts;
        if let Some(entry) = self.detail(ix).journal.gate() {
            let (due, deadline) = (entry.due, entry.deadline);
            out.effects.push(Effect::Gate { task: TaskRef::plain(ix), attempt, due, deadline });
        }
    }

    pub(crate) fn ready(&mut self, ix: TaskIx, out: &mut Out<'_>) {
        self.tasks[ix as usize].status = TaskStatus::Ready;
        out.effects.push(Effect::Ready { task: TaskRef::plain(ix) });
    }

    fn due(&mut self, ix: TaskIx, attempt: u32, timer: Timer, out: &mut Out<'_>) -> Result<(), Refused> {
        let state = &self.tasks[ix as usize];
        let expected = match timer {
            Timer::Retry => state.status == TaskStatus::Pending && state.unmet == 0,
            Timer::Reenter => state.status == TaskStatus::Running && state.reenter,
        };
        if !expected || state.attempts != attempt {
            return Err(Refused::AttemptOver);
        }
        match timer {
            Timer::Retry => {
                self.detail(ix).retry_at = None;
                self.release(ix, out);
            }
            Timer::Reenter => {
                let open = self.detail(ix).journal.open_wait().map(|entry| entry.key.clone());
                if let Some(key) = open {
                    self.close_entry(ix, &key, Ok(Value::NONE), out);
                }
                self.mark(ix, out);
                self.ready(ix, out);
            }
        }
        Ok(())
    }

    /// Something new is recorded of a body: it is not what kills the process. True if its row has to be written.
    fn progressed(&mut self, ix: TaskIx, out: &mut Out<'_>) -> bool {
        if std::mem::take(&mut self.crashes) > 0 {
            self.write_run(out);
        }
        match self.details.get_mut(&ix) {
            Some(detail) => std::mem::take(&mut detail.entered),
            None => false,
        }
    }

    pub(crate) fn settle(&mut self, status: RunStatus, out: &mut Out<'_>) {
        self.status = status;
        self.ended_at = status.is_ended().then_some(out.now);
        self.write_run(out);
        out.effects.push(Effect::Settled { status });
    }

    pub(crate) fn write_run(&self, out: &mut Out<'_>) {
        out.batch.push(Write::Run(Box::new(RunUpdate {
            run: self.row,
            status: self.status,
            failure: self.failure.clone(),
            ended_at: self.ended_at,
            blocked_by: self.blocked_by.clone(),
            crashes: self.crashes,
            version: self.version,
        })));
    }

    pub(crate) fn write_row(&mut self, ix: TaskIx, out: &mut Out<'_>) {
        self.tasks[ix as usize].has_row = true;
        out.batch.push(Write::Task(Box::new(self.task_row(ix))));
    }

    /// The row of a task as it stands.
    #[must_use]
    pub fn task_row(&self, ix: TaskIx) -> TaskRow {
        let state = &self.tasks[ix as usize];
        let some = |time: Time| (time > Time::default()).then_some(time);
        let none = Detail::default();
        let detail = self.details.get(&ix).map_or(&none, |detail| &**detail);
        TaskRow {
            run: self.row,
            task: self.ids[ix as usize],
            map: NO_MAP,
            status: state.status,
            sub_status: detail.sub_status.or((state.status == TaskStatus::Running).then_some(SubStatus::Active)),
            attempts: state.attempts,
            entered: detail.entered,
            output: (state.status == TaskStatus::Completed).then(|| state.output.clone()),
            changes: detail.changes.clone(),
            failure: detail.failure.clone(),
            first_started_at: detail.first_started_at.or(some(state.started_at)),
            started_at: some(state.started_at),
            ended_at: some(state.ended_at),
            waited: detail.waited,
            retry_at: detail.retry_at,
            blocked_by: detail.blocked_by.clone(),
        }
    }
}

/// Where a transition puts what follows from it.
pub(crate) struct Out<'a> {
    pub(crate) now: Time,
    pub(crate) batch: &'a mut Batch,
    pub(crate) effects: &'a mut Vec<Effect>,
}
