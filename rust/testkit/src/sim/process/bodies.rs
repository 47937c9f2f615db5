//! What bodies do in a simulated process, one move at a time.

use std::sync::Arc;
use std::time::Duration;

use bide_core::attempt::{Action, CallError, Caller, Fed, Polled, Request, Standing};
use bide_core::event::{Event, Retry};
use bide_core::{Failure, FailureKind, Origin, Outcome, Progress, Recall, Refused, Value};
use bide_executor::Run;
use bide_executor::drive::Allowance;
use bide_sched::SlotNo;

use super::super::body::{Body, HandleCall, OpenCall, Phase, mix, number, of_result};
use super::super::host::SimHost;
use super::super::plan::Act;
use super::super::rng::Rng;
use super::super::world::key_of;
use super::{BodyNo, Holder, Process};

impl Process {
    pub(super) fn body_moves(&mut self, slot: SlotNo, no: BodyNo, rng: &mut Rng) {
        let Some(mut body) = self.bodies.remove(&no) else {
            self.shared.oracle.lock().violations.push(format!("slot {slot} went to body {no}, which is gone"));
            self.holders.remove(&slot);
            return;
        };
        self.script_has_slot(true);
        let next = match std::mem::replace(&mut body.phase, Phase::Acts) {
            Phase::Mark => {
                let event = Event::Started { task: body.task, attempt: body.attempt };
                let marked = self.driver.commit_own(None, &body.run, event).is_ok();
                // Without its mark a body is not called.
                if marked { Phase::Acts } else { Phase::Ended(Outcome::Suspended) }
            }
            Phase::Works(_) => {
                // Whether its time was used up must not depend on which of the two continues first after a stop.
                self.time_has_passed(false);
                body.at += 1;
                Phase::Acts
            }
            Phase::Acts => {
                if self.shared.script.is_none() && rng.one_in(12) && body.machine.show() {
                    self.driver
                        .enqueue(Arc::clone(&body.run), Event::Started { task: body.task, attempt: body.attempt });
                }
                match self.act(&mut body, rng) {
                    Ok(phase) => phase,
                    Err(open_call) => return self.feed(body, no, open_call, Fed::Begin),
                }
            }
            Phase::Calls(open_call, action) => return self.carry_out(body, no, Some(slot), open_call, action),
            Phase::WantsShare(..) => unreachable!("a body that waits for a share has no slot"),
            Phase::WantsSlot(mut open_call, commit) => {
                // The slot has come.
                open_call.parked = false;
                if let Some(allowance) = &body.allowance {
                    allowance.resume();
                }
                return self.feed(body, no, open_call, Fed::Acquired { commit, slot: true });
            }
            Phase::Ended(outcome) => {
                self.returns(&mut body);
                if matches!(outcome, Outcome::Suspended) {
                    self.driver.idle(&body.run, body.task);
                } else {
                    self.returned.push((Arc::clone(&body.run), body.task, body.attempt));
                }
                if !body.machine.may_have_records()
                    && let Some(next) = self.driver.passes_on(&body.run, body.task, body.attempt, &outcome)
                {
                    self.shared.oracle.lock().meets("a share that an attempt leaves to another");
                    self.sides[slot as usize].deque.push_back(next);
                }
                let event = Event::Ended { task: body.task, attempt: body.attempt, outcome };
                self.holders.insert(slot, Holder::Worker);
                self.gather(slot, body.run, event, body.marked);
                drop(body.turn);
                return;
            }
        };
        body.phase = next;
        self.bodies.insert(no, body);
    }

