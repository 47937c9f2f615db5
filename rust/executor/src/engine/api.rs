//! What hosts and callers ask of an engine: the parts' own answers, without a decision here.

use std::sync::Arc;
use std::time::Duration;

use bide_core::record::StoredRun;
use bide_core::{Event, Graph, RunId, Time, Value};
use bide_store::{Lease, OpenWait, Sent, Standing, Store, StoreError, WaitPosition};

use crate::clock::Clock;
use crate::control::Observer;
use crate::engine::Engine;
use crate::host::{Attached, Dispatch, Host, Ready};
use crate::ledger::{CommitPath, Group, Lost};
use crate::log::Level;
use crate::runs::convert::NotAdopted;
use crate::runs::explain::Explained;
use crate::runs::fork::ForkRequest;
use crate::runs::mail::Letter;
use crate::runs::not_registered::NotRegistered;
use crate::runs::polls::Polls;
use crate::runs::requests::{Outlook, PendingRequest};
use crate::runs::run::{Inputs, RegisteredWorkflow, Run, RunRequest};
use crate::runs::settled::Settlement;
use crate::runs::submit::{SubmitError, ordered};
use crate::runs::suspects::Turn;
use crate::runs::watch::Handle;
use crate::runs::watched::WatchedRun;
use crate::services::timers::Timers;

/// The most requests to runs in one commit, since other commits wait for it.
const ASKED_TOGETHER: usize = 512;

/// For callers: workflows and runs.
impl<H: Host> Engine<H> {
    /// Registers a workflow, unless it is registered: its unfinished runs without an owner are recovered from now on.
    ///
    /// # Errors
    /// From the store.
    pub fn register(
        &self,
        graph: Arc<Graph>,
        bodies: Arc<[H::Body]>,
    ) -> Result<Arc<RegisteredWorkflow<H>>, StoreError> {
        let before = self.recovery.workflow(graph.workflow());
        let workflow = self.recovery.register(graph, bodies)?;
        self.serve_limits()?;
        if !before.is_some_and(|before| Arc::ptr_eq(&before, &workflow)) {
            self.schedules_service.registered();
        }
        Ok(workflow)
    }

    /// The workflow registered under this name.
    #[must_use]
    pub fn workflow(&self, name: &str) -> Option<Arc<RegisteredWorkflow<H>>> {
        self.recovery.workflow(name)
    }

    /// Creates runs in one commit, or attaches to those whose keys exist, and lets them begin. Blocks.
    ///
    /// # Errors
    /// None is created then; see [`SubmitError`]. (From the store also if the runs were created, but one that exists
    /// cannot be looked at.)
    pub fn submit(
        &self,
        workflow: &Arc<RegisteredWorkflow<H>>,
        requests: impl IntoIterator<Item = RunRequest<H>>,
    ) -> Result<Vec<Handle<H>>, SubmitError> {
        self.submitter.submit(workflow, requests)
    }

    /// Forks a run: creates the new one with all that it keeps, in one commit, and lets it begin. Blocks.
    ///
    /// # Errors
    /// There is no new run then; see [`SubmitError`].
    pub fn fork(
        &self,
        workflow: &Arc<RegisteredWorkflow<H>>,
        request: ForkRequest<H>,
    ) -> Result<Handle<H>, SubmitError> {
        self.submitter.fork(workflow, request)
    }

    /// Has a run that nobody executes continue with this workflow, because a person vouches for the fit. Blocks.
    ///
    /// # Errors
    /// From the store. The inner one: why it was not adopted.
    pub fn adopt(
        &self,
        run: RunId,
        workflow: &RegisteredWorkflow<H>,
        by: Option<Arc<str>>,
        reason: Option<Arc<str>>,
    ) -> Result<Result<(), NotAdopted>, StoreError> {
        self.recovery.adopt(run, workflow, by, reason, self.ids.message())
    }

