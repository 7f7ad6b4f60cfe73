//! The agent's file is strict: each refusal with its line and field.

use std::path::Path;

use inmesh_core::runtime::Listen;

use super::*;

const GOOD: &str = "\
apiVersion: inmesh.dev/v1alpha1
kind: Agent
workload:
  namespace: shop
  name: cart
  serviceAccount: cart
defaultAction: deny
peers: strict
identity:
  developmentCA: {dir: ca, lifetime: 20s}
listeners:
- bind: 127.0.0.1:8080
  inbound: {app: '127.0.0.1:9090', appProtocol: http}
- bind: 127.0.0.1:8081
  outbound: {appProtocol: http}
admin: {bind: '127.0.0.1:15000'}
";

fn read(text: &str) -> Found {
    let dir = tempfile::tempdir().expect("a temporary folder");
    std::fs::write(dir.path().join("agent.yaml"), text).expect("written");
    find(dir.path()).expect("one agent's file")
}

fn good(text: &str) -> Agent {
    match read(text) {
        Found::Agent(agent) => *agent,
        other => panic!("{other:?} of\n{text}"),
    }
}

/// Replaces `from` of the good file by `to` and says what is refused: `line: field: message`.
fn refused(from: &str, to: &str) -> Vec<String> {
    assert_eq!(GOOD.matches(from).count(), 1, "{from:?} stands there once");
    let text = GOOD.replace(from, to);
    match read(&text) {
        Found::Refused(problems) => problems
            .iter()
            .map(|p| {
                let line = p.location.as_ref().map_or(0, |l| l.line);
                format!("{line}: {}: {}", p.field, p.message)
            })
            .collect(),
        other => panic!("{other:?} of\n{text}"),
    }
}

/// An agent comes back after a restart whatever else its folder holds.
#[test]
fn what_cannot_be_read_is_no_agent() {
    let dir = tempfile::tempdir().expect("a temporary folder");
    let at = |name: &str| dir.path().join(name);
    std::fs::write(at("0.yaml"), b"\xff").expect("written");
    std::fs::write(at("large.yaml"), " ".repeat(2 << 20)).expect("written");
    std::fs::create_dir(at("z.yaml")).expect("a folder");
    std::os::unix::fs::symlink("nowhere", at("link.yaml")).expect("a link");
    // Nothing connects to a socket that stands there; to read it fails.
    let _socket = std::os::unix::net::UnixListener::bind(at("socket.yaml")).expect("a socket");
    std::fs::write(at("bad.yaml"), "kind: [").expect("written");
    let Found::None(unread) = find(dir.path()).expect("a folder") else {
        panic!("there is no agent's file");
    };
    let files = unread.iter().map(|problem| {
        let location = problem.location.as_ref().expect("a place");
        location.file.rsplit('/').next().expect("a name").to_owned()
    });
    assert_eq!(
        files.collect::<Vec<_>>(),
        [
            "0.yaml",
            "bad.yaml",
            "large.yaml",
            "link.yaml",
            "socket.yaml"
        ]
    );
    assert_eq!(text(dir.path()), None);
    std::fs::write(at("agent.yaml"), GOOD).expect("written");
    assert!(matches!(find(dir.path()), Ok(Found::Agent(_))));
    assert_eq!(text(dir.path()).as_deref(), Some(GOOD.trim_end()));
}

/// Each further document is named with its place, beside what is wrong with the first.
#[test]
fn a_second_document_is_a_problem_with_its_place() {
    for (file, first) in [(GOOD.to_owned(), 0), (GOOD.replace("peers:", "pers:"), 2)] {
        let Found::Refused(problems) = read(&format!("{file}---\n{GOOD}---\n{GOOD}")) else {
            panic!("there are three");
        };
        let all: Vec<_> = problems.iter().map(ToString::to_string).collect();
        assert_eq!(all.len(), first + 2, "{all:#?}");
        for (said, line) in all.iter().skip(first).zip([18, 35]) {
            assert!(
                said.contains(&format!("agent.yaml:{line}: a second Agent document")),
                "{said}"
            );
        }
    }
}

/// A problem that is found later stands where its field does.
#[test]
fn a_field_has_its_line() {
    let agent = good(GOOD);
    for (field, line) in [
        ("listeners[0].bind", 12),
        ("listeners[1].outbound.appProtocol", 15),
        ("identity.developmentCA", 10),
        ("admin.bind", 16),
        // What is not there: the last part that is.
        ("listeners[7].bind", 11),
        ("federation", 1),
    ] {
        assert_eq!(agent.document.place(field).line, line, "{field}");
    }
}

#[test]
fn the_good_file_is_read() {
    let agent = good(GOOD);
    assert_eq!(&*agent.workload.name, "cart");
    assert_eq!(agent.default_action, DefaultAction::Deny);
    assert!(!agent.loopback_endpoints);
    assert_eq!(agent.limits, Limits::default());
    assert!(agent.access_log.is_none() && agent.tracing.is_none());
    let Listen::Inbound(inbound) = &agent.listeners[0].listen else {
        panic!("{:?}", agent.listeners[0]);
    };
    assert!(inbound.strict && inbound.probes.is_empty());
    let Identity::DevelopmentCa { dir, lifetime } = &agent.identity else {
        panic!("{:?}", agent.identity);
    };
    // A path is relative to the file's folder.
    assert!(dir.is_absolute() && dir.ends_with("ca"), "{dir:?}");
    assert_eq!(*lifetime, Duration::from_secs(20));
}

