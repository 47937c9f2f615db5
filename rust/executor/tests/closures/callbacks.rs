//! Callbacks of closures: answered by their token from anywhere, once, before and after a restart.

use std::sync::Arc;

use bide_executor::core::{CallbackToken, RunId};
use bide_executor::{Error, TaskContext, Workflow, after};
use tokio::sync::mpsc;

use crate::settle::{is_deferred, no_slot_in_use};
use crate::support::{HANG, on_every_store};

/// A body that waits for a payment, and where it hands out the token.
fn pays() -> (Workflow, mpsc::UnboundedReceiver<String>) {
    let (hand_out, tokens) = mpsc::unbounded_channel();
    let workflow = Workflow::builder("pays")
        .task("waits", move |cx: TaskContext| {
            let hand_out = hand_out.clone();
            async move {
                let handle = cx.handle();
                let paid = handle.callback::<u64>("paid").await?;
                hand_out.send(paid.token())?;
                let cents = handle.wait(&paid).await?;
                // The answer is kept: every wait for it gets it.
                assert_eq!(handle.wait(paid.wait()).await?, cents);
                Ok(cents)
            }
        })
        .build()
        .unwrap();
    (workflow, tokens)
}

fn rejected(error: &Error) -> String {
    assert!(matches!(error, Error::SignalRejected(_)), "{error:?}");
    error.to_string()
}

#[test]
fn an_answer_ends_the_wait_for_its_callback_which_holds_no_slot() {
    on_every_store(|place| async move {
        let (workflow, mut tokens) = pays();
        let runner = place.runner(1);
        let run = runner.submit(&workflow, &()).await.unwrap();
        let token = tokens.recv().await.unwrap();
        is_deferred(&place, run.id(), "waits").await;
        no_slot_in_use(&runner).await;
        runner.resolve(&*token, &700).await.unwrap();
        assert_eq!(run.result().await.unwrap().output::<u64>("waits").unwrap(), 700);
        runner.close().await;
    });
}

#[test]
fn a_callback_has_one_answer_and_one_that_is_sent_again_is_accepted() {
    on_every_store(|place| async move {
        let (workflow, mut tokens) = pays();
        let runner = place.runner(1);
        let run = runner.submit(&workflow, &()).await.unwrap();
        let token = tokens.recv().await.unwrap();
        runner.resolve(&*token, &700).id("webhook 1").await.unwrap();
        runner.resolve(&*token, &700).id("webhook 1").await.unwrap();
        for second in [runner.resolve(&*token, &9).id("webhook 1"), runner.resolve(&*token, &700)] {
            let error = rejected(&second.await.unwrap_err());
            assert!(error.contains("was answered before, and its first answer stands"), "{error}");
        }
        rejected(&runner.reject(&*token, "too late").await.unwrap_err());
        assert_eq!(run.result().await.unwrap().output::<u64>("waits").unwrap(), 700);
        runner.close().await;
    });
}

#[test]
fn a_token_is_the_same_after_a_restart_and_answers_while_nobody_executes_the_run() {
    on_every_store(|place| async move {
        let (workflow, mut tokens) = pays();
        let runner = place.runner(1);
        let run = runner.submit(&workflow, &()).await.unwrap().id();
        let token = tokens.recv().await.unwrap();
        is_deferred(&place, run, "waits").await;
        drop(runner);
        let runner = place.runner(1);
        runner.resolve(&*token, &700).await.unwrap();
        runner.register(&workflow).await.unwrap();
        let result = runner.handle(run).await.unwrap().result().await.unwrap();
        assert_eq!(result.output::<u64>("waits").unwrap(), 700);
        assert_eq!(tokens.recv().await.unwrap(), token);
        runner.close().await;
    });
}

#[test]
fn a_rejected_callback_fails_its_wait_with_the_reason() {
    on_every_store(|place| async move {
        let (hand_out, mut tokens) = mpsc::unbounded_channel();
        let workflow = Workflow::builder("rejected")
            .task("waits", move |cx: TaskContext| {
                let hand_out = hand_out.clone();
                async move {
                    let paid = cx.handle().callback::<u64>("paid").await?;
                    hand_out.send(paid.token())?;
                    let error = cx.handle().wait(paid).await.unwrap_err();
                    assert!(error.is_callback_rejected(), "{error}");
                    Ok(error.failure().unwrap().message())
                }
            })
            .build()
            .unwrap();
        let runner = place.runner(1);
        let run = runner.submit(&workflow, &()).await.unwrap();
        runner.reject(tokens.recv().await.unwrap(), "no money").await.unwrap();
        assert_eq!(run.result().await.unwrap().output::<String>("waits").unwrap(), "no money");
        runner.close().await;
    });
}

