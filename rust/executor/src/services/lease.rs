//! The lease thread: renews the runner's lease, polls the store for changes by other processes, recovers runs without
//! an owner, and checks the runs that callers here watch. Of a client it only polls and checks.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use bide_store::{ChangedRuns, Changes, Seen, StoreError};

use crate::control::Control;
use crate::failpoint::{self, Failpoint};
use crate::host::{Dispatch, Host};
use crate::runs::children::Children;
use crate::runs::mail::Mail;
use crate::runs::recover::Recovery;
use crate::runs::sharing::LOOK_FOR_ROOM;
use crate::runs::watch::Watch;
use crate::services::schedules::SchedulesService;
use crate::services::{Service, Signal};

/// How long the thread waits for changes of the store before it does its other work.
const LOOK: Duration = Duration::from_millis(50);

/// How often the lease is renewed; it runs out after three times as long.
const RENEW: Duration = Duration::from_secs(5);

/// How long after its start a runner reports the runs that it cannot continue: by then its workflows are registered.
const STRANDED: Duration = Duration::from_secs(1);

/// What the thread works with.
pub(crate) struct LeaseService<H: Host> {
    /// The store and its lease.
    control: Arc<Control<H>>,
    /// Recovers runs without an owner.
    recovery: Arc<Recovery<H>>,
    /// Checks the runs that callers wait for.
    watch: Arc<Watch<H>>,
    /// Hands out the messages that others have left in the store.
    mail: Arc<Mail<H>>,
    /// Finds the ends of children that are executed elsewhere.
    children: Arc<Children<H>>,
    /// Serves the schedules of the store.
    schedules: Arc<SchedulesService<H>>,
    /// How often the thread has begun and ended to handle changes: odd while it does.
    handled: AtomicU64,
    /// Set when the thread is to end.
    stop: Signal,
}

/// The state of the thread from one turn to the next.
pub(crate) struct LeaseState {
    /// When the lease was renewed last, by the machine's clock.
    renewed: Duration,
    /// When the thread last looked at what is no change of the store.
    looked: Option<Duration>,
    /// The last change of the store that was handled.
    seen: Seen,
    /// The number of the last message that was handed out.
    mail: i64,
    /// How often the store had lost commits when this was learned.
    history: u64,
    /// When the runs are reported that this runner cannot continue; none once that is done.
    report: Option<Duration>,
}

impl LeaseState {
    /// The lease was taken at this time of the machine.
    pub(crate) fn since(renewed: Duration) -> Self {
        Self { renewed, looked: None, seen: Seen::default(), mail: 0, history: 0, report: Some(renewed + STRANDED) }
    }
}

impl<H: Host> Service for LeaseService<H> {
    fn name(&self) -> &'static str {
        "bide-lease"
    }

    fn run(&self, started: &Signal) {
        let mut state = LeaseState::since(self.control.clock.machine());
        started.set();
        self.wait_first();
        while !self.stop.is_set() {
            // A store that cannot be asked must not be asked without a rest.
            let span = if self.control.sharing.has_left() { LOOK_FOR_ROOM } else { LOOK };
            if !self.turn(&mut state, span) {
                self.stop.wait_for(LOOK);
            }
        }
    }

    fn stop(&self) {
        self.stop.set();
        self.control.store().interrupt_waits();
    }
}

impl<H: Host> LeaseService<H> {
    pub(crate) fn new(
        control: &Arc<Control<H>>,
        recovery: &Arc<Recovery<H>>,
        watch: &Arc<Watch<H>>,
        mail: &Arc<Mail<H>>,
        children: &Arc<Children<H>>,
        schedules: &Arc<SchedulesService<H>>,
    ) -> Arc<Self> {
        let (control, recovery, watch) = (Arc::clone(control), Arc::clone(recovery), Arc::clone(watch));
        let (mail, children, schedules) = (Arc::clone(mail), Arc::clone(children), Arc::clone(schedules));
        let (handled, stop) = (AtomicU64::new(0), Signal::default());
        Arc::new(Self { control, recovery, watch, mail, children, schedules, handled, stop })
    }

