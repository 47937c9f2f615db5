//! Messages that anybody sends to a run, and what is read of messages and answers.

use bide_core::record::RunRowId;
use bide_core::{
    Address, Ask, Cancel, EntryKind, Failure, Message, MessageKind, RunId, RunStatus, StoredMessage, Value,
};
use postgres::Row;

use super::PostgresStore;
use super::cells;
use super::changes::Kind;
use super::columns::{Cell, Column, Rows};
use super::create::constraint;
use super::error::Failed;
use super::fields::Fields;
use super::limits;
use super::notify::Hint;
use super::parts::{message, message_columns};
use super::session::{Session, Text, Uuid};
use super::statement::MESSAGES as MESSAGE_PART;
use super::statement::PARTS;
use crate::recorded::parse_signals;
use crate::{Sent, StoreError};

/// The row stays locked: the run neither ends nor gets another message before this one has its number and is committed.
const RECEIVER: &str = "SELECT r.status::int8, v.signals, r.held, \
     EXISTS (SELECT 1 FROM bide.made WHERE runner = 0 AND id = $3::int8) \
     FROM bide.run r LEFT JOIN bide.version v ON v.id = r.version \
     WHERE r.id = $1::int8 AND r.uuid = $2::uuid FOR NO KEY UPDATE OF r";
/// All of it at once, for what needs no other look: a run that has not ended and takes any signal, or a message that is none
/// and has it not executed again. The row is locked before the message gets its number.
const SEND: &str = "WITH r AS MATERIALIZED (SELECT r.id FROM bide.run r LEFT JOIN bide.version v ON v.id = r.version \
     WHERE r.id = $1::int8 AND r.uuid = $2::uuid AND r.status < 3 AND (r.status < 2 OR r.held OR $4::int8 <> 4) \
     AND (v.signals IS NULL OR $4::int8 > 2) FOR NO KEY UPDATE OF r), \
     sent AS (INSERT INTO bide.message (seq, run, number, kind, name, id, value, failure, sent_at) \
     SELECT nextval('bide.message_seq'), r.id, $3::int8, $4::int8, $5::text, $6::text, $7::bytea, $8::text, $9::int8 FROM r \
     WHERE NOT EXISTS (SELECT 1 FROM bide.message m WHERE m.run = $1::int8 AND m.id = $6::text) \
     AND NOT EXISTS (SELECT 1 FROM bide.made d WHERE d.runner = 0 AND d.id = $3::int8) RETURNING 1), \
     made AS (INSERT INTO bide.made (runner, id) SELECT 0, $3::int8 FROM sent), \
     old AS (DELETE FROM bide.made d USING sent WHERE d.runner = 0 AND d.id = ANY ($10::int8[])), \
     change AS (INSERT INTO bide.change (process, kind, run) SELECT $11::int8, 1, $1::int8 FROM sent) \
     SELECT count(*) FROM sent";
const MADE: &str = "INSERT INTO bide.made (runner, id) VALUES (0, $1::int8)";
const FORGET: &str = "DELETE FROM bide.made WHERE runner = 0 AND id = ANY ($1::int8[])";
const INSERT: &str = "INSERT INTO bide.message (seq, run, number, kind, name, id, value, failure, sent_at, applied_at) \
     SELECT nextval('bide.message_seq'), u.run, u.number, u.kind, u.name, u.id, u.value, u.failure, u.sent_at, u.applied_at \
     FROM ";
const INSERT_REST: &str = " ON CONFLICT (run, id) WHERE id IS NOT NULL DO UPDATE SET value = NULL, failure = NULL \
     WHERE excluded.value IS NULL AND excluded.failure IS NULL";
/// The deadline of a run that has ended is over, and so is that of the same run once more.
const REOPEN: &str = "UPDATE bide.run SET deadline = CASE WHEN status < 3 THEN deadline END, status = 1, ended_at = NULL, \
     runner = NULL, epoch = NULL WHERE id = $1::int8";
