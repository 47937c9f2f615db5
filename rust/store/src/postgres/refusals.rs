//! Tests of servers that cannot be used, and of sessions that are lost: what the error says, on a real server.

use std::fs;
use std::io::{Read, Write};
use std::net::TcpListener;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use bide_testkit::postgres::{Schema, Server, certificate};

use super::connect::Connections;
use super::error::Failed;
use super::url::Options;
use crate::StoreError;

fn open(url: &str) -> Result<Connections, StoreError> {
    Connections::open(&Options::parse(url).unwrap(), &Arc::default())
}

/// Why a store is refused.
fn refusal(url: &str) -> String {
    match open(url) {
        Err(StoreError::Unavailable(why)) => why,
        Err(other) => panic!("{other:?}"),
        Ok(_) => panic!("{url} is opened"),
    }
}

/// The shared server's URL with another user, password, address or database.
fn changed(server: &str, from: &str, to: &str) -> String {
    assert!(server.contains(from), "{server}");
    server.replacen(from, to, 1)
}

#[test]
fn a_server_that_cannot_be_reached_is_named_with_the_remedy() {
    let Some(schema) = Schema::new() else { return };
    let server = schema.server();
    let (address, _) = server.rsplit_once('/').unwrap();
    let port = address.rsplit_once(':').unwrap().1;
    for (url, why) in [
        (changed(server, ":secret@", ":wrong@"), "the password of user bide is wrong"),
        (changed(server, ":secret@", "@"), "the password of user bide is wrong"),
        (changed(server, "//bide:", "//nobody:"), "the password of user nobody is wrong"),
        (format!("{address}/nowhere"), "has no database nowhere; create it"),
        (changed(server, "127.0.0.1", "no-such-host.invalid"), "the host no-such-host.invalid is not known"),
        (changed(server, port, "1"), "no server listens at 127.0.0.1:1; start it"),
        ("postgresql://bide:secret@%2Fnowhere/bide".to_owned(), "no server has a socket in /nowhere"),
    ] {
        let error = refusal(&url);
        assert!(error.contains(why), "{url}: {error}");
        assert!(
            error.starts_with("postgresql://") && !error.contains("secret") && !error.contains("wrong@"),
            "{error}"
        );
    }
}

#[test]
fn the_first_of_several_hosts_that_can_be_used_is() {
    let Some(schema) = Schema::new() else { return };
    let url = changed(schema.server(), "127.0.0.1", "127.0.0.1:1,no-such-host.invalid,127.0.0.1");
    let url = url.replace("invalid,", "invalid:1,");
    let connections = open(&url).unwrap();
    assert_eq!(select(&connections, "SELECT 7").unwrap(), 7);
    let error = refusal(&url.rsplit_once(",127").map(|(start, _)| format!("{start}/bide")).unwrap());
    assert!(error.contains("no server listens") && error.contains("; and the host no-such-host"), "{error}");
}

fn select(connections: &Connections, sql: &str) -> Result<i32, StoreError> {
    connections.writer(|session| Ok(session.query_opt(sql, &[])?.map_or(0, |row| row.get(0))))
}

