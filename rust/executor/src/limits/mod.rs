//! What limits hold back: the attempts that wait here for a share of a limit, and those that have one.
//!
//! A body of a task with a limit that is ready is not dispatched but put into a line, one for each value of the limit's
//! key. The service asks the store for the first ones of each line (`turn.rs`), all at once, whenever there may be room:
//! somebody came, an attempt ended, another runner released a share, a rate's span is over. Nothing polls. Where an
//! attempt ends here for which others wait here, the commit of its end asks for them (`with_commit.rs`). Where nobody
//! waits at another runner, the next one here has the share before that commit, which records it (`passing.rs`). A body
//! with its share is entered by `entering.rs`.
//!
//! The end of an attempt releases its share in its own commit: the store does that. What is kept here is lost with the
//! process, and nothing depends on it.

mod entering;
mod lines;
mod passing;
mod turn;
mod with_commit;

pub(crate) use turn::turn;
pub(crate) use with_commit::{Ending, Grants};

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use bide_core::limits::{Line, Place, key_text};
use bide_core::longest::shortened;
use bide_core::record::RunRowId;
use bide_core::{Counted, Rate, TaskId, TaskRef, Time};
use bide_store::{Moved, ShareId};
use bide_sync::{Condvar, Mutex, MutexGuard};
use tokio::sync::oneshot;

use crate::host::{Host, Ready, Source, TaskLimit};
use crate::runs::run::Run;

/// How many attempts that start under a rate are granted at most and not entered yet: their grants last only for a
/// moment.
const ON_THEIR_WAY: usize = 256;

/// How many attempts of a line are asked about at first, and at most.
const FIRST_ASKED: usize = 16;
const MOST_ASKED: usize = 256;

/// A task that a limit holds back.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HeldBack {
    /// The number of the task.
    pub task: TaskId,
    /// The map index.
    pub map: i32,
    /// The name of the limit.
    pub limit: Arc<str>,
    /// The value of its key, as text; empty for a limit without one.
    pub key: Arc<str>,
    /// What of it is used up, once that is known.
    pub counted: Option<Counted>,
    /// Where it stands among those that wait here, from 1.
    pub place: usize,
    /// How many wait here.
    pub waiting: usize,
}

/// A limit's name, and a value of its key.
type LineKey = (Arc<str>, Arc<str>);

/// The lines of an engine.
pub(crate) struct Limiter<H: Host> {
    /// A workflow with a limit is registered.
    active: AtomicBool,
    /// How many bytes the value of a key may have in the store.
    longest: Option<usize>,
    /// The lines, and what is to be told to the store.
    state: Mutex<State<H>>,
    /// Notified when there is something to do.
    woken: Condvar,
}

struct State<H: Host> {
    /// Those that wait, by limit and value of the key. Empty lines are dropped.
    lines: BTreeMap<LineKey, OwnLine<H>>,
    /// Where each attempt waits.
    waiting: BTreeMap<ShareId, (LineKey, Place)>,
    /// Those that have a share, or may start.
    granted: BTreeMap<ShareId, Granted>,
    /// The lines for which there may be room, each once.
    dirty: VecDeque<LineKey>,
    /// The lines in which attempts have left their shares to others, which no commit has recorded, each once.
    passing: Vec<LineKey>,
    /// Shares that are not needed.
    released: Vec<ShareId>,
    /// Attempts whose bodies do not execute any more, and have not ended.
    idle: Vec<ShareId>,
    /// The store is being asked: by the service, or with a commit.
    turns: bool,
    /// How many turns there were.
    count: u64,
    /// Shares that the call under way gives back.
    releasing: Vec<ShareId>,
    /// How often all runs in memory were lost: what was asked or told before concerns others now.
    term: u64,
    /// Nothing starts or resumes any more.
    closing: bool,
}

