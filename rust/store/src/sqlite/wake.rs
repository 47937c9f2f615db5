//! The wake-up channel between the processes of a file. Without it a process sees at its next poll what others do. With
//! it, it looks at once.
//!
//! It is no more than that: what is lost is found by the poll, and what is forged costs a look. Each process of a file
//! has a socket (`hint.rs`) and a thread that reads it (`listen.rs`), and knows the others from their runners' rows
//! (`peers.rs`).

use std::io;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, OnceLock};
use std::thread::JoinHandle;
use std::time::Instant;

use bide_core::record::RunRowId;
use bide_sync::Mutex;

use super::hint::{Channel, Hint};
use super::listen::{Listener, Shared, bell, bind};
use super::lock::LockFile;
use super::peers::To;
use super::surroundings::FileId;
use crate::changes::ChangeLog;

/// The channel of one store. Its thread ends when it is dropped.
pub(super) struct Wake(Option<(Arc<Shared>, JoinHandle<()>)>);

impl Wake {
    /// Starts to listen. If the system gives no socket or thread, there is only the poll.
    pub(super) fn start(file: FileId, own: i64, changes: &Arc<ChangeLog>) -> Self {
        let start = || -> io::Result<_> {
            let shared = Arc::new(Shared {
                file,
                own,
                socket: bind(file, own, Channel::Process)?,
                watcher: OnceLock::new(),
                bell: bell()?,
                state: Mutex::default(),
                alone: AtomicBool::new(true),
                changes: Arc::clone(changes),
            });
            let theirs = Arc::clone(&shared);
            let thread =
                std::thread::Builder::new().name("bide-wake".into()).spawn(move || Listener::new(&theirs).listen())?;
            Ok((shared, thread))
        };
        Self(start().ok())
    }

    /// From here on the processes that hold these bytes of the lock file have runners on the file.
    pub(super) fn set_peers(&self, bytes: &[i64], lock: &LockFile) {
        let Some((shared, _)) = &self.0 else { return };
        let mut state = shared.state.lock();
        state.peers.set(shared.file, bytes, lock);
        shared.alone.store(state.peers.is_empty(), Ordering::Relaxed);
        drop(state);
        shared.ring();
    }

    /// Whether there is nobody to be told anything.
    pub(super) fn is_alone(&self) -> bool {
        self.0.as_ref().is_none_or(|(shared, _)| shared.alone.load(Ordering::Relaxed))
    }

    /// This process is about to look at a run that others may change: from here on they tell it.
    pub(super) fn watch(&self) {
        let Some((shared, _)) = &self.0 else { return };
        if self.is_alone() || shared.watcher.get().is_some() {
            return;
        }
        let mut is_first = false;
        // One thread binds: the name is taken for any other, which would find no socket.
        shared.watcher.get_or_init(|| {
            is_first = true;
            bind(shared.file, shared.own, Channel::Watcher).ok()
        });
        if is_first {
            shared.ring();
        }
    }

    /// Has the other processes poll the file.
    pub(super) fn poll_others(&self) {
        self.send(To::All, Hint::Poll);
    }

    /// Tells the processes that watch runs of others that these have ended or are paused.
    pub(super) fn tell_watchers(&self, runs: &[RunRowId]) {
        self.send(To::Watchers, Hint::Runs(runs));
    }

    /// Tells the process that holds this byte of the lock file that something was written for a run of its.
    pub(super) fn tell(&self, process: i64, run: RunRowId) {
        self.send(To::Process(process), Hint::Runs(&[run]));
    }

    fn send(&self, to: To, hint: Hint<'_>) {
        let Some((shared, _)) = &self.0 else { return };
        if !self.is_alone() && shared.state.lock().peers.send(to, hint, &shared.socket, Instant::now()) {
            shared.ring();
        }
    }
}

impl Drop for Wake {
    fn drop(&mut self) {
        if let Some((shared, thread)) = self.0.take() {
            shared.state.lock().stop = true;
            shared.ring();
            let _ = thread.join();
        }
    }
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "tests")]
mod tests {
    use std::os::unix::net::UnixDatagram;
    use std::time::Duration;

    use super::*;
    use crate::sqlite::hint::{MOST_RUNS, address};
    use crate::sqlite::listen::POLL_PAUSE;
    use crate::{ChangedRuns, Changes, Seen};

    const HANG: Duration = Duration::from_secs(30);

    /// Channels of one file that know each other, as if each were of another process.
    struct Scene {
        lock: LockFile,
        file: FileId,
        ends: Vec<(Wake, Arc<ChangeLog>)>,
        _folder: tempfile::TempDir,
    }

    impl Scene {
        fn new(count: i64) -> Self {
            let folder = tempfile::tempdir().unwrap();
            let lock = LockFile::open(&folder.path().join("lock")).unwrap();
            // No two tests have the same names of sockets.
            let file = (lock.own().unsigned_abs(), 7);
            let start = |byte| {
                let changes = Arc::new(ChangeLog::new(false));
                (Wake::start(file, byte, &changes), changes)
            };
            let scene = Self { lock, file, ends: (0..count).map(start).collect(), _folder: folder };
            let bytes: Vec<i64> = (0..count).collect();
            for (own, (wake, _)) in scene.ends.iter().enumerate() {
                let others: Vec<i64> = bytes.iter().copied().filter(|byte| *byte != own as i64).collect();
                wake.set_peers(&others, &scene.lock);
            }
            scene
        }

        fn wake(&self, end: usize) -> &Wake {
            &self.ends[end].0
        }

        /// What is heard there next.
        fn hears(&self, end: usize, seen: Seen) -> Changes {
            let changes = &self.ends[end].1;
            assert!(changes.wait(seen, HANG), "it hears nothing");
            changes.since(seen)
        }

