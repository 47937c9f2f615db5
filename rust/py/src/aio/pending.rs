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
pub(crate) struct PyPending {
    /// What is waited for, until it is done.
    future: Mutex<Option<Future<()>>>,
    /// What is called then.
    then: Mutex<Option<Then>>,
}

/// Something to do on the loop's thread, attached.
pub(super) type Then = Box<dyn FnOnce(Python<'_>) + Send>;

impl PyPending {
    /// One that was not polled yet.
    pub(super) fn new(queue: &Arc<LoopQueue>, future: impl std::future::Future<Output = ()> + Send + 'static) -> Self {
        Self { future: Mutex::new(Some(Future::new(queue, future))), then: Mutex::default() }
    }

    /// With something to do when it is done.
    pub(super) fn then(self, then: Option<Then>) -> Self {
        *self.then.lock() = then;
        self
    }

    /// `None` if it is done at once.
    pub(super) fn of(
        queue: &Arc<LoopQueue>,
        future: impl std::future::Future<Output = ()> + Send + 'static,
    ) -> Option<Self> {
        let mut future = Future::new(queue, future);
        match future.poll() {
            Some(()) => None,
            None => Some(Self { future: Mutex::new(Some(future)), then: Mutex::default() }),
        }
    }
}

#[pymethods]
impl PyPending {
    /// Whether it is done.
    fn poll(&self, py: Python<'_>) -> PyResult<bool> {
        panics::method(|| {
            let done = {
                let mut future = self.future.lock();
                let done = future.as_mut().is_none_or(|future| future.poll().is_some());
                if done {
                    *future = None;
                }
                done
            };
            let then = if done { self.then.lock().take() } else { None };
            if let Some(then) = then {
                then(py);
            }
            Ok(done)
        })
    }

    /// Completes this `asyncio` future once `poll` is to be called again.
    fn park(&self, future: Py<PyAny>) {
        if let Some(own) = &*self.future.lock() {
            own.park(Parked { future: Some(Kept::new(future)), call: None });
        }
    }
}
