//! A Rust future that the event loop polls.

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};

use bide_sync::Mutex;
use pyo3::prelude::*;

use super::queue::{LoopQueue, Parked, Sleeper};
use crate::gil::Kept;
use crate::panics;

/// A future, with where it waits.
pub(super) struct Future<T> {
    future: Pin<Box<dyn std::future::Future<Output = T> + Send>>,
    sleeper: Arc<Sleeper>,
    waker: Waker,
}

impl<T> Future<T> {
    pub(super) fn new(queue: &Arc<LoopQueue>, future: impl std::future::Future<Output = T> + Send + 'static) -> Self {
        let sleeper = Sleeper::new(queue);
        Self { future: Box::pin(future), waker: Waker::from(Arc::clone(&sleeper)), sleeper }
    }

    /// Has another future take the place of this one, which is done.
    pub(super) fn renew(&mut self, future: impl std::future::Future<Output = T> + Send + 'static) {
        self.future = Box::pin(future);
    }

    /// `None`: not done yet.
    pub(super) fn poll(&mut self) -> Option<T> {
        match self.future.as_mut().poll(&mut Context::from_waker(&self.waker)) {
            Poll::Ready(done) => Some(done),
            Poll::Pending => None,
        }
    }

    pub(super) fn park(&self, parked: Parked) {
        self.sleeper.park(parked);
    }
}

/// Something to wait for that has no value.
#[pyclass(frozen, module = "bide._core", name = "Pending")]
pub(crate) struct PyPending(Mutex<Option<Future<()>>>);

impl PyPending {
    /// One that was not polled yet.
    pub(super) fn new(queue: &Arc<LoopQueue>, future: impl std::future::Future<Output = ()> + Send + 'static) -> Self {
        Self(Mutex::new(Some(Future::new(queue, future))))
    }

    /// `None` if it is done at once.
    pub(super) fn of(
        queue: &Arc<LoopQueue>,
        future: impl std::future::Future<Output = ()> + Send + 'static,
    ) -> Option<Self> {
        let mut future = Future::new(queue, future);
        match future.poll() {
            Some(()) => None,
            None => Some(Self(Mutex::new(Some(future)))),
        }
    }
}

#[pymethods]
impl PyPending {
    /// Whether it is done.
    fn poll(&self) -> PyResult<bool> {
        panics::method(|| {
            let mut future = self.0.lock();
            let done = future.as_mut().is_none_or(|future| future.poll().is_some());
            if done {
                *future = None;
            }
            Ok(done)
        })
    }

    /// Completes this `asyncio` future once `poll` is to be called again.
    fn park(&self, future: Py<PyAny>) {
        if let Some(own) = &*self.0.lock() {
            own.park(Parked { future: Kept::new(future), call: None });
        }
    }
}
