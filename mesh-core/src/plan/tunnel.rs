//! What a tunnel is that a caller asks for with CONNECT, before any byte of it is there. Pure.
//!
//! In comes the authority that it leads to, out comes what policies and routes see of it: an opaque
//! connection. The bytes come once it is open, so that no handshake can be read: where TLSRoutes decide, the
//! host of the authority stands for the server that the handshake is going to name.

use std::net::IpAddr;

use super::destination::Destination;
use super::resolve::resolve;
use crate::authorize::RequestView;
use crate::error::{Error, Reason};
use crate::local::Local;
use crate::route::RoutedAs;
use crate::snapshot::Snapshot;

/// What a tunnel is seen as that leads to an authority in lower case.
///
/// # Errors
///
/// [`Reason::InvalidRequest`] if the port is declared to speak HTTP: inside of a tunnel no policy and no
/// route would see its requests.
pub(crate) fn tunnel<'a>(
    snapshot: &Snapshot,
    local: &Local,
    authority: &'a str,
) -> Result<RequestView<'a>, Error> {
    let to = Destination::Authority(authority);
    let Ok((asked, _)) = resolve(snapshot, local, to, &RequestView::Tcp) else {
        // The plan says why.
        return Ok(RequestView::Tcp);
    };
    let (service, port) = (&asked.service, asked.port);
    let declared = service.port_view(port).map(|view| view.protocol);
    if let Some(protocol) = declared.filter(|protocol| protocol.is_http()) {
        let detail = format!(
            "port {port} of {} speaks {protocol}: its requests are sent to this listener, not through a \
             tunnel",
            service.name
        );
        return Err(Error::new(Reason::InvalidRequest, detail));
    }
    let namespace = &local.workload().namespace;
    Ok(match service.routes.routed_as(port, namespace) {
        Some(RoutedAs::Tls) => RequestView::Tls {
            server: server(authority),
        },
        _ => RequestView::Tcp,
    })
}

/// The server that a handshake with an authority names: its host, if that is no address (RFC 6066 section 3).
fn server(authority: &str) -> Option<&str> {
    let (host, _) = authority.rsplit_once(':')?;
    let host = host.strip_suffix('.').unwrap_or(host);
    let address = host.starts_with('[') || host.parse::<IpAddr>().is_ok();
    (!address).then_some(host)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::authorize::DefaultAction;
    use crate::model::{
        AppProtocol, HostPattern, Kind, Namespace, ObjectKey, Outside, OutsidePort, Resolution,
        Service, ServiceName, ServicePort, SourceId, Transport, Workload,
    };
    use crate::route::{Backend, OpaqueRoute, Parent};
    use crate::snapshot::{Change, Op, Settings};

    type Fallible<T = ()> = Result<T, Box<dyn std::error::Error>>;

    /// `db` with a port of each protocol, TLSRoutes at 443 and TCPRoutes at 5432, and `*.out.test`.
    fn snapshot(local: &Local) -> Fallible<Snapshot> {
        let shop = Namespace::new("shop")?;
        let db = ServiceName::new(&shop, "db")?;
        let ports = vec![
            ServicePort::new("tls", 443, AppProtocol::Detect),
            ServicePort::new("raw", 5432, AppProtocol::Tcp),
            ServicePort::new("http", 80, AppProtocol::Http1),
            ServicePort::new("grpc", 9000, AppProtocol::Grpc),
            ServicePort::new("any", 81, AppProtocol::Detect),
        ];
        let mut ops = vec![Op::put(Service::new(db.clone(), ports))];
        for (kind, port) in [(Kind::TlsRoute, 443), (Kind::TcpRoute, 5432)] {
            let key = ObjectKey::new(kind, &shop, "db")?;
            let to = vec![Backend::new(db.clone(), port, 1)?];
            let parents = vec![Parent::new(db.clone(), Some(port))];
            ops.push(Op::put(OpaqueRoute::new(key, parents, to)?));
        }
        let out = ServiceName::new(&shop, "out")?;
        let hosts = vec![HostPattern::new("*.out.test")?];
        let of_host = vec![OutsidePort::new(443, Transport::Plain)];
        let outside = Outside::new(hosts, Resolution::Dynamic, of_host);
        let ports = vec![ServicePort::new("tls", 443, AppProtocol::Tcp)];
        ops.push(Op::put(Service::new(out.clone(), ports).outside(outside)));
        let key = ObjectKey::new(Kind::TlsRoute, &shop, "out")?;
        let to = vec![Backend::new(out.clone(), 443, 1)?];
        ops.push(Op::put(OpaqueRoute::new(
            key,
            vec![Parent::new(out, None)],
            to,
        )?));
        let snapshot = Snapshot::new(Settings::of(local.clone()));
        Ok(snapshot.apply(Change::update(SourceId::new("t"), ops)))
    }

    #[test]
    fn a_tunnel_is_opaque_and_its_host_is_the_server_where_tlsroutes_decide() -> Fallible {
        let local = Local::new(Workload::new("shop", "web", "web")?, DefaultAction::Allow);
        let snapshot = snapshot(&local)?;
        for (authority, wanted) in [
            ("db:5432", Ok(None)),
            ("db:81", Ok(None)),
            ("db:443", Ok(Some("db"))),
            (
                "db.shop.svc.cluster.local.:443",
                Ok(Some("db.shop.svc.cluster.local")),
            ),
            ("a.out.test:443", Ok(Some("a.out.test"))),
            // What is not there is refused by the plan, and so is a port that is not.
            ("out.test:443", Ok(None)),
            ("db:1", Ok(None)),
            ("10.0.0.1:443", Ok(None)),
            ("[::1]:443", Ok(None)),
            ("db:80", Err(Reason::InvalidRequest)),
            ("db:9000", Err(Reason::InvalidRequest)),
        ] {
            let seen = match tunnel(&snapshot, &local, authority) {
                Ok(RequestView::Tls { server }) => Ok(server),
                Ok(_) => Ok(None),
                Err(error) => Err(error.reason()),
            };
            assert_eq!(seen, wanted, "{authority}");
        }
        Ok(())
    }

    #[test]
    fn an_address_is_no_name_of_a_server() {
        for (authority, name) in [
            ("a.test:443", Some("a.test")),
            ("a.test.:443", Some("a.test")),
            ("10.0.0.1:443", None),
            ("[::1]:443", None),
        ] {
            assert_eq!(server(authority), name, "{authority}");
        }
    }
}
