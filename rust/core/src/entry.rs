//! Journal entries: what is recorded of a task's waits and steps, and what a body asks for when it looks one up.
//!
//! Not here: the rule by which a record is reused (`journal.rs`) and which record the next use of a name has (`uses.rs`).

use std::sync::Arc;

use crate::decode::Damage;
use crate::failure::Failure;
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
    }
}

/// A wait or a step, with what only its kind has.
///
/// A `proof` is what must be the same for the record to be reused. A condition or combination without one is never
/// provably the same; a step without one has no arguments.
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
    /// A named message to the run.
    Signal,
    /// A call whose result is kept.
    Step {
        /// Its encoded arguments.
        proof: Option<Arc<[u8]>>,
    },
    /// The first of several waits.
    Any {
        /// Its members.
        proof: Option<Arc<[u8]>>,
    },
    /// All of several waits.
    All {
        /// Its members.
        proof: Option<Arc<[u8]>>,
    },
}

impl Operation {
    /// From what a store keeps of it; a column that its kind does not have is not looked at.
    ///
    /// # Errors
    /// `TimeWithoutDue`, which no version of bide ever wrote.
    pub fn from_stored(kind: EntryKind, proof: Option<Arc<[u8]>>, due: Option<Time>) -> Result<Self, Damage> {
        Ok(match kind {
            EntryKind::Condition => Self::Condition { proof },
            EntryKind::Time => Self::Time { due: due.ok_or(Damage::TimeWithoutDue)? },
            EntryKind::Signal => Self::Signal,
            EntryKind::Step => Self::Step { proof },
            EntryKind::Any => Self::Any { proof },
            EntryKind::All => Self::All { proof },
        })
    }

    /// Its kind.
    #[must_use]
    pub const fn kind(&self) -> EntryKind {
        match self {
            Self::Condition { .. } => EntryKind::Condition,
            Self::Time { .. } => EntryKind::Time,
            Self::Signal => EntryKind::Signal,
            Self::Step { .. } => EntryKind::Step,
            Self::Any { .. } => EntryKind::Any,
            Self::All { .. } => EntryKind::All,
        }
    }

    /// What must be the same for the record to be reused.
    #[must_use]
    pub fn proof(&self) -> Option<&[u8]> {
        match self {
            Self::Condition { proof } | Self::Step { proof } | Self::Any { proof } | Self::All { proof } => {
                proof.as_deref()
            }
            Self::Time { .. } | Self::Signal => None,
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

    /// The proof does not hold any more: the record is never reused.
    pub(crate) fn drop_proof(&mut self) {
        match self {
            Self::Condition { proof } | Self::Step { proof } | Self::Any { proof } | Self::All { proof } => {
                *proof = None
            }
            Self::Time { .. } | Self::Signal => {}
        }
    }
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
    /// A named message to the run.
    Signal,
    /// A call whose result is kept.
    Step(StepArguments),
    /// The first of several waits.
    Any {
        /// What the recorded combination must have to be the same.
        proof: Option<Arc<[u8]>>,
    },
    /// All of several waits.
    All {
        /// What the recorded combination must have to be the same.
        proof: Option<Arc<[u8]>>,
    },
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
            Self::Signal => EntryKind::Signal,
            Self::Step(_) => EntryKind::Step,
            Self::Any { .. } => EntryKind::Any,
            Self::All { .. } => EntryKind::All,
        }
    }

    /// What must be the same for the record to be reused.
    #[must_use]
    pub const fn proof(&self) -> Option<&Arc<[u8]>> {
        match self {
            Self::Condition { proof } | Self::Any { proof } | Self::All { proof } => proof.as_ref(),
            Self::Step(arguments) => arguments.proof.as_ref(),
            Self::Time | Self::Signal => None,
        }
    }
}
