//! What a failure means for other tasks and for the run.

use bide_core::{Outcome, RunIf, RunStatus, TaskSpec, TaskStatus};

use crate::script::{Script, spec};

fn run_if(name: &str, on: &[&str], run_if: RunIf) -> TaskSpec {
    TaskSpec { run_if, ..spec(name, on) }
}

fn skip(script: &mut Script, name: &str, reason: &str) {
    script.enter(name);
    script.end(name, Outcome::Skipped { reason: reason.into() }).unwrap();
}

#[test]
fn a_failure_skips_its_dependents_and_other_branches_finish() {
    let mut script = Script::new(vec![spec("a", &[]), spec("b", &["a"]), spec("c", &["b"]), spec("d", &[])]);
    script.enter("a");
    script.fail("a", None);
    for name in ["b", "c"] {
        assert_eq!(script.row(name).status, TaskStatus::Skipped);
        assert_eq!(script.blocked_by(name), "a", "the root cause, not the task before it");
        assert_eq!((script.row(name).attempts, script.row(name).started_at), (0, None));
    }
    assert_eq!(script.status(), RunStatus::Running);
    script.complete("d");
    assert_eq!(script.status(), RunStatus::Failed);
}

#[test]
fn the_first_failure_survives_a_crash_while_other_branches_run() {
    let mut script = Script::new(vec![spec("a", &[]), spec("b", &[]), spec("c", &[])]);
    script.enter("b");
    script.fail("b", None);
    assert_eq!(script.store.run.failure.as_ref().unwrap().message(), "b");
    script.die();
    script.enter("a");
    script.fail("a", None);
    script.complete("c");
    assert_eq!(script.status(), RunStatus::Failed);
    assert_eq!(script.store.run.failure.as_ref().unwrap().message(), "b");
}

#[test]
fn run_if_is_decided_once_all_dependencies_have_ended() {
    let rules = |on: &[&'static str]| {
        vec![
            spec("a", &[]),
            spec("b", &[]),
            run_if("succeeded", on, RunIf::Succeeded),
            run_if("none_failed", on, RunIf::NoneFailed),
            run_if("failed", on, RunIf::Failed),
            run_if("done", on, RunIf::Done),
        ]
    };
    let mut script = Script::new(rules(&["a", "b"]));
    script.enter("a");
    script.fail("a", None);
    assert_eq!(script.ready(), ["a", "b"], "nothing is decided before b has ended");
    script.complete("b");
    assert_eq!(script.ready(), ["failed", "done"]);
    assert_eq!(script.blocked_by("succeeded"), "a");
    assert_eq!(script.blocked_by("none_failed"), "a");

    let mut script = Script::new(rules(&["a", "b"]));
    script.complete("a");
    script.complete("b");
    assert_eq!(script.ready(), ["a", "b", "succeeded", "none_failed", "done"]);
    assert_eq!(script.row("failed").status, TaskStatus::Skipped);

    let mut script = Script::new(rules(&["a", "b"]));
    skip(&mut script, "a", "no news");
    script.complete("b");
    assert_eq!(script.ready(), ["a", "b", "none_failed", "done"], "a skip is neither a success nor a failure");
    assert_eq!(script.blocked_by("succeeded"), "a");
}

#[test]
fn only_a_skip_because_of_a_failure_counts_as_failed() {
    let specs =
        vec![spec("a", &[]), spec("b", &["a"]), run_if("mend", &["b"], RunIf::Failed), spec("after", &["mend"])];
    let mut script = Script::new(specs.clone());
    script.enter("a");
    script.fail("a", None);
    assert_eq!(script.ready(), ["a", "mend"]);

    let mut script = Script::new(specs);
    skip(&mut script, "a", "no news");
    assert_eq!(script.blocked_by("mend"), "no task that it depends on failed");
    assert_eq!(script.blocked_by("after"), "mend", "named for what it depends on, not in the other's words");
    assert_eq!(script.status(), RunStatus::Completed, "to skip is not to fail");
}

