//! The seeded simulation: random workflows in simulated processes that crash, close, lose their lease and their
//! commits, under a clock that jumps, with every interleaving that a seeded scheduler can think of.
//!
//! Real are the run machine, the slot and pacing machines, the store, and the engine's own code for commits, timers,
//! creation, recovery, leases and the end. Simulated are threads, bodies and time. What must hold is in `oracle.rs`.
//!
//! Not here: threads that race (the stress tests), SQLite (the crash points), processes that are really killed.

mod body;
mod host;
mod oracle;
mod plan;
mod process;
mod rng;
mod scripted;
mod ticks;
mod world;

use std::panic::{AssertUnwindSafe, catch_unwind};

use bide_core::{RunStatus, TaskIx, TaskStatus};

pub use oracle::Oracle;
pub use plan::{
    Act, Case, Disaster, End, Gate, Hand, Letter, Limit, Mapped, Sender, Several, Target, TaskPlan, Version,
};
pub use rng::Rng;
pub use scripted::Simulated;
pub use ticks::check_ticks;
pub use world::{Outcome, RunEnd, TaskEnd, play};

/// Plays a case with and without its disasters.
///
/// # Errors
/// Says what is wrong: a guarantee was broken, or the results differ.
pub fn check(case: &Case) -> Result<Outcome, String> {
    let played = |case: &Case| {
        catch_unwind(AssertUnwindSafe(|| play(case))).unwrap_or_else(|panic| {
            let text = panic.downcast_ref::<String>().map(String::as_str).or(panic.downcast_ref::<&str>().copied());
            Err(format!("panic: {}", text.unwrap_or("not a text")))
        })
    };
    let disturbed = played(case)?;
    let undisturbed = played(&case.undisturbed()).map_err(|why| format!("without disasters: {why}"))?;
    for (number, (got, expected)) in disturbed.runs.iter().zip(&undisturbed.runs).enumerate() {
        the_result_equals_the_crash_free_one(case, number, got, expected)
            .map_err(|why| format!("run {number} differs from the crash-free one: {why}\n{}", disturbed.lately))?;
    }
    Ok(disturbed)
}

/// The result equals the crash-free one. Under `fail_fast` it depends on the moment what was skipped: there only the
/// verdict is compared, and what completed both times from the same outputs.
fn the_result_equals_the_crash_free_one(
    case: &Case,
    number: usize,
    got: &RunEnd,
    expected: &RunEnd,
) -> Result<(), String> {
    if got.status == RunStatus::Cancelled {
        // A store that ends a run by itself knows only the tasks that have rows.
        let open = |task: &&TaskEnd| task.status.is_some() && !task.status.is_some_and(TaskStatus::is_ended);
        return match got.tasks.iter().find(open) {
            Some(task) => Err(format!("it is cancelled, and one of its tasks is {task:?}")),
            None => Ok(()),
        };
    }
    if got.touched || [got, expected].iter().any(|end| end.expired) {
        // What had ended by then depends on the moment.
        return Ok(());
    }
    if got.cancelled {
        // A body that starts after the cancellation may never end.
        return Ok(());
    }
    if [got, expected].iter().any(|end| end.stuck) {
        // Its child was the only suspect of five dead processes.
        return Ok(());
    }
    if [got, expected].iter().any(|end| end.status == RunStatus::Paused) {
        // It was the only suspect of five dead processes, as `play` has made sure. Without disasters only a run that
        // kills its process may be.
        return match expected.status {
            RunStatus::Paused if !case.kills(number) => Err("paused without a disaster".to_owned()),
            _ => Ok(()),
        };
    }
    let shrunk = got.tasks.len() < expected.tasks.len();
    let endless = case.fail_fast && [got, expected].iter().any(|end| !end.status.is_ended());
    if got.status != expected.status && !endless && !shrunk {
        return Err(format!("{:?} instead of {:?}", got.status, expected.status));
    }
    if !case.fail_fast && !shrunk && got.elements != expected.elements {
        return Err(format!("the elements are {:?} instead of {:?}", got.elements, expected.elements));
    }
    let graph = case.graph(Version::First);
    let same = |ix: TaskIx| {
        let [got, expected] = [got, expected].map(|end| end.tasks.get(ix as usize));
        // A task whose dependency was skipped may start beside what that one would have waited for.
        got == expected && expected.is_some_and(|task| task.status == Some(TaskStatus::Completed))
    };
    for (ix, (mine, theirs)) in (0..).zip(got.tasks.iter().zip(&expected.tasks)) {
        let both = mine.status == Some(TaskStatus::Completed) && theirs.status == Some(TaskStatus::Completed);
        let comparable = !case.fail_fast || (both && graph.ancestors(ix).all(same));
        if comparable && mine != theirs {
            return Err(format!("{} is {mine:?} instead of {theirs:?}", graph.name(ix)));
        }
    }
    Ok(())
}

/// Makes a failing case as small as it can while it still fails. Returns it with its failure.
#[must_use]
pub fn shrink<T>(case: &Case, why: String, check: &dyn Fn(&Case) -> Result<T, String>) -> (Case, String) {
    let (mut case, mut why) = (case.clone(), why);
    'again: loop {
        for smaller in case.smaller() {
            // Another seed of the scheduler may fail where this one does not any more.
            for seed in case.seed..case.seed + 4 {
                let smaller = Case { seed, ..smaller.clone() };
                if let Err(found) = check(&smaller) {
                    (case, why) = (smaller, found);
                    continue 'again;
                }
            }
        }
        return (case, why);
    }
}

/// Checks the world of a seed.
///
/// # Errors
/// The report of a failure: the seed, the smallest case that still fails, and what happened in it.
pub fn check_seed(seed: u64) -> Result<Outcome, String> {
    let case = Case::random(seed);
    check(&case).map_err(|why| {
        let first = why.lines().next().unwrap_or_default().to_owned();
        let (small, why) = shrink(&case, why, &check);
        format!("seed {seed} fails: {first}\n\nsmallest case that fails:\n{small}\n{why}")
    })
}