    /// Carries out the action of a body's call, and feeds the outcome.
    pub(super) fn carry_out(
        &mut self,
        mut body: Body,
        no: BodyNo,
        slot: Option<SlotNo>,
        mut open_call: OpenCall,
        action: Action,
    ) {
        let (run, ix) = (body.run.id.row(), body.place);
        let fed = match action {
            Action::CheckLease if self.driver.may_start() && !self.is_lost(&body) => Fed::LeaseHeld,
            Action::CheckLease => Fed::LeaseLost,
            Action::Recall => self.recall(&mut body, &open_call),
            Action::Ask => {
                open_call.asked += 1;
                self.shared.oracle.lock().only_conditions_are_asked(ix, open_call.act.is_condition());
                Fed::Asked(match open_call.act {
                    Act::Scripted(at) => self.ask_script(&mut body, at).polled(),
                    act => self.ask(act),
                })
            }
            Action::Prove => Fed::Proved(self.script_call(open_call.act).is_none_or(|call| call.is_unchanged())),
            Action::Execute => match open_call.act {
                Act::Scripted(at) => {
                    let is_retried = self.script_call(open_call.act).is_some_and(|call| call.is_retried());
                    match self.execute_script(&mut body, at) {
                        Err(failure) if is_retried => Fed::Raised(failure, Retry { random: 0.5 }),
                        result => Fed::Executed(result),
                    }
                }
                _ => self.step(&body, &open_call),
            },
            Action::Commit(event) => {
                let opens = matches!(*event, Event::Opened { .. });
                let gathering = slot.map(|slot| &self.sides[slot as usize].gathering);
                match self.driver.commit_own(gathering, &body.run, *event) {
                    Ok(()) => {
                        let deadline = |()| body.run.state.lock().deadline(body.task, open_call.call.key());
                        Fed::Committed { deadline: opens.then_some(()).and_then(deadline) }
                    }
                    Err(lost) => match self.call_error(&body, lost) {
                        CallError::Over(refused) => Fed::Refused(refused),
                        _ => Fed::Stopped,
                    },
                }
            }
            Action::Release => {
                if body.allowance.as_ref().is_some_and(|allowance| !allowance.pause()) {
                    self.shared.oracle.lock().meets("a timeout that comes as its body defers");
                    Fed::NotReleased
                } else {
                    if self.still_has(&body.run) {
                        let mut oracle = self.shared.oracle.lock();
                        oracle.a_wait_is_committed_before_its_slot_is_released(run, ix, open_call.call.key());
                    }
                    if let Some(slot) = slot {
                        self.release(slot);
                    }
                    self.driver.idle(&body.run, body.task);
                    open_call.parked = true;
                    Fed::Released
                }
            }
            Action::Read => Fed::EntryRead(body.machine.read(&open_call.call, &body.run.state.lock())),
            Action::AskPart(_) => Fed::Asked(self.ask(open_call.act)),
            Action::ProvePart(_) => Fed::Proved(true),
            Action::StartChildren { event, .. } => self.start_child(&body, *event),
            action @ (Action::Sleep(_) | Action::CommitAndAcquire(_) | Action::Acquire | Action::Done(_)) => {
                let line = format!("a body with a slot is to {action:?}");
                self.shared.oracle.lock().violations.push(line);
                Fed::Stopped
            }
        };
        self.feed(body, no, open_call, fed);
    }

    /// Feeds a body's call, and keeps what it is to do next.
    pub(super) fn feed(&mut self, mut body: Body, no: BodyNo, mut open_call: OpenCall, fed: Fed) {
        let raised = matches!((&fed, open_call.act), (Fed::Asked(Polled::Raised(_)), Act::Raises));
        let action = body.machine.advance(&mut open_call.call, fed, &**self.driver.engine());
        if raised {
            let goes_on = match &action {
                Action::Sleep(_) => true,
                Action::Commit(event) => matches!(**event, Event::Opened { .. }),
                _ => false,
            };
            self.shared.oracle.lock().the_fifth_error_in_a_row_ends_a_wait(open_call.asked, !goes_on);
        }
        body.phase = match action {
            Action::Done(result) => {
                self.poll_done(&mut open_call);
                let parked = open_call.parked;
                match self.ends(&mut body, &open_call, result) {
                    // Without a slot it unwinds.
                    Phase::Ended(_) if parked => return self.suspended(body),
                    phase => phase,
                }
            }
            Action::Sleep(_) if self.is_closing() => return self.feed(body, no, open_call, Fed::Stopped),
            Action::Sleep(sleep) => {
                self.park(&mut body, no, &mut open_call, sleep);
                Phase::Calls(open_call, Action::Sleep(sleep))
            }
            action => Phase::Calls(open_call, action),
        };
        self.bodies.insert(no, body);
    }