#[test]
fn a_server_proves_who_it_is_if_it_is_asked_to() {
    let Some(schema) = Schema::new() else { return };
    let (Some(root), Some(own)) = (certificate("root.crt"), certificate("server.crt")) else { return };
    let (root, own) = (root.display(), own.display());
    let of = |host: &str, query: &str| format!("{}?{query}", changed(schema.server(), "127.0.0.1", host));
    for url in [
        of("127.0.0.1", "sslmode=prefer"),
        of("127.0.0.1", "sslmode=require"),
        of("127.0.0.1", &format!("sslmode=require&sslrootcert={root}")),
        of("127.0.0.1", &format!("sslmode=verify-ca&sslrootcert={root}")),
        of("localhost", &format!("sslmode=verify-full&sslrootcert={root}")),
        of("localhost", &format!("sslmode=verify-full&sslrootcert={own}")),
    ] {
        let connections = open(&url).unwrap();
        let encrypted = "SELECT count(*)::int4 FROM pg_stat_ssl WHERE ssl AND pid = pg_backend_pid()";
        assert_eq!(select(&connections, encrypted).unwrap(), 1, "{url}");
    }
    let connections = open(&of("127.0.0.1", "sslmode=disable")).unwrap();
    assert_eq!(
        select(&connections, "SELECT count(*)::int4 FROM pg_stat_ssl WHERE ssl AND pid = pg_backend_pid()").unwrap(),
        0
    );
    let not_pem = schema_file();
    for (url, why) in [
        (of("127.0.0.1", &format!("sslmode=verify-full&sslrootcert={root}")), "a name that is in its certificate"),
        (of("127.0.0.1", "sslmode=verify-full"), "name the certificate of its issuer"),
        (
            of("127.0.0.1", "sslmode=verify-ca&sslrootcert=/nowhere/root.crt"),
            "sslrootcert cannot be read from /nowhere",
        ),
        (of("127.0.0.1", &format!("sslmode=verify-ca&sslrootcert={not_pem}")), "it has none in PEM format"),
        (of("127.0.0.1", &format!("sslcert={root}&sslkey=/nowhere/key")), "sslkey cannot be read from /nowhere"),
    ] {
        let error = refusal(&url);
        assert!(error.contains(why), "{url}: {error}");
    }
}

/// A file that has no certificate.
fn schema_file() -> String {
    format!("{}/Cargo.toml", env!("CARGO_MANIFEST_DIR"))
}

#[test]
fn a_server_without_tls_is_refused_where_it_is_required() {
    let directory = tempfile::tempdir().unwrap();
    let Some(server) = Server::start(directory.path(), &["ssl = off"]) else { return };
    drop(open(&format!("{}?sslmode=prefer", server.url())).unwrap());
    let error = refusal(&format!("{}?sslmode=require", server.url()));
    assert!(error.contains("does not offer TLS"), "{error}");
}

#[test]
fn a_socket_in_a_directory_is_found() {
    let directory = tempfile::tempdir_in("/tmp").unwrap();
    let Some(server) = Server::start(directory.path(), &[]) else { return };
    let folder = server.folder().display().to_string().replace('/', "%2F");
    let port = server.url().rsplit_once(':').unwrap().1.split_once('/').unwrap().0.to_owned();
    let connections = open(&format!("postgresql://bide:secret@{folder}:{port}/bide")).unwrap();
    let local = "SELECT count(*)::int4 FROM pg_stat_activity WHERE pid = pg_backend_pid() AND client_port = -1";
    assert_eq!(select(&connections, local).unwrap(), 1);
}

#[test]
fn a_standby_is_refused_and_passed_over() {
    let directory = tempfile::tempdir().unwrap();
    let Some(server) = Server::start(directory.path(), &[]) else { return };
    server.stop();
    fs::write(server.folder().join("data/standby.signal"), "").unwrap();
    server.start_again();
    let error = refusal(server.url());
    assert!(error.contains("is a standby, which accepts no writes; name the primary server"), "{error}");
    // The shared server is another one, which is named second.
    let Some(schema) = Schema::new() else { return };
    let address = schema.server().rsplit_once('@').unwrap().1.split_once('/').unwrap().0;
    let (standby, database) = server.url().rsplit_once('/').unwrap();
    drop(open(&format!("{standby},{address}/{database}")).unwrap());
}

#[test]
fn connections_that_are_used_up_are_an_error_that_says_so() {
    let directory = tempfile::tempdir().unwrap();
    let settings = ["max_connections = 5", "superuser_reserved_connections = 0"];
    let Some(server) = Server::start(directory.path(), &settings) else { return };
    let _held: Vec<_> = (0..4).map(|_| server.client()).collect();
    let error = refusal(server.url());
    assert!(error.contains("has no connection left") && error.contains("four for each process"), "{error}");
}

