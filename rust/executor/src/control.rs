//! The control of an engine: its store, its lease, whether it may act, and how it stops.
//!
//! All parts that commit, execute or serve an engine depend on this one. It decides nothing about runs (core does) and
//! nothing about which body executes (the slot machine does).

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use bide_core::observe::Happened;
use bide_core::shown::shown;
use bide_store::{Lease, Store, StoreError};
use bide_sync::{Mutex, MutexGuard, RwLock};

use crate::clock::Clock;
use crate::closed::Closed;
use crate::crash::Crash;
use crate::host::{Attached, Dispatch, Host, Ready};
use crate::lease_term::LeaseTerm;
use crate::limits::Limiter;
use crate::log::{Level, Log, SharedLog};
use crate::meter::Meter;
use crate::retrying::Retrying;
use crate::runs::answers::Requests;
use crate::runs::follow::Followers;
use crate::runs::live::LiveRuns;
use crate::runs::run::Run;
use crate::runs::settled::Settlement;
use crate::runs::sharing::Sharing;
use crate::runs::suspects::{Suspects, Turn};
use crate::runs::unobserved::Unobserved;
use crate::slot_queue::SlotQueue;

/// What an engine is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Role {
    /// It executes runs, under a lease.
    Runner,
    /// It submits, sends and looks. It has no lease, and executes nothing.
    Client,
}

/// Called with what has happened to a run, once it is committed, on any thread; must not block.
pub type Observer<H> = Box<dyn Fn(&Arc<Run<H>>, &[Happened]) + Send + Sync>;

/// The default of how long a body of a cancelled run may execute to clean up.
pub(crate) const CANCEL_GRACE: Duration = Duration::from_secs(60);

/// The default of how long that may take by the wall.
pub(crate) const CANCEL_LIMIT: Duration = Duration::from_secs(3600);

/// An engine's right to act.
pub(crate) struct Control<H: Host> {
    /// What it is for.
    role: Role,
    /// The one clock of the engine.
    pub(crate) clock: Arc<dyn Clock>,
    /// How bodies get to execute.
    pub(crate) dispatch: H::Dispatch,
    /// The runs in memory: dropped when the lease is lost and when the engine stops.
    pub(crate) runs: LiveRuns<H>,
    /// Those who follow what runs show.
    pub(crate) followers: Followers,
    /// When it crashes, if a test has asked for that.
    pub(crate) crash: Crash,
    /// The requests whose senders wait here.
    pub(crate) requests: Requests,
    /// What limits hold back.
    pub(crate) limits: Limiter<H>,
    /// The bodies that wait for a slot to continue.
    pub(crate) slot_queue: SlotQueue,
    /// What it leaves to other runners of a shared store.
    pub(crate) sharing: Sharing,
    /// How many bytes a name may have in the store.
    pub(crate) longest_name: Option<usize>,
    /// Counts what it does.
    pub(crate) meter: Meter,
    /// How long a body of a cancelled run may execute to clean up, and how long that may take by the wall.
    cancel_grace: Mutex<(Duration, Duration)>,
    /// The store; once released, one that refuses everything.
    store: RwLock<Arc<dyn Store>>,
    /// The lease under which runs are executed now.
    lease: RwLock<Lease>,
    /// Until when that lasts.
    term: LeaseTerm,
    /// How often the store had lost commits when it was given.
    history: AtomicU64,
    /// The bodies that may have ended an earlier process; shared by all engines of this one.
    suspects: Arc<Suspects>,
    /// Why nothing is committed any more. Set once, by the thread that stops the engine.
    stopped: OnceLock<Settlement>,
    /// No body starts or resumes any more.
    closing: AtomicBool,
    /// The lease and the store were released.
    released: AtomicBool,
    /// Writes a line to the host's log.
    log: SharedLog,
    /// Called with what happens, once somebody observes.
    pub(crate) observer: OnceLock<Observer<H>>,
    /// Runs that failed or are paused, to be logged unless a caller gets to know it.
    pub(crate) unobserved: Unobserved<H>,
}

impl<H: Host> Control<H> {
    /// Gets a lease from the store, if it is to execute runs.
    ///
    /// # Errors
    /// If the store gives none.
    pub(crate) fn enroll(
        role: Role,
        store: Arc<dyn Store>,
        clock: Arc<dyn Clock>,
        dispatch: H::Dispatch,
        log: Log,
        suspects: Arc<Suspects>,
    ) -> Result<Arc<Self>, StoreError> {
        let clock = store.clock(clock);
        let log = SharedLog::from(log);
        let store = Retrying::around(store, &clock, &log);
        let now = clock.lease_time();
        let history = AtomicU64::new(store.history());
        let lease = match role {
            Role::Runner => store.enroll(now)?,
            Role::Client => Lease::NONE,
        };
        Ok(Arc::new(Self {
            role,
            dispatch,
            runs: LiveRuns::default(),
            followers: Followers::default(),
            crash: Crash::default(),
            requests: Requests::default(),
            limits: Limiter::new(store.longest_name()),
            slot_queue: SlotQueue::default(),
            sharing: Sharing::new(store.is_shared()),
            longest_name: store.longest_name(),
            meter: Meter::new(&clock),
            clock,
            cancel_grace: Mutex::new((CANCEL_GRACE, CANCEL_LIMIT)),
            store: RwLock::new(store),
            lease: RwLock::new(lease),
            term: LeaseTerm::beginning(now),
            history,
            suspects,
            stopped: OnceLock::new(),
            closing: AtomicBool::new(false),
            released: AtomicBool::new(false),
            log,
            observer: OnceLock::new(),
            unobserved: Unobserved::default(),
        }))
    }

