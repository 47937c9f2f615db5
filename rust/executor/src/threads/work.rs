//! How a worker thread executes a body: enter it in its run, call it, add its result to the group of the slot. The
//! thread's loop is the pool's.

use std::cell::{OnceCell, RefCell};
use std::sync::Arc;

use bide_core::run::Entered;
use bide_core::{Event, Outcome, TaskRef};
use bide_sched::WorkerThread;

use crate::clock::LastSeen;
use crate::engine::Engine;
use crate::failpoint::{self, Failpoint};
use crate::host::{Args, Attached, Dispatch, Host, Ready};
use crate::ledger::QueuedEvent;
use crate::runs::run::Run;
use crate::runs::suspects::Turn;
use crate::threads::body::BodyCx;
use crate::threads::limit::Limit;
use crate::threads::pool::{Executing, Parker, Permit, Pool};
use crate::threads::worker::{Call, Worker};

impl<H: Host<Dispatch = Pool<H>>> Engine<H> {
    /// What a worker thread does until the runner closes or it is not needed any more.
    pub fn work<C: Worker<H>>(self: &Arc<Self>, cx: &mut C) {
        let work = || {
            let workers = &self.dispatch().workers;
            let parker = workers.new_parker();
            let (ready, seen) = (Vec::new(), LastSeen::default());
            let mut thread = Thread { engine: self, parker: Arc::clone(&parker), ready, seen, cx };
            workers.work(self, &parker, &mut thread);
        };
        if let Err(why) = H::no_panic(work) {
            self.panicked(&why);
            self.dispatch().workers.worker_panicked();
        }
    }
}

struct Thread<'a, H: Host, C> {
    /// The engine that it works for.
    engine: &'a Arc<Engine<H>>,
    /// Where the thread sleeps.
    parker: Arc<Parker<H>>,
    /// Empty but for a commit: what it makes ready.
    ready: Vec<Ready<H>>,
    /// The clocks at the end of the last body.
    seen: LastSeen,
    /// The host's side of the thread.
    cx: &'a mut C,
}

impl<H: Host<Dispatch = Pool<H>>, C: Worker<H>> WorkerThread<Engine<H>> for Thread<'_, H, C> {
    fn wait<R>(&mut self, f: impl FnOnce() -> R) -> R {
        (self.cx as &mut dyn Attached).wait(f)
    }

    fn slot_acquired(&mut self) {
        failpoint::hit(Failpoint::Worker);
    }

    fn execute(&mut self, ready: Ready<H>, permit: Permit<H>) -> Option<Permit<H>> {
        let workflow = &ready.run.workflow;
        if !workflow.may_park(ready.task.ix) || workflow.graph.is_expansion(ready.task) {
            return self.execute_plain(ready, permit);
        }
        let begun = match self.begin_with_handle(ready, permit) {
            Ok(begun) => begun,
            Err(permit) => return Some(permit),
        };
        let (ended, outcome) = self.call(begun);
        self.end_with_handle(ended, outcome)
    }
}

/// A body that its run has entered.
struct Begun<H: Host> {
    /// The run of the body.
    run: Arc<Run<H>>,
    /// The task of the body.
    task: TaskRef,
    /// How the run entered it.
    entered: Entered,
    /// What it is called with.
    args: Args,
    /// Its slot.
    permit: Permit<H>,
    /// The timeout of the attempt, if it has one.
    limit: Option<Arc<Limit<H>>>,
    /// It was admitted as one that may park, and has a handle from the start.
    may_park: bool,
    /// Its mark is committed, if it needs one.
    marked: bool,
    /// The turn of a body that may have ended an earlier process.
    turn: Option<Turn>,
}

