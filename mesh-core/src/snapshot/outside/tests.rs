//! Which Service a host leads to, and what becomes of the hosts that were asked for.

use std::net::SocketAddr;

use super::*;
use crate::Local;
use crate::authorize::{DefaultAction, HttpView, RequestView};
use crate::model::{Draw, HostAddress, Kind, ObjectKey, Workload};
use crate::plan::{Destination, plan};
use crate::snapshot::Settings;

fn name(namespace: &str, name: &str) -> ServiceName {
    ServiceName::new(&Namespace::new(namespace).unwrap(), name).unwrap()
}

fn entry(of: ServiceName, hosts: &[&str], resolution: Resolution, ports: &[u16]) -> Op {
    let hosts = hosts.iter().map(|host| HostPattern::new(host).unwrap());
    let of_outside = ports
        .iter()
        .map(|port| OutsidePort::new(*port, Transport::Plain).at(port + 8_000));
    let outside = Outside::new(hosts.collect(), resolution, of_outside.collect());
    let port = |port: &u16| ServicePort::new(&format!("p{port}"), *port, AppProtocol::Detect);
    Op::put(Service::new(of, ports.iter().map(port).collect()).outside(outside))
}

fn empty(policy: OutboundTrafficPolicy) -> Snapshot {
    let web = Workload::new("shop", "web", "web").unwrap();
    let mut settings = Settings::new(web, DefaultAction::Deny);
    settings.outbound = policy;
    Snapshot::new(settings)
}

fn after(snapshot: &Snapshot, ops: Vec<Op>) -> Snapshot {
    snapshot.apply(Change::update(SourceId::new("test"), ops))
}

/// Where a destination leads: the Service, its port and what is asked for; or why nowhere.
fn leads(snapshot: &Snapshot, to: Destination<'_>, server: Option<&str>) -> String {
    let local = Local::clone(&snapshot.settings().local);
    let (method, headers) = (http::Method::GET, http::HeaderMap::new());
    let http = RequestView::Http(HttpView::new(&method, "/", None, &headers));
    let view = match server {
        Some(server) => RequestView::Tls {
            server: Some(server),
        },
        None => http,
    };
    match plan(snapshot, &local, to, &view, &mut Draw::new(1), &mut ()) {
        Err(refused) => format!("{}", refused.reason),
        Ok(planned) => {
            let backend = planned.backend().unwrap();
            let asked = backend.asked.map(|asked| format!(" {asked}"));
            format!(
                "{}:{}{}",
                backend.service,
                backend.port,
                asked.unwrap_or_default()
            )
        }
    }
}

#[test]
fn the_most_precise_host_leads_and_a_service_of_the_mesh_comes_first() {
    let dynamic = || Resolution::Dynamic;
    let listed = || Resolution::Listed(Vec::new());
    let cart = Service::new(
        name("shop", "api"),
        vec![ServicePort::new("http", 80, AppProtocol::Http1)],
    );
    let snapshot = after(
        &empty(OutboundTrafficPolicy::RegistryOnly),
        vec![
            entry(
                name("shop", "exact"),
                &["api.example.com"],
                listed(),
                &[80, 443],
            ),
            entry(name("shop", "some"), &["*.example.com"], dynamic(), &[80]),
            entry(
                name("shop", "deep"),
                &["*.eu.example.com"],
                dynamic(),
                &[80],
            ),
            entry(
                name("mesh", "other"),
                &["*.example.com"],
                dynamic(),
                &[80, 443],
            ),
            entry(name("shop", "odd"), &["api.shop"], listed(), &[80]),
            Op::put(cart),
        ],
    );
    let none = |host: &str| format!("no Service has the name {host:?}");
    for (authority, wanted) in [
        ("api.example.com", "exact.shop:80".to_owned()),
        ("API.Example.com.:443", "exact.shop:443".into()),
        (
            "a.example.com",
            "some.shop:80 a.example.com port 8080".into(),
        ),
        (
            "A.B.example.com:80",
            "some.shop:80 a.b.example.com port 8080".into(),
        ),
        // Those of the caller's namespace come first, and those with the port before them.
        (
            "a.example.com:443",
            "other.mesh:443 a.example.com port 8443".into(),
        ),
        (
            "a.eu.example.com",
            "deep.shop:80 a.eu.example.com port 8080".into(),
        ),
        (
            "eu.example.com",
            "some.shop:80 eu.example.com port 8080".into(),
        ),
        // The longest wildcard decides, also where it has no such port.
        ("a.eu.example.com:443", "deep.shop has no port 443".into()),
        ("example.com", none("example.com")),
        ("xexample.com", none("xexample.com")),
        (
            "api.example.com.evil.test",
            none("api.example.com.evil.test"),
        ),
        ("a.example.com:x", none("a.example.com:x")),
        ("", none("")),
        // A Service of the mesh is never hidden.
        ("api.shop", "api.shop:80".into()),
    ] {
        assert_eq!(
            leads(&snapshot, Destination::Authority(authority), None),
            wanted,
            "{authority}"
        );
    }
    let long = format!("{}.example.com", "a.".repeat(130));
    assert_eq!(
        leads(&snapshot, Destination::Authority(&long), None),
        none(&long)
    );
    let gone = after(
        &snapshot,
        vec![Op::Remove(
            ObjectKey::new(Kind::ServiceEntry, &Namespace::new("shop").unwrap(), "some").unwrap(),
        )],
    );
    let to = Destination::Authority("a.example.com");
    assert_eq!(
        leads(&gone, to, None),
        "other.mesh:80 a.example.com port 8080"
    );
}

