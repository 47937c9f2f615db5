//! Journal entries: what is recorded of a task's waits and steps, and what a body asks for when it looks one up.
//!
//! Not here: the rule by which a record is reused (`journal.rs`) and which record the next use of a name has
//! (`uses.rs`).

use std::borrow::Cow;
use std::fmt;
use std::sync::Arc;

use crate::decode::Damage;
use crate::failure::Failure;
use crate::id::RunId;
use crate::message::{Address, MessageKind};
use crate::pack::{Pair, pack, unpack};
use crate::status::stored_enum;
use crate::time::Time;
use crate::value::Value;

/// The key of a journal entry within its task: the name and the use of that name.
///
/// `n` counts from 1 within a body; a gate's entry has `n` = 0.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct EntryKey {
    /// `name=` if given, else the callable's qualified name; with the caller's key, if the use has one.
    pub name: Arc<str>,
    /// Which use of that name in this body; 0 for the task's gate, [`EntryKey::KEYED`] for a use with a key.
    pub n: u32,
}

impl EntryKey {
    /// The `n` of an entry that is found by its name and the caller's key, and of no counted use.
    pub const KEYED: u32 = u32::MAX;

    /// The name of an entry with a key: `fetch "a.csv"`. No two pairs of name and key have the same one, because a
    /// quote within the key is escaped.
    #[must_use]
    pub fn keyed_name(name: &str, key: &str) -> Arc<str> {
        format!("{name} {key:?}").into()
    }

    /// The key of a task's checkpoint. The name of an entry with a key ends with a quote, so that it is no such one.
    #[must_use]
    pub fn checkpoint() -> Self {
        Self { name: CHECKPOINT.into(), n: Self::KEYED }
    }

    /// Whether the caller's key is part of it.
    #[must_use]
    pub const fn is_keyed(&self) -> bool {
        self.n == Self::KEYED
    }
}

/// The name of a checkpoint.
pub(crate) const CHECKPOINT: &str = "checkpoint";

/// An entry as messages name it: `'fetch' (use 2)`, or `'fetch "a.csv"'`.
impl fmt::Display for EntryKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { name, n } = self;
        if self.is_keyed() { write!(f, "'{name}'") } else { write!(f, "'{name}' (use {n})") }
    }
}

stored_enum! {
    /// The kind of a wait or step, as it is stored and named in messages. [`Operation`] has the fields of each.
    EntryKind {
        /// A condition polled until it is truthy.
        Condition = 0,
        /// A point in time.
        Time = 1,
        /// A named message to the run.
        Signal = 2,
        /// A call whose result is kept.
        Step = 3,
        /// The first of several waits.
        Any = 4,
        /// All of several waits.
        All = 5,
        /// A child run was started: its value is the child's id.
        Start = 6,
        /// The end of a child run.
        Child = 7,
        /// A callback was made: its value is the secret in its token.
        Callback = 8,
        /// The answer to a callback.
        Answer = 9,
        /// The state that a body has recorded in place of its journal.
        Checkpoint = 10,
        /// A message to the run whose sender waits for an answer.
        Request = 11,
        /// A request was answered.
        Reply = 12,
    }
}

impl EntryKind {
    /// What a message calls an entry of this kind.
    pub(crate) const fn described(self) -> &'static str {
        match self {
            Self::Condition => "a condition",
            Self::Time => "a time",
            Self::Signal => "a signal",
            Self::Step => "a step",
            Self::Any => "the first of several waits",
            Self::All => "all of several waits",
            Self::Start => "the start of a child run",
            Self::Child => "a child run",
            Self::Callback => "a callback",
            Self::Answer => "the answer to a callback",
            Self::Checkpoint => "a checkpoint",
            Self::Request => "a request",
            Self::Reply => "a reply",
        }
    }
}

stored_enum! {
    /// Where a journal entry stands.
    EntryState {
        /// The wait is open.
        Open = 0,
        /// The wait is satisfied, the step returned: `value` has the result.
        Satisfied = 1,
        /// The wait timed out or its condition failed, the step raised: `failure` says how.
        Failed = 2,
        /// The wait was one of several, and another of them came first.
        Lost = 3,
    }
}

