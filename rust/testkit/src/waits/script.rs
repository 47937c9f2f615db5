//! What a body or a gate of a case does, as data: a driver's host translates it into its own calls.

use std::sync::Arc;
use std::time::Duration;

use bide_core::attempt::{Polled, Request, StepOptions};
use bide_core::poll::PollPolicy;
use bide_core::{
    Address, CallbackToken, Failure, FailureKind, RecordKind, RetryPolicy, RunId, StepArguments, Time, Tolerance, Value,
};

use crate::fault::Fault;

/// One process of a case.
#[derive(Clone, Debug, Default)]
pub struct Life {
    /// The calls of the body, one after the other; of a gate's case one condition, which is the gate's.
    pub calls: Vec<Call>,
    /// The task's timeout.
    pub limit: Option<Duration>,
    /// How much time passes during each commit of a wait or step.
    pub commit_takes: Duration,
}

/// A call of the handle, or the condition of a gate.
#[derive(Clone, Debug)]
pub struct Call {
    /// Its name in the journal.
    pub name: &'static str,
    /// What is called.
    pub what: Operation,
    /// What its condition answers, one answer a poll; the last one is repeated. A step executes the first, and one more
    /// with each try.
    pub answers: Vec<Answer>,
}

/// What a body calls.
#[derive(Clone, Debug)]
pub enum Operation {
    /// A wait for a condition.
    Condition {
        /// What proves it to be the same wait.
        proof: Option<&'static str>,
        /// Whether that is still the same at the end of the wait.
        changes: bool,
        /// How it is polled.
        poll: PollPolicy,
        /// How long it may stay open.
        timeout: Option<Duration>,
    },
    /// A sleep until this span after the case began.
    Until(Duration),
    /// A sleep.
    After(Duration),
    /// A step with these arguments.
    Step(&'static str),
    /// A step that is executed at most once, or is tried again after it has failed.
    StepWith {
        /// At most once.
        once: bool,
        /// When it is tried again.
        retry: Option<RetryPolicy>,
    },
    /// A wait for a signal of its name, which nobody sends.
    Signal {
        /// How long it may stay open.
        timeout: Option<Duration>,
    },
    /// A callback that is made.
    Callback,
    /// A checkpoint.
    Checkpoint,
    /// The recorded time.
    Now,
}

/// One answer of a condition, or what a step comes to.
#[derive(Clone, Copy, Debug)]
pub struct Answer {
    /// The answer.
    pub says: Says,
    /// How much time passes before it.
    pub takes: Duration,
    /// What else happens meanwhile.
    pub meanwhile: Option<Meanwhile>,
}

/// What a condition or a step comes to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Says {
    /// It holds; a step returns.
    Yes,
    /// It does not hold yet.
    No,
    /// It raises.
    Raises,
    /// It holds, with a value that cannot be stored.
    Unstorable,
}

/// What happens while a condition is asked or a step is executed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Meanwhile {
    /// The lease runs out, and another runner claims the run.
    RunIsLost,
    /// The same, and this runner notices.
    LossIsNoticed,
    /// The next call of the store fails in this way.
    StoreFails(Fault),
    /// The next call of the store succeeds, and the one after it fails in this way.
    StoreFailsLater(Fault),
    /// The runner begins to close.
    RunnerCloses,
    /// The timers have their turn: an attempt whose time is used up fails.
    TimersRing,
    /// The condition or step itself calls the handle, for a step.
    HandleIsCalled,
}

impl Answer {
    /// It takes this many milliseconds.
    #[must_use]
    pub const fn takes(self, ms: u64) -> Self {
        Self { takes: Duration::from_millis(ms), ..self }
    }

    /// This happens meanwhile.
    #[must_use]
    pub const fn while_(self, meanwhile: Meanwhile) -> Self {
        Self { meanwhile: Some(meanwhile), ..self }
    }
}

impl Says {
    /// As an answer that takes no time.
    #[must_use]
    pub const fn at_once(self) -> Answer {
        Answer { says: self, takes: Duration::ZERO, meanwhile: None }
    }

    /// What a condition's answer is for the attempt machine.
    #[must_use]
    pub fn polled(self) -> Polled {
        match self {
            Self::Yes => Polled::True(yes()),
            Self::No => Polled::False,
            Self::Raises => Polled::Raised(boom()),
            Self::Unstorable => {
                Polled::Broken(Failure::new(FailureKind::Serialization, "bide.SerializationError", "unstorable"))
            }
        }
    }

    /// What a step comes to.
    ///
    /// # Errors
    /// If it raises.
    pub fn executed(self) -> Result<Value, Failure> {
        if self == Self::Yes { Ok(yes()) } else { Err(boom()) }
    }
}

/// The value of all that succeeds.
#[must_use]
pub fn yes() -> Value {
    Value::tagged(b't', b"")
}

/// The failure of all that raises.
#[must_use]
pub fn boom() -> Failure {
    Failure::new(FailureKind::Raised, "Boom", BOOM)
}

/// The message of all that raises.
pub const BOOM: &str = "boom";

