//! Whether a handle is called within a step or a condition. Futures of one body may be polled together, so that a call
//! during a step is not always made by the step: what counts is whose poll it is.

use std::cell::Cell;
use std::future::poll_fn;
use std::pin::pin;

use bide_core::attempt::Within;

thread_local! {
    static WITHIN: Cell<Within> = const { Cell::new(Within::Body) };
}

/// What the calling future is polled within.
pub(super) fn here() -> Within {
    WITHIN.get()
}

/// Sets it until this is dropped.
struct Place(Within);

impl Place {
    fn enter(within: Within) -> Self {
        Self(WITHIN.replace(within))
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        WITHIN.set(self.0);
    }
}

/// Runs user code, a step or a condition: whatever its polls call is within it.
pub(super) async fn run<F: Future>(within: Within, code: impl FnOnce() -> F) -> F::Output {
    let future = {
        let _place = Place::enter(within);
        code()
    };
    let mut future = pin!(future);
    poll_fn(|cx| {
        let _place = Place::enter(within);
        future.as_mut().poll(cx)
    })
    .await
}
