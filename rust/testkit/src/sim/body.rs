//! A simulated body: a small program and its position in it. Its waits and steps are calls of the attempt machine
//! that ships (`bide_core::attempt`). Between any two of a call's actions others may move, and the process may die.

use std::sync::Arc;
use std::time::Duration;

use bide_core::attempt::{Action, Attempt, Call, CallError, Request, Sleep, StepOptions};
use bide_core::run::{different_lengths, no_list};
use bide_core::{
    EntryKey, Failure, FailureKind, Outcome, RetryPolicy, RunId, StepArguments, TaskIx, TaskRef, Value, context, pack,
};
use bide_executor::Run;
use bide_executor::drive::{Allowance, Share, Turn};

use super::host::SimHost;
use super::plan::{Act, End, TaskPlan, Version, signal_request};

/// A body in a process.
pub(super) struct Body {
    /// Its run.
    pub(super) run: Arc<Run<SimHost>>,
    /// Its task.
    pub(super) task: TaskRef,
    /// The position of its task among those of all workflows, by which the case and the oracle know it.
    pub(super) place: TaskIx,
    /// The attempt that it executes.
    pub(super) attempt: u32,
    /// It has looked for a checkpoint, where it continues.
    pub(super) entered: bool,
    /// Position in the plan's acts.
    pub(super) at: usize,
    /// What it does next.
    pub(super) phase: Phase,
    /// The steps of an [`Act::Shuffled`] that it has not done yet, and the sum of the results of the others.
    pub(super) items: Vec<u8>,
    /// The sum of the results of the steps of an [`Act::Shuffled`] so far.
    pub(super) sum: u64,
    /// Its calls.
    pub(super) machine: Attempt,
    /// How many steps of an [`Act::Shuffled`] it has begun.
    pub(super) shuffled: u32,
    /// What it has seen so far: its output depends on all of it.
    pub(super) seen: u64,
    /// The poll or time that it waits for; a ring with another ticket comes too late.
    pub(super) ticket: u64,
    /// It has the pacer's turn, or its time has come.
    pub(super) woken: bool,
    /// It may have killed an earlier process.
    pub(super) marked: bool,
    /// An earlier process may have died of it: this limits what may execute beside it.
    pub(super) turn: Option<Turn>,
    /// Its remaining execution time.
    pub(super) allowance: Option<Allowance<SimHost>>,
    /// The secret of the callback that it has made last.
    pub(super) callback: Option<Arc<str>>,
    /// The number of the request that it has taken last and not answered.
    pub(super) request: Option<i64>,
    /// The child that it has started last.
    pub(super) child: Option<RunId>,
    /// The key of its start, if the wait for it is what the body does next.
    pub(super) awaited: Option<EntryKey>,
    /// The context as it found it, and as it leaves it.
    pub(super) context: [Vec<(Arc<str>, Value)>; 2],
}

/// What a body does next.
pub(super) enum Phase {
    /// It is marked before it is called.
    Mark,
    /// It continues with its acts.
    Acts,
    /// It executes until this moment, by the steady clock.
    Works(Duration),
    /// A call of its handle is under way: the action that it wants carried out.
    Calls(OpenCall, Action),
    /// The end of its wait is committed, and it waits for its share of a limit.
    WantsShare(OpenCall, Result<(), CallError>, Share),
    /// The end of its wait is committed, and it waits for a slot.
    WantsSlot(OpenCall, Result<(), CallError>),
    /// It has ended.
    Ended(Outcome),
}

impl Phase {
    /// Whether it sleeps until its next poll or its time.
    pub(super) const fn sleeps(&self) -> bool {
        matches!(self, Self::Calls(_, Action::Sleep(_)))
    }

    /// Whether it sleeps until its next poll.
    pub(super) const fn awaits_poll(&self) -> bool {
        matches!(self, Self::Calls(_, Action::Sleep(Sleep::Poll(_))))
    }
}

/// A call of a body's handle, under way.
pub(super) struct OpenCall {
    /// The call of the attempt machine.
    pub(super) call: Box<Call>,
    /// The act that makes it.
    pub(super) act: Act,
    /// Its step is one of an [`Act::Shuffled`].
    pub(super) is_item: bool,
    /// The proof of its condition or arguments, if there is one.
    pub(super) proof: Option<Arc<[u8]>>,
    /// How often its condition was asked.
    pub(super) asked: u32,
    /// Its body has no slot.
    pub(super) parked: bool,
    /// It has a turn of the pacer.
    pub(super) polls: bool,
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
    pub(super) fn step_value(&self, what: &[u8]) -> u64 {
        mix(digest(what), u64::from(self.place))
    }

    /// Where it is and what it has seen, its context included.
    pub(super) fn state(&self) -> Value {
        let child = self.child.map(RunId::to_value);
        let pairs = [("at", Some(number(self.at as u64 + 1))), ("seen", Some(number(self.seen))), ("child", child)];
        let context = self.context[1].iter().map(|(key, value)| (&**key, Some(value)));
        Value::new(&pack::pack(pairs.iter().map(|(key, value)| (*key, value.as_ref())).chain(context)))
    }

