//! Every task that comes before one: needed for the view of the context, and only by tasks that ask for it.
//!
//! Found by a walk when first asked for and kept, but only so many in all: a chain of 100,000 tasks that all take
//! the context has five thousand million pairs. What is not kept is walked again, which costs no more than the
//! view that it is needed for.

use std::borrow::Cow;
use std::collections::HashSet;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicUsize, Ordering};

use super::{Graph, TaskSpec};
use crate::id::TaskIx;

/// At most so many positions are kept per graph: 16 MB. Less under test, so that tests pass the limit.
const KEPT: usize = if cfg!(test) { 250_000 } else { 4 << 20 };

pub(super) struct AncestorCache {
    /// One cell a task; empty if no task wants the context.
    cells: Box<[OnceLock<Box<[TaskIx]>>]>,
    kept: AtomicUsize,
}

impl AncestorCache {
    pub(super) fn new(specs: &[TaskSpec]) -> Self {
        let wanted = specs.iter().any(|spec| spec.wants_context);
        let cells = if wanted { specs.iter().map(|_| OnceLock::new()).collect() } else { Box::default() };
        Self { cells, kept: AtomicUsize::new(0) }
    }

    pub(super) fn of<'a>(&'a self, graph: &Graph, ix: TaskIx) -> Cow<'a, [TaskIx]> {
        let cell = self.cells.get(ix as usize).filter(|_| graph.spec(ix).wants_context);
        let Some(cell) = cell else { return Cow::Owned(walk(graph, ix)) };
        if let Some(list) = cell.get() {
            return Cow::Borrowed(list);
        }
        let list = walk(graph, ix);
        if self.kept.fetch_add(list.len(), Ordering::Relaxed).saturating_add(list.len()) > KEPT {
            self.kept.fetch_sub(list.len(), Ordering::Relaxed);
            return Cow::Owned(list);
        }
        Cow::Borrowed(cell.get_or_init(|| list.into()))
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
