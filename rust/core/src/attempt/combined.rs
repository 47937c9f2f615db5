//! A wait for the first of several, or for all of them: the states of one call that has several entries.
//!
//! The run machine decides and closes the combination (`run/combine.rs`). This opens it, and asks its conditions.
//!
//! | state     | fed                                     | next state | action                           |
//! |-----------|-----------------------------------------|------------|----------------------------------|
//! | Start     | `Begin`                                 | Lease      | `CheckLease`                     |
//! | Lease     | `LeaseHeld`, before the entries         | Look       | `Recall`                         |
//! | Look      | `RecalledParts`: decided                | End        | `Done`                           |
//! | Look      | `RecalledParts`: mismatch               | Pausing    | `Commit(Block)`                  |
//! | Look      | `RecalledParts`: no callback            | End        | `Done(Misuse)`                   |
//! | Look      | `RecalledParts`: otherwise              | Opening    | `Commit(Opened)`                 |
//! | Opening   | `Committed`                             | Reading    | `Read`                           |
//! | Reading   | `EntryRead`: closed, with a slot        | End        | `Done`                           |
//! | Reading   | `EntryRead`: closed, without a slot     | Acquiring  | `Acquire`                        |
//! | Reading   | `EntryRead`: open, a condition is due   | Asking     | `AskPart`                        |
//! | Reading   | `EntryRead`: open, with a slot          | Releasing  | `Release`                        |
//! | Reading   | `EntryRead`: open                       | Sleeping   | `Sleep(PollOrClosed)`, `Closed`  |
//! | Asking    | `Asked`: not yet                        | Reading    | `Read`                           |
//! | Asking    | `Asked`: otherwise                      | Proving    | `ProvePart`                      |
//! | Proving   | `Proved`                                | Closing    | `Commit(Closed)` of the part     |
//! | Closing   | `Committed`, `Refused`                  | Reading    | `Read`                           |
//! | Releasing | `Released`                              | Sleeping   | as above                         |
//! | Sleeping  | `Woken`                                 | Lease      | `CheckLease`                     |
//! | Lease     | `LeaseHeld`, later                      | Reading    | `Read`                           |
//! | Acquiring | `Acquired`                              | Reading    | `Read`                           |
//!
//! The end of a condition may come too late, because another member has decided the combination: that is no error.

use std::sync::Arc;
use std::time::Duration;

use super::polling::{PollReport, Polling, timed_out};
use super::{Action, CallError, Clocks, Fed, Named, Part, PartRequest, Sleep, no_callback, pause, used_up};
use crate::entry::{EntryKey, Lookup, Operation};
use crate::event::{Event, Wait};
use crate::failure::Failure;
use crate::id::TaskRef;
use crate::journal::Recall;
use crate::run::RunState;
use crate::run::combine::number_of_winner;
use crate::value::Value;

/// A combination, in progress.
#[derive(Debug)]
pub(super) struct Combined {
    task: TaskRef,
    attempt: u32,
    /// The outermost combination first, each combination before its members.
    parts: Vec<Entry>,
    state: State,
    /// The slot is held.
    has_slot: bool,
}

/// One of the entries.
#[derive(Debug)]
struct Entry {
    key: EntryKey,
    part: Part,
    timeout: Option<Duration>,
    /// Of a condition: its polls, and when the next one is due.
    polls: Option<(Polling, Duration)>,
    /// What the last poll came to, until that is committed.
    result: Option<Result<Value, Failure>>,
    /// It is over.
    closed: bool,
}

/// Where the call stands; see the table above.
#[derive(Debug)]
enum State {
    Start,
    Lease,
    Look,
    Opening,
    Reading,
    Asking(usize),
    Proving(usize),
    Closing,
    Releasing,
    Sleeping,
    Acquiring,
    Pausing(String),
    End,
}

/// Why a combination must not be asked for with other members.
pub(super) fn gone(name: &str, winner: &str) -> String {
    format!("'{name}' was recorded as decided by the message '{winner}', for which it does not wait any more")
}

