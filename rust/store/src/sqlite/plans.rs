//! The guarantee that cost does not grow with the file: no statement walks a table, but for those named here.
//!
//! The statements are found in the sources, so that a new one is looked at without being listed anywhere.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use bide_core::{RunId, RunStatus, Time};
use rusqlite::{Connection, StatementStatus};

use super::connection::keep_plans;
use super::error::Identity;
use super::{convert, events, lease, listing, look, messages, purge, read, schedules, schema, watches, write};
use crate::RunFilter;

fn plan(connection: &Connection, sql: &str) -> Vec<String> {
    let mut statement = connection.prepare(&format!("EXPLAIN QUERY PLAN {sql}")).expect(sql);
    let mut rows = statement.raw_query();
    let mut plan = Vec::new();
    while let Some(row) = rows.next().expect(sql) {
        plan.push(row.get(3).expect(sql));
    }
    plan
}

fn database() -> Connection {
    let connection = Connection::open_in_memory().expect("memory");
    let identity = Identity { name: "test".into(), busy_timeout: Duration::ZERO };
    keep_plans(&connection).expect("the setting");
    schema::migrate(&connection, &identity, schema::MIGRATIONS).expect("the schema");
    connection
}

/// What may be walked, and why.
const MAY_WALK: &[(&str, &str)] = &[
    ("SELECT r.runner, r.id FROM task t INDEXED BY task_marked", "along the index of marked bodies, which are few"),
    ("DELETE FROM runner WHERE expires IS NULL", "there are as many runners as processes, and this forgets them"),
    ("INSERT INTO task_name (workflow, task, name) SELECT", "along the names that it is given"),
    ("SELECT 1 FROM limit_share LIMIT 1", "ends at the first row"),
    ("SELECT 1 FROM limit_key LIMIT 1", "ends at the first row"),
    ("DELETE FROM limit_key WHERE executing = 0", "as many as values of keys, once in a sweep of retention"),
    ("SELECT run, task, map, EXISTS", "as many as attempts in flight, once for a runner"),
    ("UPDATE limit_share SET runner = NULL", "as many as attempts in flight, once for a runner"),
    ("SELECT name, executing, in_flight, rate_count, rate_span, key FROM limit_spec ORDER", "all of the few limits"),
    ("SELECT t.name, t.revision, t.removed, w.name, t.workflow, t.every", "all of the few watches"),
    ("SELECT DISTINCT lock FROM runner", "as many as processes"),
    ("SELECT id, lock, expires, boot FROM runner", "as many as processes"),
    ("SELECT r.uuid, w.name FROM workflow w CROSS JOIN", "the few workflows; a look into an index for each"),
    ("SELECT EXISTS (SELECT 1 FROM sqlite_schema)", "ends at the first row"),
    ("SELECT 1 FROM sqlite_schema", "stops at the first row"),
    ("SELECT count(*) <= ?1 FROM (SELECT 1 FROM run INDEXED BY run_open", "along the unfinished runs, to its limit"),
    ("WITH RECURSIVE below", "along the runs below one, each found by the index of its parent"),
];

/// The string literals of a source that are statements; those of its tests and of macros (which are parts) are not.
fn statements(source: &str) -> Vec<String> {
    let shipped = source.split("\nmod tests {").next().unwrap_or_default();
    let mut found = Vec::new();
    let mut rest = shipped;
    while let Some((before, after)) = rest.split_once('"') {
        let mut literal = String::new();
        let mut chars = after.char_indices();
        let mut end = after.len();
        while let Some((at, c)) = chars.next() {
            match c {
                '"' => {
                    end = at + 1;
                    break;
                }
                // A line that is continued: its break and the blanks of the next line are not part of it.
                '\\' if after[at..].starts_with("\\\n") => {
                    let text = after[at + 1..].trim_start();
                    let skip = after.len() - text.len();
                    while chars.clone().next().is_some_and(|(next, _)| next < skip) {
                        chars.next();
                    }
                }
                '\\' => literal.extend(chars.next().map(|(_, c)| c)),
                c => literal.push(c),
            }
        }
        let is_statement = ["SELECT ", "INSERT ", "UPDATE ", "DELETE ", "WITH ", "REPLACE "];
        let is_part = before.trim_end().ends_with("() => {");
        if !is_part && is_statement.iter().any(|verb| literal.starts_with(verb)) {
            found.push(literal);
        }
        rest = &after[end..];
    }
    found
}

