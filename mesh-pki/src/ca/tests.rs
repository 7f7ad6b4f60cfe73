use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use x509_parser::extensions::GeneralName;

use super::plan::Wait;
use super::state::{KeyPlace, Stage, Step, StepError, TokenError};
use super::store::memory::{Fault, MemoryDisk};
use super::store::{FileStore, Store, StoreError};
use super::*;
use crate::bundle::TrustBundle;
use crate::clock::{Clock, ManualClock};
use crate::issue::policy::{Attested, Grant, Revocations, Rules, Window, may_issue};
use crate::issue::{Csr, IssueError, csr};
use crate::store::IdentityState;
use crate::svid::{Usage, validate};
use crate::testing::{crypto, domain, id, noon};

const CART: &str = "spiffe://td/ns/shop/sa/cart";
const OWN: &str = "spiffe://td/inmesh/ca";

/// The first generation of a CA that is made at noon.
const FIRST: u64 = 1_800_000_000;

fn secs(n: u64) -> Duration {
    Duration::from_secs(n)
}

/// Leaves of 40 s under roots of 1,000 s.
fn lifetimes() -> Lifetimes {
    Lifetimes {
        root: secs(1000),
        issuer: secs(900),
        leaf: secs(40),
    }
}

async fn opened(store: FileStore, clock: &ManualClock) -> Result<Ca<FileStore>, OpenError> {
    let clock = clock.shared();
    Ca::open(store, &domain("td"), None, lifetimes(), &crypto(), clock).await
}

async fn ca() -> (Ca<FileStore>, MemoryDisk, ManualClock) {
    let (disk, clock) = (MemoryDisk::default(), ManualClock::new(noon()));
    let ca = opened(disk.store(), &clock).await.unwrap();
    (ca, disk, clock)
}

fn grant(of: &str) -> Grant {
    let rules = Rules::new(domain("td"), id(OWN));
    may_issue(
        &Attested::JoinToken { id: id(of) },
        None,
        &rules,
        None,
        &Revocations::none(),
        noon(),
    )
    .unwrap()
}

fn request() -> Csr {
    csr::generate(&id(CART), &crypto()).unwrap().1
}

fn ours(instance: &str, acknowledged: u64) -> Asker {
    Asker {
        instance: Some(instance.to_owned()),
        acknowledged,
        ..Asker::default()
    }
}

/// A lifetime that is asked for counts where it is shorter than the CA's.
#[tokio::test]
async fn a_leaf_lives_no_longer_than_was_asked_for() {
    let (ca, _, _) = ca().await;
    for (asked, lives) in [(None, 40), (Some(10), 10), (Some(86_400), 40), (Some(1), 1)] {
        let asker = Asker {
            lifetime: asked.map(secs),
            ..Asker::default()
        };
        let issued = ca.issue(&grant(CART), &request(), &asker).await.unwrap();
        assert_eq!(issued.not_after, noon() + secs(lives), "{asked:?}");
    }
}

fn verifies(issued: &Issued, bundle: &TrustBundle, now: SystemTime) -> bool {
    let trusted = IdentityState::from_bundles(bundle.clone().into());
    validate(&issued.chain, &trusted, now, Usage::Server, &crypto()).is_ok()
}

fn key_ids(bundle: &TrustBundle) -> Vec<String> {
    bundle
        .roots()
        .iter()
        .map(|r| r.key_id().to_owned())
        .collect()
}

// === issuing ===

#[tokio::test]
async fn a_leaf_has_the_granted_id_and_a_chain_to_the_bundle() {
    let (ca, _, clock) = ca().await;
    // The request asks for another ID, in vain.
    let (_, csr) = csr::generate(&id("spiffe://td/admin"), &crypto()).unwrap();
    let issued = ca
        .issue(&grant(CART), &csr, &Asker::default())
        .await
        .unwrap();
    assert_eq!(issued.chain.len(), 2, "leaf and issuing CA");
    assert_eq!(issued.not_after, noon() + secs(40));
    assert_eq!(issued.published.generation, FIRST);
    let trusted = IdentityState::from_bundles(issued.published.bundle.clone().into());
    for usage in [Usage::Client, Usage::Server] {
        let verified = validate(&issued.chain, &trusted, clock.now(), usage, &crypto()).unwrap();
        assert_eq!(verified.id, id(CART));
        assert_eq!(verified.root_key_id, issued.published.active);
    }
    assert_eq!(issued.root, *issued.published.bundle.roots()[0].der());
    assert_eq!(ca.status().await.members, 1);
    // Its own leaf makes it no member.
    ca.issue_own(&id(OWN), &[], &request()).await.unwrap();
    assert_eq!(ca.status().await.members, 1);
}

/// The host names of a grant are beside its ID, and a peer of the mesh still goes by the ID alone.
#[tokio::test]
async fn a_leaf_has_the_host_names_that_were_granted() {
    let (ca, _, clock) = ca().await;
    let rules = Rules::new(domain("td"), id(OWN));
    let rules = rules.with_host_name(id(CART), "cart.shop.svc").unwrap();
    let proof = Attested::JoinToken { id: id(CART) };
    let none = Revocations::none();
    let grant = may_issue(&proof, None, &rules, None, &none, noon()).unwrap();
    let issued = ca.issue(&grant, &request(), &Asker::default()).await;
    let issued = issued.unwrap();
    let (_, leaf) = x509_parser::parse_x509_certificate(&issued.chain[0]).unwrap();
    let names = leaf.subject_alternative_name().unwrap().unwrap();
    assert_eq!(
        names.value.general_names,
        [
            GeneralName::URI(CART),
            GeneralName::DNSName("cart.shop.svc")
        ]
    );
    assert!(verifies(&issued, &issued.published.bundle, clock.now()));
}

