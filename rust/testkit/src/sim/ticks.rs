//! Worlds of schedules: processes serve the schedules of one store while they die, stop and lose their commits, the wall
//! is set, the machine sleeps, and a user changes the schedules. A run is one body that lasts a while.
//!
//! Real is what the main simulation has, and the turn of the schedules thread. What must hold is in `ticks/oracle.rs`.

mod oracle;
mod process;

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use bide_core::schedules::{MomentInput, OnMiss, Overlap, When};
use bide_core::{RunStatus, Time};
use bide_executor::{Clock, ScheduleError, ScheduleRequest};
use bide_store::{MemoryStore, RunFilter, Schedules, Store};

use self::oracle::Oracle;
use self::process::Process;
use super::rng::Rng;
use crate::clock::VirtualClock;
use crate::fault::Fault;

/// Moves of a world before it is left in peace.
const MOVES: u32 = 600;

/// Until then every run must have ended, and every tick must have been decided.
const PEACE: Duration = Duration::from_secs(300);

/// A schedule of a world.
#[derive(Clone, Debug)]
struct Planned {
    name: Arc<str>,
    every: Duration,
    on_miss: OnMiss,
    overlap: Overlap,
    jitter: Duration,
    /// How long each of its runs takes.
    lasts: Duration,
}

impl Planned {
    fn random(number: usize, rng: &mut Rng) -> Self {
        let every = Duration::from_millis(2_000 + rng.below(20_000) as u64);
        Self {
            name: format!("s{number}").into(),
            every,
            on_miss: [OnMiss::Latest, OnMiss::All, OnMiss::Skip][rng.below(3)],
            overlap: [Overlap::Allow, Overlap::Skip, Overlap::Queue, Overlap::Cancel][rng.below(4)],
            jitter: if rng.one_in(3) { every / 4 } else { Duration::ZERO },
            lasts: every * rng.below(15) as u32 / 10,
        }
    }

    fn request(&self) -> ScheduleRequest {
        ScheduleRequest {
            name: Arc::clone(&self.name),
            when: When::Every { micros: self.every.as_micros() as i64, anchor: Time(0) },
            inputs: Arc::new([]),
            moment: MomentInput::None,
            on_miss: self.on_miss,
            overlap: self.overlap,
            jitter: self.jitter,
        }
    }
}

struct World {
    rng: Rng,
    base: Arc<MemoryStore>,
    clock: Arc<VirtualClock>,
    planned: Vec<Planned>,
    processes: Vec<Process>,
    oracle: Oracle,
}

/// Plays the world of a seed. Returns the rare events that happened in it.
///
/// # Errors
/// Says which guarantee was broken, with the schedules and what happened last.
pub fn check_ticks(seed: u64) -> Result<BTreeSet<&'static str>, String> {
    let mut rng = Rng::new(seed ^ 0x71c5);
    let planned: Vec<Planned> = (0..1 + rng.below(3)).map(|number| Planned::random(number, &mut rng)).collect();
    let clock = VirtualClock::new();
    let oracle = Oracle::new(clock.now());
    let mut world = World { rng, base: MemoryStore::new(), clock, planned, processes: Vec::new(), oracle };
    let played = world.play();
    played.map_err(|why| {
        let lately: Vec<&str> = world.oracle.trace.iter().map(String::as_str).collect();
        format!("seed {seed}: {why}\n{:#?}\nlately:\n  {}", world.planned, lately.join("\n  "))
    })?;
    Ok(world.oracle.met)
}

impl World {
    fn play(&mut self) -> Result<(), String> {
        for at in 0..MOVES {
            if self.rng.one_in(25) {
                self.disaster();
            } else {
                self.step();
            }
            self.look().map_err(|why| format!("at move {at}: {why}"))?;
        }
        self.be_in_peace()
    }

    /// A thread has a turn, or time passes.
    fn step(&mut self) {
        self.remove_ended();
        if self.processes.is_empty() {
            if self.rng.one_in(6) {
                self.start();
            } else {
                let span = Duration::from_millis(self.rng.below(9_000) as u64);
                self.pass(span);
            }
            return;
        }
        if self.rng.one_in(4) {
            let span = Duration::from_millis(1 + self.rng.below(1_500) as u64);
            return self.pass(span);
        }
        let which = self.rng.below(self.processes.len());
        let turn = self.rng.below(5);
        self.processes[which].turn(turn, &self.planned);
    }

    fn pass(&mut self, span: Duration) {
        self.clock.advance(span);
        self.oracle.wall_shows(self.clock.now());
    }

