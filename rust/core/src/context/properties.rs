//! Random graphs of tasks that do random things to the context, against plain oracles.

#![expect(clippy::unwrap_used, reason = "tests")]

use proptest::prelude::*;
use proptest::sample::Index;
use serde_json::{Value as Json, json};

use super::tests::{View, pairs, read, value};
use super::*;
use crate::graph::tests::{build, dag, task};

/// What a random task does to what it sees.
#[derive(Clone, Debug)]
pub(super) enum Act {
    Nothing,
    Set(u8, Json),
    Remove(u8),
    Append(u8, Json),
    Put(u8, u8, Json),
    Take(u8, u8),
    AppendWithin(u8, u8, Json),
}

pub(super) fn some_json() -> impl Strategy<Value = Json> {
    prop_oneof![
        Just(Json::Null),
        (0..5).prop_map(|n| json!(n)),
        Just(json!([])),
        Just(json!({})),
        (0..5).prop_map(|n| json!([n])),
        (0..5).prop_map(|n| json!({"x": n})),
        (0..5).prop_map(|n| json!({"y": [n], "x": {"z": n}})),
    ]
}

pub(super) fn act() -> impl Strategy<Value = Act> {
    let (key, within) = (0u8..3, 0u8..3);
    prop_oneof![
        2 => Just(Act::Nothing),
        1 => (key.clone(), some_json()).prop_map(|(key, json)| Act::Set(key, json)),
        1 => key.clone().prop_map(Act::Remove),
        3 => (key.clone(), some_json()).prop_map(|(key, json)| Act::Append(key, json)),
        3 => (key.clone(), within.clone(), some_json()).prop_map(|(key, at, json)| Act::Put(key, at, json)),
        1 => (key.clone(), within.clone()).prop_map(|(key, at)| Act::Take(key, at)),
        2 => (key, within, some_json()).prop_map(|(key, at, json)| Act::AppendWithin(key, at, json)),
    ]
}

/// What a random task does to one map: mostly it adds and removes keys, now and then it makes the map anew.
pub(super) fn act_within() -> impl Strategy<Value = Act> {
    let within = 0u8..2;
    prop_oneof![
        2 => Just(Act::Nothing),
        2 => prop_oneof![Just(json!(0)), Just(json!({})), Just(json!({"k0": 1})), Just(json!({"k1": {"x": 2}}))]
            .prop_map(|json| Act::Set(0, json)),
        1 => Just(Act::Remove(0)),
        3 => (within.clone(), some_json()).prop_map(|(at, json)| Act::Put(0, at, json)),
        3 => within.clone().prop_map(|at| Act::Take(0, at)),
        1 => (within, some_json()).prop_map(|(at, json)| Act::AppendWithin(0, at, json)),
    ]
}

impl Act {
    pub(super) fn on(&self, seen: &View) -> View {
        let Json::Object(mut all) = read(seen) else { panic!("a map") };
        let name = |key: &u8| format!("k{key}");
        let empty = |json: &mut Json, like: Json| {
            if std::mem::discriminant(json) != std::mem::discriminant(&like) {
                *json = like;
            }
        };
        match self {
            Act::Nothing => {}
            Act::Set(key, json) => drop(all.insert(name(key), json.clone())),
            Act::Remove(key) => drop(all.remove(&name(key))),
            Act::Append(key, json) => {
                let list = all.entry(name(key)).or_insert(json!([]));
                empty(list, json!([]));
                list.as_array_mut().unwrap().push(json.clone());
            }
            Act::Put(key, at, json) => {
                let map = all.entry(name(key)).or_insert(json!({}));
                empty(map, json!({}));
                map[name(at)] = json.clone();
            }
            Act::Take(key, at) => {
                if let Some(Json::Object(map)) = all.get_mut(&name(key)) {
                    map.remove(&name(at));
                }
            }
            Act::AppendWithin(key, at, json) => {
                let map = all.entry(name(key)).or_insert(json!({}));
                empty(map, json!({}));
                let list = &mut map[name(at)];
                empty(list, json!([]));
                list.as_array_mut().unwrap().push(json.clone());
            }
        }
        all.into_iter().map(|(key, json)| (key.as_str().into(), value(&json.to_string()))).collect()
    }
}

