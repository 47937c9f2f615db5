//! Where the senders of requests wait in this process, and how an answer reaches them. It knows no store and no run.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use bide_core::{Failure, RunId, Value};
use bide_sched::bell::Once;
use bide_sync::Mutex;
use tokio::sync::Notify;

/// The answer to a request, or how it was refused.
pub type Reply = Result<Value, Failure>;

/// The requests whose senders wait in this process, by number. Two senders with one id wait for one request.
#[derive(Default)]
pub(crate) struct Requests(Mutex<HashMap<i64, Vec<Sender>>>);

/// The sender of a request.
#[derive(Clone)]
struct Sender {
    /// To which run.
    run: RunId,
    /// Where it waits.
    slot: Arc<Slot>,
}

/// Where a sender waits.
#[derive(Default)]
pub(super) struct Slot {
    /// The answer, once it is there.
    answer: Once<Reply>,
    /// Notified when it comes, for futures.
    notify: Notify,
    /// The request is committed.
    sent: AtomicBool,
}

impl Slot {
    fn put(&self, answer: &Reply) {
        self.answer.put(answer);
        self.notify.notify_waiters();
    }

    /// The request is committed.
    pub(super) fn set_sent(&self) {
        self.sent.store(true, Ordering::Relaxed);
    }

    /// Whether the request is committed, and its answer has not come.
    fn is_open(&self) -> bool {
        self.sent.load(Ordering::Relaxed) && self.answer.get().is_none()
    }

    /// Waits for the answer, at most for a span. Blocks.
    pub(super) fn wait(&self, span: Duration) -> Option<Reply> {
        self.answer.wait(span)
    }
}

impl Slot {
    /// Waits for the answer.
    pub(super) async fn answered(&self) -> Reply {
        loop {
            // Asked for before it is looked at, so that no answer in between is missed.
            let mut came = std::pin::pin!(self.notify.notified());
            came.as_mut().enable();
            if let Some(answer) = self.answer.get() {
                return answer;
            }
            came.await;
        }
    }
}

impl Requests {
    pub(super) fn add(&self, request: i64, run: RunId) -> Arc<Slot> {
        let slot = Arc::new(Slot::default());
        self.0.lock().entry(request).or_default().push(Sender { run, slot: Arc::clone(&slot) });
        slot
    }

    pub(super) fn remove(&self, request: i64, slot: &Arc<Slot>) {
        let mut all = self.0.lock();
        if let Some(senders) = all.get_mut(&request) {
            senders.retain(|known| !Arc::ptr_eq(&known.slot, slot));
            if senders.is_empty() {
                all.remove(&request);
            }
        }
    }

    /// A request was answered or refused, and that is committed.
    pub(crate) fn answered(&self, request: i64, answer: &Reply) {
        let senders = self.0.lock().get(&request).cloned();
        senders.into_iter().flatten().for_each(|sender| sender.slot.put(answer));
    }

    /// How many senders wait for answers that have not come, to requests that are committed.
    pub(crate) fn waiting(&self) -> usize {
        self.0.lock().values().flatten().filter(|sender| sender.slot.is_open()).count()
    }

    pub(super) fn open(&self) -> Vec<(i64, RunId)> {
        self.0.lock().iter().filter_map(|(request, senders)| Some((*request, senders.first()?.run))).collect()
    }
}
