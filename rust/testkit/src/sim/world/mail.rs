//! The messages that come to the runs of a world.

use std::sync::Arc;

use bide_core::record::{RunRow, RunRowId};
use bide_core::{Address, Message, RunId, RunStatus};
use bide_executor::Clock;
use bide_store::Store;

use super::super::body::number;
use super::super::oracle::mail::value_of;
use super::super::plan::{Letter, Sender, signal_name};
use super::super::process::Process;
use super::{World, key_of};

impl World {
    /// The messages are sent whose time has come.
    pub(super) fn deliver(&mut self) {
        let due = |letter: &Letter| letter.at <= self.moves;
        let Some(at) = self.letters.iter().position(due) else { return };
        let letter = self.letters[at];
        let runs = self.base.by_key(&key_of(letter.run), None).unwrap_or_default();
        if let [(run, _)] = runs[..] {
            self.letters.remove(at);
            self.send(run, letter.signal, letter.id, letter.from);
        }
    }

    /// Nothing else happens: now and then somebody sends what a run waits for.
    pub(super) fn supply(&mut self) {
        if !self.rng.one_in(3) {
            return;
        }
        let running = |row: &RunRow| row.status == RunStatus::Running;
        let awaited: Vec<(RunId, u8)> = {
            let oracle = self.shared.oracle.lock();
            let rows = self.rows().into_iter().filter(running).map(|row| row.id);
            let signals = |run: RunId| {
                let awaits = |signal: &u8| oracle.awaits(run.row(), &signal_name(*signal));
                (0..3).filter(awaits).map(|signal| (run, signal)).collect::<Vec<_>>()
            };
            rows.flat_map(signals).collect()
        };
        if awaited.is_empty() {
            return;
        }
        let (run, signal) = awaited[self.rng.below(awaited.len())];
        let from = [Sender::Owner, Sender::Any, Sender::Outside][self.rng.below(3)];
        self.send(run, signal, None, from);
    }

    fn send(&mut self, run: RunId, signal: u8, id: Option<u8>, from: Sender) {
        let owner = self.rows().iter().find(|row| row.id == run).and_then(|row| row.runner);
        let able = |process: &&Process| !process.is_frozen() && !process.is_over();
        let able: Vec<&Process> = self.processes.iter().filter(able).collect();
        let process = match from {
            Sender::Owner => able.into_iter().find(|process| owner.is_some_and(|owner| process.is_runner(owner))),
            Sender::Any if able.is_empty() => None,
            Sender::Any => Some(able[self.rng.below(able.len())]),
            Sender::Outside => None,
        };
        self.sent += 1;
        let (value, address) = (number(self.sent), Address::signal(&signal_name(signal)));
        let id: Option<Arc<str>> = id.map(|id| format!("id {id}").into());
        debug_assert_eq!(value_of(&value), Some(self.sent));
        self.shared.oracle.lock().is_sent(run.row(), &address, id.clone(), self.sent);
        let sent = match process {
            Some(process) => process.send(run, address, id, value),
            None => {
                // No process makes such a number.
                let (number, sent_at) = (-(self.sent as i64), self.shared.clock.now());
                self.base.send(run, &Message { number, address, id, content: Ok(value), sent_at })
            }
        };
        self.shared.oracle.lock().was_sent(self.sent, &sent);
    }

    /// The messages in the store that no wait has consumed, by their values.
    pub(super) fn queued(&self, rows: &[RunRow], run: RunRowId) -> Vec<u64> {
        let id = rows.iter().find(|row| row.id.row() == run).map(|row| row.id);
        let messages = id.and_then(|id| self.base.messages(id, 0).ok()).unwrap_or_default();
        let queued = messages.iter().filter(|stored| !stored.consumed);
        queued.filter_map(|stored| value_of(stored.message.content.as_ref().ok()?)).collect()
    }
}
