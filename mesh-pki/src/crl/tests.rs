use std::time::Duration;

use rcgen::{CrlDistributionPoint, CrlIssuingDistributionPoint, CrlScope, SerialNumber};

use super::*;
use crate::bundle::TrustBundle;
use crate::testing::{Ca, CrlDraft, crypto, domain, leaf, minutes, noon};

// === reading ===

/// A DER element, its length in the one form that DER allows.
fn der(tag: u8, parts: &[&[u8]]) -> Vec<u8> {
    let content = parts.concat();
    let len = content.len().to_be_bytes();
    let len = &len[len.iter().take_while(|byte| **byte == 0).count().min(7)..];
    let header = match len {
        [short @ 0..=127] => vec![tag, *short],
        long => [&[tag, 0x80 | u8::try_from(long.len()).unwrap()], long].concat(),
    };
    [header, content].concat()
}

/// An extension, critical or not.
fn ext(id: u8, critical: bool, value: &[u8]) -> Vec<u8> {
    let flag: &[u8] = if critical { &[1, 1, 0xff] } else { &[] };
    der(0x30, &[&[6, 3, 0x55, 0x1d, id], flag, &der(4, &[value])])
}

const NUMBER: u8 = 20;
const DELTA: u8 = 27;
const DISTRIBUTION_POINT: u8 = 28;
const AUTHORITY_KEY_ID: u8 = 35;

/// A list without a signer, with these extensions, nextUpdate if asked for, and these entries.
fn unsigned(extensions: &[Vec<u8>], next_update: bool, entries: &[u8]) -> Vec<u8> {
    let algorithm = der(0x30, &[&[6, 8, 0x2a, 0x86, 0x48, 0xce, 0x3d, 4, 3, 2]]);
    let name = der(
        0x30,
        &[&der(
            0x31,
            &[&der(0x30, &[&[6, 3, 0x55, 4, 3, 12, 2], b"ca"])],
        )],
    );
    let time = der(0x17, &[b"270115080000Z"]);
    let extensions: Vec<&[u8]> = extensions.iter().map(Vec::as_slice).collect();
    let body = der(
        0x30,
        &[
            &[2, 1, 1],
            &algorithm,
            &name,
            &time,
            if next_update { &time } else { &[] },
            entries,
            &der(0xa0, &[&der(0x30, &extensions)]),
        ],
    );
    der(0x30, &[&body, &algorithm, &[3, 2, 0, 0]])
}

fn number() -> Vec<u8> {
    ext(NUMBER, false, &[2, 1, 7])
}

/// What a list with these extensions beside its number is refused for.
fn refused(more: Vec<u8>) -> CrlError {
    Crl::from_der(&unsigned(&[number(), more], true, &[])).unwrap_err()
}

fn malformed(what: &'static str) -> CrlError {
    CrlError::Malformed { what }
}

#[test]
fn a_list_reads_what_it_writes() {
    let ca = Ca::new("root");
    let gone = leaf("spiffe://td/a").signed_by(&ca);
    let crl = ca.crl().revoking(&gone).list();
    assert_eq!(Crl::from_der(crl.der()).as_ref(), Ok(&crl));
    let other = ca.crl().list();
    let text = format!("{}# the next one\n{}", crl.to_pem(), other.to_pem());
    assert_eq!(
        Crl::from_pem(text.as_bytes()).unwrap(),
        [crl.clone(), other.clone()]
    );

    assert_eq!(crl.issuer(), "CN=root");
    assert_eq!(
        crl.authority_key_id(),
        Some(ca.bundle("td").roots()[0].key_id())
    );
    assert_eq!(crl.number(), "01");
    assert_eq!(crl.this_update(), noon());
    assert_eq!(crl.next_update(), noon() + minutes(60));
    assert_eq!((crl.len(), crl.is_empty()), (1, false));
    assert_eq!((other.len(), other.is_empty()), (0, true));
    assert_eq!(
        format!("{crl:?}"),
        "Crl { issuer: \"CN=root\", number: \"01\", entries: 1, .. }"
    );
}

#[test]
fn a_list_that_nobody_signed_reads_until_somebody_asks() {
    let crl = Crl::from_der(&unsigned(&[number()], true, &[])).unwrap();
    assert_eq!(
        (crl.number().as_str(), crl.authority_key_id()),
        ("07", None)
    );
}

