//! The values that a condition may return.

use bide_core::Value;
use bide_core::attempt::Polled;
use serde::Serialize;
use serde::de::DeserializeOwned;

use super::codec::{encode, serialization_failure};
use super::task_error::TaskError;

/// What a condition may answer: `bool`, `Option<T>` (its value is what the wait returns), or a `Result` of either.
pub trait Answer: Send {
    /// What the wait returns.
    type Value: DeserializeOwned;

    /// The answer as the engine takes it.
    fn polled(self) -> Polled;
}

impl Answer for bool {
    type Value = bool;

    fn polled(self) -> Polled {
        if self { Polled::True(Value::tagged(b't', b"")) } else { Polled::False }
    }
}

impl<T: Serialize + DeserializeOwned + Send> Answer for Option<T> {
    type Value = T;

    fn polled(self) -> Polled {
        match self.map(|value| encode(&value)) {
            None => Polled::False,
            Some(Ok(value)) => Polled::True(value),
            Some(Err(why)) => unstorable(&why),
        }
    }
}

impl<A: Answer, E: Into<TaskError> + Send> Answer for Result<A, E> {
    type Value = A::Value;

    fn polled(self) -> Polled {
        match self {
            Ok(answer) => answer.polled(),
            Err(error) => error.into().polled(),
        }
    }
}

/// What a condition's value that cannot be stored is taken for.
fn unstorable(why: &str) -> Polled {
    Polled::Broken(serialization_failure(&format!("a condition's value cannot be stored: {why}; return a bool")))
}
