//! What happens in a simulated world: a workflow whose bodies are little programs, the callers, and the disasters.
//! All of it can be printed. `plan/random.rs` makes it from a seed, `plan/smaller.rs` makes it smaller.
//!
//! A new kind of wait, body or disaster is one variant here, one line in each of those two, and what a body does with
//! it in `process/bodies.rs`, or the world in `world.rs`. It must come to the same in every world: the results are
//! compared with those of a world without disasters.

mod hand;
mod limits;
mod mail;
mod maps;
mod others;
mod print;
mod random;
mod servers;
mod smaller;
mod watches;

use std::sync::Arc;
use std::time::Duration;

use bide_core::poll::Tolerance;
use bide_core::{GateSpec, GateUntil, Graph, PollPolicy, RetryPolicy, RunIf, TaskIx, TaskSpec};

use crate::fault::Fault;

pub use hand::Hand;
pub(super) use hand::value_by_hand;
pub use limits::Limit;
pub use mail::{Letter, Sender, Several, Target};
pub(super) use mail::{signal_name, signal_request};
pub(super) use maps::MOST;
pub use maps::Mapped;
pub(super) use others::{
    CHILD, answer_address, answer_request, callback_request, child_request, reply_request, request_address,
    start_request, take_request,
};
pub(super) use servers::MOST_LOST;

/// One simulated world.
#[derive(Clone, Debug)]
pub struct Case {
    /// Where all randomness comes from.
    pub seed: u64,
    /// The workflow.
    pub tasks: Vec<TaskPlan>,
    /// The task that [`Version::Grown`] has besides.
    pub added: TaskPlan,
    /// The tasks of the runs that bodies start as their children.
    pub child: Vec<TaskPlan>,
    /// The first failure skips what has not started.
    pub fail_fast: bool,
    /// Slots of each process.
    pub slots: u32,
    /// For each run how often it is asked for, by its key.
    pub calls: Vec<u32>,
    /// For each run how many milliseconds after its creation it begins, if not at once.
    pub starts: Vec<Option<u64>>,
    /// For each run how many milliseconds after the world began a watch finds its item, if it does.
    pub watched: Vec<Option<u64>>,
    /// How many milliseconds after it begins a run must have ended.
    pub limit: Option<u64>,
    /// The runs that somebody retries once they have ended without completing; whether from the beginning.
    pub retries: Vec<(usize, bool)>,
    /// In the end all runs are deleted.
    pub deletes: bool,
    /// The messages that come to the runs, besides those that come when nothing else happens.
    pub letters: Vec<Letter>,
    /// What goes wrong, and when.
    pub disasters: Vec<(u32, Disaster)>,
    /// The store is a server: how far the clocks of the machines that use it are ahead of its own, in milliseconds.
    pub server: Option<Vec<i64>>,
    /// How much faster the wall goes than steady time, in parts of a million.
    pub drift: i64,
    /// Time passes in leaps of at most so long while all threads wait.
    pub leap: Duration,
    /// A world that takes more moves has hung.
    pub most_moves: u32,
}

/// A task.
#[derive(Clone, Debug)]
pub struct TaskPlan {
    /// The number it had when the case was made: its name stays when others are dropped.
    pub number: usize,
    /// The numbers of the tasks that it depends on.
    pub on: Vec<usize>,
    /// When it runs.
    pub run_if: RunIf,
    /// How often it is tried.
    pub retry: RetryPolicy,
    /// The limit of an attempt's execution, in milliseconds, and whether the policy covers that. Always or never
    /// reached in any case.
    pub timeout: Option<(u64, bool)>,
    /// What must be satisfied before its body starts.
    pub gate: Option<Gate>,
    /// How it is mapped, if it is.
    pub map: Option<Mapped>,
    /// It takes whatever the elements of the mapped tasks that it depends on came to.
    pub gathers: bool,
    /// Its limit.
    pub limit: Option<Limit>,
    /// What each attempt does.
    pub acts: Vec<Act>,
    /// How the first, the second … attempt ends; the last stands for all further ones.
    pub ends: Vec<End>,
}

