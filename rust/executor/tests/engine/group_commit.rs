//! Threads that arrive while another one commits: the next commit covers all of them, and each gets its own outcome.

use std::sync::Arc;
use std::sync::mpsc::{Receiver, Sender, channel};

use bide_executor::core::event::Wait;
use bide_executor::core::{
    Address, EntryKey, Event, Graph, Operation, Outcome, RunStatus, TaskRef, TaskSpec, Time, Value,
};
use bide_executor::drive::{Driver, Lost};
use bide_executor::store::{Durability, LEASE, RunFilter, SqliteStore, Store, StoreError};
use bide_executor::{Clock, Handle, Level, RegisteredWorkflow, Run, RunRequest, Settlement, SubmitError};
use bide_sync::Mutex;
use bide_testkit::{Fault, FaultyStore, VirtualClock};

use super::{HANG, Idle, pool};

type Submitted = Result<Vec<Handle<Idle>>, SubmitError>;

/// An engine on a file whose calls a test can delay.
struct Scene {
    driver: Driver<Idle>,
    store: Arc<FaultyStore>,
    workflow: Arc<RegisteredWorkflow<Idle>>,
    clock: Arc<VirtualClock>,
    log: Arc<Mutex<Vec<String>>>,
    _folder: tempfile::TempDir,
}

impl Scene {
    fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let store = FaultyStore::new(SqliteStore::open(&folder.path().join("bide.db"), Durability::Normal).unwrap());
        Self::on(store, VirtualClock::new(), folder)
    }

    fn on(store: Arc<FaultyStore>, clock: Arc<VirtualClock>, folder: tempfile::TempDir) -> Self {
        let log = Arc::new(Mutex::new(Vec::new()));
        let lines = Arc::clone(&log);
        let write = Box::new(move |_: Level, line: &str| lines.lock().push(line.to_owned()));
        let (shared, time) = (Arc::clone(&store) as Arc<dyn Store>, Arc::clone(&clock) as Arc<dyn Clock>);
        let driver = Driver::open(shared, time, pool(), write, 1).unwrap();
        let graph = Arc::new(Graph::build("workflow", vec![TaskSpec::new("task")], false).unwrap());
        let workflow = driver.engine().register(graph, Arc::new([()])).unwrap();
        Self { driver, store, workflow, clock, log, _folder: folder }
    }

    fn submit(&self, key: Option<&str>, input: &str) -> Submitted {
        let inputs = Box::new([("input".into(), text(input))]);
        self.driver.engine().submit(&self.workflow, [RunRequest::new(inputs).with_key(key.map(Into::into))])
    }

    /// A run whose body is executing.
    fn running(&self) -> Arc<Run<Idle>> {
        let run = live(&self.submit(None, "x").unwrap()[0]);
        assert!(run.state.lock().enter(TaskRef::plain(0), Time(0)).is_some());
        run
    }

    /// The end of that body.
    fn end(&self, run: &Arc<Run<Idle>>) -> Result<(), Lost> {
        let outcome = Outcome::Completed { output: Value::NONE, changes: None };
        self.driver.commit_own(None, run, Event::Ended { task: TaskRef::plain(0), attempt: 1, outcome })
    }

    /// One thread creates a run and all others arrive during its commit. Calls `meanwhile` before that commit ends.
    fn together(&self, others: Vec<Part>, meanwhile: impl FnOnce()) -> Vec<Submitted> {
        let (held, release) = self.hold();
        std::thread::scope(|scope| {
            let first = scope.spawn(|| self.submit(None, "first").map(drop));
            held.recv_timeout(HANG).unwrap();
            let mut threads = Vec::new();
            for other in others {
                // One after the other, so that the order of the group is known.
                threads.push(scope.spawn(move || other(self)));
                while self.driver.waiting_to_commit() < threads.len() {
                    std::thread::yield_now();
                }
            }
            meanwhile();
            release.send(()).unwrap();
            first.join().unwrap().unwrap();
            threads.into_iter().map(|thread| thread.join().unwrap()).collect()
        })
    }

    /// The next creation of runs blocks in the store until it is released.
    fn hold(&self) -> (Receiver<()>, Sender<()>) {
        let (hold, held, release) = holding();
        self.store.after_create(Box::new(hold));
        (held, release)
    }

    /// Each commit blocks in the store, once it is written, until it is released.
    fn hold_commit(&self) -> (Receiver<()>, Sender<()>) {
        let (hold, held, release) = holding();
        self.store.watch(Box::new(move |_, _, _| hold()));
        (held, release)
    }

    fn fails(&self, fault: Fault) -> impl FnOnce() {
        move || self.store.fail_next(fault)
    }

    fn runs(&self) -> usize {
        self.store.inner().list(&RunFilter::default()).unwrap().len()
    }

    fn logged(&self) -> Vec<String> {
        self.log.lock().clone()
    }
}

