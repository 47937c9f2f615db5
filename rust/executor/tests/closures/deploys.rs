//! Runs that older code started: newer code continues them, by new names or because somebody vouches for it.

use bide_executor::{Error, TaskContext, Workflow};

use crate::settle::is_deferred;
use crate::support::on_every_store;

/// Waits, under this name.
fn waiting(task: &'static str) -> bide_executor::WorkflowBuilder {
    Workflow::builder("deployed").task(task, move |cx: TaskContext| async move {
        let step = cx.handle().step("name", &(), async move || Ok(task.to_owned())).await?;
        cx.handle().wait_for::<()>("go").await?;
        Ok(step)
    })
}

#[test]
fn a_renamed_task_continues_with_its_journal() {
    on_every_store(|place| async move {
        let runner = place.runner(2);
        let run = runner.submit(&waiting("old").build().unwrap(), &()).await.unwrap().id();
        is_deferred(&place, run, "old").await;
        runner.close().await;
        let runner = place.runner(2);
        runner.register(&waiting("new").renamed("old", "new").build().unwrap()).await.unwrap();
        runner.signal(run, "go", &()).await.unwrap();
        let result = runner.handle(run).await.unwrap().result().await.unwrap();
        assert_eq!(result.output::<String>("new").unwrap(), "old");
        runner.close().await;
    });
}

#[test]
fn a_run_that_no_code_fits_is_adopted() {
    on_every_store(|place| async move {
        let runner = place.runner(2);
        let ends = waiting("wait").task("end", |_| async { Ok(1) }).after(["wait"]).build().unwrap();
        let run = runner.submit(&ends, &()).await.unwrap().id();
        is_deferred(&place, run, "wait").await;
        runner.close().await;
        let runner = place.runner(2);
        let lacks = waiting("wait").build().unwrap();
        let error = runner.adopt(run, &lacks, None, None).await.unwrap_err();
        assert!(error.to_string().contains("it lacks 'end'"), "{error}");
        let apart = waiting("wait").task("end", |_| async { Ok(2) }).build().unwrap();
        runner.adopt(run, &apart, Some("ana"), Some("it fits")).await.unwrap();
        runner.signal(run, "go", &()).await.unwrap();
        let result = runner.handle(run).await.unwrap().result().await.unwrap();
        assert_eq!(result.output::<u32>("end").unwrap(), 2);
        assert!(matches!(runner.adopt(run, &lacks, None, None).await.unwrap_err(), Error::TooLate(_)));
        runner.close().await;
    });
}

#[test]
fn names_that_cannot_be_renamed_are_refused() {
    let stays = waiting("new").renamed("new", "new").build().unwrap_err();
    assert!(stays.0.contains("there is still a task named 'new'"), "{stays}");
    let unknown = waiting("new").renamed("old", "nwe").build().unwrap_err();
    assert!(unknown.0.contains("no task has that name; did you mean 'new'?"), "{unknown}");
}
