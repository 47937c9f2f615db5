//! Grants in the commit that releases: what attempts have had that end here goes to those that wait here for it, in the
//! transaction of their ends. The service need not have a turn for that, and the thread that commits executes what may
//! start.
//!
//! Only one asks at a time, the service or a commit: else one of them could be granted what the other one has.

use std::collections::BTreeMap;

use bide_core::record::{Batch, Write};
use bide_store::{Lease, LineAnswers, LineClaims, ShareId};
use tokio::sync::oneshot;

use super::passing::Told;
use super::turn::{AskedLine, LINES};
use super::{Limiter, LineKey, OwnLine, State, Waiter, share};
use crate::control::Control;
use crate::host::{Dispatch, Host, Ready};

/// What a commit does to limits.
pub(crate) struct Ending<H: Host> {
    /// The attempts here that end with it.
    ended: Vec<ShareId>,
    /// The lines that are asked about with it, or have something to tell.
    asked: Vec<AskedLine<H>>,
    /// It has a turn: nobody else asks meanwhile.
    turns: bool,
    /// The term in which it began.
    term: u64,
    /// The same as the store gets it.
    claims: Vec<LineClaims>,
}

impl<H: Host> Ending<H> {
    /// That of a commit with which nothing ends that has a limit.
    const NOTHING: Self = Self { ended: Vec::new(), asked: Vec::new(), turns: false, term: 0, claims: Vec::new() };

    /// What the store is asked.
    pub(crate) fn claims(&self) -> Option<&[LineClaims]> {
        Some(&*self.claims).filter(|claims| !claims.is_empty())
    }
}

/// Those that were asked about, as far as something follows.
pub(crate) struct Grants<H: Host> {
    /// Bodies that may start.
    pub(crate) starts: Vec<Ready<H>>,
    /// Bodies that are entered again.
    continues: Vec<Ready<H>>,
    /// Bodies that resume.
    resumed: Vec<(oneshot::Sender<()>, ShareId)>,
    /// Waiters that are over. To drop one may wake a body, which then finds that.
    over: Vec<Waiter<H>>,
}

impl<H: Host> Default for Grants<H> {
    fn default() -> Self {
        Self { starts: Vec::new(), continues: Vec::new(), resumed: Vec::new(), over: Vec::new() }
    }
}

impl<H: Host> Grants<H> {
    /// What became of those of a line. Returns when a timer is to ring for it.
    pub(super) fn answered(
        &mut self,
        state: &mut State<H>,
        line: &AskedLine<H>,
        answers: LineAnswers,
    ) -> Option<bide_core::Time> {
        let mut ready = Vec::new();
        let until = state.answered(line, answers, &mut ready, &mut self.resumed, &mut self.over);
        for (one, continues) in ready {
            // What was skipped, cancelled or paused while its share was granted may not have had it yet. One that is
            // paused is ready once more when it is resumed.
            let is_wanted = one.run.state.lock().may_enter(one.task).is_some();
            match (is_wanted, continues) {
                (true, false) => self.starts.push(one),
                (true, true) => self.continues.push(one),
                (false, true) => state.idles(share(&one.run, one.task)),
                (false, false) => state.withdraw(share(&one.run, one.task)),
            }
        }
        until
    }

    /// Has them execute, except for those that start. Without a lock.
    pub(crate) fn carry_out(self, control: &Control<H>) {
        let Self { starts: _, mut continues, resumed, over } = self;
        drop(over);
        for (sender, share) in resumed {
            // Who left its wait meanwhile does not execute.
            if sender.send(()).is_err() {
                control.limits.state.lock().idles(share);
                control.limits.woken.notify_one();
            }
        }
        if !continues.is_empty() {
            control.dispatch.ready(&mut continues);
        }
    }
}

impl<H: Host> Limiter<H> {
    /// What a batch that is about to be committed does to limits: to be told to [`Limiter::ended`] or
    /// [`Limiter::not_ended`]. `asks`: the store grants in commits.
    #[inline]
    pub(crate) fn ending(&self, batch: &Batch, lease: Lease, asks: impl FnOnce() -> bool) -> Ending<H> {
        if self.is_active() { self.ending_known(batch, lease, asks) } else { Ending::NOTHING }
    }