/// Runs every task in a random order that the graph allows; each does something to what it sees.
pub(super) fn run(
    graph: &Graph,
    inputs: &View,
    chance: &[Index],
    act: impl Fn(TaskIx, &View) -> View,
) -> HashMap<TaskIx, Changes> {
    let mut done: HashMap<TaskIx, Changes> = HashMap::new();
    for chance in chance.iter().cycle().take(graph.len()) {
        let ready: Vec<TaskIx> = (0..graph.len() as TaskIx)
            .filter(|ix| !done.contains_key(ix) && graph.dependencies(*ix).iter().all(|on| done.contains_key(on)))
            .collect();
        let ix = *chance.get(&ready);
        let (seen, _) = view(graph, ix, inputs, |ix| done.get(&ix));
        done.insert(ix, diff(&seen, &act(ix, &seen)));
    }
    done
}

pub(super) fn chances() -> impl Strategy<Value = Vec<Index>> {
    proptest::collection::vec(any::<Index>(), 24)
}

fn own_name(graph: &Graph, ix: TaskIx) -> Json {
    json!(&**graph.name(ix))
}

proptest! {
    #[test]
    fn what_is_seen_does_not_depend_on_who_ended_first_and_conflicts_are_between_tasks_apart(
        tasks in dag(), acts in proptest::collection::vec(act(), 24), one in chances(), other in chances(),
        input in some_json(),
    ) {
        let graph = build(tasks);
        let inputs = pairs(&[("k0", &input.to_string())]);
        let act = |ix: TaskIx, seen: &View| acts[ix as usize].on(seen);
        let (one, other) = (run(&graph, &inputs, &one, act), run(&graph, &inputs, &other, act));
        prop_assert_eq!(&one, &other);
        let sees = |later: TaskIx, earlier: TaskIx| graph.ancestors(later).any(|at| at == earlier);
        for Conflict { first, second, .. } in final_view(&graph, &inputs, |ix| one.get(&ix)).1 {
            prop_assert!(first < second && !sees(first, second) && !sees(second, first), "{first} and {second}");
        }
        prop_assert_eq!(
            final_view(&graph, &inputs, |ix| one.get(&ix)), final_view(&graph, &inputs, |ix| other.get(&ix))
        );
    }

    #[test]
    fn a_task_that_follows_one_other_sees_just_what_that_left(
        tasks in dag(), acts in proptest::collection::vec(act(), 24), chance in chances(), at: Index,
        input in some_json(),
    ) {
        let at = at.index(tasks.len()) as TaskIx;
        let mut tasks = tasks;
        let name = tasks[at as usize].name.to_string();
        tasks.push(task("follows", &[&name]));
        let graph = build(tasks);
        let inputs = pairs(&[("k0", &input.to_string())]);
        let act = |ix: TaskIx, seen: &View| acts.get(ix as usize).unwrap_or(&Act::Nothing).on(seen);
        let done = run(&graph, &inputs, &chance, act);
        let (seen, _) = view(&graph, at, &inputs, |ix| done.get(&ix));
        let (after, _) = view(&graph, graph.len() as TaskIx - 1, &inputs, |ix| done.get(&ix));
        prop_assert_eq!(read(&after), read(&act(at, &seen)));
    }

    #[test]
    fn a_chain_is_one_act_after_the_other(acts in proptest::collection::vec(act(), 1..12), input in some_json(), chance in chances()) {
        let name = |i: usize| format!("t{i}");
        let graph = build(
            (0..acts.len()).map(|i| task(&name(i), &i.checked_sub(1).map(name).iter().map(|s| &**s).collect::<Vec<_>>()))
                .collect(),
        );
        let inputs = pairs(&[("k1", &input.to_string())]);
        let done = run(&graph, &inputs, &chance, |ix, seen| acts[ix as usize].on(seen));
        let (seen, conflicts) = final_view(&graph, &inputs, |ix| done.get(&ix));
        let in_turn = acts.iter().fold(inputs.clone(), |seen, act| act.on(&seen));
        prop_assert_eq!((read(&seen), conflicts), (read(&in_turn), vec![]));
    }

    #[test]
    fn what_all_append_is_there_once_each_in_topological_order(tasks in dag(), chance in chances(), who: u32) {
        let graph = build(tasks);
        let appends = |ix: TaskIx| who >> (ix % 32) & 1 == 1;
        let inputs = pairs(&[("rows", r#"["input"]"#)]);
        let done = run(&graph, &inputs, &chance, |ix, seen| {
            let mut rows = read(seen)["rows"].clone();
            if appends(ix) {
                rows.as_array_mut().unwrap().push(own_name(&graph, ix));
            }
            pairs(&[("rows", &rows.to_string())])
        });
        for ix in 0..graph.len() as TaskIx {
            let (seen, conflicts) = view(&graph, ix, &inputs, |ix| done.get(&ix));
            let named = graph.ancestors(ix).filter(|&at| appends(at)).map(|at| own_name(&graph, at));
            let rows: Vec<Json> = std::iter::once(json!("input")).chain(named).collect();
            prop_assert_eq!((read(&seen), conflicts), (json!({"rows": rows}), vec![]));
        }
    }

    #[test]
    fn keys_that_all_put_in_one_map_are_all_there(tasks in dag(), chance in chances()) {
        let graph = build(tasks);
        let done = run(&graph, &pairs(&[]), &chance, |ix, seen| {
            let mut map = read(seen);
            map["m"][&**graph.name(ix)] = json!(ix);
            pairs(&[("m", &map["m"].to_string())])
        });
        let (seen, conflicts) = final_view(&graph, &[], |ix| done.get(&ix));
        let all: serde_json::Map<String, Json> =
            (0..graph.len() as TaskIx).map(|ix| (graph.name(ix).to_string(), json!(ix))).collect();
        prop_assert_eq!((read(&seen), conflicts), (json!({"m": all}), vec![]));
    }

    #[test]
    fn a_scalar_is_of_the_last_declared_that_nobody_saw_and_every_conflict_is_one(
        tasks in dag(), chance in chances(), who: u32,
    ) {
        let graph = build(tasks);
        let writes = |ix: TaskIx| who >> (ix % 32) & 1 == 1;
        let inputs = pairs(&[("k", "null"), ("untouched", "1")]);
        let done = run(&graph, &inputs, &chance, |ix, seen| {
            let mut all = read(seen);
            if writes(ix) {
                all["k"] = own_name(&graph, ix);
            }
            pairs(&[("k", &all["k"].to_string()), ("untouched", "1")])
        });
        let (seen, conflicts) = final_view(&graph, &inputs, |ix| done.get(&ix));
        let writers: Vec<TaskIx> = (0..graph.len() as TaskIx).filter(|&ix| writes(ix)).collect();
        let sees = |later: TaskIx, earlier: TaskIx| graph.ancestors(later).any(|at| at == earlier);
        let unseen: Vec<TaskIx> =
            writers.iter().copied().filter(|&ix| !writers.iter().any(|&later| sees(later, ix))).collect();
        let wins = unseen.last().map_or(Json::Null, |&ix| own_name(&graph, ix));
        prop_assert_eq!(read(&seen), json!({"k": wins, "untouched": 1}));
        prop_assert_eq!(conflicts.len(), unseen.len().saturating_sub(1));
        for Conflict { first, second, .. } in conflicts {
            prop_assert!(first < second && !sees(first, second) && !sees(second, first));
        }
    }

    #[test]
    fn a_difference_put_back_gives_what_it_was_taken_from(one in act(), other in act(), input in some_json()) {
        let before = one.on(&pairs(&[("k0", &input.to_string())]));
        let after = other.on(&before);
        let graph = build(vec![task("a", &[])]);
        let changes = diff(&before, &after);
        let (seen, _) = final_view(&graph, &before, |_| Some(&changes));
        prop_assert_eq!(read(&seen), read(&after));
        prop_assert!(diff(&after, &seen).is_empty() && diff(&before, &before).is_empty());
    }
}
