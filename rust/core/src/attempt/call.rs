//! One call of a handle: the states of the table in `mod.rs`.

use std::sync::Arc;
use std::time::Duration;

use super::combined::Combined;
use super::polling::{PollReport, Polling, timed_out};
use super::starts::Starts;
use super::step::{self, Step};
use super::{Action, CallError, Caller, Clocks, Fed, Named, Request, Sleep, no_callback, pause, used_up};
use crate::entry::{EntryKey, Lookup, Operation, RecordKind};
use crate::event::{Event, Refused, Wait};
use crate::failure::{Failure, FailureKind};
use crate::id::TaskRef;
use crate::journal::Recall;
use crate::run::RunState;
use crate::time::Time;
use crate::value::Value;

/// What is looked up of each part of a combination, or of each start.
type Lookups<'a> = Box<dyn Iterator<Item = (&'a Arc<str>, Lookup)> + 'a>;

/// A wait or step of a body, in progress. Drivers keep it boxed, because a parked body holds it.
#[derive(Debug)]
pub struct Call {
    /// The task whose body makes the call.
    pub(super) task: TaskRef,
    /// The attempt of the task, for the events of the call.
    pub(super) attempt: u32,
    /// Its key in the journal; `n` is 0 before it was looked up.
    pub(super) key: EntryKey,
    /// What its record must be.
    lookup: Lookup,
    /// How long the wait may stay open.
    timeout: Option<Duration>,
    /// What the call waits for or does.
    pub(super) kind: Kind,
    /// Where it is in the table of `attempt/mod.rs`.
    pub(super) state: State,
}

/// What the call waits for or does.
#[derive(Debug)]
pub(super) enum Kind {
    Condition(Polling),
    Time(Until),
    /// What the run machine waits for.
    Pushed(Operation),
    /// Several waits, which have states of their own.
    Combined(Box<Combined>),
    /// A step, which has states of its own.
    Step(Step),
    /// The state that is recorded, until it is.
    Checkpoint(Value),
    /// A value of bide's own.
    Record(RecordKind, Value),
    /// The answer to the request with this number.
    Reply(i64, Box<Result<Value, Failure>>),
    /// The start of child runs, which has states of its own too.
    Starts(Box<Starts>),
}

/// When a wait for a time ends.
#[derive(Clone, Copy, Debug)]
pub(super) enum Until {
    At(Time),
    /// Counted from when the wait begins.
    After(Duration),
}

impl Until {
    fn time(self, clocks: &dyn Clocks) -> Time {
        match self {
            Self::At(time) => time,
            Self::After(span) => clocks.wall().after(span),
        }
    }
}

/// Where the call stands; see the table in `mod.rs`.
#[derive(Debug)]
pub(super) enum State {
    Start,
    Lease,
    Look,
    First,
    /// A step has states of its own.
    Step(step::State),
    /// Whether the wait has been opened, and so has no slot.
    Proving(Ended, bool),
    Recording(Ended),
    Opening,
    Releasing,
    Sleeping,
    LeaseAgain,
    Asking,
    Closing(Ended),
    Reading,
    Parked,
    Acquiring,
    Pausing(Box<str>),
    End,
}

/// What a wait or step has ended with. In a box, because the many that wait have none.
pub(super) type Ended = Box<Result<Value, Failure>>;

