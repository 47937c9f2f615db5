//! The schedules thread: knows the schedules of the store whose workflows are registered here, sleeps until the next of
//! their ticks by the engine's timers, and starts the runs of what is due.
//!
//! Every runner of a store serves its schedules. What is due is decided in core, and how it is committed in
//! `runs/schedules.rs`. The lease thread tells this one what has changed in the store.

use std::collections::{BTreeSet, HashMap, HashSet};
use std::sync::{Arc, Weak};
use std::time::Duration;

use bide_core::record::RunRowId;
use bide_core::schedules::{At, Schedule, Timetable, next_look};
use bide_core::{Ask, Control as Request, RunId, Time};
use bide_store::{ChangedRuns, Changes, ScheduleChanged, StoreError, StoredSchedule};
use bide_sync::{Condvar, Mutex};

use crate::control::Control;
use crate::host::Host;
use crate::log::Level;
use crate::runs::mail::{Letter, Mail};
use crate::runs::recover::Recovery;
use crate::runs::schedules::{Looked, Scheduler, Step};
use crate::services::timers::{Alarm, Key, Timers};
use crate::services::{Service, Signal};

/// How many schedules start runs in one commit.
const TOGETHER: usize = 64;

/// After an error that passes, this long until the next try.
const AGAIN: Duration = Duration::from_secs(1);

/// A schedule that waits for the end of a run is looked at this often, whatever has changed.
const RECHECK: Duration = Duration::from_secs(30);

/// What the thread works with.
pub(crate) struct SchedulesService<H: Host> {
    /// The store and the clock.
    control: Arc<Control<H>>,
    /// The registered workflows.
    recovery: Arc<Recovery<H>>,
    /// Cancels runs.
    mail: Arc<Mail<H>>,
    /// Decides and commits.
    scheduler: Arc<Scheduler<H>>,
    /// Wakes the thread at the next tick.
    timers: Arc<Timers>,
    /// What the thread was told.
    told: Mutex<Told>,
    /// Notified when there is something to do.
    changed: Condvar,
    /// The runs whose ends schedules wait for.
    awaited: Mutex<HashSet<RunRowId>>,
    /// For its alarms.
    me: Weak<Self>,
}

/// What the thread was told and has not seen yet.
#[derive(Default)]
struct Told {
    /// Schedules that have changed.
    rows: Vec<StoredSchedule>,
    /// The last revision that the lease thread has read.
    read: i64,
    /// What is known of the store's schedules says nothing any more.
    anew: bool,
    /// Something may be due.
    look: bool,
    /// A workflow was registered.
    registered: bool,
    /// A run whose end is awaited may have ended.
    ended: bool,
    /// The thread is at work.
    is_busy: bool,
    /// How often it has been at work: for those who want to know whether it was meanwhile.
    turns: u64,
    /// The thread is to end.
    stop: bool,
}

/// What the thread knows of the store's schedules, from one turn to the next.
#[derive(Default)]
pub(crate) struct Agenda {
    /// The schedules, by name.
    known: HashMap<Arc<str>, Known>,
    /// When each of those that are served is looked at next.
    times: BTreeSet<(Time, Arc<str>)>,
    /// Those that wait for the end of a run.
    waiting: BTreeSet<Arc<str>>,
    /// The alarm that is set.
    alarm: Option<(Time, Key)>,
}

/// A schedule.
struct Known {
    /// Its revision.
    revision: i64,
    /// What it says.
    schedule: Schedule,
    /// Its ticks.
    table: Timetable,
    /// Since when it is served here. `None`: its workflow is not registered.
    serving: Option<Time>,
    /// When it is looked at next: its place on the agenda.
    look: Option<Time>,
    /// The runs that were asked to cancel.
    cancelled: Vec<RunId>,
}

impl<H: Host> Alarm for SchedulesService<H> {
    fn ring(self: Arc<Self>, _ticket: u64) {
        self.tell(|told| told.look = true);
    }
}

impl<H: Host> Service for SchedulesService<H> {
    fn name(&self) -> &'static str {
        "bide-schedules"
    }

    fn run(&self, started: &Signal) {
        let mut agenda = Agenda::default();
        started.set();
        while self.wait() {
            self.turn(&mut agenda);
            self.told.lock().is_busy = false;
        }
    }

    fn stop(&self) {
        self.tell(|told| told.stop = true);
    }
}