    /// Creates runs as children of another, each in one commit with the record of its start in the journal of the body
    /// that starts them: an [`Event::ChildrenStarted`], one start for each request. Blocks.
    ///
    /// # Errors
    /// See [`Lost`]. Of many some may have been created.
    pub(crate) fn start_children(
        &self,
        parent: &Arc<Run<H>>,
        record: Event,
        workflow: &Arc<RegisteredWorkflow<H>>,
        requests: Vec<RunRequest<H>>,
    ) -> Result<Vec<Arc<Run<H>>>, Lost> {
        // If the store has lost rows and cannot record it now, the parent is lost too, which the commit finds.
        let current = self.recovery.current(workflow).unwrap_or_else(|_| Arc::clone(workflow));
        self.children.start(parent, record, &current, requests)
    }

    /// Why a run may start no child of this workflow, if it may not: there are too many levels above it.
    pub(crate) fn refuse_level(&self, run: &Run<H>, workflow: &RegisteredWorkflow<H>) -> Option<String> {
        self.children.refuse_level(run, workflow)
    }

    /// Sends a message to a run, wherever that is executed: it is committed when this returns. Blocks.
    ///
    /// # Errors
    /// From the store; the message was not sent, unless that is unknown.
    pub fn send(&self, letter: Letter) -> Result<Sent, StoreError> {
        self.mail.send(letter)
    }

    /// Asks something of a run, as a message: see [`bide_core::control`]. One that reopens a run has it claimed here,
    /// if its workflow is registered.
    ///
    /// # Errors
    /// From the store; the request was not made, unless that is unknown.
    pub fn ask(&self, run: RunId, control: &bide_core::Control) -> Result<Sent, StoreError> {
        let (address, content) = (control.address(), Ok(control.content()));
        if control.ask == (bide_core::Ask::Cancel { force: true })
            && self.live(run).is_none()
            && self.mail.end_unowned(run, control)?
        {
            for (child, status) in self.store().children(run)? {
                if !status.is_ended() {
                    self.ask(child, control)?;
                }
            }
            return Ok(Sent::Stored);
        }
        let sent = self.mail.send(Letter { run, address, id: None, content });
        // If the outcome is not known, the run may be reopened.
        if matches!(sent, Ok(Sent::Stored) | Err(StoreError::Unknown(_))) && self.live(run).is_none() {
            self.recovery.recover()?;
        }
        sent
    }

    /// As [`Engine::ask`], of many runs: those that are executed here share commits. Blocks.
    ///
    /// # Errors
    /// As there; some of the requests may have been made.
    pub fn ask_all(&self, runs: &[RunId], control: &bide_core::Control) -> Result<Vec<Sent>, StoreError> {
        if control.ask == (bide_core::Ask::Cancel { force: true }) {
            return runs.iter().map(|run| self.ask(*run, control)).collect();
        }
        let letter = |run: &RunId| {
            let (address, content) = (control.address(), Ok(control.content()));
            Letter { run: *run, address, id: None, content }
        };
        let mut sent = Vec::with_capacity(runs.len());
        for some in runs.chunks(ASKED_TOGETHER) {
            sent.extend(self.mail.send_all(some.iter().map(letter).collect()));
        }
        let stored = |sent: &Result<Sent, StoreError>| matches!(sent, Ok(Sent::Stored) | Err(StoreError::Unknown(_)));
        // If the outcome is not known, the run may be reopened.
        if runs.iter().zip(&sent).any(|(run, sent)| stored(sent) && self.live(*run).is_none()) {
            self.recovery.recover()?;
        }
        sent.into_iter().collect()
    }

    /// How long a body of a run that is cancelled from here on may execute to clean up, and how long that may take by
    /// the wall.
    pub fn set_cancel_grace(&self, grace: Duration, limit: Duration) {
        self.control.set_cancel_grace(grace, limit);
    }

    /// As [`Engine::send`], of many messages: those to runs that are executed here are one commit.
    pub fn send_all(&self, letters: Vec<Letter>) -> Vec<Result<Sent, StoreError>> {
        self.mail.send_all(letters)
    }

    /// Sends a request to a run: it is committed when this returns. Blocks.
    ///
    /// # Errors
    /// From the store; the request was not sent, unless that is unknown.
    pub fn request(&self, letter: Letter) -> Result<Result<PendingRequest<H>, Sent>, StoreError> {
        self.mail.request(letter)
    }

