use std::os::unix::fs::PermissionsExt;
use std::time::Duration;

use x509_parser::extensions::GeneralName;

use super::ca::{BACK_DATED, LocalCa, LocalCaError};
use super::dev::{DevCa, DevCaError, KEY_FILE, ROOT_FILE};
use super::*;
use crate::clock::{Clock, ManualClock};
use crate::disk::{self, DiskError};
use crate::source::dev::{DevSource, DevSourceError};
use crate::source::files::FileSource;
use crate::store::IdentityState;
use crate::svid::{Usage, validate};
use crate::testing::{crypto, domain, id, minutes, noon};

const CART: &str = "spiffe://td/ns/shop/sa/cart";

fn ca() -> (LocalCa, ManualClock) {
    let clock = ManualClock::new(noon());
    let ca = LocalCa::create(domain("td"), minutes(600), &crypto(), clock.shared()).unwrap();
    (ca, clock)
}

fn issued(ca: &LocalCa) -> IssuedChain {
    let (_, csr) = csr::generate(&id(CART), &crypto()).unwrap();
    ca.sign(&id(CART), &csr).unwrap()
}

// === requests ===

#[test]
fn a_request_proves_possession_and_nothing_else() {
    let (key, csr) = csr::generate(&id(CART), &crypto()).unwrap();
    let der = csr.der().to_vec();
    let again = Csr::from_der(&der, &crypto()).unwrap();
    assert_eq!(again.public_key_der(), csr.public_key_der());
    assert!(
        csr.to_pem()
            .starts_with("-----BEGIN CERTIFICATE REQUEST-----\n")
    );
    assert!(key.secret_pkcs8_der().len() > 100);

    let mut forged = der.clone();
    let last = forged.len() - 1;
    forged[last] ^= 1;
    assert_eq!(
        Csr::from_der(&forged, &crypto()).unwrap_err(),
        CsrError::BadSignature
    );

    // Another public key, which the signature does not cover with theirs.
    let (_, other) = csr::generate(&id(CART), &crypto()).unwrap();
    let at = find(&der, csr.public_key_der());
    let mut stolen = der.clone();
    stolen[at..at + other.public_key_der().len()].copy_from_slice(other.public_key_der());
    assert_eq!(
        Csr::from_der(&stolen, &crypto()).unwrap_err(),
        CsrError::BadSignature
    );

    // The signature is good, under an algorithm that no provider has.
    let mut unknown = der.clone();
    let at = find(
        &der,
        &[0x06, 0x08, 0x2a, 0x86, 0x48, 0xce, 0x3d, 0x04, 0x03, 0x02],
    );
    unknown[at + 9] = 9;
    assert_eq!(
        Csr::from_der(&unknown, &crypto()).unwrap_err(),
        CsrError::Unsupported
    );

    let mut long = der;
    long.push(0);
    assert_eq!(
        Csr::from_der(&long, &crypto()).unwrap_err(),
        CsrError::Malformed
    );
    assert_eq!(
        Csr::from_der(b"", &crypto()).unwrap_err(),
        CsrError::Malformed
    );
    assert_eq!(
        Csr::from_der(&[0; 20_000], &crypto()).unwrap_err(),
        CsrError::TooLarge { got: 20_000 }
    );
}

#[test]
fn requests_of_other_key_kinds_are_read() {
    for algorithm in [&rcgen::PKCS_ECDSA_P384_SHA384, &rcgen::PKCS_ED25519] {
        let key = rcgen::KeyPair::generate_for(algorithm).unwrap();
        let request = rcgen::CertificateParams::default()
            .serialize_request(&key)
            .unwrap();
        let csr = Csr::from_der(request.der(), &crypto()).unwrap();
        let chain = ca().0.sign(&id(CART), &csr).unwrap().chain;
        let (_, cert) = x509_parser::parse_x509_certificate(&chain[0]).unwrap();
        assert_eq!(cert.public_key().raw, csr.public_key_der());
    }
}

proptest::proptest! {
    #[test]
    fn no_bytes_panic(bytes in proptest::collection::vec(proptest::prelude::any::<u8>(), 0..200)) {
        proptest::prop_assert!(Csr::from_der(&bytes, &crypto()).is_err());
    }
}

fn find(haystack: &[u8], needle: &[u8]) -> usize {
    haystack
        .windows(needle.len())
        .position(|window| window == needle)
        .unwrap()
}

// === the CA ===

