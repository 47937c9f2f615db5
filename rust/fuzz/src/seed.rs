//! A file with rows of every kind, and the graph that they belong to.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use bide_core::graph::{MapSpec, Over, Tolerated};
use bide_core::record::{DoneRow, Mark, NewRun, NewTask, Parent, RunUpdate};
use bide_core::{
    Address, Entry, EntryKey, EntryKind, EntryState, Failure, FailureKind, GateSpec, GateUntil, Graph, Message,
    MessageKind, NO_MAP, NewEvents, Operation, Progress, ProgressRow, RecordKind, RetryPolicy, RunId, RunIf, RunStatus,
    SubStatus, TaskId, TaskRow, TaskSpec, TaskStatus, Time, Value, Write, pack,
};
use bide_store::{Durability, Lease, SqliteStore, Store, StoredWorkflow};

/// How many runs the file has.
pub(crate) const RUNS: u64 = 4;

/// A long time before anything that the rows mean as "now".
const EARLY: Time = Time(1_700_000_000_000_000);

pub(crate) fn graph() -> Arc<Graph> {
    let task = |name: &str, on: &[&str]| TaskSpec {
        dependencies: on.iter().map(|name| (*name).into()).collect(),
        ..TaskSpec::new(name)
    };
    let gate = |until| Some(GateSpec { name: "gate".into(), until, timeout: Some(Duration::from_secs(9)) });
    let tasks = vec![
        TaskSpec { retry: RetryPolicy::new(3), wants_handle: true, ..task("first", &[]) },
        task("done", &[]),
        TaskSpec { gate: gate(GateUntil::Condition), ..task("asks", &["done"]) },
        TaskSpec { gate: gate(GateUntil::After(Duration::from_secs(1))), ..task("sleeps", &["done"]) },
        TaskSpec { run_if: RunIf::Failed, ..task("mends", &["first"]) },
        TaskSpec { run_if: RunIf::Done, wants_context: true, ..task("last", &["asks", "sleeps", "mends"]) },
    ];
    let map = MapSpec { over: vec![Over::Task("done".into())], tolerate: Tolerated::Count(1) };
    let each = TaskSpec { map: Some(Box::new(map)), ..task("each", &["done"]) };
    let waits = TaskSpec { wants_handle: true, ..task("waits", &[]) };
    let tasks = tasks.into_iter().chain([each, waits]).collect();
    Arc::new(Graph::build("workflow", tasks, false).unwrap_or_else(|error| unreachable!("{error}")))
}

pub(crate) fn register(store: &dyn Store, graph: &Graph) -> Result<StoredWorkflow, bide_store::StoreError> {
    let tasks = NewTask::all_of(graph);
    store.register(graph.workflow(), graph.version(), &tasks)
}

pub(crate) fn id(n: u64) -> RunId {
    RunId::new(1_700_000_000_000 + n, 0, n)
}

/// Writes the file. The store is closed again, so that the runs have no owner.
pub(crate) fn write(path: &Path, graph: &Graph) -> Result<(), bide_store::StoreError> {
    let store = SqliteStore::open(path, Durability::Normal)?;
    let workflow = register(&*store, graph)?;
    let lease = store.enroll(EARLY.into())?;
    let text = |text: &str| Value::tagged(b's', text.as_bytes());
    let path = text("a/b");
    let inputs: Arc<[u8]> = pack::pack([("path", Some(&path))]).into();
    let runs: Vec<NewRun> = (0..RUNS)
        .map(|n| {
            let new = NewRun::new(id(n), workflow.number, workflow.version, EARLY).with_inputs(Arc::clone(&inputs));
            new.with_key((n < 3).then(|| format!("key {n}").into()))
        })
        .collect();
    let _ = store.create(lease, &runs)?;
    let ids: Vec<TaskId> = workflow.tasks.iter().map(|task| task.id).collect();
    // 0: in the middle of everything. 1: to be tried again. 2: failed. 3: nothing recorded yet.
    commit(&*store, lease, in_the_middle(id(0).row(), &ids))?;
    commit(&*store, lease, waiting_for_others(id(0).row(), &ids))?;
    let parent = Parent { run: id(0), task: ids[7], map: NO_MAP, key: key("child"), depth: 1 };
    let child = NewRun::new(child(), workflow.number, workflow.version, EARLY).with_parent(Some(Arc::new(parent)));
    let _ = store.create(lease, &[child])?;
    for message in messages() {
        let _ = store.send(id(0), &message)?;
    }
    commit(&*store, lease, to_be_retried(id(1).row(), &ids))?;
    commit(&*store, lease, ended(id(2).row(), &ids))
}

