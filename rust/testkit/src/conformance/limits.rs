//! Limits: shares that are granted and released, for all runners of a store.

use bide_core::limits::Rank;
use bide_core::{Counted, LimitSpec, Rate};
use bide_store::{Answer, LimitCall, LimitClaim, LimitUse, LineAnswers, LineClaims, Moved, Passed, ShareId, Written};

use super::*;

const GRANTED: Answer = Answer::Granted(None);

const fn held(counted: Counted) -> Answer {
    Answer::Held { counted, until: None }
}

fn limit(executing: Option<u32>, in_flight: Option<u32>, rate: Option<Rate>) -> LimitSpec {
    LimitSpec { name: "api".into(), executing, in_flight, rate, key: None }
}

fn share(run: RunId) -> ShareId {
    ShareId { run: run.row(), task: 0, map: NO_MAP }
}

fn claim(run: RunId, age: Time) -> LimitClaim {
    LimitClaim { share: share(run), rank: Rank { priority: 0, age }, starts: false }
}

fn line(key: &str, claims: Vec<LimitClaim>, patience: Duration) -> LineClaims {
    LineClaims {
        limit: "api".into(),
        key: key.into(),
        moved: Vec::new(),
        passed: Vec::new(),
        patience,
        claims,
        behind: None,
    }
}

/// What became of the claims of a commit.
fn claims_of(written: &Written) -> Option<Vec<Vec<Answer>>> {
    Some(written.answers.as_ref()?.iter().map(|line| line.claims.clone()).collect())
}

impl Desk<'_> {
    /// Claims for runs, in this order. `starts`: those of attempts that start, and their patience.
    fn ask(&self, key: &str, runs: &[RunId], starts: Option<Duration>, now: Time) -> Vec<Answer> {
        let claims = runs.iter().map(|run| LimitClaim { starts: starts.is_some(), ..claim(*run, START) }).collect();
        self.ask_line(line(key, claims, starts.unwrap_or_default()), now)
    }

    fn ask_claims(&self, key: &str, claims: Vec<LimitClaim>, now: Time) -> Vec<Answer> {
        self.ask_line(line(key, claims, Duration::ZERO), now)
    }

    fn ask_line(&self, line: LineClaims, now: Time) -> Vec<Answer> {
        self.answers(line, now).claims
    }

    fn answers(&self, line: LineClaims, now: Time) -> LineAnswers {
        let call = LimitCall { lines: vec![line], ..LimitCall::default() };
        ok(self.store.claim_limits(self.lease, now, &call)).remove(0)
    }

    fn told(&self, call: &LimitCall) {
        assert!(ok(self.store.claim_limits(self.lease, START, call)).is_empty());
    }

    fn used(&self, key: &str) -> (u64, u64, u64, u64) {
        let uses = ok(self.store.limits(START)).remove(0).uses;
        let found = uses.into_iter().find(|one| &*one.key == key);
        found.map_or((0, 0, 0, 0), |LimitUse { executing, in_flight, started, waiting, .. }| {
            (executing, in_flight, started, waiting)
        })
    }

    fn runs(&self, count: u64) -> Vec<RunId> {
        (0..count).map(|n| self.create(later(n), None)).collect()
    }
}

fn running(run: RunId) -> Write {
    let row = TaskRow::pending(run.row(), 0);
    Write::Task(Box::new(TaskRow { status: TaskStatus::Running, attempts: 1, ..row }))
}

pub fn a_limit_is_defined_once_and_its_newest_definition_counts(store: &dyn Store) {
    let rate = Some(Rate { count: 7, span: Duration::from_millis(1500) });
    let first = LimitSpec { key: Some("customer".into()), ..limit(Some(1), None, rate) };
    assert_eq!(ok(store.define_limit(&first)), None);
    assert_eq!(ok(store.define_limit(&first)), None);
    let second = limit(None, Some(2), None);
    assert_eq!(ok(store.define_limit(&second)), Some(first));
    let other = LimitSpec { name: "another".into(), ..second.clone() };
    assert_eq!(ok(store.define_limit(&other)), None);
    let found: Vec<LimitSpec> = ok(store.limits(START)).into_iter().map(|info| info.spec).collect();
    assert_eq!(found, [other, second]);
}

