-- The first schema. `bide.` stands for the schema that the store has. Times are microseconds since 1970, UTC. Values are
-- a codec tag and a payload, names of inputs and context keys stand with their values in one blob (see bide-core's value
-- and pack modules). Statuses are the small integers of bide-core's status module. Texts are compared by their bytes; the
-- character U+E000 begins a pair that stands for U+0000 or for itself, because a text of PostgreSQL cannot have the former.

-- What this is, for every process that opens it.
CREATE TABLE bide.meta (
    version       integer NOT NULL, -- how many migrations were made
    oldest_writer integer NOT NULL  -- a bide that knows fewer migrations than this must not write
);

-- A workflow is known by its name.
CREATE TABLE bide.workflow (
    id   bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    name text COLLATE "C" NOT NULL UNIQUE
);

-- Every task name that any version of a workflow ever had, with its number: dense from 0, never reused.
CREATE TABLE bide.task_name (
    workflow bigint NOT NULL,
    task     bigint NOT NULL,
    name     text COLLATE "C" NOT NULL,
    PRIMARY KEY (workflow, task),
    UNIQUE (workflow, name)
);

-- A version of a workflow's graph.
CREATE TABLE bide.version (
    id       bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    workflow bigint NOT NULL,
    hash     text COLLATE "C" NOT NULL,  -- of the graph; bodies are never hashed
    tasks    text NOT NULL,  -- JSON, in declaration order: [[task number, name, [names it depends on]], ...]
    signals  text,           -- the signals that it declares: a JSON array of names. NULL: it understands any
    UNIQUE (workflow, hash)
);

