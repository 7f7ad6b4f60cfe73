//! The state and the keys of a CA in Secrets of a cluster: a [`Store`] by compare-and-swap.
//!
//! ```text
//! NAME                  the state with its version; a large one names a set of parts instead
//! NAME-part-SET-N       512 KiB of a large state
//! NAME-begun            the ids of the first keys, until the first state is there
//! NAME-key-ID           a key
//! ```
//!
//! The API server swaps: a write is made of the version of the object that was read, and is refused if
//! that is no longer the newest. Parts are written under a name of their own before the state names them,
//! so that two that write never mix theirs, and those of the state before are removed after.

use std::time::Duration;

use data_encoding::BASE64;
use inmesh_core::model::Namespace;
use inmesh_pki::ca::store::{MAX_STATE, Store, StoreError, Version};
use inmesh_pki::svid::PrivateKey;
use kube::Client;
use serde_json::{Value as Json, json};
use tokio::time::timeout;
use zeroize::Zeroizing;

use crate::kube::Cluster;

/// How long a request may take.
const TIME: Duration = Duration::from_secs(10);
/// The largest part of a state, in bytes: a Secret holds a MiB.
const PART: usize = 512 * 1024;
/// How often a state is read anew whose parts went while they were read.
const READS: usize = 5;
/// The label of a key, with the name of its CA.
const KEY_OF: &str = "inmesh.dev/ca-key-of";
/// The annotation of a state with its version, which is read without the state.
const VERSION: &str = "inmesh.dev/ca-version";
/// How an API server is asked for the metadata of an object alone.
const METADATA: &str = "application/json;as=PartialObjectMetadata;g=meta.k8s.io;v=v1";
/// Keys of a page.
const PAGE: usize = 500;

/// A [`Store`] in Secrets of a namespace. Its role needs `get`, `list`, `create`, `update` and `delete` on
/// Secrets there; a process that may read them has the keys of the CA.
///
/// Several processes may have it at once: of two that write, one is refused with
/// [`StoreError::Conflict`].
///
/// ```no_run
/// # async fn doc() -> Result<(), Box<dyn std::error::Error>> {
/// use inmesh_core::model::Namespace;
/// use inmesh_discovery::kube::{Cluster, SecretStore};
/// use inmesh_pki::ca::store::Store;
///
/// let store = SecretStore::of(&Cluster::infer().await?, &Namespace::new("mesh-system")?, "mesh-ca")?;
/// let state = store.load().await?;
/// # drop(state);
/// # Ok(())
/// # }
/// ```
#[derive(Clone)]
pub struct SecretStore {
    client: Client,
    namespace: Namespace,
    name: String,
}

/// The Secret of a state.
struct Head {
    version: Version,
    /// The version of the object, of which a change is made.
    object: String,
    content: Content,
}

/// Where the bytes of a state are.
enum Content {
    Here(Vec<u8>),
    Parts { set: String, count: usize },
}

// === impl SecretStore ===

impl SecretStore {
    /// The state of the CA of that name.
    ///
    /// # Errors
    ///
    /// [`InvalidName`](inmesh_core::model::InvalidName) if it is no DNS label (RFC 1123) of at most 63
    /// characters.
    pub fn of(
        cluster: &Cluster,
        namespace: &Namespace,
        name: &str,
    ) -> Result<Self, inmesh_core::model::InvalidName> {
        // Of names, a namespace has the rules of a label.
        Namespace::new(name)?;
        Ok(Self {
            client: cluster.client.clone(),
            namespace: namespace.clone(),
            name: name.to_owned(),
        })
    }

    fn path(&self, name: &str) -> String {
        let all = format!("/api/v1/namespaces/{}/secrets", self.namespace);
        match name {
            "" => all,
            name => format!("{all}/{name}"),
        }
    }

    fn secret(&self, name: &str, labels: &Json, data: &Json) -> Json {
        json!({
            "apiVersion": "v1", "kind": "Secret", "type": "Opaque",
            "metadata": {"name": name, "namespace": self.namespace.as_str(), "labels": labels},
            "data": data,
        })
    }