#[test]
fn paths_are_changed_as_the_file_asks() {
    let form = PathForm::default;
    for (fields, wanted) in [
        ("{}", form()),
        ("{mergeSlashes: true}", form().merge_slashes(true)),
        (
            "{decodeSlashes: true, mergeSlashes: false}",
            form().decode_slashes(true),
        ),
    ] {
        let text = GOOD.replace("peers: strict", &format!("peers: strict\npaths: {fields}"));
        assert_eq!(good(&text).paths, wanted, "{fields}");
    }
}

#[test]
fn an_identity_may_come_from_a_ca() {
    let source = "developmentCA: {dir: ca, lifetime: 20s}";
    assert!(GOOD.contains(source), "{GOOD}");
    let ca = "ca: {address: 'ca:15012', caId: spiffe://td/inmesh/ca, trustBundle: b.pem, tokenFile: t, keep: kept}";
    let Identity::Ca {
        address,
        ca: id,
        trust_bundle,
        token,
        keep,
    } = good(&GOOD.replace(source, ca)).identity
    else {
        panic!("it names a CA");
    };
    assert_eq!(
        (address.as_str(), id.as_str()),
        ("ca:15012", "spiffe://td/inmesh/ca")
    );
    assert!(trust_bundle.ends_with("b.pem") && token.is_some_and(|t| t.ends_with("t")));
    assert!(keep.is_some_and(|dir| dir.ends_with("kept")));
    let plain = ca.replace(", tokenFile: t, keep: kept", "");
    assert!(matches!(
        good(&GOOD.replace(source, &plain)).identity,
        Identity::Ca {
            token: None,
            keep: None,
            ..
        }
    ));
}

#[test]
fn files_may_come_with_revocation_lists() {
    let source = "developmentCA: {dir: ca, lifetime: 20s}";
    let lists = |more: &str| {
        let files = format!("files: {{certificate: c.pem, key: k.pem, bundle: b.pem{more}}}");
        match good(&GOOD.replace(source, &files)).identity {
            Identity::Files {
                revocation_lists, ..
            } => revocation_lists,
            other => panic!("{other:?}"),
        }
    };
    assert_eq!(lists(""), None);
    assert!(lists(", revocationLists: l.pem").is_some_and(|path| path.ends_with("l.pem")));
}

#[test]
fn a_pod_certificate_is_in_one_file_or_in_two() {
    let source = "developmentCA: {dir: ca, lifetime: 20s}";
    let read = |fields: &str| {
        let pod = format!("podCertificate: {{{fields}}}");
        let agent = good(&GOOD.replace(source, &pod));
        let Identity::PodCertificate { chain, key, bundle } = agent.identity else {
            panic!("{:?}", agent.identity);
        };
        [chain, key, bundle].map(|path| path.display().to_string())
    };
    let mounted = "/var/run/secrets/inmesh.dev";
    let both = format!("{mounted}/credentials.pem");
    let roots = format!("{mounted}/ca.crt");
    assert_eq!(read(""), [both.clone(), both, roots.clone()]);
    let one = "credentials: /a/b.pem, bundle: /r.pem";
    assert_eq!(read(one), ["/a/b.pem", "/a/b.pem", "/r.pem"]);
    let two = "key: /k.pem, certificateChain: /c.pem";
    assert_eq!(read(two), ["/c.pem", "/k.pem", roots.as_str()]);
    for fields in [
        "key: /k.pem",
        "certificateChain: /c.pem",
        "credentials: /a, key: /k.pem",
    ] {
        let pod = format!("podCertificate: {{{fields}}}");
        let said = refused(source, &pod).concat();
        let why = "identity.podCertificate: name credentials, or key and certificateChain";
        assert!(said.contains(why), "{said}");
    }
}

