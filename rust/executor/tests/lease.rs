//! A runner checks its lease before it starts anything. The test simulates a process that was stopped for longer than
//! its lease: the clock leaps while a body executes, and the lease thread, which checks every 50 ms, comes too late.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::time::Duration;

use bide_executor::core::{Graph, Outcome, PollPolicy, RunStatus, SubStatus, TaskRow, TaskSpec, Value};
use bide_executor::store::{LEASE, Lease, LeaseTime, MemoryStore, Store};
use bide_executor::{
    Attached, BodyCx, Call, CallError, Clock, Condition, Engine, Free, Handle, Host, Level, Polled, Pool, RunRequest,
    Runner, Settlement, Source, StepRequest, Worker, Workflow,
};
use bide_sync::Mutex;
use bide_testkit::VirtualClock;

const HANG: Duration = Duration::from_secs(20);
const POLL: Duration = Duration::from_millis(1);
const HOUR: Duration = Duration::from_secs(3600);

/// The first runner on a store has this number.
const FIRST: i64 = 1;

/// Functions that block, on the pool of threads.
struct Functions;

type Body = Box<dyn Fn(&BodyCx<Functions>) -> Result<(), CallError> + Send + Sync>;

impl Host for Functions {
    type Body = Body;
    type Local = ();
    type Dispatch = Pool<Self>;

    fn sources(_body: &Body) -> &[Source] {
        &[]
    }

    fn gate_policy(_body: &Body, _part: u16) -> PollPolicy {
        PollPolicy::every(HOUR)
    }
}

struct Thread;

impl Attached for Thread {
    fn detached(&mut self, f: &mut dyn FnMut()) {
        f();
    }
}

impl Worker<Functions> for Thread {
    fn execute(&mut self, call: &Call<'_, Functions>) -> Outcome {
        match (call.target())(call.body().unwrap()) {
            Ok(()) => Outcome::Completed { output: Value::NONE, changes: None },
            Err(_) => Outcome::Suspended,
        }
    }

    fn between(&mut self, _now: Duration) {}
}

/// A clock and a store that a test, its bodies and a runner share.
#[derive(Clone)]
struct World {
    clock: Arc<VirtualClock>,
    store: Arc<MemoryStore>,
}

impl World {
    fn new() -> Self {
        Self { clock: VirtualClock::new(), store: MemoryStore::new() }
    }

    /// Another runner finds the lease expired and claims everything; only then does this process continue.
    fn is_claimed_by_another_while_stopped(&self) -> Lease {
        let later = self.clock.lease_time().after(LEASE);
        let other = self.store.enroll(later).unwrap();
        let versions: Vec<i64> = self.store.versions(0).unwrap().iter().map(|stored| stored.version).collect();
        assert!(!self.store.claim(other, &versions, later, 99).unwrap().is_empty());
        self.clock.advance(LEASE);
        other
    }

    /// Whether the runner has renewed its lease by now, according to the store.
    fn is_renewed(&self) -> bool {
        let now = self.clock.lease_time();
        let alive = |at: LeaseTime| self.store.is_alive(FIRST, at).unwrap();
        alive(now) && !alive(now.after(LEASE))
    }
}

/// A runner with one slot and a workflow of one task with a handle.
struct Engines {
    engine: Arc<Engine<Functions>>,
    graph: Arc<Graph>,
    bodies: Arc<[Body]>,
    lost: Receiver<()>,
}

impl Engines {
    fn start(world: &World, body: Body) -> Self {
        let start_worker = |engine: &Arc<Engine<Functions>>| {
            let engine = Arc::clone(engine);
            std::thread::spawn(move || engine.work(&mut Thread));
            Ok(true)
        };
        let (sender, lost) = channel();
        let log = move |_: Level, line: &str| {
            if line.contains("the lease was lost") {
                let _ = sender.send(());
            }
        };
        let (store, clock) = (Arc::clone(&world.store) as _, Arc::clone(&world.clock) as _);
        let pool = Pool::new(1, 9, Box::new(start_worker));
        let engine = Engine::<Functions>::start(store, clock, pool, Box::new(log)).unwrap();
        engine.dispatch().open(&engine).unwrap();
        let spec = TaskSpec { wants_handle: true, ..TaskSpec::new("task") };
        let graph = Arc::new(Graph::build("workflow", vec![spec], false).unwrap());
        Self { engine, graph, bodies: [body].into(), lost }
    }

