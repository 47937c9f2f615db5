//! The simulator carries out waits as every driver does.

use bide_testkit::sim::Simulated;
use bide_testkit::waits;

#[test]
fn the_simulator_is_a_driver_of_waits() {
    waits::run(&Simulated);
}
