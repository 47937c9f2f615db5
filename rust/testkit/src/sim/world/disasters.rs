//! What goes wrong in a world, and how processes leave it.

use std::sync::Arc;
use std::time::Duration;

use bide_core::{Ask, Control, Message, RunStatus, TaskIx};
use bide_executor::Clock;
use bide_store::Store;

use super::super::plan::{Disaster, Version};
use super::{World, key_of};

impl World {
    /// What is to go wrong at this move goes wrong.
    pub(super) fn strike(&mut self) {
        while let Some((_, disaster)) = self.disasters.first().copied().filter(|(at, _)| *at <= self.moves) {
            self.disasters.remove(0);
            self.shared.oracle.lock().note(format!("move {}: {disaster:?}", self.moves));
            if let Disaster::Jump(milliseconds) = disaster {
                self.shared.clock.set_wall_by(milliseconds);
                continue;
            }
            match disaster {
                Disaster::Second => self.start_process(),
                Disaster::Deploy(version) => self.deploy(version),
                Disaster::Stranger => self.stranger(),
                Disaster::Loses(moves) => self.lose(moves),
                // One whose outcome is unknown may be there.
                Disaster::Pause(run, moves) if self.ask(run, Ask::Pause).is_some() => {
                    self.resumes.push((self.moves + moves, run));
                }
                Disaster::Cancel(run) => _ = self.ask(run, Ask::Cancel { force: false }),
                Disaster::CancelByForce(run) => {
                    let _ = self.ask(run, Ask::Cancel { force: true });
                    for row in self.rows() {
                        let stored = self.base.load(row.id).ok().flatten();
                        stored.iter().for_each(|stored| self.shared.oracle.lock().is_ended_by_its_store(stored));
                    }
                }
                Disaster::Hand(run, hand, which) => {
                    let waiting = self.waiting(run);
                    let chosen = waiting.get(usize::from(which) % waiting.len().max(1)).copied();
                    let place = chosen.unwrap_or_else(|| self.shared.case.nth_task(which));
                    let task = Arc::clone(self.shared.case.every_task().name(place));
                    let _ = self.ask(run, hand.ask(task));
                }
                _ => {}
            }
            if self.processes.is_empty() {
                continue;
            }
            let which = self.rng.below(self.processes.len());
            match disaster {
                Disaster::Crash => self.kill(which),
                Disaster::Birth(call, fault) => {
                    self.kill(which);
                    self.birth_fault = Some((call, fault));
                }
                Disaster::Close => {
                    self.processes[which].begin_close();
                    self.closing_until = self.moves + self.rng.below(30) as u32;
                }
                Disaster::Fault(fault) => self.processes[which].store.fail_next(fault),
                Disaster::Freeze(ms) => {
                    let until = self.shared.clock.steady() + Duration::from_millis(ms);
                    self.processes[which].frozen_until = until;
                    self.start_process();
                }
                Disaster::Jump(_) | Disaster::Second | Disaster::Deploy(_) | Disaster::Stranger => {}
                Disaster::Loses(_) => {}
                Disaster::Pause(..) | Disaster::Cancel(_) | Disaster::CancelByForce(_) | Disaster::Hand(..) => {}
            }
        }
        let due = |(at, _): &(u32, usize)| *at <= self.moves;
        if let Some(at) = self.resumes.iter().position(due) {
            let (_, run) = self.resumes[at];
            if self.ask(run, Ask::Resume) == Some(true) {
                self.resumes.swap_remove(at);
            }
        }
    }

    /// The tasks and elements of a run that wait.
    fn waiting(&self, run: usize) -> Vec<TaskIx> {
        let runs = self.base.by_key(&key_of(run), None).unwrap_or_default();
        let oracle = self.shared.oracle.lock();
        runs.iter().flat_map(|(run, _)| oracle.waiting(run.row())).collect()
    }

    /// Somebody asks something of a run: a process that is able, or one without a runner. `None` if there is no such
    /// run yet, false if the outcome is unknown.
    fn ask(&mut self, run: usize, ask: Ask) -> Option<bool> {
        let [(run, _)] = self.base.by_key(&key_of(run), None).unwrap_or_default()[..] else { return None };
        self.shared.oracle.lock().is_asked(run.row(), &ask);
        let control = Control::new(ask);
        let able: Vec<usize> = (0..self.processes.len()).filter(|at| self.processes[*at].is_able()).collect();
        if !able.is_empty() && self.rng.one_in(2) {
            let which = able[self.rng.below(able.len())];
            return Some(self.processes[which].control(run, &control).is_ok());
        }
        self.sent += 1;
        // No process makes such a number.
        let (number, sent_at) = (-(self.sent as i64), self.shared.clock.now());
        let (address, content) = (control.address(), Ok(control.content()));
        Some(self.base.send(run, &Message { number, address, id: None, content, sent_at }).is_ok())
    }

