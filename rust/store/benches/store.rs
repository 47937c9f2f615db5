//! The cost of a store, without Python and without an executor: `cargo bench -p bide-store --bench store`.
//!
//! Rows: a hop (one finished task a commit), a run (creation, then its task and its end), groups of 64 finished tasks
//! and of 64 ended runs, values of 1 MiB; in memory and on SQLite with each page size, NORMAL and FULL, one process
//! and four on one file. A rate is the sum over processes. In brackets the microseconds of processor time for each
//! unit, including the checkpointer's: unlike rates, they stay the same on a busy machine. The log's size is the one
//! at the end, which is about the maximum, because SQLite reuses the file.
#![expect(clippy::unwrap_used, reason = "a bench")]
#![expect(clippy::disallowed_methods, reason = "a bench measures time")]

use std::io::{BufRead, BufReader, Write as _};
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use bide_core::record::{DoneRow, NewRun, NewTask, RunUpdate};
use bide_core::{Batch, RunId, RunStatus, Time, Value, Write};
use bide_store::sqlite::Options;
use bide_store::{Creation, Durability, Lease, MemoryStore, SqliteStore, Store};

const SPAN: Duration = Duration::from_millis(1500);
const WORK: [&str; 5] = ["hop", "run", "64 tasks", "64 runs", "1 MiB"];

fn main() {
    let arguments: Vec<String> = std::env::args().skip(1).filter(|argument| argument != "--bench").collect();
    if let [child, path, page, level, work] = arguments.as_slice()
        && child == "child"
    {
        return be_child(Path::new(path), page.parse().unwrap(), level, work);
    }
    let line = |name: &str, cells: [&str; 5], log: &str| {
        println!("{name:<29}{}{log:>9}", cells.map(|cell| format!("{cell:>18}")).concat());
    };
    line("", ["hops/s", "runs/s", "tasks/s", "runs/s", "MiB/s"], "log MiB");
    line("", ["1 a commit", "2 commits each", "64 a commit", "64 a commit", "1 MiB a commit"], "");
    let rates = WORK.map(|work| measure(&*MemoryStore::new(), work));
    print("memory", &rates, None);
    for level in ["NORMAL", "FULL"] {
        for page in [1024, 2048, 4096] {
            for processes in [1, 4] {
                let mut log = 0;
                let rates = WORK.map(|work| {
                    let (rate, bytes) = on_file(page, level, work, processes);
                    log = log.max(bytes);
                    rate
                });
                let plural = if processes == 1 { "process" } else { "processes" };
                print(&format!("{level}, {page} B, {processes} {plural}"), &rates, Some(log));
            }
        }
    }
}

/// Units a second, and processor time for each.
#[derive(Clone, Copy, Default)]
struct Rate {
    units: f64,
    cpu: f64,
}

fn print(name: &str, rates: &[Rate; 5], log: Option<u64>) {
    let cell = |rate: Rate| format!("{:>9.0} ({:.1})", rate.units, rate.cpu);
    let log = log.map_or_else(|| "-".into(), |bytes| format!("{:.1}", bytes as f64 / 1048576.0));
    println!("{name:<29}{}{log:>9}", rates.map(|rate| format!("{:>18}", cell(rate))).concat());
    std::io::stdout().flush().unwrap();
}

/// The sum of the processes' rates, and the size of the log at the end.
fn on_file(page: u32, level: &str, work: &str, processes: usize) -> (Rate, u64) {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("bide.db");
    // Kept open, so that the last child to end does not delete the log.
    let store = open(&path, page, level);
    let child = || {
        let mut command = Command::new(std::env::current_exe().unwrap());
        command.args(["child", path.to_str().unwrap(), &page.to_string(), level, work]);
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap()
    };
    let mut children: Vec<_> = (0..processes).map(|_| child()).collect();
    let mut answers: Vec<_> =
        children.iter_mut().map(|child| BufReader::new(child.stdout.take().unwrap()).lines()).collect();
    // All report that they are ready, then all begin.
    answers.iter_mut().for_each(|lines| drop(lines.next().unwrap().unwrap()));
    children.iter_mut().for_each(|child| child.stdin.take().unwrap().write_all(b"go\n").unwrap());
    let mut sum = Rate::default();
    for lines in &mut answers {
        let line = lines.next().unwrap().unwrap();
        let (units, cpu) = line.split_once(' ').unwrap();
        sum.units += units.parse::<f64>().unwrap();
        sum.cpu += cpu.parse::<f64>().unwrap() / processes as f64;
    }
    let log = std::fs::metadata(directory.path().join("bide.db-wal")).map_or(0, |file| file.len());
    children.iter_mut().for_each(|child| assert!(child.wait().unwrap().success()));
    drop(store);
    (sum, log)
}