pub fn a_share_is_released_by_the_commit_that_ends_its_attempt(store: &dyn Store) {
    let desk = Desk::new(store);
    ok(store.define_limit(&limit(Some(9), Some(2), None)));
    let runs = desk.runs(6);
    let [a, b, c, d, e, f] = runs[..] else { unreachable!("six runs") };
    let full = held(Counted::InFlight);
    assert_eq!(desk.ask("", &[a, b, c], None, START), [GRANTED, GRANTED, full]);
    assert_eq!(desk.used(""), (2, 2, 0, 1));
    assert_eq!(desk.ask("", &[a, c], None, START), [GRANTED, full], "who has a share keeps it");
    // Its start is recorded, it waits, and so on: all that releases nothing.
    desk.commit(vec![running(a), entry(a, "wait", 1, 1)]);
    assert_eq!(desk.ask("", &[c], None, START), [full]);
    // It has ended, will be tried again, its run has ended, or was cancelled by force.
    desk.commit(vec![done(b, 0, b"n")]);
    assert_eq!(desk.ask("", &[c, d], None, START), [GRANTED, full]);
    let retried = TaskRow { attempts: 1, retry_at: Some(later(60)), ..TaskRow::pending(a.row(), 0) };
    desk.commit(vec![Write::Task(Box::new(retried))]);
    assert_eq!(desk.ask("", &[d, e], None, START), [GRANTED, full]);
    desk.end(c, later(1));
    assert_eq!(desk.ask("", &[e, f], None, START), [GRANTED, full]);
    desk.told(&LimitCall { released: vec![share(d), share(e)], ..LimitCall::default() });
    // One whose attempt is over gets none.
    assert_eq!(desk.ask("", &[b, c], None, START), [Answer::Gone, Answer::Gone]);
    assert_eq!(desk.used(""), (0, 0, 0, 0));
}

pub fn behind_one_that_starts_and_is_held_so_are_others_but_none_that_has_a_share(store: &dyn Store) {
    let desk = Desk::new(store);
    ok(store.define_limit(&limit(None, Some(2), None)));
    let (runs, full, new) = (desk.runs(4), held(Counted::InFlight), Some(Duration::ZERO));
    let answers = [GRANTED, GRANTED, full, full];
    assert_eq!(desk.ask("", &runs, new, START), answers);
    assert_eq!(desk.ask("", &runs, new, START), answers, "the same call once more");
    let continues = claim(runs[0], START);
    let starts = LimitClaim { starts: true, ..claim(runs[2], START) };
    assert_eq!(desk.ask_claims("", vec![starts, continues], START), [full, GRANTED]);
    assert_eq!(desk.used(""), (2, 2, 0, 1));
}

pub fn a_batch_that_fails_releases_no_share(store: &dyn Store) {
    let desk = Desk::new(store);
    ok(store.define_limit(&limit(None, Some(1), None)));
    let runs = desk.runs(2);
    assert_eq!(desk.ask("", &runs[..1], None, START), [GRANTED]);
    let missing = fresh_id(START);
    let mut batch = vec![done(runs[0], 0, b"n"), update(missing, RunStatus::Completed, Some(START))];
    assert!(store.commit(desk.lease, &mut batch).is_err());
    assert_eq!(desk.ask("", &runs[1..], None, START), [held(Counted::InFlight)]);
}

