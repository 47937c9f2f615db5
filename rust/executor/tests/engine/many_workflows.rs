//! A runner's calls of its store do not grow with the number of registered workflows: counted, not timed.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use bide_executor::core::event::ChildStart;
use bide_executor::core::{EntryKey, Event, Graph, RunId, TaskRef, TaskSpec};
use bide_executor::drive::Driver;
use bide_executor::store::{Durability, MemoryStore, SqliteStore, Store};
use bide_executor::{Handle, RunRequest};
use bide_testkit::{FaultyStore, VirtualClock};

use super::{Idle, pool};

/// A runner whose calls of the store are counted.
struct Counted {
    store: Arc<FaultyStore>,
    driver: Driver<Idle>,
}

fn workflow(number: usize, tasks: &[&'static str]) -> (Arc<Graph>, Arc<[()]>) {
    let specs = tasks.iter().map(|name| TaskSpec::new(*name)).collect();
    let graph = Graph::build(&format!("workflow {number}"), specs, false).unwrap();
    (Arc::new(graph), tasks.iter().map(|_| ()).collect())
}

impl Counted {
    fn open(store: &Arc<dyn Store>) -> Self {
        static SEED: AtomicU64 = AtomicU64::new(1);
        let (seed, store) = (SEED.fetch_add(1, Ordering::Relaxed), FaultyStore::new(Arc::clone(store)));
        let driver = Driver::open(Arc::clone(&store) as _, VirtualClock::new(), pool(), Box::new(|_, _| {}), seed);
        Self { store, driver: driver.unwrap() }
    }

    fn calls(&mut self, act: impl FnOnce(&mut Driver<Idle>)) -> u64 {
        let before = self.store.calls();
        act(&mut self.driver);
        self.store.calls() - before
    }

    fn register(&mut self, number: usize, tasks: &[&'static str]) -> u64 {
        let (graph, bodies) = workflow(number, tasks);
        self.calls(|driver| drop(driver.engine().register(graph, bodies).unwrap()))
    }

    fn is_executing(&self, run: RunId) -> bool {
        self.driver.engine().live(run).is_some()
    }
}

/// A run of this workflow that another runner on the same store left behind.
fn left_behind(store: &Arc<dyn Store>, number: usize, tasks: &[&'static str]) -> RunId {
    let other = Counted::open(store);
    let (graph, bodies) = workflow(number, tasks);
    let workflow = other.driver.engine().register(graph, bodies).unwrap();
    let handles = other.driver.engine().submit(&workflow, [RunRequest::new(Box::default())]);
    let run = handles.unwrap()[0].id();
    other.driver.engine().finish_close();
    run
}

/// How many calls a registration, a run and change polls take beside this many workflows.
fn calls_beside(count: usize, store: &Arc<dyn Store>) -> Vec<u64> {
    let mut runner = Counted::open(store);
    for number in 1..count {
        runner.register(number, &["task"]);
    }
    let mut calls = vec![runner.register(0, &["task"])];
    let idle = runner.calls(Driver::lease_turn);
    assert_eq!(runner.calls(Driver::lease_turn), 0, "a poll without changes calls nothing else");

    let (graph, bodies) = workflow(0, &["task"]);
    let registered = runner.driver.engine().register(graph, bodies).unwrap();
    calls.push(runner.calls(|driver| {
        let wanted = RunRequest::new(Box::default());
        drop(driver.engine().submit(&registered, [wanted]).unwrap());
    }));

    // A change: a run that is to be claimed.
    let run = left_behind(store, 0, &["task"]);
    let claimed = runner.calls(Driver::lease_turn);
    assert!(runner.is_executing(run));
    // A run of another version of its workflow, which fits.
    runner.register(0, &["task", "more"]);
    let older = left_behind(store, 0, &["task"]);
    let of_another_version = runner.calls(Driver::lease_turn);
    assert!(runner.is_executing(older));
    // And runs that no runner here can claim: of another workflow, and of a version that does not fit.
    let stranger = left_behind(store, count, &["task"]);
    let misfit = left_behind(store, 0, &["gone"]);
    let learns = runner.calls(Driver::lease_turn);
    assert!(!runner.is_executing(stranger) && !runner.is_executing(misfit));
    left_behind(store, count, &["task"]);
    let in_vain = runner.calls(Driver::lease_turn);
    assert!(in_vain < learns, "what does not fit is not asked for again");
    calls.extend([idle, claimed, of_another_version, learns, in_vain]);
    calls
}

#[test]
fn calls_of_a_store_do_not_grow_with_the_workflows() {
    let folder = tempfile::tempdir().unwrap();
    let sqlite = |count| {
        let path = folder.path().join(format!("{count}.db"));
        SqliteStore::open(&path, Durability::Normal).unwrap() as Arc<dyn Store>
    };
    let memory = |_| MemoryStore::new() as Arc<dyn Store>;
    for open in [&memory as &dyn Fn(usize) -> Arc<dyn Store>, &sqlite] {
        let beside = |count| calls_beside(count, &open(count));
        let one = beside(1);
        assert_eq!(one, beside(2));
        assert_eq!(one, beside(200));
    }
}

/// A server that loses its last commits may lose what it had numbered. What a body starts has the number that its
/// workflow has since, whatever the body kept of it.
#[test]
fn a_child_has_the_number_that_its_workflow_has_now() {
    let store = MemoryStore::new();
    let empty = store.snapshot();
    let mut runner = Counted::open(&(Arc::clone(&store) as Arc<dyn Store>));
    let (child, parent) = (workflow(1, &["child"]), workflow(2, &["parent"]));
    let kept = runner.driver.engine().register(child.0, child.1).unwrap();
    let starts = runner.driver.engine().register(parent.0, parent.1).unwrap();
    store.lose(&empty);
    // Another runner comes first, whose workflows get the numbers that these had.
    let mut other = Counted::open(&(Arc::clone(&store) as Arc<dyn Store>));
    for number in 3..6 {
        other.register(number, &["task"]);
    }
    runner.driver.lease_turn();
    let run = match &runner.driver.engine().submit(&starts, [RunRequest::new(Box::default())]).unwrap()[0] {
        Handle::Live(run) => Arc::clone(run),
        _ => panic!("it is executed elsewhere"),
    };
    let (task, attempt) = (TaskRef::plain(0), runner.driver.enter(&run, TaskRef::plain(0)).unwrap().attempt);
    let key = EntryKey { name: "child".into(), n: 1 };
    let event = Event::ChildrenStarted { task, attempt, starts: vec![ChildStart::new(key, None)] };
    let request = RunRequest::new(Box::default());
    let children = runner.driver.start_children(&run, event, &kept, vec![request]).unwrap();
    assert_ne!(runner.driver.engine().workflow("workflow 1").unwrap().number, kept.number);
    assert_eq!(&*store.load(children[0].id).unwrap().unwrap().run.workflow, "workflow 1");
}
