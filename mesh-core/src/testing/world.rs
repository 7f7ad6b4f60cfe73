//! A small world: one trust domain and the workloads in it.

use std::net::SocketAddr;
use std::time::Duration;

use inmesh_pki::Crypto;
use inmesh_pki::bundle::BundleSet;
use inmesh_pki::clock::SystemClock;
use inmesh_pki::id::{SpiffeId, TrustDomain};
use inmesh_pki::issue::ca::LocalCa;
use inmesh_pki::issue::csr;
use inmesh_pki::store::{IdentityReader, IdentityState, IdentityWriter, identity};

use crate::authorize::DefaultAction;
use crate::model::{
    AppProtocol, Host, IdSet, Kind, Namespace, ObjectKey, Service, ServiceName, ServicePort, Slice,
    SliceHost, SlicePort, Transport, Workload,
};
use crate::runtime::{Mesh, MeshBuilder, WantsNothing};
use crate::snapshot::Op;

/// What tests do with errors.
type Result<T> = std::result::Result<T, Box<dyn std::error::Error + Send + Sync>>;

/// One trust domain with a CA of its own. Workloads live in the namespace `shop`, and the service
/// account of each has its name.
#[derive(Debug)]
pub struct World {
    ca: LocalCa,
    crypto: Crypto,
}

impl World {
    /// A world of the trust domain `example.org` whose leaves live for an hour.
    ///
    /// # Errors
    ///
    /// If the CA cannot be made.
    pub fn new() -> Result<Self> {
        Self::of("example.org", Duration::from_secs(3_600))
    }

    /// A world of a trust domain whose leaves live for `lifetime`.
    ///
    /// # Errors
    ///
    /// If the trust domain is invalid, or the CA cannot be made.
    pub fn of(domain: &str, lifetime: Duration) -> Result<Self> {
        let crypto = crypto();
        let year = Duration::from_secs(365 * 86_400);
        let domain: TrustDomain = domain.parse()?;
        let ca = LocalCa::create(domain, year, &crypto, SystemClock::shared())?;
        Ok(Self {
            ca: ca.with_leaf_lifetime(lifetime),
            crypto,
        })
    }

    /// The CA.
    pub fn ca(&self) -> &LocalCa {
        &self.ca
    }

    /// The cryptography that it uses.
    pub fn crypto(&self) -> &Crypto {
        &self.crypto
    }

    /// The SPIFFE ID of a workload.
    ///
    /// # Errors
    ///
    /// If the name is invalid.
    pub fn id(&self, workload: &str) -> Result<SpiffeId> {
        Ok(SpiffeId::for_workload(
            self.ca.trust_domain(),
            "shop",
            workload,
        )?)
    }

    /// An identity for a workload, with this world's roots, and the writer that can change it.
    ///
    /// # Errors
    ///
    /// If the CA refuses.
    pub fn identity(&self, workload: &str) -> Result<(IdentityWriter, IdentityReader)> {
        let id = self.id(workload)?;
        let (key, csr) = csr::generate(&id, &self.crypto)?;
        let svid = self.ca.sign(&id, &csr)?.into_svid(key, &self.crypto)?;
        let mut bundles = BundleSet::new();
        bundles.insert(self.ca.bundle().clone());
        Ok(identity(IdentityState::new(svid, bundles)))
    }

    /// A builder of a mesh for a workload that permits every peer of the world.
    ///
    /// # Errors
    ///
    /// If the name is invalid or the CA refuses.
    pub fn mesh(&self, workload: &str) -> Result<MeshBuilder<WantsNothing>> {
        let (_, reader) = self.identity(workload)?;
        Ok(Mesh::builder()
            .crypto(self.crypto.clone())
            .identity(reader)
            .workload(
                Workload::new("shop", workload, workload)?,
                DefaultAction::Allow,
            ))
    }

    /// A Service of the namespace `shop` with one port, number 80, and mesh endpoints that are
    /// served by the workload of the same name.
    ///
    /// # Errors
    ///
    /// If the name is invalid.
    pub fn service(
        &self,
        name: &str,
        protocol: AppProtocol,
        endpoints: &[SocketAddr],
    ) -> Result<Vec<Op>> {
        let namespace = Namespace::new("shop")?;
        let service = ServiceName::new(&namespace, name)?;
        let port = ServicePort::new("main", 80, protocol);
        let mut ops = vec![Op::put(Service::new(service.clone(), vec![port]))];
        let ids = IdSet::new([self.id(name)?]);
        for (n, endpoint) in endpoints.iter().enumerate() {
            let key = ObjectKey::new(Kind::EndpointSlice, &namespace, &format!("{name}-{n}"))?;
            let slice = Slice::new(
                key,
                service.clone(),
                vec![SlicePort::new("main", endpoint.port())],
                vec![SliceHost::new(Host::Address(endpoint.ip()))],
                Transport::Mesh { ids: ids.clone() },
            );
            ops.push(Op::put(slice.workload(name, "v1")));
        }
        Ok(ops)
    }
}

#[cfg(feature = "aws-lc-rs")]
fn crypto() -> Crypto {
    Crypto::aws_lc_rs()
}

#[cfg(all(feature = "ring", not(feature = "aws-lc-rs")))]
fn crypto() -> Crypto {
    Crypto::ring()
}