#[test]
fn a_root_that_is_there_for_failures_has_none_to_run_for() {
    let mut script = Script::new(vec![run_if("mend", &[], RunIf::Failed), spec("a", &[])]);
    assert_eq!(script.row("mend").status, TaskStatus::Skipped);
    script.complete("a");
    assert_eq!(script.status(), RunStatus::Completed);
    let script = Script::new(vec![run_if("mend", &[], RunIf::Failed)]);
    assert_eq!(script.status(), RunStatus::Completed);
}

#[test]
fn a_reason_that_is_the_name_of_a_failed_task_is_no_failure_after_a_crash() {
    let mend = run_if("mend", &["b", "gate"], RunIf::Failed);
    let mut script = Script::new(vec![spec("a", &[]), spec("b", &[]), spec("gate", &[]), mend]);
    script.enter("a");
    script.fail("a", None);
    skip(&mut script, "b", "a");
    script.die();
    script.complete("gate");
    assert_eq!(script.row("mend").status, TaskStatus::Skipped);
}

#[test]
fn a_task_named_like_the_text_of_a_skip_is_not_taken_for_its_cause() {
    let text = "no task that it depends on failed";
    let specs = vec![
        spec(text, &[]),
        spec("a", &[]),
        run_if("mend", &["a"], RunIf::Failed),
        spec("gate", &[]),
        spec("after", &["mend", "gate"]),
    ];
    let mut script = Script::new(specs);
    script.enter(text);
    script.fail(text, None);
    script.complete("a");
    assert_eq!((script.row("mend").status, script.blocked_by("mend")), (TaskStatus::Skipped, text));
    script.die();
    script.complete("gate");
    assert_eq!(script.blocked_by("after"), "mend");
}

#[test]
fn a_skip_for_a_failure_is_known_as_one_after_a_crash() {
    let mend = run_if("mend", &["b", "gate"], RunIf::Failed);
    let mut script = Script::new(vec![spec("a", &[]), spec("b", &["a"]), spec("gate", &[]), mend]);
    script.enter("a");
    script.fail("a", None);
    script.die();
    script.complete("gate");
    assert_eq!(script.ready(), ["gate", "mend"]);
}

#[test]
fn fail_fast_skips_unstarted_tasks_except_those_for_failures() {
    let mut script = Script::fail_fast(vec![
        spec("a", &[]),
        spec("runs", &[]),
        spec("queued", &[]),
        spec("later", &["runs"]),
        run_if("report", &["runs", "a"], RunIf::Done),
    ]);
    script.enter("a");
    script.enter("runs");
    script.fail("a", None);
    for name in ["queued", "later"] {
        assert_eq!((script.row(name).status, script.blocked_by(name)), (TaskStatus::Skipped, "a"));
    }
    assert_eq!(script.state.enter(bide_core::TaskRef::plain(2), script.now), None, "its Ready comes too late");
    script.end("runs", Outcome::Completed { output: bide_core::Value::NONE, changes: None }).unwrap();
    script.complete("report");
    assert_eq!(script.status(), RunStatus::Failed);
}

#[test]
fn a_task_that_a_newer_version_added_runs_by_the_same_rules() {
    let old = vec![spec("a", &[]), spec("b", &["a"]), spec("c", &[])];
    let mut script = Script::new(old.clone());
    script.enter("a");
    script.fail("a", None);
    let mut new = old.clone();
    new.extend([spec("root", &[]), spec("on_c", &["c"]), spec("on_b", &["b"]), run_if("mend", &["b"], RunIf::Failed)]);
    script.die_for_version(new);
    assert_eq!(script.ready(), ["c", "root", "mend"]);
    assert_eq!(script.blocked_by("on_b"), "a");
    script.complete("c");
    assert_eq!(script.ready(), ["on_c"]);

    let mut script = Script::fail_fast(old.clone());
    script.enter("c");
    script.enter("a");
    script.fail("a", None);
    let mut new = old;
    new.push(spec("root", &[]));
    script.die_for_version(new);
    assert_eq!(script.blocked_by("root"), "a", "after a failure nothing starts");
}
