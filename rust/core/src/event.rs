//! The run machine's inputs and outputs (`run.rs`): what happened to a run, and what has to happen next.

use std::sync::Arc;
use std::time::Duration;

use crate::block::BlockReason;
use crate::entry::{EntryKey, EntryKind, Operation};
use crate::failure::Failure;
use crate::id::{RunId, TaskRef};
use crate::message::{Address, Message, StoredMessage};
use crate::observe::Happened;
use crate::outbox::Published;
use crate::status::RunStatus;
use crate::time::Time;
use crate::value::Value;

/// Something that happened to a run. An event of an attempt that is over is refused.
#[derive(Clone, Debug)]
pub enum Event {
    /// The run is committed, or has been loaded again: what can start may start.
    Begin,
    /// The start of a body has to be written: it has executed for long enough to be visible to others, or it has to
    /// be marked before it is called, see [`crate::run::Entered::mark`].
    Started {
        /// Whose body.
        task: TaskRef,
        /// Which attempt.
        attempt: u32,
    },
    /// A body opens a wait.
    Opened {
        /// Whose body.
        task: TaskRef,
        /// Which attempt.
        attempt: u32,
        /// The wait; of a combination all of its waits, each combination before its members.
        waits: Vec<Wait>,
    },
    /// An open wait of a body or a gate ends.
    Closed {
        /// Whose wait.
        task: TaskRef,
        /// Which attempt; for a gate the number of attempts before it.
        attempt: u32,
        /// The journal entry.
        key: EntryKey,
        /// Its value, or how it failed.
        result: Result<Value, Failure>,
        /// Whether the proof that it was opened with still holds: without one the record is never reused.
        proved: bool,
        /// How often this process has asked its condition. For those who observe.
        polls: u32,
        /// For a gate that failed: whether the task's retry policy covers the failure.
        retry: Option<Retry>,
    },
    /// A timer has fired that the machine asked for: the time of an open wait is reached, or it times out.
    Elapsed {
        /// Whose wait.
        task: TaskRef,
        /// Which attempt; for a gate the number of attempts before it.
        attempt: u32,
        /// The journal entry.
        key: EntryKey,
        /// The time that the timer was set for: a later wait can have the same key.
        at: Time,
        /// Whether that is the deadline of the wait, and not its time.
        times_out: bool,
        /// For a gate that times out: whether the task's retry policy covers that.
        retry: Option<Retry>,
    },
    /// The host has computed when the time of a gate is reached. From now on that stands.
    Timed {
        /// Whose gate.
        task: TaskRef,
        /// The number of attempts before it.
        attempt: u32,
        /// The journal entry.
        key: EntryKey,
        /// What was computed.
        time: GateTime,
    },
    /// A step returned or raised, or a wait was satisfied at its first check.
    Recorded {
        /// Whose body.
        task: TaskRef,
        /// Which attempt.
        attempt: u32,
        /// What is recorded.
        wait: Wait,
        /// When the step was executed; `None`: now.
        since: Option<Time>,
        /// Its value, or how it failed.
        result: Result<Value, Failure>,
    },
    /// What the condition of an open wait raises has changed: it is written, for those who look from elsewhere.
    PollRaised {
        /// Whose wait.
        task: TaskRef,
        /// Which attempt; for a gate the number of attempts before it.
        attempt: u32,
        /// The journal entry.
        key: EntryKey,
        /// What it raised last; `None` if it has not.
        error: Option<Failure>,
    },
    /// A body has started child runs, which are created in the same commit.
    ChildrenStarted {
        /// Whose body.
        task: TaskRef,
        /// Which attempt.
        attempt: u32,
        /// The records of the starts.
        starts: Vec<ChildStart>,
    },
    /// A body is about to execute a step that is executed at most once.
    Intended {
        /// Whose body.
        task: TaskRef,
        /// Which attempt.
        attempt: u32,
        /// The step.
        wait: Wait,
    },
    /// A step failed, and is tried again.
    Delayed {
        /// Whose body.
        task: TaskRef,
        /// Which attempt.
        attempt: u32,
        /// The step, with the time at which it is tried again.
        wait: Wait,
        /// How often it has failed.
        tries: u32,
        /// How it failed; `None` if that is recorded already, and the body waits for its next try once more.
        failure: Option<Failure>,
        /// The body releases its slot until then.
        deferred: bool,
    },
    /// The time has come to try a step again.
    Resumed {
        /// Whose body.
        task: TaskRef,
        /// Which attempt.
        attempt: u32,
        /// The journal entry.
        key: EntryKey,
    },
    /// A step that was begun leaves no record.
    Unrecorded {
        /// Whose body.
        task: TaskRef,
        /// Which attempt.
        attempt: u32,
        /// The journal entry.
        key: EntryKey,
    },
    /// A body records a state in the place of its journal.
    Checkpoint {
        /// Whose body.
        task: TaskRef,
        /// Which attempt.
        attempt: u32,
        /// The state.
        state: Value,
    },
    /// A body ended.
    Ended {
        /// Whose body.
        task: TaskRef,
        /// Which attempt.
        attempt: u32,
        /// How.
        outcome: Outcome,
    },
    /// A timer that the machine asked for has fired.
    Due {
        /// Whose timer.
        task: TaskRef,
        /// The attempt it was asked for.
        attempt: u32,
        /// What the timer is for.
        timer: Timer,
    },
    /// A body answers a request that it has taken.
    Replied {
        /// Whose body.
        task: TaskRef,
        /// Which attempt.
        attempt: u32,
        /// Its record.
        wait: Wait,
        /// The number of the request.
        request: i64,
        /// The answer, or how it is refused.
        answer: Result<Value, Failure>,
    },
    /// A message was sent to the run from this process.
    Message {
        /// The message.
        message: Box<Message>,
    },
    /// Messages were found in the store by a look ([`crate::RunState::begin_look`]): all that came since the last one.
    Mail {
        /// The messages, in the order in which they came.
        messages: Vec<StoredMessage>,
    },
    /// Bodies have emitted events or said how far they have come: taken from the run's outbox, before the event with
    /// which it is committed. What is of an attempt that is over is dropped.
    Published(Box<Published>),
    /// A run that one of the bodies has started has ended.
    ChildEnded {
        /// The child.
        run: RunId,
        /// How.
        status: RunStatus,
    },
    /// The time that a body has to clean up in a cancelled run may be used up.
    GraceOver {
        /// Whose body.
        task: TaskRef,
        /// Which attempt.
        attempt: u32,
        /// How long it may execute.
        grace: Duration,
        /// How long that may take by the wall.
        limit: Duration,
    },
    /// The time has come at which the run is to begin.
    StartDue,
    /// The run's deadline has passed.
    Expired,
    /// The run cannot continue as it is: it is paused. Later events of its bodies are refused.
    Block {
        /// Why.
        reason: BlockReason,
    },
}

