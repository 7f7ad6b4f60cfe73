use std::fs::Permissions;
use std::future::pending;
use std::os::unix::fs::{MetadataExt, PermissionsExt};

use super::*;
use crate::bundle::BundleSet;
use crate::store::identity;
use crate::svid::Place;
use crate::testing::{Ca, crypto, domain, id, leaf, minutes, noon};

const CART: &str = "spiffe://td/ns/shop/sa/cart";

/// An SVID that was issued ten minutes after its notBefore, as no file but ours tells.
fn issued(ca: &Ca) -> X509Svid {
    let draft = leaf(CART);
    let key = PrivateKey::from_pkcs8_der(draft.key.serialize_der());
    let at = noon() - minutes(20);
    X509Svid::from_der(vec![draft.signed_by(ca)], key, Some(at), &crypto()).unwrap()
}

fn state(ca: &Ca) -> IdentityState {
    let bundle = ca.bundle("td").with_sequence(7);
    let bundle = bundle.distrusting(["compromised".to_owned()]);
    let mut state = IdentityState::new(issued(ca), bundle.into());
    let mut crls = CrlSet::new();
    crls.insert(domain("td"), ca.crl().list()).unwrap();
    state.replace_crls(crls);
    state
}

struct Dir(tempfile::TempDir);

impl Dir {
    fn new() -> Self {
        Self(tempfile::tempdir().unwrap())
    }

    fn path(&self) -> PathBuf {
        self.0.path().join("kept")
    }

    fn keep(&self) -> Keep {
        Keep::new(id(CART), self.path())
    }

    fn chmod(&self, name: &str, mode: u32) {
        std::fs::set_permissions(self.path().join(name), Permissions::from_mode(mode)).unwrap();
    }
}

fn load(keep: &Keep) -> Result<IdentityState, KeepError> {
    keep.load(noon(), &crypto())
}

#[test]
fn what_is_kept_comes_back_with_its_moment_of_issuance() {
    let (dir, ca) = (Dir::new(), Ca::new("root"));
    assert!(matches!(load(&dir.keep()), Err(KeepError::Empty { dir: at }) if at == dir.path()));
    let state = state(&ca);
    dir.keep().store(&state).unwrap();
    let back = load(&dir.keep()).unwrap();
    let (was, is) = (state.default_svid().unwrap(), back.default_svid().unwrap());
    assert_eq!(is.chain(), was.chain());
    assert_eq!(is.issued_at(), noon() - minutes(20));
    assert_eq!(back.bundles(), state.bundles());
    let bundle = back.bundles().get(&domain("td")).unwrap();
    assert_eq!(bundle.sequence(), Some(7));
    assert!(bundle.distrusted_keys().eq(["compromised"]));
    assert_eq!(back.crls(), state.crls());
    // Once more, with another SVID and without lists: nothing of the old set stays.
    let next = IdentityState::new(issued(&ca), ca.bundle("td").into());
    dir.keep().store(&next).unwrap();
    let back = load(&dir.keep()).unwrap();
    let serial = |state: &IdentityState| state.default_svid().unwrap().serial().to_owned();
    assert_eq!(serial(&back), serial(&next));
    assert!(back.crls().is_empty());
    // Seven names, the link, one folder behind it, and the list of distrusted keys.
    assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 10);

    let mode = |name: &str| std::fs::metadata(dir.path().join(name)).unwrap().mode() & 0o777;
    assert_eq!((mode(""), mode(KEY_FILE)), (0o700, 0o600));
}

#[test]
fn what_has_ended_or_is_somebody_elses_is_refused() {
    let (dir, ca) = (Dir::new(), Ca::new("root"));
    dir.keep().store(&state(&ca)).unwrap();
    let at = |now| dir.keep().load(now, &crypto());
    at(noon() + minutes(30)).unwrap();
    let late = noon() + minutes(30) + Duration::from_secs(1);
    match at(late).unwrap_err() {
        KeepError::NotValid(Rejected::Expired { place, now, .. }) => {
            assert_eq!((place, now), (Place::Leaf, late));
        }
        other => panic!("{other:?}"),
    }
    assert!(matches!(
        at(noon() - minutes(31)),
        Err(KeepError::NotValid(Rejected::NotYetValid { .. }))
    ));
    let other = id("spiffe://td/ns/shop/sa/other");
    match load(&Keep::new(other.clone(), dir.path())).unwrap_err() {
        KeepError::WrongId { expected, got } => assert_eq!((expected, got), (other, id(CART))),
        other => panic!("{other:?}"),
    }
    // A bundle that does not vouch for it.
    let strange = Ca::new("strange").bundle("td").to_json().unwrap();
    std::fs::write(dir.path().join(BUNDLE_FILE), strange).unwrap();
    assert!(matches!(
        load(&dir.keep()),
        Err(KeepError::NotValid(Rejected::UnknownIssuer { .. }))
    ));
}

