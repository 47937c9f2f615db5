//! Makes run ids: UUIDv7, rising within a process, random across processes. And the numbers of messages.

use bide_core::attempt::CallError;
use bide_core::{CallbackToken, Failure, FailureKind, RunId, Time, Value};
use bide_sync::Mutex;

/// Makes ids.
#[derive(Debug)]
pub(crate) struct IdMaker(Mutex<State>);

#[derive(Debug)]
struct State {
    ms: u64,
    counter: u16,
    random: fastrand::Rng,
}

impl IdMaker {
    pub(crate) fn new(seed: u64) -> Self {
        Self(Mutex::new(State { ms: 0, counter: 0, random: fastrand::Rng::with_seed(seed) }))
    }

    /// The next id. More than 4,096 within a millisecond borrow from the next one, as the format allows.
    pub(crate) fn next(&self, now: Time) -> RunId {
        let mut state = self.0.lock();
        let ms = u64::try_from(now.0 / 1000).unwrap_or(0);
        if ms > state.ms {
            state.ms = ms;
            state.counter = 0;
        } else if state.counter == 0xfff {
            state.ms += 1;
            state.counter = 0;
        } else {
            state.counter += 1;
        }
        let random = state.random.u64(..);
        RunId::new(state.ms, state.counter, random)
    }

    /// A number that no other message has: all of it is random, because every process makes them.
    pub(crate) fn message(&self) -> i64 {
        self.0.lock().random.i64(1..=i64::MAX)
    }

    /// A random number in 0..1.
    pub(crate) fn random(&self) -> f64 {
        self.0.lock().random.f64()
    }
}

/// A seed from the system's source of randomness.
pub(crate) fn seed() -> u64 {
    let mut bytes = [0; 8];
    if getrandom::fill(&mut bytes).is_err() {
        return fastrand::u64(..);
    }
    u64::from_ne_bytes(bytes)
}

/// The token of a new callback.
///
/// # Errors
/// If the system has no random numbers: a token of others would be guessed.
pub fn token(run: RunId) -> Result<CallbackToken, CallError> {
    let mut bytes = [0; 16];
    getrandom::fill(&mut bytes)
        .map_err(|error| CallError::Misuse(format!("the system gives no random numbers for a callback: {error}")))?;
    Ok(CallbackToken::new(run, u128::from_ne_bytes(bytes)))
}

/// The token of a callback that a body has recorded.
///
/// # Errors
/// `Failed`, if what is recorded is none.
pub(crate) fn recorded_token(run: RunId, task: &str, name: &str, recorded: &Value) -> Result<CallbackToken, CallError> {
    CallbackToken::from_value(run, recorded).ok_or_else(|| {
        let message = format!("task '{task}': what is recorded of the callback '{name}' is no secret of a callback");
        CallError::Failed(Failure::new(FailureKind::Serialization, "bide.SerializationError", &message))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_rise_even_within_a_millisecond_and_when_the_clock_goes_back() {
        let ids = IdMaker::new(1);
        let mut last = ids.next(Time(5_000_000));
        for n in 0..10_000 {
            let next = ids.next(Time(5_000_000 - n));
            assert!(next > last && next.row() > last.row());
            last = next;
        }
    }
}
