//! Where nobody waits elsewhere, an attempt leaves its share to the next one before its own end is committed. The store
//! learns of it with the next commit: no share is lost, and none is there twice.

use std::sync::Arc;
use std::time::Duration;

use bide_executor::core::{
    Ask, Control, Event, Graph, LimitSpec, Outcome, PollPolicy, Rate, RunStatus, TaskRef, TaskSpec, Value,
};
use bide_executor::drive::Driver;
use bide_executor::store::{Durability, MemoryStore, SqliteStore, Store};
use bide_executor::{
    Clock, Dispatch, Gate, Handle, Host, Ready, RegisteredWorkflow, Run, RunRequest, Source, TaskLimit,
};
use bide_sync::Mutex;
use bide_testkit::{Fault, FaultyStore, VirtualClock};

use super::HANG;

const TASK: TaskRef = TaskRef::plain(0);

/// A host whose bodies a test enters and ends itself.
struct ByHand;

/// The bodies that may start.
#[derive(Default)]
struct Ours(Mutex<Vec<Ready<ByHand>>>);

impl Host for ByHand {
    type Body = TaskLimit;
    type Local = ();
    type Dispatch = Ours;

    fn sources(_body: &TaskLimit) -> &[Source] {
        &[]
    }

    fn gate_policy(_body: &TaskLimit, _part: u16) -> PollPolicy {
        PollPolicy::every(HANG)
    }

    fn limit(body: &TaskLimit) -> Option<&TaskLimit> {
        Some(body)
    }
}

impl Dispatch<ByHand> for Ours {
    fn ready(&self, ready: &mut Vec<Ready<ByHand>>) {
        self.0.lock().append(ready);
    }

    fn gate(&self, _gate: Gate<ByHand>) {}

    fn close(&self) {}
}

/// One start in this span.
const SPAN: Duration = Duration::from_secs(1);

fn one_in_a_span() -> LimitSpec {
    let rate = Some(Rate { count: 1, span: SPAN });
    LimitSpec { name: "api".into(), executing: None, in_flight: None, rate, key: None }
}

fn at_most(in_flight: u32) -> LimitSpec {
    LimitSpec { name: "api".into(), executing: None, in_flight: Some(in_flight), rate: None, key: None }
}

/// One of the runners of a store, with a workflow of one task that has a limit.
struct Runner {
    driver: Driver<ByHand>,
    workflow: Arc<RegisteredWorkflow<ByHand>>,
    store: Arc<dyn Store>,
}

impl Runner {
    fn open(store: &Arc<dyn Store>, clock: &Arc<dyn Clock>, seed: u64) -> Self {
        Self::open_with(at_most(1), store, clock, seed)
    }

    fn open_with(spec: LimitSpec, store: &Arc<dyn Store>, clock: &Arc<dyn Clock>, seed: u64) -> Self {
        let driver =
            Driver::open(Arc::clone(store), Arc::clone(clock), Ours::default(), Box::new(|_, _| {}), seed).unwrap();
        let graph = Arc::new(Graph::build("workflow", vec![TaskSpec::new("task")], false).unwrap());
        let body = TaskLimit { spec, key: None };
        let workflow = driver.engine().register(graph, Arc::new([body])).unwrap();
        Self { driver, workflow, store: Arc::clone(store) }
    }

    /// Submits runs. The first of all has its share.
    fn submit(&self, count: usize) -> Vec<Arc<Run<ByHand>>> {
        let requests = (0..count).map(|_| RunRequest::new(Box::default()));
        let handles = self.driver.engine().submit(&self.workflow, requests).unwrap();
        self.ask();
        let live = handles.into_iter().map(|handle| match handle {
            Handle::Live(run) => run,
            _ => panic!("it is executed elsewhere"),
        });
        live.collect()
    }

    /// The service of limits has all its turns.
    fn ask(&self) {
        while self.driver.has_limits_to_ask() {
            self.driver.limits_turn();
        }
    }

