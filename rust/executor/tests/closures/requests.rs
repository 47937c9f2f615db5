//! Requests to runs of closures: answered once by the body that has taken them, also after a restart, or refused.

use std::sync::Arc;
use std::time::Duration;

use bide_executor::{Error, Received, TaskContext, TaskError, Workflow, any_of, request, signal};
use tokio::sync::Notify;

use crate::settle::is_deferred;
use crate::support::{HANG, SOON, on_every_store};

/// A body that answers requests until it is told to stop.
fn seller() -> Workflow {
    Workflow::builder("seller")
        .task("sell", |cx: TaskContext| async move {
            let handle = cx.handle();
            let mut sold = 0;
            loop {
                let waits = (request::<String, u64>("quote"), signal::<()>("close"));
                let (Some(asked), _) = handle.wait_any(waits).await? else { return Ok(sold) };
                match &*asked.value {
                    "nuts" => asked.reply(&7).await?,
                    other => asked.refuse(format!("no {other} here")).await?,
                }
                sold += 1;
            }
        })
        .build()
        .unwrap()
}

fn refused(error: &Error) -> String {
    assert!(matches!(error, Error::RequestRefused(_)), "{error:?}");
    error.to_string()
}

#[test]
fn a_request_returns_what_its_body_answers_or_why_it_refuses() {
    on_every_store(|place| async move {
        let runner = place.runner(1);
        let run = runner.submit(&seller(), &()).await.unwrap();
        // One may come before its wait, and one after it.
        assert_eq!(run.request::<_, u64>("quote", "nuts").await.unwrap(), 7);
        is_deferred(&place, run.id(), "sell").await;
        assert_eq!(runner.request::<_, u64>(run.id(), "quote", "nuts").id("one").await.unwrap(), 7);
        // The same once more gets the answer to the first one.
        assert_eq!(runner.request::<_, u64>(run.id(), "quote", "nuts").id("one").await.unwrap(), 7);
        let error = run.request::<_, u64>("quote", "bolts").await.unwrap_err();
        assert_eq!(refused(&error), "no bolts here");
        run.signal("close", &()).await.unwrap();
        assert_eq!(run.result().await.unwrap().output::<u32>("sell").unwrap(), 3);
        runner.close().await;
    });
}

#[test]
fn a_request_is_answered_once_and_after_a_restart_only_if_it_was_not() {
    on_every_store(|place| async move {
        let (taken, go) = (Arc::new(Notify::new()), Arc::new(Notify::new()));
        let parts = (Arc::clone(&taken), Arc::clone(&go));
        let workflow = Workflow::builder("once")
            .task("answers", move |cx: TaskContext| {
                let (taken, go) = parts.clone();
                async move {
                    let handle = cx.handle();
                    let first = handle.wait(request::<u64, u64>("first")).await?;
                    first.reply(&(first.value + 1)).await?;
                    let error = first.reply(&0).await.unwrap_err().to_string();
                    assert!(error.contains("was answered before, and has one answer"), "{error}");
                    let second = handle.wait(request::<u64, u64>("second")).await?;
                    taken.notify_one();
                    go.notified().await;
                    second.reply(&(second.value + 1)).await?;
                    // A run that has ended takes no request, not even one that it has answered.
                    handle.wait_for::<()>("end").await
                }
            })
            .build()
            .unwrap();
        let runner = place.runner(1);
        let run = runner.submit(&workflow, &()).await.unwrap();
        assert_eq!(run.request::<_, u64>("first", &1).await.unwrap(), 2);
        let id = run.id();
        let second = tokio::spawn(run.request::<_, u64>("second", &10).id("second").into_future());
        taken.notified().await;
        drop(runner);
        let error = second.await.unwrap().unwrap_err();
        assert!(matches!(error, Error::Closed), "{error:?}");

        let runner = place.runner(1);
        runner.register(&workflow).await.unwrap();
        taken.notified().await;
        go.notify_one();
        assert_eq!(runner.request::<_, u64>(id, "second", &10).id("second").await.unwrap(), 11);
        runner.signal(id, "end", &()).await.unwrap();
        runner.handle(id).await.unwrap().result().await.unwrap();
        runner.close().await;
    });
}

