//! What a call does. A hundred thousand may wait for a condition at once, so one that is alone has no list.

use std::sync::Arc;

use bide_core::{Failure, RunId};

use super::state::{Starts, StepParts};
use crate::gil::{Kept, Raised};

pub(super) enum What {
    /// It waits for a condition.
    Condition(Asked),
    /// It waits for something else, or for several; `None`: neither for conditions nor for child runs.
    Wait(Option<Box<Waits>>),
    /// A step.
    Step(Box<StepParts>),
    /// It starts children.
    Start(Box<Starts>),
    /// Anything else.
    Record,
}

/// What a wait for several waits for.
pub(super) struct Waits {
    pub(super) conditions: Box<[Asked]>,
    /// Child runs, by the number of the part.
    pub(super) children: Box<[Option<RunId>]>,
}

/// A condition.
pub(super) struct Asked {
    pub(super) condition: Kept,
    /// What it raised when it was asked last.
    pub(super) last: Option<Box<(Failure, Raised)>>,
    /// Its name, if that is not the name of the wait.
    pub(super) name: Option<Box<Arc<str>>>,
    /// What proved it the same before it was asked, unless the call in the engine has that.
    pub(super) proof: Option<Box<Arc<[u8]>>>,
    /// The number of its part.
    pub(super) part: u32,
    /// It is a coroutine function.
    pub(super) is_async: bool,
}

impl What {
    pub(super) fn of_wait(mut conditions: Vec<Asked>, children: Vec<Option<RunId>>, parts: usize) -> Self {
        if parts == 1
            && children.is_empty()
            && let Some(condition) = conditions.pop()
        {
            return Self::Condition(condition);
        }
        let has_any = !(conditions.is_empty() && children.is_empty());
        Self::Wait(has_any.then(|| Box::new(Waits { conditions: conditions.into(), children: children.into() })))
    }

    pub(super) fn is_wait(&self) -> bool {
        matches!(self, Self::Condition(_) | Self::Wait(_))
    }

    pub(super) fn conditions(&self) -> &[Asked] {
        match self {
            Self::Condition(asked) => std::slice::from_ref(asked),
            Self::Wait(Some(waits)) => &waits.conditions,
            _ => &[],
        }
    }

    pub(super) fn conditions_mut(&mut self) -> &mut [Asked] {
        match self {
            Self::Condition(asked) => std::slice::from_mut(asked),
            Self::Wait(Some(waits)) => &mut waits.conditions,
            _ => &mut [],
        }
    }

    /// The condition that is this part.
    pub(super) fn condition(&self, part: usize) -> Option<&Asked> {
        self.conditions().iter().find(|asked| asked.part as usize == part)
    }

    pub(super) fn children(&self) -> &[Option<RunId>] {
        if let Self::Wait(Some(waits)) = self { &waits.children } else { &[] }
    }
}
