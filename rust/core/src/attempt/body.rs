//! One entry of a body: which call may begin when, which record a call gets, and whether the body only reads records.

use std::collections::HashSet;
use std::fmt;
use std::sync::Arc;

use super::combined::gone;
use super::{Action, Call, CallError, Clocks, Fed, Named, RecalledPart, Request, used_up};
use crate::entry::{EntryKey, Lookup};
use crate::event::Refused;
use crate::failure::Failure;
use crate::id::TaskRef;
use crate::journal::Recall;
use crate::longest::too_long;
use crate::run::RunState;
use crate::uses::Uses;
use crate::value::Value;

/// One entry of a body: what it has called so far, and what of it is under way.
#[derive(Clone, Debug)]
pub struct Attempt {
    /// Whose body.
    task: TaskRef,
    /// The task's name, for messages; of an element that of its mapped task.
    name: Arc<str>,
    /// Which try.
    number: u32,
    /// Which names it has used, and which records.
    uses: Uses,
    /// The call without a key that is under way: no other one may begin meanwhile.
    current: Option<Current>,
    /// What few bodies have. `None` until there is any.
    seldom: Option<Box<Seldom>>,
    /// How many records it has not read yet; `None` until that is asked.
    unread: Option<u32>,
    /// The body has to return: every further call ends with `Suspended`.
    suspended: bool,
    /// The body has returned.
    ended: bool,
    /// Its start is recorded, or will be.
    shown: bool,
}

/// What few bodies have: steps with a key, and children.
#[derive(Clone, Debug, Default)]
struct Seldom {
    /// The names of those under way.
    under_way: HashSet<Arc<str>>,
    /// The names of those that the body's own thread executes, each within the one before.
    own: Vec<Arc<str>>,
    /// Those whose records were read.
    read: HashSet<Arc<str>>,
    /// The wait for a child that the commit of its start has opened: for the next call.
    opened: Option<EntryKey>,
}

/// What a driver knows when a call begins.
#[derive(Clone, Copy, Debug, Default)]
pub struct Standing {
    /// The run is executed by another runner.
    pub lost: bool,
    /// The runner is closing.
    pub closing: bool,
    /// The attempt's execution time is used up.
    pub used_up: bool,
    /// Where the call comes from.
    pub caller: Caller,
    /// How many bytes a name may have in the store; `None`: any number.
    pub longest: Option<usize>,
}

/// Where a call comes from.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Caller {
    /// The body's own thread: during another call it comes from within that.
    #[default]
    Body,
    /// Another thread than the body's.
    Elsewhere,
    /// One of several futures that a body may poll together.
    Future(Within),
}

/// What a call is made within.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Within {
    /// Nothing but the body.
    #[default]
    Body,
    /// A step.
    Step,
    /// A condition.
    Condition,
}

/// What a call does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum What {
    Wait,
    Step,
    Checkpoint,
    Callback,
    /// The answer to a request.
    Reply,
    Start,
}

/// A call in words.
#[derive(Clone, Debug)]
struct Current {
    what: What,
    name: Arc<str>,
}

impl fmt::Display for Current {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let what = match self.what {
            What::Wait => "wait",
            What::Step => "step",
            What::Callback => "callback",
            What::Reply => return write!(f, "the {}", self.name),
            What::Start => "start of the child run",
            What::Checkpoint => return f.write_str("the checkpoint"),
        };
        write!(f, "the {what} '{}'", self.name)
    }
}

impl Attempt {
    /// A body that has just been entered; `name` is that of its task, without the number of an element.
    #[must_use]
    pub fn new(task: TaskRef, name: Arc<str>, number: u32) -> Self {
        let (uses, current, seldom, unread) = (Uses::default(), None, None, None);
        Self { task, name, number, uses, current, seldom, unread, suspended: false, ended: false, shown: false }
    }

