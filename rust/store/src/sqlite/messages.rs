//! Messages to runs: those that a runner writes with its commits, and those that anybody sends to a run of another. And
//! the answers to requests.

use bide_core::record::RunRowId;
use bide_core::{
    Address, Ask, Cancel, EntryKind, Failure, Message, MessageKind, RunId, RunStatus, StoredMessage, Time, Value,
};
use rusqlite::{Connection, OptionalExtension, params};

use super::SqliteStore;
use super::fields::Fields;
use super::limits;
use crate::recorded::parse_signals;
use crate::{Sent, StoreError};

/// A run has one message with an id. A consumed one that is there already, sent from elsewhere, is consumed too.
/// Its `seq` is higher than any before, also than those of rows that are gone.
pub(super) const MESSAGE: &str = "INSERT INTO message \
     (seq, run, number, kind, name, id, value, failure, sent_at, applied_at) \
     VALUES (1 + max((SELECT coalesce(max(seq), 0) FROM message), (SELECT seq FROM message_gone WHERE id = 0)), \
     ?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9) ON CONFLICT (run, id) WHERE id IS NOT NULL \
     DO UPDATE SET value = NULL, failure = NULL WHERE ?6 IS NULL AND ?7 IS NULL";
/// By its place among the messages of its run: an index of `number` would be one more page for each message that is sent.
pub(super) const CONSUMED: &str = "DELETE FROM message WHERE seq = \
     (SELECT seq FROM message WHERE run = ?1 AND seq >= ?2 AND number = ?3 ORDER BY seq LIMIT 1)";
/// The run has acted on a control request.
pub(super) const APPLIED: &str = "UPDATE message SET applied_at = ?4 WHERE seq = \
     (SELECT seq FROM message WHERE run = ?1 AND seq >= ?2 AND number = ?3 ORDER BY seq LIMIT 1)";
const CONSUMED_ID: &str = "UPDATE message SET value = NULL, failure = NULL WHERE run = ?1 AND id = ?2";
const MESSAGES: &str = "SELECT seq, number, kind, name, id, value, failure, sent_at, applied_at FROM message \
     WHERE run = ?1 AND seq > ?2 ORDER BY seq";
pub(super) const ALL_MESSAGES: &str = "SELECT seq, number, kind, name, id, value, failure, sent_at, applied_at FROM message \
     WHERE run = ?1 ORDER BY seq";
/// The control requests of a run.
pub(super) const REQUESTS: &str = "SELECT seq, number, kind, name, id, value, failure, sent_at, applied_at FROM message \
     WHERE run = ?1 AND kind = 4 ORDER BY seq";
const MAIL: &str = "SELECT seq, run FROM message WHERE seq > ?1 ORDER BY seq";
const RECEIVER: &str = "SELECT r.status, v.signals, o.lock, r.held FROM run r LEFT JOIN version v ON v.id = r.version \
     LEFT JOIN runner o ON o.id = r.runner WHERE r.id = ?1 AND r.uuid = ?2";
const STATUS: &str = "SELECT status, held FROM run WHERE id = ?1";
/// The deadline of a run that has ended is over, and so is that of the same run once more.
const REOPEN: &str = "UPDATE run SET deadline = CASE WHEN status < 3 THEN deadline END, status = 1, ended_at = NULL, \
     runner = NULL, epoch = NULL WHERE id = ?1";
const END: &str = "UPDATE run SET status = 5, ended_at = ?3, cancel = ?4, blocked_by = NULL, held = 0 \
     WHERE id = ?1 AND uuid = ?2 AND status < 3 AND runner IS NULL";
const END_TASKS: &str = "UPDATE task SET status = 6, sub_status = NULL, ended_at = ?2, blocked_by = ?3, entered = 0, \
     retry_at = NULL WHERE run = ?1 AND status < 3";
const SAME_ID: &str = "SELECT 1 FROM message WHERE run = ?1 AND id = ?2";
const ANSWERED: &str = "SELECT seq, number, kind, name, id, value, failure, sent_at, applied_at FROM message \
     WHERE run = ?1 AND kind = 2 AND name = ?2";
const CALLBACK: &str = "SELECT 1 FROM journal WHERE run = ?1 AND kind = ?2 AND value = ?3";

/// The answer to a request. The first one stands.
pub(super) const ANSWER: &str = "INSERT INTO answer (number, run, value, failure, answered_at) \
     VALUES (?1, ?2, ?3, ?4, ?5) ON CONFLICT (number) DO NOTHING";
const ANSWER_TO: &str = "SELECT value, failure FROM answer WHERE number = ?1 AND run = ?2";

