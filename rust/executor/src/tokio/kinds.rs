//! What can be waited for, as values: conditions, times and messages to the run; the ends of child runs too
//! (`child.rs`). Each can be waited for by a body (`wait.rs`), and be a part of a combination (`combine.rs`); what no
//! body makes can be a task's gate.

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use bide_core::attempt::{Part, PartRequest, Polled};
use bide_core::{
    Address, DefinitionError, GateSpec, GateUntil, MessageKind, PollPolicy, RunId, Time, Tolerance, Value,
};
use serde::Serialize;
use serde::de::DeserializeOwned;

use super::answer::Answer;
use super::closures::BoxFuture;
use super::codec::{decode, encode, serialization_failure, stored_time};
use super::context::Scope;
use super::handle::TaskHandle;
use super::result::RunResult;
use super::task_error::TaskError;

/// How often a condition is asked unless its wait says otherwise.
pub(super) const EVERY: Duration = Duration::from_secs(1);

/// A condition, to be asked with what its task may read.
pub(super) type Ask<'a> = Box<dyn Fn(Scope) -> BoxFuture<'a, Polled> + Send + Sync + 'a>;

/// Makes the value of a wait of what its parts were satisfied with.
pub(super) type Finish<'a, T> = Box<dyn Fn(&Outcomes<'_>) -> Result<T, TaskError> + Send + Sync + 'a>;

/// Something to wait for; `T` is what the wait returns. It can be a gate ([`WorkflowBuilder::gate`]), be waited for by
/// a body ([`TaskHandle::wait`]), and be a part of [`any_of`] and [`all_of`].
///
/// [`WorkflowBuilder::gate`]: crate::WorkflowBuilder::gate
/// [`TaskHandle::wait`]: crate::TaskHandle::wait
/// [`any_of`]: crate::any_of
/// [`all_of`]: crate::all_of
#[must_use = "a wait is something to wait for: pass it to a handle, or use it as a gate"]
pub struct Wait<'a, T> {
    /// The wait itself; of a combination that first, and each combination before its members.
    pub(super) parts: Vec<WaitPart<'a>>,
    /// Makes its value.
    pub(super) finish: Finish<'a, T>,
    /// What was asked of it that cannot work, returned where it is used.
    refused: Option<DefinitionError>,
}

/// One of the waits of a wait.
pub(super) struct WaitPart<'a> {
    /// Its name in the journal, if it was given one.
    pub(super) name: Option<Arc<str>>,
    /// What ends it.
    pub(super) kind: Kind<'a>,
    /// How long it may stay open.
    timeout: Option<Duration>,
}

/// What ends a wait.
pub(super) enum Kind<'a> {
    Condition(Box<Condition<'a>>),
    After(Duration),
    At(Time),
    /// A message to the run.
    Message(Address),
    /// The end of this child run.
    Child(RunId),
    /// The first of these parts, each by its distance from this one.
    Any(Vec<usize>),
    /// All of these parts, likewise.
    All(Vec<usize>),
}

/// A condition and how it is asked.
pub(super) struct Condition<'a> {
    /// Asks it.
    pub(super) ask: Ask<'a>,
    /// How often.
    pub(super) policy: PollPolicy,
    /// What proves it to be the same wait as a recorded one: all that it depends on, as it was stated.
    proof: Option<Result<Value, String>>,
    /// Its type, which names it unless it was given a name.
    type_name: &'static str,
}

/// What the parts of a wait were satisfied with.
pub(super) struct Outcomes<'o> {
    /// The task, for messages.
    pub(super) task: &'o str,
    /// What became of each part; the part itself is the first.
    pub(super) parts: &'o [Outcome],
    /// The handle of the body, for values that answer.
    pub(super) handle: &'o dyn Fn() -> TaskHandle,
}