/// A wait or step that a body or a gate begins.
#[derive(Clone, Debug)]
pub struct Wait {
    /// Its key in the journal.
    pub key: EntryKey,
    /// What it is.
    pub operation: Operation,
    /// How long it may stay open.
    pub timeout: Option<Duration>,
}

/// The record of the start of a child run.
#[derive(Clone, Debug)]
pub struct ChildStart {
    /// Its key in the journal.
    pub key: EntryKey,
    /// What must be equal for a re-entered body to get this child.
    pub proof: Option<Arc<[u8]>>,
    /// The child. Chosen by the driver, which creates it.
    pub run: RunId,
    /// The body waits for its end, without a timeout: that wait is opened too.
    pub awaited: bool,
}

impl ChildStart {
    /// A start whose child has no id yet.
    #[must_use]
    pub const fn new(key: EntryKey, proof: Option<Arc<[u8]>>) -> Self {
        Self { key, proof, run: RunId(0), awaited: false }
    }
}

/// A task's gate, as its workflow declares it: a wait that opens when the task could start.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct GateSpec {
    /// Its name in the journal.
    pub name: Arc<str>,
    /// What it waits for.
    pub until: GateUntil,
    /// How long it may stay open.
    pub timeout: Option<Duration>,
}

/// What a gate waits for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum GateUntil {
    /// A condition, polled by the executor.
    Condition,
    /// A span after the task could have started.
    After(Duration),
    /// A point in time.
    At(Time),
    /// A time that the host computes once, when the gate opens. Until then its entry is due at [`Time::NEVER`].
    Computed,
    /// A message to the run.
    Message(Address),
    /// The first of several.
    Any(Vec<GateSpec>),
    /// All of several.
    All(Vec<GateSpec>),
}

