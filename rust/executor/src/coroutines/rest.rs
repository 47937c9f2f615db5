//! Which coroutines and gates have nothing to do until something rings. Kept only with a clock that is moved by hand,
//! which is moved only when none has.

use std::collections::HashMap;
use std::sync::Arc;

use bide_sync::Mutex;

/// What is kept of all coroutines and gates of a runner.
#[derive(Default)]
pub(super) struct RestBook(Mutex<State>);

#[derive(Default)]
struct State {
    /// The calls of each body that has begun and not ended, by its number.
    bodies: HashMap<u64, Calls>,
    /// The sleeps of gates, as if they were calls of one body.
    gates: Calls,
    /// Changes with everything else.
    changes: u64,
}

/// Calls that are under way, and how many of them sleep.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Calls {
    open: usize,
    asleep: usize,
}

/// Whose calls they are: a body, by its number, or a gate.
#[derive(Clone, Copy)]
pub(super) enum Whose {
    Body(u64),
    Gate,
}

/// A body that has begun, until this is dropped.
pub(super) struct BegunBody {
    book: Arc<RestBook>,
    number: u64,
}

/// A call that is under way, until this is dropped.
pub(super) struct UnderWay {
    book: Arc<RestBook>,
    whose: Whose,
}

/// A sleep of a call.
pub(super) struct Asleep {
    book: Arc<RestBook>,
    whose: Whose,
    /// It lasts: nothing has rung. The book is changed with this locked.
    lasts: Mutex<bool>,
}

impl RestBook {
    /// A body begins.
    pub(super) fn body(self: &Arc<Self>) -> BegunBody {
        let mut state = self.0.lock();
        state.changes += 1;
        let number = state.changes;
        state.bodies.insert(number, Calls::default());
        BegunBody { book: Arc::clone(self), number }
    }

    /// A call begins, or a gate is polled from now on.
    pub(super) fn call(self: &Arc<Self>, whose: Whose) -> UnderWay {
        self.change(whose, |calls| calls.open += 1);
        UnderWay { book: Arc::clone(self), whose }
    }

    /// A call falls asleep.
    pub(super) fn sleep(self: &Arc<Self>, whose: Whose) -> Asleep {
        let asleep = Asleep { book: Arc::clone(self), whose, lasts: Mutex::new(false) };
        asleep.set(true);
        asleep
    }

    /// `None`: a body executes, or a call or gate has something to do. Else a number that changes if one has.
    pub(super) fn rest(&self, bodies: usize) -> Option<u64> {
        let state = self.0.lock();
        let sleeps = |calls: &Calls| calls.open > 0 && calls.open == calls.asleep;
        let rests =
            state.bodies.len() == bodies && state.bodies.values().all(sleeps) && state.gates.open == state.gates.asleep;
        rests.then_some(state.changes)
    }

    fn change(&self, whose: Whose, change: impl FnOnce(&mut Calls)) {
        let mut state = self.0.lock();
        state.changes += 1;
        match whose {
            Whose::Gate => change(&mut state.gates),
            // A body that has ended may leave calls behind.
            Whose::Body(number) => {
                if let Some(calls) = state.bodies.get_mut(&number) {
                    change(calls);
                }
            }
        }
    }
}

impl BegunBody {
    pub(super) fn whose(&self) -> Whose {
        Whose::Body(self.number)
    }

    pub(super) fn book(&self) -> &Arc<RestBook> {
        &self.book
    }
}

impl Asleep {
    /// It continues, or something has rung.
    pub(super) fn set(&self, lasts: bool) {
        let mut now = self.lasts.lock();
        if *now != lasts {
            *now = lasts;
            self.book.change(self.whose, |calls| match lasts {
                true => calls.asleep += 1,
                false => calls.asleep -= 1,
            });
        }
    }
}

impl Drop for BegunBody {
    fn drop(&mut self) {
        let mut state = self.book.0.lock();
        state.changes += 1;
        state.bodies.remove(&self.number);
    }
}

impl Drop for UnderWay {
    fn drop(&mut self) {
        self.book.change(self.whose, |calls| calls.open -= 1);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn all_rest_only_while_each_call_of_each_body_sleeps() {
        let book = Arc::new(RestBook::default());
        assert!(book.rest(0).is_some());
        assert!(book.rest(1).is_none(), "a body that was taken and has not begun");
        let body = book.body();
        assert!(book.rest(1).is_none(), "it executes");
        let (first, second) = (book.call(body.whose()), book.call(body.whose()));
        let sleep = book.sleep(body.whose());
        assert!(book.rest(1).is_none(), "its other call does not sleep");
        drop(second);
        let before = book.rest(1);
        assert!(before.is_some());
        sleep.set(false);
        sleep.set(false);
        assert!(book.rest(1).is_none());
        sleep.set(true);
        assert!(book.rest(1).is_some_and(|now| Some(now) != before), "it has woken in between");
        sleep.set(false);
        drop(first);
        assert!(book.rest(1).is_none());
        let gate = book.call(Whose::Gate);
        drop(body);
        assert!(book.rest(0).is_none(), "the gate is asked");
        drop(gate);
        assert!(book.rest(0).is_some());
    }
}