/// For the test that no hot statement scans a table.
#[cfg(test)]
pub(super) const HOT: &[&str] = &[
    MESSAGE,
    CONSUMED,
    APPLIED,
    CONSUMED_ID,
    STATUS,
    REOPEN,
    END,
    END_TASKS,
    MESSAGES,
    ALL_MESSAGES,
    REQUESTS,
    MAIL,
    RECEIVER,
    SAME_ID,
    ANSWERED,
    CALLBACK,
    ANSWER,
    ANSWER_TO,
];

/// Writes a message, or only its id if a wait has consumed it. Answers how many bytes it takes.
pub(super) fn insert(
    statement: &mut rusqlite::Statement<'_>,
    run: RunRowId,
    message: &Message,
    consumed: bool,
) -> rusqlite::Result<usize> {
    let is_control = message.address.kind == MessageKind::Control;
    let (value, failure) = columns(Some(&message.content).filter(|_| !consumed || is_control));
    statement.execute(params![
        run,
        message.number,
        message.address.kind.code(),
        &*message.address.name,
        message.id.as_deref(),
        value,
        failure,
        message.sent_at.0,
        (is_control && consumed).then_some(message.sent_at.0),
    ])?;
    Ok(value.map_or(0, <[u8]>::len) + failure.map_or(0, str::len))
}

/// What a message or an answer has in the columns `value` and `failure`.
fn columns(content: Option<&Result<Value, Failure>>) -> (Option<&[u8]>, Option<&str>) {
    match content {
        None => (None, None),
        Some(Ok(value)) => (Some(value.as_bytes()), None),
        Some(Err(failure)) => (None, Some(failure.as_json())),
    }
}

/// Writes the answer to a request. Returns how many bytes it takes.
pub(super) fn insert_answer(
    statement: &mut rusqlite::Statement<'_>,
    run: RunRowId,
    request: i64,
    answer: &Result<Value, Failure>,
    at: Time,
) -> rusqlite::Result<usize> {
    let (value, failure) = columns(Some(answer));
    statement.execute(params![request, run, value, failure, at.0])?;
    Ok(value.map_or(0, <[u8]>::len) + failure.map_or(0, str::len))
}

/// Has a run that has ended or stopped executed again: somebody is to claim it.
fn reopen(connection: &Connection, run: RunRowId) -> rusqlite::Result<()> {
    connection.prepare_cached(REOPEN)?.execute([run]).map(drop)
}

/// Whether a run was not deleted.
pub(super) fn is_there(connection: &Connection, run: RunRowId) -> rusqlite::Result<bool> {
    connection.prepare_cached(STATUS)?.exists([run])
}

/// As `reopen`, if this request asks for it.
pub(super) fn reopen_row(connection: &Connection, run: RunRowId, request: &str) -> rusqlite::Result<()> {
    let mut standing = connection.prepare_cached(STATUS)?;
    let found = standing.query_row([run], |row| Ok((row.get::<_, i64>(0)?, row.get::<_, bool>(1)?))).optional()?;
    match found.and_then(|(status, held)| Some((RunStatus::from_code(status)?, held))) {
        Some((status, held)) if Ask::reopens(request, status, held) => reopen(connection, run),
        _ => Ok(()),
    }
}

/// A wait has consumed a message.
pub(super) fn consume(
    connection: &Connection,
    run: RunRowId,
    number: i64,
    id: Option<&str>,
    from: i64,
) -> rusqlite::Result<()> {
    match id {
        None => connection.prepare_cached(CONSUMED)?.execute(params![run, from, number])?,
        Some(id) => connection.prepare_cached(CONSUMED_ID)?.execute(params![run, id])?,
    };
    Ok(())
}

pub(super) fn read(fields: &Fields<'_>) -> Result<StoredMessage, StoreError> {
    let (value, failure) = (fields.value(5, "value")?, fields.failure(6, "failure")?);
    let applied = fields.time(8, "applied_at")?.is_some();
    let consumed = applied || (value.is_none() && failure.is_none());
    let content = match failure {
        Some(failure) => Err(failure),
        None => Ok(value.unwrap_or(Value::NONE)),
    };
    let address = Address { kind: fields.code(2, "kind", MessageKind::from_code)?, name: fields.get(3, "name")? };
    let message = Message {
        number: fields.get(1, "number")?,
        address,
        id: fields.text(4, "id")?,
        content,
        sent_at: Time(fields.get(7, "sent_at")?),
    };
    Ok(StoredMessage { seq: fields.get(0, "seq")?, message, consumed })
}