/// What says that it was called and waits to be released; where it says so, and where it is released.
fn holding() -> (impl Fn() + Send + 'static, Receiver<()>, Sender<()>) {
    let ((sender, held), (release, released)) = (channel(), channel());
    let hold = move || {
        sender.send(()).unwrap();
        released.recv_timeout(HANG).unwrap();
    };
    (hold, held, release)
}

fn text(text: &str) -> Value {
    Value::tagged(b's', text.as_bytes())
}

fn live(handle: &Handle<Idle>) -> Arc<Run<Idle>> {
    let Handle::Live(run) = handle else { panic!("it is executed elsewhere") };
    Arc::clone(run)
}

type Part = Box<dyn FnOnce(&Scene) -> Submitted + Send>;

fn submits(key: Option<&'static str>, input: &'static str) -> Part {
    Box::new(move |scene| scene.submit(key, input))
}

#[test]
fn threads_that_come_while_another_commits_share_one_commit() {
    let scene = Scene::new();
    let before = scene.store.calls();
    let made = scene.together((0..8).map(|_| submits(None, "x")).collect(), || {});
    assert_eq!(scene.store.calls() - before, 2);
    assert_eq!(scene.runs(), 9);
    for made in made {
        assert_eq!(live(&made.unwrap()[0]).input("input"), Some(&text("x")));
    }
}

#[test]
fn a_commit_takes_with_it_what_has_gathered_on_all_slots() {
    let scene = Scene::new();
    let slots = [scene.driver.gathering(), scene.driver.gathering()];
    let runs: Vec<_> = (0..4).map(|_| scene.running()).collect();
    let end = || Event::Ended {
        task: TaskRef::plain(0),
        attempt: 1,
        outcome: Outcome::Completed { output: Value::NONE, changes: None },
    };
    let before = scene.store.calls();
    for (run, slot) in runs.iter().zip(slots.iter().cycle()) {
        let _ = scene.driver.gather(slot, Arc::clone(run), end());
    }
    assert!(scene.driver.commit(&slots[0]).is_empty());
    assert_eq!(scene.store.calls() - before, 1);
    for run in runs {
        assert!(matches!(run.settled.get(), Some(Settlement::Run(RunStatus::Completed))));
    }
}

#[test]
fn a_worker_goes_on_while_another_thread_commits() {
    let scene = Scene::new();
    let slot = scene.driver.gathering();
    let run = scene.running();
    let outcome = Outcome::Completed { output: Value::NONE, changes: None };
    let end = Event::Ended { task: TaskRef::plain(0), attempt: 1, outcome };
    let _ = scene.driver.gather(&slot, Arc::clone(&run), end);
    assert!(!scene.driver.leaves_to_next(&slot), "nobody commits: it commits itself");
    let other = scene.running();
    let ends: Part = Box::new(move |scene| {
        scene.end(&other).unwrap();
        Ok(Vec::new())
    });
    scene.together(vec![ends], || {
        assert!(scene.driver.leaves_to_next(&slot));
        assert!(run.settled.get().is_none());
    });
    assert!(matches!(run.settled.get(), Some(Settlement::Run(RunStatus::Completed))), "the next commit took it too");
}

