//! Async closures on a tokio runtime whose time advances by itself while nothing executes. This driver takes the turns
//! of the engine's threads.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, Weak};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use bide_executor::core::event::Refused;
use bide_executor::core::{FailureKind, Time};
use bide_executor::drive::Driver;
use bide_executor::store::Uptime;
use bide_executor::{
    CallError, Clock, Closures, Runner, StepSettings, TaskContext, TaskError, TaskHandle, Workflow, until,
};
use bide_testkit::VirtualClock;
use bide_testkit::waits::{BOOM, Kind, Meanwhile, Operation, Probe, Says, TASK, WaitDriver, at, yes};
use serde::{Deserialize, Serialize};
use tokio::runtime::Handle;
use tokio::sync::Notify;
use tokio::time::Instant;

/// The driver.
pub(crate) struct OnTokio;

/// The interval of checks whether everything has ended, in the runtime's time.
const LOOK: Duration = Duration::from_millis(10);

/// No script takes this long unless it hangs, in the runtime's time.
const HANG: Duration = Duration::from_secs(600);

/// Longer than any interval: enough to show that a wait is no longer polled.
const LONG: Duration = Duration::from_secs(60);

/// The case's clock, which advances with the runtime's time.
struct RuntimeClock {
    clock: Arc<VirtualClock>,
    begun: Instant,
    /// How far the clock has followed the runtime's time.
    passed: Mutex<Duration>,
}

impl RuntimeClock {
    fn clock(&self) -> &VirtualClock {
        // Elsewhere the runtime's time cannot be read.
        if Handle::try_current().is_ok() {
            let mut passed = self.passed.lock().unwrap();
            let now = self.begun.elapsed();
            self.clock.advance(now.saturating_sub(*passed));
            *passed = now;
        }
        &self.clock
    }
}

impl Clock for RuntimeClock {
    fn now(&self) -> Time {
        self.clock().now()
    }

    fn steady(&self) -> Duration {
        self.clock().steady()
    }

    fn uptime(&self) -> Option<Uptime> {
        self.clock().uptime()
    }
}

/// The state of a process that its bodies share.
#[derive(Clone)]
struct Process {
    probe: Arc<Probe>,
    runner: Weak<Runner>,
    driver: Arc<Mutex<Option<Driver<Closures>>>>,
    /// The body is inside its function.
    inside: Arc<AtomicBool>,
    /// A body has left its function, or the runner closes.
    changed: Arc<Notify>,
}

impl WaitDriver for OnTokio {
    fn name(&self) -> &'static str {
        "closures"
    }

    fn live(&self, kind: Kind, probe: &Arc<Probe>) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().start_paused(true).build().unwrap();
        runtime.block_on(live(kind, probe));
    }
}

async fn live(kind: Kind, probe: &Arc<Probe>) {
    let clock = RuntimeClock { clock: Arc::clone(&probe.clock), begun: Instant::now(), passed: Mutex::default() };
    let builder = Runner::open(Arc::clone(&probe.store) as _).slots(1).clock(Arc::new(clock)).log(|_, _| ());
    let (runner, driver) = builder.start_driven(Handle::current(), probe.seed).unwrap();
    let (runner, engine) = (Arc::new(runner), Arc::clone(driver.engine()));
    let process = Process {
        probe: Arc::clone(probe),
        runner: Arc::downgrade(&runner),
        driver: Arc::new(Mutex::new(Some(driver))),
        inside: Arc::default(),
        changed: Arc::default(),
    };
    runner.submit(&process.workflow(kind), &()).key("k").await.unwrap();
    let begun = Instant::now();
    while process.inside.load(Ordering::SeqCst) || (runner.live_runs() > 0 && !engine.is_closing()) {
        assert!(begun.elapsed() < HANG, "the script hangs after: {}", probe.seen());
        if let Some(driver) = &mut *process.driver.lock().unwrap() {
            driver.timer_turn();
            driver.committer_turn();
        }
        let _ = tokio::time::timeout(LOOK, process.changed.notified()).await;
    }
    if kind == Kind::Gate && !engine.is_closing() {
        tokio::time::sleep(LONG).await;
    }
    runner.close_within(Duration::ZERO).await;
    process.driver.lock().unwrap().take();
}

impl Process {
    fn workflow(&self, kind: Kind) -> Workflow {
        let (body, gate) = (self.clone(), self.clone());
        let builder = Workflow::builder("scripted");
        let workflow = match kind {
            Kind::Body => builder.task(TASK, move |cx: TaskContext| {
                let process = body.clone();
                async move { process.plays(&cx.handle()).await }
            }),
            Kind::Gate => {
                let call = self.probe.call(0);
                let (poll, timeout) = call.poll();
                let condition = until(move |_| {
                    let process = gate.clone();
                    async move { process.ask(0, None).await }
                });
                let condition = condition.policy(poll).named(call.name);
                let condition = match timeout {
                    Some(timeout) => condition.timeout(timeout),
                    None => condition,
                };
                builder.task(TASK, |_| async { Ok(()) }).gate(condition)
            }
        };
        workflow.build().unwrap()
    }

    /// The body.
    async fn plays(&self, handle: &TaskHandle) -> Result<(), TaskError> {
        let (inside, runner) = (Inside(self), Weak::clone(&self.runner));
        self.inside.store(true, Ordering::SeqCst);
        self.probe.enters(Arc::new(move || runner.upgrade().is_some_and(|runner| runner.slots_in_use().0 > 0)));
        for call in 0..self.probe.life.calls.len() {
            let error = self.call(handle, call).await;
            if let Some(error) = error {
                return Err(error);
            }
        }
        drop(inside);
        Ok(())
    }