    pub(crate) fn store(&self) -> Arc<dyn Store> {
        Arc::clone(&self.store.read())
    }

    /// Whether it executes nothing.
    pub(crate) fn is_client(&self) -> bool {
        self.role == Role::Client
    }

    pub(crate) fn lease(&self) -> Lease {
        *self.lease.read()
    }

    /// How long a body of a cancelled run may execute to clean up, and how long that may take by the wall.
    pub(crate) fn cancel_grace(&self) -> (Duration, Duration) {
        *self.cancel_grace.lock()
    }

    /// Sets that, for runs that are cancelled from here on.
    pub(crate) fn set_cancel_grace(&self, grace: Duration, limit: Duration) {
        *self.cancel_grace.lock() = (grace, limit);
    }

    /// Writes a line to the host's log, names in it escaped.
    pub(crate) fn log(&self, level: Level, line: &str) {
        (self.log)(level, &shown(line));
    }

    /// Logs the runs that have failed or are paused and of which no caller has got to know: those that ended a moment ago,
    /// or all.
    pub(crate) fn report_unobserved(&self, now: Option<Duration>) {
        self.unobserved.take(now).iter().for_each(|line| self.log(Level::Error, line));
    }

    pub(crate) fn warn(&self, line: &str) {
        self.log(Level::Warning, line);
    }

    pub(crate) fn dispatch_ready(&self, ready: &mut Vec<Ready<H>>) {
        self.limits.hold(ready);
        if !ready.is_empty() {
            self.dispatch.ready(ready);
        }
    }
}

/// The end.
impl<H: Host> Control<H> {
    /// Why the engine does nothing more, if so.
    pub(crate) fn stopped(&self) -> Option<&Settlement> {
        self.stopped.get()
    }

    /// Whether it is being closed: no body starts or resumes any more.
    pub(crate) fn is_closing(&self) -> bool {
        self.closing.load(Ordering::Acquire)
    }

    /// Stops at once because of the store: nothing is committed any more, and every caller gets the error.
    pub(crate) fn break_down(&self, error: &StoreError) {
        if self.stop_over(error) {
            self.report_stop(error);
        }
    }

    /// First half of it: nothing is committed any more. True if the caller is to do the second half.
    pub(crate) fn stop_over(&self, error: &StoreError) -> bool {
        self.stopped.set(Settlement::Broken(Box::new(error.clone()))).is_ok()
    }

    /// Second half of it, without the commit lock.
    pub(crate) fn report_stop(&self, error: &StoreError) {
        self.wind_up(&Settlement::Broken(Box::new(error.clone())), &error.to_string());
    }

    /// Stops at once because of a bug in bide; `why` is what [`Host::no_panic`] made of it.
    pub(crate) fn panicked(&self, why: &str) {
        let settlement = Settlement::Panicked(why.into());
        if self.stopped.set(settlement.clone()).is_ok() {
            self.wind_up(&settlement, why);
        }
    }

    fn wind_up(&self, settlement: &Settlement, why: &str) {
        if !self.crash.is_planned() {
            self.log(Level::Error, &format!("the runner on {} stops: {why}", self.store().name()));
        }
        self.closing.store(true, Ordering::Release);
        self.dispatch.close();
        self.limits.close();
        self.forget_suspects();
        self.runs.settle_all(settlement);
        self.followers.ring_where(|_| true);
    }

    /// No body starts or resumes any more, deferred ones are suspended.
    pub(crate) fn begin_close(&self) {
        if !self.closing.swap(true, Ordering::AcqRel) {
            self.dispatch.close();
            self.limits.close();
            self.forget_suspects();
        }
    }

    /// Nothing is committed any more, because the runner was closed. The caller holds the commit lock, so that the
    /// lease is released after the last commit.
    pub(crate) fn stop_closed(&self) {
        let _ = self.stopped.set(Settlement::Closed);
    }

    /// Releases the lease and the store; the second call does nothing.
    pub(crate) fn release_store(&self) {
        if self.released.swap(true, Ordering::AcqRel) {
            return;
        }
        // A runner that had to stop releases its lease if it can, too: elsewhere its runs then continue at once.
        let store = self.store();
        if !self.is_client()
            && !matches!(self.stopped(), Some(Settlement::Broken(error)) if matches!(**error, StoreError::Busy { .. }))
            && let Err(error) = store.leave(self.lease())
        {
            self.warn(&format!("the lease could not be given back: {error}"));
        }
        *self.store.write() = Arc::new(Closed { name: store.name().to_owned() });
        self.settle_late_comers();
    }