#[test]
fn a_body_waits_for_a_commit_under_way_only_if_its_run_has_a_part_in_it() {
    let scene = Scene::new();
    let (run, other) = (scene.running(), scene.running());
    let (held, release) = scene.hold_commit();
    std::thread::scope(|scope| {
        let ends = scope.spawn(|| scene.end(&other));
        held.recv_timeout(HANG).unwrap();
        assert!(scene.driver.has_committed(&run));
        assert!(!scene.driver.has_committed(&other));
        release.send(()).unwrap();
        ends.join().unwrap().unwrap();
    });
    assert!(scene.driver.has_committed(&other));
}

#[test]
fn a_refused_key_concerns_no_other_request_of_the_group() {
    let scene = Scene::new();
    let parts = vec![submits(Some("k"), "x"), submits(Some("k"), "y"), submits(Some("k"), "x"), submits(None, "z")];
    let mut made = scene.together(parts, || {});
    assert_eq!(scene.runs(), 3);
    made.pop().unwrap().unwrap();
    let attached = made.pop().unwrap().unwrap()[0].id();
    assert!(matches!(made.pop().unwrap(), Err(SubmitError::OtherInputs { run, .. }) if run == attached));
    assert_eq!(made.pop().unwrap().unwrap()[0].id(), attached);
}

#[test]
fn runs_that_cannot_be_created_stop_no_runner() {
    for fault in [Fault::Unavailable, Fault::Busy] {
        let scene = Scene::new();
        let made = scene.together((0..3).map(|_| submits(None, "x")).collect(), scene.fails(fault));
        for made in made {
            assert!(matches!(made, Err(SubmitError::Store(StoreError::Unavailable(_) | StoreError::Busy { .. }))));
        }
        assert_eq!(scene.runs(), 1);
        assert_eq!(scene.driver.engine().live_count(), 1);
        scene.submit(None, "x").unwrap();
        assert_eq!(scene.logged(), [""; 0]);
        assert_eq!(scene.driver.engine().figures().commits.count, 2, "of the runs that there are");
    }
}

#[test]
fn runs_whose_creation_has_an_unknown_outcome_are_created_once() {
    for fault in [Fault::UnknownBefore, Fault::UnknownAfter] {
        let scene = Scene::new();
        let made = scene.together((0..3).map(|_| submits(None, "x")).collect(), scene.fails(fault));
        for made in made {
            live(&made.unwrap()[0]);
        }
        assert_eq!(scene.runs(), 4);
    }
}

/// A run's end that shares its commit with two creations.
fn an_end_among_creations(fault: Fault) -> (Scene, Arc<Run<Idle>>, Vec<Submitted>) {
    let scene = Scene::new();
    let run = scene.running();
    let ended = Arc::clone(&run);
    let end: Part = Box::new(move |scene| match scene.end(&ended) {
        Ok(()) => Ok(Vec::new()),
        Err(_) => Err(SubmitError::Stopped(Settlement::Closed)),
    });
    let made = scene.together(vec![submits(None, "x"), end, submits(None, "y")], scene.fails(fault));
    (scene, run, made)
}

#[test]
fn an_end_is_committed_though_the_runs_beside_it_cannot_be_created() {
    let (scene, run, made) = an_end_among_creations(Fault::Unavailable);
    let [x, end, y] = made.try_into().unwrap_or_else(|_| panic!("three"));
    assert!(matches!(x, Err(SubmitError::Store(StoreError::Unavailable(_)))));
    assert!(matches!(y, Err(SubmitError::Store(StoreError::Unavailable(_)))));
    assert!(end.is_ok());
    assert!(matches!(run.settled.get(), Some(Settlement::Run(_))));
    assert!(scene.store.inner().load(run.id).unwrap().unwrap().run.status.is_ended());
    assert!(scene.driver.engine().stopped().is_none());
}

