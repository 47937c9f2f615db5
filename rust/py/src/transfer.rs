//! Moving the unfinished runs of one store to another: for the command line.

use std::ffi::OsString;

use bide_executor::SystemClock;
use bide_store::{Refusal, transfer};
use pyo3::prelude::*;

use crate::{channel, errors, gil, location, panics};

/// Of each family that was looked at: the id of its top, how many runs it has, and why it stays, if it does.
type Report = Vec<(String, usize, Option<String>)>;

/// Moves all unfinished runs of a store, with those that they belong to, to another one.
#[pyfunction]
#[pyo3(name = "_transfer")]
pub(crate) fn move_runs(py: Python<'_>, source: OsString, target: OsString) -> PyResult<Report> {
    panics::method(|| {
        errors::names(py)?;
        channel::prepare(py)?;
        let moved = gil::detached(py, || {
            let from = location::open_existing(&source)?;
            let to = location::open(&target, "full")?;
            let mut reports = Vec::new();
            let report = &mut |done: bide_store::Transfer| {
                reports.push((done.root.to_string(), done.runs, done.refused.as_ref().map(why)));
            };
            transfer(&*from, &*to, &SystemClock::shared(), report).map(|()| reports)
        });
        moved.map_err(|error| errors::store(py, &error))
    })
}

fn why(refusal: &Refusal) -> String {
    match refusal {
        Refusal::KeyTaken { key, by } => {
            format!("its key '{key}' belongs to run {by} there; delete that one, or end the one that was to be moved")
        }
        Refusal::NumberTaken => "another run there has its number; fork it".to_owned(),
        Refusal::IsThere => {
            "it is there already, and was not being moved: one of the two is a copy; cancel one".to_owned()
        }
    }
}