/// Those that wait here for one limit and one value of its key.
struct OwnLine<H: Host> {
    /// In their order.
    line: Line<Waiter<H>>,
    /// It is among the dirty ones.
    is_dirty: bool,
    /// How many are asked about next: about as many as may be granted.
    asked: usize,
    /// Of a limit with a rate: how long after its grant a body may be entered.
    patience: Option<Patience>,
    /// What has become of starts that were granted, and was not told yet.
    moved: Vec<Entered>,
    /// How many have been granted a start and were not entered yet.
    on_their_way: usize,
    /// When the timer rings that is set for it.
    rings_at: Option<Time>,
    /// Attempts may leave their shares to others of the line before the store is asked.
    may_pass_on: bool,
    /// Those that have got their shares so, and whose these are in the store. No commit has recorded it yet.
    passed: BTreeMap<ShareId, ShareId>,
    /// It is among those that have something to tell of this.
    is_passing: bool,
}

/// How long after its grant a body may be entered. It follows how long bodies take for that.
#[derive(Clone, Copy)]
struct Patience {
    /// Now.
    now: Duration,
    /// At least.
    least: Duration,
    /// At most: the span of the rate.
    most: Duration,
}

impl Patience {
    fn new(rate: Rate) -> Self {
        Self { now: rate.patience(), least: rate.patience(), most: rate.span }
    }

    /// A body was entered so long after its grant, which lasted for this long.
    fn learn(&mut self, used: Duration, granted: Duration) {
        let next = if used <= granted {
            (used * 4).max(self.now - self.now / 64)
        } else if granted >= self.now {
            // Once for all that were granted together.
            self.now * 2
        } else {
            self.now
        };
        self.now = next.clamp(self.least, self.most);
    }
}

/// Starts that were granted together, and have happened or not.
#[derive(Clone, Copy)]
struct Entered {
    /// What is told of them.
    moved: Moved,
    /// When the first one of them has happened.
    first: Time,
}

/// An attempt that waits.
struct Waiter<H: Host> {
    /// Its run.
    run: Arc<Run<H>>,
    /// Its task.
    task: TaskRef,
    /// It has begun before, and may have a share.
    continues: bool,
    /// Its body resumes, and gets to know it here. Otherwise it is dispatched.
    resumes: Option<oneshot::Sender<()>>,
    /// What it waited for when it was last asked about.
    counted: Option<Counted>,
    /// The store is being asked about it.
    is_asked: bool,
}

impl<H: Host> Waiter<H> {
    const fn new(run: Arc<Run<H>>, task: TaskRef, continues: bool, resumes: Option<oneshot::Sender<()>>) -> Self {
        Self { run, task, continues, resumes, counted: None, is_asked: false }
    }
}

/// Whether a body may be entered that starts under a rate.
enum Entry {
    /// At this time, which its grant allows.
    Granted(Time),
    /// It was entered before under its grant.
    Entered,
    /// It waits for its share again: it was ready twice.
    Waits,
    /// It has no grant, or was too late for it: it has to ask for one if it starts.
    Ungranted,
}

/// An attempt that has a share.
struct Granted {
    /// Of which line.
    line: LineKey,
    /// If it starts under a rate and was not entered yet: up to when its body may be entered, and how long that was after
    /// the grant.
    latest: Option<(Time, Duration)>,
    /// In the store the share is still that of the attempt which left it.
    passed: Passing,
}

/// How far the store knows who has a share.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Passing {
    /// It knows.
    Recorded,
    /// The next commit will tell it.
    Unrecorded,
    /// Likewise; then it is to be told that the body does not execute any more.
    Idles,
}

impl<H: Host> Limiter<H> {
    /// Without any line, for a store whose texts have at most this many bytes.
    pub(crate) fn new(longest: Option<usize>) -> Self {
        let state = State {
            lines: BTreeMap::new(),
            waiting: BTreeMap::new(),
            granted: BTreeMap::new(),
            dirty: VecDeque::new(),
            passing: Vec::new(),
            released: Vec::new(),
            idle: Vec::new(),
            turns: false,
            count: 0,
            releasing: Vec::new(),
            term: 0,
            closing: false,
        };
        Self { active: AtomicBool::new(false), longest, state: Mutex::new(state), woken: Condvar::new() }
    }
}