/// What a request may say of names and extensions changes nothing in the leaf (C9).
#[tokio::test]
async fn c9_nothing_is_taken_from_a_request_but_its_key() {
    use rcgen::{BasicConstraints, CertificateParams, IsCa, KeyPair, KeyUsagePurpose};
    let (ca, _, clock) = ca().await;
    let sans = |uris: &[&str]| {
        uris.iter()
            .map(|uri| crate::testing::san(uri))
            .collect::<Vec<_>>()
    };
    let wishes: [fn(&mut CertificateParams); 3] = [
        |p| {
            p.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
            p.key_usages = vec![KeyUsagePurpose::KeyCertSign];
        },
        |p| {
            p.subject_alt_names
                .push(crate::testing::san("spiffe://td/two"))
        },
        |p| p.subject_alt_names = vec![rcgen::SanType::DnsName("a.b".try_into().unwrap())],
    ];
    for wish in wishes {
        let mut params = CertificateParams::default();
        params.subject_alt_names = sans(&["spiffe://td/ns/kube-system/sa/admin"]);
        wish(&mut params);
        let key = KeyPair::generate().unwrap();
        let wished = params.serialize_request(&key).unwrap();
        let csr = Csr::from_der(wished.der(), &crypto()).unwrap();
        let issued = ca
            .issue(&grant(CART), &csr, &Asker::default())
            .await
            .unwrap();
        let state = IdentityState::from_bundles(issued.published.bundle.clone().into());
        let verified =
            validate(&issued.chain, &state, clock.now(), Usage::Client, &crypto()).unwrap();
        assert_eq!(verified.id, id(CART));
        let mut forged = wished.der().to_vec();
        *forged.last_mut().unwrap() ^= 1;
        assert!(Csr::from_der(&forged, &crypto()).is_err());
    }
}

#[tokio::test]
async fn a_ca_that_is_over_issues_nothing() {
    let (ca, _, clock) = ca().await;
    clock.advance(secs(890));
    let last = ca.issue(&grant(CART), &request(), &Asker::default()).await;
    assert_eq!(last.unwrap().not_after, noon() + secs(900), "ends with it");
    clock.advance(secs(10));
    let expired = ca.issue(&grant(CART), &request(), &Asker::default()).await;
    let error = expired.unwrap_err();
    assert!(
        matches!(error, CaError::Issue(IssueError::CaNotValid { .. })),
        "{error}"
    );
}

// === opening ===

#[tokio::test]
async fn a_ca_comes_back_as_it_was() {
    let dir = tempfile::tempdir().unwrap();
    let dir = dir.path().join("ca");
    let clock = ManualClock::new(noon());
    let first = opened(FileStore::open(&dir).unwrap(), &clock)
        .await
        .unwrap();
    let issued = first
        .issue(&grant(CART), &request(), &Asker::default())
        .await
        .unwrap();
    let before = first.published().borrow().clone();
    drop(first);
    // A key that a crash left behind is nothing that a start removes.
    let store = FileStore::open(&dir).unwrap();
    let orphan = crate::issue::make::CaKey::generate().unwrap().secret();
    store.keep_key("0f", &orphan).await.unwrap();
    let again = opened(store, &clock).await.unwrap();
    assert_eq!(**again.published().borrow(), *before);
    assert!(dir.join("keys/0f.pem").exists());
    again.tick().await.unwrap();
    assert!(dir.join("keys/0f.pem").exists());
    assert_eq!(std::fs::read_dir(dir.join("keys")).unwrap().count(), 3);
    assert!(verifies(
        &issued,
        &again.published().borrow().bundle,
        noon()
    ));
    let status = again.status().await;
    assert_eq!(status.members, 0);
    assert!(status.unknown_until.unwrap() >= issued.not_after);
    drop(again);

    let open = async |td: &str, first| {
        let (store, crypto) = (FileStore::open(&dir).unwrap(), crypto());
        Ca::open(
            store,
            &domain(td),
            first,
            lifetimes(),
            &crypto,
            clock.shared(),
        )
        .await
    };
    let error = open("other", None).await.unwrap_err();
    assert!(
        matches!(error, OpenError::WrongTrustDomain { .. }),
        "{error}"
    );
    let new = NewAuthority::create(&domain("td"), lifetimes(), noon(), &crypto()).unwrap();
    let error = open("td", Some(new)).await.unwrap_err();
    assert!(matches!(error, OpenError::Exists), "{error}");
    // Without its key, or with another one, there is no CA.
    let key_id = before_issuer(&dir);
    let path = dir.join(format!("keys/{key_id}.pem"));
    std::fs::write(&path, &*orphan.to_secret_pem()).unwrap();
    let error = open("td", None).await.unwrap_err();
    assert!(
        matches!(error, OpenError::Authority(AuthorityError::Key { .. })),
        "{error}"
    );
    std::fs::remove_file(&path).unwrap();
    let error = open("td", None).await.unwrap_err();
    assert!(matches!(error, OpenError::Store(_)), "{error}");
}

/// A folder whose state is lost holds the keys of a root that members trust: nothing begins there.
#[tokio::test]
async fn keys_without_a_state_are_no_new_ca() {
    let dir = tempfile::tempdir().unwrap();
    let dir = dir.path().join("ca");
    let clock = ManualClock::new(noon());
    let open = async || opened(FileStore::open(&dir).unwrap(), &clock).await;
    let bundle = open().await.unwrap().published().borrow().bundle.clone();
    let state = std::fs::read(dir.join("state.json")).unwrap();
    let keys = || {
        let names = std::fs::read_dir(dir.join("keys")).unwrap();
        let mut names: Vec<_> = names.map(|name| name.unwrap().file_name()).collect();
        names.sort();
        names
    };
    let before = keys();
    std::fs::remove_file(dir.join("state.json")).unwrap();
    let error = open().await.unwrap_err();
    assert!(matches!(&error, OpenError::KeysWithoutState { key_ids } if key_ids.len() == 2));
    assert!(!dir.join("state.json").exists());
    std::fs::write(dir.join("state.json"), "torn").unwrap();
    assert!(matches!(open().await.unwrap_err(), OpenError::Store(_)));
    assert_eq!(keys(), before);
    std::fs::write(dir.join("state.json"), state).unwrap();
    assert_eq!(open().await.unwrap().published().borrow().bundle, bundle);
}