/// A gate.
#[derive(Clone, Copy, Debug)]
pub enum Gate {
    /// A condition that becomes true this many milliseconds after the world began.
    Until(u64),
    /// A span, in milliseconds.
    After(u64),
    /// A condition that never holds, with a timeout in milliseconds; whether that is retried.
    Never(u64, bool),
    /// A signal.
    Signal(u8),
    /// Several waits at once.
    Several(Several),
}

/// What a body does next.
#[derive(Clone, Copy, Debug)]
pub enum Act {
    /// Executes a step; false: it raises, and the body continues.
    Step(bool),
    /// Executes this many steps of one name, in another order on each entry; the fourth raises.
    Shuffled(u8),
    /// Executes this many steps with keys, in another order on each entry; the fourth raises.
    Keyed(u8),
    /// Executes a step that fails so often before it returns; the third time it is not tried again.
    Flaky(u8),
    /// Executes a step at most once. What the body sees of it does not depend on whether it was interrupted.
    Once,
    /// Records where the body is and what it has seen: on re-entry it continues there.
    Checkpoint,
    /// Waits for a condition that becomes true this many milliseconds after the world began; whether a poll is slow.
    Until(u64, bool),
    /// The same, of a condition that cannot be compared: it is asked again on every entry. It has a timeout that is
    /// never reached.
    Unprovable(u64),
    /// The same, of a condition that raises before it becomes true; the wait ignores that.
    RaisesUntil(u64),
    /// Waits for a condition that always raises: the fifth time in a row ends the wait, and the body continues.
    Raises,
    /// Waits for a condition that never holds until its timeout, in milliseconds, and continues.
    TimesOut(u64),
    /// Sleeps, in milliseconds.
    Sleep(u64),
    /// Waits for a signal, perhaps with a timeout in milliseconds, and continues in either case.
    Signal(u8, Option<u64>),
    /// The same with several waits at once.
    Several(Several, Option<u64>),
    /// Makes a callback, which anybody may answer from then on.
    Callback,
    /// Waits for the answer to the callback that was made last, perhaps with a timeout in milliseconds, and continues
    /// in any case.
    Answer(Option<u64>),
    /// Waits for a request, perhaps with a timeout in milliseconds, and continues in either case.
    Takes(Option<u64>),
    /// Answers the request that was taken last, or refuses it.
    Replies(bool),
    /// Starts a child run, perhaps with a key.
    Starts(Option<u8>),
    /// Waits for the end of the child that was started last, perhaps with a timeout in milliseconds, and continues in
    /// any case.
    Joins(Option<u64>),
    /// Holds its slot for this many milliseconds.
    Works(u64),
    /// Sets one of a few keys of the context to what it has seen so far.
    Sets(u8),
    /// Kills its process; in this run only, if one is named.
    Kills(Option<usize>),
    /// Waits for what never comes, without a timeout.
    Forever,
    /// The call at this position in a script of the conformance suite ([`crate::waits`]); in no random world.
    Scripted(u8),
}

/// How an attempt ends.
#[derive(Clone, Copy, Debug)]
pub enum End {
    /// It returns.
    Return,
    /// It raises; whether its policy covers that.
    Fail(bool),
    /// It skips itself.
    Skip,
}

/// The code that a process has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Version {
    /// The workflow.
    First,
    /// With one task more.
    Grown,
    /// Without its last task: it cannot execute what the others have created.
    Shrunk,
}

/// What goes wrong.
#[derive(Clone, Copy, Debug)]
pub enum Disaster {
    /// A process dies between two moves.
    Crash,
    /// A process closes in good order.
    Close,
    /// The next call of a process's store goes wrong.
    Fault(Fault),
    /// A process dies, and of the next one's calls this one goes wrong.
    Birth(u64, Fault),
    /// The server loses what was committed in this number of its last moves.
    Loses(usize),
    /// The clock is set, by this many milliseconds.
    Jump(i64),
    /// A second process opens the store.
    Second,
    /// A process is stopped for this many milliseconds, another one starts, and the first continues where it was.
    Freeze(u64),
    /// Processes that start from now on have this code, and one does.
    Deploy(Version),
    /// A caller submits a run under its key with other inputs.
    Stranger,
    /// Somebody pauses this run, and resumes it so many moves later.
    Pause(usize, u32),
    /// Somebody cancels this run.
    Cancel(usize),
    /// The same, without clean-up.
    CancelByForce(usize),
    /// Somebody asks something of a task of this run.
    Hand(usize, Hand, u8),
}

