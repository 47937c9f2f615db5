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
//! `Commit(Opened)`, `Release`, `Sleep(Until)`, `CommitAndAcquire`.
//!
//! # A wait for a message or a child run
//!
//! The run machine closes its entry when what it waits for comes, or when it times out. As above up to `Recalled`; then:
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
//! What had come before it was opened closes the entry in the commit that opens it.
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
//! # In every state
//!
//! `LeaseLost` and `Stopped` end the call with [`CallError::Suspended`], `Refused` with [`CallError::Over`], unless
//! the run has been lost: then the body is suspended.

mod call;
mod combined;
pub mod polling;
mod step;
#[cfg(test)]
mod tests;

use std::collections::HashSet;
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use crate::entry::{EntryKey, Lookup, StepArguments};
use crate::event::{Event, Refused, Retry};
use crate::failure::{Failure, FailureKind};
use crate::id::{RunId, TaskRef};
use crate::journal::Recall;
use crate::message::Address;
use crate::poll::PollPolicy;
use crate::retry::RetryPolicy;
use crate::run::RunState;
use crate::time::Time;
use crate::uses::Uses;
use crate::value::Value;

pub use call::Call;
pub use combined::RecalledPart;
pub use polling::Polled;

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
    /// Release the slot. Feed `Released`, or `NotReleased` if the body's execution time is used up.
    Release,
    /// Sleep without a slot. Feed `Woken` or `Stopped`.
    Sleep(Sleep),
    /// Commit the end of the wait, then take a slot again. Feed `Acquired`.
    CommitAndAcquire(Box<Event>),
    /// Take a slot again. Feed `Acquired`, with `Ok` as the commit.
    Acquire,
    /// Read the call's entry, by [`RunState::closed_entry`]. Feed `EntryRead`.
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
    /// A step that no older version compared in another way.
    #[must_use]
    pub const fn step(proof: Option<Arc<[u8]>>) -> Self {
        Self::Step { arguments: StepArguments { proof, older: None, advice: "" }, options: StepOptions::PLAIN }
    }

    /// What a message calls it, and what it says about one that needs a key.
    const fn described(&self) -> (What, &'static str) {
        match self {
            Self::Step { arguments, .. } => (What::Step, arguments.advice),
            Self::Checkpoint(_) => (What::Checkpoint, ""),
            _ => (What::Wait, ""),
        }
    }

    const fn is_keyed(&self) -> bool {
        matches!(self, Self::Step { options: StepOptions { keyed: true, .. }, .. })
    }
}

/// One entry of a body: what it has called so far, and what of it is under way.
#[derive(Clone, Debug)]
pub struct Attempt {
    /// Whose body.
    task: TaskRef,
    /// The task's name, for messages.
    name: Arc<str>,
    /// Which try.
    number: u32,
    /// Which names it has used, and which records.
    uses: Uses,
    /// The call without a key that is under way: no other one may begin meanwhile.
    current: Option<Current>,
    /// The steps with a key that are under way. `None` until there is one.
    keyed: Option<Box<Keyed>>,
    /// How many records it has not read yet; `None` until that is asked.
    unread: Option<usize>,
    /// The body has to return: every further call ends with `Suspended`.
    suspended: bool,
    /// The body has returned.
    ended: bool,
}

/// The steps with a key.
#[derive(Clone, Debug, Default)]
struct Keyed {
    /// The names of those under way.
    under_way: HashSet<Arc<str>>,
    /// How many of them the body's own thread executes, each within the one before.
    own: u32,
    /// Those whose records were read.
    read: HashSet<Arc<str>>,
}

/// What a driver knows when a call begins.
#[derive(Clone, Copy, Debug, Default)]
pub struct Standing {
    /// The run is executed by another runner.
    pub lost: bool,
    /// The runner is closing.
    pub closing: bool,
    /// The attempt's execution time is used up.
    pub used_up: bool,
    /// Where the call comes from.
    pub caller: Caller,
}

/// Where a call comes from.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Caller {
    /// The body's own thread: during another call it comes from within that.
    #[default]
    Body,
    /// Another thread than the body's.
    Elsewhere,
    /// One of several futures that a body may poll together.
    Future(Within),
}

/// What a call is made within.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Within {
    /// Nothing but the body.
    #[default]
    Body,
    /// A step.
    Step,
    /// A condition.
    Condition,
}

/// What a call does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum What {
    Wait,
    Step,
    Checkpoint,
}

/// A call in words.
#[derive(Clone, Debug)]
struct Current {
    what: What,
    name: Arc<str>,
}