#[test]
fn a_request_whose_sender_has_given_up_is_withdrawn() {
    on_every_store(|place| async move {
        let workflow = Workflow::builder("late")
            .task("answers", |cx: TaskContext| async move {
                cx.handle().wait_for::<()>("begin").await?;
                let asked = cx.handle().wait(request::<u64, u64>("quote")).await?;
                asked.reply(&asked.value).await?;
                Ok(asked.value)
            })
            .build()
            .unwrap();
        let runner = place.runner(1);
        let run = runner.submit(&workflow, &()).await.unwrap();
        let error = run.request::<_, u64>("quote", &1).id("again").timeout(SOON).await.unwrap_err();
        assert!(matches!(&error, Error::TimedOut(why) if why.contains("it is withdrawn")), "{error:?}");
        // Its id can be used again.
        let again = run.request::<_, u64>("quote", &2).id("again");
        run.signal("begin", &()).await.unwrap();
        assert_eq!(again.await.unwrap(), 2);
        assert_eq!(run.result().await.unwrap().output::<u64>("answers").unwrap(), 2);
        runner.close().await;
    });
}

#[test]
fn a_request_that_nobody_waits_for_any_more_is_withdrawn() {
    on_every_store(|place| async move {
        let runner = place.runner(1);
        let run = runner.submit(&waits_for_begin(), &()).await.unwrap();
        // Before it is sent, and after that.
        for patience in [Duration::ZERO, Duration::from_millis(20)] {
            let asked = tokio::time::timeout(patience, run.request::<_, u64>("quote", &1).into_future());
            assert!(asked.await.is_err(), "nobody answers yet");
        }
        while place.open().messages(run.id(), 0).unwrap().iter().any(|stored| !stored.consumed) {
            tokio::task::yield_now().await;
        }
        run.signal("begin", &()).await.unwrap();
        run.result().await.unwrap();
        runner.close().await;
    });
}

fn waits_for_begin() -> Workflow {
    let body = |cx: TaskContext| async move { cx.handle().wait_for::<()>("begin").await };
    Workflow::builder("begins").task("waits", body).build().unwrap()
}

#[test]
fn a_request_that_cannot_be_answered_is_refused() {
    on_every_store(|place| async move {
        let workflow = Workflow::builder("forgets")
            .task("takes", |cx: TaskContext| async move {
                let error = cx.handle().wait(request::<u64, u64>("number")).await.unwrap_err();
                assert!(error.to_string().contains("does not read back as what is asked for"), "{error}");
                let asked = cx.handle().wait(request::<String, f64>("text")).await?;
                let error = asked.reply(&f64::NAN).await.unwrap_err().to_string();
                assert!(error.contains("the answer to the request 'text' cannot be stored"), "{error}");
                Ok(())
            })
            .build()
            .unwrap();
        let runner = place.runner(1);
        let run = runner.submit(&workflow, &()).await.unwrap();
        let error = run.request::<_, u64>("number", "seven").await.unwrap_err();
        assert!(refused(&error).contains("does not read back as what is asked for"), "{error}");
        let error = run.request::<_, f64>("text", "seven").await.unwrap_err();
        assert!(refused(&error).contains("task 'takes'"), "{error}");
        run.result().await.unwrap();
        let error = run.request::<_, u64>("number", &7).await.unwrap_err();
        assert!(matches!(&error, Error::SignalRejected(why) if why.contains("has ended")), "{error:?}");
        runner.close().await;
    });
}

#[test]
fn an_answer_of_another_type_is_an_error_of_its_sender() {
    on_every_store(|place| async move {
        let runner = place.runner(1);
        let run = runner.submit(&seller(), &()).await.unwrap();
        let error = run.request::<_, String>("quote", "nuts").await.unwrap_err();
        assert!(matches!(error, Error::Serialization(_)), "{error:?}");
        run.signal("close", &()).await.unwrap();
        run.result().await.unwrap();
        runner.close().await;
    });
}

#[test]
fn the_body_behind_a_gate_answers_the_request_that_has_opened_it() {
    on_every_store(|place| async move {
        let workflow = Workflow::builder("gated")
            .task("answers", |cx: TaskContext| async move {
                let (asked, never) = cx.gate::<(Option<Received<u64, u64>>, Option<()>)>()?;
                assert_eq!(never, None);
                let asked = asked.ok_or_else(|| TaskError::new("the request has not come"))?;
                asked.reply(&(2 * asked.value)).await
            })
            .gate(any_of((request::<u64, u64>("double"), signal::<()>("never"))))
            .signals(["double", "never"])
            .build()
            .unwrap();
        let runner = place.runner(1);
        let run = runner.submit(&workflow, &()).await.unwrap();
        let error = run.request::<_, u64>("treble", &21).await.unwrap_err();
        assert!(matches!(&error, Error::SignalRejected(why) if why.contains("'double', 'never'")), "{error:?}");
        assert_eq!(run.request::<_, u64>("double", &21).timeout(HANG).await.unwrap(), 42);
        run.result().await.unwrap();
        runner.close().await;
    });
}
