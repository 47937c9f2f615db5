//! The sources of watches: which runner calls one, when, and the commit of what it returns.
//!
//! A source is called by one runner at a time, which the row of the watch names. Another one takes it when that has
//! left or died, or its lease has run out. New items with their runs, and the cursor, are one commit, made only if the
//! row is still what it was before the call. A source is called on a thread that polls (`threads/gates.rs`).

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use bide_core::longest::too_long;
use bide_core::record::NewRun;
use bide_core::watches::{MOST_ITEMS, Watch, after_failure, run_key};
use bide_core::{RunOptions, Time, Value};
use bide_store::{StoreError, WatchChange, WatchChanged, WatchItem};
use bide_sync::Mutex;

use crate::control::Control;
use crate::host::Host;
use crate::ids::IdMaker;
use crate::runs::local_watch::{LocalState, LocalWatch, SourceAnswer, SourceId, WatchSource};
use crate::runs::recover::Recovery;
use crate::runs::run::RegisteredWorkflow;
use crate::runs::watches::{WatchRequest, current};

/// A watch whose source another runner calls is looked at this often at least.
const LOOK: Duration = Duration::from_secs(5);

/// How long it is believed that a runner lives.
const BELIEVED: Duration = Duration::from_secs(1);

/// After an error of the store that passes, this long until the next try.
const AGAIN: Duration = Duration::from_secs(1);

/// A source that has not returned after this time, and not before it is due again, is reported.
const OVERDUE: Duration = Duration::from_secs(10);

/// Starts the runs of watches.
pub(crate) struct Watcher<H: Host> {
    /// The store and the clock.
    pub(super) control: Arc<Control<H>>,
    /// Claims what is started.
    recovery: Arc<Recovery<H>>,
    /// Makes the ids of runs.
    ids: Arc<IdMaker>,
    /// The watches that have a source here, by name.
    local: Mutex<HashMap<Arc<str>, Arc<LocalWatch<H>>>>,
    /// How many watches have had a source here.
    served: AtomicU64,
    /// The calls of sources that are under way.
    calls: Mutex<Vec<Arc<LocalWatch<H>>>>,
    /// Which other runners lived when that was asked last.
    alive: Mutex<HashMap<i64, (Duration, bool)>>,
}

/// What is to be done with a watch that is due.
pub(crate) enum Begun {
    /// Call this source with this cursor.
    Call(Arc<WatchSource>, Value),
    /// Nothing before this span is over.
    Wait(Duration),
    /// Nothing any more.
    Over,
}

impl<H: Host> Watcher<H> {
    pub(crate) fn new(control: &Arc<Control<H>>, recovery: &Arc<Recovery<H>>, ids: &Arc<IdMaker>) -> Arc<Self> {
        Arc::new(Self {
            control: Arc::clone(control),
            recovery: Arc::clone(recovery),
            ids: Arc::clone(ids),
            local: Mutex::default(),
            served: AtomicU64::new(0),
            calls: Mutex::default(),
            alive: Mutex::default(),
        })
    }

    /// Has a source called here from now on. `None`: it takes the place of one that is called already.
    pub(super) fn serve(
        &self,
        workflow: &Arc<RegisteredWorkflow<H>>,
        request: WatchRequest,
    ) -> Option<Arc<LocalWatch<H>>> {
        let WatchRequest { name, every, shown, source } = request;
        let source = (Arc::new(source), shown);
        let mut local = self.local.lock();
        if let Some(known) = local.get(&name) {
            let mut state = known.state.lock();
            if !state.is_over && Arc::ptr_eq(&known.workflow, workflow) {
                state.replace(source, every);
                return None;
            }
            state.is_over = true;
        }
        let id = SourceId(self.served.fetch_add(1, Ordering::Relaxed));
        let state = Mutex::new(LocalState::new(source, every));
        let new = Arc::new(LocalWatch { name, id, workflow: Arc::clone(workflow), state });
        local.insert(Arc::clone(&new.name), Arc::clone(&new));
        Some(new)
    }

