//! A workflow's graph: validated once, then only read. Every look-up on the hot path is an index into flat memory.
//!
//! Not here: what happens in a run (the run machine), and what a body is.

mod ancestors;
mod build;
mod maps;
#[cfg(test)]
pub(crate) mod tests;
mod version;

use std::collections::HashMap;
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use crate::definition::DefinitionError;
use crate::event::{GateSpec, GateUntil};
use crate::id::TaskIx;
use crate::message::{Address, MessageKind};
use crate::nearest::did_you_mean;
use crate::retry::RetryPolicy;
use crate::shown::shown;
use ancestors::AncestorCache;
pub use build::RESERVED_NAMES;
use maps::Maps;
pub use maps::{MapSpec, Over, Tolerated, split_element};

/// When a task runs, decided once everything it depends on has ended.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum RunIf {
    /// If all its dependencies succeeded.
    #[default]
    Succeeded,
    /// If none failed, or was skipped because of a failure: others may have been skipped.
    NoneFailed,
    /// If at least one failed, or was skipped because of a failure.
    Failed,
    /// Always.
    Done,
}

impl RunIf {
    /// Whether the task may run once something that it depends on has failed: `fail_fast` does not skip it then.
    pub(crate) const fn runs_after_failures(self) -> bool {
        matches!(self, Self::Failed | Self::Done)
    }
}

/// A task as it is declared.
#[derive(Clone, Debug, PartialEq)]
pub struct TaskSpec {
    /// Its name, unique in the workflow.
    pub name: Arc<str>,
    /// The names of the tasks it depends on.
    pub dependencies: Vec<Arc<str>>,
    /// When it runs.
    pub run_if: RunIf,
    /// How often it is tried.
    pub retry: RetryPolicy,
    /// Limit of one attempt's execution, time deferred excluded.
    pub timeout: Option<Duration>,
    /// A wait that must be satisfied before its body starts.
    pub gate: Option<GateSpec>,
    /// Its body asks for a handle.
    pub wants_handle: bool,
    /// Its body asks for the context.
    pub wants_context: bool,
    /// It is mapped: its body runs once for each item of a list.
    pub map: Option<Box<MapSpec>>,
    /// The mapped tasks of which it takes whatever their elements came to: it starts when all of them have ended, also
    /// if some have failed.
    pub gathers: Vec<Arc<str>>,
}

impl TaskSpec {
    /// A task without dependencies whose body takes neither handle nor context.
    #[must_use]
    pub fn new(name: impl Into<Arc<str>>) -> Self {
        Self {
            name: name.into(),
            dependencies: Vec::new(),
            run_if: RunIf::Succeeded,
            retry: RetryPolicy::NONE,
            timeout: None,
            gate: None,
            wants_handle: false,
            wants_context: false,
            map: None,
            gathers: Vec::new(),
        }
    }
}

/// A validated workflow. Tasks are known by their position in declaration order.
pub struct Graph {
    workflow: Arc<str>,
    fail_fast: bool,
    /// The signals that it understands; `None`: any.
    signals: Option<Box<[String]>>,
    /// How long after it begins a run must have ended.
    timeout: Option<Duration>,
    /// The names that tasks had in older versions, each with the task that has another one now.
    renamed: HashMap<Arc<str>, TaskIx>,
    specs: Box<[TaskSpec]>,
    by_name: HashMap<Arc<str>, TaskIx>,
    dependencies: Edges,
    dependents: Edges,
    roots: Box<[TaskIx]>,
    leaves: Box<[TaskIx]>,
    order: Box<[TaskIx]>,
    /// The inverse of `order`: `order[rank[ix]] == ix`.
    rank: Box<[u32]>,
    version: Box<str>,
    ancestors: AncestorCache,
    /// Which tasks are mapped over each other's elements; none in a graph without mapped tasks.
    maps: Option<Maps>,
}

impl Graph {
    /// How many tasks there are; at least one.
    #[must_use]
    #[expect(clippy::len_without_is_empty, reason = "a graph is never empty")]
    pub fn len(&self) -> usize {
        self.specs.len()
    }

    /// The workflow's name.
    #[must_use]
    pub fn workflow(&self) -> &Arc<str> {
        &self.workflow
    }