fn limit_of<H: Host>(run: &Run<H>, task: TaskRef) -> Option<&TaskLimit> {
    let limit = H::limit(&run.workflow.bodies[task.ix as usize])?;
    // What is limited of a mapped task is its elements.
    (!run.workflow.graph.is_expansion(task)).then_some(limit)
}

fn share<H: Host>(run: &Run<H>, task: TaskRef) -> ShareId {
    ShareId { run: run.id.row(), task: run.workflow.ids[task.ix as usize], map: task.map }
}

/// The line of an attempt: the value of the key is known, since what it depends on has ended.
fn line_of<H: Host>(run: &Run<H>, limit: &TaskLimit, longest: Option<usize>) -> LineKey {
    let key = match &limit.key {
        None => "".into(),
        Some(Source::Input(name)) => key_text(run.input(name)),
        Some(Source::Output(ix)) => key_text(run.state.lock().output(TaskRef::plain(*ix))),
        Some(_) => key_text(None),
    };
    (Arc::clone(&limit.spec.name), shortened(key, longest))
}

impl<H: Host> Limiter<H> {
    /// Whether a workflow with a limit is registered.
    #[inline]
    pub(crate) fn is_active(&self) -> bool {
        self.active.load(Ordering::Relaxed)
    }

    /// A workflow with a limit is registered.
    pub(crate) fn activate(&self) {
        self.active.store(true, Ordering::Relaxed);
    }

    /// Takes the bodies of tasks with a limit out of what is ready, until they have a share.
    #[inline]
    pub(crate) fn hold(&self, ready: &mut Vec<Ready<H>>) {
        if self.is_active() && ready.iter().any(|one| limit_of(&one.run, one.task).is_some()) {
            self.hold_limited(ready);
        }
    }

    #[cold]
    fn hold_limited(&self, ready: &mut Vec<Ready<H>>) {
        let mut held = Vec::new();
        for one in std::mem::take(ready) {
            match limit_of(&one.run, one.task) {
                Some(limit) => {
                    let continues = one.run.state.lock().continues(one.task);
                    held.push((line_of(&one.run, limit, self.longest), limit.spec.rate, continues, one));
                }
                None => ready.push(one),
            }
        }
        let mut state = self.state.lock();
        for (line, rate, continues, Ready { run, task }) in held {
            if run.is_lost() {
                // It would stand in the way of the same attempt once the run is claimed again.
                continue;
            }
            if !continues && state.granted.contains_key(&share(&run, task)) {
                // It was ready before, and was not entered since it was granted its share.
                ready.push(Ready { run, task });
                continue;
            }
            state.add(line, Waiter::new(run, task, continues, None), rate);
        }
        drop(state);
        self.woken.notify_one();
    }

    /// A body does not execute any more, but has not ended: it waits, or was suspended.
    pub(crate) fn idle(&self, run: &Run<H>, task: TaskRef) {
        // A body of a run that was lost has no share here: it may be one of the run as it was claimed again.
        if !self.is_active() || run.is_lost() {
            return;
        }
        if limit_of(run, task).is_some_and(|limit| limit.spec.executing.is_some()) {
            let share = share(run, task);
            let mut state = self.state.lock();
            match state.resuming(share) {
                // It left that.
                Some((line, place)) => {
                    state.waiting.remove(&share);
                    let left = state.lines.get_mut(&line).and_then(|own| own.line.remove(place));
                    state.touch(&line);
                    drop(state);
                    drop(left);
                }
                None => state.idles(share),
            }
            self.woken.notify_one();
        }
    }

