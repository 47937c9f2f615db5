//! One file has one name. A database's log, its index and the lock file lie beside it and are found by its name: under
//! a second name it would have others, and what is committed under one would be lost under the other.
//!
//! A second name is a hard link, or a mount of the file alone (as containers make it). The lock file says which file it
//! is beside, and where: so the name that is in use can be distinguished from the others. Symbolic links are followed
//! before.
//!
//! | what is opened | |
//! |---|---|
//! | a file with one link: new, copied, restored, moved, renamed | opens, and the lock file beside it says so from then on |
//! | one of several links, with a lock file that names this file in this directory under this name | opens, with a warning: a backup by hard links (`cp -al`) must not keep a service from starting |
//! | one of several links otherwise, the other files linked too or not | refused |
//! | a link to a file that this process has open | the same store, by device and inode |
//! | a mount of the file alone, used by others or not | refused: its log would lie in a container and end with it |
//! | a link that is made while the file is open | a warning |
//!
//! A file that was renamed without its log looks like a copy, which must open.

use std::fs::{self, Metadata};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use super::error::Identity;
use super::surroundings::beside;
use crate::StoreError;

/// Refuses a name of an existing file that is not the one under which it is used. To be called before this process has
/// opened the file or what lies beside it.
pub(super) fn check(path: &Path, identity: &Identity) -> Result<(), StoreError> {
    let Ok(file) = fs::metadata(path) else { return Ok(()) };
    if is_mounted_alone(path) {
        return Err(identity.unavailable(
            "the file is mounted here without its directory (as by -v bide.db:/app/bide.db), so its log and lock file \
             would not be those of its other users and would be lost with this container; mount the directory",
        ));
    }
    if file.nlink() <= 1 || fs::read(beside(path, "-lock")).is_ok_and(|note| note == home(path, &file)) {
        return Ok(());
    }
    Err(identity.unavailable(&format!(
        "the file has {} names (hard links), and this is not the one under which it is used: what is committed under \
         one name is lost under another; open it by that name, or close it everywhere and put a copy (cp) here",
        file.nlink()
    )))
}

/// What the lock file beside this name says: the file, the directory and the name. Without devices, which a reboot may
/// number otherwise.
pub(super) fn home(path: &Path, file: &Metadata) -> Vec<u8> {
    let directory = path.parent().and_then(|directory| fs::metadata(directory).ok());
    let mut note = format!("bide 1 {} {} ", file.ino(), directory.map_or(0, |it| it.ino())).into_bytes();
    note.extend_from_slice(path.file_name().unwrap_or_default().as_bytes());
    note.push(b'\n');
    note
}

/// The warning about a file in use that has several names.
pub(super) fn warning(identity: &Identity, names: u64) -> String {
    format!(
        "{}: the file has {names} names (hard links). A program that opens it by another one can damage it, and a \
         backup made by hard links changes with the file: copy it instead (sqlite3's .backup)",
        identity.name
    )
}

#[cfg(target_os = "linux")]
fn is_mounted_alone(path: &Path) -> bool {
    let mounts = fs::read("/proc/self/mountinfo").unwrap_or_default();
    mounts.split(|byte| *byte == b'\n').filter_map(mount_point).any(|point| point == path.as_os_str().as_bytes())
}

#[cfg(not(target_os = "linux"))]
fn is_mounted_alone(_path: &Path) -> bool {
    false
}

/// Where the mount of a line of mountinfo is.
#[cfg(target_os = "linux")]
pub(super) fn mount_point(line: &[u8]) -> Option<Vec<u8>> {
    let escaped = line.split(|byte| *byte == b' ').nth(4)?;
    let mut point = Vec::with_capacity(escaped.len());
    let mut rest = escaped;
    while let Some((&byte, after)) = rest.split_first() {
        // A blank, tab, line break or backslash is a backslash and three octal digits.
        let code = after.get(..3).and_then(|digits| u8::from_str_radix(std::str::from_utf8(digits).ok()?, 8).ok());
        match code {
            Some(code) if byte == b'\\' => {
                point.push(code);
                rest = &after[3..];
            }
            _ => {
                point.push(byte);
                rest = after;
            }
        }
    }
    Some(point)
}

#[cfg(all(test, target_os = "linux"))]
mod tests {
    use super::*;

    #[test]
    fn a_mount_point_is_read_with_whatever_bytes_it_has() {
        for (escaped, point) in [
            ("/a/b", &b"/a/b"[..]),
            ("/a\\040b\\011c\\012d\\134e", b"/a b\tc\nd\\e"),
            ("/\u{e9}\\040", "/\u{e9} ".as_bytes()),
            ("/end\\", b"/end\\"),
        ] {
            let line = format!("36 35 98:0 /x {escaped} rw,noatime shared:1 - ext4 /dev/root rw");
            assert_eq!(mount_point(line.as_bytes()).as_deref(), Some(point));
        }
        assert_eq!(mount_point(b""), None);
    }
}
