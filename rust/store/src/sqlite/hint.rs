//! What the processes of a file tell each other: that runs have changed, or that the file is worth a poll.
//!
//! A hint is a datagram to a socket in Linux's abstract namespace. Every process of the machine may send one, so a hint
//! never does more than make its receiver look, and one that does not come is replaced by the poll.

use std::io;
use std::os::linux::net::SocketAddrExt;
use std::os::unix::net::SocketAddr;

use bide_core::record::RunRowId;

use super::surroundings::FileId;

/// The version of names and datagrams. Processes of different versions do not hear each other, and poll.
const VERSION: u32 = 1;

/// The number of runs that one datagram names.
pub(super) const MOST_RUNS: usize = 64;

/// The longest datagram.
pub(super) const LONGEST: usize = 1 + 8 * MOST_RUNS;

/// Which of a process's sockets.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Channel {
    /// Bound while the process has the file open.
    Process,
    /// Bound once the process has looked at a run that others execute: for hints that are of no use to the rest.
    Watcher,
}

/// Where the process that holds a byte of the lock file listens.
pub(super) fn address((device, inode): FileId, byte: i64, channel: Channel) -> io::Result<SocketAddr> {
    let suffix = match channel {
        Channel::Process => "",
        Channel::Watcher => "-watcher",
    };
    SocketAddr::from_abstract_name(format!("bide-{VERSION}-{device:x}-{inode:x}-{byte:x}{suffix}"))
}

/// One hint.
#[derive(Clone, Copy)]
pub(super) enum Hint<'a> {
    /// Poll the file.
    Poll,
    /// Look at these runs.
    Runs(&'a [RunRowId]),
}

/// Several hints, as one datagram has them.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Hints {
    /// Poll the file.
    pub(super) poll: bool,
    /// Look at these runs; at most [`MOST_RUNS`].
    pub(super) runs: Vec<RunRowId>,
}

impl Hints {
    /// Adds one. Of more runs than fit in a datagram the poll is to find the rest.
    pub(super) fn add(&mut self, hint: Hint<'_>) {
        match hint {
            Hint::Poll => self.poll = true,
            Hint::Runs(runs) => {
                let room = MOST_RUNS - self.runs.len();
                self.runs.extend(runs.iter().take(room));
                self.poll |= runs.len() > room;
            }
        }
    }

    pub(super) fn is_empty(&self) -> bool {
        !self.poll && self.runs.is_empty()
    }

    pub(super) fn clear(&mut self) {
        self.poll = false;
        self.runs.clear();
    }

    /// The datagram.
    pub(super) fn to_bytes(&self) -> Vec<u8> {
        let mut bytes = Vec::with_capacity(1 + 8 * self.runs.len());
        bytes.push(u8::from(self.poll));
        bytes.extend(self.runs.iter().flat_map(|run| run.to_le_bytes()));
        bytes
    }

    /// Adds those of a datagram, which may be anything.
    pub(super) fn add_bytes(&mut self, bytes: &[u8]) {
        let Some((poll @ (0 | 1), runs)) = bytes.split_first() else { return };
        let (runs, []) = runs.as_chunks() else { return };
        let runs: Vec<_> = runs.iter().map(|run| RunRowId::from_le_bytes(*run)).collect();
        self.poll |= *poll == 1;
        self.add(Hint::Runs(&runs));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_datagram_reads_back() {
        for hints in [
            Hints::default(),
            Hints { poll: true, runs: vec![] },
            Hints { poll: false, runs: vec![1, -1, RunRowId::MAX] },
            Hints { poll: true, runs: (0..MOST_RUNS as RunRowId).collect() },
        ] {
            let mut read = Hints::default();
            read.add_bytes(&hints.to_bytes());
            assert_eq!(read, hints);
            assert!(hints.to_bytes().len() <= LONGEST);
        }
    }

    #[test]
    fn of_more_runs_than_fit_the_poll_finds_the_rest() {
        let runs: Vec<RunRowId> = (0..100).collect();
        let mut hints = Hints::default();
        hints.add(Hint::Runs(&runs[..60]));
        assert!(!hints.poll);
        hints.add(Hint::Runs(&runs[60..]));
        assert_eq!(hints, Hints { poll: true, runs: runs[..MOST_RUNS].to_vec() });
        hints.clear();
        assert!(hints.is_empty());
    }

    #[test]
    fn a_datagram_that_is_none_of_ours_says_nothing() {
        for bytes in [&b""[..], b"\x02", b"\x00abc", b"hello, is anybody there?", &[0xff; LONGEST]] {
            let mut hints = Hints::default();
            hints.add_bytes(bytes);
            assert!(hints.is_empty(), "{bytes:?}");
        }
    }

    #[test]
    fn every_process_and_file_has_names_of_its_own() {
        let name = |file, byte, channel| {
            address(file, byte, channel).map(|address| address.as_abstract_name().map(<[u8]>::to_vec)).ok().flatten()
        };
        let names = [
            name((1, 2), 3, Channel::Process),
            name((1, 2), 3, Channel::Watcher),
            name((1, 2), 4, Channel::Process),
            name((1, 3), 3, Channel::Process),
            name((2, 2), 3, Channel::Process),
            name((u64::MAX, u64::MAX), 0xffff_ffff_ffff, Channel::Watcher),
        ];
        for (at, one) in names.iter().enumerate() {
            assert!(one.is_some());
            assert!(!names[..at].contains(one));
        }
    }
}
