//! Tasks with a limit on worker threads: however often their process dies, no body is entered beside another, and
//! nothing stays in use.

use std::sync::Arc;

use bide_executor::core::LimitSpec;
use bide_executor::store::Store;
use bide_executor::{CallError, Clock, TaskLimit};

use crate::threads::{Body, on_threads, task};
use crate::world::{Came, Ledger, at_every_call_counting};

/// The names of tasks with a limit begin so.
const LIMITED: &str = "limited ";

/// One attempt in flight.
pub(crate) fn limit_of(task: &str) -> Option<&'static TaskLimit> {
    static LIMIT: std::sync::LazyLock<TaskLimit> = std::sync::LazyLock::new(|| {
        let spec = LimitSpec { name: "one".into(), executing: Some(1), in_flight: Some(1), rate: None, key: None };
        TaskLimit { spec, key: None }
    });
    task.starts_with(LIMITED).then(|| &*LIMIT)
}

#[test]
fn a_limit_is_kept_and_does_not_leak_wherever_a_process_dies() {
    fn works(body: &mut Body<'_>) -> Result<u32, CallError> {
        body.wait("first")?;
        let number = body.step("step", 7)?;
        body.wait("second")?;
        Ok(number)
    }
    at_every_call_counting(&|_| false, &|store: Arc<dyn Store>, ledger: &Arc<Ledger>| -> Option<Came> {
        let tasks = vec![task("limited a", &[], works), task("limited b", &[], works), task("free", &[], |_| Ok(1))];
        let came = on_threads(Arc::clone(&store), ledger, tasks, 3)?;
        let limits = store.limits(ledger.clock.now()).unwrap_or_default();
        let used = limits.iter().flat_map(|info| &info.uses).find(|used| used.executing + used.in_flight > 0);
        assert_eq!(used, None);
        Some(came)
    });
}
