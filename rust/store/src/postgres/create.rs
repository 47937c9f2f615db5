//! Which of the runs that a commit is to create can be: what has their keys and numbers is looked up first, and the unique
//! indexes have the last word.

use std::collections::HashMap;

use bide_core::RunStatus;
use bide_core::record::{NewRun, RunRow, RunRowId};

use super::PostgresStore;
use super::error::Failed;
use super::parts::{run_columns, run_joins, run_row};
use super::session::{Session, Text};
use crate::{Creation, Lease};

const BY_KEY: &str = concat!(
    "SELECT ",
    run_columns!(),
    ", r.workflow FROM unnest($1::int8[], $2::text[]) u(workflow, key) \
     JOIN bide.run r ON r.workflow = u.workflow AND r.key = u.key ",
    run_joins!()
);
const BY_NUMBER: &str = concat!(
    "SELECT ",
    run_columns!(),
    ", r.workflow FROM unnest($1::int8[]) u(id) JOIN bide.run r ON r.id = u.id ",
    run_joins!()
);

/// The constraint that a statement would break.
pub(super) fn constraint(error: &postgres::Error) -> Option<&str> {
    let error = error.as_db_error()?;
    (*error.code() == postgres::error::SqlState::UNIQUE_VIOLATION).then(|| error.constraint()).flatten()
}

/// Decides what becomes of the requests of a commit.
pub(super) struct Creator<'a> {
    store: &'a PostgresStore,
    lease: Option<Lease>,
    requests: &'a [&'a [NewRun]],
    /// The numbers of the runs may be in use: by them, if they were created before, or by others.
    looks_for_ids: bool,
}

/// What there is already, and what the same commit creates.
#[derive(Default)]
struct Known {
    keys: HashMap<(i64, String), RunRow>,
    rows: HashMap<RunRowId, RunRow>,
}

impl<'a> Creator<'a> {
    pub(super) const fn new(store: &'a PostgresStore, lease: Option<Lease>, requests: &'a [&'a [NewRun]]) -> Self {
        Self { store, lease, requests, looks_for_ids: false }
    }

    /// From now on also looks whether the numbers of the runs are in use.
    pub(super) const fn look_for_ids(&mut self) {
        self.looks_for_ids = true;
    }

    /// The outcome for each run, and those that are to be created.
    pub(super) fn decide(&self, session: &mut Session<'_>) -> Result<(Vec<Vec<Creation>>, Vec<&'a NewRun>), Failed> {
        let mut known = self.look(session)?;
        let (mut all, mut creations) = (Vec::new(), Vec::with_capacity(self.requests.len()));
        // Almost always there are no keys, and all are new.
        let is_simple = known.rows.is_empty() && self.requests.iter().copied().flatten().all(|new| new.key.is_none());
        for request in self.requests {
            if is_simple && !self.looks_for_ids {
                all.extend(request.iter());
                creations.push(vec![Creation::Created; request.len()]);
                continue;
            }
            let mut created: Vec<&NewRun> = Vec::new();
            let mut made = Vec::with_capacity(request.len());
            for new in *request {
                let key = new.key.as_ref().map(|key| (new.workflow, key.to_string()));
                let there = key.as_ref().and_then(|key| known.keys.get(key)).or_else(|| known.rows.get(&new.id.row()));
                let creation = match there {
                    Some(there) if there.id.row() == new.id.row() && there.id != new.id => Creation::NumberTaken,
                    Some(there) if there.id == new.id && there.runner == self.lease.map(|lease| lease.runner) => {
                        Creation::Created
                    }
                    Some(there) if there.inputs == new.inputs => Creation::Exists(Box::new(there.clone())),
                    Some(there) => Creation::OtherInputs(Box::new(there.clone())),
                    None => {
                        let row = self.row(session, new)?;
                        known.rows.insert(new.id.row(), row.clone());
                        if let Some(key) = key {
                            known.keys.insert(key, row);
                        }
                        created.push(new);
                        Creation::Created
                    }
                };
                made.push(creation);
            }
            if made.iter().any(Creation::prevents_all) {
                for new in created {
                    known.rows.remove(&new.id.row());
                    if let Some(key) = &new.key {
                        known.keys.remove(&(new.workflow, key.to_string()));
                    }
                }
            } else {
                all.extend(created);
            }
            creations.push(made);
        }
        Ok((creations, all))
    }

    /// Reads what has the keys, and the numbers.
    fn look(&self, session: &mut Session<'_>) -> Result<Known, Failed> {
        let mut known = Known::default();
        let runs = || self.requests.iter().copied().flatten();
        let (mut workflows, mut keys) = (Vec::<i64>::new(), Vec::<Text<'_>>::new());
        for (new, key) in runs().filter_map(|new| Some((new, new.key.as_deref()?))) {
            workflows.push(new.workflow);
            keys.push(key.into());
        }
        let mut found = if keys.is_empty() { Vec::new() } else { session.query(BY_KEY, &[&workflows, &keys])? };
        if self.looks_for_ids {
            let numbers: Vec<i64> = runs().map(|new| new.id.row()).collect();
            found.extend(session.query(BY_NUMBER, &[&numbers])?);
        }
        for row in found {
            let (run, _) = run_row(&row, 0, self.store.name_str())?;
            if let Some(key) = &run.key {
                known.keys.insert((row.try_get(3)?, key.to_string()), run.clone());
            }
            if self.looks_for_ids {
                known.rows.insert(run.id.row(), run);
            }
        }
        Ok(known)
    }

    /// The row that a run gets.
    fn row(&self, session: &mut Session<'_>, new: &NewRun) -> Result<RunRow, Failed> {
        let (workflow, version) = self.store.names_of(session, new.version)?;
        let status = if self.lease.is_some() { RunStatus::Running } else { RunStatus::Pending };
        let parent = new.parent.as_deref();
        Ok(RunRow {
            key: new.key.clone(),
            status,
            inputs: new.inputs.clone(),
            runner: self.lease.map(|lease| lease.runner),
            parent: parent.map(|parent| parent.run),
            depth: parent.map_or(0, |parent| parent.depth),
            options: new.options.as_deref().cloned().unwrap_or_default(),
            ..RunRow::new(new.id, workflow, version, new.created_at)
        })
    }
}
