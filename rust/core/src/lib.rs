//! The model and every decision of bide: graph, run state machine, journal, context, retry and failure rules.
//!
//! No I/O, threads, clock, tokio or Python: `now` is passed in, values are bytes, callables are positions.

pub mod failure;
pub mod id;
pub mod pack;
pub mod record;
pub mod status;
pub mod time;
pub mod value;

pub use failure::{Failure, FailureKind};
pub use id::{NO_MAP, RunId, TaskId, TaskIx, TaskRef};
pub use record::{Batch, Committed, Entry, EntryKey, EntryKind, EntryState, TaskRow, Write};
pub use status::{RunStatus, SubStatus, TaskStatus};
pub use time::Time;
pub use value::Value;