    /// Waits before the first turn, which looks at everything: the thread that opens the runner registers workflows
    /// meanwhile, and that claims what there is. But what another process reports is dealt with at once.
    fn wait_first(&self) {
        let store = self.control.store();
        let now = store.wait_for_changes(Seen::default(), Duration::ZERO);
        // Asked after the position was taken: a stop from here on ends the wait.
        if self.stop.is_set() {
            return;
        }
        if now.and_then(|now| store.wait_for_changes(now.seen, LOOK)).is_err() {
            self.stop.wait_for(LOOK);
        }
    }

    /// `None`: the thread handles changes; it may have claimed runs that have not begun. Else a number that changes if it
    /// does.
    pub(crate) fn rest(&self) -> Option<u64> {
        let handled = self.handled.load(Ordering::SeqCst);
        handled.is_multiple_of(2).then_some(handled)
    }

    /// One turn of the thread: waits for changes, renews the lease if it is time, and handles the changes. False if it
    /// could not wait.
    pub(crate) fn turn(&self, state: &mut LeaseState, timeout: Duration) -> bool {
        let control = &self.control;
        if control.stopped().is_some() {
            return false;
        }
        failpoint::hit(Failpoint::Lease);
        let changes = control.store().wait_for_changes(state.seen, timeout);
        let waited = changes.is_ok();
        if self.stop.is_set() {
            return waited;
        }
        self.handled.fetch_add(1, Ordering::SeqCst);
        let now = control.clock.machine();
        let renews = now.saturating_sub(state.renewed) >= RENEW || !(control.is_client() || control.lease_holds());
        let mut outcome = Ok(());
        if renews {
            state.renewed = now;
            if !control.is_client() {
                outcome = self.renew();
            }
        }
        let outcome = outcome.and(changes).and_then(|changes| self.handle(&changes, renews, state));
        match outcome {
            Ok(()) => {}
            Err(error @ StoreError::Busy { .. }) => control.warn(&error.to_string()),
            Err(error) => control.break_down(&error),
        }
        self.handled.fetch_add(1, Ordering::SeqCst);
        waited
    }

    fn renew(&self) -> Result<(), StoreError> {
        if self.control.renew()? { Ok(()) } else { self.recovery.recover() }
    }

    /// The store has lost commits that it had confirmed: what was read of it before says nothing any more.
    fn begin_anew(&self, state: &mut LeaseState) -> Result<(), StoreError> {
        let history = self.control.store().history();
        if history != state.history {
            // First of all: runs are claimed by the numbers of their workflows.
            self.recovery.keep_registered()?;
            self.schedules.begin_anew();
            self.recovery.recover()?;
            state.mail = 0;
            state.history = history;
        }
        Ok(())
    }

    fn handle(&self, changes: &Changes, renewed: bool, state: &mut LeaseState) -> Result<(), StoreError> {
        let history = state.history;
        self.begin_anew(state)?;
        let all = Changes { seen: changes.seen, unowned: true, mail: true, limits: true, runs: ChangedRuns::Any };
        let changes = if state.history == history { changes } else { &all };
        self.recovery.give_back()?;
        if changes.unowned {
            self.recovery.recover()?;
        } else if self.control.sharing.has_left() {
            self.recovery.recover_left()?;
        }
        if !self.control.is_client() && state.report.is_some_and(|at| self.control.clock.machine() >= at) {
            state.report = None;
            self.recovery.report_stranded()?;
        }
        if changes.limits {
            self.control.limits.others_changed();
        }
        self.mail.look(changes, &mut state.mail)?;
        if !self.control.is_client() {
            self.schedules.look(changes)?;
        }
        self.children.look(if renewed { &ChangedRuns::Any } else { &changes.runs })?;
        if renewed && !self.control.is_client() {
            self.recovery.enter_for_stranded()?;
        }
        let now = self.control.clock.machine();
        if state.looked.is_none_or(|looked| now.saturating_sub(looked) >= LOOK) {
            state.looked = Some(now);
            if let Some(warning) = self.control.store().warning() {
                self.control.warn(&warning);
            }
            self.control.report_unobserved(Some(now));
            self.control.dispatch.look();
        }
        // Whether a runner is late with its lease shows without a change.
        self.watch.look(if renewed { &ChangedRuns::Any } else { &changes.runs })?;
        // Only now: changes that could not be handled are seen again.
        state.seen = changes.seen;
        Ok(())
    }
}
