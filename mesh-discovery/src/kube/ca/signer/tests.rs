//! What becomes of requests.

use std::time::{Duration, SystemTime};

use data_encoding::BASE64;
use inmesh_pki::issue::csr;
use inmesh_pki::issue::policy::{Revocations, Rules};
use inmesh_pki::{Crypto, SpiffeId};
use serde_json::{Value as Json, json};

use super::judge::{Kind, Known, Policy, Sign, Verdict, is_open, judge};

const CART: &str = "spiffe://prod.example/ns/shop/sa/cart";
const HOUR: u64 = 3_600;

/// 2026-01-31T12:00:00Z.
fn noon() -> SystemTime {
    SystemTime::UNIX_EPOCH + Duration::from_secs(1_769_860_800)
}

fn policy() -> Policy {
    let own = "spiffe://prod.example/inmesh/ca".parse().expect("an ID");
    let rules = Rules::new("prod.example".parse().expect("a domain"), own);
    Policy {
        rules: rules.with_kubernetes(),
        leaf: Duration::from_secs(HOUR),
        crypto: Crypto::aws_lc_rs(),
    }
}

fn request() -> csr::Csr {
    // What it says of itself is of another.
    let other: SpiffeId = "spiffe://prod.example/ns/bank/sa/vault"
        .parse()
        .expect("an ID");
    csr::generate(&other, &Crypto::aws_lc_rs())
        .expect("a key")
        .1
}

fn pod() -> Json {
    json!({
        "metadata": {"namespace": "shop", "name": "r", "creationTimestamp": "2026-01-31T11:59:00Z"},
        "spec": {
            "signerName": "inmesh.dev/ca", "podName": "cart-1", "podUID": "1", "nodeName": "a",
            "serviceAccountName": "cart", "serviceAccountUID": "2", "nodeUID": "3",
            "maxExpirationSeconds": 86_400, "stubPKCS10Request": BASE64.encode(request().der()),
        },
    })
}

fn csr() -> Json {
    json!({
        "metadata": {"name": "r", "creationTimestamp": "2026-01-31T11:59:00Z"},
        "spec": {
            "signerName": "inmesh.dev/ca", "username": "system:serviceaccount:shop:cart",
            "groups": ["system:serviceaccounts"],
            "extra": {"authentication.kubernetes.io/pod-name": ["cart-1"]},
            "usages": ["digital signature", "key encipherment", "client auth", "server auth"],
            "request": BASE64.encode(request().to_pem().as_bytes()),
        },
    })
}

/// `object` with a value at a place.
fn with(mut object: Json, at: &str, value: Json) -> Json {
    let mut place = &mut object;
    for name in at.split('.') {
        place = &mut place[name];
    }
    *place = value;
    object
}

fn judged(kind: Kind, object: &Json, policy: &Policy, now: SystemTime) -> Verdict {
    let revoked = Revocations::none();
    let known = Known {
        window: None,
        revoked: &revoked,
        now,
    };
    judge(kind, object, policy, &known)
}

fn signed(kind: Kind, object: &Json, policy: &Policy) -> Sign {
    match judged(kind, object, policy, noon()) {
        Verdict::Sign(sign) => *sign,
        other => panic!("{other:?} of {object}"),
    }
}

fn denied(kind: Kind, object: &Json) -> &'static str {
    match judged(kind, object, &policy(), noon()) {
        Verdict::Deny(why) => why.reason,
        other => panic!("{other:?} of {object}"),
    }
}

#[test]
fn a_pod_gets_the_id_of_its_service_account() {
    let sign = signed(Kind::Pod, &pod(), &policy());
    assert_eq!(sign.grant.id().as_str(), CART);
    // The leaf's life from its issuance, of the Pod's from the beginning and the CA's.
    for (most, leaf, life) in [
        (Json::Null, HOUR, HOUR),
        (86_400.into(), HOUR, HOUR),
        (86_400.into(), 10 * HOUR, 10 * HOUR),
        (3_600.into(), HOUR, HOUR - 120),
        (3_660.into(), HOUR, HOUR - 60),
        (3_600.into(), HOUR - 120, HOUR - 120),
    ] {
        let mut policy = policy();
        policy.leaf = Duration::from_secs(leaf);
        let object = with(pod(), "spec.maxExpirationSeconds", most.clone());
        let sign = signed(Kind::Pod, &object, &policy);
        assert_eq!(sign.lifetime, Duration::from_secs(life), "{most} {leaf}");
        let most = most.as_u64().unwrap_or(86_400);
        let span = (Duration::from_secs(HOUR), Duration::from_secs(most));
        assert_eq!(sign.span, span);
    }
}

