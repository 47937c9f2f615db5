-- The open waits and steps of all tasks, oldest first: for those who look at what waits. As small as what is open.
CREATE INDEX journal_open ON journal (opened_at, run, task, map, seq) WHERE state = 0;
