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
-- When the run has acted on a control request (kind 4). These rows stay whole: they are the run's history.
ALTER TABLE message ADD COLUMN applied_at INTEGER;

-- The open waits and steps of all tasks, oldest first: for those who look at what waits. As small as what is open.
CREATE INDEX journal_open ON journal (opened_at, run, task, map, seq) WHERE state = 0;
