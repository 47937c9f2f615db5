//! A file under two names, dangling links, and files that others can read.
#![expect(clippy::unwrap_used, reason = "tests")]

use std::fs;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::Path;
use std::process::Command;
use std::sync::Arc;
use std::time::Duration;

use bide_core::Time;
use bide_store::{Durability, Maintenance, Seen, SqliteStore, Store, StoreError};

fn try_open(path: &Path) -> Result<Arc<SqliteStore>, StoreError> {
    SqliteStore::open(path, Durability::Normal)
}

fn open(path: &Path) -> Arc<SqliteStore> {
    try_open(path).unwrap()
}

fn refusal(path: &Path) -> String {
    match try_open(path) {
        Err(StoreError::Unavailable(message)) => message,
        Err(other) => panic!("{other}"),
        Ok(_) => panic!("{} is opened", path.display()),
    }
}

fn files(directory: &Path) -> Vec<String> {
    let mut names: Vec<_> =
        fs::read_dir(directory).unwrap().map(|entry| entry.unwrap().file_name().to_str().unwrap().to_owned()).collect();
    names.sort_unstable();
    names
}

/// All warnings of a store.
fn warnings(store: &SqliteStore) -> Vec<String> {
    std::iter::from_fn(|| store.warning()).collect()
}

/// Gives the file `bide.db` of the first directory another name, there or in the second one.
type Link = fn(&Path, &Path);

const SECOND_NAMES: [(&str, Link); 4] = [
    ("beside it", |one, _| fs::hard_link(one.join("bide.db"), one.join("two.db")).unwrap()),
    ("elsewhere, of the same name", |one, two| fs::hard_link(one.join("bide.db"), two.join("bide.db")).unwrap()),
    ("elsewhere, with all of its files", |one, two| {
        for name in files(one) {
            fs::hard_link(one.join(&name), two.join(&name)).unwrap();
        }
    }),
    ("elsewhere, with a copy of its lock file", |one, two| {
        fs::hard_link(one.join("bide.db"), two.join("bide.db")).unwrap();
        fs::copy(one.join("bide.db-lock"), two.join("bide.db-lock")).unwrap();
    }),
];

#[test]
fn a_second_name_of_a_file_is_refused_and_the_first_one_opens() {
    for (what, make) in SECOND_NAMES {
        let (one, two) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        let first = one.path().join("bide.db");
        drop(open(&first));
        make(one.path(), two.path());
        let second = [one.path().join("two.db"), two.path().join("bide.db")].into_iter().find(|it| it.exists());
        let second = second.unwrap();
        let before = (files(one.path()), files(two.path()));
        let message = refusal(&second);
        assert!(message.contains(second.to_str().unwrap()) && message.contains("hard links"), "{what}: {message}");
        assert!(message.contains("copy (cp)"), "{what}: {message}");
        assert_eq!((files(one.path()), files(two.path())), before, "{what}");

        // Such a backup prevents no start, and is reported once.
        let store = open(&first);
        let warned = warnings(&store);
        assert!(warned.len() == 1 && warned[0].contains("2 names"), "{what}: {warned:?}");
        drop(store);
        // As the message advises.
        fs::copy(&first, two.path().join("copy")).unwrap();
        fs::rename(two.path().join("copy"), &second).unwrap();
        drop(open(&second));
        assert_eq!(warnings(&open(&first)), [] as [&str; 0], "{what}");
    }
}

#[test]
fn a_link_made_while_open_is_reported_and_leads_to_the_same_store() {
    let directory = tempfile::tempdir().unwrap();
    let (one, two) = (directory.path().join("one.db"), directory.path().join("two.db"));
    let store = open(&one);
    assert_eq!(warnings(&store), [] as [&str; 0]);
    fs::hard_link(&one, &two).unwrap();
    assert!(Arc::ptr_eq(&store, &open(&two)));
    store.wait_for_changes(Seen::default(), Duration::ZERO).unwrap();
    assert_eq!(warnings(&store).len(), 1);
    store.wait_for_changes(Seen::default(), Duration::ZERO).unwrap();
    assert_eq!(warnings(&store), [] as [&str; 0]);
    drop(store);
    refusal(&two);
    drop(open(&one));
}

#[test]
fn an_unused_file_is_refused_under_each_of_its_names() {
    let directory = tempfile::tempdir().unwrap();
    let (one, two) = (directory.path().join("one.db"), directory.path().join("two.db"));
    fs::write(&one, "").unwrap();
    fs::hard_link(&one, &two).unwrap();
    refusal(&one);
    refusal(&two);
    fs::remove_file(&two).unwrap();
    drop(open(&one));
}

