//! The vocabulary that all stages share: names, endpoints, protocols, draws. It knows no stage.

mod block;
mod decimal;
mod draw;
mod endpoint;
mod few;
mod locality;
mod names;
mod outside;
mod pod;
mod protocol;
mod proxied;
mod service;
mod slice_host;
mod text;

pub use block::Block;
pub(crate) use decimal::parts;
pub use draw::Draw;
pub(crate) use draw::{mix, mix_bytes};
pub use endpoint::{Conditions, Endpoint, Host, HostAddress, IdSet, PemRoots, Roots, Transport};
pub use few::Few;
pub use locality::Locality;
pub(crate) use names::is_subdomain;
pub use names::{
    ClusterName, InvalidName, KeyParts, Kind, Labels, Namespace, ObjectKey, ServiceName, SourceId,
    Workload, check_label,
};
pub use outside::{Asked, HostPattern, Outside, OutsidePort, Resolution};
pub use pod::{MeshNamespace, Node, Pod, PodRef, Reached};
pub use protocol::AppProtocol;
pub(crate) use protocol::HttpVersion;
pub use proxied::{InvalidIpBlock, IpBlock, ProxyVersion};
pub use service::{Distribution, Service, ServicePort, Slice, SlicePort, Subset};
pub use slice_host::SliceHost;
pub use text::Text;
