//! The one statement of a commit: what it consists of, and how it is put together from that.
//!
//! All parts see what was committed before, and none sees what another one writes: a row is in one part once. The fence is
//! a lock of the runner's row, so that a fencer of the runner waits for the commit, and the commit that waited for that
//! finds no row and writes nothing. A bare look at the epoch would be none.

use super::columns::{Kind, unnest};
use Kind::{Blob, Float, Id, Int, Text};

/// A part of the statement: what one kind of writes does.
pub(super) struct Part {
    /// How the statement names it.
    name: &'static str,
    /// The columns of its rows `u`.
    pub(super) columns: &'static [(&'static str, Kind)],
    /// What it does with them: `{u}` are the rows, `f` has one row unless the runner was fenced.
    sql: &'static str,
}

/// The parts, in an order that the bits of a set have too.
pub(super) const PARTS: [Part; 20] = [
    Part {
        name: "new_run",
        columns: &[
            ("id", Int),
            ("uuid", Id),
            ("workflow", Int),
            ("version", Int),
            ("status", Int),
            ("owned", Int),
            ("created_at", Int),
            ("ended_at", Int),
            ("key", Text),
            ("inputs", Blob),
        ],
        sql: "INSERT INTO bide.run (id, uuid, workflow, version, status, runner, epoch, created_at, ended_at, key, inputs) \
              SELECT u.id, u.uuid, u.workflow, u.version, u.status, CASE WHEN u.owned = 1 THEN $1::int8 END, \
              CASE WHEN u.owned = 1 THEN $2::int8 END, u.created_at, u.ended_at, u.key, u.inputs FROM f, {u}",
    },
    Part {
        name: "full_run",
        columns: &[
            ("id", Int),
            ("uuid", Id),
            ("workflow", Int),
            ("version", Int),
            ("status", Int),
            ("owned", Int),
            ("created_at", Int),
            ("ended_at", Int),
            ("key", Text),
            ("inputs", Blob),
            ("held", Int),
            ("crashes", Int),
            ("failure", Text),
            ("blocked_by", Text),
            ("cancel", Blob),
            ("tags", Text),
            ("priority", Int),
            ("start_at", Int),
            ("deadline", Int),
            ("parent", Int),
            ("parent_task", Int),
            ("parent_map", Int),
            ("parent_name", Text),
            ("parent_n", Int),
            ("depth", Int),
        ],
        sql: "INSERT INTO bide.run (id, uuid, workflow, version, status, runner, epoch, created_at, ended_at, key, inputs, held, \
              crashes, failure, blocked_by, cancel, tags, priority, start_at, deadline, parent, parent_task, parent_map, \
              parent_name, parent_n, depth) \
              SELECT u.id, u.uuid, u.workflow, u.version, u.status, CASE WHEN u.owned = 1 THEN $1::int8 END, \
              CASE WHEN u.owned = 1 THEN $2::int8 END, u.created_at, u.ended_at, u.key, u.inputs, u.held = 1, u.crashes, \
              u.failure, u.blocked_by, u.cancel, u.tags, u.priority, u.start_at, u.deadline, u.parent, u.parent_task, \
              u.parent_map, u.parent_name, u.parent_n, u.depth FROM f, {u}",
    },
    Part {
        name: "tag",
        columns: &[("run", Int), ("name", Text), ("value", Text)],
        sql: "INSERT INTO bide.run_tag (run, name, value) SELECT u.run, u.name, u.value FROM f, {u}",
    },
    Part {
        name: "done",
        columns: &[("run", Int), ("task", Int), ("map", Int), ("output", Blob), ("started_at", Int), ("ended_at", Int)],
        sql: "INSERT INTO bide.task (run, task, map, status, output, started_at, ended_at) \
              SELECT u.run, u.task, u.map, 3, u.output, u.started_at, u.ended_at FROM f, {u}",
    },
    Part {
        name: "task",
        columns: &[
            ("run", Int),
            ("task", Int),
            ("map", Int),
            ("status", Int),
            ("sub_status", Int),
            ("started_at", Int),
            ("ended_at", Int),
            ("first_started_at", Int),
            ("attempts", Int),
            ("entered", Int),
            ("waited", Int),
            ("retry_at", Int),
            ("length", Int),
            ("output", Blob),
            ("changes", Blob),
            ("failure", Text),
            ("blocked_by", Text),
        ],
        sql: "INSERT INTO bide.task AS t (run, task, map, status, sub_status, started_at, ended_at, first_started_at, attempts, \
              entered, waited, retry_at, length, output, changes, failure, blocked_by) SELECT u.* FROM f, {u} \
              ON CONFLICT (run, task, map) DO UPDATE SET status = excluded.status, sub_status = excluded.sub_status, \
              started_at = excluded.started_at, ended_at = excluded.ended_at, first_started_at = excluded.first_started_at, \
              attempts = excluded.attempts, entered = excluded.entered, waited = excluded.waited, \
              retry_at = excluded.retry_at, length = excluded.length, output = excluded.output, changes = excluded.changes, \
              failure = excluded.failure, blocked_by = excluded.blocked_by",
    },
    Part {
        name: "entry",
        columns: &[
            ("run", Int),
            ("task", Int),
            ("map", Int),
            ("name", Text),
            ("n", Int),
            ("seq", Int),
            ("kind", Int),
            ("state", Int),
            ("opened_at", Int),
            ("closed_at", Int),
            ("due", Int),
            ("deadline", Int),
            ("proof", Blob),
            ("value", Blob),
            ("failure", Text),
        ],
        sql: "INSERT INTO bide.journal AS j (run, task, map, name, n, seq, kind, state, opened_at, closed_at, due, deadline, \
              proof, value, failure) SELECT u.* FROM f, {u} \
              ON CONFLICT (run, task, map, name, n) DO UPDATE SET seq = excluded.seq, kind = excluded.kind, \
              state = excluded.state, opened_at = excluded.opened_at, closed_at = excluded.closed_at, due = excluded.due, \
              deadline = excluded.deadline, proof = excluded.proof, value = excluded.value, failure = excluded.failure",
    },
    Part {
        name: "drop_entry",
        columns: &[("run", Int), ("task", Int), ("map", Int), ("name", Text), ("n", Int)],
        sql: "DELETE FROM bide.journal j USING f, {u} \
              WHERE j.run = u.run AND j.task = u.task AND j.map = u.map AND j.name = u.name AND j.n = u.n",
    },
    Part {
        name: "drop_element",
        columns: &[("run", Int), ("task", Int)],
        sql: "DELETE FROM bide.task t USING f, {u} WHERE t.run = u.run AND t.task = u.task AND t.map >= 0",
    },
    Part {
        name: "drop_element_entry",
        columns: &[("run", Int), ("task", Int)],
        sql: "DELETE FROM bide.journal j USING f, {u} WHERE j.run = u.run AND j.task = u.task AND j.map >= 0",
    },
    Part {
        name: "message",
        columns: MESSAGE,
        sql: "INSERT INTO bide.message AS m (seq, run, number, kind, name, id, value, failure, sent_at, applied_at) \
              SELECT nextval('bide.message_seq'), u.run, u.number, u.kind, u.name, u.id, u.value, u.failure, u.sent_at, \
              u.applied_at FROM f, {u} WHERE u.if_there = 0 OR EXISTS (SELECT 1 FROM bide.run r WHERE r.id = u.run) \
              ON CONFLICT (run, id) WHERE id IS NOT NULL DO UPDATE SET value = NULL, failure = NULL \
              WHERE excluded.value IS NULL AND excluded.failure IS NULL",
    },
    // To another run, which anybody may execute or nobody: its row is locked before the message gets its number, so that
    // its messages become visible in their order.
    Part {
        name: "request",
        columns: REQUEST,
        sql: "INSERT INTO bide.message AS m (seq, run, number, kind, name, id, value, failure, sent_at) \
              SELECT nextval('bide.message_seq'), l.* FROM (SELECT u.run, u.number, u.kind, u.name, u.id, u.value, u.failure, \
              u.sent_at FROM f, {u} JOIN bide.run r ON r.id = u.run ORDER BY u.run FOR NO KEY UPDATE OF r) l \
              ON CONFLICT (run, id) WHERE id IS NOT NULL DO NOTHING RETURNING 1",
    },
    // Bit `status` and, if it is held, eight more of `reopens` says whether the request has such a run executed again. The
    // deadline of a run that has ended is over, and so is that of the same run once more. Not before the rows are locked:
    // a row that the statement has changed already is not locked, but left out.
    Part {
        name: "reopen",
        columns: &[("run", Int), ("reopens", Int)],
        sql: "UPDATE bide.run r SET deadline = CASE WHEN r.status < 3 THEN r.deadline END, status = 1, ended_at = NULL, \
              runner = NULL, epoch = NULL FROM f, {u} \
              WHERE r.id = u.run AND (u.reopens >> (r.status + CASE WHEN r.held THEN 8 ELSE 0 END)) & 1 = 1 \
              AND (SELECT count(*) FROM request) >= 0",
    },
    Part {
        name: "consumed",
        columns: &[("run", Int), ("number", Int), ("first", Int)],
        sql: "DELETE FROM bide.message m USING f, {u} WHERE m.run = u.run AND m.seq >= u.first AND m.number = u.number",
    },
    Part {
        name: "consumed_id",
        columns: &[("run", Int), ("id", Text)],
        sql: "UPDATE bide.message m SET value = NULL, failure = NULL FROM f, {u} WHERE m.run = u.run AND m.id = u.id",
    },
    Part {
        name: "applied",
        columns: &[("run", Int), ("number", Int), ("first", Int), ("at", Int)],
        sql: "UPDATE bide.message m SET applied_at = u.at FROM f, {u} \
              WHERE m.run = u.run AND m.seq >= u.first AND m.number = u.number",
    },
    Part {
        name: "answer",
        columns: &[("number", Int), ("run", Int), ("value", Blob), ("failure", Text), ("answered_at", Int)],
        sql: "INSERT INTO bide.answer (number, run, value, failure, answered_at) SELECT u.* FROM f, {u} \
              ON CONFLICT (number) DO NOTHING",
    },
    // The offsets continue from the last committed one, also when another runner owns the run.
    Part {
        name: "event",
        columns: &[
            ("run", Int),
            ("channel", Text),
            ("further", Int),
            ("count", Int),
            ("task", Int),
            ("map", Int),
            ("attempt", Int),
            ("entry", Text),
            ("emitted_at", Int),
            ("packed", Blob),
        ],
        sql: "INSERT INTO bide.event (run, channel, first, count, task, map, attempt, entry, emitted_at, packed) \
              SELECT u.run, u.channel, u.further + coalesce((SELECT e.first + e.count FROM bide.event e \
              WHERE e.run = u.run AND e.channel = u.channel ORDER BY e.first DESC LIMIT 1), 1), u.count, u.task, u.map, \
              u.attempt, u.entry, u.emitted_at, u.packed FROM f, {u}",
    },
    // What a channel no longer keeps.
    Part {
        name: "forget",
        columns: &[("run", Int), ("channel", Text), ("further", Int)],
        sql: "DELETE FROM bide.event o USING f, {u} WHERE o.run = u.run AND o.channel = u.channel \
              AND o.first + o.count <= u.further + coalesce((SELECT e.first + e.count FROM bide.event e \
              WHERE e.run = u.run AND e.channel = u.channel ORDER BY e.first DESC LIMIT 1), 1)",
    },
    Part {
        name: "progress",
        columns: &[
            ("run", Int),
            ("task", Int),
            ("map", Int),
            ("done", Float),
            ("total", Float),
            ("message", Text),
            ("said_at", Int),
        ],
        sql: "INSERT INTO bide.progress (run, task, map, done, total, message, said_at) SELECT u.* FROM f, {u} \
              ON CONFLICT (run, task, map) DO UPDATE SET done = excluded.done, total = excluded.total, \
              message = excluded.message, said_at = excluded.said_at",
    },
    // What other processes must learn of.
    Part {
        name: "change",
        columns: &[("process", Int), ("kind", Int), ("run", Int)],
        sql: "INSERT INTO bide.change (process, kind, run) SELECT u.process, u.kind, u.run FROM f, {u}",
    },
];