    fn submit(&self, runs: usize) -> Vec<Handle<Functions>> {
        let workflow = self.engine.register(Arc::clone(&self.graph), Arc::clone(&self.bodies)).unwrap();
        let wanted = |_| RunRequest::new(Box::default());
        self.engine.submit(&workflow, (0..runs).map(wanted)).unwrap()
    }

    fn notices(&self) {
        self.lost.recv_timeout(HANG).unwrap();
    }
}

impl Drop for Engines {
    fn drop(&mut self) {
        self.engine.begin_close();
        let idle = self.engine.dispatch().wait_idle(HANG);
        self.engine.finish_close();
        assert!(idle || std::thread::panicking(), "a body does not unwind");
    }
}

fn end(handle: &Handle<Functions>) -> Settlement {
    handle.settled().wait(HANG).expect("the run hangs")
}

/// Bodies report their entry here and wait for the test.
fn meeting() -> (impl Fn() + Clone, Receiver<()>, Sender<()>) {
    let ((sender, entered), (resume, wait)) = (channel(), channel::<()>());
    let wait = Arc::new(Mutex::new(wait));
    let meet = move || {
        sender.send(()).unwrap();
        let _ = wait.lock().recv();
    };
    (meet, entered, resume)
}

#[test]
fn no_body_starts_after_another_runner_claimed_the_expired_lease() {
    let world = World::new();
    let (meet, entered, resume) = meeting();
    let starts = Arc::new(AtomicU32::new(0));
    let count = Arc::clone(&starts);
    let body = move |_: &BodyCx<Functions>| {
        count.fetch_add(1, Ordering::SeqCst);
        meet();
        Ok(())
    };
    let runner = Engines::start(&world, Box::new(body));
    let handles = runner.submit(5);
    entered.recv_timeout(HANG).unwrap();
    world.is_claimed_by_another_while_stopped();
    drop(resume);
    runner.notices();
    for handle in &handles {
        assert!(matches!(end(handle), Settlement::Elsewhere));
    }
    drop(runner);
    assert_eq!(starts.load(Ordering::SeqCst), 1);
}

#[test]
fn an_expired_lease_is_renewed_before_the_next_body_starts() {
    let world = World::new();
    let renewed = Arc::new(Mutex::new(Vec::new()));
    let (seen, in_body) = (Arc::clone(&renewed), world.clone());
    let body = move |_: &BodyCx<Functions>| {
        let mut seen = seen.lock();
        seen.push(in_body.is_renewed());
        // By the end of each body the lease has expired; the machine slept meanwhile.
        if seen.len() == 3 {
            in_body.clock.sleep(LEASE)
        } else {
            in_body.clock.advance(LEASE)
        }
        Ok(())
    };
    let runner = Engines::start(&world, Box::new(body));
    for handle in runner.submit(5) {
        assert!(matches!(end(&handle), Settlement::Run(RunStatus::Completed)));
    }
    assert_eq!(*renewed.lock(), [true; 5]);
}

#[test]
fn a_wall_that_is_set_neither_ends_a_lease_nor_prolongs_it() {
    for jump in [-31_536_000_000, -16_000, -1, 1, 14_000, 16_000, 31_536_000_000] {
        let world = World::new();
        let renewed = Arc::new(Mutex::new(Vec::new()));
        let (seen, in_body) = (Arc::clone(&renewed), world.clone());
        let body = move |_: &BodyCx<Functions>| {
            seen.lock().push(in_body.is_renewed());
            in_body.clock.set_wall_by(jump);
            let now = in_body.clock.lease_time();
            let other = in_body.store.enroll(now).unwrap();
            let versions: Vec<i64> = in_body.store.versions(0).unwrap().iter().map(|stored| stored.version).collect();
            assert_eq!(in_body.store.claim(other, &versions, now, 99).unwrap(), [], "{jump} ms");
            in_body.clock.sleep(LEASE);
            Ok(())
        };
        let runner = Engines::start(&world, Box::new(body));
        for handle in runner.submit(3) {
            assert!(matches!(end(&handle), Settlement::Run(RunStatus::Completed)));
        }
        assert!(runner.lost.try_recv().is_err());
        assert_eq!(*renewed.lock(), [true; 3], "{jump} ms");
    }
}

