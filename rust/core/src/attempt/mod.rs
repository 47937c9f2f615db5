//! The attempt machine: what a body's call of its handle does, as states and actions, without I/O.
//!
//! A [`Call`] is one wait or step of a body. It yields an [`Action`]; a driver carries the action out and feeds back
//! the outcome as a [`Fed`]; the call answers with the next action, until [`Action::Done`]. Drivers are worker
//! threads, futures on tokio and the simulator. A rule about waits is changed here and nowhere else. Gates have no
//! body: they share the part that decides what a poll means, [`polling::Polling`].
//!
//! # A wait for a condition
//!
//! | state       | fed                                        | next state  | action             |
//! |-------------|--------------------------------------------|-------------|--------------------|
//! | Start       | `Begin`                                    | Lease       | `CheckLease`       |
//! | Lease       | `LeaseHeld`                                | Look        | `Recall`           |
//! | Look        | `Recalled`: satisfied or failed            | End         | `Done`             |
//! | Look        | `Recalled`: mismatch                       | Pausing     | `Commit(Block)`    |
//! | Look        | `Recalled`: no callback                    | End         | `Done(Misuse)`     |
//! | Look        | `Recalled`: ask, or open                   | First       | `Ask`              |
//! | First       | `Asked`: satisfied, failed or timed out    | Proving     | `Prove`            |
//! | First       | `Asked`: not yet                           | Opening     | `Commit(Opened)`   |
//! | Proving     | `Proved`, the slot was never released      | Recording   | `Commit(Recorded)` |
//! | Recording   | `Committed`                                | End         | `Done`             |
//! | Opening     | `Committed`                                | Releasing   | `Release`          |
//! | Releasing   | `Released`                                 | Sleeping    | `Sleep(Poll)`      |
//! | Sleeping    | `Woken`                                    | Lease again | `CheckLease`       |
//! | Lease again | `LeaseHeld`                                | Asking      | `Ask`              |
//! | Asking      | `Asked`: not yet                           | Sleeping    | `Sleep(Poll)`      |
//! | Asking      | `Asked`: satisfied, failed or timed out    | Proving     | `Prove`            |
//! | Proving     | `Proved`, without a slot                   | Closing     | `CommitAndAcquire` |
//! | Closing     | `Acquired`                                 | End         | `Done`             |
//! | Pausing     | `Committed`                                | End         | `Done(Mismatch)`   |
//!
//! The condition is polled once while the slot is held. The wait is committed before the slot is released, and its end
//! before a slot is acquired again. The deadline is compared with the time at which a poll ended, so that a condition
//! is always polled once more when the deadline has passed. `Prove` asks whether the condition's proof is unchanged
//! after the last poll; it is skipped for a condition without a proof.
//!
//! # A wait for a time
//!
//! As above up to `Recalled`. If the time has been reached, its record is committed and the call is done; else
//! `Commit(Opened)`, `Release`, `Sleep(Until)`, `CommitAndAcquire`. One that is woken before its time sleeps again.
//!
//! # A wait for a message or a child run
//!
//! The run machine closes its entry when what it waits for comes, or when it times out. As above up to `Recalled`;
//! then:
//!
//! | state     | fed                   | next state | action           |
//! |-----------|-----------------------|------------|------------------|
//! | Look      | `Recalled`: otherwise | Opening    | `Commit(Opened)` |
//! | Opening   | `Committed`           | Reading    | `Read`           |
//! | Reading   | `EntryRead`: closed   | End        | `Done`           |
//! | Reading   | `EntryRead`: open     | Releasing  | `Release`        |
//! | Releasing | `Released`            | Parked     | `Sleep(Closed)`  |
//! | Parked    | `Woken`               | Acquiring  | `Acquire`        |
//! | Acquiring | `Acquired`            | Reading    | `Read`           |
//!
//! What had come before it was opened closes the entry in the commit that opens it. A wait that the commit of its
//! child's start has opened is recalled as `Waits`, which leads to `Read` at once.
//!
//! # A step
//!
//! As above up to `Recalled`, which ends a step that is recorded. Else `Execute`, and `Executed` leads to
//! `Commit(Recorded)`. A step that was interrupted is not recorded: [`Attempt::abandon`]. A step that may be executed
//! only once, or is tried again, has more states: `step.rs`.
//!
//! # A checkpoint
//!
//! Start, Lease, `Commit(Checkpoint)`, and `Done`. Use counts start anew.
//!
//! # Several calls at once
//!
//! A body waits and records steps one after the other. Only steps with a key may be under way beside others, and within
//! a step: on the threads that the body has started, or in futures that it polls together.
//!
//! # A record of bide's own
//!
//! As above up to `Recalled`, which ends it if it is recorded; else `Commit(Recorded)`, for the answer to a request
//! `Commit(Replied)`. A request is answered once: its name in the journal has the request's number
//! ([`reply_name`]), so that a second use of it is a misuse.
//!
//! The start of child runs has states of its own: `starts.rs`.
//!
//! # Requests from outside
//!
//! The run machine may close any open entry: because the run is cancelled, or because somebody satisfies the wait by
//! hand. `Closed` ends every sleep: `Acquire`, then `Read`. An end of the wait that comes too late for that is refused,
//! and `Read` shows the other one. In a cancelled run a call that is no replay is fed `Interrupted` instead of
//! `Recalled`, once: that is recorded as its end. One in the place of another's record, which stays, is `Refused`.
//!
//! # In every state
//!
//! `LeaseLost` and `Stopped` end the call with [`CallError::Suspended`], `Refused` with [`CallError::Over`], unless
//! the run has been lost: then the body is suspended.

