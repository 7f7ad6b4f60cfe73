//! Documents in, operations out.

mod accepted;
mod backend_tls;
mod crds;
mod examples;
mod fields;
mod filters;
mod folder;
mod grpc;
mod kinds;
mod nulls;
mod opaque;
mod others;
mod partial;
mod pods;
mod proxied;
mod refused;
mod scalars;
mod service_entry;
mod texts;
mod traffic;

use inmesh_core::model::Namespace;
use inmesh_core::snapshot::{Fallback, Op, Problem};

use super::{Defaults, Parsed, parse};

const FILE: &str = "/etc/mesh/x.yaml";

fn defaults() -> Defaults {
    Defaults::new(Namespace::new("default").expect("a name"))
}

fn read(text: &str) -> Parsed {
    parse(FILE, text, &defaults()).expect("the file parses")
}

/// The only operation of a text.
fn only(text: &str) -> Op {
    let mut entries = read(text).entries;
    assert_eq!(entries.len(), 1, "{entries:#?}");
    entries.remove(0).op
}

/// The refusal that a text ends in.
fn refusal(text: &str) -> (Fallback, Vec<Problem>) {
    match only(text) {
        Op::Refuse(_, fallback, problems) => (fallback, problems),
        op => panic!("not refused: {op:#?}\n{text}"),
    }
}

fn problems(op: &Op) -> &[Problem] {
    match op {
        Op::Put(_, problems) | Op::Refuse(_, _, problems) => problems,
        op => panic!("no problems in {op:?}"),
    }
}

/// A document whose `spec` begins on line 5.
fn with_spec(api_version: &str, kind: &str, annotations: &str, spec: &str) -> String {
    let spec: String = spec
        .trim_matches('\n')
        .lines()
        .map(|line| format!("  {line}\n"))
        .collect();
    format!(
        "apiVersion: {api_version}\nkind: {kind}\n\
         metadata: {{name: x, namespace: shop, annotations: {{{annotations}}}}}\nspec:\n{spec}"
    )
}

fn route(spec: &str) -> String {
    with_spec("gateway.networking.k8s.io/v1", "HTTPRoute", "", spec)
}

fn policy(spec: &str) -> String {
    with_spec("security.istio.io/v1", "AuthorizationPolicy", "", spec)
}

fn service(annotations: &str, spec: &str) -> String {
    with_spec("v1", "Service", annotations, spec)
}

/// An EndpointSlice whose own fields begin on line 4.
fn slice(annotations: &str, body: &str) -> String {
    format!(
        "apiVersion: discovery.k8s.io/v1\nkind: EndpointSlice\n\
         metadata: {{name: x, namespace: shop, labels: {{kubernetes.io/service-name: cart}}, \
         annotations: {{{annotations}}}}}\n{}",
        body.trim_matches('\n')
    )
}