#[test]
fn a_callback_is_one_of_several_waits_and_its_answer_is_kept_if_another_comes_first() {
    on_every_store(|place| async move {
        let (hand_out, mut tokens) = mpsc::unbounded_channel();
        let workflow = Workflow::builder("several")
            .task("waits", move |cx: TaskContext| {
                let hand_out = hand_out.clone();
                async move {
                    let handle = cx.handle();
                    let paid = handle.callback::<u64>("paid").await?;
                    let asked = handle.callback::<String>("asked").await?;
                    hand_out.send((paid.token(), asked.token()))?;
                    let first = handle.wait_any((&paid, asked.clone(), after(HANG))).await?;
                    assert_eq!(first, (None, Some("who?".to_owned()), None));
                    handle.wait_all((paid, asked)).await
                }
            })
            .build()
            .unwrap();
        let runner = place.runner(1);
        let run = runner.submit(&workflow, &()).await.unwrap();
        let (paid, asked) = tokens.recv().await.unwrap();
        is_deferred(&place, run.id(), "waits").await;
        runner.resolve(asked, "who?").await.unwrap();
        runner.resolve(paid, &700).await.unwrap();
        let both: (u64, String) = run.result().await.unwrap().output("waits").unwrap();
        assert_eq!(both, (700, "who?".to_owned()));
        runner.close().await;
    });
}

#[test]
fn a_token_that_belongs_to_no_callback_is_refused_with_the_reason() {
    on_every_store(|place| async move {
        let (workflow, mut tokens) = pays();
        let runner = place.runner(1);
        let run = runner.submit(&workflow, &()).await.unwrap();
        let token = tokens.recv().await.unwrap();
        let forged = CallbackToken::new(run.id(), 7).to_string();
        let elsewhere = CallbackToken::new(RunId::new(1, 1, 1), 7).to_string();
        let mistyped = token[..47].to_owned();
        for (token, why) in [
            (forged, "has no callback with this token: the token is forged"),
            (elsewhere, "which is not in this store"),
            (mistyped, "(47 characters) is no token of bide: it is mistyped or cut off"),
        ] {
            let error = rejected(&runner.resolve(token, &1).await.unwrap_err());
            assert!(error.contains(why), "{error}");
        }
        let error = runner.resolve(&*token, &f64::NAN).await.unwrap_err();
        assert!(matches!(error, Error::Definition(_)), "{error:?}");
        runner.resolve(token, &1).await.unwrap();
        run.result().await.unwrap();
        runner.close().await;
    });
}

#[test]
fn a_callback_that_a_checkpoint_has_dropped_is_not_waited_for() {
    on_every_store(|place| async move {
        let workflow = Workflow::builder("drops")
            .task("drops", |cx: TaskContext| async move {
                let paid = cx.handle().callback::<u64>("paid").await?;
                cx.handle().checkpoint(&1).await?;
                let error = cx.handle().wait(paid).await.unwrap_err().to_string();
                assert!(error.contains("the callback 'paid' was dropped by a checkpoint"), "{error}");
                Ok(())
            })
            .build()
            .unwrap();
        let runner = place.runner(1);
        runner.run(&workflow, ()).await.unwrap();
        runner.close().await;
    });
}

#[test]
fn a_log_shows_no_token() {
    on_every_store(|place| async move {
        let workflow = Workflow::builder("logs")
            .task("logs", |cx: TaskContext| async move {
                let paid = Arc::new(cx.handle().callback::<u64>("paid").await?);
                assert_eq!(format!("{paid:?}"), format!("Callback(\"paid\" of run {})", cx.run_id()));
                Ok(())
            })
            .build()
            .unwrap();
        let runner = place.runner(1);
        runner.run(&workflow, ()).await.unwrap();
        runner.close().await;
    });
}
