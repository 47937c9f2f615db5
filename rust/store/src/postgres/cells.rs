//! The rows that a commit writes, as the cells of its statement's parts.

use bide_core::record::{NewRun, Parent, RunRowId, RunUpdate};
use bide_core::{Ask, BlockReason, Entry, Failure, Message, RunOptions, RunStatus, TaskRow, Time, Value};

use super::columns::Cell;

/// A run to create, with what the same commit writes to its row.
pub(super) struct Created<'a> {
    pub(super) new: &'a NewRun,
    pub(super) owned: bool,
    pub(super) update: Option<RunUpdate>,
}

impl<'a> Created<'a> {
    pub(super) fn is_plain(&self) -> bool {
        let update_is_plain = self.update.as_ref().is_none_or(|update| {
            let RunUpdate { failure, blocked_by, crashes, cancel, .. } = update;
            failure.is_none() && blocked_by.is_none() && *crashes == 0 && cancel.is_none()
        });
        self.new.parent.is_none() && self.new.options.is_none() && update_is_plain
    }

    pub(super) fn plain(&self) -> [Cell<'a>; 10] {
        let status = self
            .update
            .as_ref()
            .map_or(if self.owned { RunStatus::Running } else { RunStatus::Pending }, |it| it.status);
        let stays = self.update.as_ref().is_none_or(keeps_owner);
        let new = self.new;
        [
            new.id.row().into(),
            Cell::Id(new.id.0),
            new.workflow.into(),
            self.update.as_ref().and_then(|update| update.version).unwrap_or(new.version).into(),
            i64::from(status.code()).into(),
            i64::from(self.owned && stays).into(),
            new.created_at.0.into(),
            micros(self.update.as_ref().and_then(|update| update.ended_at)).into(),
            new.key.as_deref().into(),
            (&*new.inputs).into(),
        ]
    }

    pub(super) fn full(&'a self) -> [Cell<'a>; 25] {
        let [id, uuid, workflow, version, status, owned, created_at, ended_at, key, inputs] = self.plain();
        let update = self.update.as_ref();
        let options: Option<&RunOptions> = self.new.options.as_deref();
        let parent: Option<&Parent> = self.new.parent.as_deref();
        [
            id,
            uuid,
            workflow,
            version,
            status,
            owned,
            created_at,
            ended_at,
            key,
            inputs,
            i64::from(update.is_some_and(RunUpdate::is_held)).into(),
            update.map_or(0, |update| i64::from(update.crashes)).into(),
            update.and_then(|update| json(update.failure.as_ref())).into(),
            update.and_then(|update| update.blocked_by.as_ref().map(BlockReason::to_string)).into(),
            update.and_then(|update| update.cancel.as_ref().map(|cancel| cancel.to_blob())).into(),
            options.and_then(RunOptions::tags_json).into(),
            options.map_or(0, |options| i64::from(options.priority)).into(),
            micros(options.and_then(|options| options.start_at)).into(),
            micros(options.and_then(|options| options.deadline)).into(),
            parent.map(|parent| parent.run.row()).into(),
            parent.map(|parent| parent.task).into(),
            parent.map(|parent| i64::from(parent.map)).into(),
            parent.map(|parent| &*parent.key.name).into(),
            parent.map(|parent| i64::from(parent.key.n)).into(),
            parent.map_or(0, |parent| i64::from(parent.depth)).into(),
        ]
    }
}

/// Whether a run belongs to its runner after this.
pub(super) fn keeps_owner(update: &RunUpdate) -> bool {
    update.status.code() < RunStatus::Paused.code() || update.is_held()
}

/// For each status, and for each once more if the run is held, whether a request has such a run executed again.
pub(super) fn reopens(request: &str) -> i64 {
    let bit = |status: &RunStatus, held: bool| {
        i64::from(Ask::reopens(request, *status, held)) << (status.code() + if held { 8 } else { 0 })
    };
    RunStatus::ALL.iter().map(|status| bit(status, false) | bit(status, true)).sum()
}

pub(super) fn micros(time: Option<Time>) -> Option<i64> {
    time.map(|time| time.0)
}

pub(super) fn json(failure: Option<&Failure>) -> Option<&str> {
    failure.map(Failure::as_json)
}

/// What a message or an answer has in the columns `value` and `failure`.
pub(super) fn content(content: Option<&Result<Value, Failure>>) -> (Cell<'_>, Cell<'_>) {
    match content {
        None => (Cell::Blob(None), Cell::Text(None)),
        Some(Ok(value)) => (value.as_bytes().into(), Cell::Text(None)),
        Some(Err(failure)) => (Cell::Blob(None), failure.as_json().into()),
    }
}

/// The row of a message, with its content or without.
pub(super) fn message(run: RunRowId, message: &Message, with_content: bool) -> [Cell<'_>; 8] {
    let (value, failure) = content(Some(&message.content).filter(|_| with_content));
    [
        run.into(),
        message.number.into(),
        i64::from(message.address.kind.code()).into(),
        (&*message.address.name).into(),
        message.id.as_deref().into(),
        value,
        failure,
        message.sent_at.0.into(),
    ]
}

pub(super) fn task(row: &TaskRow) -> [Cell<'_>; 17] {
    let same = row.first_started_at == row.started_at && row.started_at.is_some();
    [
        row.run.into(),
        row.task.into(),
        i64::from(row.map).into(),
        i64::from(row.status.code()).into(),
        row.sub_status.map(|status| i64::from(status.code())).into(),
        micros(row.started_at).into(),
        micros(row.ended_at).into(),
        if same { Some(-1) } else { micros(row.first_started_at) }.into(),
        i64::from(row.attempts).into(),
        row.mark.code().into(),
        row.waited.into(),
        micros(row.retry_at).into(),
        row.length.map(i64::from).into(),
        row.output.as_ref().map(Value::as_bytes).into(),
        row.changes.as_deref().into(),
        json(row.failure.as_ref()).into(),
        row.blocked_by.as_deref().into(),
    ]
}

pub(super) fn entry<'a>([run, task, map]: [Cell<'a>; 3], row: &'a Entry) -> [Cell<'a>; 15] {
    [
        run,
        task,
        map,
        (&*row.key.name).into(),
        i64::from(row.key.n).into(),
        i64::from(row.seq).into(),
        i64::from(row.kind().code()).into(),
        i64::from(row.state.code()).into(),
        row.opened_at.0.into(),
        micros(row.closed_at).into(),
        micros(row.due()).into(),
        micros(row.deadline).into(),
        Cell::Blob(row.operation.stored_proof()),
        row.value.as_ref().map(Value::as_bytes).into(),
        json(row.failure.as_deref()).into(),
    ]
}

pub(super) fn run(row: &RunUpdate) -> [Cell<'_>; 9] {
    [
        row.run.into(),
        i64::from(row.status.code()).into(),
        json(row.failure.as_ref()).into(),
        micros(row.ended_at).into(),
        row.blocked_by.as_ref().map(BlockReason::to_string).into(),
        i64::from(row.crashes).into(),
        row.version.into(),
        row.cancel.as_ref().map(|cancel| cancel.to_blob()).into(),
        i64::from(row.is_held()).into(),
    ]
}