    /// How many senders wait here for the answers to requests that are committed.
    #[must_use]
    pub fn pending_requests(&self) -> usize {
        self.control.requests.waiting()
    }

    /// Withdraws a request, unless somebody has taken it. Blocks.
    ///
    /// # Errors
    /// From the store.
    pub fn withdraw(&self, request: &PendingRequest<H>) -> Result<(), StoreError> {
        self.mail.withdraw(request)
    }

    /// Whether a request may still be answered. Blocks.
    ///
    /// # Errors
    /// From the store.
    pub fn outlook(&self, request: &PendingRequest<H>) -> Result<Outlook, StoreError> {
        self.watch.outlook(request)
    }

    /// Orders inputs by name.
    #[must_use]
    pub fn ordered(inputs: Vec<(Arc<str>, Value)>) -> Inputs {
        ordered(inputs)
    }

    /// A handle of a run that exists.
    ///
    /// # Errors
    /// From the store.
    pub fn handle(&self, id: RunId) -> Result<Handle<H>, StoreError> {
        self.watch.handle(id)
    }

    /// A new handle of a run of which a settlement was reported that does not hold any more: it was claimed, resumed or
    /// retried since. Blocks.
    ///
    /// # Errors
    /// From the store.
    pub fn renewed(&self, handle: &Handle<H>) -> Result<Option<Handle<H>>, StoreError> {
        self.watch.renewed(handle)
    }

    /// Where to wait for a run that is executed elsewhere or not at all.
    ///
    /// # Errors
    /// From the store.
    pub fn watch(&self, id: RunId) -> Result<Arc<WatchedRun<H>>, StoreError> {
        self.watch.watch(id)
    }

    /// A watched run as it is stored. Blocks.
    ///
    /// # Errors
    /// From the store.
    pub fn load(&self, watched: &WatchedRun<H>) -> Result<Option<StoredRun>, StoreError> {
        self.watch.load(watched)
    }

    /// A run of this engine as it stands, with nothing in it that is not committed: what is being committed may still
    /// fail. Blocks, but not on a store that others keep locked: the answer is what its rows say then.
    ///
    /// # Errors
    /// From the store.
    pub fn committed(&self, run: &Run<H>) -> Result<StoredRun, StoreError> {
        self.watch.committed(run)
    }

    /// Why an unfinished run that no living runner has is not executed here. Blocks.
    #[must_use]
    pub fn why_not_here(&self, id: RunId, run: &Standing) -> Option<NotRegistered> {
        self.recovery.why_not_here(id, run)
    }

    /// What holds a run. `None` if there is none. Blocks.
    ///
    /// # Errors
    /// From the store.
    pub fn explain(&self, run: RunId) -> Result<Option<Explained>, StoreError> {
        self.watch.explain(run)
    }

    /// A page of the open waits of all runs, the oldest first, each with its polls if it is executed here. Blocks.
    ///
    /// # Errors
    /// From the store.
    pub fn open_waits(
        &self,
        after: Option<WaitPosition>,
        most: usize,
    ) -> Result<Vec<(OpenWait, Option<Polls>)>, StoreError> {
        self.watch.open_waits(after, most)
    }

    /// Has this called with all that happens from here on, once it is committed. The first one counts.
    pub fn observe(&self, observer: Observer<H>) {
        let _ = self.control.observer.set(observer);
    }

    /// Whether it executes nothing.
    #[must_use]
    pub fn is_client(&self) -> bool {
        self.control.is_client()
    }

    /// The live run of this row number.
    #[must_use]
    pub fn live(&self, id: RunId) -> Option<Arc<Run<H>>> {
        self.control.runs.get(id)
    }

    /// How many runs are in memory.
    #[must_use]
    pub fn live_count(&self) -> usize {
        self.control.runs.len()
    }

    /// Why the engine does nothing more, if so.
    #[must_use]
    pub fn stopped(&self) -> Option<&Settlement> {
        self.control.stopped()
    }

    /// How many bytes a name may have in the store; `None`: any number.
    #[must_use]
    pub fn longest_name(&self) -> Option<usize> {
        self.control.longest_name
    }

    /// Whether it is being closed: no body starts or resumes any more.
    #[must_use]
    pub fn is_closing(&self) -> bool {
        self.control.is_closing()
    }

