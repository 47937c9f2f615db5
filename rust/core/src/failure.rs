//! What is stored of a failure: never the exception itself, only a description that every process can read.

use std::fmt;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

/// What kind of failure it was; decides which named error a reader gets.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
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
    /// The definition does not fit what is there.
    Definition,
}

/// A stored failure: a JSON object with at least `kind`, `type` and `message`.
///
/// A host language may add members (`traceback`, `notes`, `causes`, `args`); core keeps the text as it is.
#[derive(Clone, PartialEq, Eq)]
pub struct Failure {
    /// The kind, as read from the object.
    pub kind: FailureKind,
    json: Arc<str>,
}

#[derive(Serialize, Deserialize)]
struct Head<'a> {
    #[serde(default)]
    kind: FailureKind,
    #[serde(rename = "type", borrow)]
    type_name: std::borrow::Cow<'a, str>,
    #[serde(borrow)]
    message: std::borrow::Cow<'a, str>,
}

impl Failure {
    /// A failure described by its type and message alone.
    #[must_use]
    pub fn new(kind: FailureKind, type_name: &str, message: &str) -> Self {
        let head = Head { kind, type_name: type_name.into(), message: message.into() };
        let json = serde_json::to_string(&head).unwrap_or_default();
        Self { kind, json: json.into() }
    }

    /// Reads a stored or a host's object.
    ///
    /// # Errors
    /// Says what is wrong if the text is not an object with `type` and `message`.
    pub fn from_json(json: &str) -> Result<Self, String> {
        let head: Head<'_> = serde_json::from_str(json).map_err(|error| format!("not a stored failure: {error}"))?;
        Ok(Self { kind: head.kind, json: json.into() })
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