pub fn a_commit_grants_what_it_releases_or_nothing_if_it_fails(store: &dyn Store) {
    let desk = Desk::new(store);
    if !store.grants_in_commits() {
        return;
    }
    ok(store.define_limit(&limit(None, Some(2), None)));
    let runs = desk.runs(5);
    let [a, b, c, d, e] = runs[..] else { unreachable!("five runs") };
    let full = held(Counted::InFlight);
    assert_eq!(desk.ask("", &[a, b, c], None, START), [GRANTED, GRANTED, full]);
    let starting = |runs: &[RunId]| {
        let claims = runs.iter().map(|run| LimitClaim { starts: true, ..claim(*run, START) }).collect();
        [LineClaims { behind: Some((1, Rank { priority: 0, age: later(9) })), ..line("", claims, Duration::ZERO) }]
    };
    let commit = |mut batch: Vec<Write>, lines: &[LineClaims]| {
        store.write(desk.lease, &mut Commit::of(&mut batch).claiming(Some((START, lines))))
    };
    // It ends two attempts for which three wait.
    let ends = vec![done(a, 0, b"n"), update(b, RunStatus::Completed, Some(later(1)))];
    let missing = update(fresh_id(START), RunStatus::Completed, Some(START));
    assert!(commit([ends.clone(), vec![missing]].concat(), &starting(&[c, d, e])).is_err());
    assert_eq!(desk.used(""), (2, 2, 0, 1));
    let written = ok(commit(ends, &starting(&[c, d, e])));
    assert_eq!(claims_of(&written), Some(vec![vec![GRANTED, GRANTED, full]]));
    assert_eq!(desk.used(""), (2, 2, 0, 2), "one is held, and one more waits behind");
    // Another runner waits for the next share, for a run that is older.
    let other = Desk { lease: ok(store.enroll(at(START))), ..desk };
    let older = line("", vec![claim(e, Time(START.0 - 1))], Duration::ZERO);
    assert_eq!(other.ask_line(older, START), [full]);
    let written =
        ok(store
            .write(desk.lease, &mut Commit::of(&mut vec![done(c, 0, b"n")]).claiming(Some((START, &starting(&[e]))))));
    assert_eq!(claims_of(&written), Some(vec![vec![full]]));
    // A commit that writes nothing grants nothing.
    let taken = [desk.new_run(START, Some("key"))];
    let others = [desk.new_run(START, Some("key")).with_inputs(Arc::from(&b"\x01a\x03n?"[..]))];
    assert_eq!(ok(store.create(desk.lease, &taken)), [Creation::Created]);
    let requests: [&[NewRun]; 1] = [&others];
    let lines = starting(&[e]);
    let mut batch = Vec::new();
    let mut refused = Commit::new(CommitId::unique(), &requests, &mut batch).claiming(Some((START, &lines)));
    let written = ok(store.write(desk.lease, &mut refused));
    assert!(claims_of(&written).is_none_or(|answers| answers == [[full]]));
}

