//! What happens to the attempts that wait in the lines of limits, or have a share.

use std::collections::BTreeMap;
use std::time::Duration;

use bide_core::limits::{Line, Place, Rank};
use bide_core::record::RunRowId;
use bide_core::{Rate, TaskId, Time};
use bide_store::{Moved, ShareId};

use super::{
    Entered, Entry, FIRST_ASKED, Granted, LineKey, ON_THEIR_WAY, OwnLine, Passing, Patience, State, Waiter, share,
};
use crate::host::Host;

/// Starts that happen within this part of a rate's span are told as one, and within this time.
const TOGETHER: u32 = 1000;
const TOGETHER_AT_MOST: Duration = Duration::from_millis(10);

/// A wall that shows a time further before a grant than this was set by somebody.
const SET_BACK: Duration = Duration::from_secs(1);

impl<H: Host> OwnLine<H> {
    pub(super) fn new(rate: Option<Rate>) -> Self {
        Self {
            line: Line::default(),
            is_dirty: false,
            asked: FIRST_ASKED,
            patience: rate.map(Patience::new),
            moved: Vec::new(),
            on_their_way: 0,
            rings_at: None,
            may_pass_on: false,
            passed: BTreeMap::new(),
            is_passing: false,
        }
    }

    /// Nobody waits in it, and nothing is to be told of it.
    fn is_unused(&self) -> bool {
        self.line.is_empty() && !self.is_dirty && self.on_their_way == 0 && !self.is_passing
    }

    /// A start that was granted has happened then, or not at all. True if others may start earlier than they were to.
    fn moves(&mut self, latest: Time, to: Option<Time>) -> bool {
        let Some(span) = self.patience.map(|patience| patience.most) else { return false };
        let together = (span / TOGETHER).min(TOGETHER_AT_MOST);
        let at = to.unwrap_or(latest);
        match self.moved.last_mut().filter(|last| {
            last.moved.latest == latest && last.moved.to.is_some() == to.is_some() && at <= last.first.after(together)
        }) {
            Some(last) => {
                last.moved.count += 1;
                last.moved.to = last.moved.to.max(to);
            }
            None => self.moved.push(Entered { moved: Moved { latest, count: 1, to }, first: at }),
        }
        !self.line.is_empty() && self.rings_at.is_some_and(|rings| to.is_none_or(|to| to.after(span) < rings))
    }
}

impl<H: Host> State<H> {
    pub(super) fn has_work(&self) -> bool {
        !(self.dirty.is_empty() && self.released.is_empty() && self.idle.is_empty())
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

    /// Puts one into its line, unless it waits there already. One that starts has no share.
    pub(super) fn add(&mut self, line: LineKey, waiter: Waiter<H>, rate: Option<Rate>) {
        if self.closing {
            return;
        }
        let share = share(&waiter.run, waiter.task);
        if self.waiting.contains_key(&share) {
            return;
        }
        let rank = Rank { priority: waiter.run.priority(), age: waiter.run.created_at };
        let own = self.lines.entry(line.clone()).or_insert_with(|| OwnLine::new(rate));
        own.patience = own.patience.or_else(|| rate.map(Patience::new));
        let place = own.line.push(waiter.continues, rank, waiter);
        self.touch(&line);
        self.waiting.insert(share, (line, place));
    }

    /// An attempt gives back what it was granted.
    pub(super) fn withdraw(&mut self, share: ShareId) {
        if let Some(Granted { line, latest, .. }) = self.granted.remove(&share) {
            if let Some((latest, _)) = latest {
                self.arrives(&line, latest, None);
            }
            self.released.push(share);
            self.touch(&line);
        }
    }

    /// An attempt has ended: there may be room for another one, if nobody in its line was asked about meanwhile.
    pub(super) fn ends(&mut self, share: ShareId, has_room: impl Fn(&LineKey) -> bool) {
        if let Some(Granted { line, latest, .. }) = self.granted.remove(&share) {
            if let Some((latest, _)) = latest {
                self.arrives(&line, latest, None);
            }
            if has_room(&line) {
                self.touch(&line);
            }
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
        let Some(granted) = self.granted.get_mut(&share) else {
            self.idle.push(share);
            return;
        };
        if granted.passed == Passing::Recorded {
            let line = granted.line.clone();
            self.idle.push(share);
            self.touch(&line);
        } else {
            granted.passed = Passing::Idles;
        }
    }

    /// A body resumes. True if the store was not told yet that it had stopped executing, and so need not be asked.
    pub(super) fn executes_again(&mut self, share: ShareId) -> bool {
        if let Some(at) = self.idle.iter().position(|idle| *idle == share) {
            self.idle.swap_remove(at);
            return true;
        }
        let idles = self.granted.get_mut(&share).filter(|granted| granted.passed == Passing::Idles);
        idles.map(|granted| granted.passed = Passing::Unrecorded).is_some()
    }

    /// One that was granted a start is not on its way any more. True if others may start.
    fn arrives(&mut self, line: &LineKey, latest: Time, to: Option<Time>) -> bool {
        let Some(own) = self.lines.get_mut(line) else { return false };
        let was = own.on_their_way;
        own.on_their_way = was.saturating_sub(1);
        let mut wakes = own.moves(latest, to);
        wakes |= !own.line.is_empty() && was >= ON_THEIR_WAY / 2 && own.on_their_way < ON_THEIR_WAY / 2;
        // Of one that was not entered in time the line keeps what it has learned, until it is told.
        if wakes || to.is_none() {
            self.touch(line);
        } else {
            self.forget_unused(line);
        }
        wakes
    }

    /// Forgets a line in which nobody waits and of which nobody is on its way. What was not told of its starts counts for
    /// a moment longer.
    pub(super) fn forget_unused(&mut self, line: &LineKey) {
        if self.lines.get(line).is_some_and(OwnLine::is_unused) {
            self.lines.remove(line);
        }
    }

    /// A body with a rate is about to be entered, now.
    pub(super) fn may_start(&mut self, share: ShareId, now: Time) -> Entry {
        let Some(granted) = self.granted.get(&share) else {
            return if self.waiting.contains_key(&share) { Entry::Waits } else { Entry::Ungranted };
        };
        let Some((latest, patience)) = granted.latest else { return Entry::Entered };
        // A wall that was set back by a little: no start is recorded before its grant, from which on the rate counts it.
        let granted_at = latest.before(patience);
        let now = if granted_at.since(now) <= SET_BACK { now.max(granted_at) } else { now };
        if let Some(learns) = self.lines.get_mut(&granted.line).and_then(|own| own.patience.as_mut()) {
            learns.learn(now.since(granted_at), patience);
        }
        if now > latest {
            self.withdraw(share);
            return Entry::Ungranted;
        }
        Entry::Granted(now)
    }

    /// A body was entered under its grant. True if others may start earlier than they were to.
    pub(super) fn starts(&mut self, share: ShareId, at: Time) -> bool {
        let Some(granted) = self.granted.get_mut(&share) else { return false };
        let Some((latest, _)) = granted.latest.take() else { return false };
        let line = granted.line.clone();
        self.arrives(&line, latest, Some(at))
    }
}
