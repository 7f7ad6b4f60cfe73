//! Addresses that are known while a look-up still waits for others: a name of which nothing is known
//! yet is served with them at once, so that one silent family holds up nothing.

use std::future::Future;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use inmesh_core::model::{Host, HostAddress};
use tokio::sync::mpsc;
use tokio::time::timeout;

/// Sends what one look-up knows before its end.
#[derive(Debug, Clone)]
pub(super) struct Early {
    host: Host,
    /// All that was sent so far, of every target.
    sent: Arc<Mutex<Vec<HostAddress>>>,
    to: mpsc::Sender<(Host, Vec<HostAddress>)>,
}

impl Early {
    pub(super) fn new(host: &Host, to: &mpsc::Sender<(Host, Vec<HostAddress>)>) -> Self {
        Self {
            host: host.clone(),
            sent: Arc::default(),
            to: to.clone(),
        }
    }

    /// Waits for `rest`, and sends what was `found` if that takes longer than `wait`.
    pub(super) async fn unless_soon<F>(
        &self,
        wait: Duration,
        found: Vec<HostAddress>,
        rest: F,
    ) -> F::Output
    where
        F: Future + Unpin,
    {
        let mut rest = rest;
        if !found.is_empty()
            && let Ok(soon) = timeout(wait, &mut rest).await
        {
            return soon;
        }
        self.send(found);
        rest.await
    }

    /// Sends addresses. Where the driver is busy it is left out: the end of the look-up says it.
    pub(super) fn send(&self, found: Vec<HostAddress>) {
        if found.is_empty() {
            return;
        }
        let mut sent = self.sent.lock().unwrap_or_else(PoisonError::into_inner);
        sent.extend(found);
        let _full = self.to.try_send((self.host.clone(), sent.clone()));
    }
}