impl Call {
    pub(super) fn new(task: TaskRef, attempt: u32, name: Arc<str>, request: Request, caller: Caller) -> Self {
        let (lookup, timeout, kind) = match request {
            Request::Condition { proof, policy, timeout } => {
                (Lookup::Condition { proof }, timeout, Kind::Condition(Polling::new(policy, None)))
            }
            Request::Until(time) => (Lookup::Time, None, Kind::Time(Until::At(time))),
            Request::After(span) => (Lookup::Time, None, Kind::Time(Until::After(span))),
            Request::Message { address, timeout } => {
                (Lookup::Message(address.clone()), timeout, Kind::Pushed(Operation::Message(address)))
            }
            Request::Child { run, timeout } => (Lookup::Child { run }, timeout, Kind::Pushed(Operation::Child { run })),
            Request::Combined(parts) => {
                let combined = Box::new(Combined::new(task, attempt, parts));
                (Lookup::Any, None, Kind::Combined(combined))
            }
            Request::Step { arguments, options } => {
                let lookup = if options.keyed { Lookup::KeyedStep } else { Lookup::Step(Box::new(arguments)) };
                (lookup, None, Kind::Step(Step::new(&options, caller)))
            }
            Request::Checkpoint(state) => (Lookup::Record(RecordKind::Checkpoint), None, Kind::Checkpoint(state)),
            Request::Record { kind, value } => (Lookup::Record(kind), None, Kind::Record(kind, value)),
            Request::Reply { request, answer } => {
                (Lookup::Record(RecordKind::Reply), None, Kind::Reply(request, Box::new(answer)))
            }
            Request::Start(starts) => {
                let starts = Box::new(Starts::new(task, attempt, starts));
                (Lookup::KeyedStart, None, Kind::Starts(starts))
            }
        };
        Self { task, attempt, key: EntryKey { name, n: 0 }, lookup, timeout, kind, state: State::Start }
    }

    /// Its name in the journal.
    #[must_use]
    pub const fn name(&self) -> &Arc<str> {
        &self.key.name
    }

    /// Its key in the journal; `n` is 0 before it was looked up.
    #[must_use]
    pub fn key(&self) -> &EntryKey {
        match &self.kind {
            Kind::Combined(combined) => combined.keys().next().unwrap_or(&self.key),
            _ => &self.key,
        }
    }

    /// What proves its condition to be the same, if it waits for one alone.
    #[must_use]
    pub fn condition_proof(&self) -> Option<&Arc<[u8]>> {
        if let Kind::Condition(_) = &self.kind { self.lookup.proof() } else { None }
    }

    /// The name of a part of a combination.
    #[must_use]
    pub fn part_name(&self, part: usize) -> Option<&Arc<str>> {
        if let Kind::Combined(combined) = &self.kind { combined.keys().nth(part).map(|key| &key.name) } else { None }
    }

    /// What its record as a step consists of, but for its result.
    pub(crate) fn step_operation(&self) -> (TaskRef, &EntryKey, Operation) {
        (self.task, &self.key, Operation::step(self.proof()))
    }

    /// The keys of all parts of a combination, or of all starts, in their order.
    #[must_use]
    pub fn part_keys(&self) -> Vec<EntryKey> {
        match &self.kind {
            Kind::Combined(combined) => combined.keys().cloned().collect(),
            Kind::Starts(starts) => starts.keys().cloned().collect(),
            _ => Vec::new(),
        }
    }

    /// What each part of a combination has come to, in their order, as far as it is committed; nothing for another call.
    #[must_use]
    pub fn outcomes(&self, run: &RunState) -> Vec<Option<Result<Value, Failure>>> {
        match &self.kind {
            Kind::Combined(combined) => combined.outcomes(run),
            _ => Vec::new(),
        }
    }

