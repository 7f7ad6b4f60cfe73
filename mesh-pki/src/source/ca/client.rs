//! The address and SPIFFE ID of a CA in, an [`Issuer`] out, which renews through [`Rotation`]; and
//! the task that keeps the bundle as the CA has it ([`CaClient::watch`]).
//!
//! A call is one connection: the CA is verified by its SPIFFE ID against the bundle of the moment,
//! and only a start, or an expired SVID, falls back to the bundle that the operator gave. What
//! proves our ID is chosen for each call: the SVID, while a peer would accept it; else a token,
//! read anew each time; else an expired SVID, which a CA accepts only in an open recovery
//! window. The two are never sent together.

use std::fmt;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use data_encoding::HEXLOWER;
use http::Uri;
use tokio::time::timeout;
use tonic::body::Body;
use tonic::metadata::MetadataValue;
use tonic::{Code, Status};
use zeroize::Zeroizing;

use crate::bundle::TrustBundle;
use crate::channel::{self, Channel, ConnectError};
use crate::clock::Clock;
use crate::crypto::{Crypto, CryptoError};
use crate::error::chain_of;
use crate::id::{SpiffeId, TrustDomain};
use crate::issue::{Csr, IssueError, IssuedChain, Issuer};
use crate::metadata::{GENERATION, ID, INSTANCE, RETRY_AFTER, REVOKED};
use crate::pem;
use crate::proto::istio_ca::IstioCertificateRequest;
use crate::proto::istio_ca::istio_certificate_service_client::IstioCertificateServiceClient;
use crate::store::{IdentityReader, IdentityState};
use crate::svid::{Place, Rejected, Usage, validate_own_as};
use crate::time;
use crate::tls::HandshakeError;

#[cfg(doc)]
use crate::rotate::Rotation;

/// How long a call may take, from the connection to the answer.
pub(super) const CALL: Duration = Duration::from_secs(20);

/// The largest answer that is read.
const MAX_ANSWER: usize = 1024 * 1024;

/// Where the bundle comes from that a CA is verified against before it has sent one.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub enum Bootstrap {
    /// A fixed one.
    Bundle(TrustBundle),
    /// A PEM file, read anew whenever it is needed.
    File(PathBuf),
}

/// What proves our ID, where there is no SVID yet.
#[derive(Clone)]
#[non_exhaustive]
pub enum Token {
    /// A file with a token, read anew each time: its issuer replaces it.
    File(PathBuf),
    /// No token: an SVID is there.
    None,
    /// A fixed text: a join token.
    Text(Zeroizing<String>),
}

/// A client of a CA; cheap to clone.
///
/// ```
/// # #[cfg(feature = "aws-lc-rs")]
/// # async fn example() -> Result<(), Box<dyn std::error::Error>> {
/// use std::sync::Arc;
///
/// use inmesh_pki::clock::SystemClock;
/// use inmesh_pki::source::ca::{Bootstrap, CaClient, CaClientConfig, Token};
/// use inmesh_pki::{Crypto, IdentityState, identity, rotate};
///
/// let (crypto, clock) = (Crypto::aws_lc_rs(), SystemClock::shared());
/// let config = CaClientConfig {
///     id: "spiffe://prod.example/ns/shop/sa/cart".parse()?,
///     address: "ca.prod.example:15012".to_owned(),
///     ca: "spiffe://prod.example/inmesh/ca".parse()?,
///     bootstrap: Bootstrap::File("/etc/mesh/bundle.pem".into()),
///     token: Token::File("/var/run/secrets/mesh/token".into()),
/// };
/// let id = config.id.clone();
/// let (_writer, reader) = identity(IdentityState::default());
/// let client = CaClient::new(config, reader, &crypto, Arc::clone(&clock))?;
/// let (svid, bundle) = rotate::obtain(&client, &id, &crypto, &*clock).await?;
/// # drop((svid, bundle));
/// # Ok(())
/// # }
/// ```
#[derive(Clone)]
pub struct CaClient(pub(super) Arc<ClientInner>);

pub(super) struct ClientInner {
    pub(super) id: SpiffeId,
    pub(super) address: String,
    pub(super) ca: SpiffeId,
    pub(super) bootstrap: Bootstrap,
    pub(super) token: Token,
    pub(super) instance: String,
    pub(super) reader: IdentityReader,
    pub(super) crypto: Crypto,
    pub(super) clock: Arc<dyn Clock>,
}

