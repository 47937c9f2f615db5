-- Messages to runs, children, elements of mapped tasks, and what a live run shows.

-- The first schema had a table of signals that nothing ever wrote.
DROP TABLE signal;

-- Messages to a run, from the moment when they are sent until a wait consumes them. A consumed one with an id stays,
-- without its value: one id is one message.
CREATE TABLE message (
    seq     INTEGER PRIMARY KEY AUTOINCREMENT, -- order of arrival; a number is never given twice
    run     INTEGER NOT NULL,
    number  INTEGER NOT NULL,    -- made by the sender; unique
    kind    INTEGER NOT NULL,    -- 0 signal, 1 request, 2 answer to a callback, 3 withdrawal
    name    TEXT NOT NULL,       -- of the signal or request; of a callback its secret; of a withdrawn request its number
    id      TEXT,                -- the sender's, if any
    value   BLOB,                -- NULL: rejected, or consumed
    failure TEXT,                -- JSON: the callback was rejected
    sent_at INTEGER NOT NULL
) STRICT;

CREATE INDEX message_run ON message (run);
CREATE INDEX message_number ON message (number);
CREATE UNIQUE INDEX message_id ON message (run, id) WHERE id IS NOT NULL;

-- The answers to requests, by the number of the request's message.
CREATE TABLE answer (
    number      INTEGER PRIMARY KEY,
    run         INTEGER NOT NULL,
    value       BLOB,
    failure     TEXT,            -- JSON: refused
    answered_at INTEGER NOT NULL
) STRICT;

CREATE INDEX answer_run ON answer (run);

-- The record by which a parent has started a run: (parent, parent_task, parent_map, parent_name, parent_n) of its
-- journal; and how many parents are above it.
ALTER TABLE run ADD COLUMN parent_name TEXT;
ALTER TABLE run ADD COLUMN depth INTEGER NOT NULL DEFAULT 0;

CREATE INDEX run_parent ON run (parent) WHERE parent IS NOT NULL;

-- The signals that a version declares: a JSON array of names. NULL: it understands any.
ALTER TABLE version ADD COLUMN signals TEXT;

-- How many elements a mapped task has. Their rows have its number and the map indexes from 0.
ALTER TABLE task ADD COLUMN length INTEGER;

-- What bodies emit: events of one body that follow each other in a channel, as one row.
CREATE TABLE event (
    run        INTEGER NOT NULL,
    channel    TEXT NOT NULL,
    first      INTEGER NOT NULL, -- the offset of the first one in the channel, from 1
    count      INTEGER NOT NULL,
    task       INTEGER NOT NULL,
    map        INTEGER NOT NULL,
    attempt    INTEGER NOT NULL,
    entry      TEXT,             -- the step or wait within which they were emitted
    emitted_at INTEGER NOT NULL, -- of the first one
    packed     BLOB NOT NULL,    -- the values and how long after the first they were emitted
    PRIMARY KEY (run, channel, first)
) STRICT, WITHOUT ROWID;

-- How far a task has come, as its body said last.
CREATE TABLE progress (
    run     INTEGER NOT NULL,
    task    INTEGER NOT NULL,
    map     INTEGER NOT NULL,
    done    REAL NOT NULL,
    total   REAL,
    message TEXT,
    said_at INTEGER NOT NULL,
    PRIMARY KEY (run, task, map)
) STRICT, WITHOUT ROWID;