impl Call {
    /// The request for the attempt machine.
    #[must_use]
    pub fn request(&self) -> Request {
        let bytes = |text: &str| -> Arc<[u8]> { text.as_bytes().into() };
        match self.what {
            Operation::Condition { proof, poll, timeout, .. } => {
                Request::Condition { proof: proof.map(bytes), policy: poll, timeout }
            }
            Operation::Until(span) => Request::Until(at(span)),
            Operation::After(span) => Request::After(span),
            Operation::Step(args) => Request::step(Some(bytes(args))),
            Operation::StepWith { once, retry } => {
                let options = StepOptions { once, retry, ..StepOptions::PLAIN };
                Request::Step { arguments: StepArguments::default(), options }
            }
            Operation::Signal { timeout } => Request::Message { address: Address::signal(self.name), timeout },
            Operation::Callback => {
                let value = CallbackToken::new(RunId::new(0, 0, 0), 0).to_value();
                Request::Record { kind: RecordKind::Callback, value }
            }
            Operation::Checkpoint => Request::Checkpoint(yes()),
            Operation::Now => Request::step(Some([].into())),
        }
    }

    /// How its condition is polled, and for how long.
    #[must_use]
    pub fn poll(&self) -> (PollPolicy, Option<Duration>) {
        match self.what {
            Operation::Condition { poll, timeout, .. } => (poll, timeout),
            _ => (PollPolicy::every(Duration::from_secs(1)), None),
        }
    }

    /// Whether it is a step that is tried again after it has failed.
    #[must_use]
    pub fn is_retried(&self) -> bool {
        matches!(self.what, Operation::StepWith { retry: Some(_), .. })
    }

    /// What proved its condition still does.
    #[must_use]
    pub fn is_unchanged(&self) -> bool {
        !matches!(self.what, Operation::Condition { changes: true, .. })
    }

    /// With another timeout.
    #[must_use]
    pub fn timeout(mut self, ms: u64) -> Self {
        if let Operation::Condition { timeout, .. } | Operation::Signal { timeout } = &mut self.what {
            *timeout = Some(Duration::from_millis(ms));
        }
        self
    }

    /// With another proof, or none.
    #[must_use]
    pub fn proof(mut self, other: Option<&'static str>) -> Self {
        if let Operation::Condition { proof, .. } = &mut self.what {
            *proof = other;
        }
        self
    }

    /// A condition that changes what proves it while it is polled.
    #[must_use]
    pub fn changing(mut self) -> Self {
        if let Operation::Condition { changes, .. } = &mut self.what {
            *changes = true;
        }
        self
    }

    /// With another number of errors in a row that are tolerated.
    #[must_use]
    pub fn tolerate(mut self, errors: u32) -> Self {
        if let Operation::Condition { poll, .. } = &mut self.what {
            poll.tolerate = Tolerance::Tolerate(errors, Duration::ZERO);
        }
        self
    }

    /// Under another name.
    #[must_use]
    pub fn named(self, name: &'static str) -> Self {
        Self { name, ..self }
    }
}

/// A condition `w` that is polled every `every_ms` milliseconds.
#[must_use]
pub(super) fn condition(every_ms: u64, answers: &[Answer]) -> Call {
    let tolerate = Tolerance::Tolerate(5, Duration::ZERO);
    let poll = PollPolicy { tolerate, ..PollPolicy::every(Duration::from_millis(every_ms)) };
    let what = Operation::Condition { proof: Some("code"), changes: false, poll, timeout: None };
    Call { name: "w", what, answers: answers.to_vec() }
}

/// A step `s`.
#[must_use]
pub(super) fn step(answer: Answer) -> Call {
    Call { name: "s", what: Operation::Step("args"), answers: vec![answer] }
}

/// A step `pay` that is executed at most once.
#[must_use]
pub(super) fn once(answer: Answer) -> Call {
    Call { name: "pay", what: Operation::StepWith { once: true, retry: None }, answers: vec![answer] }
}

/// A step `s` that is tried up to so many times, with a delay of a second that doubles.
#[must_use]
pub(super) fn retried(attempts: u32, answers: &[Answer]) -> Call {
    let retry = RetryPolicy { jitter: 0.0, ..RetryPolicy::new(attempts) };
    Call { name: "s", what: Operation::StepWith { once: false, retry: Some(retry) }, answers: answers.to_vec() }
}

/// A wait for a signal `go`.
#[must_use]
pub(super) fn signal() -> Call {
    Call { name: "go", what: Operation::Signal { timeout: None }, answers: Vec::new() }
}

/// A callback `paid` that is made.
#[must_use]
pub(super) fn callback() -> Call {
    Call { name: "paid", what: Operation::Callback, answers: Vec::new() }
}

/// A checkpoint.
#[must_use]
pub(super) fn checkpoint() -> Call {
    Call { name: "checkpoint", what: Operation::Checkpoint, answers: Vec::new() }
}

/// A sleep of this many milliseconds.
#[must_use]
pub(super) fn sleep(ms: u64) -> Call {
    Call { name: "sleep", what: Operation::After(Duration::from_millis(ms)), answers: Vec::new() }
}

/// A sleep until this many milliseconds after the case began.
#[must_use]
pub(super) fn sleep_until(ms: u64) -> Call {
    Call { name: "sleep_until", what: Operation::Until(Duration::from_millis(ms)), answers: Vec::new() }
}

/// The recorded time.
#[must_use]
pub(super) fn now() -> Call {
    Call { name: "now", what: Operation::Now, answers: Vec::new() }
}

/// The time at this span after the case began.
#[must_use]
pub fn at(span: Duration) -> Time {
    crate::clock::START.after(span)
}
