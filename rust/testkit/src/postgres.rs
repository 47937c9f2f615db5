//! A PostgreSQL for tests: a schema of one's own on the server that all tests share, or a server of one's own.
//!
//! `BIDE_TEST_POSTGRES` is the URL of the shared server (`scripts/postgres run` sets it). Where it is not set, tests
//! that need it say so and pass; the same where no server can be started.

use std::hash::{BuildHasher, Hasher, RandomState};
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::sync::atomic::{AtomicU64, Ordering};

use postgres::{Client, NoTls};

/// A schema of the shared server that nothing else uses; dropped with it.
#[derive(Debug)]
pub struct Schema {
    /// The server's URL.
    server: String,
    /// The schema's name.
    name: String,
}

impl Schema {
    /// One that does not exist yet; `None`, and a line that says so, if there is no server.
    #[must_use]
    pub fn new() -> Option<Self> {
        match std::env::var("BIDE_TEST_POSTGRES") {
            Ok(server) if !server.is_empty() => Some(Self::on(&server)),
            _ => {
                eprintln!("skipped: there is no PostgreSQL for tests (scripts/postgres run COMMAND starts one)");
                None
            }
        }
    }

    /// One on this server, given by its URL without options.
    #[must_use]
    pub fn on(server: &str) -> Self {
        static LAST: AtomicU64 = AtomicU64::new(0);
        // On a server that is there for longer, process ids come again.
        let random = RandomState::new().build_hasher().finish() % 1_000_000_000;
        let number = LAST.fetch_add(1, Ordering::Relaxed);
        let name = format!("t{}_{number}_{random}", std::process::id());
        Self { server: server.to_owned(), name }
    }

    /// What a store is opened with.
    #[must_use]
    pub fn url(&self) -> String {
        format!("{}?schema={}", self.server, self.name)
    }

    /// Its name.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The URL of its server.
    #[must_use]
    pub fn server(&self) -> &str {
        &self.server
    }

    /// A connection for what a test does beside the store, with this schema as the one that needs no name.
    ///
    /// # Panics
    /// If there is none to be had.
    #[must_use]
    pub fn client(&self) -> Client {
        let mut client = connect(&self.server);
        let set = format!("SET search_path = {}", self.name);
        client.batch_execute(&set).unwrap_or_else(|error| panic!("{set}: {error}"));
        client
    }
}

impl Drop for Schema {
    fn drop(&mut self) {
        if let Ok(mut client) = Client::connect(&self.server, NoTls) {
            let _ = client.batch_execute(&format!("DROP SCHEMA IF EXISTS {} CASCADE", self.name));
        }
    }
}

/// A server of one's own, to be stopped, killed and started again. Stopped with this value.
#[derive(Debug)]
pub struct Server {
    folder: PathBuf,
    url: String,
}

impl Server {
    /// One with its data in this folder, which is to be empty, and with these lines in its configuration. `None`, and a
    /// line that says so, if there is no PostgreSQL here, or tests are not to use one.
    ///
    /// # Panics
    /// If the server does not start.
    #[must_use]
    pub fn start(folder: &Path, settings: &[&str]) -> Option<Self> {
        let _ = Schema::new()?;
        // The server does not run as root.
        #[cfg(unix)]
        open_to_all(folder);
        let folder = folder.join("server");
        let mut arguments = vec![folder.as_os_str()];
        arguments.extend(settings.iter().map(std::ffi::OsStr::new));
        let output = control("start", &arguments);
        if output.status.code() == Some(3) {
            eprintln!("skipped: {}", String::from_utf8_lossy(&output.stderr));
            return None;
        }
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        Some(Self { url: String::from_utf8_lossy(&output.stdout).trim().to_owned(), folder })
    }

    /// Its URL, the same after each start.
    #[must_use]
    pub fn url(&self) -> &str {
        &self.url
    }

    /// The folder with its data (`data`) and certificates (`certs`).
    #[must_use]
    pub fn folder(&self) -> &Path {
        &self.folder
    }

    /// Stops it, and with it all sessions.
    pub fn stop(&self) {
        control("stop", &[self.folder.as_os_str(), "fast".as_ref()]);
    }

    /// Stops it, and leaves a pooler before it alone.
    pub fn stop_behind(&self) {
        control("stop", &[self.folder.as_os_str(), "behind".as_ref()]);
    }

    /// Stops it as by a crash: it recovers when it is started again.
    pub fn kill(&self) {
        control("stop", &[self.folder.as_os_str(), "immediate".as_ref()]);
    }

    /// Starts it again.
    ///
    /// # Panics
    /// If it does not start.
    pub fn start_again(&self) {
        let output = control("start", &[self.folder.as_os_str()]);
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    }

    /// Copies its data. It must be stopped.
    ///
    /// # Panics
    /// If that fails.
    pub fn copy(&self) {
        self.must("copy");
    }

    /// Puts the copy in the place of its data. It must be stopped.
    ///
    /// # Panics
    /// If that fails.
    pub fn restore(&self) {
        self.must("restore");
    }

    /// Starts it as a standby, which then becomes the primary of a new timeline. It must be stopped.
    ///
    /// # Panics
    /// If that fails.
    pub fn promote(&self) {
        self.must("promote");
    }

    fn must(&self, action: &str) {
        let output = control(action, &[self.folder.as_os_str()]);
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    }

    /// The URL of a pooler before it, in the mode `transaction` or `session`. `None`, and a line that says so, if there
    /// is no pgbouncer here.
    ///
    /// # Panics
    /// If the pooler does not start.
    #[must_use]
    pub fn pooler(&self, mode: &str) -> Option<String> {
        let output = control("pooler", &[self.folder.as_os_str(), mode.as_ref()]);
        if output.status.code() == Some(3) {
            eprintln!("skipped: {}", String::from_utf8_lossy(&output.stderr));
            return None;
        }
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        Some(String::from_utf8_lossy(&output.stdout).trim().to_owned())
    }

    /// A connection for what a test does beside the store.
    ///
    /// # Panics
    /// If there is none to be had.
    #[must_use]
    pub fn client(&self) -> Client {
        connect(&self.url)
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.kill();
    }
}

/// A file with certificates of the shared server: `root.crt`, `server.crt` or `server.key`. `None` if it has none.
#[must_use]
pub fn certificate(name: &str) -> Option<PathBuf> {
    let folder = std::env::var_os("BIDE_TEST_POSTGRES_FOLDER")?;
    Some(Path::new(&folder).join("certs").join(name)).filter(|file| file.exists())
}

fn connect(url: &str) -> Client {
    Client::connect(url, NoTls).unwrap_or_else(|error| panic!("the server for tests cannot be used: {error}"))
}

/// Calls the script.
fn control(action: &str, arguments: &[&std::ffi::OsStr]) -> Output {
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../scripts/postgres");
    let mut command = Command::new(&script);
    command.arg(action).args(arguments).stdin(Stdio::null());
    command.output().unwrap_or_else(|error| panic!("{}: {error}", script.display()))
}

#[cfg(unix)]
fn open_to_all(folder: &Path) {
    use std::os::unix::fs::PermissionsExt;
    let _ = std::fs::set_permissions(folder, std::fs::Permissions::from_mode(0o755));
}
