//! Bodies that do not block a thread: coroutines, which the host drives on an event loop of its own.
//!
//! The host takes bodies that may start ([`Coroutines::take`]) on the loop, begins them, and polls the futures of their
//! calls there. What completes such a future, a commit or an alarm, happens on other threads, which only wake the loop.
//! What happens next is core's business, when it is committed the ledger's.

mod alarm;
mod begun;
mod body;
mod children;
mod dispatch;
mod elsewhere;
mod gates;
mod polls;
mod rest;
mod resting;
mod show;
mod work;

pub use body::{CoroutineBody, OpenCall};
pub use dispatch::{Coroutines, EventLoop, Start};
pub use gates::GateWatch;
pub use resting::place_of;
pub use work::{Beginning, Begun};
