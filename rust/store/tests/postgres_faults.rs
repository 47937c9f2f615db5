//! PostgreSQL with several processes, connections that are lost and answers that do not arrive.
#![cfg(feature = "postgres")]
#![expect(clippy::unwrap_used, reason = "tests")]
#![expect(clippy::disallowed_methods, reason = "a test's time limit is not the engine's time")]

use std::io::{Read, Write as _};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use bide_core::record::{DoneRow, NewRun, RunUpdate};
use bide_core::{Address, Message, RunId, RunStatus, Time, Value, Write};
use bide_store::postgres::Options;
use bide_store::{
    ChangedRuns, Commit, CommitId, Creation, LEASE, Lease, LeaseTime, PostgresStore, Seen, Sent, Store, StoreError,
};
use bide_testkit::conformance::fresh_id;
use bide_testkit::postgres::Schema;

const START: Time = Time(1_795_000_000_000_000);

/// Long enough that a test which waits for it has failed.
const FOREVER: Duration = Duration::from_secs(120);

fn open(url: &str) -> Arc<PostgresStore> {
    PostgresStore::open(&Options::parse(url).unwrap()).unwrap()
}

/// A process with one runner.
struct Desk {
    store: Arc<PostgresStore>,
    lease: Lease,
    workflow: i64,
    version: i64,
}

impl Desk {
    fn new(url: &str) -> Self {
        let store = open(url);
        let workflow = store.register("ingest", "v1", &[]).unwrap();
        let lease = store.enroll(START.into()).unwrap();
        Self { store, lease, workflow: workflow.number, version: workflow.version }
    }

    fn new_run(&self, key: Option<&str>) -> NewRun {
        NewRun::new(fresh_id(START), self.workflow, self.version, START).with_key(key.map(Into::into))
    }

    fn create(&self) -> RunId {
        let new = self.new_run(None);
        assert_eq!(self.store.create(self.lease, std::slice::from_ref(&new)).unwrap(), [Creation::Created]);
        new.id
    }

    fn claim(&self, now: impl Into<LeaseTime>) -> Vec<RunId> {
        self.store.claim(self.lease, &[self.version], now.into(), 100).unwrap()
    }
}

fn done(run: RunId, task: i64) -> Write {
    Write::Done(DoneRow::new(run.row(), task, Value::new(b"t"), START, START))
}

fn signal(number: i64) -> Message {
    Message { number, address: Address::signal("go"), id: None, content: Ok(Value::tagged(b'i', b"1")), sent_at: START }
}

/// Asks again until it is so.
fn eventually(what: &str, mut is_so: impl FnMut() -> bool) {
    let since = Instant::now();
    while !is_so() {
        assert!(since.elapsed() < FOREVER, "{what}");
        std::thread::sleep(Duration::from_millis(10));
    }
}

/// Between clients and the server: can lose answers.
struct Proxy {
    port: u16,
    /// The next answer of the server does not arrive, and ends its connection. Not one to what threads of the store do by
    /// themselves: to listen, and to notify.
    loses: Arc<AtomicBool>,
}

impl Proxy {
    fn new(server: &str) -> Self {
        let target = server.split('@').nth(1).unwrap().split('/').next().unwrap().to_owned();
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let (port, loses) = (listener.local_addr().unwrap().port(), Arc::new(AtomicBool::new(false)));
        let of_thread = loses.clone();
        // Ends with the process.
        std::thread::spawn(move || {
            for client in listener.incoming().flatten() {
                let server = TcpStream::connect(&target).unwrap();
                let (from, to) = (client.try_clone().unwrap(), server.try_clone().unwrap());
                let stays = Arc::new(AtomicBool::new(false));
                let (loses, staying) = (of_thread.clone(), stays.clone());
                let mut listens = false;
                std::thread::spawn(move || {
                    pass(&from, &to, |sent| {
                        let has = |text: &[u8]| sent.windows(text.len()).any(|part| part == text);
                        listens |= has(b"LISTEN ");
                        // The statement that notifies, and the name of the channel when it is executed.
                        stays.store(listens || has(b"pg_notify") || has(b"bide_t"), Ordering::SeqCst);
                        false
                    });
                });
                std::thread::spawn(move || {
                    pass(&server, &client, |_| !staying.load(Ordering::SeqCst) && loses.swap(false, Ordering::SeqCst));
                });
            }
        });
        Self { port, loses }
    }