    fn named(&self) -> Named<'_> {
        Named { name: &self.name, map: self.task.map }
    }

    /// Which try it is, from 1.
    #[must_use]
    pub const fn number(&self) -> u32 {
        self.number
    }

    /// Whether the body has to return.
    #[must_use]
    pub const fn is_suspended(&self) -> bool {
        self.suspended
    }

    /// From now on every call ends with [`CallError::Suspended`], so that the body returns.
    pub const fn suspend(&mut self) -> CallError {
        self.suspended = true;
        CallError::Suspended
    }

    /// Whether the body has returned.
    #[must_use]
    pub const fn has_ended(&self) -> bool {
        self.ended
    }

    /// The body has returned: no further call is allowed.
    pub const fn end(&mut self) {
        self.ended = true;
    }

    /// Whether something of the attempt may be recorded: the body has waited or recorded a step, or tried to, or its
    /// start is shown.
    #[must_use]
    pub const fn may_have_records(&self) -> bool {
        self.shown || self.uses.is_used() || self.seldom.is_some() || self.current.is_some()
    }

    /// The start of the body is about to be recorded, so that it is shown. False if the body has returned.
    pub const fn show(&mut self) -> bool {
        self.shown |= !self.ended;
        !self.ended
    }

    /// Whether the body only reads what an earlier entry of it has recorded: there are records that it has not come to
    /// yet, and it has neither asked nor executed anything that has none.
    pub fn is_replaying(&mut self, run: &RunState) -> bool {
        !self.ended && self.unread(run) > 0
    }

    /// The same of what was recorded before its run was cancelled: what comes after is its clean-up.
    pub fn is_replaying_until_cancelled(&mut self, run: &RunState) -> bool {
        let later = run.cancel().map_or(0, |cancel| run.recorded_calls_since(self.task, cancel.at));
        !self.ended && self.unread(run) > later
    }

    fn unread(&mut self, run: &RunState) -> usize {
        let count = || u32::try_from(run.recorded_calls(self.task)).unwrap_or(u32::MAX);
        *self.unread.get_or_insert_with(count) as usize
    }

    /// Begins a call.
    ///
    /// # Errors
    /// The first of these that applies: `Over` after the body's end, `Suspended` if the body has to return, `TimedOut`
    /// if its execution time is used up, `Misuse` during another call (within its step or its condition, or beside it),
    /// on another thread, and under a name that is too long for the store. A step with a key is refused only within a
    /// condition, and beside itself.
    pub fn begin(&mut self, name: &Arc<str>, request: Request, standing: Standing) -> Result<Box<Call>, CallError> {
        self.check(standing)?;
        let ((what, advice), keyed) = (request.described(), request.is_keyed());
        let begins = Current { what, name: Arc::clone(name) };
        if let Some(why) = self.refusal(&begins, keyed, advice, standing.caller) {
            return Err(CallError::Misuse(format!("task '{}': {begins} {why}", self.named())));
        }
        let too_long = |name: &str| too_long("name, or name and key,", name, standing.longest);
        if let Some(why) = request.names().find_map(too_long).or_else(|| too_long(name)) {
            return Err(CallError::Misuse(format!("task '{}': {why}", self.named())));
        }
        if standing.closing {
            return Err(self.suspend());
        }
        if keyed {
            let steps = self.seldom.get_or_insert_default();
            steps.under_way.insert(Arc::clone(name));
            if standing.caller == Caller::Body {
                steps.own.push(Arc::clone(name));
            }
        } else {
            self.current = Some(begins);
        }
        Ok(Box::new(Call::new(self.task, self.number, Arc::clone(name), request, standing.caller)))
    }

    /// Why a call may not begin now.
    fn refusal(&self, begins: &Current, keyed: bool, advice: &str, caller: Caller) -> Option<String> {
        let own = self.seldom.as_ref().is_some_and(|steps| !steps.own.is_empty());
        let within = match (caller, &self.current) {
            (Caller::Future(within), _) => within,
            (Caller::Body, Some(Current { what: What::Wait, .. })) => Within::Condition,
            (Caller::Body, Some(_)) => Within::Step,
            (Caller::Body, None) if own => Within::Step,
            _ => Within::Body,
        };
        if within == Within::Condition || (within == Within::Step && !keyed) {
            let outer = match &self.current {
                Some(outer) => outer.to_string(),
                None if within == Within::Step => "a step".to_owned(),
                None => "a condition".to_owned(),
            };
            return Some(format!(
                "inside {outer}: a body waits or records a step one after the other, and never within a step or a \
                 condition"
            ));
        }
        let under_way = self.seldom.as_ref().filter(|steps| !steps.under_way.is_empty());
        if keyed {
            let same = under_way.is_some_and(|steps| steps.under_way.contains(&begins.name));
            return same.then(|| "is under way already: steps that run side by side need keys that differ".to_owned());
        }
        let advice = if advice.is_empty() { String::new() } else { format!(". {advice}") };
        if caller == Caller::Elsewhere {
            return Some(format!(
                "from another thread than the body's: only the body itself can wait, and record steps without a \
                 key{advice}"
            ));
        }
        if let Some(other) = &self.current {
            return Some(format!(
                "beside {other}: only steps with a key may run side by side, and a body waits for one thing after the \
                 other{advice}"
            ));
        }
        under_way.filter(|_| begins.what == What::Checkpoint).map(|steps| {
            let names: Vec<String> = steps.under_way.iter().map(|name| format!("'{name}'")).collect();
            format!("while steps are under way ({}): it would drop their records", names.join(", "))
        })
    }

    /// What every use of the handle needs.
    fn check(&mut self, standing: Standing) -> Result<(), CallError> {
        if self.ended {
            return Err(CallError::Over(Refused::AttemptOver));
        }
        if self.suspended || standing.lost {
            return Err(self.suspend());
        }
        if standing.used_up { Err(used_up(self.named())) } else { Ok(()) }
    }

    /// Whether the body may show something now, which it may within a step or a condition too, and on any thread.
    /// Answers the name of the step or wait within which that is, as far as it is known: among several it is not.
    ///
    /// # Errors
    /// `Over`, `Suspended` and `TimedOut`, as [`Attempt::begin`].
    pub fn may_show(&mut self, standing: Standing) -> Result<Option<Arc<str>>, CallError> {
        self.check(standing)?;
        Ok(self.within(standing.caller).cloned())
    }

    /// The name of the step or wait within which a caller is.
    fn within(&self, caller: Caller) -> Option<&Arc<str>> {
        let named = |of: fn(What) -> bool| self.current.as_ref().filter(|it| of(it.what)).map(|it| &it.name);
        let step = || named(|what| what != What::Wait);
        let keyed = self.seldom.as_deref().filter(|steps| !steps.under_way.is_empty());
        match (caller, keyed) {
            (Caller::Body, Some(Seldom { own, .. })) if !own.is_empty() => own.last(),
            (Caller::Body, _) => named(|_| true),
            (Caller::Future(Within::Body), _) => None,
            (Caller::Future(Within::Condition), _) => named(|what| what == What::Wait),
            (Caller::Future(Within::Step), Some(_)) if step().is_some() => None,
            (Caller::Elsewhere | Caller::Future(Within::Step), Some(Seldom { under_way, .. })) => {
                under_way.iter().next().filter(|_| under_way.len() == 1)
            }
            (Caller::Elsewhere | Caller::Future(Within::Step), None) => step(),
        }
    }

    /// Looks up a call's record: the next use of its name. In a cancelled run the body gets that at its first call that
    /// is no replay, as the record of the call; if the record of another call is in its place, without one.
    pub fn recall(&mut self, call: &Call, run: &mut RunState) -> Fed {
        let fed = self.look_up(call, run);
        let (task, number) = (self.task, self.number);
        let interrupted = |key: &EntryKey, recall: &Recall, run: &mut RunState| {
            let failure = run.interruption(task, recall)?;
            if matches!(recall, Recall::Mismatch(_)) && run.take_interrupt(task, number) {
                return Some(Fed::Refused(Refused::Cancelled));
            }
            Some(Fed::Interrupted(key.clone(), failure))
        };
        let instead = match &fed {
            Fed::Recalled(key, recall) => interrupted(key, recall, run),
            Fed::RecalledParts(parts) => {
                // A combination is decided by its outermost entry.
                let decisive = if call.is_pushed() { 1 } else { parts.len() };
                parts.iter().take(decisive).find_map(|part| interrupted(&part.key, &part.recall, run))
            }
            _ => None,
        };
        instead.unwrap_or(fed)
    }

    /// Reads how a call's wait has ended, if it has. A body of a paused run that still has its slot does not get that: it
    /// gives the slot back and gets none, until the run is resumed.
    #[must_use]
    pub fn read(&self, call: &Call, run: &RunState) -> Option<Result<Value, Failure>> {
        if call.may_release() && run.is_held() { None } else { run.closed_entry(self.task, call.key()) }
    }

    fn look_up(&mut self, call: &Call, run: &RunState) -> Fed {
        let mut unread = self.unread(run);
        let is_replaying = unread > 0;
        let opened = self.seldom.as_mut().and_then(|seldom| seldom.opened.take());
        let (task, number) = (self.task, self.number);
        let mut look = |name: &Arc<str>, lookup: &Lookup| {
            let (key, recall) = run.recall(task, number, &mut self.uses, name, lookup)?;
            if unread > 0 && !run.outlived_checkpoint(task, &key) {
                unread = unread_after(&mut self.seldom, unread, &key, &recall, run.is_closed(task, &key));
                self.unread = Some(u32::try_from(unread).unwrap_or(u32::MAX));
            }
            Ok((key, recall))
        };
        let Some(lookups) = call.lookups() else {
            return match look(call.name(), call.lookup()) {
                Ok((key, Recall::Open { .. })) if opened.is_some_and(|opened| opened == key) => {
                    Fed::Recalled(key, Recall::Waits)
                }
                Ok((key, recall)) => Fed::Recalled(key, recall),
                Err(refused) => Fed::Refused(refused),
            };
        };
        let mut messages = Vec::new();
        let parts = lookups.map(|(name, lookup)| {
            let (key, recall) = look(name, &lookup)?;
            if matches!(lookup, Lookup::Message(_)) {
                messages.push(key.clone());
            }
            let winner = run.winner(task, &key);
            Ok(RecalledPart { key, recall, winner })
        });
        let mut parts: Vec<RecalledPart> = match parts.collect() {
            Ok(parts) => parts,
            Err(refused) => return Fed::Refused(refused),
        };
        if is_replaying
            && call.is_combined()
            && run.closed_entry(task, &parts[0].key).is_none()
            && let Some((decided, message)) =
                run.left_out(task, &parts, &messages, |key| self.uses.count(&key.name) >= key.n)
        {
            parts[0].recall = Recall::Mismatch(gone(&decided.name, &message.name));
        }
        Fed::RecalledParts(parts)
    }

    /// Leaves a call as it is: a step that was interrupted is not recorded, and a wait stays open.
    pub fn abandon(&mut self, call: &Call) {
        if !call.is_over() {
            self.ends(call);
        }
    }

    /// As [`Attempt::abandon`], of a call that the body has cancelled: the next use of a wait's name continues with it.
    pub fn cancel(&mut self, call: &Call) {
        if call.is_over() {
            return;
        }
        if call.is_combined() {
            call.part_keys().iter().rev().for_each(|key| self.uses.take_back(key));
        } else if call.is_wait() {
            self.uses.take_back(call.key());
        }
        self.ends(call);
    }

    /// A call is not under way any more.
    fn ends(&mut self, call: &Call) {
        match &mut self.seldom {
            Some(steps) if call.is_keyed() => {
                steps.under_way.remove(call.name());
                steps.own.retain(|name| name != call.name());
            }
            _ => self.current = None,
        }
    }

    /// Feeds a call and returns its next action. After [`Action::Done`] the next call may begin.
    pub fn advance(&mut self, call: &mut Call, fed: Fed, clocks: &dyn Clocks) -> Action {
        if matches!(fed, Fed::Raised(..) | Fed::Recalled(..)) {
            let keyed = self.seldom.as_ref().map_or(0, |steps| steps.under_way.len());
            call.may_be_delayed(keyed + usize::from(self.current.is_some()) > 1);
        }
        let action = call.advance(fed, self.named(), clocks);
        if let Action::Done(result) = &action {
            self.ends(call);
            self.suspended |= matches!(result, Err(CallError::Suspended));
            if let Some(opened) = call.take_opened() {
                self.seldom.get_or_insert_default().opened = Some(opened);
            }
            if call.is_checkpoint() && result.is_ok() {
                self.uses = Uses::default();
                self.unread = Some(0);
            }
        }
        action
    }
}

/// How many records remain to be read after this one was looked up.
fn unread_after(
    keyed: &mut Option<Box<Seldom>>,
    unread: usize,
    key: &EntryKey,
    recall: &Recall,
    is_closed: bool,
) -> usize {
    match recall {
        Recall::Satisfied(_) | Recall::Failed(_) if key.is_keyed() => {
            let first = keyed.get_or_insert_default().read.insert(Arc::clone(&key.name));
            unread - usize::from(first)
        }
        Recall::Satisfied(_) | Recall::Failed(_) => unread - 1,
        // A condition that is asked again, though it was satisfied.
        Recall::Ask { .. } if is_closed => unread - 1,
        Recall::Mismatch(_) | Recall::NoCallback => unread,
        Recall::Ask { .. } | Recall::Open { .. } | Recall::Waits | Recall::Begun { .. } => 0,
    }
}
