//! A store that outlives its processes, and the ledger of bodies and steps: the oracle of the crash points.

use std::collections::HashMap;
use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicI64, AtomicU32, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bide_executor::core::graph::split_element;
use bide_executor::core::record::StoredRun;
use bide_executor::core::time::micros;
use bide_executor::core::{Entry, EntryState, NO_MAP, RunId, RunStatus, TaskId, TaskRow, TaskStatus, Time};
use bide_executor::store::{Durability, EventRange, LEASE, MemoryStore, SqliteStore, Store, Uptime};
use bide_executor::{Clock, Error, RunResult, Runner, SystemClock, Workflow};
use bide_testkit::{Fault, FaultyStore};

/// The number of concurrent executions of a case.
const PLAYERS: usize = 4;

/// Nothing here takes this long unless it hangs.
pub(crate) const HANG: Duration = Duration::from_secs(20);

/// A clock that can be set forward, as if no process had run for a while.
pub(crate) struct Skipping {
    system: Arc<dyn Clock>,
    ahead: AtomicI64,
}

impl Skipping {
    pub(crate) fn skip(&self, span: Duration) {
        self.ahead.fetch_add(micros(span), Ordering::SeqCst);
    }
}

impl Clock for Skipping {
    fn now(&self) -> Time {
        Time(self.system.now().0 + self.ahead.load(Ordering::SeqCst))
    }

    fn steady(&self) -> Duration {
        self.system.steady()
    }

    fn uptime(&self) -> Option<Uptime> {
        let ahead = self.ahead.load(Ordering::SeqCst);
        self.system.uptime().map(|up| Uptime { micros: up.micros + ahead, ..up })
    }
}

/// What bodies share with the test.
pub(crate) struct Ledger {
    pub(crate) clock: Arc<Skipping>,
    /// The store below the faults, while a process lives.
    pub(crate) store: Mutex<Option<Arc<dyn Store>>>,
    violations: Mutex<Vec<String>>,
    /// Bodies that have returned in this process.
    returned: Mutex<Vec<String>>,
    /// What was executed, in order: bodies and steps.
    pub(crate) executed: Mutex<Vec<String>>,
    /// The secrets of the callbacks that bodies have made, by what the bodies call them.
    pub(crate) secrets: Mutex<HashMap<String, String>>,
    polls: AtomicU32,
    /// The step that may be executed only once was.
    once: AtomicBool,
}

impl Ledger {
    pub(crate) fn new() -> Arc<Self> {
        Arc::new(Self {
            clock: Arc::new(Skipping { system: SystemClock::shared(), ahead: AtomicI64::new(0) }),
            store: Mutex::default(),
            violations: Mutex::default(),
            returned: Mutex::default(),
            executed: Mutex::default(),
            secrets: Mutex::default(),
            polls: AtomicU32::new(0),
            once: AtomicBool::new(false),
        })
    }

    pub(crate) fn stored(&self, run: RunId) -> StoredRun {
        let store = self.store.lock().unwrap().clone().unwrap();
        store.load(run).unwrap().unwrap()
    }

    fn must(&self, holds: bool, what: impl FnOnce() -> String) {
        if !holds {
            self.violations.lock().unwrap().push(what());
        }
    }

    /// A body has returned.
    pub(crate) fn returns(&self, name: &str) {
        self.returned.lock().unwrap().push(name.to_owned());
    }

    /// With one slot: no body is entered while one that has returned still counts as a suspect.
    pub(crate) fn check_no_returned_body_is_suspected(&self, run: RunId) {
        let stored = self.stored(run);
        let marked = |name: &String| row_of(&stored, name).is_some_and(|row| row.mark.executes);
        let suspected = self.returned.lock().unwrap().iter().find(|name| marked(name)).cloned();
        self.must(suspected.is_none(), || {
            format!("{suspected:?} has returned, and a death now would count against it")
        });
    }

