//! A simulated body: a little program, and how far it has come. The order of a wait is the executor's: look into the
//! journal, ask once while the slot is held, commit the open wait, give the slot back, park and poll, commit the end,
//! take a slot, go on. Between any two of these others may move, and the process may die.

use std::sync::Arc;
use std::time::Duration;

use bide_core::event::Wait;
use bide_core::poll::Poll;
use bide_core::{
    Asked, EntryKey, EntryKind, Event, Failure, FailureKind, Outcome, TaskRef, Time, Uses, Value, context,
};
use bide_executor::Run;
use bide_executor::drive::{Allowance, Turn};

use super::host::SimHost;
use super::plan::{Act, End, TaskPlan, Version};

/// A body in a process.
pub(super) struct Body {
    pub(super) run: Arc<Run<SimHost>>,
    pub(super) task: TaskRef,
    pub(super) attempt: u32,
    /// Position in the plan's acts.
    pub(super) at: usize,
    pub(super) phase: Phase,
    /// The steps of an [`Act::Shuffled`] that it has not done yet, and the sum of what the others came to.
    pub(super) items: Vec<u8>,
    pub(super) sum: u64,
    /// Which records it has used.
    pub(super) uses: Uses,
    /// What it has seen so far: its output depends on all of it.
    pub(super) seen: u64,
    /// The poll or time that it waits for; a ring with another ticket comes too late.
    pub(super) ticket: u64,
    /// It has the pacer's turn, or its time has come.
    pub(super) woken: bool,
    /// It may have killed an earlier process.
    pub(super) marked: bool,
    /// An earlier process may have died of it: who else may execute meanwhile is decided by this.
    pub(super) turn: Option<Turn>,
    /// What is left of its execution time.
    pub(super) allowance: Option<Allowance<SimHost>>,
    /// The context as it found it, and as it leaves it.
    pub(super) context: [Vec<(Arc<str>, Value)>; 2],
}

/// What a body does next.
pub(super) enum Phase {
    /// It is marked before it is called.
    Mark,
    /// It goes on with its acts.
    Acts,
    /// It executes until this moment, by the steady clock.
    Works(Duration),
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
    /// The next step of an [`Act::Shuffled`]; this was seen.
    Item(u64),
    /// The wait is open.
    Defer(EntryKey, Parked),
}

/// What a parked body waits for.
#[derive(Clone, Copy)]
pub(super) enum Parked {
    /// A condition.
    Poll { poll: Poll, act: Act, deadline: Option<Time>, asked: u32 },
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
    /// The random-looking number that a step returns: the same on every entry of the attempt.
    pub(super) fn step_value(&self, stated: &Stated) -> u64 {
        mix(digest(stated.proof.as_deref().unwrap_or_default()), u64::from(self.task.ix))
    }

    /// One more step of an [`Act::Shuffled`] is done. Their order does not count.
    pub(super) fn item_done(&mut self, seen: u64) {
        self.sum = self.sum.wrapping_add(seen);
        if self.items.is_empty() {
            self.seen = mix(self.seen, std::mem::take(&mut self.sum));
            self.at += 1;
        }
    }

    pub(super) fn end(&self, plan: &TaskPlan) -> Outcome {
        match plan.end(self.attempt) {
            End::Return => {
                let [before, after] = &self.context;
                Outcome::Completed { output: number(self.seen), changes: context::diff(before, after).pack() }
            }
            End::Fail(retried) => Outcome::Failed {
                failure: Failure::new(FailureKind::Raised, "Boom", &format!("{:x}", self.seen)),
                retry: retried.then_some(bide_core::event::Retry { random: 0.5 }),
            },
            End::Skip => Outcome::Skipped { reason: "it had better not".into() },
        }
    }

    /// Its time is used up.
    pub(super) fn timed_out(&self, plan: &TaskPlan) -> Outcome {
        let failure = Failure::new(FailureKind::TaskTimeout, "bide.TaskTimeout", "too slow");
        let retried = plan.timeout.is_some_and(|(_, retried)| retried);
        Outcome::Failed { failure, retry: retried.then_some(bide_core::event::Retry { random: 0.5 }) }
    }

    /// Sets a key of its context.
    pub(super) fn sets(&mut self, key: Arc<str>) {
        let value = number(self.seen);
        let after = &mut self.context[1];
        match after.iter_mut().find(|(known, _)| *known == key) {
            Some(known) => known.1 = value,
            None => after.push((key, value)),
        }
    }

    pub(super) fn recorded(&self, wait: Wait, result: Result<Value, Failure>) -> Event {
        Event::Recorded { task: self.task, attempt: self.attempt, wait, result }
    }

    pub(super) fn opened(&self, wait: Wait) -> Event {
        Event::Opened { task: self.task, attempt: self.attempt, wait }
    }

    pub(super) fn closed(&self, key: EntryKey, result: Result<Value, Failure>) -> Event {
        Event::Closed { task: self.task, attempt: self.attempt, key, result, proved: true, retry: None }
    }
}

/// A wait that timed out.
pub(super) fn timed_out() -> Failure {
    Failure::new(FailureKind::WaitTimeout, "bide.WaitTimeout", "too late")
}

/// How an act is recorded.
pub(super) struct Stated {
    /// Its name, and its number once the journal was asked.
    pub(super) key: EntryKey,
    pub(super) kind: EntryKind,
    pub(super) proof: Option<Arc<[u8]>>,
    pub(super) timeout: Option<Duration>,
}

impl Stated {
    /// The act at a position. `None`: it records nothing.
    pub(super) fn of(acts: &[Act], at: usize, version: Version) -> Option<Self> {
        let key = EntryKey { name: acts[at].name()?.into(), n: 0 };
        // Conditions are other code in a grown workflow; what a step is given stays the same.
        let code = if version == Version::Grown { &b"new code"[..] } else { b"code" };
        let (kind, proof, timeout) = match acts[at] {
            Act::Step(_) | Act::Shuffled(_) => return Some(Self::step(key, at, 0)),
            Act::TimesOut(ms) => (EntryKind::Condition, Some(code), Some(Duration::from_millis(ms))),
            Act::Unprovable(_) => (EntryKind::Condition, None, Some(Duration::from_secs(30 * 24 * 3600))),
            Act::Sleep(_) => (EntryKind::Time, None, None),
            _ => (EntryKind::Condition, Some(code), None),
        };
        Some(Self { key, kind, proof: proof.map(Into::into), timeout })
    }

    /// A step: no two of a body have the same arguments.
    fn step(key: EntryKey, at: usize, item: u8) -> Self {
        let proof = Some(format!("act {at}, item {item}").into_bytes().into());
        Self { key, kind: EntryKind::Step, proof, timeout: None }
    }

    /// The same act, with the arguments of one of its steps.
    pub(super) fn item(&self, at: usize, item: u8) -> Self {
        Self::step(self.key.clone(), at, item)
    }

    /// As the journal is asked for it.
    pub(super) fn asked(&self) -> Asked {
        Asked::new(Arc::clone(&self.key.name), self.kind, self.proof.clone())
    }

    pub(super) fn wait(&self, due: Option<Time>) -> Wait {
        Wait { key: self.key.clone(), kind: self.kind, proof: self.proof.clone(), due, timeout: self.timeout }
    }
}
