//! The one timer thread: an ordered map and a timed condition variable.
//!
//! Stored times are wall time, polls are spans of steady time. The thread sleeps by the steady clock, at most
//! [`RECHECK`] at a time, and re-reads the wall whenever it wakes: a wall time never fires early by the wall clock,
//! and a clock that was set forward is noticed. It never attaches to a host and never commits.
//!
//! With a clock that is moved by hand, who moves it rings what is due then. The thread has only what the engine does for
//! itself ([`Timers::soon`]), which goes by the machine's time.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use bide_core::Time;
pub(crate) use bide_sched::Alarm;
use bide_sched::be_punctual;
use bide_sync::{Condvar, Mutex, MutexGuard};

use crate::clock::Clock;
use crate::due::{AlarmKind, Due};
use crate::services::{Service, Signal};

/// The longest span between two looks at the wall.
const RECHECK: Duration = Duration::from_secs(30);

/// The wall has jumped if it moved by more than this against the steady clock.
const JUMP: i64 = 5_000;

/// A timer, to be cancelled by: when it is due by the steady clock (for a wall time an estimate), and its number.
pub(crate) type Key = (Duration, u64);

struct Item {
    wall: Option<Time>,
    ticket: u64,
    alarm: Arc<dyn Alarm>,
    /// What it is for.
    kind: AlarmKind,
}

/// The timers of an engine.
pub(crate) struct Timers {
    /// Where the times are read.
    clock: Arc<dyn Clock>,
    /// The alarms that are set.
    state: Mutex<State>,
    /// Notified when an earlier alarm is set, and at the close.
    changed: Condvar,
}

#[derive(Default)]
struct State {
    items: BTreeMap<Key, Item>,
    /// With a clock that is moved by hand: those that go by the machine's time.
    soon: BTreeMap<Key, Item>,
    seq: u64,
    /// How many threads ring alarms now, without the lock.
    ringing: usize,
    /// Wall minus steady time when last looked at.
    offset: Option<i64>,
    stop: bool,
}

impl Timers {
    pub(crate) fn new(clock: Arc<dyn Clock>) -> Arc<Self> {
        // From the start: a timer may be asked for, and the wall be set, before the thread has its first turn.
        let offset = Some(clock.now().0 - bide_core::time::micros(clock.steady()));
        let state = State { offset, ..State::default() };
        Arc::new(Self { clock, state: Mutex::new(state), changed: Condvar::new() })
    }

    /// Rings after a span of steady time.
    pub(crate) fn after(&self, span: Duration, alarm: Arc<dyn Alarm>, ticket: u64) -> Key {
        self.poll_after(span, false, alarm, ticket)
    }

    /// As [`Timers::after`], for the next poll of a wait. `endless`: it has no deadline.
    pub(crate) fn poll_after(&self, span: Duration, endless: bool, alarm: Arc<dyn Alarm>, ticket: u64) -> Key {
        let due = self.clock.steady().saturating_add(span);
        self.add(due, Item { wall: None, ticket, alarm, kind: AlarmKind::of_poll(endless) })
    }

    /// Rings after a span of the machine's time: for what the engine does for itself, which no test waits for.
    pub(crate) fn soon(&self, span: Duration, alarm: Arc<dyn Alarm>, ticket: u64) {
        if !self.clock.is_manual() {
            self.after(span, alarm, ticket);
            return;
        }
        let due = self.clock.machine().saturating_add(span);
        let mut state = self.state.lock();
        if state.stop {
            drop(state);
            return;
        }
        state.seq += 1;
        let key = (due, state.seq);
        state.soon.insert(key, Item { wall: None, ticket, alarm, kind: AlarmKind::Ending });
        drop(state);
        self.changed.notify_one();
    }

    /// Cancels what [`Timers::after`] was asked for, if it has not rung yet.
    pub(crate) fn cancel(&self, key: Key) {
        let item = self.state.lock().items.remove(&key);
        // Dropped without the lock: it may hold the last reference to a run.
        drop(item);
    }

    /// Rings when the wall shows this time, never before. `None`: it never does.
    pub(crate) fn at(&self, time: Time, alarm: Arc<dyn Alarm>, ticket: u64) -> Option<Key> {
        if time == Time::NEVER {
            return None;
        }
        let due = self.clock.steady() + time.since(self.clock.now());
        Some(self.add(due, Item { wall: Some(time), ticket, alarm, kind: AlarmKind::Ending }))
    }

    /// As [`Timers::at`], for the next tick of a schedule: there is always another one, and it ends no wait.
    pub(crate) fn tick_at(&self, time: Time, alarm: Arc<dyn Alarm>, ticket: u64) -> Option<Key> {
        if time == Time::NEVER {
            return None;
        }
        let due = self.clock.steady() + time.since(self.clock.now());
        Some(self.add(due, Item { wall: Some(time), ticket, alarm, kind: AlarmKind::Recurring }))
    }

