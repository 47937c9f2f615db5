//! The guarantee that cost does not grow with the file: no hot statement walks a table.

use std::time::Duration;

use rusqlite::Connection;

use super::error::Place;
use super::{lease, purge, read, schema, write};

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
    let place = Place { name: "test".into(), patience: Duration::ZERO };
    schema::migrate(&connection, &place, schema::MIGRATIONS).expect("the schema");
    connection
}

#[test]
fn no_hot_statement_walks_a_table() {
    let connection = database();
    for sql in [lease::HOT, write::HOT, read::HOT, purge::HOT].concat() {
        for step in plan(&connection, sql) {
            assert!(!step.starts_with("SCAN"), "{sql}\n{step}");
        }
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
fn claims_find_free_runs_in_order_without_sorting() {
    let connection = database();
    for sql in lease::HOT {
        for step in plan(&connection, sql) {
            assert!(!step.contains("TEMP B-TREE"), "{sql}\n{step}");
            assert!(!step.contains("run_open (runner=?)") || sql.starts_with("UPDATE"), "{sql}\n{step}");
        }
    }
}
