//! Suspects: bodies that an earlier process may have died of, and which of them execute at the same time.
//!
//! The store blames a body for the death of its process only if that executed no other suspect (see `bide-core`'s
//! `run/rows.rs`). So a suspect of which a process has died twice is *careful*: it is executed while no other suspect
//! is. A body is a suspect until it records something, waits or ends.
//!
//! | suspect | may execute when |
//! |---|---|
//! | of which one process may have died | no careful one executes or waits |
//! | careful | no suspect executes, and no careful one of an older run waits |
//!
//! A suspect that may not execute yet waits here, without a slot, and is made ready again when it may. All runners of
//! a process share this, because a process dies with all of its runners. Bodies that are no suspects never come here.

use std::collections::BTreeMap;
use std::sync::Arc;

use bide_core::TaskRef;
use bide_core::record::RunRowId;
use bide_sync::Mutex;

use crate::host::{Host, Ready};
use crate::runs::run::Run;

const WAITS_ALONE: &str = "waits to execute alone, because processes have died while it executed";
const WAITS: &str = "waits until bodies have executed alone, because processes have died while they executed";

/// The suspects of a process.
#[derive(Default)]
pub(crate) struct Suspects(Mutex<State>);

#[derive(Default)]
struct State {
    /// Those that execute, and whether they are careful: of the careful at most one, and then no other.
    executing: BTreeMap<Key, bool>,
    /// Careful ones that wait, oldest run first. One without a `Wake` is on its way to ask again.
    careful: BTreeMap<Key, (EngineNo, Option<Wake>)>,
    /// The others that wait.
    others: BTreeMap<Key, (EngineNo, Wake)>,
}

/// A body: its run's number first, so that older runs go first; and where the run is in memory, because a run that was
/// lost and claimed again may still have an old body.
type Key = (RunRowId, TaskRef, usize);

/// Identifies an engine of the process.
type EngineNo = usize;

/// Makes the body ready again. False if its engine is gone.
type Wake = Box<dyn FnOnce() -> bool + Send>;

/// A suspect executes for as long as this lives, or until it is cleared.
#[cfg_attr(not(feature = "testing"), expect(unreachable_pub, reason = "drive has it"))]
pub struct Turn {
    /// Where the turn ends when this is dropped.
    suspects: Arc<Suspects>,
    /// Whose turn it is.
    key: Key,
}

impl Drop for Turn {
    fn drop(&mut self) {
        self.suspects.ends(&self.key);
    }
}

fn key<H: Host>(run: &Arc<Run<H>>, task: TaskRef) -> Key {
    (run.id.row(), task, Arc::as_ptr(run).addr())
}

/// Those of this process, with its id: the child of a fork begins afresh.
static OF_PROCESS: Mutex<Option<(u32, Arc<Suspects>)>> = Mutex::new(None);

impl State {
    /// True if the body waited.
    fn withdraw(&mut self, key: &Key) -> bool {
        self.careful.remove(key).is_some() || self.others.remove(key).is_some()
    }
}

impl Suspects {
    /// Those of this process.
    pub(crate) fn of_process() -> Arc<Self> {
        let me = std::process::id();
        let mut known = OF_PROCESS.lock();
        match &*known {
            Some((process, suspects)) if *process == me => Arc::clone(suspects),
            _ => {
                let suspects = Arc::new(Self::default());
                // What the parent of a fork had in it is the parent's, and is not dropped here.
                std::mem::forget(known.replace((me, Arc::clone(&suspects))));
                suspects
            }
        }
    }

