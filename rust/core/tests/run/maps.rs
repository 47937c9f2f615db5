//! Random graphs with mapped tasks, executed in random order with random deaths, against a plain telling of what each
//! task and element has to come to.

use std::collections::HashSet;
use std::sync::Arc;

use bide_core::event::Retry;
use bide_core::graph::{MapSpec, Over, Tolerated};
use bide_core::run::different_lengths;
use bide_core::{
    Effect, Event, Graph, Outcome, RetryPolicy, RunIf, RunState, RunStatus, TaskId, TaskIx, TaskRef, TaskSpec,
    TaskStatus, Time, Value,
};
use proptest::prelude::*;

use crate::harness::failure;
use crate::script::{RETRY, Script, spec};
use crate::store::{Store, id_of};

/// How the body of a task or element ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum End {
    Returns,
    Raises,
    Skips,
    /// Raises at the first attempt.
    Retries,
}

/// A task of a random graph. Whatever it returns counts as a list of `length` items.
#[derive(Clone, Debug)]
struct Plan {
    /// Earlier tasks, each with whether it is mapped over, and whether it is gathered if it is mapped itself.
    on: Vec<(usize, bool, bool)>,
    run_if: RunIf,
    length: u32,
    tolerate: Tolerated,
    /// Of the task, or of its elements in turn.
    ends: Vec<End>,
}

impl Plan {
    fn is_mapped(&self) -> bool {
        self.on.iter().any(|(_, over, _)| *over)
    }

    fn end(&self, map: i32) -> End {
        self.ends[map.max(0) as usize % self.ends.len()]
    }
}

fn plans() -> impl Strategy<Value = Vec<Plan>> {
    let end =
        prop_oneof![6 => Just(End::Returns), 1 => Just(End::Raises), 1 => Just(End::Skips), 1 => Just(End::Retries)];
    let run_if = prop_oneof![
        6 => Just(RunIf::Succeeded),
        1 => Just(RunIf::NoneFailed),
        1 => Just(RunIf::Failed),
        1 => Just(RunIf::Done),
    ];
    // Mostly equally long, so that lists can be mapped over together.
    let length = prop_oneof![4 => Just(3_u32), 1 => 0_u32..3];
    let tolerate =
        prop_oneof![2 => Just(Tolerated::NONE), 1 => Just(Tolerated::Count(1)), 1 => Just(Tolerated::Share(0.7))];
    let on = proptest::collection::vec((any::<proptest::sample::Index>(), any::<bool>(), any::<bool>()), 0..3);
    let plan = (on, run_if, length, tolerate, proptest::collection::vec(end, 1..4));
    proptest::collection::vec(plan, 1..9).prop_map(|plans| {
        plans
            .into_iter()
            .enumerate()
            .map(|(ix, (on, run_if, length, tolerate, ends))| {
                let mut seen = HashSet::new();
                let on = on.into_iter().filter(|_| ix > 0).map(|(on, over, gathers)| (on.index(ix), over, gathers));
                let on = on.filter(|(on, ..)| seen.insert(*on)).collect();
                Plan { on, run_if, length, tolerate, ends }
            })
            .collect()
    })
}

fn name(ix: usize) -> Arc<str> {
    format!("t{ix}").into()
}

fn graph(plans: &[Plan], fail_fast: bool) -> Arc<Graph> {
    let specs = plans.iter().enumerate().map(|(ix, plan)| {
        let over: Vec<Over> = plan.on.iter().filter(|on| on.1).map(|on| Over::Task(name(on.0))).collect();
        let gathers = plan.on.iter().filter(|on| !on.1 && on.2 && plans[on.0].is_mapped()).map(|on| name(on.0));
        TaskSpec {
            dependencies: plan.on.iter().map(|on| name(on.0)).collect(),
            run_if: plan.run_if,
            retry: RetryPolicy { attempts: 2, ..RetryPolicy::NONE },
            map: plan.is_mapped().then(|| Box::new(MapSpec { over, tolerate: plan.tolerate })),
            gathers: gathers.collect(),
            ..TaskSpec::new(name(ix))
        }
    });
    Arc::new(Graph::build("workflow", specs.collect(), fail_fast).unwrap())
}

// --- what has to come out -------------------------------------------------------------------------------------------

/// A task in the end.
#[derive(Clone, Debug)]
struct Expected {
    status: TaskStatus,
    failed: bool,
    /// The elements with whether they count as failed; none if it has not been expanded.
    elements: Option<Vec<(TaskStatus, bool)>>,
}

