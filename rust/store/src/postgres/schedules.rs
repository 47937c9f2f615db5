//! Schedules, which all runners of a server have in common.

use super::PostgresStore;
use crate::{ScheduleChange, ScheduleChanged, Schedules, StoreError, StoredSchedule};

impl Schedules for PostgresStore {
    fn schedules(&self, _after: i64) -> Result<Vec<StoredSchedule>, StoreError> {
        Ok(Vec::new())
    }

    fn schedule(&self, _name: &str) -> Result<Option<StoredSchedule>, StoreError> {
        Ok(None)
    }

    fn change_schedules(&self, _changes: &[ScheduleChange]) -> Result<Vec<ScheduleChanged>, StoreError> {
        Err(self.not_there_yet("schedules"))
    }
}
