//! The statement of a listing. It goes along the index that narrows it down the most: the children of a run, the runs
//! with a tag, those with a key of this beginning, those that failed or were cancelled, the unfinished ones if they are
//! few, or all by number.

use bide_core::{RunId, RunStatus, Time};
use rusqlite::Connection;
use rusqlite::types::Value as Sql;

use super::read::{COLUMNS, JOINS};
use crate::RunFilter;
use crate::ranges::{SLACK_MS, after_all};

/// Up to this many unfinished runs are read and sorted, to find those of one status. Beyond that, a listing by number
/// soon finds as many as it is to show.
const FEW_OPEN: i64 = 50_000;

/// Whether the unfinished runs are few.
const ARE_FEW_OPEN: &str =
    "SELECT count(*) <= ?1 FROM (SELECT 1 FROM run INDEXED BY run_open WHERE status < 3 LIMIT ?1 + 1)";

/// Whether the listing asks for runs of an unfinished status, and these are few.
pub(super) fn goes_along_open(connection: &Connection, filter: &RunFilter) -> rusqlite::Result<bool> {
    if filter.status.is_none_or(RunStatus::is_ended) {
        return Ok(false);
    }
    connection.prepare_cached(ARE_FEW_OPEN)?.query_row([FEW_OPEN], |row| row.get(0))
}

/// The statement that lists the runs of a filter, newest first, and its parameters. `few_open`: the unfinished runs are
/// few enough to be read and sorted.
pub(super) fn statement(filter: &RunFilter, few_open: bool) -> (String, Vec<Sql>) {
    let mut parameters: Vec<Sql> = Vec::new();
    let mut put = |value: Sql| {
        parameters.push(value);
        format!("?{}", parameters.len())
    };
    let mut tags = filter.tags.iter();
    let by_tag = if filter.parent.is_none() { tags.next() } else { None };
    // CROSS JOIN keeps the order: first what narrows the listing down.
    let (source, number) = match by_tag {
        Some((name, value)) => {
            let (name, value) = (put(Sql::Text(name.to_string())), put(Sql::Text(value.to_string())));
            let tagged =
                format!("run_tag t CROSS JOIN run r ON r.id = t.run AND t.name = {name} AND t.value = {value}");
            (tagged, "t.run")
        }
        None if filter.parent.is_none() && filter.key_prefix.is_some() => {
            ("workflow k CROSS JOIN run r ON r.workflow = k.id".to_owned(), "r.id")
        }
        None => ("run r".to_owned(), "r.id"),
    };
    let mut conditions = Vec::new();
    let is_plain = source == "run r" && filter.parent.is_none();
    let by_status = match filter.status {
        Some(RunStatus::Failed | RunStatus::Cancelled) if is_plain => {
            Some(("run r INDEXED BY run_failed", "r.status > 3"))
        }
        Some(status) if is_plain && few_open && !status.is_ended() => {
            Some(("run r INDEXED BY run_open", "r.status < 3"))
        }
        _ => None,
    };
    let source = match by_status {
        Some((along, what)) => {
            conditions.push(what.to_owned());
            along.to_owned()
        }
        None => source,
    };
    if let Some(parent) = filter.parent {
        // The number alone is not the run.
        let (row, uuid) = (put(Sql::Integer(parent.row())), put(Sql::Blob(parent.0.to_be_bytes().to_vec())));
        conditions.push(format!("r.parent = {row} AND p.uuid = {uuid}"));
    }
    for (name, value) in tags {
        let (name, value) = (put(Sql::Text(name.to_string())), put(Sql::Text(value.to_string())));
        conditions.push(format!(
            "EXISTS (SELECT 1 FROM run_tag o WHERE o.run = r.id AND o.name = {name} AND o.value = {value})"
        ));
    }
    if let Some(prefix) = &filter.key_prefix {
        conditions.push(format!("r.key >= {}", put(Sql::Text(prefix.clone()))));
        if let Some(end) = after_all(prefix) {
            conditions.push(format!("r.key < {}", put(Sql::Text(end))));
        }
    }
    if let Some(ids) = &filter.ids {
        let (first, last) = RunId::rows_between(*ids.start(), *ids.end());
        let (first, last) = (put(Sql::Integer(first)), put(Sql::Integer(last)));
        conditions.push(format!("{number} BETWEEN {first} AND {last}"));
        // The number alone is not the run.
        let uuid = |id: &RunId| Sql::Blob(id.0.to_be_bytes().to_vec());
        let (first, last) = (put(uuid(ids.start())), put(uuid(ids.end())));
        conditions.push(format!("r.uuid BETWEEN {first} AND {last}"));
    }
    let everything = is_plain && by_status.is_none() && filter.ids.is_none();
    if let Some(since) = filter.since.or(everything.then_some(Time(0))) {
        let oldest = RunId::first_row_at((since.0 / 1000).saturating_sub(SLACK_MS));
        let (oldest, since) = (put(Sql::Integer(oldest)), put(Sql::Integer(since.0)));
        conditions.push(format!("{number} >= {oldest} AND r.created_at >= {since}"));
    }
    if let Some(status) = filter.status {
        conditions.push(format!("r.status = {}", put(Sql::Integer(status.code().into()))));
    }
    if let Some(workflow) = &filter.workflow {
        conditions.push(format!("w.name = {}", put(Sql::Text(workflow.clone()))));
    }
    if conditions.is_empty() {
        conditions.push("TRUE".to_owned());
    }
    let limit = filter.limit.map_or(-1, |limit| i64::try_from(limit).unwrap_or(i64::MAX));
    let limit = put(Sql::Integer(limit));
    let conditions = conditions.join(" AND ");
    let sql = format!("{COLUMNS}{source} {JOINS}WHERE {conditions} ORDER BY {number} DESC LIMIT {limit}");
    (sql, parameters)
}
