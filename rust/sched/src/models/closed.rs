//! Models of a body that sleeps until somebody else closes its wait: with a message, the answer to a callback or the
//! end of a child, or by taking the request that it has sent. The parker is the pool's own. A stand-in is the run,
//! which in the executor keeps the alarm of a sleeping body (`Run::set_alarm`, `Run::ring`) in the same way: under one
//! lock the alarm, under another what is closed.

use std::sync::Arc;
use std::time::Duration;

use loom::thread;

use super::engine::{Engine, explore};
use crate::sync::Mutex;
use crate::{Alarm, Parker, Upcalls, Woken};

/// What a run knows of its sleeping body.
#[derive(Default)]
struct Run {
    /// What wakes it.
    alarm: Mutex<Option<(Arc<dyn Alarm>, u64)>>,
    /// How many of its waits are closed.
    closed: Mutex<u32>,
}

impl Run {
    fn set_alarm(&self, wait: u32, alarm: Arc<dyn Alarm>, ticket: u64) {
        *self.alarm.lock() = Some((alarm, ticket));
        // Set before this is asked.
        if self.is_closed(wait) {
            self.ring();
        }
    }

    fn ring(&self) {
        let alarm = self.alarm.lock().take();
        if let Some((alarm, ticket)) = alarm {
            alarm.ring(ticket);
        }
    }

    fn is_closed(&self, wait: u32) -> bool {
        *self.closed.lock() >= wait
    }

    /// A wait is closed, and once that is committed its body is woken.
    fn close(&self, wait: u32) {
        *self.closed.lock() = wait;
        self.ring();
    }

    fn sleep(&self, wait: u32, parker: &Arc<Parker<Engine>>) -> Woken {
        parker.park_until(|alarm, ticket| self.set_alarm(wait, alarm, ticket))
    }
}

#[test]
fn a_wait_that_is_closed_while_its_body_falls_asleep_wakes_it() {
    explore(|| {
        let engine = Engine::without_workers(1);
        let (run, parker) = (Arc::new(Run::default()), engine.pool.new_parker());
        let closes = Arc::clone(&run);
        let other = thread::spawn(move || closes.close(1));
        assert_eq!(run.sleep(1, &parker), Woken::Rung);
        assert!(run.is_closed(1), "it is woken early");
        other.join().expect("no panic");
    });
}

#[test]
fn a_ring_that_comes_late_takes_no_wake_from_the_next_wait() {
    explore(|| {
        let engine = Engine::without_workers(1);
        let (run, parker) = (Arc::new(Run::default()), engine.pool.new_parker());
        let closes = Arc::clone(&run);
        let other = thread::spawn(move || {
            closes.close(1);
            closes.close(2);
        });
        for wait in 1..=2 {
            // The first ring may come when the body has seen already that its wait is closed, and sleeps for the second
            // one. The body looks again then, and sleeps on.
            while !run.is_closed(wait) {
                assert_eq!(run.sleep(wait, &parker), Woken::Rung);
            }
        }
        other.join().expect("no panic");
    });
}

#[test]
fn a_poll_and_a_message_that_come_at_once_wake_a_body_that_waits_for_both() {
    explore(|| {
        let engine = Engine::without_workers(1);
        let (run, parker) = (Arc::new(Run::default()), engine.pool.new_parker());
        let (closes, timers) = (Arc::clone(&run), Arc::clone(&engine));
        let other = thread::spawn(move || closes.close(1));
        let timer = thread::spawn(move || timers.run_timers());
        let mut woken = 0;
        // Its condition does not hold: it sleeps again, until the message has come.
        while !run.is_closed(1) && woken < 2 {
            let both = |alarm: Arc<dyn Alarm>, ticket| {
                if woken == 0 {
                    engine.ring_soon(Duration::ZERO, Arc::clone(&alarm), ticket);
                }
                run.set_alarm(1, alarm, ticket);
            };
            assert_eq!(parker.park_until(both), Woken::Rung);
            woken += 1;
        }
        assert!(run.is_closed(1), "it is woken by nothing");
        engine.stop_timers();
        timer.join().expect("no panic");
        other.join().expect("no panic");
    });
}