mod body;
mod call;
mod combined;
pub mod polling;
mod starts;
mod step;
#[cfg(test)]
mod tests;

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use crate::block::BlockReason;
use crate::entry::{EntryKey, RecordKind, StepArguments};
use crate::event::{Event, Refused, Retry};
use crate::failure::{Failure, FailureKind};
use crate::id::{NO_MAP, RunId};
use crate::journal::Recall;
use crate::message::Address;
use crate::poll::PollPolicy;
use crate::retry::RetryPolicy;
use crate::time::Time;
use crate::value::Value;

use body::What;
pub use body::{Attempt, Caller, Standing, Within};
pub use call::Call;
pub use combined::RecalledPart;
pub use polling::{PollReport, Polled};
pub use starts::child_name;
pub(crate) use starts::child_wait;

/// What the driver of a call has to do next.
#[derive(Debug)]
pub enum Action {
    /// Make sure that the runner's lease still holds. Feed `LeaseHeld` or `LeaseLost`.
    CheckLease,
    /// Look the call's record up, by [`Attempt::recall`], and feed what that returns.
    Recall,
    /// Ask the condition. Feed `Asked`.
    Ask,
    /// Say whether the condition's proof is what it was before it was asked. Feed `Proved`.
    Prove,
    /// Ask the condition that is this part of a combination. Feed `Asked`.
    AskPart(usize),
    /// As `Prove`, for this part of a combination.
    ProvePart(usize),
    /// Execute the step. Feed `Executed`, `Raised` or `Unrecorded`, or abandon the call.
    Execute,
    /// Commit an event, with the slot held. Feed `Committed`, `Refused` or `Stopped`.
    Commit(Box<Event>),
    /// Create child runs and commit the records of their starts, in one commit and with the slot held. Feed
    /// `Committed`, `Refused` or `Stopped`.
    StartChildren {
        /// Which of the requested starts these are; the others are recorded.
        which: Vec<usize>,
        /// The event with their records, whose ids the driver chooses.
        event: Box<Event>,
    },
    /// Release the slot. Feed `Released`, or `NotReleased` if the body's execution time is used up.
    Release,
    /// Sleep without a slot. Feed `Woken` or `Stopped`.
    Sleep(Sleep),
    /// Commit the end of the wait, then take a slot again. Feed `Acquired`.
    CommitAndAcquire(Box<Event>),
    /// Take a slot again. Feed `Acquired`, with `Ok` as the commit.
    Acquire,
    /// Read the call's entry, by [`RunState::closed_entry`], as far as it is committed. Feed `EntryRead`.
    Read,
    /// The call is over.
    Done(Result<Value, CallError>),
}

/// How long to sleep.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Sleep {
    /// For this span, by the steady clock: until the next poll.
    Poll(Duration),
    /// Until this time, by the wall clock: never less.
    Until(Time),
    /// Until the run machine has closed the call's entry: [`crate::Effect::Woken`].
    Closed,
    /// For this span, or until the run machine has closed the call's entry.
    PollOrClosed(Duration),
}

