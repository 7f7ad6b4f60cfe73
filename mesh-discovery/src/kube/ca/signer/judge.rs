//! A request for a certificate in, as the API server has it, what becomes of it out. Pure.
//!
//! Two kinds are known. A `PodCertificateRequest` is made by a kubelet for a Pod on its node, and the API
//! server has looked whether Pod, service account and node belong together. A `CertificateSigningRequest`
//! says which user made it: a service account gets its own ID, and no other user gets any. Both are proof
//! of a service account, as a reviewed token is, and [`may_issue`] decides of both.

use std::time::{Duration, SystemTime};

use data_encoding::BASE64;
use inmesh_pki::Crypto;
use inmesh_pki::ca::Issued;
use inmesh_pki::issue::policy::{Attested, Grant, Revocations, Rules, Window, may_issue};
use inmesh_pki::issue::{Csr, CsrError};
use k8s_openapi::jiff::Timestamp;
use serde_json::{Value as Json, json};

use crate::layout::SIGNER;

/// How the name of a service account begins.
const ACCOUNT: &str = "system:serviceaccount:";
/// A certificate of a Pod lives for as long at least, from its beginning to its end: the API server
/// refuses any other.
pub(super) const SHORTEST: Duration = Duration::from_secs(60 * 60);
/// For how long a Pod may have one where its request does not say.
const DEFAULT: u64 = 24 * 60 * 60;
/// How far before its issuance a leaf begins to be valid.
const BACK_DATED: Duration = inmesh_pki::issue::ca::BACK_DATED;
/// A request is answered for as long; the account may be gone later.
const FRESH: Duration = Duration::from_secs(60 * 60);
/// What a leaf is for.
const MUST: [&str; 3] = ["client auth", "digital signature", "server auth"];
/// What may be asked for besides: clients do so for all kinds of keys.
const MAY: [&str; 2] = ["key agreement", "key encipherment"];

/// The two kinds of requests.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) enum Kind {
    /// `PodCertificateRequest`.
    Pod,
    /// `CertificateSigningRequest`.
    Csr,
}

/// By what is decided.
#[derive(Clone)]
pub(super) struct Policy {
    pub(super) rules: Rules,
    /// How long a leaf of the CA lives at most, from its issuance.
    pub(super) leaf: Duration,
    pub(super) crypto: Crypto,
}

/// What the CA knows at the moment.
pub(super) struct Known<'a> {
    pub(super) window: Option<Window>,
    pub(super) revoked: &'a Revocations,
    pub(super) now: SystemTime,
}

/// What becomes of a request.
#[derive(Debug)]
pub(super) enum Verdict {
    /// Nothing: it is answered, or is no matter of ours.
    Nothing,
    /// It is approved; that it is signed comes next.
    Approve,
    /// A leaf is signed.
    Sign(Box<Sign>),
    /// It is denied for good.
    Deny(Why),
    /// It has been approved by another, and is not signed.
    Fail(Why),
}

/// What is signed.
#[derive(Debug)]
pub(super) struct Sign {
    pub(super) grant: Grant,
    pub(super) csr: Csr,
    /// How long the leaf lives from its issuance.
    pub(super) lifetime: Duration,
    /// How long it may live from its beginning, in all.
    pub(super) span: (Duration, Duration),
}

/// A reason, as a condition has it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Why {
    pub(super) reason: &'static str,
    pub(super) message: String,
}

impl Why {
    pub(super) fn new(reason: &'static str, message: impl Into<String>) -> Self {
        let message = message.into();
        Self { reason, message }
    }

    /// A key that is not signed for.
    pub(super) fn key() -> Self {
        Self::new(
            "UnsupportedKeyType",
            "no certificate is made for a key of this kind: use ECDSAP256",
        )
    }
}

/// Whether a request waits for our signer.
pub(super) fn is_open(kind: Kind, object: &Json) -> bool {
    if object["spec"]["signerName"] != SIGNER || !object["metadata"]["deletionTimestamp"].is_null()
    {
        return false;
    }
    let status = &object["status"];
    let ended: &[&str] = match kind {
        Kind::Pod => &["Issued", "Denied", "Failed"],
        Kind::Csr => &["Denied", "Failed"],
    };
    let issued = status["certificate"]
        .as_str()
        .is_some_and(|cert| !cert.is_empty());
    !issued && !ended.iter().any(|one| has(object, one))
}