/// Polls are so far apart.
pub(super) const EVERY: Duration = Duration::from_millis(400);

impl Act {
    /// Its name in the journal; `None` if it records nothing.
    pub(super) fn name(self) -> Option<&'static str> {
        match self {
            Self::Step(_) => Some("step"),
            Self::Shuffled(_) => Some("shuffled"),
            Self::Keyed(_) => Some("keyed"),
            Self::Flaky(_) => Some("flaky"),
            Self::Once => Some("once"),
            Self::Checkpoint => Some("checkpoint"),
            Self::Until(..) => Some("condition"),
            Self::Unprovable(_) => Some("unprovable"),
            Self::RaisesUntil(_) => Some("raises at first"),
            Self::Raises => Some("raises"),
            Self::TimesOut(_) => Some("late"),
            Self::Sleep(_) => Some("sleep"),
            Self::Forever => Some("forever"),
            Self::Signal(..) | Self::Several(..) => Some("what comes"),
            Self::Works(_) | Self::Sets(_) | Self::Kills(_) | Self::Scripted(_) => None,
            Self::Callback | Self::Answer(_) | Self::Starts(_) | Self::Joins(_) => None,
            Self::Takes(_) | Self::Replies(_) => None,
        }
    }

    /// The key of the context that it sets.
    pub(super) fn sets(self) -> Option<Arc<str>> {
        match self {
            Self::Sets(key) => Some(format!("k{key}").into()),
            _ => None,
        }
    }

    /// When its condition becomes true, in milliseconds after the world began.
    pub(super) fn holds_at(self) -> Option<u64> {
        match self {
            Self::Until(ms, _) | Self::Unprovable(ms) | Self::RaisesUntil(ms) => Some(ms),
            Self::Several(several, _) => several.holds_at(),
            _ => None,
        }
    }

    /// Whether its condition raises before it becomes true.
    pub(super) fn raises(self) -> bool {
        matches!(self, Self::Raises | Self::RaisesUntil(_))
    }

    /// Whether it waits for a condition, so that something is asked.
    pub(super) fn is_condition(self) -> bool {
        let asks_nothing = matches!(self, Self::Sleep(_) | Self::Checkpoint | Self::Signal(..));
        !self.is_step() && !asks_nothing && !self.is_with_others()
    }

    /// Whether it executes steps.
    pub(super) fn is_step(self) -> bool {
        matches!(self, Self::Step(_) | Self::Shuffled(_) | Self::Keyed(_) | Self::Flaky(_) | Self::Once)
    }

    /// Whether what it waits for comes from outside, or may come in another order than in another world.
    pub(super) fn depends_on_the_moment(self) -> bool {
        matches!(self, Self::Signal(..) | Self::Several(..) | Self::Answer(_) | Self::Joins(Some(_)))
    }

    /// Whether it has to do with a callback, a request or a child run.
    pub(super) fn is_with_others(self) -> bool {
        let with_request = matches!(self, Self::Takes(_) | Self::Replies(_));
        with_request || matches!(self, Self::Callback | Self::Answer(_) | Self::Starts(_) | Self::Joins(_))
    }

    /// How its condition is polled.
    pub(super) fn policy(self) -> PollPolicy {
        let tolerate = if matches!(self, Self::RaisesUntil(_)) {
            Tolerance::Ignore
        } else {
            Tolerance::Tolerate(5, Duration::ZERO)
        };
        PollPolicy { tolerate, ..TaskPlan::policy() }
    }
}

impl TaskPlan {
    /// A task that does nothing.
    pub(super) fn plain(number: usize) -> Self {
        Self {
            number,
            on: Vec::new(),
            run_if: RunIf::Succeeded,
            retry: RetryPolicy::NONE,
            timeout: None,
            gate: None,
            map: None,
            gathers: false,
            limit: None,
            acts: Vec::new(),
            ends: vec![End::Return],
        }
    }