    fn url(&self, schema: &Schema) -> String {
        let url = schema.url();
        let (user, rest) = url.split_once('@').unwrap();
        let (_, rest) = rest.split_once('/').unwrap();
        // What is sent can be read.
        format!("{user}@127.0.0.1:{}/{rest}&sslmode=disable", self.port)
    }
}

fn pass(mut from: &TcpStream, mut to: &TcpStream, mut loses: impl FnMut(&[u8]) -> bool) {
    let mut buffer = [0; 65536];
    while let Ok(length) = from.read(&mut buffer) {
        if length == 0 || loses(&buffer[..length]) || to.write_all(&buffer[..length]).is_err() {
            break;
        }
    }
    let _ = (from.shutdown(Shutdown::Both), to.shutdown(Shutdown::Both));
}

#[test]
fn a_commit_whose_answer_was_lost_is_made_once() {
    let Some(schema) = Schema::new() else { return };
    let proxy = Proxy::new(schema.server());
    let desk = Desk::new(&proxy.url(&schema));
    // Statements are prepared: the next answer is that of a commit.
    let run = desk.create();
    let _ = desk.store.commit(desk.lease, &mut vec![done(run, 0)]).unwrap();
    for (task, keyed) in [(1, false), (2, true)] {
        let new = [desk.new_run(keyed.then_some("key"))];
        let batch = vec![done(run, task), done(new[0].id, 0)];
        let id = CommitId::unique();
        let write = || desk.store.write(desk.lease, &mut Commit::new(id, &[&new], &mut batch.clone()));
        proxy.loses.store(true, Ordering::SeqCst);
        let lost = write();
        assert!(matches!(lost, Err(StoreError::Disconnected { .. })), "{lost:?}");
        assert_eq!(write().unwrap().creations, [[Creation::Created]]);
        assert_eq!(desk.store.load(new[0].id).unwrap().unwrap().rows.len(), 1);
        // Once more, as if the second answer had been lost too.
        assert_eq!(write().unwrap().creations, [[Creation::Created]]);
    }
    assert_eq!(desk.store.load(run).unwrap().unwrap().rows.len(), 3);
}

#[test]
fn a_claim_and_a_message_whose_answers_were_lost_are_made_once() {
    let Some(schema) = Schema::new() else { return };
    let proxy = Proxy::new(schema.server());
    let (owner, desk) = (Desk::new(&schema.url()), Desk::new(&proxy.url(&schema)));
    let runs = [owner.create(), owner.create()];
    owner.store.leave(owner.lease).unwrap();
    let id = CommitId::unique();
    let claim = || desk.store.claim_once(id, desk.lease, &[desk.version], START.into(), 1);
    proxy.loses.store(true, Ordering::SeqCst);
    let lost = claim();
    assert!(matches!(lost, Err(StoreError::Disconnected { .. })), "{lost:?}");
    assert_eq!(claim().unwrap(), runs[..1]);
    assert_eq!(claim().unwrap(), runs[..1]);
    assert_eq!(desk.claim(START), runs[1..]);

    let send = || desk.store.send(runs[0], &signal(7));
    proxy.loses.store(true, Ordering::SeqCst);
    assert!(matches!(send(), Err(StoreError::Disconnected { .. })));
    assert_eq!(send().unwrap(), Sent::Stored);
    assert_eq!(desk.store.messages(runs[0], 0).unwrap().len(), 1);
}