    /// Asks for something; `None` where it is not there.
    async fn ask(
        &self,
        method: http::Method,
        path: &str,
        body: &Json,
    ) -> Result<Option<Json>, StoreError> {
        self.ask_for("application/json", method, path, body).await
    }

    /// The same in another form.
    async fn ask_for(
        &self,
        form: &'static str,
        method: http::Method,
        path: &str,
        body: &Json,
    ) -> Result<Option<Json>, StoreError> {
        let failed = |reason: String, passes: bool| StoreError::Unavailable {
            what: path.to_owned(),
            reason,
            passes,
        };
        // It may hold a key.
        let body = match body {
            Json::Null => Zeroizing::new(String::new()),
            body => Zeroizing::new(body.to_string()),
        };
        let request = http::Request::builder().method(method).uri(path);
        let request = request.header(http::header::CONTENT_TYPE, "application/json");
        let request = request.header(http::header::ACCEPT, form);
        let request = request.body(body.as_bytes().to_vec());
        let request = request.map_err(|e| failed(e.to_string(), false))?;
        match timeout(TIME, self.client.request::<Json>(request)).await {
            Ok(Ok(answer)) => Ok(Some(answer)),
            Ok(Err(kube::Error::Api(status))) => match status.code {
                404 => Ok(None),
                409 => Err(StoreError::Conflict),
                code => {
                    let passes = code == 429 || code >= 500;
                    Err(failed(format!("{} ({code})", status.message), passes))
                }
            },
            Ok(Err(e)) => Err(failed(crate::kube::watch::root(&e), true)),
            Err(_) => {
                let reason = format!("no answer within {} s", TIME.as_secs());
                Err(failed(reason, true))
            }
        }
    }

    async fn get(&self, name: &str) -> Result<Option<Json>, StoreError> {
        self.ask(http::Method::GET, &self.path(name), &Json::Null)
            .await
    }

    async fn create(&self, secret: &Json) -> Result<(), StoreError> {
        let created = self.ask(http::Method::POST, &self.path(""), secret).await?;
        created.map(drop).ok_or_else(|| self.lost(""))
    }

    /// Writes a Secret whatever it was before.
    async fn write(&self, name: &str, secret: &Json) -> Result<(), StoreError> {
        match self.create(secret).await {
            Err(StoreError::Conflict) => {}
            done => return done,
        }
        let written = self
            .ask(http::Method::PUT, &self.path(name), secret)
            .await?;
        written.map(drop).ok_or_else(|| self.lost(name))
    }

    async fn delete(&self, name: &str) -> Result<(), StoreError> {
        let gone = self
            .ask(http::Method::DELETE, &self.path(name), &Json::Null)
            .await;
        gone.map(drop)
    }

    /// What was to be there is not: its namespace, or it was removed by another hand.
    fn lost(&self, name: &str) -> StoreError {
        StoreError::Unavailable {
            what: self.path(name),
            reason: "it is not there".to_owned(),
            passes: false,
        }
    }

    fn malformed(&self, name: &str) -> StoreError {
        StoreError::Malformed {
            path: self.path(name).into(),
        }
    }

    /// A field of a Secret.
    fn field(&self, secret: &Json, name: &str) -> Option<Zeroizing<Vec<u8>>> {
        let text = secret["data"][name].as_str()?;
        BASE64.decode(text.as_bytes()).ok().map(Zeroizing::new)
    }

    fn text(&self, secret: &Json, name: &str) -> Option<String> {
        let bytes = self.field(secret, name)?;
        String::from_utf8(bytes.to_vec()).ok()
    }

    async fn head(&self) -> Result<Option<Head>, StoreError> {
        let Some(secret) = self.get(&self.name).await? else {
            return Ok(None);
        };
        let number = |name: &str| self.text(&secret, name)?.parse::<u64>().ok();
        let content = match self.text(&secret, "set") {
            Some(set) => number("parts")
                .and_then(|count| usize::try_from(count).ok())
                .map(|count| Content::Parts { set, count }),
            None => self
                .field(&secret, "state")
                .map(|state| Content::Here(state.to_vec())),
        };
        let object = secret["metadata"]["resourceVersion"].as_str();
        match (number("version"), object, content) {
            (Some(version), Some(object), Some(content)) => Ok(Some(Head {
                version: Version(version),
                object: object.to_owned(),
                content,
            })),
            _ => Err(self.malformed(&self.name)),
        }
    }

