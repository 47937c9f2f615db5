//! The schedules of a store in memory.

use std::sync::Arc;

use bide_core::record::RunRowId;
use bide_core::schedules::Schedule;

use super::MemoryStore;
use crate::{Creation, ScheduleChange, ScheduleChanged, Schedules, StoreError, StoredSchedule};

fn stored(name: &Arc<str>, (revision, schedule): &(i64, Option<Schedule>)) -> StoredSchedule {
    StoredSchedule { name: Arc::clone(name), revision: *revision, schedule: Ok(schedule.clone()) }
}

impl Schedules for MemoryStore {
    fn schedules(&self, after: i64) -> Result<Vec<StoredSchedule>, StoreError> {
        let state = &*self.state.lock();
        let fits = |row: &(i64, Option<Schedule>)| row.0 > after && (after > 0 || row.1.is_some());
        let mut found: Vec<_> =
            state.schedules.rows.iter().filter(|(_, row)| fits(row)).map(|(name, row)| stored(name, row)).collect();
        found.sort_by_key(|row| row.revision);
        Ok(found)
    }

    fn schedule(&self, name: &str) -> Result<Option<StoredSchedule>, StoreError> {
        let state = &*self.state.lock();
        Ok(state.schedules.rows.get_key_value(name).map(|(name, row)| stored(name, row)))
    }

    fn change_schedules(&self, changes: &[ScheduleChange]) -> Result<Vec<ScheduleChanged>, StoreError> {
        let state = &mut *self.state.lock();
        let (mut outcomes, mut created) = (Vec::with_capacity(changes.len()), Vec::<RunRowId>::new());
        let mut rows = Vec::new();
        for change in changes {
            let known = rows.iter().rev().find(|(name, _)| *name == change.name).map(|(_, row)| row);
            let known: Option<&(i64, Option<Schedule>)> = known.or_else(|| state.schedules.rows.get(&change.name));
            let current = known.filter(|(_, schedule)| schedule.is_some()).map(|(revision, _)| *revision);
            if current != change.expected {
                outcomes.push(ScheduleChanged::Moved);
                continue;
            }
            let mut creations = Vec::with_capacity(change.runs.len());
            for new in &change.runs {
                let made = state.create_unowned(std::slice::from_ref(new)).map(|mut made| made.pop());
                match made {
                    Ok(Some(Creation::NumberTaken)) | Err(_) => {
                        created.into_iter().for_each(|row| state.undo_unowned(row));
                        return made.map(|_| changes.iter().map(|_| ScheduleChanged::NumberTaken).collect());
                    }
                    Ok(Some(creation)) => {
                        if creation == Creation::Created {
                            created.push(new.id.row());
                        }
                        creations.push(creation);
                    }
                    Ok(None) => {}
                }
            }
            let schedule = change.settled(&creations);
            state.schedules.last += 1;
            let revision = state.schedules.last;
            rows.push((Arc::clone(&change.name), (revision, schedule.clone())));
            outcomes.push(ScheduleChanged::Done { revision, schedule: schedule.map(Box::new), creations });
        }
        let is_changed = !rows.is_empty();
        state.schedules.rows.extend(rows);
        if is_changed {
            self.changes.unowned();
        }
        Ok(outcomes)
    }
}
