//! The model and every decision of bide: graph, run state machine, journal, context, retry and failure rules.
//!
//! No I/O, threads, clock, tokio or Python: `now` is passed in, values are bytes, callables are positions.

#![forbid(unsafe_code)]

pub mod attempt;
pub mod block;
pub mod context;
pub mod control;
pub mod decode;
pub mod definition;
pub mod emit;
pub mod entry;
pub mod event;
pub mod failure;
pub mod fit;
pub mod graph;
pub mod id;
pub mod items;
pub mod journal;
pub mod limits;
pub mod longest;
pub mod message;
pub mod nearest;
pub mod observe;
pub mod options;
pub mod outbox;
pub mod pack;
pub mod pending;
pub mod poll;
pub mod quick_hash;
pub mod record;
pub mod recover;
pub mod retry;
pub mod run;
pub mod schedules;
pub mod shown;
pub mod status;
pub mod time;
pub mod token;
pub mod uses;
pub mod value;
pub mod watches;

pub use block::BlockReason;
pub use context::{Changes, Conflict};
pub use control::{Ask, Cancel, Control};
pub use decode::{Damage, DecodeError};
pub use definition::DefinitionError;
pub use emit::{NewEvents, Progress, ProgressRow, StoredEvent, StoredEvents};
pub use entry::{Entry, EntryKey, EntryKind, EntryState, Lookup, Operation, RecordKind, StepArguments, StepMode};
pub use event::{Effect, Event, GateSpec, GateTime, GateUntil, Outcome, Refused};
pub use failure::{Failure, FailureKind};
pub use graph::{Graph, RunIf, TaskSpec};
pub use id::{NO_MAP, RunId, TaskId, TaskIx, TaskRef};
pub use journal::Recall;
pub use limits::{Counted, LimitSpec, Rate};
pub use message::{Address, Message, MessageKind, StoredMessage, taken_request};
pub use options::RunOptions;
pub use outbox::{Channel, Origin, Outbox, Published};
pub use pending::Pending;
pub use poll::{Poll, PollPolicy, Tolerance};

pub use record::{Batch, Committed, TaskRow, Write};
pub use retry::RetryPolicy;
pub use run::{Fork, Forked, RunState};
pub use status::{RunStatus, SubStatus, TaskStatus};
pub use time::Time;
pub use token::CallbackToken;
pub use uses::Uses;
pub use value::Value;