    /// All runs have come to their ends: somebody retries one that did not complete. False if nobody does.
    pub(super) fn retries(&mut self) -> bool {
        while let Some((run, fresh)) = self.retries.pop() {
            let key = key_of(run);
            let rows = self.rows();
            let status = rows.iter().find(|row| row.key.as_deref() == Some(&*key)).map(|row| row.status);
            if !matches!(status, Some(RunStatus::Failed | RunStatus::Cancelled)) {
                continue;
            }
            // What is reported to its callers is compared with what is committed now.
            self.processes.iter_mut().for_each(super::Process::forget_handles);
            if self.ask(run, Ask::Retry { from: None, fresh }) != Some(true) {
                // Its outcome is unknown.
                self.retries.push((run, fresh));
            }
            return true;
        }
        false
    }

    /// Somebody deletes all runs that have ended: nothing is left of them.
    pub(super) fn delete_all(&mut self) -> Result<(), String> {
        let rows = self.rows();
        for row in rows.iter().filter(|row| row.parent.is_none()) {
            let below = rows.iter().filter(|child| child.parent == Some(row.id));
            let ended = row.status.is_ended() && below.clone().all(|child| child.status.is_ended());
            let deleted =
                self.base.delete(row.id).map_err(|error| format!("run {} is not deleted: {error}", row.id))?;
            let left = || below.clone().chain([row]).any(|run| matches!(self.base.load(run.id), Ok(Some(_))));
            if deleted != ended || deleted == left() {
                return Err(format!("run {} is {:?}; it was deleted: {deleted}", row.id, row.status));
            }
            if deleted && !self.base.messages(row.id, 0).unwrap_or_default().is_empty() {
                return Err(format!("run {} is deleted, and its messages are there", row.id));
            }
            self.shared.oracle.lock().meets("a run that is deleted");
        }
        // Those who had the runs notice nothing bad.
        for _ in 0..8 {
            self.processes.iter_mut().for_each(|process| _ = process.time_has_passed(true));
            self.pass(Duration::from_secs(4));
        }
        Ok(())
    }

    /// Other code from now on; one process has it at once.
    pub(super) fn deploy(&mut self, version: Version) {
        self.version = version;
        self.start_process();
    }

    /// A caller submits a run that exists, with other inputs.
    pub(super) fn stranger(&mut self) {
        let keys: Vec<String> = self.rows().iter().filter_map(|row| Some(row.key.as_ref()?.to_string())).collect();
        if !keys.is_empty() && !self.processes.is_empty() {
            let key = &keys[self.rng.below(keys.len())];
            let which = self.rng.below(self.processes.len());
            self.processes[which].strange_submit(key);
        }
    }

    /// A process is no more; nothing that it had in its hands is written.
    pub(super) fn kill(&mut self, which: usize) {
        let runner = self.processes.remove(which).runner();
        self.has_died(runner);
    }

    pub(super) fn has_died(&self, runner: i64) {
        self.shared.oracle.lock().dies(runner);
        self.base.process_died(runner);
    }

    /// Takes away processes that have ended.
    pub(super) fn remove_ended(&mut self) {
        let over = self.moves >= self.closing_until;
        let mut at = 0;
        while at < self.processes.len() {
            let process = &self.processes[at];
            if process.is_dead() {
                self.shared.oracle.lock().meets("a body that kills its process");
                self.kill(at);
            } else if process.is_over() || (over && process.closes()) {
                let process = self.processes.remove(at);
                let (store, runner) = (Arc::clone(&process.store), process.runner());
                // If the store fails when the lease is released, its runs wait until the lease runs out.
                let notes = self.shared.oracle.lock().kept_leases;
                if process.finish_close() {
                    if self.shared.oracle.lock().kept_leases == notes {
                        self.everything_is_released(runner);
                    }
                } else if store.has_crashed() {
                    self.has_died(runner);
                }
            } else {
                at += 1;
            }
        }
        if over {
            self.closing_until = u32::MAX;
        }
    }

    /// A process has closed regularly: its runs can be claimed at once, and are no suspects.
    pub(super) fn everything_is_released(&self, runner: i64) {
        for row in self.rows().iter().filter(|row| row.status == RunStatus::Running) {
            if row.runner == Some(runner) {
                let line = format!("run {} still belongs to a runner that was closed", row.id);
                self.shared.oracle.lock().violations.push(line);
            }
        }
    }
}