const END: &str = "UPDATE bide.run SET status = 5, ended_at = $3::int8, cancel = $4::bytea, blocked_by = NULL, held = false \
     WHERE id = $1::int8 AND uuid = $2::uuid AND status < 3 AND runner IS NULL";
const END_TASKS: &str = "UPDATE bide.task SET status = 6, sub_status = NULL, ended_at = $2::int8, blocked_by = $3::text, \
     entered = 0, retry_at = NULL WHERE run = $1::int8 AND status < 3";
const SAME_ID: &str = "SELECT 1 FROM bide.message WHERE run = $1::int8 AND id = $2::text";
const ANSWERED: &str = concat!(
    "SELECT ",
    message_columns!(),
    " FROM bide.message m WHERE m.run = $1::int8 AND m.kind = 2 AND m.name = $2::text"
);
const CALLBACK: &str = "SELECT 1 FROM bide.journal WHERE run = $1::int8 AND kind = $2::int8 AND value = $3::bytea";
const MESSAGES: &str = concat!(
    "SELECT ",
    message_columns!(),
    " FROM bide.message m WHERE m.run = $1::int8 AND m.seq > $2::int8 ORDER BY m.seq"
);
/// The control requests of a run.
const REQUESTS: &str =
    concat!("SELECT ", message_columns!(), " FROM bide.message m WHERE m.run = $1::int8 AND m.kind = 4 ORDER BY m.seq");
const MAIL: &str = "SELECT seq, run, pg_current_snapshot()::text FROM bide.message WHERE seq > $1::int8 ORDER BY seq";
/// Of transactions that were not committed when the snapshot was taken: their numbers may be lower than some that were.
const MAIL_SINCE: &str = "SELECT greatest(seq, $1::int8), run, pg_current_snapshot()::text FROM bide.message \
     WHERE xact >= pg_snapshot_xmin($2::text::pg_snapshot) \
     AND NOT pg_visible_in_snapshot(xact, $2::text::pg_snapshot) ORDER BY seq";
const ANSWER: &str = "SELECT ARRAY[]::int8[], ARRAY[failure]::text[], ARRAY[value]::bytea[] FROM bide.answer \
     WHERE number = $1::int8 AND run = $2::int8";

/// How many records of sent messages are kept until they are deleted together.
const KEPT: usize = 64;

/// Inserts a message, or only its id if a wait has consumed it.
pub(super) fn insert(
    session: &mut Session<'_>,
    run: RunRowId,
    message: &Message,
    consumed: bool,
) -> Result<(), Failed> {
    let is_control = message.address.kind == MessageKind::Control;
    let Some(part) = PARTS.get(MESSAGE_PART) else { return Ok(()) };
    let mut rows = Rows::of(part.columns);
    let applied_at = (is_control && consumed).then_some(message.sent_at.0);
    let [run, number, kind, name, id, value, failure, sent_at] = cells::message(run, message, !consumed || is_control);
    rows.push([run, number, kind, name, id, value, failure, sent_at, Cell::Int(applied_at), 0.into()]);
    let sql = format!("{INSERT}{}{INSERT_REST}", super::columns::unnest(part.columns, 0));
    let params: Vec<_> = rows.columns.iter().map(Column::as_param).collect();
    session.execute(&sql, &params).map(drop)
}

impl PostgresStore {
    fn read_message(&self, row: &Row, run: RunId) -> Result<StoredMessage, Failed> {
        Ok(message(&Fields::read(row, 0, self.name_str(), run, "message")?)?)
    }

    pub(super) fn read_requests(&self, run: RunId) -> Result<Vec<Message>, StoreError> {
        self.connections.reader(|session| {
            let rows = session.query(REQUESTS, &[&run.row()])?;
            rows.iter().map(|row| Ok(self.read_message(row, run)?.message)).collect()
        })
    }

    pub(super) fn read_messages(&self, run: RunId, after: i64) -> Result<Vec<StoredMessage>, StoreError> {
        self.connections.reader(|session| {
            let rows = session.query(MESSAGES, &[&run.row(), &after])?;
            rows.iter().map(|row| self.read_message(row, run)).collect()
        })
    }

