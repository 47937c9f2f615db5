//! Workflows of async closures, for Rust users: executed on the caller's tokio.
//!
//! ```
//! use std::time::Duration;
//! use bide_executor::{Runner, TaskError, Workflow};
//! use bide_executor::store::MemoryStore;
//!
//! # #[tokio::main(flavor = "current_thread")]
//! # async fn main() -> Result<(), bide_executor::Error> {
//! let workflow = Workflow::builder("ingest")
//!     .task("wait_for_data", |cx| async move {
//!         let path: String = cx.input("path")?;
//!         let size = || async { std::fs::metadata(&path).map(|data| data.len()).ok() };
//!         let bytes: u64 = cx.handle().defer_until(size, Duration::from_millis(200)).await?;
//!         Ok(bytes)
//!     })
//!     .task("report", |cx| async move { Ok(format!("{} bytes", cx.output::<u64>("wait_for_data")?)) })
//!     .after(["wait_for_data"])
//!     .build()?;
//!
//! let runner = Runner::open(MemoryStore::new()).slots(4).start()?;
//! # let file = std::env::current_exe().unwrap();
//! let result = runner.run(&workflow, [("path", file.display().to_string())]).key("2026-11-24").await?;
//! assert!(result.output::<String>("report")?.ends_with(" bytes"));
//! runner.close().await;
//! # Ok(())
//! # }
//! ```
//!
//! Here is what a closure is called with and how it gets to execute. What happens next is core's business, when it
//! is committed the engine's (`ledger/`).

mod answer;
mod blocking;
mod body;
mod callback;
mod catch_panic;
mod child;
mod closures;
mod codec;
mod combine;
mod context;
mod control;
mod dispatch;
mod enqueue;
mod error;
mod gate_watch;
mod hand;
mod handle;
mod host;
mod kinds;
mod lane;
mod request;
mod result;
mod run_handle;
mod runner;
mod shape;
mod show;
mod signal;
mod step;
mod submit;
mod task_error;
mod wait;
mod within;
mod work;
mod workflow;

pub use answer::Answer;
pub use callback::{AnswerCallback, Callback};
pub use child::{ChildRun, RunChild, StartChild};
pub use closures::Closures;
pub use combine::{Waits, all_of, any_of};
pub use context::{Scope, TaskContext};
pub use control::Asking;
pub use dispatch::OnTokio;
pub use error::{Error, RunFailed};
pub use handle::TaskHandle;
pub use kinds::{IntoWait, Wait, after, at, signal, until};
pub use request::{Received, SendRequest, request};
pub use result::{RunResult, TaskResult};
pub use run_handle::RunHandle;
pub use runner::{Runner, RunnerBuilder};
pub use show::Event;
pub use signal::SendSignal;
pub use step::StepSettings;
pub use submit::{Submit, SubmitAndWait};
pub use task_error::{Skip, TaskError};
pub use wait::{DeferUntil, Waiting};
pub use workflow::{ClosureBody, Workflow, WorkflowBuilder};