/// A loss of power at any point of the first start leaves a folder in which the next one makes a CA, and
/// no key is removed meanwhile.
#[tokio::test]
async fn a_first_start_that_is_cut_is_made_anew() {
    let mut points = 0;
    let mut unfinished = 0;
    for at in 0.. {
        for (lost, done) in [(false, false), (true, false), (false, true), (true, true)] {
            let (disk, clock) = (MemoryDisk::default(), ManualClock::new(noon()));
            let dead = true;
            disk.fail(Fault { at, done, dead });
            let first = opened(disk.store(), &clock).await;
            points = points.max(disk.operations());
            disk.restart(lost);
            let keys = |disk: &MemoryDisk| {
                let names = disk.names().into_iter();
                names.filter(|n| n.ends_with(".pem")).collect::<Vec<_>>()
            };
            let before = keys(&disk);
            unfinished += usize::from(!before.is_empty() && first.is_err());
            let ca = opened(disk.store(), &clock).await.unwrap_or_else(|error| {
                panic!("{at} {lost} {done}: {error}, with {:?}", disk.names())
            });
            let bundle = ca.published().borrow().bundle.clone();
            if let Ok(first) = first {
                assert_eq!(first.published().borrow().bundle, bundle);
            }
            let after = keys(&disk);
            assert!(before.iter().all(|key| after.contains(key)), "{at}");
            assert!(!disk.names().contains(&"/ca/creating".to_owned()), "{at}");
            // It is the same one from now on.
            disk.restart(true);
            let again = opened(disk.store(), &clock).await.unwrap();
            assert_eq!(again.published().borrow().bundle, bundle);
        }
        if at > points {
            break;
        }
    }
    assert!(points >= 15 && unfinished > 10, "{points} operations");
}

/// What was noted at the first start says nothing of keys that came later.
#[tokio::test]
async fn a_note_of_the_first_keys_covers_no_others() {
    let (disk, clock) = (MemoryDisk::default(), ManualClock::new(noon()));
    let store = disk.store();
    store.begin(vec!["01".into(), "02".into()]).await.unwrap();
    let made = NewAuthority::create(&domain("td"), lifetimes(), noon(), &crypto()).unwrap();
    store.keep_key("01", &made.issuer_key).await.unwrap();
    store.keep_key("03", &made.issuer_key).await.unwrap();
    let error = opened(disk.store(), &clock).await.unwrap_err();
    assert!(
        matches!(error, OpenError::KeysWithoutState { .. }),
        "{error}"
    );
}

fn before_issuer(dir: &std::path::Path) -> String {
    let text = std::fs::read(dir.join("state.json")).unwrap();
    let at = text.iter().position(|byte| *byte == b'\n').unwrap();
    let state = state::CaState::from_bytes(&text[at + 1..]).unwrap();
    state.active().issuer_key_id().to_owned()
}

