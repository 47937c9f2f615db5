//! A commit request of one thread, and its outcome. The thread that leads the commit works on the request and returns
//! it with the outcome.

use std::sync::Arc;

use bide_core::record::{NewRun, RunRowId};
use bide_core::{Effect, Event, Refused};
use bide_store::{Creation, Lease, StoreError};

use super::group::{Completion, QueuedEvent};
use super::upcalls::Upcalls;
use crate::host::{Host, Ready};
use crate::limits::Grants;
use crate::runs::run::Run;

/// Why a body's own event was not committed.
#[cfg_attr(not(feature = "testing"), expect(unreachable_pub, reason = "drive has it"))]
#[derive(Debug)]
pub enum Lost {
    /// It came too late.
    Refused(Refused),
    /// The engine has stopped, or stopped over it.
    Stopped,
}

/// A commit request of one thread.
pub(super) struct Request<H: Host> {
    /// Runs to create. The events are only theirs then.
    pub(super) creates: Option<NewRuns>,
    /// What has happened, in order. Empty once it is applied; the memory is the caller's.
    pub(super) events: Vec<QueuedEvent<H>>,
    /// A body's own event, after the others.
    pub(super) own: Option<(Arc<Run<H>>, Event)>,
    /// Its outcome.
    pub(super) outcome: Outcome<H>,
}

/// Runs to create: all that do not exist, or none.
pub(super) struct NewRuns {
    /// The lease that they are to belong to.
    pub(super) lease: Lease,
    /// The runs as they are to be stored.
    pub(super) rows: Vec<NewRun>,
    /// A body starts them as children: its own event is their record, and without that they are not created.
    pub(super) by_body: bool,
    /// The outcome for each run. `None` until the store was asked.
    pub(super) creations: Option<Result<Vec<Creation>, StoreError>>,
}

/// The outcome of a request. The requester carries it out on its own thread.
pub(super) struct Outcome<H: Host> {
    /// Of the body's own event.
    pub(super) own: Result<(), Lost>,
    /// Bodies that may start.
    pub(super) ready: Vec<Ready<H>>,
    /// What else follows.
    pub(super) effects: Vec<(Arc<Run<H>>, Effect)>,
    /// The channels on which outcomes of events are awaited.
    pub(super) completions: Vec<(Completion, Result<(), Refused>)>,
    /// Those who were granted the shares that are released with it. Bodies of these that start are ready.
    pub(super) grants: Option<Box<Grants<H>>>,
    /// Runs that were lost with an earlier lease.
    pub(super) lost: Vec<Arc<Run<H>>>,
}

impl<H: Host> Request<H> {
    /// A request for events whose outcome is that the engine has stopped, until it is committed. `ready` gives the
    /// memory for what may start.
    pub(super) fn new(events: Vec<QueuedEvent<H>>, own: Option<(Arc<Run<H>>, Event)>, ready: Vec<Ready<H>>) -> Self {
        let (effects, completions, lost, grants) = Default::default();
        let outcome = Outcome { own: Err(Lost::Stopped), ready, effects, completions, grants, lost };
        Self { creates: None, events, own, outcome }
    }

    /// A request for runs and their first events.
    pub(super) fn create(lease: Lease, rows: Vec<NewRun>, begin: Vec<QueuedEvent<H>>) -> Self {
        let creates = NewRuns { lease, rows, by_body: false, creations: None };
        Self { creates: Some(creates), ..Self::new(begin, None, Vec::new()) }
    }

    /// A request for children of a run, with the records of their starts.
    pub(super) fn start(parent: &Arc<Run<H>>, record: Event, rows: Vec<NewRun>, begin: Vec<QueuedEvent<H>>) -> Self {
        let creates = NewRuns { lease: parent.lease, rows, by_body: true, creations: None };
        Self { creates: Some(creates), ..Self::new(begin, Some((Arc::clone(parent), record)), Vec::new()) }
    }

    /// Whether it creates a child whose parent's record is in the same batch.
    pub(super) fn starts_child(&self) -> bool {
        self.creates.as_ref().is_some_and(|creates| creates.by_body && creates.creations.is_none())
    }

    /// The body's own event was refused: what it starts is not created.
    pub(super) fn create_nothing(&mut self, lost: Lost) {
        if let Some(creates) = &mut self.creates {
            creates.creations = Some(Ok(Vec::new()));
        }
        self.forget();
        self.outcome.own = Err(lost);
    }

    /// The runs that the store is to create, if it has not been asked yet.
    pub(super) fn rows(&self) -> Option<&[NewRun]> {
        self.creates.as_ref().filter(|creates| creates.creations.is_none()).map(|creates| &*creates.rows)
    }

    /// The store's answer.
    pub(super) fn created(&mut self, creations: Vec<Creation>) {
        if let Some(creates) = &mut self.creates {
            creates.creations = Some(Ok(creations));
        }
    }

    /// None of its runs is created, because runs with some of these numbers exist.
    pub(super) fn renumber(&mut self, taken: impl Fn(RunRowId) -> bool) {
        if let Some(creates) = &mut self.creates {
            let creation = |new: &NewRun| if taken(new.id.row()) { Creation::NumberTaken } else { Creation::Created };
            creates.creations = Some(Ok(creates.rows.iter().map(creation).collect()));
        }
        self.forget();
    }

    /// Nothing of it is committed: nothing follows from it but that lost runs are released.
    pub(super) fn forget(&mut self) {
        self.events.clear();
        self.own = None;
        let Outcome { own, ready, effects, completions, grants: _, lost: _ } = &mut self.outcome;
        *own = Err(Lost::Stopped);
        ready.clear();
        effects.clear();
        completions.clear();
    }

    /// As [`Request::forget`]: its runs are not created because of this error.
    pub(super) fn refuse(&mut self, error: &StoreError) {
        if let Some(creates) = &mut self.creates {
            creates.creations = Some(Err(error.clone()));
        }
        self.forget();
    }
}

/// Why a group was not committed: reported once the commit lock is released.
pub(super) enum Failed {
    /// The engine has stopped over this error.
    Stopped(StoreError),
    /// This lease is lost.
    Fenced(Lease),
}

impl Failed {
    /// Reports it. Called without the commit lock.
    #[cold]
    pub(super) fn report<H: Host>(self, engine: &Arc<impl Upcalls<H>>) {
        match self {
            Self::Stopped(error) => engine.report_stop(&error),
            Self::Fenced(lease) => engine.fenced(lease),
        }
    }
}
