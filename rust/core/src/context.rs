//! The context that tasks share down the graph: what a task changed, and what a task sees.
//!
//! # The rule
//! A task *sees* its ancestors' changes of the run's inputs; what it *wrote* is compared with what it saw, and only
//! the difference is its change. Every piece of a value (a key; within a map, each of its keys; within a list, each
//! stretch appended to it) remembers who wrote it last. When branches meet, each piece is decided separately:
//!
//! 1. A writer that had seen another's piece replaces it. A task that did not change a piece does not count for it.
//! 2. Stretches appended to one list by tasks that did not see each other all stay, in topological order, ties in
//!    declaration order. Keys set in one map all stay.
//! 3. Any other piece was written by two tasks neither of which saw the other's: the later declared wins, and a
//!    [`Conflict`] names both. Equal values are no conflict. Removing is writing, and so is replacing a list by one
//!    that does not begin with the old.
//!
//! Where nothing was, a list counts as appended to an empty one and a map as keys set in an empty one. A map that
//! replaces another value removes the keys that were there when the branches parted. A key that the other branch has
//! added since stays.
//!
//! So the base against which a change counts is what its task saw, never what the branches have in common at the
//! end. In this diamond the left side changed the list twice and the right side built on the first of them:
//!
//! ```text
//!   start            rows = [0]        (input)
//!   ├─ a             rows = [0, 1]            a appended 1
//!   │  ├─ a2         rows = [0, 1, 2]         a2, having seen a's, appended 2
//!   │  └─ b          rows = [0, 1, 3]         b, having seen a's, appended 3
//!   └─ c             rows = [0, 4]            c saw none of them, appended 4
//!      join (a2, b, c) sees  [0, 1, 2, 3, 4]  each once
//! ```
//!
//! Were `b` to write `[9]` instead, it would have replaced the list it saw, `a`'s part included. `a2` and `c` did not
//! see that and it did not see theirs: of each pair the later declared wins, and a conflict is reported.
//!
//! All of it depends on the graph and on what was committed, not on who ended first. A map key counts as one piece
//! as long as its value is no map or list; elements of lists are never merged.

mod history;
mod json;
mod piece;
#[cfg(test)]
mod properties;
#[cfg(test)]
mod tests;

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use crate::decode::{DecodeError, Field};
use crate::graph::Graph;
use crate::id::TaskIx;
use crate::pack::{Pair, pack, unpack};
use crate::value::Value;

/// The changes that one task made: what it set and (`None`) what it removed, each key once.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Changes(Vec<Pair>);

impl Changes {
    /// Changes in the order given; of a key that comes twice, the last.
    #[must_use]
    pub fn new(mut pairs: Vec<Pair>) -> Self {
        let mut seen = HashSet::with_capacity(pairs.len());
        pairs.reverse();
        pairs.retain(|(key, _)| seen.insert(Arc::clone(key)));
        pairs.reverse();
        Self(pairs)
    }

    /// Reads what [`Changes::pack`] made.
    ///
    /// # Errors
    /// `DecodeError::Field` for a mangled blob.
    pub fn unpack(blob: &[u8]) -> Result<Self, DecodeError> {
        unpack(blob).map(Self::new).map_err(|damage| Field::TaskChanges.damaged(damage))
    }

    /// As a task's row stores them; `None` if there are none.
    #[must_use]
    pub fn pack(&self) -> Option<Arc<[u8]>> {
        let blob = || pack(self.0.iter().map(|(key, value)| (&**key, value.as_ref()))).into();
        (!self.0.is_empty()).then(blob)
    }

    /// Each key with its new value, or `None` where it was removed.
    pub fn iter(&self) -> impl Iterator<Item = (&Arc<str>, Option<&Value>)> {
        self.0.iter().map(|(key, value)| (key, value.as_ref()))
    }

    /// Whether nothing was changed.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

/// Two tasks changed one piece of the context, neither having seen the other's change; the second's was kept.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Conflict {
    /// The key.
    pub key: Arc<str>,
    /// Where within the key's value: the keys of the maps on the way, none for the value itself.
    pub path: Vec<Arc<str>>,
    /// The task whose change was dropped.
    pub first: TaskIx,
    /// The task whose change was kept: it is declared later.
    pub second: TaskIx,
}