/// An entry as its journal has it.
#[derive(Debug)]
pub struct RecalledPart {
    /// Under which key it is or will be recorded.
    pub key: EntryKey,
    /// What is recorded.
    pub recall: Recall,
    /// Of a combination that was won by one of its members: that member, and whether it has consumed a message.
    pub winner: Option<(EntryKey, bool)>,
}

impl Part {
    pub(super) fn lookup(&self) -> Lookup {
        match self {
            Self::Condition { proof, .. } => Lookup::Condition { proof: proof.clone() },
            Self::Until(_) | Self::After(_) => Lookup::Time,
            Self::Message(address) => Lookup::Message(address.clone()),
            Self::Child(run) => Lookup::Child { run: *run },
            Self::Any(_) => Lookup::Any,
            Self::All(_) => Lookup::All,
        }
    }

    fn members(&self) -> &[usize] {
        match self {
            Self::Any(members) | Self::All(members) => members,
            _ => &[],
        }
    }
}

impl Combined {
    /// Its outermost entry, without members: it is not opened.
    pub(super) fn operation(&self) -> Operation {
        match self.parts.first().map(|entry| &entry.part) {
            Some(Part::All(_)) => Operation::All { members: Arc::new([]) },
            _ => Operation::Any { members: Arc::new([]) },
        }
    }

    pub(super) fn new(task: TaskRef, attempt: u32, parts: Vec<PartRequest>) -> Self {
        let entry = |request: PartRequest| {
            let polls = match &request.part {
                Part::Condition { policy, .. } => Some((Polling::new(*policy, None), Duration::ZERO)),
                _ => None,
            };
            let key = EntryKey { name: request.name, n: 0 };
            Entry { key, part: request.part, timeout: request.timeout, polls, result: None, closed: false }
        };
        let parts = parts.into_iter().map(entry).collect();
        Self { task, attempt, parts, state: State::Start, has_slot: true }
    }

    /// The name and the look-up of each entry.
    pub(super) fn lookups(&self) -> impl Iterator<Item = (&Arc<str>, Lookup)> {
        self.parts.iter().map(|entry| (&entry.key.name, entry.part.lookup()))
    }

    /// The keys of all entries, once they were looked up.
    pub(super) fn keys(&self) -> impl Iterator<Item = &EntryKey> {
        self.parts.iter().map(|entry| &entry.key)
    }

    /// See [`Call::outcomes`](super::Call::outcomes). The first of several is told by its number among the members that
    /// there are now: the code that recorded it may have named them in another order.
    pub(super) fn outcomes(&self, run: &RunState) -> Vec<Option<Result<Value, Failure>>> {
        let outcome = |entry: &Entry| {
            let outcome = run.closed_entry(self.task, &entry.key)?;
            let Part::Any(members) = &entry.part else { return Some(outcome) };
            let winner = run.winner(self.task, &entry.key).map(|(winner, _)| winner);
            let now = winner.and_then(|winner| members.iter().position(|member| self.parts[*member].key == winner));
            Some(outcome.map(|recorded| now.map_or(recorded, number_of_winner)))
        };
        self.parts.iter().map(outcome).collect()
    }

    pub(super) const fn is_over(&self) -> bool {
        matches!(self.state, State::End)
    }

    /// What the conditions raised at their last polls.
    pub(super) fn last_error(&self) -> Option<&Failure> {
        self.parts.iter().find_map(|entry| entry.polls.as_ref()?.0.error())
    }

    /// Whether each of its open conditions is polled for ever if it goes on answering as it has.
    pub(super) fn is_endless(&self) -> bool {
        let open = self.parts.iter().filter(|entry| !entry.closed);
        open.filter_map(|entry| entry.polls.as_ref()).all(|(polling, _)| polling.is_endless())
    }

    pub(super) const fn has_slot(&self) -> bool {
        self.has_slot
    }

    /// The polls of its open conditions.
    pub(super) fn polls(&self) -> impl Iterator<Item = PollReport> {
        let open = self.parts.iter().filter(|entry| !entry.closed);
        open.filter_map(|entry| entry.polls.as_ref().map(|(polling, due)| polling.report(&entry.key, Some(*due))))
    }

