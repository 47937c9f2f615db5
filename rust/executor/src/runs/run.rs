//! A registered workflow, and a run of it in memory.

use std::collections::{HashMap, HashSet};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};

use bide_core::attempt::{CallError, Part, PartRequest};
use bide_core::context::{self, Changes, Conflict};
use bide_core::fit::Fit;
use bide_core::quick_hash::QuickHash;
use bide_core::record::{RecordedTask, RunRow, StoredRun};
use bide_core::{
    DecodeError, EntryKey, Failure, Graph, Progress, ProgressRow, RunId, RunOptions, RunState, TaskId, TaskIx, TaskRef,
    TaskRow, Time, Value, pack,
};
use bide_sched::Alarm;
use bide_store::Lease;
use bide_sync::Mutex;

use crate::host::{Arg, Args, Host, Ready, Source};
use crate::runs::live_output::LiveOutput;
use crate::runs::polls::Noted;
use crate::runs::settled::{Settled, Settlement};
use crate::services::timers::Key;

/// How many runs begin in one commit, so that what they write is not in memory for all of them at once. Up to this many
/// begin in the commit that creates them.
pub(crate) const BEGIN: usize = 256;

/// A workflow with its bodies, as registered with an engine.
pub struct RegisteredWorkflow<H: Host> {
    /// Its shape.
    pub graph: Arc<Graph>,
    /// One body for each task.
    pub bodies: Arc<[H::Body]>,
    /// The store's number of the workflow.
    pub number: i64,
    /// The store's number of this version.
    pub version: i64,
    /// The store's numbers of the tasks.
    pub ids: Arc<[TaskId]>,
    /// How often the store had lost rows when it gave these numbers: then they may be others' now.
    pub(crate) history: u64,
    /// The tasks by these numbers, once one was asked for.
    pub(crate) by_id: OnceLock<HashMap<TaskId, TaskIx, QuickHash>>,
    /// The tasks as the store records them.
    pub recorded: Arc<[RecordedTask]>,
    /// Whether runs of other recorded versions can continue with this one: what is known so far. It never changes.
    pub(crate) fits: Mutex<HashMap<i64, Fit>>,
    /// Tasks without a handle whose bodies have got one while they executed: from then on they count as ones that may
    /// park.
    pub(crate) late_handles: Box<[AtomicBool]>,
}

impl<H: Host> RegisteredWorkflow<H> {
    /// The task to which the store has given this number.
    #[must_use]
    pub fn ix(&self, id: TaskId) -> Option<TaskIx> {
        self.by_id.get_or_init(|| (0..).zip(&*self.ids).map(|(ix, id)| (*id, ix)).collect()).get(&id).copied()
    }

    /// Whether a task's body may park its thread: it takes a handle, or has got one before.
    pub(crate) fn may_park(&self, ix: TaskIx) -> bool {
        self.graph.spec(ix).wants_handle || self.late_handles[ix as usize].load(Ordering::Relaxed)
    }
}

/// A run's inputs, in order of name.
pub type Inputs = Box<[(Arc<str>, Value)]>;

/// Inputs as they are stored.
pub(crate) fn packed(inputs: &Inputs) -> Arc<[u8]> {
    pack::pack(inputs.iter().map(|(name, value)| (&**name, Some(value)))).into()
}

/// The keys of a context with their values, and what had to be decided between two tasks.
pub type View = (Vec<(Arc<str>, Value)>, Vec<Conflict>);

/// A run that a caller asks for.
pub struct RunRequest<H: Host> {
    /// Its inputs, in order of name.
    pub inputs: Inputs,
    /// Its key.
    pub key: Option<Arc<str>>,
    /// What the host keeps with it.
    pub local: H::Local,
    /// Tags, priority and times; none if nothing is said.
    pub options: Option<Box<RunOptions>>,
    /// The run whose body starts it, if one does.
    pub(crate) parent: Option<Box<ParentRun>>,
    /// Its caller waits for it from the beginning.
    pub(crate) awaited: bool,
}

