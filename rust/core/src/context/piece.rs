//! A value whose every piece knows who wrote it last, and how two of them become one.
//!
//! The rule that this carries out stands at the top of `context.rs`.

use std::collections::{BTreeMap, HashSet};
use std::rc::Rc;
use std::sync::Arc;

use super::history::Seen;
use super::json::Json;
use crate::id::TaskIx;
use crate::value::Value;

/// A writer of a key: its position among them, in topological order.
pub(super) type Writer = u32;

/// A value, or the absence of one.
#[derive(Clone)]
pub(super) struct Piece {
    /// Who last set it as a whole, rather than wrote within it; `None` where it was so from the start.
    by: Option<Writer>,
    what: What,
}

#[derive(Clone)]
enum What {
    Absent,
    Leaf(Leaf),
    List(Rc<List>),
    Map(Rc<Map>),
}

/// A value that is not looked into.
#[derive(Clone, PartialEq)]
pub(super) enum Leaf {
    /// A key's whole value.
    Raw(Value),
    /// A value within a map.
    Json(Rc<Json>),
}

#[derive(Clone)]
struct List {
    first: Rc<[Json]>,
    /// What was appended, by writer: in topological order, as writers are numbered so.
    more: BTreeMap<Writer, Rc<[Json]>>,
}

#[derive(Clone)]
struct Map {
    /// Who made it where nothing was.
    maker: Option<Writer>,
    fields: BTreeMap<Arc<str>, Field>,
}

#[derive(Clone)]
struct Field {
    /// Who first added it, and as which of the keys it wrote: the order of keys.
    born: (Option<Writer>, u32),
    piece: Piece,
}

/// Is told of each conflict: where, whose piece was dropped, whose was kept.
pub(super) type Tell<'a> = dyn FnMut(&[Arc<str>], TaskIx, TaskIx) + 'a;

/// Two sides that meet: which writers each has seen, and who they are.
pub(super) struct Meeting<'a> {
    pub(super) ours: &'a Seen,
    pub(super) theirs: &'a Seen,
    pub(super) tasks: &'a dyn Fn(Writer) -> TaskIx,
    pub(super) tell: &'a mut Tell<'a>,
}

fn knows(seen: &Seen, by: Option<Writer>) -> bool {
    by.is_none_or(|by| seen.has(by))
}

impl Piece {
    pub(super) fn absent(by: Option<Writer>) -> Self {
        Self { by, what: What::Absent }
    }

    pub(super) fn raw(by: Option<Writer>, value: Value) -> Self {
        Self { by, what: What::Leaf(Leaf::Raw(value)) }
    }

    /// A value that owes nothing to what was there before.
    pub(super) fn fresh(by: Option<Writer>, wrote: &Json) -> Self {
        let what = match wrote {
            Json::List(list) => What::List(Rc::new(List { first: list.as_slice().into(), more: BTreeMap::new() })),
            Json::Map(map) => {
                let field = |(at, (key, value)): (u32, &(Arc<str>, Json))| {
                    (Arc::clone(key), Field { born: (by, at), piece: Self::fresh(by, value) })
                };
                What::Map(Rc::new(Map { maker: None, fields: (0..).zip(map).map(field).collect() }))
            }
            leaf => What::Leaf(Leaf::Json(Rc::new(leaf.clone()))),
        };
        Self { by, what }
    }

    fn is_absent(&self) -> bool {
        matches!(self.what, What::Absent)
    }

    /// What this becomes when a task that saw it writes this value.
    pub(super) fn write(&self, by: Writer, wrote: &Json) -> Self {
        let what = match (&self.what, wrote) {
            (What::Map(map), Json::Map(new)) => {
                let mut map = Rc::clone(map);
                Rc::make_mut(&mut map).write(self.by, by, new);
                What::Map(map)
            }
            (What::Absent, Json::Map(new)) => {
                let mut map = Map { maker: Some(by), fields: BTreeMap::new() };
                map.write(self.by, by, new);
                What::Map(Rc::new(map))
            }
            (What::List(list), Json::List(new)) if list.begins(new) => {
                let mut list = Rc::clone(list);
                let more = new[list.len()..].into();
                Rc::make_mut(&mut list).more.insert(by, more);
                What::List(list)
            }
            (What::Absent, Json::List(new)) => {
                let more = BTreeMap::from([(by, new.as_slice().into())]);
                What::List(Rc::new(List { first: [].into(), more }))
            }
            _ => return Self::fresh(Some(by), wrote),
        };
        Self { by: self.by, what }
    }

