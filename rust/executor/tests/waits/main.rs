//! Every driver of waits in this crate follows the attempt machine: the suite of `bide_testkit::waits`.
#![expect(clippy::unwrap_used, reason = "tests")]

mod closures;
mod threads;

use bide_testkit::waits;

#[test]
fn worker_threads_are_a_driver_of_waits() {
    waits::run(&threads::Threads);
}

#[test]
fn closures_on_tokio_are_a_driver_of_waits() {
    waits::run(&closures::OnTokio);
}
