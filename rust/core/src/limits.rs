//! Limits: how many bodies of some tasks execute at once, how many of their attempts are in flight, and how many start
//! in a span of time. One limit holds for all runners of a store, and for each value of its key apart.
//!
//! Here is what is decided: who gets a share ([`Room`]), and in which order those that wait are asked ([`Line`]). The
//! shares are rows of the store, which asks [`Room`] within the transaction that grants them; the executor keeps the
//! lines.
//!
//! An attempt that has a share keeps it until its end, also while it waits and when another runner takes its run over.
//! While its body waits it does not count as executing. A start counts from when the share is granted until the span of
//! the rate after the latest moment at which the body may be entered: so the recorded starts never exceed the rate,
//! however long a body queues for a slot.

mod line;

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

pub use line::{Line, Place};

use crate::RunState;
use crate::id::TaskRef;
use crate::status::TaskStatus;
use crate::time::Time;
use crate::value::Value;

/// What a limit allows; what it does not limit is `None`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LimitSpec {
    /// Its name, within the store.
    pub name: Arc<str>,
    /// How many bodies may execute at once: those that hold a slot.
    pub executing: Option<u32>,
    /// How many attempts may be in flight at once, with those whose bodies wait.
    pub in_flight: Option<u32>,
    /// How many attempts may start.
    pub rate: Option<Rate>,
    /// The input or task whose value says which of the limit's shares an attempt takes; `None`: there is one for all.
    pub key: Option<Arc<str>>,
}

impl fmt::Display for LimitSpec {
    /// As its definition is written.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let count = |name: &str, count: Option<u32>| count.map(|count| format!("{name}={count}"));
        let rate = self.rate.map(|rate| format!("rate=({}, {})", rate.count, rate.span.as_secs_f64()));
        let all = [count("executing", self.executing), count("in_flight", self.in_flight), rate];
        let key = self.key.as_ref().map(|key| format!("key='{key}'"));
        write!(f, "limit '{}' ({})", self.name, all.into_iter().chain([key]).flatten().collect::<Vec<_>>().join(", "))
    }
}

impl LimitSpec {
    /// Whether attempts hold shares, and do not only start.
    #[must_use]
    pub const fn has_shares(&self) -> bool {
        self.executing.is_some() || self.in_flight.is_some()
    }
}

/// How many starts there may be in any span of this length.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rate {
    /// How many.
    pub count: u32,
    /// The length of the span.
    pub span: Duration,
}

impl Rate {
    /// How long after its grant a body may be entered at first: long enough to get to a worker, and too short to be
    /// missed in the rate.
    #[must_use]
    pub fn patience(&self) -> Duration {
        (self.span / 400).clamp(Duration::from_millis(1), Duration::from_millis(250))
    }
}

/// What of a limit is used up, where an attempt waits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Counted {
    /// The bodies that execute.
    Executing,
    /// The attempts that are in flight.
    InFlight,
    /// The starts of the last span.
    Rate,
}

impl Counted {
    /// The name of the argument that limits it.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Executing => "executing",
            Self::InFlight => "in_flight",
            Self::Rate => "rate",
        }
    }
}

/// Who goes first: the higher priority, then the older run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rank {
    /// The priority of the run.
    pub priority: i32,
    /// When the run was created.
    pub age: Time,
}

impl Rank {
    /// What orders: the least goes first.
    const fn order(self) -> (i64, Time) {
        (-(self.priority as i64), self.age)
    }
}

impl Ord for Rank {
    fn cmp(&self, other: &Self) -> std::cmp::Ordering {
        self.order().cmp(&other.order())
    }
}

impl PartialOrd for Rank {
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}

/// What an attempt needs to execute.
#[derive(Clone, Copy, Debug)]
pub struct Need {
    /// Its rank.
    pub rank: Rank,
    /// It has no share yet.
    pub share: bool,
    /// It does not count as executing yet.
    pub executing: bool,
    /// It starts: its body was not entered before.
    pub start: bool,
}

/// What became of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// It may execute.
    Granted,
    /// It has to wait.
    Held {
        /// For what.
        counted: Counted,
        /// Until when at least, if only time helps.
        until: Option<Time>,
    },
}

/// What is used of a limit, for one value of its key.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Used {
    /// The bodies that execute.
    pub executing: u64,
    /// The attempts in flight.
    pub in_flight: u64,
    /// The starts that count.
    pub started: u64,
    /// Up to when the body of the oldest of these may have been entered.
    pub oldest: Option<Time>,
}

/// What a limit has left for one value of its key, while several attempts are asked about in turn.
#[derive(Debug)]
pub struct Room<'a> {
    /// What is allowed.
    spec: &'a LimitSpec,
    /// What is used.
    used: Used,
    /// The first ones that wait at other runners.
    others: &'a [Rank],
    /// When it is asked.
    now: Time,
}

