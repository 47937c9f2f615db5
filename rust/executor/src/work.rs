//! A worker thread's loop: find a body, execute it, let results gather, commit, hand on.

use std::sync::Arc;

use bide_core::{Event, Outcome};

use crate::body::BodyCx;
use crate::bug::{self, Place};
use crate::clock::LastSeen;
use crate::commit::Done;
use crate::engine::Engine;
use crate::host::{Attached, Call, Host, Ready, Worker};
use crate::limit::Limit;
use crate::pool::{Cell, Held, Pool, Shared};

impl<H: Host<Dispatch = Pool<H>>> Engine<H> {
    /// What a worker thread does until the runner closes or it is not needed any more.
    pub fn work<C: Worker<H>>(self: &Arc<Self>, cx: &mut C) {
        if let Err(why) = H::no_panic(|| self.work_until_told(cx)) {
            self.panicked(&why);
            self.dispatch.shared.gone();
        }
    }

    fn work_until_told<C: Worker<H>>(self: &Arc<Self>, cx: &mut C) {
        let cell = Cell::new(&self.dispatch.shared);
        let mut thread = Thread { engine: self, cell, ready: Vec::new(), seen: LastSeen::default() };
        let shared = &self.dispatch.shared;
        let mut left = Left::Slot;
        loop {
            let held = match left {
                Left::Slot => (cx as &mut dyn Attached).wait(|| shared.idle(&thread.cell)),
                Left::Waited(held) => held,
            };
            let Some(held) = held else { return };
            bug::is_at(Place::Worker);
            self.dispatch.keep_spare(self);
            left = thread.with_slot(held, cx);
        }
    }
}

/// How a worker has lost its slot.
enum Left<H: Host> {
    /// It is somebody else's.
    Slot,
    /// It was, and the worker has waited for another already. `None`: the thread is to end.
    Waited(Option<Held<H>>),
}

struct Thread<'a, H: Host> {
    engine: &'a Arc<Engine<H>>,
    cell: Arc<Cell<H>>,
    ready: Vec<Ready<H>>,
    /// The clocks at the end of the last body.
    seen: LastSeen,
}

