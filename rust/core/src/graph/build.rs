//! From declared tasks to a graph. Every error names the culprit and says what to do.

use std::cmp::Reverse;
use std::collections::{BinaryHeap, HashMap};
use std::sync::Arc;

use super::ancestors::AncestorCache;
use super::maps::Maps;
use super::version::version;
use super::{Edges, Graph, TaskSpec};
use crate::definition::DefinitionError;
use crate::id::TaskIx;
use crate::nearest::did_you_mean;
use crate::shown::shown;

/// Names of parameters by which a body asks for the context or for its handle, and which of the two. No task can have
/// such a name.
pub const RESERVED_NAMES: [(&str, &str); 4] =
    [("context", "context"), ("ctx", "context"), ("handle", "handle"), ("task_handle", "handle")];

type Result<T> = std::result::Result<T, DefinitionError>;

impl Graph {
    /// Validates a workflow's tasks and lays them out.
    ///
    /// # Errors
    /// An empty workflow name, no task, an empty, reserved or duplicate task name, an unknown dependency, a cycle, a
    /// retry or timeout that cannot work: the first that is found, naming the culprit.
    pub fn build(workflow_name: &str, mut tasks: Vec<TaskSpec>, fail_fast: bool) -> Result<Graph> {
        if workflow_name.trim().is_empty() {
            return refuse("a workflow's name is empty".to_owned());
        }
        if tasks.is_empty() {
            return refuse(format!("workflow '{workflow_name}' has no task"));
        }
        let by_name = named(workflow_name, &tasks)?;
        tasks.iter().try_for_each(|task| policies(workflow_name, task))?;
        let dependencies = resolve(workflow_name, &mut tasks, &by_name)?;
        let dependents = dependencies.reversed();
        let order = sort(&dependencies, &dependents);
        if order.len() < tasks.len() {
            return refuse(spell_cycle(workflow_name, &tasks, &dependencies, &order));
        }
        let maps = Maps::build(&tasks, &by_name).map_err(|why| prefixed(workflow_name, &why))?;
        let mut rank = vec![0; tasks.len()].into_boxed_slice();
        for (position, &ix) in (0..).zip(&order) {
            rank[ix as usize] = position;
        }
        let without = |edges: &Edges| (0..tasks.len() as TaskIx).filter(|&ix| edges.of(ix).is_empty()).collect();
        Ok(Graph {
            workflow: workflow_name.into(),
            fail_fast,
            signals: None,
            timeout: None,
            renamed: HashMap::new(),
            roots: without(&dependencies),
            leaves: without(&dependents),
            version: version(&tasks),
            ancestors: AncestorCache::new(&tasks),
            specs: tasks.into(),
            by_name,
            dependencies,
            dependents,
            order: order.into(),
            rank,
            maps,
        })
    }
}

fn refuse<T>(message: String) -> Result<T> {
    Err(DefinitionError(shown(&message).into_owned()))
}

fn prefixed(workflow: &str, why: &str) -> DefinitionError {
    DefinitionError(shown(&format!("workflow '{workflow}', {why}")).into_owned())
}

fn named(workflow: &str, tasks: &[TaskSpec]) -> Result<HashMap<Arc<str>, TaskIx>> {
    if TaskIx::try_from(tasks.len()).is_err() {
        return refuse(format!("workflow '{workflow}' has {} tasks, more than can be numbered", tasks.len()));
    }
    let mut by_name = HashMap::with_capacity(tasks.len());
    for (ix, task) in (0..).zip(tasks) {
        let name = &task.name;
        if name.trim().is_empty() {
            return refuse(format!("workflow '{workflow}': the name of task number {} is empty", ix + 1));
        }
        if let Some((_, what)) = RESERVED_NAMES.iter().find(|(reserved, _)| **name == **reserved) {
            return refuse(format!(
                "workflow '{workflow}': a task cannot be named '{name}', by which a body asks for its {what}; \
                 give it another name"
            ));
        }
        if by_name.insert(Arc::clone(name), ix).is_some() {
            return refuse(format!("workflow '{workflow}' has two tasks named '{name}'; give one another name"));
        }
    }
    Ok(by_name)
}