#[test]
fn a_pooler_that_hands_out_connections_per_transaction_needs_a_way_past_it() {
    let directory = tempfile::tempdir().unwrap();
    let Some(server) = Server::start(directory.path(), &[]) else { return };
    let Some(pooler) = server.pooler("transaction") else { return };
    let error = refusal(&pooler);
    assert!(error.contains("pool_mode = transaction") && error.contains("add listen_url="), "{error}");
    let past = server.url().replace('/', "%2F");
    let connections = open(&format!("{pooler}?listen_url={past}")).unwrap();
    assert_eq!(select(&connections, "SELECT 7").unwrap(), 7);
    // One session from begin to end, whatever others do.
    let pid = || connections.lease(|session| Ok(session.query("SELECT pg_backend_pid()", &[])?[0].get::<_, i32>(0)));
    let first = pid().unwrap();
    assert_eq!(select(&connections, "SELECT 8").unwrap(), 8);
    assert_eq!(pid().unwrap(), first);
    let Some(elsewhere) = Schema::new() else { return };
    let error = refusal(&format!("{pooler}?listen_url={}", elsewhere.server().replace('/', "%2F")));
    assert!(error.contains("listen_url leads to another server"), "{error}");
}

#[test]
fn a_pooler_that_hands_out_sessions_is_as_good_as_none() {
    let directory = tempfile::tempdir().unwrap();
    let Some(server) = Server::start(directory.path(), &[]) else { return };
    let Some(pooler) = server.pooler("session") else { return };
    assert_eq!(select(&open(&pooler).unwrap(), "SELECT 7").unwrap(), 7);
}

#[test]
fn a_lost_session_is_reported_and_made_again() {
    let Some(schema) = Schema::new() else { return };
    let connections = open(&schema.url()).unwrap();
    let mut beside = schema.client();
    let pid = |connections: &Connections| select(connections, "SELECT pg_backend_pid()");
    let first = pid(&connections).unwrap();
    assert!(beside.query_one("SELECT pg_terminate_backend($1, 10000)", &[&first]).unwrap().get::<_, bool>(0));
    let second = match pid(&connections) {
        // The end was noticed before the call: nothing was lost.
        Ok(pid) => pid,
        Err(StoreError::Disconnected { store, why }) => {
            assert!(!store.contains("secret") && !why.is_empty(), "{store}: {why}");
            pid(&connections).unwrap()
        }
        Err(other) => panic!("{other:?}"),
    };
    assert_ne!(first, second);
    assert_eq!(connections.breaks(), 0);
}

#[test]
fn a_server_that_is_gone_and_comes_back_is_found_again() {
    let directory = tempfile::tempdir().unwrap();
    let Some(server) = Server::start(directory.path(), &[]) else { return };
    let connections = open(server.url()).unwrap();
    let hasty = open(&format!("{}?synchronous_commit=off", server.url())).unwrap();
    server.kill();
    for connections in [&connections, &hasty] {
        for _ in 0..2 {
            let error = select(connections, "SELECT 1").unwrap_err();
            assert!(matches!(error, StoreError::Disconnected { .. }), "{error:?}");
        }
    }
    server.start_again();
    for connections in [&connections, &hasty] {
        // Tries that follow a failure too soon are not made.
        while let Err(error) = select(connections, "SELECT 1") {
            assert!(matches!(error, StoreError::Disconnected { .. }), "{error:?}");
            std::thread::yield_now();
        }
    }
    // Commits that did not wait may be lost.
    assert_eq!((connections.breaks(), hasty.breaks()), (0, 1));
}

#[test]
fn time_limits_of_the_role_are_not_for_these_sessions() {
    let Some(schema) = Schema::new() else { return };
    let mut beside = schema.client();
    let role = schema.name();
    beside
        .batch_execute(&format!(
            "CREATE ROLE {role} LOGIN PASSWORD 'secret'; ALTER ROLE {role} SET statement_timeout = 60000; \
             ALTER ROLE {role} SET idle_session_timeout = 60000; ALTER ROLE {role} SET default_transaction_read_only = on"
        ))
        .unwrap();
    let connections = open(&changed(schema.server(), "//bide:", &format!("//{role}:"))).unwrap();
    for name in ["statement_timeout", "idle_session_timeout"] {
        assert_eq!(select(&connections, &format!("SELECT current_setting('{name}')::int4")).unwrap(), 0, "{name}");
    }
    let is_read_only = "SELECT (current_setting('transaction_read_only') = 'on')::int4";
    assert_eq!(select(&connections, is_read_only).unwrap(), 0);
    drop(connections);
    beside.batch_execute(&format!("DROP ROLE {role}")).unwrap();
}

