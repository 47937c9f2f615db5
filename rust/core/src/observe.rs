//! What has happened to a run, as observers get it: read off the writes of an event, so that it costs nothing if nobody
//! observes.

use std::sync::Arc;

use crate::entry::{Entry, EntryKind, EntryState};
use crate::event::Event;
use crate::failure::Failure;
use crate::id::{TaskId, TaskRef};
use crate::record::{TaskRow, Write};
use crate::run::RunState;
use crate::status::{RunStatus, TaskStatus};
use crate::time::Time;

/// Something that has happened to a run.
#[derive(Clone, Debug, PartialEq)]
pub struct Happened {
    /// What.
    pub what: What,
    /// When.
    pub at: Time,
    /// When that began which has ended with it: the attempt, the wait or the step.
    pub since: Option<Time>,
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
    WaitClosed(ClosedWait),
    /// A step has ended: its name, which use of it, and whether it has returned.
    StepEnded(Arc<str>, u32, bool),
    /// An attempt has failed, and another one is made at this time.
    Retried(Time),
}

/// A wait that was closed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ClosedWait {
    /// Its name.
    pub name: Arc<str>,
    /// Which use of the name, as in [`crate::entry::EntryKey`].
    pub n: u32,
    /// Its kind.
    pub kind: EntryKind,
    /// How it was closed.
    pub state: EntryState,
    /// The time that it has waited for: that of a point in time, or of its timeout.
    pub due: Option<Time>,
    /// Of a condition: how often the process that has closed it has asked it.
    pub polls: Option<u32>,
}

/// What is to be known of an event to read its writes.
#[derive(Clone, Copy, Debug)]
pub struct Cause {
    /// It ends only waits that are open: one that is closed with its writes was opened before.
    closes: bool,
    /// How often the condition of the wait that it closes was asked.
    polls: u32,
}

impl Cause {
    /// Of this event.
    #[must_use]
    pub fn of(event: &Event) -> Self {
        match event {
            Event::Closed { polls, .. } => Self { closes: true, polls: *polls },
            // A wait can be over when it begins: what it waits for was there, or its condition held at once.
            Event::Recorded { .. } => Self { closes: false, polls: 1 },
            Event::Begin | Event::Opened { .. } | Event::Ended { .. } => Self { closes: false, polls: 0 },
            _ => Self { closes: true, polls: 0 },
        }
    }
}

/// What has happened with these writes of an event that was applied at this time.
/// `attempt` finds the current attempt of a task.
#[must_use]
pub fn happened(
    writes: &[Write],
    cause: Cause,
    now: Time,
    attempt: impl Fn(TaskId, i32) -> Option<u32>,
) -> Vec<Happened> {
    let mut all = Vec::new();
    for (at, write) in writes.iter().enumerate() {
        let Some(mut happened) = of_write(write, now, &attempt) else { continue };
        if let (What::WaitClosed(closed), Write::Entry { entry, .. }) = (&mut happened.what, write) {
            closed.polls = (closed.kind == EntryKind::Condition && cause.polls > 0).then_some(cause.polls);
            if !cause.closes && entry.opened_at == now && !writes[..at].iter().any(|it| is_opening(it, write)) {
                let what = What::WaitOpened(Arc::clone(&closed.name), closed.kind, entry.deadline);
                all.push(Happened { what, since: None, failure: None, ..happened.clone() });
            }
        }
        all.push(happened);
    }
    all
}

/// Whether the first write opens the wait that the other one closes.
fn is_opening(write: &Write, closing: &Write) -> bool {
    let (Write::Entry { task, map, entry, .. }, Write::Entry { task: task_of, map: map_of, entry: closed, .. }) =
        (write, closing)
    else {
        return false;
    };
    (task, map, &entry.key) == (task_of, map_of, &closed.key) && entry.state == EntryState::Open
}

/// The wait that is closed with this write: its kind, since when it was open, and the time that it has waited for.
#[must_use]
pub fn closed_wait(write: &Write, now: Time) -> Option<(EntryKind, Time, Option<Time>)> {
    let Write::Entry { entry, .. } = write else { return None };
    let kind = entry.kind();
    let closed = is_wait(kind) && entry.state != EntryState::Open && entry.closed_at == Some(now);
    closed.then(|| (kind, entry.opened_at, due(entry, now)))
}

/// Whether a body or a gate waits for entries of this kind.
#[must_use]
pub const fn is_wait(kind: EntryKind) -> bool {
    use EntryKind::{Callback, Checkpoint, Reply, Start, Step};
    !matches!(kind, Callback | Checkpoint | Reply | Start | Step)
}

/// The time that a closed wait has waited for: that of a point in time, or of its timeout.
fn due(entry: &Entry, now: Time) -> Option<Time> {
    let due = if entry.state == EntryState::Failed { entry.deadline } else { entry.due() };
    due.filter(|due| *due <= now && entry.state != EntryState::Lost)
}

/// Whether an attempt has failed with this write. That is of interest also if nobody observes.
#[must_use]
pub fn is_failed_attempt(write: &Write) -> bool {
    let Write::Task(row) = write else { return false };
    row.failure.is_some() && (row.status == TaskStatus::Failed || row.retry_at.is_some())
}

