//! What a body with a handle can do: ask where it is; `body/steps.rs`: record steps, on any thread; `body/waits.rs`:
//! wait, on its own thread; `body/children.rs`: start child runs; `body/show.rs`: emit events.
//!
//! This drives the attempt machine of `bide_core::attempt`: the machine decides, this carries its actions out.

mod children;
mod records;
mod show;
mod steps;
mod waits;

pub use children::{StartIdentity, StartedChild};
pub use steps::{StepEnd, StepRequest, StepStart};
pub use waits::Check;

use std::sync::Arc;
use std::thread::ThreadId;
use std::time::Duration;

use bide_core::attempt::{Action, Attempt, Call, CallError, Caller, Fed, Request, Standing};
use bide_core::{Event, PollPolicy, TaskRef, Value};
use bide_sync::Mutex;

use crate::engine::Engine;
use crate::host::{Attached, Host};
use crate::ledger::Lost;
use crate::runs::run::Run;
use crate::threads::limit::Limit;
use crate::threads::pool::{Executing, Parker, Permit, Pool};

/// The engine as a body with a handle sees it.
pub struct BodyCx<H: Host> {
    /// The engine that executes the body.
    engine: Arc<Engine<H>>,
    /// Its run.
    run: Arc<Run<H>>,
    /// Its task.
    task: TaskRef,
    /// What it may call now. Never locked while code of the user's executes.
    attempt: Mutex<Attempt>,
    /// Where its thread sleeps.
    parker: Arc<Parker<H>>,
    /// Its thread: a handle is of no use on another one.
    thread: ThreadId,
    /// Its right to a slot; none while it is deferred, and once it has ended.
    permit: Mutex<Option<Permit<H>>>,
    /// How long it may execute, if its task says so.
    limit: Option<Arc<Limit<H>>>,
    /// The child runs that it has started and not waited for yet, so that their results are read from memory. Dropped
    /// with its end: what the host keeps with a child may lead back to this.
    children: Mutex<children::Started<H>>,
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

impl<H: Host> BodyCx<H> {
    /// Made in a frame of its own, which is gone when the body parks.
    #[inline(never)]
    pub(crate) fn new(
        engine: &Arc<Engine<H>>,
        run: &Arc<Run<H>>,
        task: TaskRef,
        attempt: u32,
        parker: &Arc<Parker<H>>,
        permit: Option<Permit<H>>,
        limit: Option<Arc<Limit<H>>>,
    ) -> Arc<Self> {
        let name = Arc::clone(run.workflow.graph.name(task.ix));
        Arc::new(Self {
            engine: Arc::clone(engine),
            run: Arc::clone(run),
            task,
            attempt: Mutex::new(Attempt::new(task, name, attempt)),
            parker: Arc::clone(parker),
            thread: std::thread::current().id(),
            permit: Mutex::new(permit),
            limit,
            children: Mutex::default(),
        })
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
    pub fn task_name(&self) -> Arc<str> {
        self.run.workflow.graph.name_of(self.task)
    }

    /// Which try this is, from 1.
    #[must_use]
    pub fn attempt(&self) -> u32 {
        self.attempt.lock().number()
    }

    /// Whether the body holds a slot now.
    #[must_use]
    pub fn is_slot_held(&self) -> bool {
        self.permit.lock().is_some()
    }

    /// Whether the body is being suspended.
    #[must_use]
    pub fn suspending(&self) -> bool {
        self.attempt.lock().is_suspended()
    }

    /// Whether the run was cancelled.
    #[must_use]
    pub fn is_cancelled(&self) -> bool {
        self.run.state.lock().cancel().is_some()
    }

    /// Whether the body has returned.
    #[must_use]
    pub fn has_ended(&self) -> bool {
        self.attempt.lock().has_ended()
    }

    /// Whether the body only reads what an earlier entry of it has recorded.
    #[must_use]
    pub fn is_replaying(&self) -> bool {
        self.attempt.lock().is_replaying(&self.run.state.lock())
    }

    /// The state of the body's last checkpoint.
    #[must_use]
    pub fn last_checkpoint(&self) -> Option<Value> {
        self.run.state.lock().last_checkpoint(self.task).cloned()
    }

    /// Whether the calling thread is the body's.
    #[must_use]
    pub fn is_own_thread(&self) -> bool {
        std::thread::current().id() == self.thread
    }

    /// See [`Attempt::may_have_records`].
    pub(crate) fn may_have_records(&self) -> bool {
        self.attempt.lock().may_have_records()
    }

    /// The body has returned: returns its slot to the worker, if it has one.
    pub(crate) fn end(&self) -> Option<Permit<H>> {
        self.attempt.lock().end();
        let children = self.children.lock().take();
        drop(children);
        self.permit.lock().take()
    }

    fn begin(&self, name: &Arc<str>, request: Request) -> Result<Box<Call>, CallError> {
        let standing = self.standing();
        self.attempt.lock().begin(name, request, standing)
    }

    fn standing(&self) -> Standing {
        Standing {
            lost: self.run.is_lost(),
            closing: self.engine.is_closing(),
            used_up: self.limit.as_ref().is_some_and(|limit| limit.is_reached()),
            caller: if self.is_own_thread() { Caller::Body } else { Caller::Elsewhere },
            longest: self.engine.longest_name(),
        }
    }

    fn advance(&self, call: &mut Call, fed: Fed) -> Action {
        self.attempt.lock().advance(call, fed, &*self.engine)
    }
}

impl<H: Host<Dispatch = Pool<H>>> BodyCx<H> {
    /// Feeds a call, and carries out its actions up to one that needs more than the engine. What it is fed stays where
    /// its caller has it, because every frame of a wait counts.
    fn drive(&self, at: &mut dyn Attached, call: &mut Call, fed: &mut Fed) -> Action {
        loop {
            let asked = matches!(fed, Fed::Asked(_));
            let action = self.advance(call, std::mem::replace(fed, Fed::Stopped));
            if asked {
                self.run.note_error(self.task, call.last_error());
            }
            *fed = match action {
                Action::CheckLease
                    if self.engine.is_sure_of_lease(at) && !self.run.is_lost() && !self.run.is_over() =>
                {
                    Fed::LeaseHeld
                }
                Action::CheckLease => Fed::LeaseLost,
                Action::Recall => {
                    let recalled = self.attempt.lock().recall(call, &mut self.run.state.lock());
                    if call.is_pushed() && !self.is_committed(at) { Fed::Stopped } else { recalled }
                }
                Action::Commit(event) => self.commit(at, call, *event),
                Action::Read => {
                    let closed = self.attempt.lock().read(call, &self.run.state.lock());
                    if closed.is_some() && !self.is_committed(at) { Fed::Stopped } else { Fed::EntryRead(closed) }
                }
                action => return action,
            };
        }
    }