#[test]
fn what_the_server_reports_is_translated() {
    let Some(schema) = Schema::new() else { return };
    let connections = open(&schema.url()).unwrap();
    let raise = |code: &str| {
        let sql = format!("DO $$ BEGIN RAISE EXCEPTION 'on purpose' USING ERRCODE = '{code}'; END $$");
        connections.writer(|session| session.script(&sql)).unwrap_err()
    };
    for (code, why) in [
        ("53100", "the server's disk is full"),
        ("53200", "free memory on the server"),
        ("42501", "GRANT USAGE ON SCHEMA"),
        ("42P01", "somebody has dropped or changed bide's tables"),
        ("22021", "a NUL character"),
        ("54000", "longer than PostgreSQL can keep in an index"),
        ("26000", "listen_url="),
        ("22012", "PostgreSQL reports: on purpose (22012)"),
    ] {
        let error = raise(code);
        assert!(matches!(&error, StoreError::Unavailable(text) if text.contains(why)), "{code}: {error}");
    }
    for code in ["57014", "25006"] {
        assert!(matches!(raise(code), StoreError::Disconnected { .. }), "{code}");
    }
    assert!(matches!(raise("XX001"), StoreError::Corrupt(_)));
}

#[test]
fn what_the_server_has_broken_off_for_others_is_made_again_at_once() {
    let Some(schema) = Schema::new() else { return };
    let connections = open(&schema.url()).unwrap();
    let tries = AtomicU64::new(0);
    let outcome = connections.writer(|session| {
        if tries.fetch_add(1, Ordering::SeqCst) < 3 {
            session.script("DO $$ BEGIN RAISE EXCEPTION 'x' USING ERRCODE = '40P01'; END $$")?;
        }
        Ok(())
    });
    assert!(outcome.is_ok(), "{outcome:?}");
    assert_eq!(tries.load(Ordering::SeqCst), 4);
    let never: Result<(), _> = connections.writer(|_| Err(Failed::Store(StoreError::Corrupt("x".into()))));
    assert!(matches!(never, Err(StoreError::Corrupt(_))), "{never:?}");
}

/// A server of a version that tells no more than that, and that it is no standby.
fn old_server(version: &'static str) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("postgresql://me:secret@{}/bide?sslmode=disable", listener.local_addr().unwrap());
    let message = |kind: u8, body: &[u8]| {
        let length = u32::try_from(body.len() + 4).unwrap().to_be_bytes();
        [&[kind], &length[..], body].concat()
    };
    let columns = [version, "f", "1", "2020-01-01", "1", "00000001"];
    let count = u16::try_from(columns.len()).unwrap().to_be_bytes();
    let mut described = count.to_vec();
    let mut row = count.to_vec();
    for column in columns {
        // A name, no table, the type text in text form.
        described.extend(b"c\0\0\0\0\0\0\0");
        described.extend([0, 0, 0, 25, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0, 0]);
        row.extend(u32::try_from(column.len()).unwrap().to_be_bytes());
        row.extend(column.as_bytes());
    }
    let ready = message(b'Z', b"I");
    let greeting = [message(b'R', &[0; 4]), ready.clone()].concat();
    let answer = [message(b'T', &described), message(b'D', &row), message(b'C', b"SELECT 1\0"), ready].concat();
    std::thread::spawn(move || {
        let (mut client, _) = listener.accept().unwrap();
        let mut asked = [0; 4096];
        for reply in [greeting, answer] {
            let length = client.read(&mut asked).unwrap();
            assert_ne!(length, 0);
            client.write_all(&reply).unwrap();
        }
        let _ = client.read(&mut asked);
    });
    url
}

#[test]
fn a_server_that_is_too_old_is_refused_in_words() {
    let error = refusal(&old_server("130009"));
    assert!(error.contains("is a PostgreSQL 13, and bide needs 14 or later; upgrade the server"), "{error}");
    assert!(!error.contains("secret"), "{error}");
    let error = refusal(&old_server("none"));
    assert!(error.contains("does not answer as a PostgreSQL server does"), "{error}");
}
