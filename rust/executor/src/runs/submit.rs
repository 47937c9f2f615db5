//! Creating runs, and attaching to those that a key names.

use std::sync::Arc;
use std::time::Duration;

use bide_core::record::{NewRun, RunRow, StoredRun};
use bide_core::{Event, RunId, RunState, Value, pack};
use bide_store::{Creation, StoreError};

use crate::engine::Engine;
use crate::host::{Dispatch, Host};
use crate::ledger::QueuedEvent;
use crate::runs::registry::RegisteredWorkflow;
use crate::runs::run::{Inputs, Run};
use crate::runs::settled::{Settled, Settlement};

/// How many runs begin in one commit, so that what they write is not in memory for all of them at once. Up to this many
/// begin in the commit that creates them.
const BEGIN: usize = 256;

/// A run that a caller wants.
pub struct Wanted<H: Host> {
    /// Its inputs, in order of name.
    pub inputs: Inputs,
    /// Its key.
    pub key: Option<Arc<str>>,
    /// What the host keeps with it.
    pub local: H::Local,
}

/// Why a run was not created.
#[derive(Debug)]
pub enum SubmitError {
    /// The engine is closed, or stopped.
    Stopped(Settlement),
    /// A key belongs to a run with other inputs; names the inputs that differ.
    OtherInputs {
        /// Which of the wanted runs has the key, from 0.
        index: usize,
        /// The wanted run before it that has the key too, if the key is used twice.
        earlier: Option<usize>,
        /// The run that has the key.
        run: RunId,
        /// The key.
        key: Arc<str>,
        /// The inputs that differ.
        inputs: Vec<Arc<str>>,
    },
    /// The store refused.
    Store(StoreError),
}

/// A run that a caller may wait for.
pub enum Handle<H: Host> {
    /// It is executed by this engine (or was).
    Live(Arc<Run<H>>),
    /// It is executed elsewhere, by nobody, or it has ended.
    Watched(Box<Watched>),
}

/// A run that is waited for without being in memory.
#[derive(Clone)]
pub struct Watched {
    /// Its id.
    pub id: RunId,
    /// Where to wait for it.
    pub settled: Arc<Settled>,
}

impl<H: Host> Clone for Handle<H> {
    fn clone(&self) -> Self {
        match self {
            Self::Live(run) => Self::Live(Arc::clone(run)),
            Self::Watched(watched) => Self::Watched(watched.clone()),
        }
    }
}

impl<H: Host> Handle<H> {
    /// The run's id.
    #[must_use]
    pub fn id(&self) -> RunId {
        match self {
            Self::Live(run) => run.id,
            Self::Watched(watched) => watched.id,
        }
    }

    /// Where to wait for it.
    #[must_use]
    pub fn settled(&self) -> &Settled {
        match self {
            Self::Live(run) => &run.settled,
            Self::Watched(watched) => &watched.settled,
        }
    }
}

/// Bodies are about to be ready, as long as this lives.
struct Coming<'a, H: Host>(&'a H::Dispatch);

impl<'a, H: Host> Coming<'a, H> {
    fn announce(engine: &'a Engine<H>) -> Self {
        engine.dispatch.coming();
        Self(&engine.dispatch)
    }
}

impl<H: Host> Drop for Coming<'_, H> {
    fn drop(&mut self) {
        self.0.came();
    }
}

