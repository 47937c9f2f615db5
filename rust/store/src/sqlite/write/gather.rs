//! The order in which a batch is written: rows of one table follow each other, which takes fewer statements.

use bide_core::record::Write;

/// Sorts rows by table. Those of one table keep their order, and nothing moves past a write that changes several tables.
pub(super) fn gather(batch: &mut [Write]) {
    let table = |write: &Write| match write {
        Write::Done(_) | Write::Task(_) => Some(0),
        Write::Entry { .. } => Some(1),
        Write::Run(_) => Some(2),
        _ => None,
    };
    for rows in batch.split_mut(|write| table(write).is_none()) {
        rows.sort_by_key(table);
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use bide_core::record::{DoneRow, RunUpdate};
    use bide_core::{Entry, EntryKey, NO_MAP, Operation, RunStatus, TaskRow, Time, Value};

    use super::*;

    #[test]
    fn rows_of_one_table_keep_their_order_and_pass_nothing_that_drops_rows() {
        let done = |task| Write::Done(DoneRow::new(1, task, Value::NONE, Time(1), Time(2)));
        let task = |task| Write::Task(Box::new(TaskRow::pending(1, task)));
        let run = |row| Write::Run(Box::new(RunUpdate::new(row, RunStatus::Completed)));
        let entry = |n| {
            let key = EntryKey { name: "wait".into(), n };
            let entry = Arc::new(Entry::new(key, n, Operation::Condition { proof: None }, Time(1)));
            Write::Entry { run: 1, task: 0, map: NO_MAP, entry }
        };
        let drop = || Write::DropElements { run: 1, task: 0 };
        let mut batch = [done(1), run(1), entry(1), task(2), run(2), entry(2), done(3), drop(), entry(3), done(4)];
        gather(&mut batch);
        let sorted = [done(1), task(2), done(3), entry(1), entry(2), run(1), run(2), drop(), done(4), entry(3)];
        assert_eq!(batch, sorted);
    }
}
