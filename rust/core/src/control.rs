//! Control requests: what somebody outside asks of a run as a whole, or of one of its tasks. They travel as messages
//! ([`crate::MessageKind::Control`]) and stay in the store, with who has asked and why: they are the run's history.
//!
//! The address of the message names what is asked; its content is packed ([`crate::pack`]): `by`, `reason` and what
//! only some requests have. What a run does with it: `run/control.rs`.

use std::sync::Arc;
use std::time::Duration;

use crate::decode::Damage;
use crate::id::RunId;
use crate::message::{Address, Message, MessageKind};
use crate::pack::{Pair, pack, unpack};
use crate::status::RunStatus;
use crate::time::Time;
use crate::value::Value;

/// The tag of the content of a control request; the packed pairs follow.
const PACKED: u8 = b'c';

/// What is asked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Ask {
    /// To end the run: nothing new starts, and its bodies clean up.
    Cancel {
        /// Without that.
        force: bool,
    },
    /// To start and resume no body until `Resume`.
    Pause,
    /// To continue after a pause.
    Resume,
    /// To continue a failed or cancelled run from its failed and cancelled tasks, or such a run or one that bide has
    /// paused from this task.
    Retry {
        /// From which task. `None`: from all that have failed or were cancelled.
        from: Option<Arc<str>>,
        /// The journals of these tasks are dropped.
        fresh: bool,
    },
    /// To satisfy what a task waits for.
    Satisfy {
        /// Which task.
        task: Arc<str>,
        /// The value of the wait.
        value: Value,
    },
    /// To move the deadline of what a task waits for.
    Extend {
        /// Which task.
        task: Arc<str>,
        /// By how much, later.
        span: Duration,
    },
    /// To ask the condition that a task waits for now.
    PollNow {
        /// Which task.
        task: Arc<str>,
    },
    /// To skip a task that has not ended.
    Skip {
        /// Which task.
        task: Arc<str>,
    },
    /// Of a run that was made so: with the outcomes of another one, from these tasks on. Asks nothing any more.
    ForkedFrom {
        /// The other run.
        run: RunId,
        /// The tasks from which it began, separated by commas.
        task: Arc<str>,
    },
    /// Of a run whose outcomes another one was given. Asks nothing any more.
    ForkedTo {
        /// The other run.
        run: RunId,
        /// The tasks from which that began, separated by commas.
        task: Arc<str>,
    },
    /// Of a forked run: this task was given another output. Asks nothing any more.
    Edited {
        /// Which task.
        task: Arc<str>,
    },
    /// To have the run continued by another version of its workflow. The store has done it.
    Adopt,
}

/// A control request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Control {
    /// What is asked.
    pub ask: Ask,
    /// Who has asked, if they say.
    pub by: Option<Arc<str>>,
    /// Why, if they say.
    pub reason: Option<Arc<str>>,
}

/// That a run was cancelled: who, why and when. Kept in its row.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Cancel {
    /// Who has cancelled it.
    pub by: Option<Arc<str>>,
    /// Why.
    pub reason: Option<Arc<str>>,
    /// When.
    pub at: Time,
}

impl Cancel {
    /// In words: `cancelled by ana: too late`.
    #[must_use]
    pub fn text(&self) -> String {
        format!("cancelled{}", who_and_why(self.by.as_deref(), self.reason.as_deref()))
    }

    /// As a store keeps it.
    #[must_use]
    pub fn to_blob(&self) -> Vec<u8> {
        let at = Value::tagged(b'i', self.at.0.to_string().as_bytes());
        let mut pairs = vec![("at", at)];
        pairs.extend(text("by", self.by.as_ref()).into_iter().chain(text("reason", self.reason.as_ref())));
        pack(pairs.iter().map(|(name, value)| (*name, Some(value))))
    }

    /// From what a store keeps.
    ///
    /// # Errors
    /// Says what no version of bide ever wrote.
    pub fn from_blob(blob: &[u8]) -> Result<Self, Damage> {
        let pairs = unpack(blob)?;
        let at = number(&pairs, "at").ok_or_else(|| Damage::NoValue("at".to_owned()))?;
        Ok(Self { by: texts(&pairs, "by"), reason: texts(&pairs, "reason"), at: Time(at) })
    }
}