/// A body that has returned.
struct Ended<H: Host> {
    /// The run of the body.
    run: Arc<Run<H>>,
    /// The task of the body.
    task: TaskRef,
    /// How the run entered it.
    entered: Entered,
    /// Its slot, unless it has a handle: then `body` has it.
    permit: Option<Permit<H>>,
    /// The handle of the body, if it has one.
    body: Option<Arc<BodyCx<H>>>,
    /// The timeout of the attempt, if it has one.
    limit: Option<Arc<Limit<H>>>,
    /// The turn of a body that may have ended an earlier process.
    turn: Option<Turn>,
}

impl<H: Host<Dispatch = Pool<H>>, C: Worker<H>> Thread<'_, H, C> {
    /// Executes a body without a handle. It is hardly ever parked, so its frame may be large: all of it is one
    /// function.
    #[inline(never)]
    fn execute_plain(&mut self, ready: Ready<H>, permit: Permit<H>) -> Option<Permit<H>> {
        match self.begin(ready, permit, false) {
            Ok(begun) => {
                let (ended, outcome) = self.call(begun);
                self.end(ended, outcome)
            }
            Err(permit) => Some(permit),
        }
    }

    /// As [`Thread::begin`], in a frame of its own: that of `execute` stays on the stack while a body is parked.
    #[inline(never)]
    fn begin_with_handle(&mut self, ready: Ready<H>, permit: Permit<H>) -> Result<Begun<H>, Permit<H>> {
        self.begin(ready, permit, true)
    }

    /// As [`Thread::end`], in a frame of its own, as above.
    #[inline(never)]
    fn end_with_handle(&mut self, ended: Ended<H>, outcome: Outcome) -> Option<Permit<H>> {
        self.end(ended, outcome)
    }

    /// Calls a body.
    #[expect(clippy::inline_always, reason = "as for `begin`")]
    #[inline(always)]
    fn call(&mut self, begun: Begun<H>) -> (Ended<H>, Outcome) {
        let Begun { run, task, entered, args, permit, limit, may_park, marked, turn } = begun;
        let Entered { attempt, reentry, .. } = entered;
        let (permit, body) = (RefCell::new(Some(permit)), OnceCell::new());
        let (engine, parker) = (self.engine, &self.parker);
        let call = Call { engine, parker, run, task, attempt, reentry, args, permit, limit, body };
        if may_park {
            let _ = call.body.set(call.new_body());
        }
        // Without its mark a body is not called: the engine has stopped, or has lost the run.
        let outcome = if marked { self.cx.execute(&call) } else { Outcome::Suspended };
        let Call { run, permit, limit, body, .. } = call;
        let ended = Ended { run, task, entered, permit: permit.into_inner(), body: body.into_inner(), limit, turn };
        (ended, outcome)
    }

    /// Enters a body in its run. `Err`: it is not executed, and its permit is returned.
    #[expect(clippy::inline_always, reason = "what it returns is large, and moved if this is a call")]
    #[inline(always)]
    fn begin(&mut self, ready: Ready<H>, permit: Permit<H>, may_park: bool) -> Result<Begun<H>, Permit<H>> {
        let Some(ready) = Arc::clone(&ready.run).wait_for_overdue(ready) else { return Err(permit) };
        let Some((ready, turn)) = self.engine.admit_suspect(ready) else { return Err(permit) };
        let counts = ready.run.workflow.graph.is_expansion(ready.task);
        let workers = &self.engine.dispatch().workers;
        let ready = if may_park {
            let Some(ready) = workers.admit(self.engine, ready, &self.parker) else { return Err(permit) };
            ready
        } else {
            ready
        };
        let Ready { run, task } = ready;
        let clock = self.engine.clock();
        let mut now = clock.lease_micros();
        if !self.engine.lease_holds_at(now) {
            if !self.is_sure_of_lease() {
                if may_park {
                    workers.dismiss(&self.parker);
                }
                return Err(permit);
            }
            now = clock.lease_micros();
        }
        let now = self.seen.wall(&**clock, now);
        let entered = self.engine.limiter().enter(&run, task, now, &**clock, |now| {
            let mut state = run.state.lock();
            let entered = state.enter(task, now)?;
            let sources = H::sources(&run.workflow.bodies[task.ix as usize]);
            Some((entered, run.args(task, sources, &state)))
        });
        let Some((entered, args)) = entered else {
            if may_park {
                workers.dismiss(&self.parker);
            }
            return Err(permit);
        };
        if !permit.group().is_empty() {
            self.engine.path().ledger.arm();
        }
        let executing = Executing { run: Arc::clone(&run), task, attempt: entered.attempt };
        workers.body_starts(&permit, executing, now);
        let limit =
            if counts { None } else { Limit::start(self.engine, &run, task, entered.attempt, self.cx.thread()) };
        let marked = !entered.mark || {
            let engine = self.engine;
            let event = Event::Started { task, attempt: entered.attempt };
            (self.cx as &mut dyn Attached).detach(|| engine.commit_own(None, &run, event)).is_ok()
        };
        Ok(Begun { run, task, entered, args, permit, limit, may_park, marked, turn })
    }

    /// Reports a body's outcome.
    #[expect(clippy::inline_always, reason = "as for `begin`")]
    #[inline(always)]
    fn end(&mut self, ended: Ended<H>, outcome: Outcome) -> Option<Permit<H>> {
        let Ended { run, task, entered, permit: mut kept, body, limit, turn } = ended;
        let workers = &self.engine.dispatch().workers;
        let mut has_records = false;
        if let Some(body) = body {
            has_records = body.may_have_records();
            kept = body.end();
            workers.dismiss(&self.parker);
        }
        if let Some(next) = limit.and_then(|limit| limit.end()) {
            self.engine.dispatch_ready(&mut vec![next]);
        }
        if matches!(outcome, Outcome::Suspended) {
            self.engine.limiter().idle(&run, task);
        }
        let Some(permit) = kept else {
            self.engine.enqueue(run, Event::Ended { task, attempt: entered.attempt, outcome });
            return None;
        };
        has_records |= !workers.body_stops(&permit);
        let next = if has_records { None } else { self.engine.passes_on(&run, task, entered.attempt, &outcome) };
        let event = Event::Ended { task, attempt: entered.attempt, outcome };
        let at = self.engine.clock().now();
        let now = self.engine.clock().machine();
        self.seen.see(at, now);
        if entered.mark {
            // Until its end is committed the mark stands: the next body may kill the process, and this one's run would
            // be suspected of it. So this thread waits for that commit, also if another thread makes it.
            let engine = self.engine;
            let _ = (self.cx as &mut dyn Attached).detach(|| engine.commit_own(Some(permit.group()), &run, event));
        } else if permit.group().push(QueuedEvent { run, event, at, completion: None }, now)
            && !self.engine.path().ledger.leaves_to_next(permit.group())
        {
            self.commit(&permit);
        }
        if let Some(next) = next {
            self.start_next(next, &permit);
        }
        drop(turn);
        self.cx.between(now);
        Some(permit)
    }

    fn commit(&mut self, permit: &Permit<H>) {
        let (engine, ready) = (self.engine, &mut self.ready);
        (self.cx as &mut dyn Attached).detach(|| engine.commit_group(permit.group(), ready));
        engine.dispatch().workers.keep(permit, ready);
    }

    /// A body may start because this one has ended: here, if a thread executes it.
    fn start_next(&mut self, next: Ready<H>, permit: &Permit<H>) {
        self.ready.push(next);
        self.engine.dispatch().divert(&mut self.ready);
        self.engine.dispatch().workers.keep(permit, &mut self.ready);
    }

    /// The lease has run out. Renews it; false if another runner has claimed its runs.
    #[cold]
    #[inline(never)]
    fn is_sure_of_lease(&mut self) -> bool {
        let engine = self.engine;
        (self.cx as &mut dyn Attached).detach(|| engine.make_sure_of_lease())
    }
}