#[test]
fn the_workload_api_is_asked_and_served() {
    let text = GOOD.replace(
        "  developmentCA: {dir: ca, lifetime: 20s}",
        "  workloadApi: {socket: agent.sock}
workloadApi:
  listen: own.sock
  entries:
  - {id: spiffe://td/a, uid: 0, hint: first}
  - {id: spiffe://td/b, gid: 7, pid: 8, cgroup: /system.slice}",
    );
    let agent = good(&text);
    let Identity::WorkloadApi(endpoint) = &agent.identity else {
        panic!("{:?}", agent.identity);
    };
    // Paths are relative to the file's folder.
    assert!(endpoint.path().is_absolute() && endpoint.path().ends_with("agent.sock"));
    let api = agent.workload_api.expect("it is served");
    assert!(api.listen.is_absolute() && api.listen.ends_with("own.sock"));
    let ids: Vec<_> = api
        .entries
        .iter()
        .map(|entry| entry.id().as_str())
        .collect();
    assert_eq!(ids, ["spiffe://td/a", "spiffe://td/b"]);
    assert_eq!(api.entries[0].hint(), "first");

    let address = text.replace("socket: agent.sock", "socket: 'unix:///run/agent.sock'");
    let Identity::WorkloadApi(endpoint) = good(&address).identity else {
        panic!("a workload API");
    };
    assert_eq!(endpoint.path(), Path::new("/run/agent.sock"));
}

#[test]
fn what_serves_nobody_or_everybody_is_refused() {
    let own = "identity:\n  developmentCA: {dir: ca, lifetime: 20s}";
    let with = |entry: &str| {
        let api = format!("{own}\nworkloadApi:\n  listen: a.sock\n  entries:\n  - {entry}");
        refused(own, &api)
    };
    let place = "14: workloadApi.entries[0]";
    for (entry, expected) in [
        (
            "{id: 'spiffe://td/a'}",
            ": the selector has no uid, gid, pid or cgroup",
        ),
        ("{uid: 1}", ".id: "),
        ("{id: td/a, uid: 1}", ".id: "),
        ("{id: 'spiffe://td', uid: 1}", ": spiffe://td has no path"),
        ("{id: 'spiffe://td/a', uid: -1}", ".uid: "),
        (
            "{id: 'spiffe://td/a', cgroup: /}",
            ": \"/\" is no control group",
        ),
        ("{id: 'spiffe://td/a', uid: 1, user: me}", ".user: "),
    ] {
        let got = with(entry);
        assert!(
            got.iter()
                .any(|line| line.starts_with(&format!("{place}{expected}"))),
            "{entry}: {got:?}"
        );
    }
    let source = "  developmentCA: {dir: ca, lifetime: 20s}";
    for address in ["tcp://127.0.0.1:1", "unix://host/a", "http://a"] {
        let got = refused(source, &format!("  workloadApi: {{socket: '{address}'}}"));
        assert!(
            got[0].starts_with("10: identity.workloadApi.socket: "),
            "{got:?}"
        );
    }
}

#[test]
fn foreign_trust_domains_are_read() {
    let source = "  developmentCA: {dir: ca, lifetime: 20s}";
    let with = |federation: &str| format!("{source}\nfederation:\n{federation}");
    let text = with(
        "  relationships:
  - {trustDomain: a.example, url: 'https://a.example/b', profile: https_web, maxAge: 1h}
  - trustDomain: b.example
    url: https://b.example:8443/b
    profile: https_spiffe
    endpointId: spiffe://b.example/server
    endpointBundle: b.json
  bundleEndpoint: {bind: '127.0.0.1:8443', path: /bundle}
  keep: kept",
    );
    let federation = good(&GOOD.replace(source, &text)).federation;
    let federation = federation.expect("it is there");
    let [web, spiffe] = &federation.relationships[..] else {
        panic!("{federation:?}");
    };
    assert!(web.spiffe.is_none() && web.max_age == Some(Duration::from_secs(3_600)));
    let server = spiffe.spiffe.as_ref().expect("it is known by its ID");
    assert_eq!(server.id.as_str(), "spiffe://b.example/server");
    let bundle = server.bundle.as_ref().expect("a bundle");
    assert!(bundle.is_absolute() && bundle.ends_with("b.json"));
    let keep = federation.keep.expect("a folder");
    assert!(keep.is_absolute() && keep.ends_with("kept"));
    let endpoint = federation.endpoint.expect("an endpoint");
    assert_eq!(
        (&*endpoint.path, endpoint.profile()),
        ("/bundle", "https_spiffe")
    );

    let entry = |rest: &str| {
        let text = format!("  relationships:\n  - {{trustDomain: a.example, {rest}}}");
        refused(source, &with(&text)).join("; ")
    };
    let place = "13: federation.relationships[0]";
    for (rest, expected) in [
        ("url: 'https://a/', profile: web", ".profile: "),
        (
            "url: 'http://a/', profile: https_web",
            ".url: a bundle is fetched over https",
        ),
        (
            "url: 'https://u@a/', profile: https_web",
            ".url: an address of a bundle has no user",
        ),
        (
            "url: 'https://a/', profile: https_spiffe",
            ": https_spiffe needs endpointId",
        ),
        (
            "url: 'https://a/', profile: https_web, endpointId: 'spiffe://a/b'",
            ": endpointId and endpointBundle belong to https_spiffe",
        ),
        (
            "url: 'https://a/', profile: https_web, roots: x",
            ".roots: ",
        ),
    ] {
        let got = entry(rest);
        assert!(got.contains(&format!("{place}{expected}")), "{rest}: {got}");
    }
    let web = |files: &str| {
        let endpoint = "bundleEndpoint: {bind: '127.0.0.1:1', path: /b, webCertificate: ";
        with(&format!("  {endpoint}{{{files}}}}}"))
    };
    let text = GOOD.replace(source, &web("certificate: tls.crt, key: tls.key"));
    let endpoint = good(&text).federation.and_then(|f| f.endpoint);
    let endpoint = endpoint.expect("an endpoint");
    assert_eq!(endpoint.profile(), "https_web");
    assert!(good(&text).federation.is_some_and(|f| f.keep.is_none()));
    let files = endpoint.web.expect("a certificate");
    assert!(files.certificate.is_absolute() && files.certificate.ends_with("tls.crt"));
    assert!(files.key.is_absolute() && files.key.ends_with("tls.key"));
    let got = refused(source, &web("certificate: tls.crt")).join("; ");
    assert!(
        got.contains("federation.bundleEndpoint.webCertificate.key: "),
        "{got}"
    );

    let path = with("  bundleEndpoint: {bind: '127.0.0.1:1', path: bundle}");
    let got = refused(source, &path).join("; ");
    assert!(
        got.contains("federation.bundleEndpoint.path: a path begins with"),
        "{got}"
    );
}

#[test]
fn a_listener_may_speak_for_itself() {
    let permissive = GOOD.replace("appProtocol: http}\n-", "peers: permissive}\n-");
    let Listen::Inbound(inbound) = &good(&permissive).listeners[0].listen else {
        panic!("it is inbound");
    };
    assert!(!inbound.strict);
}

#[test]
fn everything_else_is_refused_with_its_place() {
    let table = [
        // What must be written.
        ("defaultAction: deny\n", "", "1: defaultAction: "),
        ("peers: strict\n", "", "1: peers: "),
        ("  namespace: shop\n", "", "3: workload.namespace: "),
        (
            "  serviceAccount: cart\n",
            "",
            "3: workload.serviceAccount: ",
        ),
        (
            "bind: 127.0.0.1:8080\n  inbound",
            "inbound",
            "12: listeners[0].bind: ",
        ),
        (
            "app: '127.0.0.1:9090', ",
            "",
            "13: listeners[0].inbound.app: ",
        ),
        // What is not known.
        (
            "peers: strict",
            "peers: strict\npears: strict",
            "9: pears: is not a known field",
        ),
        (
            "lifetime: 20s",
            "lifetme: 20s",
            "10: identity.developmentCA.lifetme: ",
        ),
        (
            "{bind: '127.0.0.1:15000'}",
            "{bond: '127.0.0.1:15000'}",
            "16: admin.b",
        ),
        // What is not one of the choices.
        (
            "defaultAction: deny",
            "defaultAction: DENY",
            "7: defaultAction: ",
        ),
        ("peers: strict", "peers: mutual", "8: peers: "),
        (
            "'127.0.0.1:9090', appProtocol: http",
            "'127.0.0.1:9090', appProtocol: ftp",
            "13: listeners[0].inbound.appProtocol: ",
        ),
        // What is not a value of its kind.
        (
            "lifetime: 20s",
            "lifetime: 20",
            "10: identity.developmentCA.lifetime: ",
        ),
        (
            "lifetime: 20s",
            "lifetime: 20 s",
            "10: identity.developmentCA.lifetime: ",
        ),
        (
            "'127.0.0.1:9090'",
            "localhost:9090",
            "13: listeners[0].inbound.app: ",
        ),
        ("namespace: shop", "namespace: Shop", "3: workload: "),
        ("name: cart\n", "name: [cart]\n", "5: workload.name: "),
        (
            "'127.0.0.1:9090', appProtocol: http",
            "'127.0.0.1:9090', probes: [healthz]",
            "13: listeners[0].inbound.probes[0]: the path does not begin with '/'",
        ),
        (
            "peers: strict",
            "peers: strict\nsources: {dns: {staleAfter: 0s}}",
            "9: sources.dns.staleAfter: ",
        ),
        (
            "peers: strict",
            "peers: strict\nsources: {documents: {staleAfter: soon}}",
            "9: sources.documents.staleAfter: ",
        ),
        (
            "peers: strict",
            "peers: strict\nsources: {files: {}}",
            "9: sources.files: ",
        ),
        (
            "peers: strict",
            "peers: strict\nkubernetes: {}",
            "9: kubernetes.trustDomain: ",
        ),
        (
            "peers: strict",
            "peers: strict\nkubernetes: {context: a, trustDomain: b}",
            "9: kubernetes.kubeconfig: ",
        ),
        (
            "peers: strict",
            "peers: strict\ncontrol: {addresses: [], controlId: 'spiffe://a/b'}",
            "9: control.addresses: ",
        ),
        (
            "peers: strict",
            "peers: strict\ncontrol: {addresses: [control], controlId: 'spiffe://a/b'}",
            "9: control.addresses[0]: write host:port",
        ),
        (
            "peers: strict",
            "peers: strict\ncontrol: {addresses: ['c:1'], controlId: 'spiffe://a/b', follow: all, services: [cart]}",
            "9: control: services are ",
        ),
        (
            "peers: strict",
            "peers: strict\ncontrol: {addresses: ['c:1'], controlId: 'spiffe://a/b', services: [Cart]}",
            "9: control.services[0]: ",
        ),
        (
            "peers: strict",
            "peers: strict\ncontrolPlane: {bind: '0.0.0.0:15010', writeStatus: true}",
            "9: controlPlane.writeStatus: statuses are those of a cluster",
        ),
        (
            "peers: strict",
            "peers: strict\ncontrolPlane: {bind: '0.0.0.0:15010', inject: {}}",
            "9: controlPlane.inject: Pods are those of a cluster",
        ),
        (
            "peers: strict",
            "peers: strict\nlimits: {headerBytes: 0}",
            "9: limits.headerBytes: ",
        ),
        (
            "peers: strict",
            "peers: strict\nlimits: {headerFields: 201}",
            "9: limits.headerFields: ",
        ),
        (
            "peers: strict",
            "peers: strict\nlimits: {drainLead: -1s}",
            "9: limits.drainLead: ",
        ),
        (
            "peers: strict",
            "peers: strict\nlimits: {streams: 0}",
            "9: limits.streams: ",
        ),
        (
            "peers: strict",
            "peers: strict\noutlierDetection: {maxEjectionPercent: 101}",
            "9: outlierDetection.maxEjectionPercent: ",
        ),
        (
            "peers: strict",
            "peers: strict\naccessLog: {sample: 0.1}",
            "9: accessLog.sample: ",
        ),
        (
            "peers: strict",
            "peers: strict\naccessLog: {sample: 101%}",
            "9: accessLog.sample: ",
        ),
        (
            "peers: strict",
            "peers: strict\ntracing: {otlp: 'https://collector:4317'}",
            "9: tracing.otlp: ",
        ),
        (
            "peers: strict",
            "peers: strict\nloopbackEndpoints: true",
            "9: loopbackEndpoints: ",
        ),
        (
            "peers: strict",
            "peers: strict\npaths: {mergeSlashes: yes please}",
            "9: paths.mergeSlashes: ",
        ),
        (
            "appProtocol: http}\n- bind: 127.0.0.1:8081",
            "appProtocol: http, probes: [/a, '/a?b']}\n- bind: 127.0.0.1:8081",
            "13: listeners[0].inbound.probes[1]: ",
        ),
        (
            "appProtocol: http}\n- bind: 127.0.0.1:8081",
            "appProtocol: http, probes: ['*']}\n- bind: 127.0.0.1:8081",
            "13: listeners[0].inbound.probes[0]: ",
        ),
        (
            "appProtocol: http}\n- bind: 127.0.0.1:8081",
            "appProtocol: http, probes: [/a/../b]}\n- bind: 127.0.0.1:8081",
            "13: listeners[0].inbound.probes[0]: ",
        ),
        (
            "name: cart\n",
            "name: cart\n  labels: {app: 'cart '}\n",
            "6: workload.labels[app]: ",
        ),
        // What does not fit together.
        (
            "outbound: {appProtocol: http}",
            "outbound: {appProtocol: tcp}",
            "15: listeners[1].outbound: a listener of opaque bytes must name its service",
        ),
        (
            "outbound: {appProtocol: http}",
            "outbound: {captured: true, service: {name: cart, port: 80}}",
            "15: listeners[1].outbound: has one of service and captured",
        ),
        (
            "bind: 127.0.0.1:8081\n  outbound: {appProtocol: http}",
            "bind: 0.0.0.0:8081\n  outbound: {captured: true}",
            "14: listeners[1]: a captured listener is bound to 127.0.0.1 or ::1",
        ),
        (
            "'127.0.0.1:9090'",
            "10.1.0.2",
            "13: listeners[0].inbound.app: an address without a port is 127.0.0.1 or ::1",
        ),
        (
            "'127.0.0.1:9090'",
            "0.0.0.0",
            "13: listeners[0].inbound.app: an address without a port is 127.0.0.1 or ::1",
        ),
        (
            "outbound: {appProtocol: http}",
            "outbound: {service: {name: cart}}",
            "15: listeners[1].outbound.service.port: ",
        ),
        (
            "outbound: {appProtocol: http}",
            "outbound: {service: {name: cart, port: 0}}",
            "15: listeners[1].outbound.service.port: ",
        ),
        (
            "outbound: {appProtocol: http}",
            "inbound: {app: '127.0.0.1:1'}\n  outbound: {appProtocol: http}",
            "14: listeners[1]: say which way it goes",
        ),
        (
            "\n  outbound: {appProtocol: http}",
            "",
            "14: listeners[1]: say which way it goes",
        ),
        (
            "lifetime: 20s}",
            "lifetime: 20s}\n  files: {certificate: a, key: b, bundle: c}",
            "9: identity: name exactly one source",
        ),
        (
            "  developmentCA: {dir: ca, lifetime: 20s}",
            "  {}",
            "9: identity: name exactly one source",
        ),
    ];
    let mut wrong = Vec::new();
    for (from, to, expected) in table {
        let problems = refused(from, to);
        if !problems.iter().any(|p| p.starts_with(expected)) {
            wrong.push(format!("{to:?}: {expected:?} is not in {problems:?}"));
        }
    }
    assert!(wrong.is_empty(), "{wrong:#?}");
}

/// Where a captured connection leads is what it was opened to, either way.
#[test]
fn listeners_of_captured_connections_are_led_by_their_address() {
    for (app, shown) in [
        ("127.0.0.1", "inbound to 127.0.0.1 at the same port"),
        ("'::1'", "inbound to ::1 at the same port"),
    ] {
        let text = GOOD.replace("'127.0.0.1:9090'", app).replace(
            "outbound: {appProtocol: http}",
            "outbound: {captured: true, appProtocol: tcp}",
        );
        let agent = good(&text);
        let leads: Vec<_> = agent
            .listeners
            .iter()
            .map(|l| l.listen.to_string())
            .collect();
        assert!(leads[0].starts_with(shown), "{leads:?}");
        assert_eq!(leads[1], "outbound by original address, tcp");
        // No caller chooses these.
        assert_eq!(agent.ports(), [8_080, 8_081, 15_000]);
        let settings = document(&agent);
        assert_eq!(
            settings["listeners"][0]["inbound"]["app"],
            app.trim_matches('\'')
        );
        assert_eq!(settings["listeners"][1]["outbound"]["captured"], true);
    }
    let text = GOOD.replace(
        "outbound: {appProtocol: http}",
        "outbound: {captured: false}",
    );
    let leads = good(&text).listeners.swap_remove(1).listen.to_string();
    assert_eq!(leads, "outbound by authority, detect");
}

#[test]
fn one_look_shows_the_problems_of_all() {
    let text = GOOD
        .replace("defaultAction: deny", "defaultAction: no")
        .replace("127.0.0.1:8080", "here")
        .replace("lifetime: 20s", "lifetime: long");
    let Found::Refused(problems) = read(&text) else {
        panic!("it is refused");
    };
    let fields: Vec<_> = problems.iter().map(|p| p.field.to_string()).collect();
    let all = [
        "defaultAction",
        "identity.developmentCA.lifetime",
        "listeners[0].bind",
    ];
    for field in all {
        assert!(
            fields.iter().any(|f| f == field),
            "{field} is not in {fields:?}"
        );
    }
}

#[test]
fn a_folder_holds_one_agent_among_other_documents() {
    let dir = tempfile::tempdir().expect("a temporary folder");
    let write = |name: &str, text: &str| std::fs::write(dir.path().join(name), text);
    write(
        "a.yaml",
        "apiVersion: v1\nkind: Service\nmetadata: {name: a}\n",
    )
    .expect("written");
    write(".hidden.yaml", GOOD).expect("written");
    write("notes.txt", GOOD).expect("written");
    assert!(matches!(find(dir.path()), Ok(Found::None(_))));
    // A file that does not parse is not the agent's concern.
    write("broken.yaml", "a: [").expect("written");
    write(
        "z.yml",
        &format!("apiVersion: v1\nkind: Service\n---\n{GOOD}"),
    )
    .expect("written");
    assert!(matches!(find(dir.path()), Ok(Found::Agent(_))));
    write("zz.yaml", GOOD).expect("written");
    let Ok(Found::Refused(problems)) = find(dir.path()) else {
        panic!("two are one too many");
    };
    let twice = problems[0].to_string();
    assert!(
        twice.contains("zz.yaml:1: a second Agent document"),
        "{twice}"
    );
    assert!(twice.contains("z.yml:4"), "{twice}");
    assert!(find(Path::new("/nowhere")).is_err());
}

#[test]
fn durations_are_those_of_the_gateway_api() {
    let seconds = |text: &str| duration(text).expect(text).as_secs_f64();
    assert!((seconds("1h30m") - 5_400.0).abs() < f64::EPSILON);
    assert!((seconds("1m10s") - 70.0).abs() < f64::EPSILON);
    assert!((seconds("250ms") - 0.25).abs() < f64::EPSILON);
    for none in [
        "",
        "10",
        "s",
        "1.5s",
        "-1s",
        "1d",
        "1s ",
        "99999999999h",
        "1ss",
        "1s1",
    ] {
        assert!(duration(none).is_err(), "{none:?}");
    }
}

/// Every setting, none of them at its default.
const FULL: &str = "\
apiVersion: inmesh.dev/v1alpha1
kind: Agent
workload: {namespace: shop, name: cart, serviceAccount: 'yes', labels: {app: cart, version: '1.10'}}
defaultAction: allow
peers: permissive
meshNamespace: mesh
identity:
  ca: {address: 'ca:15012', caId: spiffe://td/inmesh/ca, trustBundle: b.pem, tokenFile: t, keep: kept}
listeners:
- bind: 127.0.0.1:8080
  inbound: {app: '127.0.0.1:9090', appProtocol: kubernetes.io/h2c, peers: strict, probes: [/healthz],
    proxyProtocol: {accept: required, from: [10.0.0.0/8, '2001:db8::/32'], send: V1}}
- bind: '[::1]:8081'
  outbound: {appProtocol: tcp, service: {namespace: data, name: db, port: 5432},
    proxyProtocol: {accept: required, from: [192.0.2.1]}}
- bind: 127.0.0.1:8082
  inbound: {app: '127.0.0.1:9091'}
- bind: 127.0.0.1:8083
  outbound: {}
admin: {bind: '127.0.0.1:15000'}
loopbackEndpoints: allow
locality: {region: north, zone: north-1, node: n7}
sources: {documents: {staleAfter: 1m30s}, dns: {staleAfter: never}, kubernetes: {staleAfter: 2m}, control: {staleAfter: 3m}}
kubernetes: {kubeconfig: kube.yaml, context: east, trustDomain: lab.example}
control: {addresses: ['a:15010', 'b:15010'], controlId: 'spiffe://lab.example/ns/mesh/sa/control', services: [cart, pay.till], keep: control.state}
controlPlane: {bind: '127.0.0.1:15010', writeStatus: false,
  inject: {bind: '127.0.0.1:15017', certificate: c.pem, key: k.pem, image: 'mesh:1', imagePullPolicy: Never, peers: strict}}
paths: {mergeSlashes: true, decodeSlashes: true}
limits: {handshakeTimeout: 1s, headerTimeout: 2s, bodyTimeout: 3s, unreadTimeout: 4s, idleTimeout: 5s,
  detectTimeout: 6ms, connectTimeout: 7s, endpointHandshakeTimeout: 8s, poolIdleTimeout: 1m30s,
  opaqueAge: 1h1ms, drainLead: 0s, drainDeadline: 12s, headerBytes: 13, headerFields: 14, targetBytes: 15,
  connections: 16, poolSize: 17, streams: 18, mirrors: 19, outsideHosts: 20}
outboundTrafficPolicy: {mode: ALLOW_ANY}
outlierDetection: {consecutive5xxErrors: 0, baseEjectionTime: 1s, maxEjectionTime: 2s, maxEjectionPercent: 33,
  consecutiveGatewayErrors: 2, splitExternalLocalOriginErrors: true, consecutiveLocalOriginFailures: 3,
  interval: 5s, minHealthPercent: 50, successRateEjection: {stdevFactor: 2000, minimumHosts: 3, requestVolume: 9},
  failurePercentageEjection: {threshold: 60, minimumHosts: 4, requestVolume: 8}}
accessLog: {path: access.log, sample: 33.3%}
tracing: {otlp: 'http://127.0.0.1:4317', sample: 0.7%}
workloadApi:
  listen: agent.sock
  entries:
  - {id: spiffe://td/a, uid: 1, gid: 2, pid: 3}
  - {id: spiffe://td/b, cgroup: /system.slice/db.service, hint: 'main: one'}
federation:
  relationships:
  - {trustDomain: other, url: 'https://other:8443/b', profile: https_spiffe, endpointId: spiffe://other/e,
    endpointBundle: other.pem, maxAge: 2h}
  - {trustDomain: web.example, url: 'https://web.example/b', profile: https_web}
  bundleEndpoint: {bind: '0.0.0.0:8443', path: /bundle, webCertificate: {certificate: w.pem, key: w.key}}
  keep: foreign
";

#[test]
fn the_access_log_goes_to_a_file_or_to_a_descriptor() {
    for (path, to, shown) in [
        ("", "Stdout", "-"),
        ("path: '-', ", "Stdout", "-"),
        ("path: /dev/stdout, ", "Stdout", "-"),
        ("path: /dev/stderr, ", "Stderr", "/dev/stderr"),
        ("path: /dev/null, ", "File(\"/dev/null\")", "/dev/null"),
    ] {
        let agent = good(&format!("{GOOD}accessLog: {{{path}sample: 50%}}\n"));
        let log = agent.access_log.as_ref().expect("an access log");
        assert_eq!(format!("{:?}", log.to), to, "{path}");
        assert_eq!(document(&agent)["accessLog"]["path"], shown, "{path}");
    }
}

/// What is shown is a whole file: it is read again as the same agent, from YAML and from JSON.
#[test]
fn the_settings_are_written_as_the_file_that_says_them_all() {
    let files = "  files: {certificate: c, key: k, bundle: b, revocationLists: r}";
    let source = "  developmentCA: {dir: ca, lifetime: 20s}";
    let texts = [
        GOOD.to_owned(),
        FULL.to_owned(),
        GOOD.replace(source, files),
        GOOD.replace(source, "  workloadApi: {socket: s}"),
    ];
    for text in texts {
        let agent = good(&text);
        let document = document(&agent);
        for again in [
            inmesh_discovery::manifest::to_yaml(&document),
            document.to_string(),
        ] {
            let again = good(&again);
            assert_eq!(super::document(&again), document);
        }
    }
}

/// A setting that a reader knows and the writer forgets would not be shown.
#[test]
fn every_field_of_a_full_file_is_shown() {
    fn fields(value: &serde_json::Value, into: &mut std::collections::BTreeSet<String>) {
        match value {
            serde_json::Value::Object(object) => {
                for (name, value) in object {
                    into.insert(name.clone());
                    fields(value, into);
                }
            }
            serde_json::Value::Array(items) => items.iter().for_each(|item| fields(item, into)),
            _ => {}
        }
    }
    let mut shown = std::collections::BTreeSet::new();
    fields(&document(&good(FULL)), &mut shown);
    let words = FULL.split(|c: char| !c.is_ascii_alphanumeric());
    let written = FULL.split(['{', ',', '\n', '-']).filter_map(|part| {
        let (name, _) = part.trim().split_once(':')?;
        let name = name.trim();
        let is_name = name.chars().all(|c| c.is_ascii_alphanumeric()) && !name.is_empty();
        is_name.then_some(name)
    });
    assert!(words.count() > 100);
    let missing: Vec<_> = written.filter(|name| !shown.contains(*name)).collect();
    // Parts of values with a colon.
    let values = [
        "127", "0", "http", "https", "spiffe", "ca", "main", "a", "b",
    ];
    let missing: Vec<_> = missing
        .iter()
        .filter(|name| !values.contains(name))
        .collect();
    assert!(missing.is_empty(), "{missing:?} of {shown:?}");
}

/// PROXY headers of a listener: from which addresses they are believed, and what the application is shown.
#[test]
fn a_listener_says_whose_proxy_headers_it_believes() {
    use inmesh_core::model::ProxyVersion;

    let inbound = "appProtocol: http}\n- bind: 127.0.0.1:8081";
    for (said, from, to_app) in [
        ("", None, None),
        ("accept: never", None, None),
        (
            "accept: required, from: [10.0.0.0/8]",
            Some("10.0.0.0/8"),
            None,
        ),
        (
            "accept: required, from: [127.0.0.1, '::1'], send: V1",
            Some("127.0.0.1/32, ::1/128"),
            Some(ProxyVersion::V1),
        ),
        ("send: V2", None, Some(ProxyVersion::V2)),
        ("accept: never, send: V2", None, Some(ProxyVersion::V2)),
    ] {
        let said = match said {
            "" => String::new(),
            said => format!(", proxyProtocol: {{{said}}}"),
        };
        let with = inbound.replacen('}', &format!("{said}}}"), 1);
        let agent = good(&GOOD.replace(inbound, &with));
        let Listen::Inbound(inbound) = &agent.listeners[0].listen else {
            panic!("the first is inbound");
        };
        let shown = inbound.proxies.as_ref().map(ToString::to_string);
        assert_eq!((shown.as_deref(), inbound.to_app), (from, to_app), "{said}");
    }
    let outbound =
        "outbound: {appProtocol: http, proxyProtocol: {accept: required, from: [10.1.0.0/16]}}";
    let agent = good(&GOOD.replace("outbound: {appProtocol: http}", outbound));
    let Listen::Outbound(outbound) = &agent.listeners[1].listen else {
        panic!("the second is outbound");
    };
    let shown = outbound.proxies.as_ref().map(ToString::to_string);
    assert_eq!(shown.as_deref(), Some("10.1.0.0/16"));
}

#[test]
fn proxy_headers_from_nowhere_or_of_no_use_are_refused() {
    let at = "15: listeners[1].outbound.proxyProtocol";
    for (said, place, why) in [
        ("{}", "", "says accept"),
        ("{accept: required}", "", "needs from"),
        ("{accept: required, from: []}", ".from", "empty list"),
        ("{accept: never, from: [10.0.0.0/8]}", ".from", "belongs to"),
        ("{from: [10.0.0.0/8]}", ".from", "belongs to"),
        ("{accept: off}", ".accept", ""),
        ("{accept: optional, from: [10.0.0.0/8]}", ".accept", ""),
        (
            "{accept: required, from: [10.1.0.0/8]}",
            ".from[0]",
            "is it 10.0.0.0/8?",
        ),
        ("{accept: required, from: [any]}", ".from[0]", "no block"),
        ("{accept: required, from: 10.0.0.0/8}", ".from", ""),
        // There is no application behind it.
        ("{accept: never, send: V1}", ".send", ""),
        ("{version: V1}", ".version", ""),
    ] {
        let to = format!("outbound: {{appProtocol: http, proxyProtocol: {said}}}");
        let problems = refused("outbound: {appProtocol: http}", &to);
        let expected = format!("{at}{place}: ");
        let found = { problems.iter() }.any(|p| p.starts_with(&expected) && p.contains(why));
        assert!(found, "{said}: {problems:#?}");
    }
    let at = "13: listeners[0].inbound.proxyProtocol";
    for (said, place, why) in [
        ("{}", "", "has one of accept and send"),
        ("{send: v1}", ".send", ""),
        ("{send: V3}", ".send", ""),
        ("{accept: required, send: V1}", "", "needs from"),
    ] {
        let to = format!("'127.0.0.1:9090', proxyProtocol: {said},");
        let problems = refused("'127.0.0.1:9090',", &to);
        let expected = format!("{at}{place}: ");
        let found = { problems.iter() }.any(|p| p.starts_with(&expected) && p.contains(why));
        assert!(found, "{said}: {problems:#?}");
    }
}

/// The file that is put beside a Pod is one that its agent reads.
#[test]
fn the_agent_beside_a_pod_reads_its_file() {
    use inmesh_discovery::inject::{Injected, Sidecar, inject};

    let sidecar = Sidecar::new("mesh:dev", "cluster.local".parse().expect("a trust domain"));
    let mut pod = serde_json::json!({
        "apiVersion": "v1", "kind": "Pod",
        "metadata": {"name": "cart-1", "namespace": "shop", "labels": {"app": "cart"}},
        "spec": {"serviceAccountName": "cart", "containers": [{
            "name": "app", "image": "cart", "readinessProbe": {"httpGet": {"path": "/healthz", "port": 80}},
        }]},
    });
    let namespace = Namespace::new("default").expect("a name");
    assert_eq!(inject(&mut pod, &sidecar, &namespace), Ok(Injected::Added));
    let file = pod["metadata"]["annotations"]["inmesh.dev/agent"]
        .as_str()
        .expect("a text");
    let agent = good(file);
    assert_eq!(agent.workload.to_string(), "shop/cart");
    assert_eq!(agent.listeners.len(), 3);
    assert!(agent.followed.control.is_some() && agent.followed.kubernetes.is_none());
}