/// The outcome of an action.
#[derive(Debug)]
pub enum Fed {
    /// The first input: no action has been carried out yet.
    Begin,
    /// The lease holds.
    LeaseHeld,
    /// The lease or the run is lost, or the runner is closing.
    LeaseLost,
    /// What the journal has, and the key under which it is or will be recorded.
    Recalled(EntryKey, Recall),
    /// What the journal has of each part of a combination.
    RecalledParts(Vec<RecalledPart>),
    /// The run is cancelled, and the body gets that instead of what it calls for: the key under which it is recorded.
    Interrupted(EntryKey, Failure),
    /// The run machine has closed the call's entry while the body slept.
    Closed,
    /// The condition was asked.
    Asked(Polled),
    /// Whether the condition's proof is unchanged.
    Proved(bool),
    /// The step returned or raised.
    Executed(Result<Value, Failure>),
    /// The step raised what its retry policy covers.
    Raised(Failure, Retry),
    /// The step is to leave no record.
    Unrecorded,
    /// The event is committed; the deadline is that of the wait that it opened.
    Committed {
        /// Absolute, as recorded.
        deadline: Option<Time>,
    },
    /// The event came too late.
    Refused(Refused),
    /// The slot is released.
    Released,
    /// The slot is still held: the attempt's execution time is used up.
    NotReleased,
    /// The sleep is over.
    Woken,
    /// How the call's entry was closed; `None` if it is open.
    EntryRead(Option<Result<Value, Failure>>),
    /// The runner has stopped, is closing, or has lost the run.
    Stopped,
    /// The end of the wait was submitted for commit, and a slot was requested.
    Acquired {
        /// The outcome of the commit.
        commit: Result<(), CallError>,
        /// Whether there is a slot; none is given out once the runner closes.
        slot: bool,
    },
}

/// Why a call of a handle did not return a value.
#[derive(Clone, Debug)]
pub enum CallError {
    /// The runner closes, or another runner has the run: the body has to return, and will be entered again.
    Suspended,
    /// The body, its attempt or its run is over.
    Over(Refused),
    /// The wait or step failed, and that is recorded.
    Failed(Failure),
    /// The code asks for something else than what was recorded; the run is paused.
    Mismatch(String),
    /// The attempt's execution time is used up.
    TimedOut(String),
    /// The handle was used in a way that cannot work; says how.
    Misuse(String),
}

/// The clocks, as a driver has them. Asked only where a decision needs the time.
pub trait Clocks {
    /// The wall clock.
    fn wall(&self) -> Time;

    /// A clock that never jumps, from any beginning.
    fn steady(&self) -> Duration;

    /// A random number in `0.0..1.0`, for the jitter of polls.
    fn random(&self) -> f64;

    /// A condition was asked: for those who count that.
    fn polled(&self) {}
}

/// What a body asks for.
#[derive(Debug)]
pub enum Request {
    /// To wait until a condition holds.
    Condition {
        /// What proves it to be the same wait as a recorded one.
        proof: Option<Arc<[u8]>>,
        /// How often it is asked.
        policy: PollPolicy,
        /// How long it may stay open.
        timeout: Option<Duration>,
    },
    /// To wait until a time.
    Until(Time),
    /// To wait for a span from now on.
    After(Duration),
    /// To wait for a message to the run.
    Message {
        /// Where the message goes.
        address: Address,
        /// How long it may stay open.
        timeout: Option<Duration>,
    },
    /// To wait for the end of a child run.
    Child {
        /// The child.
        run: RunId,
        /// How long it may stay open.
        timeout: Option<Duration>,
    },
    /// To wait for several at once: the outermost combination first, each combination before its members.
    Combined(Vec<PartRequest>),
    /// To do something once.
    Step {
        /// What it is called with.
        arguments: StepArguments,
        /// How it is found and executed.
        options: StepOptions,
    },
    /// To record a state in the place of the journal. Its name is not looked up.
    Checkpoint(Value),
    /// To record a value of bide's own: the recorded one stands.
    Record {
        /// What it is.
        kind: RecordKind,
        /// The value.
        value: Value,
    },
    /// To answer a request that the body has taken.
    Reply {
        /// The number of the request.
        request: i64,
        /// The answer, or how it is refused.
        answer: Result<Value, Failure>,
    },
    /// To start child runs, all that are not recorded in one commit.
    Start(Vec<StartRequest>),
}

/// How a step is found and executed.
#[derive(Clone, Copy, Debug, Default)]
pub struct StepOptions {
    /// Its name has the caller's key in it ([`EntryKey::keyed_name`]): it is found by that alone.
    pub keyed: bool,
    /// It is executed at most once. Not together with `retry`.
    pub once: bool,
    /// When it is tried again.
    pub retry: Option<RetryPolicy>,
}

impl StepOptions {
    /// Found by name, use and arguments, and executed until its result is recorded.
    pub const PLAIN: Self = Self { keyed: false, once: false, retry: None };
}

/// The start of a child run, as a body asks for it.
#[derive(Debug)]
pub struct StartRequest {
    /// Its name in the journal.
    pub name: Arc<str>,
    /// Its inputs.
    pub arguments: StepArguments,
    /// The caller's key says what is the same, and the name has it.
    pub keyed: bool,
    /// The next call is the wait for its end, under [`child_name`] and without a timeout: the commit of its start opens
    /// that too.
    pub awaited: bool,
}

/// One of the waits of a combination, as a body asks for it.
#[derive(Debug)]
pub struct PartRequest {
    /// Its name in the journal.
    pub name: Arc<str>,
    /// What it is.
    pub part: Part,
    /// How long it may stay open.
    pub timeout: Option<Duration>,
}

