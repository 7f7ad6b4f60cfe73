use rcgen::{BasicConstraints, ExtendedKeyUsagePurpose, IsCa, KeyPair, KeyUsagePurpose};
use rustls_pki_types::CertificateDer;
use rustls_pki_types::pem::PemObject;

use super::*;
use crate::bundle::{BundleSet, TrustBundle};
use crate::id::IdError;
use crate::store::IdentityState;
use crate::testing::{Ca, Draft, authority, crypto, domain, fixture, id, leaf, minutes, noon, san};

const CART: &str = "spiffe://td/ns/shop/sa/cart";

/// A leaf that `change` breaks, under a root that is trusted for `td`.
fn broken(change: impl FnOnce(&mut rcgen::CertificateParams)) -> Rejected {
    refused(leaf(CART).with(change))
}

fn refused(draft: Draft) -> Rejected {
    let ca = Ca::new("root");
    check(&[draft.signed_by(&ca)], &ca.state("td")).unwrap_err()
}

fn check(chain: &[CertificateDer<'_>], state: &IdentityState) -> Result<Verified, Rejected> {
    validate(chain, state, noon(), Usage::Client, &crypto())
}

fn name_of(rejected: &Rejected) -> String {
    let debug = format!("{rejected:?}");
    debug.split([' ', '(']).next().unwrap().to_owned()
}

#[test]
fn a_good_leaf_is_verified_in_both_roles() {
    let ca = Ca::new("root");
    let cert = leaf(CART).signed_by(&ca);
    for usage in [Usage::Client, Usage::Server] {
        let verified = validate(
            std::slice::from_ref(&cert),
            &ca.state("td"),
            noon(),
            usage,
            &crypto(),
        )
        .unwrap();
        assert_eq!(verified.id, id(CART));
        assert_eq!(verified.not_after, noon() + minutes(30));
        assert_eq!(verified.root_key_id, ca.bundle("td").roots()[0].key_id());
        assert_eq!(verified.serial, read_unverified(&cert).unwrap().serial);
    }
}

#[test]
fn s1_exactly_one_uri_name() {
    assert_eq!(
        broken(|p| p.subject_alt_names.push(san("spiffe://td/other"))),
        Rejected::ManyUriSans { got: 2 }
    );
    assert_eq!(
        broken(|p| p.subject_alt_names.push(san("https://td/other"))),
        Rejected::ManyUriSans { got: 2 }
    );
    assert_eq!(broken(|p| p.subject_alt_names.clear()), Rejected::NoUriSan);
    // Names of other kinds may stand beside it.
    let ca = Ca::new("root");
    let dns = rcgen::SanType::DnsName("cart.shop".try_into().unwrap());
    let cert = leaf(CART)
        .with(|p| p.subject_alt_names.push(dns))
        .signed_by(&ca);
    check(&[cert], &ca.state("td")).unwrap();
}

#[test]
fn s2_s12_to_s15_the_name_is_a_spiffe_id() {
    let bad = |uri: &str| match refused(leaf(uri)) {
        Rejected::BadId { got, reason } => {
            assert!(uri.starts_with(&got), "{got}");
            reason
        }
        other => panic!("{uri}: {other:?}"),
    };
    assert_eq!(bad("https://td/ns/shop/sa/cart"), IdError::Scheme);
    assert_eq!(bad("SPIFFE://td/a"), IdError::Scheme);
    assert_eq!(
        bad("spiffe://td:443/a"),
        IdError::TrustDomainChar { got: ':' }
    );
    assert_eq!(
        bad("spiffe://u@td/a"),
        IdError::TrustDomainChar { got: '@' }
    );
    assert_eq!(bad("spiffe://TD/a"), IdError::TrustDomainChar { got: 'T' });
    assert_eq!(bad("spiffe:///a"), IdError::NoTrustDomain);
    assert_eq!(bad("spiffe://td/a?b"), IdError::PathChar { got: '?' });
    assert_eq!(bad("spiffe://td/%61"), IdError::PathChar { got: '%' });
    assert_eq!(bad("spiffe://td/a/../b"), IdError::DotSegment);
    assert_eq!(bad("spiffe://td/a//b"), IdError::EmptySegment);
    assert_eq!(bad("spiffe://td/a/"), IdError::TrailingSlash);
    let long = format!("spiffe://td/{}", "a".repeat(2037));
    assert_eq!(
        bad(&long),
        IdError::TooLong {
            got: 2049,
            max: 2048
        }
    );
    // S15: a name like an IP address is a name, and has a bundle like any other.
    let ca = Ca::new("root");
    let cert = leaf("spiffe://127.0.0.1/a").signed_by(&ca);
    check(&[cert], &ca.state("127.0.0.1")).unwrap();
}

#[test]
fn s3_the_id_names_a_workload() {
    assert_eq!(
        refused(leaf("spiffe://td")),
        Rejected::NoPath {
            trust_domain: domain("td")
        }
    );
}

#[test]
fn s4_s7_a_signing_certificate_identifies_nobody() {
    assert_eq!(
        broken(|p| p.is_ca = IsCa::Ca(BasicConstraints::Unconstrained)),
        Rejected::LeafIsCa
    );
    let signing = authority("signing").with(|p| p.subject_alt_names = vec![san(CART)]);
    assert_eq!(refused(signing), Rejected::LeafIsCa);
}

#[test]
fn s5_a_leaf_does_not_sign() {
    assert_eq!(
        broken(|p| p.key_usages.push(KeyUsagePurpose::KeyCertSign)),
        Rejected::LeafMaySign {
            usage: "keyCertSign"
        }
    );
    assert_eq!(
        broken(|p| p.key_usages.push(KeyUsagePurpose::CrlSign)),
        Rejected::LeafMaySign { usage: "cRLSign" }
    );
}

#[test]
fn s6_only_the_roots_of_the_ids_own_trust_domain_count() {
    let (ours, theirs) = (Ca::new("ours"), Ca::new("theirs"));
    let state = IdentityState::from_bundles(BundleSet::from_iter([
        ours.bundle("td"),
        theirs.bundle("other"),
    ]));
    // Each root vouches for its own domain ...
    check(&[leaf(CART).signed_by(&ours)], &state).unwrap();
    check(&[leaf("spiffe://other/a").signed_by(&theirs)], &state).unwrap();
    // ... and for no other that we trust as well.
    let foreign = leaf("spiffe://other/a").signed_by(&ours);
    match check(&[foreign], &state).unwrap_err() {
        Rejected::UnknownIssuer {
            id: got,
            authority_key_id,
            roots,
        } => {
            assert_eq!(got, id("spiffe://other/a"));
            assert_eq!(
                authority_key_id.as_deref(),
                Some(ours.bundle("td").roots()[0].key_id())
            );
            assert_eq!(roots, [theirs.bundle("other").roots()[0].key_id()]);
        }
        other => panic!("{other:?}"),
    }
    // A domain that we know nothing of.
    assert_eq!(
        check(&[leaf("spiffe://third/a").signed_by(&ours)], &state),
        Err(Rejected::UnknownTrustDomain {
            id: id("spiffe://third/a"),
            known: vec![domain("other"), domain("td")],
        })
    );
    // A domain that we know and distrust (S18).
    let distrusted = TrustBundle::distrusted(domain("td"));
    assert_eq!(
        check(
            &[leaf(CART).signed_by(&ours)],
            &IdentityState::from_bundles(distrusted.into())
        ),
        Err(Rejected::Distrusted {
            id: id(CART),
            trust_domain: domain("td")
        })
    );
}

#[test]
fn s6_the_path_is_valid_in_time() {
    let ca = Ca::new("root");
    let cert = leaf(CART).signed_by(&ca);
    let at = |now| {
        validate(
            std::slice::from_ref(&cert),
            &ca.state("td"),
            now,
            Usage::Client,
            &crypto(),
        )
    };
    let (from, to) = (noon() - minutes(30), noon() + minutes(30));
    let second = std::time::Duration::from_secs(1);
    let place = Place::Leaf;
    at(from).unwrap();
    at(to).unwrap();
    assert_eq!(
        at(from - second),
        Err(Rejected::NotYetValid {
            id: id(CART),
            place,
            not_before: from,
            now: from - second
        })
    );
    assert_eq!(
        at(to + second),
        Err(Rejected::Expired {
            id: id(CART),
            place,
            not_after: to,
            now: to + second
        })
    );
    // A clock before 1970 is no reason to panic.
    let before = std::time::UNIX_EPOCH - second;
    assert!(matches!(at(before), Err(Rejected::NotYetValid { .. })));

    // An intermediate, and the root in our own bundle, have an end too.
    let over = noon() - minutes(1);
    let middle = authority("middle")
        .with(|p| p.not_after = over.into())
        .under(&ca);
    let chain = [leaf(CART).signed_by(&middle), middle.cert.clone()];
    assert_eq!(
        check(&chain, &ca.state("td")),
        Err(Rejected::Expired {
            id: id(CART),
            place: Place::Intermediate,
            not_after: over,
            now: noon()
        })
    );
    let old = authority("old").with(|p| p.not_after = over.into()).root();
    assert_eq!(
        check(&[leaf(CART).signed_by(&old)], &old.state("td")),
        Err(Rejected::Expired {
            id: id(CART),
            place: Place::Root,
            not_after: over,
            now: noon()
        })
    );
}

#[test]
fn s6_the_root_that_vouches_is_named() {
    let (old, new) = (Ca::new("old"), Ca::new("new"));
    let over = noon() - minutes(1);
    let ended = authority("ended")
        .with(|p| p.not_after = over.into())
        .root();
    let roots = [old.cert.clone(), ended.cert.clone(), new.cert.clone()];
    let bundle = TrustBundle::new(domain("td"), roots).unwrap();
    let state = IdentityState::from_bundles(bundle.clone().into());
    let by = |ca: &Ca| check(&[leaf(CART).signed_by(ca)], &state);
    assert_eq!(by(&old).unwrap().root_key_id, bundle.roots()[0].key_id());
    assert_eq!(by(&new).unwrap().root_key_id, bundle.roots()[2].key_id());
    assert!(matches!(
        by(&ended),
        Err(Rejected::Expired {
            place: Place::Root,
            ..
        })
    ));

    // A root that was signed again with its own key and name: the one that is valid counts.
    let mut draft = authority("again");
    draft.params.not_after = over.into();
    let short = draft.params.self_signed(&draft.key).unwrap().der().clone();
    let long = draft
        .with(|p| p.not_after = (noon() + minutes(60)).into())
        .root();
    let bundle = TrustBundle::new(domain("td"), [short, long.cert.clone()]).unwrap();
    let state = IdentityState::from_bundles(bundle.into());
    check(&[leaf(CART).signed_by(&long)], &state).unwrap();
}

#[test]
fn what_one_parser_cannot_read_is_not_left_to_the_other() {
    let custom =
        |oid: &[u64], content: Vec<u8>| rcgen::CustomExtension::from_oid_content(oid, content);
    let place = Place::Leaf;
    // Two URI names, the second of which is not ASCII.
    let mut names = vec![0x30, 18, 0x86, 13];
    names.extend(b"spiffe://td/a");
    names.extend([0x86, 1, 0xff]);
    assert_eq!(
        broken(|p| {
            p.subject_alt_names.clear();
            p.custom_extensions.push(custom(&[2, 5, 29, 17], names));
        }),
        Rejected::Malformed {
            place,
            what: "subject alternative name"
        }
    );
    // Basic constraints that are there and say nothing readable are not "no CA".
    assert_eq!(
        broken(|p| {
            p.is_ca = IsCa::NoCa;
            p.custom_extensions
                .push(custom(&[2, 5, 29, 19], vec![4, 0]));
        }),
        Rejected::Malformed {
            place,
            what: "basic constraints"
        }
    );
    // An extension that is there twice.
    assert_eq!(
        broken(|p| p
            .custom_extensions
            .push(custom(&[2, 5, 29, 15], vec![3, 2, 7, 0x80]))),
        Rejected::Malformed {
            place,
            what: "key usage"
        }
    );
}

#[test]
fn s6_signatures_are_verified() {
    let ca = Ca::new("root");
    let mut der = leaf(CART).signed_by(&ca).to_vec();
    let last = der.len() - 1;
    der[last] ^= 1;
    let rejected = check(&[der.into()], &ca.state("td")).unwrap_err();
    assert_eq!(rejected, Rejected::BadSignature { id: id(CART) });
}

#[test]
fn s6_a_new_root_under_an_old_name_is_an_unknown_issuer_and_no_forgery() {
    let (old, new) = (Ca::new("root"), Ca::new("root"));
    let rejected = check(&[leaf(CART).signed_by(&new)], &old.state("td")).unwrap_err();
    assert_eq!(name_of(&rejected), "UnknownIssuer");
}

#[test]
fn s8_the_key_usage_is_there_and_critical_and_signs() {
    assert_eq!(broken(|p| p.key_usages.clear()), Rejected::NoKeyUsage);
    assert_eq!(
        broken(|p| p.key_usages = vec![KeyUsagePurpose::KeyEncipherment]),
        Rejected::NoDigitalSignature
    );
    // 0x80 in a bit string with 7 unused bits is digitalSignature; custom extensions are not
    // critical unless they are made so.
    let usage = rcgen::CustomExtension::from_oid_content(&[2, 5, 29, 15], vec![3, 2, 7, 0x80]);
    assert_eq!(
        broken(|p| {
            p.key_usages.clear();
            p.custom_extensions.push(usage);
        }),
        Rejected::KeyUsageNotCritical
    );
}

#[test]
fn s9_an_extended_key_usage_allows_the_role_or_is_not_there() {
    let ca = Ca::new("root");
    let only = |usage| {
        leaf(CART)
            .with(|p| p.extended_key_usages = vec![usage])
            .signed_by(&ca)
    };
    let server = only(ExtendedKeyUsagePurpose::ServerAuth);
    let client = only(ExtendedKeyUsagePurpose::ClientAuth);
    let at = |cert, usage| validate(&[cert], &ca.state("td"), noon(), usage, &crypto());
    at(server.clone(), Usage::Server).unwrap();
    at(client.clone(), Usage::Client).unwrap();
    let wrong = |usage| {
        Err(Rejected::WrongUsage {
            id: id(CART),
            usage,
        })
    };
    assert_eq!(at(server, Usage::Client), wrong(Usage::Client));
    assert_eq!(at(client, Usage::Server), wrong(Usage::Server));
    let none = leaf(CART)
        .with(|p| p.extended_key_usages.clear())
        .signed_by(&ca);
    at(none, Usage::Client).unwrap();
}

#[test]
fn s11_an_intermediate_may_sign_and_is_no_workload() {
    let ca = Ca::new("root");
    let through = |middle: Draft| {
        let middle = middle.under(&ca);
        check(
            &[leaf(CART).signed_by(&middle), middle.cert.clone()],
            &ca.state("td"),
        )
    };
    through(authority("middle")).unwrap();
    through(authority("middle").with(|p| p.subject_alt_names = vec![san("spiffe://td")])).unwrap();
    assert_eq!(
        through(authority("middle").with(|p| p.key_usages = vec![KeyUsagePurpose::CrlSign])),
        Err(Rejected::IssuerMayNotSign {
            missing: "keyCertSign"
        })
    );
    assert_eq!(
        through(authority("middle").with(|p| p.key_usages.clear())),
        Err(Rejected::IssuerMayNotSign {
            missing: "keyCertSign"
        })
    );
    assert_eq!(
        through(authority("middle").with(|p| p.is_ca = IsCa::ExplicitNoCa)),
        Err(Rejected::IssuerMayNotSign { missing: "cA" })
    );
    assert_eq!(
        through(authority("middle").with(|p| p.subject_alt_names = vec![san("spiffe://td/ca")])),
        Err(Rejected::IssuerHasPath {
            id: id(CART),
            got: id("spiffe://td/ca")
        })
    );
}

#[test]
fn a_leaf_signs_nobody() {
    let ca = Ca::new("root");
    let fake = leaf("spiffe://td/a").with(|p| {
        p.distinguished_name.push(rcgen::DnType::CommonName, "fake");
    });
    let fake = fake.under(&ca);
    let chain = [leaf(CART).signed_by(&fake), fake.cert.clone()];
    assert_eq!(
        check(&chain, &ca.state("td")),
        Err(Rejected::IssuerMayNotSign { missing: "cA" })
    );
}

#[test]
fn uri_name_constraints_fail_closed() {
    let ca = Ca::new("root");
    // permittedSubtrees with one URI name, "td".
    let constraint = vec![0x30, 8, 0xa0, 6, 0x30, 4, 0x86, 2, b't', b'd'];
    let mut constraint = rcgen::CustomExtension::from_oid_content(&[2, 5, 29, 30], constraint);
    constraint.set_criticality(true);
    let middle = authority("middle")
        .with(|p| p.custom_extensions.push(constraint))
        .under(&ca);
    let chain = [leaf(CART).signed_by(&middle), middle.cert.clone()];
    assert_eq!(
        check(&chain, &ca.state("td")),
        Err(Rejected::NameConstraint { id: id(CART) })
    );
}

#[test]
fn unknown_critical_extensions_fail_closed() {
    let mut unknown = rcgen::CustomExtension::from_oid_content(&[1, 3, 6, 1, 4, 1, 1], vec![5, 0]);
    unknown.set_criticality(true);
    assert_eq!(
        broken(|p| p.custom_extensions.push(unknown)),
        Rejected::UnknownCriticalExtension { id: id(CART) }
    );
}

/// A leaf under `n` intermediates under `ca`, leaf first.
fn chain_of(ca: &Ca, n: usize) -> Vec<CertificateDer<'static>> {
    let mut chain = Vec::new();
    let mut above = ca.clone();
    for depth in 0..n {
        above = authority(&format!("middle {depth}")).under(&above);
        chain.insert(0, above.cert.clone());
    }
    chain.insert(0, leaf(CART).signed_by(&above));
    chain
}