/// What `run_if` says about a task or element, from how what it depends on has ended: how it is skipped, if it is.
fn skipped(run_if: RunIf, on: &[(TaskStatus, bool)]) -> Option<(TaskStatus, bool)> {
    let failed = on.iter().any(|on| on.1);
    let unsuccessful = on.iter().any(|on| on.0 != TaskStatus::Completed);
    match run_if {
        RunIf::Succeeded => unsuccessful.then_some((TaskStatus::Skipped, failed)),
        RunIf::NoneFailed => failed.then_some((TaskStatus::Skipped, true)),
        RunIf::Failed => (!failed).then_some((TaskStatus::Skipped, false)),
        RunIf::Done => None,
    }
}

const fn ended(end: End) -> (TaskStatus, bool) {
    match end {
        End::Returns | End::Retries => (TaskStatus::Completed, false),
        End::Raises => (TaskStatus::Failed, true),
        End::Skips => (TaskStatus::Skipped, false),
    }
}

fn expect(plan: &Plan, before: &[Expected]) -> Expected {
    let follows = |on: &(usize, bool, bool)| on.1 && before[on.0].elements.is_some();
    let gathers = |on: &(usize, bool, bool)| !on.1 && on.2 && before[on.0].elements.is_some();
    let whole: Vec<_> = plan.on.iter().filter(|on| !follows(on) && !gathers(on)).collect();
    let states: Vec<_> = whole.iter().map(|on| (before[on.0].status, before[on.0].failed)).collect();
    let plain = |(status, failed): (TaskStatus, bool)| Expected { status, failed, elements: None };
    // Whether an element follows a failed one is decided for each.
    let undecided = plan.run_if == RunIf::Failed && plan.on.iter().any(follows);
    if let Some(skipped) = skipped(plan.run_if, &states).filter(|_| !undecided) {
        return plain(skipped);
    }
    if !plan.is_mapped() {
        return plain(ended(plan.end(-1)));
    }
    let lengths: Vec<Option<u32>> = plan.on.iter().filter(|on| on.1).map(|on| length_of(on.0, before)).collect();
    let Some(length) = lengths[0].filter(|length| lengths.iter().all(|other| *other == Some(*length))) else {
        return plain((TaskStatus::Failed, true));
    };
    let elements: Vec<(TaskStatus, bool)> = (0..length as i32)
        .map(|map| {
            let own = |on: &&(usize, bool, bool)| follows(on);
            let own = plan.on.iter().filter(own).map(|on| before[on.0].elements.as_ref().unwrap()[map as usize]);
            let on: Vec<_> = states.iter().copied().chain(own).collect();
            skipped(plan.run_if, &on).unwrap_or_else(|| ended(plan.end(map)))
        })
        .collect();
    let count = |status| elements.iter().filter(|element| element.0 == status).count() as u32;
    let lost = elements.contains(&(TaskStatus::Skipped, true));
    let lost = lost && plan.on.iter().any(|on| follows(on) && before[on.0].failed);
    let (status, failed) = if count(TaskStatus::Failed) > plan.tolerate.of(length) {
        (TaskStatus::Failed, true)
    } else if lost {
        (TaskStatus::Skipped, true)
    } else {
        (TaskStatus::Completed, false)
    };
    Expected { status, failed, elements: Some(elements) }
}

fn length_of(on: usize, before: &[Expected]) -> Option<u32> {
    match &before[on].elements {
        Some(elements) => Some(elements.len() as u32),
        None => LENGTHS.with_borrow(|lengths| lengths[on]).filter(|_| before[on].status == TaskStatus::Completed),
    }
}

thread_local! {
    /// How long the list of each task is, by position; none of a mapped task.
    static LENGTHS: std::cell::RefCell<Vec<Option<u32>>> = const { std::cell::RefCell::new(Vec::new()) };
}

// --- execution ------------------------------------------------------------------------------------------------------

struct World<'a> {
    plans: &'a [Plan],
    graph: Arc<Graph>,
    store: Store,
    state: RunState,
    now: Time,
    /// Bodies that may start, and those that execute.
    ready: Vec<TaskRef>,
    executing: Vec<(TaskRef, u32)>,
    timers: Vec<Event>,
}