    /// Waits for a commit under way in which the run has a part. True if what was read from the run's state before is
    /// committed: the machine closes waits by itself, in a batch that may still fail. False if the engine has stopped, or
    /// has lost the run.
    fn is_committed(&self, at: &mut dyn Attached) -> bool {
        let ledger = &self.engine.path().ledger;
        if !ledger.has_committed(&self.run) {
            at.detach(|| drop(ledger.lock()));
        }
        self.engine.stopped().is_none() && !self.run.is_lost()
    }

    /// Commits an event of this body, with its slot held.
    #[inline(never)]
    fn commit(&self, at: &mut dyn Attached, call: &Call, event: Event) -> Fed {
        let opens = matches!(event, Event::Opened { .. });
        // The slot's group is that of the thread that executes on it.
        let permit = self.is_own_thread().then(|| self.permit.lock());
        let group = permit.and_then(|permit| permit.as_ref().map(|permit| Arc::clone(permit.group())));
        let outcome = at.detach(|| self.engine.commit_own(group.as_deref(), &self.run, event));
        match outcome {
            Ok(()) if opens => Fed::Committed { deadline: self.run.state.lock().deadline(self.task, call.key()) },
            Ok(()) => Fed::Committed { deadline: None },
            Err(Lost::Refused(refused)) if !self.run.is_lost() => Fed::Refused(refused),
            Err(_) => Fed::Stopped,
        }
    }

    fn executing(&self) -> Executing<H> {
        Executing { run: Arc::clone(&self.run), task: self.task, attempt: self.attempt() }
    }
}
