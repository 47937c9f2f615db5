//! What is stored of a failure: never the exception itself, only a description that every process can read.

use std::fmt;
use std::sync::Arc;

use serde::Deserialize;

use crate::decode::Damage;
use crate::shown::shown;

/// What kind of failure it was; decides which named error a reader gets.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum FailureKind {
    /// The body (or a condition, or a step) raised.
    #[default]
    Raised,
    /// A wait's own timeout passed.
    WaitTimeout,
    /// The attempt's execution time was used up.
    TaskTimeout,
    /// A value could not be encoded or decoded.
    Serialization,
    /// The code that runs is not the code that was recorded.
    ReplayMismatch,
    /// A Rust panic: a bug.
    Panic,
    /// Something was asked for that cannot be.
    Definition,
    /// A step that is executed at most once was begun, and its result is not known.
    StepInterrupted,
    /// A callback was rejected. The message is the reason that was given.
    CallbackRejected,
    /// A request was refused, or nobody can answer it any more. The message is the reason.
    RequestRefused,
    /// A child run did not complete.
    ChildFailed,
    /// The run was cancelled while the body waited, or before it made this call.
    Cancelled,
    /// The run did not end before its deadline.
    RunTimeout,
}

impl FailureKind {
    const NAMES: [(Self, &'static str); 13] = [
        (Self::Raised, "error"),
        (Self::WaitTimeout, "wait_timeout"),
        (Self::TaskTimeout, "task_timeout"),
        (Self::Serialization, "serialization"),
        (Self::ReplayMismatch, "replay_mismatch"),
        (Self::Panic, "panic"),
        (Self::Definition, "definition"),
        (Self::StepInterrupted, "step_interrupted"),
        (Self::CallbackRejected, "callback_rejected"),
        (Self::RequestRefused, "request_refused"),
        (Self::ChildFailed, "child_failed"),
        (Self::Cancelled, "cancelled"),
        (Self::RunTimeout, "run_timeout"),
    ];

    /// The name by which it is stored.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        Self::NAMES.iter().find(|(kind, _)| *kind == self).map_or("error", |(_, name)| name)
    }

    fn from_name(name: &str) -> Self {
        Self::NAMES.iter().find(|(_, known)| *known == name).map_or(Self::Raised, |(kind, _)| *kind)
    }
}

/// A stored failure: a JSON object with at least `kind`, `type` and `message`.
///
/// A host language adds members (`traceback`, `notes`, `causes`, `args`); core keeps the text as it is.
#[derive(Clone, PartialEq, Eq)]
pub struct Failure {
    /// The kind, as read from the object.
    pub kind: FailureKind,
    /// The whole object as it is stored.
    json: Arc<str>,
}

#[derive(Deserialize)]
struct Head<'a> {
    #[serde(default, borrow)]
    kind: std::borrow::Cow<'a, str>,
    #[serde(rename = "type", borrow)]
    type_name: std::borrow::Cow<'a, str>,
    #[serde(borrow)]
    message: std::borrow::Cow<'a, str>,
}

impl Failure {
    /// A failure described by its type and message alone.
    #[must_use]
    pub fn new(kind: FailureKind, type_name: &str, message: &str) -> Self {
        // What a body raised and why somebody refused are their own words; all others are bide's, with names in them.
        let own = matches!(kind, FailureKind::Raised | FailureKind::CallbackRejected | FailureKind::RequestRefused);
        let message = if own { message.into() } else { shown(message) };
        let json = serde_json::json!({
            "kind": kind.as_str(), "type": type_name, "message": message,
            "args": [message], "notes": [], "causes": [], "traceback": "",
        });
        Self { kind, json: json.to_string().into() }
    }

    /// Reads a stored or a host's object.
    ///
    /// # Errors
    /// `NotAFailure` if the text is not an object with `type` and `message`.
    pub fn from_json(json: &str) -> Result<Self, Damage> {
        let head: Head<'_> = serde_json::from_str(json).map_err(|error| Damage::NotAFailure(error.to_string()))?;
        Ok(Self { kind: FailureKind::from_name(&head.kind), json: json.into() })
    }

    /// The whole object, as stored.
    #[must_use]
    pub fn as_json(&self) -> &str {
        &self.json
    }

    fn head(&self) -> Option<Head<'_>> {
        serde_json::from_str(&self.json).ok()
    }

    /// The qualified name of the exception's type.
    #[must_use]
    pub fn type_name(&self) -> String {
        self.head().map(|head| head.type_name.into_owned()).unwrap_or_default()
    }

    /// The message.
    #[must_use]
    pub fn message(&self) -> String {
        self.head().map(|head| head.message.into_owned()).unwrap_or_default()
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (type_name, message) = (self.type_name(), self.message());
        if message.is_empty() { f.write_str(&type_name) } else { write!(f, "{type_name}: {message}") }
    }
}

impl fmt::Debug for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Failure({self})")
    }
}
