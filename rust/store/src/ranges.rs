//! How databases narrow down a listing: by the numbers of runs, which stand for times, and by beginnings of texts.

/// How far a row number's milliseconds may be from its run's `created_at`.
pub(crate) const SLACK_MS: i64 = 60_000;

/// The least text that is greater than all that begin with this one; `None` if there is none.
pub(crate) fn after_all(prefix: &str) -> Option<String> {
    let mut chars: Vec<char> = prefix.chars().collect();
    while let Some(last) = chars.pop() {
        if let Some(next) = (u32::from(last) + 1..=0x0010_ffff).find_map(char::from_u32) {
            chars.push(next);
            return Some(chars.into_iter().collect());
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_end_of_a_beginning_is_behind_everything_that_begins_so() {
        for prefix in ["a", "a\u{d7ff}", "a\u{10ffff}", "order/7"] {
            let end = after_all(prefix);
            let longer = format!("{prefix}\u{10ffff}\u{10ffff}");
            assert!(end.as_ref().is_some_and(|end| end.as_bytes() > longer.as_bytes()), "{prefix:?} {end:?}");
        }
        assert_eq!(after_all("ab").as_deref(), Some("ac"));
        assert_eq!((after_all(""), after_all("\u{10ffff}")), (None, None));
    }
}
