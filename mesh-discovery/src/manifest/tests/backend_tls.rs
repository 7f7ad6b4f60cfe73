//! BackendTLSPolicies and the ConfigMaps with their roots.

use inmesh_core::model::{Host, Kind, Namespace, ObjectKey, Roots, ServiceName, Transport};
use inmesh_core::origination::{Targets, Vouched};
use inmesh_core::pki::tls::AltName;
use inmesh_core::snapshot::{Fallback, Object, Op};
use serde_json::json;

use super::super::samples::ROOT;
use super::{only, problems, read, refusal, service, with_spec};

fn policy(spec: &str) -> String {
    let version = "gateway.networking.k8s.io/v1";
    with_spec(version, "BackendTLSPolicy", "", spec)
}

const TARGET: &str = "targetRefs: [{group: '', kind: Service, name: pay}]";

fn pay() -> ServiceName {
    ServiceName::new(&Namespace::new("shop").unwrap(), "pay").unwrap()
}

fn config_map(data: &serde_json::Value) -> String {
    json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "ca"}, "data": data})
        .to_string()
}

#[test]
fn a_policy_says_what_a_server_proves() {
    let text = policy(
        "targetRefs:
- {group: '', kind: Service, name: pay, sectionName: https}
validation:
  hostname: pay.example.com
  caCertificateRefs: [{group: '', kind: ConfigMap, name: ca}]
  subjectAltNames:
  - {type: Hostname, hostname: pay.test}
  - {type: URI, uri: 'spiffe://x.test/pay'}",
    );
    let Op::Put(Object::BackendTls(read), problems) = only(&text) else {
        panic!("{:#?}", only(&text))
    };
    assert!(problems.is_empty());
    let shop = Namespace::new("shop").unwrap();
    let ca = ObjectKey::new(Kind::ConfigMap, &shop, "ca").unwrap();
    assert_eq!(
        read.targets,
        Targets::Services(vec![(pay(), Some("https".into()))])
    );
    assert_eq!(
        (&*read.hostname, &read.vouched),
        ("pay.example.com", &Vouched::ConfigMaps(vec![ca]))
    );
    let names = [
        AltName::dns("pay.test").unwrap(),
        AltName::Uri("spiffe://x.test/pay".into()),
    ];
    assert_eq!(*read.names, names);
    let text = policy(&format!(
        "{TARGET}\nvalidation: {{hostname: a.b, wellKnownCACertificates: System}}"
    ));
    let Op::Put(Object::BackendTls(read), _) = only(&text) else {
        panic!("{:#?}", only(&text))
    };
    assert_eq!(read.vouched, Vouched::System);
}

