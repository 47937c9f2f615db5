//! What is counted of an engine for `bide.metrics()`: one addition where something ends that takes a thousand times as
//! long. Not here: what an engine has in memory, which is read off it when somebody asks.

use std::array::from_fn;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use bide_core::observe::closed_wait;
use bide_core::record::Write;
use bide_core::{EntryKind, RunStatus, Time};

use crate::clock::Clock;

/// How many kinds of waits there are, with those that nobody waits for.
const KINDS: usize = EntryKind::ALL.len();

/// The ends of a run.
pub const ENDS: [RunStatus; 3] = [RunStatus::Completed, RunStatus::Failed, RunStatus::Cancelled];

/// What the engines counted that are gone.
static GONE: Counters = Counters::new();

/// How often something happened and how long it took, at the time of a look.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Spans {
    /// How often.
    pub count: u64,
    /// How long in all.
    pub total: Duration,
    /// How long at most.
    pub longest: Duration,
}

/// What was counted, at the time of a look.
#[derive(Clone, Debug)]
pub struct Figures {
    /// How often a condition was asked.
    pub polls: u64,
    /// The commits. Those to a store that does not block take no time.
    pub commits: Spans,
    /// The runs that have ended, in the order of [`ENDS`], from their creation.
    pub runs: [Spans; ENDS.len()],
    /// The waits that were closed, in the order of [`EntryKind::ALL`].
    pub waits: [Spans; KINDS],
    /// How late those were closed that have waited for a time.
    pub lateness: [Spans; KINDS],
    /// The waits that are open.
    pub open_waits: [u64; KINDS],
    /// The runs in memory.
    pub open_runs: usize,
}

/// The counters of an engine, or of several.
struct Counters {
    polls: AtomicU64,
    commits: Counter,
    runs: [Counter; ENDS.len()],
    waits: [Counter; KINDS],
    lateness: [Counter; KINDS],
}

/// How often something happened and how long it took, in microseconds.
struct Counter {
    count: AtomicU64,
    total: AtomicU64,
    longest: AtomicU64,
}

impl Counter {
    const fn new() -> Self {
        Self { count: AtomicU64::new(0), total: AtomicU64::new(0), longest: AtomicU64::new(0) }
    }

    fn add(&self, span: Duration) {
        let micros = u64::try_from(span.as_micros()).unwrap_or(u64::MAX);
        self.add_all(1, micros, micros);
    }

    fn add_all(&self, count: u64, total: u64, longest: u64) {
        self.count.fetch_add(count, Ordering::Relaxed);
        self.total.fetch_add(total, Ordering::Relaxed);
        self.longest.fetch_max(longest, Ordering::Relaxed);
    }

    fn add_to(&self, other: &Self) {
        let read = |number: &AtomicU64| number.load(Ordering::Relaxed);
        other.add_all(read(&self.count), read(&self.total), read(&self.longest));
    }

    fn read(&self) -> Spans {
        let span = |micros: &AtomicU64| Duration::from_micros(micros.load(Ordering::Relaxed));
        Spans { count: self.count.load(Ordering::Relaxed), total: span(&self.total), longest: span(&self.longest) }
    }
}

impl Counters {
    const fn new() -> Self {
        Self {
            polls: AtomicU64::new(0),
            commits: Counter::new(),
            runs: [const { Counter::new() }; ENDS.len()],
            waits: [const { Counter::new() }; KINDS],
            lateness: [const { Counter::new() }; KINDS],
        }
    }

    fn all(&self) -> impl Iterator<Item = &Counter> {
        [&self.commits].into_iter().chain(&self.runs).chain(&self.waits).chain(&self.lateness)
    }

    fn read(&self) -> Figures {
        Figures {
            polls: self.polls.load(Ordering::Relaxed),
            commits: self.commits.read(),
            runs: from_fn(|at| self.runs[at].read()),
            waits: from_fn(|at| self.waits[at].read()),
            lateness: from_fn(|at| self.lateness[at].read()),
            open_waits: [0; KINDS],
            open_runs: 0,
        }
    }
}

impl Figures {
    /// What was counted by engines of this process that are gone.
    #[must_use]
    pub fn gone() -> Self {
        GONE.read()
    }

    /// Adds those of another engine.
    pub fn add(&mut self, other: &Self) {
        self.polls += other.polls;
        self.open_runs += other.open_runs;
        self.commits.add(other.commits);
        let pairs = [(&mut self.waits, &other.waits), (&mut self.lateness, &other.lateness)];
        for (spans, others) in pairs {
            spans.iter_mut().zip(others).for_each(|(spans, other)| spans.add(*other));
        }
        self.runs.iter_mut().zip(&other.runs).for_each(|(spans, other)| spans.add(*other));
        self.open_waits.iter_mut().zip(&other.open_waits).for_each(|(count, other)| *count += other);
    }
}

impl Spans {
    fn add(&mut self, other: Self) {
        self.count += other.count;
        self.total += other.total;
        self.longest = self.longest.max(other.longest);
    }
}

/// Called with how long a commit took, with the commit lock held; must not block.
pub type CommitObserver = Box<dyn Fn(Duration) + Send + Sync>;

/// Counts for one engine.
pub(crate) struct Meter {
    counters: Counters,
    /// For how long commits take.
    clock: Arc<dyn Clock>,
    /// Called with each commit, once somebody observes.
    pub(crate) observer: OnceLock<CommitObserver>,
}

impl Meter {
    pub(crate) fn new(clock: &Arc<dyn Clock>) -> Self {
        Self { counters: Counters::new(), clock: Arc::clone(clock), observer: OnceLock::new() }
    }

    /// A condition was asked.
    #[inline]
    pub(crate) fn polled(&self) {
        self.counters.polls.fetch_add(1, Ordering::Relaxed);
    }

    /// An event was applied to a run, with this write.
    pub(crate) fn applied(&self, write: &Write, created_at: Time, now: Time) {
        match write {
            Write::Entry { .. } => self.closed(write, now),
            Write::Run(update) => {
                if let Some(end) = ENDS.iter().position(|end| *end == update.status) {
                    self.counters.runs[end].add(now.since(created_at));
                }
            }
            _ => {}
        }
    }

    fn closed(&self, write: &Write, now: Time) {
        let Some((kind, since, due)) = closed_wait(write, now) else { return };
        let kind = kind as usize;
        self.counters.waits[kind].add(now.since(since));
        if let Some(due) = due {
            self.counters.lateness[kind].add(now.since(due));
        }
    }

    /// Makes a commit to a store, which `blocks` or not, and counts it unless it fails.
    pub(crate) fn commit<R, E>(&self, blocks: bool, commit: impl FnOnce() -> Result<R, E>) -> Result<R, E> {
        if !blocks {
            return commit().inspect(|_| {
                self.counters.commits.count.fetch_add(1, Ordering::Relaxed);
            });
        }
        let began = self.clock.machine();
        let made = commit()?;
        let took = self.clock.machine().saturating_sub(began);
        self.counters.commits.add(took);
        if let Some(observer) = self.observer.get() {
            observer(took);
        }
        Ok(made)
    }

    /// What was counted so far.
    pub(crate) fn read(&self) -> Figures {
        self.counters.read()
    }
}

impl Drop for Meter {
    fn drop(&mut self) {
        GONE.polls.fetch_add(self.counters.polls.load(Ordering::Relaxed), Ordering::Relaxed);
        self.counters.all().zip(GONE.all()).for_each(|(counter, gone)| counter.add_to(gone));
    }
}
