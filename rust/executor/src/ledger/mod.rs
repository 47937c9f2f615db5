//! The ledger: the only way to a store's writes of runs.
//!
//! Events go in. They are applied to their runs, committed in one batch, and only then does anything follow from them.
//! `commit.rs` does that, under the commit lock; `group.rs` gathers results so that one transaction serves many;
//! `request.rs` is what a thread brings and gets back; `committer.rs` commits what no other thread does; `effects.rs`
//! carries out what follows.

mod commit;
mod committer;
mod effects;
mod group;
mod request;

pub(crate) use effects::CommitPath;
pub(crate) use group::{Group, QueuedEvent};
#[cfg_attr(not(feature = "testing"), expect(unreachable_pub, reason = "drive has it"))]
pub use request::Lost;
