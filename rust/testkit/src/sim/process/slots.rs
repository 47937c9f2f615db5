//! Which worker or body holds each slot, and what a worker does between two bodies, as in the pool.

use std::sync::Arc;

use bide_core::attempt::Attempt;
use bide_core::{Event, RunState, TaskIx, TaskRef};
use bide_executor::{Ready, Run};
use bide_sched::{HandOff, SlotNo};

use super::super::body::{Body, Phase, digest, mix, of_result};
use super::super::host::SimHost;
use super::{BodyNo, Holder, Process};

impl Process {
    /// Records who holds a released slot now.
    fn assign(&mut self, slot: SlotNo, over: HandOff<BodyNo>) {
        match over {
            HandOff::Free => {
                self.holders.remove(&slot);
            }
            HandOff::New => {
                self.holders.insert(slot, Holder::Worker);
            }
            HandOff::Resumed(no) => {
                self.holders.insert(slot, Holder::Body(no));
            }
        }
    }

    /// Releases a slot.
    pub(super) fn release(&mut self, slot: SlotNo) {
        let (work, waiting) = (self.has_work(), self.slots.resumed());
        let over = self.slots.release(slot, work);
        if over != HandOff::Free {
            let to_new = over == HandOff::New;
            self.shared.oracle.lock().resumed_bodies_go_first(to_new, waiting, work, &mut self.streak);
        }
        self.assign(slot, over);
    }

    /// A worker between two bodies.
    pub(super) fn work(&mut self, slot: SlotNo) {
        let waiting = self.slots.resumed();
        if waiting > 0 {
            self.commit(slot);
            let over = self.slots.yield_to_resumed(slot);
            let mut oracle = self.shared.oracle.lock();
            oracle.resumed_bodies_go_first(over.is_none(), waiting, true, &mut self.streak);
            drop(oracle);
            if let Some(no) = over {
                self.holders.insert(slot, Holder::Body(no));
                return;
            }
        }
        match self.find(slot) {
            Some(ready) => self.enter(slot, ready),
            None if !self.sides[slot as usize].gathering.is_empty() => self.commit(slot),
            None => self.release(slot),
        }
    }

    fn find(&mut self, slot: SlotNo) -> Option<Ready<SimHost>> {
        if self.is_closing() {
            return None;
        }
        if let Some(ready) = self.sides[slot as usize].deque.pop_front() {
            return Some(ready);
        }
        if let Some(ready) = self.driver.engine().dispatch().ready.lock().pop_front() {
            return Some(ready);
        }
        self.sides.iter_mut().find_map(|side| side.deque.pop_front())
    }

    pub(super) fn commit(&mut self, slot: SlotNo) {
        let side = &mut self.sides[slot as usize];
        side.deque.extend(self.driver.commit(&side.gathering));
    }

    /// A result gathers on its slot; that of a marked body is committed at once.
    pub(super) fn gather(&mut self, slot: SlotNo, run: Arc<Run<SimHost>>, event: Event, marked: bool) {
        let now = self.steady();
        let side = &mut self.sides[slot as usize];
        if side.gathering.is_empty() {
            side.since = now;
        }
        if self.driver.gather(&side.gathering, run, event) || marked {
            self.commit(slot);
        }
    }

    /// What a task sees of one that it depends on.
    fn seen_of(&self, run: &Run<SimHost>, state: &RunState, task: TaskRef, on: TaskIx) -> u64 {
        let graph = &run.workflow.graph;
        let output = |task: TaskRef| state.output(task).map_or(1, |output| digest(output.as_bytes()));
        if graph.follows(task.ix).contains(&on) {
            return output(TaskRef { ix: on, map: task.map });
        }
        let Some(elements) = state.outcomes(on) else { return output(TaskRef::plain(on)) };
        let mut oracle = self.shared.oracle.lock();
        oracle.of_body(run.lease.runner, |oracle| oracle.elements_are_read_as_committed(run.id.row(), on, &elements));
        drop(oracle);
        let completed = elements.completed.iter().map(|(map, value)| mix(u64::from(*map), digest(value.as_bytes())));
        let failed =
            elements.failed.iter().map(|(map, failure)| mix(u64::from(*map), of_result(&Err(failure.clone()))));
        completed.chain(failed).fold(u64::from(elements.total), mix)
    }

    fn enter(&mut self, slot: SlotNo, ready: Ready<SimHost>) {
        let Some(ready) = self.driver.unless_overdue(ready) else { return };
        let Some((Ready { run, task }, turn)) = self.driver.admit_suspect(ready) else { return };
        if !self.driver.may_start() {
            return;
        }
        let place = self.place(&run, task);
        let Some(entered) = self.driver.enter(&run, task) else { return };
        let mut seen = {
            let state = run.state.lock();
            let outputs = run.workflow.graph.dependencies(task.ix).iter();
            outputs.fold(u64::from(place), |seen, on| mix(seen, self.seen_of(&run, &state, task, *on)))
        };
        seen = mix(seen, run.input("input").map_or(2, |input| digest(input.as_bytes())));
        let context = run.context_of(task.ix).map(|(view, _)| view);
        for (key, value) in context.iter().flatten() {
            seen = mix(mix(seen, digest(key.as_bytes())), digest(value.as_bytes()));
        }
        let sets = |place: TaskIx| self.shared.case.task(place).acts.iter().filter_map(|act| act.sets());
        let twice = self.bodies.values().any(|body| Arc::ptr_eq(&body.run, &run) && body.task == task);
        let lost = run.lease != self.driver.lease();
        let still_has_it = self.still_has(&run);
        let mut oracle = self.shared.oracle.lock();
        oracle.note(format!("enters: {} attempt {}", run.workflow.graph.name_of(task), entered.attempt));
        oracle.a_task_starts_only_after_what_it_depends_on(run.id.row(), place, still_has_it);
        oracle.a_body_starts_once_and_only_under_its_lease(place, twice, lost);
        if entered.reentry && still_has_it {
            oracle.a_sleeping_body_is_left_alone(run.id.row(), place);
        }
        let view = context.iter().flatten().map(|(key, _)| Arc::clone(key)).collect();
        oracle.a_task_sees_what_its_ancestors_have_set(run.id.row(), place, &view, sets);
        if let Err(why) = &context {
            oracle.violations.push(format!("the context does not read back: {why}"));
        }
        drop(oracle);
        let context = context.unwrap_or_default();
        self.script_enters();
        let counts = run.workflow.graph.is_expansion(task);
        self.last_body += 1;
        let body = Body {
            allowance: Some(()).filter(|()| !counts).and_then(|()| self.driver.allowance(&run, task, entered.attempt)),
            machine: Attempt::new(task, Arc::clone(run.workflow.graph.name(task.ix)), entered.attempt),
            run,
            task,
            place,
            attempt: entered.attempt,
            at: 0,
            items: Vec::new(),
            sum: 0,
            callback: None,
            request: None,
            child: None,
            awaited: None,
            shuffled: 0,
            entered: false,
            phase: if entered.mark { Phase::Mark } else { Phase::Acts },
            marked: entered.mark,
            turn,
            seen,
            ticket: 0,
            woken: false,
            context: [context.clone(), context],
        };
        self.bodies.insert(self.last_body, body);
        self.holders.insert(slot, Holder::Body(self.last_body));
    }
}