pub fn what_attempts_pass_on_is_recorded_before_anything_is_released(store: &dyn Store) {
    let desk = Desk::new(store);
    ok(store.define_limit(&limit(Some(2), Some(2), None)));
    let runs = desk.runs(6);
    let [a, b, c, d, e, f] = runs[..] else { unreachable!("six runs") };
    let full = held(Counted::InFlight);
    let answers =
        desk.answers(line("", vec![claim(a, START), claim(b, START), claim(c, START)], Duration::ZERO), START);
    assert_eq!(answers.claims, [GRANTED, GRANTED, full]);
    if !answers.may_pass_on {
        assert!(!store.grants_in_commits(), "only a store that grants in commits may be told in one");
        return;
    }
    let passes = |pairs: &[(RunId, RunId)], behind| {
        let passed = pairs.iter().map(|(from, to)| Passed { from: share(*from), to: share(*to) }).collect();
        [LineClaims { passed, behind, ..line("", Vec::new(), Duration::ZERO) }]
    };
    let waits = Some((2, Rank { priority: 0, age: later(4) }));
    let write = |mut batch: Vec<Write>, lines: &[LineClaims]| {
        store.write(desk.lease, &mut Commit::of(&mut batch).claiming(Some((START, lines))))
    };
    // The first has left its share to the third, and that to the fourth.
    let ends = vec![done(a, 0, b"n"), update(c, RunStatus::Completed, Some(later(1)))];
    let missing = update(fresh_id(START), RunStatus::Completed, Some(START));
    assert!(write([ends.clone(), vec![missing]].concat(), &passes(&[(a, d)], waits)).is_err());
    desk.told(&LimitCall { idle: vec![share(d)], ..LimitCall::default() });
    assert_eq!(desk.used(""), (2, 2, 0, 1), "a batch that fails passes nothing on");
    // The second commit tells the same once more.
    for batch in [ends, vec![running(b)]] {
        let written = ok(write(batch, &passes(&[(a, d)], waits)));
        assert_eq!(written.answers, Some(vec![LineAnswers { claims: Vec::new(), may_pass_on: true }]));
        assert_eq!(desk.used(""), (2, 2, 0, 2));
    }
    assert_eq!(desk.ask("", &[d, b, e], None, START), [GRANTED, GRANTED, full]);
    // One whose share was released with its run meanwhile: the next one executes all the same.
    desk.end(b, later(1));
    assert_eq!(desk.used(""), (1, 1, 0, 1));
    let _ = ok(write(vec![running(f)], &passes(&[(b, e)], None)));
    assert_eq!(desk.used(""), (2, 2, 0, 0));
    // The next definition allows less.
    ok(store.define_limit(&limit(Some(2), Some(1), None)));
    let ask = || desk.answers(line("", vec![claim(f, START)], Duration::ZERO), START);
    assert!(!ask().may_pass_on);
    desk.end(e, later(2));
    assert!(ask().may_pass_on);
    // Another runner waits.
    let other = Desk { lease: ok(store.enroll(at(START))), ..desk };
    assert_eq!(other.ask_line(line("", vec![claim(f, START)], Duration::ZERO), START), [full]);
    assert!(!ask().may_pass_on);
    // Starts are counted.
    let rate = Some(Rate { count: 7, span: Duration::from_secs(1) });
    ok(store.define_limit(&limit(None, Some(9), rate)));
    assert!(!ask().may_pass_on);
}

pub fn a_body_that_waits_does_not_execute_and_takes_that_again(store: &dyn Store) {
    let desk = Desk::new(store);
    ok(store.define_limit(&limit(Some(1), None, None)));
    let runs = desk.runs(2);
    assert_eq!(desk.ask("", &runs, None, START), [GRANTED, held(Counted::Executing)]);
    desk.told(&LimitCall { idle: vec![share(runs[0])], ..LimitCall::default() });
    assert_eq!(desk.used(""), (0, 1, 0, 1));
    assert_eq!(desk.ask("", &[runs[1], runs[0]], None, START), [GRANTED, held(Counted::Executing)]);
    desk.commit(vec![done(runs[1], 0, b"n")]);
    assert_eq!(desk.ask("", &runs[..1], None, START), [GRANTED]);
    // A run that stands executes nothing.
    desk.commit(vec![running(runs[0]), update(runs[0], RunStatus::Paused, None)]);
    assert_eq!(desk.used(""), (0, 1, 0, 0));
}

pub fn each_value_of_a_key_has_shares_of_its_own(store: &dyn Store) {
    let desk = Desk::new(store);
    ok(store.define_limit(&limit(None, Some(1), None)));
    let runs = desk.runs(3);
    assert_eq!(desk.ask("1", &runs[..1], None, START), [GRANTED]);
    assert_eq!(desk.ask("2", &runs[1..], None, START), [GRANTED, held(Counted::InFlight)]);
    assert_eq!((desk.used("1"), desk.used("2")), ((1, 1, 0, 0), (1, 1, 0, 1)));
    // A limit that nobody has defined limits nothing.
    let unknown = LineClaims { limit: "unknown".into(), ..line("", vec![claim(runs[2], START)], Duration::ZERO) };
    assert_eq!(desk.ask_line(unknown, START), [GRANTED]);
}

