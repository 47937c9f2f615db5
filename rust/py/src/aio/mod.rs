//! Coroutines of the host: `bide/_loop.py` drives them on an event loop, by what is here.
//!
//! A call of a handle is a Rust future. The loop polls it ([`pending::Future`]); what completes it on another thread
//! puts it in the queue of the loop ([`queue::LoopQueue`]) and wakes the loop, once for many.

mod bell;
mod call;
mod callers;
mod coroutine;
mod driven;
mod driver;
mod gate;
mod imports;
mod pending;
mod poll;
mod queue;
mod rest;
mod step;
mod suspended;
mod turn;
mod wait;
mod within;

pub(crate) use call::PyCall;
pub(crate) use callers::{PyAwaited, PyCallers};
pub(crate) use coroutine::PyCoroutine;
pub(crate) use driver::PyDriver;
pub(crate) use gate::PyGateWatch;
pub(crate) use pending::PyPending;
pub(crate) use queue::{Loop, LoopQueue};
pub(crate) use turn::PyLoopQueue;
pub(crate) use wait::PyWait;
