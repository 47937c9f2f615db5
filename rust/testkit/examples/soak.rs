//! Plays as many simulated worlds as one likes: `soak SEEDS [FIRST]`. Ends at the first that breaks a guarantee.

use std::io::IsTerminal;
use std::process::ExitCode;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use bide_testkit::sim;

fn main() -> ExitCode {
    let mut arguments = std::env::args().skip(1).map(|argument| argument.parse::<u64>());
    let seeds = arguments.next().and_then(Result::ok).unwrap_or(10_000);
    let first = arguments.next().and_then(Result::ok).unwrap_or(0);
    let threads = std::thread::available_parallelism().map_or(1, |threads| threads.get() as u64);
    let (done, failed) = (AtomicU64::new(0), AtomicBool::new(false));
    std::thread::scope(|scope| {
        for thread in 0..threads {
            let (done, failed) = (&done, &failed);
            scope.spawn(move || {
                for seed in (first + thread..first + seeds).step_by(threads as usize) {
                    if failed.load(Ordering::Relaxed) {
                        return;
                    }
                    if let Err(report) = sim::check_seed(seed).and_then(|_| sim::check_ticks(seed)) {
                        failed.store(true, Ordering::Relaxed);
                        eprintln!("\n{report}");
                    }
                    let done = done.fetch_add(1, Ordering::Relaxed) + 1;
                    if done.is_multiple_of(1000) && std::io::stderr().is_terminal() {
                        eprint!("\r{done} of {seeds} worlds");
                    }
                }
            });
        }
    });
    println!("{} worlds from seed {first}", done.load(Ordering::Relaxed));
    if failed.load(Ordering::Relaxed) { ExitCode::FAILURE } else { ExitCode::SUCCESS }
}