#[test]
fn a_leaf_is_what_spiffe_asks_for() {
    let (ca, _) = ca();
    // The request asks for another identity, for a name, and to be a CA; none of it counts.
    let mut params = rcgen::CertificateParams::new(vec!["evil.example".to_owned()]).unwrap();
    params
        .subject_alt_names
        .push(crate::testing::san("spiffe://td/ns/kube-system/sa/admin"));
    params.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
    let key = rcgen::KeyPair::generate().unwrap();
    let request = params.serialize_request(&key).unwrap();
    let csr = Csr::from_der(request.der(), &crypto()).unwrap();
    let issued = ca.sign(&id(CART), &csr).unwrap();
    assert_eq!(issued.chain.len(), 1);

    let (_, cert) = x509_parser::parse_x509_certificate(&issued.chain[0]).unwrap();
    let names = cert.subject_alternative_name().unwrap().unwrap();
    assert!(names.critical, "S10: the subject is empty");
    assert_eq!(names.value.general_names, [GeneralName::URI(CART)]);
    assert_eq!(cert.subject().iter().count(), 0);
    let usage = cert.key_usage().unwrap().unwrap();
    assert!(usage.critical);
    assert_eq!(usage.value.flags, 1, "digitalSignature alone");
    let extended = cert.extended_key_usage().unwrap().unwrap().value;
    assert!(extended.server_auth && extended.client_auth && extended.other.is_empty());
    assert!(!cert.basic_constraints().unwrap().unwrap().value.ca);
    assert!(cert.name_constraints().unwrap().is_none());
    assert!((15..=16).contains(&cert.raw_serial().len()));
    assert_eq!(
        crate::time::from_unix(cert.validity().not_before.timestamp()),
        noon() - BACK_DATED
    );
    assert_eq!(
        crate::time::from_unix(cert.validity().not_after.timestamp()),
        noon() + minutes(60)
    );
    assert_eq!(issued.issued_at, noon());
}

#[test]
fn what_it_issues_verifies_and_ends() {
    let (ca, clock) = ca();
    let state = IdentityState::from_bundles(ca.bundle().clone().into());
    let check = |issued: &IssuedChain| {
        validate(&issued.chain, &state, clock.now(), Usage::Client, &crypto())
    };
    let first = issued(&ca);
    assert_eq!(check(&first).unwrap().id, id(CART));
    assert_ne!(
        check(&issued(&ca)).unwrap().serial,
        check(&first).unwrap().serial
    );

    // A leaf never outlives its CA, and an expired CA signs nothing.
    clock.set(noon() + minutes(590));
    assert_eq!(
        check(&issued(&ca)).unwrap().not_after,
        noon() + minutes(600)
    );
    clock.set(noon() + minutes(600));
    let (_, request) = csr::generate(&id(CART), &crypto()).unwrap();
    let expired = IssueError::CaNotValid {
        trust_domain: domain("td"),
    };
    assert_eq!(ca.sign(&id(CART), &request).unwrap_err(), expired);
    clock.set(noon() - minutes(10));
    assert_eq!(ca.sign(&id(CART), &request).unwrap_err(), expired);
}

#[test]
fn the_lifetime_of_leaves_is_a_choice() {
    let (ca, _) = ca();
    let ca = ca.with_leaf_lifetime(Duration::from_millis(9_999));
    let key = PrivateKey::from_pkcs8_der(rcgen::KeyPair::generate().unwrap().serialize_der());
    assert!(
        issued(&ca).into_svid(key, &crypto()).is_err(),
        "another key"
    );
    let (key, csr) = csr::generate(&id(CART), &crypto()).unwrap();
    let svid = ca
        .sign(&id(CART), &csr)
        .unwrap()
        .into_svid(key, &crypto())
        .unwrap();
    assert_eq!(svid.not_after(), noon() + Duration::from_secs(9));
    assert_eq!(svid.issued_at(), noon(), "not the back-dated notBefore");
}

#[test]
fn it_issues_for_workloads_of_its_own_trust_domain() {
    let (ca, _) = ca();
    let (_, csr) = csr::generate(&id(CART), &crypto()).unwrap();
    assert_eq!(
        ca.sign(&id("spiffe://other/a"), &csr).unwrap_err(),
        IssueError::WrongTrustDomain {
            id: id("spiffe://other/a"),
            trust_domain: domain("td")
        }
    );
    assert_eq!(
        ca.sign(&id("spiffe://td"), &csr).unwrap_err(),
        IssueError::NoPath {
            id: id("spiffe://td")
        }
    );
}