fn commit(store: &dyn Store, lease: Lease, mut batch: Vec<Write>) -> Result<(), bide_store::StoreError> {
    store.commit(lease, &mut batch).map(|_committed| ())
}

fn failure() -> Failure {
    Failure::new(FailureKind::Raised, "ValueError", "no such path")
}

fn row(run: i64, task: TaskId, status: TaskStatus) -> TaskRow {
    TaskRow {
        status,
        attempts: 1,
        first_started_at: Some(EARLY),
        started_at: Some(EARLY),
        ..TaskRow::pending(run, task)
    }
}

fn entry(n: u32, kind: EntryKind, state: EntryState) -> Entry {
    let operation =
        Operation::from_stored(kind, Some([7; 16].into()), Some(EARLY)).unwrap_or(Operation::Time { due: EARLY });
    Entry {
        state,
        deadline: (kind == EntryKind::Condition).then_some(EARLY),
        value: (state == EntryState::Satisfied).then_some(Value::NONE),
        failure: (state == EntryState::Failed).then(|| Box::new(failure())),
        closed_at: (state != EntryState::Open).then_some(EARLY),
        ..Entry::new(EntryKey { name: "it".into(), n }, n + 1, operation, EARLY)
    }
}

fn in_the_middle(run: i64, ids: &[TaskId]) -> Vec<Write> {
    let value = Value::tagged(b'i', b"3");
    let changes: Arc<[u8]> = pack::pack([("rows", Some(&value)), ("gone", None)]).into();
    let first = TaskRow {
        sub_status: Some(SubStatus::Deferred),
        mark: Mark { times: 1, executes: true },
        ..row(run, ids[0], TaskStatus::Running)
    };
    let done = TaskRow {
        output: Some(Value::tagged(b'j', b"[1,2]")),
        changes: Some(changes),
        ended_at: Some(EARLY),
        waited: 5,
        ..row(run, ids[1], TaskStatus::Completed)
    };
    let gate =
        TaskRow { attempts: 0, started_at: None, first_started_at: None, ..row(run, ids[2], TaskStatus::Pending) };
    let mut writes = vec![Write::Task(Box::new(first)), Write::Task(Box::new(done)), Write::Task(Box::new(gate))];
    let entries = [
        (ids[0], entry(1, EntryKind::Step, EntryState::Satisfied)),
        (ids[0], entry(2, EntryKind::Step, EntryState::Failed)),
        (ids[0], entry(3, EntryKind::Time, EntryState::Satisfied)),
        (ids[0], entry(4, EntryKind::Condition, EntryState::Open)),
        (
            ids[2],
            Entry { key: EntryKey { name: "gate".into(), n: 0 }, ..entry(0, EntryKind::Condition, EntryState::Open) },
        ),
    ];
    for (task, entry) in entries {
        writes.push(Write::Entry { run, task, map: NO_MAP, entry: Arc::new(entry) });
    }
    writes
}

/// The run that a body of run 0 has started.
pub(crate) fn child() -> RunId {
    id(RUNS)
}

fn key(name: &str) -> EntryKey {
    EntryKey { name: name.into(), n: 1 }
}

fn number(n: u32) -> Value {
    Value::tagged(b'i', n.to_string().as_bytes())
}

/// The callback that a body of run 0 has made.
pub(crate) fn answer() -> Address {
    Address { kind: MessageKind::Answer, name: "secret".into() }
}

/// Signals, a request and its withdrawal, and the answer to a callback.
fn messages() -> Vec<Message> {
    let request = Address { kind: MessageKind::Request, name: "ask".into() };
    let addresses = [Address::signal("other"), request, Address::withdrawal(99), answer()];
    let message = |(n, address): (u32, Address)| Message {
        number: i64::from(n),
        address,
        id: Some(format!("id {n}").into()),
        content: if n == 23 { Err(failure()) } else { Ok(number(n)) },
        sent_at: EARLY,
    };
    (20..).zip(addresses).map(message).collect()
}

