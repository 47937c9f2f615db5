//! A store behind a network meets the contract of every store.

use bide_store::{MemoryStore, Store};
use bide_testkit::{DistantStore, Losses};

fn with_store(check: fn(&dyn Store)) {
    check(&*DistantStore::new(MemoryStore::new(), Losses::None));
}

bide_testkit::conformance!(with_store);
