//! A value each of whose pieces knows its last writer, and the merge of two such values.
//!
//! Implements the rule at the top of `context.rs`.

use std::collections::{BTreeMap, HashSet};
use std::ops::Deref;
use std::rc::Rc;
use std::sync::Arc;

use super::history::Writers;
use super::json::Json;
use crate::id::TaskIx;
use crate::value::Value;

/// A writer of a key: its position among them, in topological order.
pub(super) type Writer = u32;

/// A value, or the absence of one.
#[derive(Clone)]
pub(super) struct Piece {
    /// The writer that last set it as a whole, not only wrote within it; `None` for the value at the start.
    by: Option<Writer>,
    /// What it is made of.
    content: Content,
}

#[derive(Clone)]
enum Content {
    Absent,
    Leaf(Leaf),
    List(Rc<List>),
    Map(Rc<Map>),
}

/// A value that is merged as a whole.
#[derive(Clone, PartialEq)]
pub(super) enum Leaf {
    /// A key's whole value.
    Raw(Value),
    /// A value within a map.
    Json(Rc<Json>),
}

#[derive(Clone)]
struct List {
    /// The elements when it was last set as a whole.
    first: Rc<[Json]>,
    /// What was appended, by writer. Writers are numbered in topological order, so this is that order.
    more: BTreeMap<Writer, Rc<[Json]>>,
}

#[derive(Clone)]
struct Map {
    /// The writer that created it where nothing was.
    creator: Option<Writer>,
    /// Its keys with their values.
    fields: BTreeMap<Arc<str>, Field>,
}

#[derive(Clone)]
struct Field {
    /// The writer that added it, or added it again, and its position among that writer's keys: the order of keys.
    added: (Option<Writer>, u32),
    /// The writer that last set the map as a whole when the key was added: a map made anew has keys of its own.
    within: Option<Writer>,
    /// The value of the key.
    piece: Piece,
}

/// Called for each conflict: where it is, whose piece is dropped, whose is kept.
pub(super) type OnConflict<'a> = dyn FnMut(&[Arc<str>], TaskIx, TaskIx) + 'a;

/// The merge of two sides.
pub(super) struct Merge<'a> {
    /// The writers that one side has seen.
    pub(super) ours: &'a Writers,
    /// The writers that the other side has seen.
    pub(super) theirs: &'a Writers,
    /// The key's piece after the writes that both sides have seen, computed when first needed.
    pub(super) shared: &'a dyn Deref<Target = Piece>,
    /// The task of a writer.
    pub(super) tasks: &'a dyn Fn(Writer) -> TaskIx,
    /// Called for each conflict that the merge finds.
    pub(super) on_conflict: &'a mut OnConflict<'a>,
}

fn knows(seen: &Writers, by: Option<Writer>) -> bool {
    by.is_none_or(|by| seen.has(by))
}

impl Piece {
    pub(super) fn absent(by: Option<Writer>) -> Self {
        Self { by, content: Content::Absent }
    }

    pub(super) fn raw(by: Option<Writer>, value: Value) -> Self {
        Self { by, content: Content::Leaf(Leaf::Raw(value)) }
    }

    /// A value that does not continue what was there before.
    pub(super) fn fresh(by: Option<Writer>, wrote: &Json) -> Self {
        let content = match wrote {
            Json::List(list) => Content::List(Rc::new(List { first: list.as_slice().into(), more: BTreeMap::new() })),
            Json::Map(map) => {
                let field = |(at, (key, value)): (u32, &(Arc<str>, Json))| {
                    (Arc::clone(key), Field { added: (by, at), within: by, piece: Self::fresh(by, value) })
                };
                Content::Map(Rc::new(Map { creator: None, fields: (0..).zip(map).map(field).collect() }))
            }
            leaf => Content::Leaf(Leaf::Json(Rc::new(leaf.clone()))),
        };
        Self { by, content }
    }

    fn is_absent(&self) -> bool {
        matches!(self.content, Content::Absent)
    }

    /// Whether there is a value at the end of this path of keys.
    fn has(&self, path: &[Arc<str>]) -> bool {
        match (path.split_first(), &self.content) {
            (None, content) => !matches!(content, Content::Absent),
            (Some((key, rest)), Content::Map(map)) => map.fields.get(key).is_some_and(|field| field.piece.has(rest)),
            _ => false,
        }
    }

    /// What this becomes when a task that saw it writes this value.
    pub(super) fn write(&self, by: Writer, wrote: &Json) -> Self {
        let content = match (&self.content, wrote) {
            (Content::Map(map), Json::Map(new)) => {
                let mut map = Rc::clone(map);
                Rc::make_mut(&mut map).write(self.by, by, new);
                Content::Map(map)
            }
            (Content::Absent, Json::Map(new)) => {
                let mut map = Map { creator: Some(by), fields: BTreeMap::new() };
                map.write(self.by, by, new);
                Content::Map(Rc::new(map))
            }
            (Content::List(list), Json::List(new)) if list.begins(new) => {
                let mut list = Rc::clone(list);
                let more = new[list.len()..].into();
                Rc::make_mut(&mut list).more.insert(by, more);
                Content::List(list)
            }
            (Content::Absent, Json::List(new)) => {
                let more = BTreeMap::from([(by, new.as_slice().into())]);
                Content::List(Rc::new(List { first: [].into(), more }))
            }
            _ => return Self::fresh(Some(by), wrote),
        };
        Self { by: self.by, content }
    }

