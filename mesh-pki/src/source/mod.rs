//! Where identity comes from: our own CA (`ca`), PEM files ([`files`]), a Pod certificate of
//! Kubernetes ([`mod@pod_certificate`]), a SPIFFE Workload API (`workload_api`) or a development CA (`dev`). Each `start` returns an [`Identity`]: a reader for
//! whatever needs SVIDs and bundles, and a task that keeps them fresh. Nothing is spawned: the
//! caller runs the task.
//!
//! Every source writes through the one [`IdentityWriter`]; all keep the last good value when their
//! own input is broken or gone. [`keep`] holds an SVID on disk over a reboot, and [`keys`] reads the
//! keys of tokens.

use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use crate::jwt::DynJwtIssuer;
use crate::store::{IdentityReader, IdentityWriter};

pub use pod_certificate::pod_certificate;

#[cfg(all(feature = "ca-client", any(feature = "aws-lc-rs", feature = "ring")))]
pub mod ca;
#[cfg(any(feature = "aws-lc-rs", feature = "ring"))]
pub mod dev;
pub mod files;
#[cfg(unix)]
pub mod keep;
pub mod keys;
pub mod pod_certificate;
#[cfg(feature = "workload-api")]
pub mod workload_api;

/// An identity and the task that keeps it fresh.
///
/// ```
/// # #[cfg(feature = "aws-lc-rs")]
/// # async fn start() -> Result<(), Box<dyn std::error::Error>> {
/// use inmesh_pki::source::files::FileSource;
/// use inmesh_pki::{Crypto, tls};
///
/// let crypto = Crypto::aws_lc_rs();
/// let identity = FileSource::in_dir("/run/identity".as_ref(), &crypto).start().await?;
/// tokio::spawn(identity.task);
/// identity.reader.ready().await?;
/// let client = tls::client_config(identity.reader, &crypto, &[b"h2"]);
/// # drop(client);
/// # Ok(())
/// # }
/// ```
#[derive(Debug)]
#[must_use = "an identity stays fresh only while its `task` runs"]
#[non_exhaustive]
pub struct Identity {
    /// The SVIDs and bundles of the moment; [`ready`](IdentityReader::ready) waits for the first
    /// SVID.
    pub reader: IdentityReader,
    /// The store behind `reader`, for what is written beside the source: bundles of foreign trust
    /// domains.
    pub writer: Arc<IdentityWriter>,
    /// Mints JWT-SVIDs for the IDs of the source, if it can.
    pub jwt: Option<DynJwtIssuer>,
    /// Keeps the identity fresh.
    pub task: IdentityTask,
}

/// The task of an [`Identity`]; runs until it is dropped or aborted.
///
/// It ends by itself only where the source can never give an identity again, and has logged why;
/// readers that wait for a first SVID get an error then.
#[must_use = "an identity stays fresh only while its task runs"]
pub struct IdentityTask(Pin<Box<dyn Future<Output = ()> + Send>>);

impl Identity {
    fn new(
        (writer, reader): (Arc<IdentityWriter>, IdentityReader),
        jwt: Option<DynJwtIssuer>,
        task: impl Future<Output = ()> + Send + 'static,
    ) -> Self {
        let source = Arc::clone(&writer);
        let task = async move {
            task.await;
            source.end();
        };
        Self {
            reader,
            writer,
            jwt,
            task: IdentityTask(Box::pin(task)),
        }
    }
}

impl Future for IdentityTask {
    type Output = ();

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        self.0.as_mut().poll(cx)
    }
}

impl fmt::Debug for IdentityTask {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("IdentityTask(..)")
    }
}