pub fn starts_count_for_the_span_of_their_rate(store: &dyn Store) {
    let desk = Desk::new(store);
    ok(store.define_limit(&limit(None, None, Some(Rate { count: 2, span: Duration::from_secs(10) }))));
    let runs = desk.runs(5);
    let (second, patient) = (Duration::from_secs(1), Some(Duration::from_secs(1)));
    let until = |time: Time| Answer::Held { counted: Counted::Rate, until: Some(Time(time.0 + 1)) };
    let granted = |time: Time| Answer::Granted(Some(time.after(second)));
    assert_eq!(desk.ask("", &runs[..1], patient, START), [granted(START)]);
    assert_eq!(desk.ask("", &runs[1..3], patient, later(4)), [granted(later(4)), until(later(11))]);
    // One that continues is no start.
    assert_eq!(desk.ask("", &runs[2..3], None, later(5)), [GRANTED]);
    // One that has not happened does not count.
    let moved = |latest, to| vec![Moved { latest, count: 1, to }];
    let tells = |moved| LineClaims { moved, ..line("", Vec::new(), second) };
    assert!(desk.ask_line(tells(moved(later(5), None)), START).is_empty());
    assert_eq!(desk.used(""), (0, 0, 1, 0));
    assert_eq!(desk.ask("", &runs[2..4], patient, later(6)), [granted(later(6)), until(later(11))]);
    assert_eq!(desk.ask("", &runs[3..4], patient, later(11)), [until(later(11))]);
    let after = Time(later(11).0 + 1);
    assert_eq!(desk.ask("", &runs[3..4], patient, after), [granted(after)]);
    // One that has happened earlier than it might have counts from then on.
    let claims = vec![LimitClaim { starts: true, ..claim(runs[4], START) }];
    let tells = LineClaims { claims, ..tells(moved(later(7), Some(later(6)))) };
    assert_eq!(desk.ask_line(tells, after), [until(later(16))]);
    assert_eq!(desk.used(""), (0, 0, 2, 1));
    let after = Time(later(16).0 + 1);
    assert_eq!(desk.ask("", &runs[4..5], patient, after), [granted(after)]);
}

pub fn what_is_not_used_of_a_limit_is_forgotten(store: &dyn Store) {
    let desk = Desk::new(store);
    ok(store.define_limit(&limit(None, Some(1), Some(Rate { count: 9, span: Duration::from_secs(10) }))));
    let runs = desk.runs(3);
    for (key, run) in ["1", "2", "3"].iter().zip(&runs) {
        assert!(matches!(desk.ask(key, &[*run], Some(Duration::ZERO), START)[..], [Answer::Granted(_)]));
    }
    desk.end(runs[0], later(1));
    ok(store.purge_limits(later(5)));
    assert_eq!((desk.used("1"), desk.used("2")), ((0, 0, 1, 0), (1, 1, 1, 0)));
    ok(store.purge_limits(later(11)));
    assert_eq!((desk.used("1"), desk.used("2")), ((0, 0, 0, 0), (1, 1, 0, 0)));
    // What is used after that counts as before.
    desk.end(runs[1], later(12));
    let full = held(Counted::InFlight);
    assert_eq!(desk.ask("3", &runs[2..], Some(Duration::ZERO), later(12)).len(), 1);
    assert!(matches!(desk.ask("1", &[desk.create(later(12), None)], None, later(12))[..], [GRANTED]));
    assert_eq!(desk.ask("1", &[desk.create(later(13), None)], None, later(12)), [full]);
}

pub fn a_runner_that_is_gone_executes_nothing_and_what_waits_keeps_its_share(store: &dyn Store) {
    for leaves in [true, false] {
        let desk = Desk::named(store, if leaves { "leaves" } else { "lapses" });
        ok(store.define_limit(&limit(Some(9), Some(9), None)));
        let runs = desk.runs(3);
        assert_eq!(desk.ask("", &runs, None, START), [GRANTED; 3]);
        desk.commit(vec![running(runs[0])]);
        let line = claim(runs[1], START);
        ok(store.define_limit(&limit(Some(9), Some(3), None)));
        let waits = desk.create(later(9), None);
        assert_eq!(desk.ask("", &[waits], None, START), [held(Counted::InFlight)]);
        assert_eq!(desk.used(""), (3, 3, 0, 1));
        if leaves {
            ok(store.leave(desk.lease));
        }
        let next = Desk { lease: ok(store.enroll(at(later(60)))), ..desk };
        assert_eq!(next.claim(later(60)).len(), 4);
        // The body of the first one waits. The others are entered anew.
        assert_eq!(next.used(""), (0, 1, 0, 0));
        assert_eq!(next.ask_claims("", vec![line], START), [GRANTED]);
        assert_eq!(next.ask("", &[runs[0], runs[2], waits], None, START)[..2], [GRANTED, GRANTED]);
        if !leaves {
            fenced(store.claim_limits(desk.lease, START, &LimitCall::default()), desk.lease);
        }
        let ended = [runs[0], runs[1], runs[2], waits].map(|run| update(run, RunStatus::Completed, Some(later(61))));
        next.commit(ended.into());
        assert_eq!(next.used("").1, 0);
        ok(store.leave(next.lease));
    }
}

