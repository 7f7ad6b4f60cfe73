//! Path building alone against the cases of x509-limbo and bettertls, which are about certificates
//! of web servers: none has a SPIFFE ID. Whatever path building lets through that upstream would
//! not is listed here by name, with the rule of [`validate`] that refuses the same leaf.

use std::collections::{BTreeMap, BTreeSet};
use std::io::Write;

use rustls_pki_types::ServerName;
use serde::Deserialize;
use webpki::EndEntityCert;

use super::*;
use crate::bundle::BundleError;
use crate::crl::{Crl, CrlSet};
use crate::svid::path::Search;

#[derive(Deserialize)]
struct Limbo {
    testcases: Vec<Case>,
}

#[derive(Deserialize)]
struct Case {
    id: String,
    features: Vec<String>,
    validation_kind: String,
    trusted_certs: Vec<String>,
    untrusted_intermediates: Vec<String>,
    peer_certificate: String,
    validation_time: Option<String>,
    expected_result: String,
    expected_peer_name: Option<Name>,
    crls: Vec<String>,
}

#[derive(Deserialize)]
struct Name {
    value: String,
}

#[derive(Deserialize)]
struct Exception {
    expected: String,
    actual: String,
}

/// Cases that upstream refuses and path building does not.
struct Accepted {
    /// What they are about, and the rule of ours about it, if there is one.
    why: &'static str,
    /// The first rule of [`validate`] that refuses them.
    refused_as: &'static str,
    cases: &'static [&'static str],
}

/// All of them. That the first rule is S8 nearly everywhere says that limbo's leaves, whose key
/// usage is not critical, are no SVIDs, and not that their fault is seen: `why` names the fault.
const ACCEPTED: [Accepted; 7] = [
    Accepted {
        why: "S5: it may sign certificates",
        refused_as: "leaf-may-sign",
        cases: &["rfc5280::leaf-ku-keycertsign"],
    },
    Accepted {
        why: "S10: no subject, and its name is not critical",
        refused_as: "key-usage-not-critical",
        cases: &["rfc5280::san::noncritical-with-empty-subject"],
    },
    Accepted {
        why: "names of web servers, which are never compared: S1 asks for an ID instead",
        refused_as: "key-usage-not-critical",
        cases: &[
            "rfc5280::san::underscore-dns",
            "webpki::cn::case-mismatch",
            "webpki::cn::ipv4-hex-mismatch",
            "webpki::cn::ipv4-leading-zeros-mismatch",
            "webpki::cn::ipv6-non-rfc5952-mismatch",
            "webpki::cn::ipv6-uncompressed-mismatch",
            "webpki::cn::ipv6-uppercase-mismatch",
            "webpki::cn::not-in-san",
            "webpki::cn::punycode-not-in-san",
            "webpki::cn::utf8-vs-punycode-mismatch",
            "webpki::san::public-suffix-multi-label-wildcard-san",
            "webpki::san::public-suffix-private-namespace-wildcard-san",
            "webpki::san::san-critical-with-nonempty-subject",
        ],
    },
    Accepted {
        why: "keys of leaves that no provider verifies a handshake with",
        refused_as: "key-usage-not-critical",
        cases: &[
            "webpki::forbidden-dsa-leaf",
            "webpki::forbidden-p192-leaf",
            "webpki::forbidden-rsa-key-not-divisible-by-8-in-leaf",
            "webpki::forbidden-weak-rsa-in-leaf",
        ],
    },
    Accepted {
        why: "extended key usages that S9 allows",
        refused_as: "key-usage-not-critical",
        cases: &[
            "webpki::eku::ee-anyeku",
            "webpki::eku::ee-critical-eku",
            "webpki::eku::ee-without-eku",
            "webpki::eku::root-has-eku",
        ],
    },
    Accepted {
        why: "name constraints of names that no ID is",
        refused_as: "key-usage-not-critical",
        cases: &[
            "rfc5280::nc::invalid-dnsname-leading-period",
            "rfc5280::nc::not-allowed-in-ee-critical",
            "rfc5280::nc::not-allowed-in-ee-noncritical",
            "rfc5280::nc::permitted-dns-match-noncritical",
            "webpki::nc::intermediate-permitted-excluded-subtrees-both-empty-sequences",
            "webpki::nc::intermediate-permitted-excluded-subtrees-both-null",
        ],
    },
    Accepted {
        why: "key ids, serial numbers and other forms that take no part in the decision",
        refused_as: "key-usage-not-critical",
        cases: &[
            "rfc5280::aki::critical-aki",
            "rfc5280::aki::cross-signed-root-missing-aki",
            "rfc5280::aki::intermediate-missing-aki",
            "rfc5280::aki::leaf-missing-aki",
            "rfc5280::ca-empty-subject",
            "rfc5280::pc::ica-noncritical-pc",
            "rfc5280::root-non-critical-basic-constraints",
            "rfc5280::serial::too-long",
            "rfc5280::serial::zero",
            "rfc5280::ski::critical-ski",
            "rfc5280::ski::intermediate-missing-ski",
            "rfc5280::ski::root-missing-ski",
            "rfc5280::unknown-critical-extension-root",
            "webpki::aki::root-with-aki-all-fields",
            "webpki::aki::root-with-aki-authoritycertissuer",
            "webpki::aki::root-with-aki-authoritycertserialnumber",
            "webpki::aki::root-with-aki-missing-keyidentifier",
            "webpki::aki::root-with-aki-ski-mismatch",
            "webpki::forbidden-rsa-not-divisible-by-8-in-root",
            "webpki::malformed-aia",
        ],
    },
];

