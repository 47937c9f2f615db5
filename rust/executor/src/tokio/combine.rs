//! Combinations: the first of several waits, or all of them.

use bide_core::DefinitionError;

use super::kinds::{IntoWait, Kind, Outcomes, Wait, WaitPart};

/// Several waits, or values that can be waited for ([`IntoWait`]): a tuple of up to eight, or a vector of one type.
pub trait Waits<'a> {
    /// What the first of them returns: of a tuple one `Option` for each wait, `Some` for the one that came; of a vector
    /// its position and its value.
    type Any: 'a;
    /// What all of them return: a tuple, or a vector.
    type All: 'a;

    /// See [`any_of`].
    fn any(self) -> Wait<'a, Self::Any>;

    /// See [`all_of`].
    fn all(self) -> Wait<'a, Self::All>;
}

/// The first of several waits; the others are withdrawn. One that fails is out, and if all fail the combination fails.
///
/// ```
/// use std::time::Duration;
/// use bide_executor::store::MemoryStore;
/// use bide_executor::{Runner, TaskContext, Workflow, after, any_of, signal};
///
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> Result<(), bide_executor::Error> {
/// let workflow = Workflow::builder("order")
///     .task("ship", |cx: TaskContext| async move {
///         match cx.gate::<(Option<u64>, Option<()>)>()? {
///             (Some(cents), _) => Ok(format!("paid {cents}")),
///             _ => Ok("nobody has paid".to_owned()),
///         }
///     })
///     .gate(any_of((signal::<u64>("paid"), after(Duration::from_secs(86_400)))))
///     .build()?;
/// let runner = Runner::open(MemoryStore::new()).slots(1).start()?;
/// let order = runner.submit(&workflow, &()).await?;
/// order.signal("paid", &1_200).await?;
/// assert_eq!(order.result().await?.output::<String>("ship")?, "paid 1200");
/// runner.close().await;
/// # Ok(())
/// # }
/// ```
pub fn any_of<'a, W: Waits<'a>>(waits: W) -> Wait<'a, W::Any> {
    waits.any()
}

/// All of several waits. The first one that fails ends the others, and the combination with its failure.
pub fn all_of<'a, W: Waits<'a>>(waits: W) -> Wait<'a, W::All> {
    waits.all()
}

/// The parts of a combination that is being made.
struct Members<'a> {
    /// The combination's own part, and those of its members.
    parts: Vec<WaitPart<'a>>,
    /// Where the members begin.
    starts: Vec<usize>,
    /// What was refused of them.
    refused: Option<DefinitionError>,
}

impl<'a> Members<'a> {
    fn new() -> Self {
        Self { parts: vec![WaitPart::new(Kind::All(Vec::new()))], starts: Vec::new(), refused: None }
    }

    /// Adds a member; returns what makes its value of the outcomes of the combination.
    fn add<T: 'a>(
        &mut self,
        wait: Wait<'a, T>,
    ) -> impl Fn(&Outcomes<'_>) -> Result<T, super::task_error::TaskError> + Send + Sync + use<'a, T> {
        let (parts, refused, finish) = wait.into_parts();
        let start = self.parts.len();
        self.starts.push(start);
        self.parts.extend(parts);
        self.refused = self.refused.take().or(refused);
        move |outcomes: &Outcomes<'_>| finish(&outcomes.of(start))
    }

    fn any(mut self) -> (Vec<WaitPart<'a>>, Option<DefinitionError>) {
        self.parts[0].kind = Kind::Any(self.starts);
        (self.parts, self.refused)
    }

    fn all(mut self) -> (Vec<WaitPart<'a>>, Option<DefinitionError>) {
        self.parts[0].kind = Kind::All(self.starts);
        (self.parts, self.refused)
    }
}

/// Which member has decided a combination of the kind that one decides.
fn winner(outcomes: &Outcomes<'_>) -> usize {
    let payload = std::str::from_utf8(outcomes.value().payload()).ok();
    payload.and_then(|payload| payload.parse().ok()).unwrap_or_default()
}

macro_rules! tuples {
    ($(($($type:ident $wait:ident $index:tt),+))+) => {$(
        impl<'a, $($type: IntoWait<'a>),+> Waits<'a> for ($($type,)+) {
            type Any = ($(Option<$type::Value>,)+);
            type All = ($($type::Value,)+);

            fn any(self) -> Wait<'a, Self::Any> {
                let ($($wait,)+) = self;
                let mut members = Members::new();
                $(let $wait = members.add($wait.into_wait());)+
                let (parts, refused) = members.any();
                Wait::combined(parts, refused, move |outcomes| {
                    let winner = winner(outcomes);
                    Ok(($(if winner == $index { Some($wait(outcomes)?) } else { None },)+))
                })
            }

            fn all(self) -> Wait<'a, Self::All> {
                let ($($wait,)+) = self;
                let mut members = Members::new();
                $(let $wait = members.add($wait.into_wait());)+
                let (parts, refused) = members.all();
                Wait::combined(parts, refused, move |outcomes| Ok(($($wait(outcomes)?,)+)))
            }
        }
    )+};
}

tuples! {
    (A a 0)
    (A a 0, B b 1)
    (A a 0, B b 1, C c 2)
    (A a 0, B b 1, C c 2, D d 3)
    (A a 0, B b 1, C c 2, D d 3, E e 4)
    (A a 0, B b 1, C c 2, D d 3, E e 4, F f 5)
    (A a 0, B b 1, C c 2, D d 3, E e 4, F f 5, G g 6)
    (A a 0, B b 1, C c 2, D d 3, E e 4, F f 5, G g 6, H h 7)
}

impl<'a, W: IntoWait<'a>> Waits<'a> for Vec<W> {
    type Any = (usize, W::Value);
    type All = Vec<W::Value>;

    fn any(self) -> Wait<'a, Self::Any> {
        let mut members = Members::new();
        let finish: Vec<_> = self.into_iter().map(|wait| members.add(wait.into_wait())).collect();
        let (parts, refused) = members.any();
        Wait::combined(parts, refused, move |outcomes| {
            let winner = winner(outcomes);
            Ok((winner, finish[winner](outcomes)?))
        })
    }

    fn all(self) -> Wait<'a, Self::All> {
        let mut members = Members::new();
        let finish: Vec<_> = self.into_iter().map(|wait| members.add(wait.into_wait())).collect();
        let (parts, refused) = members.all();
        Wait::combined(parts, refused, move |outcomes| finish.iter().map(|finish| finish(outcomes)).collect())
    }
}