impl<H: Host> Engine<H> {
    /// Creates runs in one commit, or attaches to those whose keys exist, and lets them begin. Blocks.
    ///
    /// # Errors
    /// None is created then; see [`SubmitError`]. (From the store also if the runs were created, but one that exists
    /// cannot be looked at.)
    pub fn submit(
        self: &Arc<Self>,
        workflow: &Arc<RegisteredWorkflow<H>>,
        wanted: impl IntoIterator<Item = Wanted<H>>,
    ) -> Result<Vec<Handle<H>>, SubmitError> {
        if let Some(settlement) = self.stopped() {
            return Err(SubmitError::Stopped(settlement.clone()));
        }
        if self.is_closing() {
            return Err(SubmitError::Stopped(Settlement::Closed));
        }
        let now = self.clock.now();
        let lease = *self.lease.read();
        let state = |id| RunState::new(id, Arc::clone(&workflow.graph), Arc::clone(&workflow.ids));
        // First what stays, then what is needed only here: so that its memory, which may be that of a hundred thousand
        // rows, is behind everything else when it is given back.
        let mut runs: Vec<Arc<Run<H>>> = wanted
            .into_iter()
            .map(|wanted| Arc::new(Run::new(workflow, lease, state(self.ids.next(now)), wanted, now)))
            .collect();
        let none: Arc<[u8]> = Arc::new([]);
        let packed = |inputs: &Inputs| match inputs.is_empty() {
            true => Arc::clone(&none),
            false => pack::pack(inputs.iter().map(|(name, value)| (&**name, Some(value)))).into(),
        };
        let mut rows: Vec<NewRun> = runs
            .iter()
            .map(|run| {
                let new = NewRun::new(run.id, workflow.number, workflow.version, now);
                new.with_key(run.key.clone()).with_inputs(packed(&run.inputs))
            })
            .collect();
        let _coming = self.store().blocks().then(|| Coming::announce(self));
        let mut ready = Vec::new();
        let begins = runs.len() <= BEGIN;
        let creations = loop {
            let creations = self.ledger.create(self, lease, &mut rows, &runs, begins, &mut ready);
            let creations = creations
                .map_err(|error| self.stopped().cloned().map_or(SubmitError::Store(error), SubmitError::Stopped))?;
            if !creations.iter().any(Creation::prevents_all) {
                break creations;
            }
            for (index, creation) in creations.iter().enumerate() {
                match creation {
                    Creation::OtherInputs(existing) => return Err(other_inputs(&rows, index, existing)),
                    // Another process has taken the number in the same millisecond.
                    Creation::NumberTaken => rows[index].id = self.ids.next(self.clock.now()),
                    Creation::Created | Creation::Exists(_) => {}
                }
            }
            // None has been created, but their states have begun.
            runs = runs.into_iter().zip(&rows).map(|(run, row)| Run::renamed(run, state(row.id))).collect();
        };
        let mut begin = Vec::new();
        let mut made: Vec<Result<Arc<Run<H>>, Box<RunRow>>> = Vec::with_capacity(runs.len());
        for (run, creation) in runs.into_iter().zip(creations) {
            if let Creation::Exists(existing) = creation {
                made.push(Err(existing));
                continue;
            }
            if !begins {
                begin.push(QueuedEvent { run: Arc::clone(&run), event: Event::Begin, at: now, completion: None });
                if begin.len() == BEGIN {
                    self.commit(&mut begin, &mut ready);
                }
            }
            made.push(Ok(run));
        }
        self.commit(&mut begin, &mut ready);
        self.dispatch_ready(&mut ready);
        // Adopted before this is asked, stopped before all are settled: one of the two sees the other.
        self.settle_late_comers();
        made.into_iter()
            .map(|run| match run {
                Ok(live) => Ok(Handle::Live(live)),
                Err(existing) => self.handle(existing.id).map_err(SubmitError::Store),
            })
            .collect()
    }

    /// A handle of a run that exists.
    ///
    /// # Errors
    /// From the store.
    pub fn handle(self: &Arc<Self>, id: RunId) -> Result<Handle<H>, StoreError> {
        match self.live(id) {
            Some(run) => Ok(Handle::Live(run)),
            None => Ok(Handle::Watched(Box::new(Watched { id, settled: self.watch(id)? }))),
        }
    }

    /// Packs and orders inputs by name.
    #[must_use]
    pub fn ordered(mut inputs: Vec<(Arc<str>, Value)>) -> Inputs {
        inputs.sort_by(|(a, _), (b, _)| a.cmp(b));
        inputs.into()
    }
}

/// Why a run is not created whose key names another one with other inputs.
fn other_inputs(rows: &[NewRun], index: usize, existing: &RunRow) -> SubmitError {
    let row = &rows[index];
    let (Ok(then), Ok(now)) = (pack::unpack(&existing.inputs), pack::unpack(&row.inputs)) else {
        let why = format!("the inputs of run {} do not read back", existing.id);
        return SubmitError::Store(StoreError::Corrupt(why));
    };
    let missing = |from: &[pack::Pair], other: &[pack::Pair]| -> Vec<Arc<str>> {
        from.iter().filter(|pair| !other.contains(pair)).map(|(name, _)| Arc::clone(name)).collect()
    };
    let mut inputs = missing(&then, &now);
    inputs.extend(missing(&now, &then));
    inputs.sort();
    inputs.dedup();
    SubmitError::OtherInputs {
        index,
        earlier: rows[..index].iter().position(|earlier| earlier.id == existing.id),
        run: existing.id,
        key: row.key.clone().unwrap_or_else(|| "".into()),
        inputs,
    }
}

/// How long a commit under way is waited for before the rows are read instead.
const PATIENCE: Duration = Duration::from_millis(50);

impl<H: Host> Engine<H> {
    /// A run of this engine as it stands, with nothing in it that is not committed: what is being committed may still
    /// fail. Blocks, but not on a store that others keep locked: the answer is what its rows say then.
    ///
    /// # Errors
    /// From the store.
    pub fn committed(&self, run: &Run<H>) -> Result<StoredRun, StoreError> {
        match run.settled.get() {
            // It was committed before this was said.
            Some(Settlement::Run(_) | Settlement::Closed) => return Ok(run.snapshot()),
            // What was being committed is in memory and perhaps nowhere else.
            Some(Settlement::Broken(why)) => return self.store().load(run.id)?.ok_or(*why),
            Some(Settlement::Panicked(_) | Settlement::Elsewhere | Settlement::NotHere(_)) | None => {}
        }
        if run.settled.get().is_none()
            && let Some(_lock) = self.ledger.try_lock_for(PATIENCE)
            && self.stopped().is_none()
            && run.settled.get().is_none()
        {
            // Whoever commits holds the commit lock: what is in memory now is in the store.
            return Ok(run.snapshot());
        }
        self.store().load(run.id).map(|stored| stored.unwrap_or_else(|| run.snapshot()))
    }
}
