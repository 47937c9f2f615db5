//! Schedules: what callers ask of them, and the commits that start their runs.
//!
//! What is due is decided in core. A decision and the runs that it starts are one commit, made only if the schedule is
//! still what was looked at; so of several runners one starts the run of a tick. The runs belong to nobody at first: a
//! runner that has their workflow claims them.

use std::sync::Arc;
use std::time::Duration;

use bide_core::record::NewRun;
use bide_core::schedules::{
    At, Due, MOST_STARTED, MomentInput, OnMiss, Overlap, Schedule, Timetable, TooManyTicks, When, due, moment_text,
    plan, run_key,
};
use bide_core::{DefinitionError, RunId, RunOptions, Time};
use bide_store::{Creation, ScheduleChange, ScheduleChanged, StoreError, StoredSchedule};

use crate::control::Control;
use crate::host::Host;
use crate::ids::IdMaker;
use crate::runs::recover::Recovery;
use crate::runs::run::RegisteredWorkflow;

/// What a caller says about a schedule.
#[derive(Clone, Debug)]
pub struct ScheduleRequest {
    /// Its name.
    pub name: Arc<str>,
    /// When it has its ticks. Where equal distances are counted from is filled in.
    pub when: When,
    /// The inputs of its runs, packed, without the moment.
    pub inputs: Arc<[u8]>,
    /// How its runs get the moment of their tick.
    pub moment: MomentInput,
    /// What becomes of missed ticks.
    pub on_miss: OnMiss,
    /// What a tick does while a run has not ended.
    pub overlap: Overlap,
    /// By how much a run starts after its tick at most.
    pub jitter: Duration,
}

/// Why something that was asked of a schedule is not done.
#[derive(Debug)]
pub enum ScheduleError {
    /// There is no schedule of this name.
    NoSchedule,
    /// The schedule of this name starts runs of this other workflow.
    OtherWorkflow(Arc<str>),
    /// It cannot be done; says why.
    Refused(DefinitionError),
    /// The range has more ticks than asked for.
    TooManyTicks,
    /// The store refused.
    Store(StoreError),
}

impl From<StoreError> for ScheduleError {
    fn from(error: StoreError) -> Self {
        Self::Store(error)
    }
}

impl From<TooManyTicks> for ScheduleError {
    fn from(_: TooManyTicks) -> Self {
        Self::TooManyTicks
    }
}

/// A schedule as callers see it.
#[derive(Clone, Debug)]
pub struct ScheduleView {
    /// The schedule.
    pub schedule: Schedule,
    /// Its next tick. `None`: it is paused, or has none.
    pub next: Option<Time>,
}

/// A run that a schedule has started, with its key.
pub type StartedRun = (RunId, Arc<str>);

/// A decision about a schedule, to be committed.
pub(crate) struct Step {
    /// The change.
    pub(crate) change: ScheduleChange,
    /// The runs that are to be cancelled once it is committed.
    pub(crate) cancels: Vec<RunId>,
    /// What is to be logged once it is committed.
    pub(crate) notes: Vec<String>,
}

/// What a look at a schedule has come to.
pub(crate) enum Looked {
    /// Something is to be committed.
    Step(Box<Step>),
    /// Nothing is to be done before this moment; `None`: before a change. Of runs that are to be cancelled these are
    /// left.
    Nothing(Option<Time>, Vec<RunId>),
}

/// Starts the runs of schedules.
pub(crate) struct Scheduler<H: Host> {
    /// The store and the clock.
    control: Arc<Control<H>>,
    /// The registered workflows, and the claims of what is started.
    recovery: Arc<Recovery<H>>,
    /// Makes the ids of runs.
    ids: Arc<IdMaker>,
}

impl<H: Host> Scheduler<H> {
    pub(crate) fn new(control: &Arc<Control<H>>, recovery: &Arc<Recovery<H>>, ids: &Arc<IdMaker>) -> Arc<Self> {
        let (control, recovery, ids) = (Arc::clone(control), Arc::clone(recovery), Arc::clone(ids));
        Arc::new(Self { control, recovery, ids })
    }