impl<H: Host> SchedulesService<H> {
    pub(crate) fn new(
        control: &Arc<Control<H>>,
        recovery: &Arc<Recovery<H>>,
        mail: &Arc<Mail<H>>,
        scheduler: &Arc<Scheduler<H>>,
        timers: &Arc<Timers>,
    ) -> Arc<Self> {
        let (control, recovery, mail) = (Arc::clone(control), Arc::clone(recovery), Arc::clone(mail));
        let (scheduler, timers) = (Arc::clone(scheduler), Arc::clone(timers));
        let (told, changed, awaited) = (Mutex::default(), Condvar::new(), Mutex::default());
        Arc::new_cyclic(|me| Self {
            control,
            recovery,
            mail,
            scheduler,
            timers,
            told,
            changed,
            awaited,
            me: Weak::clone(me),
        })
    }

    fn tell(&self, what: impl FnOnce(&mut Told)) {
        what(&mut self.told.lock());
        self.changed.notify_one();
    }

    /// A workflow was registered: its schedules are served from now on.
    pub(crate) fn registered(&self) {
        self.tell(|told| told.registered = true);
    }

    /// The store has changed: called by the lease thread, which must not be kept.
    ///
    /// # Errors
    /// From the store.
    pub(crate) fn look(&self, changes: &Changes) -> Result<(), StoreError> {
        if changes.unowned {
            self.read()?;
        }
        let has_ended = {
            let awaited = self.awaited.lock();
            !awaited.is_empty()
                && match &changes.runs {
                    ChangedRuns::Any => true,
                    ChangedRuns::These(runs) => runs.iter().any(|run| awaited.contains(run)),
                }
        };
        if has_ended {
            self.tell(|told| told.ended = true);
        }
        Ok(())
    }

    /// The store has lost commits that it had confirmed, and may give the same revisions once more.
    pub(crate) fn begin_anew(&self) {
        self.tell(|told| {
            told.rows.clear();
            (told.read, told.anew) = (0, true);
        });
    }

    /// Tells the thread which schedules have changed since it was told last.
    ///
    /// # Errors
    /// From the store.
    pub(crate) fn read(&self) -> Result<(), StoreError> {
        let after = self.told.lock().read;
        let rows = self.control.store().schedules(after)?;
        if let Some(last) = rows.last() {
            let last = last.revision;
            self.tell(|told| {
                told.read = told.read.max(last);
                told.rows.extend(rows);
            });
        }
        Ok(())
    }

    /// Waits until there is something to do. False: the thread is to end.
    fn wait(&self) -> bool {
        let mut told = self.told.lock();
        while !told.stop && !told.has_work() {
            self.changed.wait(&mut told);
        }
        told.is_busy = true;
        told.turns += 1;
        !told.stop
    }

    /// One turn of the thread: takes in what it was told, and starts the runs of what is due.
    pub(crate) fn turn(&self, agenda: &mut Agenda) {
        let (rows, ended, registered, anew) = {
            let told = &mut *self.told.lock();
            told.look = false;
            let (rows, ended) = (std::mem::take(&mut told.rows), std::mem::take(&mut told.ended));
            (rows, ended, std::mem::take(&mut told.registered), std::mem::take(&mut told.anew))
        };
        if anew {
            *agenda = Agenda { alarm: agenda.alarm.take(), ..Agenda::default() };
        }
        if self.control.stopped().is_some() || self.control.is_closing() {
            return;
        }
        let finds_new = registered || !rows.is_empty();
        for row in rows {
            self.take_in(agenda, row);
        }
        if finds_new {
            self.serve(agenda);
        }
        let outcome = self.start_due(agenda, ended);
        let next = agenda.times.first().map(|(time, _)| *time);
        match outcome {
            Ok(()) => self.set_alarm(agenda, next),
            Err(error @ StoreError::Busy { .. }) => {
                self.control.warn(&format!("schedules are looked at again in {AGAIN:?}: {error}"));
                self.set_alarm(agenda, Some(self.control.clock.now().after(AGAIN)));
            }
            Err(error) => self.control.break_down(&error),
        }
    }

