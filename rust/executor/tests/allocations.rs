//! How many allocations a task, a hop, a run, a wait and a poll cost: numbers that are the same on every machine.
//! This process has no other test, because the count includes all threads.

#![expect(clippy::unwrap_used, reason = "a test")]

use std::alloc::{GlobalAlloc, Layout, System};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use bide_executor::store::{Durability, MemoryStore, SqliteStore, Store};
use bide_executor::{Runner, TaskContext, Workflow};

struct Counting;

static ALLOCATIONS: AtomicU64 = AtomicU64::new(0);

// SAFETY: it forwards every call to the system's allocator; counting allocates nothing.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        ALLOCATIONS.fetch_add(1, Ordering::Relaxed);
        // SAFETY: the caller's promise.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, at: *mut u8, layout: Layout) {
        // SAFETY: the caller's promise.
        unsafe { System.dealloc(at, layout) }
    }

    unsafe fn realloc(&self, at: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        ALLOCATIONS.fetch_add(1, Ordering::Relaxed);
        // SAFETY: the caller's promise.
        unsafe { System.realloc(at, layout, size) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

const WIDE: u32 = 10_000;
const CHAIN: u32 = 1_000;
const WAITS: u32 = 200;

fn wide() -> Workflow {
    let tasks =
        (0..WIDE).fold(Workflow::builder("wide"), |workflow, n| workflow.task(format!("t{n}"), |_| async { Ok(1) }));
    tasks.build().unwrap()
}

fn chain() -> Workflow {
    let first = Workflow::builder("chain").task("t0", |_| async { Ok(0_u32) });
    let tasks = (1..CHAIN).fold(first, |workflow, n| {
        let before = format!("t{}", n - 1);
        let dependency = before.clone();
        let hop = move |cx: TaskContext| {
            let value = cx.output::<u32>(&before);
            async move { Ok(value? + 1) }
        };
        workflow.task(format!("t{n}"), hop).after([dependency])
    });
    tasks.build().unwrap()
}

/// This many waits, each ended by the poll with this number.
fn waiting(waits: u32, polls: u32) -> Workflow {
    let body = move |cx: TaskContext| async move {
        for _ in 0..waits {
            let mut asked = 0;
            let condition = || {
                asked += 1;
                std::future::ready(asked > polls)
            };
            cx.handle().defer_until(condition, Duration::from_micros(1)).await?;
        }
        Ok(())
    };
    Workflow::builder("waiting").task("t", body).build().unwrap()
}

/// The allocations of one run after earlier runs of its kind.
fn of_a_run(store: Arc<dyn Store>, workflow: &Workflow) -> f64 {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
    runtime.block_on(async {
        let runner = Runner::open(store).slots(4).start().unwrap();
        runner.run(workflow, ()).await.unwrap();
        let before = ALLOCATIONS.load(Ordering::Relaxed);
        let result = runner.run(workflow, ()).await.unwrap();
        let count = ALLOCATIONS.load(Ordering::Relaxed) - before;
        drop(result);
        runner.close().await;
        count as f64
    })
}

#[test]
fn a_task_a_hop_a_run_a_wait_and_a_poll_take_few_allocations() {
    let directory = tempfile::tempdir().unwrap();
    let single = Workflow::builder("single").task("t", |_| async { Ok(1) }).build().unwrap();
    for (what, workflow, units, most) in [
        ("task", wide(), WIDE, [3.5, 2.5]),
        ("hop", chain(), CHAIN, [3.5, 8.0]),
        ("run", single, 1, [35.0, 60.0]),
        ("wait", waiting(WAITS, 1), WAITS, [23.0, 32.0]),
        ("poll", waiting(1, WAITS), WAITS, [1.0, 1.0]),
    ] {
        let file = directory.path().join(what);
        let stores: [Arc<dyn Store>; 2] = [MemoryStore::new(), SqliteStore::open(&file, Durability::Normal).unwrap()];
        for (store, most) in stores.into_iter().zip(most) {
            let name = store.name().to_owned();
            // The minimum of three: a thread that steals a body or grows a queue makes extra allocations.
            let runs = (0..3).map(|_| of_a_run(Arc::clone(&store), &workflow));
            let each = runs.fold(f64::INFINITY, f64::min) / f64::from(units);
            assert!(each <= most, "{each} allocations per {what} on {name}, not {most}");
        }
    }
}