    /// Continues where its last checkpoint was.
    pub(super) fn continue_at(&mut self, state: &Value) {
        let mut pairs = pack::unpack(state.as_bytes()).unwrap_or_default().into_iter();
        let mut next = || pairs.next().and_then(|(_, value)| value);
        let number = |value: Option<Value>| std::str::from_utf8(value?.payload()).ok()?.parse::<u64>().ok();
        self.at = number(next()).unwrap_or_default() as usize;
        self.seen = number(next()).unwrap_or_default();
        self.child = next().as_ref().and_then(RunId::from_value);
        self.context[1] = pairs.filter_map(|(key, value)| Some((key, value?))).collect();
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
        // Of the elements of a task some fail and others do not.
        match plan.end(self.attempt + self.task.map.max(0).unsigned_abs()) {
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

    /// The items of the lists of a mapped task are counted.
    pub(super) fn expand(&self, plan: &TaskPlan) -> Outcome {
        let (graph, ix, items) = (&self.run.workflow.graph, self.task.ix, plan.items());
        for on in graph.follows(ix) {
            let length = self.run.state.lock().length(TaskRef::plain(*on));
            let failure = match length {
                Some(length) if length == items => continue,
                Some(length) => different_lengths(graph.name(ix), (graph.name(*on), length), ("input", items)),
                None => no_list(graph.name(ix), graph.name(*on), None),
            };
            return Outcome::Failed { failure, retry: None };
        }
        Outcome::Expanded { length: items }
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
}

/// A step that is tried again is tried so often.
pub(super) const TRIES: u32 = 3;

/// A call that a body makes of its handle for an act.
pub(super) struct HandleCall {
    /// The name of the wait or step.
    pub(super) name: Arc<str>,
    /// The proof of its condition or arguments, if there is one.
    pub(super) proof: Option<Arc<[u8]>>,
    /// What is asked of the attempt machine.
    pub(super) request: Request,
}

impl HandleCall {
    /// The act at a position. `None`: it records nothing.
    pub(super) fn of(acts: &[Act], at: usize, version: Version) -> Option<Self> {
        let (act, name): (Act, Arc<str>) = (acts[at], acts[at].name()?.into());
        // Conditions are other code in a grown workflow; the arguments of a step stay the same.
        let code = if version == Version::Grown { &b"new code"[..] } else { b"code" };
        let (proof, timeout) = match act {
            Act::Step(_) | Act::Shuffled(_) => return Some(Self::step(name, at, 0)),
            Act::Keyed(_) => return Some(Self::keyed(&name, at, 0)),
            Act::Once => {
                return Some(Self::step_with(name, at, StepOptions { once: true, ..StepOptions::PLAIN }));
            }
            Act::Flaky(_) => {
                let retry = RetryPolicy { jitter: 0.0, ..RetryPolicy::new(TRIES) };
                return Some(Self::step_with(name, at, StepOptions { retry: Some(retry), ..StepOptions::PLAIN }));
            }
            Act::Sleep(ms) => {
                return Some(Self { name, proof: None, request: Request::After(Duration::from_millis(ms)) });
            }
            Act::Signal(signal, timeout) => {
                let (name, request) = signal_request(signal, timeout);
                return Some(Self { name, proof: None, request });
            }
            Act::Several(several, timeout) => {
                return Some(Self { name, proof: None, request: several.request(code, act.policy(), timeout) });
            }
            Act::TimesOut(ms) => (Some(code), Some(Duration::from_millis(ms))),
            Act::Unprovable(_) => (None, Some(Duration::from_secs(30 * 24 * 3600))),
            _ => (Some(code), None),
        };
        let proof: Option<Arc<[u8]>> = proof.map(Into::into);
        let request = Request::Condition { proof: proof.clone(), policy: act.policy(), timeout };
        Some(Self { name, proof, request })
    }

    /// A step with a key of its own.
    pub(super) fn keyed(name: &str, at: usize, item: u8) -> Self {
        let options = StepOptions { keyed: true, ..StepOptions::PLAIN };
        let request = Request::Step { arguments: StepArguments::default(), options };
        Self { name: EntryKey::keyed_name(name, &format!("{at}/{item}")), proof: None, request }
    }

    /// A step that is executed at most once, or tried again after it has failed.
    fn step_with(name: Arc<str>, at: usize, options: StepOptions) -> Self {
        let proof: Option<Arc<[u8]>> = Some(format!("act {at}").into_bytes().into());
        let arguments = StepArguments { proof: proof.clone(), ..StepArguments::default() };
        Self { name, proof, request: Request::Step { arguments, options } }
    }

    /// A step: no two of a body have the same arguments.
    pub(super) fn step(name: Arc<str>, at: usize, item: u8) -> Self {
        let proof: Option<Arc<[u8]>> = Some(format!("act {at}, item {item}").into_bytes().into());
        Self { name, request: Request::step(proof.clone()), proof }
    }
}
