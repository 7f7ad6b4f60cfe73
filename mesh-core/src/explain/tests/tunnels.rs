//! Tunnels that CONNECT asks for, as they are explained.

use super::*;
use crate::route::{OpaqueRoute, ServerNames};

/// `db` with an opaque port for web, and one with a TLSRoute.
fn db() -> Fallible<Snapshot> {
    let ports = vec![
        ServicePort::new("raw", 5432, AppProtocol::Tcp),
        ServicePort::new("tls", 443, AppProtocol::Detect),
    ];
    let ids = IdSet::new(["spiffe://td.test/ns/shop/sa/db".parse()?]);
    let slice = Slice::new(
        key(Kind::EndpointSlice, "db-1"),
        service("db"),
        vec![SlicePort::new("raw", 1), SlicePort::new("tls", 2)],
        vec![SliceHost::new(Host::Address([10, 0, 0, 9].into()))],
        Transport::Mesh { ids },
    );
    let web = PolicyRule::new(callers(&["td.test/ns/shop/sa/web"])?, vec![]);
    let allow = Policy::new(
        key(Kind::AuthorizationPolicy, "db"),
        Action::Allow,
        vec![web],
    );
    let to = vec![To::new(service("db"), 443, 1)?];
    let parents = vec![Parent::new(service("db"), Some(443))];
    let route = OpaqueRoute::new(key(Kind::TlsRoute, "db"), parents, to)?;
    let route = route.with_names(vec![ServerNames::new("db.shop")?])?;
    world(vec![
        Op::put(Service::new(service("db"), ports)),
        Op::put(slice.workload("db", "")),
        Op::put(allow.select("app", "db")),
        Op::put(route),
    ])
}

#[test]
fn a_tunnel_walks_as_the_opaque_connection_that_it_is() -> Fallible {
    let snapshot = db()?;
    for (line, wanted) in [
        ("CONNECT db:5432", "sent"),
        ("CONNECT DB.shop:5432", "sent"),
        ("CONNECT db", "refused 400 invalid-request"),
        ("CONNECT db:0", "refused 400 invalid-request"),
        ("CONNECT cart:80", "refused 400 invalid-request"),
        ("CONNECT db:5433", "refused 404 no-route"),
        ("CONNECT 127.0.0.1:5432", "refused 404 unknown-host"),
        ("CONNECT db.shop.:443", "sent"),
        ("CONNECT db:443", "refused 404 no-route"),
    ] {
        let seen = ask(&snapshot, line)?;
        assert_eq!(verdict(&seen), wanted, "{line}");
        let read = Question::parse(line)?;
        assert_eq!(read.line(), line);
        let again = Question::from_query(&read.to_query())?;
        assert_eq!(again.line(), line);
    }
    let seen = ask(&snapshot, "CONNECT DB.shop:443")?;
    let asked = seen.request.ok_or("it is shown")?;
    assert_eq!(
        (&*asked.method, &*asked.authority),
        ("CONNECT", "db.shop:443")
    );
    assert_eq!(asked.sni.as_deref(), Some("db.shop"));
    let tcp = ask(&snapshot, "tcp://db:5432")?;
    let tunnel = ask(&snapshot, "CONNECT db:5432")?;
    assert_eq!(tunnel.sent, tcp.sent);
    assert_eq!(tunnel.backend, tcp.backend);
    assert!(Question::parse("CONNECT db:443")?.sni("db").is_err());
    Ok(())
}
