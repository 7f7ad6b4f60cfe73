//! Scalars as an API server reads them. Each row is what `kubectl apply` makes of it (go-yaml 2).

use inmesh_core::snapshot::Op;

use super::super::strict::{Unknown, documents};
use super::{only, policy, problems, route, service, slice};

/// What is read of `a: TEXT`: as a number, a boolean and a text.
fn read(text: &str) -> (Option<i64>, Option<bool>, Option<String>) {
    let text = format!("a: {text}\n");
    let document = &documents("x.yaml", &text).expect("it is YAML")[0];
    let number = document.read(Unknown::Refuse, |f| f.need("a")?.integer::<i64>());
    let boolean = document.read(Unknown::Refuse, |f| f.need("a")?.boolean());
    let word = document.read(Unknown::Refuse, |f| Some(f.need("a")?.text()?.to_owned()));
    (
        number.ok().map(|read| read.value),
        boolean.ok().map(|read| read.value),
        word.ok().map(|read| read.value),
    )
}

#[test]
fn numbers() {
    for (text, number) in [
        ("5", 5),
        ("+5", 5),
        ("-5", -5),
        ("0", 0),
        ("1_000", 1_000),
        ("017", 15),
        ("0o17", 15),
        ("0x1F", 31),
        ("-0x1F", -31),
        ("0b101", 5),
        // Octal no more: decimal, with a fraction of nothing.
        ("080", 80),
        ("5.0", 5),
        ("5.", 5),
        ("1e3", 1_000),
        ("1E+3", 1_000),
        ("9223372036854775807", i64::MAX),
    ] {
        assert_eq!(read(text), (Some(number), None, None), "{text}");
    }
    // Numbers that are not whole, or too large: neither numbers of ours nor texts.
    for text in [
        "1.10",
        ".5",
        "-1.5",
        ".inf",
        "-.INF",
        ".NaN",
        "1e400",
        "9223372036854775808",
        "0xFFFFFFFFFFFFFFFFFF",
        "~",
        "null",
    ] {
        assert_eq!(read(text), (None, None, None), "{text}");
    }
}

#[test]
fn booleans() {
    for text in [
        "y", "Y", "yes", "Yes", "YES", "true", "True", "TRUE", "on", "On", "ON",
    ] {
        assert_eq!(read(text), (None, Some(true), None), "{text}");
    }
    for text in [
        "n", "N", "no", "No", "NO", "false", "False", "FALSE", "off", "Off", "OFF",
    ] {
        assert_eq!(read(text), (None, Some(false), None), "{text}");
    }
}

#[test]
fn texts() {
    for (text, word) in [
        ("'5'", "5"),
        ("\"1.10\"", "1.10"),
        ("'y'", "y"),
        ("'null'", "null"),
        ("v1.10", "v1.10"),
        ("1.2.3", "1.2.3"),
        ("10.0.0.1", "10.0.0.1"),
        ("2026-01-31T12:00:00Z", "2026-01-31T12:00:00Z"),
        ("2026-01-31", "2026-01-31"),
        ("12:30:45", "12:30:45"),
        ("1e", "1e"),
        ("0x", "0x"),
        ("0xZ", "0xZ"),
        ("tRUE", "tRUE"),
        ("yEs", "yEs"),
        ("nil", "nil"),
        ("_1", "_1"),
        (".", "."),
        ("..5", "..5"),
        ("1-2", "1-2"),
        ("+-5", "+-5"),
    ] {
        assert_eq!(read(text), (None, None, Some(word.into())), "{text}");
    }
}

/// A key without quotes is read as a scalar, then written as a text (sigs.k8s.io/yaml).
#[test]
fn keys() {
    for (key, name) in [
        ("on", "true"),
        ("n", "false"),
        ("5", "5"),
        ("0x10", "16"),
        ("017", "15"),
        ("1.10", "1.1"),
        ("5.0", "5"),
        (".5", "0.5"),
        ("'on'", "on"),
        ("'0x10'", "0x10"),
        ("!!str 017", "017"),
        ("1.2.3", "1.2.3"),
    ] {
        let text = format!("{{kind: A, {key}: b}}");
        let document = &documents("x.yaml", &text).expect("it is YAML")[0];
        let read = document.read(Unknown::Refuse, |f| f.need(name)?.text().map(str::to_owned));
        assert_eq!(read.expect(key).value, "b", "{key}");
    }
    for key in ["~", "null", ".nan", ".inf", "1e30", "0.00001"] {
        let error = documents("x.yaml", &format!("a: b\n{key}: c")).expect_err(key);
        assert!(error.message.contains("quotes"), "{key}: {error}");
        assert_eq!(error.location.line, 2);
    }
    let twice = documents("x.yaml", "{on: a, true: b}").expect_err("one key twice");
    assert!(twice.message.contains("twice"), "{twice}");
}

