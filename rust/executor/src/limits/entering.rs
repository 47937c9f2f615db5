//! When a body that has its share is entered: at once, unless its limit has a rate. A start under a rate counts from its
//! grant on, and the grant lasts for a moment. To use it up and to enter the body is one step, so that a start that does
//! not happen is given back.

use std::sync::Arc;

use bide_core::{TaskRef, Time};
use bide_store::Clock;

use super::{Entry, Limiter, Waiter, limit_of, line_of, share};
use crate::host::{Host, TaskLimit};
use crate::runs::run::Run;

impl<H: Host> Limiter<H> {
    /// Enters a ready body by `enter`, if its limit allows that now. One that was granted its start too long ago waits for
    /// another; `enter` is not called then. `now` is the thread's time; for a start under a rate the clock is read anew.
    #[inline]
    pub(crate) fn enter<T>(
        &self,
        run: &Arc<Run<H>>,
        task: TaskRef,
        now: Time,
        clock: &dyn Clock,
        enter: impl FnOnce(Time) -> Option<T>,
    ) -> Option<T> {
        if !self.is_active() || run.is_lost() {
            return enter(now);
        }
        match limit_of(run, task).filter(|limit| limit.spec.rate.is_some()) {
            None => enter(now),
            Some(limit) => self.enter_under_rate(run, task, limit, clock, enter),
        }
    }

    #[cold]
    fn enter_under_rate<T>(
        &self,
        run: &Arc<Run<H>>,
        task: TaskRef,
        limit: &TaskLimit,
        clock: &dyn Clock,
        enter: impl FnOnce(Time) -> Option<T>,
    ) -> Option<T> {
        let (share, rate) = (share(run, task), limit.spec.rate);
        let mut state = self.state.lock();
        // Read here: no start may be recorded before a claim that another runner has made since the grant.
        let now = clock.now();
        let (entered, wakes) = match state.may_start(share, now) {
            Entry::Entered => (enter(now), false),
            Entry::Waits => (None, false),
            // One that was lost meanwhile would stand in the way of the same attempt once the run is claimed again.
            Entry::Ungranted if run.is_lost() || run.state.lock().continues(task) => (enter(now), false),
            Entry::Ungranted => {
                state.add(line_of(run, limit, self.longest), Waiter::new(Arc::clone(run), task, false, None), rate);
                (None, true)
            }
            Entry::Granted(at) => match enter(at) {
                Some(entered) => (Some(entered), state.starts(share, at)),
                None => {
                    // Its run is paused: it is ready once more when that is resumed, and starts then.
                    let is_ready = run.state.lock().is_ready(task);
                    if is_ready {
                        state.withdraw(share);
                    }
                    (None, is_ready)
                }
            },
        };
        drop(state);
        if wakes {
            self.woken.notify_one();
        }
        entered
    }
}