/// The run above a child.
pub struct ParentRun {
    /// Its id.
    pub id: RunId,
    /// How many runs are above the child.
    pub depth: u32,
}

impl<H: Host> RunRequest<H> {
    /// A request with these inputs, in order of name, without a key.
    #[must_use]
    pub fn new(inputs: Inputs) -> Self {
        Self { inputs, key: None, local: H::Local::default(), options: None, parent: None, awaited: false }
    }

    /// The same request with a key, or with none.
    #[must_use]
    pub fn with_key(self, key: Option<Arc<str>>) -> Self {
        Self { key, ..self }
    }

    /// The same request with tags, priority and times.
    #[must_use]
    pub fn with_options(self, options: RunOptions) -> Self {
        Self { options: (!options.is_default()).then(|| Box::new(options)), ..self }
    }

    /// The same request as a child of this run, whose tags and priority it has unless something else is said.
    pub(crate) fn below(self, parent: &Run<H>) -> Self {
        let of_parent = || {
            let RunOptions { tags, priority, .. } = parent.options.as_deref()?.clone();
            let inherited = RunOptions { tags, priority, ..RunOptions::default() };
            (!inherited.is_default()).then(|| Box::new(inherited))
        };
        let options = self.options.or_else(of_parent);
        Self { options, parent: Some(Box::new(ParentRun { id: parent.id, depth: parent.depth() + 1 })), ..self }
    }

    /// The same request of a caller that waits for the run until its end, or until [`Settled::give_up`].
    #[must_use]
    pub fn awaited(self, awaited: bool) -> Self {
        Self { awaited, ..self }
    }

    /// The same request with the deadline that the workflow's timeout makes: counted from when the run begins.
    pub(crate) fn with_deadline(mut self, graph: &Graph, now: Time) -> Self {
        if let Some(timeout) = graph.timeout() {
            let options = self.options.get_or_insert_default();
            options.deadline = Some(options.start_at.map_or(now, |at| at.max(now)).after(timeout));
        }
        self
    }

    /// The same request with what the host keeps with the run.
    #[must_use]
    pub fn with_local(self, local: H::Local) -> Self {
        Self { local, ..self }
    }
}

/// A run in memory.
pub struct Run<H: Host> {
    /// Its id.
    pub id: RunId,
    /// The caller's key.
    pub key: Option<Arc<str>>,
    /// Its workflow.
    pub workflow: Arc<RegisteredWorkflow<H>>,
    /// Its inputs, in order of name.
    pub inputs: Inputs,
    /// When it was created.
    pub created_at: Time,
    /// The lease under which it is executed here. Under any other it belongs to another runner.
    pub lease: Lease,
    /// The run whose body has started it, if one has.
    pub parent: Option<Box<ParentRun>>,
    /// Tags, priority and times; none if nothing was said.
    pub options: Option<Box<RunOptions>>,
    /// Its state. Held only for a transition: never across a commit, a wake-up or a call of a body.
    pub state: Mutex<RunState>,
    /// The number of the last batch with an event of it. Changed with the state locked.
    pub(crate) batch: AtomicU64,
    /// What the host keeps with it.
    pub local: H::Local,
    /// Where callers wait for it.
    pub settled: Settled,
    /// What its bodies show.
    pub(crate) live_output: LiveOutput,
    /// It was recovered from the store: an earlier process may have died of its bodies.
    pub(crate) recovered: bool,
    /// What few runs have. Locked before the state, never while that is locked.
    pub(crate) rare: Mutex<Option<Box<Rare<H>>>>,
}

/// What few runs have, and only this process knows.
pub(crate) struct Rare<H: Host> {
    /// Tasks whose body has used up its time and not returned, with the attempt that waits for that.
    pub(crate) overdue: HashMap<TaskRef, Option<Ready<H>>>,
    /// What tasks are blocked by, as far as no row shows it: the last error of a condition, the cap of parked bodies.
    notes: HashMap<TaskRef, Arc<str>>,
    /// The polls of open waits.
    pub(crate) polls: Noted,
    /// Conflicts of the context that this process has logged.
    reported: HashSet<Conflict>,
    /// What wakes the bodies that sleep until the run machine has closed their wait, with its ticket.
    alarms: HashMap<TaskRef, (Arc<dyn Alarm>, u64)>,
    /// The timer of the run's deadline.
    pub(crate) deadline: Option<Key>,
}

