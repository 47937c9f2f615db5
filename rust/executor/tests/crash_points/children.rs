//! Child runs of closures.

use std::sync::Arc;

use bide_executor::core::RunStatus;
use bide_executor::{TaskContext, TaskError, Workflow};

use crate::world::Ledger;
use crate::{step, workflow};

fn inner(ledger: &Arc<Ledger>) -> Workflow {
    task!(workflow("inner"), ledger, "inner" after [], |cx, ledger| step(&cx, &ledger, "inner step", 3).await)
        .build()
        .unwrap()
}

/// However often it is tried, there is one child.
fn a_child_between_steps(ledger: &Arc<Ledger>) -> Workflow {
    task!(workflow("parent"), ledger, "a" after [], |cx, ledger| {
        let (handle, inner) = (cx.handle(), inner(&ledger));
        let first = step(&cx, &ledger, "first", 7).await?;
        // A store that is busy fails what only looks at it.
        let passes = |error: &TaskError| !error.is_suspended();
        let child = loop {
            match handle.start(&inner, &()).key("one").await {
                Err(error) if passes(&error) => tokio::task::yield_now().await,
                started => break started?,
            }
        };
        let ended = loop {
            match handle.wait(&child).await {
                Err(error) if passes(&error) => tokio::task::yield_now().await,
                ended => break ended?,
            }
        };
        let store = ledger.store.lock().unwrap().clone().unwrap();
        assert_eq!(store.children(cx.run_id()).unwrap(), [(child.id(), RunStatus::Completed)]);
        Ok(first + ended.output::<u32>("inner")? + step(&cx, &ledger, "last", 8).await?)
    })
    .build()
    .unwrap()
}

crash_points! {
    a_child_between_steps
}
