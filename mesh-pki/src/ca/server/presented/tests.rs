use std::time::Duration;

use rcgen::{CustomExtension, DnType, ExtendedKeyUsagePurpose, SanType};

use super::*;
use crate::crl::{CrlSet, RevokedIds};
use crate::store::identity;
use crate::testing::{Ca, Draft, authority, crypto, domain, id, leaf, minutes, noon, san};

const CART: &str = "spiffe://td/ns/shop/sa/cart";

/// What a chain proves under a state, where this CA has revoked something and has a window open.
struct Case {
    state: IdentityState,
    revoked: Revocations,
    window: Option<Window>,
    now: SystemTime,
}

impl Case {
    fn of(ca: &Ca) -> Self {
        Self {
            state: ca.state("td"),
            revoked: Revocations::none(),
            window: None,
            now: noon(),
        }
    }

    fn verdict(&self, presented: &Presented) -> Verdict {
        presented.verdict(&Judge {
            state: &self.state,
            revoked: &self.revoked,
            window: self.window,
            now: self.now,
            crypto: &crypto(),
        })
    }

    /// `proven`, `absent`, or the name of the reason, with a `!` where no other proof counts.
    fn name(&self, chain: &[&CertificateDer<'static>]) -> String {
        let chain = chain.iter().map(|cert| (*cert).clone()).collect();
        match self.verdict(&Presented::new(chain)) {
            Verdict::Absent => "absent".to_owned(),
            Verdict::Denied(reason) => format!("!{}", reason.name),
            Verdict::Proven(_) => "proven".to_owned(),
            Verdict::Unproven(reason) => reason.name.to_owned(),
        }
    }
}

fn serial_of(cert: &CertificateDer<'_>) -> String {
    inspect::leaf(cert).unwrap().serial
}

fn listed(cert: &CertificateDer<'_>, ca: &Ca) -> CrlSet {
    let mut crls = CrlSet::new();
    let list = ca.crl().revoking(cert).list();
    crls.insert(domain("td"), list).unwrap();
    crls
}

#[test]
fn what_proves_nothing_leaves_other_proofs_standing() {
    let ca = Ca::new("root");
    let case = Case::of(&ca);
    let good = || leaf(CART);
    let names = |names: Vec<SanType>| good().with(|p| p.subject_alt_names = names);
    let web = || names(vec![SanType::DnsName("web".try_into().unwrap())]);
    let signed = |draft: Draft| draft.signed_by(&ca);
    let alien = Ca::new("alien");
    let usage = |p: &mut rcgen::CertificateParams| {
        p.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
    };
    let later = |p: &mut rcgen::CertificateParams| p.not_before = (noon() + minutes(5)).into();
    // It names a root of ours as its issuer.
    let silent =
        |p: &mut rcgen::CertificateParams| p.use_authority_key_identifier_extension = false;
    for (cert, name) in [
        (signed(good()), "proven"),
        (good().signed_by(&alien), "unknown-issuer"),
        (good().signed_by(&Ca::new("root")), "unknown-issuer"),
        (
            good().with(silent).signed_by(&Ca::new("root")),
            "bad-signature",
        ),
        (
            leaf("spiffe://other/x").signed_by(&alien),
            "unknown-trust-domain",
        ),
        (signed(good().with(later)), "not-yet-valid"),
        (signed(good().with(usage)), "wrong-usage"),
        (web().signed_by(&alien), "no-uri-san"),
        (
            names(vec![san(CART), san(CART)]).signed_by(&alien),
            "many-uri-sans",
        ),
        (authority("self").root().cert, "leaf-is-ca"),
    ] {
        assert_eq!(case.name(&[&cert]), name);
    }
    assert_eq!(case.name(&[]), "absent");

    let ended = signed(good());
    let mut late = Case::of(&ca);
    late.now = noon() + minutes(60);
    assert_eq!(late.name(&[&ended]), "expired");
    assert_eq!(late.name(&[&good().signed_by(&alien)]), "expired");
}

#[test]
fn a_leaf_that_ended_proves_in_an_open_window_alone() {
    let ca = Ca::new("root");
    let cert = leaf(CART).signed_by(&ca);
    let ends = noon() + minutes(30);
    let mut case = Case::of(&ca);
    for (opened, since, at, name) in [
        (50, 30, 60, "proven"),
        (50, 19, 60, "expired"),
        (50, 30, 110, "expired"),
    ] {
        let window = Window::new(noon() + minutes(opened), minutes(60), minutes(since));
        (case.window, case.now) = (Some(window), noon() + minutes(at));
        assert_eq!(case.name(&[&cert]), name, "{opened} {since} {at}");
    }
    let window = Window::new(noon() + minutes(50), minutes(60), minutes(30));
    (case.window, case.now) = (Some(window), noon() + minutes(60));
    let proven = case.verdict(&Presented::new(vec![cert.clone()]));
    let Verdict::Proven(Attested::Svid { not_after, .. }) = proven else {
        panic!("{proven:?}");
    };
    assert_eq!(not_after, ends);
    // What else is wrong stays wrong in it.
    let foreign = leaf(CART).signed_by(&Ca::new("alien"));
    assert_eq!(case.name(&[&foreign]), "unknown-issuer");
    case.state.replace_crls(listed(&cert, &ca));
    assert_eq!(case.name(&[&cert]), "!revoked");
    case.state.replace_crls(CrlSet::new());
    case.revoked.revoke_serial(serial_of(&cert));
    // That it is revoked is the decision's that follows, as for one that is alive.
    assert_eq!(case.name(&[&cert]), "proven");
}

#[test]
fn what_is_revoked_or_may_be_leaves_nothing_standing() {
    let ca = Ca::new("root");
    let (cert, other) = (leaf(CART).signed_by(&ca), leaf(CART).signed_by(&ca));
    let mut case = Case::of(&ca);
    case.state.replace_crls(listed(&cert, &ca));
    assert_eq!(case.name(&[&cert]), "!revoked");
    assert_eq!(case.name(&[&other]), "proven");
    let mut case = Case::of(&ca);
    let stale = ca
        .crl()
        .with(|p| p.next_update = (noon() + minutes(5)).into());
    let mut crls = CrlSet::new();
    crls.insert(domain("td"), stale.list()).unwrap();
    case.state.replace_crls(crls);
    case.now = noon() + minutes(10);
    assert_eq!(case.name(&[&other]), "!revocation-stale");

    let mut case = Case::of(&ca);
    let mut ids = RevokedIds::default();
    ids.insert(id(CART), noon());
    case.state.replace_revoked_ids(ids);
    assert_eq!(case.name(&[&cert]), "!revoked");

    // Those that have ended, or do not verify, are known to the CA itself.
    let mut case = Case::of(&ca);
    case.revoked.revoke_serial(serial_of(&cert));
    case.now = noon() + minutes(60);
    assert_eq!(case.name(&[&cert]), "!revoked");
    assert_eq!(case.name(&[&other]), "expired");
    case.revoked.revoke_id(id(CART), noon());
    assert_eq!(case.name(&[&other]), "!revoked");
    case.now = noon();
    case.state = Ca::new("next").state("td");
    assert_eq!(case.name(&[&other]), "!revoked");
}

#[test]
fn a_distrusted_key_leaves_nothing_standing() {
    let (old, new) = (Ca::new("old"), Ca::new("new"));
    let issuing = authority("issuing").under(&old);
    let key = |ca: &Ca| ca.bundle("td").roots()[0].key_id().to_owned();
    let direct = leaf(CART).signed_by(&old);
    let under = leaf(CART).signed_by(&issuing);
    let mut case = Case::of(&new);
    let retired = case.state.clone();
    let bundle = new.bundle("td").distrusting([key(&old)]);
    case.state = IdentityState::from_bundles(bundle.into());
    for minute in [0, 60] {
        case.now = noon() + minutes(minute);
        assert_eq!(case.name(&[&direct]), "!distrusted");
        assert_eq!(case.name(&[&under, &issuing.cert]), "!distrusted");
    }
    case.now = noon();
    assert_eq!(case.name(&[&leaf(CART).signed_by(&new)]), "proven");
    // A root that has only left the bundle is as one of another CA.
    case.state = retired;
    assert_eq!(case.name(&[&direct]), "unknown-issuer");
    case.state = IdentityState::from_bundles(TrustBundle::distrusted(domain("td")).into());
    assert_eq!(case.name(&[&direct]), "!distrusted");
}

/// A revocation does not hide behind what is too much to look at.
#[test]
fn what_was_not_looked_at_leaves_nothing_standing() {
    let ca = Ca::new("root");
    let case = Case::of(&ca);
    let good = leaf(CART).signed_by(&ca);
    let bulky = authority("bulky").with(|p| {
        p.distinguished_name
            .push(DnType::OrganizationName, "x".repeat(40_000))
    });
    let bulky = bulky.root().cert;
    assert_eq!(case.name(&[&good, &bulky, &bulky]), "!chain-too-large");
    let garbage = CertificateDer::from(vec![0x30, 0x03, 0x02, 0x01, 0x00]);
    assert_eq!(case.name(&[&garbage]), "!malformed");
}

/// The key id of an issuer is as long as its certificate lets it be.
#[test]
fn what_a_client_made_up_is_said_in_bounds() {
    let content = [
        &[0x30, 0x82, 0x80, 0x04, 0x80, 0x82, 0x80, 0x00][..],
        &[7; 0x8000],
    ]
    .concat();
    let long = CustomExtension::from_oid_content(&[2, 5, 29, 35], content);
    let draft = leaf(CART).with(|p| {
        p.use_authority_key_identifier_extension = false;
        p.custom_extensions.push(long);
    });
    let cert = draft.signed_by(&Ca::new("alien"));
    let verdict = Case::of(&Ca::new("root")).verdict(&Presented::new(vec![cert]));
    let Verdict::Unproven(reason) = verdict else {
        panic!("{verdict:?}");
    };
    assert_eq!(reason.name, "unknown-issuer");
    assert!(reason.said.contains("0707") && reason.said.len() <= MAX_SAID);
}

/// A connection outlives bundles, windows and seconds, and each call is judged by those of its moment.
#[test]
fn each_call_is_judged_anew() {
    let (old, new) = (Ca::new("old"), Ca::new("new"));
    let (writer, reader) = identity(new.state("td"));
    let cert = leaf(CART).signed_by(&old);
    let presented = Presented::new(vec![cert]);
    let mut case = Case::of(&new);
    let mut name = |writer: &dyn Fn(), now: Duration, window| {
        writer();
        case.state = IdentityState::clone(&reader.load());
        (case.now, case.window) = (noon() + now, window);
        match case.verdict(&presented) {
            Verdict::Proven(_) => "proven",
            Verdict::Denied(reason) | Verdict::Unproven(reason) => reason.name,
            Verdict::Absent => "absent",
        }
    };
    let still = || {};
    let zero = Duration::ZERO;
    for _ in 0..2 {
        assert_eq!(name(&still, zero, None), "unknown-issuer");
    }
    let both = || {
        writer.set_bundle(old.bundle("td"));
    };
    assert_eq!(name(&both, zero, None), "proven");
    assert_eq!(name(&still, minutes(60), None), "expired");
    let window = Window::new(noon() + minutes(60), minutes(60), minutes(60));
    assert_eq!(name(&still, minutes(60), Some(window)), "proven");
    assert_eq!(name(&still, minutes(60), None), "expired");

    let later = leaf(CART).with(|p| p.not_before = (noon() + minutes(5)).into());
    let presented = Presented::new(vec![later.signed_by(&old)]);
    let mut case = Case::of(&old);
    for (minute, proven) in [(0, false), (0, false), (5, true), (4, false)] {
        case.now = noon() + minutes(minute);
        let verdict = case.verdict(&presented);
        assert_eq!(matches!(verdict, Verdict::Proven(_)), proven, "{minute}");
    }
}