impl Conflict {
    /// The warning.
    #[must_use]
    pub fn message(&self, graph: &Graph) -> String {
        let inner: String = self.path.iter().map(|key| format!("['{key}']")).collect();
        format!(
            "tasks '{first}' and '{second}' of workflow '{workflow}' both changed '{key}'{inner} of the context \
             without seeing each other's change; '{second}' is declared later and wins: let one depend on the other",
            first = graph.name(self.first),
            second = graph.name(self.second),
            workflow = graph.workflow(),
            key = self.key,
        )
    }
}

/// What a task sees of the context: keys in the order in which they first came, and the conflicts on the way there.
///
/// A conflict whose result an ancestor has seen and overwritten is not reported again. Any other one is in the view of
/// every task that sees it; the executor logs it once.
#[must_use]
pub fn view<'a>(
    graph: &Graph,
    ix: TaskIx,
    inputs: &'a [(Arc<str>, Value)],
    changes_of: impl Fn(TaskIx) -> Option<&'a Changes>,
) -> (Vec<(Arc<str>, Value)>, Vec<Conflict>) {
    merged(graph, graph.ancestors(ix), inputs, changes_of)
}

/// What all tasks together made of the context.
#[must_use]
pub fn final_view<'a>(
    graph: &Graph,
    inputs: &'a [(Arc<str>, Value)],
    changes_of: impl Fn(TaskIx) -> Option<&'a Changes>,
) -> (Vec<(Arc<str>, Value)>, Vec<Conflict>) {
    merged(graph, graph.order().iter().copied(), inputs, changes_of)
}

/// The changes between the context that a task saw and the one at its end. Values are compared as encoded.
#[must_use]
pub fn diff(before: &[(Arc<str>, Value)], after: &[(Arc<str>, Value)]) -> Changes {
    let old: HashMap<&str, &Value> = before.iter().map(|(key, value)| (&**key, value)).collect();
    let kept: HashSet<&str> = after.iter().map(|(key, _)| &**key).collect();
    let set = after.iter().filter(|(key, value)| old.get(&**key) != Some(&value));
    let removed = before.iter().filter(|(key, _)| !kept.contains(&**key));
    Changes::new(
        set.map(|(key, value)| (Arc::clone(key), Some(value.clone())))
            .chain(removed.map(|(key, _)| (Arc::clone(key), None)))
            .collect(),
    )
}

/// A key of the context with its history.
struct Key<'a> {
    name: &'a Arc<str>,
    /// Its value among the run's inputs.
    input: Option<&'a Value>,
    /// What each task wrote, in topological order; `None` where it removed the key.
    writes: Vec<(TaskIx, Option<&'a Value>)>,
}

fn merged<'a>(
    graph: &Graph,
    tasks: impl Iterator<Item = TaskIx>,
    inputs: &'a [(Arc<str>, Value)],
    changes_of: impl Fn(TaskIx) -> Option<&'a Changes>,
) -> (Vec<(Arc<str>, Value)>, Vec<Conflict>) {
    let mut conflicts = Vec::new();
    let keys = gather(tasks, inputs, changes_of);
    let values = keys.iter().filter_map(|key| {
        let value = history::value(graph, key, &mut conflicts)?;
        Some((Arc::clone(key.name), value))
    });
    (values.collect(), conflicts)
}

/// The keys in the order in which they first come; tasks come in topological order.
fn gather<'a>(
    tasks: impl Iterator<Item = TaskIx>,
    inputs: &'a [(Arc<str>, Value)],
    changes_of: impl Fn(TaskIx) -> Option<&'a Changes>,
) -> Vec<Key<'a>> {
    let mut keys: Vec<Key<'_>> =
        inputs.iter().map(|(name, value)| Key { name, input: Some(value), writes: Vec::new() }).collect();
    let mut at: HashMap<&str, usize> = keys.iter().enumerate().map(|(at, key)| (&**key.name, at)).collect();
    for ix in tasks {
        for (name, value) in changes_of(ix).into_iter().flat_map(Changes::iter) {
            let key = *at.entry(name).or_insert_with(|| {
                keys.push(Key { name, input: None, writes: Vec::new() });
                keys.len() - 1
            });
            keys[key].writes.push((ix, value));
        }
    }
    keys
}
