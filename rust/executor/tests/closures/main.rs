//! Workflows of async closures through the real engine, on every store.
#![expect(clippy::unwrap_used, reason = "tests")]

mod callbacks;
mod children;
mod combinations;
mod control;
mod deploys;
mod distance;
mod faults;
mod gates;
mod hand;
mod outcomes;
mod requests;
mod runs;
mod settle;
mod show;
mod signals;
mod slots;
mod steps;
#[path = "../support/mod.rs"]
mod support;

use std::sync::Arc;
use std::sync::atomic::AtomicU32;
use std::time::Duration;

use bide_executor::core::RetryPolicy;

/// A retry without a delay.
fn retry(attempts: u32) -> RetryPolicy {
    RetryPolicy { delay: Duration::ZERO, jitter: 0.0, ..RetryPolicy::new(attempts) }
}

/// A counter for a closure, and a second handle of it for the test.
fn counter() -> (Arc<AtomicU32>, Arc<AtomicU32>) {
    let counter = Arc::new(AtomicU32::new(0));
    (Arc::clone(&counter), counter)
}
