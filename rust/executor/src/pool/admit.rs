//! How many threads there are, and how many bodies that take a handle: each of these may park the thread it has.
//!
//! One thread is always left for others: before a body with a handle starts, there is one thread more than there are
//! such bodies, or one is started, or the body is held back. Where the system gives no more threads, that is the limit
//! until it gives one again.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use bide_sync::atomic::Ordering;

use super::{Cell, Pool, Shared, State};
use crate::engine::{Engine, Level};
use crate::host::{Host, Ready};

/// After the system has refused a thread it is asked again no sooner than this.
pub(crate) const ASK_AGAIN: Duration = Duration::from_secs(1);

/// Whether a body with a handle may start.
enum Admission<H: Host> {
    /// It may.
    Granted(Ready<H>),
    /// It is held back until another one ends.
    HeldBack,
    /// Only beside one more thread: else no thread would be left for others if all that have a handle waited.
    NeedsThread(Ready<H>),
}

impl<H: Host> Pool<H> {
    /// False if the host is ending and needs no thread any more.
    pub(super) fn start<E>(&self, start: impl FnOnce() -> Result<bool, E>) -> Result<bool, E> {
        self.shared.state.lock().threads += 1;
        let started = start();
        if !matches!(started, Ok(true)) {
            self.shared.leave(&mut self.shared.state.lock());
        }
        started
    }

    /// Keeps one thread ready for the next body, up to the number of slots. On a thread that may start threads.
    pub(crate) fn keep_spare(&self, engine: &Arc<Engine<H>>) {
        let wanted = {
            let state = self.shared.state.lock();
            state.idle.is_empty() && state.threads < state.slots.total() as usize
        };
        if wanted {
            self.start_if_possible(engine);
        }
    }

    /// A body with a handle may start, unless too many are parked or no thread would be left for others: then it is
    /// held back until one ends. On a thread that may start threads.
    pub(crate) fn admit(&self, engine: &Arc<Engine<H>>, mut ready: Ready<H>, cell: &Arc<Cell<H>>) -> Option<Ready<H>> {
        let mut refused = false;
        loop {
            match self.shared.admit(ready, cell, refused) {
                Admission::Granted(ready) => return Some(ready),
                Admission::HeldBack => return None,
                Admission::NeedsThread(same) => {
                    refused = !self.start_if_possible(engine);
                    ready = same;
                }
            }
        }
    }

    /// Starts a thread. If the system gives none, it is not asked again for a while, and no more bodies are parked than
    /// leave one thread to the others; both until it gives one after all. True if one was started.
    fn start_if_possible(&self, engine: &Arc<Engine<H>>) -> bool {
        let now = u64::try_from(engine.clock.steady().as_nanos()).unwrap_or(u64::MAX);
        let ask_again = self.ask_again.load(Ordering::Relaxed);
        if now < ask_again {
            return false;
        }
        let why = match self.start(|| (self.start_worker)(engine)) {
            Ok(started) => {
                if started && ask_again > 0 {
                    self.ask_again.store(0, Ordering::Relaxed);
                    self.shared.limit_parked(self.shared.most_handles);
                }
                return started;
            }
            Err(why) => why,
        };
        let later = u64::try_from(ASK_AGAIN.as_nanos()).unwrap_or(u64::MAX);
        self.ask_again.store(now.saturating_add(later), Ordering::Relaxed);
        let threads = {
            let state = self.shared.state.lock();
            state.threads + state.parked
        };
        let most = threads.saturating_sub(1).max(1).min(self.shared.most_handles);
        let before = self.shared.limit_parked(most);
        if most < before {
            let alone = if threads > 1 { "" } else { "; while that one waits nothing else is executed" };
            let line = format!(
                "a worker thread could not be started ({why}): no more than {most} bodies that take a handle execute \
                 or wait at once{alone}; raise the limit of threads, or use gates"
            );
            engine.log(Level::Warning, &line);
        }
        false
    }
}

impl<H: Host> Shared<H> {
    /// `refused`: the system gives no thread now. One body is admitted all the same, or none ever were.
    fn admit(&self, ready: Ready<H>, cell: &Arc<Cell<H>>, refused: bool) -> Admission<H> {
        let mut state = self.state.lock();
        let most = self.max_parked.load(Ordering::Relaxed);
        let handles = self.handles.load(Ordering::Relaxed);
        let nobody_left = handles + 1 >= state.threads + state.parked;
        if (nobody_left || handles >= most) && handles < self.most_handles && !refused {
            return Admission::NeedsThread(ready);
        }
        if handles >= most || (nobody_left && handles > 0) {
            ready.run.note(ready.task.ix, Some(format!("parked bodies {handles}/{handles}")));
            state.held_back.push_back(ready);
            return Admission::HeldBack;
        }
        self.begin(&mut state, cell);
        Admission::Granted(ready)
    }

    fn begin(&self, state: &mut State<H>, cell: &Arc<Cell<H>>) {
        self.handles.fetch_add(1, Ordering::Relaxed);
        state.bodies.push(Arc::downgrade(cell));
        cell.begin();
    }

    /// For models, which can afford few threads: none is kept for others.
    #[cfg(loom)]
    pub(crate) fn begin_at_once(&self, cell: &Arc<Cell<H>>) {
        self.begin(&mut self.state.lock(), cell);
    }

    /// Changes how many bodies with a handle there may be; answers how many there could be before. Those held back have
    /// another try.
    fn limit_parked(&self, most: usize) -> usize {
        let mut state = self.state.lock();
        let before = self.max_parked.swap(most, Ordering::Relaxed);
        let again = if most > before { std::mem::take(&mut state.held_back) } else { VecDeque::new() };
        drop(state);
        if !again.is_empty() {
            again.into_iter().for_each(|ready| self.try_again(ready));
            self.wake_one();
        }
        before
    }

    fn try_again(&self, ready: Ready<H>) {
        ready.run.note(ready.task.ix, None);
        self.injector.push(ready);
    }

    /// A body with a handle has ended.
    pub(crate) fn dismiss(&self, cell: &Arc<Cell<H>>) {
        let mut state = self.state.lock();
        self.handles.fetch_sub(1, Ordering::Relaxed);
        if let Some(at) = state.bodies.iter().rposition(|body| std::ptr::eq(body.as_ptr(), Arc::as_ptr(cell))) {
            state.bodies.swap_remove(at);
        }
        let next = state.held_back.pop_front();
        self.emptied.notify_all();
        drop(state);
        if let Some(ready) = next {
            self.try_again(ready);
            self.wake_one();
        }
    }
}
