//! Watches, with a process that dies before or after any call of its store, and with two runners that have one source.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::time::Duration;

use bide_executor::core::watches::run_key;
use bide_executor::core::{Graph, TaskSpec, Value};
use bide_executor::drive::Driver;
use bide_executor::store::{MemoryStore, Store, StoreError, Watches};
use bide_executor::{Clock, RegisteredWorkflow, SourceAnswer, WatchError, WatchRequest, WatchSource, WatchView};
use bide_testkit::{Fault, FaultyStore, VirtualClock};

use super::{Idle, keys, pool, with_each_fault};

const EVERY: Duration = Duration::from_secs(5);

/// The world that sources look at. A test adds items; the last two that were seen are returned again.
#[derive(Default)]
struct World {
    /// The items that there are.
    items: AtomicU64,
    /// How often the source was called.
    calls: AtomicU64,
    /// Calls that are under way, and the most at once.
    under_way: (AtomicU32, AtomicU32),
}

impl World {
    fn source(self: &Arc<Self>) -> WatchSource {
        let world = Arc::clone(self);
        Box::new(move |_, cursor| {
            world.calls.fetch_add(1, Ordering::SeqCst);
            let at_once = world.under_way.0.fetch_add(1, Ordering::SeqCst) + 1;
            world.under_way.1.fetch_max(at_once, Ordering::SeqCst);
            let text = String::from_utf8(cursor.payload().to_vec()).unwrap();
            let (seen, there) = (text.parse().unwrap_or(0_u64), world.items.load(Ordering::SeqCst));
            let new = (seen.saturating_sub(2)..there).map(|item| (item.to_string().into(), Arc::from(&b""[..])));
            let answer = SourceAnswer::Items(new.collect(), Value::tagged(b'i', there.to_string().as_bytes()));
            world.under_way.0.fetch_sub(1, Ordering::SeqCst);
            answer
        })
    }

    /// The keys of the runs of all items.
    fn keys(&self) -> Vec<Arc<str>> {
        let mut keys: Vec<_> =
            (0..self.items.load(Ordering::SeqCst)).map(|item| run_key("inbox", &item.to_string())).collect();
        keys.sort();
        keys
    }
}

/// A process that serves a watch.
struct Process(Driver<Idle>);

impl Process {
    fn start(
        store: Arc<dyn Store>,
        clock: &Arc<VirtualClock>,
        seed: u64,
        source: WatchSource,
    ) -> Result<Self, StoreError> {
        let driver =
            Driver::<Idle>::open(store, Arc::clone(clock) as Arc<dyn Clock>, pool(), Box::new(|_, _| ()), seed)?;
        let process = Self(driver);
        match process.watch("workflow", source) {
            Ok(_) => Ok(process),
            Err(WatchError::Store(error)) => Err(error),
            Err(other) => panic!("{other:?}"),
        }
    }

    fn watch(&self, workflow: &str, source: WatchSource) -> Result<WatchView, WatchError> {
        self.watch_for(&self.register(workflow)?, source)
    }

    fn register(&self, workflow: &str) -> Result<Arc<RegisteredWorkflow<Idle>>, StoreError> {
        let graph = Arc::new(Graph::build(workflow, vec![TaskSpec::new("task")], false).unwrap());
        self.0.engine().register(graph, Arc::new([()]))
    }

    fn watch_for(
        &self,
        workflow: &Arc<RegisteredWorkflow<Idle>>,
        source: WatchSource,
    ) -> Result<WatchView, WatchError> {
        let request = WatchRequest { name: "inbox".into(), every: EVERY, shown: "list_inbox".into(), source };
        self.0.engine().define_watch(workflow, request)
    }

    /// A turn of each thread. False: it has died.
    fn turn(&mut self) -> bool {
        self.0.timer_turn();
        self.0.lease_turn();
        let _ = self.0.source_turn("inbox");
        self.0.engine().stopped().is_none()
    }

    fn only(&self) -> WatchView {
        self.0.engine().watches().unwrap().pop().unwrap()
    }
}

