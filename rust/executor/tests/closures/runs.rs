//! Runs and runners: keys, many runs, two runners, closing, a runtime that shuts down.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use bide_executor::core::{RunStatus, SubStatus, TaskStatus, Tolerance};
use bide_executor::store::Store;
use bide_executor::{Error, RunHandle, TaskContext, TaskError, Workflow};
use tokio::sync::{Notify, Semaphore};

use crate::counter;
use crate::support::{Place, SOON, on_every_store, row};

#[test]
fn a_key_attaches_to_its_run_and_other_inputs_are_refused() {
    on_every_store(|place| async move {
        let (tries, seen) = counter();
        let workflow = Workflow::builder("keyed")
            .task("count", move |_| {
                let n = tries.fetch_add(1, Ordering::SeqCst);
                async move { Ok(n) }
            })
            .build()
            .unwrap();
        let runner = place.runner(2);
        let first = runner.run(&workflow, [("day", 1)]).key("monday").await.unwrap();
        let again = runner.run(&workflow, [("day", 1)]).key("monday").await.unwrap();
        assert_eq!((first.id, again.output::<u32>("count").unwrap()), (again.id, 0));
        let refused = runner.run(&workflow, [("day", 2)]).key("monday").await.unwrap_err();
        assert!(matches!(&refused, Error::Definition(why) if why.0.contains("'day'")), "{refused}");
        runner.close().await;

        // The result is recorded: a new runner returns it.
        let runner = place.runner(2);
        let result = runner.run(&workflow, [("day", 1)]).key("monday").await.unwrap();
        assert_eq!((result.id, seen.load(Ordering::SeqCst)), (first.id, 1));
        runner.close().await;
    });
}

#[test]
fn two_runners_on_one_store_can_wait_for_the_same_run() {
    on_every_store(|place| async move {
        let (open, entered) = (Arc::new(Semaphore::new(0)), Arc::new(Notify::new()));
        let parts = (Arc::clone(&open), Arc::clone(&entered));
        let workflow = Workflow::builder("shared")
            .task("wait", move |_| {
                let (open, entered) = parts.clone();
                async move {
                    entered.notify_one();
                    open.acquire().await?.forget();
                    Ok(7)
                }
            })
            .build()
            .unwrap();
        let (one, other) = (place.runner(1), place.runner(1));
        let run = one.submit(&workflow, &()).key("k").await.unwrap();
        entered.notified().await;
        let attached = other.submit(&workflow, &()).key("k").await.unwrap();
        assert_eq!(attached.id(), run.id());
        open.add_permits(1);
        assert_eq!(attached.result().await.unwrap().output::<u8>("wait").unwrap(), 7);
        assert_eq!(other.slots_in_use().0, 0);
        one.close().await;
        other.close().await;
    });
}

#[test]
fn many_runs_are_one_commit_and_come_back_in_order() {
    on_every_store(|place| async move {
        let workflow = Workflow::builder("double")
            .task("double", |cx: TaskContext| async move { Ok(cx.input::<u32>("n")? * 2) })
            .build()
            .unwrap();
        let runner = place.runner(4);
        let runs = runner.submit_many(&workflow, (0..200).map(|n| [("n", n)])).await.unwrap();
        for (n, run) in (0..).zip(runs) {
            assert_eq!(run.result().await.unwrap().output::<u32>("double").unwrap(), 2 * n);
        }
        runner.close().await;
    });
}

#[test]
fn closing_suspends_waits_grants_grace_and_refuses_new_runs() {
    on_every_store(|place| async move {
        let (entered, suspended) = (Arc::new(Semaphore::new(0)), Arc::new(AtomicBool::new(false)));
        let parts = (Arc::clone(&entered), Arc::clone(&suspended));
        let in_stubborn = Arc::clone(&entered);
        let workflow = Workflow::builder("closing")
            .task("deferred", move |cx: TaskContext| {
                let (entered, suspended) = parts.clone();
                async move {
                    entered.add_permits(1);
                    let waited = cx.handle().sleep(Duration::from_secs(3600)).await;
                    let error = waited.unwrap_err();
                    suspended.store(error.is_suspended() && cx.handle().suspending(), Ordering::SeqCst);
                    // The error is swallowed, but the task has not completed.
                    Ok("swallowed")
                }
            })
            .task("stubborn", move |_| {
                let entered = Arc::clone(&in_stubborn);
                async move {
                    entered.add_permits(1);
                    std::future::pending::<()>().await;
                    Ok(())
                }
            })
            .build()
            .unwrap();
        let runner = place.runner(2);
        let run = runner.submit(&workflow, &()).await.unwrap();
        entered.acquire_many(2).await.unwrap().forget();
        let store = place.open();
        while !deferred(&store, &run) {
            tokio::task::yield_now().await;
        }
        runner.close_within(Duration::from_millis(50)).await;
        assert!(suspended.load(Ordering::SeqCst));
        assert!(matches!(run.result().await, Err(Error::Closed)));
        assert!(matches!(runner.run(&workflow, ()).await, Err(Error::Closed)));
        assert_eq!(row(&place.open(), run.id(), "deferred").status, TaskStatus::Running);
        runner.close().await;
    });
}