    /// A call is over.
    fn ends(&self, body: &mut Body, open_call: &OpenCall, result: Result<Value, CallError>) -> Phase {
        if let Some(call) = self.script_call(open_call.act) {
            return self.script_ends(body, open_call, &call, result);
        }
        let result = match result {
            Ok(value) => Ok(value),
            Err(CallError::Failed(failure)) if failure.kind == FailureKind::Cancelled => {
                self.shared.oracle.lock().meets("a body that gets that its run is cancelled");
                return Phase::Ended(Outcome::Cancelled { failure });
            }
            Err(CallError::Failed(failure)) => Err(failure),
            Err(CallError::Suspended | CallError::Over(_)) => return Phase::Ended(Outcome::Suspended),
            Err(CallError::TimedOut(_)) => return Phase::Ended(body.timed_out(self.shared.case.task(body.place))),
            Err(CallError::Mismatch(why) | CallError::Misuse(why)) => {
                self.shared.oracle.lock().violations.push(format!("a call is refused: {why}"));
                return Phase::Ended(Outcome::Suspended);
            }
        };
        let is_interrupted = result.as_ref().is_err_and(|failure| failure.kind == FailureKind::StepInterrupted);
        if is_interrupted {
            self.shared.oracle.lock().meets("a step that was interrupted and is not executed again");
        }
        let seen = match open_call.act {
            // The same, whether it was interrupted or not.
            Act::Once => 1,
            act if act.is_with_others() => self.seen_of_others(body, open_call, &result),
            act if act.depends_on_the_moment() => 0,
            _ => of_result(&result),
        };
        if matches!(open_call.act, Act::Checkpoint) {
            // Dropped with the journal: nobody can answer the one any more, and the other was refused.
            (body.callback, body.request) = (None, None);
            body.at += 1;
        } else if matches!(open_call.act, Act::Replies(_)) {
            // Whether there was a request is another thing in each world.
            body.at += 1;
        } else if open_call.is_item {
            body.item_done(seen);
        } else {
            body.seen = mix(body.seen, seen);
            body.at += 1;
        }
        Phase::Acts
    }

    fn recall(&self, body: &mut Body, open_call: &OpenCall) -> Fed {
        let fed = body.machine.recall(&open_call.call, &mut body.run.state.lock());
        let Fed::Recalled(key, recall) = &fed else { return fed };
        match recall {
            // The oracle knows by what it was satisfied.
            Recall::Satisfied(_) | Recall::Failed(_)
                if open_call.act.depends_on_the_moment() || open_call.act.is_with_others() => {}
            Recall::Satisfied(_) | Recall::Failed(_) if self.still_has(&body.run) => {
                let (run, ix, proof) = (body.run.id.row(), body.place, open_call.proof.as_deref());
                let mut oracle = self.shared.oracle.lock();
                oracle.a_record_is_reused_only_if_it_is_the_same(run, ix, key, proof);
                if matches!(open_call.act, Act::Keyed(_) | Act::Step(_)) && key.is_keyed() {
                    oracle.meets("a step that is found by its key");
                }
            }
            Recall::Mismatch(why) if self.shared.script.is_none() => {
                let line = format!("unchanged code does not match its journal: {why}");
                self.shared.oracle.lock().violations.push(line);
            }
            _ => {}
        }
        fed
    }

    /// Whether a body's run is another runner's, as far as this process knows.
    pub(super) fn is_lost(&self, body: &Body) -> bool {
        body.run.lease != self.driver.lease()
    }

    /// Begins a call.
    pub(super) fn call(&self, body: &mut Body, act: Act, wanted: HandleCall, is_item: bool) -> Result<Phase, OpenCall> {
        let used_up = body.allowance.as_ref().is_some_and(Allowance::is_reached);
        let (lost, closing) = (self.is_lost(body), self.is_closing());
        let standing = Standing { lost, closing, used_up, caller: Caller::Body, longest: None };
        match body.machine.begin(&wanted.name, wanted.request, standing) {
            Ok(call) => {
                Err(OpenCall { call, act, is_item, proof: wanted.proof, asked: 0, parked: false, polls: false })
            }
            Err(CallError::Suspended | CallError::Over(_)) => Ok(Phase::Ended(Outcome::Suspended)),
            Err(CallError::TimedOut(_)) => {
                self.shared.oracle.lock().meets("a timeout of a task");
                Ok(Phase::Ended(body.timed_out(self.shared.case.task(body.place))))
            }
            Err(error) => {
                self.shared.oracle.lock().violations.push(format!("a call is refused: {error:?}"));
                Ok(Phase::Ended(Outcome::Suspended))
            }
        }
    }

