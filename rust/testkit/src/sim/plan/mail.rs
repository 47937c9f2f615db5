//! Signals, and waits for several things at once. What comes first depends on the moment, so a body does not look at
//! what has come: its result is the same in every world, and the oracle checks the rest.

use std::sync::Arc;
use std::time::Duration;

use bide_core::attempt::{Part, PartRequest, Request};
use bide_core::{Address, GateSpec, GateUntil, PollPolicy};

/// Several waits at once, of a body or a gate.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Several {
    /// The first of a signal and a span in milliseconds.
    SignalOrAfter(u8, u64),
    /// The first of two signals.
    Either(u8, u8),
    /// Two signals.
    Both(u8, u8),
    /// A signal, and a condition that becomes true this many milliseconds after the world began.
    SignalAndUntil(u8, u64),
    /// The first of a signal and such a condition.
    SignalOrUntil(u8, u64),
    /// The first of two signals together, and a span.
    BothOrAfter(u8, u8, u64),
    /// A span, and the first of a signal and such a condition.
    AfterAndEither(u64, u8, u64),
}

/// One of the waits, or a combination of others.
enum Tree {
    Signal(u8),
    After(u64),
    Until,
    Any([Box<Tree>; 2]),
    All([Box<Tree>; 2]),
}

/// A message that comes to a run.
#[derive(Clone, Copy, Debug)]
pub struct Letter {
    /// Not before this move.
    pub at: u32,
    /// To which run.
    pub run: usize,
    /// What it is.
    pub to: Target,
    /// The sender's id for it.
    pub id: Option<u8>,
    /// Who sends it.
    pub from: Sender,
}

/// What a message is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Target {
    /// A signal.
    Signal(u8),
    /// An answer to one of the callbacks that bodies have made, counted from the newest.
    Answer(u8),
    /// A request.
    Request,
}

/// Who sends a message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Sender {
    /// The process that executes the run, if one does.
    Owner,
    /// Any process.
    Any,
    /// A process without a runner.
    Outside,
}

/// The name of a signal.
pub(in super::super) fn signal_name(signal: u8) -> String {
    format!("signal {signal}")
}

fn address(signal: u8) -> Address {
    Address::signal(&signal_name(signal))
}

impl Several {
    fn tree(self) -> Tree {
        let (any, all) = (
            |one, other| Tree::Any([Box::new(one), Box::new(other)]),
            |one, other| Tree::All([Box::new(one), Box::new(other)]),
        );
        use Tree::{After, Signal, Until};
        match self {
            Self::SignalOrAfter(signal, ms) => any(Signal(signal), After(ms)),
            Self::Either(one, other) => any(Signal(one), Signal(other)),
            Self::Both(one, other) => all(Signal(one), Signal(other)),
            Self::SignalAndUntil(signal, _) => all(Signal(signal), Until),
            Self::SignalOrUntil(signal, _) => any(Until, Signal(signal)),
            Self::BothOrAfter(one, other, ms) => any(all(Signal(one), Signal(other)), After(ms)),
            Self::AfterAndEither(ms, signal, _) => all(After(ms), any(Signal(signal), Until)),
        }
    }

    /// When its condition becomes true, if it has one.
    pub(in super::super) const fn holds_at(self) -> Option<u64> {
        match self {
            Self::SignalAndUntil(_, ms) | Self::SignalOrUntil(_, ms) | Self::AfterAndEither(_, _, ms) => Some(ms),
            _ => None,
        }
    }

    /// As a body asks for it. All of it may have a timeout, in milliseconds.
    pub(in super::super) fn request(self, code: &[u8], policy: PollPolicy, timeout: Option<u64>) -> Request {
        let mut parts = Vec::new();
        self.tree().push(&mut parts, code, policy);
        parts[0].timeout = timeout.map(Duration::from_millis);
        Request::Combined(parts)
    }

    /// As a gate.
    pub(super) fn gate(self) -> GateSpec {
        self.tree().gate("gate")
    }
}

impl Tree {
    fn push(self, parts: &mut Vec<PartRequest>, code: &[u8], policy: PollPolicy) -> usize {
        let at = parts.len();
        let mut add = |name: &str, part: Part| parts.push(PartRequest { name: name.into(), part, timeout: None });
        match self {
            Self::Signal(signal) => add(&signal_name(signal), Part::Message(address(signal))),
            Self::After(ms) => add("after", Part::After(Duration::from_millis(ms))),
            Self::Until => add("until", Part::Condition { proof: Some(code.into()), policy }),
            Self::Any(of) => {
                add("first of", Part::Any(Vec::new()));
                let of = of.map(|tree| tree.push(parts, code, policy));
                parts[at].part = Part::Any(of.into());
            }
            Self::All(of) => {
                add("all of", Part::All(Vec::new()));
                let of = of.map(|tree| tree.push(parts, code, policy));
                parts[at].part = Part::All(of.into());
            }
        }
        at
    }

    fn gate(self, name: &str) -> GateSpec {
        // The names of a gate's waits differ.
        let members = |of: [Box<Self>; 2]| {
            let [one, other] = of;
            vec![one.gate(&format!("{name}/1")), other.gate(&format!("{name}/2"))]
        };
        let until = match self {
            Self::Signal(signal) => GateUntil::Message(address(signal)),
            Self::After(ms) => GateUntil::After(Duration::from_millis(ms)),
            Self::Until => GateUntil::Condition,
            Self::Any(of) => GateUntil::Any(members(of)),
            Self::All(of) => GateUntil::All(members(of)),
        };
        GateSpec { name: name.into(), until, timeout: None }
    }
}

/// A gate that waits for one signal.
pub(super) fn signal_gate(signal: u8) -> GateSpec {
    GateSpec { name: "gate".into(), until: GateUntil::Message(address(signal)), timeout: None }
}

/// A wait for one signal, as a body asks for it.
pub(in super::super) fn signal_request(signal: u8, timeout: Option<u64>) -> (Arc<str>, Request) {
    let timeout = timeout.map(Duration::from_millis);
    (signal_name(signal).into(), Request::Message { address: address(signal), timeout })
}
