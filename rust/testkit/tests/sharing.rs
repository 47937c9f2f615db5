//! A runner on a shared store takes what its slots can soon execute, and leaves the rest to others.
#![expect(clippy::unwrap_used, reason = "tests")]

use std::collections::HashSet;
use std::sync::Arc;
use std::time::Duration;

use bide_core::record::RunRowId;
use bide_core::{Event, Graph, Outcome, PollPolicy, RunOptions, RunStatus, TaskSpec, Value};
use bide_executor::drive::{Driver, Gathering};
use bide_executor::{Clock, Dispatch, Gate, Host, Load, Ready, RegisteredWorkflow, RunRequest, Source};
use bide_store::{MemoryStore, RunFilter, Store};
use bide_sync::Mutex;
use bide_testkit::{FaultyStore, VirtualClock};

const SLOTS: usize = 2;

/// What a runner of [`SLOTS`] slots takes.
const MOST: usize = 8;

/// A host whose bodies are executed by the test.
struct ByHand;

#[derive(Default)]
struct Bodies(Mutex<Vec<Ready<ByHand>>>);

impl Host for ByHand {
    type Body = ();
    type Local = ();
    type Dispatch = Bodies;

    fn sources(_body: &()) -> &[Source] {
        &[]
    }

    fn gate_policy(_body: &(), _part: u16) -> PollPolicy {
        unreachable!("nothing has a gate")
    }
}

impl Dispatch<ByHand> for Bodies {
    fn ready(&self, ready: &mut Vec<Ready<ByHand>>) {
        self.0.lock().append(ready);
    }

    fn gate(&self, _gate: Gate<ByHand>) {}

    fn close(&self) {}

    fn load(&self, _coroutines: bool) -> Load {
        let mut ready = self.0.lock();
        ready.retain(|ready| ready.run.state.lock().may_enter(ready.task).is_some());
        Load { slots: SLOTS, bodies: ready.len() }
    }
}

struct Runner {
    driver: Driver<ByHand>,
    workflow: Arc<RegisteredWorkflow<ByHand>>,
    gathering: Gathering<ByHand>,
    clock: Arc<VirtualClock>,
    store: Arc<FaultyStore>,
}

impl Runner {
    fn open(base: &Arc<MemoryStore>, seed: u64) -> Self {
        let store = FaultyStore::new(Arc::clone(base) as Arc<dyn Store>);
        store.share();
        let clock = VirtualClock::new();
        let time = Arc::clone(&clock) as Arc<dyn Clock>;
        let shared = Arc::clone(&store) as Arc<dyn Store>;
        let driver: Driver<ByHand> = Driver::open(shared, time, Bodies::default(), Box::new(|_, _| {}), seed).unwrap();
        let graph = Graph::build("workflow", vec![TaskSpec::new("task")], false).unwrap();
        let graph = graph.with_timeout(Some(Duration::from_secs(86_400)));
        let workflow = driver.engine().register(Arc::new(graph), Arc::new([()])).unwrap();
        let gathering = driver.gathering();
        Self { driver, workflow, gathering, clock, store }
    }

    fn submit(&self, count: usize) {
        let requests = (0..count).map(|_| RunRequest::new(Box::default()));
        assert_eq!(self.driver.engine().submit(&self.workflow, requests).unwrap().len(), count);
    }

    /// The runs whose bodies are ready here.
    fn has(&self) -> HashSet<RunRowId> {
        let _ = self.driver.engine().dispatch().load(false);
        self.driver.engine().dispatch().0.lock().iter().map(|ready| ready.run.id.row()).collect()
    }

    /// Executes so many bodies.
    fn execute(&self, count: usize) {
        let bodies: Vec<_> = self.driver.engine().dispatch().0.lock().drain(..count).collect();
        for ready in bodies {
            assert!(ready.run.state.lock().enter(ready.task, self.driver.engine().clock().now()).is_some());
            self.gather(ready);
        }
        assert!(self.driver.commit(&self.gathering).is_empty());
    }

    /// A body has ended.
    fn gather(&self, Ready { run, task }: Ready<ByHand>) {
        let outcome = Outcome::Completed { output: Value::tagged(b'n', b""), changes: None };
        let _ = self.driver.gather(&self.gathering, run, Event::Ended { task, attempt: 1, outcome });
    }
}

