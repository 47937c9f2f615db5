//! Messages to runs that are executed here, while runs are created, leases are lost and the store fails; and the ends
//! of their children.

use std::sync::Arc;
use std::sync::mpsc::channel;
use std::time::Duration;

use bide_executor::core::event::{ChildStart, Wait};
use bide_executor::core::{
    Address, Channel, EntryKey, Event, Graph, Message, Operation, Origin, Outcome, RunId, TaskRef, TaskSpec, Time,
    Value, Write,
};
use bide_executor::drive::Driver;
use bide_executor::store::{LEASE, MemoryStore, RunFilter, Sent, Store, StoreError};
use bide_executor::{Clock, Engine, Handle, Letter, RegisteredWorkflow, Run, RunRequest};
use bide_sync::Mutex;
use bide_testkit::{Fault, FaultyStore, VirtualClock};

use super::{HANG, Idle, pool};

/// An engine whose turns a test takes, on a store that a test lets fail.
struct Scene {
    driver: Arc<Mutex<Driver<Idle>>>,
    engine: Arc<Engine<Idle>>,
    store: Arc<FaultyStore>,
    workflow: Arc<RegisteredWorkflow<Idle>>,
    clock: Arc<VirtualClock>,
}

impl Scene {
    fn new() -> Self {
        let (store, clock) = (FaultyStore::new(MemoryStore::new()), VirtualClock::new());
        let (shared, time) = (Arc::clone(&store) as Arc<dyn Store>, Arc::clone(&clock) as Arc<dyn Clock>);
        let mut driver = Driver::open(shared, time, pool(), Box::new(|_, _| ()), 1).unwrap();
        let engine = Arc::clone(driver.engine());
        let graph = Arc::new(Graph::build("workflow", vec![TaskSpec::new("task")], false).unwrap());
        let workflow = engine.register(graph, Arc::new([()])).unwrap();
        driver.lease_turn();
        Self { driver: Arc::new(Mutex::new(driver)), engine, store, workflow, clock }
    }

    fn submit(&self) -> Arc<Run<Idle>> {
        let handles = self.engine.submit(&self.workflow, [RunRequest::new(Box::default())]).unwrap();
        let Handle::Live(run) = &handles[0] else { panic!("it is executed elsewhere") };
        Arc::clone(run)
    }
}

/// A signal that another process leaves in the store.
fn message(number: i64) -> Message {
    Message { number, address: Address::signal("go"), id: None, content: Ok(Value::NONE), sent_at: Time(0) }
}

/// Whether a run has got messages from the store.
fn has_mail(run: &Run<Idle>) -> bool {
    run.state.lock().begin_look() > 0
}

#[test]
fn a_message_to_a_run_that_is_just_being_created_reaches_it() {
    /// Long enough for a turn of the lease thread that does not wait for the creation.
    const TURN: Duration = Duration::from_millis(200);
    let scene = Scene::new();
    let (inner, driver) = (scene.store.inner(), Arc::clone(&scene.driver));
    let (done, turned) = channel();
    scene.store.after_create(Box::new(move || {
        let run = inner.list(&RunFilter::default()).unwrap()[0].run.id;
        assert_eq!(inner.send(run, &message(1)).unwrap(), Sent::Stored);
        let (ended, end) = channel();
        std::thread::spawn(move || {
            driver.lock().lease_turn();
            let _ = ended.send(());
            done.send(()).unwrap();
        });
        // The turn may wait until the creator has heard of the run.
        let _ = end.recv_timeout(TURN);
    }));
    let run = scene.submit();
    turned.recv_timeout(HANG).unwrap();
    assert!(has_mail(&run));
}

fn letter(run: RunId) -> Letter {
    Letter { run, address: Address::signal("go"), id: None, content: Ok(Value::NONE) }
}

/// Sends one message to a run, alone or among others.
fn send(scene: &Scene, run: RunId, many: bool) -> Result<Sent, StoreError> {
    let mut letters: Vec<Letter> = (0..=i32::from(many)).map(|_| letter(run)).collect();
    if many { scene.engine.send_all(letters).remove(0) } else { scene.engine.send(letters.remove(0)) }
}

