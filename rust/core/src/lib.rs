//! The model and every decision of bide: graph, run state machine, journal, context, retry and failure rules.
//!
//! No I/O, threads, clock, tokio or Python: `now` is passed in, values are bytes, callables are positions.

pub mod context;
pub mod definition;
pub mod failure;
pub mod graph;
pub mod id;
pub mod nearest;
pub mod pack;
pub mod poll;
pub mod record;
pub mod retry;
pub mod status;
pub mod time;
pub mod value;

pub use context::{Changes, Conflict};
pub use definition::DefinitionError;
pub use failure::{Failure, FailureKind};
pub use graph::{Graph, RunIf, TaskSpec};
pub use id::{NO_MAP, RunId, TaskId, TaskIx, TaskRef};
pub use poll::{Poll, PollPolicy, Tolerance};
pub use record::{Batch, Committed, Entry, EntryKey, EntryKind, EntryState, TaskRow, Write};
pub use retry::RetryPolicy;
pub use status::{RunStatus, SubStatus, TaskStatus};
pub use time::Time;
pub use value::Value;
