//! What databases record of a workflow version: its tasks and their numbers, and the signals that it declares, as JSON.

use std::collections::HashMap;
use std::sync::Arc;

use bide_core::TaskId;
use bide_core::record::{NewTask, RecordedTask};
use serde_json::json;

/// Tasks with their numbers.
pub(crate) struct Numbered<'t> {
    /// The tasks.
    pub(crate) tasks: Arc<[RecordedTask]>,
    /// The number of the first name that is new.
    pub(crate) first: TaskId,
    /// The new names, in the order of their numbers.
    pub(crate) new: Vec<&'t str>,
}

/// Gives each task its number: that of its name, if the workflow ever had a task of this name, else the next.
pub(crate) fn numbered<'t>(known: &HashMap<String, TaskId>, tasks: &'t [NewTask]) -> Numbered<'t> {
    let first = known.values().max().map_or(0, |last| last + 1);
    let mut new: Vec<&str> = Vec::new();
    let numbered = tasks.iter().map(|task| {
        let name = &task.name;
        let id = known.get(&**name).copied().unwrap_or_else(|| {
            let id = first + new.len() as TaskId;
            new.push(name);
            id
        });
        task.recorded(id)
    });
    let tasks = numbered.collect();
    Numbered { tasks, first, new }
}

/// The task list of a version's row.
pub(crate) fn tasks_json(tasks: &[RecordedTask]) -> String {
    // The fourth member, what a mapped task is mapped over, is left out of all others.
    let list = tasks.iter().map(|task| {
        let mut row = vec![json!(task.id), json!(*task.name), json!(names(&task.dependencies))];
        row.extend((!task.over.is_empty()).then(|| json!(names(&task.over))));
        serde_json::Value::from(row)
    });
    serde_json::Value::from_iter(list).to_string()
}

fn names(names: &[Arc<str>]) -> Vec<&str> {
    names.iter().map(|name| &**name).collect()
}

/// The declared signals of a version's row.
pub(crate) fn signals_json(signals: &[String]) -> String {
    serde_json::Value::from_iter(signals.iter().map(String::as_str)).to_string()
}

/// Reads the task list of a version's row.
pub(crate) fn parse_tasks(json: &str) -> Result<Arc<[RecordedTask]>, String> {
    type Plain = (TaskId, String, Vec<String>);
    type Mapped = (TaskId, String, Vec<String>, Vec<String>);
    let task = |(id, name, dependencies, over): Mapped| RecordedTask {
        id,
        name: name.into(),
        dependencies: dependencies.into_iter().map(Into::into).collect(),
        over: over.into_iter().map(Into::into).collect(),
    };
    // Almost every workflow is without mapped tasks, and then it is read in one go.
    if let Ok(plain) = serde_json::from_str::<Vec<Plain>>(json) {
        return Ok(plain.into_iter().map(|(id, name, on)| task((id, name, on, Vec::new()))).collect());
    }
    let rows: Vec<serde_json::Value> = serde_json::from_str(json).map_err(|error| error.to_string())?;
    let row = |row: serde_json::Value| match row.as_array().map(Vec::len) {
        Some(4) => serde_json::from_value(row).map(task),
        _ => serde_json::from_value(row).map(|(id, name, on): Plain| task((id, name, on, Vec::new()))),
    };
    rows.into_iter().map(row).collect::<Result<_, _>>().map_err(|error| error.to_string())
}

/// Reads the declared signals of a version's row; `None` if they do not read back: then any signal is accepted.
pub(crate) fn parse_signals(json: &str) -> Option<Vec<String>> {
    serde_json::from_str(json).ok()
}
