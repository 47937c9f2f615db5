//! How other threads wake an event loop: by a byte on a socket that it reads from, once for all that comes before it
//! hears that. No thread attaches for it.

use std::io::{Read, Write};
use std::os::fd::{AsRawFd, RawFd};
use std::os::unix::net::UnixStream;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicBool, Ordering};

use pyo3::prelude::*;

use crate::errors;

/// Wakes one event loop.
#[derive(Default)]
pub(super) struct Bell {
    /// A byte is on its way.
    rings: AtomicBool,
    /// The socket, once there is a loop: the end that it reads from, and the other one.
    socket: OnceLock<(UnixStream, UnixStream)>,
}

impl Bell {
    /// What the loop reads from.
    pub(super) fn fileno(&self, py: Python<'_>) -> PyResult<RawFd> {
        if let Some((reader, _)) = self.socket.get() {
            return Ok(reader.as_raw_fd());
        }
        let pair = UnixStream::pair().and_then(|(reader, writer)| {
            reader.set_nonblocking(true)?;
            writer.set_nonblocking(true)?;
            Ok((reader, writer))
        });
        let pair = pair.map_err(|error| {
            let why = format!("the runner cannot have a socket pair to wake its event loop: {error}");
            errors::bide(py, &why)
        })?;
        Ok(self.socket.get_or_init(|| pair).0.as_raw_fd())
    }

    /// Wakes the loop, unless that is under way. Does not block.
    pub(super) fn ring(&self) {
        if !self.rings.swap(true, Ordering::AcqRel) {
            // Without a socket there is no loop yet, which begins with a look. If it is full the loop is woken anyway.
            if let Some((_, writer)) = self.socket.get() {
                let _ = (&*writer).write(&[0]);
            }
        }
    }

    /// The loop is about to look: what comes from here on wakes it again.
    pub(super) fn hear(&self) {
        let mut bytes = [0; 64];
        if let Some((reader, _)) = self.socket.get() {
            while matches!((&*reader).read(&mut bytes), Ok(64)) {}
        }
        self.rings.store(false, Ordering::Release);
    }

    /// Whether the loop was woken and has not heard it yet.
    pub(super) fn rings(&self) -> bool {
        self.rings.load(Ordering::SeqCst)
    }
}
