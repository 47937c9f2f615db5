//! The same on the pool of worker threads: a host whose bodies are plain blocking functions, as in Python.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, mpsc};
use std::time::Duration;

use bide_executor::core::attempt::{Part, PartRequest, child_name};
use bide_executor::core::event::Retry;
use bide_executor::core::record::StoredRun;
use bide_executor::core::{
    Failure, FailureKind, GateTime, Graph, Outcome, PollPolicy, RetryPolicy, RunId, RunStatus, TaskSpec, Value, Write,
    context,
};
use bide_executor::store::{LEASE, MemoryStore, Store};
use bide_executor::{
    Attached, BodyCx, Call, CallError, Check, Clock, Condition, Engine, Gate, GateWorker, Handle, Host, Level, Log,
    Polled, Pool, RegisteredWorkflow, RunRequest, Settlement, Source, StartIdentity, StepEnd, StepRequest, StepStart,
    Worker,
};

use bide_testkit::FaultyStore;

use crate::world::{Came, HANG, Ledger, at_every_call};

/// How many elements mapped tasks have.
const ELEMENTS: u32 = 2;

pub(crate) const SOON: Duration = Duration::from_millis(1);

/// The host.
pub(crate) struct Threads;

pub(crate) type Function = fn(&mut Body<'_>) -> Result<u32, CallError>;

pub(crate) struct Task {
    pub(crate) name: &'static str,
    pub(crate) after: &'static [&'static str],
    pub(crate) function: Function,
    pub(crate) ledger: Arc<Ledger>,
}

impl Host for Threads {
    type Body = Task;
    type Local = ();
    type Dispatch = Pool<Self>;

    fn sources(_body: &Task) -> &[Source] {
        &[]
    }

    fn gate_policy(_body: &Task, _part: u16) -> PollPolicy {
        PollPolicy::every(SOON)
    }

    fn retries_timeout(_body: &Task) -> bool {
        true
    }
}

/// A thread of the host.
struct Thread;

impl Attached for Thread {
    fn detached(&mut self, f: &mut dyn FnMut()) {
        f();
    }
}

impl Worker<Threads> for Thread {
    fn execute(&mut self, call: &Call<'_, Threads>) -> Outcome {
        if call.counts_elements() {
            return Outcome::Expanded { length: ELEMENTS };
        }
        let task = call.target();
        let name = call.run.workflow.graph.name_of(call.task);
        let index = call.task.map.max(0).cast_unsigned();
        let after = task.after.iter().map(|on| on.replace("[]", &format!("[{index}]"))).collect::<Vec<_>>();
        task.ledger.enters(call.run.id, &name, &after.iter().map(|on| &**on).collect::<Vec<_>>());
        let cx = Arc::clone(call.body().unwrap());
        let (before, _) = call.run.context_of(call.task.ix).unwrap();
        let mut body = Body { cx: &cx, thread: self, task, name: Arc::clone(&name), index, context: before.clone() };
        let returned = (task.function)(&mut body);
        task.ledger.returns(&name);
        match returned {
            Ok(number) => {
                let changes = context::diff(&before, &body.context).pack();
                Outcome::Completed { output: number_value(number), changes }
            }
            Err(CallError::Failed(failure)) => {
                let retry = (failure.kind == FailureKind::Raised).then_some(Retry { random: 0.5 });
                Outcome::Failed { failure, retry }
            }
            Err(CallError::TimedOut(why)) => {
                let failure = Failure::new(FailureKind::TaskTimeout, "TaskTimeout", &why);
                Outcome::Failed { failure, retry: Some(Retry { random: 0.5 }) }
            }
            Err(CallError::Suspended | CallError::Over(_)) => Outcome::Suspended,
            Err(error) => panic!("{error:?}"),
        }
    }

    fn between(&mut self, _now: Duration) {}
}

impl GateWorker<Threads> for Thread {
    fn poll_gate(&mut self, gate: &Gate<Threads>) -> Polled {
        let task = &gate.workflow().bodies[gate.task.ix as usize];
        if task.ledger.third_poll() { Polled::True(Value::NONE) } else { Polled::False }
    }

    fn gate_time(&mut self, _gate: &Gate<Threads>) -> Result<GateTime, Failure> {
        unreachable!("no gate computes its time")
    }

    fn retries(&mut self, _gate: &Gate<Threads>, _failure: &Failure) -> bool {
        false
    }

