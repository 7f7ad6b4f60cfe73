//! A Pod as it finds itself: what is mounted in, the builder of its mesh out.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use data_encoding::BASE64URL_NOPAD;
use inmesh_core::authorize::DefaultAction;
use inmesh_core::model::{InvalidName, Namespace, Workload};
use inmesh_core::runtime::{MeshBuilder, WantsIdentity, WantsNothing};
use inmesh_pki::Crypto;
use inmesh_pki::id::{IdError, SpiffeId, TrustDomain};
use inmesh_pki::source::Identity;
use inmesh_pki::source::ca::{CaSource, CaSourceError};
use inmesh_pki::source::files::FileError;
use inmesh_pki::source::pod_certificate::{MOUNTED, PodCertificate, ROOTS_FILE};
use serde_json::Value as Json;

use crate::control::ControlSource;
use crate::layout::{CA, CA_PORT, CONTROL, CONTROL_PORT, SYSTEM};
use crate::manifest::Defaults;

/// The most bytes that are read of a mounted file.
const MAX: usize = 1 << 20;

/// A Pod of the mesh, as it is found where it runs.
///
/// Three files are mounted in `/var/run/secrets/inmesh.dev`: `token`, a service-account token for the CA's audience
/// (a `projected` volume, `serviceAccountToken`); `ca.crt`, the roots of the CA (the ConfigMap `mesh-root`); and
/// `labels`, the labels of the Pod (`downwardAPI`), by which policies select it. Namespace and service
/// account are those of the token.
///
/// Where the kubelet keeps a Pod certificate there too, in the file `credentials.pem` (`podCertificate` with the
/// signer `inmesh.dev/ca`), that is the identity, which says trust domain, namespace and service account, and
/// `token` is not looked at. It needs no [`keep`](Self::keep), and no CA to answer at a start.
///
/// ```
/// use inmesh_discovery::embed::Pod;
/// let pod = Pod::new().named("cart").keep("/var/lib/inmesh");
/// # drop(pod);
/// ```
#[derive(Debug, Clone)]
#[must_use]
pub struct Pod {
    trust_domain: Option<TrustDomain>,
    system: String,
    mounted: PathBuf,
    name: Option<String>,
    labels: Option<Vec<(String, String)>>,
    default_action: DefaultAction,
    keep: Option<PathBuf>,
    ca: Option<String>,
    control: Option<String>,
    account: Option<(String, String)>,
}

