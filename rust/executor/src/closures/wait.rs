//! The waits of a body, without a thread: look into the journal; ask once while the slot is held; commit the open
//! wait; drop the slot; sleep on tokio's timer between polls; commit the end; take a slot; go on.

use std::future::IntoFuture;
use std::marker::PhantomData;
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use bide_core::event::Wait;
use bide_core::poll::Poll;
use bide_core::{Asked, EntryKey, EntryKind, Event, Failure, PollPolicy, Recall, Time, Tolerance, Value, time::micros};
use serde::Serialize;
use serde::de::DeserializeOwned;

use super::codec::encode;
use super::dispatch::Stage;
use super::error::TaskError;
use super::gate::unstorable;
use super::handle::{BodyState, TaskHandle};
use super::workflow::BoxFuture;
use crate::host::Polled;
use bide_core::attempt::CallError;
use bide_core::attempt::polling::timed_out;

/// The wall clock is looked at again at least so often.
const RECHECK: Duration = Duration::from_secs(30);

/// What a condition may answer: `bool`, `Option<T>` (its value is what the wait returns), or a `Result` of either.
pub trait Answer: Send {
    /// What the wait returns.
    type Value: DeserializeOwned;

    /// The answer as the engine takes it.
    fn polled(self) -> Polled;
}

impl Answer for bool {
    type Value = bool;

    fn polled(self) -> Polled {
        if self { Polled::True(Value::tagged(b't', b"")) } else { Polled::False }
    }
}

impl<T: Serialize + DeserializeOwned + Send> Answer for Option<T> {
    type Value = T;

    fn polled(self) -> Polled {
        match self.map(|value| encode(&value)) {
            None => Polled::False,
            Some(Ok(value)) => Polled::True(value),
            Some(Err(why)) => unstorable(&why),
        }
    }
}

impl<A: Answer, E: Into<TaskError> + Send> Answer for Result<A, E> {
    type Value = A::Value;

    fn polled(self) -> Polled {
        match self {
            Ok(answer) => answer.polled(),
            Err(error) => error.into().polled(),
        }
    }
}

/// A wait for a condition, to be awaited.
#[must_use = "a wait does nothing unless it is awaited"]
pub struct DeferUntil<'a, F> {
    handle: TaskHandle,
    condition: F,
    policy: PollPolicy,
    timeout: Option<Duration>,
    name: Arc<str>,
    /// `None`: never provably the same. The error is told when the wait is awaited.
    proof: Option<Result<Value, String>>,
    /// The condition may borrow from its body.
    borrows: PhantomData<&'a ()>,
}

impl<F> DeferUntil<'_, F> {
    /// How long it may stay open, from when it was first opened: a restart does not extend it.
    pub fn timeout(mut self, timeout: Duration) -> Self {
        self.timeout = Some(timeout);
        self
    }

    /// The factor by which each further interval grows, and the longest interval.
    pub fn backoff(mut self, factor: f64, max_every: Duration) -> Self {
        self.policy.backoff = factor;
        self.policy.max_every = max_every;
        self
    }

    /// The share of an interval by which it is varied.
    pub fn jitter(mut self, share: f64) -> Self {
        self.policy.jitter = share;
        self
    }

    /// What happens when the condition fails.
    pub fn on_error(mut self, tolerate: Tolerance) -> Self {
        self.policy.tolerate = tolerate;
        self
    }

    /// Its name in the journal, instead of the closure's type. With a name the record survives moving the code.
    pub fn named(mut self, name: impl Into<Arc<str>>) -> Self {
        self.name = name.into();
        self
    }

    /// All that the condition depends on. A satisfied wait is reused on re-entry only if this is what it was then;
    /// without it the condition is asked again.
    pub fn given<T: Serialize + ?Sized>(mut self, captured: &T) -> Self {
        self.proof = Some(encode(captured));
        self
    }
}