/// As texts name who has asked for something, and why: ` by ana: too late`.
#[must_use]
pub fn who_and_why(by: Option<&str>, reason: Option<&str>) -> String {
    let by = by.map_or_else(String::new, |by| format!(" by {by}"));
    let reason = reason.map_or_else(String::new, |reason| format!(": {reason}"));
    by + &reason
}

fn text(name: &'static str, text: Option<&Arc<str>>) -> Option<(&'static str, Value)> {
    text.map(|text| (name, Value::tagged(b's', text.as_bytes())))
}

fn find<'a>(pairs: &'a [Pair], name: &str) -> Option<&'a Value> {
    pairs.iter().find(|(known, _)| **known == *name)?.1.as_ref()
}

fn texts(pairs: &[Pair], name: &str) -> Option<Arc<str>> {
    std::str::from_utf8(find(pairs, name)?.payload()).ok().map(Into::into)
}

fn number(pairs: &[Pair], name: &str) -> Option<i64> {
    std::str::from_utf8(find(pairs, name)?.payload()).ok()?.parse().ok()
}

impl Ask {
    /// The name of the request, as it is stored and as users know it.
    #[must_use]
    pub const fn name(&self) -> &'static str {
        match self {
            Self::Cancel { .. } => "cancel",
            Self::Pause => "pause",
            Self::Resume => "resume",
            Self::Retry { .. } => "retry",
            Self::Satisfy { .. } => "satisfy",
            Self::Extend { .. } => "extend",
            Self::PollNow { .. } => "poll_now",
            Self::Skip { .. } => "skip",
            Self::ForkedFrom { .. } => "forked_from",
            Self::ForkedTo { .. } => "forked_to",
            Self::Edited { .. } => "edited",
            Self::Adopt => "adopt",
        }
    }

    /// Whether a run of this status, which nobody executes, is to be executed because of the request. `held`: it is
    /// paused on request, and somebody executes it or will.
    #[must_use]
    pub const fn reopens(name: &str, status: RunStatus, held: bool) -> bool {
        match (name.as_bytes(), status) {
            (b"retry", RunStatus::Failed | RunStatus::Cancelled) => true,
            (b"cancel" | b"resume" | b"retry", RunStatus::Paused) => !held,
            _ => false,
        }
    }

    /// The task that it is about, if it is about one.
    #[must_use]
    pub const fn task(&self) -> Option<&Arc<str>> {
        match self {
            Self::Satisfy { task, .. } | Self::Extend { task, .. } | Self::PollNow { task } | Self::Skip { task } => {
                Some(task)
            }
            Self::ForkedFrom { task, .. } | Self::ForkedTo { task, .. } | Self::Edited { task } => Some(task),
            Self::Retry { from, .. } => from.as_ref(),
            Self::Cancel { .. } | Self::Pause | Self::Resume | Self::Adopt => None,
        }
    }

    /// The other run that it names, if it names one.
    #[must_use]
    pub const fn other_run(&self) -> Option<RunId> {
        match self {
            Self::ForkedFrom { run, .. } | Self::ForkedTo { run, .. } => Some(*run),
            _ => None,
        }
    }
}

impl Control {
    /// The request as a message that was acted on: for the history of a run.
    #[must_use]
    pub fn told(&self, number: i64, at: Time) -> Message {
        Message { number, address: self.address(), id: None, content: Ok(self.content()), sent_at: at }
    }

    /// A request of nobody in particular.
    #[must_use]
    pub const fn new(ask: Ask) -> Self {
        Self { ask, by: None, reason: None }
    }

    /// Where it goes.
    #[must_use]
    pub fn address(&self) -> Address {
        Address { kind: MessageKind::Control, name: self.ask.name().into() }
    }

