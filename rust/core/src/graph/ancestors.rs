//! The ancestors of a task: needed for its view of the context, and only by tasks that take the context.
//!
//! They are found by a walk when first needed, and cached up to a limit: a chain of 100,000 tasks that all take the
//! context has five thousand million pairs. What is not cached is walked again, which costs no more than the view for
//! which it is needed.

use std::borrow::Cow;
use std::collections::HashSet;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicUsize, Ordering};

use super::{Graph, TaskSpec};
use crate::id::TaskIx;

/// How many positions are cached per graph at most: 16 MB. Fewer under test, so that tests exceed the limit.
const KEPT: usize = if cfg!(test) { 250_000 } else { 4 << 20 };

pub(super) struct AncestorCache {
    /// One for each task; none if no task takes the context.
    lists: Box<[OnceLock<Box<[TaskIx]>>]>,
    /// How many positions are cached.
    kept: AtomicUsize,
}

impl AncestorCache {
    pub(super) fn new(specs: &[TaskSpec]) -> Self {
        let wanted = specs.iter().any(|spec| spec.wants_context);
        let lists = if wanted { specs.iter().map(|_| OnceLock::new()).collect() } else { Box::default() };
        Self { lists, kept: AtomicUsize::new(0) }
    }

    pub(super) fn of<'a>(&'a self, graph: &Graph, ix: TaskIx) -> Cow<'a, [TaskIx]> {
        let cached = self.lists.get(ix as usize).filter(|_| graph.spec(ix).wants_context);
        let Some(cached) = cached else { return Cow::Owned(walk(graph, ix)) };
        if let Some(list) = cached.get() {
            return Cow::Borrowed(list);
        }
        let list = walk(graph, ix);
        if self.kept.fetch_add(list.len(), Ordering::Relaxed).saturating_add(list.len()) > KEPT {
            self.kept.fetch_sub(list.len(), Ordering::Relaxed);
            return Cow::Owned(list);
        }
        Cow::Borrowed(cached.get_or_init(|| list.into()))
    }
}

fn walk(graph: &Graph, ix: TaskIx) -> Vec<TaskIx> {
    let mut seen = HashSet::new();
    let mut found: Vec<TaskIx> = Vec::new();
    let mut at = ix;
    let mut next = 0;
    loop {
        found.extend(graph.dependencies(at).iter().filter(|&&on| seen.insert(on)));
        let Some(&task) = found.get(next) else { break };
        at = task;
        next += 1;
    }
    found.sort_unstable_by_key(|&task| graph.rank(task));
    found
}
