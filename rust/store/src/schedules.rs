//! Schedules in a store: rows that are changed only as they were read, together with the runs that a change starts.

use std::sync::Arc;

use bide_core::record::NewRun;
use bide_core::schedules::Schedule;

use crate::{Creation, StoreError};

/// A schedule as it was read.
#[derive(Clone, Debug)]
pub struct StoredSchedule {
    /// Its name.
    pub name: Arc<str>,
    /// Raised by each change of any schedule: no two changes have the same.
    pub revision: i64,
    /// The schedule. `None`: it was removed. An error: it does not read back.
    pub schedule: Result<Option<Schedule>, StoreError>,
}

/// A change of a schedule, made if nobody else has changed it meanwhile.
#[derive(Clone, Debug)]
pub struct ScheduleChange {
    /// The name of the schedule.
    pub name: Arc<str>,
    /// The revision that the change is based on. `None`: there is no such schedule.
    pub expected: Option<i64>,
    /// What the schedule is to be. `None`: it is removed.
    pub schedule: Option<Schedule>,
    /// Runs that are created with the change, and belong to nobody. One whose key names a run is not created.
    pub runs: Vec<NewRun>,
}

/// What became of a change.
#[derive(Clone, Debug)]
pub enum ScheduleChanged {
    /// It is committed.
    Done {
        /// The new revision.
        revision: i64,
        /// The schedule as it is stored: in place of runs that were there already it names these.
        schedule: Option<Box<Schedule>>,
        /// The outcome for each run: it is created, or another one has its key.
        creations: Vec<Creation>,
    },
    /// The schedule is not what the change is based on. Nothing of the change was written.
    Moved,
    /// Another run has the row number of one of the runs: to be tried again under new ids. Nothing of any change was
    /// written.
    NumberTaken,
}

impl ScheduleChange {
    /// The schedule with the runs that there are now.
    pub(crate) fn settled(&self, creations: &[Creation]) -> Option<Schedule> {
        let mut schedule = self.schedule.clone()?;
        for (new, creation) in self.runs.iter().zip(creations) {
            if let Creation::Exists(row) | Creation::OtherInputs(row) = creation {
                schedule.replace_run(new.id, row.id);
            }
        }
        Some(schedule)
    }
}

/// The schedules of a store. Retention never purges them.
pub trait Schedules {
    /// The schedules that have changed since a revision, also those that were removed; with 0 all that there are.
    ///
    /// # Errors
    /// As [`crate::Store::load`].
    fn schedules(&self, after: i64) -> Result<Vec<StoredSchedule>, StoreError>;

    /// A schedule by its name. `None`: there never was one.
    ///
    /// # Errors
    /// As [`crate::Store::load`].
    fn schedule(&self, name: &str) -> Result<Option<StoredSchedule>, StoreError>;

    /// Makes changes of schedules, each apart from the others, in one commit. A change that is made again after its
    /// outcome was lost is `Moved`.
    ///
    /// # Errors
    /// Any [`StoreError`] but `Fenced`; except for `Unknown` nothing was written.
    fn change_schedules(&self, changes: &[ScheduleChange]) -> Result<Vec<ScheduleChanged>, StoreError>;
}
