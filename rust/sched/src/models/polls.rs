//! Whose poll it is: each parked body that is due is woken, one after the other.

use std::sync::Arc;
use std::time::Duration;

use loom::thread;

use super::engine::{Engine, explore};
use crate::{Parker, Woken};

/// What a body does at one of its polls; the last one is satisfied.
type Ask = fn(&Engine);

/// Long enough for the timer thread to wake the body.
const INTERVAL: Duration = Duration::from_secs(1);

/// A body that polls its condition this often. False: the runner has closed.
fn poll_until(engine: &Arc<Engine>, parker: &Arc<Parker<Engine>>, polls: &[Ask]) -> bool {
    let mut last = None;
    for ask in polls {
        if engine.pool.park_until_poll(engine, parker, (INTERVAL, false), last, |_, _| {}) == Woken::Closed {
            return false;
        }
        last = Some(engine.pool.begin_poll(engine, 0, Arc::from("condition")));
        ask(engine);
    }
    engine.pool.end_poll(last);
    true
}

/// Two parked bodies and the timer thread: both must come to their end.
fn two_bodies(width: u32, bodies: [&'static [Ask]; 2]) {
    let engine = Engine::without_workers(width);
    let timers = {
        let engine = Arc::clone(&engine);
        thread::spawn(move || engine.run_timers())
    };
    let bodies = bodies.map(|polls| {
        let engine = Arc::clone(&engine);
        thread::spawn(move || {
            let parker = engine.pool.new_parker();
            assert!(poll_until(&engine, &parker, polls));
        })
    });
    for body in bodies {
        body.join().expect("a body");
    }
    engine.stop_timers();
    timers.join().expect("the timers");
}

#[test]
fn every_poll_that_is_due_has_its_turn() {
    explore(|| two_bodies(1, [&[|_| (), |_| ()], &[|_| ()]]));
}

#[test]
fn a_poll_that_does_not_end_keeps_no_other_from_its_turn() {
    // The first blocks until the second has polled.
    explore(|| two_bodies(2, [&[|engine| engine.await_event(2)], &[|engine| engine.signal(2)]]));
}
