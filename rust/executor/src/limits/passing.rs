//! Shares that attempts leave to others: where nobody waits at another runner, an attempt that ends leaves its share to
//! the next one that waits here, and the commit of its end tells the store. So the next body need not wait for that
//! commit, and one commit serves more attempts than the limit allows at once.
//!
//! An attempt that has recorded something keeps its share until its end is committed: another runner may have to
//! continue it. Of all others the shares are released with the lease, so that it does not matter which of them a process
//! that dies had told the store of.

use bide_core::{Outcome, TaskRef};
use bide_store::{Passed, ShareId};

use super::{Granted, Limiter, LineKey, OwnLine, Passing, State, Waiter, limit_of, share};
use crate::host::{Host, Ready};
use crate::runs::run::Run;

/// What a commit tells of one line.
pub(super) struct Told {
    /// Which.
    pub(super) line: LineKey,
    /// What was passed on.
    pub(super) passed: Vec<Passed>,
}

impl<H: Host> Limiter<H> {
    /// A body has ended that has recorded nothing, and the caller is about to have its end committed. Returns the one that
    /// may start because of it.
    #[inline]
    pub(crate) fn passes_on(&self, run: &Run<H>, task: TaskRef, attempt: u32, outcome: &Outcome) -> Option<Ready<H>> {
        let is_end = self.is_active() && matches!(outcome, Outcome::Completed { .. });
        if is_end { self.passes_on_known(run, task, attempt) } else { None }
    }

    #[cold]
    fn passes_on_known(&self, run: &Run<H>, task: TaskRef, attempt: u32) -> Option<Ready<H>> {
        limit_of(run, task)?;
        let mut state = self.state.lock();
        // Under the lock: the commit that makes the attempt a past one looks for what was passed on after that.
        let is_current = !state.closing && !run.is_lost() && run.state.lock().is_unrecorded(task, attempt);
        if is_current { state.passes_on(share(run, task)) } else { None }
    }
}

impl<H: Host> State<H> {
    fn passes_on(&mut self, from: ShareId) -> Option<Ready<H>> {
        let granted = self.granted.get(&from)?;
        let own = self.lines.get_mut(&granted.line).filter(|own| own.may_pass_on)?;
        if granted.passed == Passing::Idles || self.idle.contains(&from) {
            return None;
        }
        // Those that the store is being asked about are granted what is free beside this. One that resumes has a share
        // already.
        let (place, _) = own.line.find(|waiter| !waiter.is_asked)?;
        let may_start = |waiter: &Waiter<H>| waiter.run.state.lock().may_enter(waiter.task) == Some(true);
        let gives_back = |to: ShareId| self.released.contains(&to) || self.releasing.contains(&to);
        if !own.line.get(place).is_some_and(|next| {
            !next.continues && !next.run.is_lost() && may_start(next) && !gives_back(share(&next.run, next.task))
        }) {
            return None;
        }
        let Waiter { run, task, .. } = own.line.granted(place)?;
        let to = share(&run, task);
        let origin = own.passed.remove(&from).unwrap_or(from);
        own.passed.insert(to, origin);
        let is_known = std::mem::replace(&mut own.is_passing, true);
        let Granted { line, .. } = self.granted.remove(&from)?;
        if !is_known {
            self.passing.push(line.clone());
        }
        self.waiting.remove(&to);
        self.granted.insert(to, Granted { line, latest: None, passed: Passing::Unrecorded });
        Some(Ready { run, task })
    }

    /// Takes what the next commit is to tell.
    pub(super) fn take_passed(&mut self) -> Vec<Told> {
        let told = std::mem::take(&mut self.passing).into_iter().filter_map(|line| {
            let own = self.lines.get_mut(&line)?;
            own.is_passing = false;
            let passed = std::mem::take(&mut own.passed).into_iter().map(|(to, from)| Passed { from, to }).collect();
            Some(Told { line, passed })
        });
        told.collect()
    }

    /// The store knows what a line has passed on.
    pub(super) fn recorded(&mut self, line: &LineKey, passed: &[Passed]) {
        for Passed { to, .. } in passed {
            let Some(granted) = self.granted.get_mut(to) else { continue };
            if std::mem::replace(&mut granted.passed, Passing::Recorded) == Passing::Idles {
                self.idle.push(*to);
                self.touch(line);
            }
        }
    }

    /// The commit that was to tell it was not made: the next one tells it.
    pub(super) fn not_recorded(&mut self, line: &LineKey, passed: &[Passed]) {
        if passed.is_empty() {
            return;
        }
        let own = self.lines.entry(line.clone()).or_insert_with(|| OwnLine::new(None));
        for Passed { from, to } in passed {
            match own.passed.values_mut().find(|origin| **origin == *to) {
                Some(origin) => *origin = *from,
                None => drop(own.passed.insert(*to, *from)),
            }
        }
        if !std::mem::replace(&mut own.is_passing, true) {
            self.passing.push(line.clone());
        }
    }
}