    /// The messages that have come since one, each as its `seq` and its run.
    pub(super) fn read_mail(&self, after: i64) -> Result<Vec<(i64, RunRowId)>, StoreError> {
        self.connections.reader(|session| {
            let rows = match self.remembered.mail_positions.get(after) {
                Some(snapshot) => session.query(MAIL_SINCE, &[&after, &Text::from(&*snapshot)])?,
                None => session.query(MAIL, &[&after])?,
            };
            let mut mail: Vec<(i64, RunRowId)> = Vec::with_capacity(rows.len());
            for row in &rows {
                mail.push((row.try_get(0)?, row.try_get(1)?));
            }
            if let (Some((last, _)), Some(row)) = (mail.last(), rows.last()) {
                self.remembered.mail_positions.set(*last, row.try_get(2)?);
            }
            Ok(mail)
        })
    }

    pub(super) fn read_answer(&self, run: RunId, request: i64) -> Result<Option<Result<Value, Failure>>, StoreError> {
        self.connections.reader(|session| {
            let Some(row) = session.query_opt(ANSWER, &[&request, &run.row()])? else { return Ok(None) };
            let fields = Fields::read(&row, 0, self.name_str(), run, "answer")?;
            let (value, failure) = (fields.value(0), fields.failure(0, "failure")?);
            Ok(Some(failure.map_or_else(|| Ok(value.unwrap_or(Value::NONE)), Err)))
        })
    }

    /// Ends a run that nobody executes: see [`crate::Store::end_unowned`].
    pub(super) fn end_cancelled(&self, run: RunId, cancel: &Cancel, force: &Message) -> Result<bool, StoreError> {
        let (row, blob, text) = (run.row(), cancel.to_blob(), cancel.text());
        let ended = self.connections.writer(|session| {
            session.transact(|session| {
                let changed = session.execute(END, &[&row, &Uuid(run.0), &cancel.at.0, &blob])?;
                if changed == 0 {
                    return Ok(false);
                }
                session.execute(END_TASKS, &[&row, &cancel.at.0, &Text::from(&*text)])?;
                limits::release_run(session, row)?;
                insert(session, row, force, true)?;
                self.announce(session, Kind::Unowned, Some(row))?;
                Ok(true)
            })
        })?;
        if ended {
            self.changes.lock().run(row);
            self.changes.unowned();
            self.notifier.send(Hint::Look);
        }
        Ok(ended)
    }

    /// Stores a message for the run's owner.
    pub(super) fn store_message(&self, run: RunId, message: &Message) -> Result<Sent, StoreError> {
        let forgotten = {
            let sent = self.remembered.sent.lock();
            if sent.len() >= KEPT { sent.clone() } else { Vec::new() }
        };
        let mut reopened = false;
        let sent = self.connections.writer(|session| {
            if self.send_at_once(session, run, message, &forgotten)? {
                return Ok(Sent::Stored);
            }
            session.transact(|session| {
                let (sent, reopens) = self.send_once(session, run, message)?;
                reopened = reopens;
                if !forgotten.is_empty() {
                    session.execute(FORGET, &[&forgotten])?;
                }
                Ok(sent)
            })
        })?;
        if sent == Sent::Stored {
            let mut numbers = self.remembered.sent.lock();
            numbers.retain(|number| !forgotten.contains(number));
            numbers.push(message.number);
            drop(numbers);
            if reopened {
                self.changes.lock().run(run.row());
                self.changes.unowned();
            }
            self.changes.mail();
            self.notifier.send(Hint::Look);
        }
        Ok(sent)
    }