/// Lets items come, with a fault at a call of the first process. Returns how many calls that made.
fn play(fault: Option<(u64, Fault)>) -> u64 {
    let (inner, clock, world) = (MemoryStore::new(), VirtualClock::new(), Arc::new(World::default()));
    let first = FaultyStore::new(Arc::clone(&inner) as Arc<dyn Store>);
    if let Some((call, fault)) = fault {
        first.fail(call, fault);
    }
    let mut process = Process::start(Arc::clone(&first) as Arc<dyn Store>, &clock, 1, world.source()).ok();
    for step in 1..=9 {
        // The last time there is nothing new, and everything is made up for.
        world.items.fetch_add(if step == 9 { 0 } else { 3 }, Ordering::SeqCst);
        for again in 0..2 {
            if !process.as_mut().is_some_and(Process::turn) {
                // Of each earlier process.
                (1..9).for_each(|runner| inner.process_died(runner));
                let seed = 2 * step + again;
                process = Process::start(Arc::clone(&inner) as Arc<dyn Store>, &clock, seed, world.source()).ok();
                assert!(process.as_mut().is_some_and(Process::turn), "{fault:?}");
            }
            clock.advance(EVERY);
        }
    }
    assert_eq!(keys(&*inner), world.keys(), "{fault:?}");
    let watch = process.unwrap().only().watch;
    assert_eq!((watch.started, watch.error), (24, None), "{fault:?}");
    first.calls()
}

#[test]
fn each_key_starts_one_run_whenever_the_process_dies() {
    with_each_fault(play);
}

#[test]
fn of_two_runners_one_calls_the_source_and_the_other_takes_it_when_that_dies() {
    let (store, clock, world) = (MemoryStore::new(), VirtualClock::new(), Arc::new(World::default()));
    let silent = || -> WatchSource { Box::new(|_, _| panic!("another runner calls it")) };
    let start = |seed, source| Process::start(Arc::clone(&store) as Arc<dyn Store>, &clock, seed, source).unwrap();
    let mut first = start(1, world.source());
    assert!(first.turn());
    let mut second = start(2, silent());
    for _ in 0..5 {
        world.items.fetch_add(1, Ordering::SeqCst);
        clock.advance(EVERY);
        assert!(first.turn() && second.turn());
    }
    assert_eq!(keys(&*store), world.keys());
    let (one, other) = (first.only(), second.only());
    assert!(one.is_served && other.is_served && one.next.is_some() && other.next.is_none());
    // The same name again, in the same runner: the new source takes the place of the old one.
    second.watch("workflow", world.source()).unwrap();
    let runner = first.0.lease().runner;
    drop(first);
    store.process_died(runner);
    world.items.fetch_add(1, Ordering::SeqCst);
    // By then it is not believed any more that the first one lives.
    clock.advance(EVERY);
    assert!(second.turn() && second.turn());
    assert_eq!(keys(&*store), world.keys());
    assert_eq!(world.under_way.1.load(Ordering::SeqCst), 1);
}

#[test]
fn a_runner_that_lost_a_watch_while_its_source_was_called_starts_nothing_with_what_it_returned() {
    let (store, clock, world) = (MemoryStore::new(), VirtualClock::new(), Arc::new(World::default()));
    world.items.store(3, Ordering::SeqCst);
    let start = |seed| Process::start(Arc::clone(&store) as Arc<dyn Store>, &clock, seed, world.source()).unwrap();
    let other = Arc::new(bide_sync::Mutex::new(start(2)));
    let first = start(1);
    let (runner, inner, taken) = (first.0.lease().runner, Arc::clone(&store), Arc::clone(&other));
    let called = Arc::new(AtomicU64::new(0));
    let calls = Arc::clone(&called);
    first
        .watch(
            "workflow",
            Box::new(move |_, _| {
                // Meanwhile its lease runs out, and another runner calls its source.
                inner.process_died(runner);
                assert!(taken.lock().turn());
                calls.fetch_add(1, Ordering::SeqCst);
                SourceAnswer::Items(vec![("stale".into(), Arc::from(&b""[..]))], Value::tagged(b'i', b"99"))
            }),
        )
        .unwrap();
    let _ = first.0.source_turn("inbox");
    assert_eq!(called.load(Ordering::SeqCst), 1);
    assert!(other.lock().turn());
    assert_eq!(keys(&*store), world.keys());
    assert_eq!(other.lock().only().watch.cursor, Value::tagged(b'i', b"3"));
}

#[test]
fn a_watch_that_is_defined_while_its_removal_is_noticed_is_called_again() {
    let (inner, clock, world) = (MemoryStore::new(), VirtualClock::new(), Arc::new(World::default()));
    let store = FaultyStore::new(Arc::clone(&inner) as Arc<dyn Store>);
    let process = Process::start(Arc::clone(&store) as Arc<dyn Store>, &clock, 1, world.source()).unwrap();
    let workflow = process.register("workflow").unwrap();
    process.watch_for(&workflow, world.source()).unwrap();
    assert_eq!(process.0.source_turn("inbox"), Some(EVERY));
    let process = Arc::new(process);
    let (again, source) = (Arc::clone(&process), world.source());
    process.0.engine().unwatch("inbox").unwrap();
    store.after_watch_read(Box::new(move || assert!(again.watch_for(&workflow, source).is_ok())));
    assert_eq!(process.0.source_turn("inbox"), Some(EVERY));
    world.items.fetch_add(1, Ordering::SeqCst);
    assert_eq!(process.0.source_turn("inbox"), Some(EVERY));
    assert_eq!((keys(&*inner), world.calls.load(Ordering::SeqCst)), (world.keys(), 3));
}

