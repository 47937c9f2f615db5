//! bide's own test kit: what every store must do, a store that fails on purpose, a clock that is moved by hand, and
//! the seeded simulation.

#![forbid(unsafe_code)]

pub mod clock;
pub mod conformance;
pub mod distant;
pub mod fault;
pub mod postgres;
pub mod rows;
pub mod server;
pub mod sim;
pub mod waits;

pub use clock::VirtualClock;
pub use distant::{DistantStore, Losses};
pub use fault::{Fault, FaultyStore};