    fn part(&self, set: &str, n: usize) -> String {
        format!("{}-part-{set}-{n}", self.name)
    }

    /// The bytes of a state; `None` where a part is not there (any longer).
    async fn content(&self, content: Content) -> Result<Option<Vec<u8>>, StoreError> {
        let (set, count) = match content {
            Content::Here(state) => return Ok(Some(state)),
            Content::Parts { set, count } => (set, count),
        };
        let mut state = Vec::new();
        for n in 0..count {
            let name = self.part(&set, n);
            let Some(secret) = self.get(&name).await? else {
                return Ok(None);
            };
            let part = self
                .field(&secret, "state")
                .ok_or_else(|| self.malformed(&name))?;
            state.extend_from_slice(&part);
            if state.len() > MAX_STATE {
                return Err(self.malformed(&name));
            }
        }
        Ok(Some(state))
    }

    /// Removes the parts of a state that does not serve.
    async fn clear(&self, content: &Content) {
        let Content::Parts { set, count } = content else {
            return;
        };
        for n in 0..*count {
            if let Err(error) = self.delete(&self.part(set, n)).await {
                tracing::warn!(%error, "a part of a state that does not serve is left");
            }
        }
    }

    /// Key ids are hexadecimal; nothing else becomes a name.
    fn key_name(&self, key_id: &str) -> Result<String, StoreError> {
        let plain = key_id
            .bytes()
            .all(|b| b.is_ascii_digit() || (b'a'..=b'f').contains(&b));
        if !plain || key_id.is_empty() || key_id.len() > 128 {
            return Err(StoreError::UnknownKey {
                key_id: key_id.to_owned(),
            });
        }
        Ok(format!("{}-key-{key_id}", self.name))
    }

    fn begun_name(&self) -> String {
        format!("{}-begun", self.name)
    }
}

impl std::fmt::Debug for SecretStore {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "SecretStore({}/{})", self.namespace, self.name)
    }
}

fn base64(bytes: &[u8]) -> Json {
    BASE64.encode(bytes).into()
}

impl Store for SecretStore {
    async fn load(&self) -> Result<Option<(Vec<u8>, Version)>, StoreError> {
        for _read in 0..READS {
            let Some(head) = self.head().await? else {
                return Ok(None);
            };
            if let Some(state) = self.content(head.content).await? {
                return Ok(Some((state, head.version)));
            }
            // Another has written since, and has removed them.
        }
        Err(self.malformed(&self.name))
    }

    async fn latest(&self) -> Result<Option<Version>, StoreError> {
        let path = self.path(&self.name);
        let found = self.ask_for(METADATA, http::Method::GET, &path, &Json::Null);
        let Some(found) = found.await? else {
            return Ok(None);
        };
        let written = found["metadata"]["annotations"][VERSION].as_str();
        match written.and_then(|version| version.parse().ok()) {
            Some(version) => Ok(Some(Version(version))),
            // An earlier version of this program wrote it.
            None => Ok(self.head().await?.map(|head| head.version)),
        }
    }

