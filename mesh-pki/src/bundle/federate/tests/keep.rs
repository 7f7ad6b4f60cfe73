//! What was taken, kept over a restart: with its age, its sequence number, and files that are not as
//! they were left.

use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;
use std::time::SystemTime;

use super::super::keep::{KeptBundle as Fetched, is_due, left};
use super::*;
use crate::clock::{Clock, TokioClock};
use crate::disk::DiskError;

/// Whether an error is the one that is expected.
type Expected = fn(&BundleKeepError) -> bool;

/// A folder, and processes that keep bundles in it one after the other.
struct Disk {
    dir: tempfile::TempDir,
    clock: Arc<dyn Clock>,
    script: Script,
}

impl Disk {
    fn new(word: &TrustBundle) -> Self {
        Self {
            dir: tempfile::tempdir().unwrap(),
            clock: TokioClock::new(noon()).shared(),
            script: Script::new(word),
        }
    }

    fn folder(&self) -> PathBuf {
        self.dir.path().join("kept")
    }

    fn file(&self) -> PathBuf {
        self.folder().join("other.example.json")
    }

    fn start(&self) -> KeptBundle {
        self.start_in(self.folder())
    }

    fn start_in(&self, dir: PathBuf) -> KeptBundle {
        let url = "https://other.example/".parse().unwrap();
        let relationship = Relationship::new(domain("other.example"), url, Profile::Web)
            .unwrap()
            .with_max_age(minutes(20));
        let (script, clock) = (self.script.clone(), Arc::clone(&self.clock));
        KeptBundle::run(Federation::with(vec![relationship], script, clock, || 0.0).with_keep(dir))
    }

    /// A process that takes what the script says, keeps it, and ends.
    async fn once(&self) {
        let mut kept = self.start();
        let now = kept.until(|status| status.fetches == 1 && status.next_try.is_some());
        let now = now.await;
        assert!(now.keep_error.is_none(), "{now:?}");
    }

    fn mode(path: &std::path::Path) -> u32 {
        std::fs::metadata(path).unwrap().permissions().mode() & 0o7777
    }
}

#[test]
fn an_age_goes_on_from_the_moment_of_fetching() {
    let age = minutes(20);
    let second = Duration::from_secs(1);
    for (fetched_at, expected) in [
        (noon(), Some(age)),
        (noon() - minutes(15), Some(minutes(5))),
        (noon() - age + second, Some(second)),
        (noon() - age, None),
        (noon() - 2 * age, None),
        (SystemTime::UNIX_EPOCH, None),
        // A clock that was set back a little, and one that says nothing of the age.
        (noon() + minutes(2), Some(age)),
        (noon() + minutes(2) + second, None),
    ] {
        assert_eq!(left(noon(), fetched_at, age), expected, "{fetched_at:?}");
    }
}