    /// Whether a body may execute now. Otherwise it waits, and `wake` is called when it is to ask again. `note` gets
    /// whether it waits, if that has changed.
    fn asks(&self, key: Key, careful: bool, engine: EngineNo, wake: Wake, note: impl FnOnce(bool)) -> bool {
        let mut state = self.0.lock();
        let waited = state.withdraw(&key);
        let may = if careful {
            state.executing.is_empty() && state.careful.range(..key).next().is_none()
        } else {
            state.careful.is_empty() && !state.executing.values().any(|careful| *careful)
        };
        if may {
            state.executing.insert(key, careful);
        } else if careful {
            state.careful.insert(key, (engine, Some(wake)));
        } else {
            state.others.insert(key, (engine, wake));
        }
        if waited == may {
            // With the lock: once it waits, another thread may make it ready.
            note(!may);
        }
        drop(state);
        self.wake();
        may
    }

    /// A body that may have waited here does not want to execute any more, or is no suspect.
    fn withdraws(&self, key: &Key) -> bool {
        let waited = self.0.lock().withdraw(key);
        if waited {
            self.wake();
        }
        waited
    }

    /// A body has ended, or is no suspect any more.
    fn ends(&self, key: &Key) {
        if self.0.lock().executing.remove(key).is_some() {
            self.wake();
        }
    }

    /// An engine makes nothing ready any more.
    pub(crate) fn forget(&self, engine: EngineNo) {
        let mut state = self.0.lock();
        let (gone, careful) = std::mem::take(&mut state.careful).into_iter().partition(|(_, (no, _))| *no == engine);
        state.careful = careful;
        let (also_gone, others) = std::mem::take(&mut state.others).into_iter().partition(|(_, (no, _))| *no == engine);
        state.others = others;
        drop(state);
        // Not with the lock: they have runs in them.
        let _: (BTreeMap<_, _>, BTreeMap<_, _>) = (gone, also_gone);
        self.wake();
    }

    /// Makes those ready again that may execute now.
    fn wake(&self) {
        loop {
            let mut state = self.0.lock();
            if state.executing.values().any(|careful| *careful) {
                return;
            }
            let idle = state.executing.is_empty();
            let Some((first, (_, wake))) = state.careful.iter_mut().next() else {
                let others = std::mem::take(&mut state.others);
                drop(state);
                for (_, wake) in others.into_values() {
                    wake();
                }
                return;
            };
            let (first, wake) = (*first, wake.take_if(|_| idle));
            drop(state);
            let Some(wake) = wake else { return };
            if wake() {
                return;
            }
            self.0.lock().careful.remove(&first);
        }
    }
}

impl Suspects {
    /// The body of a recovered run, if it is no suspect or may execute beside the suspects that do, with its turn.
    /// Otherwise it waits, and is given to `again` when it is to ask again.
    pub(crate) fn admit<H: Host>(
        self: &Arc<Self>,
        ready: Ready<H>,
        engine: EngineNo,
        again: impl FnOnce(Ready<H>) -> bool + Send + 'static,
    ) -> Option<(Ready<H>, Option<Turn>)> {
        let (run, task) = (Arc::clone(&ready.run), ready.task);
        let (key, entered) = (key(&run, task), run.state.lock().suspicion(task));
        let Some(entered) = entered else {
            if self.withdraws(&key) {
                run.note(task, None);
            }
            return Some((ready, None));
        };
        let careful = entered > 0;
        let waiting = Ready { run: Arc::clone(&run), task };
        let wake = Box::new(move || again(waiting));
        let why = if careful { WAITS_ALONE } else { WAITS };
        let note = |waits: bool| run.note(task, waits.then(|| why.to_owned()));
        let may = self.asks(key, careful, engine, wake, note);
        may.then(|| (ready, Some(Turn { suspects: Arc::clone(self), key })))
    }