/// A time that the host has computed for a gate.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum GateTime {
    /// A span after the gate opened.
    After(Duration),
    /// A point in time.
    At(Time),
}

impl GateSpec {
    /// Its key in the journal: a gate's entry has `n` = 0.
    #[must_use]
    pub fn key(&self) -> EntryKey {
        EntryKey { name: Arc::clone(&self.name), n: 0 }
    }

    /// What its entry records.
    #[must_use]
    pub const fn kind(&self) -> EntryKind {
        match &self.until {
            GateUntil::Condition => EntryKind::Condition,
            GateUntil::After(_) | GateUntil::At(_) | GateUntil::Computed => EntryKind::Time,
            GateUntil::Message(address) => address.entry_kind(),
            GateUntil::Any(_) => EntryKind::Any,
            GateUntil::All(_) => EntryKind::All,
        }
    }

    /// The wait that opens now.
    #[must_use]
    pub fn wait(&self, now: Time) -> Wait {
        let operation = match &self.until {
            GateUntil::Condition => Operation::Condition { proof: None },
            GateUntil::After(span) => Operation::Time { due: now.after(*span) },
            GateUntil::At(time) => Operation::Time { due: *time },
            GateUntil::Computed => Operation::Time { due: Time::NEVER },
            GateUntil::Message(address) => Operation::Message(address.clone()),
            GateUntil::Any(of) => Operation::Any { members: of.iter().map(Self::key).collect() },
            GateUntil::All(of) => Operation::All { members: of.iter().map(Self::key).collect() },
        };
        Wait { key: self.key(), operation, timeout: self.timeout }
    }

    /// The gate itself, at 0, or a part of it: all its waits are counted, a combination before its members.
    #[must_use]
    pub fn part(&self, number: u16) -> Option<&Self> {
        if number == 0 { Some(self) } else { self.parts().nth(usize::from(number)) }
    }

    /// The number of the part with this key.
    pub(crate) fn number_of(&self, key: &EntryKey) -> Option<u16> {
        let at = self.parts().position(|part| part.name == key.name)?;
        u16::try_from(at).ok()
    }

    fn parts(&self) -> impl Iterator<Item = &Self> {
        let mut next = vec![self];
        std::iter::from_fn(move || {
            let part = next.pop()?;
            if let GateUntil::Any(of) | GateUntil::All(of) = &part.until {
                next.extend(of.iter().rev());
            }
            Some(part)
        })
    }

    /// All waits that open now: a combination before its members.
    #[must_use]
    pub fn waits(&self, now: Time) -> Vec<Wait> {
        self.parts().map(|part| part.wait(now)).collect()
    }
}

/// How a body ended.
#[derive(Clone, Debug)]
pub enum Outcome {
    /// It returned.
    Completed {
        /// What it returned.
        output: Value,
        /// Its changes of the context, packed; `None` if it made none.
        changes: Option<Arc<[u8]>>,
    },
    /// It raised.
    Failed {
        /// What.
        failure: Failure,
        /// If the task's retry policy covers the failure.
        retry: Option<Retry>,
    },
    /// The lists of a mapped task are known.
    Expanded {
        /// How many elements it has.
        length: u32,
    },
    /// It skipped itself.
    Skipped {
        /// Why.
        reason: Arc<str>,
    },
    /// It was cancelled: the failure that its wait or its call has raised has left it.
    Cancelled {
        /// The failure.
        failure: Failure,
    },
    /// It was suspended: it will be entered again and continue from its journal. Everything that it reports later is
    /// refused, so that a body that does not return in time can be abandoned.
    Suspended,
}

