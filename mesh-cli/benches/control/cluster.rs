//! The objects of a cluster, and changes of them.

use std::collections::HashMap;
use std::path::Path;
use std::pin::pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use futures_util::stream::{self, StreamExt, TryStreamExt};
use k8s_openapi::api::core::v1::Service;
use k8s_openapi::api::discovery::v1::EndpointSlice;
use kube::api::{Api, ListParams, Patch, PatchParams, PostParams, WatchEvent, WatchParams};
use kube::config::{KubeConfigOptions, Kubeconfig};
use kube::{Client, Config};
use serde_json::{from_value, json};
use tokio::task::JoinHandle;
use tokio::time::Instant;

use super::Fallible;

/// Objects that are made at once.
const AT_ONCE: usize = 32;
/// The port of every endpoint before it is changed.
const PORT: u16 = 8_080;

pub(crate) struct Cluster {
    client: Client,
    services: usize,
}

/// One change: which slice, and the port that it then has.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) struct Change {
    pub(crate) service: usize,
    pub(crate) port: u16,
}

/// A watch of all slices; it ends with this.
pub(crate) struct Watch {
    heard: Arc<Mutex<HashMap<Change, Instant>>>,
    task: JoinHandle<()>,
}

pub(crate) fn name(service: usize) -> String {
    format!("s{service}")
}

// === impl Cluster ===

impl Cluster {
    pub(crate) async fn new(kubeconfig: &Path, services: usize) -> Fallible<Self> {
        let file = Kubeconfig::read_from(kubeconfig)?;
        let config = Config::from_custom_kubeconfig(file, &KubeConfigOptions::default()).await?;
        let client = Client::try_from(config)?;
        Ok(Self { client, services })
    }

    fn slices(&self) -> Api<EndpointSlice> {
        Api::namespaced(self.client.clone(), "default")
    }

    /// Makes all Services with their slices.
    pub(crate) async fn fill(&self, endpoints: usize) -> Fallible<()> {
        let services: Api<Service> = Api::namespaced(self.client.clone(), "default");
        let (services, slices) = (&services, &self.slices());
        let made = stream::iter(0..self.services).map(async |n| {
            let name = name(n);
            let service = from_value(json!({
                "metadata": {"name": name},
                "spec": {"clusterIP": "None", "ports": [{"name": "http", "port": 80, "appProtocol": "http"}]},
            }))?;
            services.create(&PostParams::default(), &service).await?;
            let address = |e: usize| format!("10.{}.{}.{}", n / 250 + 1, n % 250, e + 1);
            let ready = json!({"ready": true, "serving": true, "terminating": false});
            let endpoints: Vec<_> = (0..endpoints)
                .map(|e| json!({"addresses": [address(e)], "conditions": ready, "nodeName": format!("n{e}")}))
                .collect();
            let slice = from_value(json!({
                "metadata": {"name": name, "labels": {"kubernetes.io/service-name": name},
                    "annotations": {"inmesh.dev/transport": "mesh",
                        "inmesh.dev/ids": format!("spiffe://cluster.local/ns/default/sa/{name}")}},
                "addressType": "IPv4", "ports": [{"name": "http", "port": PORT}], "endpoints": endpoints,
            }))?;
            slices.create(&PostParams::default(), &slice).await?;
            Fallible::Ok(())
        });
        made.buffer_unordered(AT_ONCE).try_collect().await
    }

    /// Follows all slices as they change from now on.
    pub(crate) async fn watch(&self) -> Fallible<Watch> {
        let slices = self.slices();
        let listed = slices.list(&ListParams::default().limit(1)).await?;
        let from = listed
            .metadata
            .resource_version
            .ok_or("a list has a version")?;
        let heard = Arc::<Mutex<HashMap<_, _>>>::default();
        let to = Arc::clone(&heard);
        let task = tokio::spawn(async move {
            let Ok(events) = slices.watch(&WatchParams::default(), &from).await else {
                return;
            };
            let mut events = pin!(events);
            while let Some(Ok(event)) = events.next().await {
                if let WatchEvent::Modified(slice) = event
                    && let Some(change) = of(&slice)
                {
                    let mut heard = to.lock().unwrap_or_else(PoisonError::into_inner);
                    heard.entry(change).or_insert_with(Instant::now);
                }
            }
        });
        Ok(Watch { heard, task })
    }

    /// Changes one slice after the other at a rate; returns what was changed when.
    pub(crate) async fn patch(&self, rate: u32, changes: u32) -> Fallible<Vec<(Change, Instant)>> {
        let slices = self.slices();
        let begun = Instant::now();
        let each = Duration::from_secs(1) / rate;
        let patched = stream::iter(0..changes).map(|nth| {
            let slices = &slices;
            async move {
                tokio::time::sleep_until(begun + each * nth).await;
                let nth = usize::try_from(nth)?;
                let change = Change {
                    service: nth * 7 % self.services,
                    port: u16::try_from(10_000 + nth % 50_000)?,
                };
                let patch = json!({"ports": [{"name": "http", "port": change.port}]});
                let at = Instant::now();
                let (name, patch) = (name(change.service), Patch::Merge(patch));
                slices.patch(&name, &PatchParams::default(), &patch).await?;
                Fallible::Ok((change, at))
            }
        });
        patched.buffer_unordered(AT_ONCE).try_collect().await
    }
}

fn of(slice: &EndpointSlice) -> Option<Change> {
    let name = slice.metadata.name.as_deref()?.strip_prefix('s')?;
    let port = slice.ports.as_ref()?.first()?.port?;
    Some(Change {
        service: name.parse().ok()?,
        port: u16::try_from(port).ok()?,
    })
}

// === impl Watch ===

impl Watch {
    pub(crate) fn heard(&self) -> HashMap<Change, Instant> {
        self.heard
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clone()
    }
}

impl Drop for Watch {
    fn drop(&mut self) {
        self.task.abort();
    }
}
