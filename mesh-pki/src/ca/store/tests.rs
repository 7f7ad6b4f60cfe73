use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use super::memory::{Fault, MemoryDisk};
use super::*;
use crate::issue::make::CaKey;

fn key() -> PrivateKey {
    CaKey::generate().unwrap().secret()
}

fn mode(path: &Path) -> u32 {
    path.metadata().unwrap().permissions().mode() & 0o777
}

#[tokio::test]
async fn a_folder_keeps_state_and_keys_for_its_owner() {
    let dir = tempfile::tempdir().unwrap();
    let dir = dir.path().join("a/ca");
    let store = FileStore::open(&dir).unwrap();
    assert_eq!(store.dir(), dir);
    assert!(store.load().await.unwrap().is_none());

    let first = store.swap(None, b"one".to_vec()).await.unwrap();
    let second = store.swap(Some(first), b"two\n".to_vec()).await.unwrap();
    assert!(second > first);
    for stale in [None, Some(first), Some(Version(99))] {
        let refused = store.swap(stale, b"three".to_vec()).await.unwrap_err();
        assert!(matches!(refused, StoreError::Conflict), "{stale:?}");
    }
    assert_eq!(
        store.load().await.unwrap(),
        Some((b"two\n".to_vec(), second))
    );

    let (one, two) = (key(), key());
    store.keep_key("01ab", &one).await.unwrap();
    store.keep_key("02cd", &two).await.unwrap();
    let read = store.key("01ab").await.unwrap();
    assert_eq!(read.secret_pkcs8_der(), one.secret_pkcs8_der());
    for file in ["state.json", "keys/01ab.pem", "lock"] {
        assert_eq!(mode(&dir.join(file)), 0o600, "{file}");
    }
    for folder in ["", "keys"] {
        assert_eq!(mode(&dir.join(folder)), 0o700);
    }
    let mut all = store.key_ids().await.unwrap();
    all.sort();
    assert_eq!(all, ["01ab", "02cd"]);
    for _ in 0..2 {
        store.forget_keys(vec!["01ab".to_owned()]).await.unwrap();
    }
    let gone = store.key("01ab").await.unwrap_err();
    assert!(matches!(gone, StoreError::UnknownKey { key_id } if key_id == "01ab"));
    store.key("02cd").await.unwrap();
    for path in ["", "../state", "x/y", "g"] {
        let refused = store.key(path).await.unwrap_err();
        assert!(matches!(refused, StoreError::UnknownKey { .. }), "{path}");
        store.keep_key(path, &one).await.unwrap_err();
    }
}

#[cfg(unix)]
#[test]
fn the_lock_is_made_through_no_link() {
    let dir = tempfile::tempdir().unwrap();
    let (ca, victim) = (dir.path().join("ca"), dir.path().join("victim"));
    drop(FileStore::open(&ca).unwrap());
    std::fs::remove_file(ca.join("lock")).unwrap();
    std::os::unix::fs::symlink(&victim, ca.join("lock")).unwrap();
    let refused = FileStore::open(&ca).unwrap_err();
    assert!(matches!(refused, StoreError::Disk(_)), "{refused}");
    assert!(!victim.exists());
}

#[tokio::test]
async fn the_largest_state_is_read_again_and_a_larger_one_is_not_written() {
    let dir = tempfile::tempdir().unwrap();
    let store = FileStore::open(&dir.path().join("ca")).unwrap();
    let largest = vec![b'x'; MAX_STATE];
    let first = store.swap(None, largest.clone()).await.unwrap();
    let refused = store.swap(Some(first), vec![b'y'; MAX_STATE + 1]).await;
    assert!(matches!(
        refused,
        Err(StoreError::TooLarge { got, max: MAX_STATE }) if got == MAX_STATE + 1
    ));
    let (state, version) = store.load().await.unwrap().unwrap();
    assert!(state == largest, "{} bytes", state.len());
    assert_eq!(version, first);
    store.swap(Some(first), b"less".to_vec()).await.unwrap();
}