impl fmt::Display for Current {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let what = match self.what {
            What::Wait => "wait",
            What::Step => "step",
            What::Checkpoint => return f.write_str("the checkpoint"),
        };
        write!(f, "the {what} '{}'", self.name)
    }
}

impl Attempt {
    /// A body that has just been entered.
    #[must_use]
    pub fn new(task: TaskRef, name: Arc<str>, number: u32) -> Self {
        let (uses, current, keyed, unread) = (Uses::default(), None, None, None);
        Self { task, name, number, uses, current, keyed, unread, suspended: false, ended: false }
    }

    /// The task's name.
    #[must_use]
    pub const fn name(&self) -> &Arc<str> {
        &self.name
    }

    /// Which try it is, from 1.
    #[must_use]
    pub const fn number(&self) -> u32 {
        self.number
    }

    /// Whether the body has to return.
    #[must_use]
    pub const fn is_suspended(&self) -> bool {
        self.suspended
    }

    /// From now on every call ends with [`CallError::Suspended`], so that the body returns.
    pub const fn suspend(&mut self) -> CallError {
        self.suspended = true;
        CallError::Suspended
    }

    /// Whether the body has returned.
    #[must_use]
    pub const fn has_ended(&self) -> bool {
        self.ended
    }

    /// The body has returned: no further call is allowed.
    pub const fn end(&mut self) {
        self.ended = true;
    }

    /// Whether the body only reads what an earlier entry of it has recorded: there are records that it has not come to
    /// yet, and it has neither asked nor executed anything that has none.
    pub fn is_replaying(&mut self, run: &RunState) -> bool {
        !self.ended && self.unread(run) > 0
    }

    fn unread(&mut self, run: &RunState) -> usize {
        *self.unread.get_or_insert_with(|| run.recorded_calls(self.task))
    }

    /// Begins a call.
    ///
    /// # Errors
    /// The first of these that applies: `Over` after the body's end, `Suspended` if the body has to return, `TimedOut`
    /// if its execution time is used up, `Misuse` during another call (within its step or its condition, or beside it)
    /// and on another thread. A step with a key is refused only within a condition, and beside itself.
    pub fn begin(&mut self, name: &Arc<str>, request: Request, standing: Standing) -> Result<Box<Call>, CallError> {
        self.check(standing)?;
        let ((what, advice), keyed) = (request.described(), request.is_keyed());
        let begins = Current { what, name: Arc::clone(name) };
        if let Some(why) = self.refusal(&begins, keyed, advice, standing.caller) {
            return Err(CallError::Misuse(format!("task '{}': {begins} {why}", self.name)));
        }
        if standing.closing {
            return Err(self.suspend());
        }
        if keyed {
            let steps = self.keyed.get_or_insert_default();
            steps.under_way.insert(Arc::clone(name));
            steps.own += u32::from(standing.caller == Caller::Body);
        } else {
            self.current = Some(begins);
        }
        Ok(Box::new(Call::new(self.task, self.number, Arc::clone(name), request, standing.caller)))
    }

    /// Why a call may not begin now.
    fn refusal(&self, begins: &Current, keyed: bool, advice: &str, caller: Caller) -> Option<String> {
        let own = self.keyed.as_ref().is_some_and(|steps| steps.own > 0);
        let within = match (caller, &self.current) {
            (Caller::Future(within), _) => within,
            (Caller::Body, Some(Current { what: What::Wait, .. })) => Within::Condition,
            (Caller::Body, Some(_)) => Within::Step,
            (Caller::Body, None) if own => Within::Step,
            _ => Within::Body,
        };
        if within == Within::Condition || (within == Within::Step && !keyed) {
            let outer = match &self.current {
                Some(outer) => outer.to_string(),
                None if within == Within::Step => "a step".to_owned(),
                None => "a condition".to_owned(),
            };
            return Some(format!(
                "inside {outer}: a body waits or records a step one after the other, and never within a step or a \
                 condition"
            ));
        }
        let under_way = self.keyed.as_ref().filter(|steps| !steps.under_way.is_empty());
        if keyed {
            let same = under_way.is_some_and(|steps| steps.under_way.contains(&begins.name));
            return same.then(|| "is under way already: steps that run side by side need keys that differ".to_owned());
        }
        let advice = if advice.is_empty() { String::new() } else { format!(". {advice}") };
        if caller == Caller::Elsewhere {
            return Some(format!(
                "from another thread than the body's: only the body itself can wait, and record steps without a \
                 key{advice}"
            ));
        }
        if let Some(other) = &self.current {
            return Some(format!(
                "beside {other}: only steps with a key may run side by side, and a body waits for one thing after the \
                 other{advice}"
            ));
        }
        under_way.filter(|_| begins.what == What::Checkpoint).map(|steps| {
            let names: Vec<String> = steps.under_way.iter().map(|name| format!("'{name}'")).collect();
            format!("while steps are under way ({}): it would drop their records", names.join(", "))
        })
    }