#[test]
fn a_path_has_six_certificates_at_most() {
    let ca = Ca::new("root");
    check(&chain_of(&ca, 4), &ca.state("td")).unwrap();
    for n in [5, 6, 8] {
        assert_eq!(
            check(&chain_of(&ca, n), &ca.state("td")),
            Err(Rejected::PathTooLong {
                id: id(CART),
                max: 6
            }),
            "{n} intermediates"
        );
    }
    // A CA's own limit counts too.
    let short = authority("root").with(|p| p.is_ca = IsCa::Ca(BasicConstraints::Constrained(0)));
    let short = short.root();
    assert_eq!(
        name_of(&check(&chain_of(&short, 1), &short.state("td")).unwrap_err()),
        "PathTooLong"
    );
}

#[test]
fn intermediates_come_in_any_order_with_strangers_between() {
    let ca = Ca::new("root");
    let mut chain = chain_of(&ca, 3);
    chain[1..].reverse();
    chain.insert(2, Ca::new("stranger").cert);
    check(&chain, &ca.state("td")).unwrap();
}

#[test]
fn what_is_presented_is_bounded_before_it_is_parsed() {
    let ca = Ca::new("root");
    let state = ca.state("td");
    assert_eq!(check(&[], &state), Err(Rejected::NoCertificate));
    let junk = |bytes: usize| CertificateDer::from(vec![0; bytes]);
    assert_eq!(
        check(&vec![junk(1); 17], &state),
        Err(Rejected::ChainTooLong { got: 17, max: 16 })
    );
    assert_eq!(
        check(&[junk(65_537)], &state),
        Err(Rejected::ChainTooLarge {
            got: 65_537,
            max: 65_536
        })
    );
    let mut chain = vec![leaf(CART).signed_by(&ca)];
    let room = MAX_PRESENTED_BYTES - chain[0].len();
    chain.push(junk(room));
    check(&chain, &state).unwrap();
}