/// Of these webpki's own list does not know; see MEASURED.txt beside the cases.
const MEASURED: [&str; 2] = ["crl::crlnumber-missing", "rfc5280::leaf-ku-keycertsign"];

impl Case {
    /// Why it says nothing about path building here.
    fn skipped(&self) -> Option<&'static str> {
        if self
            .features
            .iter()
            .any(|feature| feature == "max-chain-depth")
        {
            return Some("the depth of a path is fixed");
        }
        (self.validation_kind != "SERVER").then_some("about e-mail addresses")
    }

    fn now(&self) -> SystemTime {
        let Some(text) = &self.validation_time else {
            return noon();
        };
        let part = |range: std::ops::Range<usize>| text[range].parse::<i64>().unwrap();
        assert!(text.ends_with("+00:00"), "{text}");
        let month = ::time::Month::try_from(u8::try_from(part(5..7)).unwrap()).unwrap();
        let day = u8::try_from(part(8..10)).unwrap();
        let year = i32::try_from(part(0..4)).unwrap();
        let date = ::time::Date::from_calendar_date(year, month, day).unwrap();
        let midnight = date.midnight().assume_utc().unix_timestamp();
        let seconds = part(11..13) * 3600 + part(14..16) * 60 + part(17..19);
        crate::time::from_unix(midnight + seconds)
    }

    fn chain(&self) -> Vec<CertificateDer<'static>> {
        let texts = std::iter::once(&self.peer_certificate).chain(&self.untrusted_intermediates);
        texts.map(|text| from_text(text)).collect()
    }

    fn bundle(&self) -> Result<TrustBundle, BundleError> {
        let roots = self.trusted_certs.iter().map(|text| from_text(text));
        TrustBundle::new(domain("limbo"), roots)
    }

    fn crls(&self) -> Result<CrlSet, String> {
        let mut lists = Vec::new();
        for text in &self.crls {
            lists.extend(Crl::from_pem(text.as_bytes()).map_err(|error| error.to_string())?);
        }
        let mut set = CrlSet::new();
        set.replace(domain("limbo"), lists).unwrap();
        Ok(set)
    }

    /// Path building, and what a TLS client of the web does after it.
    fn run(&self) -> Result<(), String> {
        let bundle = self.bundle().map_err(|error| error.to_string())?;
        let crls = self.crls()?;
        let chain = self.chain();
        let search = Search {
            id: &id("spiffe://limbo/case"),
            bundle: &bundle,
            crls: crls.get(&domain("limbo")),
            now: self.now(),
            usage: Usage::Server,
            crypto: &crypto(),
        };
        search.root_of(&chain).map_err(|error| error.to_string())?;
        let Some(name) = &self.expected_peer_name else {
            return Ok(());
        };
        let name = ServerName::try_from(name.value.as_str()).map_err(|error| error.to_string())?;
        let leaf = EndEntityCert::try_from(&chain[0]).unwrap();
        leaf.verify_is_valid_for_subject_name(&name)
            .map_err(|error| error.to_string())
    }
}

fn from_text(pem: &str) -> CertificateDer<'static> {
    CertificateDer::from_pem_slice(pem.as_bytes()).unwrap()
}

fn word(accepted: bool) -> &'static str {
    if accepted { "SUCCESS" } else { "FAILURE" }
}

#[expect(
    clippy::disallowed_methods,
    reason = "shown to people; nothing is decided by it"
)]
fn timed<T>(work: impl FnOnce() -> T) -> (T, std::time::Duration) {
    let begin = std::time::Instant::now();
    let done = work();
    (done, begin.elapsed())
}

/// Past the test harness, which swallows what a passing test prints.
fn say(text: &str) {
    writeln!(std::io::stderr(), "{text}").expect("standard error is open");
}

