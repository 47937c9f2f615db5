//! One turn of the service: asks the store for the first ones of the lines for which there may be room, and has those
//! that got a share execute.

use std::sync::{Arc, Weak};
use std::time::Duration;

use bide_core::TaskRef;
use bide_core::limits::{Place, Rank};
use bide_sched::counts;
use bide_store::{Answer, Lease, LimitCall, LimitClaim, LineAnswers, LineClaims, Passed, ShareId, StoreError};

use super::with_commit::Grants;
use super::{Entered, FIRST_ASKED, Granted, LineKey, MOST_ASKED, ON_THEIR_WAY, OwnLine, Passing, State, Waiter, share};
use crate::control::Control;
use crate::host::{Dispatch, Host, Ready};
use crate::runs::run::Run;
use crate::services::timers::{Alarm, Timers};

/// How many lines are asked about in one transaction.
pub(super) const LINES: usize = 64;

/// One that is asked about.
struct Asked<H: Host> {
    place: Place,
    run: Arc<Run<H>>,
    task: TaskRef,
    /// Its body resumes.
    resumes: bool,
    /// It has begun before.
    continues: bool,
    /// It is still to execute.
    is_wanted: bool,
    /// Its run belongs to the runner that asks.
    is_own: bool,
}

/// A line, and those of it that are asked about.
pub(super) struct AskedLine<H: Host> {
    pub(super) key: LineKey,
    asked: Vec<Asked<H>>,
    behind: Option<(u64, Rank)>,
    /// How long after its grant a body may be entered.
    patience: Duration,
    /// What is told of the starts that were granted before.
    moved: Vec<Entered>,
    /// What attempts have left to others.
    pub(super) passed: Vec<Passed>,
}

/// Rings when a line may have room again.
struct Again<H: Host> {
    control: Weak<Control<H>>,
    line: LineKey,
}

impl<H: Host> Alarm for Again<H> {
    fn ring(self: Arc<Self>, _ticket: u64) {
        if let Some(control) = self.control.upgrade() {
            control.limits.rings(&self.line);
        }
    }
}

/// One turn of the service. True: there was something to do.
pub(crate) fn turn<H: Host>(control: &Arc<Control<H>>, timers: &Timers) -> bool {
    let (mut call, mut lines, term) = {
        let mut state = control.limits.state.lock();
        if state.closing || state.turns || !state.has_work() {
            return false;
        }
        state.turns = true;
        let (call, lines) = state.take();
        (call, lines, state.term)
    };
    let lease = control.lease();
    call.lines = lines.iter_mut().map(|line| line.claims(lease)).collect();
    match control.store().claim_limits(lease, control.clock.now(), &call) {
        Ok(answers) => {
            counts::add_commit();
            carry_out(control, timers, (lines, term), answers);
        }
        Err(error) => {
            control.limits.state.lock().take_back(call, lines, term);
            match error {
                StoreError::Fenced { .. } => control.fenced(lease),
                StoreError::Busy { .. } => control.warn(&format!("{error} yet; what limits hold back waits for it")),
                StoreError::Closed { .. } => {}
                error => control.break_down(&error),
            }
        }
    }
    let mut state = control.limits.state.lock();
    state.turns = false;
    state.count += 1;
    state.releasing.clear();
    true
}

/// What is claimed for one that waits; `None`: nothing, because it is over.
fn claim_of<H: Host>(one: &Asked<H>) -> Option<LimitClaim> {
    let run = &one.run;
    let is_wanted = match one.resumes {
        true => !run.is_lost() && !run.is_over(),
        false => run.state.lock().may_enter(one.task).is_some(),
    };
    is_wanted.then(|| LimitClaim { share: share(run, one.task), rank: one.place.1, starts: !one.continues })
}

impl<H: Host> AskedLine<H> {
    /// The store is only told something.
    pub(super) const fn asks_nobody(&self) -> bool {
        self.asked.is_empty()
    }