/// Only root can give files away; what counts as others' is a table beside [`disk::check`].
#[test]
fn what_belongs_to_another_user_is_refused() {
    const NOBODY: u32 = 65_534;
    if !nix::unistd::geteuid().is_root() {
        return;
    }
    let (dir, ca) = (Dir::new(), Ca::new("root"));
    dir.keep().store(&state(&ca)).unwrap();
    for name in ["", CERT_FILE, KEY_FILE, BUNDLE_FILE, CRL_FILE, ISSUED_FILE] {
        let path = dir.path().join(name);
        std::os::unix::fs::chown(&path, Some(NOBODY), None).unwrap();
        match load(&dir.keep()).unwrap_err() {
            KeepError::Disk(DiskError::Owner {
                path,
                owner: NOBODY,
            }) => {
                assert!(path.ends_with(name) || path == dir.path(), "{path:?}");
            }
            other => panic!("{name}: {other:?}"),
        }
        std::os::unix::fs::chown(&path, Some(0), None).unwrap();
        load(&dir.keep()).unwrap();
    }
}

#[test]
fn what_others_may_use_is_refused() {
    let (dir, ca) = (Dir::new(), Ca::new("root"));
    dir.keep().store(&state(&ca)).unwrap();
    let loose = |name: &str| match load(&dir.keep()).unwrap_err() {
        KeepError::Disk(DiskError::Loose { path, mode, .. }) => {
            let name = path.ends_with(name) || (name.is_empty() && path == dir.path());
            (name, mode)
        }
        other => panic!("{other:?}"),
    };
    for mode in [0o640, 0o604, 0o620, 0o602, 0o644] {
        dir.chmod(KEY_FILE, mode);
        assert_eq!(loose(KEY_FILE), (true, mode));
    }
    dir.chmod(KEY_FILE, 0o400);
    load(&dir.keep()).unwrap();
    for (name, good) in [
        (CERT_FILE, 0o644),
        (BUNDLE_FILE, 0o644),
        (CRL_FILE, 0o644),
        (ISSUED_FILE, 0o644),
        ("", 0o755),
    ] {
        for bad in [good | 0o020, good | 0o002] {
            dir.chmod(name, bad);
            assert_eq!(loose(name), (true, bad));
        }
        dir.chmod(name, good);
        load(&dir.keep()).unwrap();
    }
    // Nor is anything kept in such a place.
    dir.chmod("", 0o777);
    assert!(matches!(
        dir.keep().store(&state(&ca)),
        Err(KeepError::Disk(DiskError::Loose { mode: 0o777, .. }))
    ));
    // A link that leads elsewhere is not ours.
    dir.chmod("", 0o700);
    let link = dir.path().join("..data");
    std::fs::remove_file(&link).unwrap();
    std::os::unix::fs::symlink("../elsewhere", &link).unwrap();
    assert!(matches!(
        load(&dir.keep()),
        Err(KeepError::Disk(DiskError::Io { .. }))
    ));
}

#[test]
fn what_is_damaged_is_refused() {
    let (dir, ca) = (Dir::new(), Ca::new("root"));
    let spoiled = |name: &str, content: &str| {
        dir.keep().store(&state(&ca)).unwrap();
        std::fs::write(dir.path().join(name), content).unwrap();
        load(&dir.keep()).unwrap_err()
    };
    let early = time::to_unix(noon() - minutes(31)).to_string();
    let late = time::to_unix(noon() + minutes(31)).to_string();
    for moment in ["", "yesterday", "1.5", &early, &late] {
        let error = spoiled(ISSUED_FILE, moment);
        assert!(
            matches!(error, KeepError::Moment { .. }),
            "{moment}: {error}"
        );
    }
    assert!(matches!(spoiled(CERT_FILE, ""), KeepError::Svid { .. }));
    let key = issued(&ca).key().to_secret_pem();
    match spoiled(KEY_FILE, &key) {
        KeepError::Svid { source, .. } => {
            assert!(matches!(*source, SvidError::KeyMismatch { .. }));
        }
        other => panic!("{other:?}"),
    }
    assert!(matches!(spoiled(BUNDLE_FILE, ""), KeepError::Bundle { .. }));
    assert!(matches!(spoiled(CRL_FILE, "junk"), KeepError::Crl { .. }));
    dir.keep().store(&state(&ca)).unwrap();
    std::fs::remove_file(dir.path().join(KEY_FILE)).unwrap();
    // The name at the top is for people; what is read stands behind the link.
    load(&dir.keep()).unwrap();
    std::fs::remove_file(dir.path().join("..data").join(KEY_FILE)).unwrap();
    assert!(
        matches!(load(&dir.keep()), Err(KeepError::Disk(DiskError::Io { path, .. })) if path.ends_with(KEY_FILE))
    );
}