#[test]
fn a_submitter_keeps_what_its_slots_can_take_and_others_claim_the_rest() {
    let base = MemoryStore::new();
    let (mut one, mut other) = (Runner::open(&base, 1), Runner::open(&base, 2));
    one.submit(MOST);
    assert_eq!(one.has().len(), MOST, "what has room belongs to the submitter at once");
    one.submit(2 * MOST);
    one.driver.lease_turn();
    assert_eq!(one.has().len(), MOST, "it takes no more than it has room for");
    other.driver.lease_turn();
    assert_eq!(other.has().len(), MOST);
    assert!(one.has().is_disjoint(&other.has()));
    for _ in 0..4 {
        for runner in [&mut one, &mut other] {
            let ready = runner.has().len();
            runner.execute(ready);
            runner.driver.lease_turn();
            assert!(runner.has().len() <= 2 * MOST);
        }
    }
    let runs = base.list(&RunFilter::default()).unwrap();
    assert_eq!(runs.len(), 3 * MOST);
    assert!(runs.iter().all(|run| run.run.status == RunStatus::Completed), "no run is left in the store");
}

#[test]
fn a_runner_that_is_alone_keeps_what_it_submits_and_gives_it_back_once_another_one_comes() {
    let base = MemoryStore::new();
    let mut one = Runner::open(&base, 1);
    one.store.set_others(false);
    one.submit(900);
    assert_eq!(one.has().len(), 900);
    one.execute(10);
    one.driver.lease_turn();
    assert_eq!(one.has().len(), 890);
    let mut other = Runner::open(&base, 2);
    one.store.set_others(true);
    // Its body has been entered: no other runner can begin it.
    let entered = one.driver.engine().dispatch().0.lock().pop().unwrap();
    assert!(entered.run.state.lock().enter(entered.task, one.driver.engine().clock().now()).is_some());
    let mut oldest: Vec<RunRowId> = one.has().into_iter().collect();
    oldest.sort_unstable();
    oldest.truncate(MOST - 1);
    let urgent = RunRequest::new(Box::default()).with_options(RunOptions { priority: 1, ..RunOptions::default() });
    let handle = one.driver.engine().submit(&one.workflow, [urgent]).unwrap().remove(0);
    oldest.push(handle.id().row());
    one.driver.lease_turn();
    assert_eq!(one.has(), oldest.into_iter().collect(), "the oldest ones stay, and what is urgent");
    other.driver.lease_turn();
    assert_eq!(other.has().len(), MOST);
    assert!(one.has().is_disjoint(&other.has()));
    one.gather(entered);
    for _ in 0..1_000 {
        for runner in [&mut one, &mut other] {
            let ready = runner.has().len();
            runner.execute(ready);
            runner.driver.lease_turn();
        }
    }
    let runs = base.list(&RunFilter::default()).unwrap();
    assert_eq!(runs.len(), 901);
    assert!(runs.iter().all(|run| run.run.status == RunStatus::Completed), "no run is left in the store");
}

#[test]
fn room_that_comes_back_is_filled_from_the_store() {
    let base = MemoryStore::new();
    let mut runner = Runner::open(&base, 1);
    runner.submit(2 * MOST);
    runner.driver.lease_turn();
    assert_eq!(runner.has().len(), MOST);
    runner.clock.advance(Duration::from_secs(1));
    runner.execute(3);
    runner.driver.lease_turn();
    assert_eq!(runner.has().len(), MOST, "three came after three had ended");
}

#[test]
fn of_short_bodies_as_many_are_claimed_as_end_within_50_ms() {
    let base = MemoryStore::new();
    let mut runner = Runner::open(&base, 1);
    runner.submit(1_000);
    runner.driver.lease_turn();
    assert_eq!(runner.has().len(), MOST);
    runner.clock.advance(Duration::from_millis(4));
    runner.execute(MOST);
    runner.driver.lease_turn();
    assert_eq!(runner.has().len(), 100, "eight have ended in 4 ms");
    runner.clock.advance(Duration::from_millis(5));
    runner.execute(20);
    runner.driver.lease_turn();
    assert_eq!(runner.has().len(), 200, "20 have ended in 5 ms");
    runner.clock.advance(Duration::from_millis(50));
    runner.execute(190);
    runner.driver.lease_turn();
    assert_eq!(runner.has().len(), 190);
    runner.clock.advance(Duration::from_secs(1));
    runner.execute(190);
    runner.driver.lease_turn();
    assert_eq!(runner.has().len(), 9, "they have become long");
}