impl RunState {
    /// The current attempt of a task, which is known by its number in the store; none before the first.
    #[must_use]
    pub fn attempt_of(&self, task: TaskId, map: i32) -> Option<u32> {
        let ix = self.ids.iter().position(|known| *known == task)?;
        let state = self.get(TaskRef { ix: u32::try_from(ix).ok()?, map })?;
        (state.attempts > 0).then_some(state.attempts)
    }
}

fn of_write(write: &Write, now: Time, attempt: impl Fn(TaskId, i32) -> Option<u32>) -> Option<Happened> {
    match write {
        Write::Done(row) => Some(Happened {
            what: What::TaskEnded(TaskStatus::Completed),
            at: row.ended_at,
            since: Some(row.started_at),
            task: Some((row.task, row.map)),
            attempt: Some(1),
            failure: None,
        }),
        Write::Task(row) => of_task(row, now),
        Write::Entry { task, map, entry, .. } => {
            let what = of_entry(entry, now)?;
            let failure = entry.failure.as_deref().cloned().filter(|_| entry.state == EntryState::Failed);
            let since = (entry.state != EntryState::Open).then_some(entry.opened_at);
            // A gate belongs to no attempt: it comes before the first.
            let attempt = attempt(*task, *map).filter(|_| entry.key.n > 0);
            Some(Happened { what, at: now, since, task: Some((*task, *map)), attempt, failure })
        }
        Write::Run(update) if update.status.is_ended() || update.status == RunStatus::Paused => Some(Happened {
            what: What::RunEnded(update.status),
            at: now,
            since: None,
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
    Some(Happened { what, at, since: row.started_at, task, attempt, failure: row.failure.clone() })
}

/// A wait that was opened or closed now, or a step that has ended now. Other records are of no interest.
fn of_entry(entry: &Entry, now: Time) -> Option<What> {
    let (name, n, kind, state) = (Arc::clone(&entry.key.name), entry.key.n, entry.kind(), entry.state);
    let (opened, closed) = match state {
        EntryState::Open => (entry.opened_at == now, false),
        _ => (false, entry.closed_at == Some(now)),
    };
    match kind {
        EntryKind::Step => closed.then_some(What::StepEnded(name, n, state == EntryState::Satisfied)),
        _ if !is_wait(kind) => None,
        _ if opened => Some(What::WaitOpened(name, kind, entry.deadline)),
        _ if closed => {
            let due = due(entry, now);
            Some(What::WaitClosed(ClosedWait { name, n, kind, state, due, polls: None }))
        }
        _ => None,
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
        Write::Entry { run: 1, task: 2, map: NO_MAP, entry: Arc::new(Entry::new(key, 1, operation, opened_at)) }
    }

    fn closed(operation: Operation, opened_at: Time) -> Write {
        let Write::Entry { run, task, map, mut entry } = entry(operation, opened_at) else { unreachable!() };
        let closed = Arc::make_mut(&mut entry);
        (closed.state, closed.closed_at) = (EntryState::Satisfied, Some(NOW));
        Write::Entry { run, task, map, entry }
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
            closed(condition(), Time(3)),
            closed(Operation::step(None), NOW),
            Write::Task(Box::new(TaskRow::pending(1, 2))),
            Write::Task(Box::new(retried)),
        ];
        let found = happened(&writes, Cause { closes: true, polls: 3 }, NOW, |_, _| Some(2));
        let spans: Vec<_> = found.iter().map(|it| (it.since, it.attempt)).collect();
        let what: Vec<What> = found.into_iter().map(|it| it.what).collect();
        let (name, kind): (Arc<str>, _) = ("wait".into(), EntryKind::Condition);
        let closed =
            ClosedWait { name: Arc::clone(&name), n: 1, kind, state: EntryState::Satisfied, due: None, polls: Some(3) };
        let wanted = [
            (What::TaskEnded(TaskStatus::Completed), (Some(Time(5)), Some(1))),
            (What::WaitOpened(Arc::clone(&name), kind, None), (None, Some(2))),
            (What::WaitClosed(closed), (Some(Time(3)), Some(2))),
            (What::StepEnded(name, 1, true), (Some(NOW), Some(2))),
            (What::Retried(Time(9)), (None, Some(1))),
        ];
        assert_eq!(what.into_iter().zip(spans).collect::<Vec<_>>(), wanted);
    }

    #[test]
    fn a_wait_that_is_over_when_it_begins_is_opened_and_closed() {
        let condition = || Operation::Condition { proof: None };
        let kinds = |writes: &[Write], closes| -> Vec<&str> {
            let found = happened(writes, Cause { closes, polls: 1 }, NOW, |_, _| Some(2));
            let words = found.iter().map(|it| match it.what {
                What::WaitOpened(..) => "opened",
                What::WaitClosed(..) => "closed",
                _ => "else",
            });
            words.collect()
        };
        assert_eq!(kinds(&[closed(condition(), NOW)], false), ["opened", "closed"]);
        // It was opened with another event of the same moment, or with a write of its own.
        assert_eq!(kinds(&[closed(condition(), NOW)], true), ["closed"]);
        assert_eq!(kinds(&[entry(condition(), NOW), closed(condition(), NOW)], false), ["opened", "closed"]);
        assert_eq!(kinds(&[closed(condition(), Time(3))], false), ["closed"]);
    }
}
