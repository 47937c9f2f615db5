//! Why something that a store keeps cannot be read back: which field of what, and what is wrong with it.

use std::fmt;

use crate::id::TaskId;

/// What is wrong with a stored field.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Damage {
    /// In packed pairs.
    #[error("a name is not UTF-8")]
    NameNotUtf8,
    /// In packed pairs.
    #[error("a length is cut off")]
    LengthCutOff,
    /// In packed pairs.
    #[error("a value is cut off")]
    ValueCutOff,
    /// An input that was removed, which only changes of the context can be.
    #[error("'{0}' has no value")]
    NoValue(String),
    /// Packed events that are not as many as the row says.
    #[error("they are not {0} events")]
    OtherCount(u32),
    /// A status or kind that no version of bide ever wrote.
    #[error("{0} is not one of its values")]
    UnknownCode(i64),
    /// A time without the field that says when it is reached.
    #[error("it is empty, and the entry is a Time")]
    TimeWithoutDue,
    /// Not a JSON object with what a failure needs; says what the parser says.
    #[error("not a stored failure: {0}")]
    NotAFailure(String),
    /// The count is impossibly large.
    #[error("{0} is too large for a count")]
    TooLarge(u32),
}

/// A field that is decoded here and not by a store.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Field {
    /// The packed inputs of a run.
    RunInputs,
    /// How many processes died in a row while they executed a run.
    RunCrashes,
    /// How often a task was tried.
    TaskAttempts,
    /// The packed changes that a task made of the context.
    TaskChanges,
    /// The order of a journal entry within its task.
    JournalSeq,
}

impl fmt::Display for Field {
    /// The table and the column.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::RunInputs => "run.inputs",
            Self::RunCrashes => "run.crashes",
            Self::TaskAttempts => "task.attempts",
            Self::TaskChanges => "task.changes",
            Self::JournalSeq => "journal.seq",
        })
    }
}

/// Why stored rows cannot be read back. The store or the executor adds whose rows they are.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum DecodeError {
    /// A field is damaged.
    #[error("the column {field} does not read back ({damage}); the file was changed by another program or is damaged")]
    Field {
        /// Which.
        field: Field,
        /// What is wrong.
        damage: Damage,
    },
    /// A row of a task or a journal that the graph has no task for.
    #[error("a row (task number {task}, map index {map}) belongs to no task")]
    StrayRow {
        /// The task's number in the store.
        task: TaskId,
        /// The map index.
        map: i32,
    },
}

impl Field {
    /// The error that this field is damaged.
    pub(crate) const fn damaged(self, damage: Damage) -> DecodeError {
        DecodeError::Field { field: self, damage }
    }
}