impl<H: Host> Default for Rare<H> {
    fn default() -> Self {
        Self {
            overdue: HashMap::new(),
            notes: HashMap::new(),
            polls: HashMap::new(),
            reported: HashSet::new(),
            alarms: HashMap::new(),
            deadline: None,
        }
    }
}

/// The state of a run that begins and must have ended at these times.
fn timed(mut state: RunState, created_at: Time, options: Option<&RunOptions>) -> RunState {
    if let Some(options) = options {
        state.set_times(created_at, options.start_at, options.deadline);
    }
    state
}

impl<H: Host> Run<H> {
    pub(crate) fn new(
        workflow: &Arc<RegisteredWorkflow<H>>,
        lease: Lease,
        state: RunState,
        request: RunRequest<H>,
        created_at: Time,
    ) -> Self {
        let RunRequest { inputs, key, local, options, parent, awaited } = request;
        let state = timed(state, created_at, options.as_deref());
        Self {
            id: state.id(),
            recovered: state.is_recovered(),
            key,
            workflow: Arc::clone(workflow),
            inputs,
            created_at,
            lease,
            parent,
            options,
            state: Mutex::new(state),
            batch: AtomicU64::new(0),
            local,
            settled: Settled::new(awaited),
            live_output: LiveOutput::default(),
            rare: Mutex::default(),
        }
    }

    /// How many runs are above it.
    #[must_use]
    pub fn depth(&self) -> u32 {
        self.parent.as_ref().map_or(0, |parent| parent.depth)
    }

    /// Of what is ready the tasks of runs with a higher one go first.
    pub(crate) fn priority(&self) -> i32 {
        self.options.as_ref().map_or(0, |options| options.priority)
    }

    /// Whether it ends at a time whatever its bodies do: they are woken then.
    pub(crate) fn has_deadline(&self) -> bool {
        self.options.as_ref().is_some_and(|options| options.deadline.is_some())
    }

    /// Whether another runner has it now.
    pub(crate) fn is_lost(&self) -> bool {
        matches!(self.settled.get(), Some(Settlement::Elsewhere))
    }

    /// The same run under the id of another state: its own id was taken. It must not be shared yet.
    pub(crate) fn renamed(run: Arc<Self>, state: RunState) -> Arc<Self> {
        let run = Arc::into_inner(run).unwrap_or_else(|| unreachable!("a run that is not created is not shared"));
        let state = timed(state, run.created_at, run.options.as_deref());
        Arc::new(Self { id: state.id(), state: Mutex::new(state), ..run })
    }

    /// An input by name.
    #[must_use]
    pub fn input(&self, name: &str) -> Option<&Value> {
        let at = self.inputs.binary_search_by(|(key, _)| (**key).cmp(name)).ok()?;
        Some(&self.inputs[at].1)
    }

    /// The values of these sources for a task or element.
    #[must_use]
    pub fn args(&self, task: TaskRef, sources: &[Source], state: &RunState) -> Args {
        let item = |source: &Source| match u32::try_from(task.map) {
            Ok(index) => Arg::Item(index),
            Err(_) => self.list_in(source, state).into(),
        };
        let value = |source: &Source| match source {
            Source::Output(ix) => state.output(TaskRef::plain(*ix)).cloned().into(),
            Source::Input(name) => self.input(name).cloned().into(),
            Source::Gate(_, part) => state.gate_value(task, *part).into(),
            Source::ItemOfOutput(_) | Source::ItemOfInput(_) => item(source),
            Source::SameElement(ix) => state.output(TaskRef { ix: *ix, map: task.map }).cloned().into(),
            Source::Failure(ix) => {
                state.failure_of(TaskRef::plain(*ix)).map_or(Arg::None, |failed| Arg::Failure(Box::new(failed)))
            }
            Source::Elements(ix) => state.outcomes(*ix).map_or(Arg::None, |elements| Arg::Elements(Box::new(elements))),
        };
        sources.iter().map(value).collect()
    }

