//! The cost of closures: wide, chain, runs in turn and together, a round trip through a deferral and gates, in memory
//! and on SQLite, compared with the same closures on bare tokio.
//!
//! `cargo bench -p bide-executor --bench closures`

#![expect(clippy::unwrap_used, clippy::disallowed_methods, reason = "a bench")]

use std::hint::black_box;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use bide_executor::core::Time;
use bide_executor::store::{Durability, MemoryStore, SqliteStore, Store};
use bide_executor::{Runner, TaskContext, Workflow, until};
use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use tokio::runtime::Runtime;

const WIDE: u64 = 10_000;
const CHAIN: u64 = 1_000;
const MANY: u64 = 1_000;

fn wide() -> Workflow {
    let mut workflow = Workflow::builder("wide");
    for n in 0..WIDE {
        workflow = workflow.task(format!("t{n}"), move |_| async move { Ok(black_box(n)) });
    }
    workflow.build().unwrap()
}

fn chain() -> Workflow {
    let mut workflow = Workflow::builder("chain").task("t0", |_| async { Ok(black_box(0)) });
    for n in 1..CHAIN {
        let before = format!("t{}", n - 1);
        let dependency = before.clone();
        workflow = workflow
            .task(format!("t{n}"), move |cx: TaskContext| {
                let n = cx.output::<u64>(&before);
                async move { Ok(black_box(n? + 1)) }
            })
            .after([dependency]);
    }
    workflow.build().unwrap()
}

/// Deferred once: the first check says no, the first poll, a microsecond later, yes.
fn deferral() -> Workflow {
    Workflow::builder("deferral")
        .task("wait", |cx: TaskContext| async move {
            let mut polls = 0;
            let second = || {
                polls += 1;
                std::future::ready(polls == 2)
            };
            cx.handle().defer_until(second, Duration::from_micros(1)).await
        })
        .build()
        .unwrap()
}

fn single() -> Workflow {
    Workflow::builder("single").task("one", |_| async { Ok(black_box(1)) }).build().unwrap()
}

/// Behind a gate whose condition is true every second time that any run asks it.
fn gated() -> Workflow {
    let asked = AtomicU64::new(0);
    let second = move |_| std::future::ready(asked.fetch_add(1, Ordering::Relaxed) % 2 == 1);
    let task = Workflow::builder("gated").task("one", |_| async { Ok(black_box(1)) });
    task.gate(until(second).every(Duration::from_micros(1))).build().unwrap()
}

fn bare(c: &mut Criterion, runtime: &Runtime) {
    let mut group = c.benchmark_group("bare tokio");
    group.sample_size(10).throughput(Throughput::Elements(WIDE));
    group.bench_function("wide", |b| {
        b.iter(|| {
            runtime.block_on(async {
                let tasks: Vec<_> = (0..WIDE).map(|n| tokio::spawn(async move { black_box(n) })).collect();
                for task in tasks {
                    task.await.unwrap();
                }
            });
        });
    });
    group.throughput(Throughput::Elements(CHAIN));
    group.bench_function("chain", |b| {
        b.iter(|| runtime.block_on(hop(CHAIN)));
    });
    group.throughput(Throughput::Elements(1));
    group.bench_function("single", |b| b.iter(|| runtime.block_on(hop(1))));
    group.bench_function("sleep", |b| {
        b.iter(|| runtime.block_on(async { tokio::time::sleep(Duration::from_micros(1)).await }))
    });
    group.finish();
}

/// Each closure spawned by the one before it, as each hop of a chain is.
fn hop(left: u64) -> std::pin::Pin<Box<dyn Future<Output = u64> + Send>> {
    Box::pin(async move { if left == 0 { 0 } else { black_box(tokio::spawn(hop(left - 1)).await.unwrap() + 1) } })
}

fn on(c: &mut Criterion, runtime: &Runtime, name: &str, store: Arc<dyn Store>) {
    let opened = Arc::clone(&store);
    let runner = runtime.block_on(async { Runner::open(opened).slots(4).start().unwrap() });
    let mut group = c.benchmark_group(name);
    group.sample_size(10).warm_up_time(Duration::from_millis(500)).measurement_time(Duration::from_secs(2));
    for (row, workflow, size) in
        [("wide", wide(), WIDE), ("chain", chain(), CHAIN), ("single run", single(), 1), ("deferral", deferral(), 1)]
    {
        group.throughput(Throughput::Elements(size));
        group.bench_function(row, |b| {
            // Timed by hand, so that the deletion of what was measured does not count.
            b.iter_custom(|times| {
                let mut spent = Duration::ZERO;
                for _ in 0..times {
                    let begun = Instant::now();
                    let result = runtime.block_on(async { runner.run(&workflow, ()).await });
                    spent += begun.elapsed();
                    assert_eq!(result.unwrap().tasks.len() as u64, size);
                    store.purge(Time::NEVER, 0, 10).unwrap();
                }
                spent
            });
        });
    }
    group.throughput(Throughput::Elements(MANY));
    for (row, workflow) in [("runs together", single()), ("gated runs together", gated())] {
        group.bench_function(row, |b| {
            b.iter_custom(|times| {
                let mut spent = Duration::ZERO;
                for _ in 0..times {
                    let begun = Instant::now();
                    runtime.block_on(async {
                        for run in runner.submit_many(&workflow, (0..MANY).map(|_| ())).await.unwrap() {
                            black_box(run.result().await.unwrap());
                        }
                    });
                    spent += begun.elapsed();
                    store.purge(Time::NEVER, i64::MIN, 2 * MANY as usize).unwrap();
                }
                spent
            });
        });
    }
    group.finish();
    runtime.block_on(runner.close());
}

fn benches(c: &mut Criterion) {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    bare(c, &runtime);
    on(c, &runtime, "memory", MemoryStore::new());
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("bide.db");
    on(c, &runtime, "SQLite NORMAL", SqliteStore::open(&file, Durability::Normal).unwrap());
    let file = directory.path().join("full.db");
    on(c, &runtime, "SQLite FULL", SqliteStore::open(&file, Durability::Full).unwrap());
}

criterion_group!(closures, benches);
criterion_main!(closures);
