//! Hosts outside the mesh, in the words of Istio's ServiceEntry.

use inmesh_core::model::{AppProtocol, Host, Kind, Resolution, Roots, Service, Transport};
use inmesh_core::snapshot::{Object, Op};

use super::{only, read, refusal, with_spec};

const PLAIN: &str = "inmesh.dev/transport: plain";

fn entry(annotations: &str, spec: &str) -> String {
    with_spec("inmesh.dev/v1alpha1", "ServiceEntry", annotations, spec)
}

fn good(annotations: &str, spec: &str) -> Service {
    match only(&entry(annotations, spec)) {
        Op::Put(Object::Service(service), problems) if problems.is_empty() => {
            Service::clone(&service)
        }
        op => panic!("{spec}: {op:#?}"),
    }
}

#[test]
fn an_entry_becomes_a_service_that_its_hosts_lead_to() {
    let service = good(
        "inmesh.dev/transport: tls, inmesh.dev/ca: system",
        "hosts: ['*.Example.com', api.example.org]
location: MESH_EXTERNAL
resolution: DYNAMIC_DNS
ports:
- {number: 80, name: http, protocol: HTTP, targetPort: 443}
- {number: 443, name: tls, protocol: TLS}
- {number: 5432, name: db, protocol: TCP}
- {number: 81, name: calls, protocol: GRPC}",
    );
    assert_eq!(service.key().kind, Kind::ServiceEntry);
    let outside = service.outside.as_ref().unwrap();
    let hosts: Vec<_> = outside.hosts.iter().map(ToString::to_string).collect();
    assert_eq!(hosts, ["*.example.com", "api.example.org"]);
    assert_eq!(outside.resolution, Resolution::Dynamic);
    let tls = || Transport::tls("", Roots::System);
    let ports: Vec<_> = outside
        .ports
        .iter()
        .map(|port| (port.port, port.target, port.transport.clone()))
        .collect();
    // TLS of the application stays as it is.
    let wanted = [
        (80, 443, tls()),
        (443, 443, Transport::Plain),
        (5432, 5432, tls()),
        (81, 81, tls()),
    ];
    assert_eq!(ports, wanted);
    let protocols: Vec<_> = service.ports.iter().map(|port| port.protocol).collect();
    let wanted = [
        AppProtocol::Http1,
        AppProtocol::Tcp,
        AppProtocol::Tcp,
        AppProtocol::Http2,
    ];
    assert_eq!(protocols, wanted);
}

#[test]
fn each_resolution_says_where_a_request_goes() {
    let ports = "ports: [{number: 80, name: http, protocol: HTTP}]";
    let named = |name: &str| Host::Name {
        name: name.into(),
        srv: None,
    };
    for (spec, wanted) in [
        ("hosts: [a.b]", None),
        ("hosts: ['*.b.c']\nresolution: NONE", None),
        (
            "hosts: [a.b]\nresolution: DNS",
            Some(vec![(named("a.b"), 1)]),
        ),
        (
            "hosts: ['*.b.c', a.c]\nresolution: DNS\nendpoints: [{address: x.y, weight: 3}, {address: 10.1.1.1}]",
            Some(vec![
                (named("x.y"), 3),
                (Host::Address([10, 1, 1, 1].into()), 1),
            ]),
        ),
        (
            "hosts: [a.b]\nresolution: STATIC\naddresses: [10.9.9.9]\nendpoints: [{address: '2001:db8::1', labels: {a: b}}]",
            Some(vec![(Host::Address("2001:db8::1".parse().unwrap()), 1)]),
        ),
    ] {
        let service = good(PLAIN, &format!("{spec}\n{ports}"));
        let outside = service.outside.unwrap();
        match (outside.resolution, wanted) {
            (Resolution::Original, None) => {}
            (Resolution::Listed(hosts), Some(wanted)) => {
                let hosts: Vec<_> = hosts.into_iter().map(|h| (h.host, h.weight)).collect();
                assert_eq!(hosts, wanted, "{spec}");
            }
            (resolution, _) => panic!("{spec}: {resolution:?}"),
        }
    }
}

