//! Calls of the engine that may block.

use std::sync::Arc;

use bide_store::StoreError;
use tokio::sync::oneshot;
use tokio::task::JoinHandle;

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
    let (there, (sender, mut receiver)) = (Arc::clone(engine), oneshot::channel());
    let done = elsewhere(engine, Box::new(move || drop(sender.send(act(&there))))).await;
    match (receiver.try_recv(), done) {
        (Ok(answer), _) => Ok(answer),
        (Err(_), Err(failed)) if failed.is_panic() => std::panic::resume_unwind(failed.into_panic()),
        (Err(_), _) => Err(Error::Store(StoreError::Unavailable("the tokio runtime is shutting down".to_owned()))),
    }
}

/// One function for all that blocks: it would be compiled again for each, in the crate of the caller.
fn elsewhere(engine: &Engine<Closures>, act: Box<dyn FnOnce() + Send>) -> JoinHandle<()> {
    engine.dispatch().runtime().spawn_blocking(act)
}