#[test]
fn only_complete_lists_are_taken() {
    let point = |value: &[u8]| refused(ext(DISTRIBUTION_POINT, true, value));
    let name = der(0xa0, &[&der(0xa0, &[&[0x86, 1, b'x']])]);
    assert_eq!(refused(ext(DELTA, true, &[2, 1, 1])), CrlError::Delta);
    assert_eq!(
        point(&der(0x30, &[&name, &[0x84, 1, 0xff]])),
        CrlError::Indirect
    );
    assert_eq!(
        point(&der(0x30, &[&name, &[0x83, 2, 6, 0x40]])),
        CrlError::SomeReasons
    );
    assert_eq!(point(&der(0x30, &[&name])), CrlError::Partial);
    assert_eq!(
        point(&der(0x30, &[&name, &[0x81, 1, 0xff]])),
        CrlError::Partial
    );
    assert_eq!(
        point(&der(0x30, &[&name, &[0x82, 1, 0xff]])),
        CrlError::Partial
    );
    assert_eq!(point(&der(0x30, &[&[0x81, 1, 0xff]])), CrlError::Partial);
    // As a CA that shards its list writes it, with more than one name.
    let uris = ["http://a/1".to_owned(), "http://b/1".to_owned()];
    for scope in [
        None,
        Some(CrlScope::UserCertsOnly),
        Some(CrlScope::CaCertsOnly),
    ] {
        let point = CrlIssuingDistributionPoint {
            distribution_point: CrlDistributionPoint {
                uris: uris.to_vec(),
            },
            scope,
        };
        let draft = Ca::new("root")
            .crl()
            .with(|p| p.issuing_distribution_point = Some(point));
        assert_eq!(Crl::from_der(&draft.der()), Err(CrlError::Partial));
    }
}

/// RUSTSEC-2026-0104: an empty onlySomeReasons, and what else can be cut short in that place.
#[test]
fn c8_hostile_distribution_points_are_refused_and_do_not_panic() {
    let name = der(0xa0, &[&der(0xa0, &[&[0x86, 1, b'x']])]);
    for reasons in [
        &[0x83, 0][..],
        &[0x83, 1, 0],
        &[0x83, 1, 8],
        &[0x83, 2, 8, 0],
        &[0x83, 2, 7],
        &[0xa3, 0],
        &[0x81, 0],
        &[0x84, 0],
        &[0x85, 1, 0xff],
        &[0xa0, 0],
    ] {
        for value in [
            der(0x30, &[reasons]),
            der(0x30, &[&name, reasons]),
            der(0x30, &[reasons, reasons, &name]),
        ] {
            let error = refused(ext(DISTRIBUTION_POINT, true, &value));
            assert!(
                matches!(
                    error,
                    CrlError::Malformed { .. }
                        | CrlError::Partial
                        | CrlError::SomeReasons
                        | CrlError::Indirect
                ),
                "{value:02x?}: {error}"
            );
        }
    }
    assert_eq!(
        refused(ext(DISTRIBUTION_POINT, true, &[])),
        malformed("not a revocation list")
    );
}

#[test]
fn what_rfc_5280_demands_of_a_list_is_demanded() {
    let read = |extensions: &[Vec<u8>]| Crl::from_der(&unsigned(extensions, true, &[]));
    // A number, not critical, once, and of 20 bytes at most.
    let aki = || ext(AUTHORITY_KEY_ID, false, &der(0x30, &[&[0x80, 1, 9]]));
    assert_eq!(read(&[aki()]).unwrap_err(), malformed("CRL number"));
    assert_eq!(
        read(&[ext(NUMBER, true, &[2, 1, 7])]).unwrap_err(),
        malformed("CRL number")
    );
    assert_eq!(
        read(&[number(), number()]).unwrap_err(),
        malformed("CRL number")
    );
    assert_eq!(
        read(&[ext(NUMBER, false, &der(2, &[&[1; 21]]))]).unwrap_err(),
        malformed("CRL number")
    );
    assert_eq!(
        read(&[number(), aki()]).unwrap().authority_key_id(),
        Some("09")
    );

    assert_eq!(
        refused(ext(99, true, &[5, 0])),
        CrlError::UnknownCriticalExtension
    );
    assert!(read(&[number(), ext(99, false, &[5, 0])]).is_ok());
    // Without nextUpdate it would never be stale.
    assert_eq!(
        Crl::from_der(&unsigned(&[number()], false, &[])),
        Err(malformed("not a revocation list"))
    );
    let mut old = unsigned(&[number()], true, &[]);
    let version = old.windows(3).position(|w| w == [2, 1, 1]).unwrap();
    old[version + 2] = 0;
    assert_eq!(Crl::from_der(&old), Err(CrlError::Version));
}