#[test]
fn copies_and_files_that_were_moved_open() {
    let directory = tempfile::tempdir().unwrap();
    let at = |name: &str| directory.path().join(name);
    let store = open(&at("one.db"));
    store.enroll(Time(0).into()).unwrap();
    drop(store);
    fs::copy(at("one.db"), at("copy.db")).unwrap();
    drop(open(&at("copy.db")));
    for suffix in ["", "-lock"] {
        fs::rename(at(&format!("one.db{suffix}")), at(&format!("with.db{suffix}"))).unwrap();
    }
    drop(open(&at("with.db")));
    fs::rename(at("with.db"), at("alone.db")).unwrap();
    drop(open(&at("alone.db")));
    // Restored over the old one, whose lock file is still there.
    fs::remove_file(at("alone.db")).unwrap();
    fs::copy(at("copy.db"), at("alone.db")).unwrap();
    drop(open(&at("alone.db")));
    // Seen from its new place it has a second name.
    fs::hard_link(at("alone.db"), at("two.db")).unwrap();
    refusal(&at("two.db"));
    drop(open(&at("alone.db")));
}

#[test]
fn a_file_that_is_mounted_alone_is_refused() {
    let directory = tempfile::tempdir().unwrap();
    let (one, two) = (directory.path().join("one.db"), directory.path().join("two of it.db"));
    drop(open(&one));
    fs::write(&two, "").unwrap();
    let mounted = Command::new("mount").arg("--bind").args([&one, &two]).output();
    if !mounted.is_ok_and(|output| output.status.success()) {
        eprintln!("not tested: only root can mount");
        return;
    }
    let refused = std::panic::catch_unwind(|| refusal(&two));
    let before = files(directory.path());
    assert!(Command::new("umount").arg(&two).status().unwrap().success());
    let message = refused.unwrap();
    assert!(message.contains("mount the directory"), "{message}");
    assert_eq!(before, ["one.db", "one.db-lock", "two of it.db"]);
    drop(open(&one));
}

#[test]
fn a_symbolic_link_to_a_file_that_is_not_there_yet_names_it() {
    let directory = tempfile::tempdir().unwrap();
    let at = |name: &str| directory.path().join(name);
    fs::create_dir(at("volume")).unwrap();
    for (link, target) in [
        ("relative.db", "volume/relative.db"),
        ("absolute.db", at("volume/absolute.db").to_str().unwrap()),
        ("second.db", "first.db"),
        ("first.db", "volume/../volume/twice.db"),
    ] {
        symlink(target, at(link)).unwrap();
    }
    for (link, target) in [("relative.db", "relative.db"), ("absolute.db", "absolute.db"), ("second.db", "twice.db")] {
        let store = open(&at(link));
        assert!(Arc::ptr_eq(&store, &open(&at("volume").join(target))), "{link}");
        assert!(at("volume").join(format!("{target}-wal")).exists() && !at(&format!("{link}-wal")).exists(), "{link}");
    }
}

#[test]
fn a_symbolic_link_that_leads_nowhere_is_refused_naming_where_it_leads() {
    let directory = tempfile::tempdir().unwrap();
    let at = |name: &str| directory.path().join(name);
    let path = |name: &str| at(name).to_str().unwrap().to_owned();
    symlink("volume/state.db", at("link.db")).unwrap();
    let message = refusal(&at("link.db"));
    let parts = [path("link.db"), path("volume/state.db"), "does not exist; create it".into()];
    assert!(parts.iter().all(|part| message.contains(part)), "{message}");
    symlink("round.db", at("round.db")).unwrap();
    let message = refusal(&at("round.db"));
    assert!(message.contains(&path("round.db")) && message.contains("in a circle"), "{message}");
    assert_eq!(files(directory.path()), ["link.db", "round.db"]);
}

#[test]
fn an_existing_file_that_others_can_read_is_reported_once() {
    let directory = tempfile::tempdir().unwrap();
    for mode in 0o600..=0o677_u32 {
        let path = directory.path().join(format!("{mode:o}.db"));
        drop(open(&path));
        fs::set_permissions(&path, fs::Permissions::from_mode(mode)).unwrap();
        let warned = warnings(&open(&path));
        if mode & 0o066 == 0 {
            assert_eq!(warned, [] as [&str; 0], "{mode:o}");
        } else {
            assert!(warned.len() == 1 && warned[0].contains(&format!("{mode:04o}")), "{mode:o}: {warned:?}");
            assert!(warned[0].contains(path.to_str().unwrap()) && warned[0].contains("chmod 600"), "{warned:?}");
        }
        assert_eq!(warnings(&open(&path)), [] as [&str; 0], "{mode:o}");
    }
}
