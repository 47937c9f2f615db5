//! The other processes that have runners on a file: how they are reached, what they are to be told, and when they end.

use std::io::ErrorKind;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd, RawFd};
use std::os::unix::net::{SocketAddr, UnixDatagram};
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::hint::{Channel, Hint, Hints, address};
use super::lock::LockFile;
use super::surroundings::FileId;

/// A process gets at most one datagram on a channel in this time, and reads its sockets at most once in it.
pub(super) const PAUSE: Duration = Duration::from_millis(1);

/// How often a datagram is tried again for a process whose queue is full. Then it has not read for so long that its
/// poll sees as much.
const TRIES: u32 = 20;

/// Whom to tell.
#[derive(Clone, Copy)]
pub(super) enum To {
    /// Every other process.
    All,
    /// Those that have looked at runs of others.
    Watchers,
    /// The one that holds this byte of the lock file.
    Process(i64),
}

/// The other processes.
#[derive(Default)]
pub(super) struct Peers(Vec<Peer>);

struct Peer {
    /// The byte of the lock file that it holds.
    byte: i64,
    /// Readable once it has ended; `None`: the poll is to notice.
    end: Option<Arc<OwnedFd>>,
    /// What it is to be told.
    process: Outbox,
    /// What it is to be told if it watches runs of others.
    watcher: Outbox,
}

impl Peers {
    /// From here on these processes have runners on the file.
    pub(super) fn set(&mut self, file: FileId, bytes: &[i64], lock: &LockFile) {
        self.0.retain(|peer| bytes.contains(&peer.byte));
        for byte in bytes {
            if self.0.iter().all(|peer| peer.byte != *byte)
                && let Ok(process) = address(file, *byte, Channel::Process)
                && let Ok(watcher) = address(file, *byte, Channel::Watcher)
            {
                let end = end_of(*byte, lock).map(Arc::new);
                self.0.push(Peer { byte: *byte, end, process: Outbox::to(process), watcher: Outbox::to(watcher) });
            }
        }
    }

    pub(super) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Sends a hint, now or as soon as its receivers can be told more. True if something new waits to be sent.
    pub(super) fn send(&mut self, to: To, hint: Hint<'_>, socket: &UnixDatagram, now: Instant) -> bool {
        let mut waits = false;
        for peer in &mut self.0 {
            let outbox = match to {
                To::All => &mut peer.process,
                To::Watchers => &mut peer.watcher,
                To::Process(byte) if byte == peer.byte => &mut peer.process,
                To::Process(_) => continue,
            };
            waits |= outbox.add(hint, socket, now);
        }
        waits
    }

    /// Sends what has waited for long enough. Returns when there is more to send.
    pub(super) fn send_due(&mut self, socket: &UnixDatagram, now: Instant) -> Option<Instant> {
        let outboxes = self.0.iter_mut().flat_map(|peer| [&mut peer.process, &mut peer.watcher]);
        outboxes.filter_map(|outbox| outbox.send(socket, now)).min()
    }

    /// What becomes readable when one of them ends.
    pub(super) fn ends(&self) -> impl Iterator<Item = &Arc<OwnedFd>> {
        self.0.iter().filter_map(|peer| peer.end.as_ref())
    }

    /// These have ended.
    pub(super) fn ended(&mut self, ends: &[RawFd]) {
        for peer in &mut self.0 {
            peer.end.take_if(|end| ends.contains(&end.as_raw_fd()));
        }
    }
}

/// What becomes readable when the process ends that holds a byte of the lock file. None where the kernel does not offer
/// that, or the process is not visible from here.
fn end_of(byte: i64, lock: &LockFile) -> Option<OwnedFd> {
    let holder = lock.holder(byte)?;
    // SAFETY: the call takes two integers and returns a descriptor or -1.
    let end = unsafe { libc::syscall(libc::SYS_pidfd_open, holder, 0) };
    let end = RawFd::try_from(end).ok().filter(|end| *end >= 0)?;
    // SAFETY: the kernel has just opened it for us, and nothing else knows of it.
    let end = unsafe { OwnedFd::from_raw_fd(end) };
    // If that process had ended before, another one could have its number, but not its byte.
    (lock.holder(byte) == Some(holder)).then_some(end)
}

/// What a process is to be told on one channel.
struct Outbox {
    /// Where it listens.
    address: SocketAddr,
    /// What it was not told yet.
    hints: Hints,
    /// When it was last told something, or could not be.
    tried: Option<Instant>,
    /// How often in a row its queue was full.
    full: u32,
    /// Nobody listened.
    refused: bool,
}

impl Outbox {
    fn to(address: SocketAddr) -> Self {
        Self { address, hints: Hints::default(), tried: None, full: 0, refused: false }
    }

    /// True if there is something to send that was not there before.
    fn add(&mut self, hint: Hint<'_>, socket: &UnixDatagram, now: Instant) -> bool {
        if self.refused && self.rests_until(now).is_some() {
            // Where nobody listens nothing is kept, so that nobody has to be woken to send it.
            return false;
        }
        let waited = !self.hints.is_empty();
        self.hints.add(hint);
        self.send(socket, now).is_some() && !waited
    }

    /// Sends what there is, if the receiver was left alone for long enough. Returns when it is to be called again.
    fn send(&mut self, socket: &UnixDatagram, now: Instant) -> Option<Instant> {
        if self.hints.is_empty() {
            return None;
        }
        if let Some(until) = self.rests_until(now) {
            return Some(until);
        }
        self.tried = Some(now);
        let sent = socket.send_to_addr(&self.hints.to_bytes(), &self.address);
        let full = matches!(&sent, Err(error) if error.kind() == ErrorKind::WouldBlock);
        self.refused = sent.is_err() && !full;
        if full && self.full < TRIES {
            self.full += 1;
            return Some(now + PAUSE);
        }
        self.full = 0;
        self.hints.clear();
        None
    }

    fn rests_until(&self, now: Instant) -> Option<Instant> {
        self.tried.map(|tried| tried + PAUSE).filter(|until| *until > now)
    }
}