impl SqliteStore {
    /// Ends a run that nobody executes: see [`crate::Store::end_unowned`].
    pub(super) fn end_cancelled(&self, run: RunId, cancel: &Cancel, force: &Message) -> Result<bool, StoreError> {
        let (row, uuid) = (run.row(), run.0.to_be_bytes());
        let ended = self.transact(|connection| {
            let blob = cancel.to_blob();
            let changed = connection.prepare_cached(END)?.execute(params![row, &uuid[..], cancel.at.0, blob])?;
            if changed == 0 {
                return Ok(false);
            }
            connection.prepare_cached(END_TASKS)?.execute(params![row, cancel.at.0, cancel.text()])?;
            limits::release_run(connection, row)?;
            let mut statement = connection.prepare_cached(MESSAGE)?;
            insert(&mut statement, row, force, true)?;
            Ok(true)
        })?;
        if ended {
            self.changes.lock().run(row);
            self.changes.unowned();
            self.live()?.wake.tell_watchers(&[row]);
        }
        Ok(ended)
    }

    pub(super) fn read_messages(&self, run: RunId, after: i64) -> Result<Vec<StoredMessage>, StoreError> {
        let reader = self.reader()?;
        let explain = |error: rusqlite::Error| self.identity.error(&error);
        let mut statement = reader.prepare_cached(MESSAGES).map_err(explain)?;
        let mut rows = statement.query([run.row(), after]).map_err(explain)?;
        let mut all = Vec::new();
        while let Some(row) = rows.next().map_err(explain)? {
            all.push(read(&Fields { row, identity: &self.identity.name, run, table: "message" })?);
        }
        Ok(all)
    }

    /// See [`crate::Store::arrivals`].
    pub(super) fn count_arrivals(&self) -> Option<u64> {
        self.live().ok()?.writer.try_lock()?.arrivals().ok()
    }

    /// The messages that have come since one, each as its `seq` and its run.
    pub(super) fn read_mail(&self, after: i64) -> Result<Vec<(i64, RunRowId)>, StoreError> {
        let reader = self.reader()?;
        let read = || -> rusqlite::Result<_> {
            let mut statement = reader.prepare_cached(MAIL)?;
            statement.query_map([after], |row| Ok((row.get(0)?, row.get(1)?)))?.collect()
        };
        read().map_err(|error| self.identity.error(&error))
    }

    pub(super) fn read_answer(&self, run: RunId, request: i64) -> Result<Option<Result<Value, Failure>>, StoreError> {
        let reader = self.reader()?;
        let explain = |error: rusqlite::Error| self.identity.error(&error);
        let mut statement = reader.prepare_cached(ANSWER_TO).map_err(explain)?;
        let mut rows = statement.query([request, run.row()]).map_err(explain)?;
        let Some(row) = rows.next().map_err(explain)? else { return Ok(None) };
        let fields = Fields { row, identity: &self.identity.name, run, table: "answer" };
        let (value, failure) = (fields.value(0, "value")?, fields.failure(1, "failure")?);
        Ok(Some(failure.map_or_else(|| Ok(value.unwrap_or(Value::NONE)), Err)))
    }

    /// The answer to a callback that is there already, or why it does not read back.
    fn first_answer(
        &self,
        connection: &Connection,
        run: RunId,
        secret: &str,
    ) -> rusqlite::Result<Option<Result<Message, StoreError>>> {
        let mut statement = connection.prepare_cached(ANSWERED)?;
        let mut rows = statement.query(params![run.row(), secret])?;
        let Some(row) = rows.next()? else { return Ok(None) };
        let fields = Fields { row, identity: &self.identity.name, run, table: "message" };
        Ok(Some(read(&fields).map(|stored| stored.message)))
    }

