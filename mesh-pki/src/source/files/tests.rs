use std::future::pending;

use super::*;
use crate::clock::TokioClock;
use crate::pem::PemError;
use crate::store::{IdentityReader, identity};
use crate::testing::{Ca, crypto, domain, id, leaf, minutes, noon};

const CART: &str = "spiffe://td/ns/shop/sa/cart";

struct Dir(tempfile::TempDir);

impl Dir {
    fn new() -> Self {
        Self(tempfile::tempdir().unwrap())
    }

    fn write(&self, name: &str, content: &str) {
        std::fs::write(self.0.path().join(name), content).unwrap();
    }

    fn source(&self) -> FileSource {
        FileSource::in_dir(self.0.path(), &crypto())
    }

    /// Writes the three files one after the other, as a careless script does.
    fn svid(&self, ca: &Ca) -> String {
        let svid = leaf(CART).svid(ca);
        self.write(CERT_FILE, &svid.chain_pem());
        self.write(KEY_FILE, &svid.key().to_secret_pem());
        self.write(BUNDLE_FILE, &ca.bundle("td").to_pem());
        svid.serial().to_owned()
    }
}

fn serial(reader: &IdentityReader) -> String {
    reader.load().default_svid().unwrap().serial().to_owned()
}

#[test]
fn files_are_loaded_or_named_in_the_error() {
    let (dir, ca) = (Dir::new(), Ca::new("root"));
    let load = |dir: &Dir| dir.source().load();
    assert!(matches!(load(&dir), Err(FileError::Io { path, .. }) if path.ends_with(CERT_FILE)));
    let first = dir.svid(&ca);
    let state = load(&dir).unwrap();
    assert_eq!(state.default_svid().unwrap().serial(), first);
    assert_eq!(state.bundles().get(&domain("td")), Some(&ca.bundle("td")));

    dir.write(BUNDLE_FILE, "");
    assert!(matches!(
        load(&dir),
        Err(FileError::Bundle { path, source: BundleError::Pem { .. } }) if path.ends_with(BUNDLE_FILE)
    ));
    dir.write(KEY_FILE, &leaf(CART).svid(&ca).key().to_secret_pem());
    match load(&dir).unwrap_err() {
        FileError::Svid { source, .. } => {
            assert!(matches!(*source, SvidError::KeyMismatch { .. }));
        }
        other => panic!("{other:?}"),
    }
    dir.write(KEY_FILE, &"x".repeat(2 * 1024 * 1024));
    assert!(matches!(load(&dir), Err(FileError::Io { path, .. }) if path.ends_with(KEY_FILE)));
}

#[test]
fn other_trust_domains_have_files_of_their_own() {
    let (dir, ours, theirs) = (Dir::new(), Ca::new("ours"), Ca::new("theirs"));
    dir.svid(&ours);
    dir.write("other.pem", &theirs.bundle("other").to_pem());
    let source = dir
        .source()
        .with_bundle(domain("other"), dir.0.path().join("other.pem"));
    let state = source.load().unwrap();
    assert_eq!(state.bundles().get(&domain("td")), Some(&ours.bundle("td")));
    assert_eq!(
        state.bundles().get(&domain("other")),
        Some(&theirs.bundle("other"))
    );
}

#[test]
fn revocation_lists_have_a_file_of_their_own() {
    let (dir, ca) = (Dir::new(), Ca::new("root"));
    dir.svid(&ca);
    let path = dir.0.path().join("crl.pem");
    let load = || dir.source().with_crls(&path).load();
    assert!(matches!(load(), Err(FileError::Io { path, .. }) if path.ends_with("crl.pem")));
    // A file without a list is an accident, and no list.
    dir.write("crl.pem", &ca.bundle("td").to_pem());
    assert!(matches!(
        load(),
        Err(FileError::Crl { path, source: CrlError::Pem(PemError::NoCrl) }) if path.ends_with("crl.pem")
    ));
    let other = Ca::new("other");
    let lists = [ca.crl().list(), other.crl().list()];
    dir.write(
        "crl.pem",
        &lists.iter().map(Crl::to_pem).collect::<String>(),
    );
    let state = load().unwrap();
    assert_eq!(state.crls().get(&domain("td")), lists);
    assert_eq!(state.crls().len(), 2);
    // Without the option the file is not looked at, also beside bundles of others.
    assert!(dir.source().load().unwrap().crls().is_empty());
    dir.write("other.pem", &other.bundle("other").to_pem());
    let more = dir.source().with_crls(&path);
    let more = more.with_bundle(domain("other"), dir.0.path().join("other.pem"));
    let state = more.load().unwrap();
    assert_eq!((state.crls().len(), state.bundles().len()), (2, 2));
}

