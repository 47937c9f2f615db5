//! Forks of a run, crashed before and after every call of the store: the new run is there whole, and both histories tell
//! of it, or there is nothing of it; then forking again works.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use bide_executor::core::record::StoredRun;
use bide_executor::core::{Address, Ask, Control, Fork, RunId, RunStatus, TaskStatus};
use bide_executor::store::{RunFilter, Store};
use bide_executor::{Engine, ForkRequest, Handle, Letter, Settlement, SubmitError};

use super::mapped;
use super::waits::signal;
use crate::threads::{Defined, SOON, Threads, came_of, end, number_value, run_of, start, task, workflow};
use crate::world::{Came, HANG, Ledger, at_every_call_counting};

/// What each fork is asked for by.
const ASKED_BY: [&str; 2] = ["ana", "bo"];

/// The tasks and elements that a fork keeps.
const KEPT: [&str; 3] = ["kept", "each[0]", "each[1]"];

fn numbers() -> Vec<Defined> {
    vec![
        task("kept", &[], |body| body.step("work", 1)),
        mapped("each", &["kept"], &["kept"], |body| body.step("work", 2)),
        task("again", &["kept"], |body| {
            let number = body.step("work", 3)?;
            body.sleep(SOON)?;
            Ok(number)
        }),
        task("last", &["again", "each"], |body| body.step("work", 4)),
    ]
}

/// The same beside a body that waits for a signal.
fn waiting() -> Vec<Defined> {
    let waits = task("waits", &[], |body| {
        body.step("work", 5)?;
        body.wait_one(signal("go")).map(drop)?;
        Ok(5)
    });
    numbers().into_iter().chain([waits]).collect()
}

/// The forks of a run, by who has asked for them. Each is whole, and told of in the history of the other run.
fn forks(store: &dyn Store, source: &StoredRun) -> BTreeMap<String, RunId> {
    let told = |run: RunId| {
        let messages = store.messages(run, 0).unwrap();
        messages.into_iter().filter_map(|stored| Control::of_message(&stored.message))
    };
    let to = told(source.run.id).filter_map(|control| match control.ask {
        Ask::ForkedTo { run, .. } => Some((control.by.unwrap().to_string(), run)),
        _ => None,
    });
    let to: Vec<(String, RunId)> = to.collect();
    let others = store.list(&RunFilter::default()).unwrap().into_iter().map(|stored| stored.run.id);
    let mut others: Vec<RunId> = others.filter(|run| *run != source.run.id).collect();
    others.sort_unstable_by_key(|run| run.row());
    let mut named: Vec<RunId> = to.iter().map(|(_, run)| *run).collect();
    named.sort_unstable_by_key(|run| run.row());
    assert_eq!(others, named, "the runs that are there, and those that the history tells of");
    for (by, run) in &to {
        let is_from = |control: &Control| {
            let is = matches!(control.ask, Ask::ForkedFrom { run, .. } if run == source.run.id);
            is && control.by.as_deref() == Some(by)
        };
        assert_eq!(told(*run).filter(is_from).count(), 1, "the history of the fork that {by} has asked for");
        let came = came_of(&store.load(*run).unwrap().unwrap());
        let expected = came_of(source);
        for name in KEPT {
            let of = |came: &Came| came.tasks.iter().find(|task| task.0 == name).cloned();
            let kept = of(&came);
            assert_eq!(kept.as_ref().map(|task| task.1), Some(TaskStatus::Completed), "{name} in the fork of {by}");
            assert_eq!(kept, of(&expected), "{name} in the fork of {by}");
        }
    }
    let found: BTreeMap<String, RunId> = to.iter().cloned().collect();
    assert_eq!(found.len(), to.len(), "a fork was made twice: {to:?}");
    found
}

/// Waits until the source has ended all but what is done again or waits.
fn has_outcomes(engine: &Engine<Threads>, ledger: &Ledger, source: RunId) -> Option<StoredRun> {
    loop {
        let stored = ledger.stored(source);
        let came = came_of(&stored);
        let ended = |name: &str| came.tasks.iter().any(|task| task.0 == name && task.1 == TaskStatus::Completed);
        if ["kept", "each", "again", "last"].into_iter().all(ended) {
            return Some(stored);
        }
        std::thread::sleep(Duration::from_millis(1));
        engine.stopped().is_none().then_some(())?;
    }
}

/// A process that forks a run twice, unless its history tells that another one has, and waits for all three.
fn forked(store: Arc<dyn Store>, ledger: &Arc<Ledger>, defined: Vec<Defined>) -> Option<Came> {
    let engine = start(store, ledger, 2, Box::new(|_, _| ()))?;
    let came = forks_twice(&engine, ledger, defined);
    end(&engine);
    came
}

fn forks_twice(engine: &Arc<Engine<Threads>>, ledger: &Arc<Ledger>, defined: Vec<Defined>) -> Option<Came> {
    let (graph, bodies) = workflow(ledger, defined);
    let workflow = engine.register(graph, bodies).ok()?;
    let source = run_of(engine, &workflow)?;
    let stored = has_outcomes(engine, ledger, source)?;
    let below = ledger.store.lock().unwrap().clone().unwrap();
    let mut came = Came { status: RunStatus::Completed, tasks: Vec::new() };
    for by in ASKED_BY {
        while !forks(&*below, &stored).contains_key(by) {
            let request = ForkRequest {
                from: source,
                fork: Fork { start_at: vec!["again".into()], ..Fork::default() },
                inputs: None,
                by: Some(by.into()),
                reason: None,
                local: (),
            };
            match engine.fork(&workflow, request) {
                Ok(Handle::Live(_)) => {}
                // The next process asks again.
                Err(SubmitError::Stopped(_) | SubmitError::Store(_)) => return None,
                Ok(Handle::Watched(_)) => panic!("the fork is executed elsewhere"),
                Err(_) => panic!("the fork is refused"),
            }
        }
        ended(engine, ledger, forks(&*below, &stored)[by], &mut came)?;
    }
    ended(engine, ledger, source, &mut came)?;
    Some(came)
}

/// Sends a run the signal that it may wait for, and waits for its end.
fn ended(engine: &Arc<Engine<Threads>>, ledger: &Ledger, run: RunId, came: &mut Came) -> Option<()> {
    let (address, id) = (Address::signal("go"), Some("1".into()));
    // It may have come before, or the run may have ended.
    engine.send(Letter { run, address, id, content: Ok(number_value(1)) }).ok()?;
    match engine.handle(run).ok()?.settled().wait(HANG).expect("the run hangs") {
        Settlement::Run(_) => {}
        Settlement::Broken(_) | Settlement::Closed => return None,
        other => panic!("{other:?}"),
    }
    let this = came_of(&ledger.stored(run));
    assert_eq!(this.status, RunStatus::Completed);
    came.tasks.extend(this.tasks);
    Some(())
}

mod survives_a_crash_at_every_call {
    use super::*;

    #[test]
    fn a_fork_of_a_run_that_has_ended() {
        at_every_call_counting(&|what| what.contains('/'), &|store, ledger| forked(store, ledger, numbers()));
    }

    #[test]
    fn a_fork_of_a_run_that_waits() {
        at_every_call_counting(&|what| what.contains('/'), &|store, ledger| forked(store, ledger, waiting()));
    }
}
