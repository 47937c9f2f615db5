//! The PostgreSQL store meets the contract of every store.
#![cfg(feature = "postgres")]
#![expect(clippy::unwrap_used, reason = "tests")]

use bide_store::postgres::Options;
use bide_store::{PostgresStore, Store};
use bide_testkit::postgres::Schema;

fn with_store(check: fn(&dyn Store)) {
    let Some(schema) = Schema::new() else { return };
    let store = PostgresStore::open(&Options::parse(&schema.url()).unwrap()).unwrap();
    check(&*store);
}

bide_testkit::conformance!(with_store);
