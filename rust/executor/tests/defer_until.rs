//! A deferred task through the whole executor: it takes no slot, the store shows it, and a restart keeps it.
#![expect(clippy::unwrap_used, reason = "tests")]

mod support;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::time::Duration;

use bide_executor::core::{FailureKind, RunStatus, SubStatus, TaskStatus, Tolerance};
use bide_executor::store::Store;
use bide_executor::{TaskContext, TaskError, Workflow};
use support::{SOON, on_every_store, row};
use tokio::sync::{Notify, Semaphore, mpsc};

/// A condition that is true from its n-th poll on and counts its polls.
#[derive(Clone, Default)]
struct Polls(Arc<AtomicU32>);

impl Polls {
    fn reach(&self, n: u32) -> bool {
        self.0.fetch_add(1, Ordering::SeqCst) + 1 >= n
    }

    fn count(&self) -> u32 {
        self.0.load(Ordering::SeqCst)
    }
}

#[test]
fn test_defer_until_full_pipeline() {
    on_every_store(|place| async move {
        let polls = Polls::default();
        let asked = polls.clone();
        let workflow = Workflow::builder("ingest")
            .task("wait_for_data", move |cx: TaskContext| {
                let polls = asked.clone();
                async move {
                    let path: String = cx.input("path")?;
                    let handle = cx.handle();
                    assert!(handle.is_slot_held());
                    handle.defer_until(|| async { polls.reach(3) }, SOON).await?;
                    assert!(handle.is_slot_held());
                    Ok(path)
                }
            })
            .build()
            .unwrap();

        let runner = place.runner(1);
        let result = runner.run(&workflow, [("path", "data.csv")]).await.unwrap();

        assert_eq!(result.status, RunStatus::Completed);
        assert_eq!(result.output::<String>("wait_for_data").unwrap(), "data.csv");
        assert_eq!(polls.count(), 3, "one check before the slot is released, two polls");
        let task = result.task("wait_for_data").unwrap();
        assert_eq!((task.attempts, task.status, task.sub_status), (1, TaskStatus::Completed, None));
        assert!(task.waited >= 2 * SOON, "{:?}", task.waited);
        runner.close().await;
    });
}

#[test]
fn test_defer_until_with_downstream_dependency() {
    on_every_store(|place| async move {
        let workflow = Workflow::builder("ingest")
            .task("wait_for_data", |cx: TaskContext| async move {
                let polls = Polls::default();
                let rows = || async { polls.reach(3).then_some(vec![1, 2, 3]) };
                let rows: Vec<u32> = cx.handle().defer_until(rows, SOON).await?;
                Ok(rows)
            })
            .task("process_data", |cx: TaskContext| async move {
                let rows: Vec<u32> = cx.output("wait_for_data")?;
                Ok(rows.iter().sum::<u32>())
            })
            .after(["wait_for_data"])
            .build()
            .unwrap();

        let runner = place.runner(1);
        let result = runner.run(&workflow, ()).await.unwrap();

        assert_eq!(result.output::<u32>("process_data").unwrap(), 6);
        let (first, second) = (result.task("wait_for_data").unwrap(), result.task("process_data").unwrap());
        assert!(first.ended_at <= second.started_at, "what it depends on was over before it started");
        runner.close().await;
    });
}

#[test]
fn a_deferred_task_lets_another_have_its_slot() {
    on_every_store(|place| async move {
        let (open, ended) = (Arc::new(AtomicBool::new(false)), mpsc::unbounded_channel());
        let (sender, mut ended) = ended;
        let (other_sender, gate) = (sender.clone(), Arc::clone(&open));
        let workflow = Workflow::builder("two")
            .task("deferred", move |cx: TaskContext| {
                let (sender, gate) = (sender.clone(), Arc::clone(&gate));
                async move {
                    cx.handle().defer_until(|| async { gate.load(Ordering::SeqCst) }, SOON).await?;
                    sender.send("deferred").unwrap();
                    Ok(())
                }
            })
            .task("other", move |cx: TaskContext| {
                let (sender, open) = (other_sender.clone(), Arc::clone(&open));
                async move {
                    assert!(cx.handle().is_slot_held());
                    sender.send("other").unwrap();
                    // Only now can the deferred task resume: if its slot were not free, this line would never execute.
                    open.store(true, Ordering::SeqCst);
                    Ok(())
                }
            })
            .build()
            .unwrap();

        let runner = place.runner(1);
        runner.run(&workflow, ()).await.unwrap();

        assert_eq!((ended.recv().await, ended.recv().await), (Some("other"), Some("deferred")));
        assert_eq!(runner.slots_in_use().1, 1);
        runner.close().await;
    });
}