    /// Whether a run is still this process's, as far as the store says.
    pub(super) fn still_has(&self, run: &Run<SimHost>) -> bool {
        let stored = self.store.inner().load(run.id).ok().flatten();
        stored.is_some_and(|stored| stored.run.runner == Some(run.lease.runner))
    }

    /// A body has returned: the attempt that waited for that may start.
    pub(super) fn returns(&self, body: &mut Body) {
        self.shared.script.iter().for_each(|script| script.probe.leaves());
        if let Some(next) = body.allowance.take().and_then(|allowance| allowance.end()) {
            self.driver.engine().dispatch().ready.lock().push_back(next);
        }
    }

    /// The next act of a body that has a slot: what it does then, or the call of its handle that it begins.
    fn act(&mut self, body: &mut Body, rng: &mut Rng) -> Result<Phase, OpenCall> {
        let shared = self.shared.clone();
        let plan = shared.case.task(body.place);
        if body.run.workflow.graph.is_expansion(body.task) {
            return Ok(Phase::Ended(body.expand(plan)));
        }
        if self.shared.script.is_none() {
            self.show(body);
        }
        let state = match std::mem::replace(&mut body.entered, true) {
            true => None,
            false => body.run.state.lock().last_checkpoint(body.task).cloned(),
        };
        if let Some(state) = state {
            body.continue_at(&state);
            shared.oracle.lock().meets("a body that continues where its checkpoint was");
        }
        let Some(act) = plan.acts.get(body.at).copied() else { return Ok(Phase::Ended(body.end(plan))) };
        if let Some(call) = self.script_call(act) {
            let wanted = HandleCall { name: call.name.into(), proof: None, request: call.request() };
            return self.call(body, act, wanted, false);
        }
        if let Act::Checkpoint = act {
            let request = Request::Checkpoint(body.state());
            return self.call(body, act, HandleCall { name: "checkpoint".into(), proof: None, request }, false);
        }
        if act.is_with_others() {
            return self.act_with_others(body, act);
        }
        let Some(wanted) = HandleCall::of(&plan.acts, body.at, self.version) else {
            return Ok(self.act_alone(body, act));
        };
        let (Act::Shuffled(items) | Act::Keyed(items)) = act else { return self.call(body, act, wanted, false) };
        if body.items.is_empty() {
            body.items = (0..items).collect();
        }
        if matches!(act, Act::Keyed(_)) {
            let item = body.items.swap_remove(rng.below(body.items.len()));
            let wanted = HandleCall::keyed("keyed", body.at, item);
            return self.call(body, Act::Step(item != 3), wanted, true);
        }
        match self.choose(body, &wanted.name, rng) {
            Ok(item) => {
                let wanted = HandleCall::step(wanted.name, body.at, item);
                self.call(body, Act::Step(item != 3), wanted, true)
            }
            Err(outcome) => Ok(Phase::Ended(outcome)),
        }
    }

    /// Between two acts some bodies emit an event, and some say how far they have come.
    fn show(&self, body: &mut Body) {
        let used_up = body.allowance.as_ref().is_some_and(Allowance::is_reached);
        let standing =
            Standing { lost: self.is_lost(body), closing: self.is_closing(), used_up, ..Standing::default() };
        let (emits, says) = (body.place.is_multiple_of(2), body.place.is_multiple_of(3));
        let may_show = (emits || says) && body.machine.may_show(standing).is_ok();
        // An attempt may be over without its body knowing it.
        if !may_show || !body.run.state.lock().entered().contains(&(body.task, body.attempt)) {
            return;
        }
        let row = body.run.id.row();
        if says {
            let done = self.shared.oracle.lock().says_progress(body.run.lease.runner, row, body.place, body.attempt);
            let progress = Progress { done, total: None, message: None, said_at: self.now() };
            self.driver.progress(&body.run, body.task, body.attempt, progress);
        }
        if !emits {
            return;
        }
        let (event, channel) = self.shared.oracle.lock().emits(body.run.lease.runner, row, body.place);
        let origin = Origin { task: body.task, attempt: body.attempt, entry: None };
        if let Err(error) = self.driver.emit(&body.run, &channel, origin, &number(event)) {
            self.shared.oracle.lock().violations.push(format!("an event is refused: {error:?}"));
        }
    }

