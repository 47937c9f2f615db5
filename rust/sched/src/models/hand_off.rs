//! Models of the hand-off: which thread is woken for a job, and which gets a slot that is released.

use super::engine::{Body, Engine, explore};
use crate::Woken;

/// Ends at once.
const PLAIN: Body = |_, _, permit, _| Some(permit);

#[test]
fn work_that_comes_while_a_worker_falls_asleep_is_executed() {
    explore(|| {
        let engine = Engine::open(1, PLAIN);
        engine.push(&[1]);
        engine.await_event(1);
        // The worker looks for more at this moment, or sleeps already.
        engine.push(&[2]);
        engine.await_event(2);
        engine.close_with_all_slots();
    });
}

#[test]
fn work_that_was_announced_is_executed_however_long_it_takes_to_come() {
    explore(|| {
        let engine = Engine::open(1, PLAIN);
        engine.pool.announce();
        // The worker that was woken for it may have given up already.
        engine.push(&[1]);
        engine.pool.withdraw_announcement();
        engine.await_event(1);
        engine.close_with_all_slots();
    });
}

#[test]
fn work_that_comes_while_a_body_defers_is_executed_at_once() {
    // 1 defers a second time, so that there is an idle worker besides, and waits for 2, which comes meanwhile.
    const BODY: Body = |engine, body, permit, parker| {
        if body != 1 {
            return Some(permit);
        }
        let permit = engine.defer(permit, parker, || true)?;
        engine.signal(10);
        engine.defer(permit, parker, || {
            engine.await_event(2);
            true
        })
    };
    explore(|| {
        let engine = Engine::open(1, BODY);
        engine.push(&[1]);
        engine.await_event(10);
        engine.push(&[2]);
        engine.await_event(1);
        engine.close_with_all_slots();
    });
}

#[test]
fn a_body_whose_wait_is_over_gets_the_slot_that_another_releases() {
    // One slot: 1 waits until 2 has begun, and resumes while 2 executes, ends or has ended.
    const BODY: Body = |engine, body, permit, parker| {
        engine.signal(10 + body);
        if body != 1 {
            return Some(permit);
        }
        engine.defer(permit, parker, || {
            engine.await_event(12);
            true
        })
    };
    explore(|| {
        let engine = Engine::open(1, BODY);
        engine.push(&[1, 2]);
        engine.await_event(1);
        engine.await_event(2);
        engine.close_with_all_slots();
    });
}

#[test]
fn two_bodies_that_defer_and_resume_at_once_take_turns_on_one_slot() {
    const BODY: Body = |engine, _, permit, parker| engine.defer(permit, parker, || true);
    explore(|| {
        let engine = Engine::open(1, BODY);
        engine.push(&[1, 2]);
        engine.await_event(1);
        engine.await_event(2);
        engine.close_with_all_slots();
    });
}

#[test]
fn a_free_slot_is_used_while_another_body_executes() {
    // 1 executes until 2 has: on the other slot.
    const BODY: Body = |engine, body, permit, _| {
        if body == 1 {
            engine.await_event(2);
        }
        Some(permit)
    };
    explore(|| {
        let engine = Engine::open(2, BODY);
        engine.push(&[1]);
        engine.push(&[2]);
        engine.await_event(1);
        engine.close_with_all_slots();
    });
}

#[test]
fn of_two_bodies_that_become_ready_at_once_each_wakes_a_worker() {
    // Both workers sleep when they come, or fall asleep; 1 executes until 2 has.
    const BODY: Body = |engine, body, permit, _| {
        if body == 1 {
            engine.await_event(2);
        }
        Some(permit)
    };
    explore(|| {
        let engine = Engine::open(2, BODY);
        engine.push(&[3]);
        engine.await_event(3);
        engine.push(&[1, 2]);
        engine.await_event(1);
        engine.close_with_all_slots();
    });
}

#[test]
fn what_a_commit_makes_ready_is_executed_on_every_free_slot() {
    // 2 and 3 are ready by the end of 1; 2 executes until 3 has.
    const BODY: Body = |engine, body, permit, _| {
        match body {
            1 => Engine::gather(&permit, &[2, 3]),
            2 => engine.await_event(3),
            _ => {}
        }
        Some(permit)
    };
    explore(|| {
        let engine = Engine::open(2, BODY);
        engine.push(&[1]);
        engine.await_event(2);
        engine.close_with_all_slots();
    });
}

#[test]
fn a_worker_that_commits_hands_its_slot_to_the_body_that_resumes() {
    // One slot: 1 resumes while the end of 2 is committed, which makes 3 ready.
    const BODY: Body = |engine, body, permit, parker| {
        if body == 1 {
            return engine.defer(permit, parker, || {
                engine.await_event(2);
                true
            });
        }
        if body == 2 {
            Engine::gather(&permit, &[3]);
        }
        Some(permit)
    };
    explore(|| {
        let engine = Engine::open(1, BODY);
        engine.push(&[1, 2]);
        engine.await_event(1);
        engine.await_event(3);
        engine.close_with_all_slots();
    });
}

#[test]
fn a_body_that_is_held_back_starts_when_another_ends() {
    // 1 is parked when 2 wants to start, ends meanwhile, or has ended.
    const BODY: Body = |engine, body, permit, parker| {
        if body == 1 { engine.defer(permit, parker, || true) } else { Some(permit) }
    };
    explore(|| {
        let engine = Engine::open_limited(1, 1, BODY);
        engine.push(&[1, 2]);
        engine.await_event(2);
        engine.close_with_all_slots();
    });
}

#[test]
fn a_close_reaches_every_thread_wherever_it_is() {
    // 1 is somewhere between its start and its end when the pool closes; it resumes, or is suspended.
    const BODY: Body = |engine, _, permit, parker| {
        engine.defer(permit, parker, || parker.park_until(|alarm, ticket| alarm.ring(ticket)) == Woken::Rung)
    };
    explore(|| {
        let engine = Engine::open(1, BODY);
        engine.push(&[1]);
        engine.close();
    });
}
