//! How a file is opened.

use std::time::Duration;

use crate::Durability;

/// How to open a store.
#[derive(Clone, Copy, Debug)]
pub struct Options {
    /// How safe "committed" is. Of two runners on one file in one process the stronger wins.
    pub durability: Durability,
    /// Whether a network file system is accepted. SQLite's locks do not hold on most of them.
    pub network: bool,
    /// How long a file that another process has locked is tried before [`StoreError::Busy`].
    pub busy_timeout: Duration,
    /// The page size of a new file; an old one keeps its own.
    pub page_size: u32,
    /// Whether a file is made if there is none.
    pub create: bool,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            durability: Durability::Normal,
            network: false,
            busy_timeout: Duration::from_secs(10),
            page_size: PAGE_SIZE,
            create: true,
        }
    }
}

/// Chosen by the store's bench (see `benches/store.rs`). Beside pages of 1 KiB a hop costs the same, a single run 8 %
/// more, tasks and runs in groups 15 to 20 % less, a value of 1 MiB a third less. With 4 KiB a run costs 20 % more.
pub(super) const PAGE_SIZE: u32 = 2048;
