//! What has happened to a run, as observers get it: read off the writes of an event, so that it costs nothing if nobody
//! observes.

use std::sync::Arc;

use crate::entry::{Entry, EntryKind, EntryState};
use crate::failure::Failure;
use crate::id::TaskId;
use crate::record::{TaskRow, Write};
use crate::status::{RunStatus, TaskStatus};
use crate::time::Time;

/// Something that has happened to a run.
#[derive(Clone, Debug, PartialEq)]
pub struct Happened {
    /// What.
    pub what: What,
    /// When.
    pub at: Time,
    /// To which task, with its map index; none if it concerns the run.
    pub task: Option<(TaskId, i32)>,
    /// Which attempt of the task, if that is known.
    pub attempt: Option<u32>,
    /// How it has failed, if it has.
    pub failure: Option<Failure>,
}

/// What has happened.
#[derive(Clone, Debug, PartialEq)]
pub enum What {
    /// A task has ended.
    TaskEnded(TaskStatus),
    /// The run has ended or is paused.
    RunEnded(RunStatus),
    /// A wait was opened: its name and kind, and when it times out.
    WaitOpened(Arc<str>, EntryKind, Option<Time>),
    /// A wait was closed: its name and kind, and how.
    WaitClosed(Arc<str>, EntryKind, EntryState),
    /// An attempt has failed, and another one is made at this time.
    Retried(Time),
}

/// What has happened with these writes of an event that was applied at this time.
#[must_use]
pub fn happened(writes: &[Write], now: Time) -> Vec<Happened> {
    writes.iter().filter_map(|write| of_write(write, now)).collect()
}

/// Whether an attempt has failed with this write. That is of interest also if nobody observes.
#[must_use]
pub fn is_failed_attempt(write: &Write) -> bool {
    let Write::Task(row) = write else { return false };
    row.failure.is_some() && (row.status == TaskStatus::Failed || row.retry_at.is_some())
}

fn of_write(write: &Write, now: Time) -> Option<Happened> {
    match write {
        Write::Done(row) => Some(Happened {
            what: What::TaskEnded(TaskStatus::Completed),
            at: row.ended_at,
            task: Some((row.task, row.map)),
            attempt: Some(1),
            failure: None,
        }),
        Write::Task(row) => of_task(row, now),
        Write::Entry { task, map, entry, .. } => {
            let what = of_entry(entry, now)?;
            let failure = entry.failure.clone().filter(|_| entry.state == EntryState::Failed);
            Some(Happened { what, at: now, task: Some((*task, *map)), attempt: None, failure })
        }
        Write::Run(update) if update.status.is_ended() || update.status == RunStatus::Paused => Some(Happened {
            what: What::RunEnded(update.status),
            at: now,
            task: None,
            attempt: None,
            failure: update.failure.clone(),
        }),
        _ => None,
    }
}

fn of_task(row: &TaskRow, now: Time) -> Option<Happened> {
    let what = match (row.status, row.retry_at) {
        (status, _) if status.is_ended() => What::TaskEnded(status),
        (TaskStatus::Pending, Some(at)) => What::Retried(at),
        _ => return None,
    };
    let (at, task, attempt) = (row.ended_at.unwrap_or(now), Some((row.task, row.map)), Some(row.attempts));
    Some(Happened { what, at, task, attempt, failure: row.failure.clone() })
}

/// A wait that was opened or closed now. Steps and other records are no waits.
fn of_entry(entry: &Entry, now: Time) -> Option<What> {
    let (name, kind) = (Arc::clone(&entry.key.name), entry.kind());
    if matches!(
        kind,
        EntryKind::Step | EntryKind::Start | EntryKind::Callback | EntryKind::Checkpoint | EntryKind::Reply
    ) {
        return None;
    }
    match entry.state {
        EntryState::Open if entry.opened_at == now => Some(What::WaitOpened(name, kind, entry.deadline)),
        EntryState::Open => None,
        state => (entry.closed_at == Some(now)).then_some(What::WaitClosed(name, kind, state)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::entry::{EntryKey, Operation};
    use crate::id::NO_MAP;
    use crate::record::DoneRow;
    use crate::value::Value;

    const NOW: Time = Time(7);

    fn entry(operation: Operation, opened_at: Time) -> Write {
        let key = EntryKey { name: "wait".into(), n: 1 };
        Write::Entry { run: 1, task: 2, map: NO_MAP, entry: Box::new(Entry::new(key, 1, operation, opened_at)) }
    }

    #[test]
    fn only_what_changes_with_the_event_has_happened() {
        let condition = || Operation::Condition { proof: None };
        let retried = TaskRow { retry_at: Some(Time(9)), attempts: 1, ..TaskRow::pending(1, 2) };
        let writes = [
            Write::Done(DoneRow::new(1, 2, Value::NONE, Time(5), NOW)),
            entry(condition(), NOW),
            // Written again, and a step.
            entry(condition(), Time(3)),
            entry(Operation::step(None), NOW),
            Write::Task(Box::new(TaskRow::pending(1, 2))),
            Write::Task(Box::new(retried)),
        ];
        let found: Vec<What> = happened(&writes, NOW).into_iter().map(|it| it.what).collect();
        let opened = What::WaitOpened("wait".into(), EntryKind::Condition, None);
        assert_eq!(found, [What::TaskEnded(TaskStatus::Completed), opened, What::Retried(Time(9))]);
    }
}
