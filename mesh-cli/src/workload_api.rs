//! The agent's own Workload API: identities for the processes beside it, from the agent's store.
//!
//! Which process gets which ID stands in the agent's file and is decided by what the kernel knows of it;
//! where the identities come from is the agent's own source.

use std::path::PathBuf;

use anyhow::Context;
use inmesh_pki::Crypto;
use inmesh_pki::clock::SystemClock;
use inmesh_pki::jwt::DynJwtIssuer;
use inmesh_pki::store::IdentityReader;
use inmesh_pki::workload_api::server::{Entry, Server, Socket};
use tokio::sync::oneshot;
use tokio::task::JoinHandle;

use crate::beside;

/// Every process of the machine may ask: the kernel identifies it.
const MODE: u32 = 0o777;

/// What is served, and to which processes.
#[derive(Debug)]
pub(crate) struct WorkloadApiConfig {
    pub(crate) listen: PathBuf,
    pub(crate) entries: Vec<Entry>,
}

impl WorkloadApiConfig {
    /// Listens, so that what is wrong shows at start.
    pub(crate) fn bind(&self) -> anyhow::Result<Socket> {
        Socket::bind(&self.listen, MODE)
            .with_context(|| format!("listening on {}", self.listen.display()))
    }

    /// Serves until the end of what is returned with how it is doing.
    pub(crate) fn serve(
        &self,
        socket: Socket,
        reader: IdentityReader,
        jwt: Option<DynJwtIssuer>,
        crypto: &Crypto,
    ) -> (beside::RunningWorkloadApi, ServingApi) {
        let entries = self.entries.clone();
        let clock = SystemClock::shared();
        let mut server = Server::new(entries, reader, crypto, clock);
        if let Some(issuer) = jwt {
            server = server.with_jwt_issuer(issuer);
        }
        tracing::info!(
            socket = %self.listen.display(),
            entries = self.entries.len(),
            "Workload API"
        );
        let running = beside::RunningWorkloadApi {
            socket: self.listen.clone(),
            entries: self.entries.len(),
            status: server.status(),
        };
        let (stop, stopped) = oneshot::channel::<()>();
        let served = tokio::spawn(server.serve(socket, async {
            let _gone = stopped.await;
        }));
        (running, ServingApi { stop, served })
    }
}

/// The Workload API as it serves; its streams end with an error that brings their clients back, once
/// this does.
#[derive(Debug)]
pub(crate) struct ServingApi {
    stop: oneshot::Sender<()>,
    served: JoinHandle<()>,
}

impl ServingApi {
    /// Ends all streams, and waits for that.
    pub(crate) async fn end(self) {
        let _gone = self.stop.send(());
        let _ended = self.served.await;
    }
}
