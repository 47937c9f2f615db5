//! The statement of a listing. It goes along the index that narrows it down the most: the children of a run, the runs
//! with a tag, those with a key of this beginning, those that failed or were cancelled, the unfinished ones, or all by
//! number.

use bide_core::{RunId, RunStatus, Time};

use super::session::{Param, Text, Uuid, escaped};
use crate::RunFilter;
use crate::ranges::{SLACK_MS, after_all};

/// The statement that selects the runs of a filter, newest first, and its parameters.
pub(super) fn statement(filter: &RunFilter) -> (String, Vec<Box<dyn Param>>) {
    let mut parameters: Vec<Box<dyn Param>> = Vec::new();
    let mut put = |value: Box<dyn Param>, kind: &str| -> String {
        parameters.push(value);
        format!("${}::{kind}", parameters.len())
    };
    let text = |text: &str| -> Box<dyn Param> { Box::new(Text(text.to_owned().into())) };
    let mut tags = filter.tags.iter();
    let by_tag = if filter.parent.is_none() { tags.next() } else { None };
    let source = match by_tag {
        Some((name, value)) => {
            let (name, value) = (put(text(name), "text"), put(text(value), "text"));
            format!("bide.run_tag t JOIN bide.run r ON r.id = t.run AND t.name = {name} AND t.value = {value}")
        }
        None if filter.parent.is_none() && filter.key_prefix.is_some() => {
            "bide.workflow k JOIN bide.run r ON r.workflow = k.id".to_owned()
        }
        None => "bide.run r".to_owned(),
    };
    let number = if by_tag.is_some() { "t.run" } else { "r.id" };
    let mut conditions = vec!["true".to_owned()];
    if let Some(parent) = filter.parent {
        // The number alone is not the run.
        let (row, uuid) = (put(Box::new(parent.row()), "int8"), put(Box::new(Uuid(parent.0)), "uuid"));
        conditions.push(format!(
            "r.parent = {row} AND EXISTS (SELECT 1 FROM bide.run p WHERE p.id = r.parent AND p.uuid = {uuid})"
        ));
    }
    for (name, value) in tags {
        let (name, value) = (put(text(name), "text"), put(text(value), "text"));
        conditions.push(format!(
            "EXISTS (SELECT 1 FROM bide.run_tag o WHERE o.run = r.id AND o.name = {name} AND o.value = {value})"
        ));
    }
    if let Some(prefix) = &filter.key_prefix {
        conditions.push(format!("r.key >= {}", put(text(prefix), "text")));
        if let Some(end) = after_all(&escaped(prefix)) {
            conditions.push(format!("r.key < {}", put(Box::new(end), "text")));
        }
    }
    if let Some(ids) = &filter.ids {
        let (first, last) = RunId::rows_between(*ids.start(), *ids.end());
        let (first, last) = (put(Box::new(first), "int8"), put(Box::new(last), "int8"));
        conditions.push(format!("{number} BETWEEN {first} AND {last}"));
        // The number alone is not the run.
        let (first, last) = (put(Box::new(Uuid(ids.start().0)), "uuid"), put(Box::new(Uuid(ids.end().0)), "uuid"));
        conditions.push(format!("r.uuid BETWEEN {first} AND {last}"));
    }
    if let Some(since) = filter.since {
        let oldest = RunId::first_row_at((since.0 / 1000).saturating_sub(SLACK_MS));
        let (oldest, Time(since)) = (put(Box::new(oldest), "int8"), since);
        conditions.push(format!("{number} >= {oldest} AND r.created_at >= {}", put(Box::new(since), "int8")));
    }
    if let Some(status) = filter.status {
        // What the partial indexes are made for.
        match status {
            RunStatus::Failed | RunStatus::Cancelled => conditions.push("r.status > 3".to_owned()),
            RunStatus::Completed => {}
            _ => conditions.push("r.status < 3".to_owned()),
        }
        conditions.push(format!("r.status = {}", put(Box::new(i64::from(status.code())), "int8")));
    }
    if let Some(workflow) = &filter.workflow {
        let name = put(text(workflow), "text");
        conditions.push(format!("r.workflow = (SELECT o.id FROM bide.workflow o WHERE o.name = {name})"));
    }
    let limit = filter.limit.and_then(|limit| i64::try_from(limit).ok());
    let limit = put(Box::new(limit), "int8");
    let conditions = conditions.join(" AND ");
    (format!("SELECT r.* FROM {source} WHERE {conditions} ORDER BY {number} DESC LIMIT {limit}"), parameters)
}
