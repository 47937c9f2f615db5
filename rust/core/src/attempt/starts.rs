//! The start of child runs, one or several in one commit: the states of one call that has a record for each.
//!
//! | state     | fed                              | next state | action             |
//! |-----------|----------------------------------|------------|--------------------|
//! | Start     | `Begin`                          | Lease      | `CheckLease`       |
//! | Lease     | `LeaseHeld`                      | Look       | `Recall`           |
//! | Look      | `RecalledParts`: all recorded    | End        | `Done`             |
//! | Look      | `RecalledParts`: mismatch        | Pausing    | `Commit(Block)`    |
//! | Look      | `RecalledParts`: otherwise       | Starting   | `StartChildren`    |
//! | Starting  | `Committed`                      | End        | `Done`             |
//! | Pausing   | `Committed`                      | End        | `Done(Mismatch)`   |
//!
//! The children that are not recorded are created in the commit of their records.

use std::collections::HashSet;
use std::sync::Arc;

use super::{Action, CallError, Fed, Named, RecalledPart, StartRequest, pause};
use crate::entry::{EntryKey, Lookup};
use crate::event::{ChildStart, Event};
use crate::id::TaskRef;
use crate::journal::Recall;
use crate::value::Value;

/// The name in the journal of the wait for a child, by the key of its start.
#[must_use]
pub fn child_name(start: &EntryKey) -> Arc<str> {
    match start.n {
        n if start.is_keyed() || n == 1 => format!("child {}", start.name).into(),
        n => format!("child {} ({n})", start.name).into(),
    }
}

/// The key of the first wait for a child, by that of its start.
pub(crate) fn child_wait(start: &EntryKey) -> EntryKey {
    EntryKey { name: child_name(start), n: 1 }
}

/// Starts of children, in progress.
#[derive(Debug)]
pub(super) struct Starts {
    task: TaskRef,
    attempt: u32,
    starts: Vec<Start>,
    state: State,
    /// The wait that the commit of the starts has opened.
    opened: Option<EntryKey>,
}

/// One of them.
#[derive(Debug)]
struct Start {
    /// Its key in the journal; `n` is 0 before it was looked up.
    key: EntryKey,
    lookup: Lookup,
    /// As [`StartRequest::awaited`].
    awaited: bool,
}

/// Where the call stands; see the table above.
#[derive(Debug)]
enum State {
    Start,
    Lease,
    Look,
    Starting,
    Pausing(String),
    End,
}

impl Starts {
    pub(super) fn new(task: TaskRef, attempt: u32, starts: Vec<StartRequest>) -> Self {
        let start = |StartRequest { name, arguments, keyed, awaited }: StartRequest| {
            let lookup = if keyed { Lookup::KeyedStart } else { Lookup::Start(Box::new(arguments)) };
            Start { key: EntryKey { name, n: 0 }, lookup, awaited }
        };
        Self { task, attempt, starts: starts.into_iter().map(start).collect(), state: State::Start, opened: None }
    }

    /// The name and the look-up of each start.
    pub(super) fn lookups(&self) -> impl Iterator<Item = (&Arc<str>, Lookup)> {
        self.starts.iter().map(|start| (&start.key.name, start.lookup.clone()))
    }

    /// The keys of all starts, once they were looked up.
    pub(super) fn keys(&self) -> impl Iterator<Item = &EntryKey> {
        self.starts.iter().map(|start| &start.key)
    }

    /// The wait that was opened with a start, if it was. It is the next call.
    pub(super) const fn take_opened(&mut self) -> Option<EntryKey> {
        self.opened.take()
    }

    pub(super) const fn is_over(&self) -> bool {
        matches!(self.state, State::End)
    }

    pub(super) fn advance(&mut self, fed: Fed, task: Named<'_>) -> Action {
        let state = std::mem::replace(&mut self.state, State::End);
        match (state, fed) {
            (_, Fed::LeaseLost | Fed::Stopped) => self.end(Err(CallError::Suspended)),
            (_, Fed::Refused(refused)) => self.end(Err(CallError::Over(refused))),
            (State::Start, Fed::Begin) => self.go(State::Lease, Action::CheckLease),
            (State::Lease, Fed::LeaseHeld) => self.go(State::Look, Action::Recall),
            (State::Look, Fed::RecalledParts(recalled)) => self.recalled(recalled, task),
            (State::Starting, Fed::Committed { .. }) => {
                self.opened = self.starts.iter().find(|start| start.awaited).map(|start| child_wait(&start.key));
                self.end(Ok(Value::NONE))
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

    fn recalled(&mut self, recalled: Vec<RecalledPart>, task: Named<'_>) -> Action {
        let (mut new, mut keyed) = (Vec::new(), HashSet::new());
        for (at, part) in recalled.into_iter().enumerate() {
            let start = &mut self.starts[at];
            start.key = part.key;
            match part.recall {
                Recall::Satisfied(_) => {}
                // Here the body has got that its run was cancelled.
                Recall::Failed(failure) => return self.end(Err(CallError::Failed(failure))),
                Recall::Mismatch(why) => {
                    let why = format!("task '{task}': {why}");
                    let pause = pause(&why);
                    return self.go(State::Pausing(why), pause);
                }
                // A key that was given twice is one child.
                _ if start.key.is_keyed() && !keyed.insert(start.key.clone()) => {}
                _ => {
                    let new_start = ChildStart::new(start.key.clone(), start.lookup.proof().cloned());
                    new.push((at, ChildStart { awaited: start.awaited, ..new_start }));
                }
            }
        }
        if new.is_empty() {
            return self.end(Ok(Value::NONE));
        }
        let (which, starts) = new.into_iter().unzip();
        let (task, attempt) = (self.task, self.attempt);
        let event = Box::new(Event::ChildrenStarted { task, attempt, starts });
        self.go(State::Starting, Action::StartChildren { which, event })
    }
}
