//! Limits the number of threads, and of bodies that take a handle: each of these may park its thread.
//!
//! One thread always remains for others: before a body with a handle starts there is one thread more than there are
//! such bodies, or one is started, or the body is held back. If the system gives no more threads, that is the limit
//! until it gives one again.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use super::{Parker, Pool, Shared, State};
use crate::sync::atomic::Ordering;
use crate::upcalls::Upcalls;

/// After the system has refused a thread, it is not asked again for this long.
pub const RETRY_THREAD_AFTER: Duration = Duration::from_secs(1);

/// Whether a body with a handle may start.
enum Admission<J> {
    /// It may.
    Granted(J),
    /// It is held back until another one ends.
    HeldBack,
    /// Only if one more thread is started: else no thread would remain for others if all bodies with a handle waited.
    NeedsThread(J),
}

impl<E: Upcalls> Pool<E> {
    /// False if the host is ending and needs no thread any more.
    pub(super) fn start<F>(&self, start: impl FnOnce() -> Result<bool, F>) -> Result<bool, F> {
        {
            let mut state = self.shared.state.lock();
            state.threads += 1;
            state.changes += 1;
        }
        let started = start();
        if !matches!(started, Ok(true)) {
            self.shared.thread_ends(&mut self.shared.state.lock());
        }
        started
    }

    /// Keeps one thread ready for the next body, up to the number of slots. On a thread that may start threads.
    pub fn keep_spare(&self, engine: &Arc<E>) {
        let wanted = self.shared.state.lock().needs_spare();
        if wanted {
            self.start_if_possible(engine);
        }
    }

    /// Admits a body with a handle, unless too many are parked or no thread would remain for others: then it is held
    /// back until one ends. On a thread that may start threads.
    pub fn admit(&self, engine: &Arc<E>, mut job: E::Job, parker: &Arc<Parker<E>>) -> Option<E::Job> {
        let mut refused = false;
        loop {
            match self.shared.admit(job, parker, refused) {
                Admission::Granted(job) => return Some(job),
                Admission::HeldBack => return None,
                Admission::NeedsThread(same) => {
                    refused = !self.start_if_possible(engine);
                    job = same;
                }
            }
        }
    }

    /// For models, which can afford few threads: admits without keeping one for others.
    #[cfg(test)]
    pub(crate) fn admit_at_once(&self, parker: &Arc<Parker<E>>) {
        self.shared.begin(&mut self.shared.state.lock(), parker);
    }

    /// A body that was admitted has ended.
    pub fn dismiss(&self, parker: &Arc<Parker<E>>) {
        self.shared.dismiss(parker);
    }

    /// A body that has asked for no handle gets one while it executes. It is never held back, because it has a slot
    /// already: others that take a handle are. On a thread that may start threads.
    pub fn admit_late(&self, engine: &Arc<E>, parker: &Arc<Parker<E>>) {
        let none_spare = {
            let mut state = self.shared.state.lock();
            self.shared.begin(&mut state, parker);
            self.shared.handles.load(Ordering::Relaxed) >= state.threads + state.parked
        };
        if self.shared.is_closing() {
            parker.close();
        }
        if none_spare {
            self.start_if_possible(engine);
        }
    }

    /// A thread that is not the pool's own sleeps for a body: the end is signalled to it, too.
    pub fn enlist(&self, parker: &Arc<Parker<E>>) {
        parker.set_enlisted();
        self.shared.state.lock().bodies.push(Arc::downgrade(parker));
        if self.shared.is_closing() {
            parker.close();
        }
    }

    /// That thread has woken.
    pub fn discharge(&self, parker: &Arc<Parker<E>>) {
        self.shared.strike(&mut self.shared.state.lock(), parker);
    }