    /// Whether the thread has nothing to do, as a number that changes whenever it has had something to do.
    pub(crate) fn rest(&self) -> Option<u64> {
        let told = self.told.lock();
        (!told.is_busy && !told.has_work()).then_some(told.turns)
    }

    /// A schedule has changed.
    fn take_in(&self, agenda: &mut Agenda, row: StoredSchedule) {
        let StoredSchedule { name, revision, schedule } = row;
        if agenda.known.get(&name).is_some_and(|known| known.revision >= revision) {
            return;
        }
        let before = agenda.forget(&name);
        let report = |why: &dyn std::fmt::Display| {
            self.control.log(Level::Error, &format!("schedule '{name}' starts no runs: {why}"));
        };
        let schedule = match schedule {
            Ok(Some(schedule)) => schedule,
            Ok(None) => return,
            Err(error) => return report(&error),
        };
        if schedule.inputs_at(schedule.decided).is_none() {
            return report(&"its inputs do not read back; the file was changed by another program or is damaged");
        }
        let table = match Timetable::new(&schedule.when) {
            Ok(table) => table,
            Err(error) => return report(&error),
        };
        let serving = before.as_ref().and_then(|known| known.serving);
        let cancelled = before.map_or_else(Vec::new, |known| known.cancelled);
        agenda.known.insert(Arc::clone(&name), Known { revision, schedule, table, serving, look: None, cancelled });
        if serving.is_some() {
            agenda.plan(&name);
        }
    }

    /// Begins to serve the schedules whose workflows are registered.
    fn serve(&self, agenda: &mut Agenda) {
        let now = self.control.clock.now();
        let is_new =
            |known: &Known| known.serving.is_none() && self.recovery.workflow(&known.schedule.workflow).is_some();
        let new: Vec<Arc<str>> =
            agenda.known.iter().filter(|(_, known)| is_new(known)).map(|(name, _)| Arc::clone(name)).collect();
        for name in new {
            if let Some(known) = agenda.known.get_mut(&name) {
                known.serving = Some(now);
            }
            agenda.plan(&name);
            // One that waits for a run may have missed its end.
            agenda.look_at(&name, Some(now));
        }
    }

    /// Starts the runs of what is due by now.
    fn start_due(&self, agenda: &mut Agenda, ended: bool) -> Result<(), StoreError> {
        let now = self.control.clock.now();
        if ended {
            for name in std::mem::take(&mut agenda.waiting) {
                agenda.look_at(&name, Some(now));
            }
        }
        loop {
            let due = agenda.times.iter().take_while(|(time, _)| *time <= now).take(TOGETHER);
            let due: Vec<Arc<str>> = due.map(|(_, name)| Arc::clone(name)).collect();
            if due.is_empty() || self.control.is_closing() {
                return Ok(());
            }
            let mut steps = Vec::new();
            for name in due {
                if let Some(step) = self.step(agenda, &name, now)? {
                    steps.push(step);
                }
            }
            self.commit(agenda, steps)?;
        }
    }

    /// Looks at a schedule that is due.
    fn step(&self, agenda: &mut Agenda, name: &Arc<str>, now: Time) -> Result<Option<Step>, StoreError> {
        let Some(known) = agenda.known.get_mut(name) else { return Ok(None) };
        let at = At { now, serving: known.serving.unwrap_or(now) };
        let watch = |runs: &[RunId]| self.awaited.lock().extend(runs.iter().map(|run| run.row()));
        let looked = self.scheduler.look((known.revision, &known.schedule, &known.table), at, watch)?;
        match looked {
            Looked::Step(step) => Ok(Some(*step)),
            Looked::Nothing(next, cancels) => {
                let is_waiting = !known.schedule.queue.is_empty() && known.schedule.paused_at.is_none();
                let recheck = is_waiting.then(|| now.after(RECHECK));
                let next = [next, recheck].into_iter().flatten().min();
                agenda.look_at(name, next);
                if is_waiting {
                    agenda.waiting.insert(Arc::clone(name));
                }
                self.cancel(agenda, name, &cancels)?;
                Ok(None)
            }
        }
    }