    #[cold]
    fn ending_known(&self, batch: &Batch, lease: Lease, asks: impl FnOnce() -> bool) -> Ending<H> {
        let mut state = self.state.lock();
        let mut ended = Vec::new();
        for write in batch {
            match (write, ShareId::released_by(write)) {
                (_, Some(share)) => ended.extend(Some(share).filter(|share| state.knows(*share))),
                // Of one that stands the store releases them too, until it is resumed.
                (Write::Run(update), None) if update.status.is_ended() || update.stands() => {
                    ended.extend(state.of_run(update.run))
                }
                _ => {}
            }
        }
        // One that ends with its run is there twice.
        ended.sort_unstable();
        ended.dedup();
        let mut asked = if !state.turns && !state.closing && asks() { state.ask_for(&ended) } else { Vec::new() };
        state.tell_passed(&mut asked);
        // One that only tells writes how many wait, as one that asks.
        let turns = !state.turns && !asked.is_empty();
        state.turns |= turns;
        let term = state.term;
        drop(state);
        let claims = asked.iter_mut().map(|line| line.claims(lease)).collect();
        Ending { ended, asked, turns, term, claims }
    }

    /// The batch is committed, with these answers to its claims. Returns those that may execute.
    #[inline]
    pub(crate) fn ended(&self, ending: Ending<H>, answers: Option<Vec<LineAnswers>>) -> Option<Box<Grants<H>>> {
        if ending.ended.is_empty() && ending.asked.is_empty() { None } else { self.ended_known(ending, answers) }
    }

    #[cold]
    fn ended_known(&self, ending: Ending<H>, answers: Option<Vec<LineAnswers>>) -> Option<Box<Grants<H>>> {
        let Ending { ended, asked, turns, term, claims: _ } = ending;
        let mut state = self.state.lock();
        if state.term != term {
            state.turns &= !turns;
            return None;
        }
        let is_answered = answers.is_some() && turns;
        for share in ended {
            state.ends(share, |line| {
                !is_answered || asked.iter().all(|asked| asked.key != *line || asked.asks_nobody())
            });
        }
        if answers.is_none() {
            asked.iter().for_each(|line| state.not_recorded(&line.key, &line.passed));
        }
        let grants = answers.filter(|_| !asked.is_empty()).map(|answers| {
            let mut grants = Box::<Grants<H>>::default();
            for (line, answers) in asked.iter().zip(answers) {
                // Only the lines of rates wait for a time, and they are not asked about here.
                let _ = grants.answered(&mut state, line, answers);
            }
            grants
        });
        if turns {
            state.end_turn(&asked, is_answered);
        } else {
            // How many wait was written beside a turn of the service, which may know better: it writes that again.
            asked.iter().for_each(|line| state.look_again(&line.key));
        }
        let wakes = state.has_work();
        drop(state);
        if wakes {
            self.woken.notify_one();
        }
        grants
    }

    /// The batch is not committed.
    pub(crate) fn not_ended(&self, ending: &Ending<H>) {
        if ending.asked.is_empty() {
            return;
        }
        let mut state = self.state.lock();
        if state.term != ending.term {
            state.turns &= !ending.turns;
            return;
        }
        ending.asked.iter().for_each(|line| state.not_recorded(&line.key, &line.passed));
        if ending.turns {
            state.end_turn(&ending.asked, false);
        }
        drop(state);
        self.woken.notify_one();
    }
}

impl<H: Host> State<H> {
    /// Takes the first ones of the lines of attempts that end: about as many as these make room for.
    fn ask_for(&mut self, ended: &[ShareId]) -> Vec<AskedLine<H>> {
        let mut freed: BTreeMap<&LineKey, usize> = BTreeMap::new();
        for granted in ended.iter().filter_map(|share| self.granted.get(share)) {
            *freed.entry(&granted.line).or_default() += 1;
        }
        let mut asked = Vec::new();
        for (line, freed) in freed {
            // Starts under a rate wait for a time rather than for others.
            let waits = |own: &&mut OwnLine<H>| own.patience.is_none() && !own.line.is_empty();
            if let Some(own) = self.lines.get_mut(line).filter(waits) {
                asked.push(own.ask(line, freed + 1));
                if asked.len() == LINES {
                    break;
                }
            }
        }
        asked
    }

    /// Adds what attempts have left to others.
    fn tell_passed(&mut self, asked: &mut Vec<AskedLine<H>>) {
        for Told { line, passed } in self.take_passed() {
            if let Some(known) = asked.iter_mut().find(|known| known.key == line) {
                known.passed = passed;
            } else if let Some(own) = self.lines.get_mut(&line) {
                let mut told = own.ask(&line, 0);
                told.passed = passed;
                asked.push(told);
            }
        }
    }

    /// The store is to be told once more how many wait in a line, even if nobody does.
    fn look_again(&mut self, line: &LineKey) {
        if !self.closing {
            self.lines.entry(line.clone()).or_insert_with(|| OwnLine::new(None));
            self.touch(line);
        }
    }

    /// Nobody is asked about any more. If the lines were not answered, there may be room for them.
    fn end_turn(&mut self, asked: &[AskedLine<H>], is_answered: bool) {
        self.turns = false;
        self.count += 1;
        if !is_answered {
            asked.iter().for_each(|line| self.not_answered(line));
        }
    }
}
