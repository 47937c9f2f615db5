-- Leases that no clock step can end, and marked bodies that are found without a search.

-- The boot whose clock `expires` counts by: microseconds since that boot, the time asleep included, and 2^61 more, so
-- that a bide which knows only the wall takes no such lease for run out. NULL: by the wall.
ALTER TABLE runner ADD COLUMN boot TEXT;

-- The few bodies that may have ended their process: looked at when a dead runner's runs are claimed.
CREATE INDEX task_marked ON task (run) WHERE entered > 0;
