use rcgen::{
    BasicConstraints, ExtendedKeyUsagePurpose, IsCa, KeyPair, KeyUsagePurpose, SerialNumber,
};
use rustls_pki_types::CertificateDer;
use rustls_pki_types::pem::PemObject;

use super::*;
use crate::bundle::{BundleSet, TrustBundle};
use crate::id::IdError;
use crate::store::IdentityState;
use crate::testing::{
    Ca, CrlDraft, Draft, authority, crypto, domain, fixture, id, leaf, minutes, noon, san,
};

mod classes;
mod limbo;
mod narrow;
mod own;
mod path;
mod revoked;

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
fn s4_s7_c3_a_signing_certificate_identifies_nobody() {
    assert_eq!(
        broken(|p| p.is_ca = IsCa::Ca(BasicConstraints::Unconstrained)),
        Rejected::LeafIsCa
    );
    let signing = authority("signing").with(|p| p.subject_alt_names = vec![san(CART)]);
    assert_eq!(refused(signing), Rejected::LeafIsCa);
}

#[test]
fn s5_c3_a_leaf_does_not_sign() {
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
fn s10_without_a_subject_the_name_is_critical() {
    let names = |critical: bool| {
        let mut content = vec![0x30, 15, 0x86, 13];
        content.extend(b"spiffe://td/a");
        let mut names = rcgen::CustomExtension::from_oid_content(&[2, 5, 29, 17], content);
        names.set_criticality(critical);
        leaf(CART).with(|p| {
            p.subject_alt_names.clear();
            p.custom_extensions.push(names);
        })
    };
    assert_eq!(refused(names(false)), Rejected::SanNotCritical);
    let ca = Ca::new("root");
    let named = names(false).with(|p| {
        p.distinguished_name.push(rcgen::DnType::CommonName, "cart");
    });
    for good in [names(true), named] {
        check(&[good.signed_by(&ca)], &ca.state("td")).unwrap();
    }
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

#[test]
fn s11_a_signing_certificate_names_its_trust_domain() {
    let ca = |uris: &[&str]| {
        let uris = uris.iter().map(|uri| san(uri)).collect();
        authority("ca").with(|p| p.subject_alt_names = uris).root()
    };
    let named = |uris: &[&str]| trust_domain_of_ca(&ca(uris).cert);
    assert_eq!(named(&["spiffe://td"]), Some(domain("td")));
    assert_eq!(named(&["spiffe://td/a"]), None);
    assert_eq!(named(&["spiffe://td", "spiffe://other"]), None);
    assert_eq!(named(&["https://td"]), None);
    assert_eq!(named(&[]), None);
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