-- Numbers of processes: each holds the advisory lock (the schema's oid, its number) for as long as it is connected.
CREATE SEQUENCE bide.process;

-- A runner of some process. A number is never given twice, so a forgotten runner stays fenced. Every commit locks its
-- runner's row FOR KEY SHARE; who fences a runner locks the row FOR UPDATE first, and so waits for what is under way.
CREATE TABLE bide.runner (
    id         bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    epoch      bigint NOT NULL,  -- raised by the runner that takes its runs over; every commit compares it
    expires    bigint,           -- when its lease runs out unless renewed; NULL: taken over
    boot       text,             -- the boot whose clock `expires` counts by; NULL: by the server's wall clock
    process    bigint NOT NULL,  -- the number of its process
    machine    text NOT NULL,    -- boot and pid namespace of its process, within which pid and start name it
    pid        bigint NOT NULL,
    started    bigint NOT NULL,  -- when the system started the process, in its ticks since the boot; 0: not known
    host       text NOT NULL,    -- for people who look
    started_at bigint NOT NULL
) WITH (fillfactor = 50);

-- Calls that were carried out: one of unknown outcome that is made again finds itself here. Deleted once the process has the
-- answer.
CREATE TABLE bide.made (
    runner  bigint NOT NULL, -- 0: by anybody
    id      bigint NOT NULL, -- of the runner's commit or claim; of the message, if anybody may send it
    claimed uuid[],          -- the runs that a claim has given
    PRIMARY KEY (runner, id)
);

-- A run. Its number holds 63 bits of its UUIDv7, so numbers are in order of creation.
CREATE TABLE bide.run (
    id          bigint PRIMARY KEY,
    uuid        uuid NOT NULL,
    workflow    bigint NOT NULL,
    version     bigint NOT NULL,   -- the graph it was created with
    status      smallint NOT NULL,
    held        boolean NOT NULL DEFAULT false, -- a paused run (status 2) is paused on request: owned and claimed like a running one
    priority    integer NOT NULL DEFAULT 0,
    crashes     bigint NOT NULL DEFAULT 0, -- how often in a row it was found dead with a marked task, nothing new recorded
    runner      bigint,            -- who may execute it; NULL: nobody has it, or it has ended
    epoch       bigint,            -- that runner's epoch when it got the run
    created_at  bigint NOT NULL,
    ended_at    bigint,
    start_at    bigint,            -- nothing of the run starts before this time
    deadline    bigint,            -- what has not ended by this time fails
    key         text COLLATE "C",  -- the caller's, unique per workflow
    inputs      bytea NOT NULL,    -- packed, in order of name
    failure     text,              -- JSON: the first committed failure
    blocked_by  text,              -- why it does not go on, in words
    cancel      bytea,             -- that it was cancelled: packed, with who, why and when
    tags        text,              -- JSON object
    parent      bigint,            -- the run that waits for this one, its task, map index, name and use of the name
    parent_task bigint,
    parent_map  integer,
    parent_name text,
    parent_n    bigint,
    depth       bigint NOT NULL DEFAULT 0 -- how many parents are above it
) WITH (fillfactor = 80);

CREATE UNIQUE INDEX run_key ON bide.run (workflow, key) WHERE key IS NOT NULL;
-- Unfinished runs: what a runner has, and what nobody has and can be claimed. As small as the work in flight.
CREATE INDEX run_owned ON bide.run (runner) WHERE status < 3 AND runner IS NOT NULL;
CREATE INDEX run_free ON bide.run (version, id) WHERE status < 3 AND runner IS NULL AND (status <> 2 OR held);
-- The runs that failed or were cancelled, for those who look for them. Runs that complete cost nothing here.
CREATE INDEX run_failed ON bide.run (id) WHERE status > 3;
CREATE INDEX run_open ON bide.run (id) WHERE status < 3;
CREATE INDEX run_parent ON bide.run (parent, id) WHERE parent IS NOT NULL;

-- The tags of runs, to find these by. `run.tags` has them as a whole.
CREATE TABLE bide.run_tag (
    run   bigint NOT NULL,
    name  text COLLATE "C" NOT NULL,
    value text COLLATE "C" NOT NULL,
    PRIMARY KEY (run, name)
);

CREATE INDEX run_tag_value ON bide.run_tag (name, value, run);

-- A task of a run: written when it waits, fails an attempt or ends. The defaults are those of a task that completed at its
-- first try without a wait, because almost every row is one of these and shall be short.
CREATE TABLE bide.task (
    run              bigint NOT NULL,
    task             bigint NOT NULL,  -- its number within the workflow
    map              integer NOT NULL, -- the index of a mapped child, -1 for a task that is not mapped
    status           smallint NOT NULL,
    sub_status       smallint,         -- while it runs: 0 active, 1 deferred
    started_at       bigint,           -- of the current attempt
    ended_at         bigint,
    first_started_at bigint DEFAULT -1, -- of the first attempt; -1: the same as started_at
    attempts         bigint NOT NULL DEFAULT 1,
    entered          bigint NOT NULL DEFAULT 0, -- above 0: a recovered body was entered and nothing recorded since
    waited           bigint NOT NULL DEFAULT 0, -- microseconds in closed waits
    retry_at         bigint,           -- when the next attempt may start
    length           bigint,           -- of a mapped task: how many elements it has
    output           bytea,
    changes          bytea,            -- of the context, packed
    failure          text,             -- JSON: of the last failed attempt, or why it was skipped
    blocked_by       text,             -- what it waits or was skipped for, in words
    PRIMARY KEY (run, task, map)
) WITH (fillfactor = 90);

-- The few bodies that may have ended their process: looked at when a dead runner's runs are claimed.
CREATE INDEX task_marked ON bide.task (run) WHERE entered > 0;

-- The journal: the recorded waits and steps of one task. An entry is found by its name and the use of that name, so that
-- differently named ones can be added, removed and reordered.
CREATE TABLE bide.journal (
    run       bigint NOT NULL,
    task      bigint NOT NULL,
    map       integer NOT NULL,
    name      text COLLATE "C" NOT NULL,
    n         bigint NOT NULL,   -- which use of the name in the body, from 1; 0: the task's gate
    seq       bigint NOT NULL,   -- order of recording within the task, from 1
    kind      smallint NOT NULL, -- see bide-core's EntryKind
    state     smallint NOT NULL, -- 0 open, 1 satisfied, 2 failed
    opened_at bigint NOT NULL,
    closed_at bigint,
    due       bigint,            -- when the time is reached
    deadline  bigint,            -- when the wait times out: absolute, a crash does not extend it
    proof     bytea,             -- what must be equal for the record to be reused; NULL: never provably the same
    value     bytea,
    failure   text,              -- JSON
    PRIMARY KEY (run, task, map, name, n)
) WITH (fillfactor = 80);

-- The open waits and steps of all tasks, oldest first: for those who look at what waits. As small as what is open.
CREATE INDEX journal_open ON bide.journal (opened_at, run, task, map, seq) WHERE state = 0;

-- Messages to a run, from the moment when they are sent until a wait consumes them. A consumed one with an id stays,
-- without its value: one id is one message. A sender locks the row of the run before it takes a number, so that the messages
-- of a run become visible in the order of their numbers; those of all runs may not, which `xact` makes up for.
CREATE SEQUENCE bide.message_seq;

CREATE TABLE bide.message (
    seq        bigint NOT NULL,   -- order of arrival; a number is never given twice
    run        bigint NOT NULL,
    number     bigint NOT NULL,   -- made by the sender; unique
    kind       smallint NOT NULL, -- 0 signal, 1 request, 2 answer to a callback, 3 withdrawal, 4 control request
    name       text COLLATE "C" NOT NULL, -- of the signal or request; of a callback its secret; of a withdrawal the request
    id         text COLLATE "C",  -- the sender's, if any
    value      bytea,             -- NULL: rejected, or consumed
    failure    text,              -- JSON: the callback was rejected
    sent_at    bigint NOT NULL,
    applied_at bigint,            -- when the run has acted on a control request, which stays: its history
    xact       xid8 NOT NULL DEFAULT pg_current_xact_id(), -- that has brought it
    PRIMARY KEY (run, seq)
);

CREATE UNIQUE INDEX message_id ON bide.message (run, id) WHERE id IS NOT NULL;
CREATE INDEX message_xact ON bide.message (xact);

-- What has changed that other processes must learn of, in the transactions that have changed it. Each process reads what it
-- has not seen; what is older than some minutes is deleted.
CREATE TABLE bide.change (
    xact    xid8 NOT NULL DEFAULT pg_current_xact_id(),
    process bigint NOT NULL,   -- that has changed it, and needs not be told
    kind    smallint NOT NULL, -- 0 runs may have no owner, 1 a message or an answer has come, 2 shares of limits were released
    run     bigint,
    at      timestamptz NOT NULL DEFAULT now()
);

CREATE INDEX change_xact ON bide.change (xact);

-- The answers to requests, by the number of the request's message.
CREATE TABLE bide.answer (
    number      bigint PRIMARY KEY,
    run         bigint NOT NULL,
    value       bytea,
    failure     text,            -- JSON: refused
    answered_at bigint NOT NULL
);

CREATE INDEX answer_run ON bide.answer (run);

-- What bodies emit: events of one body that follow each other in a channel, as one row.
CREATE TABLE bide.event (
    run        bigint NOT NULL,
    channel    text COLLATE "C" NOT NULL,
    first      bigint NOT NULL, -- the offset of the first one in the channel, from 1
    count      bigint NOT NULL,
    task       bigint NOT NULL,
    map        integer NOT NULL,
    attempt    bigint NOT NULL,
    entry      text,            -- the step or wait within which they were emitted
    emitted_at bigint NOT NULL, -- of the first one
    packed     bytea NOT NULL,  -- the values and how long after the first they were emitted
    PRIMARY KEY (run, channel, first)
);

-- How far a task has come, as its body said last.
CREATE TABLE bide.progress (
    run     bigint NOT NULL,
    task    bigint NOT NULL,
    map     integer NOT NULL,
    done    double precision NOT NULL,
    total   double precision,
    message text,
    said_at bigint NOT NULL,
    PRIMARY KEY (run, task, map)
);

-- What limits allow: the last definition.
CREATE TABLE bide.limit_spec (
    name       text COLLATE "C" PRIMARY KEY,
    executing  bigint,           -- NULL: not limited
    in_flight  bigint,
    rate_count bigint,
    rate_span  bigint,           -- microseconds
    key        text COLLATE "C"  -- the input or task whose value is the key
);

-- A limit and a value of its key; a limit without a key has the key ''. Who grants shares of it locks the row until that is
-- committed, so that nobody grants the same twice.
CREATE TABLE bide.limit_key (
    id   bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    name text COLLATE "C" NOT NULL,
    key  text COLLATE "C" NOT NULL,
    UNIQUE (name, key)
);

-- The attempts that are in flight under a limit: from when each may be entered until its end.
CREATE TABLE bide.limit_share (
    run       bigint NOT NULL,
    task      bigint NOT NULL,
    map       integer NOT NULL,
    line      bigint NOT NULL,  -- of which limit and value of its key
    runner    bigint,           -- that executes the body, or did
    executing boolean NOT NULL, -- its body has a slot, or waits for one
    PRIMARY KEY (run, task, map)
);

CREATE INDEX limit_share_line ON bide.limit_share (line, executing);
CREATE INDEX limit_share_runner ON bide.limit_share (runner) WHERE runner IS NOT NULL;

-- Starts under a rate: how many bodies may have been entered up to which time. Deleted once they do not count any more.
CREATE TABLE bide.limit_start (
    line   bigint NOT NULL,
    latest bigint NOT NULL,
    count  bigint NOT NULL,
    PRIMARY KEY (line, latest)
);

-- Where attempts are held back: at which runner, how many, and the rank of the first one.
CREATE TABLE bide.limit_line (
    line     bigint NOT NULL,
    runner   bigint NOT NULL,
    count    bigint NOT NULL,
    priority integer NOT NULL,
    age      bigint NOT NULL, -- when its run was created
    PRIMARY KEY (line, runner)
);

CREATE INDEX limit_line_runner ON bide.limit_line (runner);

-- Schedules. One that was removed stays as a name and a revision, so that others learn of it.
CREATE TABLE bide.schedule (
    name       text COLLATE "C" PRIMARY KEY,
    revision   bigint NOT NULL,   -- raised by each change of any schedule
    removed    boolean NOT NULL,
    workflow   bigint NOT NULL,
    version    bigint NOT NULL,   -- that it was defined with
    cron       text,              -- a cron expression, and the zone that it counts in
    zone       text,
    every      bigint,            -- or microseconds between ticks, and one of the ticks
    anchor     bigint,
    inputs     bytea NOT NULL,    -- packed, without the moment of the tick
    moment     smallint NOT NULL, -- how the runs get that: 0 not, 1 as a datetime, 2 as a text
    on_miss    smallint NOT NULL, -- 0 latest, 1 all, 2 skip
    overlap    smallint NOT NULL, -- 0 allow, 1 skip, 2 queue, 3 cancel
    jitter     bigint NOT NULL,   -- microseconds
    timeout    bigint,            -- of its runs, in microseconds
    created_at bigint NOT NULL,
    paused_at  bigint,
    decided    bigint NOT NULL,   -- the ticks up to here have started runs or never will
    last_tick  bigint,            -- the last tick that has started a run, and the run
    last_run   bytea,
    queue      bytea NOT NULL,    -- ticks that wait for the end of a run: 8 bytes each
    open       bytea NOT NULL     -- runs that may not have ended: 16 bytes each
);

CREATE UNIQUE INDEX schedule_revision ON bide.schedule (revision);

-- Watches: sources of items, each of which starts one run. One that was removed stays as a name, a revision and its keys.
CREATE TABLE bide.watch (
    id         bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    name       text COLLATE "C" NOT NULL UNIQUE,
    revision   bigint NOT NULL,  -- raised by each change
    removed    boolean NOT NULL,
    workflow   bigint NOT NULL,
    every      bigint NOT NULL,  -- microseconds from one call of the source to the next
    cursor     bytea,            -- what the source is called with
    created_at bigint NOT NULL,
    paused_at  bigint,
    runner     bigint,           -- that calls the source
    started    bigint NOT NULL,  -- how many runs there were
    last_at    bigint,           -- the last one: when it was started, and its id
    last_run   bytea,
    failed_at  bigint,           -- since when the source fails, and its last message
    error      text
);

-- The keys of the items that watches have had. Retention never purges them: each key starts one run.
CREATE TABLE bide.watch_key (
    watch bigint NOT NULL,
    key   text COLLATE "C" NOT NULL,
    PRIMARY KEY (watch, key)
);