/// Why a process is no Pod of the mesh.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum PodError {
    /// The CA cannot be asked.
    #[error(transparent)]
    Ca(#[from] CaSourceError),
    /// An ID cannot be made of what was found.
    #[error(transparent)]
    Id(#[from] IdError),
    /// A name that was found or given is invalid.
    #[error(transparent)]
    Name(#[from] InvalidName),
    /// No cryptography was given, and no feature brings one.
    #[error("no crypto provider: call crypto() or enable the feature aws-lc-rs or ring")]
    NoCrypto,
    /// The Pod certificate is of another workload or trust domain than was given.
    #[error("the Pod certificate is of {got}, which is not {what}")]
    Certificate {
        /// The ID in it.
        got: SpiffeId,
        /// What it should be.
        what: String,
    },
    /// The files of the Pod certificate cannot be used.
    #[error("the Pod certificate cannot be used")]
    Files(#[from] FileError),
    /// A file that a Pod of the mesh has mounted cannot be read.
    #[error("{} cannot be read: is it mounted? ({what})", path.display())]
    NotMounted {
        /// The file.
        path: PathBuf,
        /// What it should be.
        what: &'static str,
        /// What the system says.
        #[source]
        source: io::Error,
    },
    /// A file holds something else than it should.
    #[error("{} is not {what}", path.display())]
    Garbled {
        /// The file.
        path: PathBuf,
        /// What it should be.
        what: &'static str,
    },
}

/// The token's file.
const TOKEN_FILE: &str = "token";
/// What the token is.
const TOKEN: &str = "a service-account token for the CA";
/// What the roots are.
const ROOTS: &str = "the roots of the CA, as PEM";
/// What the labels are.
const LABELS: &str = "the labels of the Pod, as the downward API writes them";

// === impl Pod ===

impl Default for Pod {
    fn default() -> Self {
        Self::new()
    }
}

impl Pod {
    /// The Pod that this process runs in, of the trust domain `cluster.local`.
    pub fn new() -> Self {
        Self {
            trust_domain: None,
            system: SYSTEM.to_owned(),
            mounted: MOUNTED.into(),
            name: None,
            labels: None,
            default_action: DefaultAction::Allow,
            keep: None,
            ca: None,
            control: None,
            account: None,
        }
    }

    /// The same of another trust domain.
    pub fn trust_domain(mut self, trust_domain: TrustDomain) -> Self {
        self.trust_domain = Some(trust_domain);
        self
    }

    /// The same with the CA and the control plane in another namespace than `mesh-system`; its policies
    /// govern all namespaces.
    pub fn system_namespace(mut self, namespace: &str) -> Self {
        self.system = namespace.into();
        self
    }

    /// The same under a name, for metrics and logs. Default: that of the service account.
    pub fn named(mut self, name: &str) -> Self {
        self.name = Some(name.into());
        self
    }

    /// The same with these labels instead of those that are mounted.
    pub fn labels<'a>(mut self, labels: impl IntoIterator<Item = (&'a str, &'a str)>) -> Self {
        let labels = labels.into_iter();
        self.labels = Some(labels.map(|(k, v)| (k.to_owned(), v.to_owned())).collect());
        self
    }

    /// The same with what happens to requests that no ALLOW policy is about. Default: they are allowed.
    pub fn default_action(mut self, action: DefaultAction) -> Self {
        self.default_action = action;
        self
    }

    /// The same, which keeps its identity and its configuration in a folder over a restart of the
    /// container, to start from while the CA and the control plane are away.
    pub fn keep(mut self, dir: impl Into<PathBuf>) -> Self {
        self.keep = Some(dir.into());
        self
    }

    /// The same with the CA at another address (`host:port`).
    pub fn ca(mut self, address: &str) -> Self {
        self.ca = Some(address.into());
        self
    }

    /// The same with the control plane at another address (`host:port`).
    pub fn control_plane(mut self, address: &str) -> Self {
        self.control = Some(address.into());
        self
    }

    /// The same with the files mounted in another folder.
    pub fn mounted_in(mut self, dir: impl Into<PathBuf>) -> Self {
        self.mounted = dir.into();
        self
    }

    /// The same with a namespace and a service account, where the token does not say them: a join token,
    /// say.
    pub fn account(mut self, namespace: &str, account: &str) -> Self {
        self.account = Some((namespace.into(), account.into()));
        self
    }

    /// The builder of its mesh. Its identity is obtained by a task of the runtime.
    pub(super) async fn build(
        self,
        builder: MeshBuilder<WantsIdentity>,
    ) -> Result<MeshBuilder<WantsNothing>, PodError> {
        let crypto = builder.cryptography().ok_or(PodError::NoCrypto)?.clone();
        let certificate = PodCertificate::mounted_in(&self.mounted);
        let own = match certificate.is_mounted() {
            true => self.by_certificate(&certificate, &crypto).await?,
            false => self.by_token()?,
        };
        let (domain, account) = (&own.domain, &own.account);
        let labels = match &self.labels {
            Some(labels) => labels.clone(),
            None => {
                let path = self.mounted.join("labels");
                let text = read(&path, LABELS)?;
                labels_of(&text).ok_or(PodError::Garbled { path, what: LABELS })?
            }
        };
        let name = self.name.as_deref().unwrap_or(account);
        let workload = Workload::new(&own.namespace, name, account)?;
        let workload = labels
            .iter()
            .fold(workload, |w, (key, value)| w.label(key, value));
        let system = Namespace::new(&self.system)?;
        let control = SpiffeId::for_workload(domain, &self.system, CONTROL)?;
        let at = |name: &str, port: u16| format!("{name}.{system}.svc:{port}");
        let ca_at = self.ca.unwrap_or_else(|| at(CA, CA_PORT));
        let control_at = self.control.unwrap_or_else(|| at(CONTROL, CONTROL_PORT));
        let identity = match own.identity {
            Some(identity) => identity,
            None => {
                let id = workload.spiffe_id(domain)?;
                let source = CaSource::new(id, ca_at, ca_id(domain)?)
                    .trust_bundle(self.mounted.join(ROOTS_FILE))
                    .token(self.mounted.join(TOKEN_FILE));
                let source = match &self.keep {
                    #[cfg(unix)]
                    Some(dir) => source.keep(dir.join("identity")),
                    _ => source,
                };
                source.start(&crypto).await?
            }
        };
        tokio::spawn(identity.task);
        let defaults = Defaults::new(workload.namespace.clone());
        let reader = identity.reader.clone();
        let control = ControlSource::new(control_at, control, reader, crypto, defaults);
        let control = control.instance(name);
        let control = match &self.keep {
            Some(dir) => control.keep(dir.join("control.state")),
            None => control,
        };
        let builder = builder.identity(identity.reader);
        let builder = builder.workload(workload, self.default_action);
        Ok(builder.mesh_namespace(system).source(control))
    }

    /// What the token says; its identity is asked for later.
    fn by_token(&self) -> Result<Own, PodError> {
        let token = self.mounted.join(TOKEN_FILE);
        let text = read(&token, TOKEN)?;
        let (namespace, account) = match &self.account {
            Some(account) => account.clone(),
            None => account_of(&text).ok_or_else(|| PodError::Garbled {
                path: token.clone(),
                what: TOKEN,
            })?,
        };
        let _there = read(&self.mounted.join(ROOTS_FILE), ROOTS)?;
        let domain = match &self.trust_domain {
            Some(domain) => domain.clone(),
            None => "cluster.local".parse()?,
        };
        Ok(Own {
            domain,
            namespace,
            account,
            identity: None,
        })
    }

    /// The Pod certificate, and what it says. It may be replaced by one of the same ID alone.
    async fn by_certificate(
        &self,
        certificate: &PodCertificate,
        crypto: &Crypto,
    ) -> Result<Own, PodError> {
        // It is loaded once for its ID, and again to be followed.
        let source = certificate.source(crypto);
        let first = tokio::task::spawn_blocking(move || source.load());
        let first = first
            .await
            .unwrap_or_else(|e| std::panic::resume_unwind(e.into_panic()))?;
        let svid = first.default_svid().map(|svid| svid.id().clone());
        let Some(id) = svid else {
            unreachable!("what is loaded has an SVID");
        };
        let not = |what: String| PodError::Certificate {
            got: id.clone(),
            what,
        };
        let Some((namespace, account)) = id.workload() else {
            return Err(not("that of a service account".into()));
        };
        if let Some((namespace, account)) = self
            .account
            .as_ref()
            .filter(|given| (given.0.as_str(), given.1.as_str()) != (namespace, account))
        {
            return Err(not(format!("of {namespace}/{account}")));
        }
        if let Some(domain) = self
            .trust_domain
            .as_ref()
            .filter(|domain| *domain != id.trust_domain())
        {
            return Err(not(format!("of the trust domain {domain}")));
        }
        let source = certificate.source(crypto).with_id_path(id.path());
        Ok(Own {
            domain: id.trust_domain().clone(),
            namespace: namespace.to_owned(),
            account: account.to_owned(),
            identity: Some(source.start().await?),
        })
    }
}

/// What a Pod is, by what is mounted.
struct Own {
    domain: TrustDomain,
    namespace: String,
    account: String,
    /// Its identity, where that is mounted itself.
    identity: Option<Identity>,
}

/// The ID of the CA of a trust domain, as `mesh ca serve` has it.
fn ca_id(domain: &TrustDomain) -> Result<SpiffeId, IdError> {
    format!("spiffe://{domain}/inmesh/ca").parse()
}

fn read(path: &Path, what: &'static str) -> Result<String, PodError> {
    let failed = |source| PodError::NotMounted {
        path: path.to_owned(),
        what,
        source,
    };
    let text = fs::read_to_string(path).map_err(failed)?;
    match text.len() <= MAX && !text.trim().is_empty() {
        true => Ok(text),
        false => Err(PodError::Garbled {
            path: path.to_owned(),
            what,
        }),
    }
}

/// The namespace and the service account that a token of Kubernetes is for. It is not verified: it is this
/// process's own, and the CA verifies it.
fn account_of(token: &str) -> Option<(String, String)> {
    let payload = token.trim().split('.').nth(1)?;
    let claims = BASE64URL_NOPAD.decode(payload.as_bytes()).ok()?;
    let claims: Json = serde_json::from_slice(&claims).ok()?;
    let of = claims.get("kubernetes.io")?;
    let text = |value: Option<&Json>| Some(value?.as_str()?.to_owned());
    Some((
        text(of.get("namespace"))?,
        text(of.get("serviceaccount")?.get("name"))?,
    ))
}

/// Labels as the downward API writes them: `key="value"`, a line each.
fn labels_of(text: &str) -> Option<Vec<(String, String)>> {
    let lines = text.lines().filter(|line| !line.is_empty());
    let label = |line: &str| {
        let (key, value) = line.split_once('=')?;
        // As Go quotes it; a label has nothing that JSON quotes otherwise.
        Some((key.to_owned(), serde_json::from_str(value).ok()?))
    };
    lines.map(label).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_token_says_its_namespace_and_account() {
        let claims = r#"{"aud":["inmesh-ca"],"kubernetes.io":{"namespace":"shop","pod":{"name":"cart-1"},"serviceaccount":{"name":"cart","uid":"1"}},"sub":"x"}"#;
        let token =
            |claims: &str| format!("e30.{}.c2ln\n", BASE64URL_NOPAD.encode(claims.as_bytes()));
        let account = account_of(&token(claims));
        assert_eq!(account, Some(("shop".to_owned(), "cart".to_owned())));
        for other in [
            "{}",
            "[]",
            r#"{"kubernetes.io":{"namespace":"shop"}}"#,
            "no",
        ] {
            assert_eq!(account_of(&token(other)), None, "{other}");
        }
        assert_eq!(account_of("a join token"), None);
    }

    #[test]
    fn labels_are_read_as_they_are_mounted() {
        let text = "app=\"cart\"\napp.kubernetes.io/version=\"1.10\"\nempty=\"\"\n";
        let label = |k: &str, v: &str| (k.to_owned(), v.to_owned());
        let labels = [
            label("app", "cart"),
            label("app.kubernetes.io/version", "1.10"),
            label("empty", ""),
        ];
        assert_eq!(labels_of(text).as_deref(), Some(&labels[..]));
        assert_eq!(labels_of(""), Some(Vec::new()));
        assert_eq!(labels_of("app"), None);
        assert_eq!(labels_of("app=cart"), None);
    }

    #[tokio::test]
    async fn a_process_that_is_no_pod_hears_what_is_missing() {
        let dir = tempfile::tempdir().expect("a folder");
        let pod = || Pod::new().mounted_in(dir.path());
        let build = async |pod: Pod| match pod.build(inmesh_core::Mesh::builder()).await {
            Ok(_) => String::new(),
            Err(error) => error.to_string(),
        };
        for (file, text, missing) in [
            ("token", "x", "token is not a service-account token"),
            (
                "token",
                "e30.eyJrdWJlcm5ldGVzLmlvIjp7Im5hbWVzcGFjZSI6InNob3AiLCJzZXJ2aWNlYWNjb3VudCI6eyJuYW1lIjoiY2FydCJ9fX0.c",
                "ca.crt cannot be read",
            ),
            ("ca.crt", "-----BEGIN", "labels cannot be read"),
            ("labels", "app", "labels is not the labels"),
            ("labels", "app=\"cart\"", ""),
        ] {
            fs::write(dir.path().join(file), text).expect("written");
            let said = build(pod()).await;
            assert!(
                said.contains(missing) && said.is_empty() == missing.is_empty(),
                "{said}"
            );
        }
    }
}