    /// The body that was granted its share begins.
    fn enters(&self, run: &Arc<Run<ByHand>>) {
        let ready = self.driver.engine().dispatch().0.lock().pop().expect("something may start");
        self.enters_passed(ready, run);
    }

    fn enters_passed(&self, ready: Ready<ByHand>, run: &Arc<Run<ByHand>>) {
        assert!(Arc::ptr_eq(&ready.run, run));
        assert!(self.driver.enter(run, TASK).is_some());
    }

    /// Its body ends. Returns the next one that may start.
    fn passes_on(&self, run: &Arc<Run<ByHand>>) -> Option<Ready<ByHand>> {
        self.driver.passes_on(run, TASK, 1, &completed())
    }

    /// Its end is committed.
    fn ends(&self, run: &Arc<Run<ByHand>>) {
        self.driver.commit_own(None, run, Event::Ended { task: TASK, attempt: 1, outcome: completed() }).unwrap();
    }

    /// Asks something of a run, which carries it out.
    fn asks(&self, run: &Arc<Run<ByHand>>, ask: Ask) {
        self.driver.engine().ask(run.id, &Control::new(ask)).unwrap();
        self.driver.committer_turn();
        self.ask();
    }

    /// The body that may start, if one may.
    fn next(&self) -> Option<Ready<ByHand>> {
        self.ask();
        self.driver.engine().dispatch().0.lock().pop()
    }

    /// How many attempts are in flight and wait, as the store counts them.
    fn used(&self) -> (u64, u64) {
        let uses = self.store.limits(self.driver.engine().now()).unwrap().remove(0).uses;
        uses.first().map_or((0, 0), |used| (used.in_flight, used.waiting))
    }
}

fn completed() -> Outcome {
    Outcome::Completed { output: Value::NONE, changes: None }
}

/// On each kind of store whose commits answer claims.
fn on_every_store(play: impl Fn(&Arc<dyn Store>, &Arc<dyn Clock>)) {
    let folder = tempfile::tempdir().unwrap();
    let file = SqliteStore::open(&folder.path().join("bide.db"), Durability::Normal).unwrap();
    for store in [file as Arc<dyn Store>, MemoryStore::new()] {
        play(&store, &(VirtualClock::new() as Arc<dyn Clock>));
    }
}

#[test]
fn one_commit_records_all_that_was_passed_on_before_it() {
    on_every_store(|store, clock| {
        let runner = Runner::open(store, clock, 1);
        let runs = runner.submit(4);
        runner.enters(&runs[0]);
        assert_eq!(runner.used(), (1, 3));
        let next = runner.passes_on(&runs[0]).expect("the second may start");
        runner.enters_passed(next, &runs[1]);
        assert_eq!(runner.used(), (1, 3), "the store knows nothing of it");
        let next = runner.passes_on(&runs[1]).expect("the third may start");
        assert!(runner.passes_on(&runs[1]).is_none(), "what it had it has left to the third");
        assert!(runner.passes_on(&runs[3]).is_none(), "one that waits has nothing to leave");
        runner.ends(&runs[0]);
        assert_eq!(runner.used(), (1, 1));
        runner.ends(&runs[1]);
        assert_eq!(runner.used(), (1, 1));
        // It was not asked about meanwhile, and nobody else starts beside the third.
        runner.ask();
        assert!(runner.driver.engine().dispatch().0.lock().is_empty());
        runner.enters_passed(next, &runs[2]);
        // The last one is granted its share by the commit of an end that has left nothing.
        runner.ends(&runs[2]);
        runner.enters(&runs[3]);
        runner.ends(&runs[3]);
        assert_eq!(runner.used(), (0, 0));
        assert!(runs.iter().all(|run| run.state.lock().status() == RunStatus::Completed));
    });
}

