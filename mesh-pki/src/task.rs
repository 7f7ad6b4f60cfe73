//! A task and the moment of its end.

use std::future::Future;

/// Runs `work` until `shutdown` is ready, or until it ends by itself.
pub(crate) async fn until(shutdown: impl Future<Output = ()>, work: impl Future<Output = ()>) {
    tokio::select! {
        biased;
        () = shutdown => {}
        () = work => {}
    }
}