    /// What is to be done about a schedule. `watch` is called with the runs whose ends matter, before it is asked
    /// whether they have ended.
    ///
    /// # Errors
    /// From the store.
    pub(crate) fn look(
        &self,
        (revision, schedule, table): (i64, &Schedule, &Timetable),
        at: At,
        watch: impl FnOnce(&[RunId]),
    ) -> Result<Looked, StoreError> {
        let due = due(schedule, table, at);
        let (ticks, decided, missed, next) = match due {
            Due::Nothing(next) if schedule.queue.is_empty() || schedule.paused_at.is_some() => {
                return Ok(Looked::Nothing(next, Vec::new()));
            }
            Due::Nothing(next) => (Vec::new(), schedule.decided, None, next),
            Due::Ticks { ticks, decided, missed } => (ticks, decided, missed, None),
        };
        let open = if schedule.overlap == Overlap::Allow {
            Vec::new()
        } else {
            watch(&schedule.open);
            self.unended(&schedule.open)?
        };
        let plan = plan(schedule, &ticks, &open);
        let cancels = if plan.cancels { open.clone() } else { Vec::new() };
        if plan.starts.is_empty() && plan.queue == schedule.queue && decided == schedule.decided {
            return Ok(Looked::Nothing(next, cancels));
        }
        let mut changed = Schedule { decided, queue: plan.queue, open, ..schedule.clone() };
        let runs = plan.starts.iter().map(|tick| self.start(&mut changed, *tick)).collect::<Result<Vec<_>, _>>()?;
        let mut notes = Vec::new();
        let name = &schedule.name;
        if let Some((first, last)) = missed {
            let (first, last) = (moment_text(first), moment_text(last));
            let range = if first == last { format!("tick {first}") } else { format!("ticks from {first} to {last}") };
            notes.push(format!(
                "schedule '{name}' starts no run for the {range}: no runner was there (on_miss={:?})",
                schedule.on_miss.as_str().to_lowercase()
            ));
        }
        if plan.dropped > 0 && schedule.overlap == Overlap::Queue {
            notes.push(format!(
                "schedule '{name}' starts no run for {} ticks: {} of them wait already for an earlier run to end",
                plan.dropped,
                changed.queue.len()
            ));
        }
        let change = ScheduleChange { name: Arc::clone(name), expected: Some(revision), schedule: Some(changed), runs };
        Ok(Looked::Step(Box::new(Step { change, cancels, notes })))
    }

    /// Those of these runs that have not ended. Blocks.
    fn unended(&self, runs: &[RunId]) -> Result<Vec<RunId>, StoreError> {
        let store = self.control.store();
        let mut unended = Vec::with_capacity(runs.len());
        for run in runs {
            if store.standing(*run)?.is_some_and(|standing| !standing.status.is_ended()) {
                unended.push(*run);
            }
        }
        Ok(unended)
    }

    /// The run of a tick, which the schedule knows from here on.
    fn start(&self, schedule: &mut Schedule, tick: Time) -> Result<NewRun, StoreError> {
        let now = self.control.clock.now();
        let id = self.ids.next(now);
        self.recovery.keep_registered()?;
        // The version that is executed here. Only what a client starts may have none: then that of the definition.
        let registered = self.recovery.workflow(&schedule.workflow);
        let (workflow, version) = registered.map_or(schedule.version, |known| (known.number, known.version));
        let inputs = schedule.inputs_at(tick).ok_or_else(|| {
            let (store, name) = (self.control.store().name().to_owned(), &schedule.name);
            StoreError::Corrupt(format!(
                "{store}: the inputs of schedule '{name}' do not read back; the file was changed by another program or is \
                 damaged"
            ))
        })?;
        let deadline = schedule.timeout.map(|micros| Time(now.0.saturating_add(micros)));
        let options = deadline.map(|_| Box::new(RunOptions { deadline, ..RunOptions::default() }));
        schedule.last = Some((tick, id));
        if schedule.overlap != Overlap::Allow {
            schedule.open.push(id);
        }
        let new = NewRun::new(id, workflow, version, now).with_key(Some(run_key(&schedule.name, tick)));
        Ok(new.with_inputs(inputs).with_options(options))
    }

    /// Commits changes. Those for which row numbers of runs were taken are made again under other ids.
    ///
    /// # Errors
    /// From the store.
    pub(crate) fn commit(&self, changes: &mut [ScheduleChange]) -> Result<Vec<ScheduleChanged>, StoreError> {
        loop {
            let outcomes = self.control.store().change_schedules(changes)?;
            if !outcomes.iter().any(|outcome| matches!(outcome, ScheduleChanged::NumberTaken)) {
                return Ok(outcomes);
            }
            for change in &mut *changes {
                for new in &mut change.runs {
                    let id = self.ids.next(self.control.clock.now());
                    change.schedule.iter_mut().for_each(|schedule| schedule.replace_run(new.id, id));
                    new.id = id;
                }
            }
        }
    }

    /// Has the runs that were started just now claimed, if they can be executed here.
    ///
    /// # Errors
    /// From the store.
    pub(crate) fn claim(&self) -> Result<(), StoreError> {
        self.recovery.recover()
    }
}