    /// The watch of this name, if it has a source here.
    pub(crate) fn local(&self, name: &str) -> Option<Arc<LocalWatch<H>>> {
        self.local.lock().get(name).cloned()
    }

    /// The watch whose source is to answer later.
    pub(crate) fn calling(&self, id: SourceId) -> Option<Arc<LocalWatch<H>>> {
        self.calls.lock().iter().find(|local| local.id == id).cloned()
    }

    /// When the source of a watch is called next, and since when it has been called.
    pub(super) fn times(&self, name: &str) -> (Option<Time>, Option<Time>) {
        let Some(local) = self.local(name) else { return (None, None) };
        let (now, steady) = (self.control.clock.now(), self.control.clock.steady());
        let state = local.state.lock();
        let next = state.next.filter(|_| state.calling.is_none() && !state.is_over);
        let next = next.map(|next| now.after(next.saturating_sub(steady)));
        (next, state.calling.map(|since| now.before(steady.saturating_sub(since))))
    }

    /// Whether a runner lives, as far as is known.
    pub(super) fn is_alive(&self, runner: i64) -> Result<bool, StoreError> {
        if runner == self.control.lease().runner && !self.control.is_client() {
            return Ok(true);
        }
        let now = self.control.clock.machine();
        if let Some((asked, is_alive)) = self.alive.lock().get(&runner)
            && now.saturating_sub(*asked) < BELIEVED
        {
            return Ok(*is_alive);
        }
        let is_alive = self.control.store().is_alive(runner, self.control.clock.lease_time())?;
        self.alive.lock().insert(runner, (now, is_alive));
        Ok(is_alive)
    }

    /// A watch is due: what is to be done. Blocks.
    pub(crate) fn begin(&self, local: &Arc<LocalWatch<H>>) -> Begun {
        loop {
            let generation = local.state.lock().generation;
            let begun = self.try_begin(local, generation).unwrap_or_else(|error| self.after_error(&local.name, &error));
            let mut state = local.state.lock();
            match &begun {
                Begun::Call(..) => {
                    state.calling.get_or_insert_with(|| self.control.clock.steady());
                    drop(state);
                    self.calls.lock().push(Arc::clone(local));
                }
                Begun::Wait(span) => state.next = Some(self.control.clock.steady() + *span),
                // It was removed, and defined again meanwhile.
                Begun::Over if !state.end(generation) => continue,
                Begun::Over => {
                    (state.asked, state.calling) = (None, None);
                    drop(state);
                    self.calls.lock().retain(|other| !Arc::ptr_eq(other, local));
                }
            }
            return begun;
        }
    }

    fn try_begin(&self, local: &LocalWatch<H>, generation: u64) -> Result<Begun, StoreError> {
        let source = {
            let state = local.state.lock();
            if state.is_over {
                return Ok(Begun::Over);
            }
            if let Some((_, watch)) = &state.asked {
                return Ok(Begun::Call(Arc::clone(&state.source.0), watch.cursor.clone()));
            }
            Arc::clone(&state.source.0)
        };
        if self.control.is_closing() || self.control.stopped().is_some() {
            return Ok(Begun::Over);
        }
        loop {
            let history = self.control.store().history();
            let stored = self.control.store().watch(&local.name)?;
            let Some((revision, watch)) = stored.map(current).transpose()?.flatten() else { return Ok(Begun::Over) };
            if *watch.workflow != **local.workflow.graph.workflow() {
                return Ok(Begun::Over);
            }
            let every = watch.interval();
            let mut state = local.state.lock();
            if state.generation == generation {
                state.every = every;
            }
            drop(state);
            if watch.paused_at.is_some() {
                return Ok(Begun::Wait(every.min(LOOK)));
            }
            let me = self.control.lease().runner;
            match watch.runner {
                Some(runner) if runner == me => {
                    let cursor = watch.cursor.clone();
                    let mut state = local.state.lock();
                    (state.asked, state.history) = (Some((revision, watch)), history);
                    drop(state);
                    return Ok(Begun::Call(source, cursor));
                }
                Some(other) if self.is_alive(other)? => return Ok(Begun::Wait(every.min(LOOK))),
                // Whether that was done or somebody else was faster shows in the row.
                _ => drop(self.set(Some(revision), Watch { runner: Some(me), ..watch })?),
            }
        }
    }

