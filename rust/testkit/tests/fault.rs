//! The faulty store fails at the requested call, and in the requested way.
#![expect(clippy::unwrap_used, reason = "tests")]

use std::sync::Arc;
use std::time::Duration;

use bide_core::record::{NewRun, NewTask};
use bide_core::{RunId, Time};
use bide_store::{Lease, MemoryStore, Seen, Store, StoreError};
use bide_testkit::{Fault, FaultyStore};

fn store() -> (Arc<FaultyStore>, Lease, NewRun) {
    let store = FaultyStore::new(MemoryStore::new());
    let workflow = store.register("workflow", "v1", &[NewTask::new("task", vec![])]).unwrap();
    let lease = store.enroll(Time(0).into()).unwrap();
    (store, lease, NewRun::new(RunId::new(1, 0, 0), workflow.number, workflow.version, Time(1000)))
}

#[test]
fn a_call_fails_before_or_after_its_work_and_the_next_one_succeeds() {
    for (fault, unknown, written) in [
        (Fault::Unavailable, false, false),
        (Fault::Busy, false, false),
        (Fault::UnknownBefore, true, false),
        (Fault::UnknownAfter, true, true),
    ] {
        let (store, lease, new) = store();
        assert_eq!(store.calls(), 2);
        store.fail_next(fault);
        let error = store.create(lease, std::slice::from_ref(&new)).unwrap_err();
        assert_eq!(matches!(error, StoreError::Unknown(_)), unknown);
        assert_eq!(store.load(new.id).unwrap().is_some(), written, "{fault:?}");
        assert_eq!(store.calls(), 4);
    }
}

#[test]
fn after_a_crash_every_call_fails_and_the_store_keeps_its_data() {
    for (fault, written) in [(Fault::CrashBefore, false), (Fault::CrashAfter, true)] {
        let (store, lease, new) = store();
        store.fail(3, fault);
        store.create(lease, std::slice::from_ref(&new)).unwrap_err();
        store.load(new.id).unwrap_err();
        store.leave(lease).unwrap_err();
        store.wait_for_changes(Seen::default(), Duration::ZERO).unwrap_err();
        assert_eq!(store.inner().load(new.id).unwrap().is_some(), written, "{fault:?}");
    }
}