const MESSAGE: &[(&str, Kind)] = &[
    ("run", Int),
    ("number", Int),
    ("kind", Int),
    ("name", Text),
    ("id", Text),
    ("value", Blob),
    ("failure", Text),
    ("sent_at", Int),
    ("applied_at", Int),
    ("if_there", Int),
];

const REQUEST: &[(&str, Kind)] = &[
    ("run", Int),
    ("number", Int),
    ("kind", Int),
    ("name", Text),
    ("id", Text),
    ("value", Blob),
    ("failure", Text),
    ("sent_at", Int),
];

pub(super) const NEW_RUN: usize = 0;
pub(super) const FULL_RUN: usize = 1;
pub(super) const TAG: usize = 2;
pub(super) const DONE: usize = 3;
pub(super) const TASK: usize = 4;
pub(super) const ENTRY: usize = 5;
pub(super) const DROP_ENTRY: usize = 6;
pub(super) const DROP_ELEMENT: usize = 7;
pub(super) const DROP_ELEMENT_ENTRY: usize = 8;
pub(super) const MESSAGES: usize = 9;
pub(super) const REQUESTS: usize = 10;
pub(super) const REOPEN: usize = 11;
pub(super) const CONSUMED: usize = 12;
pub(super) const CONSUMED_ID: usize = 13;
pub(super) const APPLIED: usize = 14;
pub(super) const ANSWER: usize = 15;
pub(super) const EVENT: usize = 16;
pub(super) const FORGET: usize = 17;
pub(super) const PROGRESS: usize = 18;
pub(super) const CHANGE: usize = 19;