impl World<'_> {
    fn apply(&mut self, event: Event) {
        self.now = self.now.after(std::time::Duration::from_millis(1));
        let (mut batch, mut effects) = (Vec::new(), Vec::new());
        self.state.apply(event, self.now, &mut batch, &mut effects).unwrap();
        self.store.commit(&batch);
        for effect in effects {
            match effect {
                Effect::Ready { task } => self.ready.push(task),
                Effect::Timer { event, .. } => self.timers.push(*event),
                Effect::Settled { .. }
                | Effect::Consumed { .. }
                | Effect::Cleared { .. }
                | Effect::Answered { .. }
                | Effect::Emitted
                | Effect::Happened(_)
                | Effect::Woken { .. } => {}
                Effect::Gate { .. } => unreachable!("there are no gates"),
                Effect::Grace { .. } | Effect::Interrupted { .. } | Effect::PollNow { .. } => {
                    unreachable!("nobody asks")
                }
            }
        }
    }

    fn die(&mut self) {
        (self.ready, self.executing, self.timers) = (Vec::new(), Vec::new(), Vec::new());
        self.state = self.store.recover(&self.graph);
        self.apply(Event::Begin);
    }

    /// Starts a body, which the machine says is ready.
    fn start(&mut self, which: usize) {
        let task = self.ready.swap_remove(which);
        for on in self.graph.follows(task.ix).to_vec() {
            let state =
                if task.map < 0 { None } else { Some(self.state.task_status(TaskRef { ix: on, map: task.map })) };
            assert!(state.is_none_or(TaskStatus::is_ended), "{task:?} starts before the element that it follows");
        }
        // It was skipped since, if it is not to be entered.
        let Some(entered) = self.state.enter(task, self.now) else { return };
        if entered.mark {
            self.apply(Event::Started { task, attempt: entered.attempt });
        }
        self.executing.push((task, entered.attempt));
    }

    fn end(&mut self, which: usize) {
        let (task, attempt) = self.executing.swap_remove(which);
        let plan = &self.plans[task.ix as usize];
        let fails = |retry: Option<Retry>| Outcome::Failed { failure: failure("it"), retry };
        let outcome = if self.graph.is_expansion(task) {
            self.count(task.ix)
        } else {
            match plan.end(task.map) {
                End::Retries if attempt == 1 => fails(RETRY),
                End::Returns | End::Retries => Outcome::Completed { output: Value::NONE, changes: None },
                End::Raises => fails(None),
                End::Skips => Outcome::Skipped { reason: "of itself".into() },
            }
        };
        self.apply(Event::Ended { task, attempt, outcome });
    }

    /// Counts the items of lists as a host does.
    fn count(&self, ix: TaskIx) -> Outcome {
        let over = self.plans[ix as usize].on.iter().filter(|on| on.1);
        let lengths = over.map(|on| {
            let task = TaskRef::plain(on.0 as TaskIx);
            if self.plans[on.0].is_mapped() {
                return self.state.length(task);
            }
            self.state.output(task).map(|_| self.plans[on.0].length)
        });
        let lengths: Vec<Option<u32>> = lengths.collect();
        match lengths[0].filter(|length| lengths.iter().all(|other| *other == Some(*length))) {
            Some(length) => Outcome::Expanded { length },
            None => Outcome::Failed { failure: different_lengths("t", ("a", 0), ("b", 1)), retry: None },
        }
    }
}

fn play<'a>(plans: &'a [Plan], fail_fast: bool, choices: &[u8]) -> World<'a> {
    let graph = graph(plans, fail_fast);
    let ids: Arc<[TaskId]> = (0..graph.len() as TaskIx).map(id_of).collect();
    let store = Store::new(&graph);
    let state = RunState::new(store.run.id, Arc::clone(&graph), ids);
    let (ready, executing, timers) = (Vec::new(), Vec::new(), Vec::new());
    let mut world = World { plans, graph, store, state, now: Time(1_000_000), ready, executing, timers };
    world.apply(Event::Begin);
    let (mut choices, mut deaths) = (choices.iter().copied().cycle(), 0);
    while world.state.status() == RunStatus::Running {
        let (choice, which) = (choices.next().unwrap(), usize::from(choices.next().unwrap()));
        match choice % 8 {
            0 if deaths < 4 => {
                deaths += 1;
                world.die();
            }
            1..=3 if !world.executing.is_empty() => world.end(which % world.executing.len()),
            _ if !world.ready.is_empty() => world.start(which % world.ready.len()),
            _ if !world.timers.is_empty() => {
                let event = world.timers.swap_remove(which % world.timers.len());
                world.apply(event);
            }
            _ if !world.executing.is_empty() => world.end(which % world.executing.len()),
            _ => panic!("nothing goes on: {:?}", world.state),
        }
    }
    world
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 10_000, ..ProptestConfig::default() })]

    #[test]
    fn mapped_tasks_come_to_the_same_in_any_order_and_through_any_death(
        plans in plans(), choices in proptest::collection::vec(any::<u8>(), 64..128)
    ) {
        LENGTHS.set(plans.iter().map(|plan| (!plan.is_mapped()).then_some(plan.length)).collect());
        let mut expected: Vec<Expected> = Vec::new();
        for plan in &plans {
            expected.push(expect(plan, &expected));
        }
        let world = play(&plans, false, &choices);
        for (ix, expected) in (0..).zip(&expected) {
            let row = &world.store.rows[&(id_of(ix), -1)];
            prop_assert_eq!(row.status, expected.status, "task {}", ix);
            prop_assert_eq!(row.length, expected.elements.as_ref().map(|elements| elements.len() as u32));
            for (map, element) in (0..).zip(expected.elements.iter().flatten()) {
                let row = &world.store.rows[&(id_of(ix), map)];
                prop_assert_eq!(row.status, element.0, "element {} of task {}", map, ix);
            }
        }
        let fails = expected.iter().any(|task| task.status == TaskStatus::Failed);
        prop_assert_eq!(world.state.status(), if fails { RunStatus::Failed } else { RunStatus::Completed });
        prop_assert_eq!(world.state.failure().is_some(), fails);
    }

    #[test]
    fn a_run_that_fails_fast_ends_with_every_element_ended(
        plans in plans(), choices in proptest::collection::vec(any::<u8>(), 64..128)
    ) {
        LENGTHS.set(plans.iter().map(|plan| (!plan.is_mapped()).then_some(plan.length)).collect());
        let world = play(&plans, true, &choices);
        prop_assert!(world.store.rows.values().all(|row| row.status.is_ended()));
        prop_assert!(world.state.status().is_ended());
    }
}