fn has(object: &Json, kind: &str) -> bool {
    let all = object["status"]["conditions"].as_array();
    all.is_some_and(|all| all.iter().any(|one| one["type"] == kind))
}

/// Decides what becomes of a request.
///
/// 1. One that is answered, is about to go, or is for another signer is left alone.
/// 2. One that is too old is denied, and so is one that asks for what is not given.
/// 3. Its key must be proven, and of a kind that is signed for.
/// 4. Its service account gets its own ID, if [`may_issue`] says so.
/// 5. A `CertificateSigningRequest` is approved first and signed then; one that another has approved is
///    judged all the same.
pub(super) fn judge(kind: Kind, object: &Json, policy: &Policy, known: &Known<'_>) -> Verdict {
    if !is_open(kind, object) {
        return Verdict::Nothing;
    }
    let sign = too_old(object, known.now).and_then(|()| match kind {
        Kind::Pod => pod(object, policy, known),
        Kind::Csr => csr(object, policy, known),
    });
    match (kind, sign) {
        (Kind::Pod, Ok(sign)) => Verdict::Sign(Box::new(sign)),
        (Kind::Csr, Ok(sign)) if has(object, "Approved") => Verdict::Sign(Box::new(sign)),
        (Kind::Csr, Ok(_)) => Verdict::Approve,
        (Kind::Csr, Err(why)) if has(object, "Approved") => Verdict::Fail(why),
        (_, Err(why)) => Verdict::Deny(why),
    }
}

fn too_old(object: &Json, now: SystemTime) -> Result<(), Why> {
    let created = object["metadata"]["creationTimestamp"].as_str();
    let created = created.and_then(|text| text.parse::<Timestamp>().ok());
    let age = created.map(|created| now.duration_since(created.into()).unwrap_or_default());
    match age {
        Some(age) if age <= FRESH => Ok(()),
        _ => Err(Why::new(
            "TooOld",
            "a request is answered within an hour: make another one",
        )),
    }
}

fn pod(object: &Json, policy: &Policy, known: &Known<'_>) -> Result<Sign, Why> {
    let (spec, metadata) = (&object["spec"], &object["metadata"]);
    let notes = spec["unverifiedUserAnnotations"].as_object();
    if let Some(key) = notes.and_then(|notes| notes.keys().next()) {
        return Err(Why::new(
            "InvalidUnverifiedUserAnnotations",
            format!("no annotation is heeded, {key} was given"),
        ));
    }
    let Some(stub) = spec["stubPKCS10Request"]
        .as_str()
        .filter(|stub| !stub.is_empty())
    else {
        return Err(Why::new(
            "UnsupportedRequest",
            "only a request with stubPKCS10Request is read",
        ));
    };
    let csr = decode(stub).and_then(|der| key_of(Csr::from_der(&der, &policy.crypto)))?;
    let most = Duration::from_secs(spec["maxExpirationSeconds"].as_u64().unwrap_or(DEFAULT));
    let lifetime = policy.leaf.min(most.saturating_sub(BACK_DATED));
    if lifetime + BACK_DATED < SHORTEST {
        return Err(Why::new(
            "LeafLifetime",
            format!(
                "leaves of this CA live for {} s, those of Pods live for {} s at least",
                policy.leaf.as_secs(),
                (SHORTEST - BACK_DATED).as_secs()
            ),
        ));
    }
    let text = |value: &Json| value.as_str().unwrap_or_default().to_owned();
    let attested = Attested::Kubernetes {
        namespace: text(&metadata["namespace"]),
        service_account: text(&spec["serviceAccountName"]),
    };
    Ok(Sign {
        grant: grant(&attested, policy, known)?,
        csr,
        lifetime,
        span: (SHORTEST, most),
    })
}