    /// As the graph knows it; `mapped` says which tasks are mapped.
    fn spec(&self, mapped: impl Fn(usize) -> bool) -> TaskSpec {
        let gate = self.gate.map(|gate| {
            let (until, timeout) = match gate {
                Gate::Until(_) => (GateUntil::Condition, None),
                Gate::After(ms) => (GateUntil::After(Duration::from_millis(ms)), None),
                Gate::Never(ms, _) => (GateUntil::Condition, Some(Duration::from_millis(ms))),
                Gate::Signal(signal) => return mail::signal_gate(signal),
                Gate::Several(several) => return several.gate(),
            };
            GateSpec { name: "gate".into(), until, timeout }
        });
        TaskSpec {
            dependencies: self.on.iter().map(|on| format!("t{on}").into()).collect(),
            run_if: self.run_if,
            retry: self.retry,
            timeout: self.timeout.map(|(ms, _)| Duration::from_millis(ms)),
            gate,
            map: self.map_spec(&mapped),
            gathers: self.gathered(&mapped).map(|on| format!("t{on}").into()).collect(),
            wants_handle: true,
            wants_context: true,
            ..TaskSpec::new(format!("t{}", self.number))
        }
    }

    /// How an attempt ends.
    #[must_use]
    pub fn end(&self, attempt: u32) -> End {
        self.ends[(attempt as usize - 1).min(self.ends.len() - 1)]
    }

    /// How its gate is polled.
    #[must_use]
    pub fn policy() -> PollPolicy {
        PollPolicy { backoff: 1.5, max_every: 10 * EVERY, ..PollPolicy::every(EVERY) }
    }
}

impl Case {
    /// The same without disasters, each run asked for once.
    #[must_use]
    pub fn undisturbed(&self) -> Self {
        let (disasters, retries) = (Vec::new(), Vec::new());
        Self { disasters, retries, drift: 0, server: None, calls: vec![1; self.calls.len()], ..self.clone() }
    }

    /// The tasks of a version. A task has the same position in all of them.
    #[must_use]
    pub fn tasks(&self, version: Version) -> Vec<&TaskPlan> {
        let mut tasks: Vec<&TaskPlan> = self.tasks.iter().collect();
        match version {
            Version::First => {}
            Version::Grown => tasks.push(&self.added),
            // A workflow has a task at least.
            Version::Shrunk => tasks.truncate((tasks.len() - 1).max(1)),
        }
        tasks
    }

    /// The workflow in a version.
    ///
    /// # Panics
    /// If the generator made something that is no workflow.
    #[must_use]
    pub fn graph(&self, version: Version) -> Graph {
        let limit = self.limit.map(Duration::from_millis);
        Self::graph_of("simulated", &self.tasks(version), self.fail_fast).with_timeout(limit)
    }

    fn graph_of(workflow: &str, tasks: &[&TaskPlan], fail_fast: bool) -> Graph {
        let mapped = |number| tasks.iter().any(|task| task.number == number && task.map.is_some());
        let specs = tasks.iter().map(|task| task.spec(mapped)).collect();
        Graph::build(workflow, specs, fail_fast).unwrap_or_else(|error| panic!("{error:?}"))
    }

    /// The tasks that may wait for ever: they do themselves, or something that they depend on does. `also` says it of
    /// further tasks.
    #[must_use]
    pub fn endless(&self, also: impl Fn(TaskIx) -> bool) -> Vec<bool> {
        let graph = self.graph(Version::Grown);
        let waits = |task: &TaskPlan| task.acts.iter().any(|act| matches!(act, Act::Forever));
        let tasks = (0..).zip(self.tasks(Version::Grown));
        let mut endless: Vec<bool> = tasks.map(|(ix, task)| waits(task) || also(ix)).collect();
        for &ix in graph.order() {
            let on = |dep: &TaskIx| endless[*dep as usize];
            endless[ix as usize] |= graph.dependencies(ix).iter().any(on);
        }
        endless
    }

    /// Whether a body of this run may kill its process.
    #[must_use]
    pub fn kills(&self, run: usize) -> bool {
        let kills = |act: &Act| matches!(act, Act::Kills(which) if which.is_none_or(|which| which == run));
        self.tasks.iter().flat_map(|task| &task.acts).any(kills)
    }

    /// Whether this kind of disaster strikes.
    pub(super) fn has(&self, is: impl Fn(&Disaster) -> bool) -> bool {
        self.disasters.iter().any(|(_, disaster)| is(disaster))
    }
}
