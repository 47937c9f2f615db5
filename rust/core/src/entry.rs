//! Journal entries: what is recorded of a task's waits and steps, and what a body asks for when it looks one up.
//!
//! Not here: the rule by which a record is reused (`journal.rs`) and which record the next use of a name has (`uses.rs`).

use std::borrow::Cow;
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
    /// `name=` if given, else the callable's qualified name.
    pub name: Arc<str>,
    /// Which use of that name in this body; 0 for the task's gate.
    pub n: u32,
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
        /// Its encoded arguments.
        proof: Option<Arc<[u8]>>,
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
            EntryKind::Step => Self::Step { proof },
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

    /// What a condition or step must have to be the same.
    #[must_use]
    pub fn proof(&self) -> Option<&[u8]> {
        match self {
            Self::Condition { proof } | Self::Step { proof } | Self::Start { proof } => proof.as_deref(),
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

    /// When a time is reached.
    #[must_use]
    pub const fn due(&self) -> Option<Time> {
        match self {
            Self::Time { due } => Some(*due),
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
        if let Self::Condition { proof } | Self::Step { proof } = self {
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
    /// The result.
    pub value: Option<Value>,
    /// The failure.
    pub failure: Option<Failure>,
    /// When the wait was opened; updated if it was over and had to be asked again.
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
    Step(StepArguments),
    /// The first of several waits.
    Any,
    /// All of several waits.
    All,
    /// The start of a child run, with its inputs as arguments.
    Start(StepArguments),
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
            Self::Step(_) => EntryKind::Step,
            Self::Any => EntryKind::Any,
            Self::All => EntryKind::All,
            Self::Start(_) => EntryKind::Start,
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