#[test]
fn a_ca_is_put_together_of_its_own_parts_only() {
    let (ca, clock) = ca();
    let (other, _) = self::ca();
    let join = |key: &PrivateKey| {
        LocalCa::from_parts(
            domain("td"),
            ca.root().clone(),
            key,
            &crypto(),
            clock.shared(),
        )
    };
    join(&ca.secret_key()).unwrap();
    assert_eq!(
        join(&other.secret_key()).unwrap_err(),
        LocalCaError::KeyMismatch
    );
    assert_eq!(
        join(&PrivateKey::from_pkcs8_der(vec![1])).unwrap_err(),
        LocalCaError::Key
    );
    assert_ne!(
        ca.bundle().anchors()[0].subject,
        other.bundle().anchors()[0].subject,
        "roots of one domain differ in name"
    );
    assert!(!format!("{ca:?}").contains("key:"));
}

// === the development CA ===

fn dev(dir: &std::path::Path) -> Result<DevCa, DevCaError> {
    DevCa::init(
        dir,
        domain("td"),
        &crypto(),
        ManualClock::new(noon()).shared(),
    )
}

#[test]
fn a_development_ca_is_two_files() {
    let dir = tempfile::tempdir().unwrap();
    let dir = dir.path().join("made/if/needed");
    let made = dev(&dir).unwrap();
    let mode = |name: &str| dir.join(name).metadata().unwrap().permissions().mode() & 0o777;
    assert_eq!(mode(KEY_FILE), 0o600);
    assert_eq!(mode(ROOT_FILE) & 0o022, 0);
    let mut names: Vec<_> = std::fs::read_dir(&dir)
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect();
    names.sort();
    assert_eq!(
        names,
        [KEY_FILE, ROOT_FILE],
        "and nothing is left beside them"
    );

    let opened = DevCa::open(&dir, &crypto(), ManualClock::new(noon()).shared()).unwrap();
    assert_eq!(opened.trust_domain(), &domain("td"));
    assert_eq!(opened.bundle(), made.bundle());
    let svid = opened.issue_svid(&id(CART)).unwrap();
    let state = IdentityState::from_bundles(made.bundle().clone().into());
    validate(svid.chain(), &state, noon(), Usage::Server, &crypto()).unwrap();
}

#[test]
fn a_development_ca_is_never_overwritten() {
    for name in [KEY_FILE, ROOT_FILE] {
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join(name), "precious").unwrap();
        match dev(dir.path()).unwrap_err() {
            DevCaError::Exists { path } => assert_eq!(path, dir.path().join(name)),
            other => panic!("{other:?}"),
        }
        assert_eq!(std::fs::read(dir.path().join(name)).unwrap(), b"precious");
        assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 1);
    }
    // The same, where the file appears after the check.
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("x");
    std::fs::write(&path, "precious").unwrap();
    let error = disk::publish_new(&path, b"new", disk::Mode::Secret).unwrap_err();
    assert_eq!(error.kind(), std::io::ErrorKind::AlreadyExists);
    assert_eq!(std::fs::read(&path).unwrap(), b"precious");
    assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 1);
}

#[test]
fn a_broken_folder_says_what_is_wrong() {
    let clock = ManualClock::new(noon());
    let open = |dir: &std::path::Path| DevCa::open(dir, &crypto(), clock.shared()).unwrap_err();
    let dir = tempfile::tempdir().unwrap();
    assert!(
        matches!(open(dir.path()), DevCaError::Disk(DiskError::Io { path, .. }) if path.ends_with(ROOT_FILE))
    );
    dev(dir.path()).unwrap();
    std::fs::write(dir.path().join(KEY_FILE), "").unwrap();
    // Its name needs no key.
    assert_eq!(DevCa::trust_domain_in(dir.path()).unwrap().as_str(), "td");
    assert!(matches!(open(dir.path()), DevCaError::Pem { path, .. } if path.ends_with(KEY_FILE)));
    let other = ca().0.secret_key().to_secret_pem();
    std::fs::write(dir.path().join(KEY_FILE), &*other).unwrap();
    assert!(matches!(
        open(dir.path()),
        DevCaError::Ca {
            source: LocalCaError::KeyMismatch,
            ..
        }
    ));
    let nameless = crate::testing::Ca::new("nameless").bundle("td").to_pem();
    std::fs::write(dir.path().join(ROOT_FILE), nameless).unwrap();
    assert!(matches!(open(dir.path()), DevCaError::NoTrustDomain { .. }));
}

#[tokio::test]
async fn a_workload_issuer_mints_one_id() {
    let dir = tempfile::tempdir().unwrap();
    let dev = dev(dir.path()).unwrap();
    let issuer = dev.for_workload(id(CART)).unwrap();
    assert_eq!(issuer.id(), &id(CART));
    let erased = DynIssuer::new(issuer);
    let (_, csr) = csr::generate(&id(CART), &crypto()).unwrap();
    assert_eq!(
        erased.issue(&id(CART), &csr).await.unwrap().bundle,
        *dev.bundle()
    );
    let admin = id("spiffe://td/ns/kube-system/sa/admin");
    assert_eq!(
        erased.issue(&admin, &csr).await.unwrap_err(),
        IssueError::NotAllowed {
            id: admin,
            allowed: id(CART)
        }
    );
    assert!(matches!(
        dev.for_workload(id("spiffe://other/a")),
        Err(IssueError::WrongTrustDomain { .. })
    ));
    assert!(matches!(
        dev.for_workload(id("spiffe://td")),
        Err(IssueError::NoPath { .. })
    ));
}