impl<'a, F, R> IntoFuture for DeferUntil<'a, F>
where
    F: FnMut() -> R + Send + 'a,
    R: Future<Output: Answer> + Send + 'a,
{
    type Output = Result<<R::Output as Answer>::Value, TaskError>;
    type IntoFuture = BoxFuture<'a, Self::Output>;

    fn into_future(self) -> Self::IntoFuture {
        Box::pin(async move {
            let Self { handle, mut condition, policy, timeout, name, proof, .. } = self;
            policy.validate().map_err(|error| TaskError::definition(&format!("'{name}': {}", error.0)))?;
            let proof = proof.transpose().map_err(|why| {
                TaskError::definition(&format!("'{name}': what the condition depends on cannot be stored: {why}"))
            })?;
            let proof = proof.map(|value| Arc::from(value.as_bytes()));
            let stated = Stated { name: Arc::clone(&name), proof, policy, timeout };
            let value = handle.0.wait_condition(stated, &mut condition).await.map_err(TaskError::of_call)?;
            handle.decoded(&name, &value)
        })
    }
}

struct Stated {
    name: Arc<str>,
    proof: Option<Arc<[u8]>>,
    policy: PollPolicy,
    timeout: Option<Duration>,
}

impl TaskHandle {
    /// Waits until a condition holds, without a slot: other tasks execute meanwhile. It is asked once at once, then at
    /// this interval. Returns what it answered: `true`, or the value that its `Option` had.
    ///
    /// Limit it with [`timeout`](DeferUntil::timeout) rather than by dropping it: a body that drops an open wait goes
    /// on without a slot until its next wait has ended.
    pub fn defer_until<'a, F, R>(&self, condition: F, poll_interval: Duration) -> DeferUntil<'a, F>
    where
        F: FnMut() -> R + Send + 'a,
        R: Future<Output: Answer> + Send + 'a,
    {
        DeferUntil {
            handle: self.clone(),
            condition,
            policy: PollPolicy::every(poll_interval),
            timeout: None,
            name: std::any::type_name::<F>().into(),
            proof: None,
            borrows: PhantomData,
        }
    }

    /// Sleeps without a slot. The time is recorded: a restart neither shortens nor extends it.
    ///
    /// # Errors
    /// The body is to return.
    pub async fn sleep(&self, span: Duration) -> Result<(), TaskError> {
        self.0.wait_time(&"sleep".into(), |now| now.after(span)).await.map_err(TaskError::of_call)
    }

    /// Sleeps without a slot until a point in time.
    ///
    /// # Errors
    /// The body is to return.
    pub async fn sleep_until(&self, time: SystemTime) -> Result<(), TaskError> {
        let due = stored_time(time);
        self.0.wait_time(&"sleep_until".into(), |_| due).await.map_err(TaskError::of_call)
    }

    /// The time, as recorded when the body first asked: the same on re-entry.
    ///
    /// # Errors
    /// The body is to return.
    pub async fn now(&self) -> Result<SystemTime, TaskError> {
        let now = || async { Ok(self.0.engine().clock.now().0) };
        let recorded: i64 = self.step("now", &(), now).await?;
        Ok(UNIX_EPOCH + Time(recorded).since(Time(0)))
    }
}

/// A time as it is stored.
pub(super) fn stored_time(time: SystemTime) -> Time {
    Time(time.duration_since(UNIX_EPOCH).map_or_else(|error| -micros(error.duration()), micros))
}

