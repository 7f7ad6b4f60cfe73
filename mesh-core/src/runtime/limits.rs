//! Every bound of the data path, with its default.

use std::time::Duration;

use crate::head::Bounds;

/// The part of all places that one peer may have at most: a quarter, for many processes stand behind one
/// address, or have one identity.
const SHARE: usize = 4;

/// The bounds of one runtime. All are finite, and all can be changed.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Limits {
    /// The bytes of a header block (names and values); beyond it 431. Default 64 KiB.
    pub header_bytes: usize,
    /// The fields of a header block beside its host and `traceparent`; beyond it 431. Default 98,
    /// the most for which the parser of HTTP/1.1 needs no memory of its own.
    pub header_fields: usize,
    /// The bytes of a request's path and query; beyond it 414. Default 60 KiB, somewhat below what
    /// the HTTP library can hold.
    pub target_bytes: usize,
    /// How long a caller's TLS handshake may take. Default 10 s.
    pub handshake: Duration,
    /// How long a header may take to arrive; beyond it 408. Default 10 s.
    pub header: Duration,
    /// How long the next part of a request's body may take to arrive, until the answer begins; beyond
    /// it 408. A gRPC call has no such limit. Default 60 s.
    pub body: Duration,
    /// How long an answer may wait for its caller to read on; then its connection, or its stream of
    /// HTTP/2, is ended. Default 300 s.
    pub unread: Duration,
    /// How long a caller's connection may rest between requests. Default 300 s.
    pub idle: Duration,
    /// How long the first bytes of an undeclared protocol are waited for, before the server is opened
    /// to see whether it speaks first. Default 100 ms.
    pub detect: Duration,
    /// How long a TCP connect to an endpoint may take. Default 1 s.
    pub connect: Duration,
    /// How long the TLS handshake with an endpoint may take. Default 5 s.
    pub endpoint_handshake: Duration,
    /// How long a pooled connection to an endpoint may rest. Default 60 s; it should be shorter
    /// than the endpoint's own limit.
    pub pool_idle: Duration,
    /// How many resting connections are kept for each endpoint. Default 256.
    pub pool_size: usize,
    /// Connections of callers at once, for each listener, those that have left HTTP among them; more
    /// wait to be accepted. Default 10,000.
    pub connections: usize,
    /// And of one peer at once, for each inbound listener: of an address (a network of 64 bits of IPv6)
    /// before it has proven an identity, and of an identity after that. Further ones are closed, or
    /// answered with 429. However high it is, a peer has a quarter of `connections` at most, and to all
    /// inbound listeners together a quarter of the half of `sockets` that is for callers. Default 2,500.
    pub peer_connections: usize,
    /// Sockets of all listeners and of connections to endpoints together, one half for each: below the
    /// descriptors that the process may have, so that the admin surface, files and resolvers have
    /// some left. Further callers wait to be served; a connection to an endpoint that finds none
    /// within `connect` is `exhausted`. Default 40,000.
    pub sockets: usize,
    /// The bytes of bodies that all connections hold together, or may be sent by their peers, beyond
    /// 64 KiB for each HTTP/2 connection. At the end of it windows are not opened again and each body has
    /// one part on its way at a time. Default 8 MiB.
    pub buffered: usize,
    /// Copies of requests for the mirrors of routes at once; further ones are dropped, and counted.
    /// Default 1,000.
    pub mirrors: usize,
    /// Hosts outside the mesh that requests ask for and no document lists, at once; beyond it those make
    /// place that were not used of late, and where all were the answer is 503 `overflow`. Default 256.
    pub outside_hosts: usize,
    /// Requests at once on one HTTP/2 connection of a caller. Default 100.
    pub streams: u32,
    /// How old an opaque connection (also one that has left HTTP) may become once the certificate
    /// of its peer has expired. Default 1 h.
    pub opaque_age: Duration,
    /// On the way down: how long requests are served as usual after readiness is off. Default 5 s.
    pub drain_lead: Duration,
    /// And how long running requests may take after that. Default 30 s.
    pub drain_deadline: Duration,
}

impl Limits {
    /// The connections that one peer may have to one inbound listener.
    ///
    /// ```
    /// use inmesh_core::runtime::Limits;
    /// let mut limits = Limits::default();
    /// assert_eq!((limits.peer_share(), limits.peer_sockets()), (2_500, 5_000));
    /// (limits.connections, limits.sockets) = (1_000, 3_072);
    /// assert_eq!((limits.peer_share(), limits.peer_sockets()), (250, 384));
    /// ```
    pub fn peer_share(&self) -> usize {
        let quarter = self.connections / SHARE;
        quarter.min(self.peer_connections).max(1)
    }

    /// The bounds of a request's head.
    pub(crate) fn head(&self) -> Bounds {
        Bounds {
            bytes: self.header_bytes,
            fields: self.header_fields,
            target: self.target_bytes,
        }
    }

    /// The connections that one peer may have to all inbound listeners together.
    pub fn peer_sockets(&self) -> usize {
        (self.sockets / 2 / SHARE).max(1)
    }
}

impl Default for Limits {
    fn default() -> Self {
        let seconds = Duration::from_secs;
        let head = Bounds::default();
        Self {
            header_bytes: head.bytes,
            header_fields: head.fields,
            target_bytes: head.target,
            handshake: seconds(10),
            header: seconds(10),
            body: seconds(60),
            unread: seconds(300),
            idle: seconds(300),
            detect: Duration::from_millis(100),
            connect: seconds(1),
            endpoint_handshake: seconds(5),
            pool_idle: seconds(60),
            pool_size: 256,
            connections: 10_000,
            peer_connections: 2_500,
            sockets: 40_000,
            buffered: 8 << 20,
            mirrors: 1_000,
            outside_hosts: 256,
            streams: 100,
            opaque_age: seconds(3_600),
            drain_lead: seconds(5),
            drain_deadline: seconds(30),
        }
    }
}
