//! What the pool's sources name around them: an engine, runs and gates with nothing to say.

/// Stands for `commit.rs`.
pub(crate) mod commit {
    use std::marker::PhantomData;
    use std::sync::Arc;

    pub(crate) struct Group<H>(PhantomData<H>);

    impl<H> Group<H> {
        pub(crate) fn new() -> Arc<Self> {
            Arc::new(Self(PhantomData))
        }
    }
}

/// Stands for `engine.rs`.
pub(crate) mod engine {
    use std::marker::PhantomData;
    use std::sync::Arc;
    use std::time::Duration;

    use bide_core::{Event, Time};

    use super::commit::Group;
    use super::flow::Run;
    use super::timers::Timers;

    pub struct Engine<H> {
        pub(crate) clock: Clock,
        pub(crate) committer: Committer,
        pub(crate) timers: Arc<Timers>,
        host: PhantomData<H>,
    }

    pub(crate) struct Clock;

    pub(crate) struct Committer;

    pub(crate) enum Level {
        Warning,
    }

    impl Clock {
        pub(crate) fn now(&self) -> Time {
            Time(0)
        }

        /// Stands still: nothing is slow here.
        pub(crate) fn steady(&self) -> Duration {
            Duration::ZERO
        }
    }

    impl Committer {
        pub(crate) fn look_after<H>(&self, _group: Arc<Group<H>>) {}
    }

    impl<H> Engine<H> {
        pub(crate) fn new() -> Arc<Self> {
            Arc::new(Self { clock: Clock, committer: Committer, timers: Arc::default(), host: PhantomData })
        }

        pub(crate) fn log(&self, _level: Level, message: &str) {
            unreachable!("the pool warns of nothing here: {message}")
        }

        pub(crate) fn leave(&self, _run: Arc<Run<H>>, _event: Event) {}
    }
}

/// Stands for `flow.rs`.
pub(crate) mod flow {
    use std::marker::PhantomData;

    pub struct Run<H> {
        pub(crate) id: u32,
        pub(crate) flow: Flow,
        host: PhantomData<H>,
    }

    #[derive(Default)]
    pub(crate) struct Flow {
        pub(crate) graph: Graph,
    }

    #[derive(Default)]
    pub(crate) struct Graph;

    impl Graph {
        pub(crate) fn name(&self, _task: u32) -> &'static str {
            "task"
        }
    }

    impl<H> Default for Run<H> {
        fn default() -> Self {
            Self { id: 0, flow: Flow::default(), host: PhantomData }
        }
    }

    impl<H> Run<H> {
        pub(crate) fn note(&self, _task: u32, _note: Option<String>) {}
    }
}

/// Stands for `gates.rs`.
pub(crate) mod gates {
    use std::marker::PhantomData;
    use std::sync::Arc;

    use super::engine::Engine;
    use super::host::{Gate, Host};

    pub(crate) struct Gates<H>(PhantomData<H>);

    impl<H: Host> Gates<H> {
        pub(crate) fn new(_width: usize) -> Self {
            Self(PhantomData)
        }

        pub(crate) fn watch(&self, _engine: &Arc<Engine<H>>, _gate: Gate<H>) {}

        pub(crate) fn close(&self) {}

        pub(crate) fn look(&self, _engine: &Arc<Engine<H>>) {}
    }
}

/// Stands for `host.rs`.
pub(crate) mod host {
    use std::marker::PhantomData;
    use std::sync::Arc;

    use bide_core::TaskRef;

    use super::engine::Engine;
    use super::flow::Run;

    pub trait Host: Send + Sync + Sized + 'static {}

    pub trait Dispatch<H: Host>: Send + Sync + 'static {
        fn ready(&self, engine: &Arc<Engine<H>>, ready: &mut Vec<Ready<H>>);
        fn coming(&self);
        fn came(&self);
        fn gate(&self, engine: &Arc<Engine<H>>, gate: Gate<H>);
        fn close(&self, engine: &Arc<Engine<H>>);
        fn lost(&self, engine: &Arc<Engine<H>>);
        fn look(&self, engine: &Arc<Engine<H>>);
    }

    pub struct Ready<H: Host> {
        pub run: Arc<Run<H>>,
        pub task: TaskRef,
    }

    pub struct Gate<H>(PhantomData<H>);
}

/// Stands for `timers.rs`: whatever is asked for is due at once.
pub(crate) mod timers {
    use std::collections::VecDeque;
    use std::sync::Arc;
    use std::time::Duration;

    use crate::sync::{Condvar, Mutex};

    pub(crate) trait Alarm: Send + Sync {
        fn ring(self: Arc<Self>, ticket: u64);
    }

    pub(crate) fn be_punctual() {}

    #[derive(Default)]
    pub(crate) struct Timers {
        state: Mutex<State>,
        changed: Condvar,
    }

    #[derive(Default)]
    struct State {
        alarms: VecDeque<(Arc<dyn Alarm>, u64)>,
        stop: bool,
    }

    impl Timers {
        pub(crate) fn after(&self, _span: Duration, alarm: Arc<dyn Alarm>, ticket: u64) {
            self.state.lock().alarms.push_back((alarm, ticket));
            self.changed.notify_one();
        }

        /// The thread's loop.
        pub(crate) fn run(&self) {
            let mut state = self.state.lock();
            while !state.stop {
                if let Some((alarm, ticket)) = state.alarms.pop_front() {
                    drop(state);
                    alarm.ring(ticket);
                    // An alarm that asks for another is no reason not to let others go on.
                    loom::thread::yield_now();
                    state = self.state.lock();
                } else {
                    self.changed.wait(&mut state);
                }
            }
        }

        pub(crate) fn stop(&self) {
            self.state.lock().stop = true;
            self.changed.notify_one();
        }
    }
}

/// Stands for `spin.rs`: whoever is woken early finds nothing.
pub(crate) mod spin {
    pub(crate) fn pays() -> bool {
        true
    }

    pub(crate) fn until(_so: impl Fn() -> bool) {}
}