#[test]
fn sub_status_reads_deferred_while_the_wait_is_open_and_active_after() {
    on_every_store(|place| async move {
        let (polled, open) = (Arc::new(Notify::new()), Arc::new(AtomicBool::new(false)));
        let (resumed, resume) = (Arc::new(Notify::new()), Arc::new(Semaphore::new(0)));
        let parts = (Arc::clone(&polled), Arc::clone(&open), Arc::clone(&resumed), Arc::clone(&resume));
        let workflow = Workflow::builder("ingest")
            .task("wait_for_data", move |cx: TaskContext| {
                let (polled, open, resumed, resume) = parts.clone();
                async move {
                    let mut polls = 0;
                    let condition = || {
                        polls += 1;
                        // From the second poll on, the wait is committed and the slot is released.
                        if polls >= 2 {
                            polled.notify_one();
                        }
                        let open = &open;
                        async move { open.load(Ordering::SeqCst) }
                    };
                    cx.handle().defer_until(condition, SOON).await?;
                    resumed.notify_one();
                    resume.acquire().await?.forget();
                    Ok(())
                }
            })
            .build()
            .unwrap();

        let store = place.open();
        let runner = place.runner(1);
        let run = runner.submit(&workflow, &()).await.unwrap();

        polled.notified().await;
        let deferred = row(&store, run.id(), "wait_for_data");
        assert_eq!((deferred.status, deferred.sub_status), (TaskStatus::Running, Some(SubStatus::Deferred)));
        assert_eq!(runner.slots_in_use(), (0, 1));

        open.store(true, Ordering::SeqCst);
        resumed.notified().await;
        let active = row(&store, run.id(), "wait_for_data");
        assert_eq!((active.status, active.sub_status), (TaskStatus::Running, Some(SubStatus::Active)));
        assert_eq!(runner.slots_in_use(), (1, 1));

        resume.add_permits(1);
        run.result().await.unwrap();
        let ended = row(&store, run.id(), "wait_for_data");
        assert_eq!((ended.status, ended.sub_status), (TaskStatus::Completed, None));
        runner.close().await;
    });
}

/// `wait` defers until `open`; `entered` signals that the wait is committed and polled.
fn waiting(open: &Arc<AtomicBool>, entered: &Arc<Notify>, entries: &Arc<AtomicU32>, timeout: Duration) -> Workflow {
    let parts = (Arc::clone(open), Arc::clone(entered), Arc::clone(entries));
    Workflow::builder("survivor")
        .task("before", |_| async { Ok(20) })
        .task("wait", move |cx: TaskContext| {
            let (open, entered, entries) = parts.clone();
            async move {
                entries.fetch_add(1, Ordering::SeqCst);
                let mut polls = 0;
                let condition = || {
                    polls += 1;
                    if polls == 2 {
                        entered.notify_one();
                    }
                    let open = &open;
                    async move { open.load(Ordering::SeqCst) }
                };
                cx.handle().defer_until(condition, SOON).named("the file").timeout(timeout).await?;
                Ok(cx.output::<u32>("before")? + 1)
            }
        })
        .after(["before"])
        .task("after", |cx: TaskContext| async move { Ok(cx.output::<u32>("wait")? * 2) })
        .after(["wait"])
        .build()
        .unwrap()
}

#[test]
fn a_deferral_survives_dropping_the_executor() {
    on_every_store(|place| async move {
        let (open, entered, entries) = (Arc::default(), Arc::default(), Arc::default());
        let workflow = waiting(&open, &entered, &entries, Duration::from_secs(3600));

        let runner = place.runner(1);
        let run = runner.submit(&workflow, &()).key("2026-11-24").await.unwrap().id();
        entered.notified().await;
        let deadline = |store: Arc<dyn Store>| wait_deadline(&store, run);
        let before = deadline(place.open());
        assert!(before.is_some());
        drop(runner);
        assert_eq!(row(&place.open(), run, "wait").status, TaskStatus::Running, "nothing is lost by the drop");

        let runner = place.runner(1);
        runner.register(&workflow).await.unwrap();
        entered.notified().await;
        assert_eq!(deadline(place.open()), before, "the restart does not extend the deadline");
        open.store(true, Ordering::SeqCst);
        let result = runner.run(&workflow, ()).key("2026-11-24").await.unwrap();

        assert_eq!(result.id, run, "it is the same run");
        assert_eq!(result.output::<u32>("after").unwrap(), 42);
        let task = result.task("wait").unwrap();
        assert_eq!((task.attempts, entries.load(Ordering::SeqCst)), (1, 2), "one attempt, entered twice");
        runner.close().await;
    });
}