#[test]
fn nothing_is_kept_of_nobody() {
    let (dir, ca) = (Dir::new(), Ca::new("root"));
    let nothing = |state: &IdentityState| {
        let error = dir.keep().store(state).unwrap_err();
        assert!(matches!(error, KeepError::NothingToKeep { .. }), "{error}");
        assert!(!dir.path().exists());
    };
    nothing(&ca.state("td"));
    nothing(&IdentityState::new(issued(&ca), BundleSet::new()));
    let distrusted = TrustBundle::distrusted(domain("td"));
    nothing(&IdentityState::new(issued(&ca), distrusted.into()));
}

#[tokio::test(start_paused = true)]
async fn every_change_of_it_is_kept_and_no_other() {
    let (dir, ca) = (Dir::new(), Ca::new("root"));
    let (writer, reader) = identity(IdentityState::default());
    let keep = dir.keep();
    let mut status = keep.status();
    let task = tokio::spawn(keep.run(reader, pending()));
    writer.set(issued(&ca), ca.bundle("td").into());
    assert_eq!(status.changed().await.unwrap().writes, 1);
    let first = load(&dir.keep()).unwrap();

    // Another's SVID, and another domain's bundle: nothing is written.
    writer.set_svid(leaf("spiffe://td/other").svid(&ca));
    writer.set_bundle(Ca::new("other").bundle("other"));
    tokio::time::sleep(Duration::from_secs(60)).await;
    assert_eq!(status.load().writes, 1);
    let next = issued(&ca);
    let serial = next.serial().to_owned();
    writer.set_svid(next);
    assert_eq!(status.changed().await.unwrap().writes, 2);
    let second = load(&dir.keep()).unwrap();
    assert_eq!(second.default_svid().unwrap().serial(), serial);
    assert_ne!(first.default_svid().unwrap().serial(), serial);

    // A folder that is no place to keep a key in: reported, and tried again when it is one.
    dir.chmod("", 0o777);
    let mut crls = CrlSet::new();
    crls.insert(domain("td"), ca.crl().list()).unwrap();
    writer.set_crls(crls.clone());
    let now = status.changed().await.unwrap();
    assert!(matches!(
        now.last_error.as_deref(),
        Some(KeepError::Disk(DiskError::Loose { .. }))
    ));
    assert_eq!((now.writes, now.failures), (2, 1));
    dir.chmod("", 0o700);
    let now = status.changed().await.unwrap();
    assert_eq!((now.writes, now.failures), (3, 1));
    assert!(now.last_error.is_none());
    assert_eq!(load(&dir.keep()).unwrap().crls(), &crls);

    drop(writer);
    task.await.unwrap();
}

/// What was distrusted and what is revoked comes back, the first also where the SVID does not.
#[test]
fn what_is_distrusted_or_revoked_stays_so_over_a_restart() {
    let (dir, ca, other) = (Dir::new(), Ca::new("root"), Ca::new("other"));
    let [good, bad] = [&ca, &other].map(|ca| ca.bundle("td").roots()[0].key_id().to_owned());
    let mut first = IdentityState::new(issued(&ca), ca.bundle("td").into());
    first.distrust(&domain("td"), [bad.clone()]);
    let mut ids = RevokedIds::default();
    ids.insert(id("spiffe://td/ns/shop/sa/thief"), noon());
    first.replace_revoked_ids(ids.clone());
    dir.keep().store(&first).unwrap();
    let mut back = load(&dir.keep()).unwrap();
    assert_eq!(back.revoked_ids(), &ids);
    assert!(back.distrusted_keys(&domain("td")).eq([&bad]));
    back.replace_bundles(other.bundle("td").into());
    assert!(back.bundles().get(&domain("td")).unwrap().is_distrusted());

    // A state that has never heard of it takes nothing out of the list.
    let next = IdentityState::new(issued(&ca), ca.bundle("td").into());
    dir.keep().store(&next).unwrap();
    let mut last = next;
    last.distrust(&domain("td"), [good.clone()]);
    let nothing = dir.keep().store(&last).unwrap_err();
    assert!(
        matches!(nothing, KeepError::NothingToKeep { .. }),
        "no root is left"
    );
    assert!(matches!(
        load(&dir.keep()),
        Err(KeepError::NotValid(Rejected::Distrusted { .. }))
    ));
    let kept = dir.keep().load_distrusted().unwrap();
    assert_eq!(kept, [good, bad].into());

    std::fs::write(dir.path().join(DISTRUSTED_FILE), "0a\n\n").unwrap();
    let broken = dir.keep().load_distrusted().unwrap_err();
    assert!(matches!(broken, KeepError::Distrusted { .. }), "{broken}");
    dir.chmod(DISTRUSTED_FILE, 0o666);
    let loose = dir.keep().load_distrusted().unwrap_err();
    assert!(matches!(loose, KeepError::Disk(DiskError::Loose { .. })));
}