    /// What every use of the handle needs.
    fn check(&mut self, standing: Standing) -> Result<(), CallError> {
        if self.ended {
            return Err(CallError::Over(Refused::AttemptOver));
        }
        if self.suspended || standing.lost {
            return Err(self.suspend());
        }
        if standing.used_up { Err(used_up(&self.name)) } else { Ok(()) }
    }

    /// Whether the body may show something now, which it may within a step or a condition too, and on any thread.
    /// Answers the name of the step or wait under way.
    ///
    /// # Errors
    /// `Over`, `Suspended` and `TimedOut`, as [`Attempt::begin`].
    pub fn may_show(&mut self, standing: Standing) -> Result<Option<Arc<str>>, CallError> {
        self.check(standing)?;
        Ok(self.current.as_ref().map(|current| Arc::clone(&current.name)))
    }

    /// Looks up a call's record: the next use of its name.
    pub fn recall(&mut self, call: &Call, run: &RunState) -> Fed {
        let mut unread = self.unread(run);
        let (task, number) = (self.task, self.number);
        let mut look = |name: &Arc<str>, lookup: &Lookup| {
            let (key, recall) = run.recall(task, number, &mut self.uses, name, lookup)?;
            if unread > 0 {
                unread = unread_after(&mut self.keyed, unread, &key, &recall, run.is_closed(task, &key));
                self.unread = Some(unread);
            }
            Ok((key, recall))
        };
        let Some(lookups) = call.lookups() else {
            return match look(call.name(), call.lookup()) {
                Ok((key, recall)) => Fed::Recalled(key, recall),
                Err(refused) => Fed::Refused(refused),
            };
        };
        let parts = lookups.map(|(name, lookup)| {
            let (key, recall) = look(name, &lookup)?;
            let winner = run.winner(task, &key);
            Ok(RecalledPart { key, recall, winner })
        });
        parts.collect::<Result<_, _>>().map_or_else(Fed::Refused, Fed::RecalledParts)
    }

    /// Leaves a call as it is: a step that was interrupted is not recorded, and a wait stays open.
    pub fn abandon(&mut self, call: &Call) {
        if !call.is_over() {
            self.ends(call);
        }
    }

    /// A call is not under way any more.
    fn ends(&mut self, call: &Call) {
        match &mut self.keyed {
            Some(steps) if call.is_keyed() => {
                steps.under_way.remove(call.name());
                steps.own = steps.own.saturating_sub(u32::from(call.is_by_body()));
            }
            _ => self.current = None,
        }
    }

    /// Feeds a call and returns its next action. After [`Action::Done`] the next call may begin.
    pub fn advance(&mut self, call: &mut Call, fed: Fed, clocks: &dyn Clocks) -> Action {
        if matches!(fed, Fed::Raised(..) | Fed::Recalled(..)) {
            let keyed = self.keyed.as_ref().map_or(0, |steps| steps.under_way.len());
            call.may_be_delayed(keyed + usize::from(self.current.is_some()) > 1);
        }
        let action = call.advance(fed, &self.name, clocks);
        if let Action::Done(result) = &action {
            self.ends(call);
            self.suspended |= matches!(result, Err(CallError::Suspended));
            if call.is_checkpoint() && result.is_ok() {
                self.uses = Uses::default();
                self.unread = Some(0);
            }
        }
        action
    }
}

/// How many records remain to be read after this one was looked up.
fn unread_after(
    keyed: &mut Option<Box<Keyed>>,
    unread: usize,
    key: &EntryKey,
    recall: &Recall,
    is_closed: bool,
) -> usize {
    match recall {
        Recall::Satisfied(_) | Recall::Failed(_) if key.is_keyed() => {
            let first = keyed.get_or_insert_default().read.insert(Arc::clone(&key.name));
            unread - usize::from(first)
        }
        Recall::Satisfied(_) | Recall::Failed(_) => unread - 1,
        // A condition that is asked again, though it was satisfied.
        Recall::Ask { .. } if is_closed => unread - 1,
        Recall::Mismatch(_) => unread,
        Recall::Ask { .. } | Recall::Open { .. } | Recall::Begun { .. } => 0,
    }
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

/// The text of a call that comes after the attempt's execution time.
#[must_use]
pub fn used_up(task: &str) -> CallError {
    CallError::TimedOut(format!("task '{task}' has used up its time"))
}
