//! How a process ends: by a regular close, or with nothing more to do; and what is seen of it from outside.

use std::collections::BTreeSet;
use std::sync::Arc;

use bide_core::record::RunRowId;
use bide_executor::{Run, Settlement};

use super::super::host::SimHost;
use super::{BodyNo, Holder, Process};

impl Process {
    /// The process is idle: no slot may be missing, and no run that has ended may be kept in memory.
    pub(in super::super) fn must_be_idle(&self, all_over: bool) {
        let kept = self.driver.engine().live_count();
        if all_over && kept > 0 {
            self.shared.oracle.lock().violations.push(format!("{kept} runs that are over are kept in memory"));
        }
        let free = self.slots.free();
        let total = self.slots.total() as usize;
        if free != total || self.slots.resumed() > 0 {
            self.shared.oracle.lock().violations.push(format!("a slot leaks: {free} of {total} are free when idle"));
        }
    }

    /// Begins to close: parked bodies are suspended, executing ones continue until they wait.
    pub(in super::super) fn begin_close(&mut self) {
        if std::mem::replace(&mut self.closing, true) {
            return;
        }
        self.driver.engine().begin_close();
        let holds =
            |no: &BodyNo| self.holders.values().any(|holder| matches!(holder, Holder::Body(held) if held == no));
        let parked: Vec<BodyNo> = self.bodies.keys().filter(|no| !holds(no)).copied().collect();
        for no in parked {
            self.slots.withdraw(|other| *other == no);
            self.unwind_parked(no);
        }
    }

    /// Ends the process. True if it closed in good order.
    pub(in super::super) fn finish_close(mut self) -> bool {
        self.begin_close();
        let lease = self.driver.lease();
        let mut has: Vec<Arc<Run<SimHost>>> = self.returned.iter().map(|(run, ..)| Arc::clone(run)).collect();
        has.extend(self.bodies.values().map(|body| Arc::clone(&body.run)));
        has.retain(|run| run.lease == lease && self.still_has(run));
        let has: BTreeSet<RunRowId> = has.iter().map(|run| run.id.row()).collect();
        self.returned.retain(|(run, ..)| run.lease == lease);
        self.driver.engine().finish_close();
        self.look_at_handles();
        let in_order = matches!(self.driver.engine().stopped(), Some(Settlement::Closed));
        if in_order {
            let returned =
                self.returned.iter().map(|(run, task, attempt)| (run.id.row(), self.place(run, *task), *attempt));
            let mut oracle = self.shared.oracle.lock();
            oracle.what_has_returned_is_committed_at_the_end(returned.filter(|(run, ..)| has.contains(run)));
            oracle.a_close_leaves_no_suspect(lease.runner, &has);
        }
        in_order
    }

    /// Callers check what was reported to them.
    pub(in super::super) fn look_at_handles(&self) {
        for handle in &self.handles {
            if let Some(Settlement::Run(status)) = handle.settled().get() {
                self.shared.oracle.lock().a_result_is_reported_only_when_committed(handle.id().row(), status);
            }
        }
    }

    /// What it holds, for the report of a failure.
    pub(in super::super) fn describe(&self) -> String {
        format!(
            "{} slots of {} free, {} resumed wait, {} bodies, {} gates, {} runs in memory",
            self.slots.free(),
            self.slots.total(),
            self.slots.resumed(),
            self.bodies.len(),
            self.gates.len(),
            self.driver.engine().live_count()
        )
    }
}