    /// The store.
    #[must_use]
    pub fn store(&self) -> Arc<dyn Store> {
        self.control.store()
    }

    /// The lease under which runs are executed now.
    pub(crate) fn lease(&self) -> Lease {
        self.control.lease()
    }
}

/// For hosts: time, log and dispatcher.
impl<H: Host> Engine<H> {
    /// How bodies get to execute.
    #[must_use]
    pub fn dispatch(&self) -> &H::Dispatch {
        &self.control.dispatch
    }

    /// The clock.
    #[must_use]
    pub fn clock(&self) -> &Arc<dyn Clock> {
        &self.control.clock
    }

    /// The wall's time.
    #[must_use]
    pub fn now(&self) -> Time {
        self.control.clock.now()
    }

    /// The steady time.
    #[must_use]
    pub fn steady(&self) -> Duration {
        self.control.clock.steady()
    }

    /// A random number in 0..1, for jitter.
    #[must_use]
    pub fn random(&self) -> f64 {
        self.ids.random()
    }

    /// Writes a line to the host's log, names in it escaped.
    pub fn log(&self, level: Level, line: &str) {
        self.control.log(level, line);
    }

    /// Stops at once because of a bug in bide; `why` is what [`Host::no_panic`] made of it.
    pub fn panicked(&self, why: &str) {
        self.control.panicked(why);
    }
}

/// For hosts: what a body's thread or task asks before it executes, and where its events go.
impl<H: Host> Engine<H> {
    /// See [`crate::control::Control::lease_holds`].
    #[inline]
    #[must_use]
    pub fn lease_holds(&self) -> bool {
        self.control.lease_holds()
    }

    /// See [`crate::control::Control::make_sure_of_lease`].
    pub(crate) fn make_sure_of_lease(&self) -> bool {
        self.control.make_sure_of_lease()
    }

    /// See [`crate::control::Control::is_sure_of_lease`].
    #[inline]
    pub(crate) fn is_sure_of_lease(&self, at: &mut dyn Attached) -> bool {
        self.control.is_sure_of_lease(at)
    }

    /// See [`crate::control::Control::admit_suspect`].
    pub(crate) fn admit_suspect(&self, ready: Ready<H>) -> Option<(Ready<H>, Option<Turn>)> {
        self.control.admit_suspect(ready)
    }

    /// As [`Engine::lease_holds`], by what the clock has just shown ([`Clock::lease_micros`]).
    #[inline]
    pub(crate) fn lease_holds_at(&self, now: i64) -> bool {
        self.control.lease_holds_at(now)
    }

    /// See [`crate::services::lease::LeaseService::rest`].
    pub(crate) fn lease_rest(&self) -> Option<u64> {
        self.lease_service.rest()
    }

    /// What rings when a time has come.
    #[inline]
    pub(crate) fn timers(&self) -> &Timers {
        &self.timers
    }

    /// Where events are committed.
    #[inline]
    pub(crate) fn path(&self) -> &Arc<CommitPath<H>> {
        &self.path
    }

    /// Has bodies executed that may start.
    pub(crate) fn dispatch_ready(&self, ready: &mut Vec<Ready<H>>) {
        self.control.dispatch_ready(ready);
    }

    /// Leaves an event to the committer: for threads that must not block.
    pub(crate) fn enqueue(&self, run: Arc<Run<H>>, event: Event) {
        self.path.enqueue(run, event);
    }

    /// Commits a body's own event (after what has gathered on its slot). Blocks.
    ///
    /// # Errors
    /// See [`Lost`].
    pub(crate) fn commit_own(&self, group: Option<&Group<H>>, run: &Arc<Run<H>>, event: Event) -> Result<(), Lost> {
        self.path.commit_own(group, run, event)
    }

    /// Commits a group on the thread that made it. Bodies that become ready are added to `ready`. Blocks.
    pub(crate) fn commit_group(&self, group: &Group<H>, ready: &mut Vec<Ready<H>>) {
        self.path.commit_group(group, ready);
        self.control.limits.hold(ready);
        // What is left is for the slot that the group is of.
        self.dispatch().divert(ready);
    }
}