/// An API server decodes the whole object, and refuses it for one value of another type.
#[test]
fn values_of_another_type_refuse_the_object_wherever_they_stand() {
    let ports = "ports: [{port: 80}]";
    let parent = "parentRefs: [{group: '', kind: Service, name: cart}]";
    let plain = "inmesh.dev/transport: plain";
    let four = "addressType: IPv4";
    let of_port = |more: &str| service("", &format!("ports: [{{port: 80, {more}}}]"));
    let of_spec = |more: &str| service("", &format!("{ports}\n{more}"));
    let of_end = |more: &str| {
        slice(
            plain,
            &format!("{four}\nendpoints: [{{addresses: [10.0.0.1], {more}}}]"),
        )
    };
    let meta = |more: &str| {
        let text = service("", ports);
        text.replace("name: x", &format!("name: x, {more}"))
    };
    for (text, field) in [
        (meta("labels: {version: 1.10}"), "metadata.labels[version]"),
        (meta("labels: {a: b, tier: 5}"), "metadata.labels[tier]"),
        (meta("labels: {on: yes}"), "metadata.labels[true]"),
        (meta("labels: {a: [b]}"), "metadata.labels[a]"),
        (meta("resourceVersion: 5"), "metadata.resourceVersion"),
        (meta("generation: '5'"), "metadata.generation"),
        (meta("finalizers: x"), "metadata.finalizers"),
        (meta("finalizers: [5]"), "metadata.finalizers[0]"),
        (
            service("prometheus.io/scrape: true", ports),
            "metadata.annotations[prometheus.io/scrape]",
        ),
        (
            slice(&format!("a: 5, {plain}"), four),
            "metadata.annotations[a]",
        ),
        (
            route(parent).replace("annotations: {}", "annotations: {a: 5}"),
            "metadata.annotations[a]",
        ),
        (
            policy("{}").replace("annotations: {}", "labels: {a: no}"),
            "metadata.labels[a]",
        ),
        (of_spec("selector: {app: 5}"), "spec.selector[app]"),
        (of_spec("selector: [app]"), "spec.selector"),
        (of_spec("clusterIP: 5"), "spec.clusterIP"),
        (of_spec("externalIPs: 10.0.0.1"), "spec.externalIPs"),
        (
            of_spec("publishNotReadyAddresses: 'true'"),
            "spec.publishNotReadyAddresses",
        ),
        (
            of_spec("sessionAffinityConfig: x"),
            "spec.sessionAffinityConfig",
        ),
        (of_port("nodePort: '30080'"), "spec.ports[0].nodePort"),
        (of_port("nodePort: 30080.5"), "spec.ports[0].nodePort"),
        (of_port("targetPort: true"), "spec.ports[0].targetPort"),
        (of_end("nodeName: 5"), "endpoints[0].nodeName"),
        (of_end("targetRef: x"), "endpoints[0].targetRef"),
        (
            slice(
                plain,
                &format!("{four}\nports: [{{port: 80, appProtocol: 5}}]"),
            ),
            "ports[0].appProtocol",
        ),
    ] {
        let op = only(&text);
        assert!(matches!(op, Op::Refuse(..)), "{text}{op:#?}");
        assert_eq!(problems(&op)[0].field, field, "{text}{op:#?}");
        assert_eq!(problems(&op).len(), 1, "{op:#?}");
    }
    for text in [
        meta("labels: {version: '1.10', a: null}, generation: 5.0, finalizers: [x], uid: null"),
        service("a: b, c:", ports),
        of_spec("selector: {app: a}\nclusterIP: None\nclusterIPs: [None]\nexternalIPs: []"),
        of_spec("selector: null\npublishNotReadyAddresses: yes\nsessionAffinityConfig: {a: 5}"),
        of_port("nodePort: 30080, targetPort: http"),
        of_port("nodePort: null, targetPort: 8080"),
        of_end("nodeName: a, targetRef: {kind: Pod}, hints: {forZones: []}"),
    ] {
        let op = only(&text);
        assert!(matches!(op, Op::Put(..)), "{text}{op:#?}");
        assert!(problems(&op).is_empty(), "{op:#?}");
    }
}
