//! A store behind a network: lost connections, and a server with another clock than this machine.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use bide_executor::core::RunStatus;
use bide_executor::store::{Clock, LEASE, MemoryStore, Store};
use bide_executor::{Runner, TaskContext, Workflow};
use bide_testkit::{DistantStore, Losses, VirtualClock};
use tokio::sync::{Notify, Semaphore, mpsc};

use crate::faults::within;

/// Ten tasks in a chain, which count their executions.
fn chain(executed: &Arc<AtomicU32>) -> Workflow {
    let mut workflow = Workflow::builder("chain");
    for n in 0..10 {
        let executed = Arc::clone(executed);
        let after: Vec<String> = (n > 0).then(|| format!("task {}", n - 1)).into_iter().collect();
        let body = move |cx: TaskContext| {
            let executed = Arc::clone(&executed);
            async move {
                cx.handle().step("count", &(), async || Ok(executed.fetch_add(1, Ordering::SeqCst))).await?;
                Ok(())
            }
        };
        workflow = workflow.task(format!("task {n}"), body).after(after);
    }
    workflow.build().unwrap()
}

#[tokio::test]
async fn whichever_call_loses_its_connection_nothing_is_executed_twice() {
    // Each kind of call is lost once before and once after its execution.
    for period in 2..=7 {
        let executed = Arc::default();
        let workflow = chain(&executed);
        let memory = MemoryStore::new();
        let store = DistantStore::new(Arc::clone(&memory) as _, Losses::Every(period));
        let runner = Runner::open(Arc::clone(&store) as _).slots(2).log(|_, _| ()).start().unwrap();
        let run = runner.submit(&workflow, &()).key("once").await.unwrap();
        let again = runner.submit(&workflow, &()).key("once").await.unwrap();
        assert_eq!(run.id(), again.id());
        assert_eq!(within(run.result()).await.unwrap().status, RunStatus::Completed);
        within(runner.close()).await;
        assert!(store.lost() > 0);
        assert_eq!(executed.load(Ordering::SeqCst), 10, "every {period} calls");
        assert_eq!(memory.list(&bide_executor::store::RunFilter::default()).unwrap().len(), 1);
    }
}

#[tokio::test]
async fn a_lost_connection_is_reported_and_stops_the_runner_after_a_minute() {
    let clock = VirtualClock::new();
    let store = DistantStore::new(MemoryStore::new(), Losses::None);
    let (sender, mut lines) = mpsc::unbounded_channel();
    let log = move |_, line: &str| drop(sender.send(line.to_owned()));
    let builder = Runner::open(Arc::clone(&store) as _).slots(1).clock(Arc::clone(&clock) as _);
    let runner = builder.log(log).start().unwrap();
    let workflow = chain(&Arc::default());
    runner.register(&workflow).await.unwrap();
    store.cut(true);
    let submitted = tokio::spawn(async move {
        let outcome = runner.submit(&workflow, &()).await.map(drop);
        (outcome, runner)
    });
    // The clock moves while the call is being repeated.
    while store.lost() < 2 {
        tokio::task::yield_now().await;
    }
    clock.advance(Duration::from_secs(10));
    let report = within(lines.recv()).await.unwrap();
    assert!(report.contains("the connection to :memory: was lost") && report.contains("made again"), "{report}");
    // The lease cannot be renewed either, which stops the runner; then the caller learns of its commit.
    let mut stopped = false;
    while !submitted.is_finished() {
        clock.advance(Duration::from_secs(1));
        stopped |= lines.try_recv().is_ok_and(|line| line.contains("stops"));
        tokio::task::yield_now().await;
    }
    let (outcome, runner) = submitted.await.unwrap();
    assert!(stopped || std::iter::from_fn(|| lines.try_recv().ok()).any(|line| line.contains("stops")));
    let error = outcome.unwrap_err().to_string();
    assert!(error.contains("the connection to :memory: was lost"), "{error}");
    store.cut(false);
    within(runner.close()).await;
}

#[tokio::test]
async fn a_runner_closes_without_its_store_and_not_after_a_minute() {
    let store = DistantStore::new(MemoryStore::new(), Losses::None);
    let runner = Runner::open(Arc::clone(&store) as _).slots(1).log(|_, _| ()).start().unwrap();
    runner.register(&chain(&Arc::default())).await.unwrap();
    store.cut(true);
    within(runner.close()).await;
}

#[tokio::test]
async fn times_and_leases_are_by_the_clock_of_the_server() {
    let (server, machine) = (VirtualClock::new(), VirtualClock::new());
    machine.set_wall_by(3_600_000);
    machine.advance(2 * LEASE);
    let memory = MemoryStore::new();
    let open = |clock: &Arc<VirtualClock>| {
        let store = DistantStore::with_clock(Arc::clone(&memory) as _, Losses::None, Arc::clone(&server) as _);
        Runner::open(store).slots(1).clock(Arc::clone(clock) as _).log(|_, _| ()).start().unwrap()
    };
    let (entered, resume) = (Arc::new(Notify::new()), Arc::new(Semaphore::new(0)));
    let body = {
        let (entered, resume) = (Arc::clone(&entered), Arc::clone(&resume));
        move |_| {
            let (entered, resume) = (Arc::clone(&entered), Arc::clone(&resume));
            async move {
                entered.notify_one();
                resume.acquire().await?.forget();
                Ok(())
            }
        }
    };
    let workflow = Workflow::builder("held").task("held", body).build().unwrap();
    let right = open(&server);
    let run = right.submit(&workflow, &()).await.unwrap();
    within(entered.notified()).await;

    // By its own clock the other's lease would have expired.
    let wrong = open(&machine);
    wrong.register(&workflow).await.unwrap();
    let owner = memory.standing(run.id()).unwrap().unwrap().runner;
    assert_eq!(memory.load(run.id()).unwrap().unwrap().run.runner, owner);
    assert_eq!(wrong.live_runs(), 0);
    let late = wrong.submit(&workflow, &()).await.unwrap();
    within(entered.notified()).await;
    assert_eq!(memory.load(late.id()).unwrap().unwrap().run.created_at, server.now());
    resume.add_permits(2);
    for run in [&run, &late] {
        within(run.result()).await.unwrap();
        assert_eq!(memory.load(run.id()).unwrap().unwrap().run.ended_at, Some(server.now()));
    }
    within(right.close()).await;
    within(wrong.close()).await;
}