impl BodyState {
    async fn wait_condition<F, R>(&self, stated: Stated, condition: &mut F) -> Result<Value, CallError>
    where
        F: FnMut() -> R,
        R: Future<Output: Answer>,
    {
        let Stated { name, proof, policy, timeout } = stated;
        let _inside = self.begin(&format!("the wait '{name}'"))?;
        let asked = Asked::new(name, EntryKind::Condition, proof);
        let (key, recall) = self.recall(&asked).await?;
        let recorded_deadline = match recall {
            Recall::Satisfied(value) => return Ok(value),
            Recall::Failed(failure) => return Err(CallError::Failed(failure)),
            Recall::Ask { deadline } | Recall::Open { deadline, .. } => deadline,
            Recall::Mismatch(why) => return Err(CallError::Mismatch(why)),
        };
        let wait = Wait { key: key.clone(), kind: EntryKind::Condition, proof: asked.proof, due: None, timeout };
        let mut poll = Poll::new(policy);
        let first = self.run.judge(self.task.ix, &mut poll, condition().await.polled());
        let first = first.or_else(|| self.late(&key, recorded_deadline));
        if let Some(result) = first {
            self.commit(self.recorded(wait, result.clone())).await?;
            return result.map_err(CallError::Failed);
        }
        self.open(wait).await?;
        let deadline = self.run.state.lock().deadline(self.task.ix, &key);
        let result = loop {
            let now = self.engine().clock.now();
            let span = poll.next(now, deadline, self.engine().random()).since(now);
            self.pause(span).await?;
            let polled = self.run.judge(self.task.ix, &mut poll, condition().await.polled());
            if let Some(result) = polled.or_else(|| self.late(&key, deadline)) {
                break result;
            }
        };
        self.go_on(key, result).await
    }

    async fn wait_time(&self, name: &Arc<str>, due: impl FnOnce(Time) -> Time) -> Result<(), CallError> {
        let _inside = self.begin(&format!("the wait '{name}'"))?;
        let (key, recall) = self.recall(&Asked::new(Arc::clone(name), EntryKind::Time, None)).await?;
        let clock = &self.engine().clock;
        let (due, open) = match recall {
            Recall::Satisfied(_) => return Ok(()),
            Recall::Failed(failure) => return Err(CallError::Failed(failure)),
            Recall::Open { due: Some(due), .. } => (due, true),
            Recall::Ask { .. } | Recall::Open { .. } => (due(clock.now()), false),
            Recall::Mismatch(why) => return Err(CallError::Mismatch(why)),
        };
        let wait = Wait { key: key.clone(), kind: EntryKind::Time, proof: None, due: Some(due), timeout: None };
        if due <= clock.now() {
            let result = Ok(Value::NONE);
            let event = if open { self.closed(key, result) } else { self.recorded(wait, result) };
            return self.commit(event).await;
        }
        self.open(wait).await?;
        loop {
            let left = due.since(clock.now());
            if left.is_zero() {
                break;
            }
            self.pause(left.min(RECHECK)).await?;
        }
        self.go_on(key, Ok(Value::NONE)).await.map(drop)
    }

    fn closed(&self, key: EntryKey, result: Result<Value, Failure>) -> Event {
        Event::Closed { task: self.task, attempt: self.attempt, key, result, proved: true, retry: None }
    }

    /// Commits an open wait and only then drops the slot.
    async fn open(&self, wait: Wait) -> Result<(), CallError> {
        self.commit(Event::Opened { task: self.task, attempt: self.attempt, wait }).await?;
        self.defers();
        drop(self.lane.give_slot_away(self.turn));
        Ok(())
    }

    /// Sleeps, unless the runner closes or has lost the run.
    async fn pause(&self, span: Duration) -> Result<(), CallError> {
        let mut stage = self.engine().dispatch().stage();
        tokio::select! {
            biased;
            () = Stage::left(&mut stage, Stage::Open) => return Err(self.suspend()),
            () = tokio::time::sleep(span) => {}
        }
        self.sure_of_lease().await
    }

    /// Commits the end of an open wait and takes a slot again.
    async fn go_on(&self, key: EntryKey, result: Result<Value, Failure>) -> Result<Value, CallError> {
        self.commit(self.closed(key, result.clone())).await?;
        let slot = self.engine().dispatch().resume(self.engine()).await;
        self.lane.keep_slot(self.turn, slot.ok_or_else(|| self.suspend())?);
        self.goes_on();
        result.map_err(CallError::Failed)
    }

    /// Whether the deadline has passed, and the failure that this is.
    fn late(&self, key: &EntryKey, deadline: Option<Time>) -> Option<Result<Value, Failure>> {
        let late = deadline.is_some_and(|deadline| self.engine().clock.now() >= deadline);
        late.then(|| Err(timed_out(self.task_name(), &key.name)))
    }
}