    /// What the store is asked.
    pub(super) fn claims(&mut self, lease: Lease) -> LineClaims {
        let mut claims = Vec::with_capacity(self.asked.len());
        for one in &mut self.asked {
            let claim = claim_of(one);
            one.is_own = one.run.lease == lease;
            one.is_wanted = claim.is_some() && one.is_own;
            claims.extend(claim.filter(|_| one.is_wanted));
        }
        let (limit, key) = (Arc::clone(&self.key.0), Arc::clone(&self.key.1));
        let moved = self.moved.iter().map(|entered| entered.moved).collect();
        let passed = self.passed.clone();
        LineClaims { limit, key, moved, passed, patience: self.patience, claims, behind: self.behind }
    }
}

impl<H: Host> OwnLine<H> {
    /// Those of the line that are asked about next.
    pub(super) fn ask(&mut self, key: &LineKey, most: usize) -> AskedLine<H> {
        let mut first = self.line.first(most + 1);
        let asked: Vec<Asked<H>> = first
            .by_ref()
            .take(most)
            .map(|(place, waiter): (Place, &Waiter<H>)| Asked {
                place,
                run: Arc::clone(&waiter.run),
                task: waiter.task,
                resumes: waiter.resumes.is_some(),
                continues: waiter.continues,
                is_wanted: false,
                is_own: false,
            })
            .collect();
        let behind = first.next().map(|(place, _)| ((self.line.len() - asked.len()) as u64, place.1));
        drop(first);
        self.set_asked(&asked, true);
        let patience = self.patience.map(|patience| patience.now).unwrap_or_default();
        AskedLine { key: key.clone(), asked, behind, patience, moved: Vec::new(), passed: Vec::new() }
    }

    /// The store is being asked about these, or it is not any more.
    fn set_asked(&mut self, asked: &[Asked<H>], is_asked: bool) {
        for one in asked {
            if let Some(waiter) = self.line.get_mut(one.place) {
                waiter.is_asked = is_asked;
            }
        }
    }
}

fn carry_out<H: Host>(
    control: &Arc<Control<H>>,
    timers: &Timers,
    (lines, term): (Vec<AskedLine<H>>, u64),
    answers: Vec<LineAnswers>,
) {
    let (mut grants, mut alarms) = (Grants::default(), Vec::new());
    {
        let mut state = control.limits.state.lock();
        if state.term != term {
            return;
        }
        for (line, answers) in lines.iter().zip(answers) {
            let until = grants.answered(&mut state, line, answers);
            alarms.extend(until.map(|until| (until, line.key.clone())));
        }
    }
    for (until, line) in alarms {
        let again = Again { control: Arc::downgrade(control), line };
        let _ = timers.at(until, Arc::new(again), 0);
    }
    let mut starts = std::mem::take(&mut grants.starts);
    grants.carry_out(control);
    if !starts.is_empty() {
        control.dispatch.ready(&mut starts);
    }
}

impl<H: Host> State<H> {
    /// Takes what is to be told and asked.
    fn take(&mut self) -> (LimitCall, Vec<AskedLine<H>>) {
        let call = LimitCall {
            released: std::mem::take(&mut self.released),
            idle: std::mem::take(&mut self.idle),
            lines: Vec::new(),
        };
        self.releasing.clone_from(&call.released);
        let mut lines = Vec::new();
        for _ in 0..self.dirty.len().min(LINES) {
            let Some(key) = self.dirty.pop_front() else { break };
            let Some(own) = self.lines.get_mut(&key) else { continue };
            own.is_dirty = false;
            let room = if own.patience.is_some() { ON_THEIR_WAY.saturating_sub(own.on_their_way) } else { usize::MAX };
            let most = own.asked.min(room);
            let mut line = own.ask(&key, most);
            line.moved = std::mem::take(&mut own.moved);
            lines.push(line);
        }
        (call, lines)
    }