/// A wait or a step, with what only its kind has.
///
/// A `proof` is what must be the same for the record to be reused. A condition without one is never provably the
/// same; a step without one has no arguments.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Operation {
    /// A condition polled until it is truthy.
    Condition {
        /// Its fingerprint.
        proof: Option<Arc<[u8]>>,
    },
    /// A point in time.
    Time {
        /// When it is reached.
        due: Time,
    },
    /// A message to the run: a signal, a request, or the answer to a callback.
    Message(Address),
    /// A call whose result is kept.
    Step {
        /// Its encoded arguments; none if the caller's key stands for them.
        proof: Option<Arc<[u8]>>,
        /// When it is tried again. Only of one that has failed and waits for that.
        due: Option<Time>,
    },
    /// The first of several waits.
    Any {
        /// The entries of its members.
        members: Arc<[EntryKey]>,
    },
    /// All of several waits.
    All {
        /// The entries of its members.
        members: Arc<[EntryKey]>,
    },
    /// The start of a child run.
    Start {
        /// The child's encoded inputs.
        proof: Option<Arc<[u8]>>,
    },
    /// The end of a child run.
    Child {
        /// The child.
        run: RunId,
    },
    /// A value that bide itself records.
    Record(RecordKind),
}

/// What bide itself records of a body, beside its waits and steps.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RecordKind {
    /// That a callback was made, with its secret.
    Callback,
    /// The state that a body has recorded in place of its journal.
    Checkpoint,
    /// That a request was answered.
    Reply,
}

impl RecordKind {
    /// As an entry's kind.
    #[must_use]
    pub const fn entry_kind(self) -> EntryKind {
        match self {
            Self::Callback => EntryKind::Callback,
            Self::Checkpoint => EntryKind::Checkpoint,
            Self::Reply => EntryKind::Reply,
        }
    }
}

impl Operation {
    /// From what a store keeps of it; a column that its kind does not have is not looked at.
    ///
    /// # Errors
    /// Says what is missing or unreadable, which no version of bide ever wrote.
    pub fn from_stored(kind: EntryKind, proof: Option<Arc<[u8]>>, due: Option<Time>) -> Result<Self, Damage> {
        let bytes = || proof.as_deref().unwrap_or_default();
        let message = |kind| {
            let name = std::str::from_utf8(bytes()).map_err(|_| Damage::NameNotUtf8)?;
            Ok(Self::Message(Address { kind, name: name.into() }))
        };
        Ok(match kind {
            EntryKind::Condition => Self::Condition { proof },
            EntryKind::Time => Self::Time { due: due.ok_or(Damage::TimeWithoutDue)? },
            EntryKind::Signal => message(MessageKind::Signal)?,
            EntryKind::Request => message(MessageKind::Request)?,
            EntryKind::Answer => message(MessageKind::Answer)?,
            EntryKind::Step => Self::Step { proof, due },
            EntryKind::Any => Self::Any { members: read_members(bytes())? },
            EntryKind::All => Self::All { members: read_members(bytes())? },
            EntryKind::Start => Self::Start { proof },
            EntryKind::Child => {
                let id: [u8; 16] = bytes().try_into().map_err(|_| Damage::LengthCutOff)?;
                Self::Child { run: RunId(u128::from_be_bytes(id)) }
            }
            EntryKind::Callback => Self::Record(RecordKind::Callback),
            EntryKind::Checkpoint => Self::Record(RecordKind::Checkpoint),
            EntryKind::Reply => Self::Record(RecordKind::Reply),
        })
    }

    /// Its kind.
    #[must_use]
    pub const fn kind(&self) -> EntryKind {
        match self {
            Self::Condition { .. } => EntryKind::Condition,
            Self::Time { .. } => EntryKind::Time,
            Self::Message(address) => address.entry_kind(),
            Self::Step { .. } => EntryKind::Step,
            Self::Any { .. } => EntryKind::Any,
            Self::All { .. } => EntryKind::All,
            Self::Start { .. } => EntryKind::Start,
            Self::Child { .. } => EntryKind::Child,
            Self::Record(kind) => kind.entry_kind(),
        }
    }

