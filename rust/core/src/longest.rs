//! How long a name, key or id may be in a store that keeps them in an index. One that is longer would fail a commit, and with
//! it all that is committed together: so it is refused before.

use std::sync::Arc;

use crate::event::{GateSpec, GateUntil};
use crate::graph::{Graph, TaskSpec};
use crate::id::TaskIx;
use crate::record::NewRun;
use crate::shown::shown;

/// How many characters of a text that is too long a message shows.
const SHOWN: usize = 40;

/// Why a store whose texts have at most `longest` bytes does not take one; `None`: it does.
#[must_use]
pub fn too_long(what: &str, text: &str, longest: Option<usize>) -> Option<String> {
    let most = longest.filter(|most| text.len() > *most)?;
    let (beginning, bytes) = (text.chars().take(SHOWN).collect::<String>(), text.len());
    Some(format!(
        "the {what} '{}…' has {bytes} bytes, and the store takes {most} at most: use a shorter one, such as a hash of it",
        shown(&beginning)
    ))
}

/// Why such a store does not take a run with its key and tags.
#[must_use]
pub fn too_long_of_run(new: &NewRun, longest: Option<usize>) -> Option<String> {
    let key = new.key.as_deref().and_then(|key| too_long("key", key, longest));
    // The name and the text of a tag stand in one row of an index.
    let tags = || {
        new.options.as_ref()?.tags.iter().find_map(|(name, text)| {
            let most = longest.map(|most| most.saturating_sub(name.len()));
            too_long("name of a tag", name, longest).or_else(|| too_long("text of a tag", text, most))
        })
    };
    key.or_else(tags)
}

/// Why such a store does not take a workflow with the names of its tasks and their gates.
#[must_use]
pub fn too_long_of_workflow(graph: &Graph, longest: Option<usize>) -> Option<String> {
    longest?;
    let of_task = |task: &TaskSpec| {
        let gate = || too_long_of_gate(task.gate.as_ref()?, longest);
        too_long("name of a task", &task.name, longest).or_else(gate)
    };
    let of_tasks = || (0..graph.len()).find_map(|ix| of_task(graph.spec(ix as TaskIx)));
    too_long("name of a workflow", graph.workflow(), longest).or_else(of_tasks)
}

fn too_long_of_gate(gate: &GateSpec, longest: Option<usize>) -> Option<String> {
    let members = match &gate.until {
        GateUntil::Any(members) | GateUntil::All(members) => &members[..],
        _ => &[],
    };
    let of_members = || members.iter().find_map(|member| too_long_of_gate(member, longest));
    too_long("name of a gate", &gate.name, longest).or_else(of_members)
}

/// The text, or if a store does not take it a shorter one that differs where the text does.
#[must_use]
pub fn shortened(text: Arc<str>, longest: Option<usize>) -> Arc<str> {
    if longest.is_none_or(|most| text.len() <= most) {
        return text;
    }
    // FNV-1a, the same in every process.
    let hash = text.bytes().fold(0x6c62_272e_07bb_0142_62b8_2175_6295_c58d_u128, |hash, byte| {
        (hash ^ u128::from(byte)).wrapping_mul(0x0000_0000_0100_0000_0000_0000_0000_013b)
    });
    format!("{}…{hash:032x}", text.chars().take(SHOWN).collect::<String>()).into()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_too_long_is_named_by_its_beginning() {
        let long = "ä".repeat(1001);
        assert_eq!(too_long("key", &long, None), None);
        assert_eq!(too_long("key", &long[..2000], Some(2000)), None);
        let why = too_long("key", &long, Some(2000)).unwrap_or_default();
        assert!(why.starts_with("the key 'ääää") && why.contains("ä…' has 2002 bytes"), "{why}");
        assert!(why.len() < 250, "{why}");
    }

    #[test]
    fn texts_that_differ_are_shortened_to_some_that_differ() {
        let (one, other): (Arc<str>, Arc<str>) = ("x".repeat(3000).into(), format!("{}y", "x".repeat(2999)).into());
        assert_eq!(shortened(Arc::clone(&one), None), one);
        let (one, again, other) =
            (shortened(Arc::clone(&one), Some(2000)), shortened(one, Some(2000)), shortened(other, Some(2000)));
        assert!(one == again && one != other && one.len() < 200, "{one} {other}");
    }
}