fn policies(workflow: &str, task: &TaskSpec) -> Result<()> {
    let whose = || format!("workflow '{workflow}', task '{}'", task.name);
    if task.timeout.is_some_and(|timeout| timeout.is_zero()) {
        return refuse(format!("{}: timeout must be more than zero", whose()));
    }
    task.retry.validate().map_err(|DefinitionError(why)| DefinitionError(format!("{}: {why}", whose())))
}

/// Replaces names by positions. A repeated name counts once, in the declaration too.
fn resolve(workflow: &str, tasks: &mut [TaskSpec], by_name: &HashMap<Arc<str>, TaskIx>) -> Result<Edges> {
    let mut start = Vec::with_capacity(tasks.len() + 1);
    let mut to = Vec::new();
    // The last task that was seen to depend on a task, by that task.
    let mut seen_by = vec![TaskIx::MAX; tasks.len()];
    let mut unknown = None;
    start.push(0);
    for (ix, task) in (0..).zip(tasks.iter_mut()) {
        task.dependencies.retain(|name| {
            let Some(&on) = by_name.get(name) else {
                unknown.get_or_insert_with(|| (ix, Arc::clone(name)));
                return false;
            };
            let first = seen_by[on as usize] != ix;
            seen_by[on as usize] = ix;
            if first {
                to.push(on);
            }
            first
        });
        if unknown.is_some() {
            break;
        }
        start.push(to.len());
    }
    if let Some((ix, name)) = unknown {
        let hint = did_you_mean(&name, tasks.iter().map(|task| &*task.name));
        return refuse(format!(
            "workflow '{workflow}': task '{}' depends on '{name}', which is not a task of it{hint}",
            tasks[ix as usize].name
        ));
    }
    Ok(Edges { start: start.into(), to: to.into() })
}

/// Topological order; of the tasks that could come next, the first declared comes. Short if there is a cycle.
fn sort(dependencies: &Edges, dependents: &Edges) -> Vec<TaskIx> {
    let len = dependencies.start.len() - 1;
    let mut missing: Vec<usize> = (0..len as TaskIx).map(|ix| dependencies.of(ix).len()).collect();
    let mut free: BinaryHeap<Reverse<TaskIx>> =
        (0..len as TaskIx).filter(|&ix| missing[ix as usize] == 0).map(Reverse).collect();
    let mut order = Vec::with_capacity(len);
    while let Some(Reverse(ix)) = free.pop() {
        order.push(ix);
        for &next in dependents.of(ix) {
            missing[next as usize] -= 1;
            if missing[next as usize] == 0 {
                free.push(Reverse(next));
            }
        }
    }
    order
}

/// `a -> b -> c -> a`, in the order in which they would run, from the first declared.
///
/// Every task that the sort could not place has a dependency that it could not place either, so that a walk from one to
/// the next returns to a task that it has visited.
fn spell_cycle(workflow: &str, tasks: &[TaskSpec], dependencies: &Edges, sorted: &[TaskIx]) -> String {
    let mut is_sorted = vec![false; tasks.len()];
    sorted.iter().for_each(|&ix| is_sorted[ix as usize] = true);
    let mut position = vec![None; tasks.len()];
    let mut path: Vec<TaskIx> = Vec::new();
    let mut at = is_sorted.iter().position(|done| !done).unwrap_or(0) as TaskIx;
    while position[at as usize].is_none() {
        position[at as usize] = Some(path.len());
        path.push(at);
        at = dependencies.of(at).iter().copied().find(|&on| !is_sorted[on as usize]).unwrap_or(at);
    }
    let mut cycle = path.split_off(position[at as usize].unwrap_or(0));
    cycle.reverse();
    let first = (0..cycle.len()).min_by_key(|&i| cycle[i]).unwrap_or(0);
    cycle.rotate_left(first);
    let names: Vec<&str> = cycle.iter().chain(&cycle[..1]).map(|&ix| &*tasks[ix as usize].name).collect();
    format!("workflow '{workflow}' has a cycle: {}; each would wait for the one before it", names.join(" -> "))
}