impl<H: Host<Dispatch = Pool<H>>> Thread<'_, H> {
    /// Executes bodies until the slot goes to somebody else.
    fn with_slot<C: Worker<H>>(&mut self, mut held: Held<H>, cx: &mut C) -> Left<H> {
        let shared = Arc::clone(&self.engine.dispatch.shared);
        loop {
            if shared.someone_resumes() {
                match self.commit_and(held, cx, |shared, held, _| shared.between(held)) {
                    Ok(still) => held = still,
                    Err(waited) => return waited,
                }
            }
            let next = match shared.find(&held.deque) {
                Some(ready) => {
                    shared.found();
                    self.execute(ready, held, cx)
                }
                None if !held.group.is_empty() => {
                    let give =
                        |shared: &Shared<H>, held, more| if more { Some(held) } else { shared.nothing_found(held) };
                    match self.commit_and(held, cx, give) {
                        Ok(still) => Some(still),
                        Err(waited) => return waited,
                    }
                }
                None => shared.nothing_found(held),
            };
            match next {
                Some(still) => held = still,
                None => return Left::Slot,
            }
        }
    }

    fn commit<C: Worker<H>>(&mut self, held: &Held<H>, cx: &mut C) {
        let (engine, ready) = (self.engine, &mut self.ready);
        (cx as &mut dyn Attached).detach(|| engine.commit_group(&held.group, ready));
        self.take_over(held);
    }

    /// What a commit has let go on is executed here next, or stolen.
    fn take_over(&mut self, held: &Held<H>) {
        let more = self.ready.len() > 1;
        for one in self.ready.drain(..) {
            held.deque.push(one);
        }
        if more {
            self.engine.dispatch.shared.wake_one();
        }
    }

    /// The lease has run out: out of the way of those for whom it has not.
    #[cold]
    #[inline(never)]
    fn is_sure_of_lease(&self, cx: &mut dyn Attached) -> bool {
        cx.detach(|| self.engine.make_sure_of_lease())
    }

    /// Commits, and gives the slot away or not; `give` is told whether there is more to execute. If it has gone, the
    /// worker waits for its next slot at once, without attaching in between: whoever waits for what was committed, or
    /// for the slot, wants to attach at the same moment.
    fn commit_and<C: Worker<H>>(
        &mut self,
        held: Held<H>,
        cx: &mut C,
        give: impl FnOnce(&Shared<H>, Held<H>, bool) -> Option<Held<H>>,
    ) -> Result<Held<H>, Left<H>> {
        let shared = &self.engine.dispatch.shared;
        (cx as &mut dyn Attached).wait(|| {
            self.engine.commit_group(&held.group, &mut self.ready);
            let more = !self.ready.is_empty();
            self.take_over(&held);
            give(shared, held, more).ok_or_else(|| Left::Waited(shared.idle(&self.cell)))
        })
    }

    /// Executes one body. The slot comes back, unless the body was suspended without one.
    fn execute<C: Worker<H>>(&mut self, ready: Ready<H>, held: Held<H>, cx: &mut C) -> Option<Held<H>> {
        let Some(ready) = Arc::clone(&ready.run).wait_for_overdue(ready) else { return Some(held) };
        let Some((ready, turn)) = self.engine.admit_suspect(ready) else { return Some(held) };
        let wants_handle = ready.run.flow.graph.spec(ready.task.ix).wants_handle;
        let shared = &self.engine.dispatch.shared;
        let ready = if wants_handle {
            let admitted = self.engine.dispatch.admit(self.engine, ready, &self.cell);
            let Some(ready) = admitted else { return Some(held) };
            ready
        } else {
            ready
        };
        let Ready { run, task } = ready;
        let clock = &self.engine.clock;
        let mut now = clock.lease_micros();
        if !self.engine.lease_holds_at(now) {
            if !self.is_sure_of_lease(cx) {
                if wants_handle {
                    shared.dismiss(&self.cell);
                }
                return Some(held);
            }
            now = clock.lease_micros();
        }
        let now = self.seen.wall(&**clock, now);
        let entered = {
            let mut state = run.state.lock();
            let entered = state.enter(task, now);
            entered.map(|entered| {
                let sources = H::sources(&run.flow.bodies[task.ix as usize]);
                (entered, run.args(sources, &state))
            })
        };
        let Some((entered, args)) = entered else {
            if wants_handle {
                shared.dismiss(&self.cell);
            }
            return Some(held);
        };
        if !held.group.is_empty() {
            self.engine.committer.arm();
        }
        shared.begins(held.no, &run, task, entered.attempt, now);
        let limit = Limit::start(self.engine, &run, task, entered.attempt, cx.thread());
        let mut kept = Some(held);
        let body = wants_handle.then(|| {
            let cx = BodyCx::new(self.engine, &run, task, entered, &self.cell, kept.take(), limit.clone());
            Arc::new(cx)
        });
        let call = Call {
            run: Arc::clone(&run),
            task,
            attempt: entered.attempt,
            reentry: entered.reentry,
            args,
            body: body.clone(),
        };
        let marked = !entered.mark || {
            let engine = self.engine;
            let event = Event::Started { task, attempt: entered.attempt };
            (cx as &mut dyn Attached).detach(|| engine.commit_own(None, &run, event)).is_ok()
        };
        // Without its mark a body is not called: the engine has stopped, or has lost the run.
        let outcome = if marked { cx.execute(call) } else { Outcome::Suspended };
        if let Some(body) = body {
            kept = body.end();
            shared.dismiss(&self.cell);
        }
        if let Some(next) = limit.and_then(|limit| limit.end()) {
            self.engine.dispatch_ready(&mut vec![next]);
        }
        let event = Event::Ended { task, attempt: entered.attempt, outcome };
        let Some(held) = kept else {
            self.engine.leave(run, event);
            return None;
        };
        shared.ends(held.no);
        let at = self.engine.clock.now();
        let now = self.engine.clock.steady();
        self.seen.see(at, now);
        // While its end is not committed a marked body's mark stands: the next body may kill the process, and this
        // one's run would be suspected of it.
        if held.group.push(Done { run, event, at, reply: None }, now) || entered.mark {
            self.commit(&held, cx);
        }
        drop(turn);
        cx.between(now);
        Some(held)
    }
}