fn csr(object: &Json, policy: &Policy, known: &Known<'_>) -> Result<Sign, Why> {
    let spec = &object["spec"];
    let name = spec["username"].as_str().unwrap_or_default();
    let account = name
        .strip_prefix(ACCOUNT)
        .and_then(|rest| rest.split_once(':'));
    let Some((namespace, service_account)) = account else {
        return Err(Why::new(
            "NoServiceAccount",
            "only a service account gets an ID here, its own",
        ));
    };
    let usages = spec["usages"].as_array().map_or(&[][..], Vec::as_slice);
    let asked = |usage: &str| usages.iter().any(|one| one == usage);
    let known_usage = |one: &Json| MUST.iter().chain(&MAY).any(|usage| one == usage);
    if !MUST.iter().all(|usage| asked(usage)) || !usages.iter().all(known_usage) {
        return Err(Why::new(
            "Usages",
            format!(
                "usages are {}, and may be {}",
                MUST.join(", "),
                MAY.join(", ")
            ),
        ));
    }
    if spec["isCA"] == true {
        return Err(Why::new("Usages", "no CA is signed"));
    }
    let text = decode(spec["request"].as_str().unwrap_or_default())?;
    let csr = key_of(Csr::from_pem(&text, &policy.crypto))?;
    let most = spec["expirationSeconds"].as_u64().map(Duration::from_secs);
    let attested = Attested::Kubernetes {
        namespace: namespace.to_owned(),
        service_account: service_account.to_owned(),
    };
    Ok(Sign {
        grant: grant(&attested, policy, known)?,
        csr,
        lifetime: most.map_or(policy.leaf, |most| most.min(policy.leaf)),
        span: (Duration::ZERO, Duration::MAX),
    })
}

fn decode(text: &str) -> Result<Vec<u8>, Why> {
    let bytes = BASE64.decode(text.as_bytes());
    bytes.map_err(|_| Why::new("InvalidRequest", "the request is not Base64"))
}

fn key_of(csr: Result<Csr, CsrError>) -> Result<Csr, Why> {
    csr.map_err(|error| match error {
        CsrError::Unsupported => Why::key(),
        error => Why::new("InvalidRequest", error.to_string()),
    })
}

fn grant(attested: &Attested, policy: &Policy, known: &Known<'_>) -> Result<Grant, Why> {
    let (window, now) = (known.window, known.now);
    may_issue(attested, None, &policy.rules, window, known.revoked, now)
        .map_err(|refused| Why::new("NotPermitted", refused.to_string()))
}

/// The status of a request that is answered: what is merged into it. `None` if the API server would refuse
/// the leaf: the beginning of one may be held back for two minutes after a revocation.
pub(super) fn issued(kind: Kind, sign: &Sign, issued: &Issued, now: SystemTime) -> Option<Json> {
    let (begin, end) = (seconds(issued.not_before), seconds(issued.not_after));
    let span = u64::try_from(end.as_second() - begin.as_second()).ok()?;
    let (shortest, longest) = sign.span;
    if !(shortest.as_secs()..=longest.as_secs()).contains(&span) {
        return None;
    }
    let chain = issued.chain_pem();
    Some(match kind {
        Kind::Csr => json!({"certificate": BASE64.encode(chain.as_bytes())}),
        Kind::Pod => {
            let half = i64::try_from(span / 2).ok()?;
            let refresh = Timestamp::from_second(begin.as_second() + half).ok()?;
            let why = Why::new("Issued", format!("{} is issued", sign.grant.id()));
            json!({
                "certificateChain": chain,
                "notBefore": begin.to_string(), "beginRefreshAt": refresh.to_string(),
                "notAfter": end.to_string(),
                "conditions": [condition("Issued", &why, now)],
            })
        }
    })
}

/// The conditions of a request with one more.
pub(super) fn conditions(object: &Json, kind: &str, why: &Why, now: SystemTime) -> Json {
    let before = object["status"]["conditions"].as_array();
    let mut all = before.cloned().unwrap_or_default();
    all.push(condition(kind, why, now));
    json!({"conditions": all})
}

fn condition(kind: &str, why: &Why, now: SystemTime) -> Json {
    let message: String = why.message.chars().take(1_024).collect();
    json!({
        "type": kind, "status": "True", "reason": why.reason, "message": message,
        "lastTransitionTime": seconds(now).to_string(),
    })
}

/// Whole seconds, rounded down, as a certificate has them.
fn seconds(moment: SystemTime) -> Timestamp {
    let found = Timestamp::try_from(moment).unwrap_or_default();
    Timestamp::from_second(found.as_second()).unwrap_or_default()
}
