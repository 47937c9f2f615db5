//! The host of async closures, as a type: what it executes with is in `host.rs`.

use std::pin::Pin;

/// The host of async closures.
#[derive(Debug)]
pub struct Closures;

pub(super) type BoxFuture<'a, T> = Pin<Box<dyn Future<Output = T> + Send + 'a>>;
