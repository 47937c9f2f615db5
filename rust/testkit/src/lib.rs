//! bide's own test kit: what every store must do, and a store that fails on purpose.

pub mod conformance;
pub mod fault;
pub mod rows;

pub use fault::{Fault, FaultyStore};