    /// Commits what was decided, and has it executed.
    fn commit(&self, agenda: &mut Agenda, steps: Vec<Step>) -> Result<(), StoreError> {
        if steps.is_empty() {
            return Ok(());
        }
        let mut changes: Vec<_> = steps.iter().map(|step| step.change.clone()).collect();
        let outcomes = self.scheduler.commit(&mut changes)?;
        let mut has_started = false;
        for (step, outcome) in steps.into_iter().zip(outcomes) {
            let name = &step.change.name;
            match outcome {
                ScheduleChanged::Done { revision, schedule, creations } => {
                    has_started |= !creations.is_empty();
                    step.notes.iter().for_each(|note| self.control.warn(note));
                    let schedule = Ok(schedule.map(|schedule| *schedule));
                    self.take_in(agenda, StoredSchedule { name: Arc::clone(name), revision, schedule });
                    self.cancel(agenda, name, &step.cancels)?;
                }
                // Another runner was faster, or somebody has changed it.
                ScheduleChanged::Moved | ScheduleChanged::NumberTaken => match self.control.store().schedule(name)? {
                    Some(row) => self.take_in(agenda, row),
                    None => drop(agenda.forget(name)),
                },
            }
        }
        if has_started { self.scheduler.claim() } else { Ok(()) }
    }

    /// Cancels runs of a schedule, each once.
    fn cancel(&self, agenda: &mut Agenda, name: &Arc<str>, runs: &[RunId]) -> Result<(), StoreError> {
        let Some(known) = agenda.known.get_mut(name) else { return Ok(()) };
        known.cancelled.retain(|run| runs.contains(run));
        let (by, reason) = (format!("schedule {name}"), "its next run is due (overlap=\"cancel\")");
        let asked = Request { ask: Ask::Cancel { force: false }, by: Some(by.into()), reason: Some(reason.into()) };
        for run in runs {
            if !known.cancelled.contains(run) {
                known.cancelled.push(*run);
                let (address, content) = (asked.address(), Ok(asked.content()));
                self.mail.send(Letter { run: *run, address, id: None, content })?;
            }
        }
        Ok(())
    }

    /// Has the thread woken at a time.
    fn set_alarm(&self, agenda: &mut Agenda, at: Option<Time>) {
        // Runs that nobody waits for any more.
        if agenda.waiting.is_empty() {
            self.awaited.lock().clear();
        }
        if agenda.alarm.as_ref().map(|(time, _)| *time) == at && at.is_some_and(|at| at > self.control.clock.now()) {
            return;
        }
        if let Some((_, key)) = agenda.alarm.take() {
            self.timers.cancel(key);
        }
        let Some((at, me)) = at.zip(self.me.upgrade()) else { return };
        agenda.alarm = self.timers.tick_at(at, me, 0).map(|key| (at, key));
    }
}

impl Told {
    fn has_work(&self) -> bool {
        self.look || self.ended || self.registered || self.anew || !self.rows.is_empty()
    }
}

impl Agenda {
    /// Forgets a schedule.
    fn forget(&mut self, name: &Arc<str>) -> Option<Known> {
        let known = self.known.remove(name)?;
        if let Some(look) = known.look {
            self.times.remove(&(look, Arc::clone(name)));
        }
        self.waiting.remove(name);
        Some(known)
    }

    /// Notes when a schedule is due next.
    fn plan(&mut self, name: &Arc<str>) {
        let Some(known) = self.known.get(name) else { return };
        // What waits for a run is looked at once, whatever is due: who has to end is known then.
        let waits = !known.schedule.queue.is_empty() && known.schedule.paused_at.is_none();
        let next = if waits { Some(Time(0)) } else { next_look(&known.schedule, &known.table) };
        self.look_at(name, next);
    }

    fn look_at(&mut self, name: &Arc<str>, at: Option<Time>) {
        let Some(known) = self.known.get_mut(name) else { return };
        if let Some(before) = std::mem::replace(&mut known.look, at) {
            self.times.remove(&(before, Arc::clone(name)));
        }
        if let Some(at) = at {
            self.times.insert((at, Arc::clone(name)));
        }
    }
}