#[tokio::test]
async fn a_folder_has_one_user_at_a_time() {
    let dir = tempfile::tempdir().unwrap();
    let dir = dir.path().join("ca");
    let store = FileStore::open(&dir).unwrap();
    let error = FileStore::open(&dir).unwrap_err();
    assert!(matches!(error, StoreError::InUse { .. }), "{error}");
    drop(store);
    FileStore::open(&dir).unwrap();
}

#[tokio::test]
async fn what_others_may_use_is_refused() {
    let open = |path: &Path, mode| {
        std::fs::set_permissions(path, std::fs::Permissions::from_mode(mode)).unwrap();
    };
    let dir = tempfile::tempdir().unwrap();
    let dir = dir.path().join("ca");
    let store = FileStore::open(&dir).unwrap();
    store.keep_key("01", &key()).await.unwrap();
    open(&dir.join("keys/01.pem"), 0o640);
    let error = store.key("01").await.unwrap_err();
    assert!(
        matches!(
            error,
            StoreError::Disk(DiskError::Loose { mode: 0o640, .. })
        ),
        "{error}"
    );
    drop(store);
    open(&dir, 0o750);
    let error = FileStore::open(&dir).unwrap_err();
    assert!(error.to_string().contains("mode 750"), "{error}");
}

/// Only root can give files away; what counts as others' is a table beside [`disk::check_target`].
#[tokio::test]
async fn what_belongs_to_another_user_is_refused() {
    const OTHER: u32 = 65_534;
    if !nix::unistd::geteuid().is_root() {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let dir = dir.path().join("ca");
    let store = FileStore::open(&dir).unwrap();
    store.keep_key("01", &key()).await.unwrap();
    std::os::unix::fs::chown(dir.join("keys/01.pem"), Some(OTHER), None).unwrap();
    let error = store.key("01").await.unwrap_err();
    assert!(
        matches!(error, StoreError::Disk(DiskError::Owner { .. })),
        "{error}"
    );
    drop(store);
    std::os::unix::fs::chown(&dir, Some(OTHER), None).unwrap();
    let error = FileStore::open(&dir).unwrap_err();
    assert!(
        matches!(error, StoreError::Disk(DiskError::Owner { .. })),
        "{error}"
    );
}

#[tokio::test]
async fn what_no_ca_wrote_is_no_state() {
    let dir = tempfile::tempdir().unwrap();
    let store = FileStore::open(&dir.path().join("ca")).unwrap();
    for content in ["", "{}", "inmesh-ca-state x\n{}", "inmesh-ca-state 1"] {
        std::fs::write(store.dir().join("state.json"), content).unwrap();
        let error = store.load().await.unwrap_err();
        assert!(
            matches!(error, StoreError::Malformed { .. }),
            "{content:?}: {error}"
        );
        store.swap(None, Vec::new()).await.unwrap_err();
    }
    std::fs::write(store.dir().join("keys/01.pem"), "no key").unwrap();
    std::fs::set_permissions(
        store.dir().join("keys/01.pem"),
        std::fs::Permissions::from_mode(0o600),
    )
    .unwrap();
    let error = store.key("01").await.unwrap_err();
    assert!(matches!(error, StoreError::Pem { .. }), "{error}");
}

/// A swap is the old state or the new one after a loss of power at any point, and what a load has
/// reported stays.
#[tokio::test]
async fn a_swap_survives_a_loss_of_power_at_any_point() {
    let mut points = 0;
    for at in 0.. {
        for (lost, done) in [(false, false), (true, false), (false, true), (true, true)] {
            let disk = MemoryDisk::default();
            let old = disk.store().swap(None, b"old".to_vec()).await.unwrap();
            let dead = true;
            disk.fail(Fault { at, done, dead });
            let swapped = disk.store().swap(Some(old), b"new".to_vec()).await;
            points = points.max(disk.operations());
            disk.restart(lost);
            let (state, _) = disk.store().load().await.unwrap().unwrap();
            if swapped.is_ok() {
                assert_eq!(state, b"new", "written is written: {at}");
            }
            assert!(state == b"old" || state == b"new", "{at}: {state:?}");
            disk.restart(true);
            let again = disk.store().load().await.unwrap().unwrap();
            assert_eq!(again.0, state, "what was read stays: {at}");
        }
        if at > points {
            break;
        }
    }
    assert!(points >= 6, "{points} operations");
}