#[test]
fn bytes_and_entries_are_bounded() {
    assert_eq!(
        Crl::from_der(&vec![0; MAX_CRL_LEN + 1]),
        Err(CrlError::TooLarge {
            got: MAX_CRL_LEN + 1
        })
    );
    assert_eq!((MAX_CRL_LEN, MAX_CRL_ENTRIES), (1_048_576, 32_768));
    assert_eq!(
        Crl::from_der(&vec![0; MAX_CRL_LEN]),
        Err(malformed("not a revocation list"))
    );
    // Every entry is a serial number of its own and a date.
    let list = |entries: usize| {
        let time = der(0x17, &[b"270115080000Z"]);
        let entries: Vec<u8> = (0..entries)
            .flat_map(|n| {
                let [_, a, b, c] = u32::try_from(n).unwrap().to_be_bytes();
                der(0x30, &[&[2, 4, 1, a, b, c], &time])
            })
            .collect();
        Crl::from_der(&unsigned(&[number()], true, &der(0x30, &[&entries])))
    };
    assert_eq!(list(MAX_CRL_ENTRIES).unwrap().len(), MAX_CRL_ENTRIES);
    assert_eq!(list(MAX_CRL_ENTRIES + 1), Err(CrlError::TooManyEntries));
}

#[test]
fn garbage_is_told_apart_from_its_absence() {
    assert_eq!(
        Crl::from_pem(Ca::new("root").bundle("td").to_pem().as_bytes()),
        Err(CrlError::Pem(PemError::NoCrl))
    );
    let mut long = unsigned(&[number()], true, &[]);
    long.push(0);
    for junk in [&[][..], &[0x30, 0], b"junk", &long] {
        assert_eq!(Crl::from_der(junk), Err(malformed("not a revocation list")));
    }
}

proptest::proptest! {
    #[test]
    fn no_mutation_of_a_list_panics(at in 0.0..1.0_f64, byte: u8, cut in 0.0..1.0_f64) {
        let name = der(0xa0, &[&der(0xa0, &[&[0x86, 1, b'x']])]);
        let point = ext(DISTRIBUTION_POINT, true, &der(0x30, &[&name, &[0x83, 2, 6, 0x40]]));
        let mut list = unsigned(&[number(), point], true, &[]);
        let last = list.len() - 1;
        list[(last as f64 * at) as usize] = byte;
        let _ = Crl::from_der(&list);
        let _ = Crl::from_der(&list[..(last as f64 * cut) as usize]);
    }
}

// === sets ===

#[test]
fn a_set_keeps_one_list_for_each_issuer_of_each_domain() {
    let (a, b) = (Ca::new("a"), Ca::new("b"));
    let (td, other) = (domain("td"), domain("other"));
    let mut set = CrlSet::new();
    assert!(set.is_empty());
    let old = a.crl().list();
    assert_eq!(set.insert(td.clone(), old.clone()), Ok(None));
    let stays = b.crl().list();
    assert_eq!(set.insert(td.clone(), stays.clone()), Ok(None));
    assert_eq!(set.insert(other.clone(), old.clone()), Ok(None));
    // The same issuer: replaced, also by an older one; the caller decides.
    let new = a
        .crl()
        .with(|p| p.crl_number = SerialNumber::from(2_u64))
        .list();
    assert_eq!(set.insert(td.clone(), new.clone()), Ok(Some(old.clone())));
    assert_eq!(set.get(&td), [new, stays]);
    assert_eq!(set.get(&other), [old]);
    assert_eq!((set.len(), set.is_empty()), (3, false));
    // The same name with another key is another issuer.
    let renewed = Ca::new("b").crl().list();
    assert_eq!(set.insert(td.clone(), renewed), Ok(None));
    assert_eq!(set.len(), 4);
    assert_eq!(
        set.iter().map(|(td, _)| td).collect::<Vec<_>>(),
        [&other, &td, &td, &td]
    );
    set.remove(&td);
    assert_eq!(set.get(&td), []);
    assert_eq!(set.len(), 1);
}

#[test]
fn of_two_lists_of_an_issuer_the_later_one_stays() {
    let ca = Ca::new("ca");
    let numbered = |number: u64| ca.crl().with(|p| p.crl_number = SerialNumber::from(number));
    let pick = |lists: [CrlDraft; 2]| {
        let lists = lists.map(|draft| draft.list());
        let mut set = CrlSet::new();
        set.replace(domain("td"), lists.clone()).unwrap();
        let [kept] = set.get(&domain("td")) else {
            panic!("{set:?}");
        };
        lists.iter().position(|list| list == kept).unwrap()
    };
    assert_eq!(pick([numbered(1), numbered(2)]), 1);
    assert_eq!(pick([numbered(2), numbered(1)]), 0);
    // 0x0100 is more than 0xff: not compared like text.
    assert_eq!(pick([numbered(0xff), numbered(0x100)]), 1);
    let later = |draft: CrlDraft| draft.with(|p| p.this_update += Duration::from_secs(1));
    assert_eq!(pick([numbered(1), later(numbered(1))]), 1);
    assert_eq!(pick([later(numbered(1)), numbered(1)]), 0);
    // As late as the first one is not later.
    assert_eq!(pick([numbered(1), numbered(1)]), 0);
}

