//! Stories of branches that meet: who wrote what, and what the last task sees of it.

#![expect(clippy::unwrap_used, reason = "tests")]

use serde_json::{Value as Json, json};

use super::*;
use crate::graph::tests::{build, task};

pub(super) type View = Vec<(Arc<str>, Value)>;

pub(super) fn value(text: &str) -> Value {
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

/// One task: its name, what it depends on, what it leaves of the context (`None`: it removes the key).
type TaskWrites<'a> = (&'a str, &'a [&'a str], &'a [(&'a str, Option<&'a str>)]);

/// Runs these tasks and returns what the last one sees, with its conflicts as `key path: first, second`.
fn last_view(inputs: &[(&str, &str)], tasks: &[TaskWrites<'_>]) -> (Json, Vec<String>) {
    let graph = build(tasks.iter().map(|(name, on, _)| task(name, on)).collect());
    let change = |(key, text): &(&str, Option<&str>)| ((*key).into(), text.map(value));
    let changes: Vec<Changes> =
        tasks.iter().map(|(_, _, wrote)| Changes::new(wrote.iter().map(change).collect())).collect();
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
    let (seen, conflicts) = last_view(
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

    let (seen, conflicts) = last_view(
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
    let (seen, conflicts) = last_view(
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
    let (seen, conflicts) = last_view(
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
    let (seen, conflicts) = last_view(
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
    let (seen, conflicts) = last_view(
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
    let (seen, conflicts) = last_view(
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
    let (seen, conflicts) = last_view(
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

    let (seen, conflicts) = last_view(
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

/// What comes of a key that one branch removes and adds again, twice, where a branch that saw it up to `saw` makes the
/// map anew without it. `apart` saw none of this.
fn removed_and_added_twice(saw: &str) -> (Json, Vec<String>) {
    last_view(
        &[("m", r#"{"x": 1}"#)],
        &[
            ("apart", &[], &[("m", Some(r#"{"x": 1, "z": 0}"#))]),
            ("remove", &[], &[("m", Some("{}"))]),
            ("add", &["remove"], &[("m", Some(r#"{"x": 2}"#))]),
            ("remove again", &["add"], &[("m", Some("{}"))]),
            ("add again", &["remove again"], &[("m", Some(r#"{"x": 3}"#))]),
            ("drop", &[saw], &[("m", Some("0"))]),
            ("anew", &["drop"], &[("m", Some(r#"{"y": 4}"#))]),
            ("join", &["apart", "add again", "anew"], &[]),
        ],
    )
}

#[test]
fn a_map_made_anew_removes_no_key_that_its_writer_saw_removed() {
    for saw in ["remove", "remove again"] {
        let (seen, conflicts) = removed_and_added_twice(saw);
        assert_eq!((seen, conflicts), (json!({"m": {"x": 3, "y": 4, "z": 0}}), quiet()), "{saw}");
    }
}

#[test]
fn a_map_made_anew_removes_a_key_whose_removal_its_writer_did_not_see() {
    for saw in ["apart", "add"] {
        let (seen, conflicts) = removed_and_added_twice(saw);
        assert_eq!(seen["m"].get("x"), None, "{saw}");
        assert_eq!(conflicts, ["m x: add again, anew"], "{saw}");
    }
}

#[test]
fn an_empty_map_counts_as_written() {
    let (seen, conflicts) = last_view(
        &[],
        &[("map", &[], &[("k", Some("{}"))]), ("scalar", &[], &[("k", Some("5"))]), ("join", &["map", "scalar"], &[])],
    );
    assert_eq!((seen, conflicts), (json!({"k": 5}), vec!["k: map, scalar".into()]));
}

#[test]
fn of_three_branches_one_may_have_built_on_what_another_saw() {
    let (seen, conflicts) = last_view(
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
    let tasks = |left: Option<&'static str>, right: Option<&'static str>| {
        last_view(
            &[("k", "[1]")],
            &[("left", &[], &[("k", left)]), ("right", &[], &[("k", right)]), ("join", &["left", "right"], &[])],
        )
    };
    assert_eq!(tasks(None, None), (json!({}), quiet()));
    assert_eq!(tasks(Some("[1, 2]"), None), (json!({}), vec!["k: left, right".into()]));
    assert_eq!(tasks(None, Some("[1, 2]")), (json!({"k": [1, 2]}), vec!["k: left, right".into()]));
}

#[test]
fn equal_values_are_no_conflict_and_values_of_two_kinds_are() {
    let tasks = |left, right| {
        last_view(
            &[("k", "{}")],
            &[
                ("left", &[], &[("k", Some(left))]),
                ("right", &[], &[("k", Some(right))]),
                ("join", &["left", "right"], &[]),
            ],
        )
    };
    assert_eq!(tasks("5", "5"), (json!({"k": 5}), quiet()));
    assert_eq!(tasks("[5]", r#"{"a": 5}"#), (json!({"k": {"a": 5}}), vec!["k: left, right".into()]));
}

#[test]
fn who_saw_a_conflict_and_wrote_over_it_has_settled_it() {
    let (seen, conflicts) = last_view(
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
    let (seen, conflicts) = last_view(
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
        "tasks 'left' and 'right' of workflow 'workflow' both changed 'rates'['eur'] of the context without seeing each \
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
fn hundreds_of_branches_and_a_long_chain_beside_them_meet() {
    let len = 300;
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

#[test]
fn hundreds_of_maps_made_anew_on_lanes_that_cross_meet() {
    let (levels, lanes) = (100, 4);
    let (mut tasks, mut texts) = (Vec::new(), Vec::new());
    let mut add = |name: String, on: &[String], text: String| {
        tasks.push(task(&name, &on.iter().map(|name| &**name).collect::<Vec<_>>()));
        texts.push(text);
        name
    };
    let mut before: Vec<String> = Vec::new();
    for level in 0..levels {
        let lane = |lane: usize| {
            let alone = add(format!("alone {level} {lane}"), &[], format!(r#"{{"alone {level} {lane}": 0}}"#));
            let on: Vec<_> = before.iter().cloned().chain([alone]).collect();
            let drop = add(format!("drop {level} {lane}"), &on, "0".into());
            add(format!("anew {level} {lane}"), &[drop], format!(r#"{{"anew {level} {lane}": 0}}"#))
        };
        before = (0..lanes).map(lane).collect();
    }
    let graph = build(tasks);
    let changes: Vec<Changes> = texts.iter().map(|text| Changes::new(vec![("m".into(), Some(value(text)))])).collect();
    let (seen, _) = final_view(&graph, &[], |ix| changes.get(ix as usize));
    assert_eq!(read(&seen)["m"].as_object().unwrap().len(), lanes);
}

#[test]
fn a_map_with_a_private_key_of_the_json_library_merges_like_any_other() {
    for key in ["$serde_json::private::Number", "$serde_json::private::RawValue"] {
        let map = |more: &str| format!(r#"{{"inner":{{"{key}":"12"}}{more}}}"#);
        let (left, right) = (map(r#","left":1"#), map(r#","right":2"#));
        let graph = build(vec![task("a", &[]), task("b", &[]), task("join", &["a", "b"])]);
        let changes = [
            Changes::new(vec![("m".into(), Some(value(&left)))]),
            Changes::new(vec![("m".into(), Some(value(&right)))]),
        ];
        let (seen, conflicts) = view(&graph, 2, &pairs(&[("m", &map(""))]), |ix| changes.get(ix as usize));
        assert_eq!((seen, conflicts), (pairs(&[("m", &map(r#","left":1,"right":2"#))]), vec![]));
    }
}
