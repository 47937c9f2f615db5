//! Worker threads and threads that poll gates: real threads of a host. This driver takes the turns of the engine's own
//! threads, so that time advances only while all threads wait for it.

use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, OnceLock, Weak};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use bide_executor::core::attempt::{Part, PartRequest};
use bide_executor::core::event::Retry;
use bide_executor::core::{
    Address, Failure, GateSpec, GateTime, GateUntil, Graph, Outcome, PollPolicy, TaskSpec, Value,
};
use bide_executor::drive::Driver;
use bide_executor::{
    Attached, BodyCx, Call, CallError, Check, Clock, Condition, Engine, Gate, GateWorker, Host, Polled, Pool,
    RunRequest, Source, StepEnd, StepRequest, StepStart, Worker,
};
use bide_testkit::waits::{Kind, Meanwhile, Operation, Probe, Says, TASK, WaitDriver, at, yes};

/// Nothing here takes this long unless it hangs.
const HANG: Duration = Duration::from_secs(20);

/// A body that is about to park does so within this time.
const PARKS: Duration = Duration::from_millis(100);

/// The driver.
pub(crate) struct Threads;

/// The state of a process that its threads share.
pub(crate) struct Process {
    probe: Arc<Probe>,
    driver: OnceLock<Mutex<Driver<Threads>>>,
    /// The thread of the body waits for an answer of the engine.
    body_idles: AtomicBool,
    /// How many threads poll gates, and how many of them are idle.
    gate_threads: [AtomicUsize; 2],
    threads: Mutex<Vec<JoinHandle<()>>>,
}

impl Host for Threads {
    type Body = Weak<Process>;
    type Local = ();
    type Dispatch = Pool<Self>;

    fn sources(_body: &Weak<Process>) -> &[Source] {
        &[]
    }

    fn gate_policy(body: &Weak<Process>, _part: u16) -> PollPolicy {
        body.upgrade().unwrap().probe.call(0).poll().0
    }
}

impl Process {
    fn driver(&self) -> std::sync::MutexGuard<'_, Driver<Threads>> {
        self.driver.get().unwrap().lock().unwrap()
    }

    fn spawn(self: &Arc<Self>, role: Role, work: impl FnOnce(&mut Thread) + Send + 'static) {
        let mut thread = Thread { process: Arc::clone(self), role };
        self.threads.lock().unwrap().push(std::thread::spawn(move || work(&mut thread)));
    }

    /// Starts a thread that polls gates.
    fn poll_gates(self: &Arc<Self>, engine: &Arc<Engine<Threads>>) {
        let engine = Arc::clone(engine);
        self.gate_threads[0].fetch_add(1, Ordering::SeqCst);
        self.spawn(Role::Gates, move |thread| engine.work_on_gates(thread));
    }

    fn gates_idle(&self) -> bool {
        let [threads, idle] = [0, 1].map(|which| self.gate_threads[which].load(Ordering::SeqCst));
        threads == idle
    }

    /// Asks a condition or executes a step, and performs the script's events meanwhile.
    fn ask(&self, call: usize, inner: impl FnOnce()) -> Says {
        let (says, meanwhile) = self.probe.ask(call);
        match meanwhile {
            Some(Meanwhile::LossIsNoticed) => self.driver().lease_turn(),
            Some(Meanwhile::RunnerCloses) => {
                let engine = Arc::clone(self.driver().engine());
                engine.begin_close();
            }
            Some(Meanwhile::TimersRing) => {
                let mut driver = self.driver();
                driver.timer_turn();
                driver.committer_turn();
            }
            Some(Meanwhile::HandleIsCalled) => inner(),
            _ => {}
        }
        says
    }

    /// Advances the time until nothing is left to do.
    #[expect(clippy::disallowed_methods, reason = "a test's time limit is not the engine's time")]
    fn pump(&self, kind: Kind, settled: impl Fn() -> bool) {
        let begun = Instant::now();
        let limited = self.probe.life.limit.is_some();
        let mut held_since = None;
        loop {
            assert!(begun.elapsed() < HANG, "the script hangs after: {}", self.probe.seen());
            let (mut driver, inside) = (self.driver(), self.probe.is_inside());
            let closing = driver.engine().is_closing();
            let due = match kind {
                // A body that parks while the runner closes is suspended without any time going by.
                Kind::Body if inside => {
                    driver.first_due().filter(|_| !closing && self.body_idles.load(Ordering::SeqCst))
                }
                Kind::Body => driver.first_due().filter(|_| !limited),
                Kind::Gate => driver.gates_turn().filter(|_| self.gates_idle()),
            };
            // A gate whose run is lost may still be about to be polled.
            let gates_rest = kind == Kind::Body || (self.gates_idle() && driver.gates_turn().is_none());
            if !inside && (closing || (gates_rest && settled())) {
                return;
            }
            // A body that is about to park has its slot until then. One that sleeps with it has it for longer than that.
            let holds = kind == Kind::Body && driver.engine().dispatch().slots_in_use().0 > 0;
            let since = *held_since.get_or_insert_with(Instant::now);
            if !holds {
                held_since = None;
            } else if due.is_some() && since.elapsed() < PARKS {
                driver.committer_turn();
                drop(driver);
                std::thread::yield_now();
                continue;
            }
            if let Some(due) = due {
                held_since = None;
                self.probe.clock.advance(due.saturating_sub(self.probe.clock.steady()));
                driver.timer_turn();
                driver.gates_turn();
            }
            driver.committer_turn();
            drop(driver);
            std::thread::yield_now();
        }
    }
}

