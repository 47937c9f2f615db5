//! Which runs a runner has given back, so that its own claims pass them over: it cannot execute them, and would only
//! take them and give them back for ever.

use std::collections::{HashMap, HashSet};

use bide_core::record::RunRowId;

/// Runs given back, by runner. Forgotten when something is registered, since that may change what can be executed.
#[derive(Default)]
pub(crate) struct Refused(HashMap<i64, HashSet<RunRowId>>);

impl Refused {
    pub(crate) fn add(&mut self, runner: i64, run: RunRowId) {
        self.0.entry(runner).or_default().insert(run);
    }

    /// What this runner has given back.
    pub(crate) fn by(&self, runner: i64) -> Option<&HashSet<RunRowId>> {
        self.0.get(&runner)
    }

    pub(crate) fn forget_runner(&mut self, runner: i64) {
        self.0.remove(&runner);
    }

    pub(crate) fn forget_all(&mut self) {
        self.0.clear();
    }
}