// --- single rules ---------------------------------------------------------------------------------------------------

fn mapped(name: &str, over: &[&str], tolerate: Tolerated) -> TaskSpec {
    let map = MapSpec { over: over.iter().map(|&name| Over::Task(name.into())).collect(), tolerate };
    TaskSpec { map: Some(Box::new(map)), ..spec(name, over) }
}

#[test]
fn an_element_is_ready_when_the_one_that_it_follows_has_completed() {
    let mut script = Script::new(vec![
        spec("list", &[]),
        mapped("a", &["list"], Tolerated::NONE),
        mapped("b", &["a"], Tolerated::NONE),
    ]);
    script.complete("list");
    script.enter("a");
    script.end("a", Outcome::Expanded { length: 3 }).unwrap();
    assert_eq!(script.row("b").length, Some(3), "known without being executed");
    script.ready();
    script.complete("a[1]");
    assert_eq!(script.ready(), ["b[1]"]);
    script.complete("b[1]");
    assert_eq!(script.row("b[1]").status, TaskStatus::Completed);
    assert_eq!(script.row("b").status, TaskStatus::Running);
}

#[test]
fn a_late_event_of_the_mapped_task_itself_is_refused() {
    let mut script = Script::new(vec![spec("list", &[]), mapped("a", &["list"], Tolerated::NONE)]);
    script.complete("list");
    script.enter("a");
    script.end("a", Outcome::Expanded { length: 2 }).unwrap();
    assert!(script.end("a", Outcome::Expanded { length: 5 }).is_err());
    assert!(script.end("a[2]", Outcome::Suspended).is_err(), "there is no third element");
    script.die();
    assert_eq!(script.ready(), ["a[0]", "a[1]"], "not the mapped task itself");
    assert_eq!(script.row("a").length, Some(2));
}

#[test]
fn a_share_is_rounded_down_to_whole_elements() {
    assert_eq!([0.0, 0.1, 0.3, 0.99, 1.0].map(|share| Tolerated::Share(share).of(10)), [0, 1, 3, 9, 10]);
    assert_eq!(Tolerated::Share(0.5).of(0), 0);
}

#[test]
fn a_graph_refuses_what_cannot_be_mapped() {
    let refused = |specs| Graph::build("w", specs, false).unwrap_err().0;
    let nothing =
        TaskSpec { map: Some(Box::new(MapSpec { over: vec![], tolerate: Tolerated::NONE })), ..spec("a", &[]) };
    assert_eq!(refused(vec![nothing]), "workflow 'w', task 'a' is mapped over nothing");
    let share = mapped("a", &["list"], Tolerated::Share(1.5));
    let said = refused(vec![spec("list", &[]), share]);
    assert_eq!(said, "workflow 'w', task 'a': tolerate is a share from 0.0 to 1.0, not 1.5");
    let named = vec![spec("list", &[]), mapped("a", &["list"], Tolerated::NONE), spec("a[0]", &[])];
    assert!(refused(named).contains("has the name of an element of a mapped task"));
}