    pub(super) fn advance(&mut self, fed: Fed, task: Named<'_>, clocks: &dyn Clocks) -> Action {
        let state = std::mem::replace(&mut self.state, State::End);
        match (state, fed) {
            (_, Fed::LeaseLost | Fed::Stopped) => self.end(Err(CallError::Suspended)),
            (State::Closing, Fed::Committed { .. } | Fed::Refused(_)) => self.go(State::Reading, Action::Read),
            (_, Fed::Refused(refused)) => self.end(Err(CallError::Over(refused))),
            (State::Start, Fed::Begin) => self.go(State::Lease, Action::CheckLease),
            (State::Lease, Fed::LeaseHeld) if self.parts[0].key.n == 0 => self.go(State::Look, Action::Recall),
            (State::Lease, Fed::LeaseHeld) => self.go(State::Reading, Action::Read),
            (State::Look, Fed::RecalledParts(recalled)) => self.recalled(recalled, task, clocks),
            (State::Opening, Fed::Committed { .. }) => self.go(State::Reading, Action::Read),
            (State::Reading, Fed::EntryRead(Some(result))) if self.has_slot => {
                self.end(result.map_err(CallError::Failed))
            }
            (State::Reading, Fed::EntryRead(Some(_))) => self.go(State::Acquiring, Action::Acquire),
            (State::Reading, Fed::EntryRead(None)) => match self.due(clocks) {
                Some(at) => self.go(State::Asking(at), Action::AskPart(at)),
                None if self.has_slot => self.go(State::Releasing, Action::Release),
                None => self.sleep(clocks),
            },
            (State::Asking(at), Fed::Asked(polled)) => {
                let entry = &mut self.parts[at];
                let name = &entry.key.name;
                let judged = entry.polls.as_mut().and_then(|(polling, due)| {
                    let judged = polling.judge(polled, clocks, || timed_out(&task.to_string(), name));
                    *due = clocks.steady() + if judged.is_none() { polling.next(clocks) } else { Duration::ZERO };
                    judged
                });
                match judged {
                    None => self.go(State::Reading, Action::Read),
                    Some(result) => {
                        entry.result = Some(result);
                        self.go(State::Proving(at), Action::ProvePart(at))
                    }
                }
            }
            (State::Proving(at), Fed::Proved(proved)) => {
                let entry = &mut self.parts[at];
                entry.closed = true;
                let (task, attempt, key) = (self.task, self.attempt, entry.key.clone());
                let result = entry.result.take().unwrap_or(Ok(Value::NONE));
                let polls = entry.polls.as_ref().map_or(0, |(polling, _)| polling.asked());
                let event = Event::Closed { task, attempt, key, result, proved, polls, retry: None };
                self.go(State::Closing, Action::Commit(Box::new(event)))
            }
            (State::Releasing, Fed::Released) => {
                self.has_slot = false;
                self.sleep(clocks)
            }
            (State::Releasing, Fed::NotReleased) => self.end(Err(used_up(task))),
            (State::Sleeping, Fed::Woken) => self.go(State::Lease, Action::CheckLease),
            (State::Acquiring, Fed::Acquired { slot: false, .. }) => self.end(Err(CallError::Suspended)),
            (State::Acquiring, Fed::Acquired { .. }) => {
                self.has_slot = true;
                self.go(State::Reading, Action::Read)
            }
            (State::Pausing(why), Fed::Committed { .. }) => self.end(Err(CallError::Mismatch(why))),
            (state, fed) => unreachable!("a driver answered {fed:?} in {state:?}"),
        }
    }

    fn go(&mut self, state: State, action: Action) -> Action {
        self.state = state;
        action
    }

    fn end(&mut self, result: Result<Value, CallError>) -> Action {
        self.go(State::End, Action::Done(result))
    }