#[test]
fn whoever_fences_a_runner_waits_for_the_commit_that_is_under_way() {
    let Some(schema) = Schema::new() else { return };
    let (slow, quick) = (Desk::new(&schema.url()), Desk::new(&schema.url()));
    let run = slow.create();
    let later = START.after(LEASE);
    quick.store.renew(quick.lease, START.after(LEASE / 2).into()).unwrap();
    // As a commit of the slow one that is not finished.
    let mut commit = schema.client();
    let Lease { runner, epoch } = slow.lease;
    let fence = format!("BEGIN; SELECT 1 FROM runner WHERE id = {runner} AND epoch = {epoch} FOR KEY SHARE");
    commit.batch_execute(&fence).unwrap();
    std::thread::scope(|scope| {
        let claim = scope.spawn(|| quick.claim(later));
        let mut look = schema.client();
        let waits = "SELECT count(*) FROM pg_stat_activity WHERE wait_event_type = 'Lock' AND state = 'active' \
                     AND query LIKE '%FOR UPDATE%' AND query LIKE $1";
        let of_schema = format!("%{}%", schema.name());
        eventually("nobody waits for the lock", || look.query_one(waits, &[&of_schema]).unwrap().get::<_, i64>(0) > 0);
        let insert = format!("INSERT INTO task (run, task, map, status) VALUES ({}, 5, -1, 3); COMMIT", run.row());
        commit.batch_execute(&insert).unwrap();
        assert_eq!(claim.join().unwrap(), [run]);
    });
    assert_eq!(quick.store.load(run).unwrap().unwrap().rows.len(), 1, "what was under way is there");
    let late = slow.store.commit(slow.lease, &mut vec![done(run, 6)]);
    assert!(matches!(late, Err(StoreError::Fenced { .. })), "{late:?}");
    assert_eq!(quick.store.load(run).unwrap().unwrap().rows.len(), 1, "and nothing after that");
}

#[test]
fn a_key_names_one_run_whoever_creates_it() {
    let Some(schema) = Schema::new() else { return };
    let desks: Vec<Desk> = (0..3).map(|_| Desk::new(&schema.url())).collect();
    for round in 0..20 {
        let key = format!("key {round}");
        let created: usize = std::thread::scope(|scope| {
            let create = |desk: &Desk| {
                let new = [desk.new_run(Some(&key)), desk.new_run(None)];
                let made = desk.store.create(desk.lease, &new).unwrap();
                assert_eq!(made[1], Creation::Created);
                assert!(matches!(made[0], Creation::Created | Creation::Exists(_)));
                usize::from(made[0] == Creation::Created)
            };
            let threads: Vec<_> = desks.iter().map(|desk| scope.spawn(move || create(desk))).collect();
            threads.into_iter().map(|thread| thread.join().unwrap()).sum()
        });
        assert_eq!(created, 1);
    }
}

#[test]
fn two_processes_can_make_the_schema_at_once() {
    let Some(schema) = Schema::new() else { return };
    let url = schema.url();
    std::thread::scope(|scope| {
        let threads: Vec<_> = (0..4).map(|_| scope.spawn(|| open(&url))).collect();
        for thread in threads {
            thread.join().unwrap();
        }
    });
}

#[test]
fn messages_that_become_visible_late_are_not_missed() {
    let Some(schema) = Schema::new() else { return };
    let desk = Desk::new(&schema.url());
    let (run, other) = (desk.create(), desk.create());
    let mut slow = schema.client();
    let insert = format!(
        "BEGIN; INSERT INTO message (seq, run, number, kind, name, value, sent_at) \
         VALUES (nextval('message_seq'), {}, 1, 0, 'go', 'i1', 0)",
        other.row()
    );
    slow.batch_execute(&insert).unwrap();
    assert_eq!(desk.store.send(run, &signal(2)).unwrap(), Sent::Stored);
    let mail = desk.store.mail(0).unwrap();
    assert_eq!(mail.iter().map(|(_, run)| *run).collect::<Vec<_>>(), [run.row()]);
    let position = mail[0].0;
    assert_eq!(desk.store.mail(position).unwrap(), []);
    slow.batch_execute("COMMIT").unwrap();
    let late = desk.store.mail(position).unwrap();
    assert_eq!(late, [(position, other.row())]);
}

