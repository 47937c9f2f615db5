//! Cases as text: what a failing seed is reported with.

use std::fmt;

use bide_core::RunIf;

use super::{Act, Case, Disaster, Mapped, TaskPlan, Version};

impl fmt::Display for TaskPlan {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "t{}", self.number)?;
        if !self.on.is_empty() {
            let on: Vec<String> = self.on.iter().map(|on| format!("t{on}")).collect();
            write!(f, " after {}", on.join(", "))?;
        }
        if self.run_if != RunIf::Succeeded {
            write!(f, ", run_if {:?}", self.run_if)?;
        }
        if let Some(gate) = self.gate {
            write!(f, ", gate {gate:?}")?;
        }
        if let Some(Mapped { items, follows, tolerate }) = self.map {
            let over = if follows { "the mapped tasks before it" } else { "an input" };
            write!(f, ", mapped over {over} with {items:?} items, {tolerate} may fail")?;
        }
        if self.gathers {
            write!(f, ", gathers")?;
        }
        if let Some(limit) = self.limit {
            write!(f, ", limit {limit}")?;
        }
        write!(f, ": {:?}", self.acts)?;
        let ends = if self.retry.attempts == 1 { &self.ends[..1] } else { &self.ends[..] };
        write!(f, " then {ends:?}")?;
        if self.retry.attempts > 1 {
            let fresh = if self.retry.fresh { ", with a fresh journal" } else { "" };
            write!(f, ", {} attempts {:?} apart{fresh}", self.retry.attempts, self.retry.delay)?;
        }
        if let Some((ms, retried)) = self.timeout {
            write!(f, ", timeout {ms} ms{}", if retried { " (retried)" } else { "" })?;
        }
        Ok(())
    }
}

impl fmt::Display for Case {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "seed {}: {} slots, each run asked for {:?} times", self.seed, self.slots, self.calls)?;
        if self.fail_fast {
            write!(f, ", fail_fast")?;
        }
        if let Some(ahead) = &self.server {
            write!(f, ", on a server, with clocks {ahead:?} ms ahead")?;
        }
        if self.drift != 0 {
            write!(f, ", the wall is {} ppm fast", self.drift)?;
        }
        writeln!(f)?;
        for task in &self.tasks {
            writeln!(f, "  {task}")?;
        }
        if self.has(|disaster| matches!(disaster, Disaster::Deploy(Version::Grown | Version::Shrunk))) {
            writeln!(f, "  {} (only in the grown version)", self.added)?;
        }
        let all = self.tasks.iter().chain([&self.added]);
        if all.flat_map(|task| &task.acts).any(|act| matches!(act, Act::Starts(_))) {
            for task in &self.child {
                writeln!(f, "  {task} (in child runs)")?;
            }
        }
        if let Some(limit) = self.limit {
            writeln!(f, "  a run ends within {limit} ms")?;
        }
        if self.starts.iter().any(Option::is_some) {
            writeln!(f, "  runs begin after {:?}", self.starts)?;
        }
        if self.watched.iter().any(Option::is_some) {
            writeln!(f, "  a watch finds the items of runs after {:?}", self.watched)?;
        }
        if !self.retries.is_empty() {
            writeln!(f, "  retries {:?}", self.retries)?;
        }
        if self.deletes {
            writeln!(f, "  runs are deleted in the end")?;
        }
        for letter in &self.letters {
            writeln!(f, "  {letter:?}")?;
        }
        for (at, disaster) in &self.disasters {
            writeln!(f, "  at move {at}: {disaster:?}")?;
        }
        Ok(())
    }
}