    fn disaster(&mut self) {
        match self.rng.below(9) {
            0 => self.start(),
            1 => {
                // The machine sleeps, longer than a missed tick may be late.
                self.oracle.note("the machine sleeps".into());
                self.clock.sleep(Duration::from_secs(30 + self.rng.below(300) as u64));
                self.oracle.wall_shows(self.clock.now());
            }
            2 => {
                let by = self.rng.below(60_000) as i64 - 30_000;
                self.oracle.note(format!("the wall is set by {by} ms"));
                self.clock.set_wall_by(by);
                self.oracle.wall_is_set(self.clock.now(), by);
            }
            3 => self.a_user_changes_a_schedule(),
            _ if self.processes.is_empty() => {}
            4 => {
                let which = self.rng.below(self.processes.len());
                self.kill(which);
            }
            5 => {
                let which = self.rng.below(self.processes.len());
                let until = self.clock.steady() + Duration::from_secs(self.rng.below(40) as u64);
                self.oracle.note(format!("runner {} stops", self.processes[which].runner()));
                self.processes[which].frozen_until = until;
            }
            _ => {
                let faults =
                    [Fault::CrashBefore, Fault::CrashAfter, Fault::UnknownBefore, Fault::UnknownAfter, Fault::Busy];
                let fault = faults[self.rng.below(faults.len())];
                let which = self.rng.below(self.processes.len());
                self.oracle.note(format!("runner {}: {fault:?}", self.processes[which].runner()));
                self.processes[which].store.fail_next(fault);
            }
        }
    }

    fn start(&mut self) {
        let seed = self.rng.number();
        if self.processes.len() < 3
            && let Some(process) = Process::start(&self.base, &self.clock, seed, &self.planned)
        {
            self.oracle.note(format!("runner {} starts", process.runner()));
            self.processes.push(process);
        }
    }

    fn kill(&mut self, which: usize) {
        let runner = self.processes.remove(which).runner();
        self.oracle.note(format!("runner {runner} dies"));
        self.base.process_died(runner);
    }

    /// Takes away processes that have ended.
    fn remove_ended(&mut self) {
        while let Some(which) = self.processes.iter().position(Process::is_over) {
            self.kill(which);
        }
    }

    fn a_user_changes_a_schedule(&mut self) {
        let at = self.rng.below(self.planned.len());
        let number = self.rng.below(5);
        let Some(process) = self.processes.iter().find(|process| !process.is_frozen()) else { return };
        let name = Arc::clone(&self.planned[at].name);
        let now = self.clock.now();
        let engine = process.engine();
        self.oracle.note(format!("a user: change {number} of {name}"));
        let outcome = match number {
            0 => engine.pause_schedule(&name),
            1 => engine.resume_schedule(&name),
            2 => engine.trigger(&name).map(|(run, _)| self.oracle.is_triggered(run)),
            3 => {
                let until = Time(now.0 - 1_000_000);
                engine.backfill(&name, Time(now.0 - 30_000_000), until, 100).map(|runs| {
                    runs.into_iter().for_each(|(run, _)| self.oracle.is_triggered(run));
                })
            }
            _ => {
                self.planned[at] = Planned { name: Arc::clone(&name), ..Planned::random(at, &mut self.rng) };
                process.define(&self.planned[at])
            }
        };
        // Whatever came of it: a lost answer says nothing.
        self.oracle.is_changed(&name);
        match outcome {
            Ok(()) if number == 0 => self.oracle.meets("a paused schedule"),
            Ok(()) | Err(ScheduleError::Store(_) | ScheduleError::NoSchedule) => {}
            Err(other) => self.oracle.violations.push(format!("{name} is refused: {other:?}")),
        }
    }

    /// Looks at all that is stored.
    fn look(&mut self) -> Result<(), String> {
        let rows: Vec<_> = self.base.list(&RunFilter::default()).unwrap_or_default();
        let rows: Vec<_> = rows.into_iter().map(|stored| stored.run).collect();
        self.oracle.looks(&rows, &self.planned);
        self.oracle.violations.first().map_or(Ok(()), |first| Err(first.clone()))
    }

    /// Nothing goes wrong any more: what is due is decided, every run ends, and the queues run dry.
    fn be_in_peace(&mut self) -> Result<(), String> {
        self.oracle.note("peace".into());
        while !self.processes.is_empty() {
            self.kill(0);
        }
        self.start();
        let Some(process) = self.processes.first() else { return Err("no process starts".into()) };
        for planned in &self.planned {
            process.engine().resume_schedule(&planned.name).map_err(|error| format!("{error:?}"))?;
        }
        let until = self.clock.steady() + PEACE;
        while self.clock.steady() < until {
            self.all_have_a_turn()?;
        }
        let now = self.clock.now();
        for planned in &self.planned {
            let stored =
                self.base.schedule(&planned.name).ok().flatten().and_then(|stored| stored.schedule.ok().flatten());
            let Some(stored) = stored else { return Err(format!("{planned:?} is gone")) };
            self.oracle.nothing_is_overdue(&stored, planned, now);
        }
        // Without more ticks the last runs end.
        let Some(process) = self.processes.first() else { return Err("the process has ended".into()) };
        for planned in &self.planned {
            process.engine().pause_schedule(&planned.name).map_err(|error| format!("{error:?}"))?;
        }
        for _ in 0..200 {
            self.all_have_a_turn()?;
        }
        let rows = self.base.list(&RunFilter::default()).unwrap_or_default();
        let unended =
            rows.iter().find(|stored| !stored.run.status.is_ended() && stored.run.status != RunStatus::Paused);
        unended.map_or(Ok(()), |stored| Err(format!("a run does not end: {:?}", stored.run)))
    }

    fn all_have_a_turn(&mut self) -> Result<(), String> {
        self.processes.iter_mut().for_each(|process| (0..5).for_each(|turn| process.turn(turn, &self.planned)));
        self.look()?;
        self.pass(Duration::from_millis(250));
        Ok(())
    }
}
