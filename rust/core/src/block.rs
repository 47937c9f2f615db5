//! Why a run is paused: the type that decisions use, and the text that a store keeps and a user reads.

use std::fmt;
use std::sync::Arc;

const MISMATCH: &str = "replay mismatch: ";
const DIED: &str = "the process died ";
const WHILE: &str = " times in a row while it executed ";
const ADVICE: &str = "; fix that task and continue by runner.resume(run)";
const REMEDY: &str = "; with code that fits the record, runner.resume(run) continues it; runner.retry(run, from_task=..., \
     fresh=True) forgets what that task has recorded and does it again";
const REQUESTED: &str = "paused on request";

/// Why a run is paused. [`fmt::Display`] makes the text that is stored, [`BlockReason::from_stored`] reads it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum BlockReason {
    /// The code asks for something else than what was recorded.
    Mismatch {
        /// The task, and what differs.
        what: Arc<str>,
    },
    /// Processes died while they executed a body of the run.
    Crashes {
        /// How many in a row.
        times: u32,
        /// The names of the tasks that may be the cause, each in quotes.
        tasks: Arc<str>,
    },
    /// Somebody has asked for it. The run stays in memory, and what its bodies wait for is recorded.
    Requested {
        /// Who and why, as [`crate::control::who_and_why`] puts it.
        who: Arc<str>,
    },
    /// Any other reason, in words: the run cannot be read, or another version of bide paused it.
    Other(Arc<str>),
}

impl BlockReason {
    /// Whether the run stays in memory and accepts what happens to it.
    #[must_use]
    pub const fn is_requested(&self) -> bool {
        matches!(self, Self::Requested { .. })
    }

    /// The text for users, with what to do about it.
    #[must_use]
    pub fn told(&self) -> String {
        match self {
            Self::Mismatch { .. } => format!("{self}{REMEDY}"),
            _ => self.to_string(),
        }
    }

    /// The reason whose text this is.
    #[must_use]
    pub fn from_stored(text: Arc<str>) -> Self {
        let mismatch = |what: &str| Self::Mismatch { what: what.into() };
        let requested = |who: &str| Self::Requested { who: who.into() };
        let known = text.strip_prefix(MISMATCH).map(mismatch).or_else(|| Self::crashes(&text));
        let known = known.or_else(|| text.strip_prefix(REQUESTED).map(requested));
        // A text that would not be written in the same way again is kept as it is.
        known.filter(|reason| reason.to_string() == *text).unwrap_or(Self::Other(text))
    }

    fn crashes(text: &str) -> Option<Self> {
        let (times, rest) = text.strip_prefix(DIED)?.split_once(WHILE)?;
        Some(Self::Crashes { times: times.parse().ok()?, tasks: rest.strip_suffix(ADVICE)?.into() })
    }
}

impl fmt::Display for BlockReason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Mismatch { what } => write!(f, "{MISMATCH}{what}"),
            Self::Crashes { times, tasks } => write!(f, "{DIED}{times}{WHILE}{tasks}{ADVICE}"),
            Self::Requested { who } => write!(f, "{REQUESTED}{who}"),
            Self::Other(text) => f.write_str(text),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn reads_back(reason: &BlockReason) -> bool {
        BlockReason::from_stored(reason.to_string().into()) == *reason
    }

    proptest! {
        #[test]
        fn a_stored_reason_reads_back_whatever_names_are_in_it(times: u32, text: String) {
            for name in [text.clone(), format!("{text}{WHILE}{ADVICE}"), format!("{MISMATCH}{DIED}{text}{ADVICE}")] {
                let name: Arc<str> = name.into();
                prop_assert!(reads_back(&BlockReason::Mismatch { what: Arc::clone(&name) }), "{}", name);
                prop_assert!(reads_back(&BlockReason::Crashes { times, tasks: Arc::clone(&name) }), "{}", name);
                prop_assert!(reads_back(&BlockReason::Requested { who: Arc::clone(&name) }), "{}", name);
            }
        }
    }

    #[test]
    fn a_text_of_another_version_is_kept_as_it_is() {
        let older = format!("{DIED}5{WHILE}'a'; fix it");
        for text in ["", "stopped by somebody", &format!("{DIED}007{WHILE}'a'{ADVICE}"), &older] {
            assert_eq!(BlockReason::from_stored(text.into()), BlockReason::Other(text.into()));
        }
    }
}
