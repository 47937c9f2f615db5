//! Mapped tasks in a graph: what they are mapped over, and which of them follow each other element by element.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use super::{Graph, TaskSpec};
use crate::id::{NO_MAP, TaskIx, TaskRef};

/// How a task is mapped.
#[derive(Clone, Debug, PartialEq)]
pub struct MapSpec {
    /// The lists of which an element of the task takes one item each. They are equally long.
    pub over: Vec<Over>,
    /// How many elements may fail without failing the task.
    pub tolerate: Tolerated,
}

impl MapSpec {
    /// The names of what it is mapped over, sorted. A task and an input never have the same name.
    #[must_use]
    pub fn over_names(&self) -> Vec<&str> {
        let mut names: Vec<&str> = self.over.iter().map(Over::name).collect();
        names.sort_unstable();
        names.dedup();
        names
    }
}

/// A list that a task is mapped over.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Over {
    /// What this task returned; of a mapped task the outputs of its elements, each as soon as it is there.
    Task(Arc<str>),
    /// An input of the run.
    Input(Arc<str>),
}

impl Over {
    /// The name of the task or input.
    #[must_use]
    pub fn name(&self) -> &str {
        match self {
            Self::Task(name) | Self::Input(name) => name,
        }
    }
}

/// How many elements of a mapped task may fail without failing it.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Tolerated {
    /// This many.
    Count(u32),
    /// This share of them, from 0 to 1, rounded down to whole elements.
    Share(f64),
}

impl Tolerated {
    /// No element may fail.
    pub const NONE: Self = Self::Count(0);

    /// How many that is of a number of elements.
    #[must_use]
    pub fn of(self, length: u32) -> u32 {
        match self {
            Self::Count(count) => count,
            // The small addend: 0.3 of 10 is 3, although the product is a little less than that.
            Self::Share(share) => (share * f64::from(length) + 1e-9) as u32,
        }
    }
}

/// How the mapped tasks of a graph belong together.
pub(super) struct Maps {
    /// Of a mapped task: the mapped tasks that it is mapped over.
    follows: HashMap<TaskIx, Box<[TaskIx]>>,
    /// The same edges seen from the other end.
    followers: HashMap<TaskIx, Vec<TaskIx>>,
    /// A task and a mapped one that it gathers.
    gathers: HashSet<(TaskIx, TaskIx)>,
}

impl Maps {
    /// `None` for a graph without mapped tasks.
    ///
    /// # Errors
    /// Says what is wrong with which task.
    pub(super) fn build(specs: &[TaskSpec], by_name: &HashMap<Arc<str>, TaskIx>) -> Result<Option<Self>, String> {
        if specs.iter().all(|spec| spec.map.is_none()) {
            return Ok(None);
        }
        let mut maps = Self { follows: HashMap::new(), followers: HashMap::new(), gathers: HashSet::new() };
        for (ix, spec) in (0..).zip(specs) {
            let mapped = |name: &Arc<str>| by_name.get(name).copied().filter(|on| specs[*on as usize].map.is_some());
            for name in &spec.gathers {
                let on = mapped(name)
                    .ok_or_else(|| format!("task '{}' gathers '{name}', which is not mapped", spec.name))?;
                maps.gathers.insert((ix, on));
            }
            if split_element(&spec.name).is_some_and(|(task, _)| mapped(&task.into()).is_some()) {
                return Err(format!(
                    "task '{}' has the name of an element of a mapped task; give it another",
                    spec.name
                ));
            }
            let Some(map) = &spec.map else { continue };
            check(spec, map)?;
            let over = map.over.iter().filter_map(|over| match over {
                Over::Task(name) => mapped(name),
                Over::Input(_) => None,
            });
            let mut follows: Vec<TaskIx> = over.collect();
            follows.sort_unstable();
            follows.dedup();
            for on in &follows {
                maps.followers.entry(*on).or_default().push(ix);
            }
            maps.follows.insert(ix, follows.into());
        }
        Ok(Some(maps))
    }
}

fn check(spec: &TaskSpec, map: &MapSpec) -> Result<(), String> {
    let name = &spec.name;
    if map.over.is_empty() {
        return Err(format!("task '{name}' is mapped over nothing"));
    }
    let missing = map.over.iter().find(|over| matches!(over, Over::Task(on) if !spec.dependencies.contains(on)));
    if let Some(over) = missing {
        return Err(format!("task '{name}' is mapped over '{}' without depending on it", over.name()));
    }
    match map.tolerate {
        Tolerated::Share(share) if !(0.0..=1.0).contains(&share) => {
            Err(format!("task '{name}': tolerate is a share from 0.0 to 1.0, not {share}"))
        }
        _ => Ok(()),
    }
}

impl Graph {
    /// Whether a task is mapped.
    #[must_use]
    pub fn is_mapped(&self, ix: TaskIx) -> bool {
        self.maps.is_some() && self.spec(ix).map.is_some()
    }

    /// Whether this is a mapped task itself and not one of its elements: executing it means to count its elements.
    #[must_use]
    pub fn is_expansion(&self, task: TaskRef) -> bool {
        task.map == NO_MAP && self.is_mapped(task.ix)
    }

    /// The mapped tasks that a mapped task follows: its elements take an output of theirs each.
    #[must_use]
    pub fn follows(&self, ix: TaskIx) -> &[TaskIx] {
        self.maps.as_ref().and_then(|maps| maps.follows.get(&ix)).map_or(&[], |follows| follows)
    }

    /// The mapped tasks that follow a mapped task.
    #[must_use]
    pub fn followers(&self, ix: TaskIx) -> &[TaskIx] {
        self.maps.as_ref().and_then(|maps| maps.followers.get(&ix)).map_or(&[], |followers| followers)
    }

    /// Whether a task takes whatever the elements of a mapped one came to.
    #[must_use]
    pub fn gathers(&self, ix: TaskIx, on: TaskIx) -> bool {
        self.maps.as_ref().is_some_and(|maps| maps.gathers.contains(&(ix, on)))
    }

    /// Whether all lists of a mapped task are outputs of mapped tasks.
    #[must_use]
    pub fn only_follows(&self, ix: TaskIx) -> bool {
        let mapped = |name: &str| self.find(name).is_some_and(|on| self.is_mapped(on));
        self.spec(ix).map.as_ref().is_some_and(|map| {
            map.over.iter().all(|over| match over {
                Over::Task(name) => mapped(name),
                Over::Input(_) => false,
            })
        })
    }

    /// The name of a task, or of an element: `process[3]`.
    #[must_use]
    pub fn name_of(&self, task: TaskRef) -> Arc<str> {
        let name = self.name(task.ix);
        if task.map == NO_MAP { Arc::clone(name) } else { format!("{name}[{}]", task.map).into() }
    }

    /// The task or element that has this name, or had it in an older version.
    #[must_use]
    pub fn find_element(&self, name: &str) -> Option<TaskRef> {
        if let Some(ix) = self.find_current(name) {
            return Some(TaskRef::plain(ix));
        }
        let (task, map) = split_element(name)?;
        let ix = self.find_current(task).filter(|ix| self.is_mapped(*ix))?;
        Some(TaskRef { ix, map })
    }
}

/// The name of the task and the map index in the name of an element: `process[3]`.
#[must_use]
pub fn split_element(name: &str) -> Option<(&str, i32)> {
    let (task, index) = name.strip_suffix(']')?.rsplit_once('[')?;
    let map: i32 = index.parse().ok()?;
    // "+3", "03" and "-1" name nothing.
    (map >= 0 && map.to_string() == index).then_some((task, map))
}
