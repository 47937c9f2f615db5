//! Checks whether a path can hold a store, before SQLite opens it, so that the message names the real cause.

use std::ffi::{CString, OsStr};
use std::fs::{self, OpenOptions};
use std::io::ErrorKind;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::LazyLock;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use bide_sync::Mutex;

use super::error::Identity;
use super::names;
use crate::StoreError;

/// A file as the kernel knows it: device and inode.
pub(super) type FileId = (u64, u64);

/// The file that a path names now, if there is one. Opens nothing: closing a descriptor of a database that this
/// process has open elsewhere would free SQLite's locks on it.
pub(super) fn identify(path: &Path) -> Option<FileId> {
    fs::metadata(path).ok().map(|file| (file.dev(), file.ino()))
}

/// The files of an open store and which they were when it was opened. All of them are watched: with another log or
/// index the database is another one, and without the lock file other processes take this one for dead.
pub(super) struct Files {
    /// The database: its path, and which file that was.
    database: (PathBuf, FileId),
    /// The files beside it, likewise.
    beside: Vec<(PathBuf, FileId)>,
    /// How many names the database was last seen to have.
    names: AtomicU64,
    /// Whether the user was warned that it has several.
    warned: AtomicBool,
}

/// What a store has beside its database.
const BESIDE: [&str; 3] = ["-wal", "-shm", "-lock"];

/// The path of a file beside a database.
pub(super) fn beside(path: &Path, suffix: &str) -> PathBuf {
    let mut name = path.to_path_buf().into_os_string();
    name.push(suffix);
    name.into()
}

impl Files {
    /// The write-ahead log.
    pub(super) fn log(&self) -> &Path {
        &self.beside[0].0
    }

    /// Of a store that has all of them open.
    pub(super) fn of(path: &Path, database: FileId, identity: &Identity) -> Result<Self, StoreError> {
        let found = BESIDE.map(|suffix| {
            let path = beside(path, suffix);
            identify(&path).map(|file| (path, file))
        });
        let beside = found.into_iter().collect::<Option<Vec<_>>>();
        let beside = beside.ok_or_else(|| identity.unavailable("a file beside it was deleted while it was opened"))?;
        let files = Self { database: (path.to_path_buf(), database), beside, names: 1.into(), warned: false.into() };
        files.still_there(identity)?;
        Ok(files)
    }

    /// Whether they are where they were. A few looks at directories; reads nothing.
    pub(super) fn still_there(&self, identity: &Identity) -> Result<(), StoreError> {
        let (path, file) = &self.database;
        match fs::metadata(path) {
            Ok(now) if (now.dev(), now.ino()) == *file && now.len() > 0 => {
                self.names.store(now.nlink(), Ordering::Relaxed);
            }
            Ok(now) if (now.dev(), now.ino()) == *file => {
                return Err(identity.unavailable(
                    "the file was emptied by another program while it was open; close what uses it and restore it from a \
                     backup",
                ));
            }
            _ => {
                return Err(identity.unavailable(
                    "the file was deleted or replaced while it was open; put it back or start again with the new one",
                ));
            }
        }
        match self.beside.iter().find(|(path, file)| identify(path) != Some(*file)) {
            None => Ok(()),
            Some((path, _)) => Err(identity.unavailable(&format!(
                "the file {} was deleted or replaced while it was open, and belongs to the database as long as it is; \
                 close what uses the database, then start again",
                path.display()
            ))),
        }
    }
}

impl Files {
    /// A warning about them, once.
    pub(super) fn warning(&self, identity: &Identity) -> Option<String> {
        let names = self.names.load(Ordering::Relaxed);
        (names > 1 && !self.warned.swap(true, Ordering::Relaxed)).then(|| names::warning(identity, names))
    }
}

/// A warning about an existing file that others can read or write, once for each file and process.
pub(super) fn open_to_others(path: &Path, identity: &Identity) -> Option<String> {
    // The path too: another file may get the number of one that was deleted.
    static WARNED: LazyLock<Mutex<Vec<(PathBuf, FileId)>>> = LazyLock::new(Mutex::default);
    let file = fs::metadata(path).ok()?;
    let (id, mode) = ((path.to_path_buf(), (file.dev(), file.ino())), file.mode() & 0o777);
    let may = match (mode & 0o044 != 0, mode & 0o022 != 0) {
        (false, false) => return None,
        (true, false) => "read",
        (false, true) => "change",
        (true, true) => "read and change",
    };
    let mut warned = WARNED.lock();
    if warned.contains(&id) {
        return None;
    }
    warned.push(id);
    Some(format!(
        "{}: other users can {may} it (mode {mode:04o}), with all values of its runs; if they should not, chmod 600 \
         it and the files beside it",
        identity.name
    ))
}