    /// Of a child run: which of the children of its parent it is, and of how many. Of another run 0 of 0.
    pub(crate) fn siblings(&self, run: RunId) -> (usize, usize) {
        let store = self.store.lock().unwrap().clone().unwrap();
        let parent = store.load(run).unwrap().unwrap().run.parent;
        let children = parent.map(|parent| store.children(parent).unwrap()).unwrap_or_default();
        let before = children.iter().position(|(child, _)| *child == run);
        (before.map_or(0, |before| before + 1), children.len())
    }

    /// Something is executed. Children of one parent are told apart.
    fn note(&self, run: RunId, what: &str) {
        let number = match self.siblings(run).0 {
            0 => String::new(),
            number => format!("#{number}"),
        };
        self.executed.lock().unwrap().push(format!("{what}{number}"));
    }

    /// A body is entered: its dependencies are committed, and it has not ended itself.
    pub(crate) fn enters(&self, run: RunId, name: &str, after: &[&str]) {
        self.note(run, name);
        let stored = self.stored(run);
        let status = |name: &str| row_of(&stored, name).map(|row| row.status);
        for on in after {
            let ended = status(on).is_some_and(TaskStatus::is_ended);
            self.must(ended, || format!("{name} starts before {on} is committed"));
        }
        self.must(!status(name).is_some_and(TaskStatus::is_ended), || format!("{name} has ended and runs again"));
    }

    /// A step is executed: it is not recorded.
    pub(crate) fn steps(&self, run: RunId, name: &str, step: &str) {
        self.note(run, &format!("{name}/{step}"));
        let stored = self.stored(run);
        let place = place_of(&stored, name).unwrap();
        let is = |(of, map, entry): &&(_, _, Entry)| (*of, *map) == place && &*entry.key.name == step;
        let mut recorded = stored.entries.iter().filter(is);
        let committed = recorded.any(|(_, _, entry)| entry.state != EntryState::Open);
        self.must(!committed, || format!("the step {step} of {name} is committed and runs again"));
    }

    /// A record is committed before which an event was emitted: that is there too.
    pub(crate) fn has_event(&self, run: RunId, event: u32) {
        let store = self.store.lock().unwrap().clone().unwrap();
        let all = EventRange::After { offset: 0, most: usize::MAX };
        let rows = store.events(run, "log", all).unwrap().unwrap();
        let mut events = rows.iter().flat_map(|row| row.events().unwrap());
        let there = events.any(|found| found.value.payload() == event.to_string().as_bytes());
        self.must(there, || format!("event {event} is lost"));
    }

    /// A step that may be executed only once is: that it begins is recorded, and no process has executed it before.
    pub(crate) fn executes_once(&self, run: RunId, step: &str) {
        let entries = self.stored(run).entries;
        let begun = entries.iter().any(|(.., entry)| &*entry.key.name == step && entry.state == EntryState::Open);
        self.must(begun, || format!("the step {step} is executed before it is recorded that it begins"));
        self.must(!self.once.swap(true, Ordering::SeqCst), || format!("the step {step} is executed twice"));
    }

    /// How often something was executed so far, in all processes.
    pub(crate) fn times(&self, what: &str) -> usize {
        self.executed.lock().unwrap().iter().filter(|executed| *executed == what).count()
    }

    /// True from the third time it is asked, in any process.
    pub(crate) fn third_poll(&self) -> bool {
        self.polls.fetch_add(1, Ordering::SeqCst) >= 2
    }
}

/// The number of a task and the map index, by the name of the task or element.
fn place_of(stored: &StoredRun, name: &str) -> Option<(TaskId, i32)> {
    let number = |name: &str| stored.tasks.iter().find(|task| &*task.name == name).map(|task| task.id);
    number(name).map(|id| (id, NO_MAP)).or_else(|| {
        let (task, map) = split_element(name)?;
        Some((number(task)?, map))
    })
}

