-- What a caller says about a run beside its inputs.

-- Nothing of the run starts before this time; what has not ended by the other one fails.
ALTER TABLE run ADD COLUMN start_at INTEGER;
ALTER TABLE run ADD COLUMN deadline INTEGER;

-- The tags of runs, to find these by. `run.tags` has them as a whole.
CREATE TABLE run_tag (
    run   INTEGER NOT NULL,
    name  TEXT NOT NULL,
    value TEXT NOT NULL,
    PRIMARY KEY (run, name)
) STRICT, WITHOUT ROWID;

CREATE INDEX run_tag_value ON run_tag (name, value, run);

-- Control of runs.

-- That a run was cancelled: packed, with who, why and when. Its bodies may still clean up.
ALTER TABLE run ADD COLUMN cancel BLOB;
-- 1: a paused run (status 2) is paused on request. It is owned and claimed like a running one.
ALTER TABLE run ADD COLUMN held INTEGER NOT NULL DEFAULT 0;

-- The runs that failed or were cancelled, for those who look for them. Runs that complete cost nothing here.
CREATE INDEX run_failed ON run (status) WHERE status > 3;

-- The open waits and steps of all tasks, oldest first: for those who look at what waits. As small as what is open.
CREATE INDEX journal_open ON journal (opened_at, run, task, map, seq) WHERE state = 0;

-- The table of messages again, with fewer pages to write for each: without AUTOINCREMENT and an index of numbers. A
-- message is found by its number from a place among those of its run on.
CREATE TABLE message_4 (
    seq        INTEGER PRIMARY KEY, -- order of arrival; a number is never given twice: see message_gone
    run        INTEGER NOT NULL,
    number     INTEGER NOT NULL,    -- made by the sender; unique
    kind       INTEGER NOT NULL,    -- 0 signal, 1 request, 2 answer to a callback, 3 withdrawal, 4 control request
    name       TEXT NOT NULL,       -- of the signal or request; of a callback its secret; of a withdrawal the request
    id         TEXT,                -- the sender's, if any
    value      BLOB,                -- NULL: rejected, or consumed
    failure    TEXT,                -- JSON: the callback was rejected
    sent_at    INTEGER NOT NULL,
    applied_at INTEGER              -- when the run has acted on a control request, which stays: its history
) STRICT;

-- The highest `seq` of a message that was the newest when it was deleted. It is written only then.
CREATE TABLE message_gone (
    id  INTEGER PRIMARY KEY CHECK (id = 0),
    seq INTEGER NOT NULL
) STRICT;

INSERT INTO message_gone SELECT 0, coalesce((SELECT seq FROM sqlite_sequence WHERE name = 'message'), 0);
INSERT INTO message_4 SELECT seq, run, number, kind, name, id, value, failure, sent_at, NULL FROM message;
DROP TABLE message;
ALTER TABLE message_4 RENAME TO message;

CREATE INDEX message_run ON message (run);
CREATE UNIQUE INDEX message_id ON message (run, id) WHERE id IS NOT NULL;

CREATE TRIGGER message_deleted AFTER DELETE ON message
WHEN old.seq > (SELECT coalesce(max(seq), 0) FROM message)
BEGIN
    UPDATE message_gone SET seq = max(seq, old.seq) WHERE id = 0;
END;

-- Schedules. Retention never purges them: a tick is decided once. One that was removed stays as a name and a revision.
CREATE TABLE schedule (
    name       TEXT PRIMARY KEY,
    revision   INTEGER NOT NULL, -- raised by each change of any schedule
    removed    INTEGER NOT NULL, -- 1: it was removed
    workflow   INTEGER NOT NULL,
    version    INTEGER NOT NULL, -- that it was defined with
    cron       TEXT,             -- a cron expression, and the zone that it counts in
    zone       TEXT,
    every      INTEGER,          -- or microseconds between ticks, and one of the ticks
    anchor     INTEGER,
    inputs     BLOB NOT NULL,    -- packed, without the moment of the tick
    moment     INTEGER NOT NULL, -- how the runs get that: 0 not, 1 as a datetime, 2 as a text
    on_miss    INTEGER NOT NULL, -- 0 latest, 1 all, 2 skip
    overlap    INTEGER NOT NULL, -- 0 allow, 1 skip, 2 queue, 3 cancel
    jitter     INTEGER NOT NULL, -- microseconds
    timeout    INTEGER,          -- of its runs, in microseconds
    created_at INTEGER NOT NULL,
    paused_at  INTEGER,
    decided    INTEGER NOT NULL, -- the ticks up to here have started runs or never will
    last_tick  INTEGER,          -- the last tick that has started a run, and the run
    last_run   BLOB,
    queue      BLOB NOT NULL,    -- ticks that wait for the end of a run: 8 bytes each
    open       BLOB NOT NULL     -- runs that may not have ended: 16 bytes each
) STRICT, WITHOUT ROWID;

