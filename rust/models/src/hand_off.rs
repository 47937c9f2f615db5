//! Who is woken for work, and who gets a slot that is given back.

use std::sync::Arc;

use crate::host::Dispatch;
use crate::play::{Body, World, explore};

/// Ends at once.
const PLAIN: Body = |_, _, held, _| Some(held);

#[test]
fn work_that_comes_while_a_worker_falls_asleep_is_executed() {
    explore(|| {
        let world = World::open(1, PLAIN);
        world.ready(&[1]);
        world.hear(1);
        // The worker looks for more at this moment, or sleeps already.
        world.ready(&[2]);
        world.hear(2);
        world.close_with_all_slots();
    });
}

#[test]
fn work_that_was_announced_is_executed_however_long_it_takes_to_come() {
    explore(|| {
        let world = World::open(1, PLAIN);
        world.pool.coming();
        // The worker that was woken for it may have given up already.
        world.ready(&[1]);
        world.pool.came();
        world.hear(1);
        world.close_with_all_slots();
    });
}

#[test]
fn work_that_comes_while_a_body_defers_is_executed_at_once() {
    // 1 defers a second time, so that there is an idle worker besides, and waits for 2, which comes meanwhile.
    const BODY: Body = |world, body, held, cell| {
        if body != 1 {
            return Some(held);
        }
        let held = world.defer(held, cell, || true)?;
        world.tell(10);
        world.defer(held, cell, || {
            world.hear(2);
            true
        })
    };
    explore(|| {
        let world = World::open(1, BODY);
        world.ready(&[1]);
        world.hear(10);
        world.ready(&[2]);
        world.hear(1);
        world.close_with_all_slots();
    });
}

#[test]
fn a_body_whose_wait_is_over_gets_the_slot_that_another_gives_back() {
    // 1 waits until 2 has begun, and goes on while 2 ends, or 2 until 1 has, and so on: one slot.
    const BODY: Body = |world, body, held, cell| {
        world.tell(10 + body);
        if body != 1 {
            return Some(held);
        }
        world.defer(held, cell, || {
            world.hear(12);
            true
        })
    };
    explore(|| {
        let world = World::open(1, BODY);
        world.ready(&[1, 2]);
        world.hear(1);
        world.hear(2);
        world.close_with_all_slots();
    });
}

#[test]
fn two_bodies_that_defer_and_go_on_at_once_have_a_slot_each_in_turn() {
    const BODY: Body = |world, _, held, cell| world.defer(held, cell, || true);
    explore(|| {
        let world = World::open(1, BODY);
        world.ready(&[1, 2]);
        world.hear(1);
        world.hear(2);
        world.close_with_all_slots();
    });
}

#[test]
fn a_free_slot_is_used_while_another_body_executes() {
    // 1 executes until 2 has: on the other slot.
    const BODY: Body = |world, body, held, _| {
        if body == 1 {
            world.hear(2);
        }
        Some(held)
    };
    explore(|| {
        let world = World::open(2, BODY);
        world.ready(&[1]);
        world.ready(&[2]);
        world.hear(1);
        world.close_with_all_slots();
    });
}

#[test]
fn of_two_bodies_that_become_ready_at_once_each_wakes_a_worker() {
    // Both workers sleep when they come, or fall asleep; 1 executes until 2 has.
    const BODY: Body = |world, body, held, _| {
        if body == 1 {
            world.hear(2);
        }
        Some(held)
    };
    explore(|| {
        let world = World::open(2, BODY);
        world.ready(&[3]);
        world.hear(3);
        world.ready(&[1, 2]);
        world.hear(1);
        world.close_with_all_slots();
    });
}

#[test]
fn a_close_reaches_every_thread_wherever_it_is() {
    // 1 is somewhere between its start and its end when the pool closes; it goes on, or is suspended.
    const BODY: Body = |world, _, held, cell| {
        let ticket = cell.next_ticket();
        let theirs = Arc::clone(cell);
        world.defer(held, cell, || {
            theirs.ring_now(ticket);
            theirs.park() == crate::pool::Woken::Rung
        })
    };
    explore(|| {
        let world = World::open(1, BODY);
        world.ready(&[1]);
        world.close();
    });
}