/// A source that runs, with the status that shows when it has looked.
fn start(dir: &Dir) -> (IdentityReader, StatusReader<FileStatus>) {
    run(dir.source())
}

fn run(source: FileSource) -> (IdentityReader, StatusReader<FileStatus>) {
    let source = source.with_interval(Duration::from_millis(5));
    let status = source.status();
    let (writer, reader) = identity(IdentityState::default());
    tokio::spawn(source.run(Arc::new(writer), pending()));
    (reader, status)
}

async fn until(status: &mut StatusReader<FileStatus>, met: impl Fn(&FileStatus) -> bool) {
    while !met(&status.load()) {
        status.changed().await.unwrap();
    }
}

#[tokio::test]
async fn a_change_is_loaded_and_a_mismatch_is_reported_and_not_used() {
    let (dir, ca) = (Dir::new(), Ca::new("root"));
    let first = dir.svid(&ca);
    let (mut reader, mut status) = start(&dir);
    reader.changed().await.unwrap();
    assert_eq!(serial(&reader), first);

    // A new certificate, and the key comes later.
    let next = leaf(CART).svid(&ca);
    dir.write(CERT_FILE, &next.chain_pem());
    until(&mut status, |status| status.last_error.is_some()).await;
    assert_eq!(serial(&reader), first, "the last good pair stays");
    let error = status.load().last_error.unwrap();
    assert!(
        matches!(&*error, FileError::Svid { source, .. } if matches!(**source, SvidError::KeyMismatch { .. }))
    );
    dir.write(KEY_FILE, &next.key().to_secret_pem());
    until(&mut status, |status| status.last_error.is_none()).await;
    assert_eq!(serial(&reader), next.serial());
    assert_eq!(reader.load().svids().count(), 1);

    // A file that goes away and comes back.
    std::fs::remove_file(dir.0.path().join(BUNDLE_FILE)).unwrap();
    until(&mut status, |status| status.last_error.is_some()).await;
    assert_eq!(
        reader.load().bundles().get(&domain("td")),
        Some(&ca.bundle("td"))
    );
    let new = Ca::new("new");
    dir.write(BUNDLE_FILE, &new.bundle("td").to_pem());
    until(&mut status, |status| status.last_error.is_none()).await;
    assert_eq!(
        reader.load().bundles().get(&domain("td")),
        Some(&new.bundle("td"))
    );
}

#[tokio::test]
async fn a_new_root_and_its_list_arrive_together_and_a_broken_list_keeps_both() {
    let (dir, old, new) = (Dir::new(), Ca::new("old"), Ca::new("new"));
    dir.svid(&old);
    let gone = leaf(CART).signed_by(&old);
    let lists = [old.crl().revoking(&gone).list()];
    dir.write("crl.pem", &lists[0].to_pem());
    let (mut reader, mut status) = run(dir.source().with_crls(dir.0.path().join("crl.pem")));
    let state = reader.changed().await.unwrap();
    assert_eq!(state.crls().get(&domain("td")), lists);

    // The list is broken when the bundle changes: nothing of either is taken.
    dir.write("crl.pem", "-----BEGIN X509 CRL-----\n");
    until(&mut status, |status| status.last_error.is_some()).await;
    dir.write(BUNDLE_FILE, &new.bundle("td").to_pem());
    let failures = status.load().failures;
    until(&mut status, |status| status.failures > failures).await;
    let kept = reader.load();
    assert_eq!(kept.epoch(), state.epoch());
    assert_eq!(kept.crls().get(&domain("td")), lists);
    assert_eq!(kept.bundles().get(&domain("td")), Some(&old.bundle("td")));

    let lists = new.crl().list();
    dir.write("crl.pem", &lists.to_pem());
    let state = reader.changed().await.unwrap();
    assert_eq!(state.crls().get(&domain("td")), [lists]);
    assert_eq!(state.bundles().get(&domain("td")), Some(&new.bundle("td")));
}

