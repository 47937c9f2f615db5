//! What every driver of waits does: short scripts of bodies and gates, and what has to be seen while a driver carries
//! them out.
//!
//! A driver carries out the actions of the attempt machine (`bide_core::attempt`): worker threads, futures on tokio and
//! the simulator; gates share the part of the machine that judges polls. The machine's own tests feed it by hand. Here
//! a driver runs a whole engine over a faulty store and a virtual clock, and the calls of the store, of the user's code
//! and of the clock must come in the order that the machine asks for. A rule about waits has a row in `cases.rs`, one
//! about gates in `gates.rs`.

mod cases;
mod gates;
mod messages;
mod probe;
mod script;
mod steps;

use std::sync::Arc;

use bide_store::MemoryStore;
use bide_sync::Mutex;

use crate::clock::VirtualClock;

use probe::Observation;
pub use probe::Probe;
pub use script::{Answer, BOOM, Call, Life, Meanwhile, Operation, Says, at, boom, yes};

/// The workflow of each case has this one task.
pub const TASK: &str = "t0";

/// A driver, which carries out a case.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// The calls are those of a body.
    Body,
    /// The only call is the condition of a gate; the body does nothing.
    Gate,
}

/// A driver of waits.
pub trait WaitDriver {
    /// For messages, and for the cases that do not apply to it.
    fn name(&self) -> &'static str;

    /// One process: opens [`Probe::store`], submits the run of the key `k` of a workflow whose only task is [`TASK`],
    /// executes it as the script says, and returns when the run has ended, is paused or lost, or when the runner has
    /// closed or stopped. Lets the time of [`Probe::clock`] pass whenever everything waits for it.
    fn live(&self, kind: Kind, probe: &Arc<Probe>);
}

/// A case.
struct Case {
    /// The rule.
    name: &'static str,
    /// Its processes, one after the other. Each ends before the next begins, and what it still had dies with it.
    lives: Vec<Life>,
    /// What is seen: after each time in milliseconds, and `slot` if the body has one then, what happens there in turn.
    /// (A step's execution is an `ask` too.)
    seen: &'static str,
    /// The drivers to which it does not apply, and why.
    not: &'static [(&'static str, &'static str)],
}

/// Runs every case with a driver.
///
/// # Panics
/// If a driver does something else, with all cases in which it does.
pub fn run(driver: &dyn WaitDriver) {
    let mut wrong = Vec::new();
    let bodies = [cases::cases(), steps::cases(), messages::cases()];
    let all: Vec<_> =
        bodies.map(|cases| (Kind::Body, cases)).into_iter().chain([(Kind::Gate, gates::cases())]).collect();
    let names: Vec<&str> = all.iter().flat_map(|(_, cases)| cases.iter().map(|case| case.name)).collect();
    assert!((1..names.len()).all(|at| !names[..at].contains(&names[at])), "a case is named twice");
    for (kind, cases) in all {
        for case in cases.iter().filter(|case| case.not.iter().all(|(name, _)| *name != driver.name())) {
            let seen = play(driver, kind, case);
            if seen != case.seen {
                wrong.push(format!("{kind:?}: {}\n  seen:       {seen}\n  instead of: {}", case.name, case.seen));
            }
        }
    }
    assert!(wrong.is_empty(), "the driver '{}' differs:\n{}", driver.name(), wrong.join("\n"));
}

fn play(driver: &dyn WaitDriver, kind: Kind, case: &Case) -> String {
    let (base, clock, seen) = (MemoryStore::new(), VirtualClock::new(), Arc::new(Mutex::new(Vec::new())));
    for (seed, life) in (0..).zip(&case.lives) {
        let probe = Probe::new(seed, life.clone(), Arc::clone(&clock), Arc::clone(&base), Arc::clone(&seen));
        driver.live(kind, &probe);
        probe.processes_die();
    }
    in_words(&seen.lock())
}

fn in_words(seen: &[Observation]) -> String {
    let groups = seen.chunk_by(|(first, _), (second, _)| first == second).map(|group| {
        let what: Vec<&str> = group.iter().map(|(_, what)| &**what).collect();
        format!("{}: {}", group[0].0, what.join(", "))
    });
    groups.collect::<Vec<String>>().join("; ")
}