/// Updates of runs, which are counted.
pub(super) const RUN: Part = Part {
    name: "run",
    columns: &[
        ("id", Int),
        ("status", Int),
        ("failure", Text),
        ("ended_at", Int),
        ("blocked_by", Text),
        ("crashes", Int),
        ("version", Int),
        ("cancel", Blob),
        ("held", Int),
    ],
    sql: "UPDATE bide.run r SET status = u.status, failure = u.failure, ended_at = u.ended_at, blocked_by = u.blocked_by, \
          crashes = u.crashes, version = coalesce(u.version, r.version), cancel = u.cancel, held = u.held = 1, \
          runner = CASE WHEN u.status < 2 OR u.held = 1 THEN r.runner END, \
          epoch = CASE WHEN u.status < 2 OR u.held = 1 THEN r.epoch END FROM f, {u} WHERE r.id = u.id RETURNING 1",
};

/// What a statement has beside its fence.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub(super) struct Shape {
    /// A bit for each of [`PARTS`].
    pub(super) parts: u32,
    /// Updates of runs.
    pub(super) runs: bool,
    /// The first statement of the commit records that the commit is made.
    pub(super) marks: bool,
    /// Earlier records of that kind go.
    pub(super) forgets: bool,
    /// It is fenced; otherwise anybody may do this.
    pub(super) fenced: bool,
}

