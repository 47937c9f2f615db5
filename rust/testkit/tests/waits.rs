//! The simulator passes the conformance suite for drivers of waits.

use bide_testkit::sim::Simulated;
use bide_testkit::waits;

#[test]
fn the_simulator_is_a_driver_of_waits() {
    waits::run(&Simulated);
}