    /// Reports the end to callers of runs that were created while the engine stopped.
    pub(crate) fn settle_late_comers(&self) {
        if let Some(settlement) = self.stopped() {
            self.runs.settle_all(settlement);
            self.followers.ring_where(|_| true);
        }
    }
}

/// The lease.
impl<H: Host> Control<H> {
    /// Another runner has fenced a lease: every run in memory is dropped at once, and a new lease is taken. Several
    /// threads may find out about `lost`; the first one acts.
    pub(crate) fn fenced(&self, lost: Lease) {
        let mut lease = self.lease.write();
        if *lease != lost || self.stopped().is_some() || self.is_client() {
            return;
        }
        let history = self.store().history();
        self.warn(if self.history.swap(history, Ordering::AcqRel) == history {
            "the lease was lost: another runner has claimed the runs"
        } else {
            "the lease was lost: the store has lost commits, and all runs are read again"
        });
        self.runs.abandon_all();
        self.dispatch.lost();
        self.limits.lost();
        let now = self.clock.lease_time();
        match self.store().enroll(now) {
            Ok(new) => {
                *lease = new;
                self.term.begin(now);
            }
            Err(error) => {
                drop(lease);
                self.break_down(&error);
            }
        }
    }

    /// Renews the lease. False if it was lost: its runs are dropped, and there is a new one.
    pub(crate) fn renew(&self) -> Result<bool, StoreError> {
        let lease = self.lease();
        self.renew_once(lease, self.term.renewing())?;
        Ok(self.lease() == lease)
    }

    fn renew_once(&self, lease: Lease, _renewing: MutexGuard<'_, ()>) -> Result<(), StoreError> {
        let now = self.clock.lease_time();
        match self.store().renew(lease, now) {
            Ok(()) => self.term.begin(now),
            Err(StoreError::Fenced { .. }) => self.fenced(lease),
            Err(error) => return Err(error),
        }
        Ok(())
    }

    /// Whether the lease has not run out, by the clock: the check before each body.
    #[inline]
    pub(crate) fn lease_holds(&self) -> bool {
        self.lease_holds_at(self.clock.lease_micros())
    }

    /// The same, by what the clock has just shown ([`Clock::lease_micros`]).
    #[inline]
    pub(crate) fn lease_holds_at(&self, now: i64) -> bool {
        self.term.holds_at(now)
    }

    /// Renews a lease that has run out, before anything starts. False if nothing may start any more. Blocks if the
    /// lease has run out; a lost one drops its runs, so that what was about to start finds its run over.
    pub(crate) fn make_sure_of_lease(&self) -> bool {
        loop {
            let renewing = self.term.renewing();
            if self.stopped().is_some() || self.is_closing() {
                return false;
            }
            if self.lease_holds() {
                return true;
            }
            match self.renew_once(self.lease(), renewing) {
                Ok(()) => {}
                Err(error @ StoreError::Busy { .. }) => self.warn(&error.to_string()),
                Err(error) => self.break_down(&error),
            }
        }
    }

    /// As [`Control::make_sure_of_lease`], for a thread that holds what others want: it gives that up only if the lease
    /// has run out.
    #[inline]
    pub(crate) fn is_sure_of_lease(&self, at: &mut dyn Attached) -> bool {
        self.lease_holds() || at.detach(|| self.make_sure_of_lease())
    }
}

/// Suspects.
impl<H: Host> Control<H> {
    /// The body, if it is no suspect or may execute beside the suspects that do, with its turn. Otherwise it waits, and
    /// will be ready again.
    #[inline]
    pub(crate) fn admit_suspect(self: &Arc<Self>, ready: Ready<H>) -> Option<(Ready<H>, Option<Turn>)> {
        if ready.run.recovered { self.admit_recovered(ready) } else { Some((ready, None)) }
    }

    #[inline(never)]
    fn admit_recovered(self: &Arc<Self>, ready: Ready<H>) -> Option<(Ready<H>, Option<Turn>)> {
        let control = Arc::downgrade(self);
        let again = move |ready| {
            let control = control.upgrade().filter(|control| !control.is_closing());
            control.is_some_and(|control| {
                control.dispatch.ready(&mut vec![ready]);
                true
            })
        };
        self.suspects.admit(ready, self.number(), again)
    }

    /// The suspects that execute, wait or are cleared here.
    pub(crate) fn suspects(&self) -> &Suspects {
        &self.suspects
    }

    /// Nothing is made ready here any more: the suspects of other engines go first.
    fn forget_suspects(&self) {
        self.suspects.forget(self.number());
    }

    /// Identifies this engine among those of the process.
    fn number(&self) -> usize {
        std::ptr::from_ref(self).addr()
    }
}