/// SQLite's limit for the path of a database.
const LONGEST: usize = 512;

/// The longest name of a file in nearly all file systems.
const LONGEST_NAME: usize = 255;

/// As many symbolic links as the system follows.
const MOST_LINKS: usize = 40;

/// The full path of a store whose directory exists; symbolic links are followed, so that one file has one name. One
/// that leads to no file yet names the file that is to be made.
pub(super) fn resolve(path: &Path, identity: &Identity) -> Result<PathBuf, StoreError> {
    let mut end = path.to_path_buf();
    for _ in 0..MOST_LINKS {
        match fs::read_link(&end) {
            Ok(target) if !end.exists() => end = directory_of(&end).join(target),
            _ if end == path => return resolve_end(path, identity),
            _ => {
                let link = format!("it is a symbolic link to {}, where no store can be", end.display());
                let identity = Identity { name: format!("{}: {link}", identity.name), ..identity.clone() };
                return resolve_end(&end, &identity);
            }
        }
    }
    Err(identity.unavailable("its symbolic links lead in a circle; name another path"))
}

fn directory_of(path: &Path) -> &Path {
    match path.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent,
        _ => Path::new("."),
    }
}

/// As [`resolve`], of what is no dangling link.
fn resolve_end(path: &Path, identity: &Identity) -> Result<PathBuf, StoreError> {
    if path.is_dir() {
        return Err(identity.unavailable("it is a directory; name a file in it"));
    }
    if path.as_os_str().as_encoded_bytes().ends_with(b"/") {
        return Err(identity.unavailable("it ends with a slash, as only a directory does; name a file"));
    }
    if let Ok(full) = path.canonicalize() {
        if !full.is_file() {
            return Err(identity.unavailable("it is not a regular file; name another path"));
        }
        return short(full, identity);
    }
    let directory = directory_of(path);
    let name = path.file_name().ok_or_else(|| identity.unavailable("it does not name a file"))?;
    match directory.canonicalize() {
        Ok(directory) if directory.is_dir() => short(directory.join(name), identity),
        Err(error) if error.kind() != ErrorKind::NotFound => {
            Err(identity.unavailable(&format!("the directory {} cannot be used ({error})", directory.display())))
        }
        Ok(file) => Err(identity.unavailable(&format!("{} is not a directory; name another path", file.display()))),
        Err(_) => {
            let home = if directory.as_os_str().as_encoded_bytes().starts_with(b"~") {
                " (~ does not stand for the home directory here)"
            } else {
                ""
            };
            let directory = directory.display();
            Err(identity.unavailable(&format!(
                "the directory {directory} does not exist{home}; create it or name another path"
            )))
        }
    }
}

fn short(full: PathBuf, identity: &Identity) -> Result<PathBuf, StoreError> {
    // Beside the database there are files with longer names; `-journal` is the longest.
    if full.file_name().is_some_and(|name| name.len() + "-journal".len() > LONGEST_NAME) {
        let most = LONGEST_NAME - "-journal".len();
        return Err(identity.unavailable(&format!("its name is longer than {most} bytes; use a shorter one")));
    }
    let length = full.as_os_str().len() + "-journal".len();
    if length <= LONGEST {
        return Ok(full);
    }
    let most = LONGEST - "-journal".len();
    Err(identity
        .unavailable(&format!("its full path is longer than the {most} bytes that SQLite allows; use a shorter one")))
}

/// Refuses what cannot be written and, unless `network` allows it, file systems that other machines share.
pub(super) fn check(path: &Path, identity: &Identity, network: bool) -> Result<(), StoreError> {
    let directory = path.parent().unwrap_or(Path::new("/"));
    if !network && let Some(kind) = network_file_system(directory) {
        return Err(identity.unavailable(&format!(
            "{} is on a network file system ({kind}), where SQLite's locks and shared memory do not hold; \
             use a local path",
            directory.display()
        )));
    }
    if !writable(directory) {
        return Err(identity.unavailable(&format!(
            "the directory {} is read-only for this user; make it writable or name another path",
            directory.display()
        )));
    }
    if path.exists() && !(writable(path) && readable(path)) {
        return Err(
            identity.unavailable("this user may not read and write the file; change its mode or name another path")
        );
    }
    Ok(())
}