    fn between(&mut self, _now: Duration) {}

    fn start_spare(&mut self, engine: &Arc<Engine<Threads>>) -> Result<(), String> {
        start_gates(engine);
        Ok(())
    }
}

fn start_gates(engine: &Arc<Engine<Threads>>) {
    let engine = Arc::clone(engine);
    std::thread::spawn(move || engine.work_on_gates(&mut Thread));
}

/// A function's access to the engine.
pub(crate) struct Body<'a> {
    pub(crate) cx: &'a BodyCx<Threads>,
    pub(crate) thread: &'a mut dyn Attached,
    pub(crate) task: &'a Task,
    /// The name of the task or element.
    pub(crate) name: Arc<str>,
    /// Of an element.
    pub(crate) index: u32,
    /// The context before and after the function's changes.
    pub(crate) context: Vec<(Arc<str>, Value)>,
}

pub(crate) fn number_value(number: u32) -> Value {
    Value::tagged(b'i', number.to_string().as_bytes())
}

pub(crate) fn number_of(value: &Value) -> u32 {
    std::str::from_utf8(value.payload()).unwrap().parse().unwrap()
}

impl Body<'_> {
    pub(crate) fn get(&self, key: &str) -> u32 {
        let found = self.context.iter().find(|(known, _)| **known == *key);
        number_of(&found.unwrap_or_else(|| panic!("{} does not see {key}", self.task.name)).1)
    }

    pub(crate) fn set(&mut self, key: &str, number: u32) {
        self.context.retain(|(known, _)| **known != *key);
        self.context.push((key.into(), number_value(number)));
    }

    pub(crate) fn wait(&mut self, name: &str) -> Result<(), CallError> {
        let ledger = Arc::clone(&self.task.ledger);
        let mut check = || if ledger.third_poll() { Polled::True(Value::NONE) } else { Polled::False };
        self.wait_for(name, None, &mut check)
    }

    pub(crate) fn wait_for(
        &mut self,
        name: &str,
        timeout: Option<Duration>,
        check: &mut dyn Check,
    ) -> Result<(), CallError> {
        let proof = Some(b"code".as_slice().into());
        let condition = Condition { name: name.into(), proof, policy: PollPolicy::every(SOON), timeout };
        self.cx.wait_condition(self.thread, condition, check).map(drop)
    }

    pub(crate) fn step(&mut self, name: &str, returns: u32) -> Result<u32, CallError> {
        match self.cx.begin_step(self.thread, &name.into(), StepRequest::default(), &mut || None)? {
            StepStart::Returned(value) => Ok(number_of(&value)),
            StepStart::Execute(call) => {
                self.task.ledger.steps(self.cx.run().id, &self.name, name);
                self.cx.end_step(self.thread, call, StepEnd::Executed(Ok(number_value(returns)))).map(|_| returns)
            }
        }
    }

    /// Starts a run as a child and waits for it. However often that is tried, there is one.
    pub(crate) fn child(&mut self) -> Result<(), CallError> {
        let workflow = self.registered("inner", |body| body.step("inner step", 3))?;
        let start = (StartIdentity::Inputs([].into()), RunRequest::new(Box::default()));
        let started = self.cx.start_children(self.thread, &workflow, vec![start], true)?;
        let part = PartRequest { name: child_name(&started[0].key), part: Part::Child(started[0].id), timeout: None };
        self.cx.wait_parts(self.thread, vec![part], &mut || Polled::False).0?;
        if let Ok(children) = self.cx.engine().store().children(self.cx.run().id) {
            assert_eq!(children, [(started[0].id, RunStatus::Completed)]);
        }
        Ok(())
    }

    /// Registers a workflow of one task, for children.
    pub(crate) fn registered(
        &self,
        name: &'static str,
        child: Function,
    ) -> Result<Arc<RegisteredWorkflow<Threads>>, CallError> {
        let (graph, bodies) = workflow_named(name, &self.task.ledger, vec![task(name, &[], child)]);
        let engine = self.cx.engine();
        loop {
            match engine.register(Arc::clone(&graph), Arc::clone(&bodies)) {
                Ok(workflow) => return Ok(workflow),
                Err(_) if engine.stopped().is_some() => return Err(CallError::Suspended),
                Err(_) => std::thread::yield_now(),
            }
        }
    }

    pub(crate) fn sleep(&mut self, span: Duration) -> Result<(), CallError> {
        self.cx.wait_after(self.thread, &"sleep".into(), span)
    }
}