#[tokio::test(start_paused = true)]
async fn what_stays_the_same_is_loaded_or_reported_once() {
    let (dir, ca) = (Dir::new(), Ca::new("root"));
    dir.svid(&ca);
    let (reader, status) = start(&dir);
    // Virtual time does not move while a file is read, so this is about twenty looks.
    let looks = || tokio::time::sleep(Duration::from_millis(100));
    looks().await;
    // Same bytes, new times.
    let cert = std::fs::read_to_string(dir.0.path().join(CERT_FILE)).unwrap();
    dir.write(CERT_FILE, &cert);
    looks().await;
    assert_eq!((status.load().loads, reader.load().epoch()), (1, 1));
    dir.write(BUNDLE_FILE, "broken");
    looks().await;
    assert_eq!((status.load().loads, status.load().failures), (1, 1));
    std::fs::remove_file(dir.0.path().join(BUNDLE_FILE)).unwrap();
    looks().await;
    assert_eq!((status.load().loads, status.load().failures), (1, 2));
    dir.write(BUNDLE_FILE, &Ca::new("new").bundle("td").to_pem());
    looks().await;
    assert_eq!((status.load().loads, reader.load().epoch()), (2, 2));
}

#[tokio::test(start_paused = true)]
async fn an_id_that_is_gone_from_the_files_is_gone() {
    let (dir, ca) = (Dir::new(), Ca::new("root"));
    dir.svid(&ca);
    let (mut reader, _status) = start(&dir);
    assert_eq!(
        reader.changed().await.unwrap().default_svid().unwrap().id(),
        &id(CART)
    );
    let other = leaf("spiffe://td/ns/shop/sa/other").svid(&ca);
    dir.write(KEY_FILE, &other.key().to_secret_pem());
    dir.write(CERT_FILE, &other.chain_pem());
    let state = reader.changed().await.unwrap();
    assert_eq!(state.default_svid().unwrap().id(), other.id());
    assert!(state.svid(&id(CART)).is_none());
}

#[cfg(unix)]
#[test]
fn a_reader_never_sees_half_of_what_is_published() {
    let (dir, ca) = (Dir::new(), Ca::new("root"));
    let path = dir.0.path();
    let first = leaf(CART).svid(&ca);
    publish(path, &first, &ca.bundle("td")).unwrap();
    // Through the one link, at any moment, the pair is whole: resolve it once and read.
    let stop = std::sync::atomic::AtomicBool::new(false);
    std::thread::scope(|scope| {
        let (stop, ca) = (&stop, &ca);
        let reader = scope.spawn(move || {
            let mut whole = 0;
            while whole == 0 || !stop.load(std::sync::atomic::Ordering::Relaxed) {
                let version = std::fs::read_link(path.join("..data")).unwrap();
                let read = |name: &str| std::fs::read(path.join(&version).join(name));
                // The folder may be gone by now; half of it never is there.
                if let (Ok(cert), Ok(key)) = (read(CERT_FILE), read(KEY_FILE)) {
                    X509Svid::from_pem(&cert, &key, &crypto()).unwrap();
                    whole += 1;
                }
            }
            whole
        });
        for _ in 0..50 {
            publish(path, &leaf(CART).svid(ca), &ca.bundle("td")).unwrap();
        }
        stop.store(true, std::sync::atomic::Ordering::Relaxed);
        assert!(reader.join().unwrap() > 0);
    });
    // And a source that opens one name after the other ends up with the latest.
    let state = dir.source().load().unwrap();
    assert_ne!(state.svid(&id(CART)).unwrap().serial(), first.serial());
}

