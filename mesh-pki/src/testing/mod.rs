//! What the tests of this crate share: fixtures, moments, and a CA that can break any rule.

use std::io::Write;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use rcgen::string::Ia5String;
use rcgen::{
    CertificateParams, CertificateRevocationListParams, KeyIdMethod, KeyPair, RevocationReason,
    RevokedCertParams, SanType, SerialNumber,
};
use rustls_pki_types::CertificateDer;

use crate::bundle::{BundleSet, TrustBundle};
use crate::crl::Crl;
use crate::crypto::Crypto;
use crate::id::{SpiffeId, TrustDomain};
use crate::issue::template;
use crate::store::IdentityState;
use crate::svid::{PrivateKey, X509Svid};

#[cfg(any(
    feature = "federation",
    all(feature = "ca-server", feature = "ca-client")
))]
pub(crate) mod alert;

/// The content of a file under `$MESH_FIXTURES`; says how many vectors are skipped without it.
pub(crate) fn fixture(path: &str, vectors: usize) -> Option<Vec<u8>> {
    let Some(root) = std::env::var_os("MESH_FIXTURES") else {
        skip(&format!("{vectors} vectors (MESH_FIXTURES is not set)"));
        return None;
    };
    let path = PathBuf::from(root).join(path);
    Some(std::fs::read(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display())))
}

/// Says what is skipped, past the test harness, which swallows what a passing test prints.
pub(crate) fn skip(what: &str) {
    writeln!(std::io::stderr(), "skipped: {what}").expect("standard error is open");
}

/// The provider that the build has; AWS-LC if it has both.
pub(crate) fn crypto() -> Crypto {
    #[cfg(feature = "aws-lc-rs")]
    return Crypto::aws_lc_rs();
    #[cfg(not(feature = "aws-lc-rs"))]
    return Crypto::ring();
}

/// A moment in 2027, on a whole second; every test lives around it.
pub(crate) fn noon() -> SystemTime {
    UNIX_EPOCH + Duration::from_secs(1_800_000_000)
}

pub(crate) fn minutes(n: u64) -> Duration {
    Duration::from_secs(60 * n)
}

pub(crate) fn id(text: &str) -> SpiffeId {
    text.parse().unwrap()
}

pub(crate) fn domain(text: &str) -> TrustDomain {
    text.parse().unwrap()
}

/// A certificate under construction, with the key that it is for.
pub(crate) struct Draft {
    pub(crate) params: CertificateParams,
    pub(crate) key: KeyPair,
}

/// A CA that signs whatever it is given; cheap to clone.
#[derive(Clone)]
pub(crate) struct Ca {
    pub(crate) cert: CertificateDer<'static>,
    issuer: Arc<rcgen::Issuer<'static, KeyPair>>,
}

/// A leaf that follows all rules, valid for an hour around [`noon`].
pub(crate) fn leaf(uri: &str) -> Draft {
    let mut params = template::leaf(vec![san(uri)]);
    params.not_before = (noon() - minutes(30)).into();
    params.not_after = (noon() + minutes(30)).into();
    Draft {
        params,
        key: KeyPair::generate().unwrap(),
    }
}

/// A signing certificate that follows all rules, valid for a day around [`noon`].
pub(crate) fn authority(name: &str) -> Draft {
    let mut params = template::authority(name);
    params.not_before = (noon() - minutes(720)).into();
    params.not_after = (noon() + minutes(720)).into();
    Draft {
        params,
        key: KeyPair::generate().unwrap(),
    }
}

pub(crate) fn san(uri: &str) -> SanType {
    SanType::URI(Ia5String::try_from(uri).unwrap())
}

impl Draft {
    pub(crate) fn with(mut self, change: impl FnOnce(&mut CertificateParams)) -> Self {
        change(&mut self.params);
        self
    }

    /// Signs it with its own key, which makes it a root.
    pub(crate) fn root(self) -> Ca {
        let cert = self.params.self_signed(&self.key).unwrap().der().clone();
        Ca {
            cert,
            issuer: Arc::new(rcgen::Issuer::new(self.params, self.key)),
        }
    }

    /// Signs it with `ca`, which makes it an intermediate.
    pub(crate) fn under(self, ca: &Ca) -> Ca {
        let cert = self
            .params
            .signed_by(&self.key, &ca.issuer)
            .unwrap()
            .der()
            .clone();
        Ca {
            cert,
            issuer: Arc::new(rcgen::Issuer::new(self.params, self.key)),
        }
    }

    /// Signs it with `ca`, which makes it a leaf.
    pub(crate) fn signed_by(&self, ca: &Ca) -> CertificateDer<'static> {
        self.params
            .signed_by(&self.key, &ca.issuer)
            .unwrap()
            .der()
            .clone()
    }

    /// Signs it with `ca` and joins it with its key.
    pub(crate) fn svid(&self, ca: &Ca) -> X509Svid {
        let key = PrivateKey::from_pkcs8_der(self.key.serialize_der());
        X509Svid::from_der(vec![self.signed_by(ca)], key, None, &crypto()).unwrap()
    }
}

impl Ca {
    pub(crate) fn new(name: &str) -> Self {
        authority(name).root()
    }

    pub(crate) fn bundle(&self, trust_domain: &str) -> TrustBundle {
        TrustBundle::new(domain(trust_domain), [self.cert.clone()]).unwrap()
    }

    /// A state that trusts this CA for `trust_domain`.
    pub(crate) fn state(&self, trust_domain: &str) -> IdentityState {
        IdentityState::from_bundles(BundleSet::from(self.bundle(trust_domain)))
    }
}

/// A revocation list under construction.
pub(crate) struct CrlDraft {
    pub(crate) params: CertificateRevocationListParams,
    issuer: Arc<rcgen::Issuer<'static, KeyPair>>,
}

impl Ca {
    /// A list that revokes nothing, number 1, good for an hour from [`noon`].
    pub(crate) fn crl(&self) -> CrlDraft {
        let params = CertificateRevocationListParams {
            this_update: noon().into(),
            next_update: (noon() + minutes(60)).into(),
            crl_number: SerialNumber::from(1_u64),
            issuing_distribution_point: None,
            revoked_certs: Vec::new(),
            key_identifier_method: KeyIdMethod::Sha256,
        };
        CrlDraft {
            params,
            issuer: Arc::clone(&self.issuer),
        }
    }
}

impl CrlDraft {
    /// Adds a certificate that was compromised a minute before [`noon`].
    pub(crate) fn revoking(self, cert: &CertificateDer<'_>) -> Self {
        let (_, cert) = x509_parser::parse_x509_certificate(cert).unwrap();
        let revoked = RevokedCertParams {
            serial_number: SerialNumber::from_slice(cert.raw_serial()),
            revocation_time: (noon() - minutes(1)).into(),
            reason_code: Some(RevocationReason::KeyCompromise),
            invalidity_date: None,
        };
        self.with(|p| p.revoked_certs.push(revoked))
    }

    pub(crate) fn with(
        mut self,
        change: impl FnOnce(&mut CertificateRevocationListParams),
    ) -> Self {
        change(&mut self.params);
        self
    }

    pub(crate) fn der(&self) -> Vec<u8> {
        self.params.signed_by(&self.issuer).unwrap().der().to_vec()
    }

    pub(crate) fn list(&self) -> Crl {
        Crl::from_der(&self.der()).unwrap()
    }
}
