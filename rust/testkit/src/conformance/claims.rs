//! Claiming runs without an owner, by version.

use bide_core::{Address, Message, RunOptions};
use bide_store::Sent;

use super::*;

pub fn a_claim_sets_marks_aside_and_blames_nobody(store: &dyn Store) {
    let desk = Desk::new(store);
    let run = desk.create(START, None);
    let mark = Mark { times: 3, executes: true };
    let marked = TaskRow { mark, ..TaskRow::pending(run.row(), 1) };
    let mut owner = desk.lease;
    for leaves in [true, false] {
        let _committed = ok(store.commit(owner, &mut vec![Write::Task(Box::new(marked.clone()))]));
        assert_eq!(desk.load(run).rows[0].mark, mark);
        // It leaves, or its lease runs out: neither is a death.
        let now = if leaves { START } else { later(60) };
        if leaves {
            ok(store.leave(owner));
        }
        let next = ok(store.enroll(at(now)));
        assert_eq!(ok(store.claim(next, &[desk.version], at(now), 9)), [run]);
        let stored = desk.load(run);
        assert_eq!(stored.rows[0].mark, mark.set_aside());
        assert_eq!(stored.run.crashes, 0);
        owner = next;
    }
}

pub fn versions_are_listed_and_a_run_moves_to_the_one_it_goes_on_with(store: &dyn Store) {
    let desk = Desk::new(store);
    let newer = ok(store.register("ingest", "v2", &names(&["fetch", "process", "report"])));
    ok(store.register("other", "v1", &names(&["fetch"])));
    let listed = ok(store.versions(desk.workflow));
    let seen: Vec<(i64, &str, usize)> =
        listed.iter().map(|stored| (stored.version, &*stored.hash, stored.tasks.len())).collect();
    assert_eq!(seen, [(desk.version, "v1", 2), (newer.version, "v2", 3)]);
    assert_eq!(listed[1].tasks, newer.tasks);

    let run = desk.create(START, None);
    ok(store.leave(desk.lease));
    let other = ok(store.enroll(at(START)));
    assert_eq!(ok(store.claim(other, &[newer.version], at(START), 9)), []);
    assert_eq!(ok(store.claim(other, &[desk.version], at(START), 9)), [run]);
    let version = Some(newer.version);
    let running = RunUpdate { version, ..RunUpdate::new(run.row(), RunStatus::Running) };
    let _committed = ok(store.commit(other, &mut vec![Write::Run(Box::new(running))]));
    let stored = desk.load(run);
    assert_eq!((&*stored.run.version, stored.tasks.len()), ("v2", 3));
    ok(store.leave(other));
    let third = ok(store.enroll(at(START)));
    assert_eq!(ok(store.claim(third, &[desk.version], at(START), 9)), []);
    assert_eq!(ok(store.claim(third, &[newer.version], at(START), 9)), [run]);
}

pub fn claims_are_oldest_first_and_only_what_was_asked_for(store: &dyn Store) {
    let (ingest, report) = (Desk::new(store), Desk::named(store, "report"));
    let third = ingest.create(later(3), None);
    let first = ingest.create(later(1), None);
    let second = report.create(later(2), None);
    let paused = ingest.create(later(0), None);
    ingest.commit(vec![update(paused, RunStatus::Paused, None)]);
    ok(store.leave(ingest.lease));
    ok(store.leave(report.lease));

    let claimer = Desk::named(store, "claimer");
    assert_eq!(claimer.claim(later(4)), [] as [RunId; 0]);
    let both = [report.version, ingest.version];
    assert_eq!(ok(store.claim(claimer.lease, &both, at(later(4)), 2)), [first, second]);
    assert_eq!(ok(store.claim(claimer.lease, &both, at(later(4)), 2)), [third]);
    assert_eq!(ok(store.claim(claimer.lease, &both, at(later(4)), 2)), [] as [RunId; 0]);
}