/// The configuration of a client.
#[derive(Debug, Clone)]
pub struct CaClientConfig {
    /// Our SPIFFE ID.
    pub id: SpiffeId,
    /// Where the CA is, `host:port`.
    pub address: String,
    /// The CA's SPIFFE ID.
    pub ca: SpiffeId,
    /// What it is verified against at first.
    pub bootstrap: Bootstrap,
    /// What proves our ID at first.
    pub token: Token,
}

impl CaClient {
    /// A client that uses the SVID and bundle of `reader` once they are there.
    ///
    /// # Errors
    ///
    /// [`CryptoError`] if the system has no randomness for the name of this instance.
    pub fn new(
        config: CaClientConfig,
        reader: IdentityReader,
        crypto: &Crypto,
        clock: Arc<dyn Clock>,
    ) -> Result<Self, CryptoError> {
        let mut name = [0; 16];
        crypto.fill(&mut name)?;
        if let Token::File(path) = &config.token {
            crate::disk::warn_if_loose(path, "token");
        }
        Ok(Self(Arc::new(ClientInner {
            id: config.id,
            address: config.address,
            ca: config.ca,
            bootstrap: config.bootstrap,
            token: config.token,
            instance: HEXLOWER.encode(&name),
            reader,
            crypto: crypto.clone(),
            clock,
        })))
    }

    /// The random name under which the CA knows this process.
    #[must_use]
    pub fn instance(&self) -> &str {
        &self.0.instance
    }
}

impl Issuer for CaClient {
    /// Asks the CA; the answer is verified by the caller.
    async fn issue(&self, id: &SpiffeId, csr: &Csr) -> Result<IssuedChain, IssueError> {
        match timeout(CALL, self.0.create(id, csr)).await {
            Ok(answer) => answer,
            Err(_) => Err(unavailable("no answer in time".to_owned(), None)),
        }
    }
}

/// How one call is made: what the connection presents, and what goes with the call.
pub(super) struct Approach {
    pub(super) state: IdentityState,
    pub(super) token: Option<Zeroizing<String>>,
}

impl ClientInner {
    pub(super) fn trust_domain(&self) -> &TrustDomain {
        self.ca.trust_domain()
    }

    /// The generation of the bundle in use.
    pub(super) fn generation(&self) -> u64 {
        let state = self.reader.load();
        let bundle = state.bundles().get(self.trust_domain());
        bundle.and_then(TrustBundle::sequence).unwrap_or(0)
    }

    /// The ways to prove our ID, to be tried in this order while one is refused:
    ///
    /// 1. An SVID that a peer would accept now is presented, under the bundle in use.
    /// 2. A token goes with the call, if there is one, and no certificate.
    /// 3. An expired SVID is presented, which a CA accepts in a recovery window; so is one that is
    ///    revoked, for the CA may take that back.
    /// 4. While no SVID is alive, the CA is verified against the operator's bundle, as at a start; a
    ///    root that was ever distrusted counts in neither.
    pub(super) fn approaches(&self) -> Result<Vec<Approach>, IssueError> {
        let (state, now) = (self.reader.load(), self.clock.now());
        let svid = state.svid(&self.id);
        let verdict =
            svid.map(|svid| validate_own_as(Usage::Client, svid, &state, now, &self.crypto));
        let in_use = state.bundles().get(self.trust_domain()).cloned();
        let alive = svid.is_some_and(|svid| now <= svid.not_after());
        let bundle = match in_use {
            Some(bundle) if alive => bundle,
            in_use => match (self.bootstrap.bundle(self.trust_domain()), in_use) {
                (Ok(bundle), _) => bundle,
                (Err(_), Some(bundle)) => bundle,
                (Err(reason), None) => return Err(unavailable(reason, None)),
            },
        };
        let bundle = state.without_distrusted(bundle);
        if bundle.is_distrusted() {
            let reason = "every root of the trust bundle is distrusted".to_owned();
            return Err(unavailable(reason, None));
        }
        let to_use = IdentityState::from_bundles(bundle.into());
        let presenting = || {
            let mut state = to_use.clone();
            if let Some(svid) = svid {
                state.share_svid(Arc::clone(svid));
            }
            Approach { state, token: None }
        };
        let bearing = |token| Approach {
            state: to_use.clone(),
            token,
        };
        let token = self.token.read();
        if matches!(verdict, Some(Ok(()))) {
            let second = token.ok().flatten().map(|token| bearing(Some(token)));
            return Ok([presenting()].into_iter().chain(second).collect());
        }
        let last = matches!(
            verdict,
            Some(Err(Rejected::Expired {
                place: Place::Leaf,
                ..
            } | Rejected::Revoked {
                place: Place::Leaf,
                ..
            }))
        );
        match token {
            Ok(Some(token)) => {
                let second = last.then(presenting);
                Ok([bearing(Some(token))].into_iter().chain(second).collect())
            }
            Ok(None) | Err(_) if last => Ok(vec![presenting()]),
            Ok(None) => Ok(vec![bearing(None)]),
            Err(reason) => Err(unavailable(reason, None)),
        }
    }