    /// Joins the pieces of two sides.
    pub(super) fn join(self, other: &Self, at: &mut Vec<Arc<str>>, meeting: &mut Meeting<'_>) -> Self {
        match (self.what, &other.what) {
            (What::Map(mut ours), What::Map(theirs)) => {
                if !Rc::ptr_eq(&ours, theirs) {
                    Rc::make_mut(&mut ours).join(self.by, theirs, other.by, at, meeting);
                }
                Self { by: meeting.latest(self.by, other.by), what: What::Map(ours) }
            }
            (What::List(mut ours), What::List(theirs)) if self.by == other.by => {
                if !Rc::ptr_eq(&ours, theirs) {
                    let more = theirs.more.iter().map(|(by, list)| (*by, Rc::clone(list)));
                    Rc::make_mut(&mut ours).more.extend(more);
                }
                Self { by: self.by, what: What::List(ours) }
            }
            (what, _) => Self { by: self.by, what }.decide(other, at, meeting),
        }
    }

    /// One of two pieces that do not mix.
    fn decide(self, other: &Self, at: &[Arc<str>], meeting: &mut Meeting<'_>) -> Self {
        let (ours, theirs) = (self.latest(meeting.theirs, meeting.tasks), other.latest(meeting.ours, meeting.tasks));
        match (ours, theirs) {
            (_, None) => self,
            (None, Some(_)) => other.clone(),
            (Some(ours), Some(theirs)) => {
                if self.value() != other.value() {
                    (meeting.tell)(at, ours.min(theirs), ours.max(theirs));
                }
                if ours > theirs { self } else { other.clone() }
            }
        }
    }

    /// The last declared of those who wrote some of this and are unknown to the other side.
    fn latest(&self, seen: &Seen, tasks: &dyn Fn(Writer) -> TaskIx) -> Option<TaskIx> {
        let unknown = |by: Option<Writer>| by.filter(|&by| !seen.has(by)).map(tasks);
        let within = match &self.what {
            What::Absent | What::Leaf(_) => None,
            What::List(list) => list.more.keys().filter_map(|&by| unknown(Some(by))).max(),
            What::Map(map) => {
                map.fields.values().map(|field| field.piece.latest(seen, tasks)).max().flatten().max(unknown(map.maker))
            }
        };
        within.max(unknown(self.by))
    }

    /// The value, without what is known of its pieces.
    pub(super) fn value(&self) -> Option<Leaf> {
        match &self.what {
            What::Absent => None,
            What::Leaf(leaf) => Some(leaf.clone()),
            What::List(_) | What::Map(_) => self.json().map(|json| Leaf::Json(Rc::new(json))),
        }
    }

    fn json(&self) -> Option<Json> {
        match &self.what {
            What::Absent | What::Leaf(Leaf::Raw(_)) => None,
            What::Leaf(Leaf::Json(json)) => Some((**json).clone()),
            What::List(list) => Some(Json::List(list.elements().cloned().collect())),
            What::Map(map) => {
                let mut fields: Vec<_> = map.fields.iter().collect();
                fields.sort_by_key(|(_, field)| field.born);
                let pairs = fields.into_iter().filter_map(|(key, field)| Some((Arc::clone(key), field.piece.json()?)));
                Some(Json::Map(pairs.collect()))
            }
        }
    }

    /// Whether the value is this one.
    pub(super) fn is(&self, value: &Json) -> bool {
        match (&self.what, value) {
            (What::Leaf(Leaf::Json(leaf)), _) => **leaf == *value,
            (What::List(list), Json::List(other)) => list.len() == other.len() && list.begins(other),
            (What::Map(map), Json::Map(other)) => {
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
            let nothing = || Field { born: (Some(by), at), piece: Piece::absent(whole) };
            let field = self.fields.entry(Arc::clone(key)).or_insert_with(nothing);
            if field.piece.is(value) {
                continue;
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

    /// A key that one side has and the other has no trace of is gone on that other side only if the other side had
    /// once seen it; then whoever set that side's map as a whole removed it.
    fn join(
        &mut self,
        whole: Option<Writer>,
        theirs: &Self,
        their_whole: Option<Writer>,
        at: &mut Vec<Arc<str>>,
        meeting: &mut Meeting<'_>,
    ) {
        for (key, field) in &theirs.fields {
            let ours = match self.fields.get_mut(key) {
                Some(ours) => ours,
                None if knows(meeting.ours, field.born.0) => {
                    let gone = Field { born: field.born, piece: Piece::absent(whole) };
                    self.fields.entry(Arc::clone(key)).or_insert(gone)
                }
                None => {
                    self.fields.insert(Arc::clone(key), field.clone());
                    continue;
                }
            };
            ours.join(key, &field.piece, at, meeting);
        }
        if knows(meeting.ours, their_whole) {
            return; // Their map is the one that ours grew from: nothing is missing in it.
        }
        for (key, field) in &mut self.fields {
            if !theirs.fields.contains_key(key) && knows(meeting.theirs, field.born.0) {
                field.join(key, &Piece::absent(their_whole), at, meeting);
            }
        }
    }
}

impl Field {
    fn join(&mut self, key: &Arc<str>, other: &Piece, at: &mut Vec<Arc<str>>, meeting: &mut Meeting<'_>) {
        at.push(Arc::clone(key));
        let ours = std::mem::replace(&mut self.piece, Piece::absent(None));
        self.piece = ours.join(other, at, meeting);
        at.pop();
    }
}

impl Meeting<'_> {
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