#[test]
fn what_a_pod_may_not_ask_for_is_denied() {
    let mut bad = request().der().to_vec();
    *bad.last_mut().expect("bytes") ^= 1;
    for (at, value, reason) in [
        ("spec.serviceAccountName", "".into(), "NotPermitted"),
        ("spec.serviceAccountName", "a/b".into(), "NotPermitted"),
        ("metadata.namespace", Json::Null, "NotPermitted"),
        ("spec.stubPKCS10Request", Json::Null, "UnsupportedRequest"),
        ("spec.stubPKCS10Request", "?".into(), "InvalidRequest"),
        ("spec.stubPKCS10Request", "AAAA".into(), "InvalidRequest"),
        (
            "spec.stubPKCS10Request",
            BASE64.encode(&bad).into(),
            "InvalidRequest",
        ),
        (
            "spec.unverifiedUserAnnotations",
            json!({"a.example/b": "c"}),
            "InvalidUnverifiedUserAnnotations",
        ),
        ("spec.maxExpirationSeconds", 3_599.into(), "LeafLifetime"),
        (
            "metadata.creationTimestamp",
            "2026-01-31T10:59:59Z".into(),
            "TooOld",
        ),
        ("metadata.creationTimestamp", Json::Null, "TooOld"),
    ] {
        assert_eq!(
            denied(Kind::Pod, &with(pod(), at, value.clone())),
            reason,
            "{at} {value}"
        );
    }
    let mut short = policy();
    short.leaf = Duration::from_secs(HOUR - 121);
    let verdict = judged(Kind::Pod, &pod(), &short, noon());
    assert!(
        matches!(&verdict, Verdict::Deny(why) if why.reason == "LeafLifetime"),
        "{verdict:?}"
    );
    // A CA that gives service accounts nothing gives them nothing here.
    let mut closed = policy();
    closed.rules = Rules::new(
        closed.rules.trust_domain().clone(),
        closed.rules.own().clone(),
    );
    let verdict = judged(Kind::Pod, &pod(), &closed, noon());
    assert!(
        matches!(&verdict, Verdict::Deny(why) if why.reason == "NotPermitted"),
        "{verdict:?}"
    );
}

#[test]
fn a_user_gets_its_own_id_or_none() {
    let approved = |object| with(object, "status.conditions", json!([{"type": "Approved"}]));
    assert!(matches!(
        judged(Kind::Csr, &csr(), &policy(), noon()),
        Verdict::Approve
    ));
    let sign = signed(Kind::Csr, &approved(csr()), &policy());
    assert_eq!(sign.grant.id().as_str(), CART);
    assert_eq!(sign.lifetime, Duration::from_secs(HOUR));
    let short = approved(with(csr(), "spec.expirationSeconds", 600.into()));
    let sign = signed(Kind::Csr, &short, &policy());
    assert_eq!(sign.lifetime, Duration::from_secs(600));
    let user = "spec.username";
    for (at, value, reason) in [
        (user, "admin".into(), "NoServiceAccount"),
        (user, "system:node:a".into(), "NoServiceAccount"),
        (
            user,
            "system:serviceaccount:shop".into(),
            "NoServiceAccount",
        ),
        (user, Json::Null, "NoServiceAccount"),
        (user, "system:serviceaccount:shop:".into(), "NotPermitted"),
        (user, "system:serviceaccount::cart".into(), "NotPermitted"),
        (
            user,
            "system:serviceaccount:shop:a:b".into(),
            "NotPermitted",
        ),
        ("spec.usages", json!(["client auth"]), "Usages"),
        (
            "spec.usages",
            json!([
                "client auth",
                "server auth",
                "digital signature",
                "cert sign"
            ]),
            "Usages",
        ),
        ("spec.usages", Json::Null, "Usages"),
        ("spec.request", "AAAA".into(), "InvalidRequest"),
        ("spec.request", Json::Null, "InvalidRequest"),
        (
            "metadata.creationTimestamp",
            "2026-01-31T10:59:59Z".into(),
            "TooOld",
        ),
    ] {
        let object = with(csr(), at, value.clone());
        assert_eq!(denied(Kind::Csr, &object), reason, "{at} {value}");
        // What another has approved is judged all the same.
        let verdict = judged(Kind::Csr, &approved(object), &policy(), noon());
        assert!(
            matches!(&verdict, Verdict::Fail(why) if why.reason == reason),
            "{verdict:?}"
        );
    }
}

#[test]
fn what_is_answered_or_is_for_others_is_left_alone() {
    let condition = |kind: &str| json!([{"type": kind, "status": "True"}]);
    for (kind, object) in [(Kind::Pod, pod()), (Kind::Csr, csr())] {
        assert!(is_open(kind, &object));
        for (at, value) in [
            ("spec.signerName", "inmesh.dev/other".into()),
            ("metadata.deletionTimestamp", "2026-01-31T12:00:00Z".into()),
            ("status.conditions", condition("Denied")),
            ("status.conditions", condition("Failed")),
            ("status.certificate", "AAAA".into()),
        ] {
            let object = with(object.clone(), at, value);
            assert!(!is_open(kind, &object), "{object}");
            let verdict = judged(kind, &object, &policy(), noon());
            assert!(matches!(verdict, Verdict::Nothing), "{verdict:?}");
        }
    }
    let issued = with(pod(), "status.conditions", condition("Issued"));
    assert!(!is_open(Kind::Pod, &issued));
}