#[test]
fn a_runtime_that_shuts_down_leaves_runs_that_can_be_claimed() {
    let place = Place::memory();
    let (entered, open) = (Arc::new(Semaphore::new(0)), Arc::new(AtomicBool::new(false)));
    let parts = (Arc::clone(&entered), Arc::clone(&open));
    let mut workflow = Workflow::builder("shutdown");
    for n in 0..50 {
        let parts = parts.clone();
        workflow = workflow.task(format!("t{n}"), move |_| {
            let (entered, open) = parts.clone();
            async move {
                entered.add_permits(1);
                if !open.load(Ordering::SeqCst) {
                    std::future::pending::<()>().await;
                }
                Ok(())
            }
        });
    }
    let workflow = workflow.build().unwrap();
    let runtime = || tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    let first = runtime();
    let (runner, handle) = first.block_on(async {
        let runner = place.runner(4);
        let handle = runner.submit(&workflow, &()).await.unwrap();
        entered.acquire_many(4).await.unwrap().forget();
        (runner, handle)
    });
    let run = handle.id();
    drop(first);
    // A caller on another runtime gets an error.
    assert!(matches!(runtime().block_on(handle.result()), Err(Error::Closed)));
    drop(runner);
    open.store(true, Ordering::SeqCst);
    runtime().block_on(async {
        let runner = place.runner(4);
        runner.register(&workflow).await.unwrap();
        let result = runner.handle(run).await.unwrap().result().await.unwrap();
        assert_eq!(result.status, RunStatus::Completed);
        runner.close().await;
    });
}

fn deferred(store: &Arc<dyn Store>, run: &RunHandle) -> bool {
    let stored = store.load(run.id()).unwrap().unwrap();
    stored.rows.iter().any(|row| row.sub_status == Some(SubStatus::Deferred))
}

#[test]
fn others_see_a_long_execution_and_the_last_error_of_a_condition() {
    on_every_store(|place| async move {
        let (resume, raised) = (Arc::new(Semaphore::new(0)), Arc::new(AtomicBool::new(false)));
        let parts = (Arc::clone(&resume), Arc::clone(&raised));
        let in_long = Arc::clone(&resume);
        let workflow = Workflow::builder("visible")
            .task("long", move |_| {
                let resume = Arc::clone(&in_long);
                async move {
                    resume.acquire().await?.forget();
                    Ok(())
                }
            })
            .task("flaky", move |cx: TaskContext| {
                let (resume, raised) = parts.clone();
                async move {
                    let flaky = || async {
                        raised.store(true, Ordering::SeqCst);
                        if resume.available_permits() > 0 { Ok(true) } else { Err(TaskError::new("no network")) }
                    };
                    cx.handle().defer_until(flaky, SOON).on_error(Tolerance::Ignore).await?;
                    Ok(())
                }
            })
            .build()
            .unwrap();
        let runner = place.runner(2);
        let run = runner.submit(&workflow, &()).await.unwrap();
        let store = place.open();
        // The row is written while the body executes; nothing else ends this loop.
        while started(&store, &run) < 2 {
            tokio::time::sleep(SOON).await;
        }
        assert!(raised.load(Ordering::SeqCst));
        let blocked_by = runner.get(run.id()).await.unwrap().task("flaky").unwrap().blocked_by.clone();
        assert!(blocked_by.as_ref().is_some_and(|why| why.contains("no network")), "{blocked_by:?}");
        resume.add_permits(2);
        run.result().await.unwrap();
        runner.close().await;
    });
}

/// The number of tasks that the store shows as running.
fn started(store: &Arc<dyn Store>, run: &RunHandle) -> usize {
    let stored = store.load(run.id()).unwrap().unwrap();
    stored.rows.iter().filter(|row| row.status == TaskStatus::Running).count()
}
