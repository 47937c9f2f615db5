//! Schedules, with a process that dies before or after any call of its store, and with two runners at each tick.

use std::sync::Arc;
use std::time::Duration;

use bide_executor::core::schedules::{MomentInput, OnMiss, Overlap, When, run_key};
use bide_executor::core::{Graph, RunStatus, TaskSpec, Time};
use bide_executor::drive::Driver;
use bide_executor::store::{MemoryStore, RunFilter, Store, StoreError};
use bide_executor::{Clock, ScheduleError, ScheduleRequest};
use bide_testkit::{Fault, FaultyStore, VirtualClock};

use super::{Idle, keys, pool, with_each_fault};

const MINUTE: Duration = Duration::from_secs(60);

fn request(on_miss: OnMiss, overlap: Overlap) -> ScheduleRequest {
    ScheduleRequest {
        name: "often".into(),
        when: When::Every { micros: 60_000_000, anchor: Time(0) },
        inputs: Arc::new([]),
        moment: MomentInput::None,
        on_miss,
        overlap,
        jitter: Duration::ZERO,
    }
}

/// A process that serves a schedule.
struct Process(Driver<Idle>);

impl Process {
    fn start(
        store: Arc<dyn Store>,
        clock: &Arc<VirtualClock>,
        seed: u64,
        request: &ScheduleRequest,
    ) -> Result<Self, StoreError> {
        let driver =
            Driver::<Idle>::open(store, Arc::clone(clock) as Arc<dyn Clock>, pool(), Box::new(|_, _| ()), seed)?;
        let engine = driver.engine();
        let graph = Arc::new(Graph::build("workflow", vec![TaskSpec::new("task")], false).unwrap());
        let workflow = engine.register(graph, Arc::new([()]))?;
        match engine.schedule(&workflow, request) {
            Ok(_) => Ok(Self(driver)),
            Err(ScheduleError::Store(error)) => Err(error),
            Err(other) => panic!("{other:?}"),
        }
    }

    /// A turn of each thread. False: it has died.
    fn turn(&mut self) -> bool {
        self.0.timer_turn();
        self.0.lease_turn();
        self.0.schedules_turn();
        self.0.engine().stopped().is_none()
    }
}

fn ticks(since: Time, count: u32) -> Vec<Arc<str>> {
    (1..=count).map(|n| run_key("often", since.after(MINUTE * n))).collect()
}

/// Lets five minutes pass, with a fault at a call of the first process. Returns how many calls that made.
fn play(fault: Option<(u64, Fault)>) -> u64 {
    let (inner, clock) = (MemoryStore::new(), VirtualClock::new());
    let since = clock.now();
    let request = request(OnMiss::All, Overlap::Allow);
    let first = FaultyStore::new(Arc::clone(&inner) as Arc<dyn Store>);
    if let Some((call, fault)) = fault {
        first.fail(call, fault);
    }
    let mut process = Process::start(Arc::clone(&first) as Arc<dyn Store>, &clock, 1, &request).ok();
    // What it has defined is there from the beginning, or from its second start on: at the same moment.
    for step in 1..=15 {
        if !process.as_mut().is_some_and(Process::turn) {
            // Of each earlier process.
            (1..9).for_each(|runner| inner.process_died(runner));
            process = Process::start(Arc::clone(&inner) as Arc<dyn Store>, &clock, step + 1, &request).ok();
            assert!(process.as_mut().is_some_and(Process::turn), "{fault:?}");
        }
        clock.advance(MINUTE / 3);
    }
    for _ in 0..2 {
        if !process.as_mut().is_some_and(Process::turn) {
            (1..9).for_each(|runner| inner.process_died(runner));
            process = Process::start(Arc::clone(&inner) as Arc<dyn Store>, &clock, 99, &request).ok();
        }
    }
    assert_eq!(keys(&*inner), ticks(since, 5), "{fault:?}");
    first.calls()
}

#[test]
fn each_tick_starts_one_run_whenever_the_process_dies() {
    with_each_fault(play);
}

#[test]
fn of_two_runners_at_one_tick_one_starts_its_run() {
    let (store, clock) = (MemoryStore::new(), VirtualClock::new());
    let since = clock.now();
    let request = request(OnMiss::Latest, Overlap::Allow);
    let start = |seed| Process::start(Arc::clone(&store) as Arc<dyn Store>, &clock, seed, &request).unwrap();
    let mut both = [start(1), start(2)];
    for step in 0..30 {
        clock.advance(MINUTE / 3);
        // One after the other, in turn: each looks before it hears of what the other has done.
        both.iter_mut().for_each(|process| assert!(process.turn()));
        if step % 2 == 0 {
            both.reverse();
        }
    }
    assert_eq!(keys(&*store), ticks(since, 10));
}

#[test]
fn a_clock_that_is_set_back_has_no_tick_twice_and_one_that_is_set_on_misses_some() {
    let (store, clock) = (MemoryStore::new(), VirtualClock::new());
    let since = clock.now();
    let request = request(OnMiss::Latest, Overlap::Allow);
    let mut process = Process::start(Arc::clone(&store) as Arc<dyn Store>, &clock, 1, &request).unwrap();
    let mut pass = |span: Duration| {
        clock.advance(span);
        // The timer thread looks at the wall every half a minute.
        (0..3).for_each(|_| assert!(process.turn()));
    };
    (0..2).for_each(|_| pass(MINUTE));
    clock.set_wall_by(-120_000);
    (0..3).for_each(|_| pass(MINUTE));
    assert_eq!(keys(&*store), ticks(since, 3));
    clock.set_wall_by(3_600_000);
    pass(MINUTE / 2);
    let newest = run_key("often", since.after(MINUTE * 63));
    assert_eq!(keys(&*store), [ticks(since, 3), vec![newest]].concat());
}

#[test]
fn a_queued_tick_starts_once_the_earlier_run_has_ended() {
    let (store, clock) = (MemoryStore::new(), VirtualClock::new());
    let since = clock.now();
    let request = request(OnMiss::Latest, Overlap::Queue);
    let mut process = Process::start(Arc::clone(&store) as Arc<dyn Store>, &clock, 1, &request).unwrap();
    for _ in 0..3 {
        clock.advance(MINUTE);
        (0..2).for_each(|_| assert!(process.turn()));
    }
    assert_eq!(keys(&*store), ticks(since, 1));
    assert_eq!(process.0.engine().schedules().unwrap()[0].schedule.queue.len(), 2);
    let run = store.list(&RunFilter::default()).unwrap()[0].run.id;
    let control =
        bide_executor::core::Control { ask: bide_executor::core::Ask::Cancel { force: true }, by: None, reason: None };
    process.0.engine().ask(run, &control).unwrap();
    // No time passes: the end of the run is seen.
    (0..3).for_each(|_| assert!(process.turn()));
    let statuses: Vec<RunStatus> =
        store.list(&RunFilter::default()).unwrap().iter().map(|run| run.run.status).collect();
    assert_eq!(statuses, [RunStatus::Running, RunStatus::Cancelled]);
}