#[test]
fn a_file_is_written_when_it_says_too_little() {
    let fetched = |sequence, fetched_at| Fetched {
        bundle: TrustBundle::distrusted(domain("td")).with_sequence(sequence),
        fetched_at,
    };
    let (age, second) = (minutes(16), Duration::from_secs(1));
    let saved = fetched(1, noon());
    for (saved, next, expected) in [
        (None, fetched(1, noon()), true),
        (Some(&saved), fetched(1, noon()), false),
        (Some(&saved), fetched(2, noon()), true),
        (
            Some(&saved),
            fetched(1, noon() + minutes(1) - second),
            false,
        ),
        (Some(&saved), fetched(1, noon() + minutes(1)), true),
        (Some(&saved), fetched(1, noon() - second), true),
    ] {
        assert_eq!(is_due(saved, &next, age), expected, "{next:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_kept_bundle_comes_back_and_ages_on_while_its_endpoint_is_away() {
    let bundle = Ca::new("root").bundle("other.example").with_sequence(7);
    let disk = Disk::new(&bundle);
    let begin = tokio::time::Instant::now();
    disk.once().await;
    assert_eq!(Disk::mode(&disk.folder()), 0o700);
    assert_eq!(Disk::mode(&disk.file()), 0o600);
    assert_eq!(std::fs::read_dir(disk.folder()).unwrap().count(), 1);

    tokio::time::advance(minutes(15)).await;
    disk.script.say("away");
    let mut kept = disk.start();
    let now = kept.until(|status| status.trusted).await;
    assert_eq!((now.fetches, now.sequence, now.roots), (0, Some(7), 1));
    assert_eq!(now.fetched_at, Some(noon()));
    assert_eq!(kept.bundle(), Some(bundle.clone()));
    kept.until(|status| !status.trusted).await;
    assert_eq!(begin.elapsed(), minutes(20));
    assert_eq!(kept.bundle(), None);
    drop(kept);

    // And it is too old for the process that comes after that.
    let mut kept = disk.start();
    let now = kept.until(|status| status.failures == 2).await;
    assert_eq!((now.trusted, now.roots, now.sequence), (false, 0, Some(7)));
    assert_eq!(kept.bundle(), None);
    disk.script.say(json(&bundle));
    kept.until(|status| status.trusted).await;
    assert_eq!(kept.bundle(), Some(bundle));
}

#[tokio::test(start_paused = true)]
async fn no_bundle_outlives_its_age_while_a_fetch_goes_on() {
    let bundle = Ca::new("root").bundle("other.example").with_sequence(7);
    let disk = Disk::new(&bundle);
    let begin = tokio::time::Instant::now();
    disk.once().await;
    let second = Duration::from_secs(1);
    tokio::time::advance(minutes(20) - second).await;
    disk.script.say(HANGS);
    let mut kept = disk.start();
    kept.until(|status| status.trusted).await;
    assert_eq!(kept.bundle(), Some(bundle));
    let gone = kept.until(|status| !status.trusted);
    tokio::time::timeout(minutes(60), gone).await.unwrap();
    assert_eq!(begin.elapsed(), minutes(20));
    assert_eq!(kept.bundle(), None);
}

/// The one thread for disks is busy: what withdraws a root is used all the same, what adds one only
/// when it is on the disk.
#[test]
fn what_is_withdrawn_waits_for_no_disk() {
    let all = [Ca::new("a"), Ca::new("b"), Ca::new("c")];
    let of = |names: &[usize], sequence| {
        let roots = names.iter().map(|at| all[*at].cert.clone());
        let bundle = TrustBundle::new(domain("other.example"), roots).unwrap();
        bundle.with_sequence(sequence)
    };
    let none = TrustBundle::distrusted(domain("other.example")).with_sequence(8);
    for (next, at_once) in [
        (of(&[0], 8), true),
        (of(&[0, 2], 8), true),
        (none, true),
        (of(&[0, 1, 2], 8), false),
        (of(&[1, 0], 8), false),
    ] {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .start_paused(true)
            .max_blocking_threads(1)
            .build();
        runtime.unwrap().block_on(async {
            let first = of(&[0, 1], 7);
            let disk = Disk::new(&first);
            disk.once().await;
            let mut kept = disk.start();
            kept.until(|status| status.fetches == 1).await;

            let (free, busy) = std::sync::mpsc::channel::<()>();
            let blocked = tokio::task::spawn_blocking(move || busy.recv());
            disk.script.say(json(&next));
            tokio::time::advance(DEFAULT_REFRESH).await;
            for _ in 0..100 {
                tokio::task::yield_now().await;
            }
            let now = kept.bundle();
            assert_eq!(now.as_ref(), Some(if at_once { &next } else { &first }));
            let saved = || std::fs::read_to_string(disk.file()).unwrap();
            assert!(saved().contains(r#""spiffe_sequence":7"#));

            drop(free);
            blocked.await.unwrap().unwrap_err();
            kept.until(|status| status.fetches == 2).await;
            assert_eq!(kept.bundle(), Some(next));
            // Whatever was asked of the disk before this is done.
            tokio::task::spawn_blocking(|| ()).await.unwrap();
            assert!(saved().contains(r#""spiffe_sequence":8"#));
        });
    }
}

#[tokio::test(start_paused = true)]
async fn a_lower_number_is_refused_after_a_restart_however_late() {
    let ca = Ca::new("root");
    let seven = ca.bundle("other.example").with_sequence(7);
    let disk = Disk::new(&seven);
    disk.once().await;
    let old = Ca::new("old").bundle("other.example");
    for (pause, trusted) in [(minutes(0), Some(&seven)), (minutes(60), None)] {
        tokio::time::advance(pause).await;
        for (lie, expected) in [
            (
                old.clone().with_sequence(6),
                Stale::WentBack { had: 7, got: 6 },
            ),
            (old.clone(), Stale::Without { had: 7 }),
        ] {
            disk.script.say(json(&lie));
            let mut kept = disk.start();
            let now = kept.until(|status| status.failures == 1).await;
            let error = now.last_error.unwrap();
            assert!(
                matches!(&*error, FederationError::Stale(stale) if *stale == expected),
                "{error}"
            );
            assert_eq!(kept.bundle().as_ref(), trusted);
        }
    }
    let eight = old.with_sequence(8);
    disk.script.say(json(&eight));
    disk.once().await;
    disk.script.say(json(&seven));
    let mut kept = disk.start();
    kept.until(|status| status.failures == 1).await;
    assert_eq!(kept.bundle(), Some(eight));
}

#[tokio::test(start_paused = true)]
async fn a_file_that_cannot_be_used_is_as_good_as_none() {
    let bundle = Ca::new("root").bundle("other.example").with_sequence(7);
    let disk = Disk::new(&bundle);
    disk.once().await;
    let good = std::fs::read_to_string(disk.file()).unwrap();
    let cases: [(String, u32, Expected); 6] = [
        (String::new(), 0o600, |e| {
            matches!(e, BundleKeepError::Bundle { .. })
        }),
        (good[..good.len() / 2].to_owned(), 0o600, |e| {
            matches!(e, BundleKeepError::Bundle { .. })
        }),
        // A plain bundle has no age.
        (json(&bundle), 0o600, |e| {
            matches!(e, BundleKeepError::Unmarked { .. })
        }),
        (
            good.replace("\"other.example\"", "\"else.example\""),
            0o600,
            |e| matches!(e, BundleKeepError::WrongDomain { got, .. } if got == "else.example"),
        ),
        (good.clone(), 0o622, |e| {
            matches!(
                e,
                BundleKeepError::Disk(DiskError::Loose { mode: 0o622, .. })
            )
        }),
        ("x".repeat(2 * 1024 * 1024), 0o600, |e| {
            matches!(e, BundleKeepError::Disk(DiskError::Io { .. }))
        }),
    ];
    for (at, (content, mode, expected)) in cases.into_iter().enumerate() {
        std::fs::write(disk.file(), content).unwrap();
        let mode = std::fs::Permissions::from_mode(mode);
        std::fs::set_permissions(disk.file(), mode).unwrap();
        disk.script.say("away");
        let mut kept = disk.start();
        let now = kept.until(|status| status.failures == 1).await;
        let error = now.keep_error.unwrap();
        assert!(expected(&error), "case {at}: {error:?}");
        assert_eq!((now.trusted, now.sequence), (false, None), "case {at}");
        assert_eq!(kept.bundle(), None, "case {at}");
        // The next that is fetched is taken, and mends the file.
        disk.script.say(json(&bundle));
        let now = kept.until(|status| status.trusted).await;
        assert!(now.keep_error.is_none(), "case {at}: {now:?}");
        assert_eq!(std::fs::read_dir(disk.folder()).unwrap().count(), 1);
        assert_eq!(Disk::mode(&disk.file()), 0o600);
    }
    assert_eq!(
        TrustBundle::from_json(
            domain("other.example"),
            &std::fs::read(disk.file()).unwrap()
        ),
        Ok(bundle),
        "any reader of bundles reads it"
    );
}

/// Only root can give files away; what counts as others' is a table beside [`crate::disk::check`].
#[tokio::test(start_paused = true)]
async fn a_folder_or_file_of_another_user_counts_for_nothing() {
    const NOBODY: u32 = 65_534;
    if !nix::unistd::geteuid().is_root() {
        return;
    }
    let bundle = Ca::new("root").bundle("other.example").with_sequence(7);
    let disk = Disk::new(&bundle);
    disk.once().await;
    disk.script.say("away");
    for path in [disk.folder(), disk.file()] {
        std::os::unix::fs::chown(&path, Some(NOBODY), None).unwrap();
        let mut kept = disk.start();
        let now = kept.until(|status| status.failures == 1).await;
        match now.keep_error.as_deref() {
            Some(BundleKeepError::Disk(DiskError::Owner { path: at, owner })) => {
                assert_eq!((at, *owner), (&path, NOBODY));
            }
            other => panic!("{path:?}: {other:?}"),
        }
        assert_eq!((now.trusted, now.sequence), (false, None));
        assert_eq!(kept.bundle(), None);
        std::os::unix::fs::chown(&path, Some(0), None).unwrap();
    }
    let mut kept = disk.start();
    kept.until(|status| status.trusted).await;
}

#[tokio::test(start_paused = true)]
async fn a_moment_in_the_future_is_no_age_and_its_number_counts() {
    let bundle = Ca::new("root").bundle("other.example").with_sequence(7);
    let mut disk = Disk::new(&bundle);
    disk.once().await;
    disk.clock = TokioClock::new(noon() - minutes(3)).shared();
    disk.script.say("away");
    let mut kept = disk.start();
    let now = kept.until(|status| status.failures == 1).await;
    assert_eq!((now.trusted, now.sequence), (false, Some(7)));
    assert_eq!(kept.bundle(), None);
}

#[tokio::test(start_paused = true)]
async fn a_disk_that_fails_keeps_no_bundle_from_being_used() {
    let bundle = Ca::new("root").bundle("other.example").with_sequence(7);
    let disk = Disk::new(&bundle);
    // A file where the folder should be, and a folder that others may write.
    let file = disk.dir.path().join("file");
    std::fs::write(&file, "").unwrap();
    let open = disk.dir.path().join("open");
    std::fs::create_dir(&open).unwrap();
    std::fs::set_permissions(&open, std::fs::Permissions::from_mode(0o777)).unwrap();
    for (dir, loose) in [(file, false), (open, true)] {
        let mut kept = disk.start_in(dir);
        let now = kept.until(|status| status.fetches == 1).await;
        let error = now.keep_error.unwrap();
        assert_eq!(
            matches!(*error, BundleKeepError::Disk(DiskError::Loose { .. })),
            loose,
            "{error:?}"
        );
        assert_eq!(kept.bundle(), Some(bundle.clone()));
    }
}