#[tokio::test]
async fn what_an_operator_brings_is_tried_out_first() {
    let made = NewAuthority::create(&domain("td"), lifetimes(), noon(), &crypto()).unwrap();
    let other = NewAuthority::create(&domain("td"), lifetimes(), noon(), &crypto()).unwrap();
    let pem = |certs: &[&rustls_pki_types::CertificateDer<'static>],
               key: &crate::svid::PrivateKey| {
        let mut text = crate::pem::encode_certificates(certs.iter().copied());
        text.push_str(&key.to_secret_pem());
        text
    };
    let bring = |td: &str, text: &str, now| {
        NewAuthority::from_pem(&domain(td), text.as_bytes(), lifetimes(), now, &crypto())
    };
    let (root, issuer) = (made.authority.root(), made.authority.issuer());
    let root_key = made.root_key.as_ref().unwrap();

    let held = bring("td", &pem(&[root], root_key), noon()).unwrap();
    assert_eq!(held.authority.root_key(), KeyPlace::Held);
    assert_eq!(held.key_id(), made.key_id());
    for certs in [[root, issuer], [issuer, root]] {
        let away = bring("td", &pem(&certs, &made.issuer_key), noon()).unwrap();
        assert_eq!(away.authority.root_key(), KeyPlace::Offline);
        assert_eq!(away.authority.issuer(), issuer);
        assert!(away.root_key.is_none());
    }
    assert!(!format!("{held:?}").contains("PRIVATE"));

    let error = |td: &str, text: String, now| bring(td, &text, now).unwrap_err();
    assert!(matches!(
        error("td", pem(&[root, issuer], &other.issuer_key), noon()),
        AuthorityError::Key { .. }
    ));
    assert!(matches!(
        error("td", pem(&[root], &made.issuer_key), noon()),
        AuthorityError::Key { .. }
    ));
    assert!(matches!(
        error(
            "td",
            pem(&[other.authority.root(), issuer], &made.issuer_key),
            noon()
        ),
        AuthorityError::NotValid(_)
    ));
    assert!(matches!(
        error("other", pem(&[root], root_key), noon()),
        AuthorityError::WrongTrustDomain { .. }
    ));
    assert!(matches!(
        error("td", pem(&[root, issuer, root], root_key), noon()),
        AuthorityError::Parts { got: 3 }
    ));
    assert!(matches!(
        error("td", String::new(), noon()),
        AuthorityError::Pem(_)
    ));
    error(
        "td",
        pem(&[root, issuer], &made.issuer_key),
        noon() + secs(2000),
    );
}

// === rotation ===

#[tokio::test]
async fn a_rotation_waits_for_its_members_and_goes_on_by_itself() {
    let (ca, disk, clock) = ca().await;
    let first = ca.published().borrow().active.clone();
    ca.issue(&grant(CART), &request(), &ours("a", FIRST))
        .await
        .unwrap();
    assert_eq!(ca.tick().await.unwrap(), Tick::Nothing);
    let second = ca.prepare(None).await.unwrap();
    assert_eq!(ca.published().borrow().generation, FIRST + 1);
    let again = ca.prepare(None).await.unwrap_err();
    assert!(matches!(
        again,
        CaError::Step(StepError::Running {
            next: Step::Activate
        })
    ));
    let retire = ca.advance(Some(Step::Retire), false).await.unwrap_err();
    assert!(matches!(
        retire,
        CaError::Step(StepError::NotItsTurn { .. })
    ));
    let early = ca.advance(Some(Step::Activate), false).await.unwrap_err();
    let CaError::NotYet(Wait { missing, .. }) = early else {
        panic!("{early}");
    };
    assert_eq!((missing.len(), missing[0].name.as_str()), (1, "a"));
    assert_eq!(ca.published().borrow().active, first);
    assert!(matches!(ca.tick().await.unwrap(), Tick::Waits(_)));

    // More than there is cannot be acknowledged.
    ca.acknowledge(&id(CART), "a", FIRST + 99).await;
    assert_eq!(ca.tick().await.unwrap(), Tick::Stepped(Step::Activate));
    assert_eq!(ca.published().borrow().active, second);
    let issued = ca
        .issue(&grant(CART), &request(), &ours("a", FIRST + 1))
        .await
        .unwrap();
    assert_eq!(
        issued.root,
        *ca.published().borrow().bundle.roots()[1].der()
    );
    assert!(matches!(ca.tick().await.unwrap(), Tick::Waits(_)));
    let status = ca.status().await;
    assert_eq!(status.next, Some(Step::Retire));
    assert_eq!(status.wait.unwrap().missing.len(), 1);
    assert_eq!(
        disk.names().len(),
        5,
        "state, and the keys of two authorities"
    );

    clock.advance(secs(50));
    assert_eq!(ca.tick().await.unwrap(), Tick::Stepped(Step::Retire));
    assert_eq!(key_ids(&ca.published().borrow().bundle), [second]);
    assert_eq!(disk.names().len(), 3, "its keys are forgotten");
    assert_eq!(ca.tick().await.unwrap(), Tick::Nothing);
    let done = ca.advance(None, true).await.unwrap_err();
    assert!(matches!(
        done,
        CaError::Step(StepError::NotItsTurn { next: None, .. })
    ));
}

/// A process that ends in order leaves its members to the next one; one that dies does not, nor does
/// one that issues after it has left.
#[tokio::test]
async fn after_a_restart_a_rotation_waits_for_whom_it_waited_before() {
    #[derive(Debug, Clone, Copy, PartialEq)]
    enum End {
        Dies,
        Issues,
        Leaves,
    }
    for end in [End::Leaves, End::Dies, End::Issues] {
        let (ca, disk, clock) = ca().await;
        for name in ["a", "b"] {
            let leaf = ca.issue(&grant(CART), &request(), &ours(name, 0)).await;
            leaf.unwrap();
        }
        ca.prepare(None).await.unwrap();
        let generation = ca.published().borrow().generation;
        ca.acknowledge(&id(CART), "a", generation).await;
        if end != End::Dies {
            ca.leave().await.unwrap();
        }
        if end == End::Issues {
            let late = ca.issue(&grant(CART), &request(), &ours("c", 0)).await;
            late.unwrap();
        }
        drop(ca);

        let ca = opened(disk.store(), &clock).await.unwrap();
        let Tick::Waits(wait) = ca.tick().await.unwrap() else {
            panic!("{end:?}: b is missing");
        };
        let missing: Vec<_> = wait.missing.iter().map(|m| m.name.as_str()).collect();
        ca.acknowledge(&id(CART), "b", generation).await;
        let next = ca.tick().await.unwrap();
        if end == End::Leaves {
            assert_eq!((missing, wait.unknown), (vec!["b"], false));
            assert_eq!(next, Tick::Stepped(Step::Activate));
            continue;
        }
        assert_eq!((missing, wait.unknown), (vec![], true), "{end:?}");
        assert!(matches!(next, Tick::Waits(_)), "{end:?}: {next:?}");
        // A leaf's life, and the eighth of it that the mark is ahead.
        clock.advance(secs(40 + 5 + 2));
        assert_eq!(ca.tick().await.unwrap(), Tick::Stepped(Step::Activate));
    }
}

#[tokio::test]
async fn force_shortens_every_wait() {
    let (ca, ..) = ca().await;
    ca.issue(&grant(CART), &request(), &ours("a", FIRST))
        .await
        .unwrap();
    ca.prepare(None).await.unwrap();
    assert_eq!(ca.advance(None, true).await.unwrap(), Step::Activate);
    assert_eq!(
        ca.advance(Some(Step::Retire), true).await.unwrap(),
        Step::Retire
    );
    assert_eq!(ca.status().await.authorities.len(), 1);
}

#[tokio::test]
async fn issuing_ca_and_root_are_replaced_at_half_of_their_lives() {
    let (ca, disk, clock) = ca().await;
    let before = ca.status().await.authorities.remove(0);
    clock.advance(secs(400));
    assert_eq!(ca.tick().await.unwrap(), Tick::RenewedIssuer);
    let after = ca.status().await.authorities.remove(1);
    assert_eq!(after.key_id, before.key_id);
    assert_ne!(after.issuer_key_id, before.issuer_key_id);
    let issued = ca
        .issue(&grant(CART), &request(), &Asker::default())
        .await
        .unwrap();
    assert!(verifies(
        &issued,
        &ca.published().borrow().bundle,
        clock.now()
    ));
    assert_eq!(ca.tick().await.unwrap(), Tick::Stepped(Step::Retire));
    assert_eq!(disk.names().len(), 3, "the old issuing key is forgotten");
    assert_eq!(ca.published().borrow().generation, FIRST);

    clock.advance(secs(60));
    assert_eq!(ca.tick().await.unwrap(), Tick::Stepped(Step::Prepare));
    clock.advance(secs(60));
    assert_eq!(ca.tick().await.unwrap(), Tick::Stepped(Step::Activate));
    assert_eq!(ca.tick().await.unwrap(), Tick::Stepped(Step::Retire));
    assert_ne!(
        ca.status().await.authorities.remove(0).key_id,
        before.key_id
    );
}

#[tokio::test]
async fn an_offline_root_asks_for_its_successor() {
    let (disk, clock) = (MemoryDisk::default(), ManualClock::new(noon()));
    let offline = || {
        let made = NewAuthority::create(&domain("td"), lifetimes(), noon(), &crypto()).unwrap();
        let (root, issuer) = (made.authority.root(), made.authority.issuer());
        let mut text = crate::pem::encode_certificates([root, issuer]);
        text.push_str(&made.issuer_key.to_secret_pem());
        NewAuthority::from_pem(
            &domain("td"),
            text.as_bytes(),
            lifetimes(),
            noon(),
            &crypto(),
        )
        .unwrap()
    };
    let first = Some(offline());
    let (td, crypto) = (domain("td"), crypto());
    let ca = Ca::open(
        disk.store(),
        &td,
        first,
        lifetimes(),
        &crypto,
        clock.shared(),
    );
    let ca = ca.await.unwrap();
    assert_eq!(disk.names().len(), 2, "state and the key of the issuing CA");
    clock.advance(secs(600));
    assert_eq!(ca.tick().await.unwrap(), Tick::WantSuccessor);
    let refused = ca.prepare(None).await.unwrap_err();
    assert!(matches!(refused, CaError::Step(StepError::Offline { .. })));
    let key_id = ca.published().borrow().active.clone();
    let refused = ca.distrust(&key_id, None).await.unwrap_err();
    assert!(matches!(refused, CaError::Step(StepError::Offline { .. })));
    let new = ca.prepare(Some(offline())).await.unwrap();
    assert_eq!(ca.tick().await.unwrap(), Tick::Stepped(Step::Activate));
    assert_eq!(ca.published().borrow().active, new);
}

#[tokio::test]
async fn a_compromised_root_is_out_in_one_step() {
    let (ca, disk, clock) = ca().await;
    let issued = ca
        .issue(&grant(CART), &request(), &Asker::default())
        .await
        .unwrap();
    let old = ca.published().borrow().active.clone();
    let mut published = ca.published();
    ca.distrust(&old, None).await.unwrap();
    assert!(published.has_changed().unwrap());
    let now = published.borrow_and_update().clone();
    assert_eq!(now.generation, FIRST + 1);
    assert_eq!(key_ids(&now.bundle), std::slice::from_ref(&now.active));
    assert!(!verifies(&issued, &now.bundle, clock.now()));
    let again = ca
        .issue(&grant(CART), &request(), &Asker::default())
        .await
        .unwrap();
    assert!(verifies(&again, &now.bundle, clock.now()));
    assert_eq!(disk.names().len(), 3, "its keys are forgotten");
    let unknown = ca.distrust(&old, None).await.unwrap_err();
    assert!(matches!(
        unknown,
        CaError::Step(StepError::UnknownKey { .. })
    ));
}

// === revocation ===

#[tokio::test]
async fn a_revoked_leaf_is_in_the_list_of_every_issuing_ca() {
    let (ca, disk, clock) = ca().await;
    let issued = ca
        .issue(&grant(CART), &request(), &Asker::default())
        .await
        .unwrap();
    let other = ca
        .issue(&grant(CART), &request(), &Asker::default())
        .await
        .unwrap();
    assert!(
        ca.published().borrow().crls.is_empty(),
        "no member depends on lists yet"
    );
    ca.prepare(None).await.unwrap();
    let serial = crate::svid::read_unverified(&issued.chain[0])
        .unwrap()
        .serial;
    let mut published = ca.published();
    published.mark_unchanged();
    ca.revoke(&serial).await.unwrap();
    assert!(published.has_changed().unwrap());
    let published = published.borrow_and_update().clone();
    assert_eq!(
        published.crls.len(),
        2,
        "the new issuing CA's list is there with its root"
    );

    let mut state = IdentityState::from_bundles(published.bundle.clone().into());
    let mut crls = crate::crl::CrlSet::new();
    crls.replace(domain("td"), published.crls.clone()).unwrap();
    state.replace_crls(crls);
    let check = |issued: &Issued, now| {
        validate(&issued.chain, &state, now, Usage::Client, &crypto()).map(drop)
    };
    let revoked = check(&issued, noon()).unwrap_err();
    assert!(
        matches!(revoked, crate::svid::Rejected::Revoked { .. }),
        "{revoked}"
    );
    check(&other, noon()).unwrap();

    // After a restart they are there at once; they are signed again in time, and gone with the leaf.
    let again = opened(disk.store(), &clock).await.unwrap();
    assert_eq!(again.published().borrow().crls.len(), 2);
    let first = published.crls[0].next_update();
    clock.advance(secs(30));
    ca.tick().await.unwrap();
    assert_eq!(ca.published().borrow().crls[0].next_update(), first);
    clock.advance(secs(20));
    ca.tick().await.unwrap();
    assert!(ca.published().borrow().crls.is_empty());
    let refused = ca.revoke("x").await.unwrap_err();
    assert!(matches!(refused, CaError::Revoke(_)), "{refused}");
}

#[tokio::test]
async fn lists_are_signed_again_before_they_are_stale() {
    let (disk, clock) = (MemoryDisk::default(), ManualClock::new(noon()));
    let long = Lifetimes {
        root: secs(1_000_000),
        issuer: secs(900_000),
        leaf: secs(10_000),
    };
    let ca = Ca::open(
        disk.store(),
        &domain("td"),
        None,
        long,
        &crypto(),
        clock.shared(),
    )
    .await
    .unwrap();
    ca.issue(&grant(CART), &request(), &Asker::default())
        .await
        .unwrap();
    ca.revoke("0a").await.unwrap();
    let next = |ca: &Ca<FileStore>| ca.published().borrow().crls[0].next_update();
    assert_eq!(next(&ca), noon() + secs(20_000));
    clock.advance(secs(9_999));
    ca.tick().await.unwrap();
    assert_eq!(next(&ca), noon() + secs(20_000));
    clock.advance(secs(1));
    ca.tick().await.unwrap();
    assert_eq!(next(&ca), noon() + secs(30_000));
}

// === tokens ===

#[tokio::test]
async fn c9_of_a_hundred_tries_with_one_token_one_succeeds() {
    let (ca, disk, clock) = ca().await;
    let ca = Arc::new(ca);
    let token = ca.open_token(&id(CART), noon() + secs(60)).await.unwrap();
    assert_eq!(ca.look_at_token(&token).await.unwrap(), id(CART));
    // A second process on the same store: only compare-and-swap stands between the two.
    let other = Arc::new(opened(disk.store(), &clock).await.unwrap());
    let mut tries = tokio::task::JoinSet::new();
    for n in 0..100 {
        let (ca, token) = (if n % 2 == 0 { &ca } else { &other }, token.clone());
        let ca = Arc::clone(ca);
        tries.spawn(async move { ca.spend_token(&token).await });
    }
    let mut spent = 0;
    while let Some(outcome) = tries.join_next().await {
        match outcome.unwrap() {
            Ok(owner) => {
                assert_eq!(owner, id(CART));
                spent += 1;
            }
            Err(CaError::Token(TokenError::Used)) => {}
            Err(error) => panic!("{error}"),
        }
    }
    assert_eq!(spent, 1);
    // After a restart it is as spent as before.
    let again = opened(disk.store(), &clock).await.unwrap();
    let error = again.spend_token(&token).await.unwrap_err();
    assert!(matches!(error, CaError::Token(TokenError::Used)), "{error}");
    let error = again.spend_token("inmesh-join-00").await.unwrap_err();
    assert!(
        matches!(error, CaError::Token(TokenError::Unknown)),
        "{error}"
    );
}

#[tokio::test]
async fn a_token_is_nowhere_but_with_its_bearer() {
    let (ca, disk, clock) = ca().await;
    let token = ca.open_token(&id(CART), noon() + secs(60)).await.unwrap();
    assert!(Ca::<FileStore>::is_token(&token) && !Ca::<FileStore>::is_token("eyJ"));
    let (state, _) = disk.store().load().await.unwrap().unwrap();
    let secret = token.rsplit('-').next().unwrap();
    assert!(!String::from_utf8(state).unwrap().contains(secret));
    assert!(!format!("{ca:?}").contains(secret));
    clock.advance(secs(60));
    let error = ca.look_at_token(&token).await.unwrap_err();
    assert!(
        matches!(error, CaError::Token(TokenError::Expired)),
        "{error}"
    );
    for wrong in ["spiffe://other/a", "spiffe://td"] {
        let refused = ca.open_token(&id(wrong), noon()).await.unwrap_err();
        assert!(matches!(refused, CaError::Issue(_)), "{refused}");
    }
}

#[tokio::test]
async fn the_recovery_window_closes_by_itself() {
    let (ca, disk, clock) = ca().await;
    let window = Window {
        until: noon() + secs(60),
        expired_since: noon() - secs(60),
    };
    assert_eq!(*ca.window().borrow(), None);
    ca.recover(Some(window)).await.unwrap();
    let again = opened(disk.store(), &clock).await.unwrap();
    assert_eq!(*again.window().borrow(), Some(window));
    assert_eq!(again.status().await.recovery, Some(window));
    clock.advance(secs(60));
    assert!(again.status().await.recovery.is_none());
}

// === two writers ===

#[tokio::test]
async fn a_second_writer_is_noticed_before_anything_is_signed_past_it() {
    let (one, disk, clock) = ca().await;
    let two = opened(disk.store(), &clock).await.unwrap();
    two.prepare(None).await.unwrap();
    two.advance(None, true).await.unwrap();
    // Its first leaf has to be written down, and there it meets the other's state.
    let issued = one
        .issue(&grant(CART), &request(), &Asker::default())
        .await
        .unwrap();
    assert_eq!(issued.published.active, two.published().borrow().active);
    assert_eq!(issued.published.generation, FIRST + 1);
    assert!(
        one.status().await.unknown_until.is_none(),
        "the other issued nothing"
    );
}

// === several processes ===

/// Two processes with one store, of which the first made the CA.
async fn both() -> (Ca<FileStore>, Ca<FileStore>, MemoryDisk, ManualClock) {
    let (disk, clock) = (MemoryDisk::default(), ManualClock::new(noon()));
    let one = opened(disk.shared_store(), &clock).await.unwrap();
    let two = opened(disk.shared_store(), &clock).await.unwrap();
    (one, two, disk, clock)
}

/// What one writes the other takes over without writing, and publishes it.
#[tokio::test]
async fn what_another_process_has_written_is_taken_over() {
    let (one, two, disk, clock) = both().await;
    let leaf = two.issue(&grant(CART), &request(), &ours("b", 0)).await;
    let leaf = leaf.unwrap();
    one.tick().await.unwrap();
    let (mut published, mut revoked) = (two.published(), two.revocations());
    published.borrow_and_update();
    revoked.borrow_and_update();

    one.prepare(None).await.unwrap();
    one.revoke(&leaf.serial).await.unwrap();
    one.revoke_id(&id(CART)).await.unwrap();
    let window = Window::new(noon(), secs(60), secs(10));
    one.recover(Some(window)).await.unwrap();
    assert!(!published.has_changed().unwrap());
    two.tick().await.unwrap();
    assert!(published.has_changed().unwrap() && revoked.has_changed().unwrap());
    let (theirs, ours) = (one.published(), published.borrow().clone());
    assert_eq!(ours.generation, FIRST + 1);
    assert_eq!(key_ids(&ours.bundle), key_ids(&theirs.borrow().bundle));
    assert_eq!(ours.crls[0].len(), 1);
    assert_eq!(ours.revoked_ids, theirs.borrow().revoked_ids);
    assert_eq!(**revoked.borrow(), **one.revocations().borrow());
    assert_eq!(*two.window().borrow(), Some(window));

    let gone = one.published().borrow().active.clone();
    one.distrust(&gone, None).await.unwrap();
    two.tick().await.unwrap();
    assert!(!key_ids(&two.published().borrow().bundle).contains(&gone));
    // The keys that the state names are there, whichever process has forgotten others.
    for ca in [&one, &two] {
        ca.tick().await.unwrap();
        let issued = ca.issue(&grant(CART), &request(), &Asker::default()).await;
        let issued = issued.unwrap();
        for bundle in [&one, &two].map(|ca| ca.published().borrow().bundle.clone()) {
            clock.set(noon() + secs(2));
            assert!(verifies(&issued, &bundle, clock.now()));
        }
    }
    assert!(opened(disk.shared_store(), &clock).await.is_ok());
}

/// A member that has acknowledged nothing to another process holds a rotation off, although this one
/// does not know it; what is issued meanwhile prolongs nothing.
#[tokio::test]
async fn members_of_another_process_are_waited_for() {
    #[derive(Debug, Clone, Copy, PartialEq)]
    enum Other {
        Dies,
        Leaves,
        Stays,
    }
    for other in [Other::Dies, Other::Leaves, Other::Stays] {
        let (one, two, _disk, clock) = both().await;
        // The first leaf writes the mark, under which the other's needs no write: that one is not seen.
        let leaf = one.issue(&grant(CART), &request(), &ours("a", FIRST)).await;
        leaf.unwrap();
        two.tick().await.unwrap();
        let silent = two.issue(&grant(CART), &request(), &ours("b", 0)).await;
        let silent = silent.unwrap();
        let second = one.prepare(None).await.unwrap();
        // It has not heard of the new root, and may issue what the mark allows.
        let stale = two.issue(&grant(CART), &request(), &ours("c", 0)).await;
        let stale = stale.unwrap();
        assert_eq!(stale.published.generation, FIRST);
        match other {
            Other::Dies => drop(two),
            Other::Leaves => {
                two.leave().await.unwrap();
                drop(two);
            }
            Other::Stays => {}
        }
        one.acknowledge(&id(CART), "a", FIRST + 1).await;
        let until = silent.not_after.max(stale.not_after);
        while clock.now() <= until {
            let tick = one.tick().await.unwrap();
            assert!(
                matches!(&tick, Tick::Waits(wait) if wait.unknown),
                "{tick:?}"
            );
            let next = one
                .issue(&grant(CART), &request(), &ours("a", FIRST + 1))
                .await
                .unwrap();
            assert!(verifies(&next, &silent.published.bundle, clock.now()));
            clock.advance(secs(1));
        }
        // An eighth of a leaf's life, in which it is written ahead, and the second of rounding.
        clock.advance(secs(5 + 1));
        assert_eq!(
            one.tick().await.unwrap(),
            Tick::Stepped(Step::Activate),
            "{other:?}"
        );
        assert_eq!(one.published().borrow().active, second);
    }
}

/// Where nothing was issued before, there is no member to wait for.
#[tokio::test]
async fn a_root_that_no_leaf_preceded_is_activated_at_once() {
    let (one, two, _disk, _clock) = both().await;
    one.prepare(None).await.unwrap();
    let leaf = two.issue(&grant(CART), &request(), &ours("b", 0)).await;
    assert_eq!(leaf.unwrap().published.generation, FIRST + 1);
    assert_eq!(one.tick().await.unwrap(), Tick::Stepped(Step::Activate));
    two.tick().await.unwrap();
    assert_eq!(
        two.published().borrow().active,
        one.published().borrow().active
    );
}

/// The step that an operator forces is the one that was looked at, not the one after it.
#[tokio::test]
async fn a_step_that_another_process_has_taken_is_not_followed_by_the_next() {
    for (asked, force) in [
        (None, true),
        (None, false),
        (Some(Step::Activate), true),
        (Some(Step::Activate), false),
    ] {
        let (one, two, _disk, clock) = both().await;
        let leaf = one.issue(&grant(CART), &request(), &ours("a", FIRST)).await;
        let leaf = leaf.unwrap();
        one.prepare(None).await.unwrap();
        two.tick().await.unwrap();
        one.advance(asked, true).await.unwrap();
        // So that it is ready, if it waits for that.
        clock.advance(secs(47));
        let late = two.advance(asked, force).await.unwrap_err();
        assert!(
            matches!(
                late,
                CaError::Step(StepError::NotItsTurn {
                    asked: Step::Activate,
                    next: Some(Step::Retire)
                })
            ),
            "{asked:?} {force}: {late}"
        );
        let bundle = two.published().borrow().bundle.clone();
        assert!(verifies(&leaf, &bundle, noon() + secs(1)));
    }
}

/// What a store has that was brought back from a copy is not taken over by a process that has seen more.
#[tokio::test]
async fn a_state_that_goes_back_is_not_taken_over() {
    let (one, _two, disk, clock) = both().await;
    one.prepare(None).await.unwrap();
    let generation = one.published().borrow().generation;
    let other = MemoryDisk::default();
    opened(other.shared_store(), &clock).await.unwrap();
    let older = other.shared_store().load().await.unwrap().unwrap().0;
    disk.write_state(&[b"inmesh-ca-state 1\n", &older[..]].concat());
    let refused = one.tick().await.unwrap_err();
    assert!(
        matches!(refused, CaError::Store(StoreError::WentBack { .. })),
        "{refused}"
    );
    assert_eq!(one.published().borrow().generation, generation);
    let refused = one.prepare(None).await.unwrap_err();
    assert!(matches!(refused, CaError::Step(_)), "{refused}");
    let refused = one.revoke("01").await.unwrap_err();
    assert!(
        matches!(refused, CaError::Store(StoreError::WentBack { .. })),
        "{refused}"
    );
}

/// Of processes that begin at once one makes the CA, and the others are the same.
#[tokio::test]
async fn of_several_that_begin_at_once_one_makes_the_ca() {
    let (disk, clock) = (MemoryDisk::default(), ManualClock::new(noon()));
    let begin = || opened(disk.shared_store(), &clock);
    let (a, b, c) = tokio::join!(begin(), begin(), begin());
    let actives = [a, b, c].map(|ca| ca.unwrap().published().borrow().active.clone());
    assert!(
        actives.iter().all(|active| *active == actives[0]),
        "{actives:?}"
    );
    assert_eq!(disk.names().len(), 3, "{:?}", disk.names());
}

// === crashes ===

/// What members have ever seen of a CA, over all its crashes.
#[derive(Default)]
struct Witness {
    roots: BTreeMap<u64, Vec<String>>,
    actives: Vec<String>,
    serials: BTreeSet<String>,
    generation: u64,
}

/// A member with a bundle, and a leaf that is renewed in time.
struct Member {
    instance: Option<String>,
    bundle: TrustBundle,
    generation: u64,
    leaf: Issued,
}

impl Witness {
    /// Looks at what is published: generations never go back and never change, and of the active
    /// roots none comes back.
    fn look(&mut self, ca: &Ca<FileStore>) {
        let seen = ca.published().borrow().clone();
        assert!(
            seen.generation >= self.generation,
            "the generation went back"
        );
        self.generation = seen.generation;
        let roots = key_ids(&seen.bundle);
        assert!(roots.contains(&seen.active), "an unpublished root signs");
        let before = self
            .roots
            .entry(seen.generation)
            .or_insert_with(|| roots.clone());
        assert_eq!(*before, roots, "generation {} forked", seen.generation);
        if self.actives.last() != Some(&seen.active) {
            assert!(
                !self.actives.contains(&seen.active),
                "an old root is active again"
            );
            self.actives.push(seen.active.clone());
        }
    }

    fn count(&mut self, issued: &Issued) {
        let leaf = crate::svid::read_unverified(&issued.chain[0]).unwrap();
        assert!(self.serials.insert(leaf.serial), "a serial number twice");
    }
}

impl Member {
    async fn new(ca: &Ca<FileStore>, instance: Option<&str>) -> Result<Self, CaError> {
        let instance = instance.map(str::to_owned);
        let asker = Asker {
            instance: instance.clone(),
            acknowledged: 0,
            ..Asker::default()
        };
        let leaf = ca.issue(&grant(CART), &request(), &asker).await?;
        Ok(Self {
            instance,
            bundle: leaf.published.bundle.clone(),
            generation: leaf.published.generation,
            leaf,
        })
    }

    async fn renew(&mut self, ca: &Ca<FileStore>) -> Result<(), CaError> {
        let asker = Asker {
            instance: self.instance.clone(),
            acknowledged: self.generation,
            ..Asker::default()
        };
        self.leaf = ca.issue(&grant(CART), &request(), &asker).await?;
        self.bundle = self.leaf.published.bundle.clone();
        self.generation = self.leaf.published.generation;
        Ok(())
    }

    /// One of ours takes the new bundle from its stream and says so; others do not.
    async fn watch(&mut self, ca: &Ca<FileStore>) {
        if let Some(instance) = &self.instance {
            let published = ca.published().borrow().clone();
            self.bundle = published.bundle.clone();
            self.generation = published.generation;
            ca.acknowledge(&id(CART), instance, self.generation).await;
        }
    }
}

/// Plays a whole rotation on a disk that has a fault, with restarts after every failure when the
/// process dies of it, and returns how many operations there were. Whatever happens, each live
/// member verifies each live leaf, all the time.
fn check_members(members: &[Member], now: SystemTime, place: &str) {
    for member in members {
        for other in members {
            assert!(now <= other.leaf.not_after, "no leaf came in time: {place}");
            assert!(
                verifies(&other.leaf, &member.bundle, now),
                "a leaf of {:?} fails: {place}",
                other.leaf.published,
            );
        }
    }
}

async fn play(fault: Option<Fault>, lost: bool) -> usize {
    let (disk, clock) = (MemoryDisk::default(), ManualClock::new(noon()));
    let mut witness = Witness::default();
    let mut running = Some(opened(disk.store(), &clock).await.unwrap());
    let ca = running.as_ref().unwrap();
    let mut members = [
        Member::new(ca, Some("a")).await.unwrap(),
        Member::new(ca, None).await.unwrap(),
    ];
    if let Some(fault) = fault {
        disk.fail(fault);
    }
    let mut asked = false;
    let mut operations = 0;
    for step in 0..40 {
        // A dead process comes back with the next step, or the one after.
        if running.is_none() {
            operations = operations.max(disk.operations());
            disk.restart(lost);
            running = Some(opened(disk.store(), &clock).await.unwrap());
        }
        let ca = running.as_ref().unwrap();
        let mut left = false;
        let outcome = async {
            if !asked && step >= 1 {
                asked = ca.published().borrow().bundle.roots().len() > 1;
                if !asked {
                    ca.prepare(None).await?;
                    asked = true;
                }
            }
            ca.tick().await?;
            // Ours is on its stream; the other one renews at half of its leaf's life.
            members[0].watch(ca).await;
            for member in &mut members {
                if clock.now() >= member.leaf.issued_at + secs(20) {
                    member.renew(ca).await?;
                    witness.count(&member.leaf);
                }
            }
            // Some processes end in order.
            if step % 6 == 4 {
                ca.leave().await?;
                left = true;
            }
            Ok::<_, CaError>(())
        }
        .await;
        witness.look(ca);
        check_members(
            &members,
            clock.now(),
            &format!("step {step}, {fault:?}, lost {lost}"),
        );
        if let (Err(_), Some(fault)) = (&outcome, fault) {
            if fault.dead {
                running = None;
            }
        } else {
            outcome.unwrap();
        }
        if left {
            drop(running.take());
            let next = opened(disk.store(), &clock).await;
            assert!(next.is_ok() || fault.is_some(), "{:?}", next.err());
            running = next.ok();
        }
        clock.advance(secs(5));
    }
    let done = running.unwrap().status().await;
    assert_eq!(done.next, None, "the rotation came to its end: {fault:?}");
    assert_eq!(done.authorities.len(), 1);
    assert_eq!(done.authorities[0].stage, Stage::Active);
    assert!(witness.actives.len() >= 2, "there is a new root");
    let names = disk.names();
    // What a dead process left is not the next one's to remove.
    let crashed = fault.is_some_and(|fault| fault.dead);
    assert!(
        names.len() == 3 || crashed,
        "no key is left over: {names:?}"
    );
    operations.max(disk.operations())
}

#[tokio::test]
async fn a_rotation_survives_a_crash_after_every_operation() {
    let all = play(None, false).await;
    assert!(all > 50, "{all} operations");
    for at in 0..all {
        // Dying after an operation is dying before the next one.
        for lost in [false, true] {
            let (done, dead) = (false, true);
            play(Some(Fault { at, done, dead }), lost).await;
        }
    }
}

#[tokio::test]
async fn a_rotation_survives_any_single_failure_of_the_disk() {
    let all = play(None, false).await;
    for at in 0..all {
        for done in [false, true] {
            let dead = false;
            play(Some(Fault { at, done, dead }), false).await;
        }
    }
}