    /// As the content of a message.
    #[must_use]
    pub fn content(&self) -> Value {
        let flag = |name, is: bool| is.then(|| (name, Value::tagged(b't', b"")));
        let mut pairs = Vec::new();
        pairs.extend(text("by", self.by.as_ref()));
        pairs.extend(text("reason", self.reason.as_ref()));
        pairs.extend(text("task", self.ask.task()));
        match &self.ask {
            Ask::Cancel { force } => pairs.extend(flag("force", *force)),
            Ask::Retry { fresh, .. } => pairs.extend(flag("fresh", *fresh)),
            Ask::Satisfy { value, .. } => pairs.push(("value", value.clone())),
            Ask::Extend { span, .. } => {
                let micros = span.as_micros().min(i64::MAX as u128).to_string();
                pairs.push(("micros", Value::tagged(b'i', micros.as_bytes())));
            }
            Ask::ForkedFrom { run, .. } | Ask::ForkedTo { run, .. } => pairs.push(("run", run.to_value())),
            Ask::Pause | Ask::Resume | Ask::PollNow { .. } | Ask::Skip { .. } | Ask::Edited { .. } | Ask::Adopt => {}
        }
        Value::tagged(PACKED, &pack(pairs.iter().map(|(name, value)| (*name, Some(value)))))
    }

    /// The request that a message is. `None` if it is none, or one of a newer version of bide.
    #[must_use]
    pub fn of_message(message: &Message) -> Option<Self> {
        let content = message.content.as_ref().ok().filter(|content| content.tag() == PACKED)?;
        let pairs = unpack(content.payload()).ok()?;
        let task = || texts(&pairs, "task");
        let run = || RunId::from_value(find(&pairs, "run")?);
        let ask = match &*message.address.name {
            "cancel" => Ask::Cancel { force: find(&pairs, "force").is_some() },
            "pause" => Ask::Pause,
            "resume" => Ask::Resume,
            "retry" => Ask::Retry { from: task(), fresh: find(&pairs, "fresh").is_some() },
            "satisfy" => Ask::Satisfy { task: task()?, value: find(&pairs, "value")?.clone() },
            "extend" => {
                let micros = u64::try_from(number(&pairs, "micros")?).ok()?;
                Ask::Extend { task: task()?, span: Duration::from_micros(micros) }
            }
            "poll_now" => Ask::PollNow { task: task()? },
            "skip" => Ask::Skip { task: task()? },
            "forked_from" => Ask::ForkedFrom { run: run()?, task: task()? },
            "forked_to" => Ask::ForkedTo { run: run()?, task: task()? },
            "edited" => Ask::Edited { task: task()? },
            "adopt" => Ask::Adopt,
            _ => return None,
        };
        let is_control = message.address.kind == MessageKind::Control;
        is_control.then(|| Self { ask, by: texts(&pairs, "by"), reason: texts(&pairs, "reason") })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_request_comes_back_from_its_message() {
        let task: Arc<str> = "load".into();
        for ask in [
            Ask::Cancel { force: true },
            Ask::Cancel { force: false },
            Ask::Pause,
            Ask::Resume,
            Ask::Retry { from: None, fresh: true },
            Ask::Retry { from: Some(Arc::clone(&task)), fresh: false },
            Ask::Satisfy { task: Arc::clone(&task), value: Value::tagged(b'j', b"[1, 2]") },
            Ask::Extend { task: Arc::clone(&task), span: Duration::from_millis(1500) },
            Ask::PollNow { task: Arc::clone(&task) },
            Ask::Skip { task: Arc::clone(&task) },
            Ask::ForkedFrom { run: RunId(7), task: Arc::clone(&task) },
            Ask::ForkedTo { run: RunId(7), task: Arc::clone(&task) },
            Ask::Edited { task: Arc::clone(&task) },
            Ask::Adopt,
        ] {
            for (by, reason) in [(None, None), (Some("ana".into()), Some("too late".into()))] {
                let control = Control { ask: ask.clone(), by, reason };
                let (address, content) = (control.address(), Ok(control.content()));
                let message = Message { number: 1, address, id: None, content, sent_at: Time(1) };
                assert_eq!(Control::of_message(&message), Some(control));
            }
        }
    }

    #[test]
    fn what_is_kept_of_a_cancellation_reads_back() {
        for cancel in [
            Cancel { by: None, reason: None, at: Time(7) },
            Cancel { by: Some("ana".into()), reason: Some("too late".into()), at: Time(-1) },
        ] {
            assert_eq!(Cancel::from_blob(&cancel.to_blob()), Ok(cancel));
        }
    }
}