/// Each leaves a policy that lets no connection be made to what it names.
#[test]
fn what_is_not_evaluated_refuses_the_policy_and_its_targets() {
    let valid = "validation: {hostname: a.b, wellKnownCACertificates: System}";
    for (spec, field) in [
        (
            format!("{TARGET}\n{valid}\noptions: {{a: b}}"),
            "spec.options",
        ),
        (format!("{TARGET}\n{valid}\nother: 1"), "spec.other"),
        (
            format!("{TARGET}\nvalidation: {{wellKnownCACertificates: System}}"),
            "spec.validation.hostname",
        ),
        (
            format!("{TARGET}\nvalidation: {{hostname: a.b}}"),
            "spec.validation.caCertificateRefs",
        ),
        (
            format!("{TARGET}\nvalidation: {{hostname: a.b, caCertificateRefs: []}}"),
            "spec.validation.caCertificateRefs",
        ),
        (
            format!(
                "{TARGET}\nvalidation: {{hostname: 10.0.0.1, wellKnownCACertificates: System}}"
            ),
            "spec.validation.hostname",
        ),
        (
            format!(
                "{TARGET}\nvalidation: {{hostname: Pay.Example.COM, wellKnownCACertificates: System}}"
            ),
            "spec.validation.hostname",
        ),
        (
            format!("{TARGET}\nvalidation: {{hostname: a.b., wellKnownCACertificates: System}}"),
            "spec.validation.hostname",
        ),
        (
            format!(
                "{TARGET}\nvalidation: {{hostname: a.b, wellKnownCACertificates: System, subjectAltNames: [{{type: Hostname, hostname: A.b}}]}}"
            ),
            "spec.validation.subjectAltNames[0].hostname",
        ),
        (
            format!("{TARGET}\nvalidation: {{hostname: '*.b', wellKnownCACertificates: System}}"),
            "spec.validation.hostname",
        ),
        (
            format!("{TARGET}\nvalidation: {{hostname: a.b, wellKnownCACertificates: Mine}}"),
            "spec.validation.wellKnownCACertificates",
        ),
        (
            format!(
                "{TARGET}\nvalidation: {{hostname: a.b, wellKnownCACertificates: System, caCertificateRefs: [{{group: '', kind: ConfigMap, name: ca}}]}}"
            ),
            "spec.validation.wellKnownCACertificates",
        ),
        (
            format!(
                "{TARGET}\nvalidation: {{hostname: a.b, caCertificateRefs: [{{group: '', kind: Secret, name: ca}}]}}"
            ),
            "spec.validation.caCertificateRefs[0]",
        ),
        (
            format!(
                "{TARGET}\nvalidation: {{hostname: a.b, wellKnownCACertificates: System, subjectAltNames: [{{type: URI, uri: a}}]}}"
            ),
            "spec.validation.subjectAltNames[0].uri",
        ),
        (
            format!(
                "{TARGET}\nvalidation: {{hostname: a.b, wellKnownCACertificates: System, subjectAltNames: [{{type: URI, hostname: a.b}}]}}"
            ),
            "spec.validation.subjectAltNames[0].hostname",
        ),
    ] {
        let (fallback, problems) = refusal(&policy(&spec));
        let fields: Vec<_> = problems.iter().map(|p| &*p.field).collect();
        assert!(fields.contains(&field), "{spec}: {problems:#?}");
        let Fallback::Refuse(refuses) = fallback else {
            panic!("{spec}: {fallback:?}")
        };
        assert!(matches!(refuses.vouched, Vouched::Unusable(_)));
        assert_eq!(
            refuses.targets,
            Targets::Services(vec![(pay(), None)]),
            "{spec}"
        );
    }
    for targets in [
        "targetRefs: []",
        "targetRefs: [{group: '', kind: Gateway, name: a}]",
        "other: 1",
    ] {
        let (fallback, _) = refusal(&policy(&format!("{targets}\n{valid}")));
        let Fallback::Refuse(refuses) = fallback else {
            panic!("{targets}: {fallback:?}")
        };
        assert_eq!(refuses.targets, Targets::All, "{targets}");
    }
}

#[test]
fn a_config_map_is_read_for_its_roots_alone() {
    let Op::Put(Object::CaConfigMap(roots), warnings) =
        only(&config_map(&json!({"ca.crt": ROOT, "other.yaml": "a: b"})))
    else {
        panic!("it has roots")
    };
    assert!(warnings.is_empty(), "{warnings:?}");
    assert_eq!(&*roots.pem, ROOT.as_bytes());
    let other = read(&config_map(&json!({"a": "b"})));
    assert!(other.entries.is_empty());
    assert_eq!(other.skipped["ConfigMap"], 1);
    let half = &ROOT[..ROOT.len() / 2];
    for bad in [json!(""), json!("x"), json!(half), json!(5)] {
        let op = only(&config_map(&json!({"ca.crt": bad})));
        assert!(matches!(op, Op::Refuse(_, Fallback::Absent, _)), "{op:?}");
        assert_eq!(problems(&op)[0].field, "data.ca.crt", "{op:?}");
    }
}

/// A misspelt kind would leave plaintext without a word; a kind of another name is another's.
#[test]
fn what_is_almost_the_kind_is_refused() {
    for (kind, refused) in [
        ("BackendTlsPolicy", true),
        ("BackendTLSPolicie", false),
        ("BackendTLPolicy", true),
        ("BackendLBPolicy", false),
    ] {
        let text = with_spec("gateway.networking.k8s.io/v1", kind, "", TARGET);
        assert_eq!(!read(&text).entries.is_empty(), refused, "{kind}");
    }
}

#[test]
fn a_service_may_leave_it_to_a_policy() {
    let spec = "type: ExternalName\nexternalName: a.b\nports: [{port: 443}]";
    let annotations = "inmesh.dev/transport: tls, inmesh.dev/ca: policy";
    let Op::Put(Object::Service(read), problems) = only(&service(annotations, spec)) else {
        panic!("it is good")
    };
    assert!(problems.is_empty());
    let Some((Host::Name { .. }, Transport::Tls { roots, .. })) = &read.external else {
        panic!("{read:?}")
    };
    assert!(matches!(roots, Roots::Unusable(_)), "{roots}");
    let named = format!("{annotations}, inmesh.dev/server-name: a.b");
    let (_, problems) = refusal(&service(&named, spec));
    assert_eq!(
        problems[0].field,
        "metadata.annotations[inmesh.dev/server-name]"
    );
}
