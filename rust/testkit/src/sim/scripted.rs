//! The simulator as a driver of waits: a process whose only body plays a script of the conformance suite
//! ([`crate::waits`]), one move after the other, without a random choice.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use bide_core::attempt::{CallError, Request, Standing, now_value, read_now};
use bide_core::{Failure, Outcome, Value};
use bide_sync::Mutex;

use super::body::{Body, OpenCall, Phase};
use super::oracle::Oracle;
use super::plan::{Act, Case, Gate, TaskPlan, Version};
use super::process::{Process, Shared};
use super::rng::Rng;
use crate::waits::{Call, Kind, Meanwhile, Operation, Probe, Says, WaitDriver};

/// A script that takes more moves has hung.
const MOST_MOVES: u32 = 10_000;

/// A script, and the probe that records how it is played.
#[derive(Clone)]
pub(super) struct Script {
    /// Records what happens.
    pub(super) probe: Arc<Probe>,
    /// Whether the body has a slot now.
    has_slot: Arc<AtomicBool>,
}

/// The simulator.
#[derive(Debug)]
pub struct Simulated;

impl WaitDriver for Simulated {
    fn name(&self) -> &'static str {
        "simulator"
    }

    fn live(&self, kind: Kind, probe: &Arc<Probe>) {
        let case = Case::scripted(kind, probe);
        let oracle = Oracle::new(&case);
        let shared = Shared {
            case: Arc::new(case),
            clock: Arc::clone(&probe.clock),
            oracle: Arc::new(Mutex::new(oracle)),
            script: Some(Script { probe: Arc::clone(probe), has_slot: Arc::default() }),
        };
        let mut process = Process::start(&shared, Version::First, Arc::clone(&probe.store), 0, probe.seed)
            .unwrap_or_else(|error| panic!("the process does not start: {error}"));
        assert!(process.submit("k"), "the run is not created");
        let mut rng = Rng::new(1);
        for _ in 0..MOST_MOVES {
            let span = process.time_has_passed(false);
            if probe.closes() {
                process.begin_close();
            }
            if let Some(first) = process.moves().first() {
                process.make(*first, &mut rng);
            } else if process.is_over() || process.closes() || (process.has_settled() && !probe.is_inside()) {
                process.finish_close();
                return;
            } else if !process.has_rung() {
                probe.clock.advance(span.max(Duration::from_micros(1)));
            }
        }
        panic!("the script does not end");
    }
}

impl Case {
    /// One task that plays a script, or whose gate does.
    fn scripted(kind: Kind, probe: &Probe) -> Self {
        let life = &probe.life;
        let mut task =
            TaskPlan { timeout: life.limit.map(|limit| (limit.as_millis() as u64, false)), ..TaskPlan::plain(0) };
        match kind {
            Kind::Body => task.acts = (0..life.calls.len() as u8).map(Act::Scripted).collect(),
            Kind::Gate => {
                let timeout = probe.call(0).poll().1;
                task.gate = Some(timeout.map_or(Gate::Until(0), |span| Gate::Never(span.as_millis() as u64, false)));
            }
        }
        Self {
            slots: 1,
            tasks: vec![task],
            calls: vec![1],
            letters: Vec::new(),
            disasters: Vec::new(),
            fail_fast: false,
            drift: 0,
            starts: Vec::new(),
            watched: Vec::new(),
            limit: None,
            ..Self::random(0)
        }
    }
}

impl Process {
    fn script(&self) -> Option<&Script> {
        self.shared.script.as_ref()
    }

    /// The call that an act stands for, if it is one of a script.
    pub(super) fn script_call(&self, act: Act) -> Option<Call> {
        match (act, self.script()) {
            (Act::Scripted(at), Some(script)) => Some(script.probe.call(usize::from(at)).clone()),
            _ => None,
        }
    }

    pub(super) fn script_enters(&self) {
        let Some(Script { probe, has_slot }) = self.script() else { return };
        let has_slot = Arc::clone(has_slot);
        probe.enters(Arc::new(move || has_slot.load(Ordering::SeqCst)));
    }

    pub(super) fn script_has_slot(&self, has: bool) {
        self.script().into_iter().for_each(|script| script.has_slot.store(has, Ordering::SeqCst));
    }

    /// A condition of a script is asked, or its step executed.
    pub(super) fn ask_script(&mut self, body: &mut Body, at: u8) -> Says {
        let Some(script) = self.script().cloned() else { return Says::No };
        let (says, meanwhile) = script.probe.ask(usize::from(at));
        self.meanwhile(Some(body), meanwhile);
        says
    }

    pub(super) fn execute_script(&mut self, body: &mut Body, at: u8) -> Result<Value, Failure> {
        match self.script_call(Act::Scripted(at)).map(|call| call.what) {
            Some(Operation::Now) => Ok(now_value(self.now())),
            _ => self.ask_script(body, at).executed(),
        }
    }

    /// What else happens while a script is asked.
    pub(super) fn meanwhile(&mut self, body: Option<&mut Body>, meanwhile: Option<Meanwhile>) {
        match (meanwhile, body, self.script().cloned()) {
            (Some(Meanwhile::LossIsNoticed), ..) => self.driver.lease_turn(),
            (Some(Meanwhile::TimersRing), ..) => drop(self.time_has_passed(false)),
            (Some(Meanwhile::HandleIsCalled), Some(body), Some(script)) => {
                let begun = body.machine.begin(&"inner".into(), Request::step(None), Standing::default());
                script.probe.ends_within(&begun.map(drop));
            }
            _ => {}
        }
    }

    /// A call of a script has ended.
    pub(super) fn script_ends(
        &self,
        body: &mut Body,
        open_call: &OpenCall,
        call: &Call,
        result: Result<Value, CallError>,
    ) -> Phase {
        let Some(Script { probe, .. }) = self.script() else { return Phase::Acts };
        self.script_has_slot(!open_call.parked);
        let goes_on = match call.what {
            Operation::Now => probe.ends_now(&result.and_then(|value| read_now(self.graph.name(body.task.ix), &value))),
            _ => probe.ends(&result),
        };
        body.at += 1;
        if goes_on { Phase::Acts } else { Phase::Ended(Outcome::Suspended) }
    }
}