    fn after_error(&self, name: &str, error: &StoreError) -> Begun {
        match error {
            StoreError::Busy { .. } => {
                self.control.warn(&format!("watch '{name}' is looked at again in {AGAIN:?}: {error}"));
                Begun::Wait(AGAIN)
            }
            StoreError::Corrupt(_) => {
                self.control.log(crate::log::Level::Error, &format!("watch '{name}' starts no runs: {error}"));
                Begun::Over
            }
            error => {
                self.control.break_down(error);
                Begun::Over
            }
        }
    }

    /// Whether an answer changes nothing: then [`Watcher::end`] does not block.
    pub(crate) fn is_idle(&self, local: &LocalWatch<H>, answer: &SourceAnswer) -> bool {
        let state = local.state.lock();
        let asked = state.asked.as_ref().map(|(_, watch)| watch);
        match answer {
            SourceAnswer::Items(items, cursor) => {
                items.is_empty() && asked.is_some_and(|watch| watch.cursor == *cursor && watch.error.is_none())
            }
            SourceAnswer::Failed(_) => false,
            SourceAnswer::Later => true,
        }
    }

    /// A source has answered: commits what follows. How long until the watch is due again; `None`: it has not answered
    /// yet, or is over. Blocks.
    pub(crate) fn end(&self, local: &Arc<LocalWatch<H>>, answer: SourceAnswer) -> Option<Duration> {
        if answer == SourceAnswer::Later {
            return None;
        }
        self.calls.lock().retain(|other| !Arc::ptr_eq(other, local));
        let (asked, shown, every, generation) = {
            let mut state = local.state.lock();
            state.calling = None;
            state.is_reported = false;
            let mut asked = state.asked.take().filter(|_| !state.is_over);
            if state.history != self.control.store().history() {
                // A store that has lost commits may give a revision to something else: this is that of nothing.
                asked.iter_mut().for_each(|(revision, _)| *revision = i64::MIN);
            }
            (asked, Arc::clone(&state.source.1), state.every, state.generation)
        };
        let (revision, watch) = asked?;
        let answer = match answer {
            SourceAnswer::Items(items, _) if items.len() > MOST_ITEMS => SourceAnswer::Failed(
                format!(
                    "it returned {} items at once: return {MOST_ITEMS} at most, and the others from the next cursor on",
                    items.len()
                )
                .into(),
            ),
            SourceAnswer::Items(items, cursor) => {
                match items.iter().find_map(|(key, _)| self.too_long(&local.name, key)) {
                    Some(why) => SourceAnswer::Failed(why.into()),
                    None => SourceAnswer::Items(items, cursor),
                }
            }
            answer => answer,
        };
        let failed = match &answer {
            SourceAnswer::Failed(why) => Some(Arc::clone(why)),
            _ => None,
        };
        let span = self.note(local, &shown, failed, every);
        let span = match self.commit(local, (revision, watch), &answer) {
            Ok(()) => Some(span),
            Err(error) => match self.after_error(&local.name, &error) {
                Begun::Wait(again) => Some(again),
                _ => None,
            },
        };
        let mut state = local.state.lock();
        // If it is not over it was removed, and defined again meanwhile: it is due at once.
        let span = span.or_else(|| (!state.end(generation)).then_some(Duration::ZERO));
        state.next = span.map(|span| self.control.clock.steady() + span);
        span
    }

    /// Why the store does not take an item, whose run has the name of the watch in its key.
    fn too_long(&self, watch: &str, key: &str) -> Option<String> {
        let most = self.control.longest_name.map(|most| most.saturating_sub(run_key(watch, "").len()));
        too_long("key", key, most)
    }

