//! The state and the clock in, a line in the log out whenever a certificate's end becomes urgent.
//!
//! What is urgent is decided in [`expiry`](super::expiry). Each certificate is logged once for a
//! warning and once for an error, however long both last.

use std::collections::BTreeMap;
use std::future::Future;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use tokio::time::sleep;

use super::expiry::{CertificateKind, Urgency, expiries};
use crate::clock::Clock;
use crate::store::IdentityReader;
use crate::time;

/// How often the clock is looked at, which may jump.
const LOOK: Duration = Duration::from_secs(30);

/// Watches everything in the state that ends, until `shutdown` is ready.
pub async fn watch_expiry(
    mut reader: IdentityReader,
    clock: Arc<dyn Clock>,
    shutdown: impl Future<Output = ()>,
) {
    let mut shutdown = pin!(shutdown);
    let mut logged: BTreeMap<(CertificateKind, String, String), Urgency> = BTreeMap::new();
    let mut ended = false;
    loop {
        let (all, now) = (expiries(&reader.load()), clock.now());
        let mut still = BTreeMap::new();
        let mut next = LOOK;
        for expiry in all {
            let urgency = expiry.urgency(now);
            if let Some(change) = expiry.next_change(now) {
                next = next.min(change.duration_since(now).unwrap_or_default());
            }
            let key = (expiry.kind, expiry.id, expiry.key_id);
            let before = logged.get(&key).copied().unwrap_or(Urgency::Fine);
            if urgency > before {
                let ((kind, id, key_id), ends) = (&key, time::utc(expiry.not_after));
                let kind = kind.as_str();
                if urgency == Urgency::Error {
                    tracing::error!(kind, %id, %key_id, %ends, "a certificate is about to end");
                } else {
                    tracing::warn!(kind, %id, %key_id, %ends, "a certificate ends soon");
                }
            }
            still.insert(key, urgency);
        }
        logged = still;
        tokio::select! {
            () = &mut shutdown => return,
            changed = reader.changed(), if !ended => ended = changed.is_err(),
            () = sleep(next.max(Duration::from_millis(100))) => {}
        }
    }
}
