//! A PostgreSQL that has lost what it had confirmed: nothing is added to rows that lack what it builds on.
#![cfg(feature = "postgres")]
#![expect(clippy::unwrap_used, reason = "tests")]
#![expect(clippy::disallowed_methods, reason = "a test's time limit is not the engine's time")]

use std::sync::Arc;
use std::time::{Duration, Instant};

use bide_core::record::{DoneRow, NewRun};
use bide_core::{RunId, Time, Value, Write};
use bide_store::postgres::Options;
use bide_store::{Commit, CommitId, Creation, Lease, Maintenance, PostgresStore, Store, StoreError};
use bide_testkit::conformance::fresh_id;
use bide_testkit::postgres::Server;

const START: Time = Time(1_795_000_000_000_000);

/// Long enough that a test which waits for it has failed.
const FOREVER: Duration = Duration::from_secs(120);

/// Commits that wait for no disk are lost with the server for certain.
const LAZY: &[&str] = &[
    "wal_writer_delay = 10s",
    "wal_writer_flush_after = 1GB",
    "bgwriter_lru_maxpages = 0",
    "wal_level = minimal",
    "max_wal_senders = 0",
    "autovacuum = off",
];

/// Makes a call until there is a connection.
fn until_connected<T>(mut call: impl FnMut() -> Result<T, StoreError>) -> Result<T, StoreError> {
    let since = Instant::now();
    loop {
        match call() {
            Err(StoreError::Disconnected { .. }) if since.elapsed() < FOREVER => std::thread::yield_now(),
            outcome => return outcome,
        }
    }
}

/// A runner with a run.
struct Desk {
    store: Arc<PostgresStore>,
    lease: Lease,
    version: i64,
    run: RunId,
}

impl Desk {
    fn new(url: &str) -> Self {
        let store = PostgresStore::open(&Options::parse(url).unwrap()).unwrap();
        let workflow = store.register("ingest", "v1", &[]).unwrap();
        let lease = store.enroll(START.into()).unwrap();
        let new = NewRun::new(fresh_id(START), workflow.number, workflow.version, START);
        assert_eq!(store.create(lease, std::slice::from_ref(&new)).unwrap(), [Creation::Created]);
        Self { store, lease, version: workflow.version, run: new.id }
    }

    fn done(&self, lease: Lease, task: i64) -> Result<(), StoreError> {
        let mut batch = vec![Write::Done(DoneRow::new(self.run.row(), task, Value::new(b"t"), START, START))];
        let id = CommitId::unique();
        let write = || self.store.write(lease, &mut Commit::new(id, &[], &mut batch));
        until_connected(write).map(drop)
    }

    fn rows(&self) -> Vec<i64> {
        let stored = until_connected(|| self.store.load(self.run)).unwrap().unwrap();
        stored.rows.iter().map(|row| row.task).collect()
    }

    /// Nothing more can be written under the lease of before. The run is claimed under a new one, and continues from its
    /// rows, which have these tasks.
    fn begins_anew(&mut self, rows: &[i64], why: &str) {
        let late = self.done(self.lease, 9);
        assert!(matches!(late, Err(StoreError::Fenced { .. })), "{late:?}");
        assert_eq!(self.store.history(), 1);
        assert_eq!(self.rows(), rows);
        let warning = self.store.warning().unwrap();
        assert!(warning.contains(why) && !warning.contains("secret"), "{warning}");
        let lease = until_connected(|| self.store.enroll(START.into())).unwrap();
        assert_ne!(lease, self.lease);
        let id = CommitId::unique();
        let claim = || self.store.claim_once(id, lease, &[self.version], START.into(), 10);
        assert_eq!(until_connected(claim).unwrap(), [self.run]);
        self.done(lease, 8).unwrap();
        let renewed = until_connected(|| self.store.renew(self.lease, START.into()));
        assert!(matches!(renewed, Err(StoreError::Fenced { .. })), "{renewed:?}");
        assert_eq!(self.rows(), [rows, &[8]].concat());
        self.lease = lease;
    }
}

#[test]
fn nothing_is_added_to_an_older_copy_of_the_rows() {
    let directory = tempfile::tempdir().unwrap();
    let Some(server) = Server::start(directory.path(), &[]) else { return };
    let mut desk = Desk::new(server.url());
    desk.done(desk.lease, 0).unwrap();
    server.stop();
    server.copy();
    server.start_again();
    desk.done(desk.lease, 1).unwrap();
    server.stop();
    server.restore();
    server.start_again();
    desk.begins_anew(&[0], "has lost rows");
}

#[test]
fn a_pooler_does_not_hide_that_the_server_behind_it_has_older_rows() {
    let directory = tempfile::tempdir().unwrap();
    let Some(server) = Server::start(directory.path(), &[]) else { return };
    let Some(pooler) = server.pooler("transaction") else { return };
    let mut desk = Desk::new(&format!("{pooler}?listen_url={}", server.url().replace('/', "%2F")));
    desk.done(desk.lease, 0).unwrap();
    server.stop_behind();
    server.copy();
    server.start_again();
    desk.done(desk.lease, 1).unwrap();
    server.stop_behind();
    server.restore();
    server.start_again();
    desk.begins_anew(&[0], "has lost rows");
}

#[test]
fn a_standby_that_was_promoted_without_the_last_commits_is_another_history() {
    let directory = tempfile::tempdir().unwrap();
    let Some(server) = Server::start(directory.path(), &[]) else { return };
    let mut desk = Desk::new(server.url());
    desk.done(desk.lease, 0).unwrap();
    server.stop();
    server.copy();
    server.start_again();
    desk.done(desk.lease, 1).unwrap();
    server.kill();
    server.restore();
    server.promote();
    desk.begins_anew(&[0], "is another one now");
}

#[test]
fn commits_that_did_not_wait_for_the_disk_are_lost_with_their_leases() {
    let directory = tempfile::tempdir().unwrap();
    let Some(server) = Server::start(directory.path(), LAZY) else { return };
    let mut desk = Desk::new(&format!("{}?synchronous_commit=off", server.url()));
    desk.done(desk.lease, 0).unwrap();
    server.client().batch_execute("CHECKPOINT").unwrap();
    desk.done(desk.lease, 1).unwrap();
    server.kill();
    server.start_again();
    desk.begins_anew(&[0], "synchronous_commit=off");
}

#[test]
fn a_restart_that_loses_nothing_ends_no_lease() {
    let directory = tempfile::tempdir().unwrap();
    let Some(server) = Server::start(directory.path(), &[]) else { return };
    let desk = Desk::new(server.url());
    for task in 0..300 {
        desk.done(desk.lease, task).unwrap();
    }
    // One that was fenced has no records any more.
    let fenced = desk.store.enroll(START.into()).unwrap();
    desk.done(fenced, 300).unwrap();
    let fence = format!(
        "UPDATE bide.runner SET epoch = epoch + 1, expires = NULL WHERE id = {0}; DELETE FROM bide.made WHERE runner = {0}",
        fenced.runner
    );
    server.client().batch_execute(&fence).unwrap();
    for task in 301..304 {
        server.kill();
        server.start_again();
        desk.done(desk.lease, task).unwrap();
    }
    assert_eq!(desk.store.history(), 0);
}