    /// Notes that a source has failed or not, and logs it if that has changed. How long until it is called again.
    fn note(&self, local: &LocalWatch<H>, shown: &str, failed: Option<Arc<str>>, every: Duration) -> Duration {
        let mut state = local.state.lock();
        let Some(why) = failed else {
            (state.failures, state.logged) = (0, None);
            return every;
        };
        state.failures = state.failures.saturating_add(1);
        let span = after_failure(every, state.failures);
        if state.logged.as_ref() != Some(&why) {
            let name = &local.name;
            let line = format!("watch '{name}': its source {shown} failed and is called again in {span:?}: {why}");
            state.logged = Some(why);
            drop(state);
            self.control.warn(&line);
        }
        span
    }

    fn commit(
        &self,
        local: &LocalWatch<H>,
        (mut revision, mut watch): (i64, Watch),
        answer: &SourceAnswer,
    ) -> Result<(), StoreError> {
        let before = watch.cursor.clone();
        let mut items = match answer {
            SourceAnswer::Items(items, _) => {
                items.iter().map(|item| self.item(local, item)).collect::<Result<_, _>>()?
            }
            _ => Vec::new(),
        };
        loop {
            let now = self.control.clock.now();
            let changed = match answer {
                SourceAnswer::Items(_, cursor) => Watch { cursor: cursor.clone(), error: None, ..watch.clone() },
                SourceAnswer::Failed(why) => {
                    let since = watch.error.as_ref().map_or(now, |(since, _)| *since);
                    Watch { error: Some((since, Arc::clone(why))), ..watch.clone() }
                }
                SourceAnswer::Later => return Ok(()),
            };
            if items.is_empty() && changed == watch {
                return Ok(());
            }
            let name = Arc::clone(&local.name);
            let change = WatchChange { name, expected: Some(revision), watch: Some(changed), items };
            match self.control.store().change_watch(&change)? {
                WatchChanged::Done { started: 0, .. } => return Ok(()),
                WatchChanged::Done { .. } => return self.recovery.recover(),
                WatchChanged::NumberTaken => {
                    items = change.items;
                    items.iter_mut().for_each(|item| item.run.id = self.ids.next(self.control.clock.now()));
                }
                WatchChanged::Moved => {
                    // Something else of it was changed, or it belongs to another runner by now, whose calls count.
                    let stored = self.control.store().watch(&local.name)?;
                    let Some((next, found)) = stored.map(current).transpose()?.flatten() else { return Ok(()) };
                    if found.runner != watch.runner || found.cursor != before || found.paused_at.is_some() {
                        return Ok(());
                    }
                    (revision, watch, items) = (next, found, change.items);
                }
            }
        }
    }

    fn item(&self, local: &LocalWatch<H>, (key, inputs): &(Arc<str>, Arc<[u8]>)) -> Result<WatchItem, StoreError> {
        let (now, workflow) = (self.control.clock.now(), self.recovery.current(&local.workflow)?);
        let deadline = workflow.graph.timeout().map(|span| now.after(span));
        let options = deadline.map(|_| Box::new(RunOptions { deadline, ..RunOptions::default() }));
        let new = NewRun::new(self.ids.next(now), workflow.number, workflow.version, now);
        let run = new.with_key(Some(run_key(&local.name, key))).with_inputs(Arc::clone(inputs)).with_options(options);
        Ok(WatchItem { key: Arc::clone(key), run })
    }

    /// Reports the sources that have not returned for a long time, each once.
    pub(crate) fn look(&self) {
        let calls = self.calls.lock().clone();
        for local in calls {
            let mut state = local.state.lock();
            let Some(since) = state.calling.filter(|_| !state.is_reported) else { continue };
            let span = self.control.clock.steady().saturating_sub(since);
            if span > OVERDUE.max(state.every) {
                state.is_reported = true;
                let (name, shown) = (&local.name, &state.source.1);
                let line = format!(
                    "watch '{name}': its source {shown} has not returned for {} s; no run starts before it does",
                    span.as_secs()
                );
                drop(state);
                self.control.warn(&line);
            }
        }
    }
}
