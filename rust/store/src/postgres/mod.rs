//! Runs in a PostgreSQL that several processes and hosts share.

mod connect;
mod error;
#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "tests")]
mod refusals;
mod session;
mod tls;
mod url;

pub use url::Options;