#[test]
fn x509_limbo_differs_only_where_it_is_known_to() {
    let file = |name: &str, vectors| fixture(&format!("x509-limbo/{name}"), vectors);
    let Some(text) = file("limbo.json", 208) else {
        return;
    };
    let limbo: Limbo = serde_json::from_slice(&text).unwrap();
    assert_eq!(limbo.testcases.len(), 208);
    let text = file("rustls-webpki-exceptions.json", 60).unwrap();
    let exceptions: BTreeMap<String, Exception> = serde_json::from_slice(&text).unwrap();

    let (mut passed, mut stricter) = (0, 0);
    let mut skipped: BTreeMap<&str, usize> = BTreeMap::new();
    let mut accepted = BTreeSet::new();
    let mut refused = Vec::new();
    let mut mismatches = Vec::new();
    let mut hostile = Vec::new();
    for case in &limbo.testcases {
        if let Some(reason) = case.skipped() {
            *skipped.entry(reason).or_default() += 1;
            continue;
        }
        let (result, took) = timed(|| case.run());
        if let Some(name) = case.id.strip_prefix("pathological::") {
            hostile.push(format!("{name} {:.1}", took.as_secs_f64() * 1e3));
        }
        let got = word(result.is_ok());
        let known = exceptions.get(&case.id);
        if got == case.expected_result {
            passed += 1;
            stricter += usize::from(known.is_some());
            continue;
        }
        let as_known = known.is_some_and(|e| e.actual == got && e.expected == case.expected_result);
        if !as_known && !MEASURED.contains(&case.id.as_str()) {
            mismatches.push(format!("{}: {result:?}", case.id));
        }
        if result.is_ok() {
            accepted.insert(case.id.as_str());
        } else {
            refused.push(case.id.as_str());
        }
    }
    say(&format!(
        "x509-limbo, path building alone: {passed} pass ({stricter} of them where rustls-webpki is \
         known to differ), {} accepted and {} refused as known, skipped {skipped:?}",
        accepted.len(),
        refused.len()
    ));
    say(&format!(
        "x509-limbo, hostile cases in ms: {}",
        hostile.join(", ")
    ));
    assert_eq!(mismatches, [""; 0]);
    let listed: BTreeSet<_> = ACCEPTED.iter().flat_map(|group| group.cases).collect();
    let accepted: BTreeSet<_> = accepted.iter().collect();
    assert_eq!(
        accepted, listed,
        "the list names each case that is accepted"
    );

    check_refused_by_spiffe(&limbo);
    say(&format!(
        "x509-limbo, with the SPIFFE rules: all of those {} are refused",
        listed.len()
    ));
}

/// What the SPIFFE layer says of each case that path building accepts; no leaf there has a SPIFFE ID.
fn check_refused_by_spiffe(limbo: &Limbo) {
    for group in &ACCEPTED {
        for name in group.cases {
            let case = limbo.testcases.iter().find(|case| case.id == *name);
            let case = case.unwrap();
            let mut state = IdentityState::from_bundles(case.bundle().unwrap().into());
            state.replace_crls(case.crls().unwrap());
            let got = validate(&case.chain(), &state, case.now(), Usage::Server, &crypto());
            assert_eq!(
                got.unwrap_err().as_str(),
                group.refused_as,
                "{name}: {}",
                group.why
            );
        }
    }
}

#[derive(Deserialize)]
struct BetterTls {
    #[serde(rename = "trustRoot")]
    root: String,
    suites: BTreeMap<String, Suite>,
}

#[derive(Deserialize)]
struct Suite {
    #[serde(rename = "testCases")]
    cases: Vec<PathCase>,
}

#[derive(Deserialize)]
struct PathCase {
    id: u32,
    certificates: Vec<String>,
    expected: String,
    #[serde(rename = "requiredFeatures")]
    features: Vec<String>,
}

#[test]
fn bettertls_paths_are_found_where_there_are_some() {
    let Some(text) = fixture("bettertls/pathbuilding.tests.json", 81) else {
        return;
    };
    let tests: BetterTls = serde_json::from_slice(&text).unwrap();
    // The file has base64 without lines, which PEM allows.
    let read = |text: &str| {
        from_text(&format!(
            "-----BEGIN CERTIFICATE-----\n{text}\n-----END CERTIFICATE-----\n"
        ))
    };
    let bundle = TrustBundle::new(domain("td"), [read(&tests.root)]).unwrap();
    let cases = &tests.suites["pathbuilding"].cases;
    assert_eq!(cases.len(), 81);
    let failures = |after: u64| {
        let failed = cases.iter().filter(|case| {
            let chain: Vec<_> = case.certificates.iter().map(|text| read(text)).collect();
            let (_, leaf) = x509_parser::parse_x509_certificate(&chain[0]).unwrap();
            let begin = crate::time::from_unix(leaf.validity().not_before.timestamp());
            let search = Search {
                id: &id("spiffe://td/case"),
                bundle: &bundle,
                crls: &[],
                now: begin + std::time::Duration::from_secs(after),
                usage: Usage::Server,
                crypto: &crypto(),
            };
            search.root_of(&chain).is_ok() != (case.expected == "ACCEPT")
        });
        failed.collect::<Vec<_>>()
    };
    // They were made a day after they begin to be valid, and what is to be expired is so since an
    // hour then.
    let failed: Vec<_> = failures(24 * 60 * 60).iter().map(|case| case.id).collect();
    say(&format!(
        "bettertls, path building: {} of 81 pass",
        81 - failed.len()
    ));
    assert_eq!(failed, [0; 0]);
    // One second after their beginning nothing is expired yet, and that is all that differs.
    let early = failures(1);
    let expired = |case: &&PathCase| case.features.iter().any(|f| f == "INVALID_REASON_EXPIRED");
    assert!(early.iter().all(expired));
    assert_eq!(early.len(), 6);
}
