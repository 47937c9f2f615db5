//! Durable workflows inside one's own process: dispatch, slots, deferral, timers, recovery.
//!
//! The public Rust crate of bide. All decisions about a run are in `bide-core`, how it is kept in
//! `bide-store`; here is when and where it executes.

#![forbid(unsafe_code)]

pub mod alike;
mod clock;
mod closed;
mod control;
mod coroutines;
mod crash;
mod due;
mod engine;
#[doc(hidden)]
pub mod failpoint;
mod host;
mod ids;
mod lease_term;
mod ledger;
mod limits;
mod log;
mod meter;
#[doc(hidden)]
pub mod panic;
mod rest;
mod retrying;
mod runs;
mod services;
mod slot_queue;
mod test_clock;
mod threads;
mod tokio;

pub use crate::tokio::{
    Answer, AnswerCallback, Asking, Callback, ChildRun, ClosureBody, Closures, DeferUntil, Error, Event, IntoWait,
    OnTokio, Received, RunChild, RunFailed, RunHandle, RunResult, Runner, RunnerBuilder, Scope, SendRequest,
    SendSignal, Skip, StartChild, StepSettings, Submit, SubmitAndWait, TaskContext, TaskError, TaskHandle, TaskResult,
    Wait, Waiting, Waits, Workflow, WorkflowBuilder, after, all_of, any_of, at, request, signal, until,
};
pub use bide_core as core;
pub use bide_core::attempt::{CallError, Polled};
pub use bide_sched::counts::{Counts, counts};
pub use bide_store as store;
pub use clock::{Clock, SystemClock};
pub use control::Observer;
pub use coroutines::{Beginning, Begun, CoroutineBody, Coroutines, EventLoop, GateWatch, OpenCall, Start, place_of};
pub use due::{AlarmKind, Due};
#[cfg(feature = "testing")]
pub use engine::drive;
pub use engine::{Engine, default_max_parked, default_slots};
pub use host::{Arg, Args, Attached, Dispatch, Free, Gate, Host, Load, Ready, Source, TaskLimit};
pub use ids::token as new_token;
pub use limits::HeldBack;
pub use log::{Level, Log};
pub use meter::{CommitObserver, ENDS, Figures, Spans};
pub use runs::answers::Reply;
pub use runs::convert::NotAdopted;
pub use runs::explain::{Explained, Owner};
pub use runs::follow::{Bell, Followed};
pub use runs::fork::ForkRequest;
pub use runs::local_watch::{SourceAnswer, SourceId, WatchSource};
pub use runs::mail::Letter;
pub use runs::not_registered::NotRegistered;
pub use runs::polls::{GatePolls, Polls, RestingPolls};
pub use runs::requests::{Outlook, PendingRequest};
pub use runs::run::{Inputs, RegisteredWorkflow, Run, RunRequest, View};
pub use runs::schedules::{ScheduleError, ScheduleRequest, ScheduleView, StartedRun};
pub use runs::settled::{Settled, Settlement};
pub use runs::submit::SubmitError;
pub use runs::watch::{Awaiting, Handle};
pub use runs::watched::WatchedRun;
pub use runs::watches::{WatchError, WatchRequest, WatchView};
pub use services::retention::RETENTION;
pub use test_clock::TestClock;
pub use threads::body::{BodyCx, Check, Condition, StartIdentity, StartedChild, StepEnd, StepRequest, StepStart};
pub use threads::gates::GateWorker;
pub use threads::pool::{Pool, StartWorker};
pub use threads::worker::{Call, Worker};