/// What one of the waits of a combination waits for.
#[derive(Debug)]
pub enum Part {
    /// A condition.
    Condition {
        /// What proves it to be the same wait as a recorded one.
        proof: Option<Arc<[u8]>>,
        /// How often it is asked.
        policy: PollPolicy,
    },
    /// A point in time.
    Until(Time),
    /// A span from now on.
    After(Duration),
    /// A message to the run.
    Message(Address),
    /// The end of a child run.
    Child(RunId),
    /// The first of these parts, by their numbers.
    Any(Vec<usize>),
    /// All of these parts, by their numbers.
    All(Vec<usize>),
}

impl Request {
    /// A wait for these parts: one, or a combination before its members.
    #[must_use]
    pub fn of_parts(mut parts: Vec<PartRequest>) -> Self {
        if parts.len() > 1 {
            return Self::Combined(parts);
        }
        let Some(PartRequest { name, part, timeout }) = parts.pop() else { return Self::After(Duration::ZERO) };
        match part {
            Part::Condition { proof, policy } => Self::Condition { proof, policy, timeout },
            Part::Until(time) => Self::Until(time),
            Part::After(span) => Self::After(span),
            Part::Message(address) => Self::Message { address, timeout },
            Part::Child(run) => Self::Child { run, timeout },
            Part::Any(_) | Part::All(_) => Self::Combined(vec![PartRequest { name, part, timeout }]),
        }
    }

    /// A step that no older version compared in another way.
    #[must_use]
    pub const fn step(proof: Option<Arc<[u8]>>) -> Self {
        Self::Step { arguments: StepArguments { proof, older: None, advice: "" }, options: StepOptions::PLAIN }
    }

    /// The names in it, beside that of the call.
    fn names(&self) -> impl Iterator<Item = &str> {
        let (parts, starts): (&[PartRequest], &[StartRequest]) = match self {
            Self::Combined(parts) => (parts, &[]),
            Self::Start(starts) => (&[], starts),
            _ => (&[], &[]),
        };
        parts.iter().map(|part| &*part.name).chain(starts.iter().map(|start| &*start.name))
    }

    /// What a message calls it, and what it says about one that needs a key.
    const fn described(&self) -> (What, &'static str) {
        match self {
            Self::Step { arguments, .. } => (What::Step, arguments.advice),
            Self::Checkpoint(_) => (What::Checkpoint, ""),
            Self::Record { .. } => (What::Callback, ""),
            Self::Reply { .. } => (What::Reply, ""),
            Self::Start(_) => (What::Start, ""),
            _ => (What::Wait, ""),
        }
    }

    const fn is_keyed(&self) -> bool {
        matches!(self, Self::Step { options: StepOptions { keyed: true, .. }, .. })
    }
}

/// How messages call a task. The name of an element is made only then: many may wait at once.
#[derive(Clone, Copy)]
struct Named<'a> {
    name: &'a str,
    map: i32,
}

impl fmt::Display for Named<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name)?;
        if self.map == NO_MAP { Ok(()) } else { write!(f, "[{}]", self.map) }
    }
}

/// The name in the journal of the answer to a request.
#[must_use]
pub fn reply_name(name: &str, request: i64) -> Arc<str> {
    format!("reply to {name} {request:x}").into()
}

/// A time as the step `now` records it.
#[must_use]
pub fn now_value(time: Time) -> Value {
    Value::tagged(b'i', time.0.to_string().as_bytes())
}

/// The time that the step `now` has recorded.
///
/// # Errors
/// `Failed`, if that is no time.
pub fn read_now(task: &str, value: &Value) -> Result<Time, CallError> {
    let digits = std::str::from_utf8(value.payload()).ok().filter(|_| value.tag() == b'i');
    digits.and_then(|digits| digits.parse().ok()).map(Time).ok_or_else(|| {
        let message = format!("task '{task}': what is recorded as the time of handle.now() is not a time");
        CallError::Failed(Failure::new(FailureKind::Serialization, "bide.SerializationError", &message))
    })
}

/// The error of a wait that no answer can end.
fn no_callback(task: Named<'_>, name: &str) -> CallError {
    CallError::Misuse(format!(
        "task '{task}': the callback '{name}' was dropped by a checkpoint (or is of another run), and its token is \
         refused: make it again after the checkpoint, or wait for it before"
    ))
}

/// Pauses the run: the code asks for something else than was recorded.
fn pause(why: &str) -> Action {
    let reason = BlockReason::Mismatch { what: why.into() };
    Action::Commit(Box::new(Event::Block { reason }))
}

/// The text of a call that comes after the attempt's execution time.
#[must_use]
fn used_up(task: Named<'_>) -> CallError {
    CallError::TimedOut(format!("task '{task}' has used up its time"))
}