/// What became of a part of a wait.
pub(super) struct Outcome {
    /// Its name.
    pub(super) name: Arc<str>,
    /// Its value, if it was satisfied.
    pub(super) value: Option<Value>,
    /// The child run whose end it was.
    pub(super) child: Option<RunResult>,
}

impl Outcomes<'_> {
    /// Those of the part at this distance.
    pub(super) fn of(&self, member: usize) -> Outcomes<'_> {
        Outcomes { parts: &self.parts[member..], ..*self }
    }

    /// The first part's value.
    pub(super) fn value(&self) -> &Value {
        self.parts[0].value.as_ref().unwrap_or(&Value::NONE)
    }

    pub(super) fn decoded<T: DeserializeOwned>(&self) -> Result<T, TaskError> {
        self.decoded_from(self.value())
    }

    pub(super) fn decoded_from<T: DeserializeOwned>(&self, value: &Value) -> Result<T, TaskError> {
        decode(value).map_err(|why| {
            let (task, name) = (self.task, &self.parts[0].name);
            let message =
                format!("task '{task}': the value of '{name}' does not read back as what is asked for: {why}");
            TaskError::failed(serialization_failure(&message))
        })
    }
}

/// A condition, asked at once and then every second unless [`every`](Wait::every) says otherwise. It is called with
/// what its task may read. In a body it may borrow from that.
pub fn until<'a, F, R>(condition: F) -> Wait<'a, <R::Output as Answer>::Value>
where
    F: Fn(Scope) -> R + Send + Sync + 'a,
    R: Future<Output: Answer> + Send + 'a,
{
    let condition = Arc::new(condition);
    let ask: Ask<'a> = Box::new(move |scope| {
        let condition = Arc::clone(&condition);
        // Called within the future, so that its panic is caught with those of its future.
        Box::pin(async move { condition(scope).await.polled() })
    });
    let type_name = std::any::type_name::<F>();
    let condition = Condition { ask, policy: PollPolicy::every(EVERY), proof: None, type_name };
    Wait::new(Kind::Condition(Box::new(condition)), |outcomes| outcomes.decoded())
}

/// A span: of a gate from when its task could have started, else from when the body waits.
pub fn after<'a>(span: Duration) -> Wait<'a, ()> {
    Wait::new(Kind::After(span), |_| Ok(()))
}

/// A point in time.
pub fn at<'a>(time: SystemTime) -> Wait<'a, ()> {
    Wait::new(Kind::At(stored_time(time)), |_| Ok(()))
}

/// A signal of this name to the run ([`Runner::signal`](crate::Runner::signal)); the wait returns its value. Each
/// signal satisfies one wait, the oldest; one that comes before its wait is kept for it.
pub fn signal<'a, T: DeserializeOwned + 'a>(name: impl Into<Arc<str>>) -> Wait<'a, T> {
    Wait::new(Kind::Message(Address::signal(&name.into())), |outcomes| outcomes.decoded())
}

/// What a handle and a combination take: a [`Wait`], or a value that can be waited for, as [`Callback`] and
/// [`ChildRun`].
///
/// [`Callback`]: crate::Callback
/// [`ChildRun`]: crate::ChildRun
pub trait IntoWait<'a> {
    /// What the wait returns.
    type Value: 'a;

    /// The wait.
    fn into_wait(self) -> Wait<'a, Self::Value>;
}

impl<'a, T: 'a> IntoWait<'a> for Wait<'a, T> {
    type Value = T;

    fn into_wait(self) -> Self {
        self
    }
}

