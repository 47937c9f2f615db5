//! Runs that are cancelled, paused and retried, crashed before and after every call of the store: also of those that ask.

use std::sync::Arc;
use std::time::Duration;

use bide_executor::core::{Entry, EntryState, RunIf};
use bide_executor::store::Store;
use bide_executor::{Clock, Error, RunHandle, Runner, TaskContext, TaskError, Workflow};

use crate::world::{Came, HANG, Ledger, at_every_call_counting};
use crate::{step, wait, workflow};

const DAY: Duration = Duration::from_secs(24 * 3600);

/// A body that waits for a signal, and cleans up when it is cancelled; one that follows; and one that always tidies up.
fn waits(ledger: &Arc<Ledger>) -> Workflow {
    let built = task!(workflow("waits"), ledger, "a" after [], |cx, ledger| {
        step(&cx, &ledger, "submit", 1).await?;
        match cx.handle().wait_for::<u32>("go").await {
            Err(error) if error.is_cancelled() => {
                step(&cx, &ledger, "undo", 2).await?;
                wait(&cx, &ledger, "undone").await?;
                Err(error)
            }
            waited => waited,
        }
    });
    let built = task!(built, ledger, "b" after ["a"], |cx, ledger| step(&cx, &ledger, "then", 3).await);
    task!(built, ledger, "tidies" after ["b"], |cx, ledger| step(&cx, &ledger, "tidy", 4).await)
        .run_if(RunIf::Done)
        .build()
        .unwrap()
}

/// Fails in its first attempt.
fn fails(ledger: &Arc<Ledger>) -> Workflow {
    let built = task!(workflow("fails"), ledger, "a" after [], |cx, ledger| {
        let number = step(&cx, &ledger, "kept", 7).await?;
        if cx.attempt() < 2 { Err(TaskError::new("not yet")) } else { Ok(number) }
    });
    task!(built, ledger, "b" after ["a"], |cx, ledger| step(&cx, &ledger, "then", 8).await).build().unwrap()
}

/// Waits until the body has opened its wait, unless that is over: false if it is.
async fn is_waiting(ledger: &Ledger, run: &RunHandle) -> bool {
    loop {
        let stored = ledger.stored(run.id());
        if stored.run.cancel.is_some() || stored.run.status.is_ended() {
            return false;
        }
        let mut entries = stored.entries.iter().map(|(.., entry)| entry);
        match entries.find(|entry: &&Entry| &*entry.key.name == "go").map(|entry| entry.state) {
            Some(EntryState::Open) => return true,
            Some(_) => return false,
            None => tokio::time::sleep(Duration::from_millis(1)).await,
        }
    }
}

async fn cancels(ledger: &Ledger, run: &RunHandle) -> Result<(), Error> {
    if is_waiting(ledger, run).await {
        run.cancel().by("ana").await?;
    }
    Ok(())
}

async fn pauses(ledger: &Ledger, run: &RunHandle) -> Result<(), Error> {
    if is_waiting(ledger, run).await {
        run.pause().await?;
        run.signal("go", &7).await?;
    }
    if !ledger.stored(run.id()).run.status.is_ended() {
        run.resume().await?;
    }
    Ok(())
}

async fn retries(ledger: &Ledger, run: &RunHandle) -> Result<(), Error> {
    loop {
        match run.result().await {
            Err(Error::Failed(failed)) if failed.result.tasks[0].attempts < 2 => match run.retry().await {
                // It was retried before the process died.
                Err(Error::TooLate(_)) if !ledger.stored(run.id()).run.status.is_ended() => {}
                asked => asked?,
            },
            result => return result.map(drop),
        }
    }
}

/// A process that asks something of the run, and waits for it.
fn asked(
    store: Arc<dyn Store>,
    ledger: &Arc<Ledger>,
    workflow: &Workflow,
    asks: impl AsyncFn(&Ledger, &RunHandle) -> Result<(), Error>,
) -> Option<Came> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        let clock = Arc::clone(&ledger.clock) as Arc<dyn Clock>;
        let runner =
            Runner::open(store).slots(2).clock(clock).cancel_grace(HANG, 100 * DAY).log(|_, _| ()).start().ok()?;
        let result = async {
            let run = runner.submit(workflow, &()).key("k").await.ok()?;
            let died = async {
                if !matches!(run.result().await, Err(Error::Store(_) | Error::Closed)) {
                    std::future::pending::<()>().await;
                }
            };
            tokio::select! {
                asked = asks(ledger, &run) => asked.ok()?,
                () = died => return None,
            }
            match run.result().await {
                Ok(result) => Some(Came::of(&result)),
                Err(Error::Failed(failed)) => Some(Came::of(&failed.result)),
                Err(Error::Store(_) | Error::Closed) => None,
                Err(error) => panic!("{error}"),
            }
        };
        let came = tokio::time::timeout(HANG, result).await.expect("the run hangs");
        runner.close_within(Duration::ZERO).await;
        came
    })
}

mod survives_a_crash_at_every_call {
    use super::*;

    #[test]
    fn a_cancelled_run() {
        at_every_call_counting(&|what| what.contains('/'), &|store, ledger| {
            asked(store, ledger, &waits(ledger), cancels)
        });
    }

    #[test]
    fn a_paused_run() {
        at_every_call_counting(&|what| what.contains('/'), &|store, ledger| {
            asked(store, ledger, &waits(ledger), pauses)
        });
    }

    #[test]
    fn a_retried_run() {
        at_every_call_counting(&|what| what.contains('/'), &|store, ledger| {
            asked(store, ledger, &fails(ledger), retries)
        });
    }
}