    /// A body is no suspect any more.
    pub(crate) fn clear<H: Host>(&self, run: &Arc<Run<H>>, task: TaskRef) {
        self.ends(&key(run, task));
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use proptest::prelude::*;

    use super::*;

    /// Suspects, and the bodies that were made ready and have not asked yet.
    #[derive(Default)]
    struct Play {
        suspects: Suspects,
        ready: Arc<Mutex<Vec<Key>>>,
        executing: BTreeSet<Key>,
    }

    /// Those of even runs are careful.
    fn careful(key: &Key) -> bool {
        key.0 % 2 == 0
    }

    impl Play {
        fn asks(&mut self, key: Key, engine: EngineNo) -> bool {
            let ready = Arc::clone(&self.ready);
            let wake = Box::new(move || {
                ready.lock().push(key);
                true
            });
            let may = self.suspects.asks(key, careful(&key), engine, wake, |_| {});
            if may {
                self.executing.insert(key);
                let alone = self.executing.len() == 1;
                assert!(alone || !self.executing.iter().any(careful), "{:?}", self.executing);
            }
            may
        }

        fn ends(&mut self, key: Key) {
            self.executing.remove(&key);
            self.suspects.ends(&key);
        }
    }

    const fn body(run: RunRowId) -> Key {
        (run, TaskRef::plain(0), 1)
    }

    #[test]
    fn careful_ones_go_first_one_by_one_and_oldest_run_first() {
        let mut play = Play::default();
        assert!(play.asks(body(1), 0) && play.asks(body(3), 0), "as long as none is careful all execute");
        for run in [4, 2, 5] {
            assert!(!play.asks(body(run), 0), "{run}");
        }
        play.ends(body(1));
        assert!(play.ready.lock().is_empty());
        play.ends(body(3));
        for run in [2, 4] {
            assert_eq!(std::mem::take(&mut *play.ready.lock()), [body(run)]);
            assert!(!play.asks(body(7), 0));
            assert!(play.asks(body(run), 0), "{run}");
            play.ends(body(run));
        }
        assert_eq!(*play.ready.lock(), [body(5), body(7)]);
    }

    #[test]
    fn what_a_closed_engine_has_waiting_keeps_nobody_from_executing() {
        for ready_first in [false, true] {
            let mut play = Play::default();
            assert!(play.asks(body(1), 0));
            assert!(!play.asks(body(2), 7) && !play.asks(body(3), 0));
            if ready_first {
                // It was made ready to ask again, and never does.
                play.ends(body(1));
            }
            play.suspects.forget(7);
            assert_eq!(play.ready.lock().last(), Some(&body(3)));
            assert!(play.asks(body(3), 0));
        }
        let suspects = Suspects::default();
        assert!(suspects.asks(body(1), false, 0, Box::new(|| true), |_| {}));
        assert!(!suspects.asks(body(2), true, 7, Box::new(|| false), |_| {}), "its engine will be gone by then");
        assert!(!suspects.asks(body(3), false, 0, Box::new(|| true), |_| {}));
        suspects.ends(&body(1));
        assert!(suspects.asks(body(3), false, 0, Box::new(|| true), |_| {}));
    }

    proptest! {
        #[test]
        fn every_suspect_executes_in_the_end(order in proptest::collection::vec(any::<u32>(), 1..200)) {
            let mut play = Play::default();
            let mut to_come: Vec<Key> = (0..12).map(body).collect();
            let (mut done, mut order) = (BTreeSet::new(), order.into_iter().cycle());
            while done.len() < 12 {
                to_come.append(&mut play.ready.lock());
                let at = order.next().unwrap_or_default() as usize;
                let executing: Vec<Key> = play.executing.iter().copied().collect();
                // One ends, is skipped before it executes, or asks.
                if executing.len() > at % 4 || to_come.is_empty() {
                    prop_assert!(!executing.is_empty(), "nobody executes, nobody is ready");
                    let ends = executing[at % executing.len()];
                    play.ends(ends);
                    done.insert(ends);
                } else {
                    let asks = to_come.swap_remove(at % to_come.len());
                    if at % 7 == 6 {
                        play.suspects.withdraws(&asks);
                        done.insert(asks);
                    } else {
                        play.asks(asks, 0);
                    }
                }
            }
        }
    }
}