/// For callers. All of these block.
impl<H: Host> Scheduler<H> {
    /// Defines a schedule, or changes it.
    ///
    /// # Errors
    /// See [`ScheduleError`]; then nothing has changed.
    pub(crate) fn define(
        &self,
        workflow: &RegisteredWorkflow<H>,
        request: &ScheduleRequest,
    ) -> Result<ScheduleView, ScheduleError> {
        let now = self.control.clock.now();
        let when = match &request.when {
            When::Every { micros, .. } => When::Every { micros: *micros, anchor: now },
            cron @ When::Cron { .. } => cron.clone(),
        };
        let table = Timetable::new(&when).map_err(ScheduleError::Refused)?;
        if table.next_after(now).is_none() {
            let why = format!("schedule '{}' has no tick after now: its expression matches no moment", request.name);
            return Err(ScheduleError::Refused(DefinitionError(why)));
        }
        let new = Schedule {
            name: Arc::clone(&request.name),
            workflow: Arc::clone(workflow.graph.workflow()),
            version: (workflow.number, workflow.version),
            when,
            inputs: Arc::clone(&request.inputs),
            moment: request.moment,
            on_miss: request.on_miss,
            overlap: request.overlap,
            jitter: bide_core::time::micros(request.jitter),
            timeout: workflow.graph.timeout().map(bide_core::time::micros),
            created_at: now,
            paused_at: None,
            decided: now,
            last: None,
            queue: Vec::new(),
            open: Vec::new(),
        };
        loop {
            let stored = self.control.store().schedule(&request.name)?;
            let known = stored.map(current).transpose()?.flatten();
            let Some((revision, old)) = known else {
                if let Some(view) = self.set(None, new.clone())? {
                    return Ok(view);
                }
                continue;
            };
            if *old.workflow != *new.workflow {
                return Err(ScheduleError::OtherWorkflow(old.workflow));
            }
            let is_same = old.when.same(&new.when);
            if !is_same && self.settle(revision, &old, now)? {
                continue;
            }
            let changed = Schedule {
                when: if is_same { old.when.clone() } else { new.when.clone() },
                decided: if is_same { old.decided } else { old.decided.max(now) },
                created_at: old.created_at,
                paused_at: old.paused_at,
                last: old.last,
                queue: old.queue.clone(),
                open: old.open.clone(),
                ..new.clone()
            };
            if changed == old {
                return Ok(self.view(old));
            }
            if let Some(view) = self.set(Some(revision), changed)? {
                return Ok(view);
            }
        }
    }

    /// Before the ticks of a schedule become other ones, those that are due by now start their runs. True if it has
    /// changed by that.
    fn settle(&self, revision: i64, old: &Schedule, now: Time) -> Result<bool, ScheduleError> {
        // What cannot be read any more has no ticks.
        let Ok(table) = Timetable::new(&old.when) else { return Ok(false) };
        match self.look((revision, old, &table), At { now, serving: now }, |_| {})? {
            Looked::Nothing(..) => Ok(false),
            Looked::Step(step) => {
                let outcome = self.commit(&mut [step.change])?;
                if matches!(outcome[..], [ScheduleChanged::Done { .. }]) {
                    step.notes.iter().for_each(|note| self.control.warn(note));
                    self.claim()?;
                }
                Ok(true)
            }
        }
    }

    fn set(&self, expected: Option<i64>, schedule: Schedule) -> Result<Option<ScheduleView>, ScheduleError> {
        let name = Arc::clone(&schedule.name);
        let change = ScheduleChange { name, expected, schedule: Some(schedule.clone()), runs: Vec::new() };
        let outcome = self.commit(&mut [change])?;
        Ok(matches!(outcome[..], [ScheduleChanged::Done { .. }]).then(|| self.view(schedule)))
    }

    fn view(&self, schedule: Schedule) -> ScheduleView {
        let table = Timetable::new(&schedule.when).ok().filter(|_| schedule.paused_at.is_none());
        let from = schedule.decided.max(self.control.clock.now());
        let next = table.and_then(|table| table.next_after(from));
        ScheduleView { schedule, next }
    }

    /// All schedules, by name.
    ///
    /// # Errors
    /// From the store.
    pub(crate) fn list(&self) -> Result<Vec<ScheduleView>, StoreError> {
        let mut found = Vec::new();
        for stored in self.control.store().schedules(0)? {
            found.extend(current(stored)?.map(|(_, schedule)| self.view(schedule)));
        }
        found.sort_by(|one, other| one.schedule.name.cmp(&other.schedule.name));
        Ok(found)
    }

    /// A schedule that there is, with its revision.
    fn named(&self, name: &str) -> Result<(i64, Schedule), ScheduleError> {
        let stored = self.control.store().schedule(name)?;
        stored.map(current).transpose()?.flatten().ok_or(ScheduleError::NoSchedule)
    }

    /// Pauses a schedule: it has no ticks until it is resumed. One that is paused stays so.
    ///
    /// # Errors
    /// See [`ScheduleError`].
    pub(crate) fn pause(&self, name: &str) -> Result<(), ScheduleError> {
        self.alter(name, |schedule, now| schedule.paused_at = schedule.paused_at.or(Some(now)))
    }

