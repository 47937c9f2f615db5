-- The first schema. Times are microseconds since 1970, UTC. Values are a codec tag and a payload, names of inputs and
-- context keys stand with their values in one blob (see bide-core's value and pack modules). Statuses are the small
-- integers of bide-core's status module. STRICT, so that what other hands write has at least the right type.

-- A workflow is known by its name.
CREATE TABLE workflow (
    id   INTEGER PRIMARY KEY,
    name TEXT NOT NULL UNIQUE
) STRICT;

-- Every task name that any version of a workflow ever had, with its number: dense from 0, never reused.
CREATE TABLE task_name (
    workflow INTEGER NOT NULL,
    task     INTEGER NOT NULL,
    name     TEXT NOT NULL,
    PRIMARY KEY (workflow, task),
    UNIQUE (workflow, name)
) STRICT, WITHOUT ROWID;

-- A version of a workflow's graph.
CREATE TABLE version (
    id       INTEGER PRIMARY KEY,
    workflow INTEGER NOT NULL,
    hash     TEXT NOT NULL,    -- of the graph; bodies are never hashed
    tasks    TEXT NOT NULL,    -- JSON, in declaration order: [[task number, name, [names it depends on]], ...]
    UNIQUE (workflow, hash)
) STRICT;

-- A runner of some process. AUTOINCREMENT: a number is never given twice, so a forgotten runner stays fenced.
CREATE TABLE runner (
    id         INTEGER PRIMARY KEY AUTOINCREMENT,
    epoch      INTEGER NOT NULL, -- raised by whoever takes its runs over; every commit compares it
    expires    INTEGER,          -- when its lease runs out unless renewed; NULL: taken over
    lock       INTEGER NOT NULL, -- the byte of the lock file that its process holds for as long as it lives
    pid        INTEGER NOT NULL, -- for people who look
    host       TEXT NOT NULL,    -- for people who look
    started_at INTEGER NOT NULL
) STRICT;

-- A run. Its number holds 63 bits of its UUIDv7, so numbers are in order of creation.
CREATE TABLE run (
    id          INTEGER PRIMARY KEY,
    uuid        BLOB NOT NULL,    -- all 16 bytes
    workflow    INTEGER NOT NULL,
    version     INTEGER NOT NULL, -- the graph it was created with
    status      INTEGER NOT NULL,
    runner      INTEGER,          -- who may execute it; NULL: nobody has it, or it has ended
    epoch       INTEGER,          -- that runner's epoch when it got the run
    created_at  INTEGER NOT NULL,
    ended_at    INTEGER,
    key         TEXT,             -- the caller's, unique per workflow
    inputs      BLOB NOT NULL,    -- packed, in order of name
    failure     TEXT,             -- JSON: the first committed failure
    blocked_by  TEXT,             -- why it does not go on, in words
    crashes     INTEGER NOT NULL DEFAULT 0, -- how often in a row it was found dead with a marked task, nothing new recorded
    parent      INTEGER,          -- the run that waits for this one, its task, map index and use of the name
    parent_task INTEGER,
    parent_map  INTEGER,
    parent_n    INTEGER,
    tags        TEXT,             -- JSON object
    priority    INTEGER NOT NULL DEFAULT 0
) STRICT;

-- A key finds its run; runs without one cost nothing here.
CREATE UNIQUE INDEX run_key ON run (workflow, key) WHERE key IS NOT NULL;

-- Unfinished runs by owner and version: what nobody has and can be claimed, what a dead runner had. As small as the work
-- in flight.
CREATE INDEX run_open ON run (runner, workflow, version) WHERE status < 3;

-- A task of a run: written when it waits, fails an attempt or ends. The defaults are those of a task that completed
-- at its first try without a wait, because almost every row is such a one and shall be short.
CREATE TABLE task (
    run              INTEGER NOT NULL,
    task             INTEGER NOT NULL, -- its number within the workflow
    map              INTEGER NOT NULL, -- the index of a mapped child, -1 for a task that is not mapped
    status           INTEGER NOT NULL,
    output           BLOB,
    started_at       INTEGER,          -- of the current attempt
    ended_at         INTEGER,
    first_started_at INTEGER DEFAULT -1, -- of the first attempt; -1: the same as started_at
    attempts         INTEGER NOT NULL DEFAULT 1,
    entered          INTEGER NOT NULL DEFAULT 0, -- 1: a recovered body was entered and nothing recorded since
    waited           INTEGER NOT NULL DEFAULT 0, -- microseconds in closed waits
    sub_status       INTEGER,          -- while it runs: 0 active, 1 deferred
    changes          BLOB,             -- of the context, packed
    failure          TEXT,             -- JSON: of the last failed attempt, or why it was skipped
    retry_at         INTEGER,          -- when the next attempt may start
    blocked_by       TEXT,             -- what it waits or was skipped for, in words
    PRIMARY KEY (run, task, map)
) STRICT, WITHOUT ROWID;

-- The journal: the recorded waits and steps of one task. An entry is found by its name and the use of that name, so
-- that differently named ones can be added, removed and reordered.
CREATE TABLE journal (
    run       INTEGER NOT NULL,
    task      INTEGER NOT NULL,
    map       INTEGER NOT NULL,
    name      TEXT NOT NULL,
    n         INTEGER NOT NULL,  -- which use of the name in the body, from 1; 0: the task's gate
    seq       INTEGER NOT NULL,  -- order of recording within the task, from 1
    kind      INTEGER NOT NULL,  -- 0 condition, 1 time, 2 signal, 3 step, 4 any of several, 5 all of several
    state     INTEGER NOT NULL,  -- 0 open, 1 satisfied, 2 failed
    opened_at INTEGER NOT NULL,
    closed_at INTEGER,
    due       INTEGER,           -- when the time is reached
    deadline  INTEGER,           -- when the wait times out: absolute, a crash does not extend it
    proof     BLOB,              -- what must be equal for the record to be reused; NULL: never provably the same
    value     BLOB,
    failure   TEXT,              -- JSON
    PRIMARY KEY (run, task, map, name, n)
) STRICT, WITHOUT ROWID;

-- Signals, stored before they are answered for. One queue per (run, name), oldest first.
CREATE TABLE signal (
    run      INTEGER NOT NULL,
    name     TEXT NOT NULL,
    seq      INTEGER NOT NULL,  -- order of arrival in its queue, from 1
    id       TEXT,              -- the sender's, if any: one id is one signal
    value    BLOB NOT NULL,
    sent_at  INTEGER NOT NULL,
    task     INTEGER,           -- the wait that it satisfied: (task, map, entry, n) of the journal; NULL: none yet
    map      INTEGER,
    entry    TEXT,
    n        INTEGER,
    PRIMARY KEY (run, name, seq)
) STRICT, WITHOUT ROWID;

CREATE UNIQUE INDEX signal_id ON signal (run, id) WHERE id IS NOT NULL;