    /// The list of which elements take the items by this source.
    #[must_use]
    pub fn list(&self, source: &Source) -> Option<Value> {
        self.list_in(source, &self.state.lock())
    }

    fn list_in(&self, source: &Source, state: &RunState) -> Option<Value> {
        match source {
            Source::ItemOfOutput(ix) => state.output(TaskRef::plain(*ix)).cloned(),
            Source::ItemOfInput(name) => self.input(name).cloned(),
            _ => None,
        }
    }

    /// What a task sees of the context.
    ///
    /// # Errors
    /// Says what is wrong if a task's changes do not read back.
    pub fn context_of(&self, ix: TaskIx) -> Result<View, DecodeError> {
        let changes = self.changes(self.workflow.graph.ancestors(ix))?;
        Ok(context::view(&self.workflow.graph, ix, &self.inputs, |of| changes.get(&of)))
    }

    /// The context after the changes of all tasks.
    ///
    /// # Errors
    /// As [`Run::context_of`].
    pub fn final_context(&self) -> Result<View, DecodeError> {
        let changes = self.changes(0..self.workflow.graph.len() as TaskIx)?;
        Ok(context::final_view(&self.workflow.graph, &self.inputs, |of| changes.get(&of)))
    }

    /// Of these conflicts, those that this process has not logged yet. They count as logged from now on.
    #[must_use]
    pub fn unreported(&self, mut conflicts: Vec<Conflict>) -> Vec<Conflict> {
        if !conflicts.is_empty() {
            let mut rare = self.rare.lock();
            let reported = &mut rare.get_or_insert_default().reported;
            conflicts.retain(|conflict| reported.insert(conflict.clone()));
        }
        conflicts
    }

    /// The conflicts in the final context that were not logged when a body met them.
    pub(crate) fn unreported_conflicts(&self) -> Vec<Conflict> {
        let several = {
            let state = self.state.lock();
            (0..self.workflow.graph.len() as TaskIx)
                .filter(|ix| state.changes(TaskRef::plain(*ix)).is_some())
                .take(2)
                .count()
                == 2
        };
        // Changes that do not read back are the error of the call that reads the context.
        let conflicts = several.then(|| self.final_context().ok()).flatten().map(|(_, conflicts)| conflicts);
        self.unreported(conflicts.unwrap_or_default())
    }

    fn changes(&self, of: impl Iterator<Item = TaskIx>) -> Result<HashMap<TaskIx, Changes>, DecodeError> {
        let packed: Vec<(TaskIx, Arc<[u8]>)> = {
            let state = self.state.lock();
            of.filter_map(|ix| Some((ix, Arc::clone(state.changes(TaskRef::plain(ix))?)))).collect()
        };
        packed.into_iter().map(|(ix, blob)| Ok((ix, Changes::unpack(&blob)?))).collect()
    }

    /// Refuses a wait for a message that the workflow does not declare: nothing can satisfy it.
    pub(crate) fn check_declared(&self, task: TaskIx, parts: &[PartRequest]) -> Result<(), CallError> {
        let graph = &self.workflow.graph;
        let message = |part: &PartRequest| match &part.part {
            Part::Message(address) => graph.undeclared(address),
            _ => None,
        };
        match parts.iter().find_map(message) {
            None => Ok(()),
            Some(why) => Err(CallError::Misuse(format!("task '{}' {why}", graph.name(task)))),
        }
    }