/// A reader that is slower than a writer begins again, and no folder has the name of an earlier one.
#[cfg(unix)]
#[test]
fn a_set_that_is_replaced_while_it_is_read_is_read_again() {
    let (dir, ca) = (Dir::new(), Ca::new("root"));
    let (path, svid) = (dir.0.path(), leaf(CART).svid(&ca));
    let publish = || publish(path, &svid, &ca.bundle("td")).unwrap();
    let missing = read_set(path, |_| ()).unwrap_err();
    assert_eq!(missing.kind(), io::ErrorKind::NotFound);
    publish();
    let mut seen = Vec::new();
    let found = read_set(path, |folder| {
        seen.push(folder.to_owned());
        if seen.len() <= 3 {
            publish();
        }
        std::fs::read(folder.join(CERT_FILE)).map_err(|error| error.kind())
    });
    assert_eq!(found.unwrap().unwrap(), svid.chain_pem().as_bytes());
    assert_eq!(seen.len(), 4);
    let names: std::collections::BTreeSet<_> = seen.iter().collect();
    assert_eq!(names.len(), 4, "{seen:?}");
    // There is an end to it.
    let busy = read_set(path, |_| publish()).unwrap_err();
    assert_eq!(busy.kind(), io::ErrorKind::ResourceBusy);
}

#[cfg(unix)]
#[test]
fn the_same_svid_is_published_once_more_after_a_crash() {
    let (dir, ca) = (Dir::new(), Ca::new("root"));
    let svid = leaf(CART).svid(&ca);
    // A crash left the folder, but no link to it.
    let left = dir.0.path().join(format!("..svid-{}.0", svid.serial()));
    std::fs::create_dir(&left).unwrap();
    std::fs::write(left.join(CERT_FILE), "half").unwrap();
    publish(dir.0.path(), &svid, &ca.bundle("td")).unwrap();
    publish(dir.0.path(), &svid, &Ca::new("new").bundle("td")).unwrap();
    assert_eq!(
        dir.source()
            .load()
            .unwrap()
            .default_svid()
            .unwrap()
            .serial(),
        svid.serial()
    );
    assert_eq!(std::fs::read_dir(dir.0.path()).unwrap().count(), 5);
}

/// Readers of the three names would read something else.
#[cfg(unix)]
#[test]
fn what_stands_under_a_name_and_is_not_ours_stays() {
    use std::os::unix::fs::symlink;
    let (dir, ca) = (Dir::new(), Ca::new("root"));
    let victim = dir.0.path().join("victim");
    std::fs::write(&victim, "old").unwrap();
    let svid = leaf(CART).svid(&ca);
    let publish = || publish(dir.0.path(), &svid, &ca.bundle("td"));
    for name in [CERT_FILE, KEY_FILE, BUNDLE_FILE] {
        let path = dir.0.path().join(name);
        symlink(&victim, &path).unwrap();
        let refused = publish().unwrap_err();
        assert_eq!(refused.kind(), io::ErrorKind::AlreadyExists, "{name}");
        std::fs::remove_file(&path).unwrap();
        std::fs::write(&path, "a file").unwrap();
        assert!(publish().is_err(), "{name}");
        std::fs::remove_file(&path).unwrap();
    }
    assert_eq!(std::fs::read(&victim).unwrap(), b"old");
    publish().unwrap();
    publish().unwrap();
}

#[tokio::test(start_paused = true)]
async fn a_start_reads_the_files_and_its_task_follows_them() {
    let dir = tempfile::tempdir().unwrap();
    let missing = FileSource::in_dir(dir.path(), &crypto()).start().await;
    assert!(matches!(missing.unwrap_err(), FileError::Io { .. }));

    let ca = Ca::new("root");
    publish(dir.path(), &leaf(CART).svid(&ca), &ca.bundle("td")).unwrap();
    let source = FileSource::in_dir(dir.path(), &crypto());
    let identity = source.start().await.unwrap();
    let first = identity.reader.ready().await.unwrap();
    let task = tokio::spawn(identity.task);
    let next = leaf(CART).svid(&ca);
    publish(dir.path(), &next, &ca.bundle("td")).unwrap();
    let mut reader = identity.reader;
    while reader.latest().default_svid().unwrap().serial() != next.serial() {
        reader.changed().await.unwrap();
    }
    assert_ne!(first.default_svid().unwrap().serial(), next.serial());
    task.abort();
}