#[test]
fn files_are_issued_as_one_set() {
    let dir = tempfile::tempdir().unwrap();
    let dev = dev(&dir.path().join("ca")).unwrap();
    let out = dir.path().join("cart");
    let load = || FileSource::in_dir(&out, &crypto()).load().unwrap();
    let first = dev.issue_files(&id(CART), &out).unwrap();
    assert_eq!(load().default_svid().unwrap().serial(), first.serial());
    let second = dev.issue_files(&id(CART), &out).unwrap();
    assert_eq!(load().default_svid().unwrap().serial(), second.serial());
    // PEM holds roots and no keys for tokens.
    let state = load();
    let bundle = state.bundles().get(&domain("td")).unwrap();
    assert_eq!(bundle.roots(), dev.bundle().roots());
    assert_eq!(dev.bundle().jwt_keys().len(), 1);
    let key = out.join("key.pem");
    assert_eq!(key.metadata().unwrap().permissions().mode() & 0o777, 0o600);
    assert_eq!(
        std::fs::read_dir(&out).unwrap().count(),
        5,
        "three names, one link, one folder"
    );

    // A plain file of the user's is not replaced.
    std::fs::remove_file(&key).unwrap();
    std::fs::write(&key, "precious").unwrap();
    let error = dev.issue_files(&id(CART), &out).unwrap_err();
    assert!(
        matches!(error, DevCaError::Disk(DiskError::Io { .. })),
        "{error:?}"
    );
    assert_eq!(std::fs::read(&key).unwrap(), b"precious");
}

#[tokio::test]
async fn a_source_mints_its_own_identity_and_those_beside_it() {
    const SIDE: &str = "spiffe://td/ns/shop/sa/side";

    let dir = tempfile::tempdir().unwrap();
    let ca = dev(dir.path()).unwrap();
    let identity = DevSource::new(ca.clone(), id(CART))
        .also([id(SIDE)])
        .clock(ManualClock::new(noon()).shared())
        .start(&crypto())
        .await
        .unwrap();
    let first = identity.reader.ready().await.unwrap();
    assert_eq!(*first.default_svid().unwrap().id(), id(CART));
    assert!(identity.jwt.is_some());
    let task = tokio::spawn(identity.task);
    let mut reader = identity.reader;
    while reader.latest().svid(&id(SIDE)).is_none() {
        reader.changed().await.unwrap();
    }
    assert_eq!(*reader.load().default_svid().unwrap().id(), id(CART));
    task.abort();

    let foreign = DevSource::new(ca, id("spiffe://other/a"));
    let error = foreign.start(&crypto()).await.unwrap_err();
    let refused = matches!(
        error,
        DevSourceError::Issue(IssueError::WrongTrustDomain { .. })
    );
    assert!(refused, "{error}");
}

/// A folder or a root that another user may write gives no CA: what stands there could be that user's.
#[test]
fn a_development_ca_that_others_may_write_is_refused() {
    let home = tempfile::tempdir().unwrap();
    let (dir, shared) = (home.path().join("ca"), home.path().join("shared"));
    let mode = |path: &std::path::Path, mode: u32| {
        std::fs::set_permissions(path, std::fs::Permissions::from_mode(mode)).unwrap();
    };
    let is_loose = |error: DevCaError| {
        let loose = matches!(&error, DevCaError::Disk(DiskError::Loose { .. }));
        assert!(loose, "{error:?}");
    };
    dev(&dir).unwrap();
    let open = || DevCa::open(&dir, &crypto(), ManualClock::new(noon()).shared());
    open().unwrap();
    let root = dir.join(ROOT_FILE);
    for (path, loose, tight) in [
        (&dir, 0o777, 0o755),
        (&dir, 0o775, 0o700),
        (&root, 0o666, 0o644),
    ] {
        mode(path, loose);
        is_loose(open().unwrap_err());
        mode(path, tight);
        open().unwrap();
    }
    std::fs::create_dir(&shared).unwrap();
    mode(&shared, 0o777);
    is_loose(dev(&shared).unwrap_err());
    assert_eq!(std::fs::read_dir(&shared).unwrap().count(), 0);
}