fn wait_deadline(store: &Arc<dyn Store>, run: bide_executor::core::RunId) -> Option<i64> {
    let stored = store.load(run).unwrap().unwrap();
    let (_, _, entry) = stored.entries.iter().find(|(_, _, entry)| &*entry.key.name == "the file").unwrap();
    entry.deadline.map(|time| time.0)
}

#[test]
fn a_deadline_passed_during_downtime_fails_after_one_last_check() {
    on_every_store(|place| async move {
        let (open, entered, entries) = (Arc::default(), Arc::default(), Arc::default());
        let timeout = Duration::from_millis(300);
        let workflow = waiting(&open, &entered, &entries, timeout);
        let runner = place.runner(1);
        let run = runner.submit(&workflow, &()).await.unwrap().id();
        entered.notified().await;
        runner.close().await;
        drop(runner);
        // The guarantee concerns the wall clock, so the test has to wait for it.
        tokio::time::sleep(timeout).await;

        let runner = place.runner(1);
        runner.register(&workflow).await.unwrap();
        let error = runner.handle(run).await.unwrap().result().await.unwrap_err();
        let failed = error.run_failed().unwrap().result.error.clone().unwrap();
        assert_eq!(failed.kind, FailureKind::WaitTimeout);
        assert!(failed.message().contains("'the file'"), "{failed}");
        runner.close().await;
    });
}

#[test]
fn a_timed_out_wait_is_an_error_that_the_body_can_handle() {
    on_every_store(|place| async move {
        let workflow = Workflow::builder("patience")
            .task("wait", |cx: TaskContext| async move {
                let never = || async { false };
                let waited = cx.handle().defer_until(never, SOON).timeout(5 * SOON).await;
                let error = waited.unwrap_err();
                assert!(error.is_wait_timeout(), "{error}");
                Ok("gave up")
            })
            .build()
            .unwrap();
        let runner = place.runner(1);
        let result = runner.run(&workflow, ()).await.unwrap();
        assert_eq!(result.output::<String>("wait").unwrap(), "gave up");
        runner.close().await;
    });
}

#[test]
fn errors_of_a_condition_end_the_wait_only_if_five_come_in_a_row() {
    on_every_store(|place| async move {
        let polls = Polls::default();
        let asked = polls.clone();
        let workflow = Workflow::builder("flaky")
            .task("wait", move |cx: TaskContext| {
                let polls = asked.clone();
                async move {
                    // Four errors, one answer, then errors only.
                    let flaky = || async {
                        if polls.reach(6) || polls.count() < 5 { Err(TaskError::new("no network")) } else { Ok(false) }
                    };
                    cx.handle().defer_until(flaky, SOON).on_error(Tolerance::Tolerate(5, Duration::ZERO)).await?;
                    Ok(())
                }
            })
            .build()
            .unwrap();
        let runner = place.runner(1);
        let error = runner.run(&workflow, ()).await.unwrap_err();
        let failed = error.run_failed().unwrap();
        assert!(failed.to_string().contains("no network"), "{failed}");
        assert_eq!(polls.count(), 10);
        runner.close().await;
    });
}

#[test]
fn a_satisfied_wait_is_reused_only_if_it_is_provably_the_same() {
    on_every_store(|place| async move {
        let (proved, unproved, entered) = (Polls::default(), Polls::default(), Arc::new(Notify::new()));
        let hold = Arc::new(AtomicBool::new(true));
        let parts = (proved.clone(), unproved.clone(), Arc::clone(&entered), Arc::clone(&hold));
        let workflow = Workflow::builder("proof")
            .task("wait", move |cx: TaskContext| {
                let (proved, unproved, entered, hold) = parts.clone();
                async move {
                    let handle = cx.handle();
                    handle.defer_until(|| async { proved.reach(1) }, SOON).named("a").given(&"job 7").await?;
                    handle.defer_until(|| async { unproved.reach(1) }, SOON).named("b").await?;
                    let mut polls = 0;
                    let last = || {
                        polls += 1;
                        if polls == 2 {
                            entered.notify_one();
                        }
                        let hold = &hold;
                        async move { !hold.load(Ordering::SeqCst) }
                    };
                    handle.defer_until(last, SOON).named("c").await?;
                    Ok(())
                }
            })
            .build()
            .unwrap();
        let runner = place.runner(1);
        let run = runner.submit(&workflow, &()).await.unwrap().id();
        entered.notified().await;
        drop(runner);
        let runner = place.runner(1);
        runner.register(&workflow).await.unwrap();
        entered.notified().await;
        hold.store(false, Ordering::SeqCst);
        runner.handle(run).await.unwrap().result().await.unwrap();
        assert_eq!((proved.count(), unproved.count()), (1, 2));
        runner.close().await;
    });
}

