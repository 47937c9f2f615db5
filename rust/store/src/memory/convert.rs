//! Moving a run that nobody executes to another version of its workflow: see [`crate::Store::convert`].

use std::collections::HashMap;
use std::sync::Arc;

use bide_core::{RunId, RunStatus, TaskId};

use super::state::State;
use crate::{Conversion, Converted};

impl State {
    pub(super) fn convert(&mut self, id: RunId, conversion: &Conversion) -> Converted {
        let row = id.row();
        let Conversion { from, workflow, version, tasks, told } = conversion;
        let free = |run: &&mut super::MemRun| {
            run.id == id && run.runner.is_none() && run.status != RunStatus::Completed && run.version != *version
        };
        let Some(run) = self.runs.get_mut(&row).filter(free) else { return Converted::NotFree };
        if self.versions[run.version as usize].hash != *from {
            return Converted::NotFree;
        }
        if run.workflow != *workflow
            && let Some(key) = &run.key
        {
            if self.keys.contains_key(&(*workflow, Arc::clone(key))) {
                return Converted::KeyTaken;
            }
            self.keys.remove(&(run.workflow, Arc::clone(key)));
            self.keys.insert((*workflow, Arc::clone(key)), row);
        }
        (run.workflow, run.version) = (*workflow, *version);
        let moved: HashMap<TaskId, Option<TaskId>> = tasks.iter().copied().collect();
        let new = |task: TaskId| moved.get(&task).copied().unwrap_or(Some(task));
        run.renumber(new);
        self.live.renumber(row, new);
        self.limits.renumber(row, new);
        for child in self.children.get(&row).into_iter().flatten() {
            if let Some(parent) = self.runs.get_mut(child).and_then(|child| child.parent.as_mut())
                && let Some(task) = new(parent.task)
            {
                Arc::make_mut(parent).task = task;
            }
        }
        if let Some(told) = told {
            self.messages.insert(row, told.clone(), true);
        }
        Converted::Done
    }
}