pub(crate) fn raised(message: &str) -> CallError {
    CallError::Failed(Failure::new(FailureKind::Raised, "Boom", message))
}

pub(crate) struct Defined {
    pub(crate) spec: TaskSpec,
    function: Function,
    after: &'static [&'static str],
    name: &'static str,
}

pub(crate) fn task(name: &'static str, after: &'static [&'static str], function: Function) -> Defined {
    let spec = TaskSpec {
        wants_handle: true,
        dependencies: after.iter().map(|on| (*on).into()).collect(),
        ..TaskSpec::new(name)
    };
    Defined { spec, function, after, name }
}

/// A process of this host.
pub(crate) fn on_threads(
    store: Arc<dyn Store>,
    ledger: &Arc<Ledger>,
    defined: Vec<Defined>,
    slots: u32,
) -> Option<Came> {
    logged(store, ledger, defined, slots, Box::new(|_, _| ()))
}

fn logged(store: Arc<dyn Store>, ledger: &Arc<Ledger>, defined: Vec<Defined>, slots: u32, log: Log) -> Option<Came> {
    let engine = start(store, ledger, slots, log)?;
    let (graph, bodies) = workflow(ledger, defined);
    let came = run(&engine, graph, bodies);
    end(&engine);
    came
}

pub(crate) fn start(store: Arc<dyn Store>, ledger: &Arc<Ledger>, slots: u32, log: Log) -> Option<Arc<Engine<Threads>>> {
    let start_worker = |engine: &Arc<Engine<Threads>>| {
        let engine = Arc::clone(engine);
        std::thread::spawn(move || engine.work(&mut Thread));
        Ok(true)
    };
    let pool = Pool::new(slots, 100, Box::new(start_worker));
    let clock = Arc::clone(&ledger.clock) as Arc<dyn Clock>;
    let engine = Engine::<Threads>::start(store, clock, pool, log).ok()?;
    engine.dispatch().open(&engine).unwrap();
    if engine.wants_gate_thread() {
        start_gates(&engine);
    }
    Some(engine)
}

pub(crate) fn workflow(ledger: &Arc<Ledger>, defined: Vec<Defined>) -> (Arc<Graph>, Arc<[Task]>) {
    workflow_named("threads", ledger, defined)
}

fn workflow_named(name: &str, ledger: &Arc<Ledger>, defined: Vec<Defined>) -> (Arc<Graph>, Arc<[Task]>) {
    let specs = defined.iter().map(|one| one.spec.clone()).collect();
    let graph = Arc::new(Graph::build(name, specs, false).unwrap());
    let bodies = defined.into_iter().map(|one| Task {
        name: one.name,
        after: one.after,
        function: one.function,
        ledger: Arc::clone(ledger),
    });
    (graph, bodies.collect())
}

pub(crate) fn end(engine: &Arc<Engine<Threads>>) {
    engine.begin_close();
    assert!(engine.dispatch().wait_idle(HANG), "a body does not unwind");
    engine.finish_close();
}

/// What a stored run has come to.
pub(crate) fn came_of(stored: &StoredRun) -> Came {
    let tasks = stored.rows.iter().map(|row| {
        let recorded = stored.tasks.iter().find(|recorded| row.task == recorded.id).unwrap();
        let element = if row.map < 0 { String::new() } else { format!("[{}]", row.map) };
        let output = row.output.as_ref().map(|value| serde_json::from_slice(value.payload()).unwrap());
        let error = row.failure.as_ref().map(Failure::message);
        (format!("{}{element}", recorded.name), row.status, row.attempts, output, error)
    });
    Came { status: stored.run.status, tasks: tasks.collect() }
}

/// The run of this key, which is created if there is none yet.
pub(crate) fn run_of(engine: &Arc<Engine<Threads>>, workflow: &Arc<RegisteredWorkflow<Threads>>) -> Option<RunId> {
    let wanted = vec![RunRequest::new(Box::default()).with_key(Some("k".into()))];
    engine.submit(workflow, wanted).ok()?.first().map(|handle| match handle {
        Handle::Live(run) => run.id,
        Handle::Watched(watched) => watched.id,
    })
}

fn run(engine: &Arc<Engine<Threads>>, graph: Arc<Graph>, bodies: Arc<[Task]>) -> Option<Came> {
    let workflow = engine.register(graph, bodies).ok()?;
    let wanted = || vec![RunRequest::new(Box::default()).with_key(Some("k".into()))];
    let mut came: Option<Came> = None;
    let handles: Vec<Handle<Threads>> =
        [engine.submit(&workflow, wanted()).ok()?, engine.submit(&workflow, wanted()).ok()?]
            .into_iter()
            .flatten()
            .collect();
    for handle in handles {
        match handle.settled().wait(HANG).expect("the run hangs") {
            Settlement::Run(_) => {}
            Settlement::Broken(_) | Settlement::Closed => return None,
            other => panic!("{other:?}"),
        }
        let stored = match &handle {
            Handle::Live(run) => run.snapshot(),
            Handle::Watched(watched) => engine.store().load(watched.id).ok()??,
        };
        let this = came_of(&stored);
        assert!(this.status == RunStatus::Completed || this.status == RunStatus::Failed);
        assert!(came.is_none_or(|other| other == this), "two callers of one key get different results");
        came = Some(this);
    }
    came
}

#[test]
fn a_body_that_has_returned_is_not_a_suspect_beside_the_next_one() {
    fn looks(body: &mut Body<'_>) -> Result<u32, CallError> {
        body.task.ledger.check_no_returned_body_is_suspected(body.cx.run().id);
        Ok(1)
    }
    at_every_call(&|store, ledger| on_threads(store, ledger, vec![task("a", &[], looks), task("b", &[], looks)], 1));
}

/// The attempt has failed then, and the next one waits for the body to return: the body must not park on its condition.
#[test]
fn a_timeout_that_comes_while_a_body_defers_ends_it() {
    let (ledger, store) = (Ledger::new(), FaultyStore::new(MemoryStore::new()));
    *ledger.store.lock().unwrap() = Some(store.inner());
    let (sender, receiver) = mpsc::channel();
    let first = AtomicBool::new(true);
    store.watch(Box::new(move |_, _, batch| {
        // The commit of its wait lasts until its time is used up.
        let opens = batch.iter().any(|write| matches!(write, Write::Entry { .. }));
        if opens && first.swap(false, Ordering::SeqCst) {
            receiver.recv_timeout(HANG).expect("no timeout");
        }
    }));
    let mut waits = task("waits", &[], |body| {
        if body.cx.attempt() == 1 {
            body.wait_for("never", None, &mut || Polled::False)?;
        }
        Ok(body.cx.attempt())
    });
    waits.spec.timeout = Some(Duration::from_millis(20));
    waits.spec.retry = RetryPolicy { delay: Duration::ZERO, jitter: 0.0, ..RetryPolicy::new(2) };
    let log = Box::new(move |level, _: &str| {
        if matches!(level, Level::Stuck { .. }) {
            let _ = sender.send(());
        }
    });
    let came = logged(store, &ledger, vec![waits], 1, log).expect("the runner stops");
    assert_eq!((came.status, came.tasks[0].2), (RunStatus::Completed, 2));
}

/// Its creator has a new lease by then, under which it does not own the run.
#[test]
fn a_run_claimed_before_its_creator_hears_of_it_does_not_begin_there() {
    let (ledger, store) = (Ledger::new(), FaultyStore::new(MemoryStore::new()));
    let (sender, receiver) = mpsc::channel();
    let log = Box::new(move |_, line: &str| {
        if line.contains("the lease was lost") {
            let _ = sender.send(());
        }
    });
    let engine = start(Arc::clone(&store) as Arc<dyn Store>, &ledger, 1, log).unwrap();
    let (graph, bodies) = workflow(&ledger, vec![task("a", &[], |_| panic!("it is begun"))]);
    let workflow = engine.register(graph, bodies).unwrap();
    let (inner, later, version) = (store.inner(), ledger.clock.lease_time().after(2 * LEASE), workflow.version);
    store.after_create(Box::new(move || {
        let other = inner.enroll(later).unwrap();
        assert_eq!(inner.claim(other, &[version], later, 10).unwrap().len(), 1);
        receiver.recv_timeout(HANG).expect("the lease is not lost");
    }));
    let wanted = RunRequest::new(Box::default());
    let handles = engine.submit(&workflow, vec![wanted]).unwrap();
    assert!(matches!(handles[0].settled().wait(HANG), Some(Settlement::Elsewhere)));
    end(&engine);
}