#[test]
fn a_sleep_is_over_at_its_recorded_time_also_after_a_restart() {
    on_every_store(|place| async move {
        let (entered, span) = (Arc::new(Notify::new()), Duration::from_millis(400));
        let notify = Arc::clone(&entered);
        let workflow = Workflow::builder("sleeper")
            .task("sleep", move |cx: TaskContext| {
                let notify = Arc::clone(&notify);
                async move {
                    notify.notify_one();
                    let began = cx.handle().now().await?;
                    cx.handle().sleep(span).await?;
                    Ok(began.elapsed().unwrap())
                }
            })
            .build()
            .unwrap();
        let runner = place.runner(1);
        let run = runner.submit(&workflow, &()).await.unwrap().id();
        entered.notified().await;
        while !is_deferred(&place.open(), run) {
            tokio::task::yield_now().await;
        }
        runner.close().await;
        let runner = place.runner(1);
        runner.register(&workflow).await.unwrap();
        let result = runner.handle(run).await.unwrap().result().await.unwrap();
        let slept: Duration = result.output("sleep").unwrap();
        assert!(slept >= span, "woken early, after {slept:?}");
        assert_eq!(result.task("sleep").unwrap().attempts, 1);
        runner.close().await;
    });
}

fn is_deferred(store: &Arc<dyn Store>, run: bide_executor::core::RunId) -> bool {
    let stored = store.load(run).unwrap().unwrap();
    stored.rows.iter().any(|row| row.sub_status == Some(SubStatus::Deferred))
}

#[test]
fn a_wait_asked_again_after_it_was_satisfied_has_a_new_deadline() {
    on_every_store(|place| async move {
        let (polls, entered) = (Polls::default(), Arc::new(Notify::new()));
        let (hold, timeout) = (Arc::new(AtomicBool::new(true)), Duration::from_millis(400));
        let parts = (polls.clone(), Arc::clone(&entered), Arc::clone(&hold));
        let workflow = Workflow::builder("again")
            .task("wait", move |cx: TaskContext| {
                let (polls, entered, hold) = parts.clone();
                async move {
                    let handle = cx.handle();
                    // Satisfied at the first poll initially, and at the second poll when it is asked again.
                    let asked = || async { polls.count() == 0 && polls.reach(1) || polls.reach(3) };
                    handle.defer_until(asked, SOON).timeout(timeout).await?;
                    // The deadline of the satisfied wait passes.
                    handle.sleep(timeout).await?;
                    let held = || {
                        entered.notify_one();
                        let hold = &hold;
                        async move { !hold.load(Ordering::SeqCst) }
                    };
                    handle.defer_until(held, SOON).named("held").await?;
                    Ok(())
                }
            })
            .build()
            .unwrap();
        let runner = place.runner(1);
        let run = runner.submit(&workflow, &()).await.unwrap().id();
        entered.notified().await;
        drop(runner);
        hold.store(false, Ordering::SeqCst);
        let runner = place.runner(1);
        runner.register(&workflow).await.unwrap();
        runner.handle(run).await.unwrap().result().await.unwrap();
        assert_eq!(polls.count(), 3);
        runner.close().await;
    });
}

#[test]
fn steps_in_another_order_find_their_records() {
    on_every_store(|place| async move {
        let (steps, entered) = (Polls::default(), Arc::new(Notify::new()));
        let hold = Arc::new(AtomicBool::new(true));
        let parts = (steps.clone(), Arc::clone(&entered), Arc::clone(&hold));
        let workflow = Workflow::builder("shuffled")
            .task("steps", move |cx: TaskContext| {
                let (steps, entered, hold) = parts.clone();
                async move {
                    let handle = cx.handle();
                    let mut items = ["a", "b", "c"];
                    if !hold.load(Ordering::SeqCst) {
                        items.reverse();
                    }
                    for item in items {
                        let done = || async {
                            steps.reach(1);
                            Ok(item.to_owned())
                        };
                        let result: String = handle.step("do", &item, done).await?;
                        assert_eq!(result, item);
                    }
                    let over = || {
                        entered.notify_one();
                        let hold = &hold;
                        async move { !hold.load(Ordering::SeqCst) }
                    };
                    handle.defer_until(over, SOON).named("held").await?;
                    Ok(())
                }
            })
            .build()
            .unwrap();
        let runner = place.runner(1);
        let run = runner.submit(&workflow, &()).await.unwrap().id();
        entered.notified().await;
        drop(runner);
        hold.store(false, Ordering::SeqCst);
        let runner = place.runner(1);
        runner.register(&workflow).await.unwrap();
        runner.handle(run).await.unwrap().result().await.unwrap();
        assert_eq!(steps.count(), 3);
        runner.close().await;
    });
}
