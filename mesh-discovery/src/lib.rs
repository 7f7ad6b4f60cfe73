//! Sources of configuration for the inmesh service mesh.
//!
//! In come Kubernetes documents and DNS answers; out come [`Change`]s for mesh-core, pushed
//! whether or not requests flow. What reads documents ([`manifest`]) is pure; only drivers touch
//! files, sockets and the clock.
//!
//! ```
//! use inmesh_core::model::Namespace;
//! use inmesh_core::snapshot::{Object, Op};
//! use inmesh_discovery::manifest::{Defaults, parse};
//!
//! let text = "
//! apiVersion: v1
//! kind: Service
//! metadata: {name: cart, namespace: shop}
//! spec: {ports: [{port: 80, appProtocol: http}]}
//! ";
//! let parsed = parse("cart.yaml", text, &Defaults::new(Namespace::new("default")?))?;
//! assert!(matches!(&parsed.entries[0].op, Op::Put(Object::Service(service), _) if service.ports[0].port == 80));
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
//!
//! [`Change`]: inmesh_core::snapshot::Change
#![forbid(unsafe_code)]
#![cfg_attr(docsrs, feature(doc_cfg))]

#[cfg(feature = "control")]
pub mod control;
#[cfg(feature = "dns")]
pub mod dns;
#[cfg(feature = "embed")]
pub mod embed;
#[cfg(feature = "file")]
pub mod file;
pub mod inject;
pub mod install;
#[cfg(feature = "kubernetes")]
pub mod kube;
pub mod layout;
pub mod manifest;
#[cfg(any(feature = "control-server", feature = "kubernetes"))]
pub mod stage;
pub mod testing;
