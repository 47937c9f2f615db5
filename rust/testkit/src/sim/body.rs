//! A simulated body: a little program, and how far it has come. The order of a wait is the executor's: look into the
//! journal, ask once while the slot is held, commit the open wait, give the slot back, park and poll, commit the end,
//! take a slot, go on. Between any two of these others may move, and the process may die.

use std::sync::Arc;
use std::time::Duration;

use bide_core::event::Wait;
use bide_core::poll::Poll;
use bide_core::{EntryKey, EntryKind, Event, Failure, FailureKind, Outcome, TaskRef, Time, Value};
use bide_executor::Run;

use super::host::SimHost;
use super::plan::{Act, End, TaskPlan};

/// A body in a process.
pub(super) struct Body {
    pub(super) run: Arc<Run<SimHost>>,
    pub(super) task: TaskRef,
    pub(super) attempt: u32,
    /// Position in the plan's acts.
    pub(super) at: usize,
    pub(super) phase: Phase,
    /// What it has seen so far: its output depends on all of it.
    pub(super) seen: u64,
    /// The poll or time that it waits for; a ring with another ticket comes too late.
    pub(super) ticket: u64,
    /// It has the pacer's turn, or its time has come.
    pub(super) woken: bool,
}

/// What a body does next.
pub(super) enum Phase {
    /// It is marked before it is called.
    Mark,
    /// It goes on with its acts.
    Acts,
    /// It commits an event with its slot held.
    Commit(Event, Then),
    /// Its wait is committed: it gives its slot back.
    GiveBack(EntryKey, Parked),
    /// It waits without a slot.
    Parked(EntryKey, Parked),
    /// A slow condition is being asked.
    Polling(EntryKey, Parked),
    /// It commits the end of its wait, without a slot.
    Close(EntryKey, Result<Value, Failure>),
    /// It wants a slot again; the value that its wait had, or `None` if it is to unwind.
    WantsSlot(Option<u64>),
    /// It has ended.
    Ended(Outcome),
}

/// What follows a commit.
pub(super) enum Then {
    /// The next act; this was seen.
    Next(u64),
    /// The wait is open.
    Defer(EntryKey, Parked),
}

/// What a parked body waits for.
#[derive(Clone, Copy)]
pub(super) enum Parked {
    /// A condition.
    Poll { poll: Poll, holds_at: Option<u64>, slow: bool, deadline: Option<Time>, polled: bool },
    /// A time.
    Time(Time),
}

/// Mixes a number into what was seen.
pub(super) fn mix(seen: u64, more: u64) -> u64 {
    (seen ^ more).wrapping_mul(0x9e37_79b9_7f4a_7c15).rotate_left(23)
}

pub(super) fn digest(bytes: &[u8]) -> u64 {
    bytes.iter().fold(7, |seen, byte| mix(seen, u64::from(*byte)))
}

/// A number as a stored value.
pub(super) fn number(n: u64) -> Value {
    Value::tagged(b'i', n.to_string().as_bytes())
}

pub(super) fn of_result(result: &Result<Value, Failure>) -> u64 {
    match result {
        Ok(value) => digest(value.as_bytes()),
        Err(failure) => digest(failure.message().as_bytes()),
    }
}

impl Body {
    /// The body's own random-looking number: the same on every entry of the attempt.
    pub(super) fn step_value(&self, key: &EntryKey) -> u64 {
        mix(digest(key.name.as_bytes()), u64::from(self.task.ix) << 32 | u64::from(key.n))
    }

    pub(super) fn end(&self, plan: &TaskPlan) -> Outcome {
        match plan.end(self.attempt) {
            End::Return => Outcome::Completed { output: number(self.seen), changes: None },
            End::Fail(retried) => Outcome::Failed {
                failure: Failure::new(FailureKind::Raised, "Boom", &format!("{:x}", self.seen)),
                retry: retried.then_some(bide_core::event::Retry { random: 0.5 }),
            },
            End::Skip => Outcome::Skipped { reason: "it had better not".into() },
        }
    }

    pub(super) fn recorded(&self, wait: Wait, result: Result<Value, Failure>) -> Event {
        Event::Recorded { task: self.task, attempt: self.attempt, wait, result }
    }

    pub(super) fn opened(&self, wait: Wait) -> Event {
        Event::Opened { task: self.task, attempt: self.attempt, wait }
    }

    pub(super) fn closed(&self, key: EntryKey, result: Result<Value, Failure>) -> Event {
        Event::Closed { task: self.task, attempt: self.attempt, key, result, retry: None }
    }
}

/// A wait that timed out.
pub(super) fn timed_out() -> Failure {
    Failure::new(FailureKind::WaitTimeout, "bide.WaitTimeout", "too late")
}

/// How an act is recorded.
pub(super) struct Stated {
    pub(super) key: EntryKey,
    pub(super) kind: EntryKind,
    pub(super) proof: Option<Arc<[u8]>>,
    pub(super) timeout: Option<Duration>,
}

impl Stated {
    /// The act at a position, with its key in the journal.
    pub(super) fn of(acts: &[Act], at: usize) -> Self {
        let kind = |act: &Act| match act {
            Act::Step(_) => "step",
            Act::Until(..) => "condition",
            Act::Unprovable(_) => "unprovable",
            Act::TimesOut(_) => "late",
            Act::Sleep(_) => "sleep",
            Act::Forever => "forever",
        };
        let name = kind(&acts[at]);
        let n = acts[..=at].iter().filter(|act| kind(act) == name).count() as u32;
        let (kind, proof, timeout) = match acts[at] {
            Act::Step(_) => (EntryKind::Step, Some(&b"arguments"[..]), None),
            Act::TimesOut(ms) => (EntryKind::Condition, Some(&b"code"[..]), Some(Duration::from_millis(ms))),
            Act::Until(..) | Act::Forever => (EntryKind::Condition, Some(&b"code"[..]), None),
            Act::Unprovable(_) => (EntryKind::Condition, None, None),
            Act::Sleep(_) => (EntryKind::Time, None, None),
        };
        Self { key: EntryKey { name: name.into(), n }, kind, proof: proof.map(Into::into), timeout }
    }

    pub(super) fn wait(&self, due: Option<Time>) -> Wait {
        Wait { key: self.key.clone(), kind: self.kind, proof: self.proof.clone(), due, timeout: self.timeout }
    }
}