    /// Whether the first failure skips what has not started.
    #[must_use]
    pub fn fail_fast(&self) -> bool {
        self.fail_fast
    }

    /// The same workflow, which understands only these signals; `None`: any.
    ///
    /// # Errors
    /// A gate waits for another signal, so that nothing could open it.
    pub fn with_signals(self, signals: Option<Vec<String>>) -> Result<Self, DefinitionError> {
        let graph = Self { signals: signals.map(Into::into), ..self };
        for spec in &*graph.specs {
            if let Some(why) = spec.gate.as_ref().and_then(|gate| graph.undeclared_in(gate)) {
                let (workflow, task) = (&graph.workflow, &spec.name);
                return Err(DefinitionError(format!("workflow '{workflow}': task '{task}': its gate {why}")));
            }
        }
        Ok(graph)
    }

    /// The same workflow, in which tasks had other names before: each old name with the new one.
    ///
    /// # Errors
    /// There is still a task of the old name, or none of the new one.
    pub fn with_renamed(self, names: Vec<(String, String)>) -> Result<Self, DefinitionError> {
        let workflow = &self.workflow;
        let refuse =
            |why: &str| Err(DefinitionError(shown(&format!("workflow '{workflow}': renamed: {why}")).into_owned()));
        let mut renamed = HashMap::with_capacity(names.len());
        for (old, new) in names {
            let Some(ix) = self.find(&new) else {
                let hint = did_you_mean(&new, self.specs.iter().map(|spec| &*spec.name));
                return refuse(&format!("'{old}' is to be '{new}' now, and no task has that name{hint}"));
            };
            if self.find(&old).is_some() {
                return refuse(&format!("'{old}' is to be '{new}' now, but there is still a task named '{old}'"));
            }
            renamed.insert(old.into(), ix);
        }
        Ok(Self { renamed, ..self })
    }

    /// The same workflow, whose runs must have ended this long after they begin; `None`: no limit.
    #[must_use]
    pub fn with_timeout(self, timeout: Option<Duration>) -> Self {
        Self { timeout, ..self }
    }

    /// How long after it begins a run must have ended.
    #[must_use]
    pub fn timeout(&self) -> Option<Duration> {
        self.timeout
    }

    /// The signals that it understands; `None`: any.
    #[must_use]
    pub fn signals(&self) -> Option<&[String]> {
        self.signals.as_deref()
    }

    /// Why nothing can satisfy a wait for this message: the workflow names its signals, and this is none of them.
    #[must_use]
    pub fn undeclared(&self, address: &Address) -> Option<String> {
        let kind = match address.kind {
            MessageKind::Signal => "signal",
            MessageKind::Request => "request",
            MessageKind::Answer | MessageKind::Withdrawal | MessageKind::Control => return None,
        };
        let (declared, name) = (self.signals()?, &address.name);
        if declared.iter().any(|known| **known == **name) {
            return None;
        }
        let hint = did_you_mean(name, declared.iter().map(String::as_str));
        Some(format!("waits for the {kind} '{name}', which the workflow does not name in signals{hint}"))
    }

    fn undeclared_in(&self, gate: &GateSpec) -> Option<String> {
        match &gate.until {
            GateUntil::Message(address) => self.undeclared(address),
            GateUntil::Any(members) | GateUntil::All(members) => {
                members.iter().find_map(|member| self.undeclared_in(member))
            }
            _ => None,
        }
    }

    /// A task's name.
    #[must_use]
    pub fn name(&self, ix: TaskIx) -> &Arc<str> {
        &self.spec(ix).name
    }

    /// A task as declared, with each dependency once.
    #[must_use]
    pub fn spec(&self, ix: TaskIx) -> &TaskSpec {
        &self.specs[ix as usize]
    }

    /// The task of this name.
    #[must_use]
    pub fn find(&self, name: &str) -> Option<TaskIx> {
        self.by_name.get(name).copied()
    }

    /// The task that has this name, or had it in an older version.
    #[must_use]
    pub fn find_current(&self, name: &str) -> Option<TaskIx> {
        self.find(name).or_else(|| self.renamed.get(name).copied())
    }

