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
