//! Certificates for the benches: a root, an issuing CA under it, leaves.

use inmesh_pki::{CertificateDer, TrustBundle};
use rcgen::string::Ia5String;
use rcgen::{Issuer, KeyPair, SanType, SignatureAlgorithm};

#[path = "../../src/issue/template.rs"]
mod template;

pub(crate) type Fallible<T> = Result<T, Box<dyn std::error::Error>>;

/// A CA that signs whatever it is asked to.
pub(crate) struct Ca {
    pub(crate) cert: CertificateDer<'static>,
    pub(crate) issuer: Issuer<'static, KeyPair>,
}

impl Ca {
    pub(crate) fn root(name: &str, kind: &'static SignatureAlgorithm) -> Fallible<Self> {
        let key = KeyPair::generate_for(kind)?;
        let params = template::authority(name);
        let cert = params.self_signed(&key)?.der().clone();
        let issuer = Issuer::new(params, key);
        Ok(Self { cert, issuer })
    }

    pub(crate) fn under(name: &str, above: &Self) -> Fallible<Self> {
        let key = KeyPair::generate()?;
        let params = template::authority(name);
        let cert = params.signed_by(&key, &above.issuer)?.der().clone();
        let issuer = Issuer::new(params, key);
        Ok(Self { cert, issuer })
    }

    pub(crate) fn bundle(&self) -> Fallible<TrustBundle> {
        Ok(TrustBundle::new("td".parse()?, [self.cert.clone()])?)
    }

    /// A leaf with an ID and, for verifiers of the web, the name `localhost`; and its key.
    pub(crate) fn leaf(&self) -> Fallible<(CertificateDer<'static>, KeyPair)> {
        let params = template::leaf(vec![
            SanType::URI(Ia5String::try_from("spiffe://td/ns/shop/sa/cart")?),
            SanType::DnsName("localhost".try_into()?),
        ]);
        let key = KeyPair::generate()?;
        let cert = params.signed_by(&key, &self.issuer)?.der().clone();
        Ok((cert, key))
    }
}