    /// Stores a message if nothing else is to be looked at; false if something is.
    fn send_at_once(
        &self,
        session: &mut Session<'_>,
        run: RunId,
        message: &Message,
        forgotten: &[i64],
    ) -> Result<bool, Failed> {
        let Address { kind, name } = &message.address;
        // Answers to callbacks are looked up.
        if *kind == MessageKind::Answer {
            return Ok(false);
        }
        let (value, failure) = match &message.content {
            Ok(value) => (Some(value.as_bytes()), None),
            Err(failure) => (None, Some(Text::from(failure.as_json()))),
        };
        let id = message.id.as_deref().map(Text::from);
        let sent = session.query_opt(
            SEND,
            &[
                &run.row(),
                &Uuid(run.0),
                &message.number,
                &i64::from(kind.code()),
                &Text::from(&**name),
                &id,
                &value,
                &failure,
                &message.sent_at.0,
                &forgotten,
                &self.process.number,
            ],
        );
        match sent {
            Ok(row) => Ok(row.map_or(Ok(0), |row| row.try_get::<_, i64>(0))? > 0),
            // The same message, or another one with its id, has come meanwhile.
            Err(Failed::Server(error)) if constraint(&error).is_some() => Ok(false),
            Err(failed) => Err(failed),
        }
    }

    /// Within a transaction. Also whether the message has the run executed again.
    fn send_once(&self, session: &mut Session<'_>, run: RunId, message: &Message) -> Result<(Sent, bool), Failed> {
        let found = session.query_opt(RECEIVER, &[&run.row(), &Uuid(run.0), &message.number])?;
        let Some(row) = found else { return Ok((Sent::NoRun, false)) };
        let (status, held, made): (i64, bool, bool) = (row.try_get(0)?, row.try_get(2)?, row.try_get(3)?);
        if made {
            return Ok((Sent::Stored, false));
        }
        let status = RunStatus::from_code(status);
        let Address { kind, name } = &message.address;
        let reopens = *kind == MessageKind::Control && status.is_some_and(|status| Ask::reopens(name, status, held));
        if !reopens {
            let signals: Option<Text<'_>> = row.try_get(1)?;
            let signals = signals.and_then(|signals| parse_signals(&signals.0));
            if let Some(refused) = self.refusal(session, run, message, status, signals)? {
                return Ok((refused, false));
            }
        }
        insert(session, run.row(), message, false)?;
        session.execute(MADE, &[&message.number])?;
        if reopens {
            session.execute(REOPEN, &[&run.row()])?;
            self.announce(session, Kind::Unowned, Some(run.row()))?;
        }
        self.announce(session, Kind::Mail, Some(run.row()))?;
        Ok((Sent::Stored, reopens))
    }

    /// Why a message is not stored, if it is not.
    fn refusal(
        &self,
        session: &mut Session<'_>,
        run: RunId,
        message: &Message,
        status: Option<RunStatus>,
        signals: Option<Vec<String>>,
    ) -> Result<Option<Sent>, Failed> {
        let Address { kind, name } = &message.address;
        if *kind == MessageKind::Answer
            && let Some(row) = session.query_opt(ANSWERED, &[&run.row(), &Text::from(&**name)])?
        {
            let repeats = self.read_message(&row, run).is_ok_and(|first| message.repeats(&first.message));
            return Ok(Some(if repeats { Sent::Duplicate } else { Sent::Answered }));
        }
        if let Some(status) = status.filter(|status| status.is_ended()) {
            return Ok(Some(Sent::Ended(status)));
        }
        if *kind == MessageKind::Answer {
            let secret = Value::tagged(b's', name.as_bytes());
            let code = i64::from(EntryKind::Callback.code());
            if session.query_opt(CALLBACK, &[&run.row(), &code, &secret.as_bytes()])?.is_none() {
                return Ok(Some(Sent::NoCallback));
            }
        } else if !matches!(kind, MessageKind::Withdrawal | MessageKind::Control)
            && let Some(signals) = signals
            && !signals.iter().any(|known| **known == **name)
        {
            return Ok(Some(Sent::Undeclared(signals)));
        }
        if let Some(id) = &message.id
            && session.query_opt(SAME_ID, &[&run.row(), &Text::from(&**id)])?.is_some()
        {
            return Ok(Some(if *kind == MessageKind::Answer { Sent::IdTaken } else { Sent::Duplicate }));
        }
        Ok(None)
    }
}