    /// Stores a message for the run's owner.
    pub(super) fn store_message(&self, run: RunId, message: &Message) -> Result<Sent, StoreError> {
        let mut owner = None;
        let mut reopened = false;
        let sent = self.transact(|connection| {
            let mut receiver = connection.prepare_cached(RECEIVER)?;
            let found = receiver.query_row(params![run.row(), &run.0.to_be_bytes()[..]], |row| {
                owner = row.get(2)?;
                Ok((row.get::<_, i64>(0)?, row.get::<_, Option<String>>(1)?, row.get::<_, bool>(3)?))
            });
            let Some((status, signals, held)) = found.optional()? else { return Ok(Sent::NoRun) };
            let Address { kind, name } = &message.address;
            if *kind == MessageKind::Control
                && let Some(status) = RunStatus::from_code(status)
                && Ask::reopens(name, status, held)
            {
                reopen(connection, run.row())?;
                reopened = true;
                let mut statement = connection.prepare_cached(MESSAGE)?;
                insert(&mut statement, run.row(), message, false)?;
                return Ok(Sent::Stored);
            }
            if *kind == MessageKind::Answer
                && let Some(first) = self.first_answer(connection, run, name)?
            {
                let repeats = first.is_ok_and(|first| message.repeats(&first));
                return Ok(if repeats { Sent::Duplicate } else { Sent::Answered });
            }
            if let Some(status) = RunStatus::from_code(status).filter(|status| status.is_ended()) {
                return Ok(Sent::Ended(status));
            }
            if *kind == MessageKind::Answer {
                let secret = Value::tagged(b's', name.as_bytes());
                let code = EntryKind::Callback.code();
                if !connection.prepare_cached(CALLBACK)?.exists(params![run.row(), code, secret.as_bytes()])? {
                    return Ok(Sent::NoCallback);
                }
            } else if !matches!(kind, MessageKind::Withdrawal | MessageKind::Control)
                && let Some(signals) = signals.as_deref().and_then(parse_signals)
                && !signals.iter().any(|known| **known == **name)
            {
                return Ok(Sent::Undeclared(signals));
            }
            if let Some(id) = &message.id
                && connection.prepare_cached(SAME_ID)?.exists(params![run.row(), &**id])?
            {
                return Ok(if *kind == MessageKind::Answer { Sent::IdTaken } else { Sent::Duplicate });
            }
            let mut statement = connection.prepare_cached(MESSAGE)?;
            insert(&mut statement, run.row(), message, false)?;
            Ok(Sent::Stored)
        })?;
        if sent == Sent::Stored {
            self.debt.add(3072);
            let live = self.live()?;
            if reopened {
                self.changes.lock().run(run.row());
                self.changes.unowned();
                live.wake.poll_others();
            }
            match owner {
                Some(byte) if byte != live.lock.own() => live.wake.tell(byte, run.row()),
                _ => self.changes.mail(),
            }
        }
        Ok(sent)
    }
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "a test")]
mod tests {
    use std::time::Duration;

    use super::super::error::Identity;
    use super::super::schema::{MIGRATIONS, migrate};
    use super::*;

    fn to(connection: &Connection, migrations: &[&str]) {
        let identity = Identity { name: "test.db".into(), busy_timeout: Duration::from_secs(1) };
        migrate(connection, &identity, migrations).unwrap();
    }

    /// Sends a message to run 1, and returns its `seq`.
    fn send(connection: &Connection, number: i64) -> i64 {
        let message =
            Message { number, address: Address::signal("go"), id: None, content: Ok(Value::NONE), sent_at: Time(1) };
        insert(&mut connection.prepare(MESSAGE).unwrap(), 1, &message, false).unwrap();
        connection.last_insert_rowid()
    }

    #[test]
    fn no_connection_gives_the_number_of_a_message_that_another_has_deleted() {
        let directory = tempfile::tempdir().unwrap();
        let connections = [(); 2].map(|()| Connection::open(directory.path().join("bide.db")).unwrap());
        to(&connections[0], MIGRATIONS);
        let mut newest = 0;
        for number in 0..20 {
            let [sender, receiver] = if number % 3 == 0 { [0, 1] } else { [1, 0] };
            for number in [number, -number] {
                let seq = send(&connections[sender], number);
                assert!(seq > newest, "{seq} after {newest}");
                newest = seq;
            }
            // The newest, or both: then the table is empty.
            for number in [-number, number].into_iter().take(1 + number as usize % 2) {
                consume(&connections[receiver], 1, number, None, 0).unwrap();
            }
        }
    }

    #[test]
    fn numbers_go_on_after_those_of_an_older_schema() {
        let connection = Connection::open_in_memory().unwrap();
        to(&connection, &MIGRATIONS[..3]);
        let insert = "INSERT INTO message (run, number, kind, name, id, sent_at) VALUES (1, ?1, 0, 'go', ?1, 1)";
        for number in 1..=9 {
            connection.execute(insert, [number]).unwrap();
        }
        connection.execute("DELETE FROM message WHERE seq > 4", []).unwrap();
        to(&connection, MIGRATIONS);
        let mut kept = connection.prepare("SELECT seq, number, id FROM message ORDER BY seq").unwrap();
        let kept = kept.query_map([], |row| Ok((row.get(0)?, row.get(1)?, row.get(2)?)));
        let kept: Vec<(i64, i64, String)> = kept.unwrap().map(Result::unwrap).collect();
        assert_eq!(kept, [1, 2, 3, 4].map(|number| (number, number, number.to_string())));
        assert_eq!(send(&connection, 10), 10);
    }
}