    /// Starts a thread; true if it could. If the system gives none, it is not asked again for a while, and the
    /// number of parked bodies is limited so that one thread remains for the others, until it gives one again.
    fn start_if_possible(&self, engine: &Arc<E>) -> bool {
        let now = u64::try_from(engine.steady().as_nanos()).unwrap_or(u64::MAX);
        let retry_at = self.retry_thread_at.load(Ordering::Relaxed);
        if now < retry_at {
            return false;
        }
        let why = match self.start(|| (self.start_worker)(engine)) {
            Ok(started) => {
                if started && retry_at > 0 {
                    self.retry_thread_at.store(0, Ordering::Relaxed);
                    self.shared.limit_parked(self.shared.most_handles);
                }
                return started;
            }
            Err(why) => why,
        };
        let later = u64::try_from(RETRY_THREAD_AFTER.as_nanos()).unwrap_or(u64::MAX);
        self.retry_thread_at.store(now.saturating_add(later), Ordering::Relaxed);
        let threads = {
            let state = self.shared.state.lock();
            state.threads + state.parked
        };
        let most = threads.saturating_sub(1).max(1).min(self.shared.most_handles);
        let before = self.shared.limit_parked(most);
        if most < before {
            let alone = if threads > 1 { "" } else { "; while that one waits nothing else is executed" };
            engine.warn(&format!(
                "a worker thread could not be started ({why}): no more than {most} bodies that take a handle execute \
                 or wait at once{alone}; raise the limit of threads, or use gates"
            ));
        }
        false
    }
}

impl<E: Upcalls> State<E> {
    /// Whether no thread is ready for the next body, though there might be one.
    pub(super) fn needs_spare(&self) -> bool {
        self.idle.is_empty() && self.threads < self.slots.total() as usize
    }
}

impl<E: Upcalls> Shared<E> {
    /// `refused`: the system gives no thread now. One body is admitted even then, or none would ever be.
    fn admit(&self, job: E::Job, parker: &Arc<Parker<E>>, refused: bool) -> Admission<E::Job> {
        let mut state = self.state.lock();
        let most = self.max_parked.load(Ordering::Relaxed);
        let handles = self.handles.load(Ordering::Relaxed);
        let none_spare = handles + 1 >= state.threads + state.parked;
        if (none_spare || handles >= most) && handles < self.most_handles && !refused {
            return Admission::NeedsThread(job);
        }
        if handles >= most || (none_spare && handles > 0) {
            E::set_blocked(&job, Some(format!("parked bodies {handles}/{handles}")));
            state.held_back.push_back(job);
            return Admission::HeldBack;
        }
        self.begin(&mut state, parker);
        Admission::Granted(job)
    }

    fn begin(&self, state: &mut State<E>, parker: &Arc<Parker<E>>) {
        self.handles.fetch_add(1, Ordering::Relaxed);
        state.bodies.push(Arc::downgrade(parker));
        parker.begin_body();
    }

    /// Changes how many bodies with a handle there may be, and returns how many there could be before. If it is more,
    /// those held back have another try.
    fn limit_parked(&self, most: usize) -> usize {
        let mut state = self.state.lock();
        let before = self.max_parked.swap(most, Ordering::Relaxed);
        let again = if most > before { std::mem::take(&mut state.held_back) } else { VecDeque::new() };
        drop(state);
        if !again.is_empty() {
            again.into_iter().for_each(|job| self.try_again(job));
            self.wake_one();
        }
        before
    }

    fn strike(&self, state: &mut State<E>, parker: &Arc<Parker<E>>) {
        if let Some(at) = state.bodies.iter().rposition(|body| std::ptr::eq(body.as_ptr(), Arc::as_ptr(parker))) {
            state.bodies.swap_remove(at);
        }
    }

    fn try_again(&self, job: E::Job) {
        E::set_blocked(&job, None);
        self.put(job);
    }

    /// A body with a handle has ended: one that was held back has another try.
    fn dismiss(&self, parker: &Arc<Parker<E>>) {
        let mut state = self.state.lock();
        self.handles.fetch_sub(1, Ordering::Relaxed);
        self.strike(&mut state, parker);
        let next = state.held_back.pop_front();
        self.emptied.notify_all();
        drop(state);
        if let Some(job) = next {
            self.try_again(job);
            self.wake_one();
        }
    }
}
