//! What happens to the attempts that wait in the lines of limits, or have a share.

use std::sync::Arc;
use std::time::Duration;

use bide_core::limits::{Line, Place, Rank};
use bide_core::record::RunRowId;
use bide_core::{TaskId, Time};
use bide_store::{ShareId, Unstarted};

use super::{LineKey, ON_THEIR_WAY, OwnLine, Patience, State, Waiter, share};
use crate::host::Host;

impl<H: Host> State<H> {
    pub(super) fn has_work(&self) -> bool {
        !(self.dirty.is_empty() && self.released.is_empty() && self.idle.is_empty() && self.unstarted.is_empty())
    }

    /// Whether an attempt waits here or has a share.
    pub(super) fn knows(&self, share: ShareId) -> bool {
        self.granted.contains_key(&share) || self.waiting.contains_key(&share)
    }

    pub(super) fn of_run(&self, run: RunRowId) -> Vec<ShareId> {
        let first = ShareId { run, task: TaskId::MIN, map: i32::MIN };
        let granted = self.granted.range(first..).map(|(share, _)| *share).take_while(|share| share.run == run);
        granted.chain(self.waiting_of(run).map(|(share, _)| *share)).collect()
    }

    pub(super) fn waiting_of(&self, run: RunRowId) -> impl Iterator<Item = (&ShareId, &(LineKey, Place))> {
        let first = ShareId { run, task: TaskId::MIN, map: i32::MIN };
        self.waiting.range(first..).take_while(move |(share, _)| share.run == run)
    }

    /// There may be room for a line.
    pub(super) fn touch(&mut self, line: &LineKey) {
        if let Some(own) = self.lines.get_mut(line)
            && !std::mem::replace(&mut own.is_dirty, true)
        {
            self.dirty.push_back(line.clone());
        }
    }

    /// Puts one into its line, unless it waits there already. `rate`: the least and the most patience with a start.
    pub(super) fn add(&mut self, line: &LineKey, waiter: Waiter<H>, rate: Option<(Duration, Duration)>) {
        if self.closing {
            return;
        }
        let share = share(&waiter.run, waiter.task);
        if self.waiting.contains_key(&share) {
            return;
        }
        let rank = Rank { priority: waiter.run.priority(), age: waiter.run.created_at };
        let patience = rate.map(|(least, most)| Patience { now: least, least, most });
        let new = || OwnLine { line: Line::default(), is_dirty: false, patience, on_their_way: 0, rings_at: None };
        let own = self.lines.entry(line.clone()).or_insert_with(new);
        own.patience = own.patience.or(patience);
        let place = own.line.push(waiter.resumes.is_some(), rank, waiter);
        self.waiting.insert(share, (line.clone(), place));
        self.touch(line);
    }

    /// An attempt has ended: there may be room for another one.
    pub(super) fn ends(&mut self, share: ShareId) {
        if let Some(granted) = self.granted.remove(&share) {
            if granted.latest.is_some() {
                self.arrives(&granted.line);
            }
            self.touch(&granted.line);
        }
        if let Some((line, place)) = self.waiting.remove(&share) {
            if let Some(own) = self.lines.get_mut(&line) {
                drop(own.line.remove(place));
            }
            // The store is told that fewer wait.
            self.touch(&line);
        }
    }

    /// Where a body waits to resume.
    pub(super) fn resuming(&self, share: ShareId) -> Option<(LineKey, Place)> {
        self.waiting.get(&share).filter(|(_, (resumes, ..))| *resumes).cloned()
    }

    /// A body does not execute any more: there may be room for another one.
    pub(super) fn idles(&mut self, share: ShareId) {
        self.idle.push(share);
        if let Some(line) = self.granted.get(&share).map(|granted| granted.line.clone()) {
            self.touch(&line);
        }
    }

    /// One that was granted a start is not on its way any more.
    pub(super) fn arrives(&mut self, line: &LineKey) {
        let Some(own) = self.lines.get_mut(line) else { return };
        let was = own.on_their_way;
        own.on_their_way = was.saturating_sub(1);
        if was >= ON_THEIR_WAY / 2 && own.on_their_way < ON_THEIR_WAY / 2 {
            self.touch(line);
        }
    }

    /// A body with a rate is about to be entered. False: it is too late for its grant.
    pub(super) fn enters(&mut self, share: ShareId, now: Time) -> bool {
        let Some(granted) = self.granted.get_mut(&share) else { return true };
        let Some(latest) = granted.latest.take() else { return true };
        let (line, in_time) = (granted.line.clone(), now <= latest);
        self.arrives(&line);
        if let Some(patience) = self.lines.get_mut(&line).and_then(|own| own.patience.as_mut()) {
            let next = if in_time { patience.now * 15 / 16 } else { patience.now * 2 };
            patience.now = next.clamp(patience.least, patience.most);
        }
        if !in_time {
            self.unstarted.push(Unstarted { limit: Arc::clone(&line.0), key: Arc::clone(&line.1), latest });
        }
        in_time
    }
}