#[test]
fn the_number_of_lists_is_bounded() {
    let lists: Vec<_> = (0..=MAX_CRLS)
        .map(|n| Ca::new(&format!("ca {n}")).crl().list())
        .collect();
    let td = domain("td");
    let mut set = CrlSet::new();
    let too_many = CrlError::TooMany {
        trust_domain: td.clone(),
    };
    assert_eq!(
        set.replace(td.clone(), lists.clone()),
        Err(too_many.clone())
    );
    assert!(set.is_empty());
    set.replace(td.clone(), lists[1..].to_vec()).unwrap();
    assert_eq!(set.insert(td.clone(), lists[0].clone()), Err(too_many));
    assert_eq!(set.len(), MAX_CRLS);
    set.replace(td, []).unwrap();
    assert!(set.is_empty());
}

// === status ===

/// What lists say of certificate `serial` of `ca`.
struct Question<'a> {
    ca: &'a Ca,
    key_id: Option<&'a str>,
    may_sign: bool,
    /// The roots of the trust domain.
    roots: &'a [rustls_pki_types::TrustAnchor<'static>],
}

impl Question<'_> {
    fn ask(&self, lists: &[Crl], serial: &[u8]) -> Status {
        let bundle = self.ca.bundle("td");
        let anchor = &bundle.anchors()[0];
        let issuer = CertificateIssuer {
            name: &anchor.subject,
            key_id: self.key_id,
            public_key: &webpki::spki_for_anchor(anchor),
            may_sign: self.may_sign,
        };
        let lists = Lists {
            crls: lists,
            roots: self.roots,
        };
        lists.status(&issuer, serial, noon(), &crypto())
    }
}

#[test]
fn a_list_of_another_key_under_the_same_name_says_nothing() {
    let (old, new) = (Ca::new("same"), Ca::new("same"));
    let both = TrustBundle::new(domain("td"), [old.cert.clone(), new.cert.clone()]).unwrap();
    let cert = leaf("spiffe://td/a").signed_by(&old);
    let (_, parsed) = x509_parser::parse_x509_certificate(&cert).unwrap();
    let serial = parsed.raw_serial();
    let key_id = |ca: &Ca| ca.bundle("td").roots()[0].key_id().to_owned();
    let ask = |ca: &Ca, key_id: Option<&str>, list: &Crl| {
        let question = Question {
            ca,
            key_id,
            may_sign: true,
            roots: both.anchors(),
        };
        question.ask(std::slice::from_ref(list), serial)
    };
    let revoked = Status::Revoked {
        since: noon() - minutes(1),
        reason: Some("keyCompromise"),
    };
    let fresh = || old.crl().revoking(&cert).list();
    for list in [fresh(), {
        // Once more with a signature that was verified before.
        let list = fresh();
        assert_eq!(ask(&old, Some(&key_id(&old)), &list), revoked);
        list
    }] {
        assert_eq!(ask(&new, Some(&key_id(&new)), &list), Status::Valid);
        assert_eq!(ask(&old, Some(&key_id(&old)), &list), revoked);
        // Another way to compute a key id is no way around a list.
        assert_eq!(ask(&old, Some("another"), &list), revoked);
        assert_eq!(ask(&old, None, &list), revoked);
        // By name alone it might be the issuer's, but its signature is not.
        assert_eq!(
            ask(&new, None, &list),
            Status::Unknown {
                why: "its signature is not its issuer's"
            }
        );
    }
    let list = fresh();
    let named = Ca::new("another name");
    assert_eq!(ask(&named, Some(&key_id(&named)), &list), Status::Valid);
    assert_eq!(
        ask(&named, Some(&key_id(&old)), &list),
        Status::Unknown {
            why: "it has another name than the issuer whose key id it has"
        }
    );
}

