//! Durable workflows inside one's own process: dispatch, slots, deferral, timers, recovery.
//!
//! The public Rust crate of bide. Everything that is decided about a run is in `bide-core`, how it is kept in
//! `bide-store`; here is when and where it executes.

#![forbid(unsafe_code)]

mod body;
#[doc(hidden)]
pub mod bug;
mod clock;
mod closed;
mod closures;
mod commit;
pub mod drive;
mod engine;
mod gates;
mod host;
mod ids;
mod limit;
mod pool;
mod services;
mod settled;
mod submit;
mod suspects;
mod take_up;
mod timers;
mod work;
mod workflow;

pub use bide_core as core;
pub use bide_core::attempt::{CallError, Polled};
pub use bide_sched::counts::{Counts, counts};
pub use bide_store as store;
pub use body::{BodyCx, Check, Condition, StepStart};
pub use clock::{Clock, SystemClock};
pub use closures::{
    Answer, ClosureBody, Closures, DeferUntil, Error, OnTokio, RunFailed, RunHandle, RunResult, Runner, RunnerBuilder,
    Scope, Skip, Submit, SubmitAndWait, TaskContext, TaskError, TaskHandle, TaskResult, Wait, Workflow,
    WorkflowBuilder, after, at, until,
};
pub use engine::{Engine, Level, Log, default_slots};
pub use gates::GateWorker;
pub use host::{Args, Attached, Call, Dispatch, Free, Gate, Host, Ready, Source, Worker};
pub use pool::{Pool, StartWorker};
pub use services::retention::RETENTION;
pub use settled::{Settled, Settlement};
pub use submit::{Handle, SubmitError, Wanted, Watched};
pub use workflow::{Inputs, RegisteredWorkflow, Run, View};
