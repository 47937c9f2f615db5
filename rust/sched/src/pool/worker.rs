//! A worker thread's loop: acquire a slot, find a job, execute it, commit what has gathered, hand the slot on.

use std::sync::Arc;

use super::{Parker, Permit, Pool, Shared};
use crate::upcalls::Upcalls;

/// A thread that executes jobs, as the loop drives it.
pub trait WorkerThread<E: Upcalls> {
    /// Runs `f`, which may block, while the thread gives up what others want. For Python that is the interpreter.
    fn wait<R>(&mut self, f: impl FnOnce() -> R) -> R;

    /// Called with each slot that the thread gets.
    fn slot_acquired(&mut self) {}

    /// Executes a job. The permit comes back, unless the body was suspended without one.
    fn execute(&mut self, job: E::Job, permit: Permit<E>) -> Option<Permit<E>>;
}

/// How a worker lost its slot.
enum Lost<E: Upcalls> {
    /// It went to another thread, or is free.
    Slot,
    /// Likewise, and the worker has waited for its next one already. `None`: the thread is to end.
    Replaced(Option<Permit<E>>),
}

/// What the loop of one thread needs.
struct Loop<'a, E: Upcalls> {
    /// The engine that the jobs are of.
    engine: &'a Arc<E>,
    /// The pool.
    pool: &'a Pool<E>,
    /// Where the thread sleeps.
    parker: &'a Arc<Parker<E>>,
    /// Empty but for a commit: what it makes ready.
    ready: Vec<E::Job>,
}

impl<E: Upcalls> Pool<E> {
    /// Works on the calling thread until the pool closes or the thread is not needed any more.
    pub fn work(&self, engine: &Arc<E>, parker: &Arc<Parker<E>>, thread: &mut impl WorkerThread<E>) {
        let mut this = Loop { engine, pool: self, parker, ready: Vec::new() };
        let mut lost = Lost::Slot;
        loop {
            let permit = match lost {
                Lost::Slot => thread.wait(|| self.shared.acquire(parker)),
                Lost::Replaced(permit) => permit,
            };
            let Some(permit) = permit else { return };
            thread.slot_acquired();
            self.keep_spare(engine);
            lost = this.work_with(permit, thread);
        }
    }

    /// The loop has panicked. All that the thread held is lost, including its slot.
    pub fn worker_panicked(&self) {
        self.shared.thread_ends(&mut self.shared.state.lock());
    }

    /// Puts what a commit has made ready on the slot's deque: it is executed here next, or stolen.
    pub fn keep(&self, permit: &Permit<E>, ready: &mut Vec<E::Job>) {
        let more = ready.len() > 1;
        for job in ready.drain(..) {
            match E::priority(&job) {
                0 => permit.deque.push(job),
                priority => self.shared.ranked.push(priority, job),
            }
        }
        if more {
            self.shared.wake_one();
        }
    }
}

impl<E: Upcalls> Loop<'_, E> {
    /// Executes jobs until the slot goes to another thread.
    fn work_with(&mut self, mut permit: Permit<E>, thread: &mut impl WorkerThread<E>) -> Lost<E> {
        let shared = &*self.pool.shared;
        loop {
            if shared.is_resumption_waiting() {
                match self.yield_to_resumed(permit, thread) {
                    Ok(kept) => permit = kept,
                    Err(lost) => return lost,
                }
            }
            let kept = match shared.find(&permit.deque) {
                Some(job) => {
                    shared.found();
                    thread.execute(job, permit)
                }
                None if !E::is_empty(&permit.group) => {
                    let release = |shared: &Shared<E>, permit, more| {
                        if more { Some(permit) } else { shared.release_idle(permit) }
                    };
                    match self.commit_and(permit, thread, release) {
                        Ok(kept) => Some(kept),
                        Err(lost) => return lost,
                    }
                }
                None => shared.release_idle(permit),
            };
            match kept {
                Some(kept) => permit = kept,
                None => return Lost::Slot,
            }
        }
    }

    /// Hands the slot to a resumed body if it is its turn. What has gathered goes with it: of thousands that are resumed
    /// at once, each by a thread of its own, many share a commit. Waits for the next slot as [`Loop::commit_and`] does.
    fn yield_to_resumed(&mut self, permit: Permit<E>, thread: &mut impl WorkerThread<E>) -> Result<Permit<E>, Lost<E>> {
        let shared = &self.pool.shared;
        thread.wait(|| {
            self.engine.leave(&permit.group);
            shared.yield_to_resumed(permit).ok_or_else(|| Lost::Replaced(shared.acquire(self.parker)))
        })
    }

    /// Commits what has gathered. Then `release`, called with whether the commit has made jobs ready, decides whether
    /// the slot is kept. If it is not, the worker waits for its next one at once, without attaching in between: the
    /// threads that waited for the commit or got the slot attach at the same moment.
    fn commit_and(
        &mut self,
        permit: Permit<E>,
        thread: &mut impl WorkerThread<E>,
        release: impl FnOnce(&Shared<E>, Permit<E>, bool) -> Option<Permit<E>>,
    ) -> Result<Permit<E>, Lost<E>> {
        thread.wait(|| {
            self.engine.commit(&permit.group, &mut self.ready);
            let more = !self.ready.is_empty();
            self.pool.keep(&permit, &mut self.ready);
            let shared = &self.pool.shared;
            release(shared, permit, more).ok_or_else(|| Lost::Replaced(shared.acquire(self.parker)))
        })
    }
}
