//! Whose poll it is: each parked body that is due is woken, one after the other.

use std::sync::Arc;
use std::time::Duration;

use loom::thread;

use crate::flow::Run;
use crate::play::{Model, World, explore};
use crate::pool::{Cell, Woken};
use crate::timers::Timers;

/// What a body does at one of its polls; the last one is satisfied.
type Ask = fn(&World);

/// `BodyCx::poll_until`. False: the runner has closed.
fn poll_until(world: &World, timers: &Arc<Timers>, cell: &Arc<Cell<Model>>, polls: &[Ask]) -> bool {
    let shared = &world.pool.shared;
    let (run, name) = (Arc::new(Run::default()), Arc::from("condition"));
    let mut last = None;
    for ask in polls {
        shared.poll_ends(last);
        let ticket = cell.next_ticket();
        timers.after(Duration::ZERO, Arc::clone(cell) as _, ticket);
        if cell.park() == Woken::Closed {
            return false;
        }
        last = Some(shared.poll_begins(world.engine(), &run, 0, &name));
        ask(world);
    }
    shared.poll_ends(last);
    true
}

/// Two parked bodies and the timer thread: both must come to their end.
fn two_bodies(width: u32, bodies: [&'static [Ask]; 2]) {
    let world = World::idle(width);
    let timers = world.timers();
    let rings = {
        let timers = Arc::clone(&timers);
        thread::spawn(move || timers.run())
    };
    let bodies = bodies.map(|polls| {
        let (world, timers) = (Arc::clone(&world), Arc::clone(&timers));
        thread::spawn(move || {
            let cell = Cell::new(&world.pool.shared);
            assert!(poll_until(&world, &timers, &cell, polls));
        })
    });
    for body in bodies {
        body.join().expect("a body");
    }
    timers.stop();
    rings.join().expect("the timers");
}

#[test]
fn every_poll_that_is_due_has_its_turn() {
    explore(|| two_bodies(1, [&[|_| (), |_| ()], &[|_| ()]]));
}

#[test]
fn a_poll_that_does_not_end_keeps_no_other_from_its_turn() {
    // The first blocks until the second has polled.
    explore(|| two_bodies(2, [&[|world| world.hear(2)], &[|world| world.tell(2)]]));
}