/// What is written into the files over a good SVID, and which of both serves after a look.
#[tokio::test(start_paused = true)]
async fn the_better_of_old_and_new_serves() {
    let (dir, ca, foreign) = (Dir::new(), Ca::new("root"), Ca::new("foreign"));
    let clock = TokioClock::new(noon());
    let good = dir.svid(&ca);
    let source = dir.source().with_clock(clock.shared());
    let (writer, reader) = identity(source.load().unwrap());
    let status = source.status();
    tokio::spawn(source.run(Arc::new(writer), pending()));
    let looked = async || tokio::time::sleep(3 * DEFAULT_INTERVAL).await;
    looked().await;
    let put = |ca: &Ca, from: i64, to: u64| {
        let draft = leaf(CART).with(|p| {
            p.not_before =
                (noon() + minutes(10 * 60) - minutes(u64::try_from(600 - from).unwrap())).into();
            p.not_after = (noon() + minutes(to)).into();
        });
        let svid = draft.svid(ca);
        dir.write(CERT_FILE, &svid.chain_pem());
        dir.write(KEY_FILE, &svid.key().to_secret_pem());
        svid.serial().to_owned()
    };
    for (ca, from, to) in [(&foreign, -30, 30), (&ca, 1, 40)] {
        let failures = status.load().failures;
        put(ca, from, to);
        looked().await;
        assert_eq!(serial(&reader), good);
        let now = status.load();
        assert_eq!(now.failures, failures + 1, "said once");
        let error = now.last_error.unwrap();
        assert!(matches!(*error, FileError::NotValid { .. }), "{error}");
    }
    // Its time comes: it serves without a change of the files.
    let later = put(&ca, 1, 40);
    looked().await;
    assert_eq!(serial(&reader), good);
    clock.set(noon() + minutes(2));
    looked().await;
    assert_eq!(serial(&reader), later);
    assert!(status.load().last_error.is_none());
    // Neither is valid: the one that ends later.
    clock.set(noon() + minutes(100));
    put(&ca, -30, 30);
    looked().await;
    assert_eq!(serial(&reader), later);
    let longer = put(&ca, -30, 50);
    looked().await;
    assert_eq!(serial(&reader), longer);
}

/// Files over a good SVID, of which only some is taken.
struct Over {
    dir: Dir,
    ca: Ca,
    reader: IdentityReader,
    status: StatusReader<FileStatus>,
    good: String,
}

impl Over {
    fn new() -> Self {
        let (dir, ca) = (Dir::new(), Ca::new("root"));
        let good = dir.svid(&ca);
        dir.write("crl.pem", &ca.crl().list().to_pem());
        let lists = dir.0.path().join("crl.pem");
        let clock = TokioClock::new(noon());
        let source = dir.source().with_crls(lists).with_clock(clock.shared());
        let (writer, reader) = identity(source.load().unwrap());
        let status = source.status();
        tokio::spawn(source.run(Arc::new(writer), pending()));
        Self {
            dir,
            ca,
            reader,
            status,
            good,
        }
    }

    fn put(&self, svid: &X509Svid) {
        self.dir.write(CERT_FILE, &svid.chain_pem());
        self.dir.write(KEY_FILE, &svid.key().to_secret_pem());
    }

    /// The serial that serves, the roots and the lists after a look, and how often it failed.
    async fn looked(&self) -> (String, usize, Vec<Crl>, u64) {
        tokio::time::sleep(3 * DEFAULT_INTERVAL).await;
        let state = self.reader.load();
        let roots = state.bundles().get(&domain("td")).unwrap().roots().len();
        let lists = state.crls().get(&domain("td")).to_vec();
        (
            serial(&self.reader),
            roots,
            lists,
            self.status.load().failures,
        )
    }
}