        fn is_asked_to_poll(&self, end: usize) -> bool {
            let changes = &self.ends[end].1;
            assert!(!changes.wait(Seen::default(), HANG));
            changes.take_poll()
        }
    }

    fn runs(changes: &Changes) -> Vec<RunRowId> {
        let ChangedRuns::These(runs) = &changes.runs else { panic!("{changes:?}") };
        let mut runs = runs.clone();
        runs.sort_unstable();
        runs
    }

    #[test]
    fn a_process_is_told_of_its_run_and_the_others_are_not() {
        let scene = Scene::new(3);
        scene.wake(0).tell(1, 77);
        assert_eq!(runs(&scene.hears(1, Seen::default())), [77]);
        scene.wake(0).tell(2, 78);
        assert_eq!(runs(&scene.hears(2, Seen::default())), [78]);
        assert_eq!(runs(&scene.ends[1].1.since(Seen::default())), [77]);
    }

    #[test]
    fn all_others_are_asked_to_poll() {
        let scene = Scene::new(3);
        scene.wake(1).poll_others();
        assert!(scene.is_asked_to_poll(0));
        assert!(scene.is_asked_to_poll(2));
        assert!(!scene.ends[1].1.take_poll());
    }

    #[test]
    fn ends_of_runs_are_told_to_those_that_watch() {
        let scene = Scene::new(3);
        scene.wake(1).watch();
        scene.wake(0).tell_watchers(&[5, 6]);
        assert_eq!(runs(&scene.hears(1, Seen::default())), [5, 6]);
        // Heard after the first hint, if that had been sent there too.
        scene.wake(0).tell(2, 7);
        assert_eq!(runs(&scene.hears(2, Seen::default())), [7]);
    }

    #[test]
    fn hints_in_quick_succession_are_sent_together_and_none_is_lost() {
        let scene = Scene::new(2);
        let (mut seen, mut heard) = (Seen::default(), Vec::new());
        for run in 0..50 {
            scene.wake(0).tell(1, run);
        }
        while heard.len() < 50 {
            let changes = scene.hears(1, seen);
            heard.extend(runs(&changes));
            seen = changes.seen;
        }
        heard.sort_unstable();
        assert_eq!(heard, (0..50).collect::<Vec<_>>());
    }

    #[test]
    fn more_runs_than_a_hint_names_are_left_to_the_poll() {
        let scene = Scene::new(2);
        scene.wake(1).watch();
        let many: Vec<RunRowId> = (0..1000).collect();
        scene.wake(0).tell_watchers(&many);
        assert_eq!(runs(&scene.hears(1, Seen::default())), many[..MOST_RUNS]);
        let begun = Instant::now();
        while !scene.ends[1].1.take_poll() {
            assert!(begun.elapsed() < HANG, "no poll is asked for");
            std::thread::yield_now();
        }
    }

    #[test]
    fn a_process_that_is_gone_or_does_not_read_keeps_nobody_waiting() {
        let mut scene = Scene::new(3);
        // One ends; another one has a socket that nobody reads.
        drop(scene.ends.remove(2));
        drop(scene.ends.remove(1));
        let _deaf = bind(scene.file, 1, Channel::Process).unwrap();
        for run in 0..10_000 {
            scene.wake(0).tell(1, run);
            scene.wake(0).poll_others();
            scene.wake(0).tell_watchers(&[run]);
        }
    }

    #[test]
    fn a_flood_of_anything_makes_a_process_look_now_and_then_and_hints_still_arrive() {
        let scene = Scene::new(2);
        let stop = AtomicBool::new(false);
        std::thread::scope(|scope| {
            let flood = |datagram: &'static [u8]| {
                let (to, stop) = (address(scene.file, 1, Channel::Process).unwrap(), &stop);
                scope.spawn(move || {
                    let stranger = UnixDatagram::unbound().unwrap();
                    while !stop.load(Ordering::Relaxed) {
                        stranger.send_to_addr(datagram, &to).unwrap();
                    }
                })
            };
            let floods = [flood(b"nonsense that is none of ours"), flood(b"\x01")];
            let begun = Instant::now();
            let mut polls = 0;
            let (mut seen, mut heard) = (Seen::default(), false);
            while !heard || polls < 10 {
                assert!(begun.elapsed() < HANG, "{polls} polls, heard: {heard}");
                scene.wake(0).tell(1, 4711);
                scene.ends[1].1.wait(seen, Duration::from_millis(5));
                polls += u32::from(scene.ends[1].1.take_poll());
                let changes = scene.ends[1].1.since(seen);
                heard |= runs(&changes).contains(&4711);
                seen = changes.seen;
            }
            let most = begun.elapsed().as_micros() / POLL_PAUSE.as_micros() + 1;
            assert!(u128::from(polls) <= most, "{polls} polls, at most {most}");
            stop.store(true, Ordering::Relaxed);
            for flood in floods {
                flood.join().unwrap();
            }
        });
    }

    #[test]
    fn a_name_that_is_taken_leaves_the_poll() {
        let scene = Scene::new(2);
        let changes = Arc::new(ChangeLog::new(false));
        let second = Wake::start(scene.file, 1, &changes);
        second.set_peers(&[0], &scene.lock);
        assert!(second.is_alone());
        second.watch();
        second.poll_others();
        drop(second);
        // A stranger may have taken the watcher's name.
        let _stranger = bind(scene.file, 1, Channel::Watcher).unwrap();
        scene.wake(1).watch();
        scene.wake(0).tell_watchers(&[1]);
        scene.wake(0).tell(1, 2);
        assert_eq!(runs(&scene.hears(1, Seen::default())), [2]);
    }
}
