//! What bodies show is written if their attempts are not over, and changes nothing else.

use std::time::Duration;

use bide_core::outbox::PROGRESS_EVERY;
use bide_core::{
    Channel, Effect, EntryKind, Event, Origin, Outbox, Outcome, Progress, Refused, RetryPolicy, RunStatus, TaskRef,
    TaskSpec, Time, Value, Write,
};

use crate::script::{RETRY, Script, spec, wait};

const FIRST: TaskRef = TaskRef::plain(0);

/// An event and a progress of an attempt of the first task.
fn shown(attempt: u32) -> Event {
    let mut outbox = Outbox::default();
    let channel = Channel { name: "log".into(), type_name: "".into(), keep: None };
    let origin = Origin { task: FIRST, attempt, entry: Some("step".into()) };
    let filled = outbox.emit(&channel, origin, b"t", Time(7)).unwrap();
    assert!(filled.first);
    let progress = Progress { done: 1.0, total: None, message: None, said_at: Time(8) };
    assert_eq!(outbox.progress(FIRST, attempt, progress, PROGRESS_EVERY), Some(Duration::ZERO));
    Event::Published(Box::new(outbox.take(None, PROGRESS_EVERY).unwrap()))
}

fn script() -> Script {
    Script::new(vec![TaskSpec { retry: RetryPolicy::new(3), ..spec("first", &[]) }, spec("second", &[])])
}

/// What is written of an attempt; it must be of the first task.
fn written(script: &mut Script, attempt: u32) -> usize {
    script.effects.clear();
    script.apply(shown(attempt)).unwrap();
    for write in &script.batch {
        match write {
            Write::Events(new) => {
                assert_eq!((&*new.channel, new.count, new.attempt, new.task), ("log", 1, attempt, 100));
                assert_eq!((new.entry.as_deref(), new.emitted_at), (Some("step"), Time(7)));
            }
            Write::Progress(row) => assert_eq!((row.task, row.progress.done), (100, 1.0)),
            other => panic!("{other:?}"),
        }
    }
    let emitted = script.effects.iter().filter(|effect| matches!(effect, Effect::Emitted)).count();
    assert_eq!(emitted, usize::from(!script.batch.is_empty()));
    assert_eq!(script.effects.len(), emitted);
    script.batch.len()
}

#[test]
fn what_the_current_attempt_shows_is_written_also_while_it_waits() {
    let mut script = script();
    script.enter("first");
    assert_eq!(written(&mut script, 1), 2);
    script.open("first", wait("w", EntryKind::Condition));
    assert_eq!(written(&mut script, 1), 2);
}

#[test]
fn what_an_attempt_shows_that_is_over_is_dropped() {
    let mut script = script();
    assert_eq!(written(&mut script, 1), 0, "it has not been entered");
    script.enter("first");
    script.fail("first", RETRY);
    assert_eq!(written(&mut script, 1), 0, "it has failed");
    script.due("first", bide_core::event::Timer::Retry).unwrap();
    script.enter("first");
    assert_eq!(written(&mut script, 1), 0, "it is not the current one");
    assert_eq!(written(&mut script, 2), 2);
    script.apply(Event::Started { task: FIRST, attempt: 2 }).unwrap();
    script.end("first", Outcome::Suspended).unwrap();
    assert_eq!(written(&mut script, 2), 0, "it is out of memory");
    script.die();
    assert_eq!(written(&mut script, 2), 0, "it has not been entered again");
    script.enter("first");
    assert_eq!(written(&mut script, 2), 2);
    script.end("first", Outcome::Completed { output: Value::NONE, changes: None }).unwrap();
    assert_eq!(written(&mut script, 2), 0, "it has completed");
    script.complete("second");
    assert_eq!(script.status(), RunStatus::Completed);
    assert_eq!(script.apply(shown(2)), Err(Refused::RunOver));
}