    pub(super) async fn connect(
        &self,
        state: IdentityState,
    ) -> Result<Channel<Body>, ConnectError> {
        let clock = Arc::clone(&self.clock);
        channel::connect(&self.address, &self.ca, state, &self.crypto, clock).await
    }

    /// A request that names our ID and instance, with a token if there is one.
    pub(super) fn request<T>(
        &self,
        message: T,
        token: Option<&str>,
    ) -> Result<tonic::Request<T>, IssueError> {
        let mut request = tonic::Request::new(message);
        let metadata = request.metadata_mut();
        let garbled = |_| unavailable("the token is no text for a header".to_owned(), None);
        if let Some(token) = token {
            let mut bearer = MetadataValue::try_from(format!("Bearer {token}")).map_err(garbled)?;
            bearer.set_sensitive(true);
            metadata.insert("authorization", bearer);
        }
        let instance = MetadataValue::try_from(self.instance.as_str()).map_err(garbled)?;
        metadata.insert(INSTANCE, instance);
        metadata.insert(GENERATION, self.generation().into());
        let id = MetadataValue::try_from(self.id.as_str()).map_err(garbled)?;
        metadata.insert(ID, id);
        Ok(request)
    }

    async fn create(&self, id: &SpiffeId, csr: &Csr) -> Result<IssuedChain, IssueError> {
        if *id != self.id {
            return Err(IssueError::NotAllowed {
                id: id.clone(),
                allowed: self.id.clone(),
            });
        }
        let mut first = None;
        for approach in self.approaches()? {
            match self.create_by(approach, id, csr).await {
                Ok(issued) => return Ok(issued),
                Err(Unproven {
                    error, next: true, ..
                }) => first = first.or(Some(error)),
                // The CA asks for a pause, which counts for all.
                Err(Unproven {
                    error:
                        error @ IssueError::Unavailable {
                            retry_after: Some(_),
                            ..
                        },
                    ..
                }) => return Err(error),
                Err(Unproven { error, .. }) => return Err(first.unwrap_or(error)),
            }
        }
        let none = || unavailable("nothing proves our ID".to_owned(), None);
        Err(first.unwrap_or_else(none))
    }

    /// One call with one proof.
    async fn create_by(
        &self,
        Approach { state, token }: Approach,
        id: &SpiffeId,
        csr: &Csr,
    ) -> Result<IssuedChain, Unproven> {
        let presents = state.default_svid().is_some();
        let connection = self.connect(state).await;
        let connection = connection.map_err(|error| Unproven::of_connection(&error))?;
        let mut client = IstioCertificateServiceClient::with_origin(connection, origin())
            .max_decoding_message_size(MAX_ANSWER);
        let request = IstioCertificateRequest {
            csr: csr.to_pem(),
            validity_duration: 0,
            metadata: None,
        };
        let request = self.request(request, token.as_deref().map(String::as_str))?;
        let answer = client.create_certificate(request).await;
        let answer = answer.map_err(|status| Unproven::of_status(id, &status, presents))?;
        let generation = answer
            .metadata()
            .get(GENERATION)
            .and_then(|value| value.to_str().ok()?.parse().ok());
        let issued_at = self.clock.now();
        self.read_chain(&answer.into_inner().cert_chain, generation, issued_at)
            .map_err(|reason| unavailable(reason, None).into())
    }

    /// The chain of an answer: leaf, intermediates, and the roots in the last text.
    fn read_chain(
        &self,
        texts: &[String],
        generation: Option<u64>,
        issued_at: SystemTime,
    ) -> Result<IssuedChain, String> {
        let Some((roots, certs)) = texts.split_last() else {
            return Err("the CA answered with nothing".to_owned());
        };
        let mut chain = Vec::new();
        for text in certs {
            let certs = pem::certificates(text.as_bytes()).map_err(|error| error.to_string())?;
            chain.extend(certs);
        }
        let bundle = TrustBundle::from_pem(self.trust_domain().clone(), roots.as_bytes())
            .map_err(|error| chain_of(&error))?;
        Ok(IssuedChain {
            chain,
            bundle: match generation {
                Some(generation) => bundle.with_sequence(generation),
                None => bundle,
            },
            issued_at,
        })
    }
}

