//! Writing to runs, and what is read of that.

use super::*;

pub fn every_task_row_reads_back(store: &dyn Store) {
    let desk = Desk::new(store);
    proptest!(|(mut row in rows::task_rows())| {
        let run = desk.create(START, None);
        row.run = run.row();
        desk.commit(vec![Write::Task(Box::new(row.clone()))]);
        prop_assert_eq!(desk.load(run).rows, vec![row]);
    });
}

pub fn every_short_row_reads_back_as_a_completed_task(store: &dyn Store) {
    let desk = Desk::new(store);
    proptest!(|(mut row in rows::done_rows())| {
        let run = desk.create(START, None);
        row.run = run.row();
        desk.commit(vec![Write::Done(row.clone())]);
        let expected = TaskRow {
            run: row.run,
            task: row.task,
            map: row.map,
            length: None,
            status: TaskStatus::Completed,
            sub_status: None,
            attempts: 1,
            mark: Mark::default(),
            output: Some(row.output),
            changes: None,
            failure: None,
            first_started_at: Some(row.started_at),
            started_at: Some(row.started_at),
            ended_at: Some(row.ended_at),
            waited: 0,
            retry_at: None,
            blocked_by: None,
        };
        prop_assert_eq!(desk.load(run).rows, vec![expected]);
    });
}

pub fn every_journal_entry_reads_back(store: &dyn Store) {
    let desk = Desk::new(store);
    proptest!(|(entry in rows::entries(), task in 0..50_i64, map in rows::maps())| {
        let run = desk.create(START, None);
        desk.commit(vec![Write::Entry { run: run.row(), task, map, entry: Arc::new(entry.clone()) }]);
        prop_assert_eq!(desk.load(run).entries, vec![(task, map, entry)]);
    });
}

pub fn each_of_many_entries_of_a_batch_reads_back(store: &dyn Store) {
    let desk = Desk::new(store);
    proptest!(|(entry in rows::entries(), count in 1..60_i64)| {
        let run = desk.create(START, None);
        let last = Entry { seq: entry.seq + 1, ..entry.clone() };
        let write = |task, entry: &Entry| {
            Write::Entry { run: run.row(), task, map: NO_MAP, entry: Arc::new(entry.clone()) }
        };
        // The first one is written twice.
        desk.commit((0..count).map(|task| write(task, &entry)).chain([write(0, &last)]).collect());
        let expected: Vec<_> =
            (0..count).map(|task| (task, NO_MAP, if task == 0 { last.clone() } else { entry.clone() })).collect();
        prop_assert_eq!(desk.load(run).entries, expected);
    });
}

pub fn every_run_update_reads_back(store: &dyn Store) {
    let desk = Desk::new(store);
    proptest!(|(mut update in rows::run_updates())| {
        let run = desk.create(START, None);
        update.run = run.row();
        desk.commit(vec![Write::Run(Box::new(update.clone()))]);
        let found = desk.load(run).run;
        prop_assert_eq!(found.status, update.status);
        prop_assert_eq!(&found.failure, &update.failure);
        prop_assert_eq!(found.ended_at, update.ended_at);
        prop_assert_eq!(&found.blocked_by, &update.blocked_by);
        prop_assert_eq!(found.crashes, update.crashes);
        prop_assert_eq!(found.cancel, update.cancel.clone());
        // One that stands still has no owner: nobody executes it until somebody asks for that.
        let stands = update.status == RunStatus::Paused && !update.is_held();
        let owner = (!update.status.is_ended() && !stands).then_some(desk.lease.runner);
        prop_assert_eq!(found.runner, owner);
    });
}

pub fn a_later_row_or_entry_replaces_the_earlier(store: &dyn Store) {
    let desk = Desk::new(store);
    let run = desk.create(START, None);
    let mut row = TaskRow {
        status: TaskStatus::Running,
        attempts: 1,
        mark: Mark { times: 1, executes: true },
        first_started_at: Some(START),
        started_at: Some(START),
        blocked_by: Some("a file".into()),
        ..TaskRow::pending(run.row(), 1)
    };
    desk.commit(vec![Write::Task(Box::new(row.clone())), entry(run, "ready", 1, 1)]);
    row.attempts = 2;
    row.started_at = Some(later(9));
    row.blocked_by = None;
    desk.commit(vec![Write::Task(Box::new(row.clone())), entry(run, "ready", 1, 7), done(run, 0, b"t")]);

    let stored = desk.load(run);
    assert_eq!(stored.rows.iter().map(|row| row.task).collect::<Vec<_>>(), [0, 1]);
    assert_eq!(stored.rows[1], row);
    assert_eq!(stored.entries.iter().map(|(_, _, entry)| entry.seq).collect::<Vec<_>>(), [7]);
}

pub fn a_journal_is_read_in_order_and_loses_what_is_dropped(store: &dyn Store) {
    let desk = Desk::new(store);
    let run = desk.create(START, None);
    let other = desk.create(START, None);
    desk.commit(vec![
        entry(run, "b", 1, 1),
        entry(run, "a", 2, 3),
        entry(run, "c", 1, 4),
        entry(run, "a", 1, 2),
        entry(other, "a", 1, 1),
    ]);
    let order = |run| -> Vec<String> {
        desk.load(run).entries.iter().map(|(_, _, it)| format!("{}{}", it.key.name, it.key.n)).collect()
    };
    assert_eq!(order(run), ["b1", "a1", "a2", "c1"]);

    let keys = vec![EntryKey { name: "a".into(), n: 1 }, EntryKey { name: "c".into(), n: 1 }];
    desk.commit(vec![Write::DropEntries { run: run.row(), task: 0, map: NO_MAP, keys }]);
    assert_eq!(order(run), ["b1", "a2"]);
    assert_eq!(order(other), ["a1"]);
}

pub fn a_batch_is_written_as_a_whole_or_not_at_all(store: &dyn Store) {
    let desk = Desk::new(store);
    let run = desk.create(START, None);
    desk.commit(vec![done(run, 0, b"t")]);
    let mut batch = vec![done(run, 1, b"t"), entry(run, "a", 1, 1), done(run, 0, b"f")];
    let failed = store.commit(desk.lease, &mut batch);
    assert!(matches!(failed, Err(StoreError::Corrupt(_))), "{failed:?}");
    let stored = desk.load(run);
    assert_eq!(stored.rows.len(), 1);
    assert_eq!(stored.rows[0].output, Some(Value::new(b"t")));
    assert!(stored.entries.is_empty());
}

pub fn commits_of_many_threads_are_all_there(store: &dyn Store) {
    const THREADS: i64 = 4;
    const EACH: i64 = 50;
    let desk = Desk::new(store);
    let run = desk.create(START, None);
    std::thread::scope(|scope| {
        for thread in 0..THREADS {
            let desk = &desk;
            scope.spawn(move || {
                for n in 0..EACH {
                    desk.commit(vec![done(run, thread * EACH + n, b"t")]);
                }
            });
        }
    });
    let rows = desk.load(run).rows;
    assert_eq!(rows.iter().map(|row| row.task).collect::<Vec<_>>(), (0..THREADS * EACH).collect::<Vec<_>>());
}