impl<'a, T> Wait<'a, T> {
    pub(super) fn new(
        kind: Kind<'a>,
        finish: impl Fn(&Outcomes<'_>) -> Result<T, TaskError> + Send + Sync + 'a,
    ) -> Self {
        Self { parts: vec![WaitPart::new(kind)], finish: Box::new(finish), refused: None }
    }

    /// A combination: its own part, and the parts of its members.
    pub(super) fn combined(
        parts: Vec<WaitPart<'a>>,
        refused: Option<DefinitionError>,
        finish: impl Fn(&Outcomes<'_>) -> Result<T, TaskError> + Send + Sync + 'a,
    ) -> Self {
        Self { parts, finish: Box::new(finish), refused }
    }

    /// Its parts, what was refused of it, and what makes its value.
    pub(super) fn into_parts(self) -> (Vec<WaitPart<'a>>, Option<DefinitionError>, Finish<'a, T>) {
        (self.parts, self.refused, self.finish)
    }

    /// How often the condition is asked.
    pub fn every(self, interval: Duration) -> Self {
        self.condition("every", |condition| condition.policy.every = interval)
    }

    /// How the condition is asked, in full.
    pub fn policy(self, policy: PollPolicy) -> Self {
        self.condition("policy", |condition| condition.policy = policy)
    }

    /// What happens when the condition fails.
    pub fn on_error(self, tolerate: Tolerance) -> Self {
        self.condition("on_error", |condition| condition.policy.tolerate = tolerate)
    }

    /// All that the condition depends on. A satisfied wait of a body is reused on re-entry only if this is what it was
    /// then; without it the condition is asked again.
    pub fn given<C: Serialize + ?Sized>(self, captured: &C) -> Self {
        self.condition("given", |condition| condition.proof = Some(encode(captured)))
    }

    /// How long it may stay open, from when it was first opened: a restart does not extend it. A gate that is not
    /// satisfied by then fails its task (and is retried if the task's policy covers that).
    pub fn timeout(mut self, timeout: Duration) -> Self {
        self.parts[0].timeout = Some(timeout);
        self
    }

    /// Its name in the journal. A message is named by itself otherwise, a condition by the closure's type, and as a
    /// gate a condition or a time is named `gate`.
    pub fn named(mut self, name: impl Into<Arc<str>>) -> Self {
        self.parts[0].name = Some(name.into());
        self
    }

    fn condition(mut self, what: &str, change: impl FnOnce(&mut Condition<'a>)) -> Self {
        match &mut self.parts[0].kind {
            Kind::Condition(condition) => change(condition),
            _ => {
                let name = name_of(&self.parts, 0);
                let why = format!("{what}(...) says how a condition is asked, and the wait '{name}' is no condition");
                self.refused.get_or_insert(DefinitionError(why));
            }
        }
        self
    }

    /// Refuses what cannot work.
    pub(super) fn validate(&self) -> Result<(), DefinitionError> {
        if let Some(refused) = &self.refused {
            return Err(refused.clone());
        }
        for (at, part) in self.parts.iter().enumerate() {
            let refused = |why: &str| DefinitionError(format!("'{}': {why}", name_of(&self.parts, at)));
            match &part.kind {
                Kind::Condition(condition) => {
                    condition.policy.validate().map_err(|DefinitionError(why)| refused(&why))?;
                    if let Some(Err(why)) = &condition.proof {
                        return Err(refused(&format!("what the condition depends on cannot be stored: {why}")));
                    }
                }
                Kind::Any(members) | Kind::All(members) if members.is_empty() => {
                    return Err(refused("a combination has at least one wait"));
                }
                _ => {}
            }
        }
        Ok(())
    }

    /// The parts as a body asks for them. With them how many there are before the first one of this wait.
    pub(super) fn requests(&self) -> (Vec<PartRequest>, usize) {
        let mut requests: Vec<_> = (0..self.parts.len()).map(|at| self.request(at)).collect();
        let is_time = matches!(requests[0].part, Part::Until(_) | Part::After(_));
        if requests.len() > 1 || !is_time || requests[0].timeout.is_none() {
            return (requests, 0);
        }
        // The time is one wait of one, so that the whole can end before it.
        let timeout = requests[0].timeout.take();
        let itself = format!("{} itself", requests[0].name).into();
        let name = std::mem::replace(&mut requests[0].name, itself);
        requests.insert(0, PartRequest { name, part: Part::All(vec![1]), timeout });
        (requests, 1)
    }

    fn request(&self, at: usize) -> PartRequest {
        let WaitPart { kind, timeout, .. } = &self.parts[at];
        let members = |of: &[usize]| of.iter().map(|member| at + member).collect();
        let part = match kind {
            Kind::Condition(condition) => {
                let proof = condition.proof.as_ref().and_then(|proof| proof.as_ref().ok());
                Part::Condition { proof: proof.map(|value| value.as_bytes().into()), policy: condition.policy }
            }
            Kind::After(span) => Part::After(*span),
            Kind::At(time) => Part::Until(*time),
            Kind::Message(address) => Part::Message(address.clone()),
            Kind::Child(run) => Part::Child(*run),
            Kind::Any(of) => Part::Any(members(of)),
            Kind::All(of) => Part::All(members(of)),
        };
        PartRequest { name: name_of(&self.parts, at), part, timeout: *timeout }
    }

    /// The wait as a gate, whose parts have names of their own.
    ///
    /// # Errors
    /// If only a body can wait for a part of it.
    pub(super) fn gate(&self) -> Result<GateSpec, DefinitionError> {
        let mut names: Vec<Arc<str>> = (0..self.parts.len()).map(|at| name_of(&self.parts, at)).collect();
        if let [WaitPart { name: None, kind: Kind::Condition(_) | Kind::After(_) | Kind::At(_), .. }] = &*self.parts {
            names[0] = "gate".into();
        }
        for at in 1..names.len() {
            let before = names[..at].iter().filter(|name| **name == names[at]).count();
            if before > 0 {
                names[at] = format!("{} ({})", names[at], before + 1).into();
            }
        }
        self.gate_part(0, &names)
    }

    fn gate_part(&self, at: usize, names: &[Arc<str>]) -> Result<GateSpec, DefinitionError> {
        let member = |of: &usize| self.gate_part(at + of, names);
        let members = |of: &[usize]| of.iter().map(member).collect::<Result<_, _>>();
        let refused = |what: &str| {
            let why = format!("'{}' is {what}, which only a body has: wait for it in a body", names[at]);
            Err(DefinitionError(why))
        };
        let until = match &self.parts[at].kind {
            Kind::Condition(_) => GateUntil::Condition,
            Kind::After(span) => GateUntil::After(*span),
            Kind::At(time) => GateUntil::At(*time),
            Kind::Message(Address { kind: MessageKind::Answer, .. }) => return refused("a callback"),
            Kind::Child(_) => return refused("a child run"),
            Kind::Message(address) => GateUntil::Message(address.clone()),
            Kind::Any(of) => GateUntil::Any(members(of)?),
            Kind::All(of) => GateUntil::All(members(of)?),
        };
        Ok(GateSpec { name: Arc::clone(&names[at]), until, timeout: self.parts[at].timeout })
    }
}

impl<'a> WaitPart<'a> {
    pub(super) const fn new(kind: Kind<'a>) -> Self {
        Self { name: None, kind, timeout: None }
    }
}

/// The name of a part in the journal.
fn name_of(parts: &[WaitPart<'_>], at: usize) -> Arc<str> {
    let combined = |kind: &str, members: &[usize]| {
        let names: Vec<_> = members.iter().take(8).map(|member| name_of(parts, at + member)).collect();
        format!("{kind}({})", names.join(", ")).into()
    };
    match (&parts[at].name, &parts[at].kind) {
        (Some(name), _) => Arc::clone(name),
        (None, Kind::Message(address)) => Arc::clone(&address.name),
        (None, Kind::Child(_)) => "child".into(),
        (None, Kind::Condition(condition)) => condition.type_name.into(),
        (None, Kind::After(_)) => "after".into(),
        (None, Kind::At(_)) => "at".into(),
        (None, Kind::Any(members)) => combined("any", members),
        (None, Kind::All(members)) => combined("all", members),
    }
}
