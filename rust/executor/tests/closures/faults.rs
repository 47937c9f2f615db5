//! When the store fails or another runner claims the runs: no caller hangs, and nothing committed is executed again.

use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use bide_executor::core::record::NewTask;
use bide_executor::core::recover::MAX_CRASHES;
use bide_executor::core::{RunId, RunStatus};
use bide_executor::store::{LEASE, MemoryStore, RunFilter, Store};
use bide_executor::{Error, Level, Runner, SystemClock, TaskContext, TaskError, Workflow, signal, until};
use bide_testkit::fault::{Fault, FaultyStore};
use tokio::sync::{Notify, Semaphore};

use crate::settle::no_slot_in_use;
use crate::support::{HANG, SOON, row};

pub(crate) async fn within<T>(future: impl Future<Output = T>) -> T {
    tokio::time::timeout(HANG, future).await.unwrap()
}

fn quiet(store: Arc<dyn Store>) -> Runner {
    Runner::open(store).slots(1).log(|_, _| ()).start().unwrap()
}

/// Counts its executions, signals its entry, and waits for a permit.
fn held(entered: &Arc<Notify>, resume: &Arc<Semaphore>, executed: &Arc<AtomicU32>) -> Workflow {
    let parts = (Arc::clone(entered), Arc::clone(resume), Arc::clone(executed));
    Workflow::builder("held")
        .task("held", move |_| {
            let (entered, resume, executed) = parts.clone();
            async move {
                executed.fetch_add(1, Ordering::SeqCst);
                entered.notify_one();
                resume.acquire().await?.forget();
                Ok(7)
            }
        })
        .build()
        .unwrap()
}

