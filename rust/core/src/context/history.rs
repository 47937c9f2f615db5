//! One key of the context: which of its writers saw which writes, and the value that results.
//!
//! Nearly always the last writer saw all the others, and the value is what it wrote, byte for byte. Values are split
//! into pieces (see `piece.rs`) only where branches meet, and then only from the last point that all branches share.

use std::cell::{LazyCell, RefCell};
use std::collections::HashMap;
use std::sync::Arc;

use super::json::Json;
use super::piece::{Leaf, Merge, OnConflict, Piece, Writer};
use super::{Conflict, Key};
use crate::graph::Graph;
use crate::id::TaskIx;
use crate::value::Value;

/// A set of writers of one key.
#[derive(Clone, PartialEq, Eq, Hash)]
pub(super) struct Writers(Box<[u64]>);

impl Writers {
    fn none_of(len: usize) -> Self {
        Self(vec![0; len.div_ceil(64)].into())
    }

    pub(super) fn has(&self, writer: Writer) -> bool {
        self.0[writer as usize / 64] >> (writer % 64) & 1 == 1
    }

    fn add(&mut self, writer: Writer) {
        self.0[writer as usize / 64] |= 1 << (writer % 64);
    }

    fn without(mut self, writer: Writer) -> Self {
        self.0[writer as usize / 64] &= !(1 << (writer % 64));
        self
    }

    fn add_all(&mut self, other: &Self) {
        self.0.iter_mut().zip(&other.0).for_each(|(ours, theirs)| *ours |= theirs);
    }

    fn keep_only(&mut self, other: &Self) {
        self.0.iter_mut().zip(&other.0).for_each(|(ours, theirs)| *ours &= theirs);
    }

    fn in_both(mut self, other: &Self) -> Self {
        self.keep_only(other);
        self
    }

    fn len(&self) -> usize {
        self.0.iter().map(|word| word.count_ones() as usize).sum()
    }
}

/// The key's value after all its writes.
pub(super) fn value(graph: &Graph, key: &Key<'_>, conflicts: &mut Vec<Conflict>) -> Option<Value> {
    let Some(&(last, written)) = key.writes.last() else { return key.input.cloned() };
    if key.writes.len() == 1 || seen_by(graph, last, &key.writes).len() == key.writes.len() - 1 {
        return written.cloned();
    }
    let seen = seen_by_each(graph, key);
    let start = shared(&seen);
    History::new(key, seen, start).settle(key, conflicts)
}

/// Which of a key's writers are a task's ancestors. Both come in topological order.
fn seen_by(graph: &Graph, ix: TaskIx, writes: &[(TaskIx, Option<&Value>)]) -> Writers {
    let mut seen = Writers::none_of(writes.len());
    let mut ancestors = graph.ancestors(ix).peekable();
    for (writer, &(task, _)) in (0..).zip(writes) {
        while ancestors.next_if(|&at| graph.rank(at) < graph.rank(task)).is_some() {}
        match ancestors.peek() {
            Some(&ancestor) if ancestor == task => seen.add(writer),
            Some(_) => {}
            None => break,
        }
    }
    seen
}

/// Of each writer, itself and all that it saw.
fn seen_by_each(graph: &Graph, key: &Key<'_>) -> Vec<Writers> {
    let with_itself = |(writer, &(ix, _)): (Writer, &(TaskIx, Option<&Value>))| {
        let mut seen = seen_by(graph, ix, &key.writes);
        seen.add(writer);
        seen
    };
    (0..).zip(&key.writes).map(with_itself).collect()
}

/// Parses a map or a list, to split it into pieces. `None` for any other value, and for text that is not JSON or nested
/// too deeply.
fn parse(value: &Value) -> Option<Json> {
    let json = (value.tag() == b'j').then(|| Json::parse(value.payload()))??;
    matches!(json, Json::List(_) | Json::Map(_)).then_some(json)
}

/// What happened to a key since the last point that all its writers share.
struct History<'a> {
    /// The task of each writer.
    tasks: Vec<TaskIx>,
    /// By writer: itself and all writers it saw, directly or not.
    seen: Vec<Writers>,
    /// Writers before this one are in `base`.
    start: Writer,
    /// What the key was before `start`.
    base: Piece,
    /// From `start` on: what was written, and what the piece then was.
    written: Vec<(Option<&'a Value>, Option<Json>)>,
    pieces: Vec<Piece>,
    /// The piece after the writes of several writers, by the set of them: tasks of one level often see the same.
    joined: RefCell<HashMap<Writers, Piece>>,
}

impl<'a> History<'a> {
    fn new(key: &Key<'a>, seen: Vec<Writers>, start: Writer) -> Self {
        let value = start.checked_sub(1).map_or(key.input, |last| key.writes[last as usize].1);
        let base = match value.map(|value| (value, parse(value))) {
            None => Piece::absent(None),
            Some((_, Some(json))) => Piece::fresh(None, &json),
            Some((value, None)) => Piece::raw(None, value.clone()),
        };
        let written = key.writes[start as usize..].iter().map(|&(_, value)| (value, value.and_then(parse))).collect();
        let tasks = key.writes.iter().map(|&(ix, _)| ix).collect();
        let (pieces, joined) = (Vec::new(), RefCell::default());
        let mut history = Self { tasks, seen, start, base, written, pieces, joined };
        for writer in start..history.tasks.len() as Writer {
            let piece = history.after(writer);
            history.pieces.push(piece);
        }
        history
    }

