//! Evaluates the marks of bodies when a runner loses its runs. The runner that claims them calls this, in the
//! transaction that fences the loser.
//!
//! A body that may have ended an earlier process is marked while a runner executes it: `task.entered` counts such
//! entries, and is above zero for as long as they have recorded nothing. If the process dies with exactly one marked
//! body, over all its runners here, the body is blamed: its run counts one more death. Of several marked bodies none
//! is, and the death of a process that executed none says nothing. A runner whose lease ran out while its process lives
//! has not died.
//!
//! A run that is claimed has its marks set aside (below zero), because its new owner has entered none of its bodies.

use std::collections::HashMap;

use rusqlite::Connection;

/// All marked bodies that a runner executes or executed last: their runs, and who has those. Few, found by their index.
const MARKED: &str = "SELECT r.runner, r.id FROM task t INDEXED BY task_marked CROSS JOIN run r \
     WHERE t.entered > 0 AND r.id = t.run";
/// A count that is out of range is not changed: reading the row reports it.
const BLAME: &str = "UPDATE run SET crashes = crashes + 1 WHERE id = ?1 AND crashes < 2147483647";
const SET_ASIDE: &str = "UPDATE task SET entered = -entered WHERE run = ?1 AND entered > 0";

/// A runner that loses its runs.
pub(super) struct Loser {
    /// The number of the runner.
    pub(super) runner: i64,
    /// The lock byte of its process if that is gone; `None`: the process lives, and its lease has run out.
    pub(super) died: Option<i64>,
}

/// The runs with marked bodies.
pub(super) struct Marked {
    /// The owner of each and its number, once for each body.
    bodies: Vec<(Option<i64>, i64)>,
}

impl Marked {
    /// Call before the losers' runs are taken from them.
    pub(super) fn read(connection: &Connection) -> rusqlite::Result<Self> {
        let mut statement = connection.prepare_cached(MARKED)?;
        let bodies = statement.query_map([], |row| Ok((row.get(0)?, row.get(1)?)))?.collect::<Result<_, _>>()?;
        Ok(Self { bodies })
    }

    /// Blames the one marked body of each process that died, if it has exactly one.
    pub(super) fn blame(&self, connection: &Connection, losers: &[Loser]) -> rusqlite::Result<()> {
        let processes: HashMap<i64, i64> =
            losers.iter().filter_map(|loser| Some((loser.runner, loser.died?))).collect();
        let mut executed: HashMap<i64, Vec<i64>> = HashMap::new();
        for (runner, run) in &self.bodies {
            if let Some(process) = runner.and_then(|runner| processes.get(&runner)) {
                executed.entry(*process).or_default().push(*run);
            }
        }
        for runs in executed.into_values() {
            if let [run] = runs[..] {
                connection.prepare_cached(BLAME)?.execute([run])?;
            }
        }
        Ok(())
    }

    /// A run has been claimed.
    pub(super) fn set_aside(&self, connection: &Connection, run: i64) -> rusqlite::Result<()> {
        if self.bodies.iter().any(|(_, marked)| *marked == run) {
            connection.prepare_cached(SET_ASIDE)?.execute([run])?;
        }
        Ok(())
    }
}
