//! `proxyProtocol` of a TrafficPolicy.

use inmesh_core::model::ProxyVersion;
use inmesh_core::snapshot::{Fallback, Object, Op};

use super::{only, refusal, with_spec};

const CART: &str = "targetRefs: [{group: '', kind: Service, name: cart}]";

fn text(spec: &str) -> String {
    with_spec("inmesh.dev/v1alpha1", "TrafficPolicy", "", spec)
}

#[test]
fn a_version_is_read() {
    let port = CART.replace("name: cart", "name: cart, sectionName: main");
    for target in [CART, &port] {
        for (written, version) in [("V1", ProxyVersion::V1), ("V2", ProxyVersion::V2)] {
            let spec = format!("{target}\nproxyProtocol: {{version: {written}}}");
            let policy = match only(&text(&spec)) {
                Op::Put(Object::Traffic(policy), problems) if problems.is_empty() => policy,
                op => panic!("{op:#?}"),
            };
            assert_eq!(policy.blocks.proxy_protocol, Some(version));
        }
    }
}

/// A server that does not expect a header takes no connection with one: it is asked for by name.
#[test]
fn what_could_be_meant_otherwise_is_refused() {
    let route = "targetRefs: [{group: gateway.networking.k8s.io, kind: HTTPRoute, name: cart}]";
    let of = |target: &str, block: &str| format!("{target}\nproxyProtocol: {block}");
    for (spec, field, why) in [
        (of(CART, "{}"), "spec.proxyProtocol.version", "is missing"),
        (of(CART, "{version: v1}"), "spec.proxyProtocol.version", ""),
        (of(CART, "{version: 1}"), "spec.proxyProtocol.version", ""),
        (of(CART, "{version: V3}"), "spec.proxyProtocol.version", ""),
        (of(CART, "V1"), "spec.proxyProtocol", ""),
        (
            of(CART, "{version: V1, source: all}"),
            "spec.proxyProtocol.source",
            "",
        ),
        (
            of("", "{version: V1}"),
            "spec",
            "of the Services that `targetRefs` names",
        ),
        (of(route, "{version: V1}"), "spec", "is a Service's"),
        (
            of("selector: {matchLabels: {app: cart}}", "{version: V1}"),
            "spec",
            "no other block",
        ),
    ] {
        let (fallback, problems) = refusal(&text(&spec));
        assert_eq!(fallback, Fallback::Absent, "{spec}");
        let found = { problems.iter() }.any(|p| p.field == field && p.message.contains(why));
        assert!(found, "{spec}: {problems:#?}");
    }
}
