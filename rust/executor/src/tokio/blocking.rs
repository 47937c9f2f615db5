//! Calls of the engine that may block.

use std::sync::Arc;

use bide_store::StoreError;

use super::closures::Closures;
use super::error::Error;
use crate::engine::Engine;

/// Does something that may block: elsewhere, if the store can take long.
pub(super) async fn blocking<R: Send + 'static>(
    engine: &Arc<Engine<Closures>>,
    act: impl FnOnce(&Arc<Engine<Closures>>) -> R + Send + 'static,
) -> Result<R, Error> {
    if !engine.dispatch().store_blocks {
        return Ok(act(engine));
    }
    let there = Arc::clone(engine);
    match engine.dispatch().runtime().spawn_blocking(move || act(&there)).await {
        Ok(done) => Ok(done),
        Err(failed) if failed.is_panic() => std::panic::resume_unwind(failed.into_panic()),
        Err(_) => Err(Error::Store(StoreError::Unavailable("the tokio runtime is shutting down".to_owned()))),
    }
}