    /// Merges the pieces of two sides.
    pub(super) fn join(self, other: &Self, at: &mut Vec<Arc<str>>, merge: &mut Merge<'_>) -> Self {
        match (self.content, &other.content) {
            (Content::Map(mut ours), Content::Map(theirs)) => {
                if !Rc::ptr_eq(&ours, theirs) {
                    Rc::make_mut(&mut ours).join(self.by, theirs, other.by, at, merge);
                }
                Self { by: merge.latest(self.by, other.by), content: Content::Map(ours) }
            }
            (Content::List(mut ours), Content::List(theirs)) if self.by == other.by => {
                if !Rc::ptr_eq(&ours, theirs) {
                    let more = theirs.more.iter().map(|(by, list)| (*by, Rc::clone(list)));
                    Rc::make_mut(&mut ours).more.extend(more);
                }
                Self { by: self.by, content: Content::List(ours) }
            }
            (content, _) => Self { by: self.by, content }.choose(other, at, merge),
        }
    }

    /// Chooses one of two pieces that cannot be merged.
    fn choose(self, other: &Self, at: &[Arc<str>], merge: &mut Merge<'_>) -> Self {
        let (ours, theirs) = (self.latest(merge.theirs, merge.tasks), other.latest(merge.ours, merge.tasks));
        match (ours, theirs) {
            (_, None) => self,
            (None, Some(_)) => other.clone(),
            (Some(ours), Some(theirs)) => {
                if self.value() != other.value() {
                    (merge.on_conflict)(at, ours.min(theirs), ours.max(theirs));
                }
                if ours > theirs { self } else { other.clone() }
            }
        }
    }

    /// The last declared task that wrote a part of this which the other side has not seen.
    fn latest(&self, seen: &Writers, tasks: &dyn Fn(Writer) -> TaskIx) -> Option<TaskIx> {
        let unknown = |by: Option<Writer>| by.filter(|&by| !seen.has(by)).map(tasks);
        let within = match &self.content {
            Content::Absent | Content::Leaf(_) => None,
            Content::List(list) => list.more.keys().filter_map(|&by| unknown(Some(by))).max(),
            Content::Map(map) => map
                .fields
                .values()
                .map(|field| field.piece.latest(seen, tasks))
                .max()
                .flatten()
                .max(unknown(map.creator)),
        };
        within.max(unknown(self.by))
    }

    /// The value, without what is known of its pieces.
    pub(super) fn value(&self) -> Option<Leaf> {
        match &self.content {
            Content::Absent => None,
            Content::Leaf(leaf) => Some(leaf.clone()),
            Content::List(_) | Content::Map(_) => self.json().map(|json| Leaf::Json(Rc::new(json))),
        }
    }

    fn json(&self) -> Option<Json> {
        match &self.content {
            Content::Absent | Content::Leaf(Leaf::Raw(_)) => None,
            Content::Leaf(Leaf::Json(json)) => Some((**json).clone()),
            Content::List(list) => Some(Json::List(list.elements().cloned().collect())),
            Content::Map(map) => {
                let mut fields: Vec<_> = map.fields.iter().collect();
                fields.sort_by_key(|(_, field)| field.added);
                let pairs = fields.into_iter().filter_map(|(key, field)| Some((Arc::clone(key), field.piece.json()?)));
                Some(Json::Map(pairs.collect()))
            }
        }
    }

    /// Whether the value is this one.
    pub(super) fn is(&self, value: &Json) -> bool {
        match (&self.content, value) {
            (Content::Leaf(Leaf::Json(leaf)), _) => **leaf == *value,
            (Content::List(list), Json::List(other)) => list.len() == other.len() && list.begins(other),
            (Content::Map(map), Json::Map(other)) => {
                map.fields.values().filter(|field| !field.piece.is_absent()).count() == other.len()
                    && other.iter().all(|(key, value)| map.fields.get(key).is_some_and(|field| field.piece.is(value)))
            }
            _ => false,
        }
    }
}

impl List {
    fn elements(&self) -> impl Iterator<Item = &Json> {
        self.first.iter().chain(self.more.values().flat_map(|more| more.iter()))
    }

    fn len(&self) -> usize {
        self.first.len() + self.more.values().map(|more| more.len()).sum::<usize>()
    }

    /// Whether `other` is this list, perhaps with something appended.
    fn begins(&self, other: &[Json]) -> bool {
        self.len() <= other.len() && self.elements().eq(&other[..self.len()])
    }
}