#[test]
fn a_source_that_fails_is_called_less_often_and_a_paused_one_not_at_all() {
    let (store, clock) = (MemoryStore::new(), VirtualClock::new());
    let calls = Arc::new(AtomicU64::new(0));
    let counted = Arc::clone(&calls);
    let source: WatchSource = Box::new(move |_, _| {
        let call = counted.fetch_add(1, Ordering::SeqCst);
        match call {
            0..=2 => SourceAnswer::Failed("OSError: gone".into()),
            _ => SourceAnswer::Items(Vec::new(), Value::NONE),
        }
    });
    let process = Process::start(Arc::clone(&store) as Arc<dyn Store>, &clock, 1, source).unwrap();
    let since = clock.now();
    let turn = || process.0.source_turn("inbox").unwrap();
    assert_eq!((turn(), turn(), turn()), (EVERY, 2 * EVERY, 4 * EVERY));
    let error = process.only().watch.error.unwrap();
    assert_eq!((error.0, &*error.1), (since, "OSError: gone"));
    assert_eq!(turn(), EVERY);
    assert_eq!(process.only().watch.error, None);
    process.0.engine().pause_watch("inbox").unwrap();
    turn();
    assert_eq!(calls.load(Ordering::SeqCst), 4);
    assert_eq!(process.only().next, None);
    process.0.engine().resume_watch("inbox").unwrap();
    turn();
    assert_eq!(calls.load(Ordering::SeqCst), 5);
    assert!(matches!(process.watch("other", Box::new(|_, _| SourceAnswer::Later)), Err(WatchError::OtherWorkflow(_))));
    process.0.engine().unwatch("inbox").unwrap();
    assert_eq!(process.0.source_turn("inbox"), None);
    assert!(matches!(process.0.engine().pause_watch("inbox"), Err(WatchError::NoWatch)));
    assert!(matches!(process.0.engine().unwatch("inbox"), Err(WatchError::NoWatch)));
}

#[test]
fn a_poll_that_finds_nothing_writes_nothing() {
    let (inner, clock) = (MemoryStore::new(), VirtualClock::new());
    let calls = Arc::new(AtomicU64::new(0));
    let called = Arc::clone(&calls);
    let source: WatchSource = Box::new(move |_, _| {
        called.fetch_add(1, Ordering::SeqCst);
        SourceAnswer::Items(Vec::new(), Value::NONE)
    });
    let process = Process::start(Arc::clone(&inner) as Arc<dyn Store>, &clock, 1, source).unwrap();
    let _ = process.0.source_turn("inbox");
    let revision = || inner.watch("inbox").unwrap().unwrap().revision;
    let before = revision();
    for _ in 0..100 {
        clock.advance(EVERY);
        let _ = process.0.source_turn("inbox");
    }
    assert_eq!((revision(), calls.load(Ordering::SeqCst)), (before, 101));
}

#[test]
fn a_source_that_does_not_return_is_reported_once_by_name() {
    let (store, clock) = (MemoryStore::new(), VirtualClock::new());
    let lines = Arc::new(bide_sync::Mutex::new(Vec::<String>::new()));
    let log = Arc::clone(&lines);
    let driver = Driver::<Idle>::open(
        store,
        Arc::clone(&clock) as Arc<dyn Clock>,
        pool(),
        Box::new(move |_, line: &str| log.lock().push(line.to_owned())),
        1,
    )
    .unwrap();
    let process = Process(driver);
    process.watch("workflow", Box::new(|_, _| SourceAnswer::Later)).unwrap();
    assert_eq!(process.0.source_turn("inbox"), None);
    for _ in 0..30 {
        clock.advance(Duration::from_secs(1));
        process.0.look_at_sources();
    }
    assert_eq!(
        lines.lock().iter().filter(|line| line.contains("watch")).collect::<Vec<_>>(),
        [&"watch 'inbox': its source list_inbox has not returned for 11 s; no run starts before it does".to_owned()]
    );
    assert!(process.only().calling.is_some());
}