#[test]
fn other_processes_learn_of_runs_messages_and_ends() {
    let Some(schema) = Schema::new() else { return };
    let (one, other) = (Desk::new(&schema.url()), Desk::new(&schema.url()));
    let look = |seen| other.store.wait_for_changes(seen, Duration::ZERO).unwrap();
    let wait = |seen| other.store.wait_for_changes(seen, FOREVER).unwrap();
    let run = one.create();
    // Enrolling is told too.
    let mut seen = look(Seen::default()).seen;
    assert_eq!(one.store.create_unowned(&[one.new_run(None)]).unwrap(), [Creation::Created]);
    eventually("nobody told of a run without an owner", || {
        let changes = wait(seen);
        seen = changes.seen;
        changes.unowned && other.claim(START).len() == 1
    });
    assert_eq!(one.store.send(run, &signal(1)).unwrap(), Sent::Stored);
    eventually("nobody told of a message", || {
        let changes = wait(seen);
        seen = changes.seen;
        changes.mail
    });
    // Those who look at a run learn of its end.
    eventually("nobody told of the end", || {
        assert!(other.store.standing(run).unwrap().is_some());
        let another = one.create();
        let update = RunUpdate { ended_at: Some(START), ..RunUpdate::new(another.row(), RunStatus::Completed) };
        let _ = one.store.commit(one.lease, &mut vec![Write::Run(Box::new(update))]).unwrap();
        let changes = other.store.wait_for_changes(seen, Duration::from_millis(200)).unwrap();
        seen = changes.seen;
        matches!(changes.runs, ChangedRuns::These(runs) if runs.contains(&another.row()))
    });
}

#[test]
fn a_process_whose_connections_are_closed_is_gone() {
    let Some(schema) = Schema::new() else { return };
    let (one, other) = (Desk::new(&schema.url()), Desk::new(&schema.url()));
    let run = one.create();
    assert!(other.store.is_alive(one.lease.runner, START.into()).unwrap());
    let Desk { store, lease, .. } = one;
    // As a process that dies: it does not leave.
    drop(store);
    let mut seen = Seen::default();
    eventually("nobody noticed that it is gone", || {
        seen = other.store.wait_for_changes(seen, Duration::from_secs(5)).unwrap().seen;
        !other.store.is_alive(lease.runner, START.into()).unwrap()
    });
    assert_eq!(other.claim(START), [run]);
}

#[test]
fn sessions_that_the_server_ends_are_made_again_and_the_runs_stay() {
    let Some(schema) = Schema::new() else { return };
    let (one, other) = (Desk::new(&schema.url()), Desk::new(&schema.url()));
    let run = one.create();
    let mut server = schema.client();
    for task in 0..3 {
        let end = "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE pid <> pg_backend_pid() \
                   AND application_name = 'bide' AND query LIKE $1";
        let _ = server.execute(end, &[&format!("%{}%", schema.name())]).unwrap();
        let id = CommitId::unique();
        eventually("the session is not made again", || {
            let mut batch = vec![done(run, task)];
            let written = one.store.write(one.lease, &mut Commit::new(id, &[], &mut batch));
            match written {
                Ok(_) => true,
                Err(StoreError::Disconnected { .. }) => false,
                Err(error) => panic!("{error:?}"),
            }
        });
    }
    assert_eq!(one.store.load(run).unwrap().unwrap().rows.len(), 3);
    assert!(other.store.is_alive(one.lease.runner, START.into()).unwrap());
}