impl WaitDriver for Threads {
    fn name(&self) -> &'static str {
        "threads"
    }

    fn live(&self, kind: Kind, probe: &Arc<Probe>) {
        let process = Arc::new(Process {
            probe: Arc::clone(probe),
            driver: OnceLock::new(),
            body_idles: AtomicBool::new(false),
            gate_threads: [AtomicUsize::new(0), AtomicUsize::new(0)],
            threads: Mutex::default(),
        });
        let weak = Arc::downgrade(&process);
        let start_worker = move |engine: &Arc<Engine<Self>>| {
            let engine = Arc::clone(engine);
            if let Some(process) = weak.upgrade() {
                process.spawn(Role::Worker, move |thread| engine.work(thread));
            }
            Ok(true)
        };
        let clock = Arc::clone(&probe.clock) as Arc<dyn Clock>;
        let pool = Pool::new(1, 100, Box::new(start_worker));
        let driver = Driver::open(Arc::clone(&probe.store) as _, clock, pool, Box::new(|_, _| ()), probe.seed).unwrap();
        let engine = Arc::clone(driver.engine());
        assert!(process.driver.set(Mutex::new(driver)).is_ok());
        engine.dispatch().open(&engine).unwrap();
        if kind == Kind::Gate && engine.wants_gate_thread() {
            process.poll_gates(&engine);
        }
        let mut spec = TaskSpec { wants_handle: true, timeout: probe.life.limit, ..TaskSpec::new(TASK) };
        if kind == Kind::Gate {
            let (gate, until) = (probe.call(0), GateUntil::Condition);
            spec.gate = Some(GateSpec { name: gate.name.into(), until, timeout: gate.poll().1 });
            spec.wants_handle = false;
        }
        let graph = Arc::new(Graph::build("scripted", vec![spec], false).unwrap());
        let workflow = engine.register(graph, Arc::new([Arc::downgrade(&process)])).unwrap();
        let wanted = RunRequest::new(Box::default()).with_key(Some("k".into()));
        let handle = engine.submit(&workflow, vec![wanted]).unwrap().pop().unwrap();
        process.pump(kind, || handle.settled().get().is_some());
        engine.begin_close();
        assert!(engine.dispatch().wait_idle(HANG), "a body does not unwind");
        engine.finish_close();
        let threads = std::mem::take(&mut *process.threads.lock().unwrap());
        threads.into_iter().for_each(|thread| thread.join().unwrap());
    }
}

/// A thread of the host.
struct Thread {
    process: Arc<Process>,
    role: Role,
}

/// What a thread does.
#[derive(Clone, Copy)]
enum Role {
    /// It waits for a body.
    Worker,
    /// It executes the body.
    Body,
    /// It polls gates.
    Gates,
}

impl Attached for Thread {
    fn detached(&mut self, f: &mut dyn FnMut()) {
        f();
    }

    fn idle(&mut self, f: &mut dyn FnMut()) {
        let Process { body_idles, gate_threads: [_, idle_gates], .. } = &*self.process;
        match self.role {
            Role::Worker => f(),
            Role::Body => {
                body_idles.store(true, Ordering::SeqCst);
                f();
                body_idles.store(false, Ordering::SeqCst);
            }
            Role::Gates => {
                idle_gates.fetch_add(1, Ordering::SeqCst);
                f();
                idle_gates.fetch_sub(1, Ordering::SeqCst);
            }
        }
    }
}