impl<'a> Room<'a> {
    /// Room beside what is used already; `others` are the first ones that wait at each other runner.
    #[must_use]
    pub const fn new(spec: &'a LimitSpec, used: Used, others: &'a [Rank], now: Time) -> Self {
        Self { spec, used, others, now }
    }

    /// Starts whose bodies may have been entered at this time or later still count.
    #[must_use]
    pub fn counts_since(spec: &LimitSpec, now: Time) -> Time {
        spec.rate.map_or(Time::NEVER, |rate| now.before(rate.span))
    }

    /// Asks for an attempt, which takes nothing yet.
    #[must_use]
    pub fn ask(&self, need: &Need) -> Verdict {
        // One share is left to each other runner at which an attempt waits that goes first.
        let left = if need.share { self.others.iter().filter(|first| **first < need.rank).count() as u64 } else { 0 };
        let full = |limit: Option<u32>, used: u64| limit.is_some_and(|limit| used + left >= u64::from(limit));
        if need.share && full(self.spec.in_flight, self.used.in_flight) {
            return Verdict::Held { counted: Counted::InFlight, until: None };
        }
        if need.executing && full(self.spec.executing, self.used.executing) {
            return Verdict::Held { counted: Counted::Executing, until: None };
        }
        let rate = self.spec.rate.filter(|_| need.start);
        if let Some(rate) = rate.filter(|rate| full(Some(rate.count), self.used.started)) {
            let until = self.used.oldest.map(|latest| Time(latest.after(rate.span).0.saturating_add(1)));
            return Verdict::Held { counted: Counted::Rate, until: until.filter(|until| *until > self.now) };
        }
        Verdict::Granted
    }

    /// Whether an attempt that ends may leave what it takes to another one of the same runner before the store is asked:
    /// nobody waits elsewhere, and no more is taken than is allowed. A start under a rate is always asked about.
    #[must_use]
    pub fn may_pass_on(&self) -> bool {
        let within = |limit: Option<u32>, used: u64| limit.is_none_or(|limit| used <= u64::from(limit));
        let Used { executing, in_flight, .. } = self.used;
        let is_within = within(self.spec.executing, executing) && within(self.spec.in_flight, in_flight);
        self.spec.rate.is_none() && self.others.is_empty() && is_within
    }

    /// An attempt takes what it needs. Its start counts until the span of the rate after `latest`.
    pub fn take(&mut self, need: &Need, latest: Time) {
        let used = &mut self.used;
        used.in_flight += u64::from(need.share);
        used.executing += u64::from(need.executing);
        if need.start && self.spec.rate.is_some() {
            used.started += 1;
            used.oldest = Some(used.oldest.map_or(latest, |oldest| oldest.min(latest)));
        }
    }
}

/// The text by which a store tells the values of a limit's key apart: JSON for what users pass in most often.
#[must_use]
pub fn key_text(value: Option<&Value>) -> Arc<str> {
    let Some(value) = value else { return "null".into() };
    let hex = |bytes: &[u8]| bytes.iter().map(|byte| format!("{byte:02x}")).collect::<String>();
    match (value.tag(), std::str::from_utf8(value.payload())) {
        (b'n', _) => "null".into(),
        (b't', _) => "true".into(),
        (b'f', _) => "false".into(),
        (b's', Ok(text)) => serde_json::to_string(text).unwrap_or_default().into(),
        (b'i' | b'd' | b'j', Ok(text)) => text.into(),
        _ => hex(value.as_bytes()).into(),
    }
}

impl RunState {
    /// Whether a task is ready, and its body may be entered as far as its run is concerned. `Some(true)`: it begins an
    /// attempt, and does not continue one.
    #[must_use]
    pub fn may_enter(&self, task: TaskRef) -> Option<bool> {
        let state = self.get(task)?;
        let ready = self.status() == crate::RunStatus::Running && state.status == TaskStatus::Ready;
        ready.then_some(!state.reenter)
    }

    /// Whether a task is ready, whatever holds its run.
    #[must_use]
    pub fn is_ready(&self, task: TaskRef) -> bool {
        self.get(task).is_some_and(|state| state.status == TaskStatus::Ready)
    }

    /// Whether this attempt executes here and has recorded nothing: another runner would begin it anew.
    #[must_use]
    pub fn is_unrecorded(&self, task: TaskRef, attempt: u32) -> bool {
        self.running(task, attempt).is_ok() && !self.task(task).has_row
    }

    /// Whether the body of a task that is ready continues an attempt, whatever holds its run.
    #[must_use]
    pub fn continues(&self, task: TaskRef) -> bool {
        self.get(task).is_some_and(|state| state.reenter)
    }
}

#[cfg(test)]
#[path = "limits/tests.rs"]
mod tests;
