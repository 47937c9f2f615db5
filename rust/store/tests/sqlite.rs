//! The SQLite store meets the contract of every store.
#![expect(clippy::unwrap_used, reason = "tests")]

use bide_store::{Durability, SqliteStore, Store};

fn with_store(check: fn(&dyn Store)) {
    let directory = tempfile::tempdir().unwrap();
    check(&*SqliteStore::open(&directory.path().join("bide.db"), Durability::Normal).unwrap());
}

bide_testkit::conformance!(with_store);