#[test]
fn a_message_whose_commit_finds_the_lease_lost_goes_to_the_store() {
    for many in [false, true] {
        let scene = Scene::new();
        let run = scene.submit();
        let (inner, later) = (scene.store.inner(), scene.clock.lease_time().after(2 * LEASE));
        let other = inner.enroll(later).unwrap();
        assert_eq!(inner.claim(other, &[scene.workflow.version], later, 9).unwrap(), [run.id]);
        assert_eq!(send(&scene, run.id, many).unwrap(), Sent::Stored);
        assert_eq!(inner.messages(run.id, 0).unwrap().len(), 1 + usize::from(many));
        assert!(scene.engine.stopped().is_none());
    }
}

#[test]
fn a_message_that_cannot_be_committed_reports_the_error_of_the_store() {
    for many in [false, true] {
        let scene = Scene::new();
        let run = scene.submit();
        // The first call reads the messages of others.
        scene.store.fail(scene.store.calls() + 2, Fault::Unavailable);
        let error = send(&scene, run.id, many).unwrap_err();
        assert!(matches!(error, StoreError::Unavailable(_)), "{error}");
    }
}

#[test]
fn messages_that_were_read_are_handed_out_though_the_next_read_fails() {
    let scene = Scene::new();
    let runs = [scene.submit(), scene.submit()];
    for (number, run) in (1..).zip(&runs) {
        assert_eq!(scene.store.inner().send(run.id, &message(number)).unwrap(), Sent::Stored);
    }
    scene.store.fail(scene.store.calls() + 2, Fault::Busy);
    scene.driver.lock().lease_turn();
    assert_eq!(runs.iter().filter(|run| has_mail(run)).count(), 1);
    scene.driver.lock().lease_turn();
    assert!(runs.iter().all(|run| has_mail(run)));
}

#[test]
fn a_message_to_a_mistyped_id_reaches_no_run() {
    let scene = Scene::new();
    let run = scene.submit();
    let mistyped = RunId(run.id.0 ^ 1);
    assert_eq!(mistyped.row(), run.id.row());
    assert_eq!(scene.engine.send(letter(mistyped)).unwrap(), Sent::NoRun);
    assert!(scene.engine.live(mistyped).is_none());
}

/// A body is entered again, and emits before it comes to the wait for its child that it has left open.
#[test]
fn the_end_of_a_child_is_committed_after_what_its_parent_has_emitted() {
    let scene = Scene::new();
    let (parent, driver) = (scene.submit(), scene.driver.lock());
    let (task, attempt) = (TaskRef::plain(0), 1);
    let enter = |run: &Run<Idle>| assert!(run.state.lock().enter(task, Time(0)).is_some());
    enter(&parent);
    let key = |name: &str| EntryKey { name: name.into(), n: 1 };
    let starts = vec![ChildStart::new(key("start"), None)];
    let started = Event::ChildrenStarted { task, attempt, starts };
    let children = driver.start_children(&parent, started, &scene.workflow, vec![RunRequest::new(Box::default())]);
    let child = Arc::clone(&children.unwrap()[0]);
    let waits = vec![Wait { key: key("end"), operation: Operation::Child { run: child.id }, timeout: None }];
    driver.commit_own(None, &parent, Event::Opened { task, attempt, waits }).unwrap();
    let (channel, origin) =
        (Channel { name: "log".into(), type_name: "".into(), keep: None }, Origin { task, attempt, entry: None });
    driver.emit(&parent, &channel, origin, &Value::NONE).unwrap();
    let written = Arc::new(Mutex::new(Vec::new()));
    let seen = Arc::clone(&written);
    scene.store.watch(Box::new(move |_, _, batch| {
        let of_parent = batch.iter().filter(|write| write.run() == parent.id.row());
        seen.lock().extend(of_parent.filter_map(|write| match write {
            Write::Events(_) => Some("event"),
            Write::Entry { .. } => Some("end"),
            _ => None,
        }));
    }));
    enter(&child);
    let outcome = Outcome::Completed { output: Value::NONE, changes: None };
    driver.commit_own(None, &child, Event::Ended { task, attempt, outcome }).unwrap();
    assert_eq!(*written.lock(), ["event", "end"]);
}