    /// Makes a call of the script. On an error the body must return.
    async fn call(&self, handle: &TaskHandle, at_call: usize) -> Option<TaskError> {
        let call = self.probe.call(at_call);
        let result = match call.what {
            Operation::Condition { proof, poll, timeout, .. } => {
                let wait = handle.defer_until(|| self.ask(at_call, Some(handle)), poll.every);
                let wait = wait.on_error(poll.tolerate).named(call.name);
                let wait = if let Some(proof) = proof { wait.given(proof) } else { wait };
                let wait = if let Some(timeout) = timeout { wait.timeout(timeout) } else { wait };
                wait.await.map(drop)
            }
            Operation::Until(span) => handle.sleep_until(UNIX_EPOCH + at(span).since(Time(0))).await,
            Operation::After(span) => handle.sleep(span).await,
            Operation::Step("") => self.step(handle, at_call, &()).await,
            Operation::Step(args) => self.step(handle, at_call, args).await,
            Operation::StepWith { once, retry } => {
                let settings = if once { StepSettings::new().once() } else { StepSettings::new() };
                let settings = if let Some(policy) = retry { settings.retry(policy) } else { settings };
                let step = handle.step_with(settings, call.name, &(), || async {
                    self.ask(at_call, Some(handle)).await.map(|truth| truth.is_some())
                });
                step.await.map(drop)
            }
            Operation::Signal { timeout } => {
                let wait = handle.wait_for::<bool>(call.name);
                let wait = if let Some(timeout) = timeout { wait.timeout(timeout) } else { wait };
                wait.await.map(drop)
            }
            Operation::Callback => handle.callback::<bool>(call.name).await.map(drop),
            Operation::Checkpoint => handle.checkpoint(&true).await,
            Operation::Now => {
                let result = handle.now().await;
                let known = result.as_ref().map(|time| stored(*time)).map_err(call_error);
                let goes_on = self.probe.ends_now(&known);
                return result.err().filter(|_| !goes_on);
            }
        };
        let known = result.as_ref().map(|()| yes()).map_err(call_error);
        let goes_on = self.probe.ends(&known);
        result.err().filter(|_| !goes_on)
    }

    async fn step<A: Serialize + ?Sized>(&self, handle: &TaskHandle, call: usize, args: &A) -> Result<(), TaskError> {
        let step = handle.step(self.probe.call(call).name, args, || async {
            self.ask(call, Some(handle)).await.map(|truth| truth.is_some())
        });
        step.await.map(drop)
    }

    /// Asks a condition or executes a step, and performs the script's events meanwhile.
    async fn ask(&self, call: usize, handle: Option<&TaskHandle>) -> Result<Option<Truth>, TaskError> {
        let (says, meanwhile) = self.probe.ask(call);
        match (meanwhile, handle) {
            (Some(Meanwhile::LossIsNoticed), _) => self.driver.lock().unwrap().as_mut().unwrap().lease_turn(),
            (Some(Meanwhile::RunnerCloses), _) => {
                let engine = self.driver.lock().unwrap().as_ref().map(|driver| Arc::clone(driver.engine()));
                engine.unwrap().begin_close();
                self.changed.notify_one();
            }
            (Some(Meanwhile::HandleIsCalled), Some(handle)) => {
                let inner = handle.step("inner", &(), || async { Ok(true) }).await;
                self.probe.ends_within(&inner.as_ref().map(|_| ()).map_err(call_error));
            }
            _ => {}
        }
        match says {
            Says::Yes => Ok(Some(Truth::Storable)),
            Says::No => Ok(None),
            Says::Raises => Err(TaskError::new(BOOM)),
            Says::Unstorable => Ok(Some(Truth::Unstorable)),
        }
    }
}

/// The body is inside its function, until this is dropped.
struct Inside<'a>(&'a Process);

impl Drop for Inside<'_> {
    fn drop(&mut self) {
        self.0.probe.leaves();
        self.0.inside.store(false, Ordering::SeqCst);
        self.0.changed.notify_one();
    }
}

fn stored(time: SystemTime) -> Time {
    Time(0).after(time.duration_since(UNIX_EPOCH).unwrap())
}

/// The attempt machine's answer, as far as an error still shows it.
fn call_error(error: &TaskError) -> CallError {
    let Some(failure) = error.failure() else {
        let said = |refused: &Refused| refused.to_string() == error.to_string();
        return [Refused::RunOver, Refused::AttemptOver]
            .into_iter()
            .find(said)
            .map_or(CallError::Suspended, CallError::Over);
    };
    match failure.kind {
        FailureKind::Definition => CallError::Misuse(failure.message()),
        FailureKind::ReplayMismatch => CallError::Mismatch(failure.message()),
        FailureKind::TaskTimeout => CallError::TimedOut(failure.message()),
        _ => CallError::Failed(failure.clone()),
    }
}

/// The value of a condition.
enum Truth {
    Storable,
    Unstorable,
}

impl Serialize for Truth {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self {
            Self::Storable => serializer.serialize_bool(true),
            Self::Unstorable => Err(serde::ser::Error::custom("it is not to be stored")),
        }
    }
}

impl<'de> Deserialize<'de> for Truth {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        bool::deserialize(deserializer).map(|_| Self::Storable)
    }
}