    fn recalled(&mut self, recalled: Vec<RecalledPart>, task: Named<'_>, clocks: &dyn Clocks) -> Action {
        let mut over: Vec<Option<Result<Value, Failure>>> = Vec::with_capacity(recalled.len());
        for (entry, part) in self.parts.iter_mut().zip(&recalled) {
            entry.key = part.key.clone();
            over.push(match &part.recall {
                Recall::Satisfied(value) => Some(Ok(value.clone())),
                Recall::Failed(failure) => Some(Err(failure.clone())),
                Recall::Mismatch(why) => return self.pause(format!("task '{task}': {why}")),
                Recall::NoCallback => {
                    let misuse = no_callback(task, &part.key.name);
                    return self.end(Err(misuse));
                }
                // Only a step is begun, and no member is one.
                Recall::Begun { .. } => None,
                Recall::Waits => return self.end(Ok(Value::NONE)),
                Recall::Ask { deadline } | Recall::Open { deadline, .. } => {
                    if let Some((polling, _)) = &mut entry.polls {
                        polling.set_deadline(deadline.or_else(|| Some(clocks.wall().after(entry.timeout?))));
                    }
                    None
                }
            });
        }
        // Members before their combinations: a decided one is reused only if what has decided it is still there.
        for (at, part) in recalled.iter().enumerate().rev() {
            let members = self.parts[at].part.members();
            if members.is_empty() || !matches!(over[at], Some(Ok(_))) {
                continue;
            }
            let stands = match &part.winner {
                None => members.iter().all(|member| matches!(over[*member], Some(Ok(_)))),
                Some((winner, consumed)) => match members.iter().find(|member| self.parts[**member].key == *winner) {
                    Some(member) => matches!(over[*member], Some(Ok(_))),
                    None if *consumed => {
                        let why = gone(&part.key.name, &winner.name);
                        return self.pause(format!("task '{task}': {why}"));
                    }
                    None => false,
                },
            };
            if !stands {
                over[at] = None;
            }
        }
        if let Some(result) = over[0].take() {
            return self.end(result.map_err(CallError::Failed));
        }
        for (at, over) in over.iter().enumerate() {
            self.parts[at].closed |= over.is_some();
            if self.parts[at].closed {
                // Nor is one waited for that has lost in it.
                for member in self.parts[at].part.members().to_vec() {
                    self.parts[member].closed = true;
                }
            }
        }
        let waits =
            (0..self.parts.len()).filter(|at| !self.parts[*at].closed).map(|at| self.wait(at, clocks)).collect();
        let event = Event::Opened { task: self.task, attempt: self.attempt, waits };
        self.go(State::Opening, Action::Commit(Box::new(event)))
    }

    fn wait(&self, at: usize, clocks: &dyn Clocks) -> Wait {
        let entry = &self.parts[at];
        let members = |of: &[usize]| of.iter().map(|at| self.parts[*at].key.clone()).collect();
        let operation = match &entry.part {
            Part::Condition { proof, .. } => Operation::Condition { proof: proof.clone() },
            Part::Until(due) => Operation::Time { due: *due },
            Part::After(span) => Operation::Time { due: clocks.wall().after(*span) },
            Part::Message(address) => Operation::Message(address.clone()),
            Part::Child(run) => Operation::Child { run: *run },
            Part::Any(of) => Operation::Any { members: members(of) },
            Part::All(of) => Operation::All { members: members(of) },
        };
        Wait { key: entry.key.clone(), operation, timeout: entry.timeout }
    }

    fn pause(&mut self, why: String) -> Action {
        let pause = pause(&why);
        self.go(State::Pausing(why), pause)
    }

    /// The first condition whose poll is due.
    fn due(&self, clocks: &dyn Clocks) -> Option<usize> {
        let now = clocks.steady();
        self.parts.iter().position(|entry| !entry.closed && entry.polls.as_ref().is_some_and(|(_, due)| *due <= now))
    }

    fn sleep(&mut self, clocks: &dyn Clocks) -> Action {
        let open = self.parts.iter().filter(|entry| !entry.closed);
        let next = open.filter_map(|entry| Some(entry.polls.as_ref()?.1)).min();
        let sleep = next.map_or(Sleep::Closed, |due| Sleep::PollOrClosed(due.saturating_sub(clocks.steady())));
        self.go(State::Sleeping, Action::Sleep(sleep))
    }
}