#[test]
fn an_end_of_unknown_outcome_stops_the_runner_for_all_of_the_group() {
    let (scene, run, made) = an_end_among_creations(Fault::UnknownBefore);
    for made in made {
        assert!(matches!(made, Err(SubmitError::Stopped(_))));
    }
    assert!(matches!(run.settled.get(), Some(Settlement::Broken(_))));
    assert!(scene.logged()[0].contains("stops"));
}

#[test]
fn a_lease_that_is_lost_is_lost_for_all_of_the_group() {
    let scene = Scene::new();
    let run = scene.running();
    let ended = Arc::clone(&run);
    let end: Part = Box::new(move |scene| match scene.end(&ended) {
        Ok(()) => Ok(Vec::new()),
        Err(_) => Err(SubmitError::Stopped(Settlement::Elsewhere)),
    });
    let made = scene.together(vec![submits(None, "x"), end, submits(None, "y")], || {
        let later = scene.clock.lease_time().after(2 * LEASE);
        let other = scene.store.inner().enroll(later).unwrap();
        assert!(!scene.store.inner().claim(other, &[scene.workflow.version], later, 99).unwrap().is_empty());
    });
    let [x, end, y] = made.try_into().unwrap_or_else(|_| panic!("three"));
    for made in [x, y] {
        let left = scene.store.inner().load(made.unwrap()[0].id()).unwrap().unwrap();
        assert_eq!(left.run.runner, None, "its creation does not depend on the lease");
    }
    assert!(end.is_err());
    assert!(matches!(run.settled.get(), Some(Settlement::Elsewhere)));
    // It continues under its new lease.
    live(&scene.submit(None, "x").unwrap()[0]);
}

#[test]
fn a_panic_in_a_commit_stops_the_runner_for_all_of_the_group() {
    let scene = Scene::new();
    let store = Arc::clone(&scene.store);
    let made = scene.together((0..3).map(|_| submits(None, "x")).collect(), move || {
        store.after_create(Box::new(|| panic!("on purpose")));
    });
    for made in made {
        assert!(matches!(made, Err(SubmitError::Stopped(Settlement::Panicked(_)))));
    }
    assert_eq!(scene.driver.engine().live_count(), 0);
    assert!(matches!(scene.submit(None, "x"), Err(SubmitError::Stopped(Settlement::Panicked(_)))));
}

#[test]
fn the_timer_of_a_run_that_has_ended_does_not_keep_the_run() {
    let references = |timeout| {
        let scene = Scene::new();
        let run = scene.running();
        let operation = Operation::Message(Address::signal("approval"));
        let wait = Wait { key: EntryKey { name: "approval".into(), n: 1 }, operation, timeout };
        let opened = Event::Opened { task: TaskRef::plain(0), attempt: 1, waits: vec![wait] };
        scene.driver.commit_own(None, &run, opened).unwrap();
        scene.end(&run).unwrap();
        (Arc::strong_count(&run), scene.driver.first_due())
    };
    let (without, with) = (references(None), references(Some(HANG)));
    assert_ne!(without.1, with.1, "no timer is set");
    assert_eq!(without.0, with.0);
}

#[test]
fn a_new_run_never_has_the_number_of_one_that_is_executed_here() {
    let first = Scene::new();
    let old = first.running();
    first.driver.engine().finish_close();
    let Scene { store, clock, _folder: folder, .. } = first;
    // It has the same seed and the same time, so it generates the same ids.
    let second = Scene::on(store, clock, folder);
    assert_eq!(second.driver.engine().live_count(), 1);
    let before = second.store.calls();
    let new = live(&second.submit(None, "x").unwrap()[0]);
    assert_ne!(new.id.row(), old.id.row());
    // The store was not asked about the first number: it would have skipped what is written to the old run meanwhile.
    assert_eq!(second.store.calls() - before, 1);
}