    /// A step of which nothing is recorded yet.
    #[must_use]
    pub const fn step(proof: Option<Arc<[u8]>>) -> Self {
        Self::Step { proof, due: None }
    }

    /// What a condition or step must have to be the same.
    #[must_use]
    pub fn proof(&self) -> Option<&[u8]> {
        match self {
            Self::Condition { proof } | Self::Step { proof, .. } | Self::Start { proof } => proof.as_deref(),
            _ => None,
        }
    }

    /// What a store keeps of it in the column `proof`.
    #[must_use]
    pub fn stored_proof(&self) -> Option<Cow<'_, [u8]>> {
        match self {
            Self::Message(address) => Some(Cow::Borrowed(address.name.as_bytes())),
            Self::Any { members } | Self::All { members } => Some(Cow::Owned(pack_members(members))),
            Self::Child { run } => Some(Cow::Owned(run.0.to_be_bytes().to_vec())),
            _ => self.proof().map(Cow::Borrowed),
        }
    }

    /// When a time is reached, or a step is tried again.
    #[must_use]
    pub const fn due(&self) -> Option<Time> {
        match self {
            Self::Time { due } => Some(*due),
            Self::Step { due, .. } => *due,
            _ => None,
        }
    }

    /// The entries of the members of a combination.
    #[must_use]
    pub fn members(&self) -> &[EntryKey] {
        match self {
            Self::Any { members } | Self::All { members } => members,
            _ => &[],
        }
    }

    /// The proof does not hold any more: the record is never reused.
    pub(crate) fn drop_proof(&mut self) {
        if let Self::Condition { proof } | Self::Step { proof, .. } = self {
            *proof = None;
        }
    }
}

/// The members of a combination in one blob: names with their numbers, as [`crate::pack`] packs pairs.
fn pack_members(members: &[EntryKey]) -> Vec<u8> {
    let numbers: Vec<Value> = members.iter().map(|key| Value::new(&key.n.to_be_bytes())).collect();
    pack(members.iter().zip(&numbers).map(|(key, n)| (&*key.name, Some(n))))
}

fn read_members(blob: &[u8]) -> Result<Arc<[EntryKey]>, Damage> {
    let key = |(name, n): Pair| {
        let n: Option<[u8; 4]> = n.and_then(|n| n.as_bytes().try_into().ok());
        Ok(EntryKey { name, n: u32::from_be_bytes(n.ok_or(Damage::ValueCutOff)?) })
    };
    unpack(blob)?.into_iter().map(key).collect()
}

/// One recorded wait or step of a task.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    /// Its key within the task.
    pub key: EntryKey,
    /// Order of recording within the task, from 1.
    pub seq: u32,
    /// What it records.
    pub operation: Operation,
    /// Where it stands.
    pub state: EntryState,
    /// When the wait times out: absolute, a crash does not extend it.
    pub deadline: Option<Time>,
    /// The result. Of a step that has none: how it is executed, see [`Entry::mode`].
    pub value: Option<Value>,
    /// The failure; of a step that is tried again, that of its last try.
    pub failure: Option<Box<Failure>>,
    /// When the wait was opened; updated if it was over and had to be asked again. Of a step that is tried again, when
    /// its last try failed.
    pub opened_at: Time,
    /// When it was closed: its state changed from `Open`.
    pub closed_at: Option<Time>,
}

impl Entry {
    /// An open one, without a deadline.
    #[must_use]
    pub const fn new(key: EntryKey, seq: u32, operation: Operation, opened_at: Time) -> Self {
        let (deadline, value, failure, closed_at) = (None, None, None, None);
        Self { key, seq, operation, state: EntryState::Open, deadline, value, failure, opened_at, closed_at }
    }

    /// The kind of what it records.
    #[must_use]
    pub const fn kind(&self) -> EntryKind {
        self.operation.kind()
    }

    /// What must be the same for it to be reused.
    #[must_use]
    pub fn proof(&self) -> Option<&[u8]> {
        self.operation.proof()
    }