/// A body that waits for the first of a signal, an answer and a child, an element of a mapped task, and what they show.
fn waiting_for_others(run: i64, ids: &[TaskId]) -> Vec<Write> {
    let members: Arc<[EntryKey]> = ["go", "answer", "end of a child"].map(key).into();
    let open = [
        ("any", Operation::Any { members }),
        ("go", Operation::Message(Address::signal("go"))),
        ("answer", Operation::Message(answer())),
        ("end of a child", Operation::Child { run: child() }),
    ];
    let request = Value::tagged(b'r', &[&10_i64.to_be_bytes()[..], number(1).as_bytes()].concat());
    let secret = Value::tagged(b's', answer().name.as_bytes());
    let closed = [
        ("checkpoint", Operation::Record(RecordKind::Checkpoint), number(3)),
        ("callback", Operation::Record(RecordKind::Callback), secret),
        ("child", Operation::Start { proof: Some([5; 16].into()) }, child().to_value()),
        ("ask", Operation::Message(Address { kind: MessageKind::Request, name: "ask".into() }), request),
    ];
    let closed = closed.into_iter().map(|(name, operation, value)| (name, operation, Some(value)));
    let all = closed.chain(open.into_iter().map(|(name, operation)| (name, operation, None)));
    let entries = (1..).zip(all).map(|(seq, (name, operation, value))| {
        let key = if name == "checkpoint" { EntryKey::checkpoint() } else { key(name) };
        let state = if value.is_some() { EntryState::Satisfied } else { EntryState::Open };
        let closed_at = value.is_some().then_some(EARLY);
        let entry = Entry { state, value, closed_at, ..Entry::new(key, seq, operation, EARLY) };
        Write::Entry { run, task: ids[7], map: NO_MAP, entry: Arc::new(entry) }
    });
    let waits = TaskRow { sub_status: Some(SubStatus::Deferred), ..row(run, ids[7], TaskStatus::Running) };
    let mapped = TaskRow { length: Some(2), ..row(run, ids[6], TaskStatus::Running) };
    let element =
        TaskRow { map: 1, output: Some(number(7)), ended_at: Some(EARLY), ..row(run, ids[6], TaskStatus::Completed) };
    let events = NewEvents {
        run,
        channel: "log".into(),
        keep: None,
        skipped: 0,
        count: 2,
        task: ids[7],
        map: NO_MAP,
        attempt: 1,
        entry: Some("it".into()),
        emitted_at: EARLY,
        packed: vec![0, 2, b'i', b'1', 5, 2, b'i', b'2'],
    };
    let progress = Progress { done: 1.0, total: Some(2.0), message: Some("half".into()), said_at: EARLY };
    let progress = ProgressRow { run, task: ids[7], map: NO_MAP, progress };
    let answered = Write::Answer { run, number: 9, answer: Ok(number(8)), answered_at: EARLY };
    let rows = [waits, mapped, element].map(|row| Write::Task(Box::new(row)));
    let shown = [Write::Events(Box::new(events)), Write::Progress(Box::new(progress)), answered];
    entries.chain(rows).chain(shown).collect()
}

fn to_be_retried(run: i64, ids: &[TaskId]) -> Vec<Write> {
    let first = TaskRow { failure: Some(failure()), retry_at: Some(EARLY), ..row(run, ids[0], TaskStatus::Pending) };
    let open = entry(1, EntryKind::Time, EntryState::Open);
    let sleeps = Entry { key: EntryKey { name: "gate".into(), n: 0 }, ..entry(0, EntryKind::Time, EntryState::Open) };
    vec![
        Write::Task(Box::new(first)),
        Write::Done(DoneRow::new(run, ids[1], Value::NONE, EARLY, EARLY)),
        Write::Entry { run, task: ids[0], map: NO_MAP, entry: Arc::new(open) },
        Write::Entry { run, task: ids[3], map: NO_MAP, entry: Arc::new(sleeps) },
    ]
}

fn ended(run: i64, ids: &[TaskId]) -> Vec<Write> {
    let first = TaskRow { failure: Some(failure()), ended_at: Some(EARLY), ..row(run, ids[0], TaskStatus::Failed) };
    let skipped = TaskRow { blocked_by: Some("first".into()), ..row(run, ids[5], TaskStatus::Skipped) };
    vec![
        Write::Task(Box::new(first)),
        Write::Task(Box::new(skipped)),
        Write::Run(Box::new(RunUpdate {
            failure: Some(failure()),
            ended_at: Some(EARLY),
            ..RunUpdate::new(run, RunStatus::Failed)
        })),
    ]
}
