//! Smaller cases: each is simpler by one thing. What still fails after that is tried again.

use std::time::Duration;

use bide_core::{RetryPolicy, RunIf};

use super::{Act, Case, Disaster, End, Gate, Mapped, TaskPlan, Version};

/// All spans of smaller cases are this or nothing.
const SHORT: u64 = 1_000;

impl Case {
    /// Cases that are smaller by one thing, the most promising first.
    #[must_use]
    pub fn smaller(&self) -> Vec<Self> {
        let mut found = Vec::new();
        let mut with = |change: &dyn Fn(&mut Self)| {
            let mut case = self.clone();
            change(&mut case);
            found.push(case);
        };
        for at in 0..self.disasters.len() {
            with(&|case| _ = case.disasters.remove(at));
        }
        for at in 0..self.letters.len() {
            with(&|case| _ = case.letters.remove(at));
        }
        if self.calls.len() > 1 {
            with(&|case| {
                case.calls.remove(0);
                case.starts.drain(..1.min(case.starts.len()));
                case.watched.drain(..1.min(case.watched.len()));
                case.retries.retain(|(run, _)| *run > 0);
                case.retries.iter_mut().for_each(|(run, _)| *run -= 1);
                case.letters.retain(|letter| letter.run > 0);
                case.letters.iter_mut().for_each(|letter| letter.run -= 1);
                case.disasters.retain(|(_, disaster)| disaster.run() != Some(0));
                case.disasters.iter_mut().filter_map(|(_, disaster)| disaster.run_mut()).for_each(|run| *run -= 1);
            });
        }
        for at in (0..self.tasks.len()).rev().filter(|_| self.tasks.len() > 1) {
            with(&|case| {
                let gone = case.tasks.remove(at).number;
                let others = case.tasks.iter_mut().chain([&mut case.added]);
                others.for_each(|task| task.on.retain(|on| *on != gone));
            });
        }
        if self.calls.iter().any(|calls| *calls > 1) {
            with(&|case| case.calls.fill(1));
        }
        for at in 0..self.retries.len() {
            with(&|case| _ = case.retries.remove(at));
        }
        if self.watched.iter().any(Option::is_some) {
            with(&|case| {
                case.watched.clear();
                case.calls.iter_mut().for_each(|calls| *calls = (*calls).max(1));
            });
        }
        if self.starts.iter().any(Option::is_some) {
            with(&|case| case.starts.clear());
        }
        if self.limit.is_some() {
            with(&|case| case.limit = None);
        }
        if self.deletes {
            with(&|case| case.deletes = false);
        }
        if self.fail_fast {
            with(&|case| case.fail_fast = false);
        }
        if self.server.is_some() {
            with(&|case| case.server = None);
        }
        if self.server.iter().flatten().any(|ahead| *ahead != 0) {
            with(&|case| case.server.iter_mut().flatten().for_each(|ahead| *ahead = 0));
        }
        if self.drift != 0 {
            with(&|case| case.drift = 0);
        }
        if self.slots > 1 {
            with(&|case| case.slots = 1);
        }
        for at in 0..self.tasks.len() {
            for task in self.tasks[at].smaller() {
                with(&|case| case.tasks[at] = task.clone());
            }
        }
        for at in 0..self.child.len() {
            for task in self.child[at].smaller() {
                with(&|case| case.child[at] = task.clone());
            }
        }
        if !self.added.on.is_empty() {
            with(&|case| case.added.on.clear());
        }
        // The remaining disasters were timed for a longer case: move all of them or one to an earlier time.
        for (numerator, denominator) in [(1, 4), (1, 2), (3, 4)] {
            let earlier = |at: u32| at * numerator / denominator;
            if self.disasters.iter().any(|(at, _)| earlier(*at) < *at) {
                with(&|case| case.disasters.iter_mut().for_each(|(at, _)| *at = earlier(*at)));
            }
        }
        for (at, (_, disaster)) in self.disasters.iter().enumerate() {
            for simpler in disaster.simpler() {
                with(&|case| case.disasters[at].1 = simpler);
            }
        }
        found
    }
}