/// The statement. Its parameters: the runner, its epoch, the number of the commit, the numbers of earlier ones, how many
/// runs are updated, and the columns of the parts that it has. It answers whether the runner has its lease.
pub(super) fn statement(shape: Shape) -> String {
    let mut sql = String::from("WITH f AS MATERIALIZED (");
    sql.push_str(if shape.fenced {
        "SELECT 1 FROM bide.runner WHERE id = $1::int8 AND epoch = $2::int8 FOR KEY SHARE)"
    } else {
        "SELECT 1 WHERE $1::int8 IS NOT NULL AND $2::int8 IS NOT NULL)"
    });
    if shape.marks {
        sql.push_str(", made AS (INSERT INTO bide.made (runner, id) SELECT $1::int8, $3::int8 FROM f)");
    }
    if shape.forgets {
        sql.push_str(
            ", old AS (DELETE FROM bide.made m USING f WHERE m.runner = $1::int8 AND m.id = ANY ($4::int8[]))",
        );
    }
    let mut before = 5;
    let mut add = |sql: &mut String, part: &Part| {
        let what = part.sql.replace("{u}", &unnest(part.columns, before));
        before += part.columns.len();
        sql.push_str(&format!(", {} AS ({what})", part.name));
    };
    for (bit, part) in PARTS.iter().enumerate() {
        if shape.parts & (1 << bit) != 0 {
            add(&mut sql, part);
        }
    }
    if shape.runs {
        add(&mut sql, &RUN);
        // An error here undoes the whole statement.
        sql.push_str(
            " SELECT count(*), CASE WHEN count(*) = 0 OR (SELECT count(*) FROM run) = $5::int8 THEN 0 \
             ELSE ('a run is gone: ' || (SELECT count(*) FROM run))::int4 END FROM f",
        );
    } else {
        sql.push_str(" SELECT count(*) FROM f WHERE $5::int8 IS NOT NULL");
    }
    // Parameters that nothing reads have their types here.
    sql.push_str(" LIMIT CASE WHEN $3::int8 IS NULL OR $4::int8[] IS NULL THEN 1 ELSE 1 END");
    sql
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_part_has_the_place_that_its_name_says() {
        let places = [
            (NEW_RUN, "new_run"),
            (FULL_RUN, "full_run"),
            (TAG, "tag"),
            (DONE, "done"),
            (TASK, "task"),
            (ENTRY, "entry"),
            (DROP_ENTRY, "drop_entry"),
            (DROP_ELEMENT, "drop_element"),
            (DROP_ELEMENT_ENTRY, "drop_element_entry"),
            (MESSAGES, "message"),
            (REQUESTS, "request"),
            (REOPEN, "reopen"),
            (CONSUMED, "consumed"),
            (CONSUMED_ID, "consumed_id"),
            (APPLIED, "applied"),
            (ANSWER, "answer"),
            (EVENT, "event"),
            (FORGET, "forget"),
            (PROGRESS, "progress"),
            (CHANGE, "change"),
        ];
        for (place, name) in places {
            assert_eq!(PARTS[place].name, name);
        }
        assert_eq!(places.len(), PARTS.len());
    }
}
