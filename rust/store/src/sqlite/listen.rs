//! The thread of a store that waits for hints of other processes (`hint.rs`) and for their ends.
//!
//! However much is sent, it reads its sockets at most once in [`PAUSE`], and asks for a poll because of hints at most
//! once in [`POLL_PAUSE`].

use std::fs::File;
use std::io::{self, Read, Write};
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd, RawFd};
use std::os::unix::net::UnixDatagram;
use std::sync::atomic::AtomicBool;
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};

use bide_sync::Mutex;

use super::hint::{Channel, Hints, LONGEST, MOST_RUNS, address};
use super::peers::{PAUSE, Peers};
use super::surroundings::FileId;
use crate::changes::ChangeLog;

/// The least time between two polls that others ask for.
pub(super) const POLL_PAUSE: Duration = Duration::from_millis(10);

/// The most datagrams that are read at once. The kernel's default queue holds no more.
const MOST_DATAGRAMS: usize = 16;

/// What the thread shares with those who send.
pub(super) struct Shared {
    /// Which file it is about.
    pub(super) file: FileId,
    /// The byte of the lock file that this process holds.
    pub(super) own: i64,
    /// Where hints arrive, and from where they are sent.
    pub(super) socket: UnixDatagram,
    /// Where hints about runs of others arrive, once this process has looked at one. `None`: it cannot be bound.
    pub(super) watcher: OnceLock<Option<UnixDatagram>>,
    /// Written to when the thread is to look at `state` and `watcher`.
    pub(super) bell: File,
    /// The other processes, and whether the thread is to end.
    pub(super) state: Mutex<State>,
    /// There are no other processes: for a look without the lock.
    pub(super) alone: AtomicBool,
    /// Where the thread reports what it hears.
    pub(super) changes: Arc<ChangeLog>,
}

#[derive(Default)]
pub(super) struct State {
    /// The other processes.
    pub(super) peers: Peers,
    /// The thread is to end.
    pub(super) stop: bool,
}

impl Shared {
    /// Wakes the thread.
    pub(super) fn ring(&self) {
        // It fails only if it has been rung 2^64 times since the thread looked.
        let _ = (&self.bell).write(&1_u64.to_ne_bytes());
    }
}

pub(super) fn bind(file: FileId, own: i64, channel: Channel) -> io::Result<UnixDatagram> {
    let socket = UnixDatagram::bind_addr(&address(file, own, channel)?)?;
    socket.set_nonblocking(true)?;
    Ok(socket)
}

pub(super) fn bell() -> io::Result<File> {
    // SAFETY: the call takes two integers and returns a descriptor or -1.
    let bell = unsafe { libc::eventfd(0, libc::EFD_CLOEXEC | libc::EFD_NONBLOCK) };
    if bell < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: the kernel has just opened it for us, and nothing else knows of it.
    Ok(unsafe { OwnedFd::from_raw_fd(bell) }.into())
}

/// The thread.
pub(super) struct Listener<'a> {
    /// What it shares with those who send.
    shared: &'a Shared,
    /// The sockets are not read before.
    rests_until: Option<Instant>,
    /// A poll was asked for that nobody makes yet.
    poll: bool,
    /// No poll is asked for before.
    polls_after: Option<Instant>,
}

impl<'a> Listener<'a> {
    pub(super) fn new(shared: &'a Shared) -> Self {
        Self { shared, rests_until: None, poll: false, polls_after: None }
    }

    pub(super) fn listen(mut self) {
        loop {
            let now = Instant::now();
            let shared = self.shared;
            let mut state = shared.state.lock();
            if state.stop {
                return;
            }
            let due = state.peers.send_due(&shared.socket, now);
            // Shared, so that none is closed, and its number used for something else, while it is waited for.
            let ends: Vec<Arc<OwnedFd>> = state.peers.ends().cloned().collect();
            drop(state);
            self.rests_until = self.rests_until.filter(|until| *until > now);
            self.polls_after = self.polls_after.filter(|after| *after > now);
            if self.poll && self.polls_after.is_none() {
                self.poll = false;
                self.polls_after = Some(now + POLL_PAUSE);
                shared.changes.ask_for_poll();
            }
            let poll_due = self.polls_after.filter(|_| self.poll);
            let until = [due, self.rests_until, poll_due].into_iter().flatten().min();

            let sockets = self.sockets();
            let fixed = [shared.bell.as_raw_fd()].into_iter().chain(sockets.iter().map(|socket| socket.as_raw_fd()));
            let mut waited: Vec<_> = fixed.chain(ends.iter().map(|end| end.as_raw_fd())).map(readable).collect();
            if wait(&mut waited, until.map(|until| until - now)).is_err() {
                // Without this thread the process polls.
                return;
            }
            let (bell, waited) = waited.split_at(1);
            let (arrived, ended) = waited.split_at(sockets.len());
            if is_readable(&bell[0]) {
                let _ = (&shared.bell).read(&mut [0; 8]);
            }
            let ended: Vec<RawFd> = ended.iter().filter(|end| is_readable(end)).map(|end| end.fd).collect();
            if !ended.is_empty() {
                shared.state.lock().peers.ended(&ended);
                shared.changes.ask_for_poll();
            }
            if arrived.iter().any(is_readable) {
                self.receive(&sockets);
                self.rests_until = Some(Instant::now() + PAUSE);
            }
        }
    }

    /// The sockets that are read now.
    fn sockets(&self) -> Vec<&'a UnixDatagram> {
        if self.rests_until.is_some() {
            return Vec::new();
        }
        let watcher = self.shared.watcher.get().and_then(Option::as_ref);
        [Some(&self.shared.socket), watcher].into_iter().flatten().collect()
    }

    /// Reads what has arrived, and reports it.
    fn receive(&mut self, sockets: &[&UnixDatagram]) {
        let mut hints = Hints::default();
        // Longer by one, so that a datagram that is too long is none of ours.
        let mut buffer = [0; LONGEST + 1];
        for socket in sockets {
            for _ in 0..MOST_DATAGRAMS {
                if hints.runs.len() == MOST_RUNS {
                    break;
                }
                let Ok(length) = socket.recv(&mut buffer) else { break };
                hints.add_bytes(&buffer[..length]);
            }
        }
        self.poll |= hints.poll;
        if !hints.runs.is_empty() {
            self.shared.changes.hinted(hints.runs);
        }
    }
}

fn readable(fd: RawFd) -> libc::pollfd {
    libc::pollfd { fd, events: libc::POLLIN, revents: 0 }
}

fn is_readable(waited: &libc::pollfd) -> bool {
    waited.revents != 0
}

/// Waits until one of them is readable, at most for a span.
fn wait(descriptors: &mut [libc::pollfd], span: Option<Duration>) -> io::Result<()> {
    let span = span.map(|span| libc::timespec {
        tv_sec: libc::time_t::try_from(span.as_secs()).unwrap_or(libc::time_t::MAX),
        tv_nsec: span.subsec_nanos().into(),
    });
    let span = span.as_ref().map_or(std::ptr::null(), std::ptr::from_ref);
    // SAFETY: the pointers are to live locals, the length is that of the slice, and no signal mask is given.
    let result =
        unsafe { libc::ppoll(descriptors.as_mut_ptr(), descriptors.len() as libc::nfds_t, span, std::ptr::null()) };
    let error = io::Error::last_os_error();
    if result < 0 && error.kind() != io::ErrorKind::Interrupted { Err(error) } else { Ok(()) }
}