    /// The name by which a task is known now that had this one; the same, if it is not known under another.
    #[must_use]
    pub fn current_name<'a>(&'a self, name: &'a str) -> &'a str {
        self.renamed.get(name).map_or(name, |ix| self.name(*ix))
    }

    /// What a task depends on, in the order in which it names them.
    #[must_use]
    pub fn dependencies(&self, ix: TaskIx) -> &[TaskIx] {
        self.dependencies.of(ix)
    }

    /// What depends on a task, in declaration order.
    #[must_use]
    pub fn dependents(&self, ix: TaskIx) -> &[TaskIx] {
        self.dependents.of(ix)
    }

    /// The tasks that depend on nothing, in declaration order.
    #[must_use]
    pub fn roots(&self) -> &[TaskIx] {
        &self.roots
    }

    /// The tasks that nothing depends on, in declaration order.
    #[must_use]
    pub fn leaves(&self) -> &[TaskIx] {
        &self.leaves
    }

    /// All tasks in topological order; of those that could come next, the first declared comes.
    #[must_use]
    pub fn order(&self) -> &[TaskIx] {
        &self.order
    }

    /// A task's position in [`Graph::order`].
    #[must_use]
    pub fn rank(&self, ix: TaskIx) -> u32 {
        self.rank[ix as usize]
    }

    /// The tasks by their distance from the roots (the longest way counts), each level in declaration order.
    #[must_use]
    pub fn levels(&self) -> Vec<Vec<TaskIx>> {
        let mut level_of = vec![0usize; self.len()];
        let mut levels: Vec<Vec<TaskIx>> = Vec::new();
        for &ix in &*self.order {
            let level = self.dependencies(ix).iter().map(|&on| level_of[on as usize] + 1).max().unwrap_or(0);
            level_of[ix as usize] = level;
        }
        for (ix, &level) in (0..).zip(&level_of) {
            if levels.len() <= level {
                levels.resize(level + 1, Vec::new());
            }
            levels[level].push(ix);
        }
        levels
    }

    /// The stable hash of the graph, in hexadecimal: names, dependencies and `run_if`; see `graph/version.rs`.
    #[must_use]
    pub fn version(&self) -> &str {
        &self.version
    }

    /// The workflow and its version as messages show them: `ingest v3f2a`.
    #[must_use]
    pub fn title(&self) -> String {
        title(&self.workflow, &self.version)
    }

    /// All tasks that come before this one on some path, in topological order.
    pub fn ancestors(&self, ix: TaskIx) -> impl Iterator<Item = TaskIx> + '_ {
        let list = self.ancestors.of(self, ix);
        (0..list.len()).map(move |i| list[i])
    }
}

/// A workflow and a version's hash as messages show them: `ingest v3f2a`.
#[must_use]
pub fn title(workflow: &str, version: &str) -> String {
    format!("{workflow} {}", short_version(version))
}

/// A version's hash as messages show it: `v3f2a`.
#[must_use]
pub fn short_version(version: &str) -> String {
    format!("v{}", version.get(..4).unwrap_or(version))
}

impl fmt::Debug for Graph {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Graph({}, {} tasks)", self.title(), self.len())
    }
}

/// The neighbours of every task, one after the other in one vector.
struct Edges {
    /// The neighbours of task `ix` are `to[start[ix]..start[ix + 1]]`.
    start: Box<[usize]>,
    to: Box<[TaskIx]>,
}

impl Edges {
    fn of(&self, ix: TaskIx) -> &[TaskIx] {
        let ix = ix as usize;
        &self.to[self.start[ix]..self.start[ix + 1]]
    }

    /// The same edges seen from the other end; neighbours come in declaration order.
    fn reversed(&self) -> Edges {
        let len = self.start.len() - 1;
        let mut start = vec![0usize; len + 1];
        for &to in &*self.to {
            start[to as usize + 1] += 1;
        }
        for ix in 0..len {
            start[ix + 1] += start[ix];
        }
        let mut next = start.clone();
        let mut to = vec![0; self.to.len()];
        for from in 0..len as TaskIx {
            for &other in self.of(from) {
                to[next[other as usize]] = from;
                next[other as usize] += 1;
            }
        }
        Edges { start: start.into(), to: to.into() }
    }
}
