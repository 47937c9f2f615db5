#![expect(clippy::unwrap_used, reason = "tests")]

use proptest::prelude::*;
use proptest::sample::Index;
use serde_json::{Value as Json, json};

use super::*;
use crate::graph::tests::{build, dag, task};

pub(super) type View = Vec<(Arc<str>, Value)>;

fn value(text: &str) -> Value {
    Value::tagged(b'j', text.as_bytes())
}

pub(super) fn pairs(all: &[(&str, &str)]) -> View {
    all.iter().map(|(key, text)| ((*key).into(), value(text))).collect()
}

/// The context as JSON, to compare without regard to the order of keys.
pub(super) fn read(view: &View) -> Json {
    let read = |value: &Value| match value.tag() {
        b'j' => serde_json::from_slice(value.payload()).unwrap(),
        b'n' => Json::Null,
        _ => Json::String(format!("{value:?}")),
    };
    Json::Object(view.iter().map(|(key, value)| (key.to_string(), read(value))).collect())
}

/// One task of a story: its name, what it depends on, what it leaves of the context (`None`: it removes the key).
type Told<'a> = (&'a str, &'a [&'a str], &'a [(&'a str, Option<&'a str>)]);

/// Tells a story and gives what the last task sees, with its conflicts as `key path: first, second`.
fn tell(inputs: &[(&str, &str)], story: &[Told<'_>]) -> (Json, Vec<String>) {
    let graph = build(story.iter().map(|(name, on, _)| task(name, on)).collect());
    let change = |(key, text): &(&str, Option<&str>)| ((*key).into(), text.map(value));
    let changes: Vec<Changes> =
        story.iter().map(|(_, _, wrote)| Changes::new(wrote.iter().map(change).collect())).collect();
    let (seen, conflicts) = view(&graph, graph.len() as TaskIx - 1, &pairs(inputs), |ix| changes.get(ix as usize));
    let conflict = |c: &Conflict| {
        let at: Vec<&str> = std::iter::once(&c.key).chain(&c.path).map(|key| &**key).collect();
        format!("{}: {}, {}", at.join(" "), graph.name(c.first), graph.name(c.second))
    };
    (read(&seen), conflicts.iter().map(conflict).collect())
}

fn quiet() -> Vec<String> {
    Vec::new()
}

#[test]
fn the_example_of_the_rule() {
    let (seen, conflicts) = tell(
        &[("rows", "[0]")],
        &[
            ("a", &[], &[("rows", Some("[0, 1]"))]),
            ("a2", &["a"], &[("rows", Some("[0, 1, 2]"))]),
            ("b", &["a"], &[("rows", Some("[0, 1, 3]"))]),
            ("c", &[], &[("rows", Some("[0, 4]"))]),
            ("join", &["a2", "b", "c"], &[]),
        ],
    );
    assert_eq!((seen, conflicts), (json!({"rows": [0, 1, 2, 3, 4]}), quiet()));

    let (seen, conflicts) = tell(
        &[("rows", "[0]")],
        &[
            ("a", &[], &[("rows", Some("[0, 1]"))]),
            ("a2", &["a"], &[("rows", Some("[0, 1, 2]"))]),
            ("b", &["a"], &[("rows", Some("[9]"))]),
            ("c", &[], &[("rows", Some("[0, 4]"))]),
            ("join", &["a2", "b", "c"], &[]),
        ],
    );
    assert_eq!((seen, conflicts), (json!({"rows": [0, 4]}), vec!["rows: a2, b".into(), "rows: b, c".into()]));
}

#[test]
fn an_untouched_key_never_wins_over_a_touched_one() {
    let (seen, conflicts) = tell(
        &[("k", "1"), ("other", "2")],
        &[
            ("touches", &[], &[("k", Some("5"))]),
            ("removes", &[], &[("other", None)]),
            ("neither", &[], &[]),
            ("join", &["touches", "removes", "neither"], &[]),
        ],
    );
    assert_eq!((seen, conflicts), (json!({"k": 5}), quiet()));
}

#[test]
fn maps_merge_by_key_and_only_a_key_that_both_set_is_a_conflict() {
    let (seen, conflicts) = tell(
        &[("m", r#"{"old": 0, "gone": 0, "deep": {"x": 1}}"#)],
        &[
            ("left", &[], &[("m", Some(r#"{"old": 1, "gone": 0, "deep": {"x": 1, "y": 2}, "both": "l"}"#))]),
            ("right", &[], &[("m", Some(r#"{"old": 0, "deep": {"x": 3}, "new": 4, "both": "r"}"#))]),
            ("join", &["left", "right"], &[]),
        ],
    );
    assert_eq!(seen, json!({"m": {"old": 1, "deep": {"x": 3, "y": 2}, "new": 4, "both": "r"}}));
    assert_eq!(conflicts, ["m both: left, right"]);
}

#[test]
fn where_nothing_was_maps_and_lists_grow_together() {
    let (seen, conflicts) = tell(
        &[],
        &[
            ("left", &[], &[("m", Some(r#"{"a": {"x": [1]}}"#)), ("l", Some("[1]"))]),
            ("right", &[], &[("m", Some(r#"{"b": 2, "a": {"x": [2]}}"#)), ("l", Some("[1]"))]),
            ("join", &["left", "right"], &[]),
        ],
    );
    assert_eq!((seen, conflicts), (json!({"m": {"a": {"x": [1, 2]}, "b": 2}, "l": [1, 1]}), quiet()));
}

#[test]
fn an_empty_map_that_one_side_made_stays() {
    let (seen, conflicts) = tell(
        &[("m", "{}")],
        &[
            ("left", &[], &[("m", Some(r#"{"a": {}}"#))]),
            ("right", &[], &[("m", Some(r#"{"b": []}"#))]),
            ("join", &["left", "right"], &[]),
        ],
    );
    assert_eq!((seen, conflicts), (json!({"m": {"a": {}, "b": []}}), quiet()));
}

#[test]
fn two_maps_that_replaced_a_scalar_merge_too() {
    let (seen, conflicts) = tell(
        &[("m", "null")],
        &[
            ("left", &[], &[("m", Some(r#"{"a": 1}"#))]),
            ("right", &[], &[("m", Some(r#"{"b": 2}"#))]),
            ("join", &["left", "right"], &[]),
        ],
    );
    assert_eq!((seen, conflicts), (json!({"m": {"a": 1, "b": 2}}), quiet()));
}

#[test]
fn a_map_made_anew_has_dropped_what_its_writer_saw_and_only_that() {
    let (seen, conflicts) = tell(
        &[("m", r#"{"kept": 1, "set": 1}"#)],
        &[
            ("drop", &[], &[("m", Some("0"))]),
            ("anew", &["drop"], &[("m", Some(r#"{"fresh": 1}"#))]),
            ("other", &[], &[("m", Some(r#"{"kept": 1, "set": 2, "added": 3}"#))]),
            ("join", &["anew", "other"], &[]),
        ],
    );
    assert_eq!(seen, json!({"m": {"fresh": 1, "set": 2, "added": 3}}));
    assert_eq!(conflicts, ["m set: anew, other"]);

    let (seen, conflicts) = tell(
        &[("m", r#"{"kept": 1, "set": 1}"#)],
        &[
            ("other", &[], &[("m", Some(r#"{"kept": 1, "set": 2, "added": 3}"#))]),
            ("drop", &[], &[("m", Some("0"))]),
            ("anew", &["drop"], &[("m", Some(r#"{"fresh": 1}"#))]),
            ("join", &["anew", "other"], &[]),
        ],
    );
    assert_eq!(seen, json!({"m": {"fresh": 1, "added": 3}}));
    assert_eq!(conflicts, ["m set: other, anew"]);
}

#[test]
fn an_empty_map_counts_as_written() {
    let (seen, conflicts) = tell(
        &[],
        &[("map", &[], &[("k", Some("{}"))]), ("scalar", &[], &[("k", Some("5"))]), ("join", &["map", "scalar"], &[])],
    );
    assert_eq!((seen, conflicts), (json!({"k": 5}), vec!["k: map, scalar".into()]));
}

#[test]
fn of_three_branches_one_may_have_built_on_what_another_saw() {
    let (seen, conflicts) = tell(
        &[("m", "{}")],
        &[
            ("apart", &[], &[("m", Some(r#"{"z": 0}"#))]),
            ("common", &[], &[("m", Some(r#"{"x": 1}"#))]),
            ("over", &["common"], &[("m", Some(r#"{"x": 2}"#))]),
            ("beside", &["common"], &[("m", Some(r#"{"x": 1, "y": 3}"#))]),
            ("join", &["apart", "over", "beside"], &[]),
        ],
    );
    assert_eq!((seen, conflicts), (json!({"m": {"z": 0, "x": 2, "y": 3}}), quiet()));
}

#[test]
fn removing_is_writing() {
    let story = |left: Option<&'static str>, right: Option<&'static str>| {
        tell(
            &[("k", "[1]")],
            &[("left", &[], &[("k", left)]), ("right", &[], &[("k", right)]), ("join", &["left", "right"], &[])],
        )
    };
    assert_eq!(story(None, None), (json!({}), quiet()));
    assert_eq!(story(Some("[1, 2]"), None), (json!({}), vec!["k: left, right".into()]));
    assert_eq!(story(None, Some("[1, 2]")), (json!({"k": [1, 2]}), vec!["k: left, right".into()]));
}

#[test]
fn equal_values_are_no_conflict_and_values_of_two_kinds_are() {
    let story = |left, right| {
        tell(
            &[("k", "{}")],
            &[
                ("left", &[], &[("k", Some(left))]),
                ("right", &[], &[("k", Some(right))]),
                ("join", &["left", "right"], &[]),
            ],
        )
    };
    assert_eq!(story("5", "5"), (json!({"k": 5}), quiet()));
    assert_eq!(story("[5]", r#"{"a": 5}"#), (json!({"k": {"a": 5}}), vec!["k: left, right".into()]));
}

#[test]
fn who_saw_a_conflict_and_wrote_over_it_has_settled_it() {
    let (seen, conflicts) = tell(
        &[],
        &[
            ("left", &[], &[("k", Some("1"))]),
            ("right", &[], &[("k", Some("2"))]),
            ("settles", &["left", "right"], &[("k", Some("3"))]),
            ("join", &["left", "right", "settles"], &[]),
        ],
    );
    assert_eq!((seen, conflicts), (json!({"k": 3}), quiet()));
}

#[test]
fn the_later_declared_wins_even_where_it_comes_earlier_in_the_order() {
    let (seen, conflicts) = tell(
        &[],
        &[
            ("late", &["first"], &[("k", Some("1"))]),
            ("root", &[], &[("k", Some("2"))]),
            ("first", &[], &[]),
            ("join", &["late", "root"], &[]),
        ],
    );
    assert_eq!((seen, conflicts), (json!({"k": 2}), vec!["k: late, root".into()]));
}

#[test]
fn a_value_that_is_not_merged_keeps_its_bytes() {
    let odd = value("[1.0e+2,  -0, 12345678901234567890123456789012345]");
    let changes = |value: &Value| Changes::new(vec![("k".into(), Some(value.clone()))]);
    let graph = build(vec![task("left", &[]), task("right", &[]), task("join", &["left", "right"])]);
    let see = |left: &Value, right: &Value, input: &str| {
        let both = [changes(left), changes(right)];
        let (seen, _) = view(&graph, 2, &pairs(&[("k", input), ("i", " [ ]")]), |ix| both.get(ix as usize));
        assert_eq!(seen[1].1, value(" [ ]"));
        seen[0].1.clone()
    };
    assert_eq!(see(&value("7"), &odd, "[0]"), odd, "the winner of a conflict");
    assert_eq!(see(&Value::tagged(b'i', b"7"), &Value::tagged(b'p', b"\x80"), "0").as_bytes(), b"p\x80");
    let deep = value(&("[".repeat(500) + &"]".repeat(500)));
    assert_eq!(see(&deep, &deep, "[]"), deep, "too deep to look into");
    let merged = see(&odd, &value("[8]"), "[]");
    assert_eq!(merged, value("[1.0e+2,-0,12345678901234567890123456789012345,8]"));
}

#[test]
fn a_warning_names_both_tasks() {
    let graph = build(vec![task("left", &[]), task("right", &[])]);
    let conflict = Conflict { key: "rates".into(), path: vec!["eur".into()], first: 0, second: 1 };
    assert_eq!(
        conflict.message(&graph),
        "tasks 'left' and 'right' of workflow 'flow' both changed 'rates'['eur'] of the context without seeing each \
         other's change; 'right' is declared later and wins: let one depend on the other"
    );
}

#[test]
fn changes_are_packed_and_a_key_counts_once() {
    let changes = Changes::new(vec![("a".into(), None), ("b".into(), None), ("a".into(), Some(value("1")))]);
    assert_eq!(
        changes.iter().map(|(key, value)| (&**key, value.is_some())).collect::<Vec<_>>(),
        [("b", false), ("a", true)]
    );
    assert_eq!(Changes::unpack(&changes.pack().unwrap()), Ok(changes));
    assert_eq!(Changes::default().pack(), None);
}

#[test]
fn a_thousand_branches_and_a_long_chain_beside_them_meet() {
    let len = 1000;
    let mut tasks: Vec<_> = (0..len).map(|i| task(&format!("wide{i}"), &[])).collect();
    tasks.push(task("chain0", &[]));
    tasks.extend((1..len).map(|i| task(&format!("chain{i}"), &[&format!("chain{}", i - 1)])));
    let graph = build(tasks);
    let chain = |upto: usize| format!("[{}]", (0..=upto).map(|i| i.to_string()).collect::<Vec<_>>().join(","));
    let text = |ix: usize| if ix < len { format!("[{}]", ix + len) } else { chain(ix - len) };
    let changes: Vec<Changes> =
        (0..2 * len).map(|ix| Changes::new(vec![("rows".into(), Some(value(&text(ix))))])).collect();
    let (seen, conflicts) = final_view(&graph, &[], |ix| changes.get(ix as usize));
    let Json::Array(rows) = &read(&seen)["rows"] else { panic!("a list") };
    assert_eq!((rows.len(), conflicts.len()), (2 * len, 0));
}

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