CREATE UNIQUE INDEX schedule_revision ON schedule (revision);

-- Limits: what is allowed, as it was defined last.
CREATE TABLE limit_spec (
    name       TEXT NOT NULL PRIMARY KEY,
    executing  INTEGER,             -- NULL: not limited
    in_flight  INTEGER,
    rate_count INTEGER,
    rate_span  INTEGER,             -- microseconds
    key        TEXT                 -- the input or task whose value is the key
) STRICT, WITHOUT ROWID;

-- What is used of a limit for a value of its key; a limit without a key has the key ''. Each change of a share is counted
-- here in its transaction, by `sqlite/limits.rs` (a trigger for each share takes too long), starts by the triggers below.
CREATE TABLE limit_key (
    id        INTEGER PRIMARY KEY,
    name      TEXT NOT NULL,
    key       TEXT NOT NULL,
    executing INTEGER NOT NULL DEFAULT 0,
    in_flight INTEGER NOT NULL DEFAULT 0,
    started   INTEGER NOT NULL DEFAULT 0 -- with those that do not count any more and are not deleted yet
) STRICT;

CREATE UNIQUE INDEX limit_key_name ON limit_key (name, key);

-- The attempts that are in flight under a limit: from when each may be entered until its end.
CREATE TABLE limit_share (
    run       INTEGER NOT NULL,
    task      INTEGER NOT NULL,
    map       INTEGER NOT NULL,
    line      INTEGER NOT NULL,     -- of which limit and value of its key
    runner    INTEGER,              -- that executes the body, or did
    executing INTEGER NOT NULL,     -- 1: its body has a slot, or waits for one
    PRIMARY KEY (run, task, map)
) STRICT, WITHOUT ROWID;

-- Starts under a rate: how many bodies may have been entered up to which time. Deleted once they do not count any more.
CREATE TABLE limit_start (
    line   INTEGER NOT NULL,
    latest INTEGER NOT NULL,
    count  INTEGER NOT NULL,
    PRIMARY KEY (line, latest)
) STRICT, WITHOUT ROWID;

CREATE TRIGGER limit_start_granted AFTER INSERT ON limit_start
BEGIN
    UPDATE limit_key SET started = started + NEW.count WHERE id = NEW.line;
END;

CREATE TRIGGER limit_start_changed AFTER UPDATE OF count ON limit_start
BEGIN
    UPDATE limit_key SET started = started + NEW.count - OLD.count WHERE id = NEW.line;
END;

CREATE TRIGGER limit_start_over AFTER DELETE ON limit_start
BEGIN
    UPDATE limit_key SET started = started - OLD.count WHERE id = OLD.line;
END;

-- Where attempts are held back: at which runner, how many, and the rank of the first one.
CREATE TABLE limit_line (
    line     INTEGER NOT NULL,
    runner   INTEGER NOT NULL,
    count    INTEGER NOT NULL,
    priority INTEGER NOT NULL,
    age      INTEGER NOT NULL,      -- when its run was created
    PRIMARY KEY (line, runner)
) STRICT, WITHOUT ROWID;

CREATE INDEX limit_line_runner ON limit_line (runner);

-- Watches: sources of items, each of which starts one run. One that was removed stays as a name, a revision and its keys.
CREATE TABLE watch (
    id         INTEGER PRIMARY KEY,
    name       TEXT NOT NULL UNIQUE,
    revision   INTEGER NOT NULL, -- raised by each change
    removed    INTEGER NOT NULL, -- 1: it was removed
    workflow   INTEGER NOT NULL,
    every      INTEGER NOT NULL, -- microseconds from one call of the source to the next
    cursor     BLOB,             -- what the source is called with
    created_at INTEGER NOT NULL,
    paused_at  INTEGER,
    runner     INTEGER,          -- that calls the source
    started    INTEGER NOT NULL, -- how many runs there were
    last_at    INTEGER,          -- the last one: when it was started, and its id
    last_run   BLOB,
    failed_at  INTEGER,          -- since when the source fails, and its last message
    error      TEXT
) STRICT;

-- The keys of the items that watches have had. Retention never purges them: each key starts one run.
CREATE TABLE watch_key (
    watch INTEGER NOT NULL,
    key   TEXT NOT NULL,
    PRIMARY KEY (watch, key)
) STRICT, WITHOUT ROWID;
