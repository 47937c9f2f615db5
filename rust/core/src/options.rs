//! What a caller says about a run beside its inputs: tags to find it by, its priority, and when it begins and must end.

use std::collections::BTreeMap;
use std::sync::Arc;

use crate::time::Time;

/// What is said about a run when it is created. It never changes.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct RunOptions {
    /// Texts to find it by, by name.
    pub tags: BTreeMap<Arc<str>, Arc<str>>,
    /// Among what is ready the tasks of runs with a higher one go first.
    pub priority: i32,
    /// Nothing of it starts before this time.
    pub start_at: Option<Time>,
    /// What has not ended by this time fails.
    pub deadline: Option<Time>,
}

impl RunOptions {
    /// Whether nothing is said.
    #[must_use]
    pub fn is_default(&self) -> bool {
        *self == Self::default()
    }

    /// The tags as a store keeps them, a JSON object; `None` without any.
    #[must_use]
    pub fn tags_json(&self) -> Option<String> {
        let tags: BTreeMap<&str, &str> = self.tags.iter().map(|(name, text)| (&**name, &**text)).collect();
        // Texts alone are always JSON.
        (!tags.is_empty()).then(|| serde_json::to_string(&tags).unwrap_or_default())
    }

    /// Reads the tags that a store has kept; `None` if they do not read back.
    #[must_use]
    pub fn tags_from(json: &str) -> Option<BTreeMap<Arc<str>, Arc<str>>> {
        let tags: BTreeMap<String, String> = serde_json::from_str(json).ok()?;
        Some(tags.into_iter().map(|(name, text)| (name.into(), text.into())).collect())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tags_read_back_as_they_were_written() {
        let tags = BTreeMap::from([("customer".into(), "7".into()), ("a \"b\"".into(), "\u{10ffff}\n".into())]);
        let options = RunOptions { tags, ..RunOptions::default() };
        let json = options.tags_json();
        assert_eq!(json.as_deref().and_then(RunOptions::tags_from), Some(options.tags));
        assert_eq!(RunOptions::default().tags_json(), None);
        assert_eq!(RunOptions::tags_from("[1]"), None);
    }
}