impl Map {
    /// A task that saw this map, last set as a whole by `whole`, writes another.
    fn write(&mut self, whole: Option<Writer>, by: Writer, new: &[(Arc<str>, Json)]) {
        for (at, (key, value)) in (0..).zip(new) {
            let added = (Some(by), at);
            let nothing = || Field { added, within: whole, piece: Piece::absent(whole) };
            let field = self.fields.entry(Arc::clone(key)).or_insert_with(nothing);
            if field.piece.is(value) {
                continue;
            }
            if field.piece.is_absent() {
                (field.added, field.within) = (added, whole);
                field.piece.by = field.piece.by.max(whole);
            }
            field.piece = field.piece.write(by, value);
        }
        let kept: HashSet<&str> = new.iter().map(|(key, _)| &**key).collect();
        for (key, field) in &mut self.fields {
            if !field.piece.is_absent() && !kept.contains(&**key) {
                field.piece = Piece::absent(Some(by));
            }
        }
    }

    /// Merges the maps of two sides, each with the writer that last set it as a whole.
    fn join(
        &mut self,
        whole: Option<Writer>,
        theirs: &Self,
        their_whole: Option<Writer>,
        at: &mut Vec<Arc<str>>,
        merge: &mut Merge<'_>,
    ) {
        for (key, field) in &theirs.fields {
            let ours = self.fields.entry(Arc::clone(key)).or_insert_with(|| field.missing());
            at.push(Arc::clone(key));
            ours.join(whole, field, their_whole, at, merge);
            at.pop();
        }
        if knows(merge.ours, their_whole) {
            return; // Their map is the one that ours grew from: nothing is missing in it.
        }
        for (key, field) in &mut self.fields {
            if !theirs.fields.contains_key(key) {
                at.push(Arc::clone(key));
                field.join(whole, &field.missing(), their_whole, at, merge);
                at.pop();
            }
        }
    }
}

impl Field {
    /// The same key on a side that does not have it.
    fn missing(&self) -> Self {
        Self { piece: Piece::absent(None), ..*self }
    }

    /// Merges the values of a key on two sides, each in a map with this writer as the last that set it as a whole.
    fn join(
        &mut self,
        whole: Option<Writer>,
        other: &Self,
        their_whole: Option<Writer>,
        at: &mut Vec<Arc<str>>,
        merge: &mut Merge<'_>,
    ) {
        let (ours, theirs) = ((merge.ours, whole), (merge.theirs, their_whole));
        match (self.piece.is_absent(), other.piece.is_absent()) {
            (false, false) => {
                self.within = self.within.min(other.within);
                self.set(|piece| piece.join(&other.piece, at, merge));
            }
            (false, true) => {
                if let Some(by) = merge.remover(other, theirs, self, merge.ours, at) {
                    self.set(|piece| piece.join(&Piece::absent(Some(by)), at, merge));
                }
            }
            (true, false) => {
                let by = merge.remover(self, ours, other, merge.theirs, at);
                *self = other.clone();
                if by.is_some() {
                    self.set(|piece| Piece::absent(by).join(&piece, at, merge));
                }
            }
            (true, true) if knows(merge.theirs, self.piece.by) && knows(merge.ours, other.piece.by) => {
                if other.piece.by > self.piece.by {
                    *self = other.clone();
                }
            }
            (true, true) => {
                let by = merge.remover(self, ours, other, merge.theirs, at);
                let their_by = merge.remover(other, theirs, self, merge.ours, at);
                if their_by.map(merge.tasks) > by.map(merge.tasks) {
                    *self = Self { piece: Piece::absent(their_by), ..*other };
                } else {
                    self.piece = Piece::absent(by);
                }
            }
        }
    }

    fn set(&mut self, change: impl FnOnce(Piece) -> Piece) {
        self.piece = change(std::mem::replace(&mut self.piece, Piece::absent(None)));
    }
}

impl Merge<'_> {
    /// The writer that removed a key on one side, unseen by the other side. A writer that
    /// replaced the map removed only keys that were there: one that was not, the other side has added since.
    fn remover(
        &self,
        removed: &Field,
        (seen, whole): (&Writers, Option<Writer>),
        other: &Field,
        seen_by_other: &Writers,
        at: &[Arc<str>],
    ) -> Option<Writer> {
        if !knows(seen_by_other, removed.piece.by) {
            return removed.piece.by;
        }
        let anew = !knows(seen_by_other, whole) && knows(seen, other.within) && self.shared.has(at);
        if anew { whole } else { None }
    }

    /// Of two writers, the one that had seen the other; else the later declared.
    fn latest(&self, ours: Option<Writer>, theirs: Option<Writer>) -> Option<Writer> {
        if knows(self.ours, theirs) {
            ours
        } else if knows(self.theirs, ours) {
            theirs
        } else {
            [ours, theirs].into_iter().flatten().max_by_key(|&by| (self.tasks)(by))
        }
    }
}