#[test]
fn no_statement_walks_a_table_but_those_that_are_named() {
    let connection = database();
    let sources = Path::new(env!("CARGO_MANIFEST_DIR")).join("src/sqlite");
    let mut all: Vec<String> = [read::HOT, events::HOT].concat().iter().map(|sql| (*sql).to_owned()).collect();
    for file in std::fs::read_dir(sources).expect("the sources") {
        let path = file.expect("the sources").path();
        let is_test = path.ends_with("plans.rs");
        if !is_test && path.extension().is_some_and(|extension| extension == "rs") {
            all.extend(statements(&std::fs::read_to_string(path).expect("a source")));
        }
    }
    assert!(all.len() > 40, "the statements are not found any more: {all:#?}");
    for sql in &all {
        let may = MAY_WALK.iter().any(|(known, _)| sql.starts_with(known));
        for step in plan(&connection, sql) {
            assert!(may || !step.starts_with("SCAN") || step == "SCAN CONSTANT ROW", "{sql}\n{step}");
            assert!(!step.contains("AUTOMATIC"), "{sql}\nbuilds an index each time: {step}");
        }
    }
    for (known, why) in MAY_WALK {
        assert!(all.iter().any(|sql| sql.starts_with(known)), "no statement is like this any more: {known} ({why})");
    }
}

#[test]
fn a_listing_goes_along_an_index_from_the_newest_run_to_its_limit() {
    let connection = database();
    let tags: BTreeMap<Arc<str>, Arc<str>> = BTreeMap::from([("a".into(), "1".into()), ("b".into(), "2".into())]);
    let one = || tags.iter().take(1).map(|(name, value)| (Arc::clone(name), Arc::clone(value))).collect();
    let all = RunFilter::default;
    let cases = [
        (all(), "SEARCH r USING INTEGER PRIMARY KEY"),
        (
            RunFilter { since: Some(Time(5)), status: Some(RunStatus::Failed), ..all() },
            "SEARCH r USING INDEX run_failed (status=? AND rowid>?)",
        ),
        (RunFilter { status: Some(RunStatus::Cancelled), ..all() }, "SEARCH r USING INDEX run_failed (status=?)"),
        (RunFilter { status: Some(RunStatus::Running), ..all() }, "SEARCH r USING INTEGER PRIMARY KEY"),
        (
            RunFilter { ids: Some(RunId(7)..=RunId(9)), ..all() },
            "SEARCH r USING INTEGER PRIMARY KEY (rowid>? AND rowid<?)",
        ),
        (RunFilter { workflow: Some("w".into()), ..all() }, "SEARCH r USING INTEGER PRIMARY KEY"),
        (RunFilter { tags: one(), ..all() }, "SEARCH t USING COVERING INDEX run_tag_value (name=? AND value=?)"),
        (
            RunFilter { tags: tags.clone(), since: Some(Time(5)), key_prefix: Some("k".into()), ..all() },
            "SEARCH t USING COVERING INDEX run_tag_value (name=? AND value=? AND run>?)",
        ),
        (
            RunFilter { parent: Some(RunId(7)), tags: tags.clone(), ..all() },
            "SEARCH r USING INDEX run_parent (parent=?)",
        ),
    ];
    for (filter, first) in cases {
        let sql = listing::statement(&filter, false).0;
        let plan = plan(&connection, &sql);
        assert!(plan.iter().any(|step| step.starts_with(first)), "{sql}\n{plan:#?}");
        for step in plan {
            assert!(!step.starts_with("SCAN") && !step.contains("TEMP B-TREE"), "{sql}\n{step}");
        }
    }
    // The unfinished runs are sorted, if they are few.
    let running = RunFilter { status: Some(RunStatus::Running), ..all() };
    let along = plan(&connection, &listing::statement(&running, true).0);
    assert!(along.iter().any(|step| step == "SCAN r USING INDEX run_open"), "{along:#?}");
    // Keys are in order within a workflow only: what has such a key is sorted.
    let prefix = RunFilter { key_prefix: Some("k".into()), ..all() };
    let plan = plan(&connection, &listing::statement(&prefix, false).0);
    assert!(plan.iter().any(|step| step.starts_with("SEARCH r USING INDEX run_key (workflow=? AND key>? AND key<?)")));
}