    /// When the time that it records is reached.
    #[must_use]
    pub const fn due(&self) -> Option<Time> {
        self.operation.due()
    }

    /// How a step is executed that has returned nothing yet, or has failed.
    #[must_use]
    pub fn mode(&self) -> StepMode {
        if self.kind() != EntryKind::Step || self.state == EntryState::Satisfied {
            return StepMode::Repeatable;
        }
        let tries = |value: &Value| std::str::from_utf8(value.payload()).ok()?.parse().ok();
        match &self.value {
            Some(value) if value.tag() == TRIES => StepMode::Retried { tries: tries(value).unwrap_or_default() },
            Some(value) if value.tag() == ONCE => StepMode::Once,
            // Only the intent of a step that is executed once is written before its end.
            _ if self.state == EntryState::Open => StepMode::Once,
            _ => StepMode::Repeatable,
        }
    }
}

/// The tags of the value of a step that has no result.
const ONCE: u8 = b'o';
const TRIES: u8 = b'i';

/// How a step is executed, as far as its record must say.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum StepMode {
    /// Until its result is recorded.
    Repeatable,
    /// At most once: what was begun and has no result is not called again.
    Once,
    /// Again after it has failed.
    Retried {
        /// How often it has failed.
        tries: u32,
    },
}

impl StepMode {
    /// As it is kept of a step without a result.
    #[must_use]
    pub fn to_value(self) -> Option<Value> {
        match self {
            Self::Repeatable => None,
            Self::Once => Some(Value::tagged(ONCE, b"")),
            Self::Retried { tries } => Some(Value::tagged(TRIES, tries.to_string().as_bytes())),
        }
    }
}

/// A wait or step whose record is looked up. Its name stands beside it.
#[derive(Clone, Debug)]
pub enum Lookup {
    /// A condition.
    Condition {
        /// What a recorded condition must have to be the same.
        proof: Option<Arc<[u8]>>,
    },
    /// A point in time: whichever was recorded first.
    Time,
    /// A message to the run, for this address.
    Message(Address),
    /// A call whose result is kept.
    Step(Box<StepArguments>),
    /// The same, of which the caller's key says that it is the same. Its name has the key in it.
    KeyedStep,
    /// The first of several waits.
    Any,
    /// All of several waits.
    All,
    /// The start of a child run, with its inputs as arguments.
    Start(Box<StepArguments>),
    /// The same, of which the caller's key says that it is the same. Its name has the key in it.
    KeyedStart,
    /// The end of this child run.
    Child {
        /// The child.
        run: RunId,
    },
    /// A value that bide itself records.
    Record(RecordKind),
}

/// The arguments of a step, to be compared with those of its record.
#[derive(Clone, Debug, Default)]
pub struct StepArguments {
    /// The arguments, encoded.
    pub proof: Option<Arc<[u8]>>,
    /// The same as an older version of bide would have encoded them; only if the journal has such records.
    pub older: Option<Arc<[u8]>>,
    /// What the user can do about arguments that differ from those of the record.
    pub advice: &'static str,
}

impl Lookup {
    /// Its kind.
    #[must_use]
    pub const fn kind(&self) -> EntryKind {
        match self {
            Self::Condition { .. } => EntryKind::Condition,
            Self::Time => EntryKind::Time,
            Self::Message(address) => address.entry_kind(),
            Self::Step(_) | Self::KeyedStep => EntryKind::Step,
            Self::Any => EntryKind::Any,
            Self::All => EntryKind::All,
            Self::Start(_) | Self::KeyedStart => EntryKind::Start,
            Self::Child { .. } => EntryKind::Child,
            Self::Record(kind) => kind.entry_kind(),
        }
    }

    /// What must be the same for the record of a condition or step to be reused.
    #[must_use]
    pub const fn proof(&self) -> Option<&Arc<[u8]>> {
        match self {
            Self::Condition { proof } => proof.as_ref(),
            Self::Step(arguments) | Self::Start(arguments) => arguments.proof.as_ref(),
            _ => None,
        }
    }
}
