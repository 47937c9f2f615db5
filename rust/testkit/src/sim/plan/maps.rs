//! Mapped tasks: what they are mapped over, and where the oracle finds their elements.

use bide_core::graph::{MapSpec, Over, Tolerated};
use bide_core::{Graph, TaskIx, TaskRef, TaskSpec};

use super::super::rng::Rng;
use super::{Act, Case, TaskPlan};

/// The most elements of a mapped task.
pub(in super::super) const MOST: TaskIx = 3;

/// How a task is mapped.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Mapped {
    /// How many items the list has that it is mapped over, an input. `None`: it is mapped only over the mapped tasks
    /// that it depends on; over the input, if it depends on none.
    pub items: Option<u8>,
    /// It is mapped over the mapped tasks that it depends on. Otherwise it takes their outputs as lists.
    pub follows: bool,
    /// How many of its elements may fail.
    pub tolerate: u8,
}

/// A task that is mapped over an input alone, without saying how many items that has.
const ITEMS: u8 = 2;

impl Mapped {
    pub(super) fn random(rng: &mut Rng) -> Self {
        let follows = !rng.one_in(4);
        // Mostly as many as the other lists have.
        let items = [3, 3, 3, 2, 1, 0][rng.below(6)];
        Self { items: (!follows || rng.one_in(4)).then_some(items), follows, tolerate: rng.below(3) as u8 }
    }

    /// Simpler ones.
    pub(super) fn smaller(self) -> Vec<Self> {
        let simpler = [
            Self { follows: false, ..self },
            Self { tolerate: 0, ..self },
            Self { items: Some(1), ..self },
            Self { items: None, ..self },
        ];
        let at = simpler.iter().position(|other| *other == self).unwrap_or(simpler.len());
        simpler.into_iter().take(at).collect()
    }
}

impl Act {
    /// Whether an element may do it: no list may wait for ever for one of its elements, and their context is read-only.
    pub(super) fn fits_an_element(self) -> bool {
        !matches!(self, Self::Forever | Self::Kills(_) | Self::Sets(_))
    }
}

impl TaskPlan {
    /// Makes it a mapped task.
    pub(super) fn be_mapped(&mut self, rng: &mut Rng) {
        self.acts.retain(|act| act.fits_an_element());
        self.map = Some(Mapped::random(rng));
    }

    /// As the graph knows how it is mapped; `mapped` says which tasks are.
    pub(super) fn map_spec(&self, mapped: impl Fn(usize) -> bool) -> Option<Box<MapSpec>> {
        let map = self.map?;
        let followed = self.on.iter().filter(|on| map.follows && mapped(**on));
        let mut over: Vec<Over> = followed.map(|on| Over::Task(format!("t{on}").into())).collect();
        if map.items.is_some() || over.is_empty() {
            over.push(Over::Input("input".into()));
        }
        Some(Box::new(MapSpec { over, tolerate: Tolerated::Count(u32::from(map.tolerate)) }))
    }

    /// The mapped tasks of which it takes whatever their elements came to.
    pub(super) fn gathered(&self, mapped: impl Fn(usize) -> bool) -> impl Iterator<Item = usize> {
        let takes = self.gathers && self.map.is_none_or(|map| !map.follows);
        self.on.iter().copied().filter(move |on| takes && mapped(*on))
    }

    /// How many items its list has.
    pub(in super::super) fn items(&self) -> u32 {
        u32::from(self.map.and_then(|map| map.items).unwrap_or(ITEMS))
    }
}

impl Case {
    /// The positions of the mapped tasks.
    pub(in super::super) fn mapped(&self) -> impl Iterator<Item = TaskIx> {
        (0..).zip(&self.tasks).filter(|(_, task)| task.map.is_some()).map(|(ix, _)| ix)
    }

    /// The position of the first element of a mapped task among those of [`Case::every_task`].
    pub(in super::super) fn first_of_elements(&self, ix: TaskIx) -> TaskIx {
        let before = self.mapped().take_while(|other| *other < ix).count() as TaskIx;
        self.first_of_child() + self.child.len() as TaskIx + MOST * before
    }

    /// The mapped task of an element, by the position of that.
    pub(super) fn task_of_element(&self, place: TaskIx) -> Option<TaskIx> {
        self.mapped().find(|ix| (self.first_of_elements(*ix)..self.first_of_elements(*ix) + MOST).contains(&place))
    }

    /// The elements of all mapped tasks, as if they were tasks.
    pub(super) fn elements(&self, graph: &Graph) -> Vec<TaskSpec> {
        let element = |(ix, map): (TaskIx, TaskIx)| {
            let spec = graph.spec(ix);
            let on = |on: &TaskIx| {
                let followed = graph.follows(ix).contains(on);
                graph.name_of(if followed { TaskRef { ix: *on, map: map as i32 } } else { TaskRef::plain(*on) })
            };
            TaskSpec {
                name: format!("{}[{map}]", spec.name).into(),
                dependencies: graph.dependencies(ix).iter().map(on).collect(),
                map: None,
                gathers: Vec::new(),
                ..spec.clone()
            }
        };
        self.mapped().flat_map(|ix| (0..MOST).map(move |map| (ix, map))).map(element).collect()
    }
}