/// Why a proof earned nothing.
pub(super) struct Unproven {
    pub(super) error: IssueError,
    /// Whether another proof may earn more: this one was refused, and not the call.
    pub(super) next: bool,
    /// Since when the certificate that was presented is revoked, if the CA says that.
    pub(super) revoked: Option<SystemTime>,
}

impl Unproven {
    /// A handshake that the CA ends refuses the certificate; one that it never began refuses nothing.
    pub(super) fn of_connection(error: &ConnectError) -> Self {
        Self {
            next: matches!(
                error,
                ConnectError::Handshake {
                    source: HandshakeError::RefusedByPeer(_) | HandshakeError::Io(_),
                    ..
                }
            ),
            error: unavailable(chain_of(error), None),
            revoked: None,
        }
    }

    /// A stream that was open ends: no other proof earns more.
    pub(super) fn of_end(id: &SpiffeId, status: &Status, presents: bool) -> Self {
        Self {
            next: false,
            ..Self::of_status(id, status, presents)
        }
    }

    /// `presents` a certificate: then its refusal may come after the handshake, as an end of the
    /// connection, for that is how TLS 1.3 says it.
    pub(super) fn of_status(id: &SpiffeId, status: &Status, presents: bool) -> Self {
        let refused = matches!(
            status.code(),
            Code::Unauthenticated | Code::PermissionDenied
        );
        let broken = presents && status.code() == Code::Unknown;
        Self {
            next: refused || broken,
            error: error_of(id, status),
            revoked: presents.then(|| revoked_since(status)).flatten(),
        }
    }
}

impl From<IssueError> for Unproven {
    fn from(error: IssueError) -> Self {
        Self {
            error,
            next: false,
            revoked: None,
        }
    }
}

impl Bootstrap {
    fn bundle(&self, trust_domain: &TrustDomain) -> Result<TrustBundle, String> {
        match self {
            Self::Bundle(bundle) => Ok(bundle.clone()),
            Self::File(path) => {
                let pem = crate::disk::read(path)
                    .map_err(|error| format!("{}: {error}", path.display()))?;
                TrustBundle::from_pem(trust_domain.clone(), &pem).map_err(|error| chain_of(&error))
            }
        }
    }
}

impl Token {
    fn read(&self) -> Result<Option<Zeroizing<String>>, String> {
        match self {
            Self::None => Ok(None),
            Self::Text(token) => Ok(Some(token.clone())),
            Self::File(path) => {
                let bytes = crate::disk::read(path)
                    .map_err(|error| format!("{}: {error}", path.display()))?;
                let text = std::str::from_utf8(&bytes)
                    .map_err(|_| format!("{} is no text", path.display()))?;
                Ok(Some(Zeroizing::new(text.trim().to_owned())))
            }
        }
    }
}

/// Shows nothing of the token.
impl fmt::Debug for Token {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::None => f.write_str("None"),
            Self::Text(_) => f.write_str("Text(..)"),
            Self::File(path) => f.debug_tuple("File").field(path).finish(),
        }
    }
}

impl fmt::Debug for CaClient {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("CaClient")
            .field("id", &self.0.id)
            .field("address", &self.0.address)
            .field("ca", &self.0.ca)
            .finish_non_exhaustive()
    }
}

pub(super) fn unavailable(reason: String, retry_after: Option<Duration>) -> IssueError {
    IssueError::Unavailable {
        reason,
        retry_after,
    }
}

/// What the CA's refusal means; how long it asks us to stay away.
pub(super) fn error_of(id: &SpiffeId, status: &Status) -> IssueError {
    let reason = status.message().chars().take(512).collect();
    match status.code() {
        Code::PermissionDenied | Code::Unauthenticated | Code::InvalidArgument => {
            IssueError::Refused {
                id: id.clone(),
                reason,
            }
        }
        code => {
            let asked = status.metadata().get(RETRY_AFTER);
            let asked = asked.and_then(|value| value.to_str().ok()?.parse().ok());
            unavailable(
                format!("{code}: {reason}"),
                asked.map(Duration::from_millis),
            )
        }
    }
}

/// Since when the certificate that was presented is revoked, as a refusal says.
fn revoked_since(status: &Status) -> Option<SystemTime> {
    let since = status.metadata().get(REVOKED)?.to_str().ok()?;
    Some(time::from_unix(since.parse().ok()?))
}

/// The name in the calls; no host name plays a part.
pub(super) fn origin() -> Uri {
    Uri::from_static("https://ca.inmesh.internal")
}