#[test]
fn nothing_is_passed_on_while_another_runner_waits_or_too_much_is_used() {
    on_every_store(|store, clock| {
        let (one, mut other) = (Runner::open(store, clock, 1), Runner::open(store, clock, 2));
        let mine = one.submit(4);
        one.enters(&mine[0]);
        let theirs = other.submit(1);
        // Until its next commit the first runner does not know.
        let next = one.passes_on(&mine[0]).expect("the second may start");
        one.enters_passed(next, &mine[1]);
        one.ends(&mine[0]);
        assert!(one.passes_on(&mine[1]).is_none(), "another runner waits");
        one.ends(&mine[1]);
        // The older run, which waits here, goes first.
        one.enters(&mine[2]);
        other.ask();
        assert!(other.driver.engine().dispatch().0.lock().is_empty());
        one.ends(&mine[2]);
        one.enters(&mine[3]);
        one.ends(&mine[3]);
        other.driver.lease_turn();
        other.ask();
        other.enters(&theirs[0]);
        other.ends(&theirs[0]);
        assert_eq!(one.used(), (0, 0));

        store.define_limit(&at_most(2)).unwrap();
        let more = one.submit(5);
        one.enters(&more[1]);
        one.enters(&more[0]);
        store.define_limit(&at_most(1)).unwrap();
        let next = one.passes_on(&more[0]).expect("the third may start");
        one.enters_passed(next, &more[2]);
        one.ends(&more[0]);
        assert!(one.passes_on(&more[1]).is_none(), "two execute, and one may");
        one.ends(&more[1]);
        assert!(one.driver.engine().dispatch().0.lock().is_empty());
        let next = one.passes_on(&more[2]).expect("the fourth may start: one executes, and one may");
        one.enters_passed(next, &more[3]);
        one.ends(&more[2]);
        assert_eq!(one.used(), (1, 1));
    });
}

#[test]
fn a_runner_that_closes_or_finds_its_store_locked_still_tells_it() {
    on_every_store(|inner, clock| {
        let store = FaultyStore::new(Arc::clone(inner));
        let shared = Arc::clone(&store) as Arc<dyn Store>;
        let runner = Runner::open(&shared, clock, 1);
        let runs = runner.submit(3);
        runner.enters(&runs[0]);
        let next = runner.passes_on(&runs[0]).expect("the second may start");
        runner.enters_passed(next, &runs[1]);
        store.fail_next(Fault::Busy);
        runner.ends(&runs[0]);
        assert_eq!(runner.used(), (1, 1));
        let next = runner.passes_on(&runs[1]).expect("the third may start");
        runner.enters_passed(next, &runs[2]);
        runner.driver.engine().begin_close();
        runner.ends(&runs[1]);
        assert_eq!(runner.used().0, 1, "the third executes to its end");
        runner.ends(&runs[2]);
        assert_eq!(runner.used().0, 0);
    });
}

/// A start that is granted and does not happen, because the run is paused, is granted again: it counts when it happens.
#[test]
fn a_start_that_a_pause_prevents_counts_when_it_happens() {
    let (store, clock) = (MemoryStore::new() as Arc<dyn Store>, VirtualClock::new());
    let shared = Arc::clone(&clock) as Arc<dyn Clock>;
    let mut runner = Runner::open_with(one_in_a_span(), &store, &shared, 1);
    let runs = runner.submit(2);
    let Ready { run: first, .. } = runner.next().expect("the first is granted its start");
    runner.asks(&first, Ask::Pause);
    assert!(runner.driver.enter(&first, TASK).is_none(), "it is paused");
    let Ready { run: second, .. } = runner.next().expect("the start that does not happen is left to the other one");
    assert!(runs.iter().any(|run| Arc::ptr_eq(run, &second)) && !Arc::ptr_eq(&first, &second));
    assert!(runner.driver.enter(&second, TASK).is_some());
    runner.asks(&first, Ask::Resume);
    assert!(runner.next().is_none(), "one has started within the span");
    clock.advance(SPAN + Duration::from_millis(5));
    runner.driver.timer_turn();
    let Ready { run: next, .. } = runner.next().expect("the span is over");
    assert!(Arc::ptr_eq(&next, &first));
    assert!(runner.driver.enter(&first, TASK).is_some());
}
