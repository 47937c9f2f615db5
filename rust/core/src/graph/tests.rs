//! The graph against plain oracles, and its refusals in words.

#![expect(clippy::unwrap_used, reason = "tests")]

use std::collections::{HashMap, HashSet};

use proptest::prelude::*;

use super::*;

pub(crate) fn task(name: &str, dependencies: &[&str]) -> TaskSpec {
    TaskSpec { dependencies: dependencies.iter().map(|&name| name.into()).collect(), ..TaskSpec::new(name) }
}

pub(crate) fn build(tasks: Vec<TaskSpec>) -> Graph {
    Graph::build("workflow", tasks, false).unwrap()
}

fn refusal(workflow: &str, tasks: Vec<TaskSpec>) -> String {
    Graph::build(workflow, tasks, false).unwrap_err().0
}

#[test]
fn a_refusal_names_the_culprit() {
    assert_eq!(refusal(" ", vec![task("a", &[])]), "a workflow's name is empty");
    assert_eq!(refusal("workflow", vec![]), "workflow 'workflow' has no task");
    assert_eq!(
        refusal("workflow", vec![task("a", &[]), task("", &[])]),
        "workflow 'workflow': the name of task number 2 is empty"
    );
    assert_eq!(
        refusal("workflow", vec![task("a", &[]), task("a", &[])]),
        "workflow 'workflow' has two tasks named 'a'; give one another name"
    );
    assert_eq!(
        refusal("workflow", vec![task("load_data", &[]), task("use", &["laod_data"])]),
        "workflow 'workflow': task 'use' depends on 'laod_data', which is not a task of it; did you mean 'load_data'?"
    );
    assert_eq!(
        refusal("workflow", vec![task("z", &[]), task("c", &["z", "b"]), task("b", &["a"]), task("a", &["c"])]),
        "workflow 'workflow' has a cycle: c -> a -> b -> c; each would wait for the one before it"
    );
    assert_eq!(
        refusal("workflow", vec![task("a", &["a"])]),
        "workflow 'workflow' has a cycle: a -> a; each would wait for the one before it"
    );
    for (name, _) in RESERVED_NAMES {
        assert!(refusal("workflow", vec![task(name, &[])]).contains(&format!("cannot be named '{name}'")));
    }
    let retry = RetryPolicy { attempts: 0, ..RetryPolicy::NONE };
    assert!(refusal("workflow", vec![TaskSpec { retry, ..task("a", &[]) }]).contains("task 'a': retry: attempts"));
    let timeout = Some(Duration::ZERO);
    assert!(refusal("workflow", vec![TaskSpec { timeout, ..task("a", &[]) }]).contains("task 'a': timeout"));
}

#[test]
fn a_dependency_given_twice_counts_once() {
    let graph = build(vec![task("a", &[]), task("b", &[]), task("c", &["b", "a", "b"])]);
    assert_eq!(graph.dependencies(2), [1, 0]);
    assert_eq!(graph.spec(2).dependencies, ["b".into(), "a".into()]);
    assert_eq!(graph.dependents(1), [2]);
}

#[test]
fn a_diamond_is_laid_out() {
    let graph = build(vec![
        task("join", &["left", "right"]),
        task("right", &["start"]),
        task("left", &["start"]),
        task("start", &[]),
    ]);
    assert_eq!(graph.order(), [3, 1, 2, 0]);
    assert_eq!(graph.levels(), [vec![3], vec![1, 2], vec![0]]);
    assert_eq!((graph.roots(), graph.leaves()), (&[3][..], &[0][..]));
    assert_eq!(graph.ancestors(0).collect::<Vec<_>>(), [3, 1, 2]);
    assert_eq!((graph.find("left"), graph.find("nothing")), (Some(2), None));
    assert_eq!(graph.title(), format!("workflow v{}", &graph.version()[..4]));
}

#[test]
fn a_chain_of_a_hundred_thousand_that_all_take_the_context_is_built_and_asked_at_its_end() {
    let len: TaskIx = 100_000;
    let tasks = (0..len)
        .map(|ix| TaskSpec {
            dependencies: ix.checked_sub(1).map(|on| on.to_string().into()).into_iter().collect(),
            wants_context: true,
            ..TaskSpec::new(ix.to_string())
        })
        .collect();
    let graph = build(tasks);
    for ix in len - 4..len {
        assert_eq!(graph.ancestors(ix).count(), ix as usize);
    }
    assert_eq!(graph.levels().len(), len as usize);
}

/// Tasks with dependencies on earlier ones, declared in a shuffled order: a random acyclic graph.
pub(crate) fn dag() -> impl Strategy<Value = Vec<TaskSpec>> {
    (1usize..24)
        .prop_flat_map(|len| {
            let edges =
                proptest::collection::vec(proptest::collection::vec(any::<proptest::sample::Index>(), 0..4), len);
            (edges, Just((0..len).collect::<Vec<_>>()).prop_shuffle())
        })
        .prop_map(|(edges, names)| {
            let mut tasks: Vec<TaskSpec> = edges
                .iter()
                .enumerate()
                .map(|(i, on)| TaskSpec {
                    dependencies: on.iter().filter(|_| i > 0).map(|on| format!("t{}", on.index(i)).into()).collect(),
                    wants_context: i % 2 == 0,
                    ..TaskSpec::new(format!("t{i}"))
                })
                .collect();
            let mut at = names.iter();
            tasks.sort_by_cached_key(|_| at.next());
            tasks
        })
}

/// Reachability by repeated expansion: slow and plainly right.
fn oracle_ancestors(graph: &Graph, ix: TaskIx) -> HashSet<TaskIx> {
    let mut all: HashSet<TaskIx> = HashSet::new();
    loop {
        let more: HashSet<TaskIx> =
            all.iter().chain([&ix]).flat_map(|&at| graph.dependencies(at).iter().copied()).collect();
        if more.is_subset(&all) {
            return all;
        }
        all.extend(more);
    }
}