    async fn swap(&self, expected: Option<Version>, state: Vec<u8>) -> Result<Version, StoreError> {
        let (got, max) = (state.len(), MAX_STATE);
        if got > max {
            return Err(StoreError::TooLarge { got, max });
        }
        let before = self.head().await?;
        if before.as_ref().map(|head| head.version) != expected {
            return Err(StoreError::Conflict);
        }
        let next = Version(expected.map_or(0, |version| version.0) + 1);
        let mut data = json!({"version": base64(next.0.to_string().as_bytes())});
        let mut written = Content::Here(Vec::new());
        if got <= PART {
            data["state"] = base64(&state);
        } else {
            let set = format!("{:016x}", rand::random::<u64>());
            let parts = state.chunks(PART);
            data["set"] = base64(set.as_bytes());
            data["parts"] = base64(parts.len().to_string().as_bytes());
            written = Content::Parts {
                set: set.clone(),
                count: parts.len(),
            };
            for (n, part) in parts.enumerate() {
                let part = json!({"state": base64(part)});
                self.create(&self.secret(&self.part(&set, n), &json!({}), &part))
                    .await?;
            }
        }
        let mut secret = self.secret(&self.name, &json!({}), &data);
        secret["metadata"]["annotations"] = json!({ VERSION: next.0.to_string() });
        let swapped = match &before {
            None => self.create(&secret).await,
            Some(head) => {
                secret["metadata"]["resourceVersion"] = head.object.as_str().into();
                let swapped = self
                    .ask(http::Method::PUT, &self.path(&self.name), &secret)
                    .await;
                // Where it is gone, another hand has removed it since.
                swapped.and_then(|there| there.map(drop).ok_or(StoreError::Conflict))
            }
        };
        match (swapped, before) {
            (Ok(()), Some(before)) => self.clear(&before.content).await,
            (Ok(()), None) => {}
            // What failed in another way may have happened: its parts stay.
            (Err(error), _) => {
                if matches!(error, StoreError::Conflict) {
                    self.clear(&written).await;
                }
                return Err(error);
            }
        }
        Ok(next)
    }

    async fn begin(&self, key_ids: Vec<String>) -> Result<(), StoreError> {
        let data = json!({"keys": base64(key_ids.join("\n").as_bytes())});
        let name = self.begun_name();
        self.write(&name, &self.secret(&name, &json!({}), &data))
            .await
    }

    async fn begun(&self) -> Result<Vec<String>, StoreError> {
        let name = self.begun_name();
        let Some(secret) = self.get(&name).await? else {
            return Ok(Vec::new());
        };
        let text = self
            .text(&secret, "keys")
            .ok_or_else(|| self.malformed(&name))?;
        Ok(text.lines().map(str::to_owned).collect())
    }

    async fn finish(&self) -> Result<(), StoreError> {
        self.delete(&self.begun_name()).await
    }

    async fn keep_key(&self, key_id: &str, key: &PrivateKey) -> Result<(), StoreError> {
        let name = self.key_name(key_id)?;
        let labels = json!({ KEY_OF: self.name });
        let data = json!({"key.pem": base64(key.to_secret_pem().as_bytes())});
        self.write(&name, &self.secret(&name, &labels, &data)).await
    }

    async fn key(&self, key_id: &str) -> Result<PrivateKey, StoreError> {
        let name = self.key_name(key_id)?;
        let unknown = || StoreError::UnknownKey {
            key_id: key_id.to_owned(),
        };
        let secret = self.get(&name).await?.ok_or_else(unknown)?;
        let pem = self
            .field(&secret, "key.pem")
            .ok_or_else(|| self.malformed(&name))?;
        let path = || self.path(&name).into();
        PrivateKey::from_pem(&pem).map_err(|source| StoreError::Pem {
            path: path(),
            source,
        })
    }

    async fn key_ids(&self) -> Result<Vec<String>, StoreError> {
        let prefix = format!("{}-key-", self.name);
        let (mut found, mut more) = (Vec::new(), String::new());
        loop {
            // Names have no character that a query would escape; a token of a page may.
            let token: String = form_urlencoded::byte_serialize(more.as_bytes()).collect();
            let path = format!(
                "{}?limit={PAGE}&labelSelector=inmesh.dev%2Fca-key-of%3D{}&continue={token}",
                self.path(""),
                self.name
            );
            let page = self.ask(http::Method::GET, &path, &Json::Null).await?;
            let page = page.ok_or_else(|| self.lost(""))?;
            let names = page["items"].as_array().into_iter().flatten();
            let names = names.filter_map(|secret| secret["metadata"]["name"].as_str());
            found.extend(names.filter_map(|name| Some(name.strip_prefix(&prefix)?.to_owned())));
            more = page["metadata"]["continue"]
                .as_str()
                .unwrap_or_default()
                .to_owned();
            if more.is_empty() {
                return Ok(found);
            }
        }
    }

    async fn forget_keys(&self, key_ids: Vec<String>) -> Result<(), StoreError> {
        for key_id in key_ids {
            self.delete(&self.key_name(&key_id)?).await?;
        }
        Ok(())
    }
}