#[test]
fn what_is_not_evaluated_or_left_unsaid_is_refused_where_it_stands() {
    let ports = "ports: [{number: 80, name: http, protocol: HTTP}]";
    let tls = "ports: [{number: 443, name: tls, protocol: TLS}]";
    for (annotations, spec, field) in [
        ("", format!("hosts: [a.b]\n{ports}"), "spec"),
        ("inmesh.dev/transport: mesh", format!("hosts: [a.b]\n{tls}"), "metadata.annotations[inmesh.dev/transport]"),
        ("inmesh.dev/transport: tls", format!("hosts: [a.b]\n{ports}"), "spec"),
        ("inmesh.dev/ca: system", format!("hosts: [a.b]\n{tls}"), "metadata.annotations[inmesh.dev/ca]"),
        ("inmesh.dev/transport: plain, inmesh.dev/dns: srv", format!("hosts: [a.b]\n{tls}"), "metadata.annotations[inmesh.dev/dns]"),
        ("inmesh.dev/transport: plain, inmesh.dev/other: a", format!("hosts: [a.b]\n{tls}"), "metadata.annotations[inmesh.dev/other]"),
        ("", format!("hosts: []\n{tls}"), "spec.hosts"),
        ("", format!("hosts: ['*']\n{tls}"), "spec.hosts[0]"),
        ("", format!("hosts: ['a.*.b']\n{tls}"), "spec.hosts[0]"),
        ("", format!("hosts: ['*.com']\n{tls}"), "spec.hosts[0]"),
        ("", format!("hosts: [localhost]\n{tls}"), "spec.hosts[0]"),
        ("", format!("hosts: [10.0.0.1]\n{tls}"), "spec.hosts[0]"),
        ("", format!("hosts: [a.b, A.B]\n{tls}"), "spec.hosts[1]"),
        ("", "hosts: [a.b]".into(), "spec.ports"),
        ("", "hosts: [a.b]\nports: [{number: 1, name: a, protocol: MONGO}]".into(), "spec.ports[0].protocol"),
        ("", "hosts: [a.b]\nports: [{number: 1, name: a}]".into(), "spec.ports[0].protocol"),
        ("", "hosts: [a.b]\nports: [{number: 1, name: a, protocol: TLS}, {number: 1, name: b, protocol: TLS}]".into(), "spec.ports[1]"),
        ("", format!("hosts: [a.b]\n{tls}\nlocation: MESH_INTERNAL"), "spec.location"),
        ("", format!("hosts: [a.b]\n{tls}\nresolution: DNS_ROUND_ROBIN"), "spec.resolution"),
        ("", format!("hosts: [a.b]\n{tls}\nresolution: STATIC"), "spec.endpoints"),
        ("", format!("hosts: [a.b, a.c]\n{tls}\nresolution: DNS"), "spec.endpoints"),
        ("", format!("hosts: ['*.a.b']\n{tls}\nresolution: DNS"), "spec.endpoints"),
        ("", format!("hosts: [a.b]\n{tls}\nresolution: NONE\nendpoints: [{{address: 10.1.1.1}}]"), "spec.endpoints"),
        ("", format!("hosts: [a.b]\n{tls}\nresolution: STATIC\nendpoints: [{{address: x.y}}]"), "spec.endpoints[0].address"),
        ("", format!("hosts: [a.b]\n{tls}\nresolution: STATIC\nendpoints: [{{address: 169.254.169.254}}]"), "spec.endpoints[0].address"),
        ("", format!("hosts: [a.b]\n{tls}\nresolution: STATIC\nendpoints: [{{address: 10.1.1.1, locality: a}}]"), "spec.endpoints[0].locality"),
        ("", format!("hosts: [a.b]\n{tls}\naddresses: [10.0.0.0/8]"), "spec.addresses[0]"),
        ("", format!("hosts: [a.b]\n{tls}\nworkloadSelector: {{}}"), "spec.workloadSelector"),
        ("", format!("hosts: [a.b]\n{tls}\nexportTo: ['.']"), "spec.exportTo"),
        ("", format!("hosts: [a.b]\n{tls}\nsubjectAltNames: [a.b]"), "spec.subjectAltNames"),
        ("", format!("hosts: [a.b]\n{tls}\nother: 1"), "spec.other"),
    ] {
        let (_, problems) = refusal(&entry(annotations, &spec));
        let fields: Vec<_> = problems.iter().map(|problem| &*problem.field).collect();
        assert!(fields.contains(&field), "{annotations} {spec}: {problems:#?}");
    }
}

#[test]
fn istios_own_kind_is_another_programs_and_a_misspelt_one_of_ours_is_refused() {
    let text = with_spec("networking.istio.io/v1", "ServiceEntry", "", "hosts: [a.b]");
    assert_eq!(read(&text).skipped["ServiceEntry.networking.istio.io"], 1);
    let text = with_spec("inmesh.dev/v1alpha1", "ServiceEntri", "", "hosts: [a.b]");
    let (fallback, _) = refusal(&text);
    assert_eq!(fallback, inmesh_core::snapshot::Fallback::Absent);
}