fn row_of<'a>(stored: &'a StoredRun, name: &str) -> Option<&'a TaskRow> {
    let place = place_of(stored, name)?;
    stored.rows.iter().find(|row| (row.task, row.map) == place)
}

/// Where runs live.
enum Place {
    Memory(Arc<MemoryStore>),
    Sqlite(tempfile::TempDir),
}

impl Place {
    fn open(&self) -> Arc<dyn Store> {
        match self {
            Self::Memory(store) => Arc::clone(store) as Arc<dyn Store>,
            Self::Sqlite(directory) => {
                SqliteStore::open(&Path::new(directory.path()).join("bide.db"), Durability::Normal).unwrap()
            }
        }
    }

    /// A process has died. With a file this is visible at once; in memory the lease has to expire.
    fn mourn(&self, clock: &Skipping) {
        if let Self::Memory(store) = self {
            let lease = store.enroll(clock.lease_time()).unwrap();
            store.claim(lease, &[], clock.lease_time().after(2 * LEASE), 1).unwrap();
            store.leave(lease).unwrap();
        }
    }
}

/// The outcome of a run, as far as it must be the same after any crash.
#[derive(Debug, PartialEq)]
pub(crate) struct Came {
    pub(crate) status: RunStatus,
    pub(crate) tasks: Vec<TaskCame>,
}

/// A task's name, status, attempts, output and error.
pub(crate) type TaskCame = (String, TaskStatus, u32, Option<serde_json::Value>, Option<String>);

impl Came {
    pub(crate) fn of(result: &RunResult) -> Self {
        let tasks = result.tasks.iter().map(|task| {
            let error = task.error.as_ref().map(|error| error.message());
            (task.name.to_string(), task.status, task.attempts, result.output(&task.name).ok(), error)
        });
        Self { status: result.status, tasks: tasks.collect() }
    }
}

/// A process that attaches to the run twice and waits for it. `None` if it dies, or its runner stops, before.
pub(crate) type Live<'a> = &'a (dyn Fn(Arc<dyn Store>, &Arc<Ledger>) -> Option<Came> + Sync);

/// A process that executes closures on tokio.
pub(crate) fn on_tokio(store: Arc<dyn Store>, ledger: &Arc<Ledger>, workflow: &Workflow, slots: u32) -> Option<Came> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        let clock = Arc::clone(&ledger.clock) as Arc<dyn Clock>;
        let runner = Runner::open(store).slots(slots).clock(clock).log(|_, _| ()).start().ok()?;
        let result = async {
            let first = runner.submit(workflow, &()).key("k").await.ok()?;
            let second = runner.submit(workflow, &()).key("k").await.ok()?;
            assert_eq!(first.id(), second.id(), "one key, two runs");
            let mut came = None;
            for handle in [first, second] {
                let result = match handle.result().await {
                    Ok(result) => result,
                    Err(Error::Failed(failed)) => failed.result,
                    Err(Error::Store(_) | Error::Closed) => return None,
                    Err(error) => panic!("{error}"),
                };
                let this = Came::of(&result);
                assert!(came.is_none_or(|other| other == this), "two callers of one key get different results");
                came = Some(this);
            }
            came
        };
        let came = tokio::time::timeout(HANG, result).await.expect("the run hangs");
        runner.close_within(Duration::ZERO).await;
        came
    })
}