    /// A body that waited resumes: it may do so at once, or once the answer comes. None comes if the runner closes, or
    /// if the attempt is over.
    pub(crate) fn resume(&self, run: &Arc<Run<H>>, task: TaskRef) -> Option<oneshot::Receiver<()>> {
        if !self.is_active() {
            return None;
        }
        let limit = limit_of(run, task).filter(|limit| limit.spec.executing.is_some())?;
        let (share, line) = (share(run, task), line_of(run, limit, self.longest));
        let mut state = self.state.lock();
        if !run.is_lost() && state.executes_again(share) {
            // The store has not been told that it waits.
            return None;
        }
        let (sender, receiver) = oneshot::channel();
        if !state.closing && !run.is_lost() {
            state.add(line, Waiter::new(Arc::clone(run), task, true, Some(sender)), None);
        }
        drop(state);
        self.woken.notify_one();
        Some(receiver)
    }

    /// Other runners may have released shares.
    pub(crate) fn others_changed(&self) {
        if !self.is_active() {
            return;
        }
        let mut state = self.state.lock();
        let lines: Vec<LineKey> = state.lines.keys().cloned().collect();
        lines.iter().for_each(|line| state.touch(line));
        drop(state);
        self.woken.notify_one();
    }

    /// The time has come for which a line waited.
    fn rings(&self, line: &LineKey) {
        let mut state = self.state.lock();
        if let Some(own) = state.lines.get_mut(line) {
            own.rings_at = None;
        }
        state.touch(line);
        drop(state);
        self.woken.notify_one();
    }

    /// The tasks of a run that are held back here.
    pub(crate) fn held_back(&self, run: RunRowId) -> Vec<HeldBack> {
        let state = self.state.lock();
        let held = |(share, (key, place)): (&ShareId, &(LineKey, Place))| {
            let own = state.lines.get(key)?;
            Some(HeldBack {
                task: share.task,
                map: share.map,
                limit: Arc::clone(&key.0),
                key: Arc::clone(&key.1),
                counted: own.line.get(*place)?.counted,
                place: own.line.position(*place),
                waiting: own.line.len(),
            })
        };
        state.waiting_of(run).filter_map(held).collect()
    }

    /// Whether there is something to do.
    #[cfg(feature = "testing")]
    pub(crate) fn is_asked(&self) -> bool {
        let state = self.state.lock();
        !state.closing && !state.turns && state.has_work()
    }

    /// Whether there is nothing to do: with a number that changes whenever there was.
    pub(crate) fn rest(&self) -> Option<u64> {
        let state = self.state.lock();
        (state.closing || !(state.turns || state.has_work())).then_some(state.count)
    }

    /// Waits until there is something to do. False: nothing will be done any more.
    pub(crate) fn wait(&self) -> bool {
        let mut state = self.state.lock();
        while !state.closing && (state.turns || !state.has_work()) {
            self.woken.wait(&mut state);
        }
        !state.closing
    }

    /// Every run in memory belongs to another runner now.
    pub(crate) fn lost(&self) {
        let mut state = self.state.lock();
        state.passing.clear();
        state.term += 1;
        drop(Self::forget(state));
    }

    /// Nothing starts or resumes any more.
    pub(crate) fn close(&self) {
        let mut state = self.state.lock();
        state.closing = true;
        drop(Self::forget(state));
        self.woken.notify_all();
    }

    /// Empties it. What is returned is dropped without the lock: it wakes bodies.
    fn forget(mut state: MutexGuard<'_, State<H>>) -> impl Sized + use<H> {
        state.waiting.clear();
        state.granted.clear();
        state.dirty.clear();
        state.released.clear();
        state.idle.clear();
        let mut lines = std::mem::take(&mut state.lines);
        // Who has a share is still to be recorded: bodies execute to their end.
        for line in state.passing.clone() {
            if let Some(own) = lines.get_mut(&line) {
                let told = OwnLine { passed: std::mem::take(&mut own.passed), is_passing: true, ..OwnLine::new(None) };
                state.lines.insert(line, told);
            }
        }
        lines
    }
}
