//! Background services: each has one file, and a loop on a thread of its own.
//!
//! All keep one contract: a service is started once; it reports when its loop is up; it can be stopped at any time,
//! also before its loop is up, and twice.

pub(crate) mod committer;
pub(crate) mod lease;
pub(crate) mod limits;
pub(crate) mod retention;
pub(crate) mod schedules;
pub(crate) mod timers;

use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::Duration;

use bide_sync::{Condvar, Mutex};

/// A loop on a thread of its own.
pub(crate) trait Service: Send + Sync + 'static {
    /// The name of its thread.
    fn name(&self) -> &'static str;

    /// The loop. Returns after [`Service::stop`]; reports to `started` before it waits for the first time.
    fn run(&self, started: &Signal);

    /// Ends the loop, soon and without waiting for that. Twice is fine.
    fn stop(&self);
}

/// A flag that is set once and can be waited for.
#[derive(Default)]
pub(crate) struct Signal {
    /// Whether it is set.
    is_set: Mutex<bool>,
    /// Notified when it is set.
    changed: Condvar,
}

impl Signal {
    /// Sets it. Twice is fine.
    pub(crate) fn set(&self) {
        *self.is_set.lock() = true;
        self.changed.notify_all();
    }

    pub(crate) fn is_set(&self) -> bool {
        *self.is_set.lock()
    }

    /// Waits until it is set, at most for a span. Returns whether it is.
    pub(crate) fn wait_for(&self, span: Duration) -> bool {
        let mut is_set = self.is_set.lock();
        if !*is_set {
            self.changed.wait_for(&mut is_set, span);
        }
        *is_set
    }
}

/// The services of an engine that run, in the order in which they were started.
#[derive(Default)]
pub(crate) struct Services(Mutex<Vec<Running>>);

struct Running {
    /// The service, to stop it.
    service: Arc<dyn Service>,
    /// Set once the loop is up.
    #[cfg(test)]
    started: Arc<Signal>,
    /// Its thread, to join it.
    thread: JoinHandle<()>,
}

impl Services {
    /// Starts a service. `guard` runs the loop, and sees its panics.
    ///
    /// # Errors
    /// If the system gives no thread.
    pub(crate) fn start(
        &self,
        service: Arc<dyn Service>,
        guard: impl FnOnce(&mut dyn FnMut()) + Send + 'static,
    ) -> std::io::Result<()> {
        let started = Arc::new(Signal::default());
        let (looping, up) = (Arc::clone(&service), Arc::clone(&started));
        let body = move || guard(&mut || looping.run(&up));
        let thread = std::thread::Builder::new().name(service.name().to_owned()).spawn(body)?;
        self.0.lock().push(Running {
            service,
            #[cfg(test)]
            started,
            thread,
        });
        Ok(())
    }

    /// Stops all and waits until their loops have ended; not for the thread that calls. Twice is fine.
    pub(crate) fn stop(&self) {
        let running = std::mem::take(&mut *self.0.lock());
        for each in &running {
            each.service.stop();
        }
        let me = std::thread::current().id();
        for each in running {
            if each.thread.thread().id() != me {
                let _ = each.thread.join();
            }
        }
    }
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "tests")]
mod tests {
    use std::sync::atomic::{AtomicU32, Ordering};

    use super::*;

    const HANG: Duration = Duration::from_secs(30);

    /// A service that waits until it is stopped, or fails.
    #[derive(Default)]
    struct Waits {
        stop: Signal,
        ended: AtomicU32,
        panics: bool,
    }

    impl Service for Waits {
        fn name(&self) -> &'static str {
            "bide-test"
        }

        fn run(&self, started: &Signal) {
            started.set();
            assert!(!self.panics, "asked for");
            assert!(self.stop.wait_for(HANG), "it is never stopped");
            self.ended.fetch_add(1, Ordering::SeqCst);
        }

        fn stop(&self) {
            self.stop.set();
        }
    }

    fn plain(body: &mut dyn FnMut()) {
        body();
    }

    #[test]
    fn a_service_reports_that_it_is_up_and_ends_when_it_is_stopped() {
        let (services, service) = (Services::default(), Arc::new(Waits::default()));
        services.start(Arc::clone(&service) as Arc<dyn Service>, plain).unwrap();
        let started = Arc::clone(&services.0.lock()[0].started);
        assert!(started.wait_for(HANG));
        assert_eq!(service.ended.load(Ordering::SeqCst), 0);
        services.stop();
        assert_eq!(service.ended.load(Ordering::SeqCst), 1);
        services.stop();
        service.stop();
        assert_eq!(service.ended.load(Ordering::SeqCst), 1);
    }

    #[test]
    fn a_service_that_is_stopped_before_its_start_ends_at_once() {
        let (services, service) = (Services::default(), Arc::new(Waits::default()));
        service.stop();
        services.start(Arc::clone(&service) as Arc<dyn Service>, plain).unwrap();
        services.stop();
        assert_eq!(service.ended.load(Ordering::SeqCst), 1);
    }

    #[test]
    fn the_guard_sees_the_panic_of_a_service() {
        let services = Services::default();
        let seen = Arc::new(Signal::default());
        let report = Arc::clone(&seen);
        let guard = move |body: &mut dyn FnMut()| {
            if crate::panic::no_panic(body).is_err() {
                report.set();
            }
        };
        services.start(Arc::new(Waits { panics: true, ..Waits::default() }), guard).unwrap();
        assert!(seen.wait_for(HANG));
        services.stop();
    }

    #[test]
    fn a_thread_that_stops_the_services_does_not_wait_for_itself() {
        let services = Arc::new(Services::default());
        let [listed, done] = [(); 2].map(|()| Arc::new(Signal::default()));
        let (inside, go, report) = (Arc::clone(&services), Arc::clone(&listed), Arc::clone(&done));
        let guard = move |_: &mut dyn FnMut()| {
            assert!(go.wait_for(HANG));
            inside.stop();
            report.set();
        };
        services.start(Arc::new(Waits::default()), guard).unwrap();
        listed.set();
        assert!(done.wait_for(HANG));
    }
}
