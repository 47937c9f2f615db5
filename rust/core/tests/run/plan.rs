//! What the bodies of a random workflow do, and the oracle that computes how its tasks must end, by plain recursion.

use std::time::Duration;

use bide_core::{GateSpec, GateUntil, Graph, RetryPolicy, RunIf, TaskIx, TaskSpec, TaskStatus};
use proptest::prelude::*;

#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum Act {
    /// Runs a step; false: it raises, and the body continues.
    Step(bool),
    /// Waits for a condition; false: it times out, and the body continues.
    Condition(bool),
    /// Waits for a condition that cannot be compared: it is asked again on every entry.
    Unprovable,
    Sleep,
}

#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum End {
    Return,
    ReturnChanges,
    Fail { retry: bool },
    Skip,
}

#[derive(Clone, Debug)]
pub(crate) struct TaskPlan {
    /// What an attempt does, the same each time.
    pub(crate) acts: Vec<Act>,
    /// How the first, the second … attempt ends; the last entry counts for all further attempts.
    pub(crate) ends: Vec<End>,
    /// Whether the gate is satisfied at the first, the second … attempt; failures of it are retried.
    pub(crate) gate: Option<(GateUntil, Vec<bool>)>,
    pub(crate) spec: TaskSpec,
}

pub(crate) fn nth<T: Copy>(list: &[T], attempt: u32) -> T {
    list[(attempt as usize - 1).min(list.len() - 1)]
}

pub(crate) fn acts() -> impl Strategy<Value = Act> {
    prop_oneof![
        any::<bool>().prop_map(Act::Step),
        any::<bool>().prop_map(Act::Condition),
        Just(Act::Unprovable),
        Just(Act::Sleep),
    ]
}

fn ends() -> impl Strategy<Value = End> {
    prop_oneof![
        6 => Just(End::Return),
        2 => Just(End::ReturnChanges),
        3 => any::<bool>().prop_map(|retry| End::Fail { retry }),
        1 => Just(End::Skip),
    ]
}

fn task(ix: usize) -> impl Strategy<Value = TaskPlan> {
    let until = prop_oneof![
        Just(GateUntil::Condition),
        Just(GateUntil::After(Duration::from_secs(5))),
        Just(GateUntil::At(bide_core::Time(7_000_000))),
    ];
    let gate = prop::option::weighted(0.3, (until, prop::collection::vec(prop::bool::weighted(0.7), 1..3)));
    (
        prop::collection::vec(acts(), 0..4),
        prop::collection::vec(ends(), 1..4),
        gate,
        prop::collection::vec(any::<prop::sample::Index>(), 0..4),
        prop_oneof![
            5 => Just(RunIf::Succeeded),
            1 => Just(RunIf::NoneFailed),
            1 => Just(RunIf::Failed),
            1 => Just(RunIf::Done),
        ],
        (1..4u32, prop::bool::weighted(0.2), any::<bool>()),
    )
        .prop_map(move |(acts, ends, gate, on, run_if, (attempts, fresh, short))| {
            let mut dependencies: Vec<_> =
                on.iter().filter(|_| ix > 0).map(|on| format!("t{}", on.index(ix)).into()).collect();
            dependencies.sort();
            dependencies.dedup();
            let spec = TaskSpec {
                dependencies,
                run_if,
                retry: RetryPolicy { fresh, delay: Duration::from_secs(1), ..RetryPolicy::new(attempts) },
                gate: gate.as_ref().map(|(until, _)| GateSpec {
                    name: "gate".into(),
                    until: until.clone(),
                    timeout: Some(Duration::from_secs(60)),
                }),
                ..TaskSpec::new(format!("t{ix}"))
            };
            // A third of the tasks are of the most common kind.
            let acts = if short { Vec::new() } else { acts };
            TaskPlan { acts, ends, gate, spec }
        })
}

/// Random plans of acyclic workflows.
pub(crate) fn plans() -> impl Strategy<Value = Vec<TaskPlan>> {
    (1..9usize).prop_flat_map(|len| (0..len).map(|ix| task(ix).boxed()).collect::<Vec<_>>())
}

#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Expected {
    pub(crate) status: TaskStatus,
    pub(crate) attempts: u32,
    /// It failed, or was skipped because of a failure.
    pub(crate) failed: bool,
    /// The task that caused the skip; itself, unless other tasks are the reason.
    pub(crate) root: TaskIx,
}

/// How a body that may start ends, independent of everything around it.
fn run_alone(plan: &TaskPlan) -> (TaskStatus, u32) {
    let mut gate_open = plan.gate.is_some();
    for attempt in 1.. {
        let more = plan.spec.retry.allows_after(attempt);
        let gate = plan.gate.as_ref().filter(|_| gate_open);
        if gate.is_some_and(|(_, satisfied)| !nth(satisfied, attempt)) {
            if more {
                continue;
            }
            return (TaskStatus::Failed, attempt);
        }
        match nth(&plan.ends, attempt) {
            End::Return | End::ReturnChanges => return (TaskStatus::Completed, attempt),
            End::Skip => return (TaskStatus::Skipped, attempt),
            End::Fail { retry: true } if more => gate_open = plan.gate.is_some() && plan.spec.retry.fresh,
            End::Fail { .. } => return (TaskStatus::Failed, attempt),
        }
    }
    unreachable!("attempts are limited")
}

/// How one task ends, given how its dependencies end.
pub(crate) fn expect(graph: &Graph, plan: &TaskPlan, ix: TaskIx, before: &[Option<Expected>]) -> Expected {
    let on: Vec<(TaskIx, &Expected)> =
        graph.dependencies(ix).iter().map(|&on| (on, before[on as usize].as_ref().unwrap())).collect();
    let failed = on.iter().find(|(_, end)| end.failed);
    let unsuccessful = on.iter().find(|(_, end)| end.status != TaskStatus::Completed);
    let skipped = |failed, root| Expected { status: TaskStatus::Skipped, attempts: 0, failed, root };
    match (plan.spec.run_if, failed.or(unsuccessful)) {
        (RunIf::Succeeded, Some((_, cause))) => skipped(failed.is_some(), cause.root),
        (RunIf::NoneFailed, Some((_, cause))) if failed.is_some() => skipped(true, cause.root),
        (RunIf::Failed, _) if failed.is_none() => skipped(false, ix),
        _ => {
            let (status, attempts) = run_alone(plan);
            Expected { status, attempts, failed: status == TaskStatus::Failed, root: ix }
        }
    }
}

pub(crate) fn oracle(graph: &Graph, plans: &[TaskPlan]) -> Vec<Expected> {
    let mut ends: Vec<Option<Expected>> = vec![None; plans.len()];
    // Declared in topological order.
    for ix in 0..plans.len() {
        ends[ix] = Some(expect(graph, &plans[ix], ix as TaskIx, &ends));
    }
    ends.into_iter().flatten().collect()
}