#[tokio::test]
async fn a_failed_commit_is_reported_to_every_caller_and_stops_the_runner() {
    for fault in [Fault::Unavailable, Fault::UnknownBefore, Fault::CrashBefore] {
        let (entered, resume, executed) = (Arc::default(), Arc::new(Semaphore::new(0)), Arc::default());
        let workflow = held(&entered, &resume, &executed);
        let faulty = FaultyStore::new(MemoryStore::new());
        let runner = quiet(Arc::clone(&faulty) as Arc<dyn Store>);
        let run = runner.submit(&workflow, &()).await.unwrap();
        within(entered.notified()).await;
        faulty.fail_next(fault);
        resume.add_permits(1);
        let error = within(run.result()).await.unwrap_err();
        assert!(matches!(error, Error::Store(_)), "{fault:?}: {error}");
        // A result that could not be committed is not visible either.
        assert_ne!(within(run.status()).await.ok(), Some(RunStatus::Completed), "{fault:?}");
        assert!(matches!(within(async { runner.run(&workflow, ()).await }).await, Err(Error::Store(_))), "{fault:?}");
        within(runner.close()).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_body_goes_on_only_after_the_commit_that_closed_its_wait() {
    let (entered, went_on) = (Arc::new(Notify::new()), Arc::new(AtomicBool::new(false)));
    let resume = Arc::new(Semaphore::new(1));
    let parts = (Arc::clone(&entered), Arc::clone(&resume), Arc::clone(&went_on));
    let workflow = Workflow::builder("waiter")
        .task("wait", move |cx: TaskContext| {
            let (entered, resume, went_on) = parts.clone();
            async move {
                entered.notify_one();
                resume.acquire().await?.forget();
                cx.handle().wait_any((signal::<u32>("go"), until(|_| async { false }))).await?;
                went_on.store(true, Ordering::SeqCst);
                Ok(())
            }
        })
        .build()
        .unwrap();
    let faulty = FaultyStore::new(MemoryStore::new());
    let before = quiet(Arc::clone(&faulty) as Arc<dyn Store>);
    let run = before.submit(&workflow, &()).key("k").await.unwrap();
    within(entered.notified()).await;
    within(no_slot_in_use(&before)).await;
    within(before.close()).await;

    let runner = quiet(Arc::clone(&faulty) as Arc<dyn Store>);
    let again = runner.submit(&workflow, &()).key("k").await.unwrap();
    assert_eq!(again.id(), run.id());
    within(entered.notified()).await;
    // Before the body that is entered again comes to its wait, a signal closes that in memory. The commit of the signal
    // takes long, and fails.
    let during = Arc::clone(&went_on);
    faulty.watch(Box::new(move |_, _, _| {
        resume.add_permits(1);
        #[expect(clippy::disallowed_methods, reason = "a test's time limit is not the engine's time")]
        let start = Instant::now();
        while !during.load(Ordering::SeqCst) && start.elapsed() < Duration::from_millis(50) {
            std::thread::yield_now();
        }
    }));
    // The sender first reads what others have sent.
    faulty.fail(faulty.calls() + 2, Fault::CrashAfter);
    assert!(within(async { again.signal("go", &1).await }).await.is_err());
    within(runner.close()).await;
    assert!(!went_on.load(Ordering::SeqCst));
}

#[tokio::test]
async fn a_stopped_runner_releases_its_lease_when_it_is_closed() {
    let (entered, resume, executed) = (Arc::default(), Arc::new(Semaphore::new(0)), Arc::default());
    let workflow = held(&entered, &resume, &executed);
    let faulty = FaultyStore::new(MemoryStore::new());
    let runner = quiet(Arc::clone(&faulty) as Arc<dyn Store>);
    let run = runner.submit(&workflow, &()).key("k").await.unwrap();
    within(entered.notified()).await;
    faulty.fail_next(Fault::Unavailable);
    resume.add_permits(2);
    assert!(within(run.result()).await.is_err());
    within(runner.close()).await;

    let next = quiet(faulty.inner());
    // No other runner has to wait until its lease expires.
    let ended =
        tokio::time::timeout(LEASE / 3, async { next.run(&workflow, ()).key("k").await }).await.unwrap().unwrap();
    assert_eq!(ended.output::<u32>("held").unwrap(), 7);
    within(next.close()).await;
}

/// A runner with one slot, and the warnings that it logs.
fn heard(store: Arc<dyn Store>) -> (Runner, Arc<Mutex<Vec<String>>>) {
    let lines: Arc<Mutex<Vec<String>>> = Arc::default();
    let theirs = Arc::clone(&lines);
    let log = move |level, line: &str| {
        if level == Level::Warning {
            theirs.lock().unwrap().push(line.to_owned());
        }
    };
    (Runner::open(store).slots(1).log(log).start().unwrap(), lines)
}

#[tokio::test]
async fn a_commit_waits_for_a_store_that_others_keep_locked_and_says_so() {
    let (entered, resume, executed) = (Arc::default(), Arc::new(Semaphore::new(0)), Arc::default());
    let workflow = held(&entered, &resume, &executed);
    let faulty = FaultyStore::new(MemoryStore::new());
    let (runner, warnings) = heard(Arc::clone(&faulty) as Arc<dyn Store>);
    let run = runner.submit(&workflow, &()).await.unwrap();
    within(entered.notified()).await;
    // Each of these represents 10 s.
    for next in 1..=3 {
        faulty.fail(faulty.calls() + next, Fault::Busy);
    }
    resume.add_permits(1);
    assert_eq!(within(run.result()).await.unwrap().output::<u32>("held").unwrap(), 7);
    assert_eq!(executed.load(Ordering::SeqCst), 1);
    within(runner.close()).await;
    let warnings = warnings.lock().unwrap();
    let locked =
        |span: &str| warnings.iter().any(|line| line.contains(&format!("locked by another process for {span}")));
    assert!(locked("10s") && locked("30s"), "{warnings:?}");
}

#[tokio::test]
async fn a_store_locked_for_a_minute_stops_the_runner_with_that_reason() {
    let (entered, resume, executed) = (Arc::default(), Arc::new(Semaphore::new(0)), Arc::default());
    let workflow = held(&entered, &resume, &executed);
    let faulty = FaultyStore::new(MemoryStore::new());
    let (runner, _) = heard(Arc::clone(&faulty) as Arc<dyn Store>);
    let run = runner.submit(&workflow, &()).await.unwrap();
    within(entered.notified()).await;
    for next in 1..=1000 {
        faulty.fail(faulty.calls() + next, Fault::Busy);
    }
    resume.add_permits(1);
    let error = within(run.result()).await.unwrap_err();
    assert!(error.to_string().contains("locked by another process for 60s"), "{error}");
    within(runner.close()).await;
}

#[tokio::test]
async fn a_commit_with_an_unknown_outcome_is_not_executed_again() {
    let (entered, resume, executed) = (Arc::default(), Arc::new(Semaphore::new(0)), Arc::default());
    let workflow = held(&entered, &resume, &executed);
    let faulty = FaultyStore::new(MemoryStore::new());
    let runner = quiet(Arc::clone(&faulty) as Arc<dyn Store>);
    let run = runner.submit(&workflow, &()).key("k").await.unwrap();
    within(entered.notified()).await;
    faulty.fail_next(Fault::UnknownAfter);
    resume.add_permits(1);
    assert!(within(run.result()).await.is_err());
    within(runner.close()).await;

    let runner = quiet(faulty.inner());
    let result = within(async { runner.run(&workflow, ()).key("k").await }).await.unwrap();
    assert_eq!(result.output::<u32>("held").unwrap(), 7);
    assert_eq!(executed.load(Ordering::SeqCst), 1);
    within(runner.close()).await;
}

#[tokio::test]
async fn a_wait_that_cannot_be_committed_unwinds_its_body() {
    let (entered, suspended) = (Arc::new(Notify::new()), Arc::new(AtomicBool::new(false)));
    let (resume, parts) = (Arc::new(Semaphore::new(0)), (Arc::clone(&entered), Arc::clone(&suspended)));
    let permit = Arc::clone(&resume);
    let workflow = Workflow::builder("unwinds")
        .task("wait", move |cx: TaskContext| {
            let ((entered, suspended), permit) = (parts.clone(), Arc::clone(&permit));
            async move {
                entered.notify_one();
                permit.acquire().await?.forget();
                let error = cx.handle().sleep(Duration::from_secs(3600)).await.unwrap_err();
                suspended.store(error.is_suspended(), Ordering::SeqCst);
                Err::<(), _>(error)
            }
        })
        .build()
        .unwrap();
    let faulty = FaultyStore::new(MemoryStore::new());
    let runner = quiet(Arc::clone(&faulty) as Arc<dyn Store>);
    let run = runner.submit(&workflow, &()).await.unwrap();
    within(entered.notified()).await;
    faulty.fail_next(Fault::Unavailable);
    resume.add_permits(1);
    assert!(matches!(within(run.result()).await, Err(Error::Store(_))));
    within(runner.close()).await;
    assert!(suspended.load(Ordering::SeqCst));
}

#[tokio::test]
async fn a_fenced_runner_drops_its_runs_and_claims_free_ones_again() {
    let (open, polled, entries) = (Arc::new(AtomicBool::new(false)), Arc::new(Notify::new()), Arc::default());
    let parts = (Arc::clone(&open), Arc::clone(&polled), Arc::clone(&entries));
    let workflow = Workflow::builder("fenced")
        .task("wait", move |cx: TaskContext| {
            let (open, polled, entries): (Arc<AtomicBool>, Arc<Notify>, Arc<AtomicU32>) = parts.clone();
            async move {
                entries.fetch_add(1, Ordering::SeqCst);
                let mut polls = 0;
                let condition = || {
                    polls += 1;
                    if polls == 2 {
                        polled.notify_one();
                    }
                    let open = &open;
                    async move { open.load(Ordering::SeqCst) }
                };
                cx.handle().defer_until(condition, SOON).await?;
                Ok(7)
            }
        })
        .build()
        .unwrap();
    let store = MemoryStore::new();
    let runner = quiet(Arc::clone(&store) as Arc<dyn Store>);
    let run = runner.submit(&workflow, &()).await.unwrap();
    within(polled.notified()).await;

    // Another runner finds the lease expired and claims the run.
    let clock = SystemClock::shared();
    let other = store.enroll(clock.lease_time()).unwrap();
    let stored = store.register("fenced", workflow.graph().version(), &[NewTask::new("wait", vec![])]).unwrap();
    let later = clock.lease_time().after(LEASE + SOON);
    assert_eq!(store.claim(other, &[stored.version], later, 9).unwrap(), [run.id()]);

    // The fenced runner notices at its next commit, of which nothing is written.
    let waiting = tokio::spawn({
        let run = run.clone();
        async move { run.result().await }
    });
    open.store(true, Ordering::SeqCst);
    while runner.live_runs() > 0 {
        tokio::time::sleep(SOON).await;
    }
    let row = row(&(Arc::clone(&store) as Arc<dyn Store>), run.id(), "wait");
    assert!(row.output.is_none(), "the fenced runner has written");

    // The other runner leaves; the first one claims the run under its new lease, and the caller learns of its end.
    store.leave(other).unwrap();
    let result = within(waiting).await.unwrap().unwrap();
    assert_eq!(result.output::<u32>("wait").unwrap(), 7);
    assert_eq!(entries.load(Ordering::SeqCst), 2);
    within(runner.close()).await;
}

#[tokio::test]
async fn a_body_that_kills_its_process_again_and_again_pauses_its_run() {
    let entered = Arc::new(Semaphore::new(0));
    let arrived = Arc::clone(&entered);
    let workflow = Workflow::builder("deadly")
        .task("kills", move |_| {
            arrived.add_permits(1);
            std::future::pending::<Result<(), TaskError>>()
        })
        .build()
        .unwrap();
    let store = MemoryStore::new();
    let mut run = None;
    for _ in 0..=MAX_CRASHES {
        let faulty = FaultyStore::new(Arc::clone(&store) as Arc<dyn Store>);
        let runner = quiet(Arc::clone(&faulty) as Arc<dyn Store>);
        runner.register(&workflow).await.unwrap();
        if run.is_none() {
            run = Some(runner.submit(&workflow, &()).await.unwrap().id());
        }
        within(entered.acquire()).await.unwrap().forget();
        // The process dies: it writes nothing more, and its runs are free.
        faulty.fail_next(Fault::CrashBefore);
        drop(runner);
        let owner = store.list(&RunFilter::default()).unwrap()[0].run.runner;
        store.process_died(owner.unwrap());
    }
    let runner = quiet(store);
    runner.register(&workflow).await.unwrap();
    let result = runner.get(run.unwrap()).await.unwrap();
    assert_eq!(result.status, RunStatus::Paused);
    assert!(result.blocked_by.as_ref().is_some_and(|why| why.contains("kills")), "{:?}", result.blocked_by);
    within(runner.close()).await;
}

fn quick() -> Workflow {
    Workflow::builder("quick").task("quick", |_| async { Ok(7) }).build().unwrap()
}

/// A run that no runner executes.
async fn orphan(store: &Arc<MemoryStore>, workflow: &Workflow) -> RunId {
    let faulty = FaultyStore::new(Arc::clone(store) as Arc<dyn Store>);
    let runner = quiet(Arc::clone(&faulty) as Arc<dyn Store>);
    runner.register(workflow).await.unwrap();
    // Created, and then the process dies.
    faulty.fail_next(Fault::CrashAfter);
    assert!(runner.submit(workflow, &()).await.is_err());
    drop(runner);
    let now = SystemClock::shared().lease_time();
    let lease = store.enroll(now).unwrap();
    store.claim(lease, &[], now.after(2 * LEASE), 1).unwrap();
    store.leave(lease).unwrap();
    store.list(&RunFilter::default()).unwrap()[0].run.id
}

#[tokio::test]
async fn a_run_whose_creation_has_an_unknown_outcome_is_executed() {
    for fault in [Fault::UnknownBefore, Fault::UnknownAfter] {
        let (workflow, faulty) = (quick(), FaultyStore::new(MemoryStore::new()));
        let runner = quiet(Arc::clone(&faulty) as Arc<dyn Store>);
        runner.register(&workflow).await.unwrap();
        faulty.fail_next(fault);
        let result = within(async { runner.run(&workflow, ()).key("k").await }).await.unwrap();
        assert_eq!(result.output::<u32>("quick").unwrap(), 7, "{fault:?}");
        assert_eq!(faulty.inner().list(&RunFilter::default()).unwrap().len(), 1, "{fault:?}");
        within(runner.close()).await;
    }
}

#[tokio::test]
async fn a_runner_that_may_own_runs_it_does_not_know_stops() {
    // When a runner registers a workflow, its fourth call claims, its fifth loads what it has claimed together, and its
    // sixth one by one.
    let (claim, load) = (vec![4], vec![5, 6]);
    for (calls, fault) in [(claim, Fault::UnknownAfter), (load, Fault::Unavailable)] {
        let (workflow, store) = (quick(), MemoryStore::new());
        orphan(&store, &workflow).await;
        let faulty = FaultyStore::new(Arc::clone(&store) as Arc<dyn Store>);
        calls.into_iter().for_each(|call| faulty.fail(call, fault));
        let runner = quiet(Arc::clone(&faulty) as Arc<dyn Store>);
        assert!(runner.register(&workflow).await.is_err());
        assert!(matches!(runner.submit(&workflow, &()).await, Err(Error::Store(_))), "{fault:?}");
        within(runner.close()).await;
    }
}

#[tokio::test]
async fn a_registration_that_failed_can_be_repeated() {
    // The third call reads the versions, the fourth claims.
    for call in [3, 4] {
        let (workflow, store) = (quick(), MemoryStore::new());
        let run = orphan(&store, &workflow).await;
        let faulty = FaultyStore::new(Arc::clone(&store) as Arc<dyn Store>);
        faulty.fail(call, Fault::Busy);
        let runner = quiet(Arc::clone(&faulty) as Arc<dyn Store>);
        assert!(runner.register(&workflow).await.is_err());
        runner.register(&workflow).await.unwrap();
        let result = within(async { runner.handle(run).await.unwrap().result().await }).await.unwrap();
        assert_eq!(result.output::<u32>("quick").unwrap(), 7);
        within(runner.close()).await;
    }
}