    /// The run as it stands in memory, in the form in which a store returns it, without journals. While the run
    /// continues this may be ahead of its rows; [`crate::Engine::committed`] is not.
    #[must_use]
    pub fn snapshot(&self) -> StoredRun {
        let state = self.state.lock();
        let graph = &self.workflow.graph;
        let rows: Vec<_> = state.rows().collect();
        let stored = StoredRun {
            run: RunRow {
                key: self.key.clone(),
                status: state.status(),
                inputs: packed(&self.inputs),
                parent: self.parent.as_ref().map(|parent| parent.id),
                depth: self.depth(),
                options: self.options.as_deref().cloned().unwrap_or_default(),
                failure: state.failure().cloned(),
                ended_at: state.ended_at(),
                blocked_by: state.blocked_by().cloned(),
                cancel: state.cancel().cloned(),
                ..RunRow::new(self.id, Arc::clone(graph.workflow()), graph.version().into(), self.created_at)
            },
            tasks: Arc::clone(&self.workflow.recorded),
            rows: Vec::new(),
            entries: Vec::new(),
            messages: Vec::new(),
            progress: self.progress(),
            children: Vec::new(),
        };
        drop(state);
        StoredRun { rows: rows.into_iter().map(|(task, row)| self.noted(row, task)).collect(), ..stored }
    }

    /// How far its tasks have come.
    fn progress(&self) -> Vec<ProgressRow> {
        let row = |(task, progress): (TaskRef, Progress)| {
            let id = self.workflow.ids[task.ix as usize];
            ProgressRow { run: self.id.row(), task: id, map: task.map, progress }
        };
        self.live_output.progress_of_all().into_iter().map(row).collect()
    }

    /// A row with what only this process knows.
    fn noted(&self, mut row: TaskRow, task: TaskRef) -> TaskRow {
        if !row.status.is_ended()
            && let Some(note) = self.rare.lock().as_ref().and_then(|rare| rare.notes.get(&task))
        {
            row.blocked_by = Some(match row.blocked_by {
                Some(wait) => format!("{wait}; {note}").into(),
                None => Arc::clone(note),
            });
        }
        row
    }

    /// Sets what wakes a body that is about to sleep until its wait is closed. Rings at once if that has happened, or
    /// if it is to poll at once.
    pub fn set_alarm(&self, task: TaskRef, key: &EntryKey, alarm: Arc<dyn Alarm>, ticket: u64) {
        self.rare.lock().get_or_insert_default().alarms.insert(task, (alarm, ticket));
        // Set before this is asked: a wait that is closed in between rings twice, and the second ring comes too late.
        let wakes = {
            let mut state = self.state.lock();
            state.closed_entry(task, key).is_some() || state.take_poll_now(task)
        };
        if wakes {
            self.ring(task);
        }
    }

    /// Wakes a body whose wait was closed, or that is to poll at once. False if it does not sleep.
    pub(crate) fn ring(&self, task: TaskRef) -> bool {
        let alarm = self.rare.lock().as_mut().and_then(|rare| rare.alarms.remove(&task));
        alarm.is_some_and(|(alarm, ticket)| {
            alarm.ring(ticket);
            true
        })
    }

    /// Whether it has ended or is paused: what its bodies still do is refused.
    pub(crate) fn is_over(&self) -> bool {
        matches!(self.settled.get(), Some(Settlement::Run(_)))
    }

    /// Wakes the bodies that sleep until their waits are closed: the run is over.
    pub(crate) fn ring_all(&self) {
        let alarms = self.rare.lock().as_mut().map(|rare| std::mem::take(&mut rare.alarms));
        for (alarm, ticket) in alarms.into_iter().flatten().map(|(_, alarm)| alarm) {
            alarm.ring(ticket);
        }
    }

    /// Notes what the condition that a task waits for raised when it was last asked.
    pub(crate) fn note_error(&self, task: TaskRef, error: Option<&Failure>) {
        self.note(task, error.map(|failure| format!("its condition last raised {failure}")));
    }

    /// Notes what a task is blocked by, beside what its row says.
    pub(crate) fn note(&self, task: TaskRef, note: Option<String>) {
        let mut rare = self.rare.lock();
        match (note, &mut *rare) {
            (Some(note), rare) => drop(rare.get_or_insert_default().notes.insert(task, note.into())),
            (None, Some(rare)) => drop(rare.notes.remove(&task)),
            (None, None) => {}
        }
    }
}