    /// Resumes a paused schedule, with the first tick from now on.
    ///
    /// # Errors
    /// See [`ScheduleError`].
    pub(crate) fn resume(&self, name: &str) -> Result<(), ScheduleError> {
        self.alter(name, |schedule, now| {
            if schedule.paused_at.take().is_some() {
                schedule.decided = schedule.decided.max(now);
            }
        })
    }

    fn alter(&self, name: &str, act: impl Fn(&mut Schedule, Time)) -> Result<(), ScheduleError> {
        loop {
            let (revision, old) = self.named(name)?;
            let mut changed = old.clone();
            act(&mut changed, self.control.clock.now());
            if changed == old || self.set(Some(revision), changed)?.is_some() {
                return Ok(());
            }
        }
    }

    /// Removes a schedule. Its runs stay.
    ///
    /// # Errors
    /// See [`ScheduleError`].
    pub(crate) fn remove(&self, name: &str) -> Result<(), ScheduleError> {
        loop {
            let (revision, schedule) = match self.named(name) {
                // What does not read back can be removed all the same.
                Err(ScheduleError::Store(StoreError::Corrupt(_))) => match self.control.store().schedule(name)? {
                    Some(stored) => (stored.revision, stored.name),
                    None => return Err(ScheduleError::NoSchedule),
                },
                found => found.map(|(revision, schedule)| (revision, schedule.name))?,
            };
            let change = ScheduleChange { name: schedule, expected: Some(revision), schedule: None, runs: Vec::new() };
            if matches!(self.commit(&mut [change])?[..], [ScheduleChanged::Done { .. }]) {
                return Ok(());
            }
        }
    }

    /// Starts a run of a schedule now, whatever else there is.
    ///
    /// # Errors
    /// See [`ScheduleError`].
    pub(crate) fn trigger(&self, name: &str) -> Result<StartedRun, ScheduleError> {
        let now = self.control.clock.now();
        loop {
            let (revision, mut schedule) = self.named(name)?;
            let name = Arc::clone(&schedule.name);
            let runs = vec![self.start(&mut schedule, now)?];
            let mut change = [ScheduleChange { name, expected: Some(revision), schedule: Some(schedule), runs }];
            let outcome = self.commit(&mut change)?.pop();
            if let Some(ScheduleChanged::Done { creations, .. }) = outcome {
                self.claim()?;
                let [change] = change;
                return Ok(started(&change.runs[0], creations.first()));
            }
        }
    }

    /// Starts a run for each tick from one moment to another, both included, that has none yet; at most `most`. Returns
    /// the runs of all these ticks.
    ///
    /// # Errors
    /// See [`ScheduleError`]; some of the runs may have been started.
    pub(crate) fn backfill(
        &self,
        name: &str,
        since: Time,
        until: Time,
        most: usize,
    ) -> Result<Vec<StartedRun>, ScheduleError> {
        let (_, schedule) = self.named(name)?;
        if until > self.control.clock.now() {
            let why =
                "only past ticks can be made up for, and the range ends in the future, whose runs it starts itself";
            return Err(ScheduleError::Refused(DefinitionError(why.into())));
        }
        let table = Timetable::new(&schedule.when).map_err(ScheduleError::Refused)?;
        let ticks = table.between(since, until, most)?;
        let mut ids = Vec::with_capacity(ticks.len());
        for some in ticks.chunks(MOST_STARTED) {
            loop {
                let (revision, schedule) = self.named(name)?;
                // The schedule itself stays as it is: what is made up for is no last run, and holds no tick up.
                let mut scratch = schedule.clone();
                let runs = some.iter().map(|tick| self.start(&mut scratch, *tick)).collect::<Result<Vec<_>, _>>()?;
                let name = Arc::clone(&schedule.name);
                let mut change = [ScheduleChange { name, expected: Some(revision), schedule: Some(schedule), runs }];
                if let Some(ScheduleChanged::Done { creations, .. }) = self.commit(&mut change)?.pop() {
                    let [change] = change;
                    ids.extend(change.runs.iter().zip(&creations).map(|(new, made)| started(new, Some(made))));
                    break;
                }
            }
            self.claim()?;
        }
        Ok(ids)
    }
}

/// The run that there is: the new one, or that which has its key.
fn started(new: &NewRun, creation: Option<&Creation>) -> StartedRun {
    let id = match creation {
        Some(Creation::Exists(row) | Creation::OtherInputs(row)) => row.id,
        _ => new.id,
    };
    (id, new.key.clone().unwrap_or_else(|| "".into()))
}

/// A schedule that was not removed.
fn current(stored: StoredSchedule) -> Result<Option<(i64, Schedule)>, StoreError> {
    Ok(stored.schedule?.map(|schedule| (stored.revision, schedule)))
}
