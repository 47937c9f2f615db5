//! Random workflows, outcomes and interleavings, undisturbed and with crashes and closes.
//!
//! `harness.rs` and `store.rs` check what must hold at every moment: a task starts after the committed ends of its
//! dependencies, each attempt is ready once, nothing committed runs again, rows survive recovery, deadlines stay.
//! This file checks how the runs end.

use bide_core::record::Mark;
use bide_core::{RunIf, RunStatus, TaskIx, TaskRef, TaskStatus, Value};
use proptest::prelude::*;

use crate::harness::{Disasters, World};
use crate::plan::{Expected, TaskPlan, expect, oracle, plans};

fn check(world: &World, expected: &[Expected]) {
    for (ix, expected) in (0..).zip(expected) {
        let row = world.store.row(ix).unwrap();
        assert_eq!((row.status, row.attempts), (expected.status, expected.attempts), "task {ix}");
        check_row(world, ix);
        if row.status == TaskStatus::Skipped && expected.root != ix {
            let root = world.graph.name(expected.root);
            assert_eq!(row.blocked_by.as_ref(), Some(root), "task {ix} is skipped for the root cause");
        }
    }
    check_run(world);
}

fn check_row(world: &World, ix: TaskIx) {
    let row = world.store.row(ix).unwrap();
    assert!(row.status.is_ended(), "task {ix}");
    let output = (row.status == TaskStatus::Completed).then(|| Value::tagged(b'i', ix.to_string().as_bytes()));
    assert_eq!(row.output, output, "task {ix}");
    assert!(row.mark == Mark::default() && row.sub_status.is_none() && row.retry_at.is_none(), "task {ix}: {row:?}");
    assert!(row.first_started_at <= row.started_at && row.started_at <= row.ended_at, "task {ix}: {row:?}");
    let since = row.ended_at.unwrap().0 - 1_000_000;
    assert!(row.waited >= 0 && row.waited <= since, "task {ix} waited longer than there was time: {row:?}");
}

fn check_run(world: &World) {
    let failed = (0..world.plans.len() as TaskIx).any(|ix| world.store.row(ix).unwrap().status == TaskStatus::Failed);
    let status = if failed { RunStatus::Failed } else { RunStatus::Completed };
    assert_eq!((world.settled, world.store.run.status), (Some(status), status));
    assert_eq!(world.store.run.failure.is_some(), failed);
    assert!(world.store.run.ended_at.is_some());
    // Recovery reads every row back unchanged; memory and store agree.
    world.store.clone().recover(&world.graph);
    for ix in (0..world.plans.len() as TaskIx).filter(|_| world.state.status() == status) {
        assert_eq!(Some(&world.state.task_row(TaskRef::plain(ix))), world.store.row(ix));
    }
}

fn run(plans: Vec<TaskPlan>, fail_fast: bool, seed: u64, disasters: Disasters) -> World {
    let mut world = World::new(plans, fail_fast, seed, disasters);
    world.run();
    world
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 400, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn a_run_ends_as_the_oracle_says_in_any_order(plans in plans(), seed: u64) {
        let world = run(plans, false, seed, Disasters::default());
        check(&world, &oracle(&world.graph, &world.plans));
    }

    #[test]
    fn crashes_change_neither_statuses_nor_outputs(plans in plans(), seed: u64, crashes in 1..=4u32) {
        let world = run(plans, false, seed, Disasters { crashes, ..Disasters::default() });
        check(&world, &oracle(&world.graph, &world.plans));
    }

    #[test]
    fn any_number_of_closes_is_no_crash(plans in plans(), seed: u64) {
        let world = run(plans, false, seed, Disasters { closes: 30, ..Disasters::default() });
        check(&world, &oracle(&world.graph, &world.plans));
        prop_assert_eq!(world.store.run.crashes, 0);
    }

    #[test]
    fn fail_fast_skips_tasks_that_have_not_started(plans in plans(), seed: u64, crashes in 0..=4u32) {
        let world = run(plans, true, seed, Disasters { crashes, ..Disasters::default() });
        // Which tasks had started depends on timing: each must match how its dependencies really ended, or be
        // skipped for a failure.
        let mut ends: Vec<Option<Expected>> = vec![None; world.plans.len()];
        for ix in 0..world.plans.len() as TaskIx {
            check_row(&world, ix);
            let mut expected = expect(&world.graph, &world.plans[ix as usize], ix, &ends);
            let row = world.store.row(ix).unwrap();
            let fits = (row.status, row.attempts) == (expected.status, expected.attempts);
            if !fits && row.status == TaskStatus::Skipped && row.started_at.is_none() {
                prop_assert!(matches!(world.graph.spec(ix).run_if, RunIf::Succeeded | RunIf::NoneFailed));
                prop_assert_eq!(world.store.run.status, RunStatus::Failed);
                expected.failed = true;
            } else {
                prop_assert!(fits, "task {}: {:?}, not {:?}", ix, row, expected);
            }
            expected.status = row.status;
            // Skipped for a failure, though none of its dependencies failed.
            expected.failed |= row.status == TaskStatus::Skipped
                && row.started_at.is_none()
                && row.blocked_by.as_ref().and_then(|name| world.graph.find(name)).is_some_and(|cause| {
                    world.store.row(cause).unwrap().status == TaskStatus::Failed
                });
            ends[ix as usize] = Some(expected);
        }
        check_run(&world);
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 40, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn a_crash_before_or_after_any_single_commit_changes_nothing(plans in plans(), seed: u64) {
        let calm = run(plans.clone(), false, seed, Disasters::default());
        let expected = oracle(&calm.graph, &calm.plans);
        for at in 1..=calm.commits {
            for after in [false, true] {
                let disasters = Disasters { at: Some((at, after)), ..Disasters::default() };
                check(&run(plans.clone(), false, seed, disasters), &expected);
            }
        }
    }
}