#[test]
fn a_hostile_bush_of_issuers_is_given_up() {
    // Same names everywhere, so that every certificate may have signed every other one.
    let ca = Ca::new("bush");
    let mut chain = vec![leaf(CART).signed_by(&ca)];
    chain.extend((0..15).map(|_| authority("bush").under(&Ca::new("bush")).cert));
    let rejected = check(&chain, &Ca::new("bush").state("td")).unwrap_err();
    assert!(
        matches!(name_of(&rejected).as_str(), "TooMuchWork" | "UnknownIssuer"),
        "{rejected:?}"
    );
}

#[test]
fn garbage_is_malformed() {
    let ca = Ca::new("root");
    let place = Place::Leaf;
    assert_eq!(
        check(&[vec![0x30, 0].into()], &ca.state("td")),
        Err(Rejected::Malformed {
            place,
            what: "not an X.509 certificate"
        })
    );
    let mut long = leaf(CART).signed_by(&ca).to_vec();
    long.push(0);
    assert_eq!(
        check(&[long.into()], &ca.state("td")),
        Err(Rejected::Malformed {
            place,
            what: "bytes after its end"
        })
    );
}

proptest::proptest! {
    #![proptest_config(proptest::test_runner::Config::with_cases(64))]
    #[test]
    fn no_flipped_bit_is_accepted_or_panics(at in 0.0..1.0_f64, bit in 0..8_u8) {
        use std::sync::OnceLock;
        static GOOD: OnceLock<(Ca, CertificateDer<'static>)> = OnceLock::new();
        let (ca, cert) = GOOD.get_or_init(|| {
            let ca = Ca::new("root");
            let cert = leaf(CART).signed_by(&ca);
            (ca, cert)
        });
        let mut der = cert.to_vec();
        let at = ((der.len() - 1) as f64 * at) as usize;
        der[at] ^= 1 << bit;
        proptest::prop_assert!(check(&[der.into()], &ca.state("td")).is_err());
    }
}

// === X509Svid ===

fn pem_of(draft: &Draft, ca: &Ca) -> (String, String) {
    let svid = draft.svid(ca);
    (svid.chain_pem(), svid.key().to_secret_pem().to_string())
}

#[test]
fn pem_goes_in_and_out() {
    let ca = Ca::new("root");
    let (chain, key) = pem_of(&leaf(CART), &ca);
    let svid = X509Svid::from_pem(chain.as_bytes(), key.as_bytes(), &crypto()).unwrap();
    assert_eq!(svid.id(), &id(CART));
    assert_eq!(svid.not_after(), noon() + minutes(30));
    assert_eq!(svid.issued_at(), svid.not_before());
    assert_eq!(svid.chain_pem(), chain);
    assert_eq!(*svid.key().to_secret_pem(), key);
}

#[test]
fn a_key_of_another_certificate_is_refused() {
    let ca = Ca::new("root");
    let (chain, _) = pem_of(&leaf(CART), &ca);
    let (_, key) = pem_of(&leaf(CART), &ca);
    match X509Svid::from_pem(chain.as_bytes(), key.as_bytes(), &crypto()).unwrap_err() {
        SvidError::KeyMismatch { id: got, .. } => assert_eq!(got, id(CART)),
        other => panic!("{other:?}"),
    }
}

#[test]
fn what_we_would_refuse_we_do_not_present() {
    let ca = Ca::new("root");
    let draft = leaf(CART).with(|p| p.key_usages.clear());
    let key = PrivateKey::from_pkcs8_der(draft.key.serialize_der());
    assert_eq!(
        X509Svid::from_der(vec![draft.signed_by(&ca)], key, None, &crypto()).unwrap_err(),
        SvidError::Chain(Rejected::NoKeyUsage)
    );
}

#[test]
fn no_debug_or_error_shows_a_key() {
    let ca = Ca::new("root");
    let draft = leaf(CART);
    let secret = draft.key.serialize_der();
    let svid = draft.svid(&ca);
    let state = IdentityState::new(svid, BundleSet::new());
    let svid = state.default_svid().unwrap();
    let said = format!("{state:?} {svid:?} {:?} {:#?}", svid.key(), state);
    // The 32 bytes of a P-256 key begin at 36 in its PKCS#8 form.
    let scalar = &secret[36..68];
    let shown = [
        format!("{scalar:?}"),
        crate::hex::encode(scalar),
        format!("{:?}", &scalar[..4])
            .trim_matches(['[', ']'])
            .to_owned(),
        svid.key()
            .to_secret_pem()
            .lines()
            .nth(1)
            .unwrap()
            .to_owned(),
    ];
    for secret in shown {
        assert!(!said.contains(&secret), "{said}");
    }
    assert!(said.contains(CART));
}

// === go-spiffe's certificates ===

const FIXTURES: [(&str, Option<&str>); 9] = [
    ("good-leaf-only.pem", None),
    ("good-leaf-and-intermediate.pem", None),
    (
        "wrong-intermediate-no-ca.pem",
        Some("IssuerMayNotSign { missing: \"cA\" }"),
    ),
    (
        "wrong-intermediate-no-key-cert-sign.pem",
        Some("IssuerMayNotSign { missing: \"keyCertSign\" }"),
    ),
    ("wrong-leaf-ca-true.pem", Some("LeafIsCa")),
    (
        "wrong-leaf-cert-sign.pem",
        Some("LeafMaySign { usage: \"keyCertSign\" }"),
    ),
    (
        "wrong-leaf-crl-sign.pem",
        Some("LeafMaySign { usage: \"cRLSign\" }"),
    ),
    ("wrong-leaf-empty-id.pem", Some("NoUriSan")),
    (
        "wrong-leaf-no-digital-signature.pem",
        Some("NoDigitalSignature"),
    ),
];

#[test]
fn go_spiffe_certificates_fail_each_for_its_own_reason() {
    for (name, expected) in FIXTURES {
        let Some(pem) = fixture(&format!("spiffe/go-spiffe/x509svid/{name}"), 1) else {
            continue;
        };
        let chain: Vec<_> = CertificateDer::pem_slice_iter(&pem)
            .map(Result::unwrap)
            .collect();
        // Their keys are not in the files; the shape of the chain is checked before the key.
        let key = PrivateKey::from_pkcs8_der(KeyPair::generate().unwrap().serialize_der());
        let error = X509Svid::from_der(chain, key, None, &crypto()).unwrap_err();
        match (expected, error) {
            (None, SvidError::KeyMismatch { .. }) => {}
            (Some(expected), SvidError::Chain(got)) => {
                assert_eq!(format!("{got:?}"), expected, "{name}");
            }
            (_, other) => panic!("{name}: {other:?}"),
        }
    }
}

#[test]
fn go_spiffe_files_parse_or_say_why_not() {
    let file = |name: &str| fixture(&format!("spiffe/go-spiffe/x509svid/{name}"), 1);
    for name in ["good-key-and-cert.pem", "good-cert-and-key.pem"] {
        let Some(text) = file(name) else { return };
        let svid = X509Svid::from_pem(&text, &text, &crypto()).unwrap();
        assert!(!svid.id().path().is_empty(), "{name}");
    }
    let load = |cert: &str, key: &str| {
        X509Svid::from_pem(&file(cert).unwrap(), &file(key).unwrap(), &crypto()).unwrap_err()
    };
    let good = "good-leaf-only.pem";
    assert!(matches!(
        load("not-pem", "key-pkcs8-ecdsa.pem"),
        SvidError::Pem(PemError::NoCertificate)
    ));
    assert!(matches!(
        load(good, "not-pem"),
        SvidError::Pem(PemError::NoKey)
    ));
    assert!(matches!(
        load(good, "corrupt-key.pem"),
        SvidError::Key { .. }
    ));
    assert!(matches!(
        load("corrupt-cert.pem", "key-pkcs8-ecdsa.pem"),
        SvidError::Chain(Rejected::Malformed { .. })
    ));
    assert!(matches!(
        load(good, "key-pkcs8-ecdsa.pem"),
        SvidError::KeyMismatch { .. }
    ));
}