proptest! {
    #[test]
    fn the_order_respects_every_edge_and_breaks_ties_by_declaration(tasks in dag()) {
        let graph = build(tasks);
        let mut left: Vec<TaskIx> = (0..graph.len() as TaskIx).collect();
        for &ix in graph.order() {
            let first = left.iter().copied().find(|&ix| graph.dependencies(ix).iter().all(|on| !left.contains(on)));
            prop_assert_eq!(Some(ix), first);
            prop_assert_eq!(graph.order()[graph.rank(ix) as usize], ix);
            left.retain(|&other| other != ix);
        }
        prop_assert!(left.is_empty());
    }

    #[test]
    fn both_ends_of_an_edge_know_it(tasks in dag()) {
        let graph = build(tasks.clone());
        for ix in 0..graph.len() as TaskIx {
            let named: HashSet<&str> = tasks[ix as usize].dependencies.iter().map(|name| &**name).collect();
            let found: HashSet<&str> = graph.dependencies(ix).iter().map(|&on| &**graph.name(on)).collect();
            prop_assert_eq!(named, found);
            prop_assert!(graph.dependents(ix).is_sorted());
            for other in 0..graph.len() as TaskIx {
                prop_assert_eq!(
                    graph.dependencies(ix).contains(&other), graph.dependents(other).contains(&ix)
                );
            }
            prop_assert_eq!(graph.roots().contains(&ix), graph.dependencies(ix).is_empty());
            prop_assert_eq!(graph.leaves().contains(&ix), graph.dependents(ix).is_empty());
            prop_assert_eq!(graph.find(graph.name(ix)), Some(ix));
        }
    }

    #[test]
    fn a_level_is_one_more_than_the_deepest_dependency(tasks in dag()) {
        let graph = build(tasks);
        let levels = graph.levels();
        let level_of: HashMap<TaskIx, usize> =
            levels.iter().enumerate().flat_map(|(level, all)| all.iter().map(move |&ix| (ix, level))).collect();
        prop_assert_eq!(level_of.len(), graph.len());
        prop_assert!(levels.iter().all(|level| level.is_sorted() && !level.is_empty()));
        for (&ix, &level) in &level_of {
            let below = graph.dependencies(ix).iter().map(|on| level_of[on]).max();
            prop_assert_eq!(level, below.map_or(0, |below| below + 1));
        }
    }

    #[test]
    fn ancestors_are_what_is_reachable_in_topological_order_asked_once_or_twice(tasks in dag()) {
        let graph = build(tasks);
        for ix in (0..graph.len() as TaskIx).chain(0..graph.len() as TaskIx) {
            let list: Vec<TaskIx> = graph.ancestors(ix).collect();
            prop_assert!(list.is_sorted_by_key(|&at| graph.rank(at)));
            prop_assert_eq!(list.len(), list.iter().collect::<HashSet<_>>().len());
            prop_assert_eq!(list.into_iter().collect::<HashSet<_>>(), oracle_ancestors(&graph, ix));
        }
    }

    #[test]
    fn a_cycle_that_is_reported_is_one(mut tasks in dag(), from: proptest::sample::Index) {
        // Closing any path backwards makes a cycle: let an ancestor (or itself) depend on the task.
        let graph = build(tasks.clone());
        let ix = from.index(graph.len()) as TaskIx;
        let before = graph.ancestors(ix).next().unwrap_or(ix);
        let name = Arc::clone(graph.name(ix));
        tasks[before as usize].dependencies.push(name);
        let message = refusal("workflow", tasks.clone());
        let path = message.strip_prefix("workflow 'workflow' has a cycle: ").and_then(|rest| rest.split_once(';')).unwrap().0;
        let names: Vec<&str> = path.split(" -> ").collect();
        prop_assert_eq!(names.first(), names.last());
        prop_assert!(names.len() >= 2);
        let between: HashSet<&&str> = names[1..].iter().collect();
        prop_assert_eq!(between.len(), names.len() - 1, "a task twice");
        for pair in names.windows(2) {
            let next = tasks.iter().find(|task| &*task.name == pair[1]).unwrap();
            prop_assert!(next.dependencies.iter().any(|on| &**on == pair[0]), "{} after {}", pair[1], pair[0]);
        }
    }

    #[test]
    fn the_version_changes_with_what_it_hashes_and_with_nothing_else(
        tasks in dag(), at: proptest::sample::Index, name in "[a-z]{1,8}"
    ) {
        let version = |tasks: &[TaskSpec]| build(tasks.to_vec()).version().to_owned();
        let before = version(&tasks);
        let ix = at.index(tasks.len());

        let mut same = tasks.clone();
        same[ix].retry = RetryPolicy::new(7);
        same[ix].timeout = Some(Duration::from_secs(1));
        (same[ix].wants_handle, same[ix].wants_context) = (true, true);
        same.iter_mut().for_each(|task| task.dependencies.reverse());
        prop_assert_eq!(&version(&same), &before);
        let renamed = Graph::build("other", same, true).unwrap();
        prop_assert_eq!(renamed.version(), &before);

        let mut other = tasks.clone();
        other[ix].run_if = RunIf::Done;
        prop_assert_ne!(&version(&other), &before);

        let mut other = tasks.clone();
        other.push(task(&format!("new_{name}"), &[]));
        prop_assert_ne!(&version(&other), &before);

        if !tasks[ix].dependencies.is_empty() {
            let mut other = tasks.clone();
            other[ix].dependencies.clear();
            prop_assert_ne!(&version(&other), &before);
        }
    }
}