#[test]
fn a_captured_connection_is_led_by_what_it_asks_for_and_by_its_own_port() {
    let snapshot = after(
        &empty(OutboundTrafficPolicy::RegistryOnly),
        vec![
            entry(
                name("shop", "some"),
                &["*.example.com"],
                Resolution::Dynamic,
                &[443],
            ),
            entry(
                name("shop", "there"),
                &["*.example.org"],
                Resolution::Original,
                &[443],
            ),
        ],
    );
    let at = |ip: [u8; 4], port: u16| SocketAddr::from((ip, port));
    let public = at([198, 51, 100, 7], 443);
    let asked = |address, authority| Destination::Captured { address, authority };
    let address = Destination::Address;
    for (to, server, wanted) in [
        (
            asked(public, "a.example.com"),
            None,
            "some.shop:443 a.example.com port 8443",
        ),
        (
            asked(public, "a.example.com:80"),
            None,
            "some.shop:443 a.example.com port 8443",
        ),
        (
            asked(at([198, 51, 100, 7], 80), "a.example.com"),
            None,
            "some.shop has no port 80",
        ),
        (
            address(public),
            Some("a.example.com"),
            "some.shop:443 a.example.com port 8443",
        ),
        (
            address(public),
            Some("a.example.org"),
            "there.shop:443 198.51.100.7 port 8443",
        ),
        (
            address(public),
            Some("a.example.net"),
            "no Service has the address 198.51.100.7:443",
        ),
        (
            address(public),
            None,
            "no Service has the address 198.51.100.7:443",
        ),
        // The process is not made to talk to itself or to its host.
        (
            address(at([127, 0, 0, 1], 443)),
            Some("a.example.org"),
            "no Service has the address 127.0.0.1:443",
        ),
        (
            address(at([169, 254, 169, 254], 443)),
            Some("a.example.org"),
            "no Service has the address 169.254.169.254:443",
        ),
        (
            Destination::Authority("a.example.org"),
            None,
            "no Service has the name \"a.example.org\"",
        ),
    ] {
        assert_eq!(leads(&snapshot, to, server), wanted, "{to:?} {server:?}");
    }
}

#[test]
fn all_hosts_are_reached_where_the_policy_allows_any_and_none_of_the_mesh() {
    let only = empty(OutboundTrafficPolicy::RegistryOnly);
    let any = after(
        &empty(OutboundTrafficPolicy::AllowAny),
        vec![entry(
            name("shop", "some"),
            &["*.example.com"],
            Resolution::Dynamic,
            &[443],
        )],
    );
    let at = |ip: [u8; 4]| Destination::Address(SocketAddr::from((ip, 5432)));
    let all = "PassthroughCluster.shop:0";
    for (to, wanted) in [
        (
            at([198, 51, 100, 7]),
            Some(format!("{all} 198.51.100.7 port 5432")),
        ),
        (
            Destination::Authority("www.test"),
            Some(format!("{all} www.test port 80")),
        ),
        (
            Destination::Authority("www.test:8080"),
            Some(format!("{all} www.test port 8080")),
        ),
        (
            Destination::Authority("[2001:db8::1]:81"),
            Some(format!("{all} 2001:db8::1 port 81")),
        ),
        (
            Destination::Authority("a.example.com:443"),
            Some("some.shop:443 a.example.com port 8443".into()),
        ),
        (at([127, 0, 0, 1]), None),
        (Destination::Authority("127.0.0.1:80"), None),
        (at([169, 254, 169, 254]), None),
        (Destination::Authority("misspelt"), None),
        (Destination::Authority("gone.shop.svc.cluster.local"), None),
        (Destination::Authority("gone.shop.svc"), None),
        (Destination::Authority("a b.test"), None),
        (
            Destination::Service {
                name: &name("shop", "gone"),
                port: 80,
            },
            None,
        ),
    ] {
        let seen = leads(&any, to, None);
        match wanted {
            Some(wanted) => assert_eq!(seen, wanted, "{to:?}"),
            None => assert!(!seen.contains("Passthrough"), "{to:?}: {seen}"),
        }
        assert!(!leads(&only, to, None).contains("Passthrough"), "{to:?}");
    }
}