    /// The call has failed: all of it is to be made again.
    fn take_back(&mut self, call: LimitCall, lines: Vec<AskedLine<H>>, term: u64) {
        if self.closing || self.term != term {
            return;
        }
        self.released.extend(call.released);
        self.idle.extend(call.idle);
        for line in lines {
            self.not_answered(&line);
            if let Some(own) = self.lines.get_mut(&line.key) {
                own.moved.splice(..0, line.moved);
            }
        }
    }

    /// Those of a line are to be asked about once more.
    pub(super) fn not_answered(&mut self, line: &AskedLine<H>) {
        if let Some(own) = self.lines.get_mut(&line.key) {
            own.set_asked(&line.asked, false);
        }
        self.touch(&line.key);
    }

    /// What became of those of a line. Returns when a timer is to ring for it.
    pub(super) fn answered(
        &mut self,
        line: &AskedLine<H>,
        answers: LineAnswers,
        ready: &mut Vec<(Ready<H>, bool)>,
        resumed: &mut Vec<(tokio::sync::oneshot::Sender<()>, ShareId)>,
        over: &mut Vec<Waiter<H>>,
    ) -> Option<bide_core::Time> {
        if let Some(own) = self.lines.get_mut(&line.key) {
            own.may_pass_on = answers.may_pass_on;
            own.set_asked(&line.asked, false);
        }
        self.recorded(&line.key, &line.passed);
        if line.asked.is_empty() {
            self.forget_unused(&line.key);
            return None;
        }
        let (mut until, mut all, mut granted) = (None, true, 0);
        let mut answers = answers.claims.into_iter();
        for one in &line.asked {
            let answer = if one.is_wanted { answers.next() } else { Some(Answer::Gone) };
            let id = share(&one.run, one.task);
            match answer {
                Some(Answer::Granted(latest)) => {
                    let waiter = self.lines.get_mut(&line.key).and_then(|own| own.line.granted(one.place));
                    let Some(Waiter { run, task, resumes, .. }) = waiter else {
                        // It does not wait here any more: its attempt has ended meanwhile, or its body does not resume.
                        if one.resumes {
                            self.idle.push(id)
                        } else {
                            self.released.push(id)
                        }
                        self.touch(&line.key);
                        continue;
                    };
                    granted += 1;
                    self.grant(line, id, latest);
                    match resumes {
                        Some(sender) => resumed.push((sender, id)),
                        None => ready.push((Ready { run, task }, one.continues)),
                    }
                }
                Some(Answer::Held { counted, until: at }) => {
                    all = false;
                    until = until.or(at);
                    if let Some(waiter) = self.lines.get_mut(&line.key).and_then(|own| own.line.get_mut(one.place)) {
                        waiter.counted = Some(counted);
                    }
                }
                // Its run was resumed while the store was asked about others.
                _ if !one.is_wanted && one.is_own && claim_of(one).is_some() => self.touch(&line.key),
                Some(Answer::Gone) | None => {
                    self.waiting.remove(&id);
                    over.extend(self.lines.get_mut(&line.key).and_then(|own| own.line.remove(one.place)));
                }
            }
        }
        let own = self.lines.get_mut(&line.key)?;
        own.asked = (granted * 2).max(own.asked / 2).clamp(FIRST_ASKED, MOST_ASKED);
        if own.line.is_empty() {
            self.forget_unused(&line.key);
            return None;
        }
        if all && own.on_their_way < ON_THEIR_WAY {
            // There may be room for more.
            self.touch(&line.key);
            return None;
        }
        let until = until.filter(|until| own.rings_at.is_none_or(|known| *until < known))?;
        own.rings_at = Some(until);
        Some(until)
    }

    /// An attempt that waited has its share.
    fn grant(&mut self, line: &AskedLine<H>, id: ShareId, latest: Option<bide_core::Time>) {
        self.waiting.remove(&id);
        if latest.is_some()
            && let Some(own) = self.lines.get_mut(&line.key)
        {
            own.on_their_way += 1;
        }
        let latest = latest.map(|latest| (latest, line.patience));
        self.granted.insert(id, Granted { line: line.key.clone(), latest, passed: Passing::Recorded });
    }
}