impl TaskPlan {
    fn smaller(&self) -> Vec<Self> {
        let mut found = Vec::new();
        let mut with = |change: &dyn Fn(&mut Self)| {
            let mut task = self.clone();
            change(&mut task);
            found.push(task);
        };
        for act in 0..self.acts.len() {
            // A timeout that is reached needs what it interrupts.
            if self.timeout.is_none() || !matches!(self.acts[act], Act::Works(_) | Act::Step(true)) {
                with(&|task| _ = task.acts.remove(act));
            }
        }
        if self.gate.is_some() {
            with(&|task| task.gate = None);
        }
        if self.map.is_some() {
            with(&|task| task.map = None);
        }
        for simpler in self.map.into_iter().flat_map(Mapped::smaller) {
            with(&|task| task.map = Some(simpler));
        }
        if self.limit.is_some() {
            with(&|task| task.limit = None);
        }
        if self.gathers {
            with(&|task| task.gathers = false);
        }
        if self.timeout.is_some() {
            with(&|task| task.timeout = None);
        }
        if self.retry.attempts > 1 {
            with(&|task| task.retry = RetryPolicy::NONE);
            if self.retry.delay > Duration::ZERO {
                with(&|task| task.retry.delay = Duration::ZERO);
            }
            if self.retry.fresh {
                with(&|task| task.retry.fresh = false);
            }
        }
        if !matches!(self.ends[..], [End::Return]) {
            with(&|task| task.ends = vec![End::Return]);
        }
        if self.ends.len() > 1 {
            with(&|task| _ = task.ends.pop());
        }
        if self.run_if != RunIf::Succeeded {
            with(&|task| task.run_if = RunIf::Succeeded);
        }
        for on in 0..self.on.len() {
            with(&|task| _ = task.on.remove(on));
        }
        for (at, act) in self.acts.iter().enumerate() {
            if let Some(simpler) = act.simpler() {
                with(&|task| task.acts[at] = simpler);
            }
        }
        match self.gate {
            Some(Gate::Until(ms)) if ms > SHORT => with(&|task| task.gate = Some(Gate::Until(SHORT))),
            Some(Gate::After(ms)) if ms > SHORT => with(&|task| task.gate = Some(Gate::After(SHORT))),
            _ => {}
        }
        found
    }
}

impl Act {
    fn simpler(self) -> Option<Self> {
        match self {
            Self::Until(ms, true) => Some(Self::Until(ms, false)),
            Self::Until(ms, false) if ms > SHORT => Some(Self::Until(SHORT, false)),
            Self::Unprovable(ms) => Some(Self::Until(ms, false)),
            Self::RaisesUntil(ms) if ms > SHORT => Some(Self::RaisesUntil(SHORT)),
            Self::TimesOut(ms) if ms > SHORT => Some(Self::TimesOut(SHORT)),
            Self::Sleep(ms) if ms > SHORT => Some(Self::Sleep(SHORT)),
            Self::Shuffled(items) if items > 1 => Some(Self::Shuffled(items - 1)),
            Self::Keyed(items) if items > 1 => Some(Self::Keyed(items - 1)),
            Self::Flaky(fails) if fails > 1 => Some(Self::Flaky(fails - 1)),
            Self::Step(false) => Some(Self::Step(true)),
            Self::Signal(signal, Some(_)) => Some(Self::Signal(signal, None)),
            Self::Several(several, Some(_)) => Some(Self::Several(several, None)),
            Self::Answer(Some(_)) => Some(Self::Answer(None)),
            Self::Joins(Some(_)) => Some(Self::Joins(None)),
            Self::Takes(Some(_)) => Some(Self::Takes(None)),
            Self::Starts(Some(_)) => Some(Self::Starts(None)),
            _ => None,
        }
    }
}

impl Disaster {
    /// The run that it concerns, if it concerns one.
    fn run_mut(&mut self) -> Option<&mut usize> {
        match self {
            Self::Pause(run, _) | Self::Cancel(run) | Self::CancelByForce(run) | Self::Hand(run, ..) => Some(run),
            _ => None,
        }
    }

    fn run(mut self) -> Option<usize> {
        self.run_mut().copied()
    }

    fn simpler(self) -> Vec<Self> {
        match self {
            Self::Birth(_, fault) => vec![Self::Crash, Self::Fault(fault)],
            Self::Close | Self::Freeze(_) => vec![Self::Crash],
            Self::Pause(run, moves) if moves > 1 => vec![Self::Pause(run, moves / 2)],
            Self::Deploy(Version::Grown | Version::Shrunk) => vec![Self::Deploy(Version::First), Self::Crash],
            Self::Deploy(Version::First) => vec![Self::Crash],
            _ => Vec::new(),
        }
    }
}