#[test]
fn what_was_asked_for_has_endpoints_until_nothing_is_for_it() {
    let some = name("shop", "some");
    let put = |host: &str, port| entry(some.clone(), &[host], Resolution::Dynamic, &[port]);
    let host = |text: &str| Host::Name {
        name: text.into(),
        srv: None,
    };
    let asked = |text: &str| Asked {
        host: host(text),
        port: 443,
        target: 8_443,
    };
    let count = |snapshot: &Snapshot, text: &str| {
        let view = snapshot.service(&some)?;
        Some(view.asked(&asked(text))?.endpoints.members().len())
    };
    let ask = |text: &str| Op::Ask(some.clone(), asked(text));
    let found: Arc<[_]> = [1, 2]
        .map(|n| HostAddress::new([198, 51, 100, n].into()))
        .into();
    let base = empty(OutboundTrafficPolicy::RegistryOnly);
    let snapshot = after(
        &base,
        vec![
            put("*.example.com", 443),
            ask("a.example.com"),
            ask("b.test"),
        ],
    );
    assert_eq!(count(&snapshot, "a.example.com"), Some(0));
    // The Service is not for it.
    assert_eq!(count(&snapshot, "b.test"), None);
    assert_eq!(
        snapshot.names().collect::<Vec<_>>(),
        [&host("a.example.com")]
    );
    let resolved = after(&snapshot, vec![Op::Resolve(host("a.example.com"), found)]);
    assert_eq!(count(&resolved, "a.example.com"), Some(2));
    let set = |snapshot: &Snapshot| {
        let view = snapshot.service(&some).unwrap();
        Arc::clone(&view.asked(&asked("a.example.com")).unwrap().endpoints)
    };
    // Another host leaves its endpoints as they are.
    let more = after(&resolved, vec![ask("c.example.com")]);
    assert_eq!(count(&more, "c.example.com"), Some(0));
    let (before, behind) = (set(&resolved), set(&more));
    assert!(Arc::ptr_eq(
        &before.members()[0].state,
        &behind.members()[0].state
    ));
    let forgotten = after(
        &more,
        vec![Op::Forget(some.clone(), asked("a.example.com"))],
    );
    assert_eq!(count(&forgotten, "a.example.com"), None);
    assert_eq!(
        forgotten.names().collect::<Vec<_>>(),
        [&host("c.example.com")]
    );
    for changed in [
        put("*.example.org", 443),
        put("*.example.com", 444),
        Op::Remove(ObjectKey::new(Kind::ServiceEntry, some.namespace(), "some").unwrap()),
    ] {
        let shown = format!("{changed:?}");
        let next = after(&more, vec![changed]);
        assert_eq!(next.names().count(), 0, "{shown}");
        assert_eq!(next.asked_sets().count(), 0, "{shown}");
    }
}

#[test]
fn a_service_of_the_same_name_serves_in_place_of_an_entry_and_that_is_said() {
    let api = name("shop", "api");
    let plain = Service::new(
        api.clone(),
        vec![ServicePort::new("http", 80, AppProtocol::Http1)],
    );
    let hosts = &["api.example.com"];
    let snapshot = after(
        &empty(OutboundTrafficPolicy::RegistryOnly),
        vec![
            entry(api, hosts, Resolution::Dynamic, &[80]),
            Op::put(plain),
        ],
    );
    let status = snapshot.status();
    let of = status
        .iter()
        .find(|s| s.object.starts_with("ServiceEntry"))
        .unwrap();
    assert!(of.problems[0].message.contains("in its place"), "{of:?}");
    let seen = leads(&snapshot, Destination::Authority("api.example.com"), None);
    assert_eq!(seen, "no Service has the name \"api.example.com\"");
}