#[tokio::test(start_paused = true)]
async fn a_revoked_svid_replaces_no_good_one_and_the_list_counts() {
    let over = Over::new();
    over.looked().await;
    let next = leaf(CART).svid(&over.ca);
    let list = over
        .ca
        .crl()
        .with(|p| p.crl_number = 2_u64.into())
        .revoking(&next.chain()[0])
        .list();
    over.dir.write("crl.pem", &list.to_pem());
    over.put(&next);
    let both = [over.ca.cert.clone(), Ca::new("new").cert];
    let both = TrustBundle::new(domain("td"), both).unwrap();
    over.dir.write(BUNDLE_FILE, &both.to_pem());
    let epoch = over.reader.load().epoch();
    let (serving, roots, lists, failures) = over.looked().await;
    assert_eq!(serving, over.good);
    assert_eq!(
        (roots, lists, failures),
        (2, vec![list], 1),
        "what the files trust and deny counts"
    );
    over.looked().await;
    assert_eq!(over.reader.load().epoch(), epoch + 1, "written once");
    // One that is not revoked is taken under the same list.
    let better = leaf(CART).svid(&over.ca);
    over.put(&better);
    assert_eq!(over.looked().await.0, better.serial());
}

#[tokio::test(start_paused = true)]
async fn a_list_that_revokes_our_own_svid_is_taken() {
    let over = Over::new();
    over.looked().await;
    let had = Arc::clone(over.reader.load().default_svid().unwrap());
    let list = over
        .ca
        .crl()
        .with(|p| p.crl_number = 2_u64.into())
        .revoking(&had.chain()[0])
        .list();
    over.dir.write("crl.pem", &list.to_pem());
    let (serving, _, lists, _) = over.looked().await;
    assert_eq!((serving, lists), (over.good.clone(), vec![list]));
    let state = over.reader.load();
    let why = validate_own(&had, &state, noon(), &crypto());
    assert!(matches!(why, Err(Rejected::Revoked { .. })), "{why:?}");
}

#[tokio::test(start_paused = true)]
async fn a_bundle_under_which_no_svid_is_good_is_not_taken() {
    let over = Over::new();
    let before = over.looked().await;
    let foreign = Ca::new("foreign");
    over.dir.write(BUNDLE_FILE, &foreign.bundle("td").to_pem());
    let (serving, roots, lists, failures) = over.looked().await;
    assert_eq!((serving, roots, lists), (before.0, before.1, before.2));
    assert_eq!(failures, 1);
    assert_eq!(
        over.reader.load().bundles().get(&domain("td")),
        Some(&over.ca.bundle("td"))
    );
}

/// At a start there is nothing better, and what is asked names what is wrong.
#[test]
fn what_is_wrong_with_the_first_svid_can_be_asked() {
    let (dir, ca, foreign) = (Dir::new(), Ca::new("root"), Ca::new("foreign"));
    dir.svid(&ca);
    let lists = dir.0.path().join("crl.pem");
    dir.write("crl.pem", &ca.crl().list().to_pem());
    let judge = |after: Duration| {
        let state = dir.source().with_crls(&lists).load().unwrap();
        let svid = state.default_svid().unwrap();
        validate_own(svid, &state, noon() + after, &crypto())
    };
    assert_eq!(judge(Duration::ZERO), Ok(()));
    let ended = judge(minutes(60));
    assert!(matches!(ended, Err(Rejected::Expired { .. })), "{ended:?}");
    dir.write(BUNDLE_FILE, &foreign.bundle("td").to_pem());
    let unknown = judge(Duration::ZERO);
    assert!(
        matches!(unknown, Err(Rejected::UnknownIssuer { .. })),
        "{unknown:?}"
    );
    let mine = dir.svid(&ca);
    let state = dir.source().load().unwrap();
    let svid = state.default_svid().unwrap();
    assert_eq!(svid.serial(), mine);
    let list = ca.crl().revoking(&svid.chain()[0]).list();
    dir.write("crl.pem", &list.to_pem());
    let revoked = judge(Duration::ZERO);
    assert!(
        matches!(revoked, Err(Rejected::Revoked { .. })),
        "{revoked:?}"
    );
}

#[test]
fn an_id_that_does_not_fit_is_refused() {
    let (dir, ca) = (Dir::new(), Ca::new("root"));
    dir.svid(&ca);
    dir.source()
        .with_id_path("/ns/shop/sa/cart")
        .load()
        .unwrap();
    let other = dir.source().with_id_path("/ns/shop/sa/other").load();
    let error = other.unwrap_err();
    assert!(
        matches!(&error, FileError::Id { got, .. } if *got == id(CART)),
        "{error}"
    );
}