impl Worker<Threads> for Thread {
    fn execute(&mut self, call: &Call<'_, Threads>) -> Outcome {
        let probe = Arc::clone(&self.process.probe);
        let Some(cx) = call.body() else { return completed() };
        let engine = Arc::clone(cx.engine());
        probe.enters(Arc::new(move || engine.dispatch().slots_in_use().0 > 0));
        self.role = Role::Body;
        let mut calls = 0..probe.life.calls.len();
        let goes_on = calls.all(|call| self.call(cx, call));
        self.role = Role::Worker;
        probe.leaves();
        if goes_on { completed() } else { Outcome::Suspended }
    }

    fn between(&mut self, _now: Duration) {}
}

fn completed() -> Outcome {
    Outcome::Completed { output: yes(), changes: None }
}

impl Thread {
    /// Makes a call of the script. False if the body must return.
    fn call(&mut self, cx: &BodyCx<Threads>, at_call: usize) -> bool {
        let process = Arc::clone(&self.process);
        let call = process.probe.call(at_call);
        let bytes = |text: &str| -> Arc<[u8]> { text.as_bytes().into() };
        let name: Arc<str> = call.name.into();
        let result = match call.what {
            Operation::Condition { proof, poll, timeout, .. } => {
                let condition = Condition { name, proof: proof.map(bytes), policy: poll, timeout };
                let mut check = Asks { process: &process, cx, call: at_call };
                cx.wait_condition(self, condition, &mut check)
            }
            Operation::Until(span) => cx.wait_until(self, &name, at(span)).map(|()| yes()),
            Operation::After(span) => cx.wait_after(self, &name, span).map(|()| yes()),
            Operation::Step(args) => self.step(cx, at_call, StepRequest::plain(Some(bytes(args)))),
            Operation::StepWith { once, retry } => {
                self.step(cx, at_call, StepRequest { once, retry, ..StepRequest::default() })
            }
            Operation::Signal { timeout } => {
                let part = Part::Message(Address::signal(&name));
                cx.wait_parts(self, vec![PartRequest { name, part, timeout }], &mut || Polled::False).0
            }
            Operation::Callback => cx.make_callback(self, &name).map(|_| yes()),
            Operation::Checkpoint => cx.checkpoint(self, yes()).map(|()| yes()),
            Operation::Now => return process.probe.ends_now(&cx.now(self)),
        };
        process.probe.ends(&result)
    }
}

impl Thread {
    fn step(&mut self, cx: &BodyCx<Threads>, at_call: usize, request: StepRequest) -> Result<Value, CallError> {
        let process = Arc::clone(&self.process);
        let name: Arc<str> = process.probe.call(at_call).name.into();
        let is_retried = request.retry.is_some();
        let mut start = cx.begin_step(self, &name, request, &mut || None)?;
        loop {
            let step = match start {
                StepStart::Returned(value) => return Ok(value),
                StepStart::Execute(step) => step,
            };
            let end = match process.ask(at_call, || calls_within(&process, cx)).executed() {
                Err(failure) if is_retried => StepEnd::Raised(failure, Retry { random: 0.5 }),
                result => StepEnd::Executed(result),
            };
            start = cx.end_step(self, step, end)?;
        }
    }
}

/// A call of the handle within a step or condition.
fn calls_within(process: &Process, cx: &BodyCx<Threads>) {
    let inner = cx.begin_step(&mut bide_executor::Free, &"inner".into(), StepRequest::default(), &mut || None);
    process.probe.ends_within(&inner.map(drop));
}

struct Asks<'a> {
    process: &'a Process,
    cx: &'a BodyCx<Threads>,
    call: usize,
}

impl Check for Asks<'_> {
    fn ask(&mut self) -> Polled {
        self.process.ask(self.call, || calls_within(self.process, self.cx)).polled()
    }

    fn is_unchanged(&mut self) -> bool {
        self.process.probe.call(self.call).is_unchanged()
    }
}

impl GateWorker<Threads> for Thread {
    fn poll_gate(&mut self, _gate: &Gate<Threads>) -> Polled {
        self.process.ask(0, || ()).polled()
    }

    fn gate_time(&mut self, _gate: &Gate<Threads>) -> Result<GateTime, Failure> {
        unreachable!("no gate computes its time")
    }

    fn retries(&mut self, _gate: &Gate<Threads>, _failure: &Failure) -> bool {
        false
    }

    fn between(&mut self, _now: Duration) {}

    fn start_spare(&mut self, engine: &Arc<Engine<Threads>>) -> Result<(), String> {
        self.process.poll_gates(engine);
        Ok(())
    }
}