/// Creates the file if it is not there, readable by its owner alone. SQLite gives its side files the same mode.
pub(super) fn create(path: &Path, identity: &Identity) -> Result<FileId, StoreError> {
    match OpenOptions::new().read(true).write(true).create_new(true).mode(0o600).open(path) {
        Ok(_) => {}
        Err(error) if error.kind() == ErrorKind::AlreadyExists => {}
        Err(error) => {
            return Err(identity.system_error("it cannot be created", &error, "; name a path that can be written"));
        }
    }
    identify(path).ok_or_else(|| identity.unavailable("it was deleted while it was opened"))
}

fn writable(path: &Path) -> bool {
    access(path, libc::W_OK)
}

fn readable(path: &Path) -> bool {
    access(path, libc::R_OK)
}

fn access(path: &Path, mode: i32) -> bool {
    let Ok(path) = CString::new(path.as_os_str().as_bytes()) else { return false };
    // SAFETY: the pointer is to a string that ends in NUL and lives until the call returns.
    unsafe { libc::access(path.as_ptr(), mode) == 0 }
}

/// The name of the network file system that a directory is on, if it is.
#[cfg(target_os = "linux")]
fn network_file_system(directory: &Path) -> Option<String> {
    /// Magic numbers of statfs(2).
    const NETWORK: &[(i64, &str)] = &[
        (0x6969, "nfs"),
        (0x517b, "smb"),
        (0xff53_4d42, "cifs"),
        (0xfe53_4d42, "smb2"),
        (0x5346_414f, "afs"),
        (0x7375_7245, "coda"),
        (0x564c, "ncp"),
        (0x0102_1997, "9p"),
        (0x00c3_6400, "ceph"),
        (0x0bd0_0bd0, "lustre"),
        (0x4750_4653, "gpfs"),
        (0x0116_1970, "gfs2"),
        (0x7461_636f, "ocfs2"),
    ];
    const FUSE: i64 = 0x6573_5546;
    let path = CString::new(directory.as_os_str().as_bytes()).ok()?;
    // SAFETY: `statfs` is a plain C structure for which all zeros is a valid value.
    let mut found: libc::statfs = unsafe { std::mem::zeroed() };
    // SAFETY: the path ends in NUL and both pointers are to locals that live until the call returns.
    if unsafe { libc::statfs(path.as_ptr(), &raw mut found) } != 0 {
        return None;
    }
    let magic = found.f_type as i64 & 0xffff_ffff;
    if magic == FUSE {
        return fuse_type(&fs::read_to_string("/proc/self/mountinfo").ok()?, directory);
    }
    NETWORK.iter().find(|(known, _)| *known == magic).map(|(_, name)| (*name).to_owned())
}

/// FUSE has one magic number for local and remote file systems: the type of its mount distinguishes them.
#[cfg(target_os = "linux")]
fn fuse_type(mountinfo: &str, directory: &Path) -> Option<String> {
    const REMOTE: &[&str] =
        &["sshfs", "s3fs", "rclone", "gcsfuse", "glusterfs", "davfs", "goofys", "cephfs", "curlftpfs", "mount-s3"];
    let kind = mountinfo
        .lines()
        .filter_map(|line| {
            let point = names::mount_point(line.as_bytes())?;
            let kind = line.split_once(" - ")?.1.split(' ').next();
            directory.starts_with(OsStr::from_bytes(&point)).then_some((point.len(), kind))
        })
        // Of equal mount points the later one lies on top.
        .max_by_key(|(length, _)| *length)?
        .1?;
    REMOTE.iter().any(|remote| kind.contains(remote)).then(|| kind.to_owned())
}

#[cfg(not(target_os = "linux"))]
fn network_file_system(_directory: &Path) -> Option<String> {
    None
}

#[cfg(all(test, target_os = "linux"))]
mod tests {
    use super::*;

    #[test]
    fn a_remote_fuse_mount_is_known_by_its_type_and_a_local_one_is_not() {
        let mounts = "36 35 98:0 / / rw,noatime - ext4 /dev/root rw\n\
                      40 36 0:50 / /mnt/far\\040away rw shared:1 - fuse.sshfs host:/ rw\n\
                      41 36 0:51 / /mnt/near rw - fuse.mergerfs a:b rw\n";
        assert_eq!(fuse_type(mounts, Path::new("/mnt/far away/deep")).as_deref(), Some("fuse.sshfs"));
        assert_eq!(fuse_type(mounts, Path::new("/mnt/near")), None);
        assert_eq!(fuse_type(mounts, Path::new("/home")), None);
    }
}
