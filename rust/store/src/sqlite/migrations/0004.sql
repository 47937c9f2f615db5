-- Control of runs.

-- That a run was cancelled: packed, with who, why and when. Its bodies may still clean up.
ALTER TABLE run ADD COLUMN cancel BLOB;
-- 1: a paused run (status 2) is paused on request. It is owned and claimed like a running one.
ALTER TABLE run ADD COLUMN held INTEGER NOT NULL DEFAULT 0;
-- When the run has acted on a control request (kind 4). These rows stay whole: they are the run's history.
ALTER TABLE message ADD COLUMN applied_at INTEGER;
