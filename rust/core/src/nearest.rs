//! The nearest name to a misspelt one, for messages. Used for dependencies here and for inputs by the hosts.

/// The candidate that `wanted` was most probably meant to be; `None` if nothing is near enough to be worth saying.
///
/// Case and the kind of separator count for nothing, a pair of swapped letters for one edit. At most one edit per
/// three letters (and one in any case) is near. Of equally near candidates the first wins.
#[must_use]
pub fn nearest<'a>(wanted: &str, candidates: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    let folded = fold(wanted);
    let limit = (folded.len() / 3).max(1);
    let mut best = None;
    for candidate in candidates {
        let other = fold(candidate);
        if candidate == wanted || other.len().abs_diff(folded.len()) > limit {
            continue;
        }
        let distance = edits(&folded, &other);
        // A name of one or two letters would be near to every other such name: something must be shared.
        let shared = distance < folded.len().max(other.len());
        if distance <= limit && shared && best.is_none_or(|(least, _)| distance < least) {
            best = Some((distance, candidate));
        }
    }
    best.map(|(_, candidate)| candidate)
}

/// The end of a message: `; did you mean 'x'?`, or nothing.
#[must_use]
pub fn did_you_mean<'a>(wanted: &str, candidates: impl IntoIterator<Item = &'a str>) -> String {
    nearest(wanted, candidates).map(|name| format!("; did you mean '{name}'?")).unwrap_or_default()
}

fn fold(name: &str) -> Vec<char> {
    name.chars().flat_map(char::to_lowercase).map(|c| if matches!(c, '-' | ' ' | '.') { '_' } else { c }).collect()
}

/// Insertions, deletions, substitutions and swaps of neighbours that turn `a` into `b`.
fn edits(a: &[char], b: &[char]) -> usize {
    let mut before = vec![0; b.len() + 1];
    let mut above: Vec<usize> = (0..=b.len()).collect();
    for i in 1..=a.len() {
        let mut row = vec![i; b.len() + 1];
        for j in 1..=b.len() {
            let changed = usize::from(a[i - 1] != b[j - 1]);
            row[j] = (above[j] + 1).min(row[j - 1] + 1).min(above[j - 1] + changed);
            if i > 1 && j > 1 && a[i - 1] == b[j - 2] && a[i - 2] == b[j - 1] {
                row[j] = row[j].min(before[j - 2] + 1);
            }
        }
        before = std::mem::replace(&mut above, row);
    }
    above[b.len()]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_slip_of_the_pen_is_recognised() {
        let names = ["wait_for_data", "process_data", "path"];
        assert_eq!(nearest("proces_data", names), Some("process_data"));
        assert_eq!(nearest("Process-Data", names), Some("process_data"));
        assert_eq!(nearest("paht", names), Some("path"));
        assert_eq!(did_you_mean("paths", names), "; did you mean 'path'?");
    }

    #[test]
    fn what_is_far_is_not_suggested() {
        assert_eq!(nearest("upload", ["wait_for_data", "process_data"]), None);
        assert_eq!(nearest("x", ["y"]), None);
        assert_eq!(did_you_mean("upload", []), "");
    }
}
