//! What a body with a handle can do on its own thread: record steps, ask where it is; `body/waits.rs`: wait.

mod waits;

pub use waits::Check;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::ThreadId;
use std::time::Duration;

use bide_core::event::{MISMATCH, Wait};
use bide_core::run::Entered;
use bide_core::{
    Asked, EntryKey, EntryKind, Event, Failure, FailureKind, PollPolicy, Recall, Refused, TaskRef, Uses, Value,
};
use bide_sync::Mutex;

use crate::commit::Lost;
use crate::engine::Engine;
use crate::flow::Run;
use crate::host::{Attached, Host};
use crate::limit::Limit;
use crate::pool::{Executing, Parker, Permit, Pool};

/// The engine as a body with a handle sees it.
pub struct BodyCx<H: Host> {
    engine: Arc<Engine<H>>,
    run: Arc<Run<H>>,
    task: TaskRef,
    entered: Entered,
    parker: Arc<Parker<H>>,
    thread: ThreadId,
    permit: Mutex<Option<Permit<H>>>,
    uses: Mutex<Uses>,
    ended: AtomicBool,
    suspended: AtomicBool,
    limit: Option<Arc<Limit<H>>>,
    /// A step or a condition of this body executes.
    inside: Mutex<Option<Inside>>,
}

/// What of a body executes.
enum Inside {
    Condition(Arc<str>),
    Step(Arc<str>),
}

/// Why a wait or a step did not come to an end.
#[derive(Clone, Debug)]
pub enum WaitError {
    /// The runner closes, or another has taken the run over: the body is to unwind, and will be entered again.
    Suspended,
    /// The body, its attempt or its run is over.
    Over(Refused),
    /// The wait or step failed, and that is recorded.
    Failed(Failure),
    /// The code asks for something else than what was recorded; the run is paused.
    Mismatch(String),
    /// The attempt's execution time is used up.
    TimedOut(String),
    /// The handle was used in a way that cannot work; says how.
    Misuse(String),
}

/// A wait for a condition, as a body states it.
pub struct Condition {
    /// Its name in the journal.
    pub name: Arc<str>,
    /// What proves it to be the same wait as a recorded one.
    pub proof: Option<Arc<[u8]>>,
    /// How often it is asked.
    pub policy: PollPolicy,
    /// How long it may stay open.
    pub timeout: Option<Duration>,
}

/// The failure of a wait whose deadline has passed.
pub(crate) fn timed_out(task: &str, wait: &str) -> Failure {
    let message = format!("task '{task}' waited for '{wait}' until its deadline passed");
    Failure::new(FailureKind::WaitTimeout, "bide.WaitTimeout", &message)
}

/// What to do about a step.
#[derive(Debug)]
pub enum StepStart {
    /// It is recorded: this is what it returned.
    Returned(Value),
    /// It is recorded: this is what it raised.
    Raised(Failure),
    /// It has to be executed; give the ticket back with what it came to.
    Execute(StepTicket),
}

/// A step that has to be executed.
#[derive(Debug)]
pub struct StepTicket {
    key: EntryKey,
    proof: Option<Arc<[u8]>>,
}

impl<H: Host> BodyCx<H> {
    pub(crate) fn new(
        engine: &Arc<Engine<H>>,
        run: &Arc<Run<H>>,
        task: TaskRef,
        entered: Entered,
        parker: &Arc<Parker<H>>,
        permit: Option<Permit<H>>,
        limit: Option<Arc<Limit<H>>>,
    ) -> Self {
        Self {
            engine: Arc::clone(engine),
            run: Arc::clone(run),
            task,
            entered,
            parker: Arc::clone(parker),
            thread: std::thread::current().id(),
            permit: Mutex::new(permit),
            uses: Mutex::default(),
            ended: AtomicBool::new(false),
            suspended: AtomicBool::new(false),
            limit,
            inside: Mutex::new(None),
        }
    }

    /// The run.
    #[must_use]
    pub fn run(&self) -> &Arc<Run<H>> {
        &self.run
    }

    /// The engine.
    #[must_use]
    pub fn engine(&self) -> &Arc<Engine<H>> {
        &self.engine
    }

    /// The task's name.
    #[must_use]
    pub fn task_name(&self) -> &Arc<str> {
        self.run.flow.graph.name(self.task.ix)
    }

    /// Which try this is, from 1.
    #[must_use]
    pub fn attempt(&self) -> u32 {
        self.entered.attempt
    }

    /// Whether the body holds a slot now.
    #[must_use]
    pub fn is_slot_held(&self) -> bool {
        self.permit.lock().is_some()
    }

    /// Whether the body is being suspended.
    #[must_use]
    pub fn suspending(&self) -> bool {
        self.suspended.load(Ordering::Acquire)
    }

    /// Whether the body has returned.
    #[must_use]
    pub fn has_ended(&self) -> bool {
        self.ended.load(Ordering::Acquire)
    }

    /// The body has returned: gives its slot back to the worker, if it has one.
    pub(crate) fn end(&self) -> Option<Permit<H>> {
        self.ended.store(true, Ordering::Release);
        self.permit.lock().take()
    }