    /// The piece after a write that was made on top of all that its writer saw.
    fn after(&self, writer: Writer) -> Piece {
        let saw = self.after_all(self.seen[writer as usize].clone().without(writer));
        match &self.written[(writer - self.start) as usize] {
            (None, _) => Piece::absent(Some(writer)),
            (Some(_), Some(json)) => {
                let piece = saw.write(writer, json);
                debug_assert!(piece.is(json), "a piece is what was last written");
                piece
            }
            (Some(value), None) => Piece::raw(Some(writer), (*value).clone()),
        }
    }

    /// The piece after the writes of a set that holds, with each writer, all that it saw.
    fn after_all(&self, of: Writers) -> Piece {
        if let Some(piece) = self.joined.borrow().get(&of) {
            return piece.clone();
        }
        let (piece, joined) = self.state(&of, &mut |_, _, _| {});
        if joined {
            self.joined.borrow_mut().insert(of, piece.clone());
        }
        piece
    }

    /// Like `after_all`, with the conflicts on the way there; and whether it took a join.
    fn state(&self, of: &Writers, on_conflict: &mut OnConflict<'_>) -> (Piece, bool) {
        let mut heads: Vec<Writer> = Vec::new();
        let mut covered = Writers::none_of(self.tasks.len());
        for writer in (self.start..self.tasks.len() as Writer).rev() {
            if of.has(writer) && !covered.has(writer) {
                covered.add_all(&self.seen[writer as usize]);
                heads.push(writer);
            }
        }
        let task = |writer: Writer| self.tasks[writer as usize];
        heads.sort_unstable_by_key(|&writer| task(writer));
        let Some((&first, rest)) = heads.split_first() else { return (self.base.clone(), false) };
        let piece_of = |writer: Writer| &self.pieces[(writer - self.start) as usize];
        let (mut piece, mut ours) = (piece_of(first).clone(), self.seen[first as usize].clone());
        for &head in rest {
            let theirs = &self.seen[head as usize];
            let shared = LazyCell::new(|| self.after_all(ours.clone().in_both(theirs)));
            let mut merge = Merge { ours: &ours, theirs, shared: &shared, tasks: &task, on_conflict };
            piece = piece.join(piece_of(head), &mut Vec::new(), &mut merge);
            ours.add_all(theirs);
        }
        (piece, !rest.is_empty())
    }

    fn settle(&self, key: &Key<'_>, conflicts: &mut Vec<Conflict>) -> Option<Value> {
        let mut all = Writers::none_of(self.tasks.len());
        (0..self.tasks.len() as Writer).for_each(|writer| all.add(writer));
        let (piece, _) = self.state(&all, &mut |path, first, second| {
            conflicts.push(Conflict { key: Arc::clone(key.name), path: path.to_vec(), first, second });
        });
        match piece.value()? {
            Leaf::Raw(value) => Some(value),
            // A value that equals what a task wrote keeps its bytes.
            Leaf::Json(json) => self
                .written
                .iter()
                .rev()
                .find_map(|(value, written)| value.filter(|_| written.as_ref() == Some(&*json)))
                .cloned()
                .or_else(|| {
                    let mut text = String::new();
                    json.write(&mut text);
                    Some(Value::tagged(b'j', text.as_bytes()))
                }),
        }
    }
}

/// How many writers at the start can be taken together: the last of them saw the others, and all later ones saw it.
fn shared(seen: &[Writers]) -> Writer {
    let Some((last, earlier)) = seen.split_last() else { return 0 };
    let mut by_all_later = last.clone();
    for (writer, own) in earlier.iter().enumerate().rev() {
        if by_all_later.has(writer as Writer) && own.len() == writer + 1 {
            return writer as Writer + 1;
        }
        by_all_later.keep_only(own);
    }
    0
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use proptest::sample::Index;
    use proptest::test_runner::TestCaseResult;
    use serde_json::Value as Json;

    use super::super::gather;
    use super::super::properties::{Act, act, act_within, chances, run, some_json};
    use super::super::tests::{pairs, read};
    use super::{Arc, Graph, History, Value, seen_by_each, value};
    use crate::graph::tests::{build, dag};

    /// Every key comes to the same, with the same conflicts, from the last point that all its writers share and in
    /// full.
    fn compare(graph: &Graph, acts: &[Act], chance: &[Index], input: &Json) -> TestCaseResult {
        let inputs = pairs(&[("k0", &input.to_string())]);
        let done = run(graph, &inputs, chance, |ix, seen| acts[ix as usize].on(seen));
        for key in gather(graph.order().iter().copied(), &inputs, |ix| done.get(&ix)) {
            let outcome = |value: Option<Value>| value.map(|value| read(&vec![(Arc::clone(key.name), value)]));
            let (mut short, mut long) = (Vec::new(), Vec::new());
            let by_short_cut = outcome(value(graph, &key, &mut short));
            let in_full = History::new(&key, seen_by_each(graph, &key), 0).settle(&key, &mut long);
            prop_assert_eq!((by_short_cut, short), (outcome(in_full), long));
        }
        Ok(())
    }

    proptest! {
        #[test]
        fn no_short_cut_changes_what_comes_of_it(
            tasks in dag(), acts in proptest::collection::vec(act(), 24), chance in chances(), input in some_json(),
        ) {
            compare(&build(tasks), &acts, &chance, &input)?;
        }

        #[test]
        fn no_short_cut_changes_a_map_whose_keys_come_and_go(
            tasks in dag(), acts in proptest::collection::vec(act_within(), 24), chance in chances(),
            input in some_json(),
        ) {
            compare(&build(tasks), &acts, &chance, &input)?;
        }
    }
}