/// That a failure is one to retry, with the random number in 0..1 for the jitter of the delay.
#[derive(Clone, Copy, Debug)]
pub struct Retry {
    /// The random number.
    pub random: f64,
}

/// What a timer of the machine is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Timer {
    /// The next attempt may start.
    Retry,
    /// The time that a recovered body waited for is reached: the body may be entered again.
    Reenter,
}

/// Something that has to happen next. Only released once the batch it belongs to is committed.
#[derive(Clone, Debug)]
pub enum Effect {
    /// The task's body may start as soon as it gets a slot.
    Ready {
        /// Which.
        task: TaskRef,
    },
    /// The task's gate is open and waits for a condition: poll it and apply `Closed` with the result. Or it waits for a
    /// time that is not computed yet: compute it and apply `Timed`. A gate whose time is known is a `Timer`.
    Gate {
        /// Which.
        task: TaskRef,
        /// Attempts before it.
        attempt: u32,
        /// Which of its waits: see [`GateSpec::part`]. 0: the gate itself.
        part: u16,
        /// When it times out.
        deadline: Option<Time>,
    },
    /// Apply an event at a time: a retry or a re-entry is due, or a gate's time is reached.
    Timer {
        /// When.
        at: Time,
        /// The event.
        event: Box<Event>,
    },
    /// The machine has closed the entry for which the task's body sleeps: wake it.
    Woken {
        /// Whose body.
        task: TaskRef,
    },
    /// A wait has consumed a message that was sent from this process and stood in the store: apply
    /// [`crate::RunState::forget_message`].
    Consumed {
        /// The message's number.
        number: i64,
    },
    /// The task's body is not a suspect any more: it has recorded something, waits or has ended.
    Cleared {
        /// Which.
        task: TaskRef,
    },
    /// A body begins or continues to clean up in a cancelled run: apply `GraceOver` when its time may be used up.
    Grace {
        /// Whose body.
        task: TaskRef,
        /// Which attempt.
        attempt: u32,
        /// How long it has executed since.
        used: Duration,
        /// When the run was cancelled.
        since: Time,
    },
    /// A body that executes is to get that its run was cancelled, or was cut off: interrupt it, if the host can.
    Interrupted {
        /// Which.
        task: TaskRef,
    },
    /// The condition for which the task is behind its gate is to be asked now.
    PollNow {
        /// Which.
        task: TaskRef,
    },
    /// Events are there to be read: notify those who follow the run.
    Emitted,
    /// A request is answered or refused: tell its sender, if that waits in this process.
    Answered {
        /// The number of the request.
        request: i64,
        /// The answer.
        answer: Result<Value, Failure>,
    },
    /// This is committed now: for those who observe the runs.
    Happened(Box<[Happened]>),
    /// The run has ended or is paused: notify those who wait for it.
    Settled {
        /// How.
        status: RunStatus,
    },
}

/// Why an event was refused: it came too late and changed nothing.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Refused {
    /// The run has ended or is paused.
    #[error("the run is over")]
    RunOver,
    /// The attempt is not the current one or has ended.
    #[error("the attempt is over")]
    AttemptOver,
    /// The run was cancelled, and the body gets that now.
    #[error("the run was cancelled")]
    Cancelled,
    /// A message with the same id came before.
    #[error("a message with this id was received before")]
    Duplicate,
    /// The callback has an answer already.
    #[error("the callback was answered before")]
    Answered,
    /// The answer to a callback has the id of another message.
    #[error("another message has this id")]
    IdTaken,
}