    fn step(&self, body: &Body, open_call: &OpenCall) -> Fed {
        let (run, ix, key) = (body.run.id.row(), body.place, open_call.call.key());
        let mut oracle = self.shared.oracle.lock();
        if self.still_has(&body.run) {
            oracle.no_committed_step_runs_again(run, ix, key, open_call.proof.as_deref());
        }
        let value = body.step_value(open_call.proof.as_deref().unwrap_or(key.name.as_bytes()));
        match open_call.act {
            Act::Flaky(fails) if oracle.a_step_is_tried_again_after_its_delay(run, ix, key) < u32::from(fails) => {
                Fed::Raised(boom(value), Retry { random: 0.5 })
            }
            Act::Once => {
                let runner = body.run.lease.runner;
                oracle.of_body(runner, |oracle| oracle.a_step_is_executed_at_most_once(run, ix, key));
                Fed::Executed(Ok(number(value)))
            }
            Act::Step(false) => Fed::Executed(Err(boom(value))),
            _ => Fed::Executed(Ok(number(value))),
        }
    }

    /// Chooses one of several steps of a name, whichever comes first this time. A step that is not recorded yet may be
    /// a mismatch, if it comes in the place of one that is: then it is another one's turn.
    fn choose(&self, body: &mut Body, name: &Arc<str>, rng: &mut Rng) -> Result<u8, Outcome> {
        for at in (1..body.items.len()).rev() {
            body.items.swap(at, rng.below(at + 1));
        }
        for at in 0..body.items.len() {
            // Looked up on trial: the call itself is begun afterwards.
            let item = body.items[at];
            let mut trial = body.machine.clone();
            let wanted = HandleCall::step(Arc::clone(name), body.at, item);
            let recalled = trial.begin(name, wanted.request, Standing::default()).ok();
            let recalled = recalled.map(|call| trial.recall(&call, &mut body.run.state.lock()));
            if let Some(Fed::Refused(Refused::Cancelled)) = recalled {
                self.shared.oracle.lock().meets("a body that gets that its run is cancelled in the place of a record");
                let failure = Failure::new(FailureKind::Cancelled, "bide.Cancelled", "the run was cancelled");
                return Err(Outcome::Cancelled { failure });
            }
            if let Some(Fed::Recalled(key, recall)) = recalled {
                let mut oracle = self.shared.oracle.lock();
                match recall {
                    Recall::Mismatch(_) => {
                        oracle.meets("a step in the place of another");
                        continue;
                    }
                    Recall::Ask { .. } if key.n != body.shuffled + 1 => {
                        oracle.meets("a step that is recorded under another number");
                    }
                    _ => {}
                }
            }
            body.shuffled += 1;
            return Ok(body.items.remove(at));
        }
        self.shared.oracle.lock().violations.push("no step of a shuffled loop matches its journal".to_owned());
        Err(Outcome::Suspended)
    }

    /// An act that bide does not hear of.
    fn act_alone(&mut self, body: &mut Body, act: Act) -> Phase {
        match act {
            Act::Works(ms) => return Phase::Works(self.steady() + Duration::from_millis(ms)),
            Act::Sets(_) => act.sets().into_iter().for_each(|key| body.sets(key)),
            Act::Kills(run) if run.is_none_or(|run| body.run.key.as_deref() == Some(&*key_of(run))) => {
                self.dead = true;
                return Phase::Acts;
            }
            _ => {}
        }
        body.at += 1;
        Phase::Acts
    }

    /// Asks a condition.
    fn ask(&self, act: Act) -> Polled {
        if self.holds(act.holds_at()) {
            Polled::True(Value::tagged(b't', b""))
        } else if act.raises() {
            Polled::Raised(boom(0))
        } else {
            Polled::False
        }
    }
}

fn boom(value: u64) -> Failure {
    Failure::new(FailureKind::Raised, "Boom", &format!("{value:x}"))
}
