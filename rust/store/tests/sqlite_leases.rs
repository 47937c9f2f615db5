//! The clock that decides whether a lease in a file has expired.
#![expect(clippy::unwrap_used, reason = "tests")]

use std::path::Path;
use std::sync::Arc;

use bide_core::record::NewRun;
use bide_core::{RunId, Time};
use bide_store::{Boot, Creation, Durability, LEASE, Lease, LeaseTime, SqliteStore, Store, Uptime};
use rusqlite::Connection;

const NOW: Time = Time(1_795_000_000_000_000);

/// This long after the start of this machine.
fn up(boot: u128, micros: i64) -> LeaseTime {
    LeaseTime { wall: NOW, uptime: Some(Uptime { boot: Boot(boot), micros }) }
}

struct Desk {
    _folder: tempfile::TempDir,
    store: Arc<SqliteStore>,
    version: i64,
    run: RunId,
}

impl Desk {
    /// A runner, enrolled at this time, has a run.
    fn new(first: LeaseTime) -> (Self, Lease) {
        let folder = tempfile::tempdir().unwrap();
        let store = SqliteStore::open(&folder.path().join("bide.db"), Durability::Normal).unwrap();
        let workflow = store.register("workflow", "v1", &[]).unwrap();
        let lease = store.enroll(first).unwrap();
        let run = RunId::new(NOW.0 as u64 / 1000, 0, 1);
        let version = workflow.version;
        let new = NewRun::new(run, workflow.number, version, NOW);
        assert_eq!(store.create(lease, &[new]).unwrap(), [Creation::Created]);
        (Self { _folder: folder, store, version, run }, lease)
    }

    /// Whether another runner can claim the run at this time.
    fn is_claimable(&self, first: Lease, now: LeaseTime) -> bool {
        let other = self.store.enroll(now).unwrap();
        let claimed = self.store.claim(other, &[self.version], now, 9).unwrap();
        assert!(claimed.is_empty() || claimed == [self.run]);
        assert_eq!(self.store.is_alive(first.runner, now).unwrap(), claimed.is_empty());
        self.store.leave(other).unwrap();
        !claimed.is_empty()
    }
}

#[test]
fn a_lease_runs_out_by_the_clock_it_was_given_by() {
    let lasts = LEASE.as_micros() as i64;
    let wall = |span: i64| LeaseTime { wall: Time(NOW.0 + span), ..up(1, 7) };
    for (first, now, runs_out) in [
        (up(1, 5), up(1, 5), false),
        (up(1, 5), up(1, 5 + lasts - 1), false),
        (up(1, 5), up(1, 5 + lasts), true),
        // The wall clock was set.
        (up(1, 5), LeaseTime { wall: Time(0), ..up(1, 6) }, false),
        (up(1, 5), LeaseTime { wall: Time(i64::MAX / 2), ..up(1, 6) }, false),
        // From an older bide, or on a system with only the wall clock.
        (NOW.into(), wall(lasts - 1), false),
        (NOW.into(), wall(lasts), true),
        // The first runner's process holds its byte lock, so this is not a reboot.
        (up(1, 5), up(2, 5 + lasts), false),
        (up(1, 5), up(2, 0), false),
        (up(1, 5), Time(NOW.0 + lasts).into(), false),
    ] {
        let (desk, lease) = Desk::new(first);
        assert_eq!(desk.is_claimable(lease, now), runs_out, "{first:?} at {now:?}");
    }
}

/// The columns `expires` and `boot` of the one runner.
fn row(path: &Path) -> (i64, String) {
    let file = Connection::open(path).unwrap();
    file.query_row("SELECT expires, boot FROM runner", [], |row| Ok((row.get(0)?, row.get(1)?))).unwrap()
}

#[test]
fn an_old_bide_with_only_the_wall_clock_sees_no_such_lease_as_expired() {
    let (desk, _) = Desk::new(up(0xe7f7_2786_87cf_4feb_89d1_7b11_719a_3adf, 5));
    let path = desk._folder.path().join("bide.db");
    drop(desk.store);
    let (expires, boot) = row(&path);
    assert!(expires > NOW.0 * 100);
    assert_eq!(boot, "e7f72786-87cf-4feb-89d1-7b11719a3adf");
}