#[test]
fn what_belongs_to_listed_runs_is_found_by_their_numbers() {
    let connection = database();
    for sql in read::OF_ALL {
        let plan = plan(&connection, sql);
        assert!(plan[0].starts_with("SEARCH") && plan[0].ends_with("USING PRIMARY KEY (run=?)"), "{sql}\n{plan:?}");
    }
}

/// The statements that must take the same time however much is stored.
fn hot() -> Vec<&'static str> {
    let of_modules = [
        lease::HOT,
        write::HOT,
        read::HOT,
        events::HOT,
        look::HOT,
        purge::HOT,
        purge::HOT_REST,
        messages::HOT,
        schedules::HOT,
        watches::HOT,
        &convert::hot(),
    ];
    of_modules.concat()
}

#[test]
fn no_hot_statement_walks_a_table() {
    let connection = database();
    for sql in hot() {
        for step in plan(&connection, sql) {
            // The rows of an insertion are gone through, too.
            let walks = step.starts_with("SCAN") && !step.ends_with("-ROW VALUES CLAUSE");
            assert!(!walks, "{sql}\n{step}");
        }
    }
}

#[test]
fn a_page_of_open_waits_begins_at_its_place_and_is_not_sorted() {
    let plan = plan(&database(), look::PAGE);
    assert!(plan[0].starts_with("SEARCH j USING INDEX journal_open ((opened_at,run,task,map,seq)>"), "{plan:?}");
    for step in &plan[1..] {
        assert!(step.starts_with("SEARCH") && !step.contains("TEMP B-TREE"), "{plan:?}");
    }
}

#[test]
fn no_statement_is_prepared_again_for_other_values() {
    let connection = database();
    for sql in hot() {
        let mut statement = connection.prepare(sql).expect(sql);
        if !statement.readonly() {
            continue;
        }
        for value in [1, 7] {
            for parameter in 1..=statement.parameter_count() {
                statement.raw_bind_parameter(parameter, value).expect(sql);
            }
            // As the cache of statements does.
            statement.raw_query().next().expect(sql);
            statement.clear_bindings();
        }
        assert_eq!(statement.get_status(StatementStatus::RePrepare), 0, "{sql}");
    }
}

#[test]
fn a_key_is_found_by_its_index() {
    let connection = database();
    let plan = plan(&connection, read::BY_KEY);
    assert!(plan.iter().any(|step| step.starts_with("SEARCH r USING INDEX run_key")), "{plan:?}");
    assert!(plan.iter().all(|step| !step.starts_with("SCAN") || step.contains(" w")), "{plan:?}");
}

#[test]
fn a_purge_goes_along_the_numbers_of_the_runs() {
    let connection = database();
    let plan = plan(&connection, purge::LOOK);
    assert_eq!(plan, ["SEARCH run USING INTEGER PRIMARY KEY (rowid>? AND rowid<?)"]);
}

#[test]
fn what_belongs_to_nobody_is_found_from_version_to_version() {
    let plan = plan(&database(), lease::UNOWNED);
    assert_eq!(plan, ["SEARCH run USING INDEX run_open (runner=? AND (workflow,version)>(?,?))"]);
}

#[test]
fn claims_find_free_runs_in_order_without_sorting() {
    let connection = database();
    for sql in lease::HOT {
        for step in plan(&connection, sql) {
            assert!(!step.contains("TEMP B-TREE"), "{sql}\n{step}");
            assert!(!step.contains("run_open (runner=?)") || sql.starts_with("UPDATE"), "{sql}\n{step}");
        }
    }
}