    /// What is looked up of each part of a combination.
    pub(super) fn lookups(&self) -> Option<Lookups<'_>> {
        match &self.kind {
            Kind::Combined(combined) => Some(Box::new(combined.lookups())),
            Kind::Starts(starts) => Some(Box::new(starts.lookups())),
            _ => None,
        }
    }

    /// Whether its record is found by a key of the caller's.
    pub(super) const fn is_keyed(&self) -> bool {
        matches!(self.lookup, Lookup::KeyedStep)
    }

    /// Whether it records a checkpoint.
    pub(super) const fn is_checkpoint(&self) -> bool {
        matches!(self.kind, Kind::Checkpoint(_))
    }

    /// Whether the run machine closes what it waits for: what a driver reads of it may not be committed yet.
    #[must_use]
    pub const fn is_pushed(&self) -> bool {
        matches!(self.kind, Kind::Pushed(_) | Kind::Combined(_))
    }

    /// Whether its body, which has a slot, gives that back if it reads that the wait is open.
    pub(super) const fn may_release(&self) -> bool {
        match &self.kind {
            Kind::Pushed(_) => true,
            Kind::Combined(combined) => combined.has_slot(),
            _ => false,
        }
    }

    /// The wait that it has opened with the start of a child, if it has.
    pub(super) fn take_opened(&mut self) -> Option<EntryKey> {
        match &mut self.kind {
            Kind::Starts(starts) => starts.take_opened(),
            _ => None,
        }
    }

    /// Whether it waits for several at once.
    pub(super) const fn is_combined(&self) -> bool {
        matches!(self.kind, Kind::Combined(_))
    }

    /// Whether it waits, for one or for several.
    pub(super) const fn is_wait(&self) -> bool {
        matches!(self.kind, Kind::Condition(_) | Kind::Time(_) | Kind::Pushed(_) | Kind::Combined(_))
    }

    pub(super) const fn is_over(&self) -> bool {
        match &self.kind {
            Kind::Combined(combined) => combined.is_over(),
            Kind::Starts(starts) => starts.is_over(),
            _ => matches!(self.state, State::End),
        }
    }

    pub(super) const fn lookup(&self) -> &Lookup {
        &self.lookup
    }

    /// What its condition raised at the last poll, if the wait continues.
    #[must_use]
    pub fn last_error(&self) -> Option<&Failure> {
        match &self.kind {
            Kind::Condition(polling) => polling.error(),
            Kind::Combined(combined) => combined.last_error(),
            _ => None,
        }
    }

    /// Reports the polls of its conditions so far, as far as these are open: for those who look. Allocates nothing, for
    /// it is called after each poll.
    pub fn polls(&self, report: &mut dyn FnMut(PollReport)) {
        match &self.kind {
            Kind::Condition(polling) => report(polling.report(&self.key, None)),
            Kind::Combined(combined) => combined.polls().for_each(report),
            _ => {}
        }
    }

    pub(super) fn advance(&mut self, fed: Fed, task: Named<'_>, clocks: &dyn Clocks) -> Action {
        if let Fed::Interrupted(key, failure) = fed {
            return self.interrupted(key, failure, clocks);
        }
        if let Fed::Refused(Refused::Cancelled) = fed {
            self.kind = Kind::Record(RecordKind::Callback, Value::NONE);
            let failure = Failure::new(FailureKind::Cancelled, "bide.Cancelled", "the run was cancelled");
            return self.end(Err(CallError::Failed(failure)));
        }
        if let Kind::Combined(combined) = &mut self.kind {
            return combined.advance(fed, task, clocks);
        }
        if let Kind::Starts(starts) = &mut self.kind {
            return starts.advance(fed, task);
        }
        let state = std::mem::replace(&mut self.state, State::End);
        match (state, fed) {
            (_, Fed::LeaseLost | Fed::Stopped) => self.end(Err(CallError::Suspended)),
            (_, Fed::Refused(refused)) => self.end(Err(CallError::Over(refused))),
            (State::Start, Fed::Begin) => self.go(State::Lease, Action::CheckLease),
            (State::Lease, Fed::LeaseHeld) => match &mut self.kind {
                Kind::Checkpoint(state) => {
                    let state = std::mem::replace(state, Value::NONE);
                    let event = Event::Checkpoint { task: self.task, attempt: self.attempt, state };
                    self.go(State::Recording(Box::new(Ok(Value::NONE))), Action::Commit(Box::new(event)))
                }
                _ => self.go(State::Look, Action::Recall),
            },
            (State::Look, Fed::Recalled(key, recall)) => {
                self.key = key;
                self.recalled(recall, task, clocks)
            }
            (State::First, Fed::Asked(polled)) => match self.judge(polled, task, clocks) {
                Some(result) => self.prove(result, false),
                None => self.open(Operation::Condition { proof: self.proof() }),
            },
            (State::Proving(result, opened), Fed::Proved(proved)) => self.asked_last(*result, opened, proved),
            (State::Step(state), fed) => self.advance_step(state, fed, task, clocks),
            (State::Recording(result), Fed::Committed { .. }) => self.end((*result).map_err(CallError::Failed)),
            (State::Opening, Fed::Committed { deadline }) => {
                match &mut self.kind {
                    Kind::Pushed(_) => return self.go(State::Reading, Action::Read),
                    Kind::Condition(polling) => polling.set_deadline(deadline),
                    _ => {}
                }
                self.go(State::Releasing, Action::Release)
            }
            (State::Reading, Fed::EntryRead(None)) if self.is_pushed() => self.go(State::Releasing, Action::Release),
            (State::Reading, Fed::EntryRead(None)) => self.end(Err(CallError::Over(Refused::AttemptOver))),
            (State::Reading, Fed::EntryRead(Some(result))) => self.end(result.map_err(CallError::Failed)),
            (State::Parked, Fed::Woken) | (State::Parked | State::Sleeping, Fed::Closed) => {
                self.go(State::Acquiring, Action::Acquire)
            }
            (State::Acquiring, Fed::Acquired { slot: false, .. }) => self.end(Err(CallError::Suspended)),
            (State::Acquiring, Fed::Acquired { .. }) => self.go(State::Reading, Action::Read),
            (State::Releasing, Fed::Released) => self.sleep(clocks),
            (State::Releasing, Fed::NotReleased) => self.end(Err(used_up(task))),
            (State::Sleeping, Fed::Woken) => match &self.kind {
                Kind::Condition(_) => self.go(State::LeaseAgain, Action::CheckLease),
                // What was asked of an earlier wait may have woken it.
                Kind::Time(until) if clocks.wall() < until.time(clocks) => self.sleep(clocks),
                _ => self.close(Ok(Value::NONE), true),
            },
            (State::LeaseAgain, Fed::LeaseHeld) => self.go(State::Asking, Action::Ask),
            (State::Asking, Fed::Asked(polled)) => match self.judge(polled, task, clocks) {
                Some(result) => self.prove(result, true),
                None => self.sleep(clocks),
            },
            (State::Closing(_), Fed::Acquired { slot: false, .. }) => self.end(Err(CallError::Suspended)),
            // The run machine has closed it before.
            (State::Closing(_), Fed::Acquired { commit: Err(CallError::Over(_)), slot: true }) => {
                self.go(State::Reading, Action::Read)
            }
            (State::Closing(result), Fed::Acquired { commit, slot: true }) => {
                self.end(commit.and((*result).map_err(CallError::Failed)))
            }
            (State::Pausing(why), Fed::Committed { .. }) => self.end(Err(CallError::Mismatch(why.into()))),
            (state, fed) => unreachable!("a driver answered {fed:?} in {state:?}"),
        }
    }

    /// The run is cancelled: that is recorded as the end of the call.
    #[cold]
    #[inline(never)]
    fn interrupted(&mut self, key: EntryKey, failure: Failure, clocks: &dyn Clocks) -> Action {
        self.key = key;
        let operation = match &self.kind {
            Kind::Condition(_) => Operation::Condition { proof: self.proof() },
            Kind::Time(until) => Operation::Time { due: until.time(clocks) },
            Kind::Pushed(operation) => operation.clone(),
            Kind::Combined(combined) => combined.operation(),
            Kind::Step(_) => Operation::step(self.proof()),
            Kind::Starts(_) => Operation::Start { proof: None },
            Kind::Checkpoint(_) => Operation::Record(RecordKind::Checkpoint),
            Kind::Record(kind, _) => Operation::Record(*kind),
            Kind::Reply(..) => Operation::Record(RecordKind::Reply),
        };
        self.kind = Kind::Record(RecordKind::Callback, Value::NONE);
        self.record(operation, Err(failure))
    }

    /// Whether it waits for conditions that are polled for ever if they go on answering as they have. (Deadlines of the
    /// members of a combination have timers of their own.)
    #[must_use]
    pub fn is_endless(&self) -> bool {
        match &self.kind {
            Kind::Condition(polling) => polling.is_endless(),
            Kind::Combined(combined) => combined.is_endless(),
            _ => false,
        }
    }

    /// Its condition was asked between two sleeps and does not hold yet: after how long it is asked again. `None`: that
    /// has to be fed to the call as an answer, because it may end the wait, or take back what was said of an error.
    pub fn not_yet(&mut self, clocks: &dyn Clocks) -> Option<Duration> {
        match &mut self.kind {
            Kind::Condition(polling) if matches!(self.state, State::Sleeping) => polling.not_yet(clocks),
            _ => None,
        }
    }

    /// The deadline of its open entry has changed.
    pub fn set_deadline(&mut self, deadline: Option<Time>) {
        if let Kind::Condition(polling) = &mut self.kind {
            polling.set_deadline(deadline);
        }
    }

    pub(super) fn go(&mut self, state: State, action: Action) -> Action {
        self.state = state;
        action
    }

    pub(super) fn end(&mut self, result: Result<Value, CallError>) -> Action {
        self.go(State::End, Action::Done(result))
    }

    #[inline(never)]
    fn recalled(&mut self, recall: Recall, task: Named<'_>, clocks: &dyn Clocks) -> Action {
        if matches!(self.kind, Kind::Reply(..)) && self.key.n > 1 {
            let why = format!("task '{task}': the request was answered before, and has one answer: {}", self.key.name);
            return self.end(Err(CallError::Misuse(why)));
        }
        let (due, deadline) = match recall {
            Recall::Satisfied(value) => return self.end(Ok(value)),
            Recall::Failed(failure) => return self.end(Err(CallError::Failed(failure))),
            Recall::Mismatch(why) => {
                let why = format!("task '{task}': {why}");
                let pause = pause(&why);
                return self.go(State::Pausing(why.into()), pause);
            }
            Recall::NoCallback => {
                let misuse = no_callback(task, &self.key.name);
                return self.end(Err(misuse));
            }
            Recall::Waits => return self.go(State::Reading, Action::Read),
            Recall::Begun { mode, due } => return self.step_begun(mode, due, task, clocks),
            Recall::Ask { deadline } => (None, deadline),
            Recall::Open { due, deadline } => (due, deadline),
        };
        let time = match &mut self.kind {
            Kind::Condition(polling) => {
                polling.set_deadline(deadline);
                return self.go(State::First, Action::Ask);
            }
            Kind::Step(_) => return self.step_is_new(clocks),
            Kind::Checkpoint(_) | Kind::Combined(_) | Kind::Starts(_) => return self.end(Ok(Value::NONE)),
            Kind::Pushed(operation) => {
                let operation = operation.clone();
                return self.open(operation);
            }
            Kind::Record(kind, value) => {
                let (kind, value) = (*kind, std::mem::replace(value, Value::NONE));
                return self.record(Operation::Record(kind), Ok(value));
            }
            Kind::Reply(request, answer) => {
                let (request, answer) = (*request, std::mem::replace(&mut **answer, Ok(Value::NONE)));
                let (task, attempt) = (self.task, self.attempt);
                let wait = self.wait(Operation::Record(RecordKind::Reply));
                let event = Event::Replied { task, attempt, wait, request, answer };
                return self.go(State::Recording(Box::new(Ok(Value::NONE))), Action::Commit(Box::new(event)));
            }
            Kind::Time(until) => due.unwrap_or_else(|| until.time(clocks)),
        };
        self.kind = Kind::Time(Until::At(time));
        if time > clocks.wall() {
            return self.open(Operation::Time { due: time });
        }
        if due.is_none() {
            return self.record(Operation::Time { due: time }, Ok(Value::NONE));
        }
        let event = self.closed(Ok(Value::NONE), true);
        self.go(State::Recording(Box::new(Ok(Value::NONE))), Action::Commit(Box::new(event)))
    }

    fn judge(&mut self, polled: super::Polled, task: Named<'_>, clocks: &dyn Clocks) -> Option<Result<Value, Failure>> {
        let Kind::Condition(polling) = &mut self.kind else { return Some(Ok(Value::NONE)) };
        let name = &self.key.name;
        polling.judge(polled, clocks, || timed_out(&task.to_string(), name))
    }

    fn sleep(&mut self, clocks: &dyn Clocks) -> Action {
        let sleep = match &mut self.kind {
            Kind::Condition(polling) => Sleep::Poll(polling.next(clocks)),
            Kind::Time(until) => Sleep::Until(until.time(clocks)),
            Kind::Pushed(_) => return self.go(State::Parked, Action::Sleep(Sleep::Closed)),
            // A step and a combination sleep in states of their own, and records and starts never.
            Kind::Step(_) | Kind::Combined(_) | Kind::Checkpoint(_) | Kind::Starts(_) => Sleep::Poll(Duration::ZERO),
            Kind::Record(..) | Kind::Reply(..) => Sleep::Poll(Duration::ZERO),
        };
        self.go(State::Sleeping, Action::Sleep(sleep))
    }

    /// The condition was asked for the last time.
    fn prove(&mut self, result: Result<Value, Failure>, opened: bool) -> Action {
        if self.lookup.proof().is_none() {
            return self.asked_last(result, opened, true);
        }
        self.go(State::Proving(Box::new(result), opened), Action::Prove)
    }

    fn asked_last(&mut self, result: Result<Value, Failure>, opened: bool, proved: bool) -> Action {
        if opened {
            return self.close(result, proved);
        }
        self.record(Operation::Condition { proof: self.proof().filter(|_| proved) }, result)
    }

    pub(super) fn proof(&self) -> Option<Arc<[u8]>> {
        self.lookup.proof().cloned()
    }

    pub(super) fn wait(&self, operation: Operation) -> Wait {
        Wait { key: self.key.clone(), operation, timeout: self.timeout }
    }

    #[inline(never)]
    pub(super) fn record(&mut self, operation: Operation, result: Result<Value, Failure>) -> Action {
        let (task, attempt, wait) = (self.task, self.attempt, self.wait(operation));
        let event = Event::Recorded { task, attempt, wait, since: self.step_began(), result: result.clone() };
        self.go(State::Recording(Box::new(result)), Action::Commit(Box::new(event)))
    }

    #[inline(never)]
    fn open(&mut self, operation: Operation) -> Action {
        let event = Event::Opened { task: self.task, attempt: self.attempt, waits: vec![self.wait(operation)] };
        self.go(State::Opening, Action::Commit(Box::new(event)))
    }

    #[inline(never)]
    fn close(&mut self, result: Result<Value, Failure>, proved: bool) -> Action {
        let event = self.closed(result.clone(), proved);
        self.go(State::Closing(Box::new(result)), Action::CommitAndAcquire(Box::new(event)))
    }

    fn closed(&self, result: Result<Value, Failure>, proved: bool) -> Event {
        let (task, attempt, key) = (self.task, self.attempt, self.key.clone());
        let polls = if let Kind::Condition(polling) = &self.kind { polling.asked() } else { 0 };
        Event::Closed { task, attempt, key, result, proved, polls, retry: None }
    }
}