    fn usable(&self, what: &str) -> Result<(), WaitError> {
        if self.has_ended() {
            return Err(WaitError::Over(Refused::AttemptOver));
        }
        if self.suspending() || self.run.is_lost() {
            return Err(self.suspend());
        }
        if self.limit.as_ref().is_some_and(|limit| limit.is_reached()) {
            return Err(self.used_up());
        }
        if let Some(inside) = &*self.inside.lock() {
            let inside = match inside {
                Inside::Condition(name) => format!("the condition '{name}'"),
                Inside::Step(name) => format!("the step '{name}'"),
            };
            return Err(WaitError::Misuse(format!(
                "{what} inside {inside}: a step or a condition must not wait or record a step of its own"
            )));
        }
        if std::thread::current().id() != self.thread {
            return Err(WaitError::Misuse(format!(
                "{what} from another thread than the body's: only the body itself can wait and record steps"
            )));
        }
        if self.engine.is_closing() {
            return Err(self.suspend());
        }
        Ok(())
    }

    fn suspend(&self) -> WaitError {
        self.suspended.store(true, Ordering::Release);
        WaitError::Suspended
    }

    fn used_up(&self) -> WaitError {
        WaitError::TimedOut(format!("task '{}' has used up its time", self.task_name()))
    }

    /// What the journal knows of the next wait or step, and under which key it is recorded.
    fn recall(&self, asked: &Asked) -> Result<(EntryKey, Recall), WaitError> {
        let mut uses = self.uses.lock();
        let recall = self.run.state.lock().recall(self.task, self.entered.attempt, &mut uses, asked);
        recall.map_err(WaitError::Over)
    }
}

impl<H: Host<Dispatch = Pool<H>>> BodyCx<H> {
    /// Before something that others may be doing by now if this process hung: a poll, a step.
    fn sure_of_lease(&self, at: &mut dyn Attached) -> Result<(), WaitError> {
        if self.engine.is_sure_of_lease(at) && !self.run.is_lost() { Ok(()) } else { Err(self.suspend()) }
    }

    /// Commits an event of this body. On a failure the body is to unwind.
    fn commit(&self, at: &mut dyn Attached, event: Event) -> Result<(), WaitError> {
        let group = self.permit.lock().as_ref().map(|permit| Arc::clone(permit.group()));
        let outcome = at.detach(|| self.engine.commit_own(group.as_deref(), &self.run, event));
        self.told(outcome)
    }

    /// What a commit of this body's own came to.
    fn told(&self, outcome: Result<(), Lost>) -> Result<(), WaitError> {
        outcome.map_err(|lost| match lost {
            Lost::Refused(refused) if !self.run.is_lost() => WaitError::Over(refused),
            Lost::Refused(_) | Lost::Stopped => self.suspend(),
        })
    }

    fn executing(&self) -> Executing<H> {
        Executing { run: Arc::clone(&self.run), task: self.task, attempt: self.entered.attempt }
    }

    fn wait_event(&self, wait: Wait) -> Event {
        Event::Opened { task: self.task, attempt: self.entered.attempt, wait }
    }

    fn recorded(&self, wait: Wait, result: Result<Value, Failure>) -> Event {
        Event::Recorded { task: self.task, attempt: self.entered.attempt, wait, result }
    }

    fn closed(&self, key: EntryKey, result: Result<Value, Failure>, proved: bool) -> Event {
        Event::Closed { task: self.task, attempt: self.entered.attempt, key, result, proved, retry: None }
    }

    /// The recorded code differs from this one: the run is paused until a fixed deploy resumes it.
    fn mismatch(&self, at: &mut dyn Attached, why: String) -> WaitError {
        let reason = format!("task '{}': {why}", self.task_name());
        match self.commit(at, Event::Block { reason: format!("{MISMATCH}{reason}").into() }) {
            Ok(()) => WaitError::Mismatch(reason),
            Err(error) => error,
        }
    }

    /// Begins a step: what is recorded of it, or a ticket to execute it. Inside it nothing else may be recorded.
    /// `older` gives the proof as the first version of bide computed it; it is asked only if the journal has such.
    ///
    /// # Errors
    /// See [`WaitError`]; other arguments than recorded are a `Mismatch`.
    pub fn begin_step(
        &self,
        at: &mut dyn Attached,
        name: &Arc<str>,
        proof: Option<Arc<[u8]>>,
        older: &mut dyn FnMut() -> Option<Arc<[u8]>>,
    ) -> Result<StepStart, WaitError> {
        self.usable("a step")?;
        self.sure_of_lease(at)?;
        let has_older = self.run.state.lock().has_older_steps(self.task.ix);
        let older = if has_older { older() } else { None };
        let asked = Asked { older, advice: H::STEP_ADVICE, ..Asked::new(Arc::clone(name), EntryKind::Step, proof) };
        let (key, recall) = self.recall(&asked)?;
        let proof = asked.proof;
        match recall {
            Recall::Satisfied(value) => Ok(StepStart::Returned(value)),
            Recall::Failed(failure) => Ok(StepStart::Raised(failure)),
            Recall::Mismatch(why) => Err(self.mismatch(at, why)),
            Recall::Ask { .. } | Recall::Open { .. } => {
                *self.inside.lock() = Some(Inside::Step(Arc::clone(name)));
                Ok(StepStart::Execute(StepTicket { key, proof }))
            }
        }
    }

    /// Ends a step: commits what it came to.
    ///
    /// # Errors
    /// See [`WaitError`]; then it is not recorded, and will be executed again.
    pub fn end_step(
        &self,
        at: &mut dyn Attached,
        ticket: StepTicket,
        result: Result<Value, Failure>,
    ) -> Result<(), WaitError> {
        *self.inside.lock() = None;
        let StepTicket { key, proof } = ticket;
        let wait = Wait { key, kind: EntryKind::Step, proof, due: None, timeout: None };
        self.commit(at, self.recorded(wait, result))
    }

    /// Leaves a step without recording it: it was interrupted.
    pub fn abandon_step(&self, _ticket: StepTicket) {
        *self.inside.lock() = None;
    }
}
