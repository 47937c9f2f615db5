//! A call of a coroutine's handle, in progress.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use bide_core::EntryKey;
use bide_core::attempt::{Call, Clocks, PollReport};
use bide_sync::Mutex;

use super::super::rest::UnderWay;

/// A call of a handle, in progress.
pub struct OpenCall {
    /// The call. Not locked across an await.
    pub(super) call: Mutex<Call>,
    /// A commit of the call is under way.
    pub(super) committing: AtomicBool,
    /// The host may ask its condition between two sleeps without the call: it gets each [`Action::Sleep`] for a poll.
    pub(super) hosted: AtomicBool,
    /// With a clock that is moved by hand: counts it until it has ended or is abandoned.
    pub(super) under_way: Mutex<Option<Box<UnderWay>>>,
}

impl OpenCall {
    pub(super) fn new(call: Call, under_way: Option<UnderWay>) -> Self {
        let (committing, hosted) = (AtomicBool::new(false), AtomicBool::new(false));
        Self { call: Mutex::new(call), committing, hosted, under_way: Mutex::new(under_way.map(Box::new)) }
    }

    /// Whether a commit of the call is under way.
    #[must_use]
    pub fn is_committing(&self) -> bool {
        self.committing.load(Ordering::Relaxed)
    }

    /// The host gets each [`Action::Sleep`] of this wait until a poll: it has it rest, or carries it out.
    pub fn give_polls_to_host(&self) {
        self.hosted.store(true, Ordering::Relaxed);
    }

    /// What proves its condition to be the same, if it waits for one.
    #[must_use]
    pub fn proof(&self) -> Option<Arc<[u8]>> {
        self.call.lock().condition_proof().cloned()
    }

    /// The name of a part of it, by the number of the part.
    #[must_use]
    pub fn name_of(&self, part: usize) -> Arc<str> {
        let call = self.call.lock();
        call.part_name(part).unwrap_or_else(|| call.name()).clone()
    }

    pub(in crate::coroutines) fn key(&self) -> EntryKey {
        self.call.lock().key().clone()
    }

    /// What the condition of the call is asked again after, if it has answered that it does not hold yet. `None`: that
    /// has to be fed to it.
    pub(in crate::coroutines) fn not_yet(&self, clocks: &dyn Clocks) -> Option<Duration> {
        self.call.lock().not_yet(clocks)
    }

    /// Reports the polls of its conditions.
    pub(in crate::coroutines) fn polls(&self, report: &mut dyn FnMut(PollReport)) {
        self.call.lock().polls(report);
    }
}