    fn add(&self, due: Duration, item: Item) -> Key {
        let mut state = self.state.lock();
        if state.stop {
            // Nothing rings any more, and an alarm that is kept would keep the engine.
            drop(state);
            return (due, 0);
        }
        state.seq += 1;
        let key = (due, state.seq);
        let first = state.items.first_key_value().is_none_or(|((earliest, _), _)| due < *earliest);
        state.items.insert(key, item);
        drop(state);
        if first {
            self.changed.notify_one();
        }
        key
    }

    /// Rings what is due. `None` if something was; else how long to sleep.
    fn turn(&self, state: &mut MutexGuard<'_, State>) -> Option<Duration> {
        let (steady, wall) = (self.clock.steady(), self.clock.now());
        state.notice_jump(steady, wall);
        let mut rung = Vec::new();
        while let Some(first) = state.items.first_entry().filter(|first| first.key().0 <= steady) {
            let ((_, number), item) = first.remove_entry();
            match item.wall {
                Some(time) if time > wall => {
                    state.items.insert((steady + time.since(wall), number), item);
                }
                _ => rung.push(item),
            }
        }
        let (next, now) = if self.clock.is_manual() {
            let machine = self.clock.machine();
            while let Some(first) = state.soon.first_entry().filter(|first| first.key().0 <= machine) {
                rung.push(first.remove());
            }
            (state.soon.first_key_value(), machine)
        } else {
            (state.items.first_key_value(), steady)
        };
        if rung.is_empty() {
            return Some(next.map_or(RECHECK, |((due, _), _)| due.saturating_sub(now).min(RECHECK)));
        }
        state.seq += 1;
        state.ringing += 1;
        MutexGuard::unlocked(state, || {
            for item in rung {
                item.alarm.ring(item.ticket);
            }
        });
        state.ringing -= 1;
        None
    }

    /// The clock was moved by hand: rings what is due now. The caller is attached to no host.
    pub(crate) fn clock_was_moved(&self) {
        let mut state = self.state.lock();
        while !state.stop && self.turn(&mut state).is_none() {}
    }

    /// `None`: something rings, or is due. Else a number that another one follows if something is added or rings.
    pub(crate) fn rest(&self) -> Option<u64> {
        let now = self.clock.steady();
        let state = self.state.lock();
        let is_due = state.items.first_key_value().is_some_and(|((due, _), _)| *due <= now);
        (state.ringing == 0 && !is_due).then_some(state.seq)
    }

    /// Adds what rings next, by the steady clock.
    pub(crate) fn add_due(&self, dues: &mut Due) {
        for ((due, _), item) in &self.state.lock().items {
            dues.add(*due, item.kind);
        }
    }

    /// Rings what is due and returns how long the thread would sleep then. For drivers of an engine without threads.
    #[cfg(feature = "testing")]
    pub(crate) fn ring_due(&self) -> Duration {
        let mut state = self.state.lock();
        loop {
            if let Some(span) = self.turn(&mut state) {
                return span;
            }
        }
    }

    /// When the first timer is due by the steady clock.
    #[cfg(feature = "testing")]
    pub(crate) fn first_due(&self) -> Option<Duration> {
        self.state.lock().items.first_key_value().map(|((due, _), _)| *due)
    }

    /// Forgets every alarm.
    pub(crate) fn clear(&self) {
        let remaining = {
            let mut state = self.state.lock();
            (std::mem::take(&mut state.items), std::mem::take(&mut state.soon))
        };
        // What the alarms hold is dropped without the lock: it may be a host's.
        drop(remaining);
    }
}

impl Service for Timers {
    fn name(&self) -> &'static str {
        "bide-timer"
    }

    fn run(&self, started: &Signal) {
        be_punctual();
        started.set();
        let mut state = self.state.lock();
        while !state.stop {
            if let Some(span) = self.turn(&mut state) {
                self.changed.wait_for(&mut state, span);
            }
        }
        drop(state);
        self.clear();
    }

    fn stop(&self) {
        self.state.lock().stop = true;
        self.changed.notify_all();
    }
}

impl State {
    /// After a jump of the wall clock every wall time gets a new estimate.
    fn notice_jump(&mut self, steady: Duration, wall: Time) {
        let offset = wall.0 - bide_core::time::micros(steady);
        let jumped = self.offset.is_some_and(|before| (offset - before).abs() > JUMP);
        self.offset = Some(offset);
        if jumped {
            let moved = std::mem::take(&mut self.items).into_iter().map(|((due, number), item)| {
                let due = item.wall.map_or(due, |time| steady + time.since(wall));
                ((due, number), item)
            });
            self.items = moved.collect();
        }
    }
}