pub fn another_runner_that_waits_gets_its_turn_and_is_told(store: &dyn Store) {
    let (one, other) = (Desk::named(store, "one"), Desk::named(store, "other"));
    ok(store.define_limit(&limit(None, Some(1), None)));
    let (mine, theirs) = (one.runs(3), other.runs(1));
    assert_eq!(one.ask("", &mine[..2], None, START), [GRANTED, held(Counted::InFlight)]);
    let full = held(Counted::InFlight);
    assert_eq!(other.ask_claims("", vec![claim(theirs[0], later(0))], START), [full]);
    let seen = ok(store.wait_for_changes(Seen::default(), Duration::ZERO)).seen;
    one.commit(vec![done(mine[0], 0, b"n")]);
    let changes = ok(store.wait_for_changes(seen, Duration::from_secs(30)));
    assert!(changes.limits);
    assert!(!ok(store.wait_for_changes(changes.seen, Duration::ZERO)).limits);
    // The share is left to the older run, which waits elsewhere.
    assert_eq!(one.ask_claims("", vec![claim(mine[1], later(1))], START), [full]);
    assert_eq!(other.ask_claims("", vec![claim(theirs[0], later(0))], START), [GRANTED]);
    assert_eq!(one.ask_claims("", vec![claim(mine[1], later(1))], START), [full]);
    assert_eq!(one.used(""), (1, 1, 0, 1));
    // What has a share here takes one of another value of the key.
    let seen = ok(store.wait_for_changes(Seen::default(), Duration::ZERO)).seen;
    assert_eq!(other.ask("another", &theirs, None, START), [GRANTED]);
    assert!(ok(store.wait_for_changes(seen, Duration::from_secs(30))).limits);
    assert_eq!((one.used(""), one.used("another")), ((0, 0, 0, 1), (1, 1, 0, 0)));
}

pub fn a_share_moves_with_its_task_to_another_version(store: &dyn Store) {
    let desk = Desk::new(store);
    ok(store.define_limit(&limit(None, Some(2), None)));
    let runs = desk.runs(1);
    assert_eq!(desk.ask("", &runs, None, START), [GRANTED]);
    desk.commit(vec![running(runs[0])]);
    ok(store.leave(desk.lease));
    let newer = ok(store.register("ingest", "v2", &names(&["load", "process"])));
    let load = newer.tasks[0].id;
    let conversion = bide_store::Conversion {
        from: "v1".into(),
        workflow: newer.number,
        version: newer.version,
        tasks: vec![(0, Some(load))],
        told: None,
    };
    assert_eq!(ok(store.convert(runs[0], &conversion)), bide_store::Converted::Done);
    let next = Desk { lease: ok(store.enroll(at(START))), version: newer.version, ..desk };
    assert_eq!(next.claim(START), runs);
    let moved = ShareId { task: load, ..share(runs[0]) };
    assert_eq!(next.ask_claims("", vec![LimitClaim { share: moved, ..claim(runs[0], START) }], START), [GRANTED]);
    assert_eq!(next.used(""), (1, 1, 0, 0));
    next.commit(vec![done(runs[0], 1, b"n"), update(runs[0], RunStatus::Completed, Some(later(1)))]);
    assert_eq!(next.used(""), (0, 0, 0, 0));
}
