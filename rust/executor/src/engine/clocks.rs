//! The engine's clocks, as the attempt machine asks for them.

use std::time::Duration;

use bide_core::Time;
use bide_core::attempt::Clocks;

use crate::engine::Engine;
use crate::host::Host;

impl<H: Host> Clocks for Engine<H> {
    fn wall(&self) -> Time {
        self.now()
    }

    fn steady(&self) -> Duration {
        self.control.clock.steady()
    }

    fn random(&self) -> f64 {
        self.ids.random()
    }

    fn polled(&self) {
        self.control.meter.polled();
    }
}

/// An engine's clocks at a moment whose steady time was read already.
pub(crate) struct At<'a, H: Host> {
    /// The engine, for its other clocks and its random numbers.
    pub(crate) engine: &'a Engine<H>,
    /// The steady time at that moment.
    pub(crate) steady: Duration,
}

impl<H: Host> Clocks for At<'_, H> {
    fn wall(&self) -> Time {
        self.engine.now()
    }

    fn steady(&self) -> Duration {
        self.steady
    }

    fn random(&self) -> f64 {
        self.engine.random()
    }

    fn polled(&self) {
        self.engine.polled();
    }
}
