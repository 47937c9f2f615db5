//! What bodies do in a simulated process, one move at a time.

use std::sync::Arc;
use std::time::Duration;

use bide_core::event::Event;
use bide_core::poll::Poll;
use bide_core::{EntryKind, Failure, FailureKind, Outcome, Recall, Time, Value};
use bide_executor::Run;
use bide_executor::drive::Allowance;
use bide_sched::SlotNo;

use super::super::body::{Body, Parked, Phase, Stated, Then, mix, number, of_result, timed_out};
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
        let next = match std::mem::replace(&mut body.phase, Phase::Acts) {
            Phase::Mark => {
                let event = Event::Started { task: body.task, attempt: body.attempt };
                let marked = self.driver.commit_own(None, &body.run, event).is_ok();
                // Without its mark a body is not called.
                if marked { Phase::Acts } else { Phase::Ended(Outcome::Suspended) }
            }
            Phase::Works(_) => {
                // Whether its time was used up by then is not to depend on who comes first after both were stopped.
                self.time_has_passed(false);
                body.at += 1;
                Phase::Acts
            }
            Phase::Acts => {
                if rng.one_in(12) {
                    self.driver.leave(Arc::clone(&body.run), Event::Started { task: body.task, attempt: body.attempt });
                }
                self.act(&mut body, rng)
            }
            Phase::Commit(event, then) => {
                let gathering = &self.sides[slot as usize].gathering;
                match (self.driver.commit_own(Some(gathering), &body.run, event), then) {
                    (Err(_), _) => Phase::Ended(Outcome::Suspended),
                    (Ok(()), Then::Next(seen)) => {
                        body.seen = mix(body.seen, seen);
                        body.at += 1;
                        Phase::Acts
                    }
                    (Ok(()), Then::Item(seen)) => {
                        body.item_done(seen);
                        Phase::Acts
                    }
                    (Ok(()), Then::Defer(key, parked)) => Phase::GiveBack(key, parked),
                }
            }
            Phase::GiveBack(key, parked) => {
                let (run, ix) = (body.run.id.row(), body.task.ix);
                if body.allowance.as_ref().is_some_and(|allowance| !allowance.pause()) {
                    self.shared.oracle.lock().meets("a timeout that comes as its body defers");
                    body.phase = Phase::Ended(body.timed_out(self.shared.case.task(ix)));
                    self.bodies.insert(no, body);
                    return;
                }
                if self.still_has(&body.run) {
                    self.shared.oracle.lock().a_wait_is_committed_before_its_slot_is_released(run, ix, &key);
                }
                let parked = match parked {
                    Parked::Poll { poll, act, asked, .. } => {
                        let deadline = body.run.state.lock().deadline(ix, &key);
                        Parked::Poll { poll, act, deadline, asked }
                    }
                    time @ Parked::Time(_) => time,
                };
                self.give_back(slot);
                let phase = self.park(&mut body, no, key, parked);
                body.phase = phase;
                self.bodies.insert(no, body);
                return;
            }
            Phase::WantsSlot(Some(seen)) => {
                // The slot has come.
                if let Some(allowance) = &body.allowance {
                    allowance.go_on();
                }
                body.seen = mix(body.seen, seen);
                body.at += 1;
                Phase::Acts
            }
            Phase::WantsSlot(None) => Phase::Ended(Outcome::Suspended),
            Phase::Ended(outcome) => {
                self.returns(&mut body);
                if !matches!(outcome, Outcome::Suspended) {
                    self.returned.push((Arc::clone(&body.run), body.task.ix, body.attempt));
                }
                let event = Event::Ended { task: body.task, attempt: body.attempt, outcome };
                self.holders.insert(slot, Holder::Worker);
                self.gather(slot, body.run, event, body.marked);
                drop(body.turn);
                return;
            }
            phase @ (Phase::Parked(..) | Phase::Polling(..) | Phase::Close(..)) => phase,
        };
        body.phase = next;
        self.bodies.insert(no, body);
    }

    /// Whether a run is still this process's, as far as the store says.
    pub(super) fn still_has(&self, run: &Run<SimHost>) -> bool {
        let stored = self.store.inner().load(run.id).ok().flatten();
        stored.is_some_and(|stored| stored.run.runner == Some(run.lease.runner))
    }

    /// A body has returned: the attempt that waited for that may start.
    pub(super) fn returns(&self, body: &mut Body) {
        if let Some(next) = body.allowance.take().and_then(|allowance| allowance.end()) {
            self.driver.engine().dispatch().ready.lock().push_back(next);
        }
    }

    /// The next act of a body that has a slot.
    fn act(&mut self, body: &mut Body, rng: &mut Rng) -> Phase {
        let shared = self.shared.clone();
        let plan = shared.case.task(body.task.ix);
        let Some(act) = plan.acts.get(body.at).copied() else { return Phase::Ended(body.end(plan)) };
        let Some(mut stated) = Stated::of(&plan.acts, body.at, self.version) else {
            return self.act_alone(body, act);
        };
        if body.allowance.as_ref().is_some_and(Allowance::is_reached) {
            self.shared.oracle.lock().meets("a timeout of a task");
            return Phase::Ended(body.timed_out(plan));
        }
        if self.is_closing() {
            return Phase::Ended(Outcome::Suspended);
        }
        if let Act::Shuffled(items) = act {
            return self.shuffled(body, &stated, items, rng);
        }
        let recall = body.run.state.lock().recall(body.task, body.attempt, &mut body.uses, &stated.asked());
        let recall = recall.map(|(key, recall)| {
            stated.key = key;
            recall
        });
        let (recorded_due, recorded_deadline, open) = match recall {
            Err(_) => return Phase::Ended(Outcome::Suspended),
            Ok(Recall::Satisfied(value)) => return self.recalls(body, &stated, Ok(value)),
            Ok(Recall::Failed(failure)) => return self.recalls(body, &stated, Err(failure)),
            Ok(Recall::Mismatch(why)) => {
                self.shared.oracle.lock().violations.push(format!("unchanged code does not match its journal: {why}"));
                return Phase::Ended(Outcome::Suspended);
            }
            Ok(Recall::Ask { deadline }) => (None, deadline, false),
            Ok(Recall::Open { due, deadline }) => (due, deadline, due.is_some()),
        };
        match act {
            Act::Step(works) => {
                let result = self.step(body, &stated, works);
                record(body, &stated, None, result)
            }
            Act::Sleep(ms) => {
                let due = recorded_due.unwrap_or_else(|| self.now().after(Duration::from_millis(ms)));
                if due <= self.now() {
                    if open {
                        let event = body.closed(stated.key.clone(), Ok(Value::NONE));
                        return Phase::Commit(event, Then::Next(of_result(&Ok(Value::NONE))));
                    }
                    return record(body, &stated, Some(due), Ok(Value::NONE));
                }
                let event = body.opened(stated.wait(Some(due)));
                Phase::Commit(event, Then::Defer(stated.key, Parked::Time(due)))
            }
            _ => {
                let mut poll = Poll::new(act.policy());
                if let Some(result) = self.ask(act, &mut poll, 1) {
                    return record(body, &stated, None, result);
                }
                if recorded_deadline.is_some_and(|deadline| self.now() >= deadline) {
                    return record(body, &stated, None, Err(timed_out()));
                }
                let event = body.opened(stated.wait(None));
                let parked = Parked::Poll { poll, act, deadline: None, asked: 1 };
                Phase::Commit(event, Then::Defer(stated.key, parked))
            }
        }
    }

    fn step(&self, body: &Body, stated: &Stated, works: bool) -> Result<Value, Failure> {
        if self.still_has(&body.run) {
            let (run, ix) = (body.run.id.row(), body.task.ix);
            let mut oracle = self.shared.oracle.lock();
            oracle.no_committed_step_runs_again(run, ix, &stated.key, stated.proof.as_deref());
        }
        let value = body.step_value(stated);
        if works { Ok(number(value)) } else { Err(boom(value)) }
    }

    /// One of several steps of a name, whichever comes first this time. A step that is not recorded yet may be a
    /// mismatch, if it comes in the place of one that is: then it is another one's turn.
    fn shuffled(&self, body: &mut Body, stated: &Stated, items: u8, rng: &mut Rng) -> Phase {
        if body.items.is_empty() {
            body.items = (0..items).collect();
        }
        for at in (1..body.items.len()).rev() {
            body.items.swap(at, rng.below(at + 1));
        }
        for at in 0..body.items.len() {
            let item = body.items[at];
            let mut stated = stated.item(body.at, item);
            let mut uses = body.uses.clone();
            let recall = body.run.state.lock().recall(body.task, body.attempt, &mut uses, &stated.asked());
            let Ok((key, recall)) = recall else { return Phase::Ended(Outcome::Suspended) };
            let new_number = key.n != uses.count("shuffled");
            stated.key = key;
            let result = match recall {
                Recall::Satisfied(value) => Some(Ok(value)),
                Recall::Failed(failure) => Some(Err(failure)),
                Recall::Mismatch(_) => {
                    self.shared.oracle.lock().meets("a step in the place of another");
                    continue;
                }
                Recall::Ask { .. } | Recall::Open { .. } => None,
            };
            body.uses = uses;
            body.items.remove(at);
            if new_number && result.is_none() {
                self.shared.oracle.lock().meets("a step that is recorded under another number");
            }
            if let Some(result) = result {
                self.reuses(body, &stated);
                body.item_done(of_result(&result));
                return Phase::Acts;
            }
            let result = self.step(body, &stated, item != 3);
            let seen = of_result(&result);
            return Phase::Commit(body.recorded(stated.wait(None), result), Then::Item(seen));
        }
        self.shared.oracle.lock().violations.push("no step of a shuffled loop matches its journal".to_owned());
        Phase::Ended(Outcome::Suspended)
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

    /// A record takes the place of the act.
    fn recalls(&self, body: &mut Body, stated: &Stated, result: Result<Value, Failure>) -> Phase {
        self.reuses(body, stated);
        body.seen = mix(body.seen, of_result(&result));
        body.at += 1;
        Phase::Acts
    }

    fn reuses(&self, body: &Body, stated: &Stated) {
        if self.still_has(&body.run) {
            let (run, ix, proof) = (body.run.id.row(), body.task.ix, stated.proof.as_deref());
            self.shared.oracle.lock().a_record_is_reused_only_if_it_is_the_same(run, ix, &stated.key, proof);
        }
    }

    /// Asks a condition, for the so-many-th time in a row.
    pub(super) fn ask(&self, act: Act, poll: &mut Poll, asked: u32) -> Option<Result<Value, Failure>> {
        if self.holds(act.holds_at()) {
            return Some(Ok(Value::tagged(b't', b"")));
        }
        if !act.raises() {
            poll.ok();
            return None;
        }
        let ends = poll.failed();
        if let Act::Raises = act {
            self.shared.oracle.lock().the_fifth_error_in_a_row_ends_a_wait(asked, ends);
        }
        ends.then(|| Err(boom(0)))
    }
}

fn boom(value: u64) -> Failure {
    Failure::new(FailureKind::Raised, "Boom", &format!("{value:x}"))
}

/// Records a step, or a wait that its first check has decided.
fn record(body: &Body, stated: &Stated, due: Option<Time>, result: Result<Value, Failure>) -> Phase {
    let seen = of_result(&result);
    debug_assert!(matches!(stated.kind, EntryKind::Step | EntryKind::Condition | EntryKind::Time));
    Phase::Commit(body.recorded(stated.wait(due), result), Then::Next(seen))
}