#[test]
fn a_body_whose_run_is_lost_begins_no_step_and_asks_no_condition() {
    let world = World::new();
    let (meet, entered, resume) = meeting();
    let (sender, came) = channel();
    let asked = Arc::new(AtomicU32::new(0));
    let count = Arc::clone(&asked);
    let body = move |cx: &BodyCx<Functions>| {
        meet();
        let mut check = || {
            count.fetch_add(1, Ordering::SeqCst);
            Polled::False
        };
        let policy = PollPolicy::every(HOUR);
        let condition = Condition { name: "c".into(), proof: None, policy, timeout: None };
        let waited = cx.wait_condition(&mut Free, condition, &mut check).map(drop);
        let stepped = cx.begin_step(&mut Free, &"s".into(), StepRequest::default(), &mut || None).map(drop);
        sender.send((waited, stepped)).unwrap();
        Ok(())
    };
    let runner = Engines::start(&world, Box::new(body));
    runner.submit(1);
    entered.recv_timeout(HANG).unwrap();
    world.is_claimed_by_another_while_stopped();
    drop(resume);
    let came = came.recv_timeout(HANG).unwrap();
    assert!(matches!(came, (Err(CallError::Suspended), Err(CallError::Suspended))), "{came:?}");
    assert_eq!(asked.load(Ordering::SeqCst), 0);
}

#[test]
fn a_parked_body_unwinds_when_its_run_is_lost_and_resumes_elsewhere() {
    for condition in [true, false] {
        let world = World::new();
        let open = Arc::new(AtomicBool::new(false));
        let (sender, came) = channel();
        let (ask, asked) = channel();
        let is_open = Arc::clone(&open);
        let body = move |cx: &BodyCx<Functions>| {
            let mut check = || {
                let open = is_open.load(Ordering::SeqCst);
                ask.send(()).unwrap();
                if open { Polled::True(Value::NONE) } else { Polled::False }
            };
            let policy = PollPolicy::every(POLL);
            let wait = Condition { name: "c".into(), proof: None, policy, timeout: None };
            let waited = if condition {
                cx.wait_condition(&mut Free, wait, &mut check).map(drop)
            } else {
                cx.wait_after(&mut Free, &"sleep".into(), HOUR)
            };
            sender.send(waited.clone()).unwrap();
            waited
        };
        let runner = Engines::start(&world, Box::new(body));
        let run = runner.submit(1).remove(0).id();
        let deferred = |row: &TaskRow| row.sub_status == Some(SubStatus::Deferred);
        while !world.store.load(run).unwrap().unwrap().rows.iter().any(deferred) {
            std::thread::yield_now();
        }
        let other = world.is_claimed_by_another_while_stopped();
        assert!(matches!(came.recv_timeout(HANG).unwrap(), Err(CallError::Suspended)));

        if !condition {
            continue; // the timer thread does not see this clock leap
        }
        // The other runner leaves. The same thread resumes the run, and parks again.
        while asked.try_recv().is_ok() {}
        world.store.leave(other).unwrap();
        asked.recv_timeout(HANG).unwrap();
        open.store(true, Ordering::SeqCst);
        let came = loop {
            world.clock.advance(POLL); // once is enough if it has parked already
            if let Ok(came) = came.recv_timeout(Duration::from_millis(20)) {
                break came;
            }
        };
        assert!(came.is_ok(), "{came:?}");
        let handle = runner.engine.handle(run).unwrap();
        assert!(matches!(end(&handle), Settlement::Run(RunStatus::Completed)));
    }
}

#[tokio::test]
async fn a_closure_does_not_start_before_an_expired_lease_is_renewed() {
    let world = World::new();
    let renewed = Arc::new(Mutex::new(Vec::new()));
    let mut builder = Workflow::builder("workflow");
    for (at, name) in ["a", "b", "c"].into_iter().enumerate() {
        let (seen, world) = (Arc::clone(&renewed), world.clone());
        builder = builder.task(name, move |cx| {
            let (seen, world) = (Arc::clone(&seen), world.clone());
            async move {
                seen.lock().push(world.is_renewed());
                world.clock.advance(LEASE);
                let step = || async {
                    seen.lock().push(world.is_renewed());
                    Ok(())
                };
                cx.handle().step("step", &at, step).await
            }
        });
    }
    let runner = Runner::open(Arc::clone(&world.store) as Arc<dyn Store>).clock(Arc::clone(&world.clock) as _);
    let runner = runner.slots(1).start().unwrap();
    let workflow = builder.build().unwrap();
    tokio::time::timeout(HANG, async { runner.run(&workflow, ()).await.unwrap() }).await.unwrap();
    runner.close().await;
    assert_eq!(*renewed.lock(), [true; 6]);
}