/// A list under the issuer's name may be the issuer's: unless shown to be another's, it admits no peer.
#[test]
fn a_list_that_nobody_known_signed_allows_nobody_of_its_name() {
    let (ca, gone) = (Ca::new("same"), Ca::new("same"));
    let key_id = ca.bundle("td").roots()[0].key_id().to_owned();
    let broken = |draft: CrlDraft| {
        let mut der = draft.der();
        let last = der.len() - 1;
        der[last] ^= 1;
        Crl::from_der(&der).unwrap()
    };
    let two = TrustBundle::new(domain("td"), [ca.cert.clone(), gone.cert.clone()]).unwrap();
    let one = ca.bundle("td");
    let ask = |roots: &TrustBundle, lists: &[Crl]| {
        let question = Question {
            ca: &ca,
            key_id: Some(&key_id),
            may_sign: true,
            roots: roots.anchors(),
        };
        question.ask(lists, &[1])
    };
    let unclaimed = Status::Unknown {
        why: "it has its issuer's name, but neither its issuer nor a root signed it",
    };
    // The issuer's own, with a key id computed in another way, and broken: not another's.
    let other_id = |draft: CrlDraft| {
        draft.with(|p| {
            p.key_identifier_method = rcgen::KeyIdMethod::PreSpecified(vec![7; 20]);
        })
    };
    let whole = other_id(ca.crl()).list();
    assert_eq!(whole.authority_key_id(), Some(&*"07".repeat(20)));
    assert_eq!(ask(&one, &[whole]), Status::Valid);
    let own = broken(other_id(ca.crl()));
    assert_eq!(ask(&one, std::slice::from_ref(&own)), unclaimed);
    assert_eq!(ask(&two, std::slice::from_ref(&own)), unclaimed);
    // A list of the key before: another's as long as that root vouches for it, whole.
    let before = gone.crl().list();
    assert_eq!(ask(&two, std::slice::from_ref(&before)), Status::Valid);
    assert_eq!(ask(&one, std::slice::from_ref(&before)), unclaimed);
    assert_eq!(ask(&two, &[broken(gone.crl())]), unclaimed);
    // With the issuer's own list beside it nothing is unknown, in any order.
    let word = ca.crl().list();
    for lists in [
        [word.clone(), before.clone()],
        [before, word],
        [own, ca.crl().list()],
    ] {
        assert_eq!(ask(&one, &lists), Status::Valid);
    }
}

#[test]
fn every_list_of_an_issuer_has_a_say() {
    let ca = Ca::new("ca");
    let cert = leaf("spiffe://td/a").signed_by(&ca);
    let (_, parsed) = x509_parser::parse_x509_certificate(&cert).unwrap();
    let question = Question {
        ca: &ca,
        key_id: None,
        may_sign: true,
        roots: &[],
    };
    let (clean, dirty) = (ca.crl().list(), ca.crl().revoking(&cert).list());
    let strange = Ca::new("strange").crl().list();
    let ask = |lists: &[&Crl]| {
        let lists: Vec<_> = lists.iter().map(|list| (*list).clone()).collect();
        question.ask(&lists, parsed.raw_serial())
    };
    assert_eq!(ask(&[]), Status::Valid);
    assert_eq!(ask(&[&strange, &clean]), Status::Valid);
    assert!(matches!(
        ask(&[&strange, &clean, &dirty]),
        Status::Revoked { .. }
    ));
}

/// A list that is put in again, from a copy or by a thief, takes nothing back that a later one revoked.
#[test]
fn a_list_of_a_lower_number_does_not_replace_a_later_one() {
    let (ca, other) = (Ca::new("root"), Ca::new("other"));
    let numbered = |ca: &Ca, n: u64| {
        let list = ca.crl().with(|p| p.crl_number = SerialNumber::from(n));
        list.list()
    };
    let td = domain("td");
    let mut set = CrlSet::new();
    set.insert(td.clone(), numbered(&ca, 300)).unwrap();
    set.insert(td.clone(), numbered(&other, 1)).unwrap();
    let refused = set.insert(td.clone(), numbered(&ca, 299)).unwrap_err();
    assert!(matches!(refused, CrlError::Older { .. }), "{refused}");
    set.insert(td.clone(), numbered(&ca, 300)).unwrap();
    set.replace(td.clone(), [numbered(&ca, 5)]).unwrap();
    let numbers = |set: &CrlSet| -> Vec<String> { set.get(&td).iter().map(Crl::number).collect() };
    assert_eq!(
        numbers(&set),
        ["012c"],
        "and the other issuer has none any more"
    );
    let mut state = crate::store::IdentityState::default();
    state.replace_crls(set);
    for (number, stays) in [(299, "012c"), (301, "012d"), (2, "012d")] {
        let mut next = CrlSet::new();
        next.insert(td.clone(), numbered(&ca, number)).unwrap();
        state.replace_crls(next);
        assert_eq!(numbers(state.crls()), [stays]);
    }
}