fn open(path: &Path, page_size: u32, level: &str) -> Arc<SqliteStore> {
    let durability = if level == "FULL" { Durability::Full } else { Durability::Normal };
    SqliteStore::open_with(path, &Options { durability, page_size, ..Options::default() }).unwrap()
}

fn be_child(path: &Path, page: u32, level: &str, work: &str) {
    let store = open(path, page, level);
    println!("ready");
    std::io::stdin().read_line(&mut String::new()).unwrap();
    let rate = measure(&*store, work);
    println!("{} {}", rate.units, rate.cpu);
}

struct Bench<'s> {
    store: &'s dyn Store,
    lease: Lease,
    workflow: i64,
    version: i64,
    made: u64,
}

fn measure(store: &dyn Store, work: &str) -> Rate {
    let workflow = store.register("workflow", "v1", &[NewTask::new("task", vec![])]).unwrap();
    let lease = store.enroll(now().into()).unwrap();
    let mut bench = Bench { store, lease, workflow: workflow.number, version: workflow.version, made: 0 };
    let (begin, cpu) = (Instant::now(), processor_time());
    let mut units = 0;
    while begin.elapsed() < SPAN {
        units += match work {
            "hop" => bench.tasks(1, 1000, Value::new(b"i12345")),
            "run" => (0..100).map(|_| bench.run()).sum(),
            "64 tasks" => bench.tasks(64, 10_048, Value::new(b"i12345")),
            "64 runs" => bench.runs(64),
            _ => bench.tasks(1, 20, Value::tagged(b's', &vec![b'x'; 1 << 20])),
        };
    }
    let units = units as f64;
    Rate { units: units / begin.elapsed().as_secs_f64(), cpu: (processor_time() - cpu) / units }
}

/// Of all threads of this process, in microseconds.
fn processor_time() -> f64 {
    // SAFETY: `rusage` is a plain C structure for which all zeros is a valid value.
    let mut usage: libc::rusage = unsafe { std::mem::zeroed() };
    // SAFETY: the pointer is to a live local.
    unsafe { libc::getrusage(libc::RUSAGE_SELF, &raw mut usage) };
    let micros = |time: libc::timeval| time.tv_sec as f64 * 1e6 + time.tv_usec as f64;
    micros(usage.ru_utime) + micros(usage.ru_stime)
}

fn now() -> Time {
    Time(SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap().as_micros() as i64)
}

impl Bench<'_> {
    fn create(&mut self, count: usize) -> Vec<RunId> {
        let at = now();
        let new = |_| {
            self.made += 1;
            let random = (u64::from(std::process::id()) << 32 | self.made).wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 2;
            let id = RunId::new(at.0 as u64 / 1000, self.made as u16, random);
            NewRun::new(id, self.workflow, self.version, at).with_inputs([1, b'n', 4, b'i', b'4', b'2'].into())
        };
        let runs: Vec<NewRun> = (0..count).map(new).collect();
        let made = self.store.create(self.lease, &runs).unwrap();
        let made = runs.iter().zip(made).filter(|(_, creation)| *creation == Creation::Created);
        made.map(|(run, _)| run.id).collect()
    }

    fn commit(&self, batch: &mut Batch) {
        let _ = self.store.commit(self.lease, batch).unwrap();
        batch.clear();
    }

    /// A run of this many tasks, with this many in each commit.
    fn tasks(&mut self, group: usize, tasks: usize, output: Value) -> usize {
        let [run] = self.create(1)[..] else { return 0 };
        let mut batch = Batch::new();
        for task in 0..tasks {
            batch.push(done(run, task as i64, output.clone()));
            if batch.len() == group {
                self.commit(&mut batch);
            }
        }
        self.commit(&mut vec![ended(run)]);
        tasks
    }

    fn run(&mut self) -> usize {
        self.runs(1)
    }

    /// This many runs of one task, created in one commit and ended in another.
    fn runs(&mut self, group: usize) -> usize {
        let runs = self.create(group);
        let output = Value::new(b"i12345");
        let mut batch: Batch = runs.iter().map(|run| done(*run, 0, output.clone())).collect();
        batch.extend(runs.iter().map(|run| ended(*run)));
        self.commit(&mut batch);
        runs.len()
    }
}

fn done(run: RunId, task: i64, output: Value) -> Write {
    let now = now();
    Write::Done(DoneRow::new(run.row(), task, output, now, now))
}

fn ended(run: RunId) -> Write {
    Write::Run(Box::new(RunUpdate { ended_at: Some(now()), ..RunUpdate::new(run.row(), RunStatus::Completed) }))
}
