//! A future of the user's, whose panic is a failure.

use std::any::Any;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::pin::Pin;
use std::task::{Context, Poll};

use bide_core::{Failure, FailureKind};

use super::closures::BoxFuture;

/// A future whose panic is a failure.
pub(super) struct CatchPanic<'a, T>(Option<BoxFuture<'a, T>>);

impl<'a, T> CatchPanic<'a, T> {
    pub(super) fn new(future: BoxFuture<'a, T>) -> Self {
        Self(Some(future))
    }

    /// Drops the future: its destructors may panic too.
    fn finish(&mut self) -> Result<(), Failure> {
        let future = self.0.take();
        catch_unwind(AssertUnwindSafe(|| drop(future))).map_err(|panic| panicked(&*panic))
    }
}

impl<T> Future for CatchPanic<'_, T> {
    type Output = Result<T, Failure>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let Some(future) = &mut self.0 else { return Poll::Pending };
        let result = match catch_unwind(AssertUnwindSafe(|| future.as_mut().poll(cx))) {
            Ok(Poll::Pending) => return Poll::Pending,
            Ok(Poll::Ready(value)) => Ok(value),
            Err(panic) => Err(panicked(&*panic)),
        };
        let finished = self.finish();
        Poll::Ready(result.and_then(|value| finished.map(|()| value)))
    }
}

impl<T> Drop for CatchPanic<'_, T> {
    fn drop(&mut self) {
        let _ = self.finish();
    }
}

fn panicked(panic: &(dyn Any + Send)) -> Failure {
    let text = panic.downcast_ref::<&str>().copied().or_else(|| panic.downcast_ref::<String>().map(String::as_str));
    Failure::new(FailureKind::Panic, "panic", text.unwrap_or("a value that is not a text"))
}