pub fn what_is_given_back_is_as_it_was_created_and_what_belongs_to_others_stays(store: &dyn Store) {
    let (one, two) = (Desk::named(store, "one"), Desk::named(store, "two"));
    let mine: Vec<RunId> = (0..3).map(|at| one.create(later(at), None)).collect();
    let theirs = two.create(START, None);
    let begun = vec![update(mine[0], RunStatus::Running, None), update(mine[1], RunStatus::Running, None)];
    one.commit([begun, vec![update(mine[2], RunStatus::Completed, Some(later(5)))]].concat());
    let before = [one.load(mine[2]), two.load(theirs)];
    let rows = [mine[0], mine[2], theirs].map(RunId::row);
    for _ in 0..2 {
        ok(store.give_back(one.lease, &rows));
        let given = one.load(mine[0]).run;
        assert_eq!((given.status, given.runner), (RunStatus::Pending, None));
        assert_eq!([one.load(mine[2]), two.load(theirs)], before);
        assert_eq!(one.load(mine[1]).run.runner, Some(one.lease.runner));
    }
    assert_eq!(ok(store.claim(two.lease, &[one.version], at(START), 9)), [mine[0]]);
    ok(store.give_back(one.lease, &rows));
    assert_eq!(one.load(mine[0]).run.runner, Some(two.lease.runner));
    ok(store.leave(one.lease));
    fenced(store.give_back(one.lease, &rows), one.lease);
}

pub fn unowned_runs_are_listed_by_version(store: &dyn Store) {
    let (ingest, report) = (Desk::new(store), Desk::named(store, "report"));
    let newer = ok(store.register("ingest", "v2", &names(&["fetch"])));
    let of = |desk: &Desk<'_>| (desk.workflow, desk.version);
    let unowned = || ok(store.unowned());
    assert_eq!(unowned(), []);
    let runs: Vec<RunId> = (0..3).map(|n| ingest.create(later(n), None)).collect();
    let mut other = ingest.new_run(later(4), None);
    other.version = newer.version;
    assert_eq!(ok(store.create(ingest.lease, std::slice::from_ref(&other))), [Creation::Created]);
    let (paused, ended) = (report.create(later(5), None), report.create(later(5), None));
    report.commit(vec![update(paused, RunStatus::Paused, None)]);
    report.end(ended, later(6));
    assert_eq!(unowned(), [], "all of them have an owner");

    ok(store.leave(report.lease));
    assert_eq!(unowned(), [], "paused and ended runs need no owner");
    ok(store.leave(ingest.lease));
    let both = [of(&ingest), (newer.number, newer.version)];
    assert_eq!(unowned(), both);
    let claimer = Desk::named(store, "report");
    let open = claimer.create(later(7), None);
    assert_eq!(unowned(), both);
    assert_eq!(ok(store.claim(claimer.lease, &[newer.version], at(later(7)), 9)), [other.id]);
    assert_eq!(unowned(), [of(&ingest)]);
    assert_eq!(ok(store.claim(claimer.lease, &[ingest.version], at(later(7)), 9)), runs);
    assert_eq!(unowned(), []);

    // What a dead runner had, once anything was claimed, be it of no version.
    let finder = Desk::new(store);
    ok(store.renew(finder.lease, at(later(9))));
    let after = later(1).after(LEASE);
    assert_eq!(ok(store.claim(finder.lease, &[], at(after), 0)), []);
    assert_eq!(unowned(), [both[0], both[1], of(&report)]);
    assert_eq!(ok(store.claim(finder.lease, &[report.version], at(after), 9)), [open]);
}

pub fn a_run_is_claimed_by_one_of_many(store: &dyn Store) {
    let desk = Desk::new(store);
    let runs: Vec<RunId> = (0..40).map(|at| desk.create(later(at), None)).collect();
    ok(store.leave(desk.lease));
    let mut claimed: Vec<RunId> = std::thread::scope(|scope| {
        let claim = || {
            let desk = Desk::new(store);
            let mut mine = Vec::new();
            loop {
                let some = ok(store.claim(desk.lease, &[desk.version], at(START), 3));
                if some.is_empty() {
                    return mine;
                }
                mine.extend(some);
            }
        };
        let threads: Vec<_> = (0..4).map(|_| scope.spawn(claim)).collect();
        threads.into_iter().flat_map(|thread| thread.join().expect("no panic")).collect()
    });
    claimed.sort_unstable();
    assert_eq!(claimed, runs);
}