/// Executes a case from the start: with a fault at one call of each of the first processes, then without until the run
/// has ended. Returns its outcome and the number of calls that the first process made.
fn play(place: &Place, live: Live<'_>, faults: &[(u64, Fault)]) -> (Came, u64, Arc<Ledger>) {
    let ledger = Ledger::new();
    let mut first_calls = None;
    for process in 0..faults.len() + 3 {
        let faulty = FaultyStore::new(place.open());
        *ledger.store.lock().unwrap() = Some(faulty.inner());
        ledger.returned.lock().unwrap().clear();
        if let Some((call, fault)) = faults.get(process) {
            faulty.fail(*call, *fault);
        }
        let came = live(Arc::clone(&faulty) as Arc<dyn Store>, &ledger);
        first_calls.get_or_insert(faulty.calls());
        *ledger.store.lock().unwrap() = None;
        drop(faulty);
        assert_eq!(*ledger.violations.lock().unwrap(), Vec::<String>::new());
        if let Some(came) = came {
            return (came, first_calls.unwrap(), ledger);
        }
        place.mourn(&ledger.clock);
        ledger.clock.skip(Duration::from_secs(2 * 3600));
    }
    panic!("the run does not end in {} processes", faults.len() + 3);
}

/// Counts the executions of each body and step.
fn counts(ledger: &Ledger) -> std::collections::BTreeMap<String, usize> {
    let mut counts = std::collections::BTreeMap::new();
    for what in &*ledger.executed.lock().unwrap() {
        *counts.entry(what.clone()).or_default() += 1;
    }
    counts
}

/// Crashes a case before and after every call of its store, and makes every call fail in the other ways too, on every
/// store. The result must be that of the crash-free run, nothing committed may run again, and everything ran at least
/// as often as without the crash, and at most once more for each crash.
pub(crate) fn at_every_call(live: Live<'_>) {
    at_every_call_counting(&|_| true, live);
}

/// As [`at_every_call`], where how often only this was executed does not depend on the order of what happens at once.
pub(crate) fn at_every_call_counting(counted: &(dyn Fn(&str) -> bool + Sync), live: Live<'_>) {
    let memory = || Place::Memory(MemoryStore::new());
    let sqlite = || Place::Sqlite(tempfile::tempdir().unwrap());
    let lost = [Fault::CrashBefore, Fault::CrashAfter, Fault::UnknownAfter];
    // A call that fails and has written nothing is the same on every store.
    let all = [&lost[..], &[Fault::UnknownBefore, Fault::Unavailable, Fault::Busy]].concat();
    at_every_call_of(&memory, live, counted, &all, true);
    at_every_call_of(&sqlite, live, counted, &lost, false);
}

fn at_every_call_of(
    place: &(dyn Fn() -> Place + Sync),
    live: Live<'_>,
    counted: &(dyn Fn(&str) -> bool + Sync),
    faults: &[Fault],
    twice: bool,
) {
    let (expected, calls, undisturbed) = play(&place(), live, &[]);
    let least = counts(&undisturbed);
    let check = |faults: &[(u64, Fault)]| {
        let (came, _, ledger) = play(&place(), live, faults);
        assert_eq!(came, expected, "{faults:?} of {calls} calls");
        let counts = counts(&ledger);
        for (what, least) in least.iter().filter(|(what, _)| counted(what)) {
            let times = counts.get(what).copied().unwrap_or(0);
            assert!(times >= *least, "{what} was executed {times} times: {faults:?}");
            assert!(times <= least + faults.len(), "{what} was executed {times} times: {faults:?}");
        }
    };
    // Results gather in groups, so that another execution may take a few more calls.
    let mut plays: Vec<Vec<(u64, Fault)>> = Vec::new();
    for call in 1..=calls + 2 {
        plays.extend(faults.iter().map(|fault| vec![(call, *fault)]));
        if twice {
            // And while the next process recovers what the first one left.
            plays.push(vec![(call, Fault::CrashAfter), (1 + call * 5 % calls, Fault::CrashBefore)]);
            plays.push(vec![(call, Fault::CrashBefore), (1 + call * 3 % calls, Fault::CrashAfter)]);
        }
    }
    // They mostly wait.
    let next = AtomicUsize::new(0);
    std::thread::scope(|scope| {
        for _ in 0..PLAYERS {
            scope.spawn(|| {
                while let Some(faults) = plays.get(next.fetch_add(1, Ordering::Relaxed)) {
                    check(faults);
                }
            });
        }
    });
}