pub fn task_numbers_are_dense_and_the_same_in_every_version(store: &dyn Store) {
    let numbers = |workflow: &str, version: &str, tasks: &[NewTask]| {
        let found = ok(store.register(workflow, version, tasks));
        let ids: Vec<i64> = found.tasks.iter().map(|task| task.id).collect();
        (found, ids)
    };
    let (first, ids) = numbers("ingest", "v1", &names(&["fetch", "process"]));
    assert_eq!(ids, [0, 1]);
    let (second, ids) = numbers("ingest", "v2", &names(&["process", "näher\0\u{10ffff}", "fetch"]));
    assert_eq!(ids, [1, 2, 0]);
    assert_eq!(&*second.tasks[1].name, "näher\0\u{10ffff}");
    assert_eq!(second.number, first.number);
    assert_ne!(second.version, first.version);
    let (other, ids) = numbers("report", "v1", &[NewTask::new("print", vec!["fetch".into(), "b".into()])]);
    assert_eq!(ids, [0]);
    assert_eq!(other.tasks[0].dependencies, ["fetch".into(), "b".into()]);
    assert_ne!(other.number, first.number);
    let mapped = NewTask { over: vec!["print".into(), "urls".into()], ..NewTask::new("each", vec!["print".into()]) };
    let (mapped, ids) = numbers("report", "v2", &[NewTask::new("print", Vec::new()), mapped]);
    assert_eq!(ids, [0, 1]);
    let [plain, each] = &ok(store.versions(mapped.number))[1].tasks[..] else { panic!("two tasks") };
    assert_eq!((&plain.over[..], &each.over[..]), (&[][..], &["print".into(), "urls".into()][..]));

    let (again, ids) = numbers("ingest", "v1", &names(&["fetch", "process"]));
    assert_eq!((again.number, again.version, ids), (first.number, first.version, vec![0, 1]));
}

pub fn what_a_claim_reads_is_what_a_load_reads(store: &dyn Store) {
    let desk = Desk::new(store);
    let options = RunOptions { priority: 3, start_at: Some(later(9)), ..RunOptions::default() };
    let new: Vec<NewRun> =
        (0..4).map(|n| desk.new_run(later(n), None).with_options(Some(options.clone().into()))).collect();
    assert_eq!(ok(store.create_unowned(&new)), [(); 4].map(|()| Creation::Created));
    let ids: Vec<RunId> = new.iter().map(|new| new.id).collect();
    let owned = desk.create(later(5), None);
    let message =
        Message { number: 71, address: Address::signal("go"), id: None, content: Ok(Value::NONE), sent_at: later(6) };
    assert!(matches!(ok(store.send(ids[1], &message)), Sent::Stored));

    let claim = |owner: &Desk<'_>| {
        let id = CommitId::unique();
        let claimed = ok(store.claim_reading(id, owner.lease, &[desk.version], at(later(7)), 99));
        for run in &claimed.new {
            assert_eq!(*run, owner.load(run.run.id), "nothing but its owner has changed since it was created");
        }
        let new: Vec<RunId> = claimed.new.iter().map(|run| run.run.id).collect();
        assert!(new.iter().all(|run| claimed.runs.contains(run)));
        (claimed.runs, new)
    };
    let (claimed, read) = claim(&desk);
    assert_eq!(claimed, ids);
    assert!(!read.contains(&ids[1]), "a message has come to it");
    ok(store.leave(desk.lease));
    let next = Desk::new(store);
    let (claimed, read) = claim(&next);
    assert_eq!(claimed, [ids, vec![owned]].concat());
    assert_eq!(read, [] as [RunId; 0], "somebody may have executed them");
}
